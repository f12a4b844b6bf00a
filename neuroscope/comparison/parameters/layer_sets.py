"""One layer's part of several sets of neurons, and their parameters, read some at a time.

Shapes: S sets, U neurons of the layer that are in any of them, R entries of a neuron in one role.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neuroscope.comparison.parameters.sources import Read, rows_of
from neuroscope.errors import ModelError, NumericalError
from neuroscope.masks import NeuronMask
from neuroscope.models.sites import Rows, Site

NUMBERS = 1 << 22  # held at a time, of parameters in float64

Neurons = Int[Tensor, " some"]


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
        entries = self.read(rows, neurons, within)
        if not torch.isfinite(entries).all():
            problem = f"weights that are not finite in {self.sites[site].address} ({name})"
            raise NumericalError("similarity of parameters", problem, "check the checkpoint")
        return entries

    def pieces(self, site: int, role: int) -> Iterator[tuple[slice, slice, Neurons, Float[Tensor, "some R"]]]:
        """One site's entries in one role, some at a time: where they lie along U and along R, the neurons, the entries.

        Rows of a matrix are read some neurons at a time. Columns lie scattered over the whole matrix, so of all neurons
        some rows of the matrix are read at a time: it is passed over once.
        """
        rows, used = self.roles[site][role][1], self.used[site]
        start, n, size = sum(map(len, self.used[:site])), len(used), self.size(site, role)
        by_row = rows.dim == len(rows.lead)
        total, other = (n, size) if by_row else (size, n)
        step = max(1, NUMBERS // max(1, other))
        for at in range(0, total if n else 0, step):
            part, everything = slice(at, min(at + step, total)), slice(0, other)
            chosen, within = (part, everything) if by_row else (everything, part)
            place = slice(start + chosen.start, start + chosen.stop)
            yield place, within, used[chosen], self.entries(site, role, used[chosen], within)

    def common_roles(self) -> int:
        """How many roles the neurons of all sites have, for estimators that compare neurons of several sites."""
        names = {tuple(name for name, _ in rows) for rows in self.roles}
        if len(names) > 1:
            found = f"neurons with different parameters in one layer: {' and '.join(map(str, sorted(names)))}"
            raise ModelError("compare neurons of one layer", found, "take estimator='masked'")
        return len(self.roles[0])
