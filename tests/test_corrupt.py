"""`ablate(value="corrupt")`: what hand-made hooks on a run on the corrupt prompt give, however a model is opened."""

import contextlib
import copy

import families
import nnsight
import numpy as np
import pytest
import torch
from families import build, tokenizer
from tiny import tiny_model
from transformer_lens.model_bridge import TransformerBridge

import neuroscope as ns
from neuroscope import evaluation
from neuroscope.errors import ArgumentError, ModelError, TaskError
from neuroscope.interventions import corrupt_run
from neuroscope.masks import NeuronMask
from neuroscope.models.sites import depends_on_position
from neuroscope.tasks import Example, Task
from neuroscope.tasks.encoding import batches_for, encode

NEW = 4
LABELS = ("w5", "w6 w7", "w6 w8 w9")
PAIRS = {  # prompts of several lengths, one of them the beginning of another
    "w60 w61 w62 w63 w64": "w60 w71 w62 w73 w74",
    "w60 w61 w62": "w80 w81 w82",
    "w90 w91 w92 w93": "w90 w91 w92 w43",
}
EXAMPLES = [Example(p, LABELS[i], corrupt=c, corrupt_answer=LABELS[i - 1]) for i, (p, c) in enumerate(PAIRS.items())]
TASK = Task("pairs", test=EXAMPLES, discovery=EXAMPLES, labels=LABELS)
FREE = Task("free", test=EXAMPLES, kind="generation", max_new_tokens=NEW)
WAYS = [("llama", "hugging face"), ("gpt2", "hugging face"), ("opt", "hugging face"), ("bloom", "hugging face")]
WAYS += [
    ("llama", "bridge"),
    ("gpt2", "bridge"),
    ("llama", "nnsight"),
    ("t5", "hugging face"),
    ("bert", "hugging face"),
]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def opened(words):
    """A model by family and by the way it is opened."""
    cache = {}

    def get(name, way="hugging face"):
        if (name, way) not in cache:
            root = build(name)
            if root.can_generate():
                root.generation_config.eos_token_id = None
            if way == "bridge":
                root = TransformerBridge.boot_transformers("tiny", hf_model=root, tokenizer=words, device="cpu")
            if way == "nnsight":
                root = nnsight.NNsight(root)
            own = copy.deepcopy(words)
            own.mask_token = "w4"
            cache[name, way] = ns.load(root, tokenizer=own)
        return cache[name, way]

    return get


def third(model, unit="hidden"):
    sites = model.sites(unit)
    return NeuronMask.of(families.thirds(sites), {a: s.width for a, s in sites.items()}, unit)


@contextlib.contextmanager
def hooks(model, unit, function):
    """Plain torch hooks: `function(site, h)` gives what h becomes, or None."""
    handles = []
    for site in model.sites(unit).values():

        def hook(module, args, output=None, site=site):
            passed = args if output is None else output
            new = function(site, passed[0] if isinstance(passed, tuple) else passed)
            return None if new is None else (new, *passed[1:]) if isinstance(passed, tuple) else new

        kind = "register_forward_hook" if site.side == "output" else "register_forward_pre_hook"
        handles.append(getattr(site.module, kind)(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def patched(model, mask, clean, corrupt, **more):
    """Logits of `clean` inputs whose mask's neurons have what they have under `corrupt` ones."""
    held = {}

    def hold(site, h):
        held[site.address] = h.clone()

    def put(site, h):
        h, chosen = h.clone(), site.coordinates(mask[site.address])
        h[..., chosen] = held[site.address][..., chosen]
        return h

    with torch.no_grad():
        with hooks(model, mask.unit, hold):
            model.root(**corrupt, **more)
        with hooks(model, mask.unit, put):
            return model.root(**clean, **more).logits


def by_hand(model, mask, task):
    """[example, label] log-likelihoods, each label of each example by itself."""
    table = []
    for label in task.labels:
        rows = encode(model, task, task.test, [label] * len(task.test), corrupt=True)
        for item in rows:
            (batch,) = batches_for(model, [item], 1)
            logprobs = patched(model, mask, batch.inputs, batch.corrupt)[0].log_softmax(-1)
            table.append(sum(logprobs[item.first + k, token] for k, token in enumerate(item.answer)))
    return torch.stack(table).view(len(task.labels), -1).T


def loglik(model, task=TASK, batch_size=None):
    return evaluation.label_loglik(model, evaluation.prepare_task(model, task, batch_size=batch_size))


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_every_way_to_open_a_model_gives_what_hooks_give(name, way, opened):
    model = opened(name, way)
    mask, before = third(model), loglik(model)
    right = by_hand(model, mask, TASK)
    with ns.ablate(model, mask, value="corrupt", data=TASK):
        for size in (None, 1, 2):
            torch.testing.assert_close(loglik(model, batch_size=size), right, atol=1e-5, rtol=1e-5)
    assert (right - before).abs().max() > 1e-3
    assert torch.equal(loglik(model), before) and not depends_on_position(model.root)


@pytest.mark.parametrize("unit", ["output", "head"])
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_other_units(name, unit, opened):
    model = opened(name)
    mask = third(model, unit)
    right = by_hand(model, mask, TASK)
    with ns.ablate(model, mask, value="corrupt", data=TASK):
        torch.testing.assert_close(loglik(model), right, atol=1e-5, rtol=1e-5)


def test_it_is_patching_from_the_corrupt_run(opened):
    model = opened("llama")
    mask = third(model)
    ids = {text: torch.tensor([[int(w[1:]) for w in text.split()]]) for pair in PAIRS.items() for text in pair}
    for prompt, corrupt in PAIRS.items():
        with ns.patch(model, mask, source=ids[corrupt]), torch.no_grad():
            right = model.root(input_ids=ids[prompt]).logits
        with ns.ablate(model, mask, value="corrupt", data=TASK), torch.no_grad():
            found = model.root(input_ids=ids[prompt]).logits
        torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)
    # at the prompt's last token alone, and only where a neuron is above zero
    for at, when in (("last", None), ([0, -1], None), ("last", ns.between(0.0, float("inf")))):
        with ns.patch(model, mask, source=ids[corrupt], at=at, when=when), torch.no_grad():
            right = model.root(input_ids=ids[prompt]).logits
        with ns.ablate(model, mask, value="corrupt", data=TASK, at=at, when=when), torch.no_grad():
            torch.testing.assert_close(model.root(input_ids=ids[prompt]).logits, right, atol=1e-5, rtol=1e-5)


def greedy(model, mask):
    """A greedy continuation of each prompt, the whole text run anew at every step, clean and corrupt."""
    texts = []
    for prompt, corrupt in PAIRS.items():
        clean, other = (torch.tensor([[int(w[1:]) for w in text.split()]]) for text in (prompt, corrupt))
        for _ in range(NEW):
            logits = patched(model, mask, {"input_ids": clean}, {"input_ids": other}, use_cache=False)
            token = logits[:, -1:].argmax(-1)
            clean, other = torch.cat([clean, token], 1), torch.cat([other, token], 1)
        texts.append(clean[0, -NEW:].tolist())
    return texts


@pytest.mark.parametrize(("name", "way"), [w for w in WAYS if w[0] not in ("t5", "bert")])
def test_generation_goes_on_beside_the_corrupt_prompt(name, way, opened):
    model = opened(name, way)
    mask = third(model)
    plain = evaluation.predict(model, evaluation.prepare_task(model, FREE))
    right = [" ".join(f"w{token}" for token in tokens) for tokens in greedy(model, mask)]
    with ns.ablate(model, mask, value="corrupt", data=FREE):
        for size in (None, 1, 2):
            assert evaluation.predict(model, evaluation.prepare_task(model, FREE, batch_size=size)) == right
    assert plain != right
    if way == "hugging face":
        prompt = next(iter(PAIRS))
        ids = torch.tensor([[int(w[1:]) for w in prompt.split()]])
        with ns.ablate(model, mask, value="corrupt", data=FREE):
            for cached in (True, False):
                out = model.root.generate(input_ids=ids, max_new_tokens=NEW, do_sample=False, use_cache=cached)
                assert out[0, ids.shape[1] :].tolist() == [int(w[1:]) for w in right[0].split()]
            with pytest.raises(ModelError, match="num_beams=1"):
                model.root.generate(input_ids=ids, max_new_tokens=NEW, num_beams=2)


def test_an_encoder_decoder_generates_beside_the_corrupt_prompt(opened):
    model = opened("t5")
    mask, right = third(model), []
    for item in encode(model, TASK, TASK.test, corrupt=True):
        decoder = torch.tensor([[item.decoder[0]]])
        for _ in range(NEW):
            ids = [{"input_ids": torch.tensor([x]), "decoder_input_ids": decoder} for x in (item.inputs, item.corrupt)]
            logits = patched(model, mask, *ids, use_cache=False)
            decoder = torch.cat([decoder, logits[:, -1:].argmax(-1)], 1)
        right.append(" ".join(f"w{token}" for token in decoder[0, 1:].tolist()))
    with ns.ablate(model, mask, value="corrupt", data=FREE):
        for size in (None, 1):
            assert evaluation.predict(model, evaluation.prepare_task(model, FREE, batch_size=size)) == right


def test_within_a_trace(opened):
    """A user's own trace on nnsight reads the edited run, and nothing of the corrupt one."""
    model, plain = opened("llama", "nnsight"), opened("llama")
    ids = torch.tensor([[int(w[1:]) for w in next(iter(PAIRS)).split()]])
    with ns.ablate(plain, third(plain), value="corrupt", data=TASK), torch.no_grad():
        right = plain.root(input_ids=ids).logits
    scope = ns.ablate(model, third(model), value="corrupt", data=TASK)
    with scope, torch.no_grad(), model.original.trace(input_ids=ids):
        logits = model.original.output.logits.save()
    torch.testing.assert_close(logits, right, atol=1e-5, rtol=1e-5)


def test_gradients_pass_by_the_corrupt_values(opened):
    """Attribution within the scope: nothing of a changed neuron's own activation reaches the loss."""
    model = tiny_model()
    examples = [
        Example("the food was very", "good", corrupt="the film was not", corrupt_answer="bad"),
        Example("a story", "great", corrupt="a plot", corrupt_answer="awful"),
        Example("so", "bad", corrupt="very", corrupt_answer="great"),
    ]
    task = Task("t", train=examples, test=examples, discovery=examples)
    everything = ~NeuronMask.of({}, {a: s.width for a, s in model.sites().items()})
    half = NeuronMask.of({a: range(0, s.width, 2) for a, s in model.sites().items()}, everything.widths)
    for method in ("grad-x-act", "exact"):
        free = ns.attribute(model, task, method=method)
        with ns.ablate(model, half, value="corrupt", data=task):
            together, alone = (ns.attribute(model, task, method=method, batch_size=size) for size in (None, 1))
        for address in together:
            torch.testing.assert_close(together[address], alone[address], atol=1e-5, rtol=1e-4)
        assert max((together[a] - free[a]).abs().max() for a in free) > 1e-3


def test_it_is_the_value_without_other_interventions(opened):
    """What is live around it, or within it, changes the clean run alone."""
    model = opened("llama")
    mask, rest = third(model), ~third(model)
    prompt, corrupt = next(iter(PAIRS.items()))
    ids = [torch.tensor([[int(w[1:]) for w in text.split()]]) for text in (prompt, corrupt)]
    source = {}
    with torch.no_grad(), hooks(model, "hidden", lambda s, h: source.update({s.address: h.clone()})):
        model.root(input_ids=ids[1])
    with ns.patch(model, mask, source=source), ns.scale(model, rest, 0.5), torch.no_grad():
        right = model.root(input_ids=ids[0]).logits
    scopes = [lambda: ns.ablate(model, mask, value="corrupt", data=TASK), lambda: ns.scale(model, rest, 0.5)]
    for first, second in (scopes, scopes[::-1]):
        with first(), second(), torch.no_grad():
            torch.testing.assert_close(model.root(input_ids=ids[0]).logits, right, atol=1e-5, rtol=1e-5)


def test_it_leaves_nothing_behind(opened):
    model = tiny_model()
    examples = [Example("the food was very", "good", corrupt="the film was not", corrupt_answer="bad")]
    task = Task("t", test=examples, discovery=examples, labels=("good", "bad"))
    model.root.train()
    random, hooked = torch.get_rng_state(), [len(m._forward_pre_hooks) for m in model.root.modules()]
    scope = ns.ablate(model, third(model), value="corrupt", data=task)
    for _ in range(2):
        with scope:
            ns.evaluate(model, task)
        with pytest.raises(TaskError, match="begins with none of its 1 prompts"), scope:
            model.root(input_ids=torch.tensor([[9, 9, 9]]))
    assert torch.equal(random, torch.get_rng_state()) and all(m.training for m in model.root.modules())
    assert hooked == [len(m._forward_pre_hooks) for m in model.root.modules()]
    assert all(p.requires_grad and p.grad is None for p in model.root.parameters())
    manifests = [ns.evaluate(model, task).manifest["interventions"]]
    with scope:
        manifests.append(ns.evaluate(model, task).manifest["interventions"])
    assert manifests[0] == [] and manifests[1][0].startswith("ablate(value='corrupt') of 32 neurons at 2 sites")


def test_no_cache_outlives_its_scope(monkeypatch):
    made, looks = [], corrupt_run._CorruptRun.looks
    monkeypatch.setattr(corrupt_run._CorruptRun, "looks", lambda run, model: made.append(run) or looks(run, model))
    model = tiny_model()
    task = Task("t", test=[Example("the food was very", "good", corrupt="the film was not")], labels=("good", "bad"))
    scope = ns.ablate(model, third(model), value="corrupt", data=task)
    with scope:
        ns.evaluate(model, task)
        model.root(input_ids=model.tokenizer("the food was very", return_tensors="pt")["input_ids"], use_cache=True)
        assert made[0].cache is not None
    assert made[0].cache is None and not made[0].values


def test_what_has_no_pair_is_refused(opened):
    model = opened("llama")
    mask = third(model)
    alone, unlike = Example("w50 w51", "w5"), Example("w40 w41", "w5", corrupt="w40")
    with pytest.raises(ArgumentError, match="no data"):
        ns.ablate(model, mask, value="corrupt")
    for examples, found in (([alone], "1 with no corrupt"), ([alone, unlike], "1 with no .*, 1 with .*another number")):
        with pytest.raises(TaskError, match=found):
            ns.ablate(model, mask, value="corrupt", data=Task("none", test=examples, labels=LABELS))
    twice = [EXAMPLES[0], Example(EXAMPLES[0].prompt, "w5", corrupt="w70 w71 w72 w73 w74")]
    for more, found in (([alone], "no corrupt prompt"), ([unlike], "of another number of tokens"), (twice, "several")):
        task = Task("some", test=[*EXAMPLES, *more], labels=LABELS)
        with (
            ns.ablate(model, mask, value="corrupt", data=task),
            pytest.raises(TaskError, match=f"'some'(.|\n)*{found}"),
        ):
            ns.evaluate(model, task)
        scores = ns.attribute(model, TASK, split="discovery")
        found = f"1 with .*{found}.* of {3 + len(more)} examples" if len(more) == 1 else found
        with pytest.raises(TaskError, match=found):
            ns.faithfulness(model, [task], {"some": scores}, value="corrupt", k=(0.1,))
    with pytest.raises(ModelError, match="experts"):
        mixture = families.build("mixtral")
        ns.interop.tap_experts(mixture)
        mixture = ns.load(mixture, tokenizer=model.tokenizer)
        ns.ablate(mixture, third(mixture), value="corrupt", data=TASK)


def test_faithfulness_takes_the_pairs_of_the_examples_judged(opened, tmp_path):
    """Its outcomes are those under the scope by hand; a journal tells "corrupt" from "zero"."""
    model, labels = tiny_model(), ("good", "bad", "no")
    texts = [f"{a} {b} was {c}" for a in ("the", "a", "so") for b in ("food", "film", "soup") for c in labels]
    examples = [Example(t, labels[i % 3], corrupt=" ".join(t.split()[::-1])) for i, t in enumerate(texts)]
    task = Task("many", test=examples[:17], discovery=examples[17:], labels=labels)
    scores = ns.attribute(model, task)
    settings = {"k": (0.1, 0.3), "n_random": 3, "output": tmp_path}
    zero = ns.faithfulness(model, [task], {"many": scores}, **settings)
    found = ns.faithfulness(model, [task], {"many": scores}, value="corrupt", **settings)
    again = ns.faithfulness(model, [task], {"many": scores}, value="corrupt", **settings)
    assert found.to_frame().equals(again.to_frame()) and found.manifest["value"] == "corrupt"
    assert not np.allclose(found.to_frame()["score"].fillna(0), zero.to_frame()["score"].fillna(0))
    table = found.to_frame()
    for k in settings["k"]:
        mask = scores.top(k)
        for condition, off in (("off", mask), ("only", ~mask)):
            with ns.ablate(model, off, value="corrupt", data=task):
                right = ns.evaluate(model, task).score
            row = table[(table["k"] == k) & (table["condition"] == condition)]
            assert row["score"].item() == pytest.approx(right, abs=1e-12)
    with pytest.raises(ArgumentError, match="data"):
        ns.faithfulness(model, [task], {"many": scores}, value="corrupt", data=TASK, **settings)
