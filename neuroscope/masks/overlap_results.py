"""What the overlap of masks gives: Jaccard of every pair beside chance, for one size of the masks or for several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from neuroscope import figures
from neuroscope.checks import public, whole
from neuroscope.errors import ArgumentError, kind_of
from neuroscope.masks.overlap_chance import families_p
from neuroscope.masks.overlap_clusters import OverlapClusters, agreement_of, clusters_of
from neuroscope.results import Result
from neuroscope.statistics import ALPHA

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

CURVES = 7  # pairs up to which a sweep draws each of them


@dataclass(frozen=True, repr=False)
class Overlap(Result):
    """Jaccard of every pair of masks.

    `table` has a row per pair of names: a, b, size_a, size_b, shared (neurons), jaccard, chance_uniform, chance_layer
    (Jaccard by chance), and of layer-matched masks expected (shared neurons by chance), ratio (shared over expected),
    z, p (one-sided, exact: of at least as many shared) and q (Benjamini-Hochberg over the pairs); with ceilings also
    ceiling, the geometric mean of the two masks' own.
    """

    title = "Overlap of the masks"
    captions: ClassVar[Mapping[str, str]] = {"pairs": "Overlap of pairs"}

    @property
    def families(self) -> dict[str, str] | None:
        """Name -> family, if they were given."""
        return self.manifest["families"]

    def in_words(self) -> str:
        """The mean overlap: within and between families where they are known."""
        explained = "- Jaccard: the neurons that two masks share, over those in either. Chance: random masks of the "
        explained += "same sizes in the same layers; p is exact, q corrects it over the pairs."
        defined = self.table[self.table["jaccard"].notna()]
        if defined.empty:
            return f"**A negative**: no pair has a neuron, so there is no overlap to give.\n\n{explained}"
        summary = self.within_between(self.families) if self.families else {"pairs_within": 0, "pairs_between": 0}
        if summary["pairs_within"] and summary["pairs_between"]:
            line = (
                f"Masks overlap **{summary['within']:.2f}** within a family and **{summary['between']:.2f}** across "
                f"families, a ratio of {summary['ratio']:.1f}; by chance {summary['chance_within']:.2f} and "
                f"{summary['chance_between']:.2f}."
            )
            if summary["p"] >= ALPHA:
                line += f" **A negative**: that families matter is not shown (p = {summary['p']:.2g})."
        else:
            mean, chance = defined["jaccard"].mean(), defined["chance_layer"].mean()
            line = f"Mean overlap of {len(defined)} pairs: **{mean:.2f}**, by chance {chance:.2f}."
        lines = [line, ""]
        below = defined[~(defined["q"] < ALPHA)]
        if len(below):
            lines.append(
                f"- **A negative**: {len(below)} of {len(defined)} pairs are not shown to overlap more than by chance "
                f"(q >= {ALPHA})."
            )
        if "ceiling" in defined:
            reached = (defined["jaccard"] - defined["chance_layer"]) / (defined["ceiling"] - defined["chance_layer"])
            lines.append(
                "- The ceiling: masks of one task, found on different examples, overlap "
                f"{defined['ceiling'].mean():.2f}. On the way from chance to there the pairs are at "
                f"{reached.mean():.0%} in the mean, {reached.max():.0%} at most."
            )
        return "\n".join([*lines, explained])

    def tables(self) -> dict[str, pd.DataFrame]:
        """The pairs."""
        return {"pairs": self.to_frame()}

    @property
    def names(self) -> list[str]:
        """The masks or groups, in the order given."""
        return list(self.manifest["sizes"])

    @property
    def matrix(self) -> pd.DataFrame:
        """Jaccard, names x names; 1 on the diagonal, NaN where both masks are empty."""
        import pandas as pd

        diagonal = [1.0 if size else np.nan for size in self.manifest["sizes"].values()]
        cells = pd.DataFrame(np.diag(diagonal), self.names, self.names)
        for a, b, jaccard in zip(self.table["a"], self.table["b"], self.table["jaccard"], strict=True):
            cells.loc[a, b] = cells.loc[b, a] = jaccard
        return cells

    @public
    def within_between(self, families: Mapping[str, str]) -> dict[str, float]:
        """Mean Jaccard of the pairs inside one family and across two, and their ratio.

        Args:
            families: name -> family, for every name.

        Returns:
            within, between, ratio, p (one-sided: of as large a difference with the families dealt out at random), the
            chance level of either (layer-matched), the numbers of pairs averaged, and `undefined`: pairs of two empty
            masks, which are in no mean. NaN where there is no pair to average.
        """
        require_families(families, self.names, "within_between")
        same = self.table["a"].map(families) == self.table["b"].map(families)
        defined = self.table["jaccard"].notna()
        within, between = self.table[same & defined], self.table[~same & defined]
        return {
            "within": float(within["jaccard"].mean()),
            "between": float(between["jaccard"].mean()),
            "ratio": float(np.float64(within["jaccard"].mean()) / (between["jaccard"].mean() or np.nan)),
            "p": families_p(self.matrix.to_numpy(dtype=float), {name: families[name] for name in self.names}),
            "chance_within": float(within["chance_layer"].mean()),
            "chance_between": float(between["chance_layer"].mean()),
            "pairs_within": len(within),
            "pairs_between": len(between),
            "undefined": int((~defined).sum()),
        }

    @public
    def clusters(self, number: int | None = None, neighbours: int | None = None) -> OverlapClusters:
        """The masks in clusters of average linkage, beside their families (adjusted Rand index).

        Args:
            number: of clusters (None: as many as families, or two).
            neighbours: count an overlap only where it is among so many largest of either mask (Han et al. 2026: 5), for
                masks that overlap with all others a little (None: count all).

        Raises:
            ArgumentError: fewer than three masks, an empty one, or more clusters than masks.
        """
        return clusters_of(self.matrix, self.families, number, neighbours)

    @public
    def agreement(self, other: Overlap) -> dict[str, float]:
        """Whether two models, runs or methods order the pairs alike: Kendall's tau-b of the pairs that both have.

        Returns:
            tau, p (two-sided, over orders of the names), and the numbers of names and pairs in both.

        Raises:
            ArgumentError: no overlap, or fewer than three names in both.
        """
        if not isinstance(other, Overlap):
            raise ArgumentError("overlap.agreement(other)", kind_of(other), "give the result of another overlap(...)")
        return agreement_of(self.matrix, other.matrix)

    @public
    def upset(self, most: int = 16) -> go.Figure:
        """How many neurons are in just these masks and in no other, beside layer-matched masks.

        Args:
            most: bars, of the sets with most neurons.
        """
        sets = self.manifest["sets"][: whole(most, "most", 1)]
        return figures.upset(
            self.names,
            [row["members"] for row in sets],
            [row["neurons"] for row in sets],
            expected=[row["expected"] for row in sets],
            title="Neurons that masks share",
            subtitle="in just the masks that are marked, and in no other; grey: masks of the same sizes drawn at "
            "random in the same layers",
            value_label="neurons",
        )

    def figures(self) -> list[go.Figure]:
        """The matrix, the tree of three masks or more, and what they share."""
        found = [self.figure()]
        if len(self.names) > 2 and self.matrix.notna().all(axis=None):
            found.append(self.clusters().figure())
        return [*found, self.upset()] if self.manifest["sets"] else found

    @public
    def figure(self, families: Mapping[str, str] | None = None) -> go.Figure:
        """The matrix as a heatmap in percent, chance in the hover; neighbours of one family are bracketed.

        Args:
            families: name -> family (None: those that `overlap` was given, if any).
        """
        names, sizes, matrix = self.names, self.manifest["sizes"], 100 * self.matrix
        hover = {(name, name): f"<b>{name}</b><br>{sizes[name]} neurons" for name in names}
        for row in self.table.to_dict("records"):
            hover[row["a"], row["b"]] = hover[row["b"], row["a"]] = _hover(row)
        chance = 100 * self.table[["chance_uniform", "chance_layer"]].mean()
        return figures.heatmap(
            matrix,
            names,
            names,
            title="Overlap of the masks",
            subtitle=f"Chance, mean over pairs: {chance['chance_uniform']:.1f} % for uniform masks of the same sizes, "
            f"{chance['chance_layer']:.1f} % for layer-matched ones",
            colour_label="Jaccard, %",
            hover=[[hover[a, b] for b in names] for a in names],
            text=[[f"{v:.0f}" if np.isfinite(v) else "" for v in row] for row in matrix.to_numpy()],
            groups=families or self.families,
            limits=(0.0, 100.0),
        )


@dataclass(frozen=True, repr=False)
class OverlapSweep(Result):
    """Overlap by the share k of neurons in each mask: the table of `Overlap` with a column k."""

    title = "Overlap by the size of the masks"
    captions: ClassVar[Mapping[str, str]] = {"pairs": "Overlap of pairs, by the share k of neurons in each mask"}

    def in_words(self) -> str:
        """The mean overlap for each k, beside chance."""
        means = self.table.groupby("k")[["jaccard", "chance_layer"]].mean()
        defined = self.table["jaccard"].count()
        below = int(defined - (self.table["q"] < ALPHA).sum())
        lines = [
            f"Over {len(means)} sizes of the masks, **{defined - below} of {defined}** pairs overlap more than by "
            f"chance (q < {ALPHA}).\n",
            "- How much masks overlap depends on their size: large ones overlap whatever they hold.",
            *(
                f"- k = {k:.0%}: mean Jaccard **{row['jaccard']:.2f}**, by chance in the same layers "
                f"{row['chance_layer']:.2f}."
                for k, row in means.iterrows()
            ),
        ]
        if below:
            lines.append(f"- **A negative**: {below} of {defined} pairs are not shown to overlap more than by chance.")
        return "\n".join(lines)

    def tables(self) -> dict[str, pd.DataFrame]:
        """The pairs at each k."""
        return {"pairs": self.to_frame()}

    def figure(self) -> go.Figure:
        """Jaccard by k with its layer-matched chance level; the mean and range over pairs where there are many."""
        pairs = self.table.groupby(["a", "b"], sort=False)
        curves: dict[str, Any] = {f"{a} | {b}": (rows, None) for (a, b), rows in pairs}
        subtitle = "dotted: masks of the same sizes drawn at random in the same layers"
        if len(curves) > CURVES:
            subtitle = f"mean and range over {len(curves)} pairs; " + subtitle
            means = self.table.groupby("k", as_index=False)[["jaccard", "chance_layer"]].mean()
            extremes = self.table.groupby("k")["jaccard"].agg(["min", "max"])
            curves = {"mean over pairs": (means, extremes)}
        return figures.curves_with_band(
            {
                label: (100 * rows["k"], (100 * rows["jaccard"], *_band(extremes)))
                for label, (rows, extremes) in curves.items()
            },
            {label: (100 * rows["k"], 100 * rows["chance_layer"]) for label, (rows, _) in curves.items()},
            title="Overlap by the size of the masks",
            subtitle=subtitle,
            x_label="neurons in each task's mask, %",
            y_label="Jaccard, %",
            colours=dict.fromkeys(curves, figures.style.MEASURED) if len(curves) == 1 else None,
        )


def require_families(families: Mapping[str, str], names: Sequence[str], asked: str) -> None:
    """Refuse families that leave a name out."""
    missing = [name for name in names if name not in families]
    if missing:
        raise ArgumentError(f"{asked}(families)", f"no family for {missing}", "give a family for every name")


def _hover(row: Mapping[str, Any]) -> str:
    return (
        f"<b>{row['a']}</b> ({row['size_a']} neurons)<br><b>{row['b']}</b> ({row['size_b']} neurons)<br>"
        f"shared: {row['shared']}<br>Jaccard: {row['jaccard']:.1%}<br>"
        f"chance: {row['chance_uniform']:.1%} uniform, {row['chance_layer']:.1%} layer-matched"
        f"<br>{row['ratio']:.1f} times as many as by chance, z = {row['z']:.1f}, q = {row['q']:.2g}"
        + (f"<br>ceiling: {row['ceiling']:.1%}" if "ceiling" in row else "")
    )


def _band(extremes: pd.DataFrame | None) -> tuple[Any, Any]:
    return (None, None) if extremes is None else (100 * extremes["min"], 100 * extremes["max"])
