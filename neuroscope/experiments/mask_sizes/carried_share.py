"""The share of a task that a mask carries, its area over sizes, and how sure both are. Numbers in, numbers out.

1. With m a mean outcome, *full* nothing ablated and *empty* everything, the share under some ablation is
   f = (m - m(empty)) / (m(full) - m(empty)); where m(full) is not above m(empty) there is nothing to carry, and no f.
2. Areas are over the share k of neurons, on a linear scale from 0 to 1, by trapezoids: CPR = area under f, CMD = area
   under |1 - f| (MIB: Mueller et al. 2025, arXiv 2504.13151; its published code sums trapezoids over the share, from
   0.001 on, though the sizes are spaced like logarithms). The two ends need no measurement and are always part of it:
   of a mask alone f(0) = 0 and f(1) = 1. Above the largest size measured the area is that of a straight line.
3. Intervals are bootstrapped over examples (Efron & Tibshirani 1993), each drawn for all measurements at once, since
   they are of the same examples. Two made-up examples stand beside the n real ones, on which mask and model disagree
   in opposite ways (right and wrong, wrong and right; empty half way): they leave every f as it is, and keep masks
   that happen to agree with the model on all of few examples from being taken for certain.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray

from neuroscope.statistics import percentile_interval

RESAMPLES = 2000
MOST_UNDEFINED = 0.025  # of the draws: with more, one end of a 95 % interval is at no number

Floats = NDArray[np.float64]


def carried(score: ArrayLike, empty: ArrayLike, full: ArrayLike) -> Floats:
    """f of mean outcomes, of any shapes that fit each other; NaN where `full` is not above `empty`.

    Example:
        >>> carried([0.5, 0.75], 0.5, 1.0).tolist()
        [0.0, 0.5]
    """
    score, empty, gain = np.asarray(score, float), np.asarray(empty, float), np.subtract(full, empty)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(gain > 0, (score - empty) / gain, np.nan)


def area(k: ArrayLike, f: ArrayLike, first: ArrayLike, last: ArrayLike) -> Floats:
    """Area under f over the share of neurons, from 0 to 1, by trapezoids on a linear scale.

    Args:
        k: [size] growing shares in (0, 1].
        f: [..., size] at these.
        first, last: [...] at 0 and at 1; what f has at k = 1 is not used.

    Example:
        >>> float(area([0.5], [1.0], 0.0, 1.0))  # up to 1 over one half, and on at 1
        0.75
    """
    sizes, values = np.asarray(k, float), np.asarray(f, float)
    inside = sizes < 1
    ends = [np.broadcast_to(np.asarray(end, float), values.shape[:-1])[..., None] for end in (first, last)]
    curve = np.concatenate([ends[0], values[..., inside], ends[1]], axis=-1)
    at = np.array([0.0, *sizes[inside], 1.0])
    return np.asarray(((curve[..., 1:] + curve[..., :-1]) / 2 * np.diff(at)).sum(-1))


def draws_of(n: int, seed: int = 0) -> Int[np.ndarray, "draw example"]:
    """How often each of n examples, and of the two made-up ones after them, is in each bootstrap sample of n."""
    return np.random.default_rng(seed).multinomial(n, np.full(n + 2, 1 / (n + 2)), size=RESAMPLES)


def drawn_shares(
    draws: Int[np.ndarray, "draw example"], outcomes: ArrayLike, empty: ArrayLike, full: ArrayLike
) -> Float[np.ndarray, "draw ablation"]:
    """f in every bootstrap sample.

    Args:
        draws: of `draws_of`.
        outcomes: [ablation, example] under each ablation.
        empty, full: [example] with everything and nothing ablated.
    """
    rows = np.atleast_2d(np.asarray(outcomes, float))
    real = np.vstack([rows, np.asarray(empty, float), np.asarray(full, float)])
    made_up = np.array([*([[1.0, 0.0]] * len(rows)), [0.5, 0.5], [0.0, 1.0]])
    means = draws @ np.hstack([real, made_up]).T / (draws.shape[1] - 2)
    return carried(means[:, :-2], means[:, -2:-1], means[:, -1:])


def interval(drawn: ArrayLike) -> tuple[float, float]:
    """The middle 95 % of bootstrap draws; NaN where too many of them have no value for there to be one."""
    values = np.asarray(drawn, float)
    if np.isnan(values).mean() > MOST_UNDEFINED:
        return np.nan, np.nan
    return percentile_interval(values)
