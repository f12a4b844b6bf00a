"""How many principal components the representations take, layer by layer (ZZC24 Figure 5).

Beside the same activations with every feature shuffled by itself (Horn 1965, parallel analysis), of all tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from neuroscope import figures
from neuroscope.experiments.layer_by_layer.chance import SHUFFLED, shuffled_dimensions
from neuroscope.experiments.layer_by_layer.mossa_table import ALL, MULTI, PRE, MossaTable, layer_words
from neuroscope.experiments.layer_by_layer.part import NEGATIVE, MossaPart, capital, frame, left_out, stacked

if TYPE_CHECKING:
    import plotly.graph_objects as go

NEAR = 0.9  # of the most components that the examples allow: then their number is the examples', not the model's


class Components(MossaPart):
    """A row per model and layer: components of all tasks' examples together, and of copies with shuffled features."""

    title = "Dimensions of the representations, by layer"
    captions: ClassVar[Mapping[str, str]] = {"summary": "Components, beside copies with shuffled features"}


def components(mossa: MossaTable) -> Components:
    """The numbers of components, beside those of shuffled features.

    Raises:
        ArgumentError: a result that was loaded from a file, which has no representations.
    """
    mossa.require_representations("dimensions beside shuffled features")
    lines, rows = words(mossa), []
    seed = mossa.manifest["seed"]
    for model in mossa.models:
        wide = mossa.values("dimension", model)
        pooled = wide.loc[ALL if ALL in wide.index else wide.index[0]].to_numpy(dtype=float)
        low, high = shuffled_dimensions(mossa.representations[model], mossa.manifest["share"], seed)
        columns = {"model": model, "value": pooled, "shuffled_low": low, "shuffled_high": high}
        rows.append(frame({"layer": range(len(pooled)), **columns}))
        lines.append(_beside_shuffled(model, pooled, low, high))
    table = stacked(rows)
    few = "The number grows with the examples: compare only models on the same ones."
    lines += [*left_out(mossa, "dimension"), few]
    return Components.of(mossa, lines, [curves(mossa, table)], table, shuffled=SHUFFLED)


def curves(mossa: MossaTable, table: Any) -> go.Figure:
    """Components by layer; all tasks together, and each task thin; shaded: features shuffled."""
    by_model = dict(list(table.groupby("model", sort=False)))
    thick: dict[str, Any] = {model: (rows["value"].to_numpy(), None, None) for model, rows in by_model.items()}
    # the models' bands differ by little: one for both
    low = np.min([rows["shuffled_low"] for rows in by_model.values()], axis=0)
    high = np.max([rows["shuffled_high"] for rows in by_model.values()], axis=0)
    thick["features shuffled"] = ((low + high) / 2, low, high)
    thin = {model: mossa.values("dimension", model).drop(index=ALL, errors="ignore") for model in mossa.models}
    held = ", held-out tasks among them" if mossa.manifest["held_out"] else ""
    gone = mossa.missing("dimension")
    return figures.layer_curves(
        thick, mossa.layer_names, title="Dimensions of the representations",
        subtitle=f"thick: all tasks together, thin: single tasks{held}" + (f"; {gone}" if gone else ""),
        y_label=f"components for {100 * mossa.manifest['share']:g} % of the variance",
        tasks={m: {str(t): row.tolist() for t, row in rows.iterrows()} for m, rows in thin.items()},
        groups=mossa.families,
    )  # fmt: skip


def words(mossa: MossaTable) -> list[str]:
    """Where each model has most dimensions, and which model has more."""
    rows = mossa.table[(mossa.table["measure"] == "dimension") & mossa.table["value"].notna()]
    pooled = rows[rows["task"] == ALL] if (rows["task"] == ALL).any() else rows
    if pooled.empty:
        return ["There are no dimensions to speak of."]
    lines = []
    for model, cells in pooled.groupby("model", sort=False):
        medians = cells.groupby("layer")["value"].median()
        lines.append(
            f"{100 * mossa.manifest['share']:g} % of the variance of the {model} model's representations take "
            f"{medians.iloc[0]:.0f} components at {layer_words(medians.index[0])}, {medians.iloc[-1]:.0f} at "
            f"{layer_words(medians.index[-1])}, and most ({medians.max():.0f}) at {layer_words(medians.idxmax())}."
        )
    if pooled["model"].nunique() == 2:
        wide = pooled.pivot_table(index=["task", "layer"], columns="model", values="value")
        more = int((wide[MULTI] > wide[PRE]).sum())
        lines.append(f"The multi-task model takes more than the pre-trained one in {more} of {len(wide)} comparisons.")
    near = float((pooled["value"] >= NEAR * pooled["limit"]).mean())
    if near:
        lines.append(
            f"{near:.0%} of these numbers are near the most that so few examples or features allow: there they say how "
            "many examples there are, not how the model works."
        )
    return lines


def _beside_shuffled(model: str, counts: Any, low: Any, high: Any) -> str:
    """In how many layers there are fewer components than in every copy with shuffled features."""
    known = np.isfinite(counts) & np.isfinite(low)
    fewer = known & (counts < low)
    line = (
        f"with every feature shuffled by itself the {model} model's representations would take "
        f"{np.nanmin(low, initial=np.inf):.0f} to {np.nanmax(high, initial=-np.inf):.0f} components: the real ones "
        f"take fewer than all of {SHUFFLED} such copies in {int(fewer.sum())} of {int(known.sum())} layers (by "
        f"chance, {known.sum() / (SHUFFLED + 1):.2g})."
    )
    return capital(line) if fewer.sum() == known.sum() and known.any() else NEGATIVE + line
