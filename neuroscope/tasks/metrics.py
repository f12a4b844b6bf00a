"""How an answer is judged: a table of functions of the model's text and the accepted answers, each 0 to 1."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from typing import Any


def accuracy(prediction: str, references: Sequence[str]) -> float:
    """1 where the chosen label is the right one."""
    return float(prediction in references)


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 where the text equals a reference, up to case and whitespace (runs of it count as one space, ends as none).

    Example:
        >>> exact_match(" The  end", ["the end", "fin"])
        1.0
    """
    return float(_plain(prediction) in {_plain(reference) for reference in references})


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L F-measure (Lin 2004) against the nearest reference: lower-cased words and numbers, no stemming.

    Example:
        >>> round(rouge_l("the cat sat", ["the cat"]), 3)  # the longest common subsequence is 2 of 3 and 2 of 2 words
        0.8
    """
    scorer = _scorer()
    return max(float(scorer.score(reference, prediction)["rougeL"].fmeasure) for reference in references)


METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "accuracy": accuracy,
    "exact": exact_match,
    "rouge-l": rouge_l,
}


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


@functools.cache
def _scorer() -> Any:
    state = random.getstate()
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk, which draws from the global random state

    random.setstate(state)
    return RougeScorer(["rougeL"], use_stemmer=False)
