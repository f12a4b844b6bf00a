"""How alike two sets of neurons are by their parameters (LX24 §3.3, Figure 3, which leaves the estimator open).

Let w_j be all parameters of neuron j in one row (rows of gate and up, their biases, the column of down). Of sets A and
B of one layer:

- "masked": both sets written as the layer's FFN parameters with zeros outside the set, flattened; their cosine. Only
  shared neurons meet: sum over A & B of |w_j|^2 / sqrt(sum over A of |w_j|^2 * sum over B of |w_j|^2).
- "mean": cosine of the mean of w_j over A and the mean over B.
- "matched": every neuron of A takes the neuron of B of the highest cosine, itself if it is in B; the mean of those over
  A, and the mean the other way round over B, averaged.

Shapes: S sets, U neurons of the layer that are in any of them, R entries of a neuron; sums in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from neuroscope.errors import ModelError, NumericalError
from neuroscope.masks import NeuronMask
from neuroscope.parameters.sources import Read, rows_of
from neuroscope.sites import Rows, Site

NUMBERS = 1 << 22  # held at a time, of parameters in float64

Pairs = Sequence[tuple[int, int]]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Block:
    """The sites of one layer, and its place in depth."""

    name: str
    depth: int
    sites: tuple[Site, ...]


def blocks_of(sites: Mapping[str, Site]) -> list[Block]:
    """Layers in forward order; an encoder's come before the decoder's, and a layer's experts are together."""
    grouped = groupby(sites.values(), key=lambda site: ".".join(site.address.split(".")[:2]))
    return [Block(name, depth, tuple(members)) for depth, (name, members) in enumerate(grouped)]


@dataclass(frozen=True)
class Layer:
    """One layer's part of some sets of neurons, and how to read their parameters.

    Attributes:
        roles: for every site, the slices of parameters that make up its neurons.
        member: for every site, which of its neurons are in which set: [S, width].
    """

    read: Read
    sites: tuple[Site, ...]
    roles: tuple[tuple[tuple[str, Rows], ...], ...]
    member: tuple[Bool[Tensor, "S width"], ...]

    @classmethod
    def of(cls, read: Read, block: Block, sets: Sequence[NeuronMask], part: str, asked: str) -> Layer:
        """The layer's part of the masks."""
        member = []
        for site in block.sites:
            flags = torch.zeros(len(sets), site.width, dtype=torch.bool)
            for row, mask in zip(flags, sets, strict=True):
                row[mask[site.address]] = True
            member.append(flags)
        return cls(read, block.sites, tuple(tuple(rows_of(s, part, asked)) for s in block.sites), tuple(member))

    @property
    def members(self) -> Bool[Tensor, "S U"]:
        """Which set has which neuron, over all sites, without the neurons that are in no set."""
        return torch.cat([flags[:, flags.any(0)] for flags in self.member], dim=1)

    def chunks(self, role: int) -> Iterator[tuple[slice, Float[Tensor, "some R"]]]:
        """The neurons' entries in one role, some at a time, with their places along U."""
        start = 0
        for rows, flags in zip(self.roles, self.member, strict=True):
            own, used = rows[role][1], flags.any(0).nonzero().flatten()
            rest = own.param.numel() // own.param.shape[own.dim]
            for some in used.split(max(1, NUMBERS // rest)) if len(used) else ():
                yield slice(start, start + len(some)), self.read(own, some)
                start += len(some)

    def alike(self) -> int:
        """How many roles there are, for estimators that compare neurons of several sites."""
        names = {tuple(name for name, _ in rows) for rows in self.roles}
        if len(names) > 1:
            found = f"neurons of different make in one layer: {' and '.join(map(str, sorted(names)))}"
            raise ModelError("compare neurons of one layer", found, "take estimator='masked'")
        return len(self.roles[0])


def masked(layer: Layer, pairs: Pairs) -> Values:
    """Cosine of the layer's parameters with everything outside each set at zero."""
    size = torch.cat([_squares(layer, site) for site in range(len(layer.sites))])
    members = layer.members.double()
    return _cosines((members * size) @ members.T, pairs)


def mean(layer: Layer, pairs: Pairs) -> Values:
    """Cosine of the sets' mean neurons."""
    members = layer.members.double()
    gram = torch.zeros(len(members), len(members), dtype=torch.float64)
    for role in range(layer.alike()):
        total: Tensor | float = 0.0
        for place, entries in layer.chunks(role):
            total = total + members[:, place] @ entries.cpu()
        gram += total @ total.T if torch.is_tensor(total) else 0.0
    return _cosines(gram, pairs)  # the sizes of the sets cancel


def matched(layer: Layer, pairs: Pairs) -> Values:
    """Mean cosine of each neuron with its best match in the other set, both ways. Holds the layer once in float32."""
    members = layer.members
    parts = []
    for role in range(layer.alike()):
        parts.append(torch.cat([entries.cpu().float() for _, entries in layer.chunks(role)] or [torch.zeros(0, 1)]))
    neurons = torch.cat(parts, dim=1)
    neurons = torch.nn.functional.normalize(neurons, dim=1)
    values = np.full(len(pairs), np.nan)
    for i, (a, b) in enumerate(pairs):
        if members[a].any() and members[b].any():
            cosine = neurons[members[a]] @ neurons[members[b]].T
            values[i] = float(cosine.amax(1).double().mean() + cosine.amax(0).double().mean()) / 2
    return values


ESTIMATORS: dict[str, Callable[[Layer, Pairs], Values]] = {"masked": masked, "mean": mean, "matched": matched}


def change(layer: Layer, other: Layer) -> dict[str, Values]:
    """Of each set, between two models: cosine of its parameters, norm of the difference, and that over the norm."""
    members = layer.members.double()
    sums = torch.zeros(4, members.shape[1], dtype=torch.float64)
    start = 0
    for site in range(len(layer.sites)):
        for role in range(len(layer.roles[site])):
            for place, w in _one(layer, site).chunks(role):
                theirs = _theirs(other, layer, site, role, place).to(w.device)
                products = (w * w, theirs * theirs, w * theirs, (theirs - w) ** 2)
                where = slice(start + place.start, start + place.stop)
                sums[:, where] += torch.stack([p.sum(1) for p in products]).cpu()
        start += int(layer.member[site].any(0).sum())
    base, after, product, difference = (sums @ members.T).numpy()
    with np.errstate(invalid="ignore", divide="ignore"):  # an empty set is NaN
        norm = np.where(members.any(1).numpy(), np.sqrt(difference), np.nan)
        return {"value": product / np.sqrt(base * after), "delta": norm, "relative": norm / np.sqrt(base)}


def _theirs(other: Layer, layer: Layer, site: int, role: int, place: slice) -> Tensor:
    """The other model's entries of the same neurons."""
    name, rows = other.roles[site][role]
    if name != layer.roles[site][role][0]:
        found = f"{name} of {other.sites[site].address} where the first has {layer.roles[site][role][0]}"
        raise ModelError("compare two models", found, "give two models of one architecture")
    return other.read(rows, layer.member[site].any(0).nonzero().flatten()[place])


def _one(layer: Layer, site: int) -> Layer:
    return Layer(layer.read, layer.sites[site : site + 1], layer.roles[site : site + 1], layer.member[site : site + 1])


def _squares(layer: Layer, site: int) -> Float[Tensor, " used"]:
    """|w_j|^2 of the neurons of one site that are in any set."""
    size = torch.zeros(int(layer.member[site].any(0).sum()), dtype=torch.float64)
    for role in range(len(layer.roles[site])):
        for place, entries in _one(layer, site).chunks(role):
            size[place] += (entries * entries).sum(1).cpu()
    return size


def _cosines(gram: Float[Tensor, "S S"], pairs: Pairs) -> Values:
    """Cosines of the pairs from all products; NaN where a set is empty or zero."""
    if not torch.isfinite(gram).all():
        raise NumericalError("similarity of parameters", "weights that are not finite", "check the checkpoint")
    norm = gram.diagonal().sqrt().numpy()
    a, b = np.array(pairs, dtype=int).reshape(-1, 2).T
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine: Values = gram.numpy()[a, b] / (norm[a] * norm[b])
    return cosine
