"""How much tuning changed a neuron's activation (SafetyNeuron, Chen et al. 2024, arXiv 2406.14144)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from neuroscope.attribution.scoring import Scoring
from neuroscope.errors import ArgumentError, ModelError
from neuroscope.models import Model, resolve
from neuroscope.models.sites import Site, edit
from neuroscope.tasks.encoding import Batch


def base_of(base: Any) -> Model:
    """The model that the tuned one was made from, opened."""
    if base is None:
        raise ArgumentError("base=None", "no model", "give the model as it was before it was tuned")
    return resolve(base)


def change(scoring: Scoring, base: Model) -> dict[str, Tensor]:
    """Root mean square difference of a neuron's activation between the tuned model and its base, over real tokens.

    Both read the same texts, prompts with their answers; the paper lets the tuned model write them. At a token that
    only one of the two sends to an expert, the other one's activation is zero.

    Args:
        base: the model before it was tuned, of the same architecture and tokenizer.
    """
    asked = "attribute(method='change', base=...)"
    sites = base.sites(scoring.request.unit)
    if base.root is scoring.model.root:
        raise ArgumentError(asked, "the model itself", "give a copy from before it was tuned")
    if {a: s.width for a, s in sites.items()} != {a: s.width for a, s in scoring.sites.items()}:
        do = "give the model that the tuned one was made from"
        raise ModelError(asked, "other sites or widths than those of the tuned model", do)
    squares: dict[str, Tensor] = {}
    seen: dict[str, Tensor] = {}
    with torch.no_grad(), base.quiet():
        for batch in scoring:
            for address, difference in _differences(base, sites, batch, _tuned(scoring, batch)):
                real = batch.real_at(address, difference, None).flatten().float()
                square = scoring.sites[address].per_unit(difference.square()).flatten(0, -2)
                squares[address] = squares.get(address, 0) + torch.mv(square.T, real)
            for address in scoring.sites:  # of experts too all tokens count, also in batches that none of them got
                seen[address] = seen.get(address, 0) + batch.real_at(address, batch.real[..., None], None).sum().cpu()
    squares, seen = scoring.total(squares), scoring.total(seen)
    return {
        a: (squares[a].cpu() / seen[a].clamp_min(1)).sqrt() * scoring.n_examples
        if a in squares
        else torch.zeros(s.width)
        for a, s in scoring.sites.items()
    }


def _tuned(scoring: Scoring, batch: Batch) -> dict[str, Tensor]:
    """The tuned model's activations on a batch, by address."""
    kept: dict[str, Tensor] = {}

    def keep(site: Site, h: Tensor, tokens: Tensor | None) -> None:
        scoring.observe(site, h, tokens, batch)
        kept[site.address] = _on_all(h, tokens, batch)

    with edit(scoring.sites.values(), keep):
        scoring.model.logits(batch.inputs, at=batch.scored)
    return kept


def _differences(
    base: Model, sites: Mapping[str, Site], batch: Batch, kept: dict[str, Tensor]
) -> list[tuple[str, Tensor]]:
    """What is left of the kept activations when those of the base are taken away; `kept` is used up."""
    left: list[tuple[str, Tensor]] = []

    def compare(site: Site, h: Tensor, tokens: Tensor | None) -> None:
        before, tuned = _on_all(h, tokens, batch), kept.pop(site.address, None)
        left.append((site.address, -before if tuned is None else tuned - before.to(tuned.device)))

    moved = batch.to(base.device)
    with edit(sites.values(), compare):
        base.logits(moved.inputs, at=moved.scored)
    return left + list(kept.items())  # experts that the base sent no token to


def _on_all(h: Tensor, tokens: Tensor | None, batch: Batch) -> Tensor:
    """A copy of a site's vector on all tokens: zero at those that an expert did not get."""
    h = h.detach().float().clone()
    return h if tokens is None else h.new_zeros(batch.real.numel(), h.shape[-1]).index_copy(0, tokens, h)
