"""What a model carries of earlier trainings, so that the next one can say on what it is trained."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

from torch import nn

from neuroscope.models import Model
from neuroscope.training.deltas import Delta, are_live
from neuroscope.training.trainable import is_our_lora

WHOLE = "a training of the whole model"
MERGED = "an adapter that was merged and detached"

# a model whose weights hold a training that nothing else tells of -> the fingerprint it was left with, and what it is
_TRAINED: weakref.WeakKeyDictionary[nn.Module, tuple[str, str]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Carried:
    """What is on a model, or in its weights, before it is trained.

    Attributes:
        live: adapters that count and can be taken off; "" if there are none.
        merged: whether adapters are merged into the weights and still held.
        trained: of what training the weights are those that it has left; "" if of none.
    """

    live: str
    merged: bool
    trained: str

    def words(self, name: str) -> str:
        """For a manifest: on what was trained; `name` is the model's."""
        said = [self.live, "a merged adapter" * self.merged, self.trained]
        more = [one for one in said if one]
        return f"{name} with {' and '.join(more)}" if more else name


def carried_by(model: Model) -> Carried:
    """What a model carries. A handle that was detached, or unmerged weights, are not there."""
    modules = list(model.root.modules())
    live = ["an adapter"] if are_live(model.root) else []
    live += ["a LoRA"] if any(is_our_lora(m) and m.active_adapters for m in modules) else []
    merged = any(isinstance(module, Delta) and not module.live for module in modules)
    left, what = _TRAINED.get(model.root, ("", ""))
    return Carried(" and ".join(live), merged, what if left and left == model.fingerprint() else "")


def note_trained(model: Model, what: str) -> None:
    """Remember that a model has the weights that a training has left."""
    _TRAINED[model.root] = (model.fingerprint(), what)
