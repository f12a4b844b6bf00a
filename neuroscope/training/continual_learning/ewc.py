"""Elastic weight consolidation, EWC (Kirkpatrick et al. 2017, Eq. 3).

1. After task i, F_i is the diagonal of the empirical Fisher information at the weights w*_i reached: the mean over
   examples of the squared gradient of an answer's log-likelihood (nats, summed over its tokens).
2. The loss of a later task gets strength / 2 * sum over earlier tasks i of sum_p F_ip (w_p - w*_ip)^2.

The sum over tasks is kept as one F and one centre, which differs from it by a constant. Simplified: the Fisher
information is the empirical one (at the right answers, not at answers drawn from the model).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from neuroscope import files
from neuroscope.errors import ArgumentError
from neuroscope.evaluation import Outcomes
from neuroscope.masks import read_safetensors
from neuroscope.models import Model
from neuroscope.tasks.prompts import UNSCORED, batches, encode, pad_id
from neuroscope.tasks.task import Task
from neuroscope.training import WholeModel
from neuroscope.training.continual_learning.setting import Setting


def ewc(setting: Setting, *, strength: float = 1e4, fisher_examples: int = 128) -> Elastic:
    """Elastic weight consolidation.

    Args:
        strength: lambda of the penalty.
        fisher_examples: training examples per task that the Fisher information is measured on.
    """
    if not isinstance(strength, (int, float)) or not 0 <= strength < math.inf:
        raise ArgumentError(f"strength={strength!r}", "negative, or no number", "give 0 or more")
    if isinstance(fisher_examples, bool) or not isinstance(fisher_examples, int) or fisher_examples < 1:
        raise ArgumentError(f"fisher_examples={fisher_examples!r}", "no number of examples", "give 1 or more")
    return Elastic(setting, strength, fisher_examples)


class Elastic:
    """One model, all of it trained, with springs to where earlier tasks left it."""

    def __init__(self, setting: Setting, strength: float, fisher_examples: int) -> None:
        self.setting, self.strength, self.fisher_examples = setting, strength, fisher_examples
        self.model = WholeModel(setting.model)
        self.fisher: list[Tensor] = []  # per parameter, summed over the tasks so far; empty before the first
        self.centre: list[Tensor] = []

    def learn(self, stage: int) -> dict[str, Any]:
        """Train under the penalty, then tie the weights to where they are now."""
        task = self.setting.tasks[stage]
        weights = self.model.parameters()

        def penalty() -> Tensor:
            return self.strength / 2 * quadratic(weights, self.fisher, self.centre)

        self.setting.train(self.model, [task], penalty=penalty if self.fisher else None)
        fresh = fisher(self.setting.model, weights, task, self.fisher_examples)
        here = [p.detach().clone() for p in weights]
        self.fisher, self.centre = tied(self.fisher, self.centre, fresh, here)
        return {"trained": self.model.n_parameters, "fisher_examples": min(self.fisher_examples, len(task.train))}

    def outcomes(self, task: Task) -> Outcomes:
        """Of the model as it is."""
        return self.setting.judge(task)

    def save(self, folder: Path, stage: int) -> None:
        """All weights, Fisher information and centres; those of the stage before stay until the next one."""
        from safetensors.torch import save_file  # only where a file is written

        about = {"format": files.FORMAT, "kind": "EWC", "unit": "", "widths": {}, "manifest": {}}
        tensors = {f"fisher/{i}": f.cpu() for i, f in enumerate(self.fisher)}
        tensors |= {f"centre/{i}": c.cpu() for i, c in enumerate(self.centre)}
        files.write(
            folder / f"springs-{stage}.safetensors",
            lambda partial: save_file(tensors, partial, {"neuroscope": json.dumps(about)}),
        )
        self.model.save(folder / f"weights-{stage}.safetensors")
        for name in ("springs", "weights"):
            (folder / f"{name}-{stage - 2}.safetensors").unlink(missing_ok=True)

    def restore(self, folder: Path, stage: int) -> None:
        """Put the stage's weights and springs in."""
        tensors = read_safetensors(folder / f"springs-{stage}.safetensors", "EWC")[0]
        weights = self.model.parameters()
        self.fisher = [tensors[f"fisher/{i}"].to(p.device) for i, p in enumerate(weights)]
        self.centre = [tensors[f"centre/{i}"].to(p.device) for i, p in enumerate(weights)]
        self.model.restore(folder / f"weights-{stage}.safetensors")

    def close(self) -> None:
        """Put the base's weights back, to the bit."""
        self.model.detach()


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
    examples = task.split("train", n)
    encoded = encode(model, task, examples, end=model.style != "masked")
    found = [torch.zeros_like(w, dtype=torch.float32) for w in weights]
    with model.quiet(), torch.enable_grad():
        before = [w.requires_grad for w in weights]
        try:
            for w in weights:
                w.requires_grad_(True)
            for batch in batches(encoded, 1, pad_id(model.tokenizer), model.device, model.style):  # each one squared
                logits = model.logits(batch.inputs, batch.keep).float()
                targets = batch.targets[:, batch.keep.to(batch.targets.device)]
                loss = functional.cross_entropy(
                    logits.flatten(0, 1), targets.flatten().to(logits.device), ignore_index=UNSCORED, reduction="sum"
                )
                grads = torch.autograd.grad(loss, list(weights), allow_unused=True)
                for total, grad in zip(found, grads, strict=True):
                    if grad is not None:
                        total += grad.float().square() / len(examples)
        finally:
            for w, required in zip(weights, before, strict=True):
                w.requires_grad_(required)
    return found
