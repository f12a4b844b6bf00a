"""Every exception of the package. Each says what was asked, what was found, and what to do."""

import contextlib
import difflib
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
SWAPPED = {  # keywords that are taken for each other -> the other one, and what that means
    "n": ("examples", ", how many examples neurons are found on"),
    "examples": ("n", ", how many examples are judged or represented"),
}
SHOWN = 80  # characters of a refused argument in an error


class NeuroscopeError(ValueError):
    """The parent of every error raised on purpose by neuroscope.

    Args:
        asked: what the caller wanted.
        found: what was there instead.
        do: the way out.

    Example:
        >>> import neuroscope as ns
        >>> try:
        ...     ns.NeuronMask.of({0: [9]}, {"blocks.0": 4})
        ... except ns.NeuroscopeError as error:
        ...     print(error)
        the neurons of a mask at blocks.0
          found: neuron 9; the site has 4
          do:    use indices from 0 to 3, or one flag for each neuron; the nearest: 0.3
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


class UnknownName(ArgumentError, KeyError):
    """A name that a mapping does not have."""

    __str__ = ValueError.__str__  # that of KeyError would be one quoted line


class ByName(dict[str, T]):
    """A dict that answers a name which it does not have with its own names.

    Example:
        >>> ByName({"nli-food": 1})["NLI-Food"]
        Traceback (most recent call last):
        neuroscope.errors.UnknownName: 'NLI-Food'
          found: no such name
          do:    did you mean 'nli-food'? choose from 'nli-food'
    """

    def __missing__(self, name: object) -> T:
        raise UnknownName(repr(name), "no such name", suggest(str(name), self))


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """A scope in which errors name the argument that is looked at."""
    try:
        yield
    except NeuroscopeError as error:
        raise type(error)(f"{name}: {error.asked}", error.found, error.do) from error.__cause__


def shown(name: str, value: Any) -> str:
    """An argument as an error shows it: on one line, and not longer than is read."""
    return f"{name}={brief(value)}"


PLURALS = {"str": "texts", "int": "whole numbers", "float": "numbers", "Scores": "Scores"}


def kind_of(value: object) -> str:
    """What was given, in words: "a Task", "an int", "a dict of 12 Tasks", "an empty list"."""
    name, inside = type(value).__name__, None
    with contextlib.suppress(Exception):  # a container of somebody else's may fail in any way
        if isinstance(value, dict | list | tuple):
            every = value.values() if isinstance(value, dict) else value
            inside = ["dict" if isinstance(one, dict) else type(one).__name__ for one in every]
            name = "dict" if isinstance(value, dict) else name
    if inside is not None and not inside:
        name = f"empty {name}"
    elif inside and len(set(inside)) == 1:
        many = f"{len(inside)} {PLURALS.get(inside[0], inside[0] + 's')}"
        name += f" of {many if len(inside) > 1 else f'one {inside[0]}'}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def brief(value: Any) -> str:
    """A value as an error shows it."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a repr of somebody else's may fail in any way
        text = kind_of(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def suggest(name: str, known: Iterable[str]) -> str:
    """`known` as one line for an error's last part, led by the nearest match to `name` if there is one."""
    known = [str(k) for k in known]
    by_lower = {k.lower(): k for k in known}
    near = [by_lower[one] for one in difflib.get_close_matches(str(name).lower(), by_lower, n=1)]
    other, meaning = SWAPPED.get(name, ("", ""))
    if other in by_lower:
        near = [other]
    return (
        (f"did you mean {near[0]!r}{meaning if near == [other] else ''}? " if near else "")
        + "choose from "
        + ", ".join(map(repr, known))
    )


def called_with(args: tuple, kwargs: dict) -> str:
    """The shape of a call, for an error text: types of the positional arguments and names of the others."""
    return "(" + ", ".join([type(a).__name__ for a in args] + [f"{k}=..." for k in kwargs]) + ")"


def taken(signature: inspect.Signature, given: Iterable[str]) -> str:
    """What a call takes, or the name that one of those given is near to.

    Example:
        >>> taken(inspect.signature(lambda task, n=1: 0), ["taks"])
        "did you mean 'task'? choose from 'task', 'n'"
        >>> taken(inspect.signature(lambda task, n=1, **options: 0), ["batch_size"])
        'it takes task, n=..., **options'
    """
    listed = [p for name, p in signature.parameters.items() if name not in ("self", "cls")]
    names = [p.name for p in listed if p.kind != p.VAR_KEYWORD]
    near = next((suggest(name, names) for name in given if name not in names), "")
    if near and (len(names) == len(listed) or near.startswith("did you mean")):  # others may be options
        return near
    marks: dict[Any, str] = {inspect.Parameter.VAR_KEYWORD: "**", inspect.Parameter.VAR_POSITIONAL: "*"}
    said = [f"{marks.get(p.kind, '')}{p.name}{'' if p.default is p.empty else '=...'}" for p in listed]
    return f"it takes {', '.join(said) or 'no arguments'}"


def spelled(package: str, known: Collection[str], get: Callable[[str], Any] | None = None) -> Callable[[str], Any]:
    """A package's `__getattr__`: a name that it does not have is answered with the nearest that it has.

    Args:
        package: its name, as users know it.
        known: its public names.
        get: finds a name that is imported when it is first used.
    """

    def attribute(name: str) -> Any:
        near = [] if name in known or name.startswith("_") else difflib.get_close_matches(name, known, n=1)
        if near or get is None:
            nearest = f": did you mean {near[0]!r}?" if near else ""
            raise AttributeError(f"{package} has no {name!r}{nearest}")
        return get(name)

    return attribute


def choose(name: object, known: Iterable[T], what: str) -> T:
    """`name` itself if it is one of `known`; otherwise an `ArgumentError` that lists them."""
    options = list(known)
    chosen = [one for one in options if isinstance(name, type(one)) and name == one]
    if not chosen:
        near = str(name) if isinstance(name, str) else ""
        raise ArgumentError(shown(what, name), f"no such {what}", suggest(near, map(str, options)))
    return chosen[0]
