"""Cut a model's layers into segments by the change points of a curve over layers (ZZC24 Fig. 1, found, not typed in).

1. The curve is the mean over tasks. It is cut by exact dynamic programming into the pieces with the least squared
   error around a constant each (`ruptures.Dynp`, cost "l2"; Truong et al. 2020; `cuts` finds the same optimum for the
   thousands of shuffled curves at once).
2. Are there boundaries at all? The statistic is the squared error of a smooth curve with as many free numbers as the
   cut, over that of the pieces. Its null distribution comes from shuffling the layers: exact for curves whose layers
   are exchangeable (a level and noise), conservative for a smooth curve with noise. Smooth is a polynomial of degree
   2 x boundaries (a slope, a hump, a wave) or, beside two boundaries or more, a Gaussian bump on a slope; another
   shape, such as a faster wave or two bumps, may count as boundaries here.
3. How many? Every boundary is tested beside the others: the share of the error without it that the best further
   boundary takes away, against the same of shuffled residuals (of the cut with all of them). Where one does not hold,
   the curve is cut again with one boundary less.
4. Are the pieces level? Where the residuals of neighbouring layers correlate more than independent ones do in 5 % of
   the cases, the curve is not of steps and noise, and is not cut: it waves, it has more steps than were looked for, or
   its noise wanders from layer to layer, which is no part of the null and looks like boundaries.
5. The interval of a boundary: tasks are drawn again, the curve of their mean is cut again (percentile bootstrap).
6. Names come from the curve: "shared", "transition", "refinement" where three pieces of similarity fall one after
   another, as ZZC24 found it; otherwise where a piece stands among the others.

Pieces follow noise that wanders, so that step 4 does not see all of it.
ZZC24 cut Llama-2-7b into layers 1-9, 10-15 and 16-32: cited in the sentence, and used nowhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from neuroscope import figures, files
from neuroscope.checks import public
from neuroscope.comparison.segmentation.change_points import (
    Floats,
    autocorrelation,
    cuts,
    gains,
    held,
    intervals,
    tested,
    wanders,
)
from neuroscope.errors import ArgumentError, NumericalError
from neuroscope.results import Result

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["ZZC24", "Segmentation", "cuts", "gains", "segment"]

ZZC24 = ("shared", "transition", "refinement")
ALIKE = "neighbouring layers err alike around the best cut"
CITED = "ZZC24 cut Llama-2-7b into layers 1-9, 10-15 and 16-32; another model or data need not agree."


@dataclass(frozen=True, repr=False)
class Segmentation(Result):
    """The segments of the layers, or one segment of all layers where there is no clear boundary.

    `table` has a row per segment: segment, name, first, last (layers), mean (of the curve), low, high (interval of
    `first` over tasks; NaN for the first segment, and where one task alone leaves nothing to draw from), p (of the
    boundary before it, beside the others; NaN for the first segment).
    """

    @property
    def clear(self) -> bool:
        """Whether there are boundaries, at the level asked for."""
        return bool(self.manifest["clear"])

    @property
    def boundaries(self) -> list[int]:
        """First layer of every segment but the first; empty where there is no clear boundary."""
        return [int(first) for first in self.table["first"][1:]]

    def __repr__(self) -> str:
        at = f"boundaries before layers {', '.join(map(str, self.boundaries))}" if self.clear else "no clear boundary"
        about = self.manifest
        return f"Segmentation({at}; {about['n_layers']} layers, {about['tasks']} task(s), p = {about['p']:.2g})"

    def sentence(self) -> str:
        """What was found and what that says, in words."""
        about = self.manifest
        who = f"the mean curve of {about['tasks']} tasks" if about["tasks"] > 1 else "the curve of one task"
        gone = [left if isinstance(left, str) else f"layer {left}" for left in about["left_out"]]
        out = f" Left out, as values are missing: {', '.join(gone)}." if gone else ""
        if not self.clear:
            why = about["reason"]
            return f"No clear boundary in {who} over {about['n_layers']} layers: {why}.{out}"
        rows = self.table.to_dict("records")
        spans = [f"{r['name']} {_span(r['first'], r['last'])} (mean {r['mean']:.3g})" for r in rows]
        sure = [
            f"{int(r['first'])} ("
            + (f"{int(r['low'])} to {int(r['high'])}, " if np.isfinite(r["low"]) else "")
            + f"p = {r['p']:.2g})"
            for r in rows[1:]
        ]
        fewer = about["boundaries"] - len(sure)
        dropped = f" {fewer} of {about['boundaries']} boundaries looked for did not hold." if fewer else ""
        p = "its p beside the others" if len(sure) > 1 else "its p"
        beside = f"its 95 % interval over tasks and {p}" if about["tasks"] > 1 else f"{p} (one task, no interval)"
        return (
            f"{who[0].upper()}{who[1:]} falls into {len(spans)} segments: {', '.join(spans)}. First layer after each "
            f"boundary, with {beside}: {', '.join(sure)}.{dropped} Shuffled layers are cut as well in "
            f"{about['p']:.2g} of the cases (p). The boundaries are of this curve; they do not say what the layers "
            f"do.{out} {CITED}"
        )

    def figure(self) -> go.Figure:
        """The curve of every task and their mean, segments shaded, boundaries with their intervals."""
        about = self.manifest
        rows = self.table.to_dict("records")
        subtitle = (
            f"p = {about['p']:.2g} against shuffled layers" if self.clear else f"no clear boundary: {about['reason']}"
        )
        if about["tasks"] > 1:
            subtitle += "; thin: single tasks"
        return figures.segmented(
            about["layers"],
            about["curve"],
            about["curves"],
            [(r["name"], r["first"], r["last"]) for r in rows],
            [(r["first"], r["low"], r["high"]) for r in rows[1:]],
            title="The layers in segments" if self.clear else "The layers, not cut",
            subtitle=subtitle,
            y_label=about["label"],
        )


@public
def segment(
    curves: Mapping[str, ArrayLike] | ArrayLike,
    *,
    boundaries: int = 2,
    alpha: float = 0.05,
    min_size: int = 2,
    layers: Sequence[int] | None = None,
    label: str = "similarity",
    permutations: int = 999,
    resamples: int = 1000,
    seed: int = 0,
) -> Segmentation:
    """Cut the layers by the change points of a curve, or say that it has no clear boundary.

    Args:
        curves: task -> one value per layer; a frame with a row per task and a column per layer; or an array
            [tasks, layers], or [layers]. A layer where a task has NaN is
            left out, and so is a task of NaN alone; both are reported.
        boundaries: how many to look for; those that do not hold beside the others are dropped. A curve with more of
            them than that is not cut (step 4).
        alpha: how often pure noise may be cut.
        min_size: layers of the shortest segment.
        layers: their numbers, 0, 1, ... if None.
        label: what the values are, for the figure.
        permutations: shuffles behind every p.
        resamples: drawn sets of tasks behind the intervals.
        seed: of the shuffles and draws.

    Raises:
        ArgumentError: curves of different lengths, too few layers for the segments, or a setting out of range.
        NumericalError: an infinite value.

    Example:
        >>> found = segment([0.9, 0.91, 0.9, 0.6, 0.61, 0.6, 0.3, 0.31, 0.3])
        >>> found.boundaries, list(found.table["name"])
        ([3, 6], ['shared', 'transition', 'refinement'])
    """
    _check(boundaries, alpha, min_size, permutations, resamples)
    table, numbers, names, left_out = _read(curves, layers)
    if (boundaries + 1) * min_size > len(numbers):
        asked = f"{boundaries} boundaries with segments of {min_size} layers or more"
        raise ArgumentError(asked, f"{len(numbers)} layers", "give fewer boundaries, or a lower min_size")
    rng = np.random.default_rng(seed)
    mean = table.mean(0)
    p, reason = tested(mean, boundaries, min_size, permutations, alpha, rng)
    starts, each = ([], []) if reason else held(mean, boundaries, min_size, permutations, alpha, rng)
    if each and not starts:
        reason = f"no boundary holds by itself (p = {each[0]:.2g}, more than {alpha:g})"
    r = autocorrelation(np.split(mean, starts))
    if starts and wanders(r, len(mean)):
        starts, reason = [], f"{ALIKE} (correlation {r:.2f}): it waves, wanders, or has more boundaries than looked for"
    spans = np.full((len(starts), 2), np.nan)
    if starts and len(table) > 1:
        spans = np.array(numbers)[intervals(table, len(starts), min_size, resamples, rng)]
    edges = [0, *starts, len(mean)]
    pieces = [mean[a:b] for a, b in itertools.pairwise(edges)]
    means = [float(piece.mean()) for piece in pieces]
    rows = []
    for i, name in enumerate(_names(means)):
        about = {"segment": i + 1, "name": name, "first": numbers[edges[i]], "last": numbers[edges[i + 1] - 1]}
        low, high, own = (*spans[i - 1].tolist(), each[i - 1]) if i else (np.nan,) * 3
        rows.append(about | {"mean": means[i], "low": float(low), "high": float(high), "p": own})
    manifest = {
        "clear": not reason, "reason": reason, "p": p, "alpha": alpha, "boundaries": boundaries, "min_size": min_size,
        "permutations": permutations, "resamples": resamples, "seed": seed,
        "autocorrelation": r, "tasks": len(names), "n_layers": len(numbers), "layers": numbers,
        "label": label, "left_out": left_out,
        "curve": mean.tolist(), "curves": {name: row.tolist() for name, row in zip(names, table, strict=True)},
        "versions": files.versions(),
    }  # fmt: skip
    import pandas as pd  # heavy: only where a table is made

    return Segmentation(pd.DataFrame(rows), manifest)


def _names(means: Sequence[float]) -> list[str]:
    if len(means) == 1:
        return ["all layers"]
    if len(means) == 3 and means[0] > means[1] > means[2]:
        return list(ZZC24)
    order = sorted(range(len(means)), key=lambda i: -means[i])
    rank = {
        i: "highest" if r == 0 else "lowest" if r == len(means) - 1 else f"rank {r + 1}" for r, i in enumerate(order)
    }
    return [rank[i] for i in range(len(means))]


def _span(first: float, last: float) -> str:
    return f"layer {int(first)}" if first == last else f"layers {int(first)}-{int(last)}"


def _read(curves: Any, layers: Sequence[int] | None) -> tuple[Floats, list[int], list[str], list[Any]]:
    """Values [task, layer] without gaps, the layers' numbers, the tasks' names, and what was left out."""
    asked, do = "segment curves over layers", "give one value per layer for every task"
    if hasattr(curves, "iterrows"):  # a data frame
        layers = list(curves.columns) if layers is None and curves.columns.dtype.kind in "iu" else layers
        curves = {str(task): row.to_numpy() for task, row in curves.iterrows()}
    try:
        rows = curves if isinstance(curves, Mapping) else np.atleast_2d(np.asarray(curves, dtype=np.float64))
        named = dict(rows) if isinstance(rows, Mapping) else {f"task {i + 1}": row for i, row in enumerate(rows)}
        table = np.array([np.asarray(row, dtype=np.float64) for row in named.values()])
    except (ValueError, TypeError):
        raise ArgumentError(asked, "curves of different lengths, or no numbers", do) from None
    if table.ndim != 2 or not table.size:
        raise ArgumentError(asked, f"shape {table.shape}", do)
    if np.isinf(table).any():
        raise NumericalError(asked, "an infinite value", "correct it, or make it NaN to leave the layer out")
    numbers = list(range(table.shape[1])) if layers is None else [int(layer) for layer in layers]
    if len(numbers) != table.shape[1] or numbers != sorted(set(numbers)):
        raise ArgumentError(asked, f"layers {numbers} for {table.shape[1]} values", "give a rising number per value")
    gone = np.isnan(table).all(1)
    left_out: list[Any] = [f"task {name}" for name, out in zip(named, gone, strict=True) if out]
    names = [name for name, out in zip(named, gone, strict=True) if not out]
    table = table[~gone]
    gaps = np.isnan(table).any(0)
    left_out += [number for number, gap in zip(numbers, gaps, strict=True) if gap]
    if not len(table) or gaps.all():
        raise ArgumentError(asked, "no layer where every task has a number", do)
    return table[:, ~gaps], [n for n, gap in zip(numbers, gaps, strict=True) if not gap], names, left_out


def _check(boundaries: int, alpha: float, min_size: int, permutations: int, resamples: int) -> None:
    counts = {"boundaries": boundaries, "min_size": min_size, "permutations": permutations, "resamples": resamples}
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ArgumentError(f"{name}={value!r}", "not a positive whole number", "give 1 or more")
    if not 0 < alpha < 1:
        raise ArgumentError(f"alpha={alpha!r}", "not between 0 and 1", "0.05 is usual")
