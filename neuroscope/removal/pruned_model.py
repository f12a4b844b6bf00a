"""What `prune` returns: the smaller model, opened, and what was taken out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from neuroscope.checks import public
from neuroscope.errors import MaskError, ModelError
from neuroscope.masks import NeuronMask, check_mask, shape
from neuroscope.models import Model
from neuroscope.training.deltas import are_live
from neuroscope.training.saving import save_checkpoint
from neuroscope.training.trainable import refuse_loras


@dataclass(frozen=True, eq=False, repr=False)
class PrunedModel(Model):
    """An opened model out of which neurons or heads were taken. Every function takes it as any other model.

    `root` is the plain transformers model: `root.generate(...)`, `root.save_pretrained(folder)` and the like are its
    own. Its neurons are numbered anew; `renumbered` takes masks of the model before along.

    Attributes:
        taken: what was asked for, in the numbers of the model before.
        kept: by address, the numbers that the neurons that are left had before; also of silent ones.
        silent: how many of `taken` stayed with weights of zero, and the reason in words ("" where none did).
        is_plain: whether transformers' own classes open the folder that is saved; else `ns.load` alone does.
        parameters_before: how many numbers the model before has as parameters.

    Example:
        >>> import neuroscope as ns
        >>> small = ns.prune("mini", {0: range(500), 3: range(12)})
        >>> len(small.taken), small.n_parameters, small.parameters_before
        (512, 877696, 1074304)
        >>> [site.width for site in small.sites().values()], small.is_plain
        ([12, 512, 512, 500], False)
    """

    taken: NeuronMask = field(default=None)  # type: ignore[assignment]  # fields of a Model have defaults before it
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    silent: tuple[int, str] = (0, "")
    is_plain: bool = True
    parameters_before: int = 0

    @property
    def n_parameters(self) -> int:
        """How many numbers the model has as parameters; tied ones count once."""
        return sum(p.numel() for p in self.root.parameters())

    @public
    def renumbered(self, mask: NeuronMask) -> NeuronMask:
        """A mask of the model before as one of this model: those of its neurons that are left, by their new numbers.

        Raises:
            MaskError: a mask of another model, or of another unit.
        """
        check_mask(mask, "renumbered(mask)")
        if mask.unit != self.taken.unit or dict(mask.widths) != dict(self.taken.widths):
            found = f"a mask of {mask.unit} neurons, {shape(mask.widths)}; they were {self.taken.unit}, "
            raise MaskError("renumbered(mask)", found + shape(self.taken.widths), "give a mask of the model before")
        new = {a: torch.isin(self.kept[a], neurons).nonzero().flatten() for a, neurons in mask.items()}
        widths = {a: len(self.kept[a]) for a in mask.widths}
        return NeuronMask(new, widths, mask.unit, {"renumbered": dict(mask.manifest)})

    @public
    def save_pretrained(self, folder: str | PathLike) -> Path:
        """Save a Hugging Face folder with configuration, weights and tokenizer, atomically.

        Raises:
            FileError: the folder exists and is not empty, or cannot be written.
            ModelError: an adapter or a LoRA is on the model, or it is none of transformers.
        """
        asked = f"save {self.name}"
        if not hasattr(type(self.root), "save_pretrained"):
            do = "save its state_dict(), and build a module of the sizes that its parameters have"
            raise ModelError(asked, f"a {type(self.root).__name__}, which is none of transformers", do)
        refuse_loras(self, asked)
        if are_live(self.root):
            do = "call the adapter's export(folder), or its merge() first"
            raise ModelError(asked, "an adapter on it, which a plain checkpoint would lack", do)
        weights = {n: p for n, p in self.root.state_dict().items() if ".neuron_deltas." not in f".{n}"}
        return save_checkpoint(self, folder, weights)

    def in_words(self) -> str:
        """What was taken out, what is left, and what opens it."""
        total, now = sum(self.taken.widths.values()), self.n_parameters
        what = "attention heads" if self.taken.unit == "head" else "FFN neurons"
        count, why = self.silent
        gone = total - sum(map(len, self.kept.values()))
        said = f"**{gone:,} of {total:,}** {what} were taken out ({gone / total:.1%}): {now:,} parameters are left of "
        said += f"{self.parameters_before:,} ({1 - now / self.parameters_before:.1%} less)."
        if count:
            said += f" {count:,} more stay with weights of zero: {why}."
        if self.is_plain:
            return f"{said} transformers opens what is saved."
        return f"{said} transformers' configuration cannot say the sizes of its layers: ns.load opens what is saved."

    def __repr__(self) -> str:
        return f"{super().__repr__()}\n  {self.in_words().replace('**', '')}"
