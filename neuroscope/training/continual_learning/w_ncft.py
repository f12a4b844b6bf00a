"""Weighted neuron-level continual fine-tuning, W-NCFT (LX24 §4.2, Eq. 10-12).

1. Learn like NCFT; keep every task's change delta_k apart.
2. A task's vector v is the mean last-layer feature of (at most) 1000 of its training prompts, in the base model.
3. To answer task j after i tasks: s = softmax(cos(v_j, v_1..v_i) / temperature); task k's neurons are weighted by s_k.

What weighting a neuron means (`weighting`):
- "delta-max": W = W0 + sum_k (s_k / max s) delta_k. Ours, the default: the nearest task's change counts in full.
- "literal" (Eq. 12): a neuron's weights are sum_k s_k W_k over the tasks k that own it, W_k being its weights after
  stage k. The s_k sum to 1 over all tasks, so that it shrinks every neuron that any task owns.
- "owner-normalised": the same with the s_k of a neuron's owners divided by their sum. Neurons of one owner stay as
  they were learnt.

The task that is asked is known; its vector comes from its own training prompts (of a task that has none: those
it is measured on).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from neuroscope.checks import finite, whole
from neuroscope.errors import ArgumentError, choose
from neuroscope.evaluation import Outcomes
from neuroscope.tasks.task import Task
from neuroscope.training import NeuronAdapter
from neuroscope.training.continual_learning.features import prompt_features
from neuroscope.training.continual_learning.learner import Learner, Log, Setting
from neuroscope.training.continual_learning.ncft import Exclude, Protect, ScoredIn, ncft, unmerged

Weighting = Literal["delta-max", "literal", "owner-normalised"]
WEIGHTINGS = ("delta-max", "literal", "owner-normalised")
Factors = dict[str, Float[Tensor, " width"]]  # address -> one factor per neuron


def w_ncft(
    setting: Setting,
    *,
    k: float = 0.10,
    scored_in: ScoredIn = "current",
    exclude: Exclude = False,
    overlap_penalty: float = 0.0,
    protect: Protect = False,
    objective: str = "loss",
    examples: int | None = 256,
    weighting: Weighting = "delta-max",
    temperature: float = 1.0,
    samples: int = 1000,
) -> Learner:
    """NCFT that answers with weighted neurons; the arguments before `weighting` are those of `ncft`.

    Args:
        weighting: see above.
        temperature: below 1 the nearest task counts for more.
        samples: prompts per task vector, at most.
    """
    choose(weighting, WEIGHTINGS, "weighting")
    if not finite(temperature, "temperature") > 0:
        raise ArgumentError(f"temperature={temperature!r}", "not positive", "give more than 0; LX24 has 1")
    whole(samples, "samples", 1)
    neurons = ncft(
        setting, k=k, scored_in=scored_in, exclude=exclude, overlap_penalty=overlap_penalty, protect=protect,
        objective=objective, examples=examples,
    )  # fmt: skip
    every = [*setting.tasks, *setting.known]
    vectors = {task.data_hash: _vector(setting, task, samples) for task in every}  # the model is still the base

    def weights(task: Task) -> Float[Tensor, " learnt"]:
        """s: how much each of the tasks learnt so far counts for a task."""
        learnt = [vectors[other.data_hash] for other in setting.tasks[: len(neurons.parts)]]
        return softmax_cosine(vectors[task.data_hash], torch.stack(learnt), temperature)

    def learn(stage: int) -> Log:
        log = neurons.learn(stage)
        kept = neurons.stored + sum(vectors[other.data_hash].numel() for other in setting.tasks[: stage + 1])
        return log | {
            "stored": kept,
            "weighting": weighting,
            "weights": {task.name: weights(task).tolist() for task in every},
        }

    def outcomes(task: Task) -> Outcomes:
        if not neurons.parts:
            return setting.judge(task)
        with weighted(neurons.parts, weights(task), weighting):
            return setting.judge(task)

    return replace(neurons, learn=learn, outcomes=outcomes)


def _vector(setting: Setting, task: Task, samples: int) -> Float[Tensor, " dim"]:
    examples = task.split("train" if task.train else setting.split, samples)
    return prompt_features(setting.model, task, examples, setting.batch_size).mean(0)


def softmax_cosine(
    vector: Float[Tensor, " dim"], learnt: Float[Tensor, "task dim"], temperature: float
) -> Float[Tensor, " task"]:
    """softmax over tasks of the cosine between a task's vector and theirs (Eq. 10, 11)."""
    return torch.softmax(functional.cosine_similarity(vector[None].double(), learnt.double()) / temperature, dim=0)


def factors(
    owned: Sequence[Factors], weights: Float[Tensor, " task"], weighting: Weighting
) -> tuple[Factors, list[Factors]]:
    """How much of the base's weights, and of each task's change, every neuron gets.

    W = base * W0 + sum_m changes[m] * delta_m, neuron by neuron. A neuron's weights after stage k are
    W_k = W0 + sum over m <= k of delta_m, so that sum_k s_k W_k over its owners gives delta_m the s_k of all owners
    k >= m.

    Args:
        owned: per task, address -> 1 for the neurons that the task was given, else 0.
        weights: s.
    """
    base, changes = {}, [dict[str, Tensor]() for _ in owned]
    for address in owned[0]:
        mine = torch.stack([o[address] for o in owned]).double()  # [task, neuron]
        if weighting == "delta-max":
            base[address] = torch.ones(mine.shape[1], dtype=torch.double)
            share = (weights / weights.max())[:, None].expand(mine.shape)
        else:
            held = weights[:, None] * mine
            total = held.sum(0)
            if weighting == "owner-normalised":
                held = held / torch.where(total > 0, total, 1.0)
                total = held.sum(0)
            base[address] = torch.where(mine.any(0), total, 1.0)  # a neuron that no task owns stays
            share = held.flip(0).cumsum(0).flip(0)  # of the owners from m on
        for change, row in zip(changes, share, strict=True):
            change[address] = row
    return base, changes


@contextlib.contextmanager
def weighted(
    adapters: Sequence[NeuronAdapter], weights: Float[Tensor, " task"], weighting: Weighting
) -> Iterator[None]:
    """A scope in which the neurons of adapters are weighted; after it every weight is as it was, to the bit."""
    owned = [
        {a: torch.zeros(w).index_fill_(0, adapter.mask[a], 1.0) for a, w in adapter.mask.widths.items()}
        for adapter in adapters
    ]
    base, changes = factors(owned, weights, weighting)
    places: dict[str, list[tuple[int, Any]]] = {}
    for m, adapter in enumerate(adapters):
        for placed in adapter.placed:
            places.setdefault(placed.key, []).append((m, placed))
    with unmerged(adapters):
        before = [
            (placed, placed.delta.touched(placed.linear)) for of_layer in places.values() for _, placed in of_layer
        ]
        try:
            for of_layer in places.values():
                _write(of_layer, base, changes, adapters)
            yield
        finally:
            for placed, entries in before:
                placed.delta.put(placed.linear._parameters, entries)


@torch.no_grad()
def _write(
    of_layer: Sequence[tuple[int, Any]], base: Factors, changes: Sequence[Factors], adapters: Sequence[NeuronAdapter]
) -> None:
    """The weighted rows (or columns) of one linear layer: summed in float32 at least, rounded once."""
    linear = of_layer[0][1].linear
    sums: dict[str, Tensor] = {}
    for m, placed in of_layer:
        delta, neurons = placed.delta, adapters[m].mask[placed.address]
        repeats = len(delta.index) // len(neurons)  # a fused projection has several rows per neuron
        for name, entries in delta.touched(linear).items():
            dim = delta.dim if name == "weight" else 0
            wide = torch.promote_types(entries.dtype, torch.float32)
            if name not in sums:
                sums[name] = linear._parameters[name].detach().to(wide).clone()
            # the base's share, once per entry: written, not added, and from the untouched weights
            factor = _along(base[placed.address][neurons].repeat(repeats), entries, dim)
            sums[name].index_copy_(dim, delta.index, entries.to(wide) * factor)
    for m, placed in of_layer:
        delta, neurons = placed.delta, adapters[m].mask[placed.address]
        repeats = len(delta.index) // len(neurons)
        for name in sums:
            if name == "bias" and delta.bias is None:
                continue
            change = delta.bias if name == "bias" else delta.weight if delta.dim == 0 else delta.weight.t()
            dim = delta.dim if name == "weight" else 0
            factor = _along(changes[m][placed.address][neurons].repeat(repeats), change, dim)
            sums[name].index_add_(dim, delta.index, (change.detach() * factor).to(sums[name].dtype))
    for name, values in sums.items():
        linear._parameters[name].copy_(values)


def _along(values: Tensor, entries: Tensor, dim: int) -> Tensor:
    shape = [1] * entries.dim()
    shape[dim] = -1
    return values.to(entries.device, torch.float32).view(shape)
