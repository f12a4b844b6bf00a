"""What `representations` returns, and the folder it lies in.

A folder has a .npy file per task, the JSON file of a run that streams into it, a journal of finished batches, and, last
of all, the JSON file that says that it is whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuroscope import files
from neuroscope.comparison.similarity.inputs import real, tasks_of
from neuroscope.errors import ArgumentError, FileError, choose

if TYPE_CHECKING:
    import pandas as pd

RUN, DONE, JOURNAL = "run.json", "representations.json", "batches.jsonl"
Array = NDArray[Any]


@dataclass(frozen=True, eq=False, repr=False)
class Representations(Mapping[str, Array]):
    """Task -> array [layer, example, feature]; layer 0 is the embedding.

    Attributes:
        arrays: by task, of numpy (given tensors and lists become such); memory-mapped and read-only where they lie in a
            folder.
        examples: task -> (prompt, answer) of every example, for hover texts; empty where not known.
        families: task -> family (cluster of tasks).
        manifest: model, data, settings and versions.

    Raises:
        ArgumentError: no task, what is no array of real numbers, or arrays whose shapes do not match.

    Example:
        >>> reps = Representations({"nli": np.zeros((3, 5, 8))})
        >>> reps.layers, reps["nli"].shape, reps.families["nli"]
        (['embedding', '1', '2'], (3, 5, 8), 'nli')
    """

    arrays: Mapping[str, Array]
    examples: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    families: Mapping[str, str] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    holder: Any = None  # keeps a temporary folder for as long as the arrays in it

    def __post_init__(self) -> None:
        asked, do = "representations of tasks", "give one array [layer, example, feature] per task, of one model"
        arrays = {task: _array(self.arrays[task], f"{asked}, {task!r}") for task in tasks_of(self.arrays, asked)}
        object.__setattr__(self, "arrays", arrays)
        shapes = {task: array.shape for task, array in arrays.items()}
        first, whole = next(iter(shapes.items()))
        for task, s in shapes.items():
            if len(s) != 3 or 0 in s or (s[0], s[2]) != (whole[0], whole[-1]):
                raise ArgumentError(asked, f"shape {s} for {task!r}, {whole} for {first!r}", do)
        for task, pairs in self.examples.items():
            if task in shapes and len(pairs) != shapes[task][1]:
                raise ArgumentError(asked, f"{len(pairs)} prompts for {shapes[task][1]} examples of {task!r}", do)
        object.__setattr__(self, "families", {task: self.families.get(task) or task for task in shapes})

    def __getitem__(self, task: str) -> Array:
        return self.arrays[choose(task, self.arrays, "task")]

    def get(self, task: str, default: Any = None) -> Any:
        """The task's array, or the default where there is none; `[task]` raises an `ArgumentError` there."""
        return self.arrays.get(task, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def __contains__(self, task: object) -> bool:
        return task in self.arrays

    @property
    def n_layers(self) -> int:
        """Layers, the embedding included."""
        return next(iter(self.arrays.values())).shape[0]

    @property
    def layers(self) -> list[str]:
        """The layers' names: embedding, 1, 2, ..."""
        return ["embedding", *map(str, range(1, self.n_layers))]

    def __repr__(self) -> str:
        n, width = sum(a.shape[1] for a in self.arrays.values()), next(iter(self.arrays.values())).shape[2]
        return f"Representations({len(self)} tasks, {n} examples, {self.n_layers} layers x {width} features)"

    def to_frame(self) -> pd.DataFrame:
        """A row per task and layer: examples, mean norm, total variance, and constant features (of all of them)."""
        import pandas as pd  # heavy: only where a table is made

        rows = []
        for task, array in self.arrays.items():
            for layer in range(self.n_layers):
                x = np.asarray(array[layer], dtype=np.float64)
                about = {"task": task, "family": self.families[task], "layer": layer, "examples": len(x)}
                about["norm"] = np.linalg.norm(x, axis=1).mean()
                about["variance"] = x.var(0).sum()
                rows.append(about | {"constant_features": int((x == x[0]).all(0).sum()), "features": x.shape[1]})
        return pd.DataFrame(rows)

    def save(self, folder: str | PathLike) -> Path:
        """Write a folder: one .npy file per task, and last the JSON file that says the folder is whole."""
        folder = Path(folder)
        for i, (task, array) in enumerate(self.arrays.items()):
            target = folder / file_name(i, task)
            source = getattr(array, "filename", None)
            if source is None or Path(source).resolve() != target.resolve():  # else it lies there, memory-mapped
                files.write(target, partial(_dump, array))
        return _finish(folder, self)

    @classmethod
    def load(cls, folder: str | PathLike) -> Self:
        """Open what was saved, or streamed to `output`; the arrays are memory-mapped. Nothing is ever unpickled.

        Raises:
            FileError: the folder is missing, unfinished, damaged, or holds something else.
        """
        folder = Path(folder)
        content = files.read_json(folder / DONE, "Representations")
        do = "compute the representations again"
        try:
            if content["kind"] != "Representations" or content["format"] > files.FORMAT:
                raise FileError(f"read Representations from {folder}", f"kind {content['kind']!r}", "update, or " + do)
            arrays = {
                t: open_array(folder / file_name(i, t), tuple(s)) for i, (t, s) in enumerate(content["shapes"].items())
            }
            examples = {task: [(p, a) for p, a in pairs] for task, pairs in content["examples"].items()}
            return cls(arrays, examples, content["families"], content["manifest"])
        except (KeyError, TypeError, AttributeError) as error:
            found = f"a damaged file ({type(error).__name__}: {error})"
            raise FileError(f"read Representations from {folder}", found, do) from None


def file_name(number: int, task: str) -> str:
    """Of a task's array: its number keeps names apart that differ only in characters that files cannot have."""
    return f"{number:03d}-" + re.sub(r"[^\w.-]+", "_", task)[:60] + ".npy"


def _array(x: Any, asked: str) -> Array:
    found = real(x, asked)
    if isinstance(found, Tensor):
        found = found.detach().cpu()
        found = (found.float() if found.dtype == torch.bfloat16 else found).numpy()  # numpy has no such type
    return found


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
        found = np.lib.format.open_memmap(path, mode="r+")
    except (OSError, ValueError) as error:
        raise FileError(asked, str(error), do) from error
    if found.shape != shape or found.dtype != np.dtype(dtype):
        raise FileError(asked, f"{path.name} of shape {found.shape}, {found.dtype}", do)
    return found


def open_array(path: Path, shape: tuple[int, ...]) -> Array:
    """A finished array of that shape, memory-mapped; nothing is unpickled."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FileError(f"read {path}", str(error), "compute the representations again") from None
    if found.shape != shape:
        raise FileError(f"read {path}", f"shape {found.shape} instead of {shape}", "compute them again")
    return found


def is_whole(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether this very run is finished in the folder; a new folder notes what it is for.

    Raises:
        FileError: the folder is of another run.
    """
    manifest = json.loads(json.dumps(manifest))
    if not (folder / RUN).exists() and not (folder / DONE).exists():
        files.write(folder / RUN, json.dumps(manifest, indent=1))
        return False
    if not (folder / RUN).exists():
        found = "representations that were saved, not streamed, to it"
        raise FileError(f"stream representations to {folder}", found, "give another folder")
    before = files.read_json(folder / RUN, "a run of representations")
    other = [k for k in manifest if not isinstance(before, dict) or before.get(k) != manifest[k]]
    if other:
        raise FileError(f"stream representations to {folder}", f"a run of another {other[0]}", "give another folder")
    return (folder / DONE).exists()


def _finish(folder: Path, reps: Representations) -> Path:
    shapes = {task: list(array.shape) for task, array in reps.items()}
    about = {"format": files.FORMAT, "kind": "Representations", "shapes": shapes, "families": dict(reps.families)}
    about |= {"examples": {t: [list(p) for p in pairs] for t, pairs in reps.examples.items()}}
    files.write(folder / DONE, json.dumps(about | {"manifest": reps.manifest}))
    return folder
