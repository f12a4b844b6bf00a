"""Random masks of which a preset share lies inside another mask."""

from __future__ import annotations

import torch

from neuroscope import files
from neuroscope.errors import MaskError
from neuroscope.masks import Match, NeuronMask


def draw_with_overlap(
    target: NeuronMask, size: int, share: float, *, seed: int, match: Match = "uniform"
) -> NeuronMask:
    """`size` random neurons, `round(share * size)` of them inside the target mask.

    Args:
        match: where those outside come from: "uniform" from anywhere; "layer" each from the layer of a neuron of the
            target whose place it takes.

    Raises:
        MaskError: too few neurons outside the mask, at a site or at all.
    """
    generator = torch.Generator().manual_seed(
        int(files.digest(target.identity, size, float(share), seed, match), 16) % 2**63
    )
    inside = target.flags()
    widths = list(target.widths.values())
    site = torch.arange(len(widths)).repeat_interleave(torch.tensor(widths))
    members = inside.nonzero().flatten()
    members = members[torch.randperm(len(members), generator=generator)[:size]]
    cut = round(share * size)
    chosen = [members[:cut]]
    replaced = members[cut:]
    wanted = {i: int((site[replaced] == i).sum()) for i in range(len(widths))} if match == "layer" else {-1: size - cut}
    for i, count in wanted.items():
        free = (~inside if i < 0 else ~inside & (site == i)).nonzero().flatten()
        if len(free) < count:
            where, do = "", "give a smaller size"
            if i >= 0:
                where, do = f" at {list(target.widths)[i]}", f"{do}, or match='uniform'"
            raise MaskError(f"{count} neurons outside the mask{where}", f"{len(free)} there", do)
        chosen.append(free[torch.randperm(len(free), generator=generator)[:count]])
    flags = torch.zeros_like(inside)
    flags[torch.cat(chosen)] = True
    neurons = {a: part.nonzero().flatten() for a, part in zip(target.widths, flags.split(widths), strict=True)}
    manifest = {"inside": dict(target.manifest), "share": share, "seed": seed, "match": match}
    return NeuronMask.of(neurons, target.widths, target.unit, manifest)
