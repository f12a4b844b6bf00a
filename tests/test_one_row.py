"""All labels of a prompt in one row: the same as each label by itself, on every model and under every intervention."""

import contextlib

import families
import nnsight
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

import neuroscope as ns
from neuroscope import evaluation
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
    assert bool(prepared.against_one_row(model)) == (name in ALONE)
    if model.style == "causal":
        torch.testing.assert_close(loglik(model, task), by_hand(model, task), atol=1e-5, rtol=1e-5)
    for size in (1, 3):
        torch.testing.assert_close(loglik(model, task, size), loglik(model, task), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_both_kinds_of_attention(attention, words):
    model = ns.load(families.build("llama"), tokenizer=words)
    model.root.set_attn_implementation(attention)
    prepared = evaluation.prepare_task(model, make_task())
    assert not prepared.against_one_row(model)
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
        assert not evaluation.prepare_task(model, task).against_one_row(model)
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
        assert bool(prepared.against_one_row(model)) == is_alone
        torch.testing.assert_close(loglik(model, task), by_hand(model, task), atol=1e-5, rtol=1e-5)


def test_a_model_that_ignores_masks_is_found_out(words, monkeypatch):
    """Its tree differs from its branches, so labels have rows of their own, with the right values."""
    root = families.build("llama")
    forward = root.model.forward
    monkeypatch.setattr(root.model, "forward", lambda *a, position_ids=None, **k: forward(*a, **k))
    model, task = ns.load(root, tokenizer=words), make_task()
    assert "cannot be set" in ns.evaluate(model, task).manifest["labels"]
    torch.testing.assert_close(loglik(model, task), by_hand(model, task), atol=1e-5, rtol=1e-5)


def test_what_counts_is_the_row_that_is_run(words):
    """GPT-Neo tells by the place in the row who sees whom, and has a mask of as many places as its context."""
    settings = {"vocab_size": 96, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "pad_token_id": 0}
    task, kinds = make_task(), [[["global", "local"], 1]]
    trees_, branches = (max(len(r.inputs) for r in rows) for rows in laid_out(words, task))
    assert branches < trees_
    for sizes in ({"window_size": branches}, {"max_position_embeddings": branches}, {}):
        config = families.hf.GPTNeoConfig(
            **{"window_size": 64, "max_position_embeddings": 64} | settings | sizes, attention_types=kinds
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = ns.load(families.hf.GPTNeoForCausalLM(config).eval(), tokenizer=words)
        found = ns.evaluate(model, task).manifest["labels"]
        assert found.endswith(f"all labels in {trees_}") if sizes else found.startswith("all in one pass")
        if "max_position_embeddings" not in sizes:  # by hand the last token of a label is an input as well
            torch.testing.assert_close(loglik(model, task), by_hand(model, task), atol=1e-5, rtol=1e-5)


def laid_out(words, task):
    """The rows of a task's prompts, all labels in one and each label in its own."""
    prepared = evaluation.prepare_task(ns.load(families.build("llama"), tokenizer=words), task)
    return prepared.trees[0], [item for label in prepared.labels for item in label]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("std", [0.02, 0.08])
def test_places_that_cannot_be_set_are_found_in_every_precision(dtype, std, words):
    """MPT has ALiBi by the place in the row, which rounding must not hide."""
    config = families.hf.MptConfig(d_model=32, n_heads=4, n_layers=2, max_seq_len=256, vocab_size=96)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        root = families.hf.MptForCausalLM(config).eval()
        for parameter in root.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=std)
    model = ns.load(root.to(dtype), tokenizer=words)
    assert "cannot be set" in evaluation.prepare_task(model, make_task()).against_one_row(model)


@pytest.mark.parametrize("where", ["forward", "global"])
def test_what_looks_back_in_the_row_is_found_after_a_first_evaluation(where, words):
    model, task = ns.load(families.build("llama"), tokenizer=words), make_task()
    assert ns.evaluate(model, task).manifest["labels"].startswith("all in one pass")
    mlp = model.root.model.layers[1].mlp
    whole = type(mlp).forward
    shifted = lambda h: torch.nn.functional.pad(h, (0, 0, 1, 0))[:, :-1]  # noqa: E731
    hook = lambda module, args, out: out + shifted(out) if module is mlp else None  # noqa: E731
    if where == "forward":
        mlp.forward = lambda x: whole(mlp, x + shifted(x))
    handle = torch.nn.modules.module.register_module_forward_hook(hook) if where == "global" else None
    try:
        found = ns.evaluate(model, task).manifest
        assert ("hook" if handle else "cannot be set") in found["labels"]
        assert [text.partition(":")[0] for text in found["interventions"]] == ["a hook on every module"] * bool(handle)
        torch.testing.assert_close(loglik(model, task), by_hand(model, task), atol=1e-5, rtol=1e-5)
    finally:
        if handle:
            handle.remove()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "gpt2", "neox", "opt", "qwen3", "gemma2", "phi3"])
def test_rounding_is_not_taken_for_a_difference(name, dtype, words):
    model = ns.load(families.build(name).to(dtype), tokenizer=words)
    assert not evaluation.prepare_task(model, make_task()).against_one_row(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype, words):
    model, task = ns.load(families.build("llama").to(dtype), tokenizer=words), make_task()
    assert not evaluation.prepare_task(model, task).against_one_row(model)
    close = {torch.bfloat16: 0.2, torch.float64: 1e-5}[dtype]
    torch.testing.assert_close(loglik(model, task), by_hand(model, task).float(), atol=close, rtol=close)


def test_other_backends(words):
    right = by_hand(ns.load(families.build("llama"), tokenizer=words), make_task())
    boot = TransformerBridge.boot_transformers
    bridge = boot("tiny", hf_model=families.build("llama"), tokenizer=words, device="cpu")
    for other in (bridge, nnsight.NNsight(families.build("llama"))):
        model = ns.load(other, tokenizer=words)
        assert not evaluation.prepare_task(model, make_task()).against_one_row(model)
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
    forward = type(head).forward
    head.forward = lambda h: shapes.append(tuple(h.shape[:2])) or forward(head, h)
    try:
        torch.testing.assert_close(model.logits(families.inputs(model.style), at), every[at], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(
            model.logits(families.inputs(model.style), at[:1]), every[0, 1][None], atol=1e-6, rtol=1e-6
        )
    finally:
        del head.forward
    assert shapes == [(1, 3), (1, 1)]


def test_a_users_hook_on_the_head_sees_all_positions(opened):
    model = opened("llama")
    shapes = []
    handle = model.root.lm_head.register_forward_hook(lambda m, args, out: shapes.append(tuple(out.shape[:2])))
    at = torch.zeros(2, 9, dtype=torch.bool).index_fill(1, torch.tensor([4]), True)
    try:
        found = model.logits(families.inputs("causal"), at)
    finally:
        handle.remove()
    assert shapes == [(2, 9)]
    torch.testing.assert_close(found, model.logits(families.inputs("causal"))[:, 4], atol=1e-6, rtol=1e-6)
