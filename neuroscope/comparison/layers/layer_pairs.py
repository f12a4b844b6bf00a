"""The numbers of pairs of layers of one task, by any measure.

1. Linear CKA without a null goes through `blocks`: float32 products, float64 sums, self terms once per layer.
2. Everything else computes the state of every layer once in float64 (`MEASURES`), as many layers of a at a time as fit
   the memory; under a null, each permutation of a layer of b serves all layers of a.
3. A layer that cannot be compared leaves NaN and its reason in every pair that it is in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from neuroscope.comparison.layers import blocks
from neuroscope.comparison.similarity import inputs
from neuroscope.comparison.similarity.measure_table import MEASURES, with_form
from neuroscope.comparison.similarity.null import band, permutations
from neuroscope.errors import ArgumentError, NumericalError

STATE = 32  # bytes per number of a layer's state, with room for computing it

Row = dict[str, Any]
Stated = tuple[Any, str]  # the state of a layer, or why there is none


@dataclass(frozen=True)
class Comparison:
    """How layers are compared: the measure with all its options, the null, and where and in how much memory."""

    measure: str
    options: Mapping[str, Any]
    null: int
    seed: int
    device: torch.device
    memory: int  # bytes

    @property
    def in_blocks(self) -> bool:
        """Whether it is linear CKA without a null, which needs no layer as a whole."""
        return self.measure == "cka" and self.options["kernel"] == "linear" and not self.null


def rows_of(a: Any, b: Any, layers_a: Sequence[int], layers_b: Sequence[int], how: Comparison) -> list[Row]:
    """A row for each pair of layers of two arrays [layer, example, feature]."""
    if how.in_blocks:
        return _linear(a, b, layers_a, layers_b, how)
    return _general(a, b, layers_a, layers_b, how)


def _linear(a: Any, b: Any, layers_a: Sequence[int], layers_b: Sequence[int], how: Comparison) -> list[Row]:
    """Linear CKA in blocks: float32 products, float64 sums."""
    (_, n, d), (_, _, e) = a.shape, b.shape
    form, rows, _ = blocks.plan(n, (d, e), (len(layers_a), len(layers_b)), how.memory)
    sides = blocks.Layers(a, how.device, rows), blocks.Layers(b, how.device, rows)
    values, faults_a, faults_b = blocks.linear_grid(*sides, layers_a, layers_b, form, how.options["debiased"])
    return [
        _row(i, j, float(values[r, c]), faults_a[r], faults_b[c])
        for r, i in enumerate(layers_a)
        for c, j in enumerate(layers_b)
    ]


def _general(a: Any, b: Any, layers_a: Sequence[int], layers_b: Sequence[int], how: Comparison) -> list[Row]:
    """Any measure in float64, with or without a null: as many layers of a at a time as fit the memory."""
    (_, n, d), (_, _, e) = a.shape, b.shape
    how = replace(how, options=with_form(how.options, n, d, e, how.null))
    one = STATE * n * max(d, e, 0 if how.options.get("form") == "features" else n)
    fit = how.memory // one - 2  # a layer of b and its permutation are there too
    if fit < 1:
        found = f"{3 * one} are needed for three layers of {n} examples"
        raise ArgumentError(f"memory={how.memory} bytes", found, "allow more, or give fewer examples")
    rows: dict[tuple[int, int], Row] = {}
    for start in range(0, len(layers_a), fit):
        states = {i: _state(a, i, how) for i in layers_a[start : start + fit]}
        for j in layers_b:
            rows |= {(i, j): row for i, row in _with_layer(states, j, _state(b, j, how), how, n).items()}
    return [rows[i, j] for i in layers_a for j in layers_b]


def _with_layer(
    states: Mapping[int, Stated], j: int, other: Stated, how: Comparison, n: int
) -> dict[int, Row]:  # fmt: skip
    """Layers of a against layer j of b; under a null, each permutation of b serves all of them."""
    chosen, (state_b, reason_b) = MEASURES[how.measure], other
    ready = {i: state for i, (state, reason) in states.items() if not reason}
    draws: list[list[float]] = []
    if not reason_b and ready:
        for order in permutations(n, how.null, how.seed, how.device):
            moved = chosen.permute(state_b, order)
            draws.append([chosen.between(state, moved) for state in ready.values()])
    null_of = dict(zip(ready, np.array(draws).T, strict=True)) if draws else {}
    rows = {}
    for i, (state, reason) in states.items():
        value = np.nan if reason or reason_b else chosen.between(state, state_b)
        rows[i] = _row(i, j, value, reason, reason_b)
        if how.null:
            chance = band(value, null_of[i])[1:] if i in null_of and np.isfinite(value) else (np.nan,) * 3
            rows[i].update(zip(("low", "high", "p"), chance, strict=True))
    return rows


def _state(array: Any, layer: int, how: Comparison) -> Stated:
    """What the measure needs of a layer, or why there is nothing."""
    examples = inputs.as_examples(array[layer], how.measure)
    blocks.hand_back(array)
    examples = examples._replace(values=examples.values.to(how.device))
    try:
        return MEASURES[how.measure].state(inputs.checked(examples, how.measure), **how.options), ""
    except NumericalError as error:
        return None, error.found


def _row(i: int, j: int, value: float, reason_a: str, reason_b: str) -> Row:
    reasons = [f"{side}: {reason}" for side, reason in (("a", reason_a), ("b", reason_b)) if reason]
    if not reasons and not np.isfinite(value):
        reasons = ["the result is not finite"]
    return {"layer_a": i, "layer_b": j, "value": np.nan if reasons else value, "reason": "; ".join(reasons)}
