"""Numbers about a matrix of scores a[i, j]: the score on task j after the stage that learnt task i.

Rows and columns are in the order of learning. NaN marks a stage that a method does not have (`joint` has the last one
alone); what cannot be computed without it is NaN too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

Matrix = Float[NDArray[np.float64], "stage task"]


def average_accuracy(a: Matrix) -> float:
    """Mean score over all tasks after the last stage (LX24, Eq. 4).

    Example:
        >>> average_accuracy(np.array([[0.9, 0.1], [0.5, 0.8]]))
        0.65
    """
    return float(a[-1].mean())


def retention(a: Matrix) -> Float[NDArray[np.float64], " stage"]:
    """Per stage j, mean over the tasks before it of a[j, i] / a[i, i] (LX24, Eq. 5); NaN at the first stage.

    LX24 calls it forgetting rate, though higher is better. Its A_i is read as the score on task i right after learning
    it. A task that was not learnt at all (a[i, i] = 0) leaves the stages after it undefined: NaN.

    Example:
        >>> retention(np.array([[0.8, 0.0], [0.4, 0.9]])).tolist()
        [nan, 0.5]
    """
    own = np.diagonal(a)
    kept = np.full(len(a), np.nan)
    for j in range(1, len(a)):
        if (own[:j] > 0).all():
            kept[j] = (a[j, :j] / own[:j]).mean()
    return kept


def final_retention(a: Matrix) -> float:
    """Retention after the last stage."""
    return float(retention(a)[-1])


def backward_transfer(a: Matrix) -> float:
    """Mean change of a task's score from its own stage to the last one (Lopez-Paz & Ranzato 2017); negative: lost."""
    return float((a[-1] - np.diagonal(a))[:-1].mean())


def forgetting(a: Matrix) -> float:
    """Mean fall of a task's score from its peak, since its own stage, to the last stage (Chaudhry et al. 2018)."""
    last = len(a) - 1
    return float(np.mean([a[j:last, j].max() - a[last, j] for j in range(last)]))


def learning_accuracy(a: Matrix) -> float:
    """Mean score of the tasks, each right after its own stage (Riemer et al. 2019)."""
    return float(np.diagonal(a).mean())


METRICS: dict[str, Callable[[Matrix], float]] = {
    "average accuracy": average_accuracy,
    "retention": final_retention,
    "backward transfer": backward_transfer,
    "forgetting": forgetting,
    "learning accuracy": learning_accuracy,
}
