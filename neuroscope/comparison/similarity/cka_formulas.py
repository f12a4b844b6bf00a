"""Centred kernel alignment: do two representations hold the same examples to be alike?

Sources: Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited" (CKA, Eq. 4; RBF, §3);
Song et al. 2012, "Feature Selection via Dependence Maximization" (unbiased HSIC, Eq. 4).

1. Kernel. K_ij = x_i . x_j, or exp(-|x_i - x_j|^2 / 2 s^2) with s = bandwidth x the median distance of two examples.
2. Centring. Biased: the mean of every row and of every column taken away (HKH, with H = I - 11'/n). Debiased: the
   U-centred U(K), zero on its diagonal and in its row sums (Székely & Rizzo 2014); the unbiased HSIC of Song et al. is
   <U(K), U(L)> / n(n - 3).
3. CKA = <K', L'> / (|K'| |L'|), K' and L' centred either way.

The linear kernel needs no Gram matrix: with centred X and Y, k_i = |x_i|^2 and l_i = |y_i|^2, the unbiased HSIC is
    ( |X'Y|_F^2 - n/(n-2) k.l + sum(k) sum(l) / ((n-1)(n-2)) ) / n(n-3),
and the biased one |X'Y|_F^2 (up to a factor that CKA divides out). Whichever form takes fewer operations is used.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuroscope.checks import finite, flag, public
from neuroscope.comparison.similarity.inputs import Examples, pair
from neuroscope.errors import ArgumentError, NumericalError, choose

KERNELS = ("linear", "rbf")
MEDIAN = "1.0 is the median distance itself"
ROUNDING = 1e-12  # a self-similarity this small beside (sum k)^2 / n is rounding


class Gram(NamedTuple):
    """A centred Gram matrix of Frobenius norm 1: CKA is the inner product of two."""

    matrix: Float[Tensor, "n n"]


class Features(NamedTuple):
    """Centred features of self-similarity 1, for the linear kernel."""

    x: Float[Tensor, "n d"]
    norms: Float[Tensor, " n"]
    debiased: bool


State = Gram | Features


@public
def cka(
    x: Any,
    y: Any,
    *,
    kernel: Literal["linear", "rbf"] = "linear",
    debiased: bool = True,
    bandwidth: float = 1.0,
) -> float:
    """Centred kernel alignment of two representations of the same examples (Kornblith et al. 2019).

    Args:
        x: [example, feature], numpy or torch, four examples or more.
        y: [example, feature'], the same examples in the same order.
        kernel: "linear", or "rbf" (Gaussian).
        debiased: with the unbiased HSIC (Song et al. 2012). `False` is the form of most papers: it rises towards 1 as
            features outnumber examples, whatever they are.
        bandwidth: standard deviation of the Gaussian ("rbf" only), as a share of the median distance of two examples.

    Returns:
        1 for representations that are equal up to rotation and scale; the biased form lies in [0, 1], the debiased one
        is 0 on average for unrelated representations and can be negative.

    Raises:
        ArgumentError: shapes that cannot be compared, fewer than four examples, a bad kernel or bandwidth, or a
            bandwidth of the linear kernel, which has none.
        NumericalError: non-finite or constant activations; or a debiased self-similarity of zero (all examples are
            equally far from each other).

    Example:
        >>> x = [[0, 1.0], [2, 3], [5, 4], [1, 0], [7, 7]]
        >>> f"{cka(x, [[3 * b, -3 * a] for a, b in x]):.6f}"  # turned and scaled
        '1.000000'
    """
    first, second = pair(x, y, "CKA")
    (n, d), e = first.values.shape, second.values.shape[1]
    form = cheaper_form(n, d, e) if kernel == "linear" else "gram"
    settings: dict[str, Any] = {"kernel": kernel, "debiased": debiased, "bandwidth": bandwidth, "form": form}
    return between(state(first, **settings), state(second, **settings))


def check(kernel: Any, debiased: Any, bandwidth: Any) -> None:
    """Refuse options that cannot be, or that would be ignored."""
    choose(kernel, KERNELS, "kernel")
    flag(debiased, "debiased")
    if finite(bandwidth, "bandwidth", MEDIAN) <= 0:
        raise ArgumentError(f"bandwidth={bandwidth!r}", "not a positive number", MEDIAN)
    if kernel == "linear" and bandwidth != 1:
        raise ArgumentError(f"bandwidth={bandwidth!r}", "the linear kernel, which has none", "use kernel='rbf'")


def cheaper_form(n: int, d: int, e: int, null: int = 0) -> Literal["gram", "features"]:
    """The form that takes fewer multiplications for n examples of d and of e features.

    The state of both sides is computed once (n d and n e for each of n examples, or d d, e e and twice d e); every
    permutation of the null takes a product of all entries of the Gram matrices, or a product of the features.
    """
    return "gram" if n * (d + e + null) <= (d + e) ** 2 + null * d * e else "features"


def state(
    x: Examples, *, kernel: str, debiased: bool, bandwidth: float, form: Literal["gram", "features"] = "gram"
) -> State:
    """All that CKA needs of one side."""
    check(kernel, debiased, bandwidth)
    if form == "features":
        return normalised(x.centred, debiased)
    kernels = gram(x.centred / x.centred.abs().max(), kernel, bandwidth)  # scaled: far from overflow
    part = u_centre(kernels) if debiased else centre(kernels)
    size = torch.linalg.vector_norm(part)
    _refuse_zero(float(size) ** 2, float(kernels.trace()) ** 2 / len(kernels))
    return Gram(part / size)


def between(a: State, b: State) -> float:
    """CKA of two sides whose states are of the same form."""
    if isinstance(a, Gram):
        assert isinstance(b, Gram)
        return float((a.matrix * b.matrix).sum())
    assert isinstance(b, Features)
    return _hsic(a.x, b.x, a.norms, b.norms, a.debiased)


def permute(side: State, order: Int[Tensor, " n"]) -> State:
    """The state of the same activations with their examples in another order."""
    if isinstance(side, Gram):
        return Gram(side.matrix.index_select(0, order).index_select(1, order))
    return Features(side.x[order], side.norms[order], side.debiased)


def normalised(x: Float[Tensor, "n d"], debiased: bool) -> Features:
    """Centred features, scaled to a self-similarity of 1."""
    x = x / x.abs().max()  # far from overflow
    norms = (x * x).sum(1)
    size = _hsic(x, x, norms, norms, debiased)
    _refuse_zero(size, float(norms.sum()) ** 2 / len(norms))
    return Features(x / size**0.25, norms / size**0.5, debiased)


def unbias(product: Any, kl: Any, sums: Any, n: int) -> Any:
    """n(n - 3) times the unbiased HSIC of linear kernels, from the biased one times (n - 1)^2.

    Args:
        product: |X'Y|_F^2 of centred X and Y; a number, or as many as there are pairs.
        kl: k.l, of the squared norms of X's and of Y's rows.
        sums: sum(k) sum(l).
        n: number of examples.
    """
    return product - n / (n - 2) * kl + sums / ((n - 1) * (n - 2))


def _hsic(a: Float[Tensor, "n d"], b: Float[Tensor, "n e"], k: Tensor, l: Tensor, debiased: bool) -> float:  # noqa: E741
    product = _square(a.T @ b)
    return float(unbias(product, k @ l, k.sum() * l.sum(), len(k)) if debiased else product)


def u_centre(k: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """U(K): zero diagonal and zero row sums, such that <U(K), U(L)> / n(n - 3) is the unbiased HSIC."""
    n = len(k)
    out = k.clone().fill_diagonal_(0)
    rows = out.sum(1)
    out -= rows[:, None] / (n - 2) + rows / (n - 2) - rows.sum() / ((n - 1) * (n - 2))
    return out.fill_diagonal_(0)


def centre(k: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """HKH with H = I - 11'/n: rows and columns have a mean of zero."""
    rows = k.mean(1)
    return k - rows[:, None] - rows + rows.mean()


def gram(x: Float[Tensor, "n d"], kernel: str, bandwidth: float) -> Float[Tensor, "n n"]:
    """K of centred activations."""
    if kernel == "linear":
        return x @ x.T
    distances = torch.cdist(x, x)
    above = torch.triu_indices(len(x), len(x), offset=1, device=x.device)
    middle = float(np.median(distances[above[0], above[1]].cpu().numpy()))
    if middle <= 0:
        raise NumericalError("RBF kernel", "a median distance of zero", "more than half of the pairs are duplicates")
    return torch.exp(-(distances**2) / (2 * (bandwidth * middle) ** 2)).fill_diagonal_(1)


def _square(product: Tensor) -> Tensor:
    return (product * product).sum()


def _refuse_zero(self_similarity: float, scale: float) -> None:
    """Refuse a self-similarity that is rounding beside (sum k)^2 / n."""
    if self_similarity <= ROUNDING * scale:
        raise NumericalError(
            "debiased CKA",
            "a self-similarity of zero",
            "all examples are equally far from each other: nothing tells them apart; give more examples",
        )
