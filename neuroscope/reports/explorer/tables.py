"""The tables of results as the page's data: matrices of numbers, by the numbers of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from neuroscope.reports.explorer.card import plain_data
from neuroscope.statistics import ALPHA

if TYPE_CHECKING:
    import pandas as pd

OVERLAP = ("jaccard", "chance_layer", "shared", "size_a", "size_b", "q")
CROSSED = ("effect", "low", "high", "q", "score", "original", "control")
VERDICT = ("verdict", "effect", "low", "high", "q", "selectivity", "breaks", "strongest")
STANDING = {"original": "original", "random-layer": "random", "off": "off", "q": "q", "chance": "standing"}


def table_parts(tables: Mapping[str, pd.DataFrame], names: Sequence[str]) -> dict[str, Any]:
    """Of the page's head: overlap and crossed as name -> rows of cells, verdicts and standings by task."""
    parts: dict[str, Any] = {"alpha": ALPHA}
    if "overlap" in tables:
        parts["overlap"] = _matrices(tables["overlap"], "a", "b", OVERLAP, names, symmetric=True)
    if "crossed" in tables:
        parts["crossed"] = _matrices(tables["crossed"], "source", "target", CROSSED, names)
    if "verdicts" in tables:
        parts["verdicts"] = _by_task(tables["verdicts"], "task", {name: name for name in VERDICT}, names)
    if "deactivation" in tables:
        parts["standings"] = _by_task(tables["deactivation"], "name", STANDING, names)
    return parts


def _matrices(
    table: pd.DataFrame, row: str, column: str, values: Sequence[str], names: Sequence[str], symmetric: bool = False
) -> dict[str, list[list[Any]]]:
    """Of each value a square of cells; None where the table has none."""
    index = {name: i for i, name in enumerate(names)}
    found: dict[str, list[list[Any]]] = {v: [[None] * len(names) for _ in names] for v in values if v in table}
    for line in table.to_dict("records"):
        i, j = index[line[row]], index[line[column]]
        for value, cells in found.items():
            cells[i][j] = plain_data(line[value], value)
            if symmetric:
                other = {"size_a": "size_b", "size_b": "size_a"}.get(value, value)
                cells[j][i] = plain_data(line[other], value)
    return found


def _by_task(table: pd.DataFrame, key: str, values: Mapping[str, str], names: Sequence[str]) -> list[Any]:
    lines = {line[key]: line for line in table.to_dict("records")}
    there = {column: name for column, name in values.items() if column in table}
    return [
        {name: plain_data(lines[task][column], name) for column, name in there.items()} if task in lines else None
        for task in names
    ]
