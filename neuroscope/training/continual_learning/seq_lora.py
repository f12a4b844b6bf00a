"""LoRA through a sequence of tasks.

SeqLoRA (LX24 Table 5): one LoRA is trained on, task after task; nothing is done against forgetting. `lora_per_task`
is what O-LoRA and EPI start from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from neuroscope.checks import SEEDS
from neuroscope.tasks.task import Task
from neuroscope.training import LoraAdapter
from neuroscope.training.continual_learning.learner import Learner, Log, Setting
from neuroscope.training.lora import check_rank

Penalty = Callable[[], Tensor]


def seq_lora(setting: Setting, *, rank: int = 8, alpha: float = 16) -> Learner:
    """One LoRA for all tasks.

    Args:
        rank: of the change of every layer.
        alpha: the change is scaled by alpha / rank.
    """
    return lora_through(setting, rank, alpha, lambda stage: [setting.tasks[stage]])


def lora_through(setting: Setting, rank: int, alpha: float, lesson: Callable[[int], Sequence[Task]]) -> Learner:
    """One LoRA that is trained at every stage.

    Args:
        lesson: called with the number of a stage, gives the tasks to train on, mixed.
    """
    lora = LoraAdapter(setting.model, rank, alpha, seed=setting.seed)

    def learn(stage: int) -> Log:
        setting.train(lora, lesson(stage))
        return {"trained": lora.n_parameters}

    return Learner(learn, setting.judge, carried={"lora": lora})


def lora_per_task(
    setting: Setting, rank: int, alpha: float, penalty: Callable[[LoraAdapter], Penalty | None] | None = None
) -> Learner:
    """A new LoRA for every task, trained with whatever earlier ones are live.

    Args:
        penalty: called with a new LoRA before it is trained; what it returns is added to the loss of every step.
    """
    check_rank(rank, alpha)
    loras: list[LoraAdapter] = []

    def learn(stage: int) -> Log:
        seed = (setting.seed * len(setting.tasks) + stage) % SEEDS  # other matrices A for every task
        loras.append(LoraAdapter(setting.model, rank, alpha, seed=seed))
        added = None if penalty is None else penalty(loras[-1])
        setting.train(loras[-1], [setting.tasks[stage]], penalty=added)
        return {"trained": loras[-1].n_parameters}

    def load(path: Path) -> None:
        loras.append(LoraAdapter.load(setting.model, path))

    return Learner(learn, setting.judge, loras, load)
