"""Which examples a model has right both ways: on the clean prompt, and on the corrupt one, whose answer is another.

1. Of each example with a corrupt prompt and a `corrupt_answer`, a pair is made, whatever the task's kind.
2. It is aligned if both prompts have as many tokens, before either answer: only then do patched positions match.
3. It is kept if it is aligned and the model prefers the right one of the two answers to either prompt (summed
   log-likelihoods). A model that always prefers one of the two keeps nothing, one that guesses a quarter.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from neuroscope.evaluation import Prepared, predict, prepare_task
from neuroscope.models import Model
from neuroscope.statistics import score_interval
from neuroscope.tasks import Example, Task
from neuroscope.tasks.encoding import Encoded

FEWEST = 5  # examples to find neurons on, and to judge: with fewer, no score is above chance


def both_correct(
    model: Model, name: str, task: Task, least: float, examples: int | None, n: int | None, batch_size: int | None
) -> tuple[Task | None, dict[str, Any]]:
    """The task with the examples that are kept, as one of kind "pairs" (None: left out), and a row that says why.

    Args:
        name: by which it is told of.
        least: the share of the aligned examples, of both splits together, that are to be kept.
        examples, n: at most how many discovery and test examples are tried.

    Returns:
        The row has task, family, examples (tried), paired (with a corrupt prompt and answer), aligned, clean and
        corrupt (shares of the aligned that are right), both (kept), share (kept of the aligned), its 95 % interval low
        and high, discovery and test (kept in each), kept, why (it is left out).
    """
    kept: dict[str, list[Example]] = {}
    tried = paired = 0
    right: list[tuple[bool, bool]] = []  # of the aligned ones: clean, corrupt
    for split, most in (("discovery", examples), ("test", n)):
        given = task.split(split, most)
        pairs = [e for e in given if e.corrupt is not None and e.corrupt_answer not in (None, e.answer)]
        tried, paired = tried + len(given), paired + len(pairs)
        found = _right(model, task, pairs, batch_size) if pairs else {}
        right += found.values()
        kept[split] = [pairs[i] for i, each in found.items() if all(each)]
    outcomes = np.array(right, dtype=float).reshape(-1, 2)
    both = outcomes.all(1).astype(float)
    numbers = {"share": np.nan, "low": np.nan, "high": np.nan, "clean": np.nan, "corrupt": np.nan}
    if len(right):
        low, high = score_interval(both)
        numbers = {"share": float(both.mean()), "low": low, "high": high}
        numbers |= {"clean": float(outcomes[:, 0].mean()), "corrupt": float(outcomes[:, 1].mean())}
    row = {"task": name, "family": task.family, "examples": tried, "paired": paired, "aligned": len(right)}
    row |= {"both": int(both.sum())} | numbers | {split: len(each) for split, each in kept.items()}
    why = _why_not(row, least)
    return None if why else _pairs(task, **kept), row | {"kept": not why, "why": why}


def _why_not(row: dict[str, Any], least: float) -> str:
    if not row["paired"]:
        return "no corrupt prompts with an answer of their own"
    if not row["aligned"]:
        return "no corrupt prompt of as many tokens as the clean one"
    if row["share"] < least:
        return f"right both ways in {row['share']:.0%} of {row['aligned']} examples, less than {least:.0%}"
    if min(row["discovery"], row["test"]) < FEWEST:
        return f"{row['discovery']} examples to find neurons on and {row['test']} to judge, fewer than {FEWEST}"
    return ""


def _pairs(task: Task, **splits: list[Example]) -> Task:
    """A task of kind "pairs" with these examples alone."""
    none = dict.fromkeys(("train", "discovery", "test"), ())
    return replace(task, **{**none, **splits}, kind="pairs", labels=(), metric="")  # type: ignore[arg-type]


def _right(model: Model, task: Task, pairs: list[Example], batch_size: int | None) -> dict[int, tuple[bool, bool]]:
    """Of the aligned examples by their place: whether the clean and the corrupt prompt are answered rightly."""
    turned = [Example(str(e.corrupt), str(e.corrupt_answer), (), e.prompt, e.answer) for e in pairs]
    sides = [prepare_task(model, _pairs(task, test=each), "test", None, batch_size) for each in (pairs, turned)]
    places = [{place: i for i, place in enumerate(side.index)} for side in sides]  # some may be too long
    right = [
        [answer == example.answer for answer, example in zip(predict(model, side), side.examples, strict=True)]
        for side in sides
    ]
    return {
        place: (right[0][i], right[1][places[1][place]])
        for place, i in places[0].items()
        if place in places[1] and _aligned(sides, i, places[1][place])
    }


def _aligned(sides: list[Prepared], clean: int, corrupt: int) -> bool:
    """Whether both prompts have as many tokens, with either answer; what is right for one is wrong for the other."""
    (wrong, right), (right_there, wrong_there) = sides[0].labels, sides[1].labels
    return _alike(right[clean], right_there[corrupt]) and _alike(wrong[clean], wrong_there[corrupt])


def _alike(one: Encoded, other: Encoded) -> bool:
    return (len(one.inputs), one.first, one.answer) == (len(other.inputs), other.first, other.answer)
