"""Cut a model's layers into segments by the change points of a curve over layers (ZZC24 Fig. 1, found, not typed in).

1. The curve is the mean over tasks. It is cut by exact dynamic programming into the pieces with the least squared
   error around a constant each (`cuts`, of thousands of shuffled curves at once; Truong et al. 2020 review the method).
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
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from neuroscope import files
from neuroscope.arrays import numbers_of
from neuroscope.checks import by_text, public
from neuroscope.comparison.segmentation.change_points import (
    Floats,
    Search,
    autocorrelation,
    finest,
    intervals,
    tested,
    wanders,
)
from neuroscope.comparison.segmentation.segments import ZZC24, Segmentation
from neuroscope.errors import ArgumentError, NumericalError

ALIKE = "neighbouring layers err alike around the best cut"


@public
def segment(
    curves: Mapping[str, ArrayLike] | ArrayLike,
    *,
    boundaries: int = 2,
    alpha: float = 0.05,
    min_size: int = 2,
    layers: Sequence[int] | None = None,
    label: str = "similarity",
    null: int = 999,
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
        null: permutations of the layers behind every p.
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
    search = Search(boundaries, min_size, alpha, null, resamples, seed)
    curves_of = _read(curves, layers)
    n, wanted = len(curves_of.layers), (boundaries + 1) * min_size
    if wanted > n:
        found = f"curves over {n} layers{' without gaps' if curves_of.left_out else ''}, of the {wanted} that "
        found += f"{boundaries + 1} segments of {min_size} or more want"
        most = n // min_size - 1
        do = f"give boundaries={most}, " if most > 0 else "give curves over more layers, "
        raise ArgumentError(f"segment(curves, {boundaries=}, {min_size=})", found, f"{do}or a lower min_size")
    return _cut(curves_of, search, label)


@dataclass(frozen=True)
class Curves:
    """Values [task, layer] without gaps, the tasks' names, the layers' numbers, and what was left out for gaps."""

    values: Floats
    tasks: list[str]
    layers: list[int]
    left_out: list[Any]


def _cut(curves: Curves, search: Search, label: str) -> Segmentation:
    rng = np.random.default_rng(search.seed)
    mean = curves.values.mean(0)
    p, reason = tested(mean, search, rng)
    starts, each = ([], []) if reason else finest(mean, search, rng)
    if each and not starts:
        reason = f"no boundary holds by itself (p = {each[0]:.2g}, more than {search.alpha:g})"
    r = autocorrelation(np.split(mean, starts))
    if starts and wanders(r, len(mean)):
        starts, reason = [], f"{ALIKE} (correlation {r:.2f}): it waves, wanders, or has more boundaries than looked for"
    ends = np.full((len(starts), 2), np.nan)
    if starts and len(curves.values) > 1:
        places = intervals(curves.values, len(starts), search.min_size, search.resamples, rng)
        ends = np.array(curves.layers)[places]
    import pandas as pd  # heavy: only where a table is made

    manifest = {
        "clear": not reason, "reason": reason, "p": p, **asdict(search),
        "autocorrelation": r, "tasks": len(curves.tasks), "n_layers": len(curves.layers), "layers": curves.layers,
        "label": label, "left_out": curves.left_out, "curve": mean.tolist(),
        "curves": {name: row.tolist() for name, row in zip(curves.tasks, curves.values, strict=True)},
        "versions": files.versions(),
    }  # fmt: skip
    return Segmentation(pd.DataFrame(_rows(mean, curves.layers, starts, ends, each)), manifest)


def _rows(
    mean: Floats, layers: Sequence[int], starts: Sequence[int], ends: Floats, each: Sequence[float]
) -> list[dict[str, Any]]:
    """A row per segment; `ends` and `each`: interval and p of the boundary before each segment but the first."""
    edges = [0, *starts, len(mean)]
    means = [float(mean[a:b].mean()) for a, b in itertools.pairwise(edges)]
    rows = []
    for i, name in enumerate(_names(means)):
        low, high, p = (*ends[i - 1].tolist(), each[i - 1]) if i else (np.nan,) * 3
        row = {"segment": i + 1, "name": name, "first": layers[edges[i]], "last": layers[edges[i + 1] - 1]}
        rows.append(row | {"mean": means[i], "low": float(low), "high": float(high), "p": p})
    return rows


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


def _read(curves: Any, layers: Sequence[int] | None) -> Curves:
    """The curves, however they are given."""
    asked, do = "segment curves over layers", "give one value per layer for every task"
    if hasattr(curves, "iterrows"):  # a data frame
        layers = list(curves.columns) if layers is None and curves.columns.dtype.kind in "iu" else layers
        curves = {str(task): row.to_numpy() for task, row in curves.iterrows()}
    if isinstance(curves, Mapping):
        named = {task: numbers_of(row, f"curves[{task!r}]") for task, row in by_text(curves, "curves", do).items()}
    else:
        named = {f"task {i + 1}": row for i, row in enumerate(np.atleast_2d(numbers_of(curves, "curves")))}
    if len({row.shape for row in named.values()}) > 1:
        raise ArgumentError(asked, "curves of different lengths", do)
    table: Any = np.array([*named.values()], dtype=np.float64)
    if table.ndim != 2 or not table.size:
        raise ArgumentError(asked, f"shape {table.shape}", do)
    if np.isinf(table).any():
        raise NumericalError(asked, "an infinite value", "correct it, or make it NaN to leave the layer out")
    numbers = list(range(table.shape[1])) if layers is None else [int(layer) for layer in layers]
    if len(numbers) != table.shape[1] or numbers != sorted(set(numbers)):
        raise ArgumentError(asked, f"layers {numbers} for {table.shape[1]} values", "give a rising number per value")
    empty = np.isnan(table).all(1)
    left_out: list[Any] = [f"task {name}" for name, out in zip(named, empty, strict=True) if out]
    names = [name for name, out in zip(named, empty, strict=True) if not out]
    table = table[~empty]
    gaps = np.isnan(table).any(0)
    left_out += [number for number, gap in zip(numbers, gaps, strict=True) if gap]
    if not len(table) or gaps.all():
        raise ArgumentError(asked, "no layer where every task has a number", do)
    return Curves(table[:, ~gaps], names, [n for n, gap in zip(numbers, gaps, strict=True) if not gap], left_out)
