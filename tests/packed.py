"""A linear layer of packed weights, and models of such layers."""

import torch
from torch import nn


class Rounded(torch.autograd.Function):
    """A product that the autograd graph shows as one opaque step, as bitsandbytes' do."""

    @staticmethod
    def forward(ctx, x, weight, scale, bias):
        ctx.save_for_backward(weight, scale)
        out = x @ (weight.float() * scale).T
        return out if bias is None else out + bias

    @staticmethod
    def backward(ctx, grad):
        weight, scale = ctx.saved_tensors
        return grad @ (weight.float() * scale), None, None, None


class Int8Linear(nn.Linear):
    """A linear whose weight is int8, and packed flat as quantisers do."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.scale = linear.weight.detach().abs().max() / 127
        int8 = (linear.weight.detach() / self.scale).round().to(torch.int8)
        self.weight = nn.Parameter(int8.reshape(-1, 1), requires_grad=False)
        self.bias = linear.bias

    def forward(self, x):
        return Rounded.apply(x, self.weight.view(self.out_features, self.in_features), self.scale, self.bias)

    def plain(self):
        """Its weight as numbers."""
        return self.weight.detach().view(self.out_features, self.in_features).float() * self.scale


def quantise(root, only=""):
    """Packed layers in the place of linear ones, but for the head; `only` those with this in their names."""
    for path, module in list(root.named_modules()):
        if isinstance(module, nn.Linear) and "lm_head" not in path and only in path:
            root.set_submodule(path, Int8Linear(module))
    return root
