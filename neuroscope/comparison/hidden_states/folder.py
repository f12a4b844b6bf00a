"""The folder that representations lie in.

A folder has a .npy file per task, the JSON file of a run that streams into it, a journal of finished batches, and, last
of all, the JSON file that says that it is finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope import files
from neuroscope.errors import FileError

RUN, DONE, JOURNAL = "run.json", "representations.json", "batches.jsonl"
Array = NDArray[Any]


def file_name(number: int, task: str) -> str:
    """Of a task's array."""
    return f"{number:03d}-{files.encoded(task)}.npy"


def save_array(path: Path, array: Array) -> None:
    """Write a task's array, atomically, unless it is mapped from that very file."""
    source = getattr(array, "filename", None)
    if source is None or Path(source).resolve() != path.resolve():
        files.write(path, partial(_dump, array))


def _dump(array: Array, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def partial_file(path: Path, shape: tuple[int, ...], dtype: str, *, begun: bool) -> Any:
    """A file to fill, memory-mapped; the one that an earlier run has begun, where there is one."""
    asked, do = f"stream representations to {path.parent}", "delete the folder, or give another"
    if begun and not path.exists():
        raise FileError(asked, f"finished batches in its journal, but no {path.name}", do)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not begun:
            return np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
        np.lib.format.open_memmap(path, mode="r")  # refuses a file cut short, which "r+" would fill up with zeros
        array = np.lib.format.open_memmap(path, mode="r+")
    except (OSError, ValueError) as error:
        raise FileError(asked, str(error), do) from error
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise FileError(asked, f"{path.name} of shape {array.shape}, {array.dtype}", do)
    return array


def open_array(path: Path, shape: tuple[int, ...]) -> Array:
    """A finished array of that shape, memory-mapped; nothing is unpickled."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FileError(f"read {path}", str(error), "compute the representations again") from None
    if array.shape != shape:
        raise FileError(f"read {path}", f"shape {array.shape} instead of {shape}", "compute them again")
    return array


def is_finished(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether this very run is finished in the folder; a new folder notes what it is for.

    Raises:
        FileError: the folder is of another run.
    """
    asked = f"stream representations to {folder}"
    if (folder / DONE).exists() and not (folder / RUN).exists():
        raise FileError(asked, "representations that were saved, not streamed, to it", "give another folder")
    version = {"version": files.versions().get("neuroscope")}
    files.keep_settings(folder / RUN, {**manifest, **version}, asked)
    return (folder / DONE).exists()
