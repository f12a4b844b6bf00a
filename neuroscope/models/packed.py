"""Packed weights: those of quantised layers, codes beside scales that are multiplied with and no more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from neuroscope.distributed import is_sharded
from neuroscope.errors import ModelError


def is_packed(tensor: Tensor) -> bool:
    """Whether a weight's entries are not numbers of its own that can be read, changed and trained one by one.

    That is integers and 8-bit floats (bitsandbytes, compressed tensors), and tensors that hold others (torchao).
    """
    return _holds_others(tensor) or tensor.is_quantized or not tensor.is_floating_point() or tensor.element_size() == 1


def stored(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The plain tensors that a weight is kept in, by name: itself, or codes, scales and zero points."""
    if _holds_others(tensor):
        for part in _flat(tensor)[0]:
            yield from stored(f"{name}.{part}", getattr(tensor, part))
    else:
        yield name, tensor


def settings_of(tensor: Tensor) -> str:
    """What a weight that holds others says beside these: its kind, sizes of blocks, whether inputs are rounded too."""
    return f"{type(tensor).__name__} {_flat(tensor)[1]!r}" if _holds_others(tensor) else ""


def _holds_others(tensor: Any) -> bool:
    return not is_sharded(tensor) and is_traceable_wrapper_subclass(tensor)


def _flat(tensor: Any) -> tuple[list[str], Any]:
    return tensor.__tensor_flatten__()


def packed_names(root: nn.Module) -> list[str]:
    """The names of the packed parameters of a model."""
    return [name for name, parameter in root.named_parameters() if is_packed(parameter)]


def is_packed_linear(module: Any) -> bool:
    """Whether it is a linear layer of packed weights, be they a parameter or buffers."""
    if not hasattr(module, "in_features") or not hasattr(module, "out_features"):
        return False
    weight = module._parameters.get("weight")
    if weight is not None:
        return is_packed(weight)
    return any(is_packed(held) for held in module._buffers.values() if held is not None)


def refuse_packed(root: nn.Module, asked: str) -> None:
    """Refuse a model with packed weights where plain ones are needed.

    Raises:
        ModelError: naming the first.
    """
    names = packed_names(root)
    if names:
        found = f"quantised weights ({names[0]} and {len(names) - 1} more)"
        raise ModelError(asked, found, "open the model in float32 or bfloat16, not quantised")
