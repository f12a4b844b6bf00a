"""Which of a mask's neurons go, and which stay with weights of zero, so that the model that is left can be built.

1. All go, but for query heads whose group is kept (`head_cuts`), which become silent.
2. Of a layer that would have none left, one stays, silent: a layer of no neurons is none that libraries build.
3. Where all layers are to be of one size, those with fewer neurons than the largest keep silent ones.

A silent neuron writes nothing, so that the logits are those of the model without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from neuroscope.errors import MaskError
from neuroscope.masks import NeuronMask


@dataclass(frozen=True)
class Parting:
    """What becomes of a mask's neurons.

    Attributes:
        gone: by address, those that are taken out.
        silent: by address, those that stay and write nothing.
        emptied: the sites of which one neuron, or one group of heads, stays for that reason alone.
    """

    gone: Mapping[str, Tensor]
    silent: Mapping[str, Tensor]
    emptied: tuple[str, ...]

    def mask(self, neurons: Mapping[str, Tensor], like: NeuronMask) -> NeuronMask:
        """Some of these neurons as a mask."""
        none = torch.zeros(0, dtype=torch.long)
        return NeuronMask({a: neurons.get(a, none) for a in like.widths}, like.widths, like.unit)


def part(mask: NeuronMask, groups: Mapping[str, int], pad: bool, asked: str) -> Parting:
    """Part a mask's neurons.

    Args:
        groups: by address, how many heads go together; 1 where it is not said.
        pad: whether all sites are to keep as many.

    Raises:
        MaskError: every neuron of the model; or no site would become smaller.
    """
    what = "heads" if mask.unit == "head" else "neurons"
    if len(mask) == sum(mask.widths.values()):
        do = "give a mask that leaves some, such as ~scores.top(0.5)"
        raise MaskError(asked, f"all {len(mask):,} {what} of the model", do)
    gone, emptied = dict[str, Tensor](), []
    for address, neurons in mask.items():
        size = groups.get(address, 1)
        whole = _whole_groups(neurons, mask.widths[address], size)
        if len(whole) == mask.widths[address]:
            emptied.append(address)
            whole = whole[size:]
        gone[address] = whole
    if pad:
        gone = _evened(gone, mask, groups)
    if not any(map(len, gone.values())):
        if pad:
            found = "a layer that loses none, so that every layer would be padded to what it has"
            do = "take some out of every layer, such as scores.top(k, per_layer=True), or leave out pad"
        else:
            found = "no group of heads that share a key-value head is in the mask as a whole"
            do = "name all heads of a group, or switch them off where they are: ns.ablate(model, mask)"
        raise MaskError(asked, found, do)
    silent = {a: _without(neurons, gone[a]) for a, neurons in mask.items()}
    return Parting(gone, silent, tuple(emptied))


def _whole_groups(neurons: Tensor, width: int, size: int) -> Tensor:
    """Those of which all that go together are there."""
    if size == 1:
        return neurons
    counts = torch.bincount(neurons // size, minlength=width // size)
    return neurons[counts[neurons // size] == size]


def _evened(gone: Mapping[str, Tensor], mask: NeuronMask, groups: Mapping[str, int]) -> dict[str, Tensor]:
    """As many of each site of a width as of the one that loses fewest; whole groups, the last ones."""
    fewest: dict[int, int] = {}
    for address, width in mask.widths.items():
        fewest[width] = min(len(gone[address]), fewest.get(width, width))
    return {a: neurons[len(neurons) - fewest[mask.widths[a]] :] for a, neurons in gone.items()}


def _without(neurons: Tensor, others: Tensor) -> Tensor:
    return neurons[~torch.isin(neurons, others)]
