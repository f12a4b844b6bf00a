"""The cut: the most relevant share of some neurons, and what the choice rests on where relevances are equal or zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Cut:
    """What a choice of the most relevant neurons rests on. All are numbers of neurons; of several groups, their sums.

    Attributes:
        asked: how many were to be chosen.
        eligible: of these, how many have a relevance above 0; the others fill the mask up. All, where all neurons of
            the group were asked for, so that nothing was chosen.
        tied: those with the relevance at which the cut is, where they lie on both sides of it.
        by_position: those of the tied ones that were chosen, because they come first.
        zeros: neurons whose relevance is 0.
        neurons: all.
    """

    asked: int
    eligible: int
    tied: int
    by_position: int
    zeros: int
    neurons: int

    @classmethod
    def of(cls, cuts: Sequence[Cut]) -> Cut:
        """Several groups' together."""
        return cls(*(sum(getattr(cut, field.name) for cut in cuts) for field in fields(cls)))

    @property
    def is_clean(self) -> bool:
        """Whether every neuron that was chosen has a relevance, and a higher one than any that was not."""
        return self.eligible == self.asked and not self.by_position

    @property
    def says_nothing(self) -> bool:
        """Whether neurons were to be chosen, and none that was has a relevance."""
        return not self.eligible

    def in_manifest(self) -> dict[str, int]:
        """What a mask's manifest says: nothing, where every chosen neuron is more relevant than those left out."""
        few = {"asked": self.asked, "eligible": self.eligible} if self.eligible < self.asked else {}
        return few | ({"tied": self.tied, "by_position": self.by_position} if self.by_position else {})

    def in_words(self) -> str:
        """The numbers that matter, as the end of a sentence."""
        zeros = f"{self.zeros:,} of {self.neurons:,} neurons have a relevance of 0"
        few = f"{self.asked:,} neurons were asked for and {self.eligible:,} are eligible (relevance above 0; {zeros})"
        ties = f"{self.by_position:,} of the {self.asked:,} neurons in the mask are some of {self.tied:,} with equal "
        ties += "relevance at the cut, chosen by position"
        told = [few] * (self.eligible < self.asked) + [ties] * bool(self.by_position)
        return "; ".join(told)


def top_of(relevance: Float[Tensor, " neuron"], size: float) -> tuple[Bool[Tensor, " neuron"], Cut]:
    """The most relevant ones, equal ones in forward order; and what the choice rests on.

    Args:
        size: how many, of an int; of a float the share of them, at least one.
    """
    values, order = torch.sort(relevance, descending=True, stable=True)
    count = size if isinstance(size, int) else max(1, round(size * len(values)))
    chosen = torch.zeros(len(values), dtype=torch.bool)
    chosen[order[:count]] = True
    tied = by_position = 0
    if count < len(values) and values[count - 1] == values[count]:
        equal = values == values[count]
        tied, by_position = int(equal.sum()), int(equal[:count].sum())
    eligible = int((values[:count] > 0).sum()) if count < len(values) else count
    return chosen, Cut(count, eligible, tied, by_position, int((values == 0).sum()), len(values))
