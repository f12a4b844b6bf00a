"""Bands of random masks: single pairs' and those of means over pairs, by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

BAND = (0.025, 0.975)
ALL = "mean over all"

Floats = NDArray[np.float64]


def above_by_chance(draws: int) -> float:
    """The chance that one further random mask lies above the band of some.

    Example:
        >>> round(above_by_chance(20), 3), round(above_by_chance(100), 3)
        (0.07, 0.034)
    """
    return (BAND[0] * (draws - 1) + 1) / (draws + 1)


def curves(
    groups: Mapping[str, Sequence[int]], values: Floats, random: Floats, blocks: Sequence[str]
) -> dict[str, Any]:
    """Means over pairs by layer with the band of the same means over random masks, as plain lists for a manifest.

    Args:
        groups: label of a mean -> which pairs are in it.
        values: [pair, layer]; NaN is in no mean.
        random: [pair, layer, draw] of random masks.

    Returns:
        tasks: the columns of `by_layer`. random: the band over layers of all tasks' means together.
    """
    tasks: dict[str, list] = {c: [] for c in ("task", "block", "layer", "value", "low", "high", "pairs", "gaps")}
    pooled: list[Floats] = []
    for label, pairs in groups.items():
        chosen, drawn = values[list(pairs)], _mean(random[list(pairs)])
        pooled += [drawn] if label != ALL else []
        low, high = band(drawn)
        defined = np.isfinite(chosen)
        tasks["task"] += [label] * len(blocks)
        tasks["block"] += list(blocks)
        tasks["layer"] += list(range(len(blocks)))
        tasks["pairs"] += defined.sum(0).tolist()
        tasks["gaps"] += (~defined).sum(0).tolist()
        for name, numbers in (("value", _mean(chosen)), ("low", low), ("high", high)):
            tasks[name] += plain(numbers)
    together = np.concatenate(pooled, axis=1)
    low, high = band(together)
    middle = _mean(rearrange(together, "layer draw -> draw layer"))
    return {"tasks": tasks, "random": {"value": plain(middle), "low": plain(low), "high": plain(high)}}


def band(random: Floats) -> tuple[Floats, Floats]:
    """The 2.5 and 97.5 % points along the last axis, over what is defined; NaN where nothing is."""
    ends = np.full((2, *random.shape[:-1]), np.nan)
    for place in np.ndindex(random.shape[:-1]):
        drawn = random[place][np.isfinite(random[place])]
        if drawn.size:
            ends[(slice(None), *place)] = np.quantile(drawn, BAND)
    return ends[0], ends[1]


def plain(values: Floats) -> list[float | None]:
    """Numbers for JSON, where there is no NaN."""
    return [float(v) if np.isfinite(v) else None for v in values]


def _mean(values: Floats) -> Floats:
    """Mean over the first axis of what is defined; NaN where nothing is."""
    defined = np.isfinite(values)
    total = np.where(defined, values, 0.0).sum(0)
    return np.divide(total, defined.sum(0), out=np.full(total.shape, np.nan), where=defined.any(0))
