"""RelP: each rule against its formula, the forward pass unchanged, and relevance that adds up to the logit."""

import itertools
import math

import families
import pytest
import torch
import transformers
from tiny import tiny_tokenizer
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN

from neuroscope.attribution import attribute
from neuroscope.attribution.relp import RULES, SETS, linearise, relevance_rules, rules_of
from neuroscope.errors import ArgumentError
from neuroscope.models import load, tap_experts
from neuroscope.tasks import Example, Task

STYLE = {"t5": "seq2seq", "bert": "masked", "distilbert": "masked"}
X = torch.tensor([-3.0, -1.0, -1e-3, 1e-3, 0.5, 2.0])


def inside(function, *tensors, rules="all"):
    """The value within the rules, and the relevance gradients of its sum."""
    leaves = [t.clone().requires_grad_() for t in tensors]
    with relevance_rules(nn.Identity(), rules):
        value = function(*leaves)
    return value.detach(), torch.autograd.grad(value.sum(), leaves, allow_unused=True)


# ---------------------------------------------------------------------------------------------------- rule by rule


@pytest.mark.parametrize(
    ("function", "ratio"),
    [
        (functional.silu, lambda x: torch.sigmoid(x)),
        (functional.gelu, lambda x: 0.5 * (1 + torch.erf(x / math.sqrt(2)))),
        (torch.tanh, lambda x: torch.tanh(x) / x),
        (lambda x: 5 * torch.tanh(x / 5), lambda x: 5 * torch.tanh(x / 5) / x),  # soft-capping
        (lambda x: x * torch.sigmoid(1.7 * x), lambda x: torch.sigmoid(1.7 * x)),
        (lambda x: x.relu(), lambda x: (x > 0).float()),
    ],
)
def test_a_non_linearity_is_its_ratio(function, ratio):
    value, (gradient,) = inside(function, X)
    torch.testing.assert_close(value, function(X))
    torch.testing.assert_close(gradient, ratio(X))


def test_the_ratio_at_zero_is_the_slope():
    value, (gradient,) = inside(functional.silu, torch.zeros(1))
    assert (value.item(), gradient.item()) == (0.0, pytest.approx(0.5, abs=1e-5))


def test_a_product_of_activations_is_halved():
    a, b = X, X.flip(0) + 0.1
    for product in (torch.mul, torch.Tensor.mul, lambda a, b: a * b):
        value, (of_a, of_b) = inside(product, a, b)
        torch.testing.assert_close(value, a * b)
        torch.testing.assert_close(of_a, b / 2)
        torch.testing.assert_close(of_b, a / 2)
    _, (whole,) = inside(lambda a: a * b, a)  # a weight is no activation
    torch.testing.assert_close(whole, b)
    _, (scaled,) = inside(lambda a: 3 * a, a)
    torch.testing.assert_close(scaled, torch.full_like(a, 3))


def test_denominators_are_constant():
    x, weight, bias = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), torch.rand(8) + 0.5, torch.rand(8)
    rms = (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    norms = [
        lambda x: functional.rms_norm(x, (8,), weight, 1e-5),
        lambda x: weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)),
        lambda x: weight * (x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()),
    ]
    for norm in norms:
        value, (gradient,) = inside(norm, x)
        torch.testing.assert_close(value, norm(x))
        torch.testing.assert_close(gradient, (weight / rms))
    layer = nn.LayerNorm(8)
    layer.weight.data, layer.bias.data = weight, bias
    value, (gradient,) = inside(layer, x)
    torch.testing.assert_close(value, layer(x).detach())
    # y = weight (x - mean x) / std + bias, std constant: dy/dx = (weight - mean weight) / std
    std = (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(gradient, (weight - weight.mean()) / std)


@pytest.mark.parametrize("norm", [functional.layer_norm, functional.rms_norm])
def test_norms_in_low_precision_are_those_of_the_kernel(norm):
    x = (torch.randn(4, 64, generator=torch.Generator().manual_seed(0)) * 300 + 50).half()  # squares overflow
    with relevance_rules(nn.Identity()):
        value = norm(x, (64,))
    torch.testing.assert_close(value, norm(x, (64,)))
    assert value.dtype == torch.float16


def test_the_pattern_is_constant():
    q, k, v = torch.randn(3, 1, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    pattern = (q @ k.mT / 2).softmax(-1)

    def by_hand(q, k, v):
        return (q @ k.mT / 2).softmax(-1) @ v

    for attention in (functional.scaled_dot_product_attention, by_hand):
        value, (of_q, of_k, of_v) = inside(attention, q, k, v)
        torch.testing.assert_close(value, pattern @ v)
        assert of_q is None
        assert of_k is None
        torch.testing.assert_close(of_v, pattern.sum(-2)[..., None].expand_as(v))


@pytest.mark.parametrize(
    "name", ["gelu_new", "gelu", "gelu_pytorch_tanh", "silu", "quick_gelu", "relu", "relu2", "mish", "bloom"]
)
def test_activation_modules_are_linearised_as_a_whole(name):
    module = transformers.models.bloom.modeling_bloom.BloomGelu() if name == "bloom" else ACT2FN[name]
    module.eval()
    x = X.clone().requires_grad_()
    with relevance_rules(nn.Sequential(module)):
        value = module(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(value.detach(), module(X))
    torch.testing.assert_close(gradient, module(X) / X)


# ------------------------------------------------------------------------------------------------------- sets of rules

OPERATIONS = {
    "normalisation": lambda x: functional.rms_norm(x, (6,), torch.ones(6), 1e-5),
    "non-linearity": functional.silu,
    "product": lambda x: x * (x + 1),
    "attention": lambda x: (x.outer(x)).softmax(-1) @ x,
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_alone_changes_its_operation_alone(rule):
    for name, operation in OPERATIONS.items():
        _, (relevance,) = inside(operation, X, rules=rule)
        x = X.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(operation(x).sum(), x)
        assert torch.allclose(relevance, gradient, atol=1e-6) == (name != rule), name


def test_the_product_rule_leaves_the_parts_of_other_rules_whole():
    """A norm and a SiLU that are written out are products for torch; and within an activation module there are some."""
    written_out = [
        lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5),
        lambda x: x * torch.sigmoid(1.7 * x),
    ]
    for operation in written_out:
        x = X.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(operation(x).sum(), x)
        torch.testing.assert_close(inside(operation, X, rules="product")[1][0], gradient)
    module, x = ACT2FN["gelu_new"], X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(x).sum(), x)
    with relevance_rules(nn.Sequential(module), "product"):
        value = module(x)
    torch.testing.assert_close(torch.autograd.grad(value.sum(), x)[0], gradient)


def test_sets_of_rules_have_one_name():
    assert rules_of("all") == rules_of(["product", "attention", "normalisation", "non-linearity"]) == "all"
    assert rules_of("authors") == rules_of({"product", "normalisation", "non-linearity"}) == "authors"
    assert rules_of("product,  normalisation") == rules_of(("normalisation", "product")) == "normalisation, product"
    assert rules_of(rules_of(["attention"])) == "attention"
    model = load(open_family("llama"), tokenizer=tiny_tokenizer())
    task = Task("t", train=[Example("the food was very good", "yes")])
    for wrong, said in ((["all", "product"], "'all'"), ("prodct", "did you mean 'product'"), ((), "grad-x-act"),
                        (3, "rules"), ("", "rules"), ([1], "rules"), (None, "rules")):  # fmt: skip
        with pytest.raises(ArgumentError, match=said):
            attribute(model, task, method="relp", rules=wrong)
    with pytest.raises(ArgumentError, match="no such option"):
        attribute(model, task, rules="all")
    manifests = [attribute(model, task, method="relp", **how).manifest for how in ({}, {"rules": {"product"}})]
    assert [manifest["options"] for manifest in manifests] == [{"rules": "all"}, {"rules": "product"}]


def llama_by_hand(root, ids, rules):
    """A Llama's last block's and first block's neurons, and its logits, written out: each rule is a `detach`."""
    config = root.config
    norm_is, ratio_is, half_is, pattern_is = (name in rules for name in RULES)
    kept = lambda x, constant: x.detach() if constant else x  # noqa: E731

    def norm(x, layer):
        size = (x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).sqrt()
        return layer.weight * (x / kept(size, norm_is))

    def rotate(x, cos, sin):
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    n, width = len(ids), config.hidden_size // config.num_attention_heads
    angles = torch.arange(n)[:, None] * root.model.rotary_emb.inv_freq[None]
    cos, sin = (f(torch.cat([angles, angles], -1)) for f in (torch.cos, torch.sin))
    heads = lambda x: x.view(n, -1, width).transpose(0, 1)  # noqa: E731
    x, seen = root.model.embed_tokens.weight[ids].detach().requires_grad_(), []
    for block in root.model.layers:
        attention, mlp = block.self_attn, block.mlp
        y = norm(x, block.input_layernorm)
        q, k, v = (heads(p(y)) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
        k, v = (t.repeat_interleave(len(q) // len(k), 0) for t in (k, v))
        scores = rotate(q, cos, sin) @ rotate(k, cos, sin).mT / math.sqrt(width)
        pattern = scores.masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf).softmax(-1)
        x = x + attention.o_proj((kept(pattern, pattern_is) @ v).transpose(0, 1).reshape(n, -1))
        y = norm(x, block.post_attention_layernorm)
        gate, up = mlp.gate_proj(y), mlp.up_proj(y)
        opened = gate * kept(torch.sigmoid(gate), ratio_is)
        seen.append((opened * up.detach() + opened.detach() * up) / 2 if half_is else opened * up)
        x = x + mlp.down_proj(seen[-1])
    return seen, root.lm_head(norm(x, root.model.norm))


SUBSETS = [names for size in range(1, 5) for names in itertools.combinations(RULES, size)]


@pytest.mark.parametrize("rules", SUBSETS, ids=rules_of)
def test_every_set_of_rules_is_that_of_a_model_written_out(rules):
    root = open_family("llama")
    model = load(root, tokenizer=tiny_tokenizer())
    words = model.tokenizer.get_vocab()
    example = Example("the food was very good", "not bad")
    prompt, answer = ([words[w] for w in text.split()] for text in (example.prompt, example.answer))
    seen, logits = llama_by_hand(root, [1, *prompt, *answer[:-1]], rules)
    loss = functional.cross_entropy(logits[len(prompt) :], torch.tensor(answer))
    gradients = torch.autograd.grad(loss, seen)
    expected = -torch.cat([(a * g).sum(0).detach() for a, g in zip(seen, gradients, strict=True)])
    names = next((name for name, members in SETS.items() if members == rules), rules)
    scores = attribute(model, Task("t", train=[example]), method="relp", reduction="signed", rules=names)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(scores.vector(), expected, atol=1e-6, rtol=1e-5)


# ------------------------------------------------------------------------------------------------- whole models


def open_family(name, biases=True):
    root = families.build(name)
    if name in families.MOE:
        tap_experts(root)
    if not biases:
        for parameter_name, parameter in root.named_parameters():
            if "bias" in parameter_name.split(".")[-1]:
                parameter.data.zero_()
    for parameter in root.parameters():
        parameter.requires_grad_(False)
    return root


def tables(root):
    """Of tokens and positions; T5's relative positions are added to scores, not to the stream."""
    return [m for m in root.modules() if isinstance(m, nn.Embedding) and len(m.weight) >= 60]


def conserved(root, style="causal", target=5):
    """The last logit, and the sum of embedding x relevance gradient over all coordinates; both summed over examples."""
    embedded = []

    def start(module, args, output):
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    handles = [table.register_forward_hook(start) for table in tables(root)]
    inputs = families.inputs(style) | {"use_cache": False}
    with relevance_rules(root):
        logit = root(**inputs).logits[:, -1, target]
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(logit.sum(), embedded)
    return logit.detach().sum(), sum((e * g).sum() for e, g in zip(embedded, gradients, strict=True))


# no additive term from input to logit: everything is homogeneous of degree one, in each token's embedding together
HOMOGENEOUS = ["llama", "mistral", "phi3", "qwen3", "gemma2", "gemma3", "t5", "mixtral", "qwen3-moe", "olmoe"]


@pytest.mark.parametrize("name", HOMOGENEOUS)
def test_relevance_adds_up_to_the_logit(name):
    logit, total = conserved(open_family(name), STYLE.get(name, "causal"))
    assert logit.abs().max() > 0.05
    torch.testing.assert_close(total, logit, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["qwen2", "qwen2-moe", "gpt2", "bloom", "neox", "opt"])
def test_biases_keep_their_share(name):
    """Biases (of linears and of layer norms) are sources of their own: without them, relevance adds up again."""
    logit, total = conserved(open_family(name))
    assert abs(total - logit) > 1e-3
    logit, total = conserved(open_family(name, biases=False))
    torch.testing.assert_close(total, logit, atol=1e-5, rtol=1e-4)


def test_relevance_adds_up_at_every_depth():
    """In a Llama's last block the neurons' relevance is what the FFN adds: half comes from the gate, half from up."""
    root = open_family("llama")
    seen = {}
    mlp = root.model.layers[1].mlp
    keep = lambda name: lambda module, args, output: seen.__setitem__(name, output)  # noqa: E731
    handles = [mlp.register_forward_hook(keep("out")), mlp.gate_proj.register_forward_hook(keep("gate"))]
    handles += [mlp.up_proj.register_forward_hook(keep("up"))]
    handles += [mlp.down_proj.register_forward_pre_hook(lambda module, args: seen.__setitem__("hidden", args[0]))]
    handles += [root.model.embed_tokens.register_forward_hook(lambda m, a, output: output.detach().requires_grad_())]
    with relevance_rules(root):
        logit = root(**families.inputs("causal")).logits[:, -1, 5].sum()
    for handle in handles:
        handle.remove()
    names = ["out", "hidden", "gate", "up"]
    gradients = torch.autograd.grad(logit, [seen[n] for n in names])
    out, hidden, gate, up = ((seen[n] * g).sum() for n, g in zip(names, gradients, strict=True))
    assert abs(out) > 1e-3
    torch.testing.assert_close(hidden, out)
    torch.testing.assert_close(gate, out / 2)
    torch.testing.assert_close(up, out / 2)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_forward_is_unchanged(name):
    root = open_family(name)
    inputs = families.inputs(STYLE.get(name, "causal"))
    plain = root(**inputs).logits
    starts = [t.register_forward_hook(lambda m, a, output: output.detach().requires_grad_()) for t in tables(root)]
    with relevance_rules(root):
        within = root(**inputs).logits
    for start in starts:
        start.remove()
    assert within.requires_grad
    torch.testing.assert_close(within.detach(), plain, atol=2e-6, rtol=2e-6)
    assert torch.equal(root(**inputs).logits, plain)


# ------------------------------------------------------------------------------------------------------ the scope


def hooks(root):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in root.modules())


def test_the_scope_ends_after_an_error():
    root = open_family("gpt2")
    before = hooks(root)
    x = X.clone().requires_grad_()
    with pytest.raises(KeyError), relevance_rules(root):
        assert hooks(root) > before
        raise KeyError
    assert hooks(root) == before
    (gradient,) = torch.autograd.grad((x * x).sum(), x)
    torch.testing.assert_close(gradient, 2 * X)
    broken = root.transformer.h[0].mlp.act.register_forward_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError), relevance_rules(root):  # in the middle of an activation
        root(**families.inputs("causal"))
    broken.remove()
    logit, total = conserved(open_family("gpt2", biases=False))
    torch.testing.assert_close(total, logit, atol=1e-5, rtol=1e-4)


def test_scopes_nest():
    root = open_family("gpt2", biases=False)
    once = conserved(root)
    with relevance_rules(root):
        twice = conserved(root)
        assert conserved(root)[1].item() == pytest.approx(once[1].item(), rel=1e-4)
    assert twice[1].item() == pytest.approx(once[1].item(), rel=1e-4)
    value, (gradient,) = inside(lambda x: x * functional.silu(x), X)
    with relevance_rules(nn.Identity()):
        value_inside, (gradient_inside,) = inside(lambda x: x * functional.silu(x), X)
    torch.testing.assert_close(value_inside, value)
    torch.testing.assert_close(gradient_inside, gradient)
    torch.testing.assert_close(gradient, functional.silu(X))  # half from each factor: x s / 2 + x s / 2


def test_linearise_keeps_the_value_bit_for_bit():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(x * (functional.silu(x) / x), functional.silu(x))
    assert torch.equal(linearise(functional.silu, x.clone().requires_grad_()).detach(), functional.silu(x))


def test_scores_are_activation_times_relevance_gradient():
    """Example by example, with the loss outside of the rules: the softmax of the cross-entropy is no attention."""
    root = open_family("llama")
    model = load(root, tokenizer=tiny_tokenizer())
    examples = [Example("the food was very good", "yes"), Example("a soup", "not bad")]
    words = model.tokenizer.get_vocab()
    expected = []
    start = root.model.embed_tokens.register_forward_hook(lambda m, a, output: output.detach().requires_grad_())
    for example in examples:
        prompt, answer = ([words[w] for w in text.split()] for text in (example.prompt, example.answer))
        seen = []
        handles = [
            layer.mlp.down_proj.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
            for layer in root.model.layers
        ]
        with relevance_rules(root):
            logits = root(input_ids=torch.tensor([[1, *prompt, *answer[:-1]]])).logits[0, len(prompt) :]
        for handle in handles:
            handle.remove()
        loss = functional.cross_entropy(logits, torch.tensor(answer))
        gradients = torch.autograd.grad(loss, seen)
        expected.append(torch.cat([(a * g)[0].sum(0).detach() for a, g in zip(seen, gradients, strict=True)]))
    start.remove()
    expected = -torch.stack(expected).mean(0)
    scores = attribute(model, Task("t", train=examples), method="relp", reduction="signed").vector()
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=1e-4)
    plain = attribute(model, Task("t", train=examples), reduction="signed").vector()
    assert (plain - scores).abs().max() > 0.1 * scores.abs().max()
