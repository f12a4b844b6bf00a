"""Train low-rank changes to a model's linear layers: LoRA (Hu et al. 2021), on peft's layers.

1. Every linear layer but the LM head (as by peft's "all-linear") is wrapped: W x becomes W x + alpha / rank * B A x,
   with A [rank, inputs] drawn at random (Kaiming uniform) and B [outputs, rank] zero.
2. A and B are float32, also on a bfloat16 model; the base is frozen and never written.
3. Several LoRAs may be on one model. They share the wrappers, and those that are `live` add.
4. `detach` takes A and B off; with the last LoRA the wrappers go, and the model has its own modules again.

A mixture's experts, whose stacked weights are no linear layers, are left alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from neuroscope import distributed
from neuroscope.checks import finite, public, whole
from neuroscope.errors import ArgumentError, FileError, ModelError
from neuroscope.masks import read_safetensors
from neuroscope.models import Model, resolve
from neuroscope.training.lora_layers import SIDES, activate, inject, plain, refuse, remove
from neuroscope.training.saving import guard, unguard, write_tensors
from neuroscope.training.trainable import training_only


class LoraAdapter:
    """A LoRA on every linear layer but the LM head, live from construction to `detach`.

    Sites of the model lie within the wrappers: an intervention edits what the base layer reads, not what the LoRA
    reads. Detach it before looking for neurons. The model's own `save_pretrained` refuses until then.

    Args:
        model: anything that can be opened, with parameters of its own.
        rank: of every change.
        alpha: the change is scaled by alpha / rank.
        seed: of the matrices A; the global random state is left alone.
        manifest: what to say of the LoRA in its file.

    Raises:
        ArgumentError: a rank that is not a positive integer, or an alpha that is not positive.
        ModelError: the layers cannot be wrapped: a TransformerBridge, a compiled, PEFT-wrapped, quantised or sharded
            model.

    Attributes:
        base: fingerprint of the model without LoRAs.
        slots: the wrapped layers, in the order of the model's modules.
    """

    @public
    def __init__(
        self,
        model: Any,
        rank: int = 8,
        alpha: float = 16,
        *,
        seed: int = 0,
        manifest: Mapping[str, Any] | None = None,
    ) -> None:
        check_rank(rank, alpha)
        self.model: Model = resolve(model)
        self.rank, self.alpha, self.seed = rank, alpha, seed
        self.manifest = dict(manifest or {})
        asked = f"put a LoRA on {self.model.name}"
        refuse(self.model, asked)
        with plain(self.model.root):
            self.base = self.model.fingerprint()
        self.name, self.slots = inject(self.model.root, rank, alpha, seed, asked)
        guard(self.model.root)

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters: A and B of every layer."""
        return list(self._named().values())

    @property
    def down(self) -> dict[str, nn.Parameter]:
        """A [rank, inputs] by the path of the layer."""
        return {s.path: s.layer.lora_A[self.name].weight for s in self.slots if self.name in s.layer.lora_A}

    @property
    def n_parameters(self) -> int:
        """How many numbers are trained: rank * (inputs + outputs), summed over the layers."""
        return sum(p.numel() for p in self.parameters())

    @property
    def identity(self) -> str:
        """Rank, alpha and seed."""
        return f"lora-{self.rank}-{self.alpha:g}-{self.seed}"

    @property
    def live(self) -> bool:
        """Whether the change counts. While it does not, the model gives what it gives without the LoRA, to the bit."""
        return any(self.name in s.layer.active_adapters for s in self.slots)

    @live.setter
    def live(self, on: bool) -> None:
        for slot in self.slots:
            if self.name in slot.layer.lora_A:
                others = [name for name in slot.layer.active_adapters if name != self.name]
                activate(slot.layer, [*others, self.name] if on else others)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """A scope in which the LoRA's parameters require gradients and nothing else does."""
        with training_only(self.model.root, self.parameters()):
            yield

    def detach(self) -> None:
        """Take the LoRA off the model; with the last one, every module is where it was before."""
        remove(self.slots, self.name)
        unguard(self.model.root)

    def save(self, path: str | PathLike) -> Path:
        """Write A and B of every layer and the manifest as one safetensors file, atomically.

        If the model is sharded over processes (FSDP2), every process must call it, and the first one writes.
        """
        self._check_held("save a LoRA")
        distributed.settle(self.model.root)
        tensors = {key: distributed.gathered(p).cpu().clone() for key, p in self._named().items()}
        settings = {"base": self.base, "rank": self.rank, "alpha": self.alpha, "seed": self.seed}
        return write_tensors(path, "LoraAdapter", tensors, self.manifest | settings, root=self.model.root)

    @classmethod
    def load(cls, model: Any, path: str | PathLike) -> Self:
        """Put a saved LoRA on the model it was trained on.

        Raises:
            ModelError: the model is another one.
            FileError: the file is missing, damaged, or holds something else.
        """
        _, manifest = _read(path)
        adapter = cls(model, manifest["rank"], manifest["alpha"], seed=manifest["seed"], manifest=manifest)
        try:
            adapter.restore(path)
        except Exception:
            adapter.detach()
            raise
        return adapter

    @torch.no_grad()
    def restore(self, path: str | PathLike) -> None:
        """Overwrite A and B with those of a file that was saved for a LoRA of the same kind on the same base."""
        tensors, manifest = _read(path)
        asked = f"put the LoRA {path} on {self.model.name}"
        self._check_held(asked)
        if manifest["base"] != self.base:
            found = f"a base of fingerprint {manifest['base']}; this model is {self.base}"
            raise ModelError(asked, found, "open the model it was trained on, of the same revision and dtype")
        if (manifest["rank"], manifest["alpha"]) != (self.rank, self.alpha):
            found = f"rank {manifest['rank']}, alpha {manifest['alpha']}; this one has {self.rank}, {self.alpha}"
            raise FileError(asked, found, "give a file of the same run")
        distributed.settle(self.model.root)
        named = self._named()
        for key, parameter in named.items():
            if key not in tensors or tensors[key].shape != parameter.shape:
                raise FileError(asked, f"no {key} of shape {tuple(parameter.shape)}", "the file is damaged; save again")
        for key, parameter in named.items():
            distributed.fill(parameter, tensors[key])

    def _check_held(self, asked: str) -> None:
        if not self._named():
            raise ModelError(asked, "a LoRA that is detached", "make or load another one")

    def _named(self) -> dict[str, nn.Parameter]:
        """By path and side; looked up, because FSDP puts other parameters in their place."""
        held = [s for s in self.slots if self.name in s.layer.lora_A]
        return {f"{s.path}.{side}": getattr(s.layer, side)[self.name].weight for s in held for side in SIDES}

    def __repr__(self) -> str:
        state = "live" if self.live else "at rest"
        return f"LoraAdapter({self.n_parameters:,} parameters, rank {self.rank} on {len(self.slots)} layers, {state})"


def check_rank(rank: int, alpha: float) -> None:
    """Refuse a rank that is not a positive whole number, and a scale that is not a positive number."""
    whole(rank, "rank", 1, "give 1 or more, such as 8")
    if not finite(alpha, "alpha") > 0:
        raise ArgumentError(f"alpha={alpha!r}", "not positive", "give more than 0, such as twice the rank")


def _read(path: str | PathLike) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, _, manifest = read_safetensors(path, "LoraAdapter")
    missing = {"base", "rank", "alpha", "seed"} - manifest.keys()
    if missing:
        raise FileError(f"read a LoRA from {path}", f"no {min(missing)} in its manifest", "write it with save()")
    return tensors, manifest
