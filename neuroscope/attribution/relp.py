"""RelP: relevance propagation as a modified backward pass (Rezaei Jafari et al. 2025, arXiv 2508.21258).

The forward pass is unchanged; each operation's gradient is replaced by its rule:

1. normalisation: the denominator is constant;
2. non-linearity: f(x) is taken as x * (f(x) / x) with the ratio constant;
3. product of two activations (gate * up): half of the relevance to each factor;
4. attention: the pattern is constant, relevance flows through the values (so it is with the softmax of a router).

What comes back is one "relevance gradient" per activation; a times it is the score. With all four a model without
biases is homogeneous of degree one, so that at every depth the products sum to the logit. The authors' default has the
first three and leaves attention its gradients, in which relevance also flows through queries and keys.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from neuroscope.attribution.gradients import stream_products
from neuroscope.attribution.scoring import Scoring
from neuroscope.checks import texts_of
from neuroscope.errors import ArgumentError, choose

ACTIVATION = re.compile(r"gelu|silu|swish|mish|relu|activation", re.IGNORECASE)
SMALL = 1e-6  # below this |x|, f(x) / x is taken at SMALL
OF_OTHER_RULES = ("RsqrtBackward0", "SigmoidBackward0")  # a norm's size, a SiLU written out: no factors of a product


def relp(scoring: Scoring, rules: str | Collection[str] = "all") -> None:
    """Activation times relevance gradient.

    Args:
        rules: "all", "authors" (all but attention), or names of `RULES`: those that are left out keep their gradients.
    """
    names = rules_of(rules)
    stream_products(scoring, forward=lambda: relevance_rules(scoring.model.root, names))


def rules_of(rules: str | Collection[str]) -> str:
    """A set of rules by its one name: "all", "authors", or the names of its rules, in their order.

    Raises:
        ArgumentError: an unknown rule, or none.

    Example:
        >>> rules_of({"attention", "normalisation"})
        'normalisation, attention'
        >>> rules_of(["product", "normalisation", "non-linearity"])
        'authors'
    """
    given = (
        rules.split(",") if isinstance(rules, str) else sorted(rules) if isinstance(rules, set | frozenset) else rules
    )
    names = [name.strip() for name in texts_of(given, "rules")]
    if not names:
        raise ArgumentError("rules=()", "no rules", "give rules='all', or method='grad-x-act', which has none")
    if len(names) == 1 and names[0] in SETS:
        return names[0]
    for name in names:
        choose(name, (*SETS, *RULES) if len(names) == 1 else RULES, "rules")
    chosen = tuple(name for name in RULES if name in names)
    return next((name for name, members in SETS.items() if members == chosen), ", ".join(chosen))


def linearise(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """f(x), whose derivative is f(x) / x."""
    with torch.no_grad(), torch._C.DisableTorchFunction():
        y = function(x)
        away = torch.where(x.abs() < SMALL, torch.full_like(x, SMALL), x)
        ratio = function(away) / away
    slope = x * ratio
    return y + (slope - slope.detach())


def _product(a: Any, b: Any, **kwargs: Any) -> Tensor:
    both = torch.is_tensor(a) and torch.is_tensor(b) and a.requires_grad and b.requires_grad and not kwargs
    if both and not any(type(x.grad_fn).__name__ in OF_OTHER_RULES for x in (a, b)):
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


def _each(functions: Collection[Any], rule: Callable[[Callable], Callable]) -> dict[Any, Callable]:
    return {function: rule(function) for function in functions}


# rule -> function of torch -> what is run in its place
RULES: dict[str, dict[Any, Callable]] = {
    "normalisation": {
        functional.layer_norm: _layer_norm,
        functional.rms_norm: _rms_norm,
        **_each((torch.rsqrt, Tensor.rsqrt), _constant),
        **dict.fromkeys((torch.div, torch.divide, torch.true_divide), _quotient),
        **dict.fromkeys((Tensor.div, Tensor.divide, Tensor.__truediv__), _quotient),
    },
    "non-linearity": {
        **_each((functional.silu, functional.gelu, functional.mish, torch.tanh, Tensor.tanh), _linear_in_x),
        **_each((torch.sigmoid, Tensor.sigmoid), _constant),
    },
    "product": {
        **dict.fromkeys((torch.mul, torch.multiply, Tensor.mul, Tensor.multiply), _product),
        **dict.fromkeys((Tensor.__mul__, Tensor.__rmul__), _product),
    },
    "attention": {
        **_each((torch.softmax, Tensor.softmax, functional.softmax), _constant),
        functional.scaled_dot_product_attention: _attention,
    },
}
SETS = {"all": tuple(RULES), "authors": ("normalisation", "non-linearity", "product")}


class _Rules(TorchFunctionMode):
    """Replaces the functions of a table; not inside an activation module, which one rule covers from outside."""

    def __init__(self, table: dict[Any, Callable]) -> None:
        super().__init__()
        self.table, self.resting = table, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = None if self.resting else self.table.get(func)
        return (rule or func)(*args, **(kwargs or {}))  # inside a rule the mode is off, so rules do not nest


@contextlib.contextmanager
def relevance_rules(root: nn.Module, rules: str | Collection[str] = "all") -> Iterator[None]:
    """Within the scope, the model's forward passes build a graph whose backward pass propagates relevance.

    Parameters must be frozen: the rule of products takes any two factors that require a gradient for activations.

    Args:
        rules: as in `relp`.
    """
    name = rules_of(rules)
    chosen = SETS.get(name, tuple(name.split(", ")))
    mode = _Rules({function: rule for one in chosen for function, rule in RULES[one].items()})
    handles = []

    def rest(module: nn.Module, args: tuple) -> None:
        mode.resting += 1

    def resume(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        mode.resting -= 1
        is_linear = "non-linearity" in chosen and args[0].requires_grad
        return linearise(module.forward, args[0]) if is_linear else output

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
