"""What a task gives without a model: one constant answer, and uniform guessing. Is a score better than chance?

1. The level of chance is the score of the best constant answer: the label that is right for most of the examples
   judged; of pairs, the answer that most often beats what it is paired with. Uniform guessing stands beside it.
2. A score is *above chance* where so many right answers have p < 0.05 in a one-sided exact binomial test of that level
   (`statistics.better_than_share`). The level is of the examples judged, and taken as known.
3. Of several scores, none is above chance where the smallest p times their number (Bonferroni) is 0.05 or more.

Answers that are generated have no such level, and neither have metrics between right and wrong (ROUGE-L): nothing is
tested there. What is "at chance" is not shown to be better: with few examples an able model can be.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from neuroscope.statistics import ALPHA, better_than_share
from neuroscope.tasks import Example, Task
from neuroscope.tasks.metrics import METRICS

Standing = Literal["above", "at chance", "no test"]
AT_CHANCE: Standing = "at chance"
CONSTANT = "the best constant answer"
RIGHT_OR_WRONG = ("accuracy", "exact")  # metrics


@dataclass(frozen=True)
class Constant:
    """Scores on some examples of a task that need no model; NaN where there is no level of chance.

    Attributes:
        answer: the best constant answer: right for most of the examples; the first such label.
        majority: its score.
        uniform: the expected score of guessing among the labels.
    """

    answer: str = ""
    majority: float = math.nan
    uniform: float = math.nan

    @classmethod
    def of(cls, task: Task, examples: Sequence[Example]) -> Constant:
        """Of the examples of a task."""
        if task.kind == "pairs":
            return cls._of_pairs(examples)
        if task.kind != "classification" or task.metric not in RIGHT_OR_WRONG:
            return cls()
        metric = METRICS[task.metric]
        scores = [float(np.mean([metric(label, e.references) for e in examples])) for label in task.labels]
        return cls(task.labels[int(np.argmax(scores))], max(scores), float(np.mean(scores)))

    @classmethod
    def _of_pairs(cls, examples: Sequence[Example]) -> Constant:
        """An answer given wherever it is one of the two, and guessing elsewhere."""
        right, wrong = (Counter(texts) for texts in zip(*((e.answer, e.corrupt_answer) for e in examples), strict=True))
        best = max(right, key=lambda text: right[text] - wrong[text])  # of equal ones the first
        return cls(best, 0.5 + 0.5 * max(0, right[best] - wrong[best]) / len(examples), 0.5)

    @property
    def known(self) -> bool:
        """Whether there is a level of chance."""
        return not math.isnan(self.majority)

    def p(self, outcomes: ArrayLike) -> float:
        """Of [example] outcomes, or their means over runs: one-sided binomial p of chance; NaN without a level."""
        measured = np.asarray(outcomes, dtype=float)
        if not self.known:
            return math.nan
        return better_than_share(float(measured.sum()), measured.size, self.majority)

    def columns(self, *outcomes: ArrayLike) -> dict[str, float]:
        """Of a row of a table: majority, uniform, and p_majority of chance alone in all of these measurements."""
        p = p_of_none([self.p(measured) for measured in outcomes])
        return {"majority": self.majority, "uniform": self.uniform, "p_majority": p}


def p_of_none(p: ArrayLike) -> float:
    """Bonferroni p of several scores none of which is above chance; NaN ones, that were not tested, do not count.

    Example:
        >>> p_of_none([0.01, 0.9, float("nan")]), p_of_none([0.9, 0.8])
        (0.02, 1.0)
    """
    values = np.asarray(p, dtype=float)
    values = values[~np.isnan(values)]
    return min(1.0, float(values.min() * values.size)) if values.size else math.nan


def standing(p: ArrayLike) -> Standing:
    """Where scores with such p stand: one "above" chance, all "at chance", or "no test".

    Example:
        >>> standing(0.04), standing([0.04, 0.9]), standing([])
        ('above', 'at chance', 'no test')
    """
    least = p_of_none(np.atleast_1d(np.asarray(p, dtype=float)))
    return "no test" if math.isnan(least) else "above" if least < ALPHA else AT_CHANCE
