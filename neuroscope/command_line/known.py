"""Names that tables of the library know: methods, tasks, experiments."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from neuroscope.command_line.command import RECIPE, Command
from neuroscope.command_line.options import Option, nearest
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


def _dtypes() -> Iterable[str]:
    from neuroscope.models.opening import DTYPES

    return DTYPES


def _metrics() -> Iterable[str]:
    from neuroscope.tasks.metrics import METRICS

    return METRICS


def _reductions() -> Iterable[str]:
    from neuroscope.attribution import METHODS

    return list(dict.fromkeys(reduction for method in METHODS.values() for reduction in method.reductions))


def _model(value: Any) -> None:
    from neuroscope.models.opening import place_of

    with warnings.catch_warnings(action="ignore"):  # which the opening itself gives
        place_of(value)


def _device(value: Any) -> None:
    from neuroscope.models.opening import check_device

    check_device(value)


def _shares(value: Any) -> None:
    from neuroscope.checks import shares

    shares(value, "sizes")


def _parts(value: Any) -> None:
    from neuroscope.attribution.dealing import number_of_parts

    number_of_parts(value, "run")


CHECKS: dict[str, Callable[[Any], Any]] = {"sizes": _shares, "parts": _parts, "model": _model, "device": _device}
TABLES: dict[str, Callable[[], Iterable[str]]] = {
    "method": _methods,
    "methods": _learners,
    "experiment": _experiments,
    "tasks": _tasks,
    "dtype": _dtypes,
    "metric": _metrics,
    "reduction": _reductions,
}


def unknown_names(row: Command, values: Mapping[str, Any]) -> list[NeuroscopeError]:
    """An error for each name that its table does not have; of tasks, a path that exists is none."""
    found: list[NeuroscopeError] = []
    options = row.options()
    for name in [name for name in TABLES if values.get(name) and not (name == "tasks" and row.name == "benchmark")]:
        listed = [values[name]] if isinstance(values[name], str) else values[name]
        parts = [part.strip() for one in listed for part in str(one).split(",")]
        if name == "tasks" and any(Path(str(one)).expanduser().exists() for one in listed):
            continue
        known = list(TABLES[name]())
        for part in parts:
            one = part.upper() if name == "experiment" and part != "all" else part
            if one not in known:
                asked = _asked(options[name], part)
                found.append(ArgumentError(asked, _no_such(name, part), nearest(part, known)))
    return found + _out_of_range(row, values)


def _asked(option: Option, value: Any) -> str:
    return f"{option.name if option.nargs else option.flag} {value}"


def _no_such(name: str, value: str) -> str:
    if name == "tasks":
        from neuroscope.tasks.loaders import no_such_task

        return no_such_task(value)
    return f"no such {name.removesuffix('s')}"


def _out_of_range(row: Command, values: Mapping[str, Any]) -> list[NeuroscopeError]:
    """What functions say of single values that no vocabulary has, those of a recipe among them."""
    found: list[NeuroscopeError] = []
    options = row.options()
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
            found.append(type(error)(_asked(options[name], value), error.found, error.do))
    return found
