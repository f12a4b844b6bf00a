"""Similarities that compare the spaces the examples span: SVCCA, PWCCA, and orthogonal Procrustes.

Sources: Raghu et al. 2017, "SVCCA"; Morcos et al. 2018, "Insights on representational similarity in neural networks
with canonical correlation" (PWCCA); Ding et al. 2021, "Grounding Representation Similarity Through Statistical Testing"
(Procrustes).

1. Centre every feature; X = U S V'.
2. Rank: singular values above max(n, d) x eps x the largest one, eps of the type that the activations came in (the rule
   of numpy.linalg.matrix_rank). SVCCA keeps the first ones of these that hold `share` of the variance.
3. Canonical correlations r_i: the singular values of Ux' Uy over the kept columns (Björck & Golub 1973), as many as the
   smaller rank.
4. SVCCA: their mean. PWCCA: their mean weighted by a_i = sum_j |h_i . x_j|, h_i the canonical variates of x, x_j its
   features.

Two subspaces of rank r and s within n - 1 dimensions share r + s - (n - 1) of them whatever the data, each with a
correlation of 1: give many more examples than kept dimensions, and look at the permutation null, which has them too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuroscope import checks
from neuroscope.checks import public
from neuroscope.comparison.similarity.inputs import Examples, pair
from neuroscope.errors import NumericalError

USUAL = "0.99 is usual"


class Space(NamedTuple):
    """The space that the examples span."""

    basis: Float[Tensor, "n r"]  # orthonormal
    loadings: Float[Tensor, "r d"]  # S V': the features in that basis


@public
def svcca(x: Any, y: Any, *, share: float = 0.99) -> float:
    """Mean canonical correlation of the leading principal components (Raghu et al. 2017).

    Args:
        x: [example, feature]; y: [example, feature'], the same examples.
        share: of the variance that the kept components hold, in (0, 1]. At 1 all are kept: the mean canonical
            correlation, which no invertible linear map of either side changes.

    Returns:
        In [0, 1]; of unrelated representations above 0, and the more so the more components of few examples are kept.

    Raises:
        ArgumentError: shapes that cannot be compared, or a share that cannot be.
        NumericalError: non-finite or constant activations, or kept components that span all examples: every correlation
            is 1 then.

    Example:
        >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
        >>> round(svcca(x, x @ torch.tensor([[1.0, 2, 0], [0, 1, 0], [5, 0, 3]]), share=1), 6)
        1.0
    """
    first, second = pair(x, y, "SVCCA")
    return mean_correlation(space(first, share=share), space(second, share=share))


@public
def pwcca(x: Any, y: Any) -> float:
    """Canonical correlations weighted by how much of x each one accounts for (Morcos et al. 2018).

    It is not symmetric: the weights are x's. No invertible linear map of y changes it where y's rank is at least x's;
    of x, only a scale. Of unrelated representations it is above 0, the more so the more features and fewer examples.

    Args:
        x: [example, feature], whose weights count.
        y: [example, feature'], the same examples in the same order.

    Returns:
        In [0, 1].

    Raises:
        ArgumentError: shapes that cannot be compared.
        NumericalError: non-finite or constant activations, or as many components as examples: every correlation is 1
            then.

    Example:
        >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
        >>> round(pwcca(x, x @ torch.tensor([[1.0, 2, 0], [0, 1, 0], [5, 0, 3]])), 6)
        1.0
    """
    first, second = pair(x, y, "PWCCA")
    return weighted_correlation(space(first), space(second))


@public
def procrustes(x: Any, y: Any) -> float:
    """1 - the normalised orthogonal Procrustes distance (Ding et al. 2021).

    Both sides are centred and divided by their Frobenius norm; then min over rotations R of |X R - Y|_F^2 is
    2 - 2 |X'Y|_*, between 0 and 2. Half of it is the normalised distance, so the similarity is |X'Y|_*.
    Where one side has fewer features, it counts as padded with zeros.

    Returns:
        In [0, 1]; 1 for equality up to rotation, reflection and scale. Of unrelated representations it is above 0,
        the more so the more features and the fewer examples.

    Args:
        x: [example, feature]; y: [example, feature'], the same examples.

    Raises:
        ArgumentError: shapes that cannot be compared.
        NumericalError: non-finite or constant activations.

    Example:
        >>> round(procrustes([[0, 1.0], [2, 3], [5, 4], [1, 0]], [[2.0, 0], [6, 4], [8, 10], [0, 2]]), 6)
        1.0
    """
    first, second = pair(x, y, "Procrustes")
    return nuclear(coordinates(first), coordinates(second))


def space(x: Examples, *, share: float = 1.0) -> Space:
    """Steps 1 and 2: the space of the kept components."""
    checks.share(share, "share", USUAL)
    n, d = x.values.shape
    u, s, v = torch.linalg.svd(_unit(x), full_matrices=False)
    rank = int((s > max(n, d) * x.eps * s[0]).sum())
    if share < 1:
        rank = min(rank, components(s**2, share))
    if rank >= n - 1:
        raise NumericalError(
            "canonical correlations",
            f"{rank} kept components of {n} examples, which span them all",
            "every correlation is 1 then: give more examples, or use CKA, or SVCCA with a smaller share",
        )
    return Space(u[:, :rank], s[:rank, None] * v[:rank])


def components(variances: Float[Tensor, " r"], share: float) -> int:
    """How many of the sorted variances it takes to hold the share of their sum."""
    held = variances.cumsum(0) / variances.sum()
    return min(int((held < share - 1e-12).sum()) + 1, len(variances))


def mean_correlation(a: Space, b: Space) -> float:
    """Step 4 of SVCCA: the mean canonical correlation."""
    return float(torch.linalg.svdvals(a.basis.T @ b.basis).clamp(max=1).mean())


def weighted_correlation(a: Space, b: Space) -> float:
    """Step 4 of PWCCA: the canonical correlations, weighted by what they account for in a."""
    u, r, _ = torch.linalg.svd(a.basis.T @ b.basis, full_matrices=False)
    weights = (u.T @ a.loadings).abs().sum(1)
    return float((weights * r.clamp(max=1)).sum() / weights.sum())


def permute_space(side: Space, order: Int[Tensor, " n"]) -> Space:
    """The same activations with their examples in another order."""
    return Space(side.basis[order], side.loadings)


def coordinates(x: Examples) -> Float[Tensor, "n r"]:
    """Centred, of Frobenius norm 1, and rotated into n dimensions where there are more features than examples."""
    values = _unit(x)
    if values.shape[1] <= values.shape[0]:
        return values
    return torch.linalg.qr(values.T, mode="r").R.T


def nuclear(a: Float[Tensor, "n r"], b: Float[Tensor, "n s"]) -> float:
    """The nuclear norm |A'B|_*: the sum of the singular values."""
    return float(torch.linalg.svdvals(a.T @ b).sum())


def permute_rows(side: Float[Tensor, "n r"], order: Int[Tensor, " n"]) -> Float[Tensor, "n r"]:
    """The same activations with their examples in another order."""
    return side[order]


def _unit(x: Examples) -> Float[Tensor, "n d"]:
    centred = x.centred
    centred = centred / centred.abs().max()
    return centred / torch.linalg.vector_norm(centred)
