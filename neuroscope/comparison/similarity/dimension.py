"""How many dimensions a representation has: of its variance, and of the surface that its examples lie on.

Sources: Zhao, Ziser & Cohen 2024 (Figure 5: principal components for 99 % of the variance); Gao et al. 2017, "A theory
of multineuronal dimensionality" (participation ratio); Facco et al. 2017, "Estimating the intrinsic dimension of
datasets by a minimal neighborhood information" (TWO-NN).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from neuroscope import checks
from neuroscope.checks import public
from neuroscope.comparison.similarity.canonical import USUAL, components
from neuroscope.comparison.similarity.inputs import Examples, examples
from neuroscope.errors import NumericalError

DISCARDED = 0.10  # of the ratios, the largest: Facco et al. 2017, p. 3
BLOCK = 1 << 23  # distances held at a time


@public
def variance_dimension(x: Any, share: float = 0.99) -> int:
    """Number of principal components that hold a share of the variance.

    Args:
        x: [example, feature]; n examples have n - 1 components at most.
        share: in (0, 1].

    Raises:
        ArgumentError: a shape or share that cannot be, or fewer than four examples.
        NumericalError: non-finite or constant activations.

    Example:
        >>> variance_dimension([[3.0, 0, 1], [-3, 0, 1], [0, 2, 1], [0, -2, 1]], share=0.5)  # variances 18, 8, 0
        1
    """
    checks.share(share, "share", USUAL)
    kernel = _smaller_kernel(examples(x, "variance dimension of x"))
    variances = torch.linalg.eigvalsh(kernel).flip(0).clamp(min=0)
    return components(variances, share)


@public
def participation_ratio(x: Any) -> float:
    """(sum of variances)^2 / sum of squared variances of the principal components.

    Returns:
        From 1 (one direction) to the number of features (equal variance in all). Few examples make it smaller: of n
        examples of d independent features it is about n d / (n + d).

    Raises:
        ArgumentError: a shape that cannot be, or fewer than four examples.
        NumericalError: non-finite or constant activations.

    Example:
        >>> round(participation_ratio([[3.0, 0], [-3, 0], [0, 3], [0, -3]]), 6)
        2.0
    """
    kernel = _smaller_kernel(examples(x, "participation ratio of x"))
    return float(kernel.trace() ** 2 / (kernel * kernel).sum())


@public
def two_nn(x: Any) -> float:
    """Intrinsic dimension from the two nearest neighbours (TWO-NN, Facco et al. 2017).

    1. For every example, m = r2 / r1, the Euclidean distances to its second and first neighbour. In d dimensions of
       locally even density, m is Pareto distributed: 1 - F(m) = m^-d.
    2. Sorted m_1 ... m_N, F(m_i) = i / N. The largest 10 % are discarded, as published.
    3. d is the slope of the line through the origin fitted to -log(1 - F(m_i)) against log m_i by least squares.

    Returns:
        The dimension, not rounded. High dimensions (above about 10) are underestimated unless examples are very many.

    Raises:
        ArgumentError: a shape that cannot be, or fewer than four examples.
        NumericalError: non-finite or constant activations; also where examples are duplicates: a distance of zero has
            no ratio, and no example is left out silently.

    Example:
        >>> line = torch.rand(500, 1, generator=torch.Generator().manual_seed(0))
        >>> abs(two_nn(torch.cat([line, 2 * line], dim=1)) - 1) < 0.2
        True
    """
    values = examples(x, "TWO-NN of x").centred
    values = values / values.abs().max()
    n = len(values)
    rows = max(1, BLOCK // n)
    near = torch.cat([_two_nearest(values, s, s + rows) for s in range(0, n, rows)])
    duplicates = int((near[:, 0] == 0).sum())
    if duplicates:
        raise NumericalError(
            "TWO-NN", f"{duplicates} of {n} examples have a duplicate", "give every example once (numpy.unique, axis=0)"
        )
    ratios = torch.sort(near[:, 1] / near[:, 0]).values.log()
    empirical = torch.arange(1, n + 1, device=values.device, dtype=torch.float64) / n
    used = max(1, int(n * (1 - DISCARDED)))
    across, up = ratios[:used], -torch.log1p(-empirical[:used])
    if not float(across @ across) > 0:
        raise NumericalError("TWO-NN", "two nearest neighbours at equal distances everywhere", "a grid has no estimate")
    return float(across @ up / (across @ across))


def _smaller_kernel(x: Examples) -> Float[Tensor, "m m"]:
    """X'X or XX' of the centred activations: they have the same eigenvalues but for zeros."""
    values = x.centred
    values = values / values.abs().max()
    return values.T @ values if values.shape[1] <= values.shape[0] else values @ values.T


def _two_nearest(x: Float[Tensor, "n d"], start: int, stop: int) -> Float[Tensor, "rows 2"]:
    """By differences, not by products: the nearest are where products lose their digits."""
    distances = torch.cdist(x[start:stop], x, compute_mode="donot_use_mm_for_euclid_dist")
    distances.diagonal(start).fill_(torch.inf)
    return distances.topk(2, dim=1, largest=False).values


# name of a count -> its function, whose keywords are the count's options
DIMENSIONS: dict[str, Callable[..., float]] = {
    "variance": variance_dimension,
    "participation": participation_ratio,
    "two-nn": two_nn,
}
