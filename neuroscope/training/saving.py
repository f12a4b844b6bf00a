"""Write what was trained: named tensors as one file, or a plain Hugging Face checkpoint."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers.utils import logging

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
    begun: list[Path] = []
    shows_progress = logging.is_progress_bar_enabled()

    def write(partial: Path) -> None:
        begun.append(partial)
        model.root.save_pretrained(partial, state_dict=weights)
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(partial)

    try:
        logging.disable_progress_bar()
        return files.write(folder, write)
    finally:
        if shows_progress:
            logging.enable_progress_bar()
        for partial in begun:  # gone already where all went well
            shutil.rmtree(partial, ignore_errors=True)


def write_tensors(
    path: str | PathLike,
    kind: str,
    tensors: dict[str, Tensor],
    manifest: Mapping[str, Any],
    *,
    root: nn.Module | None = None,
    unit: str = "",
    widths: Mapping[str, int] | None = None,
) -> Path:
    """Write named tensors as one safetensors file, atomically, that `masks.read_safetensors` reads.

    Args:
        kind: of what the file holds.
        root: of the model that they belong to; where it is sharded, one process writes.
        unit, widths: of the sites, where the tensors are of neurons.
    """
    from safetensors.torch import save_file  # only where a file is written

    header = {"format": files.FORMAT, "kind": kind, "unit": unit, "widths": dict(widths or {}), "manifest": manifest}
    metadata = {"neuroscope": json.dumps(header)}
    with contextlib.nullcontext(True) if root is None else distributed.writing(root) as writes:
        if writes:
            files.write(path, lambda partial: save_file(tensors, partial, metadata))
    return Path(path)
