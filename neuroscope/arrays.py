"""Numbers in the containers that people keep them in, as tensors; a meaning that a tensor cannot carry is refused."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from neuroscope.checks import PLAIN, WITHIN, plain
from neuroscope.errors import ArgumentError, kind_of, shown


def json_plain(value: Any, otherwise: Callable[[Any], Any] = str) -> Any:
    """What JSON can say as it is: texts, flags, numbers, lists and dicts; what is not finite, or missing, becomes None.

    Args:
        value: of Python, numpy or torch; dicts get texts for keys.
        otherwise: what is made of anything else, such as its text, or an error.

    Example:
        >>> json_plain({1: (np.float32(0.5), float("nan"), True), "where": np.arange(2)})
        {'1': [0.5, None, True], 'where': [0, 1]}
    """
    value = plain(value)
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): json_plain(inside, otherwise) for name, inside in value.items()}
    if hasattr(value, "tolist"):
        return json_plain(value.tolist(), otherwise)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [json_plain(inside, otherwise) for inside in value]
    return otherwise(value)


def array_of(value: Any, name: str) -> Tensor:
    """Numbers or flags as a tensor: of lists, tuples, ranges, arrays of numpy, series and columns of pandas, tensors.

    A meaning that a tensor cannot carry (masked or missing entries, an order of a series' own, units) is refused and
    never dropped. Integers come as int64, flags as bool.

    Raises:
        ArgumentError: anything else.

    Example:
        >>> array_of([3, 1], "neurons")
        tensor([3, 1])
    """
    refuse = functools.partial(_not_numbers, value, name)
    problem = lost_meaning(value)
    if problem:
        raise refuse(*problem)
    if isinstance(value, torch.Tensor):
        if value.is_complex():
            raise refuse("complex numbers", "give real ones")
        tensor = value.detach() if value.requires_grad else value
        is_number = tensor.dtype == torch.bool or tensor.is_floating_point()
        return tensor if is_number else tensor.long()
    array = value
    if hasattr(value, "to_numpy") and hasattr(value, "isna"):  # of pandas
        if bool(np.asarray(value.isna()).any()):
            raise refuse("missing entries", "fill or drop them")
        index = getattr(value, "index", None)
        if index is not None and getattr(value.dtype, "kind", "O") in "bf" and index.tolist() != [*range(len(value))]:
            value = value.sort_index()
            if value.index.tolist() != [*range(len(value))]:
                raise refuse("a series whose index is not 0, 1, 2, ...", "give its values for all neurons in order")
        kind = {"b": bool, "i": np.int64, "u": np.int64, "f": np.float64}.get(getattr(value.dtype, "kind", "O"))
        if kind is None:
            raise refuse(f"{kind_of(value)} of {value.dtype}", "give numbers")
        array = value.to_numpy(kind)
    elif isinstance(value, list | tuple | range):
        array = _nested(value, refuse)
    elif type(value) in (bool, int, float):
        array = np.asarray(_nested([value], refuse)[0])
    if isinstance(array, np.ma.MaskedArray):
        array = np.ma.getdata(array)
    if isinstance(array, np.generic):
        array = np.asarray(array)
    if type(array) not in (np.ndarray, np.memmap):
        raise refuse(kind_of(value), "give a list, an array or a tensor of numbers")
    if array.dtype.kind not in "biuf":
        raise refuse(f"an array of {array.dtype}", "give numbers")
    if array.dtype.kind in "iu":
        if array.size and int(array.max()) > 2**63 - 1:
            raise refuse("a number above 2**63 - 1", "give smaller ones")
        array = array.astype(np.int64)
    elif array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


def numbers_of(value: Any, name: str) -> NDArray[Any]:
    """The same as an array of numpy, where a float missing in pandas is NaN: what `ArrayLike` arguments take."""
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if hasattr(value, "to_numpy") and (kind == "f" or hasattr(value, "columns")):
        value = value.to_numpy()
    tensor = array_of(value, name)
    return (tensor.double() if tensor.is_floating_point() else tensor).cpu().numpy()


PLAIN[ArrayLike] = WITHIN[ArrayLike] = numbers_of


def lost_meaning(value: Any) -> tuple[str, str] | None:
    """What an array or a tensor says that its plain numbers would not, and what to do; None for all other things."""
    if isinstance(value, torch.Tensor):
        ordinary = type(value) is torch.Tensor or isinstance(value, torch.nn.Parameter)
        if not ordinary or value.layout != torch.strided or value.is_quantized or value.is_meta or value.is_nested:
            return "a tensor of a special kind", "give a plain, dense one"
    elif isinstance(value, np.ma.MaskedArray):
        if np.ma.is_masked(value):
            return "masked entries", "fill them, or leave them out"
    elif isinstance(value, np.ndarray) and type(value) not in (np.ndarray, np.memmap):
        return f"{kind_of(value)}, whose meaning would be lost", "give a plain array: numpy.asarray(x)"
    return None


def _nested(value: Any, refuse: Callable[[str, str], ArgumentError]) -> Any:
    """A list of numbers, or of lists of numbers, as an array; flags and numbers never mixed."""

    def read(items: Any) -> Any:
        scalars = [
            item
            if isinstance(item, list | tuple | range)
            else array_of(item, "value").tolist()
            if getattr(item, "ndim", 0)
            else plain(item)
            for item in items
        ]
        return [read(item) if isinstance(item, list | tuple | range) else item for item in scalars]

    def kinds(items: Any) -> set[str]:
        flat = set()
        for item in items:
            if isinstance(item, list):
                flat |= kinds(item)
            elif isinstance(item, bool):
                flat.add("flags")
            elif isinstance(item, numbers.Integral):
                flat.add("whole numbers")
            elif isinstance(item, float | np.floating):
                flat.add("numbers")
            else:
                flat.add(f"a {type(item).__name__}")
        return flat

    try:
        table = read(value)
        found = kinds(table)
    except RecursionError:
        raise refuse("a list that holds itself", "give a list of numbers") from None
    if found - {"whole numbers", "numbers", "flags"} or ("flags" in found and len(found) > 1):
        raise refuse(" and ".join(sorted(found)), "give numbers, or flags, and nothing else")
    try:
        return np.array(table, dtype=np.float64 if "numbers" in found else bool if "flags" in found else np.int64)
    except (ValueError, OverflowError):
        raise refuse("rows of different lengths, or numbers that are too large", "give a full table") from None


def _not_numbers(value: Any, name: str, found: str, do: str) -> ArgumentError:
    return ArgumentError(shown(name, value), found, do)
