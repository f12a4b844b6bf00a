"""Scores without a gradient: mean absolute activation, contrasts of mean activations, LAPE, and chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from neuroscope import files
from neuroscope.attribution.scoring import Scoring
from neuroscope.checks import finite
from neuroscope.errors import ArgumentError
from neuroscope.models.sites import Site, edit
from neuroscope.tasks.encoding import Batch


def activation(scoring: Scoring) -> dict[str, Tensor]:
    """Mean absolute activation over the real tokens (of the prompt and the answer)."""
    return {a: v * scoring.n_examples for a, v in _means(scoring, torch.abs).items()}


def selectivity(scorings: Mapping[str, Scoring]) -> dict[str, dict[str, Tensor]]:
    """Mean activation on the task minus mean activation on the other tasks (Siam et al. 2026, arXiv 2604.27115).

    Means are over real tokens, then over the other tasks, each of which counts once. With the reduction "mean_abs" they
    are of absolute activations: a gated neuron may act through negative ones. A head's is the sum of its coordinates.
    """
    if len(scorings) < 2:
        raise ArgumentError("method='selectivity'", f"{len(scorings)} task", "give two tasks or more")
    of: dict[str, Callable[[Tensor], Tensor]] = {"mean": _itself, "mean_abs": torch.abs}
    means = {name: _means(scoring, of[scoring.request.reduction]) for name, scoring in scorings.items()}
    scores: dict[str, dict[str, Tensor]] = {}
    for name in scorings:
        others = [means[other] for other in scorings if other != name]
        scores[name] = {a: own - torch.stack([o[a] for o in others]).mean(0) for a, own in means[name].items()}
    return scores


def contrast(scoring: Scoring) -> dict[str, Tensor]:
    """Difference of mean activations between the prompts and their corrupt ones, without a backward pass.

    This is a definition of our own, of the kind that arXiv 2606.19831 proposes, which we could not read: it may differ
    from the paper's. Each example is shown twice with the same answer, after its prompt and after the corrupt one, to
    which another answer is right; the score is mean(a after the prompt) - mean(a after the corrupt one), over the real
    tokens of all examples. "abs_of_mean" is its size, "mean" is signed: positive where the right prompt drives the
    neuron more.
    """
    clean, corrupt = (_means(scoring, _itself, of_corrupt) for of_corrupt in (False, True))
    difference = {a: (v - corrupt[a]) * scoring.n_examples for a, v in clean.items()}
    return difference if scoring.request.reduction == "mean" else {a: v.abs() for a, v in difference.items()}


def _itself(h: Tensor) -> Tensor:
    return h


def _means(scoring: Scoring, of: Callable[[Tensor], Tensor], of_corrupt: bool = False) -> dict[str, Tensor]:
    """The mean of `of(a)` over the real tokens that have the neuron, of all processes."""
    total: dict[str, Tensor] = {}
    seen: dict[str, Tensor] = {}

    def collect(batch: Batch, site: Site, h: Tensor, tokens: Tensor | None) -> None:
        if not of_corrupt:
            scoring.observe(site, h, tokens, batch)
        real = batch.real_at(site.address, h, tokens).flatten()
        size = torch.mv(site.per_unit(of(h)).flatten(0, -2).T.float(), real.float())
        total[site.address] = total.get(site.address, 0) + size
        seen[site.address] = seen.get(site.address, 0) + real.sum()

    with torch.no_grad():
        for batch in scoring:
            inputs = batch.corrupt if of_corrupt else batch.inputs
            assert inputs is not None  # encode(corrupt=True) gave it or refused
            with edit(scoring.sites.values(), partial(collect, batch)):
                scoring.model.logits(inputs, at=batch.scored)
    total, seen = scoring.total(total), scoring.total(seen)
    return {
        a: (total[a] / seen[a].clamp_min(1)).float().cpu() if a in total else torch.zeros(s.width)
        for a, s in scoring.sites.items()
    }


def chance(scoring: Scoring) -> dict[str, Tensor]:
    """Uniform random scores, drawn by the seed and the task's name, so that the masks of two tasks are independent."""
    generator = torch.Generator().manual_seed(int(files.digest(scoring.request.seed, scoring.task.name), 16) % 2**63)
    return {a: torch.rand(s.width, generator=generator) * scoring.n_examples for a, s in scoring.sites.items()}


def active_share(scoring: Scoring) -> dict[str, Tensor]:
    """The share of real tokens at which each neuron is active: at which its non-linearity's input is positive.

    LAPE looks at the gate of a gated FFN before the product; where it cannot be reached, at the neuron itself.
    """
    gates = {a: s.gate if s.gate is not None else s for a, s in scoring.sites.items()}
    addresses = {id(gate): a for a, gate in gates.items()}
    active: dict[str, Tensor] = {}
    seen: dict[str, Tensor] = {}

    def collect(batch: Batch, gate: Site, h: Tensor, tokens: Tensor | None) -> None:
        address = addresses[id(gate)]
        if gate.out and gate is not scoring.sites[address]:  # the gate's columns of a fused projection
            h = h.narrow(-1, gate.out[0].start, gate.width)
        real = batch.real_at(gate.address, h, tokens).flatten()
        on = torch.mv((h > 0).flatten(0, -2).T.float(), real.float())
        active[address] = active.get(address, 0) + on
        seen[address] = seen.get(address, 0) + real.sum()

    with torch.no_grad():
        for batch in scoring:
            with edit(gates.values(), partial(collect, batch)):
                scoring.model.logits(batch.inputs, at=batch.scored)
    active, seen = scoring.total(active), scoring.total(seen)
    return {
        a: (active[a] / seen[a].clamp_min(1)).float().cpu() if a in active else torch.zeros(s.width)
        for a, s in scoring.sites.items()
    }


def lape(scorings: Mapping[str, Scoring], quantile: float = 0.95) -> dict[str, dict[str, Tensor]]:
    """Language activation probability entropy (Tang et al. 2024, Eq. 2-4), with tasks in the place of languages.

    1. p[t] = share of task t's tokens at which the neuron is active.
    2. LAPE = entropy of p / sum(p) over the tasks: low where few tasks activate the neuron.
    3. A neuron is eligible for the tasks at which p is above the `quantile` of all p (the authors' code: strictly above
       the entry at place round(quantile * number of entries)).

    A task's score is log(number of tasks) - LAPE where the neuron is eligible, which is at least 0, and p[t] - 1 where
    it is not, which is less: `top(k)` takes eligible neurons by their entropy, and only then others, by their share.
    The paper's own rule chooses for all tasks at once: `interop.lape_masks`.
    """
    if len(scorings) < 2:
        raise ArgumentError("method='lape'", f"{len(scorings)} task", "give two tasks or more")
    if not 0 <= finite(quantile, "quantile") < 1:
        raise ArgumentError(f"quantile={quantile!r}", "not a share", "give 0 <= quantile < 1, such as 0.95")
    shares = {name: active_share(scoring) for name, scoring in scorings.items()}
    addresses: Sequence[str] = list(next(iter(shares.values())))
    p = {a: torch.stack([shares[name][a] for name in scorings]) for a in addresses}
    everything = torch.cat([v.flatten() for v in p.values()])
    bar = everything.kthvalue(max(1, round(quantile * len(everything)))).values
    scores: dict[str, dict[str, Tensor]] = {name: {} for name in scorings}
    for address, share in p.items():
        parts = share.double() / share.double().sum(0).clamp_min(1e-12)
        specific = math.log(len(scorings)) - torch.special.entr(parts).sum(0)
        for i, name in enumerate(scorings):
            scores[name][address] = torch.where(
                share[i] > bar, specific.clamp_min(0), share[i].clamp_max(1).double() - 1.001
            )
    return scores
