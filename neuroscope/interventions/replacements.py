"""What an ablated neuron becomes other than a constant: its mean over a task's tokens, or its value at one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from neuroscope.errors import ArgumentError, ModelError
from neuroscope.interventions.mask_sites import MaskSites
from neuroscope.models.sites import Site
from neuroscope.tasks.encoding import Batch, batches_for, encode
from neuroscope.tasks.example import Example
from neuroscope.tasks.prompts import fitting
from neuroscope.tasks.task import Task

ByAddress = Mapping[str, Float[Tensor, " coordinate"]]


def mean_activations(places: MaskSites, task: Task, examples: int | None) -> ByAddress:
    """The mean of each coordinate over the real tokens of a task's discovery examples.

    Raises:
        ArgumentError: no token reaches some expert.
    """
    total: dict[str, Tensor] = {}
    count: dict[str, float] = {}
    chosen = fitting(places.model, task, task.split("discovery", examples))
    for batch in _batches(places, task, list(chosen.values())):

        def collect(site: Site, h: Tensor, tokens: Tensor | None, batch: Batch = batch) -> None:
            real = batch.real_at(site.address, h, tokens).flatten()
            total[site.address] = total.get(site.address, 0) + torch.mv(h.flatten(0, -2).float().T, real.float())
            count[site.address] = count.get(site.address, 0.0) + float(real.sum())

        places.observe(batch.inputs, collect, batch.scored)
    missing = [a for a in places.sites if not count.get(a)]
    if missing:
        found = f"no token of {task.name!r} reaches it"
        raise ArgumentError(f"the mean activation at {missing[0]}", found, "give more data")
    return {a: t / count[a] for a, t in total.items()}


def one_tokens_activations(places: MaskSites, task: Task, examples: int | None, seed: int) -> ByAddress:
    """The activations at one token of one of a task's discovery examples, both drawn by `seed`.

    Raises:
        ModelError: neurons of experts, which the token may not reach.
    """
    expert = next((a for a, s in places.sites.items() if s.expert is not None), None)
    if expert is not None:
        found = f"{expert}, which a drawn token may not reach"
        raise ModelError("ablate(value='resample')", found, "use 'zero' or 'mean'")
    chosen = list(fitting(places.model, task, task.split("discovery", examples)).values())
    generator = torch.Generator().manual_seed(seed)
    example = chosen[int(torch.randint(len(chosen), (1,), generator=generator))]
    drawn = float(torch.rand((), generator=generator))
    sample: dict[str, Tensor] = {}

    def collect(site: Site, h: Tensor, tokens: Tensor | None) -> None:
        rows = h.flatten(0, -2)  # of one example: its tokens, without padding
        sample[site.address] = rows[int(drawn * len(rows))].clone()

    for batch in _batches(places, task, [example]):
        places.observe(batch.inputs, collect, batch.scored)
    return sample


def _batches(places: MaskSites, task: Task, examples: Sequence[Example]) -> Iterator[Batch]:
    model = places.model
    return batches_for(model, encode(model, task, examples))
