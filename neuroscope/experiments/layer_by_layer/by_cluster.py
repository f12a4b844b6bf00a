"""The same CKA by cluster of tasks (ZZC24 Figure 3), beside the clusters' names shuffled over the tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from neuroscope import figures
from neuroscope.experiments.layer_by_layer.chance import between_clusters, groupings, orders, too_few
from neuroscope.experiments.layer_by_layer.mossa_table import MossaTable
from neuroscope.experiments.layer_by_layer.part import CAVEAT, NEGATIVE, MossaPart, capital, frame, left_out
from neuroscope.statistics import ALPHA, permutation_p

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


class ByCluster(MossaPart):
    """A row per model and cluster: mean CKA over layers and tasks."""

    title = "CKA with models tuned on one task, by cluster of tasks"
    captions: ClassVar[Mapping[str, str]] = {"summary": "Mean CKA by cluster"}


def by_cluster(mossa: MossaTable) -> ByCluster:
    """Whether clusters of tasks differ, of the tasks that the multi-task model has learnt."""
    mossa = mossa.learnt()
    lines, rows = words(mossa), []
    for model, means in mossa.means().items():
        names = np.array([mossa.families[task] for task in means.index])
        rows += [{"model": model, "cluster": c, "cka": means[names == c].mean()} for c in dict.fromkeys(names)]
        if len(names):
            lines.append(_beside_shuffled(str(model), means, names, mossa.manifest["seed"]))
    return ByCluster.of(mossa, [*lines, *left_out(mossa, "cka"), CAVEAT], [panels(mossa)], frame(rows))


def panels(mossa: MossaTable) -> go.Figure:
    """Box plots over tasks by layer, a panel per cluster."""
    clusters = {
        family: mossa.series("cka", [t for t, f in mossa.families.items() if f == family])
        for family in dict.fromkeys(mossa.families.values())
    }
    gone = mossa.missing("cka")
    return figures.box_panels(
        clusters, mossa.layer_names, title="CKA with the models tuned on one task, by cluster", y_label=mossa.cka_name,
        subtitle="one value per task" + (f"; {gone}" if gone else ""), limits=mossa.limits("cka"),
    )  # fmt: skip


def words(mossa: MossaTable) -> list[str]:
    """Which cluster is nearest to its control models, and which farthest."""
    rows, dropped = mossa.without_gaps()
    if rows.empty:
        return ["There is no CKA to speak of.", *dropped]
    clusters = rows["family"].nunique()
    if clusters < 2:
        return ["All tasks are of one cluster: there is nothing to compare.", *dropped]
    lines = []
    for model, cells in rows.groupby("model", sort=False):
        means = cells.groupby("family")["value"].mean().sort_values()
        lines.append(
            f"Of the {model} model's {len(means)} clusters, {means.index[0]} has the lowest CKA with its control "
            f"models ({means.iloc[0]:.3f}, mean over layers and tasks) and {means.index[-1]} the highest "
            f"({means.iloc[-1]:.3f})."
        )
    sizes = rows.groupby("family")["task"].nunique()
    if (sizes < 3).any():
        lines.append(
            f"{(sizes < 3).sum()} of {clusters} clusters have fewer than three tasks: their boxes are single tasks' "
            "values."
        )
    return [*lines, *dropped]


def _beside_shuffled(model: str, means: pd.Series, names: Any, seed: int) -> str:
    """How far apart the clusters lie, and how far with their names shuffled."""
    if len(set(names)) < 2 or len(set(names)) == len(names):
        return f"{NEGATIVE}with {len(set(names))} clusters of {len(names)} tasks nothing can be shuffled."
    apart = between_clusters(means.to_numpy(), names)
    shuffled = [between_clusters(means.to_numpy(), order) for order in orders(names, seed)]
    p, high = permutation_p(apart, shuffled), np.quantile(shuffled, 0.95)
    line = (
        f"the {model} model's clusters lie {apart:.5f} apart (standard deviation of their means); with their names "
        f"shuffled over the tasks, 95 % lie less than {high:.5f} apart (one-sided p = {p:.2g})."
    )
    return capital(line) if p <= ALPHA else NEGATIVE + line + too_few(groupings(names), ALPHA)
