"""Neurons as people write them down: lists of indices, flags, sets of pairs, frames."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from neuroscope.annotations import pairs_of
from neuroscope.arrays import array_of
from neuroscope.checks import by_text, whole
from neuroscope.errors import MaskError, brief, kind_of
from neuroscope.masks.neuron_names import layer_of, names_of_sites

NEAREST = 3  # addresses that an error names
FORMS = (
    "give {address or layer: indices, or a flag per neuron}, pairs (layer, neuron), names such as '11.1229', a "
    "frame with columns layer (or address) and neuron, or one flag per neuron of the model"
)


def neurons_of(neurons: Any, widths: Mapping[str, int]) -> dict[str, Int[Tensor, " chosen"]]:
    """Sorted indices by address, for every site, of neurons in any form that `FORMS` names.

    Raises:
        MaskError: something else, or a site or neuron that the widths do not have.
    """
    chosen: dict[str, list[Tensor]] = {address: [] for address in widths}
    for place, indices in _by_place(neurons, widths):
        address = address_of(place, widths, indices)
        chosen[address].append(_indices(indices, address, widths))
    empty = torch.zeros(0, dtype=torch.long)
    return {address: torch.cat([empty, *parts]).unique() for address, parts in chosen.items()}


def address_of(place: Any, widths: Mapping[str, int], neuron: Any = None) -> str:
    """The address of a site that is named by its address, or by its layer where the layer has one site.

    Args:
        neuron: that is looked for there, if it is one: an error then names the nearest neurons.

    Raises:
        MaskError: there is none, or several.
    """
    if isinstance(place, str) and place in widths:
        return place
    known = f"use one of {', '.join(list(widths)[:NEAREST])}, ..."
    if isinstance(place, str) and not (place.isascii() and place.isdigit()):
        near = difflib.get_close_matches(place, widths, n=NEAREST, cutoff=0)
        raise MaskError("the neurons of a mask", f"address {place!r}, which is not there", _those(near, widths, neuron))
    try:
        layer = whole(int(place) if isinstance(place, str) else place, "layer")
    except ValueError:
        raise MaskError("the neurons of a mask", f"{brief(place)} for an address or a layer", known) from None
    sites = [a for a in widths if layer_of(a) == layer]
    if len(sites) != 1:
        near = sites or sorted(widths, key=lambda a: abs(layer_of(a) - layer))
        layers = sorted({layer_of(a) for a in widths})
        found = f"{len(sites)} sites in layer {layer}; the layers are {layers[0]} to {layers[-1]}"
        do = _those(near[:NEAREST], widths, neuron)
        raise MaskError(f"neurons of layer {layer}", found, do if sites else f"use one of these layers, or {do}")
    return sites[0]


def _those(addresses: Iterable[str], widths: Mapping[str, int], neuron: Any) -> str:
    near = list(addresses)
    said = f"name the site by its address; the nearest: {', '.join(near)}"
    return said if type(neuron) is not int else f"{said}; the nearest neurons: {_nearest(near, widths, neuron)}"


def _nearest(addresses: Iterable[str], widths: Mapping[str, int], neuron: int) -> str:
    """The neuron of each site that is nearest to an index, by name."""
    sites = names_of_sites(list(widths))
    return ", ".join(f"{sites[a]}.{min(max(neuron, 0), widths[a] - 1)}" for a in addresses if widths[a])


def _by_place(neurons: Any, widths: Mapping[str, int]) -> Iterable[tuple[Any, Any]]:
    """(site, indices) of every form."""
    if isinstance(neurons, Mapping):
        return pairs_of(neurons, "neurons", FORMS)
    if hasattr(neurons, "columns") and hasattr(neurons, "iloc"):  # a frame
        column = next((name for name in ("address", "layer") if name in neurons.columns), "")
        if not column or "neuron" not in neurons.columns:
            raise MaskError("the neurons of a mask", f"a frame with columns {list(neurons.columns)[:8]}", FORMS)
        return list(zip(neurons[column].tolist(), neurons["neuron"].tolist(), strict=True))
    if isinstance(neurons, list | tuple | AbstractSet) and not _are_flags(neurons):
        return [_pair(neuron) for neuron in neurons]
    if isinstance(neurons, str):
        return [_pair(neurons)]
    if isinstance(neurons, bytes) or not (hasattr(neurons, "__len__") or hasattr(neurons, "__iter__")):
        raise MaskError("the neurons of a mask", kind_of(neurons), FORMS)
    array = array_of(neurons, "neurons")
    if array.dtype == torch.bool and array.numel() == sum(widths.values()):
        flat = array.flatten() if array.ndim == 1 or tuple(array.shape[1:]) == (*set(widths.values()),) else None
        if flat is not None:
            return list(zip(widths, flat.split(list(widths.values())), strict=True))
    if array.dtype != torch.bool and not array.is_floating_point() and array.ndim == 2 and array.shape[1] == 2:
        return [(layer, neuron) for layer, neuron in array.tolist()]
    raise MaskError("the neurons of a mask", f"{str(array.dtype)[6:]} numbers of shape {tuple(array.shape)}", FORMS)


def _are_flags(values: Iterable[Any]) -> bool:
    listed = list(values)
    return bool(listed) and all(isinstance(getattr(v, "item", lambda v=v: v)(), bool) for v in listed if _single(v))


def _single(value: Any) -> bool:
    return getattr(value, "ndim", 0) == 0


def _pair(neuron: Any) -> tuple[Any, Any]:
    """(site, index) of a pair, or of a name such as "11.1229"."""
    if isinstance(neuron, str):
        place, _, index = neuron.rpartition(".")
        if place and index.isascii() and index.isdigit():
            return place, int(index)
    elif isinstance(neuron, tuple | list) and len(neuron) == 2:
        return neuron[0], neuron[1]
    raise MaskError("the neurons of a mask", f"{brief(neuron)} for a neuron", FORMS)


def _indices(values: Any, address: str, widths: Mapping[str, int]) -> Int[Tensor, " chosen"]:
    """Indices at one site, checked."""
    width = widths[address]
    asked, do = f"the neurons of a mask at {address}", f"use indices from 0 to {width - 1}, or one flag for each neuron"
    if isinstance(values, AbstractSet):
        values = list(values)
    try:
        array = array_of(values, "neurons")
    except ValueError as error:
        raise MaskError(asked, getattr(error, "found", str(error)), do) from None
    if array.dtype == torch.bool:
        if tuple(array.shape) != (width,):
            raise MaskError(asked, f"flags of shape {tuple(array.shape)}; the site has {width}", do)
        return array.nonzero().flatten()
    if array.numel() == 0 and array.ndim == 1:
        return torch.zeros(0, dtype=torch.long)
    if array.is_floating_point():
        raise MaskError(asked, "numbers that are not whole by their type", f"{do}; convert them with .astype(int)")
    if array.ndim > 1:
        raise MaskError(asked, f"indices of shape {tuple(array.shape)}", do)
    indices = array.flatten().long()
    outside = indices[(indices < 0) | (indices >= width)].tolist()
    if outside:
        nearest = _nearest([address], widths, outside[0])
        raise MaskError(asked, f"neuron {outside[0]}; the site has {width}", f"{do}; the nearest: {nearest}")
    return indices


def check_indices(values: Mapping[str, Any], widths: Mapping[str, int]) -> None:
    """Refuse what is not a sorted LongTensor of different neurons for every site.

    Raises:
        MaskError: names the site.
    """
    do = "make masks with NeuronMask.of, which understands lists, flags, sets and frames"
    read = by_text(values, "values_by_site", do)
    if list(read) != list(widths):
        raise MaskError("values_by_site of a mask", "other sites than its widths", do)
    for address, indices in read.items():
        asked = f"values_by_site of a mask at {address}"
        if not isinstance(indices, Tensor) or indices.dtype != torch.long or indices.ndim != 1:
            found = kind_of(indices) + (f" of {indices.dtype}" if isinstance(indices, Tensor) else "")
            raise MaskError(asked, f"{found}, not a LongTensor of one dimension", do)
        if not len(indices):
            continue
        if int(indices[0]) < 0 or int(indices[-1]) >= widths[address]:
            found = f"neurons {int(indices[0])} to {int(indices[-1])}; the site has {widths[address]}"
            raise MaskError(asked, found, do)
        if not bool((indices[1:] > indices[:-1]).all()):
            raise MaskError(asked, "neurons out of order, or one twice", do)
