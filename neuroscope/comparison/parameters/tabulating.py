"""From measured similarities to a table: a row per pair and layer, with its band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope.comparison.parameters.bands import ALL, Floats, band, curves
from neuroscope.comparison.parameters.similarity_by_depth import ParameterSimilarity
from neuroscope.masks import NeuronMask

if TYPE_CHECKING:
    import pandas as pd

Pair = tuple[str, str]


@dataclass(frozen=True)
class Measured:
    """What was measured inside one model, or between two.

    Attributes:
        pairs: names of the masks that are compared.
        blocks: names of the layers.
        values: measure -> [pair, layer].
        random: measure -> [pair, layer, draw], of random masks of the same sizes.
        source: where the parameters come from.
    """

    pairs: list[Pair]
    blocks: list[str]
    values: dict[str, Floats]
    random: dict[str, Floats]
    source: dict[str, Any]


def result_of(
    measured: Sequence[Measured], masks: Mapping[str, NeuronMask], manifest: dict[str, Any]
) -> ParameterSimilarity:
    """The pairs of all models in one table, and their means by layer."""
    pairs, blocks = [pair for m in measured for pair in m.pairs], measured[0].blocks
    values = {name: np.concatenate([m.values[name] for m in measured]) for name in measured[0].values}
    random = {name: np.concatenate([m.random[name] for m in measured]) for name in values}
    side = slice(1, 2) if manifest["per_task"] else slice(0, 2)
    groups = {task: [i for i, pair in enumerate(pairs) if task in pair[side]] for task in masks}
    groups = {task: places for task, places in groups.items() if places} | {ALL: list(range(len(pairs)))}
    by_layer = {name: curves(groups, values[name], random[name], blocks) for name in values}
    table = _table(pairs, blocks, masks, values, random)
    return ParameterSimilarity(table, manifest | {"blocks": blocks, "by_layer": by_layer})


def _table(
    pairs: list[Pair], blocks: list[str], masks: Mapping[str, NeuronMask], values: dict[str, Floats],
    random: dict[str, Floats],
) -> pd.DataFrame:  # fmt: skip
    import pandas as pd  # heavy: only where a table is made

    bands = {name: band(drawn) for name, drawn in random.items()}
    counts = {name: _counts(mask, blocks) for name, mask in masks.items()}
    rows = []
    for i, (a, b) in enumerate(pairs):
        shared = _counts(masks[a] & masks[b], blocks)
        for layer, block in enumerate(blocks):
            row = {"a": a, "b": b, "block": block, "layer": layer}
            row |= {"neurons_a": counts[a][block], "neurons_b": counts[b][block], "shared": shared[block]}
            for name, (low, high) in bands.items():
                prefix = "" if name == "value" else f"{name}_"
                row |= {name: values[name][i, layer]}
                row |= {f"{prefix}low": low[i, layer], f"{prefix}high": high[i, layer]}
            rows.append(row | {"reason": _reason(row)})
    return pd.DataFrame(rows)


def _counts(mask: NeuronMask, blocks: list[str]) -> dict[str, int]:
    """Neurons of the mask in every layer."""
    counts = dict.fromkeys(blocks, 0)
    for address, neurons in mask.items():
        counts[".".join(address.split(".")[:2])] += len(neurons)
    return counts


def _reason(row: Mapping[str, Any]) -> str:
    """Why there is no value."""
    if np.isfinite(row["value"]):
        return ""
    empty = dict.fromkeys(row[side] for side in ("a", "b") if row[f"neurons_{side}"] == 0)
    return f"no neuron of {', '.join(empty)} in this layer" if empty else "all parameters are zero"
