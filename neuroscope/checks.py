"""One meaning per keyword: the arguments that many public functions share, each checked and converted in one place.

`@public` marks a function that users call. Before its body runs, unknown and missing arguments are refused with our
error, and every argument whose name stands in `VOCABULARY` is converted by the row of that name, so that the same word
means the same, takes the same values and is refused in the same way everywhere. Any other argument is held to its
annotation, where that is made of plain types.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import numbers
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from os import PathLike
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from neuroscope.annotations import Check, check_of, pairs_of
from neuroscope.errors import ArgumentError, brief, called_with, kind_of, shown, taken
from neuroscope.files import path_of

P = ParamSpec("P")
T = TypeVar("T")
Progress = Callable[..., Iterable[Any]]  # called as progress(iterable, desc="..."); tqdm is one
LARGEST = 2**63 - 1  # whole number that torch and numpy hold
MOST_DRAWS = 10**7  # of a permutation or a bootstrap: more takes days
MOST_RUNS = 10**4
SEEDS = 2**32  # a seed is below: what every generator takes
AUTOCAST = ("cpu", "cuda", "mps", "xpu")  # kinds of devices
ONE = (str, bytes, bytearray, Mapping)  # what can be gone through and is not several values
FEWEST_RANDOM = 3  # random masks: fewer do not tell how much random masks differ


def whole(value: Any, name: str, least: int = 0, do: str = "", most: int = LARGEST) -> int:
    """A whole number from `least` to `most`: an integer of Python, numpy or torch (a scalar tensor), no bool.

    Raises:
        ArgumentError: anything else.

    Example:
        >>> import numpy as np
        >>> whole(np.int64(4), "n", 1)
        4
    """
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, numbers.Integral) or number < least:
        raise ArgumentError(shown(name, value), f"not a whole number from {least} up", do or f"give {least} or more")
    if int(number) > most:
        raise ArgumentError(shown(name, value), f"more than {most}", do or "give less")
    return int(number)


def finite(value: Any, name: str, do: str = "give a finite number") -> float:
    """A finite real number of Python, numpy or torch (a scalar tensor); no bool, no text.

    Raises:
        ArgumentError: anything else.
    """
    number = _real(value)
    if number is None or not math.isfinite(number):
        raise ArgumentError(shown(name, value), "not a finite number", do)
    return number


def share(value: Any, name: str = "k", do: str = "give a share in (0, 1], such as 0.10") -> float:
    """A share in (0, 1].

    Raises:
        ArgumentError: anything else.
    """
    number = _real(value)
    if number is None or not 0 < number <= 1:
        raise ArgumentError(shown(name, value), f"not a share: 0 < {name} <= 1", do)
    return number


def inner_share(value: Any, name: str) -> float:
    """A share of which something is left: in (0, 1)."""
    do = "give a share below 1, such as 0.95"
    if share(value, name, do) == 1:
        raise ArgumentError(shown(name, value), f"not a share: 0 < {name} < 1", do)
    return share(value, name)


def shares(values: Any, name: str = "k", with_zero: bool = False) -> tuple[float, ...]:
    """Growing shares in (0, 1], or from 0 on, at least one; a single number is one share.

    Raises:
        ArgumentError: anything else.
    """
    listed = [values] if _real(values) is not None else plain(values)
    if isinstance(listed, ONE) or not isinstance(listed, Iterable):
        raise ArgumentError(shown(name, values), "no shares", "give growing shares, such as (0.1, 0.5, 1.0)")
    read = [_real(value) for value in all_of(listed, name)]
    good = [number for number in read if number is not None and 0 <= number <= 1 and (number or with_zero)]
    if not read or len(good) < len(read) or good != sorted(set(good)):
        what = f"not growing shares in {'[' if with_zero else '('}0, 1]"
        raise ArgumentError(shown(name, values), what, "give some, such as (0.1, 0.5, 1.0)")
    return tuple(good)


def seed_of(value: Any, name: str = "seed") -> int:
    """The one seed of a draw: a whole number from 0 to 2**32 - 1, which every generator takes."""
    do = "give a whole number from 0 to 2**32 - 1, such as 0"
    seed = whole(value, name, 0, do)
    if seed >= SEEDS:
        raise ArgumentError(shown(name, value), "more than 2**32 - 1", do)
    return seed


def seeds_of(seeds: Any, name: str = "seeds") -> tuple[int, ...]:
    """The seeds of repeated runs: 3 is seeds 0, 1 and 2; a sequence is those seeds.

    Raises:
        ArgumentError: no seed, one that is no whole number, or one twice.

    Example:
        >>> seeds_of(3), seeds_of([5, 7])
        ((0, 1, 2), (5, 7))
    """
    listed = plain(seeds)
    if isinstance(listed, ONE) or not isinstance(listed, Iterable):
        do = "give how many runs, or their seeds, such as 3 or (0, 1, 2)"
        return tuple(range(whole(listed, name, 1, do, MOST_RUNS)))
    chosen = tuple(seed_of(seed, name) for seed in all_of(listed, name))
    if not chosen:
        raise ArgumentError(shown(name, seeds), "no seed", "give how many runs, or their seeds, such as (0, 1, 2)")
    if len(set(chosen)) < len(chosen):
        raise ArgumentError(shown(name, seeds), "a seed twice", "give different ones: equal seeds give equal runs")
    return chosen


def names_of(value: Any, name: str) -> tuple[str, ...]:
    """Names, each once: a single one is a list of one.

    Raises:
        ArgumentError: something that is no name.
    """
    is_several = isinstance(value, Iterable) and not isinstance(value, str | Mapping)
    listed = all_of(value, name) if is_several else [value]
    if not all(isinstance(name_, str) for name_ in listed):
        raise ArgumentError(shown(name, value), "not names", "give names, such as ['nli-food']")
    return tuple(dict.fromkeys(listed))


def by_text(value: Any, name: str, do: str = "give a dict by name") -> dict[str, Any]:
    """A mapping by text as a dict of its own; anything else, and a key that is no text, is refused."""
    pairs = pairs_of(value, name, do)
    strange = [key for key, _ in pairs if not isinstance(key, str)]
    if strange:
        raise ArgumentError(shown(name, value), f"{brief(strange[0])} for a name", do)
    return dict(pairs)


def all_of(values: Any, name: str) -> list[Any]:
    """All values of an iterable; one that fails is refused."""
    try:
        return list(values)
    except Exception:  # an iterator of somebody else's may fail in any way
        raise ArgumentError(shown(name, values), f"{kind_of(values)} that has no values", "give a list") from None


def n_random_of(value: Any, name: str = "n_random") -> int:
    """How many random masks stand beside a mask."""
    do = f"give {FEWEST_RANDOM} or more: fewer do not tell how random masks differ"
    return whole(value, name, FEWEST_RANDOM, do, MOST_DRAWS)


def batch_size_of(value: Any, name: str = "batch_size") -> int | None:
    """Examples per forward pass; None: cut by tokens."""
    return None if value is None else whole(value, name, 1, "give 1 or more, or None to cut batches by tokens")


def number_of_examples(value: Any, name: str) -> int | None:
    """How many examples; None for all of them."""
    return None if value is None else whole(value, name, 1, "give 1 or more, or None for all")


def folder_of(value: Any, name: str = "output") -> Path | None:
    """The folder that a long run writes to and resumes from; None for none.

    Raises:
        ArgumentError: no path, or the path of a file.
    """
    if value is None:
        return None
    path = path_of(value, shown(name, value))
    if path.is_file():
        raise ArgumentError(shown(name, value), "a file", "give a folder; it is made where there is none")
    return path


def progress_of(value: Any, name: str = "progress") -> Progress | None:
    """What shows progress, called as `progress(iterable, desc="...")`; None is silent."""
    if value is not None and not callable(value):
        raise ArgumentError(shown(name, value), kind_of(value), "give a callable such as tqdm, or None")
    return value


def flag(value: Any, name: str) -> bool:
    """True or False, of Python or numpy, and nothing else."""
    switch = plain(value)
    if isinstance(switch, bool):
        return switch
    raise ArgumentError(shown(name, value), kind_of(value), "give True or False")


def watched(items: Iterable[T], progress: Progress | None, desc: str) -> Iterable[T]:
    """The items, with progress where there is something that shows it.

    Raises (as they are gone through):
        ArgumentError: the progress cannot be called in this way, or gives fewer or more items than it was given.
    """
    return items if progress is None else _through(items, progress, desc)


def _through(items: Iterable[T], progress: Progress, desc: str) -> Iterator[T]:
    asked, do = f"progress(items, desc={desc!r})", "give a callable such as tqdm, which passes every item on"
    try:
        passed = iter(progress(items, desc=desc))
    except TypeError as error:
        raise ArgumentError(asked, str(error), do) from error
    number = 0
    for item in passed:
        number += 1
        yield item
    if isinstance(items, Sized) and number != len(items):
        raise ArgumentError(asked, f"{number} of {len(items)} items", do)


def plain(value: Any) -> Any:
    """A scalar of numpy or torch, or an array without dimensions, as Python's own; anything else as it is."""
    try:
        return value.item() if value.ndim == 0 and not getattr(value, "mask", False) else value
    except Exception:  # no scalar, one that is masked or has no value (of a meta device), or a hostile object
        return value


def _real(value: Any) -> float | None:
    """A real number of Python, numpy or torch as a float; None for anything else, bools among them."""
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        return None
    try:
        return float(number)
    except OverflowError:
        return math.inf  # too large for a float


def _k(value: Any, name: str, default: Any) -> Any:
    return shares(value, name) if isinstance(default, Sequence) else share(value, name)


def text_of(value: Any, name: str) -> str:
    """A text that can be written to a file."""
    if not isinstance(value, str):
        raise ArgumentError(shown(name, value), kind_of(value), "give a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        found = f"half of a surrogate pair, character {error.start}"
        raise ArgumentError(shown(name, value), found, "read it again in its own encoding, or leave that out") from None
    return value


def _number(value: Any, name: str) -> float:
    """A number among several, of which any may be missing: NaN or None."""
    number = math.nan if value is None else _real(value)
    if number is None:
        raise ArgumentError(shown(name, value), kind_of(value), "give a number")
    return number


def _integer(value: Any, name: str) -> int:
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, numbers.Integral):
        raise ArgumentError(shown(name, value), "not a whole number", "give a whole number")
    return int(number)


# a plain type -> what makes a value one; and among several, where a number may be missing
PLAIN: dict[Any, Check] = {bool: flag, int: _integer, float: finite, str: text_of}
PLAIN[PathLike] = lambda value, name: path_of(value, shown(name, value))
WITHIN: dict[Any, Check] = {**PLAIN, float: _number}


def texts_of(value: Any, name: str) -> tuple[str, ...]:
    """Texts in their order: a single one is one; none of None."""
    several = check_of(Sequence[str], PLAIN, WITHIN)
    assert several is not None
    return tuple(map(str, several((value,) if isinstance(value, str) else () if value is None else value, name)))


# name of an argument -> (value, name, the function's default) -> what the function gets
VOCABULARY: dict[str, Callable[[Any, str, Any], Any]] = {
    "examples": lambda value, name, default: number_of_examples(value, name),
    "n": lambda value, name, default: number_of_examples(value, name),
    "seed": lambda value, name, default: seed_of(value, name),
    "seeds": lambda value, name, default: seeds_of(value, name),
    "held_out": lambda value, name, default: names_of(value, name),
    "references": lambda value, name, default: texts_of(value, name),
    "neutral": lambda value, name, default: None if value is None else texts_of(value, name),
    "texts": lambda value, name, default: None if value is None else texts_of(value, name),
    "n_random": lambda value, name, default: n_random_of(value, name),
    "batch_size": lambda value, name, default: batch_size_of(value, name),
    "output": lambda value, name, default: folder_of(value, name),
    "progress": lambda value, name, default: progress_of(value, name),
    "k": _k,
    "level": lambda value, name, default: inner_share(value, name),
    "null": lambda value, name, default: whole(value, name, 0, "give how many permutations, or 0 for none", MOST_DRAWS),
}


@functools.cache
def _checks(function: Callable[..., Any]) -> dict[str, Check]:
    """By argument: the row of its name, or what its annotation says. Made at the first call, when all is imported."""
    checks: dict[str, Check] = {}
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = {name: p for name, p in inspect.signature(function).parameters.items() if p.kind not in several}
    for name in [name for name in VOCABULARY if name in parameters]:
        checks[name] = lambda value, name: VOCABULARY[name](value, name, parameters[name].default)
    for name, parameter in parameters.items():
        hint = parameter.annotation
        if name not in checks and isinstance(hint, str):
            with contextlib.suppress(NameError):  # of types that are imported for mypy alone
                check = check_of(eval(hint, function.__globals__), PLAIN, WITHIN)
                checks |= {} if check is None else {name: check}
    return checks


def public(function: Callable[P, T]) -> Callable[P, T]:
    """Check a public function's arguments before its body runs.

    Raises (when the function is called):
        ArgumentError: an unknown or missing argument, or one that means something else than its name says.
    """
    signature = inspect.signature(function)
    called = function.__qualname__.removesuffix(".__init__").split(".")[-1]

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ArgumentError(
                f"{function.__qualname__}{called_with(args, kwargs)}", str(error), taken(signature, kwargs)
            ) from None
        given, is_as_given = bound.arguments, True
        for name, check in _checks(function).items():
            value = given.get(name, default := signature.parameters[name].default)
            if value is default and (value is None or name not in VOCABULARY):
                continue  # as it is without this argument
            if value is None and name == "output":
                raise ArgumentError(f"{called}(output=None)", "no folder", "give the folder to write into")
            try:
                given[name] = check(value, name)
            except ArgumentError as error:
                raise ArgumentError(f"{called}({error.asked})", error.found, error.do) from None
            is_as_given &= given[name] is value
        with as_by_default():  # putting arguments together again costs more than all the rest: only where one is new
            return function(*args, **kwargs) if is_as_given else function(*bound.args, **bound.kwargs)

    return checked


@contextlib.contextmanager
def as_by_default() -> Iterator[None]:
    """A scope in which torch's ambient settings are its defaults, so that they do not change a result.

    Those are the default dtype and device, autocast, and inference mode (whose tensors later uses would refuse).
    """
    torch = sys.modules.get("torch")  # what has not been imported has not been set
    if torch is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        dtype = torch.get_default_dtype()
        if dtype != torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, dtype)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in AUTOCAST:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        yield
