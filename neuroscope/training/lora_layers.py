"""peft's LoRA layers around a model's linear layers: put on, switched, and taken off without a trace."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from neuroscope.errors import ModelError
from neuroscope.models import Model
from neuroscope.models.packed import refuse_packed
from neuroscope.training.deltas import bare
from neuroscope.training.trainable import PREFIX, require_plain

SIDES = ("lora_A", "lora_B")


class Slot(NamedTuple):
    """A wrapped linear layer: `layer` stands where `layer.base_layer` was, at `parent`'s `child`."""

    path: str
    parent: nn.Module
    child: str
    layer: Any


@contextlib.contextmanager
def plain(root: nn.Module) -> Iterator[None]:
    """The module tree without LoRAs and deltas, for what lists parameters. Not for forward passes."""
    held: list[tuple[nn.Module, str, Any]] = [
        (parent, child, module)
        for parent in list(root.modules())
        for child, module in parent._modules.items()
        if isinstance(module, LoraLayer)
    ]
    try:
        for parent, child, layer in held:
            parent._modules[child] = layer.base_layer  # the key is there: its place in the order stays
        with bare(root):
            yield
    finally:
        for parent, child, layer in held:
            parent._modules[child] = layer


def refuse(model: Model, asked: str) -> None:
    """Refuse a model whose layers cannot be wrapped."""
    require_plain(model, asked)
    refuse_packed(model.root, asked)
    if getattr(model.config, "quantization_config", None) is not None:
        raise ModelError(asked, "a quantised model", "open the model in float32 or bfloat16, not quantised")


def inject(root: nn.Module, rank: int, alpha: float, seed: int, asked: str) -> tuple[str, list[Slot]]:
    """Let peft wrap the layers; whatever else it changes is put back."""
    layers = [m for m in root.modules() if isinstance(m, LoraLayer)]
    taken = [int(name.removeprefix(PREFIX)) for layer in layers for name in layer.lora_A]
    name = f"{PREFIX}{max(taken, default=-1) + 1}"  # never one of another LoRA
    required = [(p, p.requires_grad) for p in root.parameters()]
    active = {id(layer): list(layer.active_adapters) for layer in layers}
    # peft takes the layers from the keys; from names it would make parameters of a mixture's experts out of some
    keys = {f"{path}.lora_A.weight": torch.empty(0) for path in linears(root, asked)}
    settings: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "target_modules": ["none"]}
    try:
        # warnings are about names and keys that differ, and about GPT-2's transposed weights
        with torch.random.fork_rng(), warnings.catch_warnings(action="ignore"):
            inject_adapter_in_model(LoraConfig(**settings), root, name, state_dict=keys)
        slots = _slots(root, name)
    except BaseException:
        remove(_slots(root, name), name)
        raise
    finally:
        vars(root).pop("peft_config", None)  # for peft's own book-keeping; others take it for a wrapped model
        for parameter, flag in required:
            parameter.requires_grad_(flag)
        for layer in layers:
            if name not in layer.lora_A:
                activate(layer, active[id(layer)])
    generator = torch.Generator().manual_seed(seed)  # peft draws from the global one
    for slot in slots:
        for side in SIDES:
            side_layer = getattr(slot.layer, side)[name]
            side_layer.to(torch.promote_types(side_layer.weight.dtype, torch.float32)).requires_grad_(False)
        down = slot.layer.lora_A[name].weight.detach()
        drawn = torch.empty(down.shape, dtype=torch.float32)  # on the CPU: the same on every device
        down.copy_(nn.init.kaiming_uniform_(drawn, math.sqrt(5), generator=generator))  # as peft does
        slot.layer.train(slot.layer.base_layer.training)
        activate(slot.layer, [*active.get(id(slot.layer), []), name])
    return name, slots


def linears(root: Any, asked: str) -> list[str]:
    """The paths of a model's linear layers but the LM head."""
    head = root.get_output_embeddings() if hasattr(root, "get_output_embeddings") else None
    with plain(root):
        named = [(path, module) for path, module in root.named_modules() if module is not head]
    linears = [path for path, module in named if isinstance(module, nn.Linear) or hasattr(module, "nf")]  # nf: GPT-2's
    if not linears:
        raise ModelError(asked, "no linear layer", "open a model with linear layers of torch's own class")
    return linears


def _slots(root: nn.Module, name: str) -> list[Slot]:
    return [
        Slot(f"{path}.{child}" if path else child, parent, child, module)
        for path, parent in root.named_modules()
        for child, module in parent._modules.items()
        if isinstance(module, LoraLayer) and name in module.lora_A
    ]


def activate(layer: Any, names: Sequence[str]) -> None:
    """Set which LoRAs of a layer count; what requires gradients stays."""
    required = [(p, p.requires_grad) for p in layer.parameters()]
    layer.set_adapter(list(names), inference_mode=True)
    for parameter, flag in required:
        parameter.requires_grad_(flag)


def remove(slots: Sequence[Slot], name: str) -> None:
    """Take one LoRA out of the layers, and the layers that have no other one off the model."""
    for slot in slots:
        if name not in slot.layer.lora_A:
            continue  # detached before
        activate(slot.layer, [other for other in slot.layer.active_adapters if other != name])
        slot.layer.delete_adapter(name)
        if not slot.layer.lora_A:
            slot.parent._modules[slot.child] = slot.layer.base_layer
