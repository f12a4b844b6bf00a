"""The table of similarity measures, and the permutation null that all of them share.

To add a measure: its functions in a file of their own, and a line in MEASURES.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from neuroscope.checks import public
from neuroscope.comparison.similarity import alignment, canonical, neighbours
from neuroscope.comparison.similarity.inputs import pair, whole
from neuroscope.errors import ArgumentError, choose, suggest
from neuroscope.statistics import permutation_p

LEVEL = 0.95  # share of the null between low and high
NULL = "200 permutations give a p down to 0.005"


@dataclass(frozen=True)
class Measure:
    """A similarity, cut so that the work on one side is done once.

    Attributes:
        function: the public function; its keywords are the measure's options.
        prepare: (Examples, **options) -> the state of one side.
        between: (state, state) -> similarity.
        permute: (state, order) -> the state of the same examples in another order, without preparing it again.
        invariances: what changes nothing, of x and of y, under the options of `exact`.
        exact: options under which the invariances hold.
    """

    function: Callable[..., float]
    prepare: Callable[..., Any]
    between: Callable[[Any, Any], float]
    permute: Callable[[Any, Tensor], Any]
    invariances: tuple[frozenset[str], frozenset[str]]
    exact: Mapping[str, Any]


TURNS = frozenset({"translation", "scaling", "orthogonal"})
LINEAR = TURNS | {"invertible"}

MEASURES: dict[str, Measure] = {
    "cka": Measure(
        alignment.cka, alignment.prepare, alignment.between, alignment.permute, (TURNS, TURNS), {},
    ),
    "svcca": Measure(
        canonical.svcca, canonical.space, canonical.mean_correlation, canonical.permute_space, (LINEAR, LINEAR),
        {"share": 1.0},
    ),
    "pwcca": Measure(
        canonical.pwcca, canonical.space, canonical.weighted_correlation, canonical.permute_space,
        (TURNS - {"orthogonal"}, LINEAR), {},
    ),
    "procrustes": Measure(
        canonical.procrustes, canonical.coordinates, canonical.nuclear, canonical.permute_rows, (TURNS, TURNS),
        {},
    ),
    "neighbour_overlap": Measure(
        neighbours.neighbour_overlap, neighbours.nearest, neighbours.common, neighbours.permute,
        (TURNS, TURNS), {"distance": "euclidean"},
    ),
}  # fmt: skip


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
    either side needs by itself (Gram matrices, bases, neighbours) is computed once and permuted.

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
    null, seed = whole(null, "null", 1, NULL), whole(seed, "seed", 0, "0 is usual")
    first, second = pair(x, y, measure)
    (n, d), e = first.values.shape, second.values.shape[1]
    settings = with_form(settings, n, d, e, null)
    a, b = (chosen.prepare(side, **settings) for side in (first, second))
    orders = permutations(len(first.values), null, seed, first.values.device)
    draws = np.array([chosen.between(a, chosen.permute(b, order)) for order in orders])
    return band(chosen.between(a, b), draws)


def find(measure: str) -> Measure:
    """The measure of that name."""
    return MEASURES[choose(measure, MEASURES, "measure")]


def complete(
    asked: str, function: Callable[..., Any], options: Mapping[str, Any], own: Sequence[str] = ()
) -> dict[str, Any]:
    """All options of a measure's function, the missing ones at their defaults; `own` are the caller's keywords."""
    parameters = inspect.signature(function).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    for name in options:
        if name not in defaults:
            known = [*defaults, *own]
            do = suggest(name, known) if known else "leave it out"
            raise ArgumentError(f"{asked} with {name}=...", "no such option", do)
    return {**defaults, **options}


def with_form(settings: Mapping[str, Any], n: int, d: int, e: int, null: int) -> dict[str, Any]:
    """The settings, with the cheaper of linear CKA's two forms."""
    linear = settings.get("kernel") == "linear"
    return {**settings, "form": alignment.cheaper_form(n, d, e, null)} if linear else dict(settings)


def permutations(n: int, count: int, seed: int, device: torch.device | None = None) -> Iterator[Tensor]:
    """`count` random orders of n examples."""
    rng = np.random.default_rng(seed)
    draw = partial(rng.permutation, n)
    return (torch.from_numpy(draw()).to(device) for _ in range(count))


def band(value: float, draws: np.ndarray[Any, np.dtype[np.float64]]) -> Band:
    """The value beside the draws of its null."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Band(value, float(low), float(high), permutation_p(value, draws))
