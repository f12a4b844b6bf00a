"""Save weights as a plain Hugging Face checkpoint."""

from __future__ import annotations

import shutil
from os import PathLike
from pathlib import Path

from torch import Tensor

from neuroscope import distributed, files
from neuroscope.errors import FileError
from neuroscope.models import Model


def save_checkpoint(model: Model, folder: str | PathLike, weights: dict[str, Tensor]) -> Path:
    """Save weights as a Hugging Face checkpoint with the model's configuration and tokenizer, atomically.

    If the model is sharded over processes, every process must call it, with whole weights, and the first one writes.
    """
    folder = Path(folder)
    with distributed.writing(model.root) as writes:
        return _write(model, folder, weights) if writes else folder


def _write(model: Model, folder: Path, weights: dict[str, Tensor]) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileError(f"export to {folder}", "something is there already", "give a folder that is new or empty")
    made: list[Path] = []

    def write(partial: Path) -> None:
        made.append(partial)
        model.root.save_pretrained(partial, state_dict=weights)
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(partial)

    try:
        return files.write(folder, write)
    finally:
        for partial in made:  # gone already where all went well
            shutil.rmtree(partial, ignore_errors=True)
