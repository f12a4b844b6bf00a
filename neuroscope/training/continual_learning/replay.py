"""Replay (Rolnick et al. 2019): a share of every earlier task's training examples is mixed into the new one's.

Which ones is drawn once. Given `steps`, stages are as long as without replay; epochs go over the whole mixture.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from neuroscope import checks
from neuroscope.tasks.task import Task
from neuroscope.training.continual_learning.learner import Learner, Setting
from neuroscope.training.continual_learning.seq_lora import lora_through
from neuroscope.training.continual_learning.seqft import train_whole


def replay(setting: Setting, *, share: float = 0.1) -> Learner:
    """Train the whole model on each task, and on some examples of the tasks before.

    Args:
        share: of the training examples of every earlier task, kept and mixed in.
    """
    checks.share(share, "share")
    return train_whole(setting, lambda stage: with_remembered(setting, stage, share))


def replay_lora(setting: Setting, *, rank: int = 8, alpha: float = 16, share: float = 0.1) -> Learner:
    """The same with one LoRA for all tasks, as `seq_lora` trains it.

    Args:
        rank, alpha: of the LoRA.
        share: as in `replay`.
    """
    checks.share(share, "share")
    return lora_through(setting, rank, alpha, lambda stage: with_remembered(setting, stage, share))


def with_remembered(setting: Setting, stage: int, share: float) -> list[Task]:
    """The task of a stage, and those before it with that share of their training examples, drawn once."""

    def remembered(task: Task) -> Task:
        examples = task.split("train")
        generator = Random(f"{task.data_hash} {setting.seed}")
        return replace(task, train=generator.sample(examples, max(1, round(share * len(examples)))))

    return [setting.tasks[stage], *map(remembered, setting.tasks[:stage])]
