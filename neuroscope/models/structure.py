"""What a model is made of: to notice that it was changed after it was opened, or that a part of it was compiled."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from torch import nn

from neuroscope.errors import ModelError

SLOT = "neuron_deltas"  # what a linear layer calls the deltas of its adapters


def parts(root: nn.Module) -> tuple[Any, ...]:
    """Every module and parameter, but for adapters of this package, which do not change where neurons are.

    Raises:
        ModelError: a module under torch.compile, which ignores hooks that are added later, or parameters made under
            inference mode.
    """
    found: list[Any] = []
    left: list[Any] = [root]
    while left:
        module = left.pop()
        if module is None:
            continue
        _refuse_compiled(module)
        found.append(module)
        parameters = [p for p in module._parameters.values() if p is not None]
        if any(p.is_inference() for p in parameters):
            made = "parameters made under torch.inference_mode, which gradients cannot pass"
            do = "make the model outside of it; copy.deepcopy(model) outside of it is such a model"
            raise ModelError(f"use a model with a {type(module).__name__}", made, do)
        found += parameters
        left += [child for name, child in module._modules.items() if name != SLOT]
    return tuple(found)


def same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether these are the same objects in the same order."""
    return len(a) == len(b) and all(map(operator.is_, a, b))


def _refuse_compiled(module: nn.Module) -> None:
    name = type(module).__name__
    if "_orig_mod" in module._modules:
        do = "open the model that was compiled (compiled._orig_mod), and run that one"
    elif getattr(module, "_compiled_call_impl", None) is not None:
        do = "undo module.compile(): set module._compiled_call_impl = None"
    elif hasattr(getattr(module, "forward", None), "_torchdynamo_orig_callable"):
        do = "undo module.forward = torch.compile(module.forward): del module.forward, or load the model anew"
    else:
        return
    raise ModelError(f"use a model with a {name} under torch.compile", "code that ignores hooks added later", do)
