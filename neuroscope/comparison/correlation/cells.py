"""Similarity and transfer, however they are given, as one matrix each: rows are source tasks, columns test tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.annotations import pairs_of
from neuroscope.errors import ArgumentError, kind_of
from neuroscope.results import Result

if TYPE_CHECKING:
    import pandas as pd

SOURCE, TEST = ("a", "source"), ("b", "target", "test")  # what the columns of tidy tables are called
SIMILARITIES = ("value", "jaccard", "similarity", "cosine", "cka")
SCORES = ("score", "value", "transfer", "accuracy", "gain")
DO = "give {(source, test): number}, a table of source, target and score, or a matrix with sources as its index"

Floats = NDArray[np.float64]
Cells = dict[tuple[str, str], float]


def similarity_cells(similarity: Any) -> dict[int | None, Cells]:
    """layer -> (source, test) -> similarity; the only layer is None where there are no layers."""
    table = _plain(similarity, "similarity")
    if _is_frame(table) and "layer" in table.columns and _columns(table) is not None:
        layers = table["layer"].unique().tolist()
        for layer in layers:
            if not isinstance(layer, Real) or not float(layer).is_integer():
                raise ArgumentError("correlate: similarity", f"a layer {layer!r}", "number the layers, such as 0, 1, 2")
        layers.sort()
        return {int(layer): _tidy(table[table["layer"] == layer], SIMILARITIES, "similarity") for layer in layers}
    if isinstance(table, Mapping) and table and all(_is_row(v) for v in table.values()):
        lengths = {len(v) for v in table.values()}
        if len(lengths) > 1:
            found = f"pairs with {' and '.join(map(str, sorted(lengths)))} layers"
            raise ArgumentError("correlate: similarity", found, "give every pair as many layers, NaN for gaps")
        by_pair = {pair: list(values) for pair, values in table.items()}
        return {i: _cells({p: v[i] for p, v in by_pair.items()}, "similarity") for i in range(lengths.pop())}
    return {None: _any(table, SIMILARITIES, "similarity")}


def transfer_cells(transfer: Any) -> Cells:
    """(source, test) -> score."""
    return _any(_plain(transfer, "transfer"), SCORES, "transfer")


def _plain(numbers: Any, what: str) -> Any:
    """The table of a result; a mapping as a dict."""
    table = numbers.table if isinstance(numbers, Result) else numbers
    return dict(pairs_of(table, what, DO)) if isinstance(table, Mapping) else table


def matrices(layers: Mapping[int | None, Cells], transfer: Cells) -> tuple[list[str], dict[int | None, Floats], Floats]:
    """Names of all tasks with a score and a similarity, and [source, test] of each layer and of transfer.

    A pair that a similarity has the other way round only is taken from there. Pairs of a task with itself are left out.
    """
    known = {name for cells in layers.values() for pair in cells for name in pair}
    sources = [s for s, t in transfer if s in known and t in known and s != t]
    tests = [t for s, t in transfer if s in known and t in known and s != t]
    names = list(dict.fromkeys([*sources, *tests]))
    if not names:
        found = f"similarity of {_few(known)} and transfer of {_few(n for pair in transfer for n in pair)}"
        raise ArgumentError("correlate", f"no pair of tasks in both: {found}", "name the tasks alike in both")
    scores = _matrix(transfer, names, symmetric=False)
    return names, {layer: _matrix(cells, names, symmetric=True) for layer, cells in layers.items()}, scores


def mean_over_layers(layers: Mapping[int | None, Floats], scores: Floats) -> tuple[Floats, list[int | None]]:
    """[source, test] mean over the layers where every pair that is used has a value, and the layers left out.

    Were each pair averaged over layers of its own, a curve over depth that all pairs share would make a correlation. A
    pair without a score, or without a value in any layer, is not used. Where every layer is left out, all are NaN.
    """
    stack = np.stack(list(layers.values()))
    used = np.isfinite(scores) & np.isfinite(stack).any(0)
    complete = np.array([np.isfinite(x[used]).all() for x in stack])
    left_out = [layer for layer, has_all in zip(layers, complete, strict=True) if not has_all]
    mean = stack[complete].mean(0) if complete.any() else np.full(scores.shape, np.nan)
    return mean, left_out


def _matrix(cells: Cells, names: Sequence[str], symmetric: bool) -> Floats:
    matrix = np.full((len(names), len(names)), np.nan)
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            if i != j:
                matrix[i, j] = cells.get((a, b), cells.get((b, a), np.nan) if symmetric else np.nan)
    return matrix


def _any(numbers: Any, values: Sequence[str], what: str) -> Cells:
    if _is_frame(numbers):
        if _columns(numbers) is not None:
            return _tidy(numbers, values, what)
        try:
            return _cells({(a, b): numbers.loc[a, b] for a in numbers.index for b in numbers.columns}, what)
        except ArgumentError:
            if all(numbers[c].dtype.kind in "fiub" for c in numbers.columns):
                raise
            raise _unnamed(numbers, values, what) from None  # text in it: a tidy table, but of something else
    if isinstance(numbers, Mapping) and numbers and all(isinstance(v, Mapping) for v in numbers.values()):
        return _cells({(a, b): v for a, row in numbers.items() for b, v in row.items()}, what)
    if isinstance(numbers, Mapping) and numbers:
        return _cells(numbers, what)
    raise ArgumentError(f"correlate: {what}", kind_of(numbers), DO)


def _tidy(table: pd.DataFrame, values: Sequence[str], what: str) -> Cells:
    columns = _columns(table)
    value = next((c for c in values if c in table.columns), None)
    if columns is None or value is None:
        raise _unnamed(table, values, what)
    pairs = list(zip(table[columns[0]], table[columns[1]], strict=True))
    twice = next((pair for pair in pairs if pairs.count(pair) > 1), None) if len(set(pairs)) < len(pairs) else None
    if twice is not None:
        found = f"several rows for {twice[0]} -> {twice[1]}"
        raise ArgumentError(f"correlate: {what}", found, "choose one of them, or average them, before")
    return _cells(dict(zip(pairs, table[value], strict=True)), what)


def _unnamed(table: pd.DataFrame, values: Sequence[str], what: str) -> ArgumentError:
    """A table whose columns do not say which tasks and which number."""
    first, second, number = (" or ".join(names) for names in (SOURCE, TEST, values))
    do = (
        f"give a table with the columns {first}; {second}; and {number}; or a matrix of numbers with tasks as its index"
    )
    return ArgumentError(f"correlate: {what}", f"a table of {', '.join(map(str, table.columns))}", do)


def _cells(numbers: Mapping[Any, Any], what: str) -> Cells:
    try:
        cells = {(str(a), str(b)): float(value) for (a, b), value in numbers.items()}
    except Exception:  # keys and values of somebody else's may fail in any way
        found = f"something else than pairs and numbers: {kind_of(numbers)}"
        raise ArgumentError(f"correlate: {what}", found, DO) from None
    infinite = [pair for pair, value in cells.items() if np.isinf(value)]
    if infinite:
        found = f"an infinite number for {infinite[0][0]} -> {infinite[0][1]}"
        raise ArgumentError(f"correlate: {what}", found, "give finite numbers, and NaN for what was not measured")
    return cells


def _columns(table: pd.DataFrame) -> tuple[str, str] | None:
    """The columns that name the two tasks of a tidy table; a matrix may have tasks of these names, over numbers."""
    named = [c for c in table.columns if table[c].dtype.kind not in "fiub"]
    a, b = (next((c for c in names if c in named), None) for names in (SOURCE, TEST))
    return None if a is None or b is None else (a, b)


def _is_frame(numbers: Any) -> bool:
    return hasattr(numbers, "columns") and hasattr(numbers, "loc")


def _is_row(value: Any) -> bool:
    return isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str) and np.ndim(value) == 1


def _few(names: Iterable[str]) -> str:
    listed = list(dict.fromkeys(names))
    return ", ".join(listed[:4]) + (", ..." if len(listed) > 4 else "") if listed else "no task"
