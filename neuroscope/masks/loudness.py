"""Random neurons that are as loud as those of a mask."""

from __future__ import annotations

from bisect import bisect_left

import torch
from jaxtyping import Bool
from torch import Tensor

from neuroscope.errors import MaskError
from neuroscope.masks.per_neuron import PerNeuron

NEAREST = 8  # neurons of the nearest loudness, of which one is drawn


def as_loud(mask: PerNeuron, generator: torch.Generator) -> tuple[Bool[Tensor, " neuron"], float]:
    """For each neuron of a mask, in random order, one of the eight free ones of its site that are nearest in loudness.

    Returns:
        Flags of the drawn neurons, in forward order; and their mean loudness over that of the mask's, averaged over the
        sites (1: as loud).

    Raises:
        MaskError: the mask carries no loudness, or has most of a site.
    """
    norms = mask.norms or {}
    if missing := [a for a in mask if len(mask[a]) and a not in norms]:
        found = f"no norms of activations at {missing[0]}"
        do = "find the mask with attribute(...), which measures them, or draw with match='layer'"
        raise MaskError("random_like(match='activation')", found, do)
    drawn, ratios = [], []
    for address, width in mask.widths.items():
        chosen, flags = mask[address], torch.zeros(width, dtype=torch.bool)
        drawn.append(flags)
        if not len(chosen):
            continue
        if 2 * len(chosen) > width:
            found = f"{len(chosen)} of the {width} neurons of {address} in the mask"
            raise MaskError("random_like(match='activation')", found, "take a smaller mask, or draw with match='layer'")
        loud = norms[address].double()
        order = loud.argsort(stable=True)  # by loudness: neighbours are in the middle of what is left
        order = order[~torch.isin(order, chosen)]
        free = order.tolist()
        ranks = loud[order].tolist()
        for neuron in chosen[torch.randperm(len(chosen), generator=generator)].tolist():
            wanted = float(loud[neuron])
            at = bisect_left(ranks, wanted)
            near = sorted(
                range(max(0, at - NEAREST), min(len(free), at + NEAREST)), key=lambda i: abs(ranks[i] - wanted)
            )
            near = near[:NEAREST]
            taken = near[int(torch.randint(len(near), (1,), generator=generator))]
            flags[free.pop(taken)] = True
            ranks.pop(taken)
        ratios.append(float(loud[flags].mean() / loud[chosen].mean().clamp_min(1e-30)))
    return torch.cat(drawn), sum(ratios) / len(ratios) if ratios else 1.0
