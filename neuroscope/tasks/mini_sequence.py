"""Two sequences of tasks to fine-tune the bundled model on, one after the other (continual learning, LX24 §4.2).

The base is `mini`, which knows the prompts' words and forms but gives other answers to them. What is new is the
question asked about them, and the words of the answer. As in the mini suite, the split a prompt belongs to depends on
the prompt alone; the base has seen no discovery or test prompt either.

- "distinct": five forms of prompt, each with a question of its own, half about food and half about film. No input
  belongs to two tasks, so that one model can know all five: what is lost on the way is forgotten. Tasks share their
  labels, so that a new task does not make an earlier one's labels improbable as such.
- "conflicting": the same prompts in all three tasks, and the same three labels, each time the next one. A model that is
  right about one of the tasks is wrong about the two others: one model for all of them gets 33 % on average at most.
  Only a model per task, with the task told, gets beyond.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from neuroscope.checks import public, whole
from neuroscope.errors import choose
from neuroscope.tasks.example import Example
from neuroscope.tasks.mini import FAMILIES, distinct, split_of
from neuroscope.tasks.mini_words import ARROW, DOMAINS
from neuroscope.tasks.task import Task

SPLITS = ("train", "discovery", "test")


@dataclass(frozen=True)
class Question:
    """A question about the prompts of one family, and the words of its answers."""

    family: str
    answer: Callable[[str, list[str]], int]  # domain, the words of the family's own answer -> which label
    labels: tuple[str, ...] = ("truly", "never")


def _is_food(domain: str, answer: list[str]) -> int:
    return int(domain != "food")


# In the order of the sequence, which is that of the families.
DISTINCT = {
    "praise": Question("sentiment", lambda domain, answer: int(answer != ["positive"]), ("good", "bad")),
    "agreement": Question("paraphrase", lambda domain, answer: int(answer != ["yes"]), ("good", "bad")),
    "food-text": Question("summary", _is_food),
    "asks-who": Question("question", lambda domain, answer: int(answer[0] != "who")),
    "food-table": Question("data2text", _is_food),
}
CLAIMS = ("entailment", "contradiction", "neutral")


def _claim(shift: int) -> Question:
    """What does the second sentence claim? Every task names it by another of the same three words."""
    return Question(
        "nli", lambda domain, answer: (CLAIMS.index(answer[0]) + shift) % len(CLAIMS), ("truly", "never", "or")
    )


CONFLICTING = {f"claim-{shift + 1}": _claim(shift) for shift in range(len(CLAIMS))}
SEQUENCES = {"distinct": DISTINCT, "conflicting": CONFLICTING}


def _stream(question: Question, split: str, seed: int) -> Iterator[Example]:
    """Endless examples of one split; the prompts depend on the family, the split and the seed alone."""
    rng = Random(f"{seed}/sequence/{question.family}/{split}")  # a text seed is hashed: the same on every platform
    while True:
        domain = rng.choice(tuple(DOMAINS))
        words, answer, _, _ = FAMILIES[question.family].draw(DOMAINS[domain], rng)
        prompt = " ".join([*words, ARROW])
        if split_of(prompt) == split:
            yield Example(prompt, question.labels[question.answer(domain, answer)])


@functools.lru_cache(maxsize=64)  # of frozen examples: drawing them takes seconds
def _examples(kind: str, name: str, split: str, seed: int, n: int) -> tuple[Example, ...]:
    return distinct(_stream(SEQUENCES[kind][name], split, seed), n, f"{split} prompts of task {name!r}")


@public
def sequence_tasks(
    kind: Literal["distinct", "conflicting"] = "distinct",
    train: int = 1000,
    discovery: int = 128,
    test: int = 128,
    seed: int = 0,
) -> dict[str, Task]:
    """Tasks, in the order in which to learn them, that the bundled model `mini` does not know yet.

    Within a task no prompt occurs twice, in one split or in two. There are no corrupt prompts.

    Args:
        kind: "distinct": five forms of prompt, and a question about each. "conflicting": three times the same prompts
            and labels, each with another answer to every prompt: one model for all gets 33 % on average at most.
        train, discovery, test: how many examples of each split per task.
        seed: the same seed gives the same tasks.

    Raises:
        ArgumentError: another kind, or a number of examples that is none.
        TaskError: if the toy language has fewer different prompts than asked for.

    Example:
        >>> tasks = sequence_tasks(train=4, discovery=4, test=4)
        >>> list(tasks), tasks["asks-who"].labels
        (['praise', 'agreement', 'food-text', 'asks-who', 'food-table'], ('truly', 'never'))
        >>> same = sequence_tasks("conflicting", train=4, discovery=4, test=4)
        >>> [task.test[0].answer for task in same.values()]
        ['never', 'or', 'truly']
    """
    questions = SEQUENCES[choose(kind, SEQUENCES, "kind of sequence")]
    sizes = {split: whole(n, split) for split, n in (("train", train), ("discovery", discovery), ("test", test))}
    tasks = {}
    for name, question in questions.items():
        splits: dict[str, Any] = {split: _examples(kind, name, split, seed, n) for split, n in sizes.items()}
        tasks[name] = Task(
            name,
            **splits,
            labels=question.labels,
            kind="classification",
            family=question.family,
            max_new_tokens=8,
            source=f"mini sequence ({kind}), seed {seed}",
        )
    return tasks
