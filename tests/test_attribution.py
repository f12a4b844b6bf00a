"""Attribution: every method against a value derived here, every method under the same conformance checks."""

import copy
import dataclasses
import functools
import json
import math
import random
from pathlib import Path

import families
import nnsight
import pytest
import scipy.stats
import torch
import transformers
from tiny import TINY_SPECIAL, TINY_WORDS, tiny_tokenizer
from torch import nn
from transformer_lens.model_bridge import TransformerBridge

from neuroscope.attribution import METHODS, OBJECTIVES, Method, Request, attribute
from neuroscope.attribution import without_gradients as activations_module
from neuroscope.attribution.scoring import Scoring
from neuroscope.errors import ArgumentError, ModelError, NeuroscopeError, NumericalError, TaskError
from neuroscope.models import load, tap_experts
from neuroscope.models.sites import edit
from neuroscope.tasks import Example, Task
from neuroscope.tasks.encoding import batches, encode
from neuroscope.tasks.loaders import load_tasks

VOCABULARY = {word: i for i, word in enumerate(TINY_SPECIAL + TINY_WORDS)}
STYLE = {"t5": "seq2seq", "bert": "masked"}
EXAMPLES = [
    Example("the food was very good", "yes", corrupt="the film was very bad", corrupt_answer="no"),
    Example("a soup", "not bad", corrupt="a plot", corrupt_answer="great"),
    Example("the story was great :", "no maybe yes", corrupt="the story was awful :", corrupt_answer="bad"),
]
TASK = Task("reviews", train=EXAMPLES)
OTHER = Task(
    "plots",
    train=[
        Example("plot so bad", "no", corrupt="film so good", corrupt_answer="yes"),
        Example("a plot", "no", corrupt="a film", corrupt_answer="maybe"),
    ],
)


def open_family(name):
    root = families.build(name)
    return load(
        tap_experts(root) if name in families.MOE else root, tokenizer=tiny_tokenizer(STYLE.get(name, "causal"))
    )


def make_scoring(model, task=TASK, unit="hidden", objective="loss", batch_size=2):
    cut = list(batches(encode(model, task, task.train), batch_size, 0, "cpu", model.style))
    request = Request(METHODS["exact"], objective, "signed", unit)
    return Scoring(model, task, model.sites(unit), cut, request)


def ids(text):
    return [VOCABULARY[word] for word in text.split()]


def show(model, example, prompt=None):
    """The inputs for one example, and which logits predict its answer, spelt out."""
    prompt, answer = ids(prompt or example.prompt), ids(example.answer)
    if model.style == "causal":
        inputs, first = {"input_ids": [1, *prompt, *answer[:-1]]}, len(prompt)
    elif model.style == "seq2seq":
        inputs, first = {"input_ids": [*prompt, 2], "decoder_input_ids": [0, *answer[:-1]]}, 0
    else:
        inputs, first = {"input_ids": [1, *prompt, *[4] * len(answer), 2]}, 1 + len(prompt)
    return {k: torch.tensor([v]) for k, v in inputs.items()}, slice(first, first + len(answer)), torch.tensor(answer)


def loss_of(model, example, objective="loss", prompt=None):
    inputs, rows, answer = show(model, example, prompt)
    logits = model.root(**inputs).logits[0, rows]
    if objective == "logit-difference":
        return logits[0, ids(example.corrupt_answer)[0]] - logits[0, answer[0]]
    if objective == "loss":
        return torch.nn.functional.cross_entropy(logits, answer)
    p = logits.double().softmax(-1)[range(len(answer)), answer]
    return -(p.log() - (1 - p).log()).mean()


def watch(model, sites, seen):
    """Hooks of our own that keep each site's vector."""
    handles = []
    for site in sites.values():

        def keep(module, args, output=None, site=site):
            h = output if site.side == "output" else args[0]
            seen[site.address] = h[0] if isinstance(h, tuple) else h
            if site.expert is not None:
                seen[site.address, "tokens"] = args[1]

        add = site.module.register_forward_pre_hook if site.side == "input" else site.module.register_forward_hook
        handles.append(add(keep))
    return handles


def run(model, example, unit, objective="loss", prompt=None):
    """The activations and gradients of one example, [row, coordinate] by address: a batch of one."""
    seen = {}
    handles = watch(model, model.sites(unit), seen)
    try:
        loss = loss_of(model, example, objective, prompt)
    finally:
        for handle in handles:
            handle.remove()
    keys = [a for a in model.sites(unit) if a in seen]
    gradients = torch.autograd.grad(loss, [seen[a] for a in keys], allow_unused=True)
    gradients = [torch.zeros_like(seen[a]) if g is None else g for a, g in zip(keys, gradients, strict=True)]
    activations = {a: seen[a].detach().flatten(0, -2) for a in keys}
    tokens = {a: seen[a, "tokens"] for a in keys if (a, "tokens") in seen}
    return activations, {a: g.flatten(0, -2) for a, g in zip(keys, gradients, strict=True)}, tokens


def reduce_by_hand(model, unit, products, reduction):
    """One example's relevance out of its [row, coordinate] products."""
    result = {}
    for address, site in model.sites(unit).items():
        product = products.get(address)
        if product is None:
            result[address] = torch.zeros(site.width)
            continue
        heads = [product[:, j * site.group : (j + 1) * site.group].sum(1) for j in range(site.width)]
        rows = torch.stack(heads, 1) if site.group > 1 else product
        result[address] = {
            "abs_of_sum": lambda r: r.sum(0).abs(),
            "sum_of_abs": lambda r: r.abs().sum(0),
            "signed": lambda r: -r.sum(0),
        }[reduction](rows)
    return result


def mean_over_examples(results):
    return torch.cat([sum(r[a] for r in results) / len(results) for a in results[0]])


def close(scores, expected, relative=1e-4):
    """Equal to a small part of the largest score."""
    vector = scores if torch.is_tensor(scores) else scores.vector()
    assert vector.shape == expected.shape
    assert expected.abs().max() > 1e-3
    assert (vector - expected).abs().max() <= relative * expected.abs().max()


FORWARD_ONLY = ("random", "activation", "lape", "selectivity", "change", "contrast")  # no loss is looked at


# ------------------------------------------------------------------------------------------------ activation x gradient


@pytest.mark.parametrize("unit", ["hidden", "output", "head"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "t5", "bert", "mixtral", "qwen2-moe"])
def test_grad_x_act_is_the_product_of_the_two(name, unit):
    model = open_family(name)
    for objective in OBJECTIVES:
        runs = [run(model, example, unit, objective) for example in EXAMPLES]
        products = [{a: act[a] * grad[a] for a in act} for act, grad, _ in runs]
        for reduction in METHODS["grad-x-act"].reductions:
            expected = mean_over_examples([reduce_by_hand(model, unit, p, reduction) for p in products])
            close(attribute(model, TASK, unit=unit, objective=objective, reduction=reduction, batch_size=2), expected)


def planted(neuron=7, final_norm=True):
    """A Llama whose tokens do not mix: at "food" one neuron of the last block writes "good"; the others do little."""
    root = families.build("llama")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        root.model.embed_tokens.weight.copy_(torch.eye(96, 32))
        root.lm_head.weight.copy_(torch.eye(96, 32))
        for name, parameter in root.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
        for layer in root.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            mlp = layer.mlp
            mlp.gate_proj.weight.copy_(torch.rand(48, 32, generator=generator) * 0.02)  # open at every token
            mlp.up_proj.weight.copy_(torch.randn(48, 32, generator=generator) * 0.02)
            mlp.down_proj.weight.copy_(torch.randn(32, 48, generator=generator) * 0.02)
        mlp.gate_proj.weight[neuron] = -0.1
        mlp.gate_proj.weight[neuron, VOCABULARY["food"]] = 0.3
        mlp.up_proj.weight[neuron] = 0.0
        mlp.up_proj.weight[neuron, VOCABULARY["food"]] = 0.2
        mlp.down_proj.weight[:, neuron] = 0.0
        mlp.down_proj.weight[VOCABULARY["good"], neuron] = 0.5
    if not final_norm:
        root.model.norm = nn.Identity()
    return load(root, tokenizer=tiny_tokenizer())


PLANTED_TASKS = {
    "food": Task(
        "food", train=[Example("the food", "good", corrupt="the film"), Example("a food", "good", corrupt="a plot")]
    ),
    "film": Task(
        "film", train=[Example("the film", "bad", corrupt="the food"), Example("a film", "bad", corrupt="a food")]
    ),
}


@pytest.mark.parametrize("method", [m for m in METHODS if m != "random"])
def test_every_method_finds_a_planted_neuron(method):
    model = planted()
    options = {"quantile": 0.0} if method == "lape" else {}
    if method == "change":  # what tuning did is what it wrote there
        base = copy.deepcopy(model.root)
        base.model.layers[1].mlp.up_proj.weight.data[7] = 0
        options = {"base": load(base, tokenizer=tiny_tokenizer())}
    scores = attribute(model, PLANTED_TASKS, method=method, **options)["food"]
    best = scores.top(1 / len(scores))
    assert {a: v.tolist() for a, v in best.items() if len(v)} == {"blocks.1.mlp.hook_post": [7]}
    first, second = scores.vector().sort(descending=True).values[:2]
    assert first > 1.5 * second


def test_first_order_is_exact_where_the_objective_is_linear():
    """Without a final norm, minus log-odds is linear in the answer's logit, and so in the neuron: 0.5 a by hand."""
    model = planted(final_norm=False)
    expected = []
    for example in PLANTED_TASKS["food"].train:
        inputs, _, _ = show(model, example)
        with torch.no_grad():
            x = model.root.model.layers[0](  # the residual stream before the last block
                model.root.model.embed_tokens(inputs["input_ids"]),
                position_embeddings=model.root.model.rotary_emb(torch.zeros(1, 1, 32), torch.arange(3)[None]),
            )[0, -1]
        x = x / (x.pow(2).mean() + model.config.rms_norm_eps).sqrt()
        gate, up = float(-0.1 * x.sum() + 0.4 * x[VOCABULARY["food"]]), float(0.2 * x[VOCABULARY["food"]])
        expected.append(0.5 * gate / (1 + math.exp(-gate)) * up)
    for method in ("exact", "grad-x-act", "integrated-gradients"):
        scores = attribute(model, PLANTED_TASKS["food"], method=method, objective="log-odds", reduction="signed")
        assert float(scores["blocks.1.mlp.hook_post"][7]) == pytest.approx(sum(expected) / 2, rel=1e-4)
        assert sum(expected) / 2 > 0.1  # removing the neuron raises the loss


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_first_order_ranks_as_exact_ablation_does(name):
    model = open_family(name)
    for layer in range(2):  # first order is for small effects: those of one neuron among many
        model.sites("hidden")[f"blocks.{layer}.mlp.hook_post"].module.weight.data.mul_(0.3)
    exact, fast = (attribute(model, TASK, method=m, objective="log-odds").vector() for m in ("exact", "grad-x-act"))
    assert scipy.stats.spearmanr(exact, fast).statistic > 0.98


MINI = Path(__file__).parents[1] / "assets" / "mini"


@pytest.mark.slow
@pytest.mark.skipif(not (MINI / "config.json").exists(), reason="the bundled model has not been built")
def test_first_order_ranks_as_exact_ablation_does_on_the_bundled_model():
    model = load("mini")
    for task in load_tasks("mini").values():
        exact = attribute(model, task, method="exact", objective="log-odds", neurons=200, examples=8).vector()
        fast = attribute(model, task, objective="log-odds", examples=8).vector()
        known = ~exact.isnan()
        assert known.sum() == 200
        assert scipy.stats.spearmanr(exact[known], fast[known]).statistic > 0.98, task.name


def test_models_that_write_into_an_ffn_output():
    """As Falcon adds its residual in place: the output's score is that of the model that does not."""
    plain, writing = families.build("llama"), families.build("llama")
    for layer in plain.model.layers:
        layer.mlp.register_forward_hook(lambda module, args, output: output * 2 + 1)
    for layer in writing.model.layers:
        layer.mlp.register_forward_hook(lambda module, args, output: output.mul_(2.0).add_(1.0))
    plain, writing = (load(root, tokenizer=tiny_tokenizer()) for root in (plain, writing))
    for method in ("grad-x-act", "integrated-gradients", "attribution-patching", "relp", "activation", "exact"):
        expected = attribute(plain, TASK, method=method, unit="output")
        close(attribute(writing, TASK, method=method, unit="output"), expected.vector(), 1e-5)


# ------------------------------------------------------------------------------------------------------------ objective


@pytest.mark.parametrize("name", ["llama", "t5", "bert"])
@pytest.mark.parametrize("objective", ["loss", "log-odds"])
def test_objective_is_the_mean_over_an_examples_answer(name, objective):
    model = open_family(name)
    scoring = make_scoring(model, objective=objective)
    for batch in scoring.batches:
        expected = [float(loss_of(model, EXAMPLES[i], objective).detach()) for i in batch.index]
        assert scoring.losses(batch).tolist() == pytest.approx(expected, rel=1e-5)
    assert (scoring.n_examples, scoring.n_tokens) == (3, 6)


def test_log_odds_do_not_saturate():
    """p = 1/(1 + e^-x) with one other token: log p/(1-p) = x, also where p rounds to 1 (1 - p = 1e-30)."""
    gaps = torch.tensor([-3.0, 0.0, 0.5, 20.0, 30 * math.log(10.0)])
    logits = torch.stack([gaps, torch.zeros(5)], 1).requires_grad_()
    values = OBJECTIVES["log-odds"](logits, torch.zeros(5, dtype=torch.long))
    torch.testing.assert_close(values, -gaps)
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    torch.testing.assert_close(gradient, torch.tensor([[-1.0, 1.0]] * 5))  # where the loss's is 1e-30
    many = torch.randn(7, 11, generator=torch.Generator().manual_seed(0)).double()
    p = many.softmax(-1)[:, 3]
    torch.testing.assert_close(OBJECTIVES["log-odds"](many, torch.full((7,), 3)), (1 - p).log() - p.log())


def test_a_foil_is_the_corrupt_answer_or_the_other_label():
    model = open_family("llama")
    example = Example("the food", "good")
    for task, said in (
        (Task("t", train=[example]), "corrupt_answer"),
        (Task("t", train=[example], labels=("good", "bad", "awful")), "corrupt_answer"),
        (Task("t", train=[Example("the food", "good", corrupt_answer="good plot")]), "begin with the same token"),
    ):
        with pytest.raises(TaskError, match=said):
            attribute(model, task, objective="logit-difference")
    two = attribute(model, Task("t", train=[example], labels=("good", "bad")), objective="logit-difference")
    named = Task("t", train=[dataclasses.replace(example, corrupt_answer="bad")], labels=("good", "bad"))
    other = Task("t", train=[dataclasses.replace(example, corrupt_answer="awful")])
    assert attribute(model, named, objective="logit-difference") == two
    assert attribute(model, other, objective="logit-difference") != two


# ------------------------------------------------------------------------------------------------- integrated gradients


@pytest.mark.parametrize(
    ("name", "unit"), [("llama", "hidden"), ("gpt2", "head"), ("t5", "output"), ("mixtral", "hidden")]
)
def test_integrated_gradients_are_complete(name, unit):
    """By site, the signed values sum to L(site at zero) - L, up to an error that shrinks as 1 / steps^2.

    Of a mixture only the last block is asked: on the path of an earlier site later routers switch, and the loss jumps.
    """
    model = open_family(name)
    sites = {a: s for a, s in model.sites(unit).items() if name != "mixtral" or s.layer == 1}
    with torch.no_grad():
        clean = sum(loss_of(model, e) for e in EXAMPLES) / len(EXAMPLES)
        change = {}
        for address, site in sites.items():
            with edit([site], lambda site, h, tokens: torch.zeros_like(h)):
                change[address] = float(sum(loss_of(model, e) for e in EXAMPLES) / len(EXAMPLES) - clean)
    errors = []
    for steps in (4, 8, 16):
        scores = attribute(model, TASK, method="integrated-gradients", unit=unit, reduction="signed", steps=steps)
        errors.append([float(scores[a].sum()) - change[a] for a in change])
    largest = max(map(abs, change.values()))
    assert largest > 0.01
    assert max(map(abs, errors[2])) < 0.01 * largest
    assert errors[0][-1] / errors[1][-1] == pytest.approx(4, rel=0.15)  # the last site's path is the smoothest


@pytest.mark.parametrize("steps", [0, -1, 2.5])
def test_steps_must_be_a_positive_integer(steps):
    with pytest.raises(ArgumentError, match="steps"):
        attribute(open_family("llama"), TASK, method="integrated-gradients", steps=steps)


# ------------------------------------------------------------------------------------------------- attribution patching


@pytest.mark.parametrize("unit", ["hidden", "output", "head"])
@pytest.mark.parametrize("name", ["llama", "opt", "t5", "mixtral", "qwen2-moe"])
def test_attribution_patching_is_the_difference_of_two_runs_times_the_gradient(name, unit):
    model = open_family(name)
    products = []
    for example in EXAMPLES:
        clean, gradient, tokens = run(model, example, unit)
        corrupt, _, other_tokens = run(model, example, unit, prompt=example.corrupt)
        products.append({})
        for address, act in clean.items():
            other = corrupt.get(address, torch.zeros(0, act.shape[1]))
            if address in tokens:  # rows of an expert: the corrupt run's row of the same token, or zero
                where = other_tokens.get(address, torch.zeros(0, dtype=torch.long)).tolist()
                zero = torch.zeros(act.shape[1])
                rows = [other[where.index(t)] if t in where else zero for t in tokens[address].tolist()]
                other = torch.stack(rows) if rows else torch.zeros_like(act)
            products[-1][address] = (act - other) * gradient[address]
    for reduction in METHODS["attribution-patching"].reductions:
        expected = mean_over_examples([reduce_by_hand(model, unit, p, reduction) for p in products])
        scores = attribute(model, TASK, method="attribution-patching", unit=unit, reduction=reduction, batch_size=2)
        close(scores, expected)


def test_attribution_patching_predicts_what_a_small_corruption_does():
    model = open_family("llama")
    embedding = model.root.model.embed_tokens.weight.data
    embedding[VOCABULARY["film"]] = embedding[VOCABULARY["food"]] + 0.001 * torch.randn(
        32, generator=torch.Generator().manual_seed(0)
    )
    example = Example("the food was very", "good", corrupt="the film was very")
    task = Task("small", train=[example])
    scores = attribute(model, task, method="attribution-patching", reduction="signed")
    corrupt, _, _ = run(model, example, "hidden", prompt=example.corrupt)
    with torch.no_grad():
        clean = loss_of(model, example)
        for address, site in model.sites("hidden").items():
            with edit([site], lambda site, h, tokens: corrupt[site.address][None]):
                change = float(loss_of(model, example) - clean)
            assert abs(change) > 2e-5
            assert float(scores[address].sum()) == pytest.approx(change, rel=0.02)


@functools.cache
def bridged_llama(folder):
    tiny_tokenizer().save_pretrained(folder)  # as TransformerLens wants it
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    boot = TransformerBridge.boot_transformers
    return boot("x", hf_model=families.build("llama"), tokenizer=tokenizer, device="cpu")


@pytest.mark.parametrize("objective", ["loss", "logit-difference"])
@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("backend", ["hugging_face", "bridge"])
def test_directions_of_attribution_patching_by_hooks_of_a_bridge(direction, objective, backend, tmp_path):
    """TransformerLens' own hooks: (a_corrupt - a_clean) dM/da, at the clean prompt or at the corrupt one."""
    bridge = bridged_llama(str(tmp_path.parent))
    change = {f"blocks.{layer}.mlp.hook_post": 0.0 for layer in range(2)}
    names = {f"blocks.{layer}.mlp.out.hook_in": f"blocks.{layer}.mlp.hook_post" for layer in range(2)}
    for example in EXAMPLES:
        answer, foil = ids(example.answer), ids(example.corrupt_answer)[0]
        shown = answer[:-1] if objective == "loss" else []
        rows = [torch.tensor([[1, *ids(prompt), *shown]]) for prompt in (example.prompt, example.corrupt)]
        runs = []
        for row in rows:
            seen = {}

            def keep(a, hook, seen=seen):
                seen[names[hook.name]] = a
                return a

            logits = bridge.run_with_hooks(row, fwd_hooks=[(name, keep) for name in names])[
                0, len(ids(example.prompt)) :
            ]
            if objective == "loss":
                measure = torch.nn.functional.cross_entropy(logits, torch.tensor(answer))
            else:
                measure = logits[0, foil] - logits[0, answer[0]]
            gradients = torch.autograd.grad(measure, list(seen.values()))
            runs.append({a: (h.detach(), g) for (a, h), g in zip(seen.items(), gradients, strict=True)})
        clean, corrupt = runs
        for address in change:
            difference = corrupt[address][0] - clean[address][0]
            helps = difference * clean[address][1] if direction == "noising" else difference * corrupt[address][1]
            change[address] = change[address] + helps[0].sum(0) / len(EXAMPLES)
    model = load(bridge, tokenizer=tiny_tokenizer()) if backend == "bridge" else open_family("llama")
    how = {"method": "attribution-patching", "direction": direction, "objective": objective, "batch_size": 2}
    scores = attribute(model, TASK, reduction="signed", **how)
    for address, expected in change.items():
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(scores[address], expected, atol=1e-5, rtol=1e-5)
    assert scores.manifest["options"] == {"direction": direction, "steps": 1}
    means = attribute(model, TASK, method="activation", batch_size=2).means  # of the clean prompts, in both directions
    if objective == "loss":
        for address in change:
            torch.testing.assert_close(scores.means[address], means[address], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "mixtral"])
def test_a_path_in_the_embeddings_is_that_of_eap_ig(name, direction):
    """Gradients at z' + k/m (z - z'), k = 1 ... m, by a hook on the embedding, one example and one step at a time."""
    model = open_family(name)
    steps, expected = 3, []
    for example in EXAMPLES:
        clean, _, tokens = run(model, example, "hidden")
        corrupt, _, other_tokens = run(model, example, "hidden", prompt=example.corrupt)
        if any(tokens[a].tolist() != other_tokens.get(a, tokens[a][:0]).tolist() for a in tokens):
            return  # a router switched between the prompts: rows are no pairs
        ends = [example.prompt, example.corrupt]
        patched, source = ends if direction == "noising" else ends[::-1]
        embedded = []
        modules = [m for m in model.root.modules() if getattr(m, "weight", None) is model.embedding.weight]
        modules = [m for m in modules if isinstance(m, nn.Embedding)]
        keep = [m.register_forward_hook(lambda module, args, out: embedded.append(out.detach())) for m in modules]
        for prompt in (patched, source):
            model.root(**show(model, example, prompt)[0])
        for handle in keep:
            handle.remove()
        calls = len(embedded) // 2  # the encoder's and the decoder's
        product = {a: torch.zeros_like(act) for a, act in clean.items()}
        for k in range(1, steps + 1):
            way = iter([s + k / steps * (p - s) for p, s in zip(embedded[:calls], embedded[calls:], strict=True)])
            move = [m.register_forward_hook(lambda module, args, out, way=way: next(way)) for m in modules]
            _, gradient, _ = run(model, example, "hidden", prompt=patched)
            for handle in move:
                handle.remove()
            assert next(way, None) is None
            for a in product:
                product[a] += (clean[a] - corrupt[a]) * gradient[a] / steps
        expected.append(reduce_by_hand(model, "hidden", product, "abs_of_sum"))
    how = {"method": "attribution-patching", "direction": direction, "batch_size": 2}
    scores = attribute(model, TASK, steps=steps, **how)
    close(scores, mean_over_examples(expected))
    assert (scores.vector() - attribute(model, TASK, **how).vector()).abs().max() > 1e-2 * scores.vector().abs().max()


def test_directions_and_steps_that_there_are_not():
    for wrong in ({"direction": "noise"}, {"direction": None}, {"steps": 0}, {"steps": 1.5}, {"directions": "noising"}):
        with pytest.raises(ArgumentError, match=r"direction|steps"):
            attribute(open_family("llama"), TASK, method="attribution-patching", **wrong)


def test_attribution_patching_needs_corrupt_prompts():
    for corrupt in (None, "the food was so very good"):
        task = Task("t", train=[Example("the food", "good", corrupt=corrupt)])
        with pytest.raises(TaskError, match="corrupt"):
            attribute(open_family("llama"), task, method="attribution-patching")


# -------------------------------------------------------------------------------------- activation, LAPE, random scores


@pytest.mark.parametrize(
    ("name", "unit"), [("llama", "hidden"), ("opt", "hidden"), ("t5", "head"), ("mixtral", "hidden")]
)
def test_activation_is_the_mean_size_over_real_tokens(name, unit):
    model = open_family(name)
    rows = {a: [] for a in model.sites(unit)}
    for example in EXAMPLES:
        for address, activation in run(model, example, unit)[0].items():
            rows[address].append(activation)
    expected = []
    for address, site in model.sites(unit).items():
        size = torch.cat(rows[address]).abs().mean(0) if rows[address] else torch.zeros(site.width)
        expected.append(size.view(site.width, -1).sum(1))
    for batch_size in (1, 8):  # with padding, and without
        scores = attribute(model, TASK, method="activation", unit=unit, batch_size=batch_size)
        close(scores, torch.cat(expected), 1e-6)


def rows_by_hand(model, task, unit="hidden", corrupt=False):
    """Every real token's activations, neuron by neuron, of all examples: [row, neuron] by address."""
    rows = {a: [] for a in model.sites(unit)}
    for example in task.train:
        prompt = example.corrupt if corrupt else None
        for address, activation in run(model, example, unit, prompt=prompt)[0].items():
            rows[address].append(activation.view(len(activation), model.sites(unit)[address].width, -1))
    return {a: torch.cat(parts) for a, parts in rows.items()}


@pytest.mark.parametrize(("name", "unit"), [("llama", "hidden"), ("t5", "head")])
def test_selectivity_and_contrast_are_differences_of_means(name, unit):
    model = open_family(name)
    third = Task("third", train=[Example("very very bad", "maybe", corrupt="so so good")])
    means = {task.name: rows_by_hand(model, task, unit) for task in (TASK, OTHER, third)}
    for reduction, of in (("mean", lambda x: x), ("mean_abs", torch.abs)):
        one = {n: torch.cat([of(x).sum(-1).mean(0) for x in rows.values()]) for n, rows in means.items()}
        scores = attribute(model, [TASK, OTHER, third], method="selectivity", unit=unit, reduction=reduction)
        close(scores["plots"], one["plots"] - (one["reviews"] + one["third"]) / 2, 1e-5)
    corrupt = rows_by_hand(model, TASK, unit, corrupt=True)
    expected = torch.cat([(x.sum(-1).mean(0) - corrupt[a].sum(-1).mean(0)) for a, x in means["reviews"].items()])
    for reduction, right in (("abs_of_mean", expected.abs()), ("mean", expected)):
        close(attribute(model, TASK, method="contrast", unit=unit, reduction=reduction), right, 1e-5)
    with pytest.raises(ArgumentError, match="two tasks"):
        attribute(model, TASK, method="selectivity")
    with pytest.raises(TaskError, match="corrupt"):
        attribute(model, Task("t", train=[Example("the food", "good")]), method="contrast")


@pytest.mark.parametrize(("name", "unit"), [("llama", "hidden"), ("t5", "head")])
def test_change_is_the_root_mean_square_of_what_tuning_did(name, unit):
    model, base = open_family(name), base_of(open_family(name))
    tuned, before = (rows_by_hand(m, TASK, unit) for m in (model, base))
    expected = torch.cat([(x - before[a]).square().sum(-1).mean(0).sqrt() for a, x in tuned.items()])
    for batch_size in (1, 8):
        close(attribute(model, TASK, method="change", unit=unit, base=base, batch_size=batch_size), expected, 1e-5)
    assert attribute(model, TASK, method="change", base=open_family(name)).vector().abs().max() == 0
    for wrong, said in (({}, "no base"), ({"base": None}, "base"), ({"base": model}, "model itself")):
        with pytest.raises(ArgumentError, match=said):
            attribute(model, TASK, method="change", **wrong)
    with pytest.raises(ModelError, match="sites or widths"):
        attribute(model, TASK, method="change", base=open_family("gpt2" if name == "t5" else "t5"))


def gate_by_hand(name, root):
    """The inputs of the first block's non-linearity: module, and columns of its output."""
    return {
        "llama": lambda: (root.model.layers[0].mlp.gate_proj, slice(0, 48)),
        "phi3": lambda: (root.model.layers[0].mlp.gate_up_proj, slice(0, 48)),  # chunk(2): the gate comes first
        "gpt2": lambda: (root.transformer.h[0].mlp.c_fc, slice(0, 48)),
        "opt": lambda: (root.model.decoder.layers[0].fc1, slice(0, 48)),
        "lora": lambda: (root.base_model.model.model.layers[0].mlp.gate_proj, slice(0, 48)),
    }[name]()


@pytest.mark.parametrize("name", ["llama", "phi3", "gpt2", "opt", "lora"])
def test_a_neuron_is_active_where_its_non_linearity_is_open(name):
    model = load(lora(), tokenizer=tiny_tokenizer()) if name == "lora" else open_family(name)
    module, columns = gate_by_hand(name, model.root)
    seen = []
    handle = module.register_forward_hook(
        lambda m, args, output: seen.append(output.detach().flatten(0, -2)[:, columns])
    )
    for example in EXAMPLES:
        model.root(**show(model, example)[0])
    handle.remove()
    expected = (torch.cat(seen) > 0).float().mean(0)
    assert 0.1 < expected.mean() < 0.9
    with model.quiet():
        shares = activations_module.active_share(make_scoring(model))
    torch.testing.assert_close(shares["blocks.0.mlp.hook_post"], expected)


def test_lape_by_hand(monkeypatch):
    """Entropy of the normalised shares (Tang et al. 2024, Eq. 2-4), and the bar below which no neuron is eligible."""
    address = "blocks.0.mlp.hook_post"
    given = {"reviews": [0.9, 0.4, 0.0, 0.05], "plots": [0.1, 0.4, 0.0, 0.0]}
    monkeypatch.setattr(
        activations_module, "active_share", lambda scoring: {address: torch.tensor(given[scoring.task.name])}
    )
    scorings = {task.name: make_scoring(open_family("llama"), task) for task in (TASK, OTHER)}
    low = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    specific = [math.log(2) - low, 0.0, 0.0, math.log(2)]
    # sorted shares: 0 0 0 .05 .1 .4 .4 .9; the bar is the entry at place round(quantile * 8) from 1, at least the first
    expected = {
        0.0: ([*specific[:2], 0.0 - 1.001, specific[3]], [*specific[:2], -1.001, -1.001]),  # bar 0: 0 is not above it
        0.5: ([*specific[:2], -1.001, 0.05 - 1.001], [*specific[:2], -1.001, -1.001]),  # bar .05
        0.7: ([specific[0], 0.4 - 1.001, -1.001, 0.05 - 1.001], [0.1 - 1.001, 0.4 - 1.001, -1.001, -1.001]),  # bar .4
    }
    for quantile, by_task in expected.items():
        values = activations_module.lape(scorings, quantile=quantile)
        for task, numbers in zip(("reviews", "plots"), by_task, strict=True):
            assert values[task][address].tolist() == pytest.approx(numbers), (quantile, task)


def test_lape_is_a_score_between_tasks():
    model = open_family("llama")
    for task in (TASK, {"reviews": TASK}):
        with pytest.raises(ArgumentError, match=r"two tasks|dict of tasks"):
            attribute(model, task, method="lape")
    with pytest.raises(ArgumentError, match="quantile"):
        attribute(model, {"a": TASK, "b": OTHER}, method="lape", quantile=1.0)


def test_random_scores_come_from_the_seed():
    model = open_family("llama")
    a, b, c = (attribute(model, TASK, method="random", seed=seed).vector() for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert 0 <= a.min() < 0.1
    assert 0.9 < a.max() < 1


# ---------------------------------------------------------------------------------------------------- weight x gradient


def lora():
    import peft

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = peft.LoraConfig(r=4, target_modules=["gate_proj", "up_proj", "down_proj", "o_proj"])
        root = peft.get_peft_model(families.build("llama"), config)
        for name, parameter in root.named_parameters():
            if "lora" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    return root.eval()


def weights_by_hand(name, root, j):
    """(parameter, index of neuron j's entries), of the first block, by the family's own names."""
    every = slice(None)
    if name in ("llama", "phi3", "lora"):
        mlp = (root.base_model.model if name == "lora" else root).model.layers[0].mlp
    if name == "llama":
        return [(mlp.gate_proj.weight, j), (mlp.up_proj.weight, j), (mlp.down_proj.weight, (every, j))]
    if name == "phi3":
        return [(mlp.gate_up_proj.weight, j), (mlp.gate_up_proj.weight, 48 + j), (mlp.down_proj.weight, (every, j))]
    if name == "lora":
        gate, up, down = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        rows = [(m.base_layer.weight, j) for m in (gate, up)] + [(m.lora_B.default.weight, j) for m in (gate, up)]
        return [*rows, (down.base_layer.weight, (every, j)), (down.lora_A.default.weight, (every, j))]
    if name == "gpt2":
        mlp = root.transformer.h[0].mlp
        return [(mlp.c_fc.weight, (every, j)), (mlp.c_fc.bias, j), (mlp.c_proj.weight, j)]
    if name == "mixtral":  # expert 0 of the first block
        m = root.model.layers[0].mlp.experts
        return [(m.gate_up_proj, (0, j)), (m.gate_up_proj, (0, 48 + j)), (m.down_proj, (0, every, j))]
    if name == "gpt-oss":  # transposed, gate and up interleaved, with biases
        m = root.model.layers[0].mlp.experts
        rows = [(m.gate_up_proj, (0, every, k)) for k in (2 * j, 2 * j + 1)]
        return [*rows, (m.gate_up_proj_bias, (0, 2 * j)), (m.gate_up_proj_bias, (0, 2 * j + 1)), (m.down_proj, (0, j))]
    if name == "t5":
        dense = root.encoder.block[0].layer[1].DenseReluDense
        return [(dense.wi_0.weight, j), (dense.wi_1.weight, j), (dense.wo.weight, (every, j))]
    fc1, fc2 = {
        "opt": lambda: (root.model.decoder.layers[0].fc1, root.model.decoder.layers[0].fc2),
        "bert": lambda: (root.bert.encoder.layer[0].intermediate.dense, root.bert.encoder.layer[0].output.dense),
    }[name]()
    return [(fc1.weight, j), (fc1.bias, j), (fc2.weight, (every, j))]


FIRST = {"mixtral": "blocks.0.mlp.experts.0.hook_post", "gpt-oss": "blocks.0.mlp.experts.0.hook_post"}
FIRST |= {"t5": "encoder_blocks.0.mlp.hook_post"}


@pytest.mark.parametrize("name", ["llama", "phi3", "gpt2", "opt", "bert", "t5", "mixtral", "gpt-oss", "lora"])
def test_weight_x_grad_sums_over_the_neurons_own_parameters(name):
    model = load(lora(), tokenizer=tiny_tokenizer()) if name == "lora" else open_family(name)
    address = FIRST.get(name, "blocks.0.mlp.hook_post")
    neurons = range(0, model.sites()[address].width, 5)
    per_example = []
    for parameter in model.root.parameters():
        parameter.requires_grad_(True)
    for example in EXAMPLES:
        model.root.zero_grad()
        loss_of(model, example).backward()
        per_example.append([])
        for j in neurons:
            entries = [
                ((p * p.grad)[i] if p.grad is not None else p[i] * 0) for p, i in weights_by_hand(name, model.root, j)
            ]
            per_example[-1].append(float(sum(e.sum() for e in entries).detach()))
    model.root.zero_grad()
    values = torch.tensor(per_example)
    for reduction, expected in (("abs_of_sum", values.abs().mean(0)), ("signed", -values.mean(0))):
        scores = attribute(model, TASK, method="weight-x-grad", reduction=reduction)
        close(scores[address][list(neurons)], expected)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "lora"])
def test_out_projections_obey_the_identity_of_euler(name):
    """y = W h + b: the sum of w dL/dw over a column of W (and a LoRA factor) is that of h dL/dh over tokens; over a row
    with its bias, that of y dL/dy. Heads have such columns alone, output units such rows alone."""
    model = load(lora(), tokenizer=tiny_tokenizer()) if name == "lora" else open_family(name)
    for unit in ("head", "output"):
        by_weights = attribute(model, TASK, method="weight-x-grad", unit=unit, reduction="signed")
        close(by_weights, attribute(model, TASK, unit=unit, reduction="signed").vector(), 1e-4)


# ---------------------------------------------------------------------------------------------------------- the call


def test_unknown_names_are_refused_with_the_known_ones():
    model = open_family("llama")
    wrong = [
        ({"method": "grad-x-akt"}, "grad-x-act"),
        ({"objective": "los"}, "'loss'"),
        ({"reduction": "sum"}, "abs_of_sum"),
        ({"method": "weight-x-grad", "reduction": "sum_of_abs"}, "abs_of_sum"),
        ({"unit": "heads"}, "'head'"),
        ({"split": "tset"}, "'test'"),
        ({"method": "integrated-gradients", "step": 3}, "'steps'"),
        ({"steps": 3}, "no such option"),
        ({"batchsize": 3}, "'batch_size'"),
        ({"method": "exact", "neurons": 0}, "neurons"),
        ({"batch_size": 0}, "batch_size"),
    ]
    for kwargs, text in wrong:
        with pytest.raises(NeuroscopeError) as caught:
            attribute(model, TASK, **kwargs)
        assert text in str(caught.value), kwargs


def test_a_request_is_one_value_that_is_checked_when_it_is_made():
    method = METHODS["integrated-gradients"]
    request = Request(method, options={"steps": 4})
    assert request.reduction == "abs_of_sum" and request.in_manifest()["options"] == {"steps": 4}
    assert request == Request(method, reduction="abs_of_sum", options={"steps": 4}, progress=print)
    assert request.identity != Request(method, seed=1, options={"steps": 4}).identity
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.seed = 1
    for wrong in (
        {"objective": "los"},
        {"reduction": "sum"},
        {"unit": "heads"},
        {"split": "tset"},
        {"options": {"k": 1}},
    ):
        with pytest.raises(ArgumentError):
            Request(method, **wrong)


def test_one_task_gives_scores_and_several_give_a_dict_of_them():
    model = open_family("llama")
    one = attribute(model, TASK)
    for tasks in ([TASK, OTHER], (TASK, OTHER), {"reviews": TASK, "plots": OTHER}):
        scores = attribute(model, tasks)
        assert list(scores) == ["reviews", "plots"] and scores["reviews"] == one
    assert list(attribute(model, [TASK])) == ["reviews"]
    named = attribute(model, {"mine": TASK})
    assert list(named) == ["mine"] and named["mine"] == one and named["mine"].manifest["task"] == "reviews"


def test_a_row_is_all_that_a_new_method_needs(monkeypatch):
    def twice_random(scoring, factor=2.0):
        return {a: factor * v for a, v in activations_module.chance(scoring).items()}

    monkeypatch.setitem(METHODS, "twice-random", Method("twice-random", twice_random, ("none",), additive=False))
    model = open_family("llama")
    once, twice = (attribute(model, TASK, method=m) for m in ("random", "twice-random"))
    torch.testing.assert_close(twice.vector(), 2 * once.vector())
    assert attribute(model, TASK, method="twice-random", factor=3).manifest["options"] == {"factor": 3}
    with pytest.raises(ArgumentError, match="'factor'"):
        attribute(model, TASK, method="twice-random", factors=3)


def test_tasks_that_cannot_be_scored_are_refused():
    model = open_family("llama")
    with pytest.raises(TaskError, match="discovery"):
        attribute(model, Task("empty", test=EXAMPLES))
    with pytest.raises(TaskError, match="context of 64"):
        attribute(model, Task("long", train=[Example("the" + " the" * 69, "good")]))
    with pytest.raises(ArgumentError, match="from 1 up"):
        attribute(model, TASK, examples=0)
    for tasks in ({}, [], [TASK, TASK], None):
        with pytest.raises(ArgumentError, match=r"attribute\n"):
            attribute(model, tasks)
    with pytest.raises(ArgumentError, match=r"(?s)no answer.*load_tasks\('reviews'\)"):  # a text is a prompt
        attribute(model, "reviews")


@pytest.mark.parametrize("method", [m for m in METHODS if m not in FORWARD_ONLY])
def test_numbers_that_are_not_finite_are_refused(method):
    model = open_family("llama")
    model.root.lm_head.weight.data[5] = torch.nan  # after it was opened, and checked
    with pytest.raises(NumericalError, match="nan in example"):
        attribute(model, TASK, method=method)


@pytest.mark.parametrize("method", ["activation", "grad-x-act"])
def test_scores_that_are_not_finite_are_refused(method):
    model = open_family("llama")
    model.root.model.layers[0].mlp.up_proj.weight.data[3] = torch.nan
    with pytest.raises(NumericalError):
        attribute(model, TASK, method=method)


# ----------------------------------------------------------------------------- conformance: every method, every backend

TASKS = {"reviews": TASK, "plots": OTHER}
OPTIONS = {"lape": {"quantile": 0.5}, "integrated-gradients": {"steps": 3}}  # few tokens; few steps


def options_of(method, name):
    """A method's options, small ones; a base is the family's own model with other weights."""
    return {"base": base_of(open_family(name))} if method == "change" else OPTIONS.get(method, {})


def base_of(model):
    root = model.root
    with torch.no_grad():
        for parameter in root.parameters():
            if parameter.ndim > 1:
                parameter.mul_(0.9)
    return load(root, tokenizer=model.tokenizer)


BACKENDS = ["hugging_face", "nnsight", "bridge", "compatible"]
OPENED = {}


def open_backend(name, backend, folder):
    """The same weights by every way in; kept, because a Bridge takes a second to boot."""
    if (name, backend) not in OPENED:
        tiny_tokenizer().save_pretrained(folder)  # as TransformerLens and nnsight want it
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        root = families.build(name)
        if name in families.MOE:
            tap_experts(root)
        model = root
        if backend == "nnsight":
            model = nnsight.LanguageModel(root, tokenizer=tokenizer)
        elif backend != "hugging_face":
            model = TransformerBridge.boot_transformers("x", hf_model=root, tokenizer=tokenizer, device="cpu")
            if backend == "compatible":
                model.enable_compatibility_mode(disable_warnings=True)
        # the tokenizer that a Bridge makes of it would put the start token before the text once more
        OPENED[name, backend] = load(model, tokenizer=tokenizer)
    return OPENED[name, backend]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2-moe"])
def test_backends_agree(name, backend, method, tmp_path):
    if name in families.MOE and backend == "compatible":
        pytest.skip("TransformerLens folds no mixtures")
    model = open_backend(name, backend, tmp_path)
    if method == "weight-x-grad" and "nnsight" not in backend:
        with pytest.raises(ModelError, match="open the Hugging Face model itself"):
            attribute(model, TASK, method=method)
        return
    options = options_of(method, name)
    expected = attribute(open_backend(name, "hugging_face", tmp_path), TASKS, method=method, **options)
    scores = attribute(model, TASKS, method=method, **options)
    for task in TASKS:
        assert dict(scores[task].widths) == dict(expected[task].widths)
        close(scores[task], expected[task].vector(), 1e-5)


def state(root):
    """Everything that a method might leave behind."""
    return (
        [
            (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in root.modules()
        ],
        [(p.requires_grad, p.grad is not None and p.grad.clone(), p.data_ptr()) for p in root.parameters()],
        [p.detach().clone() for p in root.parameters()],
        [m.__dict__.get("forward") for m in root.modules()],
        torch.get_rng_state(),
        random.getstate(),
        torch.is_grad_enabled(),
    )


def same(a, b):
    if torch.is_tensor(a) or torch.is_tensor(b):
        return torch.is_tensor(a) and torch.is_tensor(b) and torch.equal(a, b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def break_off(items, desc):
    """A progress bar that the user stops after the first step."""
    yield items[0]
    raise KeyboardInterrupt


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", ["hugging_face", "bridge"])
def test_nothing_is_left_behind(backend, method, tmp_path):
    if (backend, method) == ("bridge", "weight-x-grad"):
        pytest.skip("refused on a Bridge")
    model = open_backend("llama", backend, tmp_path)
    parameters = list(model.root.parameters())
    trained = [p.requires_grad for p in parameters]
    try:
        model.root.train()
        parameters[0].requires_grad_(False)
        for i, p in enumerate(parameters[1:]):
            p.requires_grad_(i % 3 > 0)
            p.grad = torch.full_like(p, 7.0) if i % 2 else None
        before = state(model.root)
        options = options_of(method, "llama")
        attribute(model, TASKS, method=method, batch_size=2, **options)
        assert same(state(model.root), before)
        if method != "random":  # which has no steps
            with pytest.raises(KeyboardInterrupt):
                attribute(model, TASKS, method=method, batch_size=2, progress=break_off, **options)
            assert same(state(model.root), before)
    finally:
        model.root.eval()
        for p, required in zip(parameters, trained, strict=True):
            p.requires_grad_(required)
            p.grad = None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["llama", "opt", "t5", "bert", "mixtral"])
def test_batch_size_does_not_matter(name, method):
    model = open_family(name)
    one, two, many = (
        attribute(model, TASKS, method=method, batch_size=size, **options_of(method, name)) for size in (1, 2, 32)
    )
    for task in TASKS:
        close(two[task], one[task].vector(), 2e-5)
        close(many[task], one[task].vector(), 2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_callers_gradient_mode_does_not_matter(method):
    model = open_family("llama")
    options = options_of(method, "llama")
    expected = attribute(model, TASKS, method=method, **options)["reviews"]
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            close(attribute(model, TASKS, method=method, **options)["reviews"], expected.vector(), 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_examples_splits_and_seeds(method):
    model, options = open_family("gpt2"), options_of(method, "gpt2")
    tasks = {n: Task(n, train=t.train, test=t.train[1:] or t.train, discovery=t.train[:2]) for n, t in TASKS.items()}
    found = attribute(model, tasks, method=method, **options)["reviews"]
    first_two = {n: Task(n, train=t.train[:2]) for n, t in TASKS.items()}
    assert attribute(model, first_two, method=method, **options)["reviews"] == found
    assert attribute(model, TASKS, method=method, **options, examples=2)["reviews"] == found
    assert attribute(model, TASKS, method=method, **options, examples=2)["reviews"] == found  # the same each time
    assert (
        attribute(model, TASKS, method=method, **options, examples=2, seed=1)["reviews"] == found or method == "random"
    )
    judged = attribute(model, tasks, method=method, **options, split="test")["reviews"]
    assert judged.manifest["split"] == "test"
    assert (judged != found) or method == "random"
    assert judged.manifest["examples"] == 2


@pytest.mark.parametrize("method", METHODS)
def test_scores_say_where_they_come_from(method):
    model = open_family("llama")
    options = options_of(method, "llama")
    scores = attribute(model, TASKS, method=method, objective="log-odds", seed=3, **options)["reviews"]
    about = scores.manifest
    assert scores.unit == "hidden"
    assert {a: len(v) for a, v in scores.items()} == {a: s.width for a, s in model.sites().items()}
    assert all(v.dtype == torch.float32 and not v.requires_grad for v in scores.values())
    expected = {
        "method": method,
        "objective": "log-odds",
        "reduction": METHODS[method].reductions[0],
        "task": "reviews",
        "data_hash": TASK.data_hash,
        "split": "discovery",
        "examples": 3,
        "tokens": 6,  # yes + not bad + no maybe yes
        "seed": 3,
        "fingerprint": model.fingerprint(),
        "backend": "hugging_face",
        "dtype": "float32",
    }
    assert {key: about[key] for key in expected} == expected
    assert about["versions"]["torch"] == torch.__version__
    json.dumps(dict(about))
    assert len(scores.top(0.1)) == round(0.1 * len(scores))
    assert scores.top(0.1).manifest["selection"]["k"] == 0.1


@pytest.mark.parametrize(
    ("name", "unit"), [("llama", "hidden"), ("opt", "hidden"), ("llama", "head"), ("t5", "hidden")]
)
@pytest.mark.parametrize(
    "method", ["grad-x-act", "integrated-gradients", "attribution-patching", "relp", "activation", "exact"]
)
def test_means_are_those_of_the_real_tokens(method, name, unit):
    model = open_family(name)
    rows = {a: [] for a in model.sites(unit)}
    for example in EXAMPLES:
        for address, activation in run(model, example, unit)[0].items():
            rows[address].append(activation)
    scores = attribute(model, TASK, method=method, unit=unit, batch_size=2)
    for address, parts in rows.items():
        torch.testing.assert_close(scores.means[address], torch.cat(parts).mean(0), atol=1e-6, rtol=1e-5)
        square = torch.cat(parts).square().mean(0)
        square = square.reshape(scores.widths[address], -1).sum(1)  # of a head: all its coordinates
        torch.testing.assert_close(scores.norms[address], square.sqrt(), atol=1e-6, rtol=1e-5)
