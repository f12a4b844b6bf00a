"""The sites of a model at which a mask has neurons, fitted once; and scopes that change these neurons there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from neuroscope.masks import NeuronMask, check_mask
from neuroscope.models import Model, resolve
from neuroscope.models.sites import Edit, Site, edit

Scope = contextlib.AbstractContextManager[None]
Change = Callable[[Site, Tensor, Int[Tensor, " chosen"]], "Tensor | None"]


@dataclass(frozen=True)
class MaskSites:
    """Where a mask's neurons are in a model.

    Attributes:
        model: the opened model.
        sites: by address, those that have a neuron of the mask.
        coordinates: of these sites' vectors, those that belong to the mask's neurons.
    """

    model: Model
    sites: Mapping[str, Site]
    coordinates: Mapping[str, Int[Tensor, " chosen"]]

    @classmethod
    def find(cls, model: Any, mask: NeuronMask, asked: str) -> MaskSites:
        """Open the model, and look the mask's neurons up in it.

        Raises:
            ArgumentError: no mask.
            MaskError: the mask is of a model of another shape.
        """
        opened = resolve(model)
        check_mask(mask, asked)
        every = opened.sites(mask.unit)
        mask.fits(every, asked)
        sites = {a: s for a, s in every.items() if len(mask[a])}
        return cls(opened, sites, {a: s.coordinates(mask[a]) for a, s in sites.items()})

    def changed(self, change: Change) -> Scope:
        """A scope in which `change(site, h, coordinates)` gives the new vector of every site, or None to leave it."""
        coordinates = dict(self.coordinates)

        def on_site(site: Site, h: Tensor, tokens: Tensor | None) -> Tensor | None:
            chosen = coordinates[site.address]
            if chosen.device != h.device:
                chosen = coordinates[site.address] = chosen.to(h.device)
            return change(site, h, chosen)

        return edit(self.sites.values(), on_site)

    def observe(self, inputs: dict[str, Tensor], look: Edit, keep: Tensor | None = None) -> None:
        """One forward pass without gradients, in which `look(site, h, tokens)` is shown every site's vector."""
        with self.model.quiet(), torch.no_grad(), edit(self.sites.values(), look):
            self.model.logits(inputs, keep=keep)
