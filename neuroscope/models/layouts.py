"""Models whose layers differ in size: which a configuration of transformers cannot say, and how ours does.

A configuration has one `intermediate_size` for all layers. Where neurons were taken out of some layers and not of
others (`ns.prune`), the configuration also holds, under `neuroscope_layout`,

    {"shapes": {"model.layers.0.mlp.up_proj.weight": [300, 128], ...},     # of each parameter that has another shape
     "settings": {"model.layers.0.self_attn": {"num_heads": 3}, ...}}      # whole numbers that its modules hold

and `sized` gives a class that builds its layers so. transformers' own classes refuse such a checkpoint: its weights
have other shapes than theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from neuroscope.errors import ModelError

LAYOUT = "neuroscope_layout"
Shapes = Mapping[str, Sequence[int]]
Settings = Mapping[str, Mapping[str, int]]


def sized(kind: Any, config: Any) -> Any:
    """The class that builds a configuration's layers in the sizes that it says; `kind` itself where it says none."""
    layout = getattr(config, LAYOUT, None)
    if layout is None:
        return kind
    if kind.__name__.startswith("Auto"):
        do = "give a folder whose config.json names the model's class under 'architectures'"
        raise ModelError("build a model with layers of different sizes", f"{kind.__name__}, which is no class", do)

    def build(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, config, *args, **kwargs)
        self.__class__ = kind  # a plain model of its family from here on
        give(self, *_parts(layout))

    return type(kind.__name__, (kind,), {"__init__": build, "__module__": kind.__module__})


def _parts(layout: Any) -> tuple[Shapes, Settings]:
    is_ours = isinstance(layout, dict) and all(isinstance(layout.get(p), dict) for p in ("shapes", "settings"))
    if not is_ours:
        raise ModelError(f"read {LAYOUT} of config.json", "something else than sizes", "write the model again")
    return layout["shapes"], layout["settings"]


def give(root: nn.Module, shapes: Shapes, settings: Settings) -> None:
    """Give parameters of a model other shapes, without values, and modules other whole numbers.

    Raises:
        ModelError: the model has no such parameter, or no such number.
    """
    for name, shape in shapes.items():
        path, _, last = name.rpartition(".")
        module = _module(root, path)
        before = None if module is None else module._parameters.get(last)
        if module is None or before is None or len(shape) != before.ndim:
            raise _unknown(root, name)
        empty = torch.empty(tuple(shape), dtype=before.dtype, device=before.device)
        module._parameters[last] = nn.Parameter(empty, requires_grad=before.requires_grad)
        say_sizes(module)
    for path, numbers in settings.items():
        module = _module(root, path)
        for name, number in numbers.items():
            if module is None or not isinstance(getattr(module, name, None), int):
                raise _unknown(root, f"{path}.{name}")
            setattr(module, name, number)


def _module(root: nn.Module, path: str) -> nn.Module | None:
    try:
        return root.get_submodule(path)
    except AttributeError:
        return None


def _unknown(root: nn.Module, name: str) -> ModelError:
    asked = f"build a {type(root).__name__} with layers of different sizes"
    return ModelError(asked, f"no {name} in it, which config.json gives a size", "write the model again")


def say_sizes(module: Any) -> None:
    """Let a linear layer say the sizes that its weight has."""
    weight = module._parameters.get("weight")
    if hasattr(module, "nf"):  # GPT-2's Conv1D, whose weight is [inputs, outputs]
        module.nx, module.nf = weight.shape
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
