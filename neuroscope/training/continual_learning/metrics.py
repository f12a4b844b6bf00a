"""Numbers about a matrix of scores a[i, j]: the score on task j after the stage that learnt task i.

Rows and columns are in the order of learning. NaN marks a stage that a method does not have (`joint` has the last one
alone); what cannot be computed without it is NaN too.

`run_metrics` and `method_means` make tables of these numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats

from neuroscope.statistics import mean_interval

if TYPE_CHECKING:
    import pandas as pd

Matrix = Float[NDArray[np.float64], "stage task"]
VARIANT = ["method", "options", "lr"]
COSTS = ("trained", "stored", "seconds", "peak_mib")
RUN = [*VARIANT, "order", "seed"]  # what tells one run of a sequence from another


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
    learnt = np.diagonal(a)
    shares = np.full(len(a), np.nan)
    for j in range(1, len(a)):
        if (learnt[:j] > 0).all():
            shares[j] = (a[j, :j] / learnt[:j]).mean()
    return shares


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


def matrix(run: pd.DataFrame) -> Matrix:
    """a[i, j] of the rows of one run, without the base's; NaN where a method has no such stage."""
    learnt = run[run["position"] > 0]
    wide = learnt.pivot(index="stage", columns="position", values="score")
    stages = range(1, wide.shape[1] + 1)
    return wide.reindex(index=stages, columns=stages).to_numpy(dtype=float)


def run_metrics(table: pd.DataFrame) -> pd.DataFrame:
    """One row per run of a `Continual`'s table; its columns are told at `Continual.metrics`."""
    import pandas as pd  # heavy: only where tables are made

    rows = []
    table = table if "stored" in table else table.assign(stored=0)  # saved before it was counted
    for key, run in table.groupby(RUN, sort=False):
        a = matrix(run)
        row = dict(zip(RUN, key, strict=True)) | {name: metric(a) for name, metric in METRICS.items()}
        last = run[(run["stage"] == run["stage"].max()) & (run["position"] > 0)]
        error = stats.norm.ppf(0.975) * float(np.sqrt((last["se"] ** 2).sum())) / len(last)
        row |= {"low": max(0.0, row["average accuracy"] - error), "high": min(1.0, row["average accuracy"] + error)}
        known = run[run["position"] == 0].groupby("stage")["score"].mean()
        row["base"] = known.get(0, np.nan)
        row["base kept"] = known.iloc[-1] / known.loc[0] if len(known) and known.loc[0] > 0 else np.nan
        stages = run[run["stage"] > 0].groupby("stage")[[*COSTS]].first()
        row |= {name: int(stages[name].iloc[-1]) for name in ("trained", "stored")}
        row |= {"seconds": float(stages["seconds"].sum())}
        rows.append(row | {"peak_mib": float(stages["peak_mib"].max())})
    return pd.DataFrame(rows)


def method_means(metrics: pd.DataFrame) -> pd.DataFrame:
    """One row per method, options and learning rate: means over the rows of `run_metrics`."""
    import pandas as pd  # heavy: only where tables are made

    rows = []
    for key, runs in metrics.groupby(VARIANT, sort=False):
        means = runs[[*METRICS, "base", "base kept", *COSTS]].mean(skipna=False)
        low, high = float(runs["low"].iloc[0]), float(runs["high"].iloc[0])
        if len(runs) > 1:
            low, high = np.clip(mean_interval(runs["average accuracy"]), 0.0, 1.0)  # where scores are
        rows.append(dict(zip(VARIANT, key, strict=True)) | {"runs": len(runs), **means, "low": low, "high": high})
    return pd.DataFrame(rows)
