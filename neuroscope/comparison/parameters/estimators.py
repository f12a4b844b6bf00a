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

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from neuroscope.comparison.parameters.layer_sets import Layer
from neuroscope.errors import ModelError

Pairs = Sequence[tuple[int, int]]
Values = NDArray[np.float64]


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
    for role in range(layer.common_roles()):
        total = torch.zeros(len(members), layer.size(0, role), dtype=torch.float64)
        for site in range(len(layer.sites)):
            for place, within, _, entries in layer.pieces(site, role):
                total[:, within] += members[:, place] @ entries.cpu()
        gram += total @ total.T
    return _cosines(gram, pairs)  # the sizes of the sets cancel


def matched(layer: Layer, pairs: Pairs) -> Values:
    """Mean cosine of each neuron with its best match in the other set, both ways. Holds the layer once in float32."""
    members = layer.members
    parts = [torch.zeros(members.shape[1], layer.size(0, role)) for role in range(layer.common_roles())]
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
    _check_same_entries(layer, other)
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


def _check_same_entries(layer: Layer, other: Layer) -> None:
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
