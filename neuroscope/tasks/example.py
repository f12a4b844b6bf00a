"""Example: one text in, one answer out."""

from __future__ import annotations

from dataclasses import dataclass

from neuroscope.checks import public
from neuroscope.errors import TaskError


@dataclass(frozen=True)
class Example:
    """One item of a task.

    Attributes:
        prompt: the whole text shown to the model, template already filled in.
        answer: the text that should follow (for classification: one of the task's labels).
        references: every accepted answer of a generation task; `(answer,)` where none are given.
        corrupt: a prompt of the same length whose right answer is another one (for activation patching).
        corrupt_answer: the right answer to `corrupt`.
    """

    prompt: str
    answer: str
    references: tuple[str, ...] = ()
    corrupt: str | None = None
    corrupt_answer: str | None = None

    def __post_init__(self) -> None:
        for name in ("prompt", "answer"):
            if not isinstance(getattr(self, name), str):
                found = f"a {type(getattr(self, name)).__name__} for {name}"
                raise TaskError("an Example", found, "give texts: Example(prompt, answer)")
        for name in ("prompt", "answer", "corrupt"):
            _check_characters(getattr(self, name) or "", name)
        if not self.references:
            object.__setattr__(self, "references", (self.answer,))


def _check_characters(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"half of a surrogate pair, {text[error.start]!r}, at character {error.start}"
        do = "read the text again in its own encoding, or leave that character out"
        raise TaskError(f"the {name} of an Example", found, do) from None


# a dataclass makes its own constructor: unknown arguments are refused as everywhere
Example.__init__ = public(Example.__init__)  # type: ignore[method-assign]
