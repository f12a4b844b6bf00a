"""LoRA through a sequence of tasks: one for all (SeqLoRA), or one per task in orthogonal subspaces (O-LoRA).

SeqLoRA (LX24 Table 5): one LoRA is trained on, task after task.

O-LoRA (Wang et al. 2023, "Orthogonal Subspace Learning for Language Model Continual Learning"):

1. Every task gets a new LoRA. The earlier ones stay live, so that the changes add, and are frozen.
2. The rows of A span the inputs that a LoRA reads. The new one's are kept orthogonal to all earlier ones' in the same
   layer by `orthogonality` (lambda 1) times a sum over layers and earlier tasks i of how far A_i A_new^T is from zero:
   - "abs", the default: the sum of its absolute entries, as in the authors' code;
   - "squared": the sum of its squared entries, as in the paper's equation.
3. `l2` (lambda 2) times the sum of the norms (not squared, as in the code) of the new A and B; 0 by default.

Both terms are added to the loss at every step. Ours: all linear layers have a LoRA, where the authors change queries
and values only; the sums, and with them what a lambda does, grow with the number of layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from neuroscope.errors import ArgumentError, choose
from neuroscope.evaluation import Outcomes
from neuroscope.tasks.task import Task
from neuroscope.training import LoraAdapter
from neuroscope.training.continual_learning.setting import Setting
from neuroscope.training.lora import check_rank

Distance = Literal["abs", "squared"]
DISTANCES: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": lambda products: products.abs().sum(),
    "squared": lambda products: products.square().sum(),
}


def seq_lora(setting: Setting, *, rank: int = 8, alpha: float = 16) -> SeqLora:
    """One LoRA for all tasks.

    Args:
        rank: of the change of every layer.
        alpha: the change is scaled by alpha / rank.
    """
    check_rank(rank, alpha)
    return SeqLora(setting, rank, alpha)


class SeqLora:
    """One LoRA that is trained on at every stage."""

    def __init__(self, setting: Setting, rank: int, alpha: float) -> None:
        self.setting, self.rank, self.alpha = setting, rank, alpha
        self.lora: LoraAdapter | None = None  # until the first stage

    def learn(self, stage: int) -> dict[str, Any]:
        """Train from where the stage before left it."""
        lora = self._lora()
        self.setting.train(lora, [self.setting.tasks[stage]])
        return {"trained": lora.n_parameters}

    def outcomes(self, task: Task) -> Outcomes:
        """Of the model with the LoRA."""
        return self.setting.judge(task)

    def save(self, folder: Path, stage: int) -> None:
        """The LoRA; that of the stage before stays until the next one."""
        self._lora().save(_file(folder, stage))
        _file(folder, stage - 2).unlink(missing_ok=True)

    def restore(self, folder: Path, stage: int) -> None:
        """Put the stage's numbers in."""
        self._lora().restore(_file(folder, stage))

    def close(self) -> None:
        """Take it off."""
        if self.lora is not None:
            self.lora.detach()

    def _lora(self) -> LoraAdapter:
        if self.lora is None:
            self.lora = LoraAdapter(self.setting.model, self.rank, self.alpha, seed=self.setting.seed)
        return self.lora


class Loras:
    """A LoRA per task on one model."""

    def __init__(self, setting: Setting, rank: int, alpha: float) -> None:
        check_rank(rank, alpha)
        self.setting, self.rank, self.alpha = setting, rank, alpha
        self.list: list[LoraAdapter] = []

    def train(self, stage: int, penalty: Callable[[LoraAdapter], Callable[[], Tensor] | None]) -> LoraAdapter:
        """Train a new LoRA on the stage's task, with whatever LoRAs are live."""
        seed = self.setting.seed * len(self.setting.tasks) + stage  # other matrices A for every task
        lora = LoraAdapter(self.setting.model, self.rank, self.alpha, seed=seed)
        try:
            self.setting.train(lora, [self.setting.tasks[stage]], penalty=penalty(lora))
        except BaseException:
            lora.detach()
            raise
        self.list.append(lora)
        return lora

    def save(self, folder: Path, stage: int) -> None:
        """One file per stage."""
        self.list[stage].save(_file(folder, stage))

    def restore(self, folder: Path, stage: int) -> None:
        """All LoRAs up to the stage's."""
        for i in range(stage + 1):
            self.list.append(LoraAdapter.load(self.setting.model, _file(folder, i)))

    def close(self) -> None:
        """Take all of them off."""
        while self.list:
            self.list.pop().detach()


def _file(folder: Path, stage: int) -> Path:
    return folder / f"lora-{stage}.safetensors"


def o_lora(
    setting: Setting,
    *,
    rank: int = 8,
    alpha: float = 16,
    orthogonality: float = 0.5,
    l2: float = 0.0,
    distance: Distance = "abs",
) -> Orthogonal:
    """O-LoRA; `rank` and `alpha` are those of `seq_lora`.

    Args:
        orthogonality: lambda 1.
        l2: lambda 2.
        distance: of A_i A_new^T from zero: "abs" or "squared".
    """
    for name, value in (("orthogonality", orthogonality), ("l2", l2)):
        if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise ArgumentError(f"{name}={value!r}", "negative, or no number", "give 0 or more")
    choose(distance, DISTANCES, "distance")
    return Orthogonal(Loras(setting, rank, alpha), orthogonality, l2, distance)


class Orthogonal:
    """A LoRA per task, all live, in subspaces that are kept orthogonal."""

    def __init__(self, loras: Loras, orthogonality: float, l2: float, distance: Distance) -> None:
        self.loras, self.orthogonality, self.l2, self.distance = loras, orthogonality, l2, distance

    def learn(self, stage: int) -> dict[str, Any]:
        """Train the task's LoRA under the two penalties; "overlap" is the first one's sum before and after."""
        earlier = stacked([lora.down for lora in self.loras.list])
        before: list[float] = []

        def penalty(lora: LoraAdapter) -> Callable[[], Tensor] | None:
            before.append(float(overlap(earlier, lora.down, self.distance)))
            terms: list[Callable[[], Tensor]] = []
            if earlier and self.orthogonality:
                terms.append(lambda: self.orthogonality * overlap(earlier, lora.down, self.distance))
            if self.l2:
                terms.append(lambda: self.l2 * norms(lora.parameters()))
            return (lambda: torch.stack([term() for term in terms]).sum()) if terms else None

        lora = self.loras.train(stage, penalty)
        after = float(overlap(earlier, lora.down, self.distance))
        return {"trained": lora.n_parameters, "overlap": [before[0], after]}

    def outcomes(self, task: Task) -> Outcomes:
        """Of the model with all LoRAs so far."""
        return self.loras.setting.judge(task)

    def save(self, folder: Path, stage: int) -> None:
        """One LoRA per stage."""
        self.loras.save(folder, stage)

    def restore(self, folder: Path, stage: int) -> None:
        """Load them all."""
        self.loras.restore(folder, stage)

    def close(self) -> None:
        """Take them off."""
        self.loras.close()


def stacked(down: Sequence[Mapping[str, Tensor]]) -> dict[str, Float[Tensor, "rows inputs"]]:
    """The matrices A of all earlier tasks, one below the other, by layer; empty before the second task."""
    return {path: torch.cat([one[path].detach() for one in down]) for path in down[0]} if down else {}


def overlap(
    earlier: Mapping[str, Float[Tensor, "rows inputs"]],
    new: Mapping[str, Float[Tensor, "rank inputs"]],
    distance: Distance = "abs",
) -> Float[Tensor, ""]:
    """How far A_i A_new^T are from zero, summed over layers and earlier tasks i.

    Example:
        >>> earlier, new = {"layer": torch.tensor([[1.0, 2.0], [0.0, 1.0]])}, {"layer": torch.tensor([[2.0, 1.0]])}
        >>> overlap(earlier, new).item(), overlap(earlier, new, "squared").item()
        (5.0, 17.0)
    """
    if not earlier:
        return torch.zeros(())
    return torch.stack([DISTANCES[distance](rows @ new[path].t()) for path, rows in earlier.items()]).sum()


def norms(parameters: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Sum of the parameters' Euclidean norms; where one is zero, its gradient is too.

    Example:
        >>> norms([torch.tensor([3.0, 4.0]), torch.tensor([1.0])]).item()
        6.0
    """
    return torch.stack([torch.linalg.vector_norm(p) for p in parameters]).sum()
