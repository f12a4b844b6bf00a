"""Float32 master weights: a model in bfloat16 or float16 is trained in float32, and rounded once at the end.

1. Before training, every parameter narrower than float32 is widened in place; where a training before has left it more
   exact than the model's dtype can say, that number is taken, so that stages do not round in between.
2. All passes, gradients and steps of the optimizer are float32's (or autocast's, with `arguments={"bf16": True}`).
3. Afterwards the float32 weights are kept aside, and the model has them rounded to its own dtype.

In place of that, AdamW's steps on bfloat16 weights would mostly be lost: a weight of 0.15 has steps of 1e-3 there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype that weights of another one are trained in.

    Example:
        >>> wide(torch.bfloat16), wide(torch.float64)
        (torch.float32, torch.float64)
    """
    return torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else dtype


@contextlib.contextmanager
def widened(named: Mapping[str, nn.Parameter], masters: dict[str, Tensor]) -> Iterator[None]:
    """A scope in which these parameters are float32 at least; nothing is done about those that are so already.

    Args:
        named: parameters of a model.
        masters: by name, the exact numbers that a scope before has left; read, and overwritten at the end.
    """
    narrow = {name: parameter for name, parameter in named.items() if wide(parameter.dtype) != parameter.dtype}
    with contextlib.ExitStack() as stack:  # all are narrowed again, also where one of them fails
        for name, parameter in narrow.items():
            stack.callback(_narrow, parameter, parameter.dtype, parameter.grad, name, masters)
            with torch.inference_mode(False), torch.no_grad():  # whatever the caller's mode: these are trained
                weight = exact(parameter, masters.get(name)).clone()
                masters.pop(name, None)
                parameter.grad = None  # of the narrow dtype, which a step of training could not add to
                parameter.data = weight
        yield


def _narrow(
    parameter: nn.Parameter, dtype: torch.dtype, grad: Tensor | None, name: str, masters: dict[str, Tensor]
) -> None:
    with torch.inference_mode(False), torch.no_grad():
        if parameter.dtype != dtype:  # else it was not reached
            parameter.grad = None
            masters[name] = parameter.data
            parameter.data = masters[name].to(dtype)
        parameter.grad = grad


def exact(weight: Tensor, master: Tensor | None) -> Tensor:
    """A weight as float32: the master where the weight is that, rounded; else somebody has written the weight since."""
    if master is not None and torch.equal(master.to(weight.dtype), weight):
        return master
    return weight.detach().to(wide(weight.dtype))
