"""Fine-tuning of every parameter, one task after another, and what is done against forgetting without masks.

- `seqft`: nothing is done (LX24 Table 5: SeqFT).
- `replay`: a share of every earlier task's training examples is mixed into the new one's (Rolnick et al. 2019). Which
  ones is drawn once. Given `steps`, stages are as long as without it; epochs go over the whole mixture.
- `per-task`: every task by a model of its own, trained from the base (LX24 Table 5: Per-Task FT): nothing is shared or
  forgotten, at the price of a whole model per task. A task that was not learnt is answered by the base.
- `joint`: all tasks at once, in as many steps as the sequence has: what the others could reach at best.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from neuroscope import files
from neuroscope.errors import ArgumentError
from neuroscope.evaluation import Outcomes
from neuroscope.tasks.task import Task
from neuroscope.training import WholeModel
from neuroscope.training.continual_learning.setting import Setting

Lesson = Callable[[int], Sequence[Task]]


class Whole:
    """One model, all of it trained at every stage."""

    def __init__(self, setting: Setting, lesson: Lesson, steps: int = 1) -> None:
        self.setting, self.lesson, self.stages = setting, lesson, steps
        self.model = WholeModel(setting.model)

    def learn(self, stage: int) -> dict[str, Any]:
        """Train on the stage's lesson."""
        tasks = self.lesson(stage)
        recipe = self.setting.recipe
        if recipe.steps is not None:
            recipe = replace(recipe, steps=recipe.steps * self.stages)
        self.setting.train(self.model, tasks, recipe)
        return {"trained": self.model.n_parameters, "examples": sum(len(task.train) for task in tasks)}

    def outcomes(self, task: Task) -> Outcomes:
        """Of the model as it is."""
        return self.setting.judge(task)

    def save(self, folder: Path, stage: int) -> None:
        """All weights; those of the stage before stay until the next one."""
        self.model.save(folder / f"weights-{stage}.safetensors")
        (folder / f"weights-{stage - 2}.safetensors").unlink(missing_ok=True)

    def restore(self, folder: Path, stage: int) -> None:
        """Put the stage's weights in."""
        self.model.restore(folder / f"weights-{stage}.safetensors")

    def close(self) -> None:
        """Put the base's weights back, to the bit."""
        self.model.detach()


def seqft(setting: Setting) -> Whole:
    """Each task's examples alone."""
    return Whole(setting, lambda stage: [setting.tasks[stage]])


def joint(setting: Setting) -> Whole:
    """All tasks' examples at the only stage, the last."""
    return Whole(setting, lambda stage: setting.tasks, len(setting.tasks))


def replay(setting: Setting, *, share: float = 0.1) -> Whole:
    """Replay.

    Args:
        share: of the training examples of every earlier task, kept and mixed in.
    """
    if not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise ArgumentError(f"share={share!r}", "no share of the examples", "give 0 < share <= 1, such as 0.1")

    def kept(task: Task) -> Task:
        examples = task.split("train")
        drawn = Random(f"{task.data_hash} {setting.seed}").sample(examples, max(1, round(share * len(examples))))
        return replace(task, train=drawn)

    return Whole(setting, lambda stage: [setting.tasks[stage], *(kept(task) for task in setting.tasks[:stage])])


def per_task(setting: Setting) -> PerTask:
    """A model for each task."""
    return PerTask(setting)


class PerTask:
    """Each task learnt from the base; its outcomes are kept, its weights are not."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.own: dict[str, Outcomes] = {}

    def learn(self, stage: int) -> dict[str, Any]:
        """Train on the task alone, measure, put the base back."""
        task = self.setting.tasks[stage]
        model = WholeModel(self.setting.model)
        try:
            self.setting.train(model, [task])
            self.own[task.data_hash] = self.setting.judge(task)
        finally:
            model.detach()
        return {"trained": model.n_parameters, "models": stage + 1}

    def outcomes(self, task: Task) -> Outcomes:
        """Of the task's own model, or of the base."""
        return self.own[task.data_hash] if task.data_hash in self.own else self.setting.judge(task)

    def save(self, folder: Path, stage: int) -> None:
        """The outcomes of the models so far."""
        files.write(folder / f"outcomes-{stage}.json", json.dumps({k: v.tolist() for k, v in self.own.items()}))

    def restore(self, folder: Path, stage: int) -> None:
        """Read them back."""
        saved = files.read_json(folder / f"outcomes-{stage}.json", "outcomes of a stage")
        self.own = {k: np.array(v) for k, v in saved.items()}

    def close(self) -> None:
        """The model is the base already."""
