"""Orthogonal subspace fine-tuning, OSF (Nayak et al. 2026, "Sculpting Subspaces"; peft's OSF).

1. Before every task each linear layer but the LM head is decomposed, W = U S V^T. The directions of large singular
   values, which hold what was learnt so far, are frozen.
2. Those of small ones are trained, with gradients that are orthogonal to what is frozen (`orthogonal_subspace`).
3. The change is written into the weights, and the next task comes.

Simplified: the same share is preserved of every matrix and at every task, where the paper preserves more of layers that
change their input little, and more from task to task. Everything but linear layers stays frozen.
"""

from __future__ import annotations

from neuroscope.checks import share
from neuroscope.training import WholeModel
from neuroscope.training.continual_learning.learner import Learner, Log, Setting
from neuroscope.training.orthogonal_subspace import SubspaceAdapter


def osf(setting: Setting, *, preserved: float = 0.5) -> Learner:
    """Train the small singular directions of every linear layer at every stage.

    Args:
        preserved: share of the smaller side of each matrix whose singular directions are frozen.
    """
    share(preserved, "preserved")
    weights = WholeModel(setting.model)

    def learn(stage: int) -> Log:
        with weights.exact():  # what one task changes must not be rounded before the next is learnt
            subspace = SubspaceAdapter(setting.model, preserved)
            trained = subspace.n_parameters
            try:
                setting.train(subspace, [setting.tasks[stage]])
                subspace.merge()
            except BaseException:
                subspace.detach()
                raise
        setting.model.weights_changed()
        return {"trained": trained}

    return Learner(learn, setting.judge, carried={"weights": weights})
