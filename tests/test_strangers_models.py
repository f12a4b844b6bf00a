"""Models of one's own: subclasses, feed-forward parts that are written in other ways, forwards that return less."""

import copy

import pytest
import torch
import transformers as hf
from families import ROTARY, TOKENS, build, inputs, logprobs
from torch import nn

import neuroscope as ns
from neuroscope.models.sites import edit


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

    def forward(self, x):
        return torch.einsum("btf,fd->btd", torch.einsum("btd,df->btf", x, self.up).relu(), self.down)


def llama_with(ffn):
    root = build("llama")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in root.model.layers:
            layer.mlp = ffn()
    return root


def own(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(hf.LlamaConfig(**ROTARY, **TOKENS)).eval()


UNUSUAL = {
    "subclass": lambda: own(MyLlama),
    "tuple": lambda: own(ReturnsTuple),
    "tensor": lambda: own(ReturnsTensor),
    "layer norm": lambda: llama_with(LayerNormed),
    "RMS norm": lambda: llama_with(RMSNormed),
    "ternary": lambda: llama_with(BitNet),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_ablating_all_neurons_is_zeroing_the_next_linear_map(name):
    root = UNUSUAL[name]()
    model = ns.load(root)
    sites = model.sites()
    assert [s.width for s in sites.values()] == [48, 48]
    with edit(sites.values(), lambda s, h, t: h * 0):
        off = logprobs(model)
    other = copy.deepcopy(root)
    for site in sites.values():
        nn.init.zeros_(other.get_submodule(site.path).weight)
    zeroed = logprobs(ns.load(copy.deepcopy(root)))
    assert (off - zeroed).abs().max() > 1e-3
    with torch.no_grad():
        out = other(**inputs("causal"))
    logits = out if torch.is_tensor(out) else out[0]
    assert (off - logits.log_softmax(-1)).abs().max() < 1e-6


@pytest.mark.parametrize("ffn", [Convolved, Einsum, LowRank])
def test_what_is_not_recognised_is_told_with_its_reason(ffn):
    model = ns.load(llama_with(ffn))
    with pytest.raises(ns.NeuroscopeError, match=r"no block has a linear layer that reads(.|\n)*torch\.nn\.Linear"):
        model.sites("hidden")
    assert len(model.sites("head")) == 2


def test_a_layer_of_two_blocks_is_told_and_the_advice_helps():
    root = build("llama")
    root.model.layers[1].mlp = root.model.layers[0].mlp
    with pytest.raises(ns.NeuroscopeError, match=r"in more than one block(.|\n)*copy\.deepcopy"):
        ns.load(root)
    root.model.layers[1].mlp = copy.deepcopy(root.model.layers[0].mlp)
    assert len(ns.load(root).sites()) == 2
