"""Whether a model's linear layers compute what a change of their weights assumes: x W^T + b, of their own parameters.

Layers of torch's own class (and GPT-2's) do. Others are tried on a small input: a layer that quantises its weights on
the way, scales them, or computes them from others would take a change that is added to its output for one of its
weights, and give something else once the change is merged.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from neuroscope.errors import ModelError
from neuroscope.models.packed import is_packed
from neuroscope.models.sites import Site

KNOWN = (nn.Linear.forward, Conv1D.forward)
TRIED = 4  # inputs that a layer of another class is tried on


def is_linear(module: nn.Module) -> bool:
    """Whether it is a linear layer, or says so: a subclass may compute what it likes."""
    return isinstance(module, (nn.Linear, Conv1D)) or hasattr(module, "nf")


def refuse_other_linears(root: nn.Module, site: Site, asked: str) -> None:
    """Refuse a site whose neurons lie in a layer that computes anything else than x W^T + b.

    Hidden neurons are looked for in every linear layer of the block that has as many outputs or inputs (or a multiple:
    fused layers), so that a projection whose weights nobody found is not passed over.

    Raises:
        ModelError: naming the layer and what is wrong with it.
    """
    block = re.match(r".*?\.\d+(?=\.)", site.path)
    top = block[0] if block is not None and site.unit == "hidden" else site.path
    for name, module in root.get_submodule(top).named_modules():
        if is_linear(module) and (site.unit == "output" or _has_side(module, site.width)):
            wrong = _fault(module)
            if wrong is not None:
                path = f"{top}.{name}" if name else top
                raise ModelError(asked, f"{path} (a {type(module).__name__}), {wrong[0]}", wrong[1])


def _has_side(module: Any, width: int) -> bool:
    shape = getattr(getattr(module, "weight", None), "shape", ())
    return any(side % width == 0 for side in shape)


def _fault(linear: Any) -> tuple[str, str] | None:
    """What is wrong with a layer, and what to do; None if nothing is."""
    for name in ("weight", "bias"):
        if name not in linear._parameters and isinstance(getattr(linear, name, None), torch.Tensor):
            do = "remove that first (torch.nn.utils.remove_weight_norm, parametrize.remove_parametrizations)"
            return f"whose {name} is computed from other parameters (weight_norm or another parametrization)", do
    if is_packed(linear.weight):
        return "of quantised weights", "open the model in float32 or bfloat16, not quantised"
    if type(linear).forward in KNOWN and "forward" not in vars(linear):
        return None
    do = "train the whole model (mask=None) or a LoRA, or put torch.nn.Linear in its place"
    return None if _is_affine(linear) else ("whose output is not x W^T + b, with its own weights", do)


@torch.no_grad()
def _is_affine(linear: Any) -> bool:
    """Whether the layer's output is x W^T + b on a few random inputs; tried on a copy, which may count or draw."""
    weight, bias = linear.weight, linear.bias
    weight = weight.t() if hasattr(linear, "nf") else weight
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(TRIED, weight.shape[1], generator=generator).to(weight)
    x[0] = 0
    with torch.random.fork_rng([weight.device] if weight.device.type == "cuda" else []):
        try:
            y = copy.deepcopy(linear).eval().forward(x)
        except Exception:  # whatever a class of the user's raises: it does not take what a linear layer takes
            return False
    expected = functional.linear(x, weight, bias)
    if not isinstance(y, torch.Tensor) or y.shape != expected.shape:
        return False
    if bias is None:  # what is added to the output does not matter: W alone is trained
        y, expected = y - y[:1], expected - expected[:1]
    allowed = max(1e-4, 4 * torch.finfo(weight.dtype).eps)
    return float((y - expected).abs().max()) <= allowed * float(expected.abs().max().clamp_min(1e-30))
