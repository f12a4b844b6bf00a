"""Overlap of masks: Jaccard of every pair beside what chance alone would give (LX24 Table 8).

1. Every mask becomes one row of bits over all neurons of the model; a group's row is the union of its members' rows.
2. One product of the bits with themselves counts the shared neurons of all pairs.
3. J = shared / (a + b - shared) for masks of a and b neurons; NaN where both are empty.
4. Chance: the same formula with the number that independent masks of these sizes share on average:
   `a b / N` for masks drawn uniformly from the N neurons, and `sum_l a_l b_l / w_l` for masks drawn uniformly within
   each site l of width w_l (layer-matched). Two uniform masks of a share k each: `k / (2 - k)`.

Shapes: n masks, N neurons, L sites; bits [n, N], counts by site [n, L], pairs [n, n].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import torch

from neuroscope import files
from neuroscope.checks import public
from neuroscope.errors import ArgumentError, MaskError, choose
from neuroscope.masks.neuron_mask import NeuronMask, masks_of
from neuroscope.masks.overlap_results import Overlap, OverlapSweep, require_families
from neuroscope.masks.per_neuron import shape
from neuroscope.masks.scores import Scores, scores_of

if TYPE_CHECKING:
    import pandas as pd


@public
def overlap(
    masks: Mapping[str, NeuronMask],
    groups: Mapping[str, Sequence[str]] | None = None,
    families: Mapping[str, str] | None = None,
) -> Overlap:
    """Jaccard of every pair of masks, or of every pair of unions of masks, with two chance levels.

    Args:
        masks: name -> mask, at least two, all of the same model and unit.
        groups: name of a group -> names of its masks: the groups' unions are compared instead (LX24 Table 8).
        families: name of each mask (or group) -> its family, for the words and the figure of the result.

    Returns:
        Overlap in [0, 1]. The pair of two empty masks is NaN, and in no mean. Groups that share a mask overlap by that
        alone; the chance levels know only their sizes.

    Raises:
        ArgumentError: no dict of masks, fewer than two masks or groups, a group of no or unknown masks, or a name
            without a family.
        MaskError: masks of different shapes.
    """
    masks = masks_of(masks, "overlap")
    names, members = _members(masks, groups)
    if families is not None:
        require_families(families, names, "overlap")
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
        "masks": {name: dict(mask.manifest) for name, mask in masks.items()},
        "versions": files.versions(),
    }
    return Overlap(_table(names, size, shared, uniform, by_layer), manifest)


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
    """
    import pandas as pd

    scores = scores_of(scores, "overlap_sweep")
    results = {share: overlap({name: s.top(share) for name, s in scores.items()}, groups) for share in k}
    table = pd.concat([r.table.assign(k=share) for share, r in results.items()], ignore_index=True)
    last = next(reversed(results.values())).manifest
    manifest = {
        **{key: last[key] for key in ("measure", "chance", "widths", "groups", "versions")},
        "k": list(k),
        "scores": {name: dict(s.manifest) for name, s in scores.items()},
    }
    return OverlapSweep(table[["k", *table.columns.drop("k")]], manifest)


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
