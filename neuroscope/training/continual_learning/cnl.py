"""Freeze the neurons whose gradients conflict with earlier tasks, CNL (Yang et al. 2026, arXiv 2601.21577).

The rule is that of its abstract: a neuron whose gradients on what is to be kept and on what is to be learnt conflict
makes the model forget, and is frozen; the others are trained. Its equations could not be read here, nor those of its
second version, where parameters take the place of neurons; so the rest is ours:

1. Before a task is learnt, g_new is the gradient of its loss (mean over discovery examples, nats summed over an
   answer's tokens) and g_old that of the earlier tasks' (mean over a kept share of their training examples, each task
   the same weight), with respect to all weights into and out of each hidden neuron, in the model as it stands.
2. Where cos(g_old, g_new) < 0 over a neuron's weights, the neuron is frozen for this stage.
3. The others are trained as in `ncft`; at the first stage all hidden neurons are, as in `ffn`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from neuroscope import checks
from neuroscope.checks import number_of_examples
from neuroscope.errors import NumericalError
from neuroscope.masks import NeuronMask
from neuroscope.models import Model
from neuroscope.tasks.encoding import batches_for, encode
from neuroscope.tasks.prompts import fitting
from neuroscope.tasks.task import Task
from neuroscope.training import NeuronAdapter, every_ffn
from neuroscope.training.continual_learning.learner import Learner, Setting
from neuroscope.training.continual_learning.ncft import train_chosen
from neuroscope.training.continual_learning.replay import with_remembered

BATCH = 8  # examples a pass


def cnl(setting: Setting, *, share: float = 0.1, examples: int | None = 256) -> Learner:
    """Train the hidden neurons whose gradients do not conflict with earlier tasks.

    Args:
        share: of the training examples of every earlier task, kept to measure its gradient on.
        examples: discovery examples that the new task's gradient is measured on.
    """
    checks.share(share, "share")
    number_of_examples(examples, "examples")

    def choice(task: Task, earlier: Sequence[NeuronAdapter]) -> NeuronMask:
        if not earlier:
            return every_ffn(setting.model)
        before = with_remembered(setting, len(earlier), share)[1:]
        new = replace(task, train=task.split("discovery" if task.discovery else "train", examples))
        found = cosines(setting.model, before, [new])
        free = {address: (values >= 0).nonzero()[:, 0] for address, values in found.items()}
        widths = {address: len(values) for address, values in found.items()}
        if not sum(map(len, free.values())):
            do = "give more examples, or another method: nothing may be trained"
            raise NumericalError(f"learn {task.name} by cnl", "gradients of all neurons that conflict", do)
        return NeuronMask.of(free, widths, "hidden", {"selection": "cosine >= 0"})

    return train_chosen(setting, choice)


def cosines(model: Model, old: Sequence[Task], new: Sequence[Task]) -> dict[str, Float[Tensor, " width"]]:
    """By address, each hidden neuron's cosine of the gradients of the old and the new tasks' loss; 0 where one is 0."""
    adapter = NeuronAdapter(model, every_ffn(model))  # of zeros: its gradients are those of the neurons' weights
    try:
        with model.quiet(), adapter.alone(), torch.enable_grad():
            first, second = (_gradients(model, adapter, tasks) for tasks in (old, new))
        sums: dict[str, Float[Tensor, "3 width"]] = {}
        for placed, a, b in zip(adapter.placed, first, second, strict=True):
            width = adapter.mask.widths[placed.address]
            for one, other in zip(a, b, strict=True):
                products = torch.stack([one * other, one * one, other * other]).flatten(2 if one.ndim > 1 else 1)
                of_rows = products.sum(-1) if one.ndim > 1 else products
                total = of_rows.unflatten(1, (-1, width)).sum(1)  # a fused projection has several rows per neuron
                sums[placed.address] = sums.get(placed.address, torch.zeros_like(total)) + total
    finally:
        adapter.detach()
    return {a: s[0] / torch.where(s[1] * s[2] > 0, s[1] * s[2], 1.0).sqrt() for a, s in sums.items()}


def _gradients(model: Model, adapter: NeuronAdapter, tasks: Sequence[Task]) -> list[list[Float[Tensor, "chosen ..."]]]:
    """Of every delta, in order: mean over tasks of the mean over training examples of an answer's loss."""
    groups = [list(placed.delta.parameters()) for placed in adapter.placed]
    flat = [parameter for group in groups for parameter in group]
    totals = [torch.zeros_like(parameter) for parameter in flat]
    for task in tasks:
        kept = list(fitting(model, task, task.split("train")).values())
        encoded = encode(model, task, kept, end=model.style != "masked")
        for batch in batches_for(model, encoded, BATCH):
            logits = model.logits(batch.inputs, batch.scored).float()
            targets = batch.targets[batch.scored].to(logits.device)
            loss = functional.cross_entropy(logits, targets, reduction="sum") / (len(encoded) * len(tasks))
            for total, grad in zip(totals, torch.autograd.grad(loss, flat), strict=True):
                total += grad
    parts = iter(totals)
    return [[next(parts) for _ in group] for group in groups]
