"""Train every parameter, with the handle of an adapter: what `finetune(mask=None)` returns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from neuroscope import distributed
from neuroscope.checks import public
from neuroscope.errors import FileError, ModelError
from neuroscope.masks import read_safetensors
from neuroscope.models import Model, require_parameters, resolve
from neuroscope.models.packed import refuse_packed
from neuroscope.models.structure import SLOT
from neuroscope.training.master_weights import exact, wide, widened
from neuroscope.training.saving import save_checkpoint, write_tensors
from neuroscope.training.trainable import refuse_loras, refuse_shards, training_only


class WholeModel:
    """All parameters of a model, trained in place, and a copy of what they were.

    Weights in bfloat16 or float16 are trained in float32 and rounded once at the end (`master_weights`); the exact
    numbers are kept, for the next training and for `save`. Under FSDP it is FSDP that sees to the dtype.

    It has what a `NeuronAdapter` has, as far as it makes sense: while it is merged (from construction on) the model has
    the trained weights, after `unmerge` the base's, to the bit. It takes memory for a second copy of the weights,
    and of a narrow model for one in float32.

    Raises:
        ModelError: a TransformerBridge, a compiled model, one with an adapter on it, or with parameters that cannot
            have gradients.
    """

    @public
    def __init__(self, model: Any, *, manifest: Mapping[str, Any] | None = None) -> None:
        self.model: Model = resolve(model)
        require_parameters(self.model, f"train {self.model.name}")
        refuse_shards(self.model, f"train {self.model.name}")
        refuse_loras(self.model, f"train {self.model.name}")
        if any(SLOT in module._modules for module in self.model.root.modules()):
            do = "call its detach() first: what is merged stays merged"
            raise ModelError(f"train {self.model.name}", "an adapter on the model", do)
        refuse_packed(self.model.root, f"train {self.model.name}")
        self.manifest = dict(manifest or {})
        self.base = self.model.fingerprint()
        self._other = {n: p.detach().clone() for n, p in self._named().items()}  # the weights that are not in the model
        self.widens = True  # False: FSDP sees to the dtype
        self._masters: dict[str, Tensor] = {}  # of weights narrower than float32, once they are trained
        self.is_merged = True

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters: all."""
        return list(self._named().values())

    @property
    def n_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.parameters())

    @property
    def identity(self) -> None:
        """None: there is only one way to train all parameters."""

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """A scope in which every parameter requires gradients, and is float32 at least."""
        with self.exact(), training_only(self.model.root, self.parameters()):
            yield

    @contextlib.contextmanager
    def exact(self) -> Iterator[None]:
        """A scope in which the model has the trained weights as exactly as they are kept: float32 at least."""
        if not self.is_merged:
            raise ModelError("train all parameters", "the base's weights in the model", "call merge() first")
        with widened(self._named() if self.widens else {}, self._masters):
            yield

    def merge(self) -> None:
        """Put the trained weights into the model."""
        if self.is_merged:
            raise ModelError("merge the trained weights", "they are in the model already", "call unmerge() first")
        self._check_kept("merge the trained weights")
        self._swap()

    def unmerge(self) -> None:
        """Put the base's weights back, to the bit; the trained ones are kept aside for `merge`."""
        if not self.is_merged:
            raise ModelError("unmerge the trained weights", "they are not in the model", "call merge() first")
        self._swap()

    def detach(self) -> None:
        """Put the base's weights back and forget about the trained ones."""
        if self.is_merged and self._other:
            self._swap()
        self._other, self._masters = {}, {}

    def save(self, path: str | PathLike) -> Path:
        """Write all trained weights and the manifest as one safetensors file, atomically: float32 where a narrow model
        was trained, so that nothing is lost. `export` writes them in the model's own dtype.

        If the model is sharded over processes (FSDP2), every process must call it, and the first one writes.
        """
        self._check_kept("save the trained weights")
        trained = {n: exact(w, self._masters[n]) if n in self._masters else w for n, w in self._trained().items()}
        tensors = {n: distributed.gathered(w).cpu().clone() for n, w in trained.items()}
        return write_tensors(path, "WholeModel", tensors, self.manifest | {"base": self.base}, root=self.model.root)

    @classmethod
    def load(cls, model: Any, path: str | PathLike) -> Self:
        """Put saved weights into the model that they were trained from.

        Raises:
            ModelError: the model is another one.
            FileError: the file is missing, damaged, or holds something else.
        """
        whole = cls(model, manifest=read_safetensors(path, "WholeModel")[2])
        whole.restore(path)
        return whole

    @torch.no_grad()
    def restore(self, path: str | PathLike) -> None:
        """Overwrite the trained weights with those of a file that was saved for the same base."""
        self._check_kept(f"restore weights from {path}")
        tensors, _, manifest = read_safetensors(path, "WholeModel")
        asked = f"put the weights {path} into {self.model.name}"
        if manifest.get("base") != self.base:
            found = f"a base of fingerprint {manifest.get('base')}; this model is {self.base}"
            raise ModelError(asked, found, "open the model it was trained on, of the same revision and dtype")
        trained = self._trained()
        for name, weight in trained.items():
            saved = tensors.get(name)
            if saved is None or saved.shape != weight.shape or wide(saved.dtype) != wide(weight.dtype):
                raise FileError(asked, f"no weights for {name}", "the file is damaged; save it again")
        for name, weight in trained.items():
            distributed.fill(weight, tensors[name].to(weight.dtype))
        narrow = {n: w for n, w in trained.items() if w.dtype != wide(w.dtype) == tensors[n].dtype}
        self._masters = {n: tensors[n].to(w.device) for n, w in narrow.items()}

    def export(self, folder: str | PathLike) -> Path:
        """Save the trained model as a plain Hugging Face checkpoint. The model is left as it is."""
        self._check_kept("export the trained weights")
        refuse_loras(self.model, "export the trained weights")
        distributed.settle(self.model.root)
        weights = {name: distributed.gathered(weight) for name, weight in self.model.root.state_dict().items()}
        if not self.is_merged:
            aside = {id(p): self._other[n] for n, p in self._named().items()}
            named = dict(self.model.root.named_parameters(remove_duplicate=False))
            weights |= {n: aside[id(named[n])] for n in weights if n in named}
        return save_checkpoint(self.model, folder, weights)

    def _check_kept(self, asked: str) -> None:
        if not self._other:
            raise ModelError(asked, "they are forgotten since detach()", "train again, or load a file of them")

    def _named(self) -> dict[str, nn.Parameter]:
        distributed.settle(self.model.root)
        return dict(self.model.root.named_parameters())

    def _trained(self) -> Mapping[str, Tensor]:
        return self._named() if self.is_merged else self._other

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self._named().items():
            inside = distributed.gathered(parameter).clone()
            distributed.fill(parameter, self._other[name])
            self._other[name] = inside
        self.is_merged = not self.is_merged

    def __repr__(self) -> str:
        return f"WholeModel({self.n_parameters:,} parameters, {'merged' if self.is_merged else 'base weights'})"
