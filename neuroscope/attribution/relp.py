"""RelP: relevance propagation as a modified backward pass (Rezaei Jafari et al. 2025, arXiv 2508.21258).

The forward pass is unchanged; each operation's gradient is replaced by its rule:

1. non-linearity: f(x) is taken as x * (f(x) / x) with the ratio constant;
2. product of two activations (gate * up): half of the relevance to each factor;
3. norm: the denominator is constant;
4. attention: the pattern is constant, relevance flows through the values.

What comes back is one "relevance gradient" per activation; a times it is the score. With these rules a model without
biases is homogeneous of degree one, so that at every depth the products sum to the logit.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from neuroscope.attribution.gradients import stream_products
from neuroscope.attribution.scoring import Scoring

ACTIVATION = re.compile(r"gelu|silu|swish|mish|relu|activation", re.IGNORECASE)
SMALL = 1e-6  # below this |x|, f(x) / x is taken at SMALL


def relp(scoring: Scoring) -> None:
    """Activation times relevance gradient."""
    stream_products(scoring, forward=lambda: rules(scoring.model.root))


def linearise(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """f(x), whose derivative is f(x) / x."""
    with torch.no_grad(), torch._C.DisableTorchFunction():
        y = function(x)
        away = torch.where(x.abs() < SMALL, torch.full_like(x, SMALL), x)
        ratio = function(away) / away
    slope = x * ratio
    return y + (slope - slope.detach())


def _product(a: Any, b: Any, **kwargs: Any) -> Tensor:
    if torch.is_tensor(a) and torch.is_tensor(b) and a.requires_grad and b.requires_grad and not kwargs:
        return 0.5 * (a * b.detach() + a.detach() * b)
    return torch.mul(a, b, **kwargs)


def _quotient(a: Any, b: Any, **kwargs: Any) -> Tensor:
    return torch.div(a, b.detach() if torch.is_tensor(b) else b, **kwargs)


def _layer_norm(x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))  # as the kernel does
    y = _over_size(wide - wide.mean(-1, keepdim=True), eps)
    y = y if weight is None else y * weight
    return (y if bias is None else y + bias).to(x.dtype)


def _rms_norm(x: Tensor, shape: Any, weight: Any = None, eps: float | None = None) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    y = _over_size(wide, torch.finfo(x.dtype).eps if eps is None else eps)
    return (y if weight is None else y * weight).to(x.dtype)


def _over_size(x: Tensor, eps: float) -> Tensor:
    return x * (x.pow(2).mean(-1, keepdim=True) + eps).rsqrt().detach()


def _attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return functional.scaled_dot_product_attention(query.detach(), key.detach(), value, *args, **kwargs)


def _constant(function: Callable) -> Callable:
    return lambda *args, **kwargs: function(*args, **kwargs).detach()


def _linear_in_x(function: Callable) -> Callable:
    return lambda x, *args, **kwargs: linearise(lambda z: function(z, *args, **kwargs), x)


QUOTIENTS = (torch.div, torch.divide, torch.true_divide, Tensor.div, Tensor.divide, Tensor.__truediv__)
RULES: dict[Any, Callable] = {
    **dict.fromkeys((torch.mul, torch.multiply, Tensor.mul, Tensor.multiply), _product),
    **dict.fromkeys(QUOTIENTS, _quotient),
    **dict.fromkeys((Tensor.__mul__, Tensor.__rmul__), _product),
    **{f: _linear_in_x(f) for f in (functional.silu, functional.gelu, functional.mish, torch.tanh, Tensor.tanh)},
    **{f: _constant(f) for f in (torch.rsqrt, Tensor.rsqrt, torch.softmax, Tensor.softmax, functional.softmax)},
    **{f: _constant(f) for f in (torch.sigmoid, Tensor.sigmoid)},
    functional.layer_norm: _layer_norm,
    functional.rms_norm: _rms_norm,
    functional.scaled_dot_product_attention: _attention,
}


class _Rules(TorchFunctionMode):
    """Replaces the functions of the table; not inside an activation module, which one rule covers from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.resting = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = None if self.resting else RULES.get(func)
        return (rule or func)(*args, **(kwargs or {}))  # inside a rule the mode is off, so rules do not nest


@contextlib.contextmanager
def rules(root: nn.Module) -> Iterator[None]:
    """Within the scope, the model's forward passes build a graph whose backward pass propagates relevance.

    Parameters must be frozen: rule 2 takes any two factors that require a gradient for activations.
    """
    mode = _Rules()
    handles = []

    def rest(module: nn.Module, args: tuple) -> None:
        mode.resting += 1

    def resume(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        mode.resting -= 1
        return linearise(module.forward, args[0]) if args[0].requires_grad else output

    try:
        for module in root.modules():
            leaf = not any(True for _ in module.children()) and not any(True for _ in module.parameters())
            if leaf and ACTIVATION.search(type(module).__name__):
                handles += [module.register_forward_pre_hook(rest), module.register_forward_hook(resume)]
        with mode:
            yield
    finally:
        for handle in handles:
            handle.remove()
