"""What nobody means: values of every type, shape, dtype and container, made anew each time; and what was written."""

import contextlib
import datetime
import decimal
import fractions
import inspect
import os
import pathlib
import sys
import types

import numpy as np
import pandas as pd
import torch


class Hostile:
    """Raises at whatever it is asked."""

    def _raise(self, *args):
        raise RuntimeError("hostile")

    __repr__ = __str__ = __len__ = __iter__ = __eq__ = __bool__ = __format__ = __index__ = __float__ = _raise
    __array__ = __getitem__ = __contains__ = __lt__ = __add__ = _raise

    def __hash__(self):
        return 1


class Endless(dict):
    """A mapping that fails when it is read."""

    def items(self):
        raise RuntimeError("hostile")

    keys = values = __iter__ = items


def _looped():
    loop = []
    loop.append(loop)
    return loop


# what no argument can mean
NONSENSE = {
    "an object": object,
    "a hostile object": Hostile,
    "hostile in a list": lambda: [Hostile()],
    "hostile in a dict": lambda: {"a": Hostile()},
    "hostile as a key": lambda: {Hostile(): 1},
    "a hostile mapping": lambda: Endless(a=1),
    "a list of itself": _looped,
    "...": lambda: ...,
    "a complex": lambda: 1 + 2j,
    "an array of complex": lambda: np.array([1j]),
    "a class": lambda: Hostile,
    "a module": lambda: types,
    "bytes": lambda: b"abc",
    "bytearray": lambda: bytearray(b"a"),
    "a surrogate": lambda: "\ud800",
    "a surrogate in a list": lambda: ["a", "\udfff"],
    "a decimal": lambda: decimal.Decimal("NaN"),
    "a date": lambda: datetime.date(2020, 1, 1),
    "dates": lambda: np.array(["2020-01-01"], "M8[D]"),
    "a span": lambda: np.timedelta64(3, "D"),
    "objects": lambda: np.array([object()], object),
    "records": lambda: np.zeros(2, [("a", int)]),
    "masked": lambda: np.ma.masked,
    "a masked array": lambda: np.ma.masked_array([0.5, 0.25], [False, True]),
    "a missing value": lambda: pd.NA,
    "no time": lambda: pd.NaT,
    "a meta tensor": lambda: torch.empty(3, device="meta"),
    "a meta scalar": lambda: torch.empty((), device="meta"),
    "a complex tensor": lambda: torch.ones(2, dtype=torch.cfloat),
    "a dtype": lambda: torch.float32,
    "an open generator": lambda: (object() for _ in range(2)),
    "an iterator that fails": lambda: (1 / 0 for _ in range(2)),
    "a set of objects": lambda: {object()},
    "frozen": lambda: frozenset({3.5}),
    "a slice": lambda: slice(3),
    "a parameter": lambda: inspect.Parameter("a", inspect.Parameter.KEYWORD_ONLY),
    "a layer": lambda: torch.nn.Identity(),
    "an exception": lambda: ValueError("a"),
}
# what some argument means
PERHAPS = {
    "None": lambda: None,
    "True": lambda: True,
    "False": lambda: False,
    "numpy's True": lambda: np.True_,
    "0": lambda: 0,
    "-1": lambda: -1,
    "3": lambda: 3,
    "a huge integer": lambda: 10**400,
    "2**63": lambda: 2**63,
    "0.5": lambda: 0.5,
    "-0.5": lambda: -0.5,
    "NaN": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "a half": lambda: fractions.Fraction(1, 2),
    "numpy's int64": lambda: np.int64(3),
    "numpy's uint8": lambda: np.uint8(3),
    "numpy's float16": lambda: np.float16(0.5),
    "numpy's NaN": lambda: np.float32("nan"),
    "a scalar array": lambda: np.array(3),
    "a scalar tensor": lambda: torch.tensor(3),
    "a bfloat16": lambda: torch.tensor(0.5, dtype=torch.bfloat16),
    "text": lambda: "junk",
    "NUL": lambda: "a\0b",
    "no text": lambda: "",
    "a digit": lambda: "3",
    "numpy's text": lambda: np.str_("junk"),
    "a path": lambda: pathlib.Path("junk"),
    "a list": list,
    "a dict": dict,
    "a tuple": tuple,
    "a set": set,
    "texts": lambda: ["a", "b"],
    "a set of texts": lambda: {"a"},
    "numbers": lambda: [0.5, 1.0],
    "mixed": lambda: ["a", 3, None],
    "nested": lambda: [[[[0.5]]]],
    "ragged": lambda: [[1], [1, 2]],
    "a dict of texts": lambda: {"a": "b"},
    "a dict of numbers": lambda: {"a": 3, "b": 0.5},
    "a dict of lists": lambda: {"a": [1, 2]},
    "a dict of None": lambda: {"a": None},
    "a dict by number": lambda: {3: [0]},
    "a range": lambda: range(3),
    "a generator": lambda: (x for x in ("a", "b")),
    "no numbers": lambda: np.zeros(0),
    "a table": lambda: np.zeros((3, 4)),
    "a cube": lambda: np.ones((2, 5, 3)),
    "integers": lambda: np.arange(3, dtype=np.uint16),
    "flags": lambda: np.array([True, False]),
    "an array of texts": lambda: np.array(["a", "b"]),
    "NaNs": lambda: np.full((2, 5, 3), np.nan),
    "a tensor": lambda: torch.ones(5, 3),
    "bfloat16s": lambda: torch.ones(5, dtype=torch.bfloat16),
    "a quantised tensor": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8),
    "a sparse tensor": lambda: torch.eye(3).to_sparse(),
    "a matrix": lambda: np.matrix([[1.0]]),
    "a series": lambda: pd.Series([0.5, 1.0], index=["b", "a"]),
    "a frame": lambda: pd.DataFrame({"a": [1]}),
    "categories": lambda: pd.Series(["a"], dtype="category"),
    "nullable": lambda: pd.Series([1, None], dtype="Int64"),
    "a function": lambda: lambda *args, **kwargs: args[0] if args else None,
}
JUNK = {**NONSENSE, **PERHAPS}


WRITES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate"}
_allowed: list[str] = []
_outside: list[str] = []


def _watch(event, args):
    if not _allowed or (event != "open" and event not in WRITES):
        return
    if event == "open":
        path, mode, flags = args
        writes = any(c in (mode or "") for c in "wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if not writes or not isinstance(path, str | bytes | os.PathLike):
            return
    with contextlib.suppress(Exception):
        path = os.path.realpath(os.fsdecode(args[0]))
        if not path.startswith((*_allowed, "/dev/", "/proc/")):
            _outside.append(f"{event} {path}")


sys.addaudithook(_watch)


@contextlib.contextmanager
def nothing_written_outside(folder):
    """Fails if a file is made, changed or removed anywhere but in `folder`."""
    _outside.clear()
    _allowed.append(os.path.realpath(folder))
    try:
        yield
    finally:
        _allowed.clear()
    assert _outside == [], f"written elsewhere: {_outside}"
