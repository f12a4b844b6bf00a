"""Arrays of numbers within a JSON file, to the bit: compressed, as text."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np


def packed(array: np.ndarray) -> dict[str, Any]:
    """An array as plain values of JSON.

    Example:
        >>> unpacked(packed(np.array([[0.1, np.nan]]))).tolist()
        [[0.1, nan]]
    """
    array = np.ascontiguousarray(array)
    plain = array.astype(array.dtype.newbyteorder("<"), copy=False)
    text = base64.b64encode(zlib.compress(plain.tobytes(), 1)).decode()
    return {"dtype": plain.dtype.str, "shape": list(array.shape), "data": text}


def unpacked(values: dict[str, Any]) -> np.ndarray:
    """What was packed.

    Raises:
        ValueError, KeyError, TypeError: damaged values.
    """
    dtype = np.dtype(values["dtype"])
    if dtype.kind not in "biuf":
        raise ValueError(f"an array of {dtype}")
    try:
        content = zlib.decompress(base64.b64decode(values["data"], validate=True))
    except zlib.error as error:
        raise ValueError(str(error)) from None
    return np.frombuffer(content, dtype).reshape(values["shape"]).astype(dtype.newbyteorder("="))
