"""Models of one's own: subclasses, feed-forward parts that are written in other ways, forwards that return less."""

import copy
import re

import nnsight
import pytest
import torch
import transformers as hf
from families import ROTARY, SIZES, TOKENS, build, logprobs, tokenizer
from torch import nn
from transformer_lens.model_bridge import TransformerBridge

import neuroscope as ns


class MyLlama(hf.LlamaForCausalLM):
    pass


class ReturnsTuple(hf.LlamaForCausalLM):
    def forward(self, *args, **kwargs):
        return (super().forward(*args, **kwargs).logits,)


class ReturnsTensor(hf.LlamaForCausalLM):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs).logits


class LayerNormed(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(32, 48), nn.LayerNorm(48), nn.Linear(48, 32)

    def forward(self, x):
        return self.down(self.norm(self.up(x).relu()))


class RMSNormed(LayerNormed):
    def __init__(self):
        super().__init__()
        self.norm = hf.models.llama.modeling_llama.LlamaRMSNorm(48)


class LowRank(LayerNormed):
    def forward(self, x):
        return self.down(self.norm(self.up(x)))


class Ternary(nn.Linear):
    def forward(self, x):
        rounded = self.weight.sign() * self.weight.abs().mean()
        return nn.functional.linear(x, self.weight + (rounded - self.weight).detach(), self.bias)


class BitNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = Ternary(32, 48), Ternary(48, 32)

    def forward(self, x):
        return self.down(self.up(x).relu())


class Convolved(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Conv1d(32, 48, 1), nn.Conv1d(48, 32, 1)

    def forward(self, x):
        return self.down(self.up(x.transpose(1, 2)).relu()).transpose(1, 2)


class Einsum(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(32, 48)), nn.Parameter(torch.randn(48, 32))
        self.act = nn.ReLU()

    def forward(self, x):
        return torch.einsum("btf,fd->btd", self.act(torch.einsum("btd,df->btf", x, self.up)), self.down)


class Own(nn.Module):
    """A language model of torch alone: no configuration, ids by another name, no mask."""

    def __init__(self, causal=True):
        super().__init__()
        self.embed, self.head = nn.Embedding(96, 32), nn.Linear(32, 96)
        layer = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True, norm_first=True)
        self.blocks, self.causal = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), causal

    def forward(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1]) if self.causal else None
        return self.head(self.blocks(self.embed(tokens), mask=mask))


class OnChannels(nn.Module):
    """An activation function of its own on [batch, neuron, pos], before something that is no module."""

    def __init__(self):
        super().__init__()
        self.up, self.act, self.down = nn.Linear(32, 48), nn.GELU(), nn.Parameter(torch.randn(48, 32))

    def forward(self, x):
        return torch.einsum("bft,fd->btd", self.act(self.up(x).transpose(1, 2)), self.down)


def llama_with(ffn):
    root = build("llama")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in root.model.layers:
            layer.mlp = ffn()
    return root


def own(kind, *args):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(*args).eval()


def squeeze():
    config = hf.SqueezeBertConfig(**SIZES, embedding_size=32, initializer_range=0.3)
    config.q_groups = config.k_groups = config.v_groups = config.post_attention_groups = 1
    config.intermediate_groups = config.output_groups = 1
    return own(hf.SqueezeBertForMaskedLM, config)


def bridge(root, folder):
    return TransformerBridge.boot_transformers("tiny", hf_model=root, tokenizer=tokenizer(folder), device="cpu")


def trace(root, folder):
    return nnsight.NNsight(root)


LLAMA = hf.LlamaConfig(**ROTARY, **TOKENS)
ACT = {"hidden": ("model.layers.{layer}.mlp.act", "output")}
UNUSUAL = {  # how to build it, what is opened of it, the sites that are named by hand, and the next linear map
    "llama": (lambda: build("llama"), None, None, r"mlp\.down_proj"),
    "nnsight": (lambda: build("llama"), trace, None, r"mlp\.down_proj"),
    "TransformerLens": (lambda: build("llama"), bridge, None, r"mlp\.down_proj"),
    "gpt2": (lambda: build("gpt2"), None, None, r"mlp\.c_proj\.weight"),
    "gpt2 in TransformerLens": (lambda: build("gpt2"), bridge, None, r"mlp\.c_proj\.weight"),
    "subclass": (lambda: own(MyLlama, LLAMA), None, None, r"mlp\.down_proj"),
    "tuple": (lambda: own(ReturnsTuple, LLAMA), None, None, r"mlp\.down_proj"),
    "tensor": (lambda: own(ReturnsTensor, LLAMA), None, None, r"mlp\.down_proj"),
    "layer norm": (lambda: llama_with(LayerNormed), None, None, r"mlp\.down\.weight"),
    "RMS norm": (lambda: llama_with(RMSNormed), None, None, r"mlp\.down\.weight"),
    "ternary": (lambda: llama_with(BitNet), None, None, r"mlp\.down\.weight"),
    "convolutions": (lambda: llama_with(Convolved), None, None, r"mlp\.down\.weight"),
    "SqueezeBERT": (squeeze, None, None, r"\d\.output\.conv1d\.weight"),
    "einsum": (lambda: llama_with(Einsum), None, ACT, r"mlp\.down"),
    "channels first": (lambda: llama_with(OnChannels), None, ACT, r"mlp\.down"),
    "low rank": (lambda: llama_with(LowRank), None, {"hidden": "model.layers.{layer}.mlp.down"}, r"mlp\.down\.weight"),
    "own": (lambda: own(Own), None, None, r"linear2\.weight"),
    "own under nnsight": (lambda: own(Own), trace, None, r"linear2\.weight"),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_ablating_all_neurons_is_zeroing_the_next_linear_map(name, tmp_path):
    make, wrap, named, following = UNUSUAL[name]
    zeroed = make()
    maps = [p for path, p in zeroed.named_parameters() if re.search(following, path)]
    assert len(maps) == 2
    for weight in maps:
        nn.init.zeros_(weight)
    wrap = wrap or (lambda root, folder: root)
    expected = logprobs(ns.load(wrap(zeroed, tmp_path), sites=named))
    model = ns.load(wrap(make(), tmp_path), sites=named)
    sites = model.sites()
    assert [s.width for s in sites.values()] == [48, 48]
    mask = ns.NeuronMask.of({a: range(48) for a in sites}, model)
    with ns.ablate(model, mask):
        off = logprobs(model)
    assert (off - logprobs(model)).abs().max() > 1e-3
    assert (off - expected).abs().max() < 1e-6


@pytest.mark.parametrize("ffn", [Einsum, LowRank])
def test_what_is_not_recognised_is_told_with_its_reason(ffn):
    model = ns.load(llama_with(ffn))
    with pytest.raises(ns.NeuroscopeError, match=r"no block has a linear layer that reads(.|\n)*sites="):
        model.sites("hidden")
    assert len(model.sites("head")) == 2


TASK = ns.Task(
    "t", train=[ns.Example(f"w5 w{i}", "w7" if i % 2 else "w9") for i in range(6, 12)],
    test=[ns.Example("w6 w5 w4", "w7"), ns.Example("w8", "w9")], labels=("w7", "w9"),
)  # fmt: skip


@pytest.mark.parametrize("name", ["convolutions", "channels first", "low rank", "own"])
def test_neurons_of_unusual_models_are_scored_as_exact_ablation_scores_them(name, tmp_path):
    make, _, named, _ = UNUSUAL[name]
    model = ns.load(make(), tokenizer=tokenizer(tmp_path), sites=named)
    exact = ns.attribute(model, TASK, method="exact", neurons=5, reduction="signed")
    chosen = {a: v.nonzero().flatten()[:2] for a, v in exact.items()}
    assert sum(map(len, chosen.values())) > 2
    clean = ns.attribute(model, TASK, reduction="signed")
    assert all(v.abs().max() > 0 for v in clean.values())
    for method in ("activation", "integrated-gradients"):
        assert all(v.isfinite().all() for v in ns.attribute(model, TASK, method=method).values())
    assert 0 <= ns.evaluate(model, TASK).score <= 1
    assert 0 <= ns.evaluate(model, TASK, batch_size=1).score <= 1


def test_sites_named_by_hand_are_those_that_are_found():
    root = build("llama")
    found = ns.load(root)
    paths = [f"model.layers.{i}.mlp.down_proj" for i in range(2)]
    for named in ("model.layers.{layer}.mlp.down_proj", paths, (tuple(paths), "input")):
        for given in (root, found):
            model = ns.load(given, sites={"hidden": named})
            for unit in ("hidden", "output", "head"):
                assert list(model.sites(unit)) == list(found.sites(unit))
            for a, b in zip(model.sites().values(), found.sites().values(), strict=True):
                assert a.module is b.module and a.ins.keys() == b.ins.keys() == {"gate", "up"} and len(a.out) == 1
    root.model.layers[1].mlp.down_proj = nn.Linear(48, 32)  # found again, where they were named
    assert model.sites()["blocks.1.mlp.hook_post"].module is root.model.layers[1].mlp.down_proj
    outputs = ns.load(root, sites={"output": "model.layers.{layer}.mlp"}).sites("output")
    assert [s.module for s in outputs.values()] == [layer.mlp for layer in root.model.layers]


@pytest.mark.parametrize(
    ("sites", "text"),
    [
        (
            {"hidden": "model.layers.{layer}.mlp.fc2"},
            "no module of that name(.|\n)*did you mean 'model[^;]*[^ ;]; give",
        ),
        ({"hidden": ["model.layers.0.mlp.down_porj"]}, "did you mean 'model.layers.0.mlp.down_proj'"),
        ({"neurons": "model.layers.{layer}.mlp.down_proj"}, "unit of sites='neurons'"),
        ({"hidden": ("model.layers.{layer}.mlp", "out")}, "side of 'model.layers.{layer}.mlp'(.|\n)*'input'"),
        ({"hidden": 3}, "not a name or a list of names"),
        ({"hidden": []}, "not a name or a list of names"),
        ("model.layers.{layer}.mlp.down_proj", "give a dict"),
        ({}, "not a mapping from a unit"),
        ({"hidden": "model.layers.{layer}.mlp.spare"}, "run 0 times"),
        ({"hidden": "model.layers.{layer}.mlp.twice"}, "run 2 times"),
        ({"hidden": "model.embed_tokens"}, r"its input of shape \(1, 4\) where 4 tokens"),
    ],
)
def test_sites_that_cannot_be_are_refused(sites, text):
    class Spare(Einsum):
        def __init__(self):
            super().__init__()
            self.spare, self.twice = nn.Linear(2, 2), nn.Identity()

        def forward(self, x):
            return self.twice(super().forward(self.twice(x)))

    root = build("llama") if "mlp.spare" not in str(sites) and "twice" not in str(sites) else llama_with(Spare)
    with pytest.raises(ns.NeuroscopeError, match=text):
        ns.load(root, sites=sites)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in root.modules())


def test_a_layer_of_two_blocks_is_told_and_the_advice_helps():
    root = build("llama")
    root.model.layers[1].mlp = root.model.layers[0].mlp
    with pytest.raises(ns.NeuroscopeError, match=r"in more than one block(.|\n)*copy\.deepcopy"):
        ns.load(root)
    root.model.layers[1].mlp = copy.deepcopy(root.model.layers[0].mlp)
    assert len(ns.load(root).sites()) == 2


def test_labels_of_several_tokens_are_ranked_by_a_module_of_ones_own(tmp_path):
    """It takes no mask, so that its labels cannot share a prompt: they are scored one by one."""
    task = ns.Task("t", test=[ns.Example("w6 w5 w4", "w7 w8")], labels=("w7 w8", "w7 w9", "w5"))
    model = ns.load(own(Own), tokenizer=tokenizer(tmp_path))
    result = ns.evaluate(model, task)
    assert ns.evaluate(model, task, batch_size=1).table.equals(result.table)
