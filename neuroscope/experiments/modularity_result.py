"""What `modularity` returns: families' overlap and damage, what was left out, agreement of models, words, figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from neuroscope import figures
from neuroscope.checks import public
from neuroscope.errors import ArgumentError, choose, kind_of
from neuroscope.experiments.f5_cross_ablation import CrossAblation
from neuroscope.experiments.modularity_words import OVERLAP, PUBLISHED, said
from neuroscope.masks.overlap_chance import families_p
from neuroscope.masks.overlap_clusters import OverlapClusters, agreement_of
from neuroscope.masks.overlap_results import Overlap
from neuroscope.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

NEIGHBOURS = 5  # overlaps of each mask that count for the clusters, as there
WHOSE = {"within": "neurons of its family", "across": "of other families", "random": "random"}


@dataclass(frozen=True, repr=False)
class Modularity(Result):
    """Whether tasks of one family share neurons, and whether these matter for the family alone.

    `table` is that of `cross_ablation` for each value, and the column value; empty where fewer than two tasks are kept.
    The manifest has the rows of `filtered` under "filter", and the overlap.

    Example:
        >>> import pandas as pd
        >>> scores = {("a", "a"): 0.5, ("a", "b"): 0.6, ("b", "a"): 0.8, ("b", "b"): 0.4}
        >>> rows = [{"source": a, "target": b, "score": score} for (a, b), score in scores.items()]
        >>> found = Modularity(pd.DataFrame(rows).assign(original=0.9, value="zero"), {"filter": [], "overlap": None})
        >>> found.values, found.lost("zero").loc["a"].round(3).to_dict()
        (['zero'], {'a': 0.4, 'b': 0.3})
    """

    title = "Modules: do tasks of one family share neurons?"
    captions: ClassVar[Mapping[str, str]] = {
        "families": "Within a family and across: overlap (Jaccard), and score lost with another task's neurons off",
        "by_family": "Score lost in each family's tasks",
        "filtered": "Which tasks are kept",
        "pairs": "Overlap of pairs",
        "cells": "Every cell: source off, target measured",
    }

    @property
    def filtered(self) -> pd.DataFrame:
        """One row per task given: how many examples the model has right both ways (`experiments.both_correct`).

        Of tasks that are kept also neurons (in the mask), positive (in the model with a relevance above 0), and held
        (the share of their relevance that the mask has).
        """
        import pandas as pd  # heavy: only for tables

        return pd.DataFrame(self.manifest["filter"])

    @property
    def overlap(self) -> Overlap | None:
        """Of the masks; None where fewer than two tasks are kept."""
        import pandas as pd  # heavy: only for tables

        kept = self.manifest[OVERLAP]
        return None if kept is None else Overlap(pd.DataFrame(kept["table"]), kept["manifest"])

    @property
    def values(self) -> list[str]:
        """What neurons became when they were switched off."""
        return list(dict.fromkeys(self.table["value"]))

    @public
    def crossed(self, value: str) -> CrossAblation:
        """The cross-ablation with this value, such as "zero"."""
        rows = self.table[self.table["value"] == choose(value, self.values, "value")]
        return CrossAblation(rows.drop(columns="value").reset_index(drop=True), {**self.manifest, "value": value})

    @public
    def lost(self, value: str) -> pd.DataFrame:
        """Score lost, source by target, with the source's neurons off."""
        rows = self.crossed(value).table
        names = list(rows["source"].unique())
        rows = rows.assign(lost=rows["original"] - rows["score"])
        return rows.pivot(index="source", columns="target", values="lost").loc[names, names]

    def clusters(self) -> OverlapClusters | None:
        """The masks in as many clusters as families, by each one's five largest overlaps; None of fewer than three."""
        overlap = self.overlap
        return None if overlap is None or len(overlap.names) < 3 else overlap.clusters(neighbours=NEIGHBOURS)

    def families(self) -> pd.DataFrame:
        """One row for the overlap, and one for each value; NaN where there is no pair to average, or nothing across.

        Columns: measure ("overlap", or the value), within and across (mean over pairs of two tasks), ratio, beside
        (across all of these pairs: the overlap of layer-matched masks, or the score that random masks lose), p
        (one-sided: of as large a difference with the families dealt out at random), pairs_within, pairs_across,
        published_within and published_across.
        """
        import pandas as pd  # heavy: only for tables

        rows = []
        if (overlap := self.overlap) is not None:
            assert overlap.families is not None
            found, chance = overlap.within_between(overlap.families), overlap.table["chance_layer"].mean()
            rows.append(_row(OVERLAP, found["within"], found["between"], chance, found["p"]) | _pairs(found))
        for value in self.values:
            cells = self.crossed(value).table
            cells = cells[cells["source"] != cells["target"]]
            lost, same = cells["original"] - cells["score"], cells["source_family"] == cells["target_family"]
            random = float((cells["original"] - cells["control"]).mean())
            matrix = self.lost(value).to_numpy(dtype=float)
            p = families_p((matrix + matrix.T) / 2, self.kept_families)
            counts = {"pairs_within": int(same.sum()) // 2, "pairs_across": int((~same).sum()) // 2}
            rows.append(_row(value, float(lost[same].mean()), float(lost[~same].mean()), random, p) | counts)
        return pd.DataFrame(rows)

    def by_family(self) -> pd.DataFrame:
        """One row per family and value: score lost in its tasks, with neurons of another task off.

        Columns: value, family, within (of a task of the same family), across (of another one), random (random masks in
        place of either); means over pairs of two tasks, NaN where there is none.
        """
        import pandas as pd  # heavy: only for tables

        rows = []
        for value in self.values:
            cells = self.crossed(value).table
            cells = cells[cells["source"] != cells["target"]]
            for family, of in cells.groupby("target_family", sort=False):
                lost, same = of["original"] - of["score"], of["source_family"] == family
                means = {"within": lost[same].mean(), "across": lost[~same].mean()}
                rows.append(
                    {"value": value, "family": family} | means | {"random": (of["original"] - of["control"]).mean()}
                )
        return pd.DataFrame(rows)

    @property
    def kept_families(self) -> dict[str, str]:
        """Task -> family, of the tasks kept."""
        kept = self.filtered[self.filtered["kept"]]
        return dict(zip(kept["task"], kept["family"], strict=True))

    @public
    def agreement(self, other: Modularity) -> pd.DataFrame:
        """Whether another model's tasks are alike in the same way: Kendall's tau-b over pairs of the tasks in both.

        Returns:
            A row for the overlap, and one for each value in both (of ordered pairs: source off, target measured):
            measure, tau, p (two-sided, over orders of the tasks), names, pairs.

        Raises:
            ArgumentError: no such result, or fewer than three tasks kept in both.
        """
        import pandas as pd  # heavy: only for tables

        if not isinstance(other, Modularity):
            raise ArgumentError("modularity.agreement(other)", kind_of(other), "give the result of modularity(...)")
        mine, theirs = self.overlap, other.overlap
        if mine is None or theirs is None:
            raise ArgumentError(
                "agreement of two models", "a result without two kept tasks", "compare three tasks or more"
            )
        rows = [{"measure": OVERLAP} | mine.agreement(theirs)]
        for value in (value for value in self.values if value in other.values):
            rows.append({"measure": value} | agreement_of(self.lost(value), other.lost(value), directed=True))
        return pd.DataFrame(rows)

    def in_words(self) -> str:
        """Whether families are modules by overlap and by damage, what is left out, and what is published."""
        return said(self)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Within and across families, the tasks kept, pairs, and every cell."""
        found = {"families": self.families(), "by_family": self.by_family(), "filtered": self.filtered}
        if (overlap := self.overlap) is not None:
            found["pairs"] = overlap.to_frame()
        return {name: frame for name, frame in (found | {"cells": self.to_frame()}).items() if len(frame)}

    def figure(self) -> go.Figure:
        """Score lost in each family's tasks, by whose neurons are off; of nothing kept, which tasks are right."""
        if not len(self.table):
            return self._kept()
        rows = self.by_family()
        names = list(dict.fromkeys(rows["family"]))
        series: dict[str, figures.Band] = {}
        for value in self.values:
            cells = rows[rows["value"] == value].set_index("family").loc[names]
            for column, whose in WHOSE.items():
                series[f"{whose} off ({value})"] = (100 * cells[column], None, None)
        bands = [f"{WHOSE['random']} off ({value})" for value in self.values]
        return figures.bars_with_band(
            names,
            series,
            bands,
            title="Whose neurons a family's tasks need",
            subtitle="score lost in the family's tasks with another task's neurons off; means over pairs of two tasks",
            value_label="points lost",
        )

    def figures(self) -> list[go.Figure]:
        """Score lost by family, the overlaps, their clusters, and which tasks are kept."""
        if (overlap := self.overlap) is None:
            return [self._kept()]
        clusters = self.clusters()
        return [self.figure(), overlap.figure(), *([] if clusters is None else [clusters.figure()]), self._kept()]

    def _kept(self) -> go.Figure:
        rows = self.filtered
        label = "right both ways"
        return figures.bars_with_band(
            list(rows["task"]),
            {label: tuple(100 * rows[name] for name in ("share", "low", "high"))},
            title="Which tasks the model can do",
            subtitle="right answer preferred on the clean and on the corrupt prompt; whiskers: 95 % over examples",
            value_label="examples, %",
            within=(0.0, 100.0),
            hover={label: [f"{r.both} of {r.aligned} examples{f'; left out: {r.why}' * bool(r.why)}"
                           for r in rows.itertuples()]},
            mark=[100 * self.manifest["least"]] * len(rows),
            mark_label="kept from here on",
        )  # fmt: skip


def _row(measure: str, within: float, across: float, beside: float, p: float) -> dict[str, Any]:
    published = PUBLISHED.get(measure, (np.nan, np.nan))
    row = {"measure": measure, "within": within, "across": across, "ratio": within / across if across > 0 else np.nan}
    return row | {"beside": beside, "p": p, "published_within": published[0], "published_across": published[1]}


def _pairs(found: Mapping[str, float]) -> dict[str, int]:
    return {"pairs_within": int(found["pairs_within"]), "pairs_across": int(found["pairs_between"])}
