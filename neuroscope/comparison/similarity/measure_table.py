"""The table of pair measures.

To add a measure: its functions in a file of their own, and a line in MEASURES.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from neuroscope.comparison.similarity import canonical, cka_formulas, neighbours
from neuroscope.errors import ArgumentError, choose, suggest


@dataclass(frozen=True)
class Measure:
    """A similarity, cut so that the work on one side is done once.

    Attributes:
        function: the public function; its keywords are the measure's options.
        state: (Examples, **options) -> all that is needed of one side.
        between: (state, state) -> similarity.
        permute: (state, order) -> the state of the same examples in another order, without computing it again.
        invariances: what changes nothing, of x and of y, under the options of `exact`.
        exact: options under which the invariances hold.
    """

    function: Callable[..., float]
    state: Callable[..., Any]
    between: Callable[[Any, Any], float]
    permute: Callable[[Any, Tensor], Any]
    invariances: tuple[frozenset[str], frozenset[str]]
    exact: Mapping[str, Any]


TURNS = frozenset({"translation", "scaling", "orthogonal"})
LINEAR = TURNS | {"invertible"}

MEASURES: dict[str, Measure] = {
    "cka": Measure(
        cka_formulas.cka, cka_formulas.state, cka_formulas.between, cka_formulas.permute, (TURNS, TURNS), {},
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


def find(measure: str) -> Measure:
    """The measure of that name."""
    return MEASURES[choose(measure, MEASURES, "measure")]


def complete(
    asked: str, function: Callable[..., Any], options: Mapping[str, Any], callers: Sequence[str] = ()
) -> dict[str, Any]:
    """All options of a measure's function, the missing ones at their defaults; `callers` are keywords of who asks."""
    parameters = inspect.signature(function).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    for name in options:
        if name not in defaults:
            known = [*defaults, *callers]
            do = suggest(name, known) if known else "leave it out"
            raise ArgumentError(f"{asked} with {name}=...", "no such option", do)
    return {**defaults, **options}


def with_form(settings: Mapping[str, Any], n: int, d: int, e: int, null: int) -> dict[str, Any]:
    """The settings, with the cheaper of linear CKA's two forms."""
    linear = settings.get("kernel") == "linear"
    return {**settings, "form": cka_formulas.cheaper_form(n, d, e, null)} if linear else dict(settings)
