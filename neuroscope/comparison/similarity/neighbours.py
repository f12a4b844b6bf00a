"""How many of an example's nearest neighbours are the same in two representations.

Source: Huh et al. 2024, "The Platonic Representation Hypothesis", Appendix A (mutual nearest neighbours).

1. The k nearest other examples of each example, by cosine or Euclidean distance, in either representation. Examples at
   equal distances (duplicates) have no order: where they are more than there is room for among the k, each is a member
   to an equal part, so that the parts of an example's neighbours sum to k.
2. Per example, c, the sum of the products of an example's parts in both representations: how many neighbours would be
   common on average, if either side put equally distant ones in a random order. Share c / k (or Jaccard c / (2k - c));
   the mean over examples.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuroscope.checks import public, whole
from neuroscope.comparison.similarity.inputs import Examples, pair
from neuroscope.errors import ArgumentError, NumericalError, choose

BLOCK = 1 << 22  # distances held at a time
TIE = 1e-12  # squared distances this close, beside the squared norms of both examples, count as equal


class Neighbours(NamedTuple):
    """The nearest other examples of each example.

    Attributes:
        key: n x example + neighbour, of all pairs of the two; ascending.
        part: to which the neighbour is a member: 1 but for ties.
    """

    key: Int[Tensor, " m"]
    part: Float[Tensor, " m"]
    n: int
    k: int
    score: str


@public
def neighbour_overlap(
    x: Any,
    y: Any,
    *,
    neighbours: int = 10,
    distance: Literal["cosine", "euclidean"] = "cosine",
    score: Literal["share", "jaccard"] = "share",
) -> float:
    """Mean overlap of the nearest neighbours in two representations of the same examples.

    Args:
        x: [example, feature]; y: [example, feature'], the same examples.
        neighbours: how many of each example, k; itself not counted.
        distance: "cosine", of the activations as given, or "euclidean".
        score: "share" of the k that are common, or "jaccard", common / (2k - common).

    Returns:
        In [0, 1]; 1 for equal neighbours, but below where ties leave open which they are. The share expected of
        unrelated representations is k / (n - 1).

    Raises:
        ArgumentError: shapes that cannot be compared, neighbours not in 1 ... n - 2, or a bad distance or score.
        NumericalError: non-finite or constant activations, or a cosine of an example that is all zeros.

    Example:
        >>> x = [[0.0, 1], [1, 0], [1, 0.2], [0.1, 1], [-1, -2]]
        >>> neighbour_overlap(x, [[2 * b, 2 * a] for a, b in x], neighbours=1)
        1.0
    """
    first, second = pair(x, y, "neighbour overlap")
    return common(*(nearest(s, neighbours=neighbours, distance=distance, score=score) for s in (first, second)))


def nearest(x: Examples, *, neighbours: int, distance: str, score: str) -> Neighbours:
    """Step 1: the nearest other examples of each."""
    choose(distance, ("cosine", "euclidean"), "distance")
    choose(score, ("share", "jaccard"), "score")
    n, k = len(x.values), whole(neighbours, "neighbours", 1, "10 is usual")
    if k > n - 2:
        raise ArgumentError(f"neighbours={k}", f"{n} examples", f"give 1 to {n - 2}")
    values = x.values if distance == "cosine" else x.centred  # far from the origin, differences drown
    values = values / values.abs().max()
    if distance == "cosine":
        norms = torch.linalg.vector_norm(values, dim=1, keepdim=True)
        if not bool(norms.all()):
            found = f"{int((norms == 0).sum())} examples that are all zeros"
            raise NumericalError("cosine of activations", found, "leave them out, or use distance='euclidean'")
        values = values / norms
    rows = max(1, BLOCK // n)
    keys, parts = zip(*(_members(values, s, s + rows, k) for s in range(0, n, rows)), strict=True)
    return Neighbours(torch.cat(keys), torch.cat(parts), n, k, score)


def _members(x: Float[Tensor, "n d"], start: int, stop: int, k: int) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"]]:
    """Keys and parts. Of normalised rows, the Euclidean distance orders as the cosine does."""
    squares = (x * x).sum(1)
    closeness = 2 * x[start:stop] @ x.T - squares  # |x_i|^2 orders nothing
    closeness.diagonal(start).fill_(-torch.inf)
    part = parts(closeness, k, TIE * (squares[start:stop, None] + squares))
    row, column = part.nonzero(as_tuple=True)
    return (start + row) * len(x) + column, part[row, column]


def parts(closeness: Float[Tensor, "n m"], k: int, tie: Float[Tensor, "n m"] | float) -> Float[Tensor, "n m"]:
    """To which part each is among the k closest of its row; those within `tie` of the last share the room there is."""
    beyond = closeness - closeness.topk(k, dim=1).values[:, -1:]
    nearer, tied = beyond > tie, beyond.abs() <= tie
    room = k - nearer.sum(1, keepdim=True)
    return nearer + tied * (room.double() / tied.sum(1, keepdim=True))


def common(a: Neighbours, b: Neighbours) -> float:
    """Step 2: the mean over examples of the share of common neighbours."""
    place = torch.searchsorted(b.key, a.key).clamp(max=len(b.key) - 1)
    both = torch.where(b.key[place] == a.key, a.part * b.part[place], 0.0)
    shared = both.new_zeros(a.n).index_add_(0, a.key // a.n, both)
    return float((shared / (a.k if a.score == "share" else 2 * a.k - shared)).mean())


def permute(side: Neighbours, order: Int[Tensor, " n"]) -> Neighbours:
    """The same activations with their examples in another order: row i is what row order[i] was."""
    now = torch.argsort(order)
    key, by = torch.sort(now[side.key // side.n] * side.n + now[side.key % side.n])
    return side._replace(key=key, part=side.part[by])
