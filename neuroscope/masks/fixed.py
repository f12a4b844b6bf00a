"""Dicts and lists that nobody changes from outside: still JSON's own kinds, equal to plain ones, copied and pickled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn


def _refuse(self: Any, *_: Any, **__: Any) -> NoReturn:
    raise TypeError("what is known of a mask does not change; mask.with_evidence(result, ...) gives another mask")


class FixedDict(dict):
    """A dict that refuses every change."""

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> Any:
        return type(self), (dict(self),)


class FixedList(list):
    """A list that refuses every change."""

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = extend = insert = remove = pop = clear = sort = reverse = _refuse

    def __reduce__(self) -> Any:
        return type(self), (list(self),)


def fixed(value: Any) -> Any:
    """A copy of nested dicts and lists that refuses every change.

    Example:
        >>> known = fixed({"verdict": {"interventions": ["scale"]}})
        >>> known == {"verdict": {"interventions": ["scale"]}}
        True
        >>> known["verdict"]["interventions"].append("ablate")
        Traceback (most recent call last):
        TypeError: what is known of a mask does not change; mask.with_evidence(result, ...) gives another mask
    """
    if isinstance(value, Mapping):
        return FixedDict({key: fixed(inside) for key, inside in value.items()})
    return FixedList([fixed(inside) for inside in value]) if isinstance(value, list | tuple) else value
