"""Which tasks are at chance, and what results say of them: nothing can be concluded there, and what to do first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from neuroscope.evaluation import AT_CHANCE, CONSTANT, p_of_none, standing
from neuroscope.markup import NOTHING
from neuroscope.statistics import ALPHA

if TYPE_CHECKING:
    import pandas as pd

LEVEL = ["majority", "uniform", "p_majority"]
MEANS = "- Means over tasks hold those at chance as well, which say nothing for or against them."
NOT_AT_CHANCE = "mean (not at chance)"


@dataclass(frozen=True)
class Standings:
    """Where the model stands at each task, by the best of some measurements.

    Attributes:
        rows: of a table with task, score, and the columns of `evaluation.Constant`: those that count.
        when: what they are, such as "with nothing switched off".
    """

    rows: pd.DataFrame
    when: str

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per task: score (the best one), majority, uniform, p_majority (that none is above), chance.

        The last says where the best of them stands: "above" chance, "at chance", or "no test".
        """
        tasks = self.rows.groupby("task", sort=False)
        found = tasks[["score", "majority", "uniform"]].max()
        found["p_majority"] = tasks["p_majority"].agg(p_of_none)
        found["chance"] = [standing(p) for p in found["p_majority"]]
        return found

    @property
    def at_chance(self) -> list[str]:
        """Names of the tasks at chance, in order."""
        return list(self.table.index[self.table["chance"] == AT_CHANCE])

    @property
    def others(self) -> list[str]:
        """Names of the tasks that are not: above chance, or without a test."""
        return list(self.table.index[self.table["chance"] != AT_CHANCE])

    @property
    def mean(self) -> str:
        """The row of a summary with the means over the tasks of which something can be concluded."""
        return NOT_AT_CHANCE if self.at_chance and self.others else "mean (all)"

    def means(self) -> dict[str, list[str]]:
        """The tasks of that row, if it is one of its own."""
        return {self.mean: self.others} if self.mean == NOT_AT_CHANCE else {}

    def beside(self, summary: pd.DataFrame) -> pd.DataFrame:
        """A summary by task with majority, uniform, p_majority and chance."""
        joined = summary.join(self.table.drop(columns="score"))
        return joined.assign(chance=joined["chance"].fillna(""))

    def but(self) -> str:
        """How a sentence ends that says nothing about the tasks at chance; "" if there are none."""
        names = ", ".join(self.at_chance)
        return f"; nothing can be concluded about **{names}**, at chance {self.when}" if names else ""

    def nothing(self) -> str:
        """The sentence that leads where every task is at chance."""
        which = "the task" if len(self.table) == 1 else f"any of the {len(self.table)} tasks"
        return f"{NOTHING}: {self.when} the model is not shown to be better than {CONSTANT} at {which}.\n"

    def why(self) -> list[str]:
        """Why nothing can be concluded about the tasks at chance, and what to do first: a line, or none."""
        told = [
            f"{r.Index} ({r.score:.1%}, where one answer given always gets {r.majority:.1%}"
            + ("; all its examples have that answer, so no score can be better)" if r.majority == 1 else ")")
            for r in self.table.loc[self.at_chance].itertuples()
        ]
        if not told:
            return []
        return [
            f"- {NOTHING} about {', '.join(told)}: {self.when} the model is not shown to be better there than "
            f"{CONSTANT} (one-sided binomial test, p >= {ALPHA}). First tune the model on the task "
            "(longer, if it was), try another prompt or `ranking`, or judge more test examples."
        ]

    def note(self, how: str = "") -> str:
        """For the subtitle of a figure: which tasks are at chance, and how that is drawn; "" if none is."""
        return f"<br>at chance, nothing can be concluded{how}: {', '.join(self.at_chance)}" if self.at_chance else ""

    def bars(self, names: Sequence[str]) -> tuple[list[float], list[str]]:
        """For bars of tasks: the level of the best constant answer in percent, and hover texts."""
        rows = self.table.loc[list(names)]
        hover = [f"guessing: {100 * r.uniform:.4g}<br>{self.when} the model is {r.chance}" for r in rows.itertuples()]
        return (100 * rows["majority"]).tolist(), hover
