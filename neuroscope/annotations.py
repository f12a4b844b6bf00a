"""An annotation of plain types (texts, numbers, choices, and several of them) as a check of the value it stands at."""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from os import PathLike
from typing import Any, Literal, Union, get_args, get_origin

from neuroscope.errors import ArgumentError, choose, kind_of, shown

Check = Callable[[Any, str], Any]  # (value, its name) -> what the function gets


def check_of(hint: Any, plain: Mapping[Any, Check], within: Mapping[Any, Check]) -> Check | None:
    """What holds a value to an annotation that is made of plain types, and converts it; None for any other annotation.

    Args:
        hint: the annotation.
        plain: plain type -> what makes a value one.
        within: the same of values among several.

    Raises (when the check is called):
        ArgumentError: the value is something else.
    """
    if isinstance(hint, Hashable) and hint in plain:
        return plain[hint]
    origin, parts = get_origin(hint) or hint, get_args(hint)
    if origin in plain:
        return plain[origin]
    if origin is Any:
        return _as_it_is
    if origin is Literal:
        return lambda value, name: choose(value, parts, name)
    if origin in (Union, types.UnionType):
        has_path = any((get_origin(part) or part) is PathLike for part in parts)  # which may be a text
        kinds = [part for part in parts if part is not types.NoneType and not (has_path and part is str)]
        return _any_of(kinds, types.NoneType in parts, [check_of(kind, plain, within) for kind in kinds])
    if origin not in (Sequence, Collection, tuple, Mapping):
        return None
    inner = [
        check for check in (check_of(part, within, within) for part in parts if part is not ...) if check is not None
    ]
    if len(inner) < len(parts) - (... in parts):
        return None
    if origin in (Sequence, Collection, tuple):
        return functools.partial(_several, checks=inner, fixed=origin is tuple and ... not in parts)
    return functools.partial(_mapping, checks=inner)


def _any_of(hints: list[Any], with_none: bool, every: list[Check | None]) -> Check | None:
    checks = [check for check in every if check is not None]
    if len(checks) < len(hints):
        return None
    origins = [get_origin(hint) for hint in hints]

    def check(value: Any, name: str) -> Any:
        refused = []
        for one in checks if value is not None or not with_none else ():
            try:
                return one(value, name)
            except ArgumentError as error:
                refused.append(error)
        if not refused:
            return None
        inner = [error for error in refused if error.asked != shown(name, value)]  # of one value among several
        if len(refused) == 1 or inner:
            raise (inner or refused)[0]
        if isinstance(value, str) and Literal in origins:
            raise refused[origins.index(Literal)]
        do = " or ".join(dict.fromkeys(error.do for error in refused))
        raise ArgumentError(shown(name, value), kind_of(value), do)

    return check


def _several(value: Any, name: str, checks: list[Check], fixed: bool) -> tuple[Any, ...] | list[Any]:
    """Values in their order, each held to its check; of one check all of them are."""
    listed = None
    if not isinstance(value, str | bytes | bytearray | Mapping | AbstractSet):
        with contextlib.suppress(Exception):  # an iterator of somebody else's may fail in any way
            listed = list(value)
    if listed is None:
        found = "one text" if isinstance(value, str) else kind_of(value)
        found += ", which has no order" if isinstance(value, AbstractSet) else ""
        raise ArgumentError(shown(name, value), found, "give several, in a list")
    if fixed and len(listed) != len(checks):
        raise ArgumentError(shown(name, value), f"{len(listed)} values", f"give {len(checks)}")
    each = checks if fixed else checks * len(listed)
    got = [check(one, f"{name}[{i}]") for i, (one, check) in enumerate(zip(listed, each, strict=True))]
    same = isinstance(value, list | tuple) and all(a is b for a, b in zip(got, listed, strict=True))
    return value if same else got if isinstance(value, list) else tuple(got)


def _mapping(value: Any, name: str, checks: list[Check]) -> Mapping[Any, Any]:
    of_key, of_value = checks
    keys = None
    if isinstance(value, Mapping):
        with contextlib.suppress(Exception):  # a mapping of somebody else's
            keys = list(value)
    if keys is None:
        raise ArgumentError(shown(name, value), kind_of(value), "give a dict")
    known = [of_key(key, f"{name}, a key") for key in keys]
    if of_value is _as_it_is:  # which may be of a kind of its own, and read from a file
        return value
    got = {k: of_value(value[key], f"{name}[{k!r}]") for k, key in zip(known, keys, strict=True)}
    return value if all(got[key] is value[key] for key in keys) else got


def pairs_of(value: Any, name: str, do: str = "give a dict") -> list[tuple[Any, Any]]:
    """The keys and values of a mapping; anything else, and one that fails when it is read, is refused."""
    if isinstance(value, Mapping):
        with contextlib.suppress(Exception):  # a mapping of somebody else's may fail in any way
            return [(key, value[key]) for key in value]
    raise ArgumentError(shown(name, value), kind_of(value), do)


def _as_it_is(value: Any, name: str) -> Any:
    return value
