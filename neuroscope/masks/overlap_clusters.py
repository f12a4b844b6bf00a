"""Which masks belong together: a tree of their overlaps, cut into clusters, beside the families that are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from neuroscope import figures
from neuroscope.checks import whole
from neuroscope.errors import ArgumentError
from neuroscope.masks.overlap_chance import ALL_ORDERS, DRAWS
from neuroscope.results import Result
from neuroscope.statistics import ALPHA, Floats, permutation_p

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False)
class OverlapClusters(Result):
    """Clusters of masks by average linkage of 1 - Jaccard.

    `table` has a row per name: name, family (None where it is not known), cluster (numbered in the order of the names).
    The manifest has `linkage` ([name - 1, 4], as scipy's), the `matrix` of Jaccard, and, where families are known,
    `rand` (adjusted Rand index of clusters and families: 1 the same, 0 as by chance) and its one-sided permutation `p`.
    """

    title = "Which masks belong together"
    captions: ClassVar[Mapping[str, str]] = {"clusters": "Clusters of masks"}

    def in_words(self) -> str:
        """The clusters, and whether they are the families."""
        groups = self.table.groupby("cluster")["name"].apply(list)
        rand, p = self.manifest["rand"], self.manifest["p"]
        lines = []
        if rand is None:
            lines.append(f"The masks fall into **{len(groups)} clusters**; no families are known to compare them with.")
        elif p < ALPHA:
            lines.append(
                f"By overlap alone the masks fall into clusters like their families: adjusted Rand index "
                f"**{rand:.2f}** (1 the same, 0 by chance), p = {p:.2g}."
            )
        else:
            lines.append(
                f"**A negative**: clusters of masks are not shown to be like their families (adjusted Rand index "
                f"{rand:.2f}, p = {p:.2g})."
            )
        lines.append("")
        lines += [f"- Cluster {number}: {', '.join(names)}." for number, names in groups.items()]
        return "\n".join(lines)

    def tables(self) -> dict[str, pd.DataFrame]:
        """The clusters."""
        return {"clusters": self.to_frame()}

    def figure(self) -> go.Figure:
        """The overlaps in the order of the tree, the tree beside them, clusters outlined."""
        names, matrix = list(self.table["name"]), 100 * np.array(self.manifest["matrix"], dtype=float)
        rand, p = self.manifest["rand"], self.manifest["p"]
        return figures.heatmap_with_tree(
            matrix,
            names,
            self.manifest["linkage"],
            title=self.title,
            subtitle="outlined: clusters"
            + ("" if rand is None else f"; adjusted Rand index {rand:.2f} against families (p = {p:.2g})"),
            colour_label="Jaccard, %",
            distance_label="1 - Jaccard",
            text=[[f"{v:.0f}" if np.isfinite(v) else "" for v in row] for row in matrix] if len(names) <= 16 else None,
            hover=[[f"<b>{a}</b> | <b>{b}</b><br>Jaccard {v:.1f} %" for b, v in zip(names, row, strict=True)]
                   for a, row in zip(names, matrix, strict=True)],
            limits=(0.0, 100.0),
            clusters=dict(zip(names, self.table["cluster"], strict=True)),
        )  # fmt: skip


def clusters_of(
    matrix: pd.DataFrame, families: Mapping[str, str] | None, number: int | None, neighbours: int | None = None
) -> OverlapClusters:
    """The clusters of a symmetric matrix of overlaps, as many as families where no number is asked for.

    With a number of neighbours, an overlap counts where it is among so many largest of either mask, else it is 0.

    Raises:
        ArgumentError: fewer than three names, an empty mask, or more clusters than names.
    """
    import pandas as pd
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    names, cells = list(matrix.index), matrix.to_numpy(dtype=float)
    if len(names) < 3:
        raise ArgumentError("clusters of masks", f"{len(names)} masks", "give three or more")
    if empty := [name for name, row in zip(names, cells, strict=True) if not np.isfinite(row).all()]:
        raise ArgumentError("clusters of masks", f"masks without a neuron: {empty}", "leave them out")
    if number is None:
        number = max(2, len(set(families.values()))) if families else 2
    if whole(number, "number", 1) > len(names):
        raise ArgumentError(f"{number} clusters", f"{len(names)} masks", "ask for no more clusters than masks")
    distances = 1 - (cells if neighbours is None else _of_neighbours(cells, whole(neighbours, "neighbours", 1)))
    np.fill_diagonal(distances, 0.0)
    tree = linkage(squareform(distances, checks=False), "average")
    found = fcluster(tree, min(number, len(names)), "maxclust")
    numbers = {cluster: i for i, cluster in enumerate(dict.fromkeys(found), 1)}
    clusters = np.array([numbers[cluster] for cluster in found])
    rand: float | None = None
    p: float | None = None
    if families and 1 < len(set(families.values())) < len(names):
        known = np.array([families[name] for name in names])
        rand = adjusted_rand(known, clusters)
        few = len(names) <= ALL_ORDERS
        generator = np.random.default_rng(0)
        orders: Any = (
            permutations(range(len(names))) if few else (generator.permutation(len(names)) for _ in range(DRAWS))
        )
        p = permutation_p(rand, [adjusted_rand(known[list(order)], clusters) for order in orders], exact=few)
    table = pd.DataFrame({"name": names, "family": [(families or {}).get(name) for name in names], "cluster": clusters})
    manifest = {
        "linkage": tree.tolist(),
        "matrix": cells.tolist(),
        "rand": rand,
        "p": p,
        "method": "average",
        "neighbours": neighbours,
    }
    return OverlapClusters(table, manifest)


def _of_neighbours(cells: Floats, neighbours: int) -> Floats:
    """The overlaps that are among the largest of either name, and 0 in place of the others."""
    alone = np.where(np.eye(len(cells), dtype=bool), -np.inf, cells)
    largest = np.argsort(-alone, axis=1, kind="stable")[:, :neighbours]
    near = np.zeros_like(cells, dtype=bool)
    np.put_along_axis(near, largest, True, axis=1)
    return np.where(near | near.T, cells, 0.0)


def adjusted_rand(a: Any, b: Any) -> float:
    """Adjusted Rand index (Hubert & Arabie 1985): `sklearn.metrics.adjusted_rand_score`, for thousands of orders."""
    same_a, same_b = a[:, None] == a, b[:, None] == b
    upper = np.triu_indices(len(a), 1)
    in_a, in_b = same_a[upper], same_b[upper]
    expected = in_a.sum() * in_b.sum() / len(in_a)
    most = (in_a.sum() + in_b.sum()) / 2
    return 1.0 if most == expected else float(((in_a & in_b).sum() - expected) / (most - expected))


def agreement_of(one: pd.DataFrame, other: pd.DataFrame, seed: int = 0, directed: bool = False) -> dict[str, float]:
    """Kendall's tau-b of two matrices' pairs, with a two-sided p over orders of the names (Mantel 1967).

    The matrices are symmetric, or `directed`: then both cells of a pair count.

    Raises:
        ArgumentError: fewer than three names in common.
    """
    from scipy.stats import kendalltau

    names = [name for name in one.index if name in set(other.index)]
    if len(names) < 3:
        raise ArgumentError(
            "agreement of two overlaps", f"{len(names)} names in both", "compare the same three tasks or more"
        )
    first, second = one.loc[names, names].to_numpy(dtype=float), other.loc[names, names].to_numpy(dtype=float)
    upper = np.nonzero(~np.eye(len(names), dtype=bool)) if directed else np.triu_indices(len(names), 1)

    def tau(order: Any) -> float:
        a, b = first[upper], second[np.ix_(order, order)][upper]
        known = np.isfinite(a) & np.isfinite(b)
        # scipy's own p is not used, and its exact one takes long
        return float(kendalltau(a[known], b[known], method="asymptotic").statistic) if known.sum() > 1 else float("nan")

    few = len(names) <= ALL_ORDERS
    generator = np.random.default_rng(seed)
    orders: Any = permutations(range(len(names))) if few else (generator.permutation(len(names)) for _ in range(999))
    found = tau(list(range(len(names))))
    shuffled = np.abs([tau(list(order)) for order in orders])
    p = permutation_p(abs(found), shuffled, exact=few) if np.isfinite(found) else float("nan")
    return {"tau": found, "p": p, "names": len(names), "pairs": len(upper[0])}
