"""What can be trained: the protocol of a handle on trained numbers, the scope of training, and what is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from neuroscope.distributed import has_shards
from neuroscope.errors import ModelError
from neuroscope.models import Model, require_parameters

PREFIX = "neuroscope-"  # of what peft calls our LoRAs
TRAINING: ContextVar[bool] = ContextVar("TRAINING", default=False)


class Trainable(Protocol):
    """A handle on what is trained: a `NeuronAdapter`, a `LoraAdapter`, or a `WholeModel`."""

    model: Model
    base: str
    manifest: dict[str, Any]

    @property
    def identity(self) -> str | None:
        """What tells it from another handle of its kind on the same base."""

    @property
    def n_parameters(self) -> int:
        """How many numbers are trained."""

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters."""

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """A scope in which they alone require gradients."""

    def save(self, path: str | PathLike) -> Path:
        """Write them to a file."""

    def restore(self, path: str | PathLike) -> None:
        """Read them back."""

    def detach(self) -> None:
        """Leave the base as it was."""


@contextlib.contextmanager
def training_only(root: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """A scope in which these parameters of a model require gradients and no others do."""
    before = {name: p.requires_grad for name, p in root.named_parameters()}
    token = TRAINING.set(True)
    try:
        root.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        TRAINING.reset(token)
        for name, parameter in root.named_parameters():  # FSDP has put others in their place
            parameter.requires_grad_(before[name])


def require_plain(model: Model, asked: str) -> None:
    """Refuse a model that nothing can be added to: without parameters of its own, sharded, or wrapped."""
    require_parameters(model, asked)
    refuse_shards(model, asked)
    if model.base is not model.root:
        raise ModelError(asked, "a PEFT wrapper", "call merge_and_unload() on it, and open what that returns")
    if getattr(model.root, "_hf_peft_config_loaded", False):  # by transformers' add_adapter
        do = "open the model without it, or with it merged into its weights"
        raise ModelError(asked, "an adapter that transformers put on the model", do)
    _refuse_tuners(model.root, asked)


def _refuse_tuners(root: nn.Module, asked: str) -> None:
    """Refuse layers that peft put in place of a model's own, as inject_adapter_in_model does; ours may stay."""
    for name, module in root.named_modules():
        is_tuner = hasattr(module, "base_layer") and any(k.__module__.startswith("peft.") for k in type(module).__mro__)
        if is_tuner and not is_our_lora(module):
            found = f"{name}, a {type(module).__name__} layer of PEFT in the place of the model's own"
            do = "open the model without it; to keep it, use peft.get_peft_model, whose merge_and_unload() takes it in"
            raise ModelError(asked, found, do)


def is_our_lora(layer: Any) -> bool:
    """Whether a layer of peft's was put there by this package alone."""
    names = getattr(layer, "lora_A", None)
    return names is not None and all(name.startswith(PREFIX) for name in names)


def refuse_shards(model: Model, asked: str) -> None:
    """Refuse a model that is sharded already, whose new parameters FSDP would not know about."""
    if has_shards(model.root):
        do = "load the model again, and let finetune (or fully_shard, after the adapter) shard it"
        raise ModelError(asked, "a model whose parameters are sharded over processes", do)


def refuse_loras(model: Model, asked: str) -> None:
    """Refuse a model with LoRAs on it, under which its weights have other names."""
    _refuse_tuners(model.root, asked)
    if any(".base_layer." in name for name, _ in model.root.named_parameters()):
        raise ModelError(asked, "a LoRA on the model", "call its detach() first")
