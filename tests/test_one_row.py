"""All labels of a prompt in one row: the same as each label by itself, on every model and under every intervention."""

import contextlib

import families
import nnsight
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

import neuroscope as ns
from neuroscope import evaluation
from neuroscope.evaluation import trees
from neuroscope.masks import NeuronMask
from neuroscope.models.sites import depends_on_position
from neuroscope.tasks import Example, Task

# words that begin like no special token (w0 to w4), at which the tokenizer would split them
LABELS = ("w5", "w6 w7", "w6 w7 w8 w9", "w6 w8", "w81 w82", "w81 w82 w7", "w83 w5")  # branches of all kinds
PROMPTS = ("w60 w61 w62 w63 w64 w65", "w70 w71", "w90 w91 w92 w93", "w50 w51 w52 w53 w54 w55 w56 w57 w58")
ALONE = ("bloom", "t5", "bert", "distilbert")  # ALiBi from the mask, and styles without trees


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return families.tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def opened(words):
    cache = {}

    def get(name):
        if name not in cache:
            root = families.build(name)
            if name in families.MOE:
                ns.interop.tap_experts(root)
            if name in ("bert", "distilbert"):
                words.mask_token = "w4"
            cache[name] = ns.load(root, tokenizer=words)
        return cache[name]

    return get


def make_task(labels=LABELS, prompts=PROMPTS):
    return Task("t", test=[Example(p, labels[i % len(labels)]) for i, p in enumerate(prompts)], labels=labels)


def by_hand(model, task):
    """The log-likelihood of every label, one label of one prompt at a time, from logits of the whole text."""
    table = []
    ids = lambda text: [int(w[1:]) for w in text.split()]  # noqa: E731
    for example in task.test:
        row = []
        for label in task.labels:
            prompt, answer = ids(example.prompt), ids(label)
            inputs = {"input_ids": torch.tensor([prompt + answer])}
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            with torch.no_grad():
                logprobs = model.logits(inputs)[0].log_softmax(-1)
            row.append(sum(logprobs[len(prompt) - 1 + k, token] for k, token in enumerate(answer)))
        table.append(torch.stack(row))
    return torch.stack(table)


def loglik(model, task, batch_size=None):
    return evaluation.label_loglik(model, evaluation.prepare_task(model, task, batch_size=batch_size))


def third(model, unit="hidden"):
    sites = model.sites(unit)
    return NeuronMask.of(families.thirds(sites), {a: s.width for a, s in sites.items()}, unit)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_every_family_scores_labels_as_each_by_itself(name, opened):
    model, task = opened(name), make_task()
    prepared = evaluation.prepare_task(model, task)
    assert bool(trees.against_trees(model, prepared.labels)) == (name in ALONE)
    if model.style == "causal":
        torch.testing.assert_close(loglik(model, task), by_hand(model, task), atol=1e-5, rtol=1e-5)
    for size in (1, 3):
        torch.testing.assert_close(loglik(model, task, size), loglik(model, task), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_both_kinds_of_attention(attention, words):
    model = ns.load(families.build("llama"), tokenizer=words)
    model.root.set_attn_implementation(attention)
    prepared = evaluation.prepare_task(model, make_task())
    assert not trees.against_trees(model, prepared.labels)
    torch.testing.assert_close(
        evaluation.label_loglik(model, prepared), by_hand(model, make_task()), atol=1e-5, rtol=1e-5
    )


SCOPES = {
    "zero": lambda model, mask: ns.ablate(model, mask),
    "number": lambda model, mask: ns.ablate(model, mask, value=0.3),
    "mean": lambda model, mask: ns.ablate(model, mask, value="mean", data=DATA),
    "resample": lambda model, mask: ns.ablate(model, mask, value="resample", data=DATA),
    "scale": lambda model, mask: ns.scale(model, mask, -1.5),
    "add": lambda model, mask: ns.add(model, mask, 0.7),
}
DATA = Task("data", discovery=[Example("w75 w76 w77", "w5"), Example("w78 w79", "w6 w7")], labels=LABELS)


@pytest.mark.parametrize("unit", ["hidden", "output", "head"])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_interventions_act_on_every_node(name, scope, unit, opened):
    model, task = opened(name), make_task()
    before = loglik(model, task)
    with SCOPES[scope](model, third(model, unit)):
        assert not trees.against_trees(model, evaluation.prepare_task(model, task).labels)
        right = by_hand(model, task)
        torch.testing.assert_close(loglik(model, task), right, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(loglik(model, task, 1), right, atol=1e-5, rtol=1e-5)
    assert (right - before).abs().max() > 1e-2
    torch.testing.assert_close(loglik(model, task), before, atol=0, rtol=0)


def test_experts_see_every_node_once(opened):
    model, task = opened("mixtral"), make_task()
    with ns.ablate(model, third(model)):
        torch.testing.assert_close(loglik(model, task), by_hand(model, task), atol=1e-5, rtol=1e-5)


def test_patching_has_rows_of_its_own_and_says_so(opened):
    """Its source has the length of a row: all labels here have as many tokens, and so have all rows."""
    model, task = opened("llama"), make_task(("w6 w7", "w8 w9", "w6 w9"), PROMPTS[:1])
    source = PROMPTS[1] + " w72 w73 w74 w75 w76"  # 6 tokens and the label's first
    with ns.patch(model, third(model), source=source):
        found = ns.evaluate(model, task)
        assert "depends on positions" in found.manifest["labels"]
        torch.testing.assert_close(loglik(model, task, 1), loglik(model, task), atol=1e-5, rtol=1e-5)
        rows = []
        for label in task.labels:  # the last token of a label is no input
            ids = [int(w[1:]) for w in f"{PROMPTS[0]} {label}".split()]
            inputs = torch.tensor([ids[:-1]])
            logprobs = model.logits({"input_ids": inputs, "attention_mask": torch.ones_like(inputs)})[0].log_softmax(-1)
            rows.append(logprobs[5, ids[6]] + logprobs[6, ids[7]])
        torch.testing.assert_close(loglik(model, task)[0], torch.stack(rows), atol=1e-5, rtol=1e-5)
    assert ns.evaluate(model, task).manifest["labels"] == "all in one pass over the prompt"


def test_a_hook_of_the_users_own_has_rows_of_its_own(opened):
    """One that counts positions from the row's end gives what it gives when every label is run by itself."""
    model, task = opened("llama"), make_task()

    def last(module, args, output):
        output = output.clone()
        output[:, 2] *= 3.0
        return output

    handle = model.root.model.layers[0].mlp.register_forward_hook(last)
    try:
        assert depends_on_position(model.root)
        torch.testing.assert_close(loglik(model, task), by_hand(model, task), atol=1e-5, rtol=1e-5)
    finally:
        handle.remove()
    assert not depends_on_position(model.root)


@pytest.mark.parametrize("name", ["mistral", "gemma3"])
def test_sliding_windows(name, words):
    """Within the window a tree is right; beyond it labels have rows of their own."""
    root = families.build(name)
    for window, is_alone in ((64, False), (4, True)):
        root.config.sliding_window = window
        for module in root.modules():
            if getattr(module, "sliding_window", None):
                module.sliding_window = window
        model, task = ns.load(root, tokenizer=words), make_task()
        prepared = evaluation.prepare_task(model, task)
        assert bool(trees.against_trees(model, prepared.labels)) == is_alone
        torch.testing.assert_close(loglik(model, task), by_hand(model, task), atol=1e-5, rtol=1e-5)


def test_a_model_that_ignores_masks_is_found_out(words, monkeypatch):
    """Its tree differs from its branches, so labels have rows of their own, with the right values."""
    root = families.build("llama")
    forward = root.model.forward
    monkeypatch.setattr(root.model, "forward", lambda *a, position_ids=None, **k: forward(*a, **k))
    model, task = ns.load(root, tokenizer=words), make_task()
    assert "cannot be set" in ns.evaluate(model, task).manifest["labels"]
    torch.testing.assert_close(loglik(model, task), by_hand(model, task), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype, words):
    model, task = ns.load(families.build("llama").to(dtype), tokenizer=words), make_task()
    assert not trees.against_trees(model, evaluation.prepare_task(model, task).labels)
    close = {torch.bfloat16: 0.2, torch.float64: 1e-5}[dtype]
    torch.testing.assert_close(loglik(model, task), by_hand(model, task).float(), atol=close, rtol=close)


def test_other_backends(words):
    right = by_hand(ns.load(families.build("llama"), tokenizer=words), make_task())
    boot = TransformerBridge.boot_transformers
    bridge = boot("tiny", hf_model=families.build("llama"), tokenizer=words, device="cpu")
    for other in (bridge, nnsight.NNsight(families.build("llama"))):
        model = ns.load(other, tokenizer=words)
        assert not trees.against_trees(model, evaluation.prepare_task(model, make_task()).labels)
        torch.testing.assert_close(loglik(model, make_task()), right, atol=1e-5, rtol=1e-5)


def test_nothing_is_left_on_the_model(opened):
    model = opened("llama")
    hooks = lambda: sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.root.modules())  # noqa: E731
    before = hooks()
    loglik(model, make_task())
    with contextlib.suppress(AttributeError):
        model.logits({"input_ids": torch.ones(1, 3).long(), "attention_mask": "no"}, torch.ones(1, 3).bool())
    assert hooks() == before == 0


@pytest.mark.parametrize("name", families.FAMILIES)
def test_the_head_is_run_where_logits_are_wanted(name, opened):
    model = opened(name)
    every = model.logits(families.inputs(model.style))
    at = torch.zeros(every.shape[:2], dtype=torch.bool)
    at[0, 1] = at[1, 0] = at[1, 3] = True
    shapes = []
    head = model.base.get_output_embeddings()
    handle = head.register_forward_hook(lambda m, args, out: shapes.append(tuple(out.shape[:2])))
    try:
        torch.testing.assert_close(model.logits(families.inputs(model.style), at), every[at], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(
            model.logits(families.inputs(model.style), at[:1]), every[0, 1][None], atol=1e-6, rtol=1e-6
        )
    finally:
        handle.remove()
    assert shapes == [(1, 3), (1, 1)]
