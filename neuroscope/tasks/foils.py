"""Foils: beside each example's answer another one, for the difference of their logits at the first token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from neuroscope.errors import TaskError
from neuroscope.tasks.encoding import Encoded, encode
from neuroscope.tasks.example import Example
from neuroscope.tasks.task import Task

if TYPE_CHECKING:
    from neuroscope.models import Model


def foil_of(task: Task, example: Example) -> str:
    """The answer that an example's own is compared with: its corrupt prompt's, or the other one of two labels.

    Raises:
        TaskError: it has neither.
    """
    others = [label for label in task.labels if label != example.answer] if len(task.labels) == 2 else []
    foil = example.corrupt_answer if example.corrupt_answer is not None else next(iter(others), None)
    if foil is None:
        do = "give Example(corrupt_answer=...), or use a task of two labels"
        raise TaskError(f"a foil for {example.answer!r} in task {task.name!r}", "no other answer to compare with", do)
    return foil


def foils(model: Model, task: Task, examples: Sequence[Example], encoded: Sequence[Encoded]) -> Int[Tensor, " example"]:
    """The first token of each example's foil.

    Args:
        encoded: the same examples with their own answers.

    Raises:
        TaskError: an example without a foil, or one whose answer and foil begin with the same token.
    """
    others = [foil_of(task, example) for example in examples]
    tokens = [item.answer[0] for item in encode(model, task, examples, others)]
    for i, (foil, item) in enumerate(zip(tokens, encoded, strict=True)):
        if foil == item.answer[0]:
            found = f"{examples[i].answer!r} and {others[i]!r} begin with the same token"
            raise TaskError(
                f"tell the answers of pair {i} apart", found, "choose answers that differ in the first token"
            )
    return torch.tensor(tokens)


def first_token(encoded: Encoded, style: str) -> Encoded:
    """What is shown to predict the answer's first token, alone scored: of a longer answer, no token is an input."""
    encoded = replace(encoded, answer=encoded.answer[:1])
    if style == "masked":  # there the answer's length is part of the question
        return encoded
    if style == "seq2seq":
        return replace(encoded, decoder=encoded.decoder[:1])
    end = encoded.first + 1
    return replace(encoded, inputs=encoded.inputs[:end], corrupt=encoded.corrupt[:end])
