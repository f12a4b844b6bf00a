"""Train chosen neurons alone: compact changes added to a frozen model by hooks, W = W0 + scale * scatter(delta).

1. A neuron's weights are found through its site: rows of the gate / up / in projections with their biases, and columns
   of the output projection; an output unit's are a row of the output projection with its bias.
2. Per linear layer and side, the chosen rows or columns get one float32 `Delta` [chosen, other side]. A forward hook
   adds `x @ delta.T` to the chosen outputs, or `x[chosen] @ delta` to all of them.
3. The base is never written, so that everything outside the mask keeps every bit; gradients and optimizer states exist
   for the deltas only, and the backward pass ends at the lowest layer that has one.
4. `merge` writes the sum into the touched rows and keeps what they were, so that `unmerge` is exact to the bit.
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
from neuroscope.checks import finite, public
from neuroscope.errors import FileError, MaskError, ModelError, choose
from neuroscope.masks import NeuronMask, mask_for, read_safetensors
from neuroscope.models import Model, resolve
from neuroscope.training.adapted import MERGED, note_trained
from neuroscope.training.deltas import attach, bare, places_of, remove
from neuroscope.training.peft_folder import write_peft
from neuroscope.training.saving import guard, save_checkpoint, unguard, write_tensors
from neuroscope.training.trainable import refuse_loras, training_only

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)  # that deltas are written in


class NeuronAdapter:
    """A trainable change to a mask's neurons, live on the model from construction to `detach`.

    Several adapters may be on one model; their changes add. Take one off with `detach` before training anew. The
    model's own parameters are not written unless `merge` is called. A deep copy of the model carries copies of the
    deltas. The model's own `save_pretrained` refuses until the adapter is merged or detached; `export` writes a plain
    checkpoint.

    Args:
        model: anything that can be opened, with parameters of its own.
        mask: hidden neurons or output units of the model.
        manifest: what to say of the adapter in its file.

    Raises:
        MaskError: the mask is of a model of another shape, or empty.
        ModelError: the parameters are out of reach: a TransformerBridge, a compiled, PEFT-wrapped or quantised model,
            neurons of an expert, or a layer whose output is not x W^T + b of parameters of its own (weight_norm,
            parametrizations, weights that are quantised on the way). The model is as it was.

    Attributes:
        base: fingerprint of the model without adapters.
        placed: the deltas in their places, in forward order.

    Example:
        >>> import neuroscope as ns
        >>> model = ns.load("mini")
        >>> adapter = ns.NeuronAdapter(model, ns.NeuronMask.of(["1.229", "3.40"], model))
        >>> adapter.n_parameters  # of each neuron a gate, an up and a down vector of 128 numbers
        768
        >>> optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-3)  # or let `ns.finetune` train one
        >>> adapter.detach()  # the model is as it was
    """

    @public
    def __init__(self, model: Any, mask: Any, *, manifest: Mapping[str, Any] | None = None) -> None:
        self.model: Model = resolve(model)
        self.mask = mask = mask_for(self.model, mask, "an adapter")
        self.manifest = dict(manifest or {})
        places = places_of(self.model, mask)
        with bare(self.model.root):
            self.base = self.model.fingerprint()
        self.placed = attach(self.model.root, places)
        self._is_attached = True
        guard(self.model.root)

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters: the deltas."""
        return [p for placed in self.placed for p in placed.delta.parameters()]

    @property
    def n_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.parameters())

    @property
    def identity(self) -> str:
        """The mask's: adapters of one mask on one base go on from each other's checkpoints."""
        return self.mask.identity

    @property
    def is_merged(self) -> bool:
        """Whether the change is written into the model's own weights."""
        return any(placed.before for placed in self.placed)

    @property
    def scale(self) -> float:
        """Factor of the change: 1 as trained, 0 for the base model. It can be set while the adapter is not merged."""
        return self.placed[0].delta.strength

    @scale.setter
    def scale(self, factor: float) -> None:
        self._check_attached(f"scale = {factor}")
        if self.is_merged:
            raise ModelError(f"scale = {factor}", "an adapter that is merged", "call unmerge() first")
        strength = finite(factor, "scale", "give a number, such as 0.5")
        for placed in self.placed:
            placed.delta.strength = strength

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """A scope in which the adapter's parameters require gradients and nothing else does."""
        self._check_attached("train an adapter")
        if self.is_merged:
            raise ModelError("train an adapter", "it is merged into the base", "call unmerge() first")
        with training_only(self.model.root, self.parameters()):
            yield

    def merge(self) -> None:
        """Write the change into the model's own weights. The touched rows are kept aside for `unmerge`."""
        self._check_attached("merge an adapter")
        if self.is_merged:
            raise ModelError("merge an adapter", "it is merged already", "call unmerge() first")
        distributed.settle(self.model.root)
        for placed in self.placed:
            placed.before = placed.delta.touched(placed.linear)
            placed.delta.put(placed.linear._parameters, placed.delta.added_to(placed.before))
            placed.delta.live = False

    def unmerge(self) -> None:
        """Put the touched rows back as they were, to the bit; the hooks add the change again.

        Raises:
            ModelError: it is not merged, or the rows were changed since, by another adapter's `merge` or by training.
        """
        if not self.is_merged:
            raise ModelError("unmerge an adapter", "it is not merged", "call merge() first")
        distributed.settle(self.model.root)
        for placed in self.placed:
            now, written = placed.delta.touched(placed.linear), placed.delta.added_to(placed.before)
            if not all(torch.equal(now[name], written[name]) for name in now):
                do = "unmerge adapters in the reverse order of merging, and train none that is merged"
                raise ModelError("unmerge an adapter", f"rows of {placed.path} that changed since merge()", do)
        for placed in self.placed:
            placed.delta.put(placed.linear._parameters, placed.before)
            placed.delta.live, placed.before = True, {}

    def detach(self) -> None:
        """Take the adapter off the model. What is merged stays merged; call `unmerge` before to have the base back."""
        is_merged = self.is_merged and self._is_attached and not distributed.has_shards(self.model.root)
        for placed in self.placed:
            remove(placed)
        self._is_attached = False
        unguard(self.model.root)
        if is_merged:
            note_trained(self.model, MERGED)

    @public
    def save(self, path: str | PathLike, *, dtype: torch.dtype = torch.float32) -> Path:
        """Write mask, deltas, scale and manifest as one safetensors file, atomically.

        If the model is sharded over processes (FSDP2), every process must call it, and the first one writes.

        Args:
            dtype: of the deltas in the file; bfloat16 halves it, at the cost of rounding.
        """
        choose(dtype, DTYPES, "dtype")
        tensors = {f"values/{a}": v.to(torch.int32) for a, v in self.mask.items()}
        distributed.settle(self.model.root)
        tensors |= {f"deltas/{k}": distributed.gathered(p).to("cpu", dtype).clone() for k, p in self._named().items()}
        manifest = self.manifest | {"base": self.base, "scale": self.scale, "mask": dict(self.mask.manifest)}
        unit, widths = self.mask.unit, self.mask.widths
        return write_tensors(path, "NeuronAdapter", tensors, manifest, root=self.model.root, unit=unit, widths=widths)

    @classmethod
    @public
    def load(cls, model: Any, path: str | PathLike) -> Self:
        """Put a saved adapter on the model it was trained on.

        Raises:
            ModelError: the model is another one than the adapter's base.
            FileError: the file is missing, damaged, or holds something else.
        """
        tensors, header, manifest = _read(path)
        adapter = cls(model, _mask(tensors, header, path), manifest=manifest)
        try:
            adapter._fill(tensors, manifest, path)
        except Exception:
            adapter.detach()
            raise
        adapter.scale = manifest["scale"]
        return adapter

    @public
    def restore(self, path: str | PathLike) -> None:
        """Overwrite the deltas with those of a file that was saved for the same mask on the same base."""
        tensors, header, manifest = _read(path)
        if _mask(tensors, header, path) != self.mask:
            raise FileError(f"restore an adapter from {path}", "another mask", "give a file of the same run")
        self._fill(tensors, manifest, path)

    @public
    def export(self, folder: str | PathLike) -> Path:
        """Save the base with this adapter merged in as a plain Hugging Face checkpoint. The model is left as it is.

        Other adapters that are not merged are left out. If the model is sharded over processes (FSDP2), every process
        must call it, and the first one writes.

        Raises:
            FileError: the folder exists and is not empty, or cannot be written.
            ModelError: there is a LoRA on the model.
        """
        root: Any = self.model.root
        self._check_attached("export an adapter")
        refuse_loras(self.model, f"export {self.model.name}")
        distributed.settle(root)
        with bare(root):
            weights = {name: distributed.gathered(weight) for name, weight in root.state_dict().items()}
        if not self.is_merged:
            for placed in self.placed:
                for name, entries in placed.delta.added_to(placed.delta.touched(placed.linear)).items():
                    full = f"{placed.path}.{name}"
                    weights[full] = weights[full].clone()  # a copy of the touched matrices, not of the model
                    placed.delta.put({name: weights[full]}, {name: entries})
        return save_checkpoint(self.model, folder, weights)

    @public
    def to_peft(self, folder: str | PathLike) -> Path:
        """Write the change, at its scale, as a folder that PEFT opens on the base: `PeftModel.from_pretrained`.

        It is a LoRA of full rank on the trained rows and columns, which is exact: of rank r where r of a layer's rows
        and columns are trained, with r (inputs + outputs) numbers where the adapter has r inputs (or outputs). For
        hidden neurons that is 1 + d_ffn / d_model times its size, 3.7 to 6.3 in usual models; the folder's README says
        both. The changes of biases are in it (`lora_bias`, of peft 0.14 or later). Other adapters that are not merged
        are left out.

        Raises:
            FileError: the folder exists and is not empty, or cannot be written.
            ModelError: the adapter is detached.
        """
        self._check_attached("write an adapter for PEFT")
        return write_peft(self, folder)

    def _check_attached(self, asked: str) -> None:
        if not self._is_attached:
            raise ModelError(asked, "an adapter that is detached", "save() it, and NeuronAdapter.load(model, path)")

    def _named(self) -> dict[str, nn.Parameter]:
        return {f"{placed.key}.{name}": p for placed in self.placed for name, p in placed.delta.named_parameters()}

    @torch.no_grad()
    def _fill(self, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any], path: str | PathLike) -> None:
        asked = f"put the adapter {path} on {self.model.name}"
        if manifest["base"] != self.base:
            found = f"a base of fingerprint {manifest['base']}; this model is {self.base}"
            raise ModelError(asked, found, "open the model it was trained on, of the same revision and dtype")
        distributed.settle(self.model.root)
        for key, parameter in self._named().items():
            saved = tensors.get(f"deltas/{key}")
            if saved is None or saved.shape != parameter.shape:
                found = f"no delta of shape {tuple(parameter.shape)} for {key}"
                raise FileError(asked, found, "the file is damaged; save the adapter again")
            distributed.fill(parameter, saved)

    def __repr__(self) -> str:
        state = "merged" if self.is_merged else f"scale {self.scale:g}"
        return (
            f"NeuronAdapter({self.n_parameters:,} parameters of {len(self.mask):,} {self.mask.unit} neurons, {state})"
        )


def _read(path: str | PathLike) -> tuple[dict[str, Tensor], dict, dict]:
    tensors, header, manifest = read_safetensors(path, "NeuronAdapter")
    if not {"base", "scale"} <= manifest.keys():
        raise FileError(f"read an adapter from {path}", "no base or scale in its manifest", "write it with save()")
    return tensors, header, manifest


def _mask(tensors: Mapping[str, Tensor], header: Mapping[str, Any], path: str | PathLike) -> NeuronMask:
    neurons = {a: tensors[f"values/{a}"] for a in header["widths"] if f"values/{a}" in tensors}
    if len(neurons) < len(header["widths"]):
        raise FileError(f"read an adapter from {path}", "sites without values", "the file is damaged; save it again")
    try:
        return NeuronMask.of(neurons, header["widths"], header["unit"], header["manifest"].get("mask"))
    except MaskError as error:
        raise FileError(f"read an adapter from {path}", error.found, "the file is damaged; save it again") from None
