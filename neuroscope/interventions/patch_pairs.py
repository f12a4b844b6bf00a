"""Pairs of prompts for activation patching: a clean and a corrupt one of as many tokens, with an answer each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from neuroscope.checks import texts_of
from neuroscope.errors import ArgumentError, TaskError
from neuroscope.models import Model
from neuroscope.tasks import Example, Task
from neuroscope.tasks.encoding import Batch, Encoded, batches_for, encode
from neuroscope.tasks.foils import first_token, foils
from neuroscope.tasks.prompts import fitting


@dataclass(frozen=True)
class Alike:
    """Pairs of one length, whose answers are predicted at one position.

    Attributes:
        batch: the clean prompts, with the corrupt ones beside them.
        index: which pairs these are, in the batch's order.
        at: True at the position whose logits predict the answer's first token.
        right, wrong: the first tokens of the clean and of the corrupt answer.
    """

    batch: Batch
    index: list[int]
    at: Bool[Tensor, "pair pos"]
    right: Int[Tensor, " pair"]
    wrong: Int[Tensor, " pair"]


@dataclass(frozen=True)
class Pairs:
    """Clean and corrupt prompts as token ids, up to the position that predicts the answer's first token.

    Attributes:
        task: where they come from; one named "prompts" if they were given as texts.
        encoded: one item per pair.
        right, wrong: the first tokens of the clean and of the corrupt answers.
    """

    task: Task
    encoded: Sequence[Encoded]
    right: Int[Tensor, " pair"]
    wrong: Int[Tensor, " pair"]

    def __len__(self) -> int:
        return len(self.encoded)

    @property
    def lengths(self) -> list[int]:
        """The numbers of tokens that occur, ascending."""
        return sorted({len(item.inputs) for item in self.encoded})

    def alike(self, model: Model) -> Iterator[Alike]:
        """The pairs in groups that are one batch each."""
        groups: dict[tuple[int, int], list[int]] = {}
        for i, item in enumerate(self.encoded):
            groups.setdefault((len(item.inputs), item.first), []).append(i)
        for (_, first), members in groups.items():
            items = [self.encoded[i] for i in members]
            batch = next(batches_for(model, items, len(items)))
            index = [members[j] for j in batch.index.tolist()]
            at = torch.zeros_like(batch.scored).index_fill(1, torch.tensor([first], device=model.device), True)
            yield Alike(batch, index, at, self.right[index], self.wrong[index])


def pairs_of(model: Model, clean: Any, corrupt: Any, answers: Any, examples: int | None) -> Pairs:
    """The pairs of a task, or of prompts and answers given as texts.

    Raises:
        TaskError: prompts of different lengths, answers that begin with the same token, or a task without pairs.
        ArgumentError: prompts and answers that do not pair up.
    """
    if isinstance(clean, Task):
        if corrupt is not None or answers is not None:
            raise ArgumentError("patch_sweep(task, corrupt)", "a task and prompts", "give one of the two")
        task = clean
    else:
        task = _task_of_texts(clean, corrupt, answers)
    chosen = [e for e in task.split("discovery", examples) if e.corrupt is not None and e.corrupt_answer is not None]
    if not chosen:
        found = "no example with a corrupt prompt"
        raise TaskError(f"pairs of task {task.name!r}", found, "give Example(corrupt=...)")
    chosen = list(fitting(model, task, chosen).values())
    encoded = [first_token(item, model.style) for item in encode(model, task, chosen, corrupt=True)]
    right = torch.tensor([item.answer[0] for item in encoded])
    wrong = foils(model, task, chosen, encoded)
    return Pairs(task, encoded, right.to(model.device), wrong.to(model.device))


def _task_of_texts(clean: Any, corrupt: Any, answers: Any) -> Task:
    """Prompts and answers as a task."""
    clean = texts_of(clean, "patch_sweep(clean)")
    if corrupt is None or answers is None:
        found = "no corrupt prompts or no answers"
        raise ArgumentError("patch_sweep(clean prompts)", found, "give corrupt= and answers=")
    corrupt = texts_of(corrupt, "patch_sweep(corrupt)")
    one = len(answers) == 2 and all(isinstance(a, str) for a in answers)
    each = [tuple(answers)] * len(clean) if one else [() if isinstance(pair, str) else tuple(pair) for pair in answers]
    if any(len(pair) != 2 or not all(isinstance(a, str) for a in pair) for pair in each):
        raise ArgumentError("patch_sweep(answers=...)", f"{answers!r}", "give (clean answer, corrupt answer)")
    if not len(clean) == len(corrupt) == len(each) or not clean:
        found = f"{len(clean)} clean, {len(corrupt)} corrupt prompts, {len(each)} answers"
        raise ArgumentError("patch_sweep", found, "pair them")
    texts = zip(clean, corrupt, each, strict=True)
    discovery = [Example(a, right, corrupt=b, corrupt_answer=wrong) for a, b, (right, wrong) in texts]
    return Task("prompts", discovery=discovery, kind="generation")
