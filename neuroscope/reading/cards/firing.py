"""Where neurons fire: their top texts with every token's activation, their histogram by task, their top tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope.arrays import json_plain
from neuroscope.reading.activations_result import Activations

if TYPE_CHECKING:
    import pandas as pd

BINS = 24
NEAR_ZERO = 1e-3  # of a neuron's greatest absolute activation: what is less is no text or token that it fires at
SINK_NOTE = "A sink: "  # how the note begins that says so
Text = dict[str, Any]


class Firing:
    """What activations say of single neurons; the tables that several neurons share are made once."""

    def __init__(self, acts: Activations, count: int) -> None:
        self.acts, self.count = acts, count
        self.top: pd.DataFrame = acts.top(count)
        self.by_token: pd.DataFrame = acts.by_token()
        rows = acts.table.groupby(["task", "text"], sort=False).indices
        self.rows: Mapping[Any, np.ndarray] = rows
        self.least = dict(zip(acts.neurons, NEAR_ZERO * np.nan_to_num(np.abs(acts.values)).max(0), strict=True))

    def texts(self, neuron: str) -> list[Text]:
        """The texts with the highest activations above 0 and the lowest below: tokens, activations, sign, where."""
        found = []
        top = self.top[(self.top["neuron"] == neuron) & (self.top["value"].abs() > self.least[neuron])]
        for row in top.itertuples():
            tokens = self.acts.table.iloc[self.rows[row.task, row.text]]
            tokens = tokens[
                tokens[neuron].notna()
            ]  # of the stack that the neuron is in; an expert's, of its own tokens
            where = f"{row.task}, text {row.text}"
            found.append(
                {
                    "tokens": read_apart([str(token) for token in tokens["token"]]),
                    "activations": [json_plain(value) for value in tokens[neuron]],
                    "sign": 1 if row.sign == "+" else -1,
                    "where": where,
                }
            )
        return found

    def histogram(self, neuron: str) -> dict[str, Any] | None:
        """Edges, and for each task how many of its tokens lie between neighbours; None without a number."""
        values = self.acts.table[["task", neuron]].dropna()
        if values.empty:
            return None
        edges = np.histogram_bin_edges(values[neuron], BINS)
        counts = {
            str(task): np.histogram(part[neuron], edges)[0].tolist()
            for task, part in values.groupby("task", sort=False)
        }
        return {"edges": edges.tolist(), "counts": counts}

    def tokens(self, neuron: str) -> dict[str, list[tuple[str, float]]]:
        """The tokens at which it is highest and lowest in the mean: toward, away."""
        rows = self.by_token[self.by_token["neuron"] == neuron]
        ends = {
            "toward": rows[rows["mean"] > self.least[neuron]].head(self.count),
            "away": rows[rows["mean"] < -self.least[neuron]][::-1].head(self.count),
        }
        return {side: [(str(r.token), float(r.mean)) for r in part.itertuples()] for side, part in ends.items()}

    def means(self, neuron: str) -> dict[str, float]:
        """Its mean over the tokens of each task."""
        means = self.acts.table.groupby("task", sort=False)[neuron].mean()
        return {str(task): float(mean) for task, mean in means.items()}

    def notes(self, neuron: str) -> list[str]:
        """That it is a sink, or fires nowhere; and that its texts have unknown words."""
        share = self.acts.first.get(neuron)
        if share is None:
            return ["It is 0 at all tokens, or sees none of them."]
        return [*self._sink(neuron, share), *self._unknown(neuron)]

    def _unknown(self, neuron: str) -> list[str]:
        if "unknown" not in self.acts.manifest:
            return []
        token = self.acts.manifest["unknown"]["token"]
        found = [text for text in self.texts(neuron) if token in (word.strip() for word in text["tokens"])]
        return [
            f"{len(found)} of its texts have words that the tokenizer does not know: they stand there as {token}."
        ] * bool(found)

    def _sink(self, neuron: str, share: float) -> list[str]:
        about, told = self.acts.manifest, f"{share:.0%} of its absolute activation is on first tokens"
        if neuron in self.acts.sinks:
            advice = "" if about["skip_first"] else " `skip_first=True` of `ns.activations` leaves these out."
            return [f"{SINK_NOTE}{told}, whatever the text says.{advice}"]
        if neuron in about.get("perhaps_sinks", ()):
            return [f"{told}; these texts are few, short, or all begin alike, and do not tell whether it is a sink."]
        return []


def read_apart(tokens: Sequence[str]) -> list[str]:
    """Tokens that make a text one after another: words of a tokenizer without spaces are set apart.

    Example:
        >>> read_apart(["the", "food"]), read_apart(["the", " food"])
        (['the', ' food'], ['the', ' food'])
    """
    if any(token[:1].isspace() for token in tokens[1:]):
        return list(tokens)
    return [f" {token}" if i else token for i, token in enumerate(tokens)]
