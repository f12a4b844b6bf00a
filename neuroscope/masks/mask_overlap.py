"""Overlap of masks: Jaccard of every pair beside what chance alone would give (LX24 Table 8).

1. Every mask becomes one row of bits over all neurons of the model; a group's row is the union of its members' rows.
2. One product of the bits with themselves counts the shared neurons of all pairs.
3. J = shared / (a + b - shared) for masks of a and b neurons; NaN where both are empty.
4. Chance: the same formula with the number that independent masks of these sizes share on average:
   `a b / N` for masks drawn uniformly from the N neurons, and `sum_l a_l b_l / w_l` for masks drawn uniformly within
   each site l of width w_l (layer-matched). Two uniform masks of a share k each: `k / (2 - k)`.
5. p: of at least so many shared neurons, of layer-matched masks, exactly (`overlap_chance`); q corrects it over pairs.

Shapes: n masks, N neurons, L sites; bits [n, N], counts by site [n, L], pairs [n, n].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from neuroscope import files
from neuroscope.checks import by_text, finite, public
from neuroscope.errors import ArgumentError, MaskError, choose
from neuroscope.masks.neuron_mask import NeuronMask, masks_of
from neuroscope.masks.overlap_chance import beside_chance, shared_by_chance
from neuroscope.masks.overlap_results import Overlap, OverlapSweep, require_families
from neuroscope.masks.per_neuron import shape
from neuroscope.masks.scores import Scores, scores_of
from neuroscope.statistics import benjamini_hochberg

if TYPE_CHECKING:
    import pandas as pd

SETS = 40  # of the sets of neurons that are in the same masks, how many are kept


@public
def overlap(
    masks: Mapping[str, NeuronMask],
    groups: Mapping[str, Sequence[str]] | None = None,
    families: Mapping[str, str] | None = None,
    ceiling: Mapping[str, float] | None = None,
) -> Overlap:
    """Jaccard of every pair of masks, or of every pair of unions of masks, between chance and what can be had.

    Args:
        masks: name -> mask, at least two, all of the same model and unit.
        groups: name of a group -> names of its masks: the groups' unions are compared instead (LX24 Table 8).
        families: name of each mask (or group) -> its family, for the words and the figure of the result.
        ceiling: name of each mask (or group) -> its expected Jaccard with a mask of the same task that is found on
            other examples, such as `stability(...).ceiling(k)`: no two tasks can be expected to overlap more than that.

    Returns:
        Overlap in [0, 1]. The pair of two empty masks is NaN, and in no mean. Groups that share a mask overlap by that
        alone; the chance levels know only their sizes.

    Raises:
        ArgumentError: no dict of masks, fewer than two masks or groups, a group of no or unknown masks, a name without
            a family or ceiling, or a ceiling outside [0, 1].
        MaskError: masks of different shapes.

    Example:
        >>> widths = {"blocks.0": 10, "blocks.1": 10}
        >>> masks = {"a": NeuronMask.of({0: [1, 2, 3]}, widths), "b": NeuronMask.of({0: [2, 3, 4]}, widths)}
        >>> found = overlap(masks)  # by chance 0.9 shared, 3 * 3 / 10
        >>> found.table[["shared", "expected", "jaccard", "chance_layer", "p"]].round(3).to_dict("records")
        [{'shared': 2, 'expected': 0.9, 'jaccard': 0.5, 'chance_layer': 0.176, 'p': 0.183}]
    """
    masks = masks_of(masks, "overlap")
    names, members = _members(masks, groups)
    if families is not None:
        require_families(families, names, "overlap")
    ceilings = None if ceiling is None else _ceilings(ceiling, names)
    widths = _common_widths(masks)
    rows = {name: mask.flags() for name, mask in masks.items()}
    bits = torch.stack([torch.stack([rows[m] for m in group]).any(0) for group in members])
    counts = torch.stack([site.sum(1) for site in torch.split(bits, list(widths.values()), dim=1)], dim=1).double()
    # float32 counts exactly up to 2**24 neurons
    exact = bits.to(torch.float32 if bits.shape[1] <= 1 << 24 else torch.float64)
    shared = (exact @ exact.T).double()
    width = torch.tensor(list(widths.values()), dtype=torch.float64)
    size = counts.sum(1)
    by_layer = (counts / width.clamp(min=1)) @ counts.T
    uniform = size[:, None] * size / width.sum().clamp(min=1)
    manifest = {
        "measure": "jaccard",
        "chance": "expected overlap of independent masks: uniform over the model, and uniform within each site",
        "sizes": {name: int(n) for name, n in zip(names, size, strict=True)},
        "widths": widths,
        "groups": {g: list(m) for g, m in groups.items()} if groups is not None else None,
        "families": dict(families) if families is not None else None,
        "ceiling": ceilings,
        "sets": _sets(bits, counts, width, names),
        "masks": {name: dict(mask.manifest) for name, mask in masks.items()},
        "versions": files.versions(),
    }
    table = _table(names, size, shared, uniform, by_layer)
    table = table.assign(**_beside_chance(table["shared"], counts, width))
    if ceilings:
        table["ceiling"] = [math.sqrt(ceilings[a] * ceilings[b]) for a, b in zip(table["a"], table["b"], strict=True)]
    return Overlap(table, manifest)


@public
def overlap_sweep(
    scores: Mapping[str, Scores],
    k: Sequence[float] = (0.05, 0.1, 0.3, 0.5, 0.7),
    groups: Mapping[str, Sequence[str]] | None = None,
) -> OverlapSweep:
    """Overlap of the top-k masks, or of their unions, for each share k (LX24 Table 8).

    Args:
        scores: name -> scores, at least two, all of the same model and unit.
        k: growing shares of the model's neurons in each mask.
        groups: name of a group -> names of its scores, as in `overlap`.

    Raises:
        ArgumentError: no dict of scores, no growing shares, fewer than two scores or groups, or a group of no or
            unknown scores.
        MaskError: scores of different shapes.

    Example:
        >>> up = torch.arange(1.0, 11.0)
        >>> scores = {"up": Scores({"0": up}, {"0": 10}), "down": Scores({"0": up.flip(0)}, {"0": 10})}
        >>> overlap_sweep(scores, k=(0.5, 0.7, 0.9)).table[["k", "shared", "jaccard"]].to_dict("list")
        {'k': [0.5, 0.7, 0.9], 'shared': [0, 4, 8], 'jaccard': [0.0, 0.4, 0.8]}
    """
    import pandas as pd

    scores = scores_of(scores, "overlap_sweep")
    results = {share: overlap({name: s.top(share) for name, s in scores.items()}, groups) for share in k}
    table = pd.concat([r.table.assign(k=share) for share, r in results.items()], ignore_index=True)
    table["q"] = benjamini_hochberg(table["p"].to_numpy())  # over all sizes
    last = next(reversed(results.values())).manifest
    manifest = {
        **{key: last[key] for key in ("measure", "chance", "widths", "groups", "versions")},
        "k": list(k),
        "scores": {name: dict(s.manifest) for name, s in scores.items()},
    }
    return OverlapSweep(table[["k", *table.columns.drop("k")]], manifest)


def _beside_chance(shared: Iterable[int], counts: torch.Tensor, width: torch.Tensor) -> dict[str, Any]:
    """Columns expected, ratio, z, p and q of the pairs, of layer-matched masks; p is NaN where a mask is empty."""
    sizes, widths = counts.long().tolist(), width.long().tolist()
    found = [
        beside_chance(common, *shared_by_chance(sizes[i], sizes[j], widths))
        | ({} if any(sizes[i]) and any(sizes[j]) else {"p": math.nan})
        for common, (i, j) in zip(shared, combinations(range(len(sizes)), 2), strict=True)
    ]
    columns = {name: np.array([cell[name] for cell in found]) for name in found[0]}
    return {**columns, "q": benjamini_hochberg(columns["p"])}


def _sets(bits: torch.Tensor, counts: torch.Tensor, width: torch.Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    """Neurons that are in just these masks and in no other, the most first, beside those of layer-matched masks."""
    patterns, number = torch.unique(bits[:, bits.any(0)].T, dim=0, return_counts=True)
    share = counts / width.clamp(min=1)
    sets = []
    for index in number.argsort(descending=True, stable=True)[:SETS].tolist():
        inside = patterns[index]
        chance = (torch.where(inside[:, None], share, 1 - share).prod(0) * width).sum()
        members = [name for name, is_in in zip(names, inside.tolist(), strict=True) if is_in]
        sets.append({"members": members, "neurons": int(number[index]), "expected": float(chance)})
    return sets


def _ceilings(ceiling: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    given = by_text(ceiling, "ceiling", "give a dict name -> expected Jaccard, such as stability(...).ceiling(0.1)")
    if missing := [name for name in names if name not in given]:
        raise ArgumentError("overlap(ceiling)", f"no ceiling for {missing}", "give one for every name")
    read = {name: finite(given[name], f"ceiling of {name}", "give the expected Jaccard") for name in names}
    if wrong := {name: value for name, value in read.items() if not 0 <= value <= 1}:
        raise ArgumentError("overlap(ceiling)", f"{wrong}", "give numbers between 0 and 1")
    return read


def _members(
    masks: Mapping[str, NeuronMask], groups: Mapping[str, Sequence[str]] | None
) -> tuple[list[str], list[list[str]]]:
    """Names to compare, and the masks behind each."""
    unions = {name: [name] for name in masks} if groups is None else {g: list(m) for g, m in groups.items()}
    if len(unions) < 2:
        raise ArgumentError("overlap", f"{len(unions)} mask(s) or group(s): {list(unions)}", "give two or more")
    for group, members in unions.items():
        if not members:
            raise ArgumentError("overlap", f"group {group!r} has no masks", "name at least one")
        for name in members:
            choose(name, masks, "mask")
    return list(unions), list(unions.values())


def _common_widths(masks: Mapping[str, NeuronMask]) -> dict[str, int]:
    (first, reference), *others = masks.items()
    widths = dict(reference.widths)
    for name, mask in others:
        if dict(mask.widths) != widths:
            raise MaskError(
                "overlap of masks of one model",
                f"{first!r} is over {shape(widths)}, {name!r} over {shape(mask.widths)}",
                "compare masks found on the same model with the same unit",
            )
    return widths


def _table(
    names: Sequence[str], size: torch.Tensor, shared: torch.Tensor, uniform: torch.Tensor, by_layer: torch.Tensor
) -> pd.DataFrame:
    import pandas as pd

    total = size[:, None] + size
    measures = {"jaccard": shared, "chance_uniform": uniform, "chance_layer": by_layer}
    jaccard = {name: (common / (total - common)).numpy() for name, common in measures.items()}  # 0 / 0 is NaN
    pairs = list(combinations(range(len(names)), 2))
    return pd.DataFrame(
        {
            "a": [names[i] for i, _ in pairs],
            "b": [names[j] for _, j in pairs],
            "size_a": [int(size[i]) for i, _ in pairs],
            "size_b": [int(size[j]) for _, j in pairs],
            "shared": [int(shared[i, j]) for i, j in pairs],
            **{name: [float(cells[i, j]) for i, j in pairs] for name, cells in jaccard.items()},
        }
    )
