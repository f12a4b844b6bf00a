"""What neurons write and read, as tables, words and figures."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from neuroscope import figures
from neuroscope.checks import public
from neuroscope.errors import choose
from neuroscope.markup import NEGATIVE
from neuroscope.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

READS = ("gate", "up", "input", "value")
SHOWN = 5  # tokens in words
UNITS = "logits (less their mean) per unit of activation"


@dataclass(frozen=True, repr=False)
class Directions(Result):
    """Tokens that neurons write and read, and their nearest neurons by weights.

    Attributes:
        table: neuron; part: "writes", "gate", "up", "input", "value" (of a head), "nearest by output", "nearest by
            parameters"; side: "toward" or "away"; rank (0 is the most extreme); name (of the token, or of the other
            neuron); id (of the token); value. Of what is written, the change of the token's logit less the mean over
            tokens, per unit of activation, the norms' scales frozen at typical inputs; of what is read, the product of
            the token's normed embedding with the neuron's row; of neurons, the cosine.
    """

    title = "What neurons write and read"
    captions: ClassVar[Mapping[str, str]] = {"tokens": "Tokens written and read", "nearest": "Nearest by weights"}

    @property
    def neurons(self) -> list[str]:
        """The neurons' names."""
        return list(self.manifest["neurons"])

    @public
    def writes(self, neuron: str) -> pd.DataFrame:
        """The tokens that a neuron writes: side, rank, name, id, value.

        Raises:
            ArgumentError: a neuron that was not asked for; the nearest is named.
        """
        return self._part(neuron, ("writes",)).drop(columns="part")

    @public
    def reads(self, neuron: str) -> pd.DataFrame:
        """The tokens that a neuron reads: part, side, rank, name, id, value.

        Raises:
            ArgumentError: a neuron that was not asked for; the nearest is named.
        """
        return self._part(neuron, READS)

    @public
    def nearest(self, neuron: str) -> pd.DataFrame:
        """The neurons that are nearest to one by weights: by ("output" or "parameters"), rank, name, value.

        Raises:
            ArgumentError: a neuron that was not asked for; the nearest is named.
        """
        found = self._part(neuron, ("nearest by output", "nearest by parameters"))
        return found.assign(by=found["part"].str.removeprefix("nearest by "))[["by", "rank", "name", "value"]]

    def _part(self, neuron: str, parts: tuple[str, ...]) -> pd.DataFrame:
        choose(neuron, self.neurons, "neuron")
        rows = self.table[(self.table["neuron"] == neuron) & self.table["part"].isin(parts)]
        return rows.drop(columns="neuron").reset_index(drop=True)

    def in_words(self) -> str:
        """Of each neuron, the tokens that it writes and reads most."""
        told = []
        for neuron in self.neurons:
            written = self.writes(neuron)
            read = self.reads(neuron)
            if written.empty:
                told.append(f"- {NEGATIVE}: no straight way leads from {neuron} to the logits.")
                continue
            ends = {side: _listed(written[written["side"] == side]) for side in ("toward", "away")}
            line = f"- **{neuron}** writes toward {ends['toward']}, away from {ends['away']}"
            for part in dict.fromkeys(read["part"]):
                rows = read[(read["part"] == part) & (read["side"] == "toward")]
                line += f"; its {part} reads {_listed(rows)}"
            told.append(line + ".")
        lead = (
            f"{len(self.neurons)} neuron(s) by the straight way to the logits, the norms' scales frozen at typical "
            "inputs: what later layers make of it is left out."
        )
        return "\n".join([lead, "", *told])

    def tables(self) -> dict[str, pd.DataFrame]:
        """Tokens, and nearest neurons."""
        is_near = self.table["part"].str.startswith("nearest")
        near = self.table[is_near].drop(columns=["id", "side"])
        return {"tokens": self.table[~is_near].reset_index(drop=True), "nearest": near.reset_index(drop=True)}

    def figure(self) -> go.Figure:
        """Tokens that the first neuron writes (of those that write any)."""
        writing = [name for name in self.neurons if not self.writes(name).empty]
        neuron = (writing or self.neurons)[0]
        rows = self.writes(neuron)
        rows = rows[rows["rank"] < 10].sort_values("value", ascending=False)
        names = [html.escape(_shown(name)) for name in rows["name"]]
        names = [n if names.count(n) == 1 else f"{n} ({i})" for n, i in zip(names, rows["id"], strict=True)]
        return figures.bars_with_band(
            names,
            {"logit": (rows["value"].tolist(), None, None)},
            title=f"Tokens that neuron {html.escape(neuron)} writes",
            subtitle="toward and away; norms' scales frozen at typical inputs, later layers left out",
            value_label=UNITS,
        )


def _shown(token: str) -> str:
    return repr(token)[1:-1].replace(" ", "␣")


def _listed(rows: pd.DataFrame) -> str:
    return ", ".join(f"`{_shown(name).replace('`', chr(39))}`" for name in rows["name"][:SHOWN])
