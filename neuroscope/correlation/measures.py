"""Correlation of a few numbers, and what chance alone would give: intervals and permutation tests.

- Pearson's r with Fisher's interval: tanh(artanh(r) -+ z / sqrt(n - 3)).
- Spearman's rho (midranks for ties) with Bonett & Wright's (2000): sqrt((1 + rho^2 / 2) / (n - 3)) in its place.
- Permutation p, two-sided by |r|, over all n! orders up to 40 320, else over drawn ones as (1 + hits) / (1 + drawn)
  (Phipson & Smyth 2010).
- Pairs of tasks are not independent: task i is in many. Their p permutes the labels of the tasks in one matrix, rows
  and columns together (Mantel 1967; QAP: Krackhardt 1988). Tasks that are only sources, only tests, or both are
  permuted among themselves. Their interval draws tasks with replacement, a pair as often as the product of its tasks'
  counts and a task never paired with itself (after the vertex bootstrap of Snijders & Borgatti 1999), percentiles;
  with few tasks it is too narrow rather than too wide.

Shapes: n numbers; P permutations; T tasks, matrices [T, T] with NaN where there is no number.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

EXACT = math.factorial(8)  # orders up to which all are counted
DRAWN = 4999
DRAWS = 1000  # of the bootstrap
LEAST = 4  # numbers for an interval: Fisher's divides by n - 3
STATISTICS = ("pearson", "spearman")
PERFECT = 1 - 1e-12
NUMBERS = 1 << 21  # held at a time

Floats = NDArray[np.float64]
Orders = NDArray[np.int64]


def correlation(x: Floats, y: Floats, statistic: str) -> float:
    """Pearson's r, or Spearman's rho; NaN where either is constant."""
    if statistic == "spearman":
        x, y = stats.rankdata(x), stats.rankdata(y)
    return float(weighted(x[None], y[None], np.ones((1, len(x))))[0])


def interval(r: float, n: int, statistic: str, level: float = 0.95) -> tuple[float, float]:
    """Fisher's interval of r, or Bonett & Wright's of rho; NaN where |r| = 1, or n < 4."""
    if n < LEAST or not abs(r) < PERFECT:
        return math.nan, math.nan
    spread = math.sqrt((1 + r * r / 2 if statistic == "spearman" else 1) / (n - 3))
    z = float(stats.norm.ppf((1 + level) / 2))
    return math.tanh(math.atanh(r) - z * spread), math.tanh(math.atanh(r) + z * spread)


def orders(classes: Sequence[Sequence[int]], seed: int) -> tuple[Orders, bool]:
    """Orders of all indices in the classes, each class shuffled within itself: [P, T], and whether these are all."""
    size = sum(len(c) for c in classes)
    if math.prod(math.factorial(len(c)) for c in classes) <= EXACT:
        listed = np.empty((math.prod(math.factorial(len(c)) for c in classes), size), dtype=np.int64)
        for row, parts in enumerate(itertools.product(*(itertools.permutations(c) for c in classes))):
            for places, part in zip(classes, parts, strict=True):
                listed[row, list(places)] = part
        return listed, True
    rng = np.random.default_rng(seed)
    drawn = np.tile(np.arange(size), (DRAWN, 1))
    for places in classes:
        drawn[:, list(places)] = rng.permuted(np.tile(places, (DRAWN, 1)), axis=1)
    return drawn, False


def permutation_p(x: Floats, y: Floats, statistic: str, shuffled: tuple[Orders, bool]) -> float:
    """Two-sided p of a correlation of paired numbers."""
    if statistic == "spearman":
        x, y = stats.rankdata(x), stats.rankdata(y)
    x, y = x - x.mean(), y - y.mean()
    drawn = (x[shuffled[0]] @ y) / math.sqrt((x @ x) * (y @ y))
    return _share(drawn, float(x @ y) / math.sqrt((x @ x) * (y @ y)), shuffled[1])


def label_permutation_p(x: Floats, y: Floats, statistic: str, shuffled: tuple[Orders, bool]) -> float:
    """Two-sided p of the correlation of two matrices over the tasks' labels; a gap of x moves with its tasks."""
    if statistic == "spearman":
        x, y = _ranked(x), _ranked(y)
    rows, columns = np.nonzero(np.isfinite(y))

    def under(labels: Orders) -> Floats:
        moved = x[labels[:, rows], labels[:, columns]]
        there = np.isfinite(moved)
        theirs = np.broadcast_to(y[rows, columns], moved.shape)
        return weighted(np.where(there, moved, 0.0), theirs, there.astype(float))

    every, exact = shuffled
    batch = max(1, NUMBERS // len(rows))
    drawn = np.concatenate([under(every[start : start + batch]) for start in range(0, len(every), batch)])
    return _share(drawn, float(under(np.arange(len(x))[None])[0]), exact)


def task_bootstrap(
    x: Floats, y: Floats, statistic: str, classes: Sequence[Sequence[int]], seed: int, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the correlation over pairs, tasks drawn with replacement; NaN if most draws have none."""
    rng = np.random.default_rng(seed)
    rows, columns = np.nonzero(np.isfinite(x) & np.isfinite(y))
    counts = np.zeros((DRAWS, len(x)))
    for places in classes:
        draws = rng.integers(len(places), size=(DRAWS, len(places)))
        for place, index in enumerate(places):
            counts[:, index] = (draws == place).sum(1)
    weight = counts[:, rows] * counts[:, columns]
    first, second = (np.broadcast_to(m[rows, columns], weight.shape) for m in (x, y))
    if statistic == "spearman":
        first, second = _weighted_ranks(first[0], weight), _weighted_ranks(second[0], weight)
    found = weighted(first, second, weight)
    found = found[np.isfinite(found)]
    if len(found) < DRAWS / 2:
        return math.nan, math.nan
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def weighted(x: Floats, y: Floats, weight: Floats) -> Floats:
    """Pearson's r of each row's pairs, counted as often as their weights say: [P, n] -> [P]; NaN where constant."""
    total = weight.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        # what is constant on paper need not be so in the last digit
        limits = [total * (1e-12 * np.where(weight > 0, np.abs(v), 0).max(1, initial=0.0)) ** 2 for v in (x, y)]
        x = x - ((weight * x).sum(1) / total)[:, None]
        y = y - ((weight * y).sum(1) / total)[:, None]
        spread_x, spread_y = (weight * x * x).sum(1), (weight * y * y).sum(1)
        r = (weight * x * y).sum(1) / np.sqrt(spread_x * spread_y)
    found: Floats = np.where((spread_x > limits[0]) & (spread_y > limits[1]), np.clip(r, -1, 1), np.nan)
    return found


def _share(drawn: Floats, own: float, exact: bool) -> float:
    """Share of the correlations that are as large as the one measured; equal on paper counts as equal."""
    hits = int(np.sum(np.abs(drawn[np.isfinite(drawn)]) >= abs(own) - 1e-9))
    return hits / int(np.isfinite(drawn).sum()) if exact else (1 + hits) / (1 + len(drawn))


def _ranked(matrix: Floats) -> Floats:
    """Midranks of the cells of a matrix that have a number, NaN elsewhere."""
    found, where = np.full(matrix.shape, np.nan), np.isfinite(matrix)
    found[where] = stats.rankdata(matrix[where])
    return found


def _weighted_ranks(values: Floats, weight: Floats) -> Floats:
    """Midranks of the values in samples that hold each as often as its weight says: [n], [P, n] -> [P, n]."""
    distinct, group = np.unique(values, return_inverse=True)
    size = np.zeros((len(weight), len(distinct)))
    for g in range(len(distinct)):
        size[:, g] = weight[:, group == g].sum(1)
    ranks: Floats = (np.cumsum(size, axis=1) - size / 2 + 0.5)[:, group]
    return ranks
