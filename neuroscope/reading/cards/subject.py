"""What cards are made of: a model, the neurons, the tasks; each measurement is made once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from neuroscope import files
from neuroscope.attribution.objectives import Objective
from neuroscope.checks import Progress
from neuroscope.masks import NeuronMask
from neuroscope.masks.neuron_names import names_of, names_of_sites
from neuroscope.models import Model, identity_of
from neuroscope.tasks import Task

ASKED = "neurons"
JOURNAL = "neurons.jsonl"  # in the output folder
Place = tuple[str, int]  # address, neuron


@dataclass(frozen=True)
class Subject:
    """Whose cards are made, and how.

    Attributes:
        mask: the whole mask.
        chosen: those of its neurons that get a card.
        tasks: by name.
        skip_first: whether first tokens are left out of scores and activations.
        journal: finished measurements.
    """

    model: Model
    mask: NeuronMask
    chosen: NeuronMask
    tasks: Mapping[str, Task]
    objective: Objective
    examples: int | None
    n: int | None
    n_random: int
    seed: int
    skip_first: bool
    batch_size: int | None
    journal: files.Journal
    progress: Progress | None

    @property
    def places(self) -> list[Place]:
        """The neurons that get a card, in forward order."""
        return [(a, i) for a, indices in self.chosen.items() for i in indices.tolist()]

    @property
    def names(self) -> list[str]:
        """What they are called."""
        return names_of(self.chosen)

    def name_of(self, place: Place) -> str:
        """What any neuron of the model is called."""
        return f"{names_of_sites(list(self.mask))[place[0]]}.{place[1]}"

    @property
    def flat(self) -> list[int]:
        """Where they are among all neurons of the model."""
        return self.chosen.flags().nonzero().flatten().tolist()

    def place_of(self, flat: int) -> Place:
        """The address and index of a neuron of the model, by its place among all of them."""
        for address, width in self.mask.widths.items():
            if flat < width:
                return address, flat
            flat -= width
        raise IndexError(flat)

    def key(self, *parts: Any) -> str:
        """What tells a measurement from others: the model, what is live on it, the neurons' unit, and the parts."""
        of_model = identity_of(self.model.provenance()).values()
        return files.digest(*of_model, files.versions().get("neuroscope"), self.mask.unit, *parts)


def among(mask: NeuronMask, places: Mapping[str, Int[Tensor, " chosen"]]) -> NeuronMask:
    """A mask of some neurons of the same model."""
    empty = torch.zeros(0, dtype=torch.long)
    return NeuronMask({a: places.get(a, empty) for a in mask}, mask.widths, mask.unit)
