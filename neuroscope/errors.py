"""Every exception of the package. Each says what was asked, what was found, and what to do."""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class NeuroscopeError(ValueError):
    """The parent of every error raised on purpose by neuroscope.

    Args:
        asked: what the caller wanted.
        found: what was there instead.
        do: the way out.
    """

    def __init__(self, asked: str, found: str, do: str) -> None:
        self.asked, self.found, self.do = asked, found, do
        super().__init__(f"{asked}\n  found: {found}\n  do:    {do}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.asked, self.found, self.do)


class ArgumentError(NeuroscopeError, TypeError):
    """An argument has a wrong name, type or value."""


class ModelError(NeuroscopeError):
    """The model cannot be opened, or cannot do what was asked of it."""


class MaskError(NeuroscopeError):
    """A mask or a table of scores does not fit the model or the other mask."""


class TaskError(NeuroscopeError):
    """A task is empty, malformed, or does not fit the model."""


class FileError(NeuroscopeError):
    """A file is missing, truncated, or not of the expected kind."""


class NumericalError(NeuroscopeError):
    """A number that must be finite is not."""


def suggest(name: str, known: Iterable[str]) -> str:
    """`known` as one line for an error's last part, led by the nearest match to `name` if there is one."""
    known = [str(k) for k in known]
    near = difflib.get_close_matches(str(name), known, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + "choose from " + ", ".join(map(repr, known))


def choose(name: str, known: Iterable[str], what: str) -> str:
    """`name` itself if it is one of `known`; otherwise an `ArgumentError` that lists them."""
    known = list(known)
    if name not in known:
        raise ArgumentError(f"{what}={name!r}", f"no such {what}", suggest(name, known))
    return name


def public(function: Callable[P, T]) -> Callable[P, T]:
    """Refuse unknown or missing arguments of a public function with a `NeuroscopeError` that lists the known ones."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            unknown = next((k for k in kwargs if k not in signature.parameters), "")
            raise ArgumentError(
                f"{function.__qualname__}{signature_brief(args, kwargs)}",
                str(error),
                suggest(unknown, (name for name in signature.parameters if name != "self")),
            ) from None
        return function(*args, **kwargs)

    return checked


def signature_brief(args: tuple, kwargs: dict) -> str:
    """The shape of a call, for an error text: types of the positional arguments and names of the others."""
    return "(" + ", ".join([type(a).__name__ for a in args] + [f"{k}=..." for k in kwargs]) + ")"
