"""Was a task learnt at all? Its score right after its own stage, beside the best constant answer.

1. A task's score after its own stage (of methods that learn all at once: after the last) is averaged over the runs of a
   method, and tested against the best constant answer (`evaluation.constant`); a mean over runs varies no more than a
   run does.
2. What was never shown to be better than that was not shown to be learnt: nothing can be concluded about whether it is
   forgotten later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from neuroscope.evaluation import AT_CHANCE, CONSTANT, Constant, standing
from neuroscope.markup import NOTHING
from neuroscope.statistics import ALPHA, better_than_share
from neuroscope.tasks.prompts import fitting
from neuroscope.training.continual_learning.metrics import RUN, VARIANT

if TYPE_CHECKING:
    import pandas as pd

    from neuroscope.models import Model
    from neuroscope.tasks import Task

AT_ONCE = "(all)"  # the stage of a method that learns all tasks at once


def chance_of(model: Model, tasks: Sequence[Task], split: str, n: int | None) -> dict[str, Any]:
    """By task, what its judged examples give without a model; None where there is no level of chance."""
    found = {task.name: Constant.of(task, tuple(fitting(model, task, task.split(split, n)).values())) for task in tasks}
    return {name: vars(constant) if constant.known else None for name, constant in found.items()}


def learnt_table(
    table: pd.DataFrame, labels: Mapping[tuple[str, str, float], str], chance: Mapping[str, Any]
) -> pd.DataFrame:
    """One row per method and learnt task: means over runs, and whether it was learnt above chance.

    Columns: method, task, learnt (score after its own stage), last (after the last stage), kept (last over learnt; NaN
    at chance, where nothing was there to be kept), runs, n, majority, uniform, p_majority, chance.

    Args:
        table: of a `Continual`.
        labels: what each (method, options, learning rate) is called.
        chance: as `chance_of` gives it; empty of results that were saved without.
    """
    import pandas as pd  # heavy: only where tables are made

    own = table[(table["position"] > 0) & (table["stage"] > 0)]
    own = own[(own["learnt"] == own["task"]) | (own["learnt"] == AT_ONCE)]
    ends = table[table["stage"] == table.groupby(RUN)["stage"].transform("max")]
    last = ends.groupby([*VARIANT, "task"], sort=False)["score"].mean()
    rows = []
    for (*variant, task), runs in own.groupby([*VARIANT, "task"], sort=False):
        constant = Constant(**(chance.get(task) or {}))
        learnt, n = float(runs["score"].mean()), int(runs["n"].iloc[0])
        p = better_than_share(learnt * n, n, constant.majority) if constant.known else math.nan
        stands, end = standing(p), float(last[(*variant, task)])
        rows.append(
            {"method": labels[variant[0], variant[1], variant[2]], "task": task, "learnt": learnt, "last": end}
            | {"kept": math.nan if stands == AT_CHANCE or not learnt else end / learnt, "runs": len(runs), "n": n}
            | {"majority": constant.majority, "uniform": constant.uniform, "p_majority": p, "chance": stands}
        )
    return pd.DataFrame(rows)


def never_learnt(learnt: pd.DataFrame) -> list[str]:
    """Of the tasks that were not shown to be learnt, a line per method: nothing can be concluded about forgetting."""
    lines = []
    for method, rows in learnt[learnt["chance"] == AT_CHANCE].groupby("method", sort=False):
        told = [
            f"{r.task} ({r.learnt:.1%}, where one answer given always gets {r.majority:.1%})" for r in rows.itertuples()
        ]
        lines.append(
            f"- {NOTHING} about forgetting of {', '.join(told)} by {method}: **learning accuracy at chance**. Right "
            f"after its own stage it is not shown to be better than {CONSTANT} (one-sided binomial p >= {ALPHA}). "
            "Train longer, or at another rate; means of retention and forgetting hold such tasks too."
        )
    return lines


def kept_in_words(learnt: pd.DataFrame, retention: float, lasts: Sequence[str]) -> str:
    """How the verdict on a method ends: what is kept of the tasks that it learnt; "" where there is nothing to keep.

    Args:
        learnt: its rows.
        retention: its mean over all earlier tasks.
        lasts: the last task of each order, which had no time to be forgotten if there is one order.
    """
    at_chance = learnt["chance"] == AT_CHANCE
    if not retention >= 0:
        return ""
    if not at_chance.any():
        return f", and **{retention:.0%}** of a task's score is kept on average"
    kept = learnt[~at_chance & ~(learnt["task"].isin(lasts) & (len(set(lasts)) == 1))]["kept"].dropna()
    return (
        f", and **{kept.mean():.0%}** of the score of a task learnt above chance is kept on average"
        if len(kept)
        else ""
    )


def note(learnt: pd.DataFrame) -> str:
    """For the subtitle of a figure: what was never learnt; "" where all was."""
    at_chance = learnt[learnt["chance"] == AT_CHANCE]
    names = [f"{task} ({', '.join(rows['method'])})" for task, rows in at_chance.groupby("task", sort=False)]
    return f"<br>learning accuracy at chance, nothing can be concluded: {'; '.join(names)}" if names else ""
