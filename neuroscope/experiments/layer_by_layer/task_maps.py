"""Maps of the tasks' representations, layer by layer (ZZC24 Figure 4), and whether clusters of tasks stand together.

A map alone proves no cluster: in the representation itself, whether the nearest examples of other tasks are of the same
cluster, beside the clusters' names shuffled over the tasks. Of all tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from neuroscope import figures
from neuroscope.comparison.maps import Maps, tsne
from neuroscope.experiments.layer_by_layer.chance import DRAWS, NEAREST, PER_TASK, groupings, neighbours, too_few
from neuroscope.experiments.layer_by_layer.mossa_table import MossaTable, layers_words
from neuroscope.experiments.layer_by_layer.part import NEGATIVE, MossaPart, frame, with_model
from neuroscope.statistics import ALPHA, benjamini_hochberg

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


class TaskMaps(MossaPart):
    """A row per model and layer: the share of nearest examples of other tasks that are of the same cluster; p, q."""

    title = "Maps of the tasks' representations, layer by layer"
    captions: ClassVar[Mapping[str, str]] = {"summary": "Nearest examples of other tasks that are of the same cluster"}


def task_maps(mossa: MossaTable) -> TaskMaps:
    """Maps of each model's representations, and the neighbours of other tasks by layer.

    Raises:
        ArgumentError: a result that was loaded from a file, which has no representations.
    """
    mossa.require_representations("maps of the representations")
    seed, families = mossa.manifest["seed"], mossa.families
    drawn, rows = [], []
    for model in mossa.models:
        maps: Maps = tsne(mossa.representations[model], n=PER_TASK, seed=seed)
        drawn += [with_model(maps.figure(), model), with_model(_beside_each_other(maps), model, ", layer by layer")]
        rows += [{"model": model, **row} for row in neighbours(mossa.representations[model], families, seed)]
    table = frame(rows)
    table["q"] = benjamini_hochberg(table["p"].to_numpy())
    if table["value"].notna().any():
        drawn.append(together(table))
    settings = {"neighbours": NEAREST, "per_task": PER_TASK, "draws": DRAWS}
    return TaskMaps.of(mossa, words(table, families), drawn, table, **settings)


def _beside_each_other(maps: Maps) -> go.Figure:
    """Some layers' maps: in two columns where there are few."""
    return maps.multiples(columns=2 if len(maps.layers) - len(maps.manifest["gaps"]) <= 4 else 3)


def together(table: pd.DataFrame) -> go.Figure:
    """The share of neighbours of the same cluster by layer; shaded: the clusters' names shuffled."""
    curves: dict[str, Any] = {}
    for model, cells in table.groupby("model", sort=False):
        if cells["value"].notna().any():
            curves[str(model)] = (cells["layer"].tolist(), tuple(cells[c].tolist() for c in ("value", "low", "high")))
    return figures.curves_with_band(
        curves, title="Do clusters of tasks stand together?", x_label="layer",
        y_label=f"share of the {NEAREST} nearest of other tasks",
        subtitle="shaded: 95 % with the clusters' names shuffled over the tasks",
    )  # fmt: skip


def words(table: pd.DataFrame, families: Mapping[str, str]) -> list[str]:
    """In which layers clusters stand together, and in which that is not shown."""
    lines, gaps = [], table[table["value"].isna()]
    for model, cells in table.groupby("model", sort=False):
        known = cells[cells["value"].notna()]
        if known.empty:
            lines.append(f"{NEGATIVE}of the {model} model nothing can be said: {cells['reason'].iloc[0]}.")
            continue
        best, above = known.loc[known["value"].idxmax()], known[known["q"] <= ALPHA]
        lines.append(
            f"In the {model} model's representations clusters of tasks stand together beyond chance (q <= {ALPHA}) in "
            f"{layers_words(above['layer'])} of {len(known)}. Of the {NEAREST} nearest examples of other tasks up to "
            f"{best['value']:.0%} are of the example's own cluster (layer {best['layer']}); with the clusters' names "
            f"shuffled over the tasks, 95 % of the shares there are {best['low']:.0%} to {best['high']:.0%}."
        )
        rest = known[known["q"] > ALPHA]["layer"]
        if len(rest):
            few = too_few(groupings(list(families.values())), ALPHA)
            lines.append(
                f"{NEGATIVE}in {layers_words(rest)} of the {model} model it is not shown that clusters stand together."
                f"{few}"
            )
    if len(gaps) and len(gaps) < len(table):
        layers, why = gaps["layer"].unique().tolist(), "; ".join(gaps["reason"].unique())
        lines.append(f"Layers without a value: {', '.join(map(str, layers))} ({why}).")
    return [
        *lines,
        "A t-SNE map shows who is near whom; sizes of clusters and distances between them mean nothing.",
        "Tasks of a cluster have alike prompts: standing together need not be more than that.",
    ]
