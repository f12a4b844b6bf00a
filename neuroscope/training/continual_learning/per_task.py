"""Per-task fine-tuning (LX24 Table 5: Per-Task FT): every task has a model of its own, trained from the base.

Nothing is shared or forgotten, at the price of a whole model per task. A task that was not learnt is answered by the
base.
"""

from __future__ import annotations

import torch

from neuroscope.evaluation import Outcomes
from neuroscope.tasks.task import Task
from neuroscope.training import WholeModel
from neuroscope.training.continual_learning.learner import Learner, Log, Setting, Tensors


def per_task(setting: Setting) -> Learner:
    """Train each task from the base; its outcomes are kept, its weights are not."""
    measured = Tensors()  # the outcomes of every learnt task, by its data_hash

    def learn(stage: int) -> Log:
        task = setting.tasks[stage]
        weights = WholeModel(setting.model)
        try:
            setting.train(weights, [task])
            measured[task.data_hash] = torch.from_numpy(setting.judge(task))
        finally:
            weights.detach()
        return {"trained": weights.n_parameters, "models": stage + 1, "stored": weights.n_parameters * (stage + 1)}

    def outcomes(task: Task) -> Outcomes:
        return measured[task.data_hash].numpy() if task.data_hash in measured else setting.judge(task)

    return Learner(learn, outcomes, carried={"outcomes": measured})
