"""ParameterSimilarity: similarity by layer beside its band of random masks, as a table and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from neuroscope import figures
from neuroscope.checks import public
from neuroscope.comparison.parameters.bands import ALL, above_by_chance
from neuroscope.errors import choose
from neuroscope.figures import style
from neuroscope.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

CURVES = 7  # tasks up to which each is drawn
RANDOM = "random masks of the same sizes"
LABELS = {"value": "{estimator} cosine", "delta": "norm of the difference", "relative": "difference / norm"}
LIMITS = {
    "masked": "In this cosine only neurons that both tasks have meet: it is their overlap, weighted by the size of "
    "their parameters, and says nothing of different neurons that do the same.",
    "mean": "A cosine of mean parameters says that sets of neurons point the same way on the whole, not that any two "
    "neurons do the same.",
    "matched": "A neuron that both tasks have matches itself, so this cosine too rises with the overlap of the tasks.",
}


@dataclass(frozen=True, repr=False)
class ParameterSimilarity(Result):
    """Similarity of neurons by their parameters, per pair of masks and layer.

    `table` has a row per pair and layer: a, b, block (such as `blocks.3`), layer (depth in forward order), neurons_a,
    neurons_b, shared, value, low and high (the 2.5 and 97.5 % points of random masks), and reason
    (why a value is NaN, else empty). A further random mask lies above the band of C of them with a chance of
    (0.025 (C - 1) + 1) / (C + 1): 7 % for 20, 3 % for 100, so a single point above it is no finding.

    Inside one model, a pair is listed once; with a model per task, the pair (a, b) is read inside the model trained on
    a, and (b, a) inside the one trained on b. Between two models, a and b are the same mask, `value` is the cosine of
    its parameters before and after, and delta and relative are the norm of the difference, absolute and over the norm
    before, each with `_low` and `_high`.
    """

    title: ClassVar[str] = "Similarity of the tasks' neurons by their parameters"
    captions: ClassVar[Mapping[str, str]] = {"by layer": "Mean over pairs, by task and layer", "rows": "Every pair"}

    @public
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

    @public
    def figure(self, measure: str | None = None) -> go.Figure:
        """Curves over depth beside the band of random masks; gaps where a mask has no neuron in the layer.

        Args:
            measure: as in `by_layer`. None: "value" inside one model; "relative" between two, where cosines are all
                near 1.
        """
        measure = self._default if measure is None else measure
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
        if shown == [ALL]:  # the mean over all has a narrower band than a single task
            random |= {c: table.loc[table["task"] == ALL, c].tolist() for c in ("low", "high")}
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
        all_shown = "mean over all masks; " if self.manifest["other"] else "mean over all pairs; "
        each_shown = "each task's own neurons; " if self.manifest["other"] else "each task, mean over its pairs; "
        over = "" if is_one else all_shown if shown == [ALL] else each_shown
        of = "" if is_one or shown == [ALL] else " of a single task's mean"
        gaps = int(self.table["value"].isna().sum())
        return f"{over}shaded: 95 %{of} over {self.manifest['n_random']} draws of layer-matched masks" + (
            f"; {gaps} of {len(self.table)} layers of pairs undefined" if gaps else ""
        )

    @property
    def _default(self) -> str:
        """The measure that is shown where none is asked for: between two models cosines are all near 1."""
        return "relative" if self.manifest["other"] else "value"

    def tables(self) -> dict[str, pd.DataFrame]:
        """The means by layer, and every pair."""
        return {"by layer": self.by_layer(self._default), "rows": self.to_frame()}

    def in_words(self) -> str:
        """How alike the neurons are, in which layers most, and whether more than random ones of the same sizes."""
        rows, how = self._means(), self.manifest
        if rows["value"].isna().all():
            return f"**A negative**: in no layer is there a similarity ({self.table['reason'].iloc[0]})."
        if how["other"]:
            where, limits = "between the two models", []
        else:
            where = "inside the models trained on one task each" if how["per_task"] else "inside the model"
            limits = [f"- {LIMITS[how['estimator']]}"]
        lead, *points = self.said_of_means(where)
        return "\n".join([lead, "", *[f"- {point}" for point in points], *limits])

    def said_of_means(self, where: str) -> list[str]:
        """Sentences on the mean over all pairs by layer; there must be one. `where` the neurons were compared."""
        rows, draws = self._means(), self.manifest["n_random"]
        rows = rows[rows["value"].notna()]
        best, least = rows.loc[rows["value"].idxmax()], rows.loc[rows["value"].idxmin()]
        count = int(rows["pairs"].max())
        over = f"mean over {len(rows)} layers and {count} {'mask' if self.manifest['other'] else 'pair'}"
        over += "" if count == 1 else "s"
        extremes = f"highest in layer {best['layer']} ({best['value']:.3f}), lowest in layer {least['layer']} "
        extremes += f"({least['value']:.3f})."
        if self.manifest["other"]:
            what = f"The parameters of a mask's neurons differ {where} by **{rows['value'].mean():.3f}** of their norm"
            said = [f"{what} ({over}): {extremes}"]
        else:
            what = f"The {self.manifest['estimator']} cosine of two tasks' neurons {where}"
            said = [f"{what} is **{rows['value'].mean():.3f}** ({over}): {extremes}"]
        above = int((rows["value"] > rows["high"]).sum())
        more = "The masks' neurons differ more" if self.manifest["other"] else "The tasks' neurons are more alike"
        said.insert(0, f"{more} than random ones of the same layers in **{above} of {len(rows)}** layers.")
        said += self._beside_random(rows, draws)
        gaps = int(self.table["value"].isna().sum())
        return said + (
            [f"{gaps} of {len(self.table)} layers of pairs have no value, and are in no mean."] if gaps else []
        )

    def _beside_random(self, rows: pd.DataFrame, draws: int) -> list[str]:
        measure, prefix = self._default, f"{self._default}_" if self.manifest["other"] else ""
        cells = self.table[self.table[measure].notna()]
        above, chance = rows[rows["value"] > rows["high"]], above_by_chance(draws)
        single = int((cells[measure] > cells[f"{prefix}high"]).sum())
        what = "mask" if self.manifest["other"] else "pair"
        said = [
            f"Random masks of the same sizes in the same layers have {((rows['low'] + rows['high']) / 2).mean():.3f} "
            f"(middle of the band of {draws} draws). The tasks' mean lies above their band in **{len(above)} of "
            f"{len(rows)}** layers ({chance * len(rows):.1f} by chance alone), single {what}s in {single} of "
            f"{len(cells)} ({chance * len(cells):.1f} by chance alone)."
        ]
        rest = rows[rows["value"] <= rows["high"]]["layer"].tolist()
        if rest:
            named = f"layer{'s' if len(rest) > 1 else ''} {', '.join(map(str, rest))}"
            more = "differ no more than" if self.manifest["other"] else "are no more alike than"
            said.append(f"**A negative**: in {named} the tasks' neurons {more} random ones.")
        return said

    def _means(self) -> pd.DataFrame:
        """The mean over all pairs by layer."""
        rows = self.by_layer(self._default)
        return rows[rows["task"] == ALL].reset_index(drop=True)

    def __repr__(self) -> str:
        how, gaps = self.manifest, int(self.table["value"].isna().sum())
        known = self.table[self.table["value"].notna() & self.table["low"].notna()]
        above, below = int((known["value"] > known["high"]).sum()), int((known["value"] < known["low"]).sum())
        what = f"{how['estimator']} cosine{_of(how)}, {len(how['masks'])} masks, {len(how['blocks'])} layers"
        band = ""
        if len(known):
            chance = len(known) * above_by_chance(how["n_random"])
            counts = f"{above} of {len(known)} above" + (f" and {below} below" if how["other"] else "")
            band = f", {counts} the band of {how['n_random']} random masks ({chance:.1f} by chance alone)"
        return f"{type(self).__name__}({what}: {len(self.table)} rows{band}, {gaps} undefined)"


def _of(manifest: Mapping[str, Any]) -> str:
    part = manifest["part"]
    return "" if part == "all" else f" ({part})"


def _hover(row: Mapping[str, Any]) -> str:
    text = f"{row['block']}, mean over {row['pairs']}" + (f" ({row['gaps']} undefined)" if row["gaps"] else "")
    return text + (f"<br>random masks: {row['low']:.3g} to {row['high']:.3g}" if np.isfinite(row["low"]) else "")
