"""Nearest neurons by weights: cosines of output directions, and of all of a neuron's parameters, over the whole model.

A layer's parameters are read at a time. A neuron's parameters are its rows of gate, up or input projections with their
biases and its column of the output projection; they are compared with neurons that have the same parts.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuroscope.checks import Progress, watched
from neuroscope.comparison.parameters.sources import Source, rows_of
from neuroscope.models.sites import Site

Place = tuple[str, int]
Near = list[tuple[Place, float]]
Pieces = dict[str, Float[Tensor, "neuron entry"]]  # by role
BY = ("output", "parameters")


def nearest_by_weights(
    source: Source,
    sites: Mapping[str, Site],
    chosen: Mapping[str, Int[Tensor, " chosen"]],
    count: int,
    asked: str,
    progress: Progress | None = None,
) -> dict[str, dict[Place, Near]]:
    """By kind of cosine, and by neuron, the neurons of the greatest cosine, itself left out.

    Args:
        chosen: neurons by address.
        count: at most how many for each.
    """
    wanted = {address: _pieces(source, sites[address], neurons, asked) for address, neurons in chosen.items()}
    found: dict[str, dict[Place, Near]] = {by: {} for by in BY}
    for address, site in watched(list(sites.items()), progress, asked):
        others = _pieces(source, site, torch.arange(site.width), asked)
        for home, neurons in chosen.items():
            for by in BY:
                cosines = _cosines(wanted[home], others, ["down"] if by == "output" else sorted(wanted[home]))
                if cosines is None:
                    continue
                if home == address:
                    cosines[torch.arange(len(neurons)), neurons] = -torch.inf
                values, places = cosines.topk(min(count, cosines.shape[1]), dim=1)
                for i, neuron in enumerate(neurons.tolist()):
                    pairs = zip(places[i].tolist(), values[i].tolist(), strict=True)
                    new: Near = [((address, place), value) for place, value in pairs if value > -torch.inf]
                    known = found[by].setdefault((home, neuron), [])
                    found[by][home, neuron] = sorted([*known, *new], key=lambda one: -one[1])[:count]
    return found


def _pieces(source: Source, site: Site, neurons: Int[Tensor, " chosen"], asked: str) -> Pieces:
    """A site's neurons' entries by role: of heads the rows of all their coordinates, one after another."""
    pieces: Pieces = {}
    for role, rows in rows_of(site, "all", asked):
        entries = source.read(rows, site.coordinates(neurons), slice(None)).float().cpu()
        entries = entries.reshape(len(neurons), -1)
        role = "down" if role == "out" else role
        pieces[role] = torch.cat([pieces[role], entries], 1) if role in pieces else entries
    return pieces


def _cosines(a: Pieces, b: Pieces, roles: list[str]) -> Float[Tensor, "chosen neuron"] | None:
    """None where the two have other parts."""
    if any(role not in b or a[role].shape[1:] != b[role].shape[1:] for role in roles):
        return None
    if len(roles) > 1 and set(b) != set(roles):
        return None
    dot = sum((a[role] @ b[role].T for role in roles), torch.zeros(()))
    sizes = [sum((p[role].square().sum(1) for role in roles), torch.zeros(())).sqrt() for p in (a, b)]
    return dot / (sizes[0][:, None] * sizes[1][None]).clamp_min(torch.finfo(torch.float32).tiny)
