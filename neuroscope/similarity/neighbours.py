"""How many of an example's nearest neighbours are the same in two representations.

Source: Huh et al. 2024, "The Platonic Representation Hypothesis", Appendix A (mutual nearest neighbours).

1. The k nearest other examples of each example, by cosine or Euclidean distance, in either representation.
2. Per example, the share of the k that are common (or their Jaccard index); the mean over examples.

Neighbours at equal distances (duplicates) have no order: which of them are among the k is left to rounding.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuroscope.errors import ArgumentError, NumericalError, choose, public
from neuroscope.similarity.inputs import Examples, pair

BLOCK = 1 << 23  # distances held at a time


class Neighbours(NamedTuple):
    """The nearest other examples of each example."""

    nearest: Int[Tensor, "n k"]
    score: str


@public
def neighbour_overlap(
    x: Any,
    y: Any,
    *,
    k: int = 10,
    distance: Literal["cosine", "euclidean"] = "cosine",
    score: Literal["share", "jaccard"] = "share",
) -> float:
    """Mean overlap of the k nearest neighbours in two representations of the same examples.

    Args:
        x: [example, feature]; y: [example, feature'], the same examples.
        k: neighbours of each example, itself not counted.
        distance: "cosine", of the activations as given, or "euclidean".
        score: "share" of the k that are common, or "jaccard", common / (2k - common).

    Returns:
        In [0, 1]. The share expected of unrelated representations is k / (n - 1).

    Raises:
        ArgumentError: shapes that cannot be compared, a k that is not in 1 ... n - 2, or a bad distance or score.
        NumericalError: non-finite or constant activations, or a cosine of an example that is all zeros.

    Example:
        >>> x = [[0.0, 1], [1, 0], [1, 0.2], [0.1, 1], [-1, -1]]
        >>> neighbour_overlap(x, [[2 * b, 2 * a] for a, b in x], k=1)
        1.0
    """
    first, second = pair(x, y, "neighbour overlap")
    return common(*(nearest(s, k=k, distance=distance, score=score) for s in (first, second)))


def nearest(x: Examples, *, k: int, distance: str, score: str) -> Neighbours:
    """Step 1."""
    choose(distance, ("cosine", "euclidean"), "distance")
    choose(score, ("share", "jaccard"), "score")
    n = len(x.values)
    if not 1 <= k <= n - 2:
        raise ArgumentError(f"k={k!r} neighbours", f"{n} examples", f"k lies in 1 ... {n - 2}")
    values = x.values if distance == "cosine" else x.centred  # far from the origin, differences drown
    values = values / values.abs().max()
    if distance == "cosine":
        norms = torch.linalg.vector_norm(values, dim=1, keepdim=True)
        if not bool(norms.all()):
            found = f"{int((norms == 0).sum())} examples that are all zeros"
            raise NumericalError("cosine of activations", found, "leave them out, or use distance='euclidean'")
        values = values / norms
    rows = max(1, BLOCK // n)
    return Neighbours(torch.cat([_nearest(values, s, s + rows, k) for s in range(0, n, rows)]), score)


def _nearest(x: Float[Tensor, "n d"], start: int, stop: int, k: int) -> Int[Tensor, "rows k"]:
    """Of normalised rows, the Euclidean distance orders as the cosine does."""
    closeness = 2 * x[start:stop] @ x.T - (x * x).sum(1)  # |x_i|^2 orders nothing
    closeness.diagonal(start).fill_(-torch.inf)
    return closeness.topk(k, dim=1).indices


def common(a: Neighbours, b: Neighbours) -> float:
    """Step 2."""
    shared = (a.nearest[:, :, None] == b.nearest[:, None]).sum((1, 2)).double()
    k = a.nearest.shape[1]
    return float((shared / (k if a.score == "share" else 2 * k - shared)).mean())


def permute(state: Neighbours, order: Int[Tensor, " n"]) -> Neighbours:
    """The same activations with their examples in another order: row i is what row order[i] was."""
    return Neighbours(torch.argsort(order)[state.nearest[order]], state.score)
