"""What a command found as one JSON document: `schema` says which shape, NaN and infinity are null.

`arrays.json_plain` is its like for what the library stores; it needs torch, which a command that only lists does not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Set
from os import PathLike
from pathlib import Path
from typing import Any

from neuroscope.command_line.signatures import constant
from neuroscope.errors import NeuroscopeError

VERSION = constant("neuroscope:__version__")
SCHEMA = 1  # grows when something in a document changes its name or meaning


def document(command: str, code: int, result: Any = None, errors: list[NeuroscopeError] | None = None) -> str:
    """The document.

    Args:
        command: its name.
        code: the exit code.
        result: what it found; None where it failed.
        errors: why it failed, if it did.
    """
    found = {
        "schema": SCHEMA,
        "version": VERSION,
        "command": command,
        "exit_code": code,
        "result": plain(result),
        "errors": [{"kind": type(e).__name__, "asked": e.asked, "found": e.found, "do": e.do} for e in errors or ()],
    }
    return json.dumps(found, indent=1, ensure_ascii=True, allow_nan=False)


def plain(value: Any) -> Any:
    """A value as JSON has it: tables become lists of rows, arrays lists, paths absolute texts.

    Example:
        >>> plain({"p": float("nan"), 1: (Path("/a"), True)})
        {'p': None, '1': ['/a', True]}
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, PathLike):
        return str(Path(value).absolute())
    if isinstance(value, Mapping):
        return {str(key): plain(inside) for key, inside in value.items()}
    if type(value).__name__ == "DataFrame":
        return [plain({k: None if _is_missing(v) else v for k, v in row.items()}) for row in value.to_dict("records")]
    if isinstance(value, list | tuple):
        return [plain(inside) for inside in value]
    if isinstance(value, Set):
        return sorted(map(str, value))
    if hasattr(value, "tolist"):  # of numpy or torch
        return plain(value.tolist())
    return str(value)


def _is_missing(value: Any) -> bool:
    """Whether a cell of a table has no value: NaN, None, or pandas' own."""
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )
