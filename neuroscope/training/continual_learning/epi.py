"""EPI: private parameters for every task, found again by the features of the prompt (Wang et al. 2023, "Rehearsal-free
Continual Language Learning via Efficient Parameter Isolation").

1. Every task gets parameters of its own, trained from the base and frozen afterwards. Here: a LoRA.
2. The features x of a prompt are the base model's last layer, mean over tokens. A task's are described by a Gaussian
   with a mean m_k of its own and a covariance S shared by all tasks learnt so far: the mean, over all their training
   prompts, of (x - m_k)(x - m_k)^T.
3. A prompt is answered by the parameters of the task learnt so far whose mean is nearest to its features, in
   Mahalanobis distance sqrt((x - m_k)^T S^-1 (x - m_k)). Nobody tells which task it is from.

Regularised: S becomes (1 - shrinkage) S + shrinkage * tr(S) / dim * I, so that it can be inverted where there are fewer
prompts than dimensions. Simplified: the authors train prefixes and a classifier; their code has a mean per label, the
nearest of which decides, takes the mean of the labels' covariances, and a pseudo-inverse.

Prompts of tasks that are still to come, or that the base can do, go to a task learnt so far too: there is no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuroscope.errors import ArgumentError, NumericalError
from neuroscope.evaluation import Outcomes
from neuroscope.tasks.task import Task
from neuroscope.training.continual_learning.features import prompt_features
from neuroscope.training.continual_learning.lora import Loras
from neuroscope.training.continual_learning.setting import AT_ONCE, Setting


def epi(setting: Setting, *, rank: int = 8, alpha: float = 16, samples: int = 1000, shrinkage: float = 0.1) -> Isolated:
    """EPI; `rank` and `alpha` are those of `seq_lora`.

    Args:
        samples: training prompts per task that its mean and the covariance are measured on, at most.
        shrinkage: of the covariance towards a multiple of the identity.
    """
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ArgumentError(f"samples={samples!r}", "not a positive integer", "give 1 or more, such as 1000")
    if not isinstance(shrinkage, (int, float)) or not 0 < shrinkage <= 1:
        raise ArgumentError(f"shrinkage={shrinkage!r}", "not in (0, 1]", "give a share, such as 0.1")
    return Isolated(Loras(setting, rank, alpha), samples, shrinkage)


class Isolated:
    """A LoRA per task, at most one of them live; none is between calls."""

    def __init__(self, loras: Loras, samples: int, shrinkage: float) -> None:
        self.loras, self.setting, self.samples, self.shrinkage = loras, loras.setting, samples, shrinkage
        self.learnt: list[Float[Tensor, "prompt dim"]] = []  # features of training prompts, per task
        self.asked: dict[str, Float[Tensor, "example dim"]] = {}  # of examples to be answered, by the task's data_hash

    def learn(self, stage: int) -> dict[str, Any]:
        """Describe the task's prompts, and train its LoRA alone.

        "routed" has, for every task of the setting, the share of its examples that each task learnt so far answers;
        "identified" is the share of the learnt tasks' examples that go to their own.
        """
        features = self._describe(stage)
        gaussians([*self.learnt, features], self.shrinkage)  # before the training, which takes longer to fail
        lora = self.loras.train(stage, lambda lora: None)
        lora.live = False
        self.learnt.append(features)
        names = [task.name for task in self.setting.tasks[: stage + 1]]
        routes = {task.name: self.routes(task) for task in [*self.setting.tasks, *self.setting.known]}
        routed = {
            task: {name: float((chosen == k).double().mean()) for k, name in enumerate(names)}
            for task, chosen in routes.items()
        }
        right = torch.cat([routes[name] == k for k, name in enumerate(names)])
        return {"trained": lora.n_parameters, "identified": float(right.double().mean()), "routed": routed}

    def routes(self, task: Task) -> Int[Tensor, " example"]:
        """For every example of the split, the number of the task that answers it."""
        if task.data_hash not in self.asked:
            examples = task.split(self.setting.split, self.setting.n)
            self.asked[task.data_hash] = prompt_features(
                self.setting.model, task, examples, self.setting.batch_size or AT_ONCE
            )
        means, covariance = gaussians(self.learnt, self.shrinkage)
        return distances(self.asked[task.data_hash], means, covariance).argmin(1)

    def outcomes(self, task: Task) -> Outcomes:
        """Every example answered by the LoRA it is routed to; before the first stage, by the base."""
        if not self.learnt:
            return self.setting.judge(task)
        split, examples = self.setting.split, task.split(self.setting.split, self.setting.n)
        setting = replace(self.setting, prepared={})  # parts change from stage to stage: none is kept
        routes = self.routes(task).numpy()
        found = np.empty(len(examples))
        for k in np.unique(routes):
            chosen = np.flatnonzero(routes == k)
            part: Task = replace(task, **{split: [examples[i] for i in chosen]})  # type: ignore[arg-type]
            lora = self.loras.list[k]
            lora.live = True
            try:
                found[chosen] = setting.judge(part)
            finally:
                lora.live = False
        return found

    def save(self, folder: Path, stage: int) -> None:
        """One LoRA per stage."""
        self.loras.save(folder, stage)

    def restore(self, folder: Path, stage: int) -> None:
        """Load the LoRAs; the features are measured again, in the base."""
        self.learnt = [self._describe(i) for i in range(stage + 1)]
        self.loras.restore(folder, stage)
        for lora in self.loras.list:
            lora.live = False

    def close(self) -> None:
        """Take them off."""
        self.loras.close()

    def _describe(self, stage: int) -> Float[Tensor, "prompt dim"]:
        task = self.setting.tasks[stage]
        examples = task.split("train", self.samples)
        return prompt_features(self.setting.model, task, examples, self.setting.batch_size or AT_ONCE)


def gaussians(
    features: Sequence[Float[Tensor, "prompt dim"]], shrinkage: float
) -> tuple[Float[Tensor, "task dim"], Float[Tensor, "dim dim"]]:
    """A mean per task, and the shared covariance, shrunk; float64.

    Raises:
        NumericalError: the features do not vary within tasks.

    Example:
        >>> one, two = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[5.0, 4.0], [5.0, 8.0]])
        >>> means, covariance = gaussians([one, two], 0.2)
        >>> means.tolist(), [[round(value, 6) for value in row] for row in covariance.tolist()]
        ([[1.0, 0.0], [5.0, 6.0]], [[0.65, 0.0], [0.0, 1.85]])
    """
    means = torch.stack([x.double().mean(0) for x in features])
    apart = torch.cat([x.double() - mean for x, mean in zip(features, means, strict=True)])
    own = apart.t() @ apart / len(apart)
    level = own.trace() / len(own)
    if not level > 1e-12 * torch.cat(list(features)).double().square().mean():  # less is float32's rounding
        do = "give every task several training examples with different prompts"
        raise NumericalError("tell tasks apart by their prompts", "prompts that do not differ within a task", do)
    return means, (1 - shrinkage) * own + shrinkage * level * torch.eye(len(own), dtype=torch.double)


def distances(
    x: Float[Tensor, "example dim"], means: Float[Tensor, "task dim"], covariance: Float[Tensor, "dim dim"]
) -> Float[Tensor, "example task"]:
    """Mahalanobis distances.

    Example:
        >>> distances(torch.tensor([[3.0, 0.0]]), torch.zeros(1, 2), torch.diag(torch.tensor([9.0, 1.0]))).item()
        1.0
    """
    factor = torch.linalg.cholesky(covariance.double())  # S = L L^T, so that the distance is |L^-1 (x - m)|
    apart = x.double()[:, None] - means.double()  # [example, task, dim]
    return torch.linalg.solve_triangular(factor, apart.flatten(0, 1).t(), upper=False).norm(dim=0).view(apart.shape[:2])
