"""Names that tables of the library know: methods, tasks, experiments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from neuroscope.command_line.command import RECIPE, Command
from neuroscope.command_line.options import nearest
from neuroscope.errors import ArgumentError, NeuroscopeError


def _methods() -> Iterable[str]:
    from neuroscope.attribution import METHODS

    return METHODS


def _learners() -> Iterable[str]:
    from neuroscope.training.continual_learning import METHODS

    return METHODS


def _experiments() -> Iterable[str]:
    from neuroscope.experiments.table import EXPERIMENTS

    return [*EXPERIMENTS, "all"]


def _tasks() -> Iterable[str]:
    from neuroscope.tasks.catalogue import CATALOGUE, GROUPS
    from neuroscope.tasks.loaders import BUNDLED, SUITE_OF

    return [*BUNDLED, *SUITE_OF, *GROUPS, *CATALOGUE]


def _shares(value: Any) -> None:
    from neuroscope.checks import shares

    shares(value, "sizes")


def _parts(value: Any) -> None:
    from neuroscope.attribution.dealing import number_of_parts

    number_of_parts(value, "run")


CHECKS: dict[str, Callable[[Any], Any]] = {"sizes": _shares, "parts": _parts}
TABLES: dict[str, Callable[[], Iterable[str]]] = {
    "method": _methods,
    "methods": _learners,
    "experiment": _experiments,
    "tasks": _tasks,
}


def unknown_names(row: Command, values: Mapping[str, Any]) -> list[NeuroscopeError]:
    """An error for each name that its table does not have; of tasks, a path that exists is none."""
    found: list[NeuroscopeError] = []
    for name in [name for name in TABLES if name in values and not (name == "tasks" and row.name == "benchmark")]:
        listed = [values[name]] if isinstance(values[name], str) else values[name]
        parts = [part.strip() for one in listed for part in str(one).split(",")]
        if name == "tasks" and any(Path(str(one)).expanduser().exists() for one in listed):
            continue
        known = list(TABLES[name]())
        for part in parts:
            one = part.upper() if name == "experiment" and part != "all" else part
            if one not in known:
                asked = f"--{name.replace('_', '-')} {part}"
                found.append(ArgumentError(asked, f"no such {name.removesuffix('s')}", nearest(part, known)))
    return found + _out_of_range(row, values)


def _out_of_range(row: Command, values: Mapping[str, Any]) -> list[NeuroscopeError]:
    """What functions say of single values that no vocabulary has, those of a recipe among them."""
    found: list[NeuroscopeError] = []
    recipe = next((use for use in row.uses if use.function == RECIPE), None)
    for name, value in values.items():
        field = next((field for field, called in recipe.names().items() if called == name), "") if recipe else ""
        try:
            if name in CHECKS and value is not None:
                CHECKS[name](value)
            elif field and value is not None:
                from neuroscope.training import Recipe

                Recipe.of({field: value})
        except NeuroscopeError as error:
            found.append(type(error)(f"--{name.replace('_', '-')} {value}", error.found, error.do))
    return found
