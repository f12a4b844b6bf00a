"""How alike two sets of neurons are by their parameters (LX24 §3.3, Figure 3, which leaves the estimator open).

Let w_j be all parameters of neuron j in one row (rows of gate and up, their biases, the column of down). Of sets A and
B of one layer:

- "masked": both sets written as the layer's FFN parameters with zeros outside the set, flattened; their cosine. Only
  shared neurons meet: sum over A & B of |w_j|^2 / sqrt(sum over A of |w_j|^2 * sum over B of |w_j|^2).
- "mean": cosine of the mean of w_j over A and the mean over B.
- "matched": every neuron of A takes the neuron of B of the highest cosine, itself if it is in B; the mean of those over
  A, and the mean the other way round over B, averaged. A neuron of zeros has 0 with every other.

Where a set is empty, or all its parameters are zero, there is no cosine: NaN.

Shapes: S sets, U neurons of the layer that are in any of them, R entries of a neuron in one role; sums in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from neuroscope.comparison.parameters.sources import Read, rows_of
from neuroscope.errors import ModelError, NumericalError
from neuroscope.masks import NeuronMask
from neuroscope.models.sites import Rows, Site

NUMBERS = 1 << 22  # held at a time, of parameters in float64

Neurons = Int[Tensor, " some"]
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
        return torch.cat([flags[:, used] for flags, used in zip(self.member, self.used, strict=True)], dim=1)

    @cached_property
    def used(self) -> list[Neurons]:
        """For every site, its neurons that are in any set."""
        return [flags.any(0).nonzero().flatten() for flags in self.member]

    @property
    def parts(self) -> list[tuple[int, int]]:
        """Every site with each of its roles."""
        return [(site, role) for site, roles in enumerate(self.roles) for role in range(len(roles))]

    def size(self, site: int, role: int) -> int:
        """R: how many entries a neuron has."""
        rows = self.roles[site][role][1]
        return math.prod(rows.param.shape[len(rows.lead) :]) // rows.param.shape[rows.dim]

    def entries(self, site: int, role: int, neurons: Neurons, within: slice) -> Float[Tensor, "some R"]:
        """Some neurons' entries in one role."""
        name, rows = self.roles[site][role]
        found = self.read(rows, neurons, within)
        if not torch.isfinite(found).all():
            problem = f"weights that are not finite in {self.sites[site].address} ({name})"
            raise NumericalError("similarity of parameters", problem, "check the checkpoint")
        return found

    def pieces(self, site: int, role: int) -> Iterator[tuple[slice, slice, Neurons, Float[Tensor, "some R"]]]:
        """One site's entries in one role, some at a time: their places along U and along R, the neurons, and they.

        Rows of a matrix are read some neurons at a time. Columns lie scattered over the whole matrix, so of all neurons
        some rows of the matrix are read at a time: it is passed over once.
        """
        rows, used = self.roles[site][role][1], self.used[site]
        start, n, size = sum(map(len, self.used[:site])), len(used), self.size(site, role)
        by_row = rows.dim == len(rows.lead)
        total, other = (n, size) if by_row else (size, n)
        step = max(1, NUMBERS // max(1, other))
        for at in range(0, total if n else 0, step):
            some, every = slice(at, min(at + step, total)), slice(0, other)
            chosen, within = (some, every) if by_row else (every, some)
            place = slice(start + chosen.start, start + chosen.stop)
            yield place, within, used[chosen], self.entries(site, role, used[chosen], within)

    def alike(self) -> int:
        """How many roles there are, for estimators that compare neurons of several sites."""
        names = {tuple(name for name, _ in rows) for rows in self.roles}
        if len(names) > 1:
            found = f"neurons of different make in one layer: {' and '.join(map(str, sorted(names)))}"
            raise ModelError("compare neurons of one layer", found, "take estimator='masked'")
        return len(self.roles[0])


def masked(layer: Layer, pairs: Pairs) -> Values:
    """Cosine of the layer's parameters with everything outside each set at zero."""
    members = layer.members.double()
    size = torch.zeros(members.shape[1], dtype=torch.float64)
    for site, role in layer.parts:
        for place, _, _, entries in layer.pieces(site, role):
            size[place] += (entries * entries).sum(1).cpu()
    return _cosines((members * size) @ members.T, pairs)


def mean(layer: Layer, pairs: Pairs) -> Values:
    """Cosine of the sets' mean neurons."""
    members = layer.members.double()
    gram = torch.zeros(len(members), len(members), dtype=torch.float64)
    for role in range(layer.alike()):
        total = torch.zeros(len(members), layer.size(0, role), dtype=torch.float64)
        for site in range(len(layer.sites)):
            for place, within, _, entries in layer.pieces(site, role):
                total[:, within] += members[:, place] @ entries.cpu()
        gram += total @ total.T
    return _cosines(gram, pairs)  # the sizes of the sets cancel


def matched(layer: Layer, pairs: Pairs) -> Values:
    """Mean cosine of each neuron with its best match in the other set, both ways. Holds the layer once in float32."""
    members = layer.members
    parts = [torch.zeros(members.shape[1], layer.size(0, role)) for role in range(layer.alike())]
    for site, role in layer.parts:
        for place, within, _, entries in layer.pieces(site, role):
            parts[role][place, within] = entries.cpu().float()
    neurons = torch.nn.functional.normalize(torch.cat(parts, dim=1), dim=1)
    is_there = (members & neurons.any(1)).any(1)
    values = np.full(len(pairs), np.nan)
    for i, (a, b) in enumerate(pairs):
        if is_there[a] and is_there[b]:
            cosine = neurons[members[a]] @ neurons[members[b]].T
            values[i] = float(cosine.amax(1).double().mean() + cosine.amax(0).double().mean()) / 2
    return values


ESTIMATORS: dict[str, Callable[[Layer, Pairs], Values]] = {"masked": masked, "mean": mean, "matched": matched}


def change(layer: Layer, other: Layer) -> dict[str, Values]:
    """Of each set, between two models: cosine of its parameters, norm of the difference, and that over the norm."""
    _check_same(layer, other)
    members = layer.members.double()
    sums = torch.zeros(4, members.shape[1], dtype=torch.float64)
    for site, role in layer.parts:
        for place, within, neurons, w in layer.pieces(site, role):
            theirs = other.entries(site, role, neurons, within).to(w.device)
            products = (w * w, theirs * theirs, w * theirs, (theirs - w) ** 2)
            sums[:, place] += torch.stack([p.sum(1) for p in products]).cpu()
    base, after, product, difference = (sums @ members.T).numpy()
    with np.errstate(invalid="ignore", divide="ignore"):  # an empty set, and one of zeros, is NaN
        norm = np.where(members.any(1).numpy(), np.sqrt(difference), np.nan)
        relative = norm / np.sqrt(np.where(base > 0, base, np.nan))
        return {"value": product / np.sqrt(base * after), "delta": norm, "relative": relative}


def _check_same(layer: Layer, other: Layer) -> None:
    """Refuse two models whose neurons have other entries."""
    for site, (ours, theirs) in enumerate(zip(layer.roles, other.roles, strict=True)):
        first, second = (
            ", ".join(f"{name} of {one.size(site, i)}" for i, (name, _) in enumerate(roles))
            for one, roles in ((layer, ours), (other, theirs))
        )
        if first != second:
            found = f"a neuron of {layer.sites[site].address} has {second} entries where the first has {first}"
            raise ModelError("compare two models", found, "give two models of one architecture and size")


def _cosines(gram: Float[Tensor, "S S"], pairs: Pairs) -> Values:
    """Cosines of the pairs from all products; NaN where a set is empty or zero."""
    norm = gram.diagonal().sqrt().numpy()
    a, b = np.array(pairs, dtype=int).reshape(-1, 2).T
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine: Values = gram.numpy()[a, b] / (norm[a] * norm[b])
    return cosine
