"""Elastic weight consolidation, EWC (Kirkpatrick et al. 2017, Eq. 3).

1. After task i, F_i is the diagonal of the empirical Fisher information at the weights w*_i reached: the mean over
   examples of the squared gradient of an answer's log-likelihood (nats, summed over its tokens).
2. The loss of a later task gets strength / 2 * sum over earlier tasks i of sum_p F_ip (w_p - w*_ip)^2.

The sum over tasks is kept as one F and one centre, which differs from it by a constant. Simplified: the Fisher
information is the empirical one (at the right answers, not at answers drawn from the model).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from neuroscope.checks import finite, whole
from neuroscope.errors import ArgumentError
from neuroscope.models import Model
from neuroscope.tasks.encoding import batches_for, encode
from neuroscope.tasks.prompts import fitting
from neuroscope.tasks.task import Task
from neuroscope.training import WholeModel
from neuroscope.training.continual_learning.learner import Learner, Log, Setting, Tensors


def ewc(setting: Setting, *, strength: float = 1e4, fisher_examples: int = 128) -> Learner:
    """Train the whole model, with springs to where earlier tasks left it.

    Args:
        strength: lambda of the penalty.
        fisher_examples: training examples per task that the Fisher information is measured on.
    """
    if finite(strength, "strength") < 0:
        raise ArgumentError(f"strength={strength!r}", "negative", "give 0 or more")
    whole(fisher_examples, "fisher_examples", 1)
    model, springs = WholeModel(setting.model), Tensors()  # fisher/i and centre/i of parameter i, of all tasks so far

    def tensors(name: str) -> list[Tensor]:
        parameters = model.parameters() if springs else []
        return [springs[f"{name}/{i}"].to(p.device) for i, p in enumerate(parameters)]

    def learn(stage: int) -> Log:
        task, weights = setting.tasks[stage], model.parameters()
        before, centre = tensors("fisher"), tensors("centre")

        def penalty() -> Tensor:
            return strength / 2 * quadratic(weights, before, centre)

        setting.train(model, [task], penalty=penalty if springs else None)
        with model.exact():  # at the exact weights, where the model's are rounded
            fresh = fisher(setting.model, weights, task, fisher_examples)
            here = [p.detach().clone() for p in weights]
        for name, values in zip(("fisher", "centre"), tied(before, centre, fresh, here), strict=True):
            springs.update({f"{name}/{i}": value for i, value in enumerate(values)})
        return {"trained": model.n_parameters, "fisher_examples": min(fisher_examples, len(task.train))}

    return Learner(learn, setting.judge, carried={"springs": springs, "weights": model})


def quadratic(weights: Sequence[Tensor], fisher: Sequence[Tensor], centre: Sequence[Tensor]) -> Tensor:
    """Sum over parameters of F (w - centre)^2.

    Example:
        >>> one = torch.tensor([3.0, 1.0])
        >>> quadratic([one], [torch.tensor([2.0, 5.0])], [torch.tensor([1.0, 1.0])]).item()
        8.0
    """
    return torch.stack(
        [(f * (w.float() - c).square()).sum() for w, f, c in zip(weights, fisher, centre, strict=True)]
    ).sum()


def tied(
    fisher: Sequence[Tensor], centre: Sequence[Tensor], fresh: Sequence[Tensor], here: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """The springs of one more task added: F1 (w - c1)^2 + F2 (w - c2)^2 = (F1 + F2) (w - c)^2 + constant."""
    if not fisher:
        return list(fresh), [w.float() for w in here]
    sums = [f + g for f, g in zip(fisher, fresh, strict=True)]
    middle = [
        torch.where(s > 0, (f * c + g * w.float()) / torch.where(s > 0, s, 1.0), c)
        for s, f, c, g, w in zip(sums, fisher, centre, fresh, here, strict=True)
    ]
    return sums, middle


def fisher(model: Model, weights: Sequence[Tensor], task: Task, n: int) -> list[Tensor]:
    """Diagonal empirical Fisher information: mean over examples of the squared gradient of log p(answer | prompt)."""
    examples = list(fitting(model, task, task.split("train", n)).values())
    encoded = encode(model, task, examples, end=model.style != "masked")
    information = [torch.zeros_like(w, dtype=torch.float32) for w in weights]
    with model.quiet(), torch.enable_grad():
        before = [w.requires_grad for w in weights]
        try:
            for w in weights:
                w.requires_grad_(True)
            for batch in batches_for(model, encoded, 1):  # each one squared
                logits = model.logits(batch.inputs, batch.scored).float()
                targets = batch.targets[batch.scored].to(logits.device)
                loss = functional.cross_entropy(logits, targets, reduction="sum")
                grads = torch.autograd.grad(loss, list(weights), allow_unused=True)
                for total, grad in zip(information, grads, strict=True):
                    if grad is not None:
                        total += grad.float().square() / len(examples)
        finally:
            for w, required in zip(weights, before, strict=True):
                w.requires_grad_(required)
    return information
