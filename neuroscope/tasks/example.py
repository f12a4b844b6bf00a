"""Example: one text in, one answer out."""

from __future__ import annotations

from dataclasses import dataclass

from neuroscope.checks import public


@dataclass(frozen=True)
class Example:
    """One item of a task.

    Attributes:
        prompt: the whole text shown to the model, template already filled in.
        answer: the text that should follow (for classification: one of the task's labels).
        references: every accepted answer of a generation task, or one text; `(answer,)` where none are given.
        corrupt: a prompt of the same length whose right answer is another one (for activation patching).
        corrupt_answer: the right answer to `corrupt`.
    """

    prompt: str
    answer: str
    references: tuple[str, ...] = ()
    corrupt: str | None = None
    corrupt_answer: str | None = None

    def __post_init__(self) -> None:
        if not self.references:
            object.__setattr__(self, "references", (self.answer,))


# a dataclass makes its own constructor: unknown arguments are refused as everywhere
Example.__init__ = public(Example.__init__)  # type: ignore[method-assign]
