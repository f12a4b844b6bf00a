"""Shots: solved examples that stand before every prompt, drawn from a task's training examples."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random

from neuroscope.errors import TaskError
from neuroscope.tasks.example import Example


def draw(
    name: str, train: Sequence[Example], judged: Collection[str], labels: Sequence[str], n: int, seed: int
) -> tuple[Example, ...]:
    """Draw shots with different prompts, as many of each label as of the others where the examples allow it.

    Args:
        name: of the task, for errors.
        judged: prompts that are never drawn.
        labels: empty of a generation task.

    Raises:
        TaskError: there are fewer examples than shots.
    """
    distinct = {key_of(example): example for example in reversed(train)}  # the first of each prompt
    pool = [e for key, e in reversed(distinct.items()) if key not in judged]
    if n > len(pool):
        found = f"{len(pool)} training examples whose prompts are not among the discovery or test prompts"
        raise TaskError(f"{n} shots of task {name!r}", found, "ask for fewer shots, or give more training examples")
    generator = Random(seed)
    generator.shuffle(pool)
    order = list(labels)
    generator.shuffle(order)
    by_label = [[e for e in pool if e.answer == label] for label in order] or [pool]
    chosen: list[Example] = []
    while len(chosen) < n:  # one of each label in turn, of those that have any left
        chosen += [part.pop() for part in by_label if part][: n - len(chosen)]
    generator.shuffle(chosen)
    return tuple(chosen)


def key_of(example: Example) -> str:
    """What makes two prompts the same."""
    return example.prompt.strip()
