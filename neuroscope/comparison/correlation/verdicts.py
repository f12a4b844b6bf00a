"""Correlation: the table of correlations, and what it says in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from neuroscope.checks import public
from neuroscope.comparison.correlation.drawing import by_layer, forest
from neuroscope.comparison.correlation.views import PAIRS, SYMBOLS, TWO_WAY, Statistic, written
from neuroscope.errors import choose
from neuroscope.results import Result
from neuroscope.statistics import ALPHA

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False)
class Correlation(Result):
    """Correlation of similarity with transfer.

    `table` has a row per test (a test task, over the models; "all pairs"; or "all pairs, source and test task taken
    out": two-way, of the residuals once each source's and each test task's own level is out of both numbers), layer (if
    asked for by layer) and statistic: n, gaps (pairs with a score and no similarity), r in [-1, 1], low and high (95 %;
    NaN where |r| is 1), p (permutation, two-sided), q (Benjamini-Hochberg over test tasks and layers; over layers for
    each view of all pairs), exact (whether all orders were counted), orders (how many), least (the smallest p that any
    order of the same numbers has), and reason (why r, or the interval of all pairs, is NaN; else empty).

    All pairs raw tell how well similarity foretells a score; so do tasks that are like all others and easy for all. The
    two-way view tells whether it does beyond that, by the pair, and is what the words go by.
    """

    title: ClassVar[str] = "Does similarity predict transfer?"
    captions: ClassVar[Mapping[str, str]] = {"rows": "Correlations of similarity with transfer"}

    @public
    def rows(self, statistic: Statistic = "pearson") -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """The rows of the test tasks, of all pairs, and of all pairs two-way, of one statistic."""
        choose(statistic, SYMBOLS, "statistic")
        rows = self.table[self.table["statistic"] == statistic]
        return rows[~rows["test"].isin([PAIRS, TWO_WAY])], rows[rows["test"] == PAIRS], rows[rows["test"] == TWO_WAY]

    @public
    def sentences(self, statistic: Statistic = "pearson") -> list[tuple[str, bool]]:
        """What was found, as plain sentences, each with whether it tells a negative."""
        tests, pairs, two_way = self.rows(statistic)
        symbol, tested = SYMBOLS[statistic], tests[tests["q"].notna()]
        over_pairs = _layers if self.manifest["by"] == "layer" else _overall
        said = [over_pairs(pairs, two_way, self.manifest, symbol)]
        if len(tested):
            said.append(_tests(tested, symbol))
        gaps = tests[tests["q"].isna()]
        if len(gaps):
            text = f"{len(gaps)} of {len(tests)} could not be computed ({gaps['reason'].iloc[0]})."
            said.append((text, False))
        left_out = self.manifest["left_out"]
        if left_out:
            of = f"{len(left_out)} of {self.manifest['averaged'] + len(left_out)} layers are in no mean"
            said.append((f"{of}, as some pair has no value there ({_spans(left_out)}).", False))
        return said

    @public
    def in_words(self, statistic: Statistic = "pearson") -> str:
        """What was found, the answer first; negatives are marked."""
        lead, *points = [marked(text, is_negative) for text, is_negative in self.sentences(statistic)]
        return "\n".join([lead, "", *[f"- {point}" for point in points]] if points else [lead])

    @public
    def figure(self, statistic: Statistic = "pearson") -> go.Figure:
        """By layer: the correlation over all pairs with its interval; else one row per test task with its interval."""
        tests, pairs, two_way = self.rows(statistic)
        if self.manifest["by"] == "layer":
            return by_layer(pairs, two_way, statistic, self.manifest)
        rows = [row for part in (tests, pairs, two_way) for row in part.to_dict("records")]
        return forest(rows, statistic, self.manifest)

    def __repr__(self) -> str:
        return f"Correlation({' '.join(text for text, _ in self.sentences())})"


def marked(text: str, is_negative: bool) -> str:
    """A sentence; one that tells a negative says so first."""
    return f"**A negative**: {text[0].lower()}{text[1:]}" if is_negative else text


def _overall(pairs: pd.DataFrame, two_way: pd.DataFrame, manifest: Mapping[str, Any], symbol: str) -> tuple[str, bool]:
    raw, row = pairs.iloc[0], two_way.iloc[0]
    over = f"Over {raw['n']} pairs of {len(manifest['tasks'])} tasks,"
    if not np.isfinite(raw["r"]):
        return f"{over} the correlation is undefined ({raw['reason']}).", True
    beside = f"{written(raw, symbol)}, p = {raw['p']:.2g} over the tasks' labels"
    if not np.isfinite(row["r"]):
        return f"{over} {beside}; what is due to pairs alone cannot be told ({row['reason']}).", True
    # p decides, as it knows that pairs share tasks; and the two-way one, as tasks that are easy for all are no pairs
    if row["p"] > ALPHA:
        verdict = "similarity does not predict transfer beyond chance"
    else:
        verdict = f"more similar tasks transfer {'better' if row['r'] > 0 else 'worse'}"
    without = f"{written(row, symbol)}, p = {row['p']:.2g} once source and test task are taken out"
    text = f"{over} {verdict} ({without}). As they are, {beside}."
    if row["p"] <= ALPHA:
        return text, False
    if raw["p"] <= ALPHA:
        text += " Some tasks may be alike to all and easy for all."
    return text + _too_few(two_way, "tasks"), True


def _layers(pairs: pd.DataFrame, two_way: pd.DataFrame, manifest: Mapping[str, Any], symbol: str) -> tuple[str, bool]:
    tested = two_way[two_way["q"].notna()]
    if not len(tested):
        return f"In no layer could the correlation be computed ({two_way['reason'].iloc[0]}).", True
    best = tested.loc[tested["p"].idxmin()]  # the first of equals
    most = f"layer {best['layer']}: {written(best, symbol)}, p = {best['p']:.2g}, q = {best['q']:.2g}"
    sure, raw = tested[tested["q"] <= ALPHA], pairs[pairs["q"] <= ALPHA]["layer"].tolist()
    beside = f" With source and test task left in: {f'layers {_spans(raw)}' if raw else 'none'}."
    if not len(sure):
        text = (
            f"No layer's similarity predicts transfer once source and test task are taken out, after correction over "
            f"{len(tested)} layers (the nearest is {most})."
        )
        return text + _too_few(tested, "tasks") + beside, True
    parts = []
    for sign, how in ((1, "better"), (-1, "worse")):
        layers = sure[np.sign(sure["r"]) == sign]["layer"].tolist()
        if layers:
            where = f"{'layer' if len(layers) == 1 else 'layers'} {_spans(layers)}"
            parts.append(f"more similar tasks transfer {how} in {where}")
    of = f"{len(sure)} of {len(tested)} layers with q <= {ALPHA} once source and test task are taken out"
    joined = ", and ".join(parts)
    return f"{joined[0].upper()}{joined[1:]} ({of}; strongest in {most}).{beside}", False


def _tests(tested: pd.DataFrame, symbol: str) -> tuple[str, bool]:
    sure, by_layer = tested[tested["q"] <= ALPHA], "layer" in tested.columns
    count = tested["test"].nunique()
    what = f"{count} test task{'s' if count > 1 else ''}"
    what += f" in {tested['layer'].nunique()} layers" if by_layer else ""
    if len(sure):
        named = ", ".join(dict.fromkeys(sure["test"]))
        of = f"correlations of {what}" if by_layer else "test tasks' correlations"
        return f"{len(sure)} of {len(tested)} {of} hold after correction ({named}).", False
    best = tested.loc[tested["p"].idxmin()]
    where = best["test"] + (f", layer {best['layer']}" if by_layer else "")
    text = f"None of {what} holds by itself after correction (smallest q = {tested['q'].min():.2g}, {where}: "
    return f"{text}{written(best, symbol)})." + _too_few(tested, "models"), True


def _too_few(tested: pd.DataFrame, what: str) -> str:
    """Whether even the strongest correlation of the same numbers in one test could have survived the correction."""
    least = tested["least"].min()
    if least * len(tested) <= ALPHA:
        return ""
    return f" With so few {what}, p cannot be below {least:.2g}, so that no single test could have."


def _spans(layers: list[int]) -> str:
    """1, 2, 3, 7 as "1-3, 7"."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)
