"""Whether something is more than chance makes: p and q."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from neuroscope import arrays  # noqa: F401  # for what `ArrayLike` takes
from neuroscope.checks import FEWEST_RANDOM, MOST_DRAWS, public, whole
from neuroscope.errors import ArgumentError, NumericalError
from neuroscope.statistics.intervals import Floats, batches, finite_row

ALPHA = 0.05  # level of every verdict in words
EXACT = 12  # non-zero differences up to which all 2**n sign flips are enumerated


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
    first, second = finite_row(a, "a paired permutation test, a"), finite_row(b, "a paired permutation test, b")
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
        for rows in batches(permutations, difference.size)
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
        controls: [control, example] outcomes under three random masks or more. Where masks are trained, each is one run
            with its own draw and seed; two would leave one degree of freedom, with which hardly anything is shown.

    Returns:
        effect (mean of the controls - mean of the mask), low and high (95 %), p (two-sided).

    Raises:
        ArgumentError: fewer than three controls or two examples, or other examples.
        NumericalError: an outcome is NaN or infinite.

    Example:
        >>> test = against_controls([0] * 20, [[1] * 19 + [0]] * 3)
        >>> round(test["effect"], 2), test["low"] > 0, test["p"] < 0.05
        (0.95, True, True)
    """
    masked, controls = finite_row(outcomes, "outcomes"), np.atleast_2d(np.asarray(controls, dtype=float))
    masks, n = len(controls), len(masked)
    if masks < FEWEST_RANDOM or controls.shape[1:] != masked.shape or n < 2:
        found = f"{controls.shape} controls for {masked.shape} outcomes"
        do = f"give {FEWEST_RANDOM} random masks or more, on the same examples, two or more"
        raise ArgumentError("compare a mask with random masks", found, do)
    finite_row(controls.ravel(), "outcomes of the controls")
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
def effect_margin(outcomes: ArrayLike, controls: ArrayLike) -> float:
    """Half the width of the 95 % interval of how much less a mask leaves than random masks do in the mean.

    Of the effect of `against_controls`, but of the mean over all random masks there could be, not of the next one: to
    compare the effects of two masks, or of one on two tasks, with each other. Its variance is

        V = var(d)/n + s^2/S

    with d_i, s (at least one example, 1/n) and S as there, and Student's t with Satterthwaite's degrees of freedom.

    Args:
        outcomes, controls: as in `against_controls`, which refuses what does not fit.

    Example:
        >>> round(effect_margin([0] * 20, [[1] * 19 + [0]] * 3), 2)
        0.12
    """
    against_controls(outcomes, controls)  # refuses other shapes
    masked, others = np.asarray(outcomes, dtype=float), np.asarray(controls, dtype=float)
    masks, n = others.shape
    of_examples = (others.mean(axis=0) - masked).var(ddof=1) / n
    of_masks = max(others.mean(axis=1).var(ddof=1), 1 / n**2) / masks
    variance = of_examples + of_masks
    freedom = variance**2 / (of_masks**2 / (masks - 1) + of_examples**2 / (n - 1))
    return float(stats.t.ppf(0.975, freedom) * np.sqrt(variance))


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
