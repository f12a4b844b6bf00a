"""How sure a number is: every interval, p and q of the package.

| asked | function |
|---|---|
| interval of a score, over examples | `score_interval` (Wilson where outcomes are right or wrong) |
| interval of another mean, many examples | `bootstrap_interval` |
| interval of a mean, a few runs or tasks | `mean_interval` (Student's t), `standard_error` |
| interval of a score over seeds | `seeds_and_examples_interval`, `outcomes_interval` |
| the middle 95 % of draws | `percentile_interval` |
| do two measurements of the same examples differ? | `paired_permutation` |
| is a value beyond those of shuffled data? | `permutation_p` |
| what does a mask break beyond a random one? | `against_controls` |
| are there more right answers than one answer alone gets? | `better_than_share` |
| q of many p | `benjamini_hochberg` |

numpy and scipy, no model in sight. Every draw comes from a generator made of `seed`: equal arguments, equal answers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from neuroscope import arrays  # noqa: F401  # for what `ArrayLike` takes
from neuroscope.checks import MOST_DRAWS, public, whole
from neuroscope.errors import ArgumentError, NumericalError

ALPHA = 0.05  # level of every verdict in words
EXACT = 12  # non-zero differences up to which all 2**n sign flips are enumerated
BATCH = 1 << 21  # random numbers held at a time

Floats = NDArray[np.float64]


@public
def bootstrap_interval(values: ArrayLike, seed: int = 0, resamples: int = 2000) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron & Tibshirani 1993, §13.3).

    1.2 to 2 times as fast as `scipy.stats.bootstrap` on 1000 to 50 examples, and never more than 2**21 draws in memory.

    Args:
        values: one number per example, shape [n], in any unit; the interval has the same unit.
        seed: of the resampling.
        resamples: number of bootstrap means, of which 95 % are inside the interval.

    Returns:
        Lower and upper end. Examples that all agree, or one example alone, give an interval of width zero.

    Raises:
        ArgumentError: no values, or a number of resamples that cannot be.
        NumericalError: a value is NaN or infinite.

    Example:
        >>> low, high = bootstrap_interval([0, 1] * 50)
        >>> low < 0.5 < high
        True
    """
    sample = _finite(values, "a bootstrap interval of values")
    whole(resamples, "resamples", 1, most=MOST_DRAWS)
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [
            sample[rng.integers(sample.size, size=(rows, sample.size))].mean(1)
            for rows in _batches(resamples, sample.size)
        ]
    )
    return percentile_interval(means)


@public
def score_interval(outcomes: ArrayLike, seed: int = 0) -> tuple[float, float]:
    """95 % interval of a mean outcome in [0, 1], over examples.

    Where outcomes are 0 or 1, or all the same, Wilson's (1927), `scipy.stats.binomtest(...).proportion_ci` of method
    "wilson": 96 of 96 right is no certainty, but [0.96, 1]. Else a percentile bootstrap.

    Args:
        outcomes: one number in [0, 1] per example, shape [n].
        seed: of the bootstrap.

    Returns:
        Lower and upper end.

    Raises:
        ArgumentError: no outcomes, or one outside [0, 1].
        NumericalError: an outcome is NaN or infinite.

    Example:
        >>> low, high = score_interval([1] * 96)
        >>> round(low, 3), high
        (0.962, 1.0)
    """
    sample = _finite(outcomes, "the interval of a score of outcomes")
    if sample.min() < 0 or sample.max() > 1:
        found = f"outcomes from {sample.min()} to {sample.max()}"
        raise ArgumentError("the interval of a score", found, "give outcomes between 0 and 1")
    if len(np.unique(sample)) > 1 and not np.isin(sample, (0, 1)).all():
        return bootstrap_interval(sample, seed)
    n, share, z2 = sample.size, sample.mean(), stats.norm.ppf(0.975) ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2) * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, float(middle - half)), 1.0 if share == 1 else min(1.0, float(middle + half))


@public
def percentile_interval(draws: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """The ends of the middle `level` of draws, such as values under shuffling; a value that is not finite is no draw.

    Returns:
        Lower and upper end, between two draws where need be (linearly); NaN where there is no draw.

    Example:
        >>> percentile_interval(range(101), level=0.5)
        (25.0, 75.0)
    """
    values = np.asarray(draws, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@public
def standard_error(values: ArrayLike) -> float:
    """Standard error of the mean of independent values; NaN of a single one, which tells nothing about others.

    Example:
        >>> standard_error([1, 3])
        1.0
    """
    sample = np.asarray(values, dtype=np.float64)
    return float(sample.std(ddof=1) / np.sqrt(sample.size)) if sample.size > 1 else math.nan


@public
def mean_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean of a few independent values, of which a bootstrap would be too narrow.

    The same as `scipy.stats.ttest_1samp(values, 0).confidence_interval(level)`, but silent where there is none.

    Args:
        values: one per run, seed or task.
        level: share of such intervals that hold the true mean, if the values are normal.

    Returns:
        Lower and upper end; NaN for fewer than two values, or where one is NaN.

    Example:
        >>> low, high = mean_interval([0.6, 0.7, 0.8])
        >>> round(low, 3), round(high, 3)
        (0.452, 0.948)
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size < 2:
        return math.nan, math.nan
    half = stats.t.ppf((1 + level) / 2, sample.size - 1) * sample.std(ddof=1) / np.sqrt(sample.size)
    return float(sample.mean() - half), float(sample.mean() + half)


@public
def seeds_and_examples_interval(
    means: ArrayLike, example_error: float, is_score: bool = False
) -> tuple[float, float, float]:
    """Mean over seeds, with a 95 % interval over both kinds of chance: seeds, and the examples that all seeds share.

    Half its width is the root of the sum of the squares of two: Student's t over the seeds' means (nothing for a single
    seed), and 1.96 standard errors over examples.

    Args:
        means: mean outcome of each seed.
        example_error: standard error over examples of the mean over seeds.
        is_score: end the interval at 0 and 1, where scores end.

    Returns:
        Mean, lower and upper end.

    Example:
        >>> [round(v, 3) for v in seeds_and_examples_interval([0.5], 0.1)]
        [0.5, 0.304, 0.696]
    """
    sample = np.asarray(means, dtype=np.float64)
    half = float(stats.norm.ppf(0.975)) * example_error
    if sample.size > 1:
        half = np.hypot(half, stats.t.ppf(0.975, sample.size - 1) * sample.std(ddof=1) / np.sqrt(sample.size))
    mean, low, high = float(sample.mean()), float(sample.mean() - half), float(sample.mean() + half)
    return (mean, max(0.0, low), min(1.0, high)) if is_score else (mean, low, high)


@public
def outcomes_interval(outcomes: ArrayLike, is_score: bool = False) -> tuple[float, float, float]:
    """`seeds_and_examples_interval` of [seed, example] outcomes, or of differences of them.

    Example:
        >>> [round(v, 3) for v in outcomes_interval([[0, 1, 1, 1]], is_score=True)]
        [0.75, 0.26, 1.0]
    """
    table = np.atleast_2d(np.asarray(outcomes, dtype=np.float64))
    _finite(table.ravel(), "an interval of outcomes")
    error = standard_error(table.mean(axis=0)) if table.shape[1] > 1 else 0.0
    return seeds_and_examples_interval(table.mean(axis=1), error, is_score)


@public
def paired_permutation(a: ArrayLike, b: ArrayLike, seed: int = 0, permutations: int = 4999) -> float:
    """Two-sided sign-flip p of the mean difference between two measurements of the same examples.

    Under the null hypothesis the two measurements of an example could be swapped, so every difference `a - b` is as
    likely to have the other sign. Up to 12 non-zero differences all flips are counted and p is exact; beyond, flips
    are drawn and p is `(1 + hits) / (1 + permutations)`, which is valid and never 0 (Phipson & Smyth 2010).

    The test of a vectorized `scipy.stats.permutation_test(permutation_type="samples")`, 30 to 40 times as fast (10 to
    1000 examples).

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
    first, second = _finite(a, "a paired permutation test, a"), _finite(b, "a paired permutation test, b")
    if first.size != second.size:
        raise ArgumentError(
            "a paired permutation test of a and b",
            f"{first.size} and {second.size} values",
            "give the same examples in the same order",
        )
    whole(permutations, "permutations", 1, most=MOST_DRAWS)
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
def permutation_p(value: float, shuffled: ArrayLike, exact: bool = False) -> float:
    """One-sided p: the share of shuffled values that are at least as large as the one measured.

    Two-sided is the same of absolute values. Equal on paper counts as equal (to 1e-9 of the largest value).

    Args:
        value: the one measured.
        shuffled: values under shuffling, any shape; NaN (a shuffle that has no value) is not counted.
        exact: `shuffled` holds every shuffle, the order as it is among them: hits / all. Else they are drawn at random,
            and the value measured is counted with them: (1 + hits) / (1 + shuffled), valid and never 0 (Phipson & Smyth
            2010).

    Raises:
        ArgumentError: `value` is not finite.
        NumericalError: every shuffled value is not finite.

    Example:
        >>> permutation_p(3, [1, 2, 3, 4]), permutation_p(3, [1, 2, 3, 4], exact=True)
        (0.6, 0.5)
    """
    others = np.asarray(shuffled, dtype=np.float64)
    others = others[np.isfinite(others)]
    if not np.isfinite(value) or not others.size:
        found = f"{value} beside {others.size} shuffled values"
        raise NumericalError("a permutation p", found, "give a finite value, and at least one shuffled one")
    hits = int((others >= value - 1e-9 * max(abs(value), np.abs(others).max())).sum())
    return hits / others.size if exact else (1 + hits) / (1 + others.size)


@public
def against_controls(outcomes: ArrayLike, controls: ArrayLike) -> dict[str, float]:
    """How much less a mask leaves than the next random mask would: effect, interval and p of one model of chance.

    What is estimated is the mask's score, over all examples there could be, taken from that of one more random mask
    (a prediction: a mask that is itself a random one has no effect but by chance). Two things vary: examples, of which
    there are n, paired over masks; and random masks, S of them. With s^2 the variance of the controls' scores, r^2 the
    residual variance of an outcome once mask and example are taken out, and d_i what the controls' mean has more on
    example i:

        V = (1 + 1/S) s^2 + max(0, var(d)/n - (1 + 1/S) r^2/n)

    The first part is that of random masks, with the examples' noise as they have it; the second what the examples of
    this mask vary beyond that, as where it breaks half of them. s is at least one example, 1/n, lest masks that happen
    to score alike be taken for certain. Interval and p are Student's t with Satterthwaite's degrees of freedom (of
    S - 1 and n - 1), so that p < 0.05 where 0 lies outside the 95 % interval. How often it holds the truth in simulated
    worlds: `benchmarks/coverage.py`.

    Args:
        outcomes: [example] outcomes under the mask.
        controls: [control, example] outcomes under two random masks or more. Two leave one degree of freedom: hardly
            anything is then shown.

    Returns:
        effect (mean of the controls - mean of the mask), low and high (95 %), p (two-sided).

    Raises:
        ArgumentError: fewer than two controls or two examples, or other examples.
        NumericalError: an outcome is NaN or infinite.

    Example:
        >>> test = against_controls([0] * 20, [[1] * 19 + [0]] * 3)
        >>> round(test["effect"], 2), test["low"] > 0, test["p"] < 0.05
        (0.95, True, True)
    """
    masked, controls = _finite(outcomes, "outcomes"), np.atleast_2d(np.asarray(controls, dtype=float))
    masks, n = len(controls), len(masked)
    if masks < 2 or controls.shape[1:] != masked.shape or n < 2:
        found = f"{controls.shape} controls for {masked.shape} outcomes"
        do = "give two random masks or more, on the same examples, two or more"
        raise ArgumentError("compare a mask with random masks", found, do)
    _finite(controls.ravel(), "outcomes of the controls")
    scores, difference = controls.mean(axis=1), controls.mean(axis=0) - masked
    residual = controls - scores[:, None] - controls.mean(axis=0) + controls.mean()
    noise = (residual**2).sum() / ((masks - 1) * (n - 1)) / n
    of_masks = (1 + 1 / masks) * max(scores.var(ddof=1), 1 / n**2)
    of_examples = max(0.0, difference.var(ddof=1) / n - (1 + 1 / masks) * noise)
    variance = of_masks + of_examples
    freedom = variance**2 / (of_masks**2 / (masks - 1) + of_examples**2 / (n - 1))
    effect, error = float(difference.mean()), float(np.sqrt(variance))
    half = float(stats.t.ppf(0.975, freedom)) * error
    p = float(2 * stats.t.sf(abs(effect) / error, freedom))
    return {"effect": effect, "low": effect - half, "high": effect + half, "p": p}


@public
def better_than_share(right: float, n: int, share: float) -> float:
    """One-sided exact binomial p of at least so many right answers, were each right with a probability of `share`.

    The p of `scipy.stats.binomtest(right, n, share, alternative="greater")`.

    Args:
        right: number of right answers; of a mean over runs, which varies no more than a single run does, its whole
            part counts.
        n: number of answers.
        share: from 0 to 1, taken as known. Of 1, nothing is better: p is 1.

    Raises:
        ArgumentError: more right answers than answers, or a share that is none.

    Example:
        >>> better_than_share(4, 4, 0.5)  # 1 of the 16 ways
        0.0625
    """
    n = whole(n, "n", 1)
    if not (0 <= right <= n and 0 <= share <= 1):
        found = f"{right} of {n} right, beside a share of {share}"
        raise ArgumentError("a binomial test", found, "give from none to all, and a share from 0 to 1")
    return float(stats.binom.sf(math.floor(right + 1e-9) - 1, n, share))


@public
def benjamini_hochberg(p: ArrayLike) -> Floats:
    """Benjamini-Hochberg q of every p in a table: the smallest false discovery rate at which it would be a finding.

    `scipy.stats.false_discovery_control`, for tables with gaps.

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
    tested = ~np.isnan(table)
    values = table[tested]
    if not table.size:
        raise ArgumentError("Benjamini-Hochberg q", "no p values", "give at least one")
    if np.any((values < 0) | (values > 1)):
        raise ArgumentError("Benjamini-Hochberg q", f"p from {values.min()} to {values.max()}", "p lies in [0, 1]")
    q = np.full(table.shape, np.nan)
    if values.size:
        q[tested] = stats.false_discovery_control(values)
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


def _batches(rows: int, width: int) -> list[int]:
    """`rows` cut into pieces of at most BATCH numbers each (one row at least)."""
    size = max(1, BATCH // width)
    return [min(size, rows - start) for start in range(0, rows, size)]
