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

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from neuroscope.checks import share, whole
from neuroscope.errors import NumericalError
from neuroscope.evaluation import Outcomes
from neuroscope.tasks import Example, Task
from neuroscope.tasks.prompts import fitting
from neuroscope.training import LoraAdapter
from neuroscope.training.continual_learning.features import prompt_features
from neuroscope.training.continual_learning.learner import Learner, Log, Setting
from neuroscope.training.continual_learning.seq_lora import lora_per_task
from neuroscope.training.lora import check_rank


def epi(setting: Setting, *, rank: int = 8, alpha: float = 16, samples: int = 1000, shrinkage: float = 0.1) -> Learner:
    """A LoRA per task, at most one of them live, and none between calls.

    The log's "routed" has, for every task of the setting, the share of its examples that each task learnt so far
    answers; "identified" is the share of the learnt tasks' examples that go to their own.

    Args:
        rank, alpha: of every LoRA, as in `seq_lora`.
        samples: training prompts per task that its mean and the covariance are measured on, at most.
        shrinkage: of the covariance towards a multiple of the identity.
    """
    check_rank(rank, alpha)
    router = Router(setting, whole(samples, "samples", 1), share(shrinkage, "shrinkage"))
    loras = lora_per_task(setting, rank, alpha)

    def learn(stage: int) -> Log:
        router.gaussians(stage + 1)  # before the training, which takes longer to fail
        log = loras.learn(stage)
        loras.parts[-1].live = False
        routes = {task.name: router.routes(task, stage + 1) for task in [*setting.tasks, *setting.known]}
        names = [task.name for task in setting.tasks[: stage + 1]]
        right = torch.cat([routes[name] == number for number, name in enumerate(names)])
        routed = {
            task: {name: float((chosen == number).double().mean()) for number, name in enumerate(names)}
            for task, chosen in routes.items()
        }
        means, covariance = router.gaussians(stage + 1)
        kept = loras.stored + means.numel() + covariance.numel()
        return log | {"stored": kept, "identified": float(right.double().mean()), "routed": routed}

    def outcomes(task: Task) -> Outcomes:
        if not loras.parts:
            return setting.judge(task)
        split = setting.split
        examples = list(fitting(setting.model, task, task.split(split, setting.n)).values())
        apart = replace(setting, prepared={})  # the examples of a route change from stage to stage: none are kept
        routes = router.routes(task, len(loras.parts)).numpy()
        answers = np.empty(len(examples))
        for number in np.unique(routes):
            chosen = np.flatnonzero(routes == number)
            routed: Task = replace(task, **{split: [examples[i] for i in chosen]})  # type: ignore[arg-type]
            loras.parts[number].live = True
            try:
                answers[chosen] = apart.judge(routed)
            finally:
                loras.parts[number].live = False
        return answers

    def load(path: Path) -> None:
        loras.parts.append(LoraAdapter.load(setting.model, path))
        loras.parts[-1].live = False

    return replace(loras, learn=learn, outcomes=outcomes, load=load)


class Router:
    """Which of the tasks learnt so far a prompt is from. Features are measured when they are needed, in the base."""

    def __init__(self, setting: Setting, samples: int, shrinkage: float) -> None:
        self.setting, self.samples, self.shrinkage = setting, samples, shrinkage
        self.learnt: list[Float[Tensor, "prompt dim"]] = []  # features of training prompts, per task
        self.asked: dict[str, Float[Tensor, "example dim"]] = {}  # of examples to be answered, by the task's data_hash

    def gaussians(self, learnt: int) -> tuple[Float[Tensor, "task dim"], Float[Tensor, "dim dim"]]:
        """The means of the first `learnt` tasks, and their covariance."""
        for task in self.setting.tasks[len(self.learnt) : learnt]:
            self.learnt.append(self._features(task, task.split("train", self.samples)))
        return gaussians(self.learnt[:learnt], self.shrinkage)

    def routes(self, task: Task, learnt: int) -> Int[Tensor, " example"]:
        """For every example of the split, the number of the task that answers it."""
        if task.data_hash not in self.asked:
            self.asked[task.data_hash] = self._features(task, task.split(self.setting.split, self.setting.n))
        return distances(self.asked[task.data_hash], *self.gaussians(learnt)).argmin(1)

    def _features(self, task: Task, examples: Sequence[Example]) -> Float[Tensor, "example dim"]:
        return prompt_features(self.setting.model, task, examples, self.setting.batch_size)


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
    pooled = apart.t() @ apart / len(apart)
    level = pooled.trace() / len(pooled)
    if not level > 1e-12 * torch.cat(list(features)).double().square().mean():  # less is float32's rounding
        do = "give every task several training examples with different prompts"
        raise NumericalError("tell tasks apart by their prompts", "prompts that do not differ within a task", do)
    return means, (1 - shrinkage) * pooled + shrinkage * level * torch.eye(len(pooled), dtype=torch.double)


def distances(
    x: Float[Tensor, "example dim"], means: Float[Tensor, "task dim"], covariance: Float[Tensor, "dim dim"]
) -> Float[Tensor, "example task"]:
    """Mahalanobis distances.

    Example:
        >>> distances(torch.tensor([[3.0, 0.0]]), torch.zeros(1, 2), torch.diag(torch.tensor([9.0, 1.0]))).item()
        1.0
    """
    factor = torch.linalg.cholesky(covariance.double())  # S = L L^T, so that the distance is |L^-1 (x - m)|
    apart = rearrange(x.double(), "example dim -> example 1 dim") - means.double()
    pairs = rearrange(apart, "example task dim -> dim (example task)")
    lengths = torch.linalg.solve_triangular(factor, pairs, upper=False).norm(dim=0)
    return rearrange(lengths, "(example task) -> example task", task=len(means))
