"""Fine-tuning of every parameter, one task after another or all at once.

- `seqft`: nothing is done against forgetting (LX24 Table 5: SeqFT).
- `joint`: all tasks at once, in as many steps as the sequence has: what the others could reach at best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from neuroscope.tasks.task import Task
from neuroscope.training import Recipe, WholeModel
from neuroscope.training.continual_learning.learner import Learner, Log, Setting


def seqft(setting: Setting) -> Learner:
    """Train on each task's examples alone."""
    return train_whole(setting, lambda stage: [setting.tasks[stage]])


def joint(setting: Setting) -> Learner:
    """Train on all tasks' examples at the only stage, the last."""
    recipe = setting.recipe
    if recipe.steps is not None:
        recipe = replace(recipe, steps=recipe.steps * len(setting.tasks))
    return train_whole(setting, lambda stage: setting.tasks, recipe)


def train_whole(setting: Setting, lesson: Callable[[int], Sequence[Task]], recipe: Recipe | None = None) -> Learner:
    """A learner that trains the whole model at every stage.

    Args:
        lesson: called with the number of a stage, gives the tasks to train on, mixed.
        recipe: instead of the setting's.
    """
    weights = WholeModel(setting.model)

    def learn(stage: int) -> Log:
        tasks = lesson(stage)
        setting.train(weights, tasks, recipe)
        return {"trained": weights.n_parameters, "examples": sum(len(task.train) for task in tasks)}

    return Learner(learn, setting.judge, carried={"weights": weights})
