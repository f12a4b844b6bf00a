"""The table of similarity measures, and the permutation null that all of them share.

To add a measure: its functions in a file of their own, and a line in MEASURES.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from neuroscope.errors import ArgumentError, choose, public, suggest
from neuroscope.similarity import alignment, canonical, neighbours
from neuroscope.similarity.inputs import pair

LEVEL = 0.95  # share of the null between low and high
TIE = 1e-9  # values this close count as equal: sums that are equal on paper may differ in the last digit


@dataclass(frozen=True)
class Measure:
    """A similarity, cut so that the work on one side is done once.

    Attributes:
        function: the public function; its keywords are the measure's options.
        prepare: (Examples, **options) -> the state of one side.
        between: (state, state) -> similarity.
        permute: (state, order) -> the state of the same examples in another order, without preparing it again.
        invariances: what changes nothing, of x and of y, under the options of `exact`.
        null: what unrelated representations have.
        exact: options under which the invariances hold.
    """

    function: Callable[..., float]
    prepare: Callable[..., Any]
    between: Callable[[Any, Any], float]
    permute: Callable[[Any, Tensor], Any]
    invariances: tuple[frozenset[str], frozenset[str]]
    null: str
    exact: Mapping[str, Any]


TURNS = frozenset({"translation", "scaling", "orthogonal"})
LINEAR = TURNS | {"invertible"}

MEASURES: dict[str, Measure] = {
    "cka": Measure(
        alignment.cka, alignment.prepare, alignment.between, alignment.permute, (TURNS, TURNS),
        "0 on average where debiased; biased, it rises towards 1 with features / examples", {},
    ),
    "svcca": Measure(
        canonical.svcca, canonical.space, canonical.mean_correlation, canonical.permute_space, (LINEAR, LINEAR),
        "above 0, and more so the more components are kept of few examples", {"share": 1.0},
    ),
    "pwcca": Measure(
        canonical.pwcca, canonical.space, canonical.weighted_correlation, canonical.permute_space,
        (TURNS - {"orthogonal"}, LINEAR), "above 0, and more so the more features and the fewer examples", {},
    ),
    "procrustes": Measure(
        canonical.procrustes, canonical.coordinates, canonical.nuclear, canonical.permute_rows, (TURNS, TURNS),
        "above 0, and more so the more features and the fewer examples", {},
    ),
    "neighbour_overlap": Measure(
        neighbours.neighbour_overlap, neighbours.nearest, neighbours.common, neighbours.permute,
        (TURNS, TURNS), "k / (n - 1) on average, for the share of common neighbours", {"distance": "euclidean"},
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
        ArgumentError: an unknown measure or option, or no permutations; and as the measure.
        NumericalError: as the measure.

    Example:
        >>> x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
        >>> band = permutation_null(x, x[:, :2], null=99)
        >>> band.value > band.high, band.p
        (True, 0.01)
    """
    chosen = find(measure)
    settings = complete("permutation_null", measure, options)
    first, second = pair(x, y, measure)
    if null < 1:
        raise ArgumentError(f"null={null!r}", "no permutations", "200 give a p down to 0.005")
    if settings.get("kernel") == "linear":
        (n, d), e = first.values.shape, second.values.shape[1]
        # every permutation costs n * n in one form and n * d * e in the other
        settings["form"] = "gram" if n <= d * e else "features"
    a, b = (chosen.prepare(side, **settings) for side in (first, second))
    orders = permutations(len(first.values), null, seed, first.values.device)
    draws = np.array([chosen.between(a, chosen.permute(b, order)) for order in orders])
    return band(chosen.between(a, b), draws)


def find(measure: str) -> Measure:
    """The measure of that name."""
    return MEASURES[choose(measure, MEASURES, "measure")]


def complete(asked: str, measure: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of the measure, the missing ones at their defaults."""
    parameters = inspect.signature(MEASURES[measure].function).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    for name in options:
        if name not in defaults:
            do = suggest(name, defaults) if defaults else "leave it out"
            raise ArgumentError(f"{asked} by {measure} with {name}=...", "no such option", do)
    return {**defaults, **options}


def permutations(n: int, count: int, seed: int, device: torch.device | None = None) -> Iterator[Tensor]:
    """`count` random orders of n examples."""
    rng = np.random.default_rng(seed)
    draw = partial(rng.permutation, n)
    return (torch.from_numpy(draw()).to(device) for _ in range(count))


def band(value: float, draws: np.ndarray[Any, np.dtype[np.float64]]) -> Band:
    """The value beside the draws of its null."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    hits = int(np.sum(draws >= value - TIE * max(abs(value), 1e-3)))
    return Band(value, float(low), float(high), (1 + hits) / (1 + len(draws)))
