"""Example: one text in, one answer out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

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
        corrupt_answer: the right answer to `corrupt`.
    """

    prompt: str
    answer: str
    references: tuple[str, ...] = ()
    corrupt: str | None = None
    corrupt_answer: str | None = None

    def __post_init__(self) -> None:
        for name in ("prompt", "answer", "corrupt", "corrupt_answer"):
            text = getattr(self, name)
            if text is None and name.startswith("corrupt"):
                continue
            if not isinstance(text, str):
                found = f"a {type(text).__name__} for {name}"
                raise TaskError("an Example", found, "give texts: Example(prompt, answer)")
            _check_characters(text, name)
        one = isinstance(self.references, str)
        references = (str(self.references),) if one else texts_of(self.references, "the references of an Example")
        for text in references:
            _check_characters(text, "reference")
        object.__setattr__(self, "references", references or (self.answer,))


def texts_of(values: Any, asked: str) -> tuple[str, ...]:
    """The texts of a list, a tuple, an array or a series; none of None.

    Raises:
        TaskError: one text, a set, whose order is another one in every process, a dict, or something that is no text.
    """
    if isinstance(values, str | Set | Mapping) or not isinstance(values, Iterable | None):
        order = ", which has no order" if isinstance(values, Set) else ""
        found = f"one text, {values!r}" if isinstance(values, str) else f"a {type(values).__name__}{order}"
        raise TaskError(asked, found, f"give a list of texts{', such as sorted(labels)' if order else ''}")
    texts = () if values is None else tuple(values)
    for text in texts:
        if not isinstance(text, str):
            raise TaskError(asked, f"{text!r}, a {type(text).__name__}", "give texts")
    return tuple(map(str, texts))


def _check_characters(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"half of a surrogate pair, {text[error.start]!r}, at character {error.start}"
        do = "read the text again in its own encoding, or leave that character out"
        raise TaskError(f"the {name} of an Example", found, do) from None


# a dataclass makes its own constructor: unknown arguments are refused as everywhere
Example.__init__ = public(Example.__init__)  # type: ignore[method-assign]
