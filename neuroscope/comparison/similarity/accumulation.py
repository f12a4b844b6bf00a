"""CKA of examples that come in batches and are never held together.

Two estimators:

- "features" (linear kernel): the sums behind CKA are kept, [feature, feature'] of them, so that the value is that of
  the full batch up to rounding, whatever the batches. The debiased form needs the products of the examples' squared
  norms *after* centring; with p = |x|^2, q = |y|^2 and the means m, w they are sums over the raw examples:
      sum_i |x_i - m|^2 |y_i - w|^2 = sum_i (p_i - 2 x_i.m + |m|^2) (q_i - 2 y_i.w + |w|^2).
- "batches" (either kernel): Nguyen, Raghu & Kornblith 2021, "Do Wide and Deep Networks Learn the Same Things?", §2: the
  mean over batches of each HSIC, before the ratio is taken. With the unbiased HSIC the three means are those of the
  full batch on average, so the value approaches CKA as batches are added; it is not the full batch's. The RBF kernel's
  median is that of each batch.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from neuroscope.checks import public
from neuroscope.comparison.similarity import cka_formulas
from neuroscope.comparison.similarity.inputs import ADVICE, FEWEST, NOT_FINITE, as_batch, same_examples
from neuroscope.errors import ArgumentError, NumericalError, choose


class CKA:
    """CKA in mini-batches: `update` with every batch, then `value`.

    Args:
        estimator: "features", the full batch's value (linear kernel only; holds d^2 + e^2 + d e float64 sums), or
            "batches", the mean over batches (Nguyen et al. 2021; every batch needs four examples or more).
        kernel, debiased, bandwidth: as in `cka`.

    Example:
        >>> x, y = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(0))
        >>> batched = CKA()
        >>> for start in range(0, 40, 10):
        ...     batched.update(x[start : start + 10], y[start : start + 10])
        >>> abs(batched.value() - cka_formulas.cka(x, y)) < 1e-9
        True
    """

    @public
    def __init__(
        self,
        *,
        estimator: Literal["features", "batches"] = "features",
        kernel: Literal["linear", "rbf"] = "linear",
        debiased: bool = True,
        bandwidth: float = 1.0,
    ) -> None:
        choose(estimator, ("features", "batches"), "estimator")
        cka_formulas.check(kernel, debiased, bandwidth)
        if estimator == "features" and kernel != "linear":
            raise ArgumentError(
                f"kernel={kernel!r} with estimator='features'", "no finite set of features", "use estimator='batches'"
            )
        self.estimator, self.kernel, self.debiased, self.bandwidth = estimator, kernel, debiased, bandwidth
        self.examples = 0
        self._shift: tuple[Tensor, Tensor] | None = None
        self._sums: list[_Sums] = []
        self._means: Tensor | None = None  # of the three HSIC over batches
        self._batches = 0

    @public
    def update(self, x: Any, y: Any) -> None:
        """Count a batch: x [example, feature] and y [example, feature'] of the same examples, any number of them.

        Raises:
            ArgumentError: shapes that do not match each other or the batches before.
            NumericalError: non-finite activations; the batch is not counted.
        """
        first, second = as_batch(x, "CKA, x"), as_batch(y, "CKA, y")
        same_examples(len(first), len(second), "CKA, x and y")
        if not (bool(torch.isfinite(first).all()) and bool(torch.isfinite(second).all())):
            raise NumericalError("CKA", f"{NOT_FINITE} after {self.examples} examples", ADVICE[NOT_FINITE])
        if self._shift is None:
            self._shift = first.mean(0), second.mean(0)
        widths, before = (first.shape[1], second.shape[1]), tuple(len(s) for s in self._shift)
        if widths != before:
            raise ArgumentError("CKA", f"{widths} features after {before}", "give batches of the same two layers")
        if self.estimator == "features":
            self._add(first - self._shift[0], second - self._shift[1])
        else:
            self._average(first, second)
        self.examples += len(first)

    @public
    def value(self) -> float:
        """CKA of the batches so far.

        Raises:
            ArgumentError: fewer than four examples so far.
            NumericalError: one side is constant, or its debiased self-similarity is not positive.
        """
        if self.examples < FEWEST:
            raise ArgumentError("CKA", f"{self.examples} examples", f"update with {FEWEST} or more")
        if self.estimator == "features":
            of_x, of_y, cross = (sums.hsic(self.debiased) for sums in self._sums)
            scale = [sums.hsic(False) for sums in self._sums]
        else:
            assert self._means is not None
            of_x, of_y, cross = self._means.tolist()
            scale = [0.0, 0.0]
        for what, value, biased in (("x", of_x, scale[0]), ("y", of_y, scale[1])):
            if not value > cka_formulas.ROUNDING * biased:
                raise NumericalError(
                    f"CKA, {what}",
                    f"a self-similarity of {value:.3g}",
                    "constant, or too few examples to tell them apart",
                )
        return cross / (of_x * of_y) ** 0.5

    def _add(self, x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> None:
        self._sums = self._sums or [_Sums(), _Sums(), _Sums()]
        for sums, (u, v) in zip(self._sums, ((x, x), (y, y), (x, y)), strict=True):
            sums.add(u, v)

    def _average(self, x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> None:
        n = len(x)
        if n < FEWEST:
            found = f"a batch of {n} examples"
            raise ArgumentError("CKA as a mean over batches", found, f"give batches of {FEWEST} or more")
        centre = cka_formulas.u_centre if self.debiased else cka_formulas.centre
        k, l = (centre(cka_formulas.gram(s - s.mean(0), self.kernel, self.bandwidth)) for s in (x, y))  # noqa: E741
        count = n * (n - 3) if self.debiased else (n - 1) ** 2
        new = torch.stack([(a * b).sum() for a, b in ((k, k), (l, l), (k, l))]).cpu() / count
        self._batches += 1
        self._means = new if self._means is None else self._means + (new - self._means) / self._batches


class _Sums:
    """The sums over examples behind the HSIC of u and v; all about a fixed point near the mean."""

    def __init__(self) -> None:
        self.n = 0
        self.sums: dict[str, Any] = {}

    def add(self, u: Float[Tensor, "n d"], v: Float[Tensor, "n e"]) -> None:
        p, q = (u * u).sum(1), (v * v).sum(1)
        new = {
            "u": u.sum(0), "v": v.sum(0), "uv": u.T @ v, "p": p.sum(), "q": q.sum(), "pq": p @ q,
            "pu": p @ u, "pv": p @ v, "qu": q @ u, "qv": q @ v,
        }  # fmt: skip
        self.sums = {name: self.sums[name] + value if self.sums else value for name, value in new.items()}
        self.n += len(u)

    def hsic(self, debiased: bool) -> float:
        """n(n - 3) times the unbiased HSIC, or the biased one times (n - 1)^2."""
        n, s = self.n, self.sums
        m, w = s["u"] / n, s["v"] / n
        product = ((s["uv"] - n * torch.outer(m, w)) ** 2).sum()
        if not debiased:
            return float(product)
        mm, ww = m @ m, w @ w
        # (p - 2 u.m + mm) (q - 2 v.w + ww), summed term by term
        kl = s["pq"] - 2 * s["pv"] @ w + ww * s["p"]
        kl += -2 * s["qu"] @ m + 4 * m @ s["uv"] @ w - 2 * ww * n * mm
        kl += mm * s["q"] - 2 * mm * n * ww + n * mm * ww
        k, l = s["p"] - n * mm, s["q"] - n * ww  # noqa: E741
        return float(cka_formulas.unbias(product, kl, k * l, n))
