"""The segments of a model's layers: the table, what it says in words, and its figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from neuroscope import figures
from neuroscope.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ZZC24 = ("shared", "transition", "refinement")
CITED = "ZZC24 cut Llama-2-7b into layers 1-9, 10-15 and 16-32; another model or data need not agree."


@dataclass(frozen=True, repr=False)
class Segmentation(Result):
    """The segments of the layers, or one segment of all layers where there is no clear boundary.

    `table` has a row per segment: segment, name, first, last (layers), mean (of the curve), low, high (interval of
    `first` over tasks; NaN for the first segment, and where one task alone leaves nothing to draw from), p (of the
    boundary before it, beside the others; NaN for the first segment).
    """

    title: ClassVar[str] = "The layers in segments"
    captions: ClassVar[Mapping[str, str]] = {"segments": "Segments", "curve": "The curve, and that of every task"}

    @property
    def clear(self) -> bool:
        """Whether there are boundaries, at the level asked for."""
        return bool(self.manifest["clear"])

    @property
    def boundaries(self) -> list[int]:
        """First layer of every segment but the first; empty where there is no clear boundary."""
        return [int(first) for first in self.table["first"][1:]]

    def __repr__(self) -> str:
        at = f"boundaries before layers {', '.join(map(str, self.boundaries))}" if self.clear else "no clear boundary"
        how = self.manifest
        return f"Segmentation({at}; {how['n_layers']} layers, {how['tasks']} task(s), p = {how['p']:.2g})"

    def tables(self) -> dict[str, pd.DataFrame]:
        """The segments, and the curve by layer: the mean over tasks, and every task."""
        import pandas as pd  # heavy: only where a table is made

        how = self.manifest
        return {
            "segments": self.to_frame(),
            "curve": pd.DataFrame({"layer": how["layers"], "mean": how["curve"], **how["curves"]}),
        }

    def in_words(self) -> str:
        """What was found and what that says; that there is no clear boundary is a negative."""
        said = self.sentence()
        return said if self.clear else f"**A negative**: {said[0].lower()}{said[1:]}"

    def sentence(self) -> str:
        """What was found and what that says, in plain sentences."""
        how = self.manifest
        who = f"the mean curve of {how['tasks']} tasks" if how["tasks"] > 1 else "the curve of one task"
        gone = [left if isinstance(left, str) else f"layer {left}" for left in how["left_out"]]
        out = f" Left out, as values are missing: {', '.join(gone)}." if gone else ""
        if not self.clear:
            return f"No clear boundary in {who} over {how['n_layers']} layers: {how['reason']}.{out}"
        rows = self.table.to_dict("records")
        spans = [f"{r['name']} {_span(r['first'], r['last'])} (mean {r['mean']:.3g})" for r in rows]
        fewer = how["boundaries"] - len(rows[1:])
        dropped = f" {fewer} of {how['boundaries']} boundaries looked for did not hold." if fewer else ""
        p = "its p beside the others" if len(rows) > 2 else "its p"
        beside = f"its 95 % interval over tasks and {p}" if how["tasks"] > 1 else f"{p} (one task, no interval)"
        return (
            f"{who[0].upper()}{who[1:]} falls into {len(spans)} segments: {', '.join(spans)}. First layer after each "
            f"boundary, with {beside}: {', '.join(map(_boundary, rows[1:]))}.{dropped} Shuffled layers are cut as well "
            f"in {how['p']:.2g} of the cases (p). The boundaries are of this curve; they do not say what the layers "
            f"do.{out} {CITED}"
        )

    def figure(self) -> go.Figure:
        """The curve of every task and their mean, segments shaded, boundaries with their intervals."""
        how = self.manifest
        rows = self.table.to_dict("records")
        subtitle = (
            f"p = {how['p']:.2g} against shuffled layers" if self.clear else f"no clear boundary: {how['reason']}"
        )
        if how["tasks"] > 1:
            subtitle += "; thin: single tasks"
        return figures.segmented(
            how["layers"],
            how["curve"],
            how["curves"],
            [(r["name"], r["first"], r["last"]) for r in rows],
            [(r["first"], r["low"], r["high"]) for r in rows[1:]],
            title="The layers in segments" if self.clear else "The layers, not cut",
            subtitle=subtitle,
            y_label=how["label"],
        )


def _boundary(row: Mapping[str, Any]) -> str:
    """The first layer of a segment, with its interval where there is one, and p."""
    interval = f"{int(row['low'])} to {int(row['high'])}, " if np.isfinite(row["low"]) else ""
    return f"{int(row['first'])} ({interval}p = {row['p']:.2g})"


def _span(first: float, last: float) -> str:
    return f"layer {int(first)}" if first == last else f"layers {int(first)}-{int(last)}"
