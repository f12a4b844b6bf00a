"""Where and when an edit acts: the same as a hand-made hook at the same tokens, however a model is opened and run."""

import contextlib

import families
import nnsight
import pytest
import torch
import transformers
from tiny import tiny_model
from transformer_lens.model_bridge import TransformerBridge

import neuroscope as ns
from neuroscope import evaluation
from neuroscope.errors import ArgumentError, ModelError
from neuroscope.masks import NeuronMask
from neuroscope.models import resolve, tap_experts
from neuroscope.tasks import Example, Task

LABELS = ("w5", "w6 w7", "w6 w7 w8 w9", "w6 w8", "w81 w82")
PROMPTS = ("w60 w61 w62 w63 w64 w65", "w70 w71 w72", "w90 w91 w92 w93")
TASK = Task("t", test=[Example(p, LABELS[i]) for i, p in enumerate(PROMPTS)], labels=LABELS)
IDS = torch.tensor([[10, 11, 12, 13, 14, 15], [0, 0, 20, 21, 22, 23], [0, 0, 0, 30, 31, 32]])  # padded on the left
MASK = (IDS > 0).long()
START = [0, 2, 3]  # column of each row's first token
# what `at` names in a prompt that ends at the last column: columns of each row
COLUMNS = {
    "last": ("last", [[5], [5], [5]]),
    "prompt": ("prompt", [range(s, 6) for s in START]),
    "first": (0, [[s] for s in START]),
    "several": ([1, -1], [[s + 1, 5] for s in START]),
    "from the end": ([-3], [[3], [3], [3]]),
}
EDITS = {
    "zero": (lambda *a, **k: ns.ablate(*a, **k), lambda h: h * 0),
    "number": (lambda *a, **k: ns.ablate(*a, value=0.4, **k), lambda h: h * 0 + 0.4),
    "scale": (lambda *a, **k: ns.scale(*a, -1.5, **k), lambda h: h * -1.5),
    "add": (lambda *a, **k: ns.add(*a, 0.7, **k), lambda h: h + 0.7),
}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return families.tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def opened(words):
    """A model by family and by the way it is opened."""
    cache = {}

    def get(name, way="hugging face"):
        if (name, way) not in cache:
            root = families.build(name)
            root.generation_config.eos_token_id = None
            if name in families.MOE:
                tap_experts(root)
            if way == "bridge":
                root = TransformerBridge.boot_transformers("tiny", hf_model=root, tokenizer=words, device="cpu")
            if way == "nnsight":
                root = nnsight.NNsight(root)
            cache[name, way] = ns.load(root, tokenizer=words)
        return cache[name, way]

    return get


def third(model, unit="hidden"):
    sites = model.sites(unit)
    return NeuronMask.of(families.thirds(sites), {a: s.width for a, s in sites.items()}, unit)


@contextlib.contextmanager
def by_hand(model, mask, change, columns, width):
    """Plain torch hooks that change a mask's neurons at the columns of each row, of rows of a width."""
    flags = torch.zeros(len(columns), width, dtype=torch.bool)
    for row, chosen in enumerate(columns):
        flags[row, list(chosen)] = True
    handles = []
    for address, site in model.sites(mask.unit).items():

        def hook(module, args, output=None, address=address, site=site):
            passed = args if output is None else output
            h = (passed[0] if isinstance(passed, tuple) else passed).clone()
            at = flags if h.ndim == 3 else flags.flatten() if site.expert is None else flags.flatten()[args[1]]
            flat, coordinates = h.view(-1, h.shape[-1]), site.coordinates(mask[address])
            places = at.flatten().nonzero()[:, 0]
            flat[places[:, None], coordinates] = change(flat[places[:, None], coordinates])
            return (h, *passed[1:]) if isinstance(passed, tuple) else h

        register = "register_forward_hook" if site.side == "output" else "register_forward_pre_hook"
        handles.append(getattr(site.module, register)(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run(model, way):
    """Log-probabilities at the last column, as a user of the library runs the model."""
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    with torch.no_grad():
        if way == "nnsight":
            with model.original.trace(**inputs):
                logits = model.original.output.logits.save()
        elif way == "bridge":
            logits = model.original(IDS, attention_mask=MASK)
        else:
            logits = model.root(**inputs).logits
    return logits[:, -1].log_softmax(-1)


WAYS = [("llama", "hugging face"), ("gpt2", "hugging face"), ("opt", "hugging face"), ("mixtral", "hugging face")]
WAYS += [("llama", "bridge"), ("gpt2", "bridge"), ("llama", "nnsight"), ("gpt2", "nnsight")]


@pytest.mark.parametrize("at", COLUMNS)
@pytest.mark.parametrize(("name", "way"), WAYS)
def test_every_way_to_open_a_model_is_edited_at_the_same_tokens(name, way, at, opened):
    model, (asked, columns) = opened(name, way), COLUMNS[at]
    mask = third(model)
    before = run(model, way)
    for edit, change in EDITS.values():
        with by_hand(model, mask, change, columns, 6):
            right = run(model, way)
        with edit(model, mask, at=asked):
            found = run(model, way)
        torch.testing.assert_close(found, right, atol=1e-6, rtol=0)
        assert (right - before).abs().max() > 1e-3
        with edit(model, mask):
            everywhere = run(model, way)
        assert (everywhere - right).abs().max() > 1e-4 or at == "prompt"
    assert torch.equal(run(model, way), before)


@pytest.mark.parametrize("unit", ["output", "head"])
@pytest.mark.parametrize("name", ["llama", "opt", "mixtral"])
def test_other_units(name, unit, opened):
    model = opened(name)
    mask = third(model, unit)
    with by_hand(model, mask, lambda h: h * 0, COLUMNS["several"][1], 6):
        right = run(model, "hugging face")
    with ns.ablate(model, mask, at=[1, -1]):
        torch.testing.assert_close(run(model, "hugging face"), right, atol=1e-6, rtol=0)


# `at` -> the columns of a row of a prompt of n tokens with what follows it, of m columns
SCORED = {
    "last": lambda n, m: [n - 1],
    "prompt": lambda n, m: range(n),
    "answer": lambda n, m: range(n, m),
    "generated": lambda n, m: range(n, m),
    "positions": lambda n, m: [1, n - 2],
    "everywhere": lambda n, m: range(m),
}
ASKED = {"positions": [1, -2], "everywhere": None}


def separately(model, mask, change, at):
    """The log-likelihood of every label, each by itself, under hand-made hooks."""
    table = []
    for example in TASK.test:
        prompt = [int(w[1:]) for w in example.prompt.split()]
        for label in LABELS:
            answer = [int(w[1:]) for w in label.split()]
            ids = torch.tensor([prompt + answer])
            columns = [SCORED[at](len(prompt), ids.shape[1])]
            with torch.no_grad(), by_hand(model, mask, change, columns, ids.shape[1]):
                logprobs = model.root(input_ids=ids).logits[0].log_softmax(-1)
            table.append(sum(logprobs[len(prompt) - 1 + k, token] for k, token in enumerate(answer)))
    return torch.stack(table).view(len(TASK.test), -1)


def loglik(model, batch_size=None):
    return evaluation.label_loglik(model, evaluation.prepare_task(model, TASK, batch_size=batch_size))


@pytest.mark.parametrize("at", SCORED)
@pytest.mark.parametrize(
    ("name", "way"),
    [("gpt2", "hugging face"), ("opt", "hugging face"), ("mixtral", "hugging face"), ("bloom", "hugging face"),
     ("llama", "bridge"), ("llama", "nnsight")],
)  # fmt: skip
def test_labels_in_one_row_are_edited_as_each_by_itself(name, way, at, opened):
    """Bloom has no trees: its labels have rows of their own."""
    model = opened(name, way)
    mask = third(model)
    edit, change = EDITS["scale"]
    right = separately(model, mask, change, at)
    with edit(model, mask, at=ASKED.get(at, at)):
        assert bool(evaluation.prepare_task(model, TASK).against_one_row(model)) == (name == "bloom")
        for size in (None, 1, 2):
            torch.testing.assert_close(loglik(model, size), right, atol=1e-5, rtol=1e-5)
    assert (right - loglik(model)).abs().max() > 1e-2


@pytest.mark.parametrize("at", ["last", "answer", "prompt", [0]])
def test_patching_at_tokens(at, opened):
    """A source as long as the longest row: what it gives is given at the tokens asked for, and nowhere else."""
    model = opened("llama")
    mask = third(model)
    task = Task("t", test=[Example(PROMPTS[0], "w5 w6 w7")], labels=("w5 w6 w7", "w8 w6 w7"))
    prepared = evaluation.prepare_task(model, task)
    source = torch.tensor([[40, 41, 42, 43, 44, 45, 46, 47]])
    held = {}
    with evaluation_of(model, mask, held), torch.no_grad():
        model.root(input_ids=source)
    right = []
    for label in task.labels:
        ids = torch.tensor([[int(w[1:]) for w in f"{PROMPTS[0]} {label}".split()][:-1]])
        columns = list(SCORED[at](6, 8)) if isinstance(at, str) else at

        def put(site, h, tokens, columns=columns):
            h = h.clone()
            for column in columns:
                h[:, column, mask[site.address]] = held[site.address][:, column, mask[site.address]]
            return h

        with ns.models.sites.edit(model.sites().values(), put), torch.no_grad():
            logprobs = model.root(input_ids=ids).logits[0].log_softmax(-1)
        answer = [int(w[1:]) for w in label.split()]
        right.append(sum(logprobs[5 + k, token] for k, token in enumerate(answer)))
    with ns.patch(model, mask, source=source, at=at):
        found = evaluation.label_loglik(model, prepared)[0]
    torch.testing.assert_close(found, torch.stack(right), atol=1e-5, rtol=1e-5)


def evaluation_of(model, mask, held):
    return ns.models.sites.edit(model.sites().values(), lambda s, h, t: held.update({s.address: h.clone()}))


# --- generation

NEW = 4


def greedy(model, mask, change, columns_of):
    """Tokens and logits of a greedy continuation, the whole text run anew at every step, under hand-made hooks."""
    ids, real, seen = IDS, MASK, []
    for _ in range(NEW):
        width = ids.shape[1]
        places = (real.cumsum(1) - 1).clamp(min=0)
        with torch.no_grad(), by_hand(model, mask, change, columns_of(width), width):
            takes = {"position_ids": places} if "gpt2" in type(model.root).__name__.lower() else {}
            logits = model.root(input_ids=ids, attention_mask=real, use_cache=False, **takes).logits[:, -1]
        seen.append(logits)
        ids = torch.cat([ids, logits.argmax(-1)[:, None]], 1)
        real = torch.cat([real, torch.ones(3, 1, dtype=torch.long)], 1)
    return ids[:, 6:], torch.stack(seen)


AFTER = {
    "last": lambda width: [[5]] * 3,
    "prompt": lambda width: [range(s, 6) for s in START],
    "generated": lambda width: [range(6, width)] * 3,
    "first": lambda width: [[s] for s in START],
}


@pytest.mark.parametrize("at", AFTER)
@pytest.mark.parametrize("with_cache", [True, False])
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "mixtral"])
def test_generation_with_a_cache_and_without(name, with_cache, at, opened):
    model = opened(name)
    mask = third(model)
    edit, change = EDITS["scale"]
    tokens, right = greedy(model, mask, change, AFTER[at])
    with edit(model, mask, at=0 if at == "first" else at):
        out = model.root.generate(
            input_ids=IDS, attention_mask=MASK, max_new_tokens=NEW, do_sample=False, use_cache=with_cache,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        by_engine = model.generate(IDS, MASK, NEW)
    torch.testing.assert_close(torch.stack(out.logits), right, atol=1e-5, rtol=1e-5)
    assert torch.equal(out.sequences[:, 6:], tokens)
    ended = (tokens == 2).cumsum(1)[:, : by_engine.shape[1]] > 0  # the engine ends a text at the tokenizer's own end
    assert torch.equal(by_engine[~ended], tokens[:, : by_engine.shape[1]][~ended])
    plain = greedy(model, mask, lambda h: h, AFTER[at])[1]
    assert (plain - right).abs().max() > 1e-3


@pytest.mark.parametrize("with_cache", [True, False])
@pytest.mark.parametrize("at", AFTER)
def test_generation_by_a_bridge(with_cache, at, opened):
    model, reference = opened("llama", "bridge"), opened("llama")
    ids = IDS[:1]
    with ns.scale(reference, third(reference), -1.5, at=0 if at == "first" else at):
        right = reference.generate(ids, MASK[:1], NEW)
    with ns.scale(model, third(model), -1.5, at=0 if at == "first" else at):
        found = model.original.generate(
            ids, max_new_tokens=NEW, do_sample=False, stop_at_eos=False, use_past_kv_cache=with_cache,
            return_type="tokens", verbose=False,
        )  # fmt: skip
        engine = model.generate(ids, MASK[:1], NEW)
    assert torch.equal(found[:, 6:], right) and torch.equal(engine, right)


def test_what_generate_makes_equals_what_is_scored_as_an_answer():
    """An edit at the generated tokens, and one at an answer's: the same numbers when the answer is what was made."""
    model = tiny_model()
    model.root.generation_config.eos_token_id = None
    mask, ids = third(model), torch.tensor([model.tokenizer("the food was very good :").input_ids])
    with ns.scale(model, mask, -1.5, at="generated"):
        out = model.root.generate(
            input_ids=ids, max_new_tokens=NEW, do_sample=False, return_dict_in_generate=True, output_logits=True,
            suppress_tokens=[0, 1, 2, 3, 4],
        )  # fmt: skip
    made = out.sequences[0, ids.shape[1] :]
    right = torch.stack(out.logits)[:, 0].log_softmax(-1).gather(1, made[:, None]).sum()
    answer = model.tokenizer.decode(made)
    task = Task("t", test=[Example("the food was very good :", answer)], labels=(answer, "yes no"))
    prepared = evaluation.prepare_task(model, task)
    plain = evaluation.label_loglik(model, prepared)[0, 0]
    for at in ("answer", "generated"):
        with ns.scale(model, mask, -1.5, at=at):
            found = evaluation.label_loglik(model, prepared)[0, 0]
        torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)
        assert abs(found - plain) > 1e-3


def test_a_cache_of_ones_own(opened):
    """What follows a cache that holds tokens is generated; an empty cache is a prompt's."""
    model = opened("llama")
    mask, ids = third(model), IDS[:1]
    edit, change = EDITS["zero"]
    for at, columns in (("generated", [4, 5]), ("prompt", range(4)), ([-1], [3])):
        with torch.no_grad(), by_hand(model, mask, change, [columns], 6):
            right = model.root(input_ids=ids).logits[:, 4:]
        cache = transformers.DynamicCache()
        with edit(model, mask, at=at), torch.no_grad():
            model.root(input_ids=ids[:, :4], past_key_values=cache)
            found = model.root(input_ids=ids[:, 4:], past_key_values=cache).logits
        torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)
    with pytest.raises(ArgumentError, match="made outside"), edit(model, mask, at="last"):
        model.root(input_ids=ids[:, 4:], past_key_values=cache)


def test_labels_tell_the_answer(opened):
    model = opened("llama")
    mask, labels = third(model), IDS.masked_fill(MASK == 0, -100)
    labels[:, :4] = -100
    edit, change = EDITS["zero"]
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    for at, columns in (("answer", [[4, 5]] * 3), ("last", [[3]] * 3)):
        with torch.no_grad(), by_hand(model, mask, change, columns, 6):
            right = model.root(**inputs).logits
        with edit(model, mask, at=at), torch.no_grad():
            found = model.root(**inputs, labels=labels).logits
        torch.testing.assert_close(found[MASK.bool()], right[MASK.bool()], atol=1e-6, rtol=0)


def test_training_and_attribution_know_the_answer(opened):
    """Zeroed at the answer's tokens, neurons get nothing there: as much as where every example is alone."""
    model = tiny_model()
    examples = [Example("the food was :", "yes no"), Example("a very good film was :", "no maybe yes")]
    task = Task("t", train=examples, test=examples, discovery=examples)
    mask = NeuronMask.of({a: range(0, s.width, 2) for a, s in model.sites().items()}, dict.fromkeys(model.sites(), 48))
    for method in ("grad-x-act", "exact"):
        free = ns.attribute(model, task, method=method)
        with ns.ablate(model, mask, at="answer"):
            together, alone = (ns.attribute(model, task, method=method, batch_size=size) for size in (None, 1))
        for address in together:
            torch.testing.assert_close(together[address], alone[address], atol=1e-5, rtol=1e-4)
        assert max((together[a] - free[a]).abs().max() for a in free) > 1e-3
    losses = []
    for at in ("answer", "generated", None):
        twin = tiny_model()
        with ns.ablate(twin, mask, at=at) if at else contextlib.nullcontext():
            adapter = ns.finetune(twin, task, mask, steps=1, batch_size=2)
            losses.append(adapter.manifest["history"][0]["loss"])
            adapter.detach()
    assert losses[0] == losses[1] and abs(losses[0] - losses[2]) > 1e-3


# --- ranges


def test_only_within_a_range_of_each_neurons_own(opened):
    model = opened("llama")
    mask = third(model)
    held = {}
    with evaluation_of(model, mask, held):
        before = run(model, "hugging face")
    first = next(iter(model.sites()))
    lo = {a: torch.linspace(-0.05, 0.0, s.width) for a, s in model.sites().items()}
    hi = {a: v + 0.1 for a, v in lo.items()}

    def hand(site, h, tokens):
        inside = (h >= lo[site.address]) & (h <= hi[site.address])
        chosen = torch.zeros(site.width, dtype=torch.bool)
        chosen[mask[site.address]] = True
        return torch.where(inside & chosen, h + 0.7, h)

    with ns.models.sites.edit(model.sites().values(), hand):
        right = run(model, "hugging face")
    with ns.add(model, mask, 0.7, when=ns.between(lo, hi)):
        torch.testing.assert_close(run(model, "hugging face"), right, atol=1e-6, rtol=0)
    assert (right - before).abs().max() > 1e-3
    # the ends are within: a range of one value, which one neuron has at one token
    neuron = int(mask[first][0])
    one = NeuronMask.of({first: [neuron]}, mask.widths)
    value = float(held[first][0, 5, neuron])
    with by_hand(model, one, lambda h: h + 0.7, [[5], [], []], 6):
        right = run(model, "hugging face")
    with ns.add(model, one, 0.7, when=ns.between(value, value)):
        torch.testing.assert_close(run(model, "hugging face"), right, atol=1e-6, rtol=0)
    for outside in (ns.between(value + 1e-3, float("inf")), ns.between(float("-inf"), value - 1e-3)):
        with ns.add(model, one, 0.7, at="last", when=outside):
            torch.testing.assert_close(run(model, "hugging face")[0], before[0], atol=0, rtol=0)


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_ranges_on_every_way_to_open_a_model(name, way, opened):
    model = opened(name, way)
    mask = third(model)
    with by_hand(model, mask, lambda h: torch.where(h > 0.05, h * 0, h), COLUMNS["prompt"][1], 6):
        right = run(model, way)
    with ns.ablate(model, mask, at="prompt", when=ns.between(0.05, float("inf"))):
        torch.testing.assert_close(run(model, way), right, atol=1e-6, rtol=0)
    with ns.ablate(model, mask, when=ns.between(float("-inf"), float("inf"))):
        found = run(model, way)
    with ns.ablate(model, mask):
        torch.testing.assert_close(found, run(model, way), atol=0, rtol=0)


def test_labels_in_one_row_within_a_range(opened):
    model = opened("gpt2")
    mask = third(model)
    right = separately(model, mask, lambda h: torch.where((h >= -0.1) & (h <= 0.2), h * -1.5, h), "answer")
    with ns.scale(model, mask, -1.5, at="answer", when=ns.between(-0.1, 0.2)):
        torch.testing.assert_close(loglik(model), right, atol=1e-5, rtol=1e-5)


# --- refusals


def test_bad_input_is_told(opened):
    model = opened("llama")
    mask = third(model)
    with pytest.raises(ArgumentError, match="did you mean 'last'"):
        ns.ablate(model, mask, at="lst")
    for bad in ([], 1.5, [True], [[1]], {"last"}):
        with pytest.raises(ArgumentError, match="at"):
            ns.ablate(model, mask, at=bad)
    with pytest.raises(ArgumentError, match="empty range"):
        ns.between(1.0, 0.0)
    with pytest.raises(ArgumentError, match="between"):
        ns.ablate(model, mask, when=(0, 1))
    low = {a: torch.zeros(48) for a in mask}
    high = {a: torch.ones(48) for a in mask}
    last = [*mask][-1]
    high[last][3] = -1
    with pytest.raises(ArgumentError, match=f"neuron 3 of {last}"):
        ns.add(model, mask, 1.0, when=ns.between(low, high))
    with pytest.raises(ArgumentError, match="47"):
        ns.add(model, mask, 1.0, when=ns.between({**low, last: torch.zeros(47)}, 1.0))
    with pytest.raises(ModelError, match="head"):
        ns.ablate(model, third(model, "head"), when=ns.between(0, 1))
    with pytest.raises(ModelError, match="seq2seq"):
        seq2seq = tiny_model("seq2seq")
        ns.ablate(seq2seq, third(seq2seq), at="last")
    with pytest.raises(ArgumentError, match="both"):
        ns.patch(model, mask, source=IDS, positions=[0], at="last")
    with pytest.raises(ArgumentError, match="no source has"):
        ns.patch(model, mask, source=IDS, at="generated")


def test_what_cannot_be_known_is_refused_and_the_scope_undone(opened):
    model = opened("llama")
    mask, before = third(model), run(opened("llama"), "hugging face")
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    square = torch.zeros(3, 1, 6, 6)
    refused = {
        "answer": ("answer", inputs, ArgumentError, "scores no answer"),
        "generated": ("generated", inputs, ArgumentError, "without a cache"),
        "outside": ([3], inputs, ArgumentError, "position 3\n.*a prompt of 3 tokens"),
        "before": ([-4], inputs, ArgumentError, "position -4"),
        "a mask of ones own": ("last", inputs | {"attention_mask": square}, ModelError, "attention mask of shape"),
    }
    for at, given, kind, text in refused.values():
        scope = ns.ablate(model, mask, at=at)
        with pytest.raises(kind, match=text), scope:
            model.root(**given)
        assert torch.equal(run(model, "hugging face"), before)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.root.modules())
        if at != "answer":
            continue
        with scope:  # entered again after the error
            loglik(model)
            with pytest.raises(ArgumentError, match="give at='generated'"):
                model.generate(IDS, MASK, 2)
            with pytest.raises(ArgumentError, match="scores no answer"):
                ns.neutral_loss(model, texts=["w50 w51 w52 w53"])
            loglik(model)
    assert torch.equal(run(model, "hugging face"), before)


def test_an_error_inside_a_pass_leaves_nothing_behind(opened):
    model = opened("llama")
    mask = third(model)
    handle = model.root.model.layers[1].register_forward_pre_hook(lambda *a: 1 / 0)
    with ns.ablate(model, mask, at="last"):
        with pytest.raises(ZeroDivisionError):
            model.root(input_ids=IDS, attention_mask=MASK)
        handle.remove()
        found = run(model, "hugging face")
    with ns.ablate(model, mask, at="last"):
        assert torch.equal(run(model, "hugging face"), found)


def test_gradient_checkpointing_is_refused(opened):
    model = ns.load(families.build("llama"))
    model.root.train()
    model.root.gradient_checkpointing_enable({"use_reentrant": False})
    with ns.ablate(model, third(model), at="last"):
        loss = model.root(input_ids=IDS, attention_mask=MASK).logits.sum()
        with pytest.raises(ModelError, match="gradient checkpointing"):
            loss.backward()


def test_a_manifest_tells_them_apart(opened):
    model = opened("llama")
    mask = third(model)
    scopes = [{}, {"at": "last"}, {"at": "prompt"}, {"at": [0]}, {"when": ns.between(0, 1)}, {"when": ns.between(0, 2)}]
    said = set()
    for scope in scopes:
        with ns.ablate(model, mask, **scope):
            said |= {*model.provenance()["interventions"]}
    assert len(said) == len(scopes) and any("at 'last'" in text for text in said)


def test_scopes_nest_and_are_entered_twice(opened):
    """Two scopes at different tokens are both; a scope within itself acts twice."""
    model = opened("llama")
    mask = third(model)
    double = ns.scale(model, mask, 2.0, at="last")
    with double, double, ns.ablate(model, mask, at=0):
        found = run(model, "hugging face")
    with (
        by_hand(model, mask, lambda h: h * 4, COLUMNS["last"][1], 6),
        by_hand(model, mask, lambda h: h * 0, COLUMNS["first"][1], 6),
    ):
        torch.testing.assert_close(found, run(model, "hugging face"), atol=1e-6, rtol=0)


def test_the_trunk_alone(opened):
    """Hidden states are read from the trunk: its tokens are known too."""
    model = resolve(tiny_model())
    mask = NeuronMask.of({a: range(48) for a in model.sites()}, dict.fromkeys(model.sites(), 48))
    with torch.no_grad(), ns.ablate(model, mask, at="last"):
        ids = torch.tensor([[5, 6, 7, 8]])
        alone = model.base.model(input_ids=ids).last_hidden_state
        whole = model.root(input_ids=ids, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(alone, whole, atol=1e-6, rtol=0)
