"""Example: one text in, one answer out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neuroscope.checks import public
from neuroscope.errors import TaskError


@dataclass(frozen=True)
class Example:
    """One item of a task.

    Attributes:
        prompt: the whole text shown to the model, template already filled in.
        answer: the text that should follow (for classification: one of the task's labels).
        references: every accepted answer of a generation task, or one text; `(answer,)` where none are given.
        corrupt: a prompt of the same length whose right answer is another one (for activation patching).
        corrupt_answer: the right answer to `corrupt`, and a wrong one to `prompt`.

    Example:
        >>> import neuroscope as ns
        >>> example = ns.Example("The soup was awful:", "bad", corrupt="The soup was lovely:", corrupt_answer="good")
        >>> example.references, example.corrupt_answer
        (('bad',), 'good')
    """

    prompt: str
    answer: str
    references: tuple[str, ...] = ()
    corrupt: str | None = None
    corrupt_answer: str | None = None

    def __post_init__(self) -> None:
        if not self.references:
            object.__setattr__(self, "references", (self.answer,))


class Turns(tuple[Example, ...]):
    """Earlier turns of a conversation, in the place of shots: what was said, which the last prompt may say again."""


# a dataclass makes its own constructor: unknown arguments are refused as everywhere
Example.__init__ = public(Example.__init__)  # type: ignore[method-assign]


def check_pairs(examples: Sequence[Example], what: str, where: str) -> None:
    """Refuse examples without a wrong answer beside the right one.

    Raises:
        TaskError: there is such an example.
    """
    for i, example in enumerate(examples):
        if example.corrupt_answer is None or example.corrupt_answer == example.answer:
            found = f"answer {example.answer!r} and corrupt_answer {example.corrupt_answer!r}"
            do = "give Example(corrupt_answer=...), the wrong answer to its prompt"
            raise TaskError(f"a pair of answers in {what} {i} {where}", found, do)
