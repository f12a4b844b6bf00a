"""The permutation null that all pair measures share: what a similarity would be if the examples did not correspond."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from neuroscope.checks import public, whole
from neuroscope.comparison.similarity.inputs import pair
from neuroscope.comparison.similarity.measure_table import complete, find, with_form
from neuroscope.statistics import permutation_p

LEVEL = 0.95  # share of the null between low and high
NULL = "200 permutations give a p down to 0.005"


class Band(NamedTuple):
    """A similarity beside the similarities that chance makes.

    Attributes:
        value: of the examples as they are.
        low: 2.5 % quantile of the null, and `high` its 97.5 % quantile.
        p: one-sided, (1 + permutations at least as similar) / (1 + permutations).
    """

    value: float
    low: float
    high: float
    p: float


@public
def permutation_null(x: Any, y: Any, measure: str = "cka", null: int = 200, seed: int = 0, **options: Any) -> Band:
    """A similarity, and what it would be if the examples of y were those of x in name only.

    The null hypothesis: which example of y goes with which of x does not matter. The examples of y are permuted; what
    each side needs by itself (Gram matrices, bases, neighbours) is computed once and permuted.

    Args:
        x: [example, feature]; y: [example, feature'], the same examples.
        measure: a name in MEASURES; `options` are its keywords.
        null: number of permutations.
        seed: of the permutations.

    Raises:
        ArgumentError: an unknown measure or option, no permutations, or a bad seed; and as the measure.
        NumericalError: as the measure.

    Example:
        >>> x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
        >>> band = permutation_null(x, x[:, :2], null=99)
        >>> band.value > band.high, band.p
        (True, 0.01)
    """
    chosen = find(measure)
    settings = complete(f"permutation_null by {measure}", chosen.function, options)
    whole(null, "null", 1, NULL)
    first, second = pair(x, y, measure)
    (n, d), e = first.values.shape, second.values.shape[1]
    settings = with_form(settings, n, d, e, null)
    a, b = (chosen.state(side, **settings) for side in (first, second))
    orders = permutations(len(first.values), null, seed, first.values.device)
    draws = np.array([chosen.between(a, chosen.permute(b, order)) for order in orders])
    return band(chosen.between(a, b), draws)


def permutations(n: int, count: int, seed: int, device: torch.device | None = None) -> Iterator[Tensor]:
    """`count` random orders of n examples."""
    rng = np.random.default_rng(seed)
    draw = partial(rng.permutation, n)
    return (torch.from_numpy(draw()).to(device) for _ in range(count))


def band(value: float, draws: np.ndarray[Any, np.dtype[np.float64]]) -> Band:
    """The value beside the draws of its null."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Band(value, float(low), float(high), permutation_p(value, draws))
