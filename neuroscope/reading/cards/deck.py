"""The cards of several neurons, with the one table of their numbers."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from neuroscope import figures, files
from neuroscope.checks import public
from neuroscope.errors import FileError, choose
from neuroscope.markup import NEGATIVE
from neuroscope.reading.cards.neuron_card import NeuronCard, does_more, lost_in, unit_of
from neuroscope.results import Result
from neuroscope.statistics import ALPHA

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SHOWN = ("neuron", "task", "score", "rank", "effect", "low", "high", "random", "q", "share")


@dataclass(frozen=True, repr=False)
class NeuronCards(Result):
    """The cards of some neurons.

    Attributes:
        table: a row per neuron and task, in the order of the cards: neuron (its name), address, layer, index; task;
            score, rank (1: the highest of the model); effect (rise of the loss on the answer without it alone, in nats,
            or of the objective that the manifest names) with low and high; random (that of random neurons of its site)
            with random_low and random_high; p and q of being more than these; mask_effect, share (of it); sign (1: it
            helps, -1: it hurts, 0: neither is shown, with sign_q, corrected over all neurons and tasks here);
            rank_low, rank_high, selected (over halves of the examples); activation (mean over tokens); with an adapter
            activation_after and effect_after. NaN where it was not measured.
        cards: plain data of each.
    """

    cards: Sequence[Mapping[str, Any]] = ()

    title = "Cards of neurons"
    captions: ClassVar[Mapping[str, str]] = {"neurons": "Every neuron and task"}

    @property
    def neurons(self) -> list[str]:
        """The neurons' names."""
        return [str(card["name"]) for card in self.cards]

    @public
    def card(self, neuron: str) -> NeuronCard:
        """One neuron's card.

        Raises:
            ArgumentError: a neuron that has none; the nearest that has one is named.
        """
        name = choose(neuron, self.neurons, "neuron")
        parts = {part: value for part, value in self.cards[self.neurons.index(name)].items() if part != "name"}
        return NeuronCard(name, self.table[self.table["neuron"] == name].reset_index(drop=True), parts)

    def __iter__(self) -> Iterator[NeuronCard]:
        return (self.card(name) for name in self.neurons)

    def __len__(self) -> int:
        return len(self.cards)

    def to_explorer(self) -> list[dict[str, Any]]:
        """All cards as an explorer takes them."""
        return [card.to_explorer() for card in self]

    def in_words(self) -> str:
        """Which neurons a task depends on alone, and what they write."""
        tested = self.table.dropna(subset=["q"]) if "q" in self.table else self.table[:0]
        found = tested.loc[[does_more(row) for row in tested.to_dict("records")]]
        count = found["neuron"].nunique()
        if tested.empty:
            lead = f"{len(self)} neuron(s) were read; what breaks without them was not measured."
        elif found.empty:
            lead = (
                f"{NEGATIVE}: none of {len(self)} neurons alone breaks a task more than random neurons of its layer do."
            )
        else:
            lead = (
                f"**{count} of {len(self)}** neurons alone change the {lost_in(self._broken)} on a task more "
                f"than random neurons of their layer do (q < {ALPHA})."
            )
        lines = [line for card in self for line in card.in_words().split("\n")[:1]]
        told = []
        for card, first in zip(self, lines, strict=True):
            rest = [line.removeprefix("- ") for line in card.in_words().split("\n")[1:]]
            told.append(f"- {first} {' '.join(rest)}")
        return "\n".join([lead, "", *told])

    @property
    def _broken(self) -> Mapping[str, Any]:
        """One of the rows of what breaks, all of which are of one objective."""
        return next((row for card in self.cards for row in card.get("breaks", [])), {})

    def tables(self) -> dict[str, pd.DataFrame]:
        """Neurons and tasks."""
        return {"neurons": self.table[[name for name in SHOWN if name in self.table]]}

    def figure(self) -> go.Figure:
        """What breaks without each neuron, by task; where that was not measured, mean activations."""
        column = "effect" if "effect" in self.table and self.table["effect"].notna().any() else "activation"
        tasks = list(dict.fromkeys(self.table["task"]))
        wide = self.table.pivot(index="neuron", columns="task", values=column).reindex(self.neurons)[tasks]
        tasks = [task for task in tasks if bool(wide[task].notna().any())]  # not texts, of which nothing breaks
        wide = wide[tasks]
        effects, change = column == "effect", f"rise of the {lost_in(self._broken)}"
        return figures.heatmap(
            wide.to_numpy(dtype=float),
            [html.escape(task) for task in tasks],
            [html.escape(name) for name in wide.index],
            title="What breaks without each neuron alone" if effects else "Mean activation",
            subtitle=f"{change} on the answers of each task" if effects else "over the tokens of each task",
            colour_label=unit_of(self._broken) if effects else "activation",
            y_label="neuron",
            scale="diverging",
            text=None if np.isfinite(wide.to_numpy(dtype=float)).all() and len(tasks) <= 8 else _blank(wide),
        )

    def __repr__(self) -> str:
        shown = ", ".join(self.neurons[:6]) + (", ..." if len(self) > 6 else "")
        return f"NeuronCards({len(self)} neurons: {shown}; see card(name), to_frame(), figure())"

    def content(self) -> dict[str, Any]:
        return {**super().content(), "cards": list(self.cards)}

    @classmethod
    @public
    def load(cls, path: str | PathLike) -> Self:
        """Read back what `save` wrote.

        Raises:
            FileError: the file is missing, truncated, or holds something else.
        """
        plain = super().load(path)
        cards = files.read_json(path, cls.__name__).get("cards")
        known = isinstance(cards, list) and all(
            isinstance(c, dict) and {"name", "site", "neuron"} <= set(c) for c in cards
        )
        if not known:
            raise FileError(f"read {cls.__name__} from {path}", "no cards, or damaged ones", "write the file again")
        return cls(plain.table, plain.manifest, cards)


def _blank(wide: pd.DataFrame) -> list[list[str]]:
    return [[""] * wide.shape[1]] * wide.shape[0]
