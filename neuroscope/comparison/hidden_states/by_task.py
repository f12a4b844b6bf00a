"""Representations: the activations of several tasks' examples at every layer of one model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from neuroscope import files
from neuroscope.checks import all_of, by_text, public, text_of
from neuroscope.comparison.hidden_states.folder import DONE, Array, file_name, open_array, save_array
from neuroscope.comparison.similarity.inputs import names_of, real
from neuroscope.errors import ArgumentError, FileError, choose
from neuroscope.markup import markup

if TYPE_CHECKING:
    import pandas as pd


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
        arrays = {task: _array(self.arrays[task], f"{asked}, {task!r}") for task in names_of(self.arrays, asked)}
        object.__setattr__(self, "arrays", arrays)
        shapes = {task: array.shape for task, array in arrays.items()}
        first, expected = next(iter(shapes.items()))
        for task, shape in shapes.items():
            if len(shape) != 3 or 0 in shape or (shape[0], shape[2]) != (expected[0], expected[-1]):
                raise ArgumentError(asked, f"shape {shape} for {task!r}, {expected} for {first!r}", do)
        for name in ("examples", "families", "manifest"):
            by_text(getattr(self, name), f"Representations({name})")
        for task, family in self.families.items():
            text_of(family, f"Representations(families[{task!r}])")
        for task, given in self.examples.items():
            pairs = all_of(given, f"Representations(examples[{task!r}])")
            if task in shapes and len(pairs) != shapes[task][1]:
                raise ArgumentError(asked, f"{len(pairs)} prompts for {shapes[task][1]} examples of {task!r}", do)
        object.__setattr__(self, "families", {task: self.families.get(task) or task for task in shapes})

    def __getstate__(self) -> dict[str, Any]:
        # a copy elsewhere has no part in a temporary folder
        return vars(self) | {"arrays": {task: np.asarray(a) for task, a in self.arrays.items()}, "holder": None}

    def __getitem__(self, task: str) -> Array:
        return self.arrays[choose(task, self.arrays, "task")]

    @public
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

    def in_words(self) -> str:
        """What was read, of which model and examples, in one sentence."""
        read = self.manifest
        at = read.get("at")
        named = {None: "", "last": ", at the last token of each prompt", "mean": ", mean over each prompt's tokens"}
        where = named.get(at, f", at token {at} of each prompt")
        model = f" of {read['model']}" if "model" in read else ""
        n = sum(array.shape[1] for array in self.arrays.values())
        said = f"The residual stream{model} on {n} examples of {len(self)} task{'s' if len(self) != 1 else ''}{where}: "
        width = next(iter(self.arrays.values())).shape[2]
        return said + f"{self.n_layers} layers, the embedding among them, of {width} features."

    def _repr_html_(self) -> str:
        return f"<div>{markup(self.in_words())}</div>"  # no table: it would read all activations from disk

    def to_frame(self) -> pd.DataFrame:
        """A row per task and layer: examples, mean norm, total variance, and constant features (of all of them)."""
        import pandas as pd  # heavy: only where a table is made

        rows = []
        for task, array in self.arrays.items():
            for layer in range(self.n_layers):
                x = np.asarray(array[layer], dtype=np.float64)
                row = {"task": task, "family": self.families[task], "layer": layer, "examples": len(x)}
                row |= {"norm": np.linalg.norm(x, axis=1).mean(), "variance": x.var(0).sum()}
                rows.append(row | {"constant_features": int((x == x[0]).all(0).sum()), "features": x.shape[1]})
        return pd.DataFrame(rows)

    @public
    def save(self, folder: str | PathLike) -> Path:
        """Write a folder: one .npy file per task, and last the JSON file that says that it is finished."""
        folder = files.path_of(folder, "save Representations")
        for i, (task, array) in enumerate(self.arrays.items()):
            save_array(folder / file_name(i, task), array)
        content = {
            "format": files.FORMAT,
            "kind": "Representations",
            "shapes": {task: list(array.shape) for task, array in self.items()},
            "families": dict(self.families),
            "examples": {task: [list(pair) for pair in pairs] for task, pairs in self.examples.items()},
            "manifest": self.manifest,
        }
        files.write(folder / DONE, json.dumps(content))
        return folder

    @classmethod
    @public
    def load(cls, folder: str | PathLike) -> Self:
        """Open what was saved, or streamed to `output`; the arrays are memory-mapped. Nothing is ever unpickled.

        Raises:
            FileError: the folder is missing, unfinished, damaged, or holds something else.
        """
        folder = files.path_of(folder, "read Representations")
        content = files.read_json(folder / DONE, "the folder of Representations")
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


def _array(x: Any, asked: str) -> Array:
    array = real(x, asked)
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.dtype == torch.bfloat16 else array).numpy()  # numpy has no bfloat16
    return array
