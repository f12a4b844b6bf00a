"""Cut a model's layers into segments by the change points of a curve over layers (ZZC24 Fig. 1, found, not typed in).

1. The curve is the mean over tasks. It is cut by exact dynamic programming into the pieces with the least squared
   error around a constant each (`ruptures.Dynp`, cost "l2"; Truong et al. 2020).
2. Are there boundaries at all? The statistic is the squared error of a straight line over that of the pieces: a smooth
   decline has no boundary. Its null distribution comes from shuffling the layers: exact for curves whose layers are
   exchangeable (a level and noise), conservative for a straight slope with noise. Noise that wanders from layer to
   layer (a random walk) is no part of the null and may look like boundaries.
3. The interval of a boundary: tasks are drawn again, the curve of their mean is cut again (percentile bootstrap).
4. Names come from the curve: "shared", "transition", "refinement" where three pieces of similarity fall one after
   another, as ZZC24 found it; otherwise where a piece stands among the others.

ZZC24 cut Llama-2-7b into layers 1-9, 10-15 and 16-32: cited in the sentence, and used nowhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuroscope import explorers, files
from neuroscope.errors import ArgumentError, NumericalError, public
from neuroscope.results import Result

if TYPE_CHECKING:
    import plotly.graph_objects as go

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
ZZC24 = ("shared", "transition", "refinement")
CITED = "ZZC24 cut Llama-2-7b into layers 1-9, 10-15 and 16-32; another model or data need not agree."
CHUNK = 1 << 22  # numbers of a table of costs held at a time


@dataclass(frozen=True, repr=False)
class Segmentation(Result):
    """The segments of the layers, or one segment of all layers where there is no clear boundary.

    `table` has a row per segment: segment, name, first, last (layers), mean (of the curve), low, high (interval of
    `first` over tasks; NaN for the first segment, and where one task alone leaves nothing to draw from).
    """

    @property
    def clear(self) -> bool:
        """Whether there are boundaries, at the level asked for."""
        return bool(self.manifest["clear"])

    @property
    def boundaries(self) -> list[int]:
        """First layer of every segment but the first; empty where there is no clear boundary."""
        return [int(first) for first in self.table["first"][1:]]

    def sentence(self) -> str:
        """What was found and what that says, in words."""
        about = self.manifest
        who = f"the mean curve of {about['tasks']} tasks" if about["tasks"] > 1 else "the curve of one task"
        out = f" Layers without a value for every task are left out: {about['left_out']}." if about["left_out"] else ""
        if not self.clear:
            why = about["reason"]
            return f"No clear boundary in {who} over {about['n_layers']} layers: {why}.{out}"
        spans = [
            f"{r['name']} {_span(r['first'], r['last'])} (mean {r['mean']:.3g})" for r in self.table.to_dict("records")
        ]
        sure = [
            f"{int(r['first'])} ({int(r['low'])} to {int(r['high'])})"
            if np.isfinite(r["low"])
            else f"{int(r['first'])}"
            for r in self.table.to_dict("records")[1:]
        ]
        interval = " with its 95 % interval over tasks" if about["tasks"] > 1 else "; one task gives no interval"
        return (
            f"{who[0].upper()}{who[1:]} falls into {len(spans)} segments: {', '.join(spans)}. First layer after each "
            f"boundary{interval}: {', '.join(sure)}. Shuffled layers are cut as well in {about['p']:.2g} of the cases "
            f"(p). The boundaries are of this curve; they do not say what the layers do.{out} {CITED}"
        )

    def figure(self) -> go.Figure:
        """The curve of every task and their mean, segments shaded, boundaries with their intervals."""
        about = self.manifest
        rows = self.table.to_dict("records")
        subtitle = (
            f"p = {about['p']:.2g} against shuffled layers" if self.clear else f"no clear boundary: {about['reason']}"
        )
        return explorers.segmented(
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
        curves: task -> one value per layer; or an array [tasks, layers], or [layers]. A layer where a task has NaN is
            left out, and so is a task of NaN alone; both are reported.
        boundaries: how many to look for.
        alpha: how often pure noise may be cut.
        min_size: layers of the shortest segment.
        layers: their numbers, 0, 1, ... if None.
        label: what the values are, for the figure.
        permutations: shuffles of the layers behind p.
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
    starts = _ruptures(mean, boundaries, min_size)
    p, reason = _test(mean, boundaries, min_size, permutations, alpha, rng)
    low, high = _intervals(table, boundaries, min_size, resamples, rng)
    edges = [0, *starts, len(mean)] if not reason else [0, len(mean)]
    rows = []
    means = [float(mean[a:b].mean()) for a, b in itertools.pairwise(edges)]
    for i, name in enumerate(_names(means)):
        about = {"segment": i + 1, "name": name, "first": numbers[edges[i]], "last": numbers[edges[i + 1] - 1]}
        span = (float(numbers[low[i - 1]]), float(numbers[high[i - 1]])) if i and len(table) > 1 else (np.nan, np.nan)
        rows.append(about | {"mean": means[i], "low": span[0], "high": span[1]})
    manifest = {
        "clear": not reason, "reason": reason, "p": p, "alpha": alpha, "boundaries": boundaries, "min_size": min_size,
        "candidates": [numbers[s] for s in starts], "permutations": permutations, "resamples": resamples, "seed": seed,
        "tasks": len(names), "n_layers": len(numbers), "layers": numbers, "label": label, "left_out": left_out,
        "curve": mean.tolist(), "curves": {name: row.tolist() for name, row in zip(names, table, strict=True)},
        "versions": files.versions(),
    }  # fmt: skip
    import pandas as pd  # heavy: only where a table is made

    return Segmentation(pd.DataFrame(rows), manifest)


def cuts(curves: Floats, boundaries: int, min_size: int) -> tuple[Floats, Ints]:
    """The best cut of each of many curves [curve, layer]: its squared error, and the first layer after each boundary.

    The same optimum as `ruptures.Dynp` with cost "l2", for all curves at once.
    """
    y = curves - curves.mean(1, keepdims=True)
    n, zero = y.shape[1], np.zeros((len(y), 1))
    s, q = np.hstack([zero, y.cumsum(1)]), np.hstack([zero, (y**2).cumsum(1)])
    length = np.arange(n + 1)[None, :] - np.arange(n + 1)[:, None]  # of the segment from i up to j
    within = (q[:, None, :] - q[:, :, None]) - (s[:, None, :] - s[:, :, None]) ** 2 / np.maximum(length, 1)
    cost = np.where(length >= min_size, within.clip(0), np.inf)
    best, back = cost[:, 0], []
    for _ in range(boundaries):
        total = best[:, :, None] + cost
        back.append(total.argmin(1))
        best = total.min(1)
    end, starts = np.full(len(y), n), []
    for pointers in reversed(back):
        end = pointers[np.arange(len(y)), end]
        starts.append(end)
    return best[:, n], np.stack(starts[::-1], 1)


def gains(curves: Floats, boundaries: int, min_size: int) -> Floats:
    """Squared error of a straight line over that of the pieces, of each curve; large where the curve has steps."""
    y = curves - curves.mean(1, keepdims=True)
    x = np.arange(y.shape[1]) - (y.shape[1] - 1) / 2
    total = (y**2).sum(1)
    line = (total - (y @ x) ** 2 / (x @ x)).clip(0)
    tiny = 1e-12 * total + np.finfo(float).tiny  # a curve of perfect steps leaves no error
    found = []
    size = max(1, CHUNK // (y.shape[1] + 1) ** 2)
    for i in range(0, len(y), size):
        found.append(cuts(y[i : i + size], boundaries, min_size)[0])
    return (line + tiny) / (np.concatenate(found) + tiny)


def _test(
    mean: Floats, boundaries: int, min_size: int, permutations: int, alpha: float, rng: np.random.Generator
) -> tuple[float, str]:
    """p of the cut, and why there is no clear boundary ("" where there is)."""
    if np.ptp(mean) <= 1e-12 * np.abs(mean).max():
        return 1.0, "the curve is constant"
    own = gains(mean[None], boundaries, min_size)[0]
    shuffled = rng.permuted(np.tile(mean, (permutations, 1)), axis=1)
    p = float((1 + (gains(shuffled, boundaries, min_size) >= own * (1 - 1e-9)).sum()) / (1 + permutations))
    if p <= alpha:
        return p, ""
    line = "a straight line fits it better than the pieces" if own < 1 else "pieces fit shuffled layers as well"
    return p, f"{line} (p = {p:.2g}, more than {alpha:g})"


def _intervals(
    table: Floats, boundaries: int, min_size: int, resamples: int, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """95 % percentile interval over tasks of each boundary, as positions of layers."""
    drawn = rng.integers(len(table), size=(resamples, len(table)))
    found, size = [], max(1, CHUNK // (table.shape[1] + 1) ** 2)
    for i in range(0, resamples, size):
        found.append(cuts(table[drawn[i : i + size]].mean(1), boundaries, min_size)[1])
    starts = np.concatenate(found)
    low = np.quantile(starts, 0.025, axis=0, method="inverted_cdf")
    high = np.quantile(starts, 0.975, axis=0, method="inverted_cdf")
    return low.astype(np.int64), high.astype(np.int64)


def _ruptures(curve: Floats, boundaries: int, min_size: int) -> list[int]:
    import ruptures  # only where a curve is cut

    ends = ruptures.Dynp(model="l2", min_size=min_size, jump=1).fit(curve).predict(n_bkps=boundaries)
    return [int(end) for end in ends[:-1]]


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
