"""How alike a model is, layer by layer, to models tuned on one task each (ZZC24 Figure 2).

Beside the CKA of shuffled examples, of the tasks that the multi-task model has learnt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from neuroscope import figures
from neuroscope.experiments.layer_by_layer.mossa_table import MULTI, PRE, MossaTable, layer_words, tasks_words
from neuroscope.experiments.layer_by_layer.part import CAVEAT, NEGATIVE, MossaPart, capital, left_out
from neuroscope.statistics import ALPHA, mean_interval, paired_permutation

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FLAT = 0.02  # of CKA: medians that differ by less are called flat


class ByLayer(MossaPart):
    """A row per model and layer: median, lowest and highest CKA over tasks, and the band of shuffled examples."""

    title = "CKA with models tuned on one task, by layer"
    captions: ClassVar[Mapping[str, str]] = {"summary": "CKA over tasks, by layer, beside shuffled examples"}


def by_layer(mossa: MossaTable) -> ByLayer:
    """The curve over layers, in words and boxes."""
    mossa = mossa.learnt()
    rows = mossa.cka()
    columns: Any = {"median": "median", "lowest": "min", "highest": "max"}
    table = rows.groupby(["model", "layer"], sort=False)["value"].agg(**columns)
    band = rows.groupby(["model", "layer"], sort=False)[["low", "high"]].mean()
    near = boxes(mossa, band=False)  # beside chance near 0 the boxes are lines, where all values are near 1
    near.update_layout(title_text=near.layout.title.text.replace("</b>", ", close up</b>"))
    return ByLayer.of(mossa, words(mossa), [boxes(mossa), near], table.join(band).reset_index())


def boxes(mossa: MossaTable, band: bool = True) -> go.Figure:
    """Box plots over tasks of the CKA with the control models, by layer, models side by side.

    Args:
        band: whether to shade the chance level, where one was computed.
    """
    gone = mossa.missing("cka")
    return figures.layer_boxes(
        mossa.series("cka"), mossa.layer_names, title="CKA with the models tuned on one task", y_label=mossa.cka_name,
        subtitle="one value per task" + (f"; {gone}" if gone else ""), groups=mossa.families,
        band=_band(mossa) if band and mossa.manifest["null"] else None,
    )  # fmt: skip


def _band(mossa: MossaTable) -> tuple[str, list[float], list[float]]:
    """The chance level by layer, with its name."""
    rows = mossa.table[mossa.table["measure"] == "cka"].groupby("layer")[["low", "high"]]
    means = rows.agg(lambda v: v.mean() if v.notna().any() else np.nan)
    over = "tasks and models" if len(mossa.models) > 1 else "tasks"
    return f"95 % of shuffled examples, mean over {over}", means["low"].tolist(), means["high"].tolist()


def words(mossa: MossaTable) -> list[str]:
    """Where each model is near to the control models, how the models differ, and what may be chance."""
    rows = mossa.cka()
    if rows.empty:
        return ["There is no CKA to speak of.", *left_out(mossa, "cka")]
    lines = _difference(mossa) if rows["model"].nunique() == 2 else []
    for model, cells in rows.groupby("model", sort=False):
        medians = cells.groupby("layer")["value"].agg(["median", "count"])
        first, last, low = (
            f"{medians.loc[layer, 'median']:.3f} at {layer_words(layer)} (median of "
            f"{tasks_words(medians.loc[layer, 'count'])})"
            for layer in (medians.index[0], medians.index[-1], medians["median"].idxmin())
        )
        lines.append(
            f"The {model} model's CKA with the models tuned on one task is {first} and {last}; it is lowest, {low}."
        )
    complete, dropped = mossa.without_gaps()
    for model, cells in complete.groupby("model", sort=False):
        medians = cells.groupby("layer")["value"].median()
        across = float(medians.max() - medians.min())
        if across < FLAT:
            lines.append(
                f"{NEGATIVE}the {model} model's medians differ by {across:.3f} over the layers: a curve so flat shows "
                "no layer where tasks part."
            )
    if mossa.manifest["null"]:
        lines += _chance(rows, mossa.manifest["null"])
    return [*lines, *dropped, *left_out(mossa, "cka"), CAVEAT]


def _difference(mossa: MossaTable) -> list[str]:
    """Whether the multi-task model is nearer to the control models than the pre-trained one."""
    wide = mossa.means()
    if wide.empty:
        return ["No layer has a value for every task in both models: they are not compared."]
    difference = (wide[MULTI] - wide[PRE]).to_numpy()
    p, mean = paired_permutation(wide[MULTI].to_numpy(), wide[PRE].to_numpy()), difference.mean()
    low, high = mean_interval(difference)
    span = f"95 % interval {low:+.4f} to {high:+.4f}" if len(wide) > 1 else "one task, no interval"
    verdict = "closer to them than" if mean > 0 else "farther from them than"
    if p >= ALPHA:
        verdict = "neither clearly closer to them nor farther from them than"
    least = 2 / 2 ** len(wide)  # of all signs of the tasks' differences, all alike are two
    few = f" With {tasks_words(len(wide))} this p cannot be below {least:.2g}: nothing could have been clear."
    line = (
        f"the multi-task model is {verdict} the pre-trained one ({mean:+.4f}, mean over layers and "
        f"{tasks_words(len(wide))}; {span}, p = {p:.2g}).{few if least >= ALPHA else ''}"
    )
    return [capital(line) if p < ALPHA and mean > 0 else NEGATIVE + line]


def _chance(rows: pd.DataFrame, null: int) -> list[str]:
    """How many values lie beyond those of shuffled examples."""
    outside, sure = (rows["value"] > rows["high"]).mean(), (rows["q"] <= ALPHA).mean()
    lines = [
        f"{outside:.0%} of the values lie above the band of 95 % of shuffled examples (2.5 % would by chance), "
        f"{sure:.0%} at q <= {ALPHA}."
    ]
    inside = rows[rows["q"] > ALPHA]
    if len(inside):
        unreached = int((inside["p"] <= (1 + 1e-9) / (null + 1)).sum())  # more permutations might show them so
        few = (
            f" With {null} permutations neither p nor q can fall below {1 / (null + 1):.2g}, and {unreached} of these "
            "values none of them reached: raise null."
        )
        lines.append(
            f"{NEGATIVE}{len(inside)} of {len(rows)} values are not shown to be beyond chance (q > {ALPHA})."
            + (few if unreached or 1 / (null + 1) > ALPHA else "")
        )
    return lines
