"""What `modularity` returns: families' overlap and damage, what was left out, agreement of models, words, figures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from neuroscope import figures
from neuroscope.checks import public
from neuroscope.errors import ArgumentError, choose, kind_of
from neuroscope.experiments.f5_cross_ablation import CrossAblation
from neuroscope.markup import NOTHING
from neuroscope.masks import DRAWN
from neuroscope.masks.overlap_chance import families_p
from neuroscope.masks.overlap_clusters import OverlapClusters, agreement_of
from neuroscope.masks.overlap_results import Overlap
from neuroscope.results import Result
from neuroscope.statistics import ALPHA

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

OVERLAP = "overlap"
NEIGHBOURS = 5  # overlaps of each mask that count for the clusters, as there
# Han et al. 2026, their project page: means over six models of 24 to 123 billion parameters at k = 0.1 %, of pairs
# within a family and across; ablation with corrupt activations. None is published for other values.
PUBLISHED = {OVERLAP: (0.129, 0.030), "corrupt": (0.259, 0.025)}
PUBLISHED_RAND = 0.78


@dataclass(frozen=True, repr=False)
class Modularity(Result):
    """Whether tasks of one family share neurons, and whether these matter for the family alone.

    `table` is that of `cross_ablation` for each value, and the column value; empty where fewer than two tasks are kept.
    The manifest has the rows of `filtered` under "filter", and the overlap.
    """

    title = "Modules: do tasks of one family share neurons?"
    captions: ClassVar[Mapping[str, str]] = {
        "families": "Within a family and across: overlap (Jaccard), and score lost with another task's neurons off",
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
        return CrossAblation(rows.drop(columns="value").reset_index(drop=True), self.manifest)

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
            p = families_p((matrix + matrix.T) / 2, self._families())
            counts = {"pairs_within": int(same.sum()) // 2, "pairs_across": int((~same).sum()) // 2}
            rows.append(_row(value, float(lost[same].mean()), float(lost[~same].mean()), random, p) | counts)
        return pd.DataFrame(rows)

    def _families(self) -> dict[str, str]:
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
        filtered = self.filtered
        left_out = [f"- Left out: **{row.task}** ({row.why})." for row in filtered[~filtered["kept"]].itertuples()]
        number = f"{int(filtered['kept'].sum())} of {len(filtered)} tasks"
        if self.overlap is None:
            return "\n".join([f"{NOTHING}: {number} are kept, and two are needed.\n", *left_out])
        rows, families = self.families(), self._families()
        if rows["p"].isna().all():
            why = "all tasks kept are of one family" if len(set(families.values())) == 1 else "no two are of one family"
            lead = f"{NOTHING} about families: {number} are kept, and {why}."
        else:
            shown = [r.measure for r in rows.itertuples() if r.p < ALPHA]
            rest = [r.measure for r in rows.itertuples() if not r.p < ALPHA]
            told = f"(**{number}** kept)"
            lead = (
                f"Families are **modules** by {_and(shown)} {told}: tasks share, or need, their own family's neurons."
            )
            if rest:
                lead = f"**A negative**: families are not shown to be modules by {_and(rest)} {told}"
                lead += f"; they are by {_and(shown)}." if shown else "."
        least = least_p(families)
        few = [f"- Of these {len(families)} tasks no p can be below {least:.2g}: give more tasks a family."]
        lines = [lead, "", *map(self._line, rows.to_dict("records")), *(few if least >= ALPHA else [])]
        if (clusters := self.clusters()) is not None and (rand := clusters.manifest["rand"]) is not None:
            verdict = "" if clusters.manifest["p"] < ALPHA else "**A negative**: "
            lines.append(
                f"- {verdict}Clusters of the overlaps beside the families: adjusted Rand index **{rand:.2f}** (1 the "
                f"same, 0 by chance), p = {clusters.manifest['p']:.2g}; published {PUBLISHED_RAND}."
            )
        few_neurons = filtered[filtered["kept"] & (filtered["neurons"] < filtered["asked"])]
        if len(few_neurons):
            lines.append(f"- Fewer neurons than asked for have a relevance above 0 in {_and(few_neurons['task'])}.")
        return "\n".join([*lines, *left_out, *self._how()])

    def _line(self, row: Mapping[str, Any]) -> str:
        what, unit = ("Overlap", "%") if row["measure"] == OVERLAP else (f"Off ({row['measure']})", "points lost")
        beside = "by chance" if row["measure"] == OVERLAP else DRAWN[self.manifest["match"]]
        means = [
            f"{100 * row[name]:.1f} {unit} {name}" if row[name] == row[name] else f"no pair {name} to average"
            for name in ("within", "across")
        ]
        ratio = f", a ratio of {row['ratio']:.1f}" if row["ratio"] == row["ratio"] else ""
        p = f", p = {row['p']:.2g}" if row["p"] == row["p"] else ", nothing to test"
        published = "none is published for this value"
        if row["published_within"] == row["published_within"]:
            published = f"published {100 * row['published_within']:.1f} and {100 * row['published_across']:.1f}"
        return f"- {what}: {means[0]}, {means[1]}{ratio}{p}; {beside} {100 * row['beside']:.1f}; {published}."

    def _how(self) -> list[str]:
        about = self.manifest
        return [
            f"- Masks: the {about['k']:.2%} of neurons with the largest relevance above 0 ({about['method']}, sign "
            f"{about['sign']}). Kept: tasks of which the model has {about['least']:.0%} of the examples right both "
            "ways, and of these only such examples: with nothing off it scores 100 % by choice.",
            "- Published numbers (Han et al. 2026, project page): means over six models of 24 to 123 billion "
            "parameters, 46 tasks, k = 0.10 %; there, neurons are found and judged on the same examples.",
        ]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Within and across families, the tasks kept, pairs, and every cell."""
        found = {"families": self.families(), "filtered": self.filtered}
        if (overlap := self.overlap) is not None:
            found["pairs"] = overlap.to_frame()
        return {name: frame for name, frame in (found | {"cells": self.to_frame()}).items() if len(frame)}

    def figure(self) -> go.Figure:
        """Score lost in each family's tasks, by whose neurons are off; of nothing kept, which tasks are right."""
        if not len(self.table):
            return self._kept()
        names = list(dict.fromkeys(self._families().values()))
        series: dict[str, figures.Band] = {}
        bands = []
        for value in self.values:
            cells = self.crossed(value).table
            cells = cells[cells["source"] != cells["target"]]
            lost, same = 100 * (cells["original"] - cells["score"]), cells["source_family"] == cells["target_family"]
            random = 100 * (cells["original"] - cells["control"])
            by_family = cells["target_family"]
            for label, values in (
                (f"of its family ({value})", lost[same]), (f"of other families ({value})", lost[~same]),
                (f"random ({value})", random),
            ):  # fmt: skip
                series[label] = (values.groupby(by_family).mean().reindex(names), None, None)
            bands.append(f"random ({value})")
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


def _and(names: Any) -> str:
    return ", ".join(names)


def least_p(families: Mapping[str, str]) -> float:
    """The smallest p that dealing families out in all orders can give: orders that leave each family together.

    Example:
        >>> least_p({"a": "x", "b": "x", "c": "y", "d": "y"})  # 8 of 24 orders
        0.3333333333333333
    """
    sizes = Counter(families.values())
    same = math.prod(math.factorial(size) for size in sizes.values())
    same *= math.prod(math.factorial(number) for number in Counter(sizes.values()).values())
    return same / math.factorial(len(families))
