"""ParameterSimilarity: similarity by layer beside its band of random masks, as a table and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuroscope import figures
from neuroscope.errors import choose
from neuroscope.figures import style
from neuroscope.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

CURVES = 7  # tasks up to which each is drawn
BAND = (0.025, 0.975)
ALL, RANDOM = "mean over all", "random masks of the same sizes"
LABELS = {"value": "{estimator} cosine", "delta": "norm of the difference", "relative": "difference / norm"}

Floats = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class ParameterSimilarity(Result):
    """Similarity of neurons by their parameters, per pair of masks and layer.

    `table` has a row per pair and layer: a, b, block (such as `blocks.3`), layer (depth in forward order), neurons_a,
    neurons_b, shared, value, low and high (the 2.5 and 97.5 % points of random masks, NaN without controls), and reason
    (why a value is NaN, else empty). A further random mask lies above the band of C of them with a chance of
    (0.025 (C - 1) + 1) / (C + 1): 7 % for 20, 3 % for 100, so a single point above it is no finding.

    Inside one model, a pair is listed once; with a model per task, the pair (a, b) is read inside the model trained on
    a, and (b, a) inside the one trained on b. Between two models, a and b are the same mask, `value` is the cosine of
    its parameters before and after, and delta and relative are the norm of the difference, absolute and over the norm
    before, each with `_low` and `_high`.
    """

    def by_layer(self, measure: str = "value") -> pd.DataFrame:
        """The mean over pairs by layer, for each task and over all (LX24 Figure 3).

        Args:
            measure: "value", or between two models "delta" or "relative".

        Returns:
            task, block, layer, value, low, high, pairs (how many are averaged), gaps (how many are NaN, in no mean). A
            task's pairs are all that it is in; with a model per task, those in which it is b, over all models but
            its own. low and high are the 2.5 and 97.5 % points of the same mean over random masks.
        """
        import pandas as pd

        curves = self.manifest["by_layer"]
        columns = curves[choose(measure, curves, "measure")]["tasks"]
        numbers = {c: np.array(columns[c], dtype=float) for c in ("value", "low", "high")}
        return pd.DataFrame(columns | numbers)

    def figure(self, measure: str | None = None) -> go.Figure:
        """Curves over depth beside the band of random masks; gaps where a mask has no neuron in the layer.

        Args:
            measure: as in `by_layer`. None: "value" inside one model; "relative" between two, where cosines are all
                near 1.
        """
        if measure is None:
            measure = "relative" if self.manifest["other"] else "value"
        table, blocks = self.by_layer(measure), self.manifest["blocks"]
        single = [task for task in table["task"].unique() if task != ALL]
        is_one = len(self.table[["a", "b"]].drop_duplicates()) == 1
        shown = [ALL] if is_one or len(single) > CURVES else single
        first = self.table.iloc[0]
        one = first["a"] if first["a"] == first["b"] else f"{first['a']} | {first['b']}"
        curves: dict[str, Any] = {}
        hover: dict[str, Sequence[str]] = {}
        for task in shown:
            rows = table[table["task"] == task]
            label = one if is_one else task
            curves[label] = (rows["layer"].tolist(), (rows["value"].tolist(), None, None))
            hover[label] = [_hover(row) for row in rows.to_dict("records")]
        random = dict(self.manifest["by_layer"][measure]["random"])
        if shown == [ALL]:  # its own band, narrower than a single task's
            random |= {c: table.loc[table["task"] == ALL, c].tolist() for c in ("low", "high")}
        if self.manifest["controls"]:
            value, low, high = (np.array(random[c], dtype=float).tolist() for c in ("value", "low", "high"))
            curves[RANDOM] = (list(range(len(blocks))), (value, low, high))
            hover[RANDOM] = [f"{block}: {a:.3g} to {b:.3g}" for block, a, b in zip(blocks, low, high, strict=True)]
        figure = figures.curves_with_band(
            curves,
            title="Difference between two models" if self.manifest["other"] else "Similarity of the tasks' neurons",
            subtitle=self._subtitle(is_one, shown),
            x_label="layer",
            y_label=LABELS[measure].format(**self.manifest) + _of(self.manifest),
            hover=hover,
        )
        grey, dotted = "#7b8794", {"color": "#7b8794", "dash": "dot"}
        figure.update_traces(selector={"name": RANDOM}, mode="lines", line=dotted)
        figure.update_traces(selector={"name": f"{RANDOM}: band"}, fillcolor=style.fade(grey, 0.2))
        figure.data = sorted(figure.data, key=lambda trace: not trace.name.startswith(RANDOM))  # beneath the tasks
        return figure

    def _subtitle(self, is_one: bool, shown: Sequence[str]) -> str:
        about = self.manifest
        over = "" if is_one else "mean over all pairs; " if shown == [ALL] else "each task, mean over its pairs; "
        if about["other"]:
            over = "" if is_one else "mean over all masks; " if shown == [ALL] else "each task's own neurons; "
        of = "" if is_one or shown == [ALL] else " of a single task's mean"
        band = f"shaded: 95 %{of} over {about['controls']} draws of layer-matched masks" if about["controls"] else ""
        gaps = int(self.table["value"].isna().sum())
        return f"{over}{band}" + (f"; {gaps} of {len(self.table)} layers of pairs undefined" if gaps else "")

    def __repr__(self) -> str:
        about, gaps = self.manifest, int(self.table["value"].isna().sum())
        outside = self.table[self.table["value"].notna() & self.table["low"].notna()]
        above = int((outside["value"] > outside["high"]).sum())
        what = f"{about['estimator']} cosine{_of(about)}, {len(about['masks'])} masks, {len(about['blocks'])} layers"
        band = ""
        if len(outside):
            chance, draws = len(outside) * above_by_chance(about["controls"]), about["controls"]
            below = int((outside["value"] < outside["low"]).sum())
            counts = (
                f"{above} of {len(outside)} above and {below} below"
                if about["other"]
                else f"{above} of {len(outside)} above"
            )
            band = f", {counts} the band of {draws} random masks ({chance:.1f} by chance alone)"
        return f"{type(self).__name__}({what}: {len(self.table)} rows{band}, {gaps} undefined)"


def above_by_chance(draws: int) -> float:
    """The chance that one further random mask lies above the band of some.

    Example:
        >>> round(above_by_chance(20), 3), round(above_by_chance(100), 3)
        (0.07, 0.034)
    """
    return (BAND[0] * (draws - 1) + 1) / (draws + 1)


def curves(
    rows: Mapping[str, Sequence[Any]], values: Floats, controls: Floats, blocks: Sequence[str]
) -> dict[str, Any]:
    """Means over pairs by layer with the band of the same means over random masks, as plain lists for a manifest.

    Args:
        rows: label of a mean -> which pairs are in it.
        values: [pair, layer]; NaN is in no mean.
        controls: [pair, layer, control].

    Returns:
        tasks: the columns of `by_layer`. random: the band over layers of all tasks' means together.
    """
    tasks: dict[str, list] = {c: [] for c in ("task", "block", "layer", "value", "low", "high", "pairs", "gaps")}
    random: list[Floats] = []
    for label, chosen in rows.items():
        own, drawn = values[list(chosen)], controls[list(chosen)]
        defined = np.isfinite(own)
        means, bands = _mean(own), _mean(drawn)
        random += [bands] if label != ALL else []
        low, high = band(bands)
        tasks["task"] += [label] * len(blocks)
        tasks["block"] += list(blocks)
        tasks["layer"] += list(range(len(blocks)))
        tasks["pairs"] += defined.sum(0).tolist()
        tasks["gaps"] += (~defined).sum(0).tolist()
        for name, numbers in (("value", means), ("low", low), ("high", high)):
            tasks[name] += plain(numbers)
    pooled = np.concatenate(random, axis=1)
    low, high = band(pooled)
    middle = {"value": plain(_mean(pooled.T)), "low": plain(low), "high": plain(high)}
    return {"tasks": tasks, "random": middle}


def band(controls: Floats) -> tuple[Floats, Floats]:
    """The 2.5 and 97.5 % points along the last axis, over what is defined; NaN where nothing is."""
    found = np.full((2, *controls.shape[:-1]), np.nan)
    for place in np.ndindex(controls.shape[:-1]):
        drawn = controls[place][np.isfinite(controls[place])]
        if drawn.size:
            found[(slice(None), *place)] = np.quantile(drawn, BAND)
    return found[0], found[1]


def plain(values: Floats) -> list[float | None]:
    """Numbers for JSON, where there is no NaN."""
    return [float(v) if np.isfinite(v) else None for v in values]


def _mean(values: Floats) -> Floats:
    """Mean over the first axis of what is defined; NaN where nothing is."""
    defined = np.isfinite(values)
    total = np.where(defined, values, 0.0).sum(0)
    return np.divide(total, defined.sum(0), out=np.full(total.shape, np.nan), where=defined.any(0))


def _of(manifest: Mapping[str, Any]) -> str:
    part = manifest["part"]
    return "" if part == "all" else f" ({part})"


def _hover(row: Mapping[str, Any]) -> str:
    text = f"{row['block']}, mean over {row['pairs']}" + (f" ({row['gaps']} undefined)" if row["gaps"] else "")
    return text + (f"<br>random masks: {row['low']:.3g} to {row['high']:.3g}" if np.isfinite(row["low"]) else "")
