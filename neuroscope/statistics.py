"""How sure a number is: bootstrap intervals, paired permutation tests, and the false discovery rate of a table.

Pure numpy, no model in sight. Every draw comes from a generator made of `seed`, so equal arguments give equal answers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from neuroscope.checks import public
from neuroscope.errors import ArgumentError, NumericalError

ALPHA = 0.05  # level of every verdict in words
EXACT = 12  # non-zero differences up to which all 2**n sign flips are enumerated
BATCH = 1 << 21  # random numbers held at a time

Floats = NDArray[np.float64]


@public
def bootstrap_interval(
    values: ArrayLike, seed: int = 0, level: float = 0.95, resamples: int = 2000
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron & Tibshirani 1993, §13.3).

    Args:
        values: one number per example, shape [n], in any unit; the interval has the same unit.
        seed: of the resampling.
        level: share of the bootstrap means inside the interval.
        resamples: number of bootstrap means.

    Returns:
        Lower and upper end. Examples that all agree, or one example alone, give an interval of width zero.

    Raises:
        ArgumentError: no values, or a level or number of resamples that cannot be.
        NumericalError: a value is NaN or infinite.

    Example:
        >>> low, high = bootstrap_interval([0, 1] * 50)
        >>> low < 0.5 < high
        True
    """
    sample = _finite(values, "a bootstrap interval")
    if not 0 < level < 1:
        raise ArgumentError(f"level={level!r}", "not between 0 and 1", "0.95 is usual")
    _positive(resamples, "resamples")
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [
            sample[rng.integers(sample.size, size=(rows, sample.size))].mean(1)
            for rows in _batches(resamples, sample.size)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@public
def paired_permutation(a: ArrayLike, b: ArrayLike, seed: int = 0, permutations: int = 4999) -> float:
    """Two-sided sign-flip p of the mean difference between two measurements of the same examples.

    Under the null hypothesis the two measurements of an example could be swapped, so every difference `a - b` is as
    likely to have the other sign. Up to 12 non-zero differences all flips are counted and p is exact; beyond, flips
    are drawn and p is `(1 + hits) / (1 + permutations)`, which is valid and never 0 (Phipson & Smyth 2010).

    Args:
        a: one number per example, shape [n].
        b: the other measurement of the same examples in the same order, shape [n].
        seed: of the drawn flips.
        permutations: number of drawn flips.

    Returns:
        p in (0, 1]; 1 where no example differs.

    Raises:
        ArgumentError: no values, or different numbers of them.
        NumericalError: a value is NaN or infinite.

    Example:
        >>> paired_permutation([1, 1, 1, 1], [0, 0, 0, 0])  # 2 of the 16 sign patterns are as extreme
        0.125
    """
    first, second = _finite(a, "a paired permutation test"), _finite(b, "a paired permutation test")
    if first.size != second.size:
        raise ArgumentError(
            "a paired permutation test",
            f"{first.size} and {second.size} values",
            "give the same examples in the same order",
        )
    _positive(permutations, "permutations")
    difference = first - second
    difference = difference[difference != 0]  # a zero stays zero under every flip
    if not difference.size:
        return 1.0
    # Sums that are equal on paper may differ in the last digit: they count as equal.
    bar = abs(difference.sum()) - 1e-9 * np.abs(difference).sum()
    if difference.size <= EXACT:
        patterns = np.arange(1 << difference.size)[:, None] >> np.arange(difference.size)
        return float(np.mean(_flipped(patterns & 1, difference) >= bar))
    rng = np.random.default_rng(seed)
    hits = sum(
        int(np.sum(_flipped(rng.integers(2, size=(rows, difference.size), dtype=np.int8), difference) >= bar))
        for rows in _batches(permutations, difference.size)
    )
    return (1 + hits) / (1 + permutations)


@public
def permutation_p(own: float, drawn: ArrayLike, exact: bool = False) -> float:
    """One-sided p: the share of shuffled values that are at least as large as the one measured.

    Two-sided is the same of absolute values. Equal on paper counts as equal (to 1e-9 of the largest value).

    Args:
        own: the value measured.
        drawn: values under shuffling, any shape; NaN (a shuffle that has no value) is not counted.
        exact: `drawn` holds every shuffle, the own one among them: hits / all. Else drawn at random, and the own one
            is counted with them: (1 + hits) / (1 + drawn), valid and never 0 (Phipson & Smyth 2010).

    Raises:
        NumericalError: `own` or every shuffled value is not finite.

    Example:
        >>> permutation_p(3, [1, 2, 3, 4]), permutation_p(3, [1, 2, 3, 4], exact=True)
        (0.6, 0.5)
    """
    values = np.asarray(drawn, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not np.isfinite(own) or not values.size:
        found = f"{own} beside {values.size} shuffled values"
        raise NumericalError("a permutation p", found, "give a finite value, and at least one shuffled one")
    hits = int((values >= own - 1e-9 * max(abs(own), np.abs(values).max())).sum())
    return hits / values.size if exact else (1 + hits) / (1 + values.size)


@public
def against_controls(own: ArrayLike, controls: ArrayLike, seed: int = 0, level: float = 0.95) -> dict[str, float]:
    """How much less a mask leaves than random masks do, with both kinds of chance in the interval and in p.

    Examples are one sample, and the random masks are another: a mask can differ from their mean as a further random
    mask would. Each is tested, and p is the larger one: a small p means that neither explains the difference.

    1. paired permutation of `own` and the controls' mean over examples;
    2. Student's t of `own`'s mean score as a further draw from the controls' scores: (mean - own) / (s sqrt(1 + 1/S)),
       S - 1 degrees of freedom. Where all controls score the same, only examples are left to chance.

    The interval is a percentile bootstrap that draws examples, and controls, again.

    Args:
        own: [example] outcomes under the mask.
        controls: [control, example] outcomes under two random masks or more.

    Returns:
        effect (mean control - own), low, high, p.
    """
    own, controls = _finite(own, "outcomes"), np.atleast_2d(np.asarray(controls, dtype=float))
    if len(controls) < 2 or controls.shape[1:] != own.shape:
        found = f"{controls.shape} controls for {own.shape} outcomes"
        raise ArgumentError(
            "compare a mask with random masks", found, "give two random masks or more, on the same examples"
        )
    _finite(controls.ravel(), "outcomes of the controls")
    scores, s = controls.mean(axis=1), controls.mean(axis=1).std(ddof=1)
    effect = float(scores.mean() - own.mean())
    p_mask = 1.0 if effect == 0 else 0.0
    if s > 0:
        p_mask = float(2 * stats.t.sf(abs(effect) / (s * np.sqrt(1 + 1 / len(scores))), len(scores) - 1))
    rng = np.random.default_rng(seed)
    drawn = [
        controls[np.ix_(rng.integers(len(scores), size=len(scores)), index)].mean() - own[index].mean()
        for index in rng.integers(len(own), size=(1000, len(own)))
    ]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    p = max(p_mask, paired_permutation(own, controls.mean(axis=0), seed))
    return {"effect": effect, "low": float(low), "high": float(high), "p": p}


@public
def benjamini_hochberg(p: ArrayLike) -> Floats:
    """Benjamini-Hochberg q of every p in a table: the smallest false discovery rate at which it would be a finding.

    Args:
        p: p values of any shape, in [0, 1]. NaN marks a test that was not made: it stays NaN and is not counted.

    Returns:
        q values of the same shape (Benjamini & Hochberg 1995).

    Raises:
        ArgumentError: a p outside [0, 1], or no p at all.

    Example:
        >>> benjamini_hochberg([0.01, float("nan"), 0.04]).tolist()
        [0.02, nan, 0.04]
    """
    table = np.asarray(p, dtype=np.float64)
    made = ~np.isnan(table)
    values = table[made]
    if not table.size:
        raise ArgumentError("Benjamini-Hochberg q", "no p values", "give at least one")
    if np.any((values < 0) | (values > 1)):
        raise ArgumentError("Benjamini-Hochberg q", f"p from {values.min()} to {values.max()}", "p lies in [0, 1]")
    order = np.argsort(values)[::-1]
    ranks = np.arange(values.size, 0, -1)
    q = np.full(table.shape, np.nan)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum.accumulate(values[order] * values.size / ranks)
    q[made] = adjusted  # never above 1: the largest p is multiplied by 1
    return q


def _flipped(bits: NDArray[np.integer], difference: Floats) -> Floats:
    """|sum| of the differences under every row of sign bits."""
    sums: Floats = np.abs(difference.sum() - 2 * (bits @ difference))
    return sums


def _finite(values: ArrayLike, what: str) -> Floats:
    """`values` as one finite, non-empty row."""
    row = np.asarray(values, dtype=np.float64)
    if row.ndim != 1 or not row.size:
        raise ArgumentError(what, f"values of shape {row.shape}", "give one number per example, at least one")
    bad = np.flatnonzero(~np.isfinite(row))
    if bad.size:
        raise NumericalError(
            what,
            f"{bad.size} of {row.size} values are not finite (the first, number {bad[0]}, is {row[bad[0]]})",
            "leave those examples out knowingly, or find out why they have no value",
        )
    return row


def _positive(count: int, name: str) -> None:
    if count < 1:
        raise ArgumentError(f"{name}={count!r}", "fewer than one", "ask for one or more")


def _batches(rows: int, width: int) -> list[int]:
    """`rows` cut into pieces of at most BATCH numbers each (one row at least)."""
    size = max(1, BATCH // width)
    return [min(size, rows - start) for start in range(0, rows, size)]
