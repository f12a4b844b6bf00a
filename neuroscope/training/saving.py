"""Write what was trained: named tensors as one file, or a plain Hugging Face checkpoint."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers.utils import logging

from neuroscope import distributed, files
from neuroscope.errors import FileError, ModelError
from neuroscope.models import Model
from neuroscope.models.structure import SLOT
from neuroscope.training.deltas import are_live, bare


def save_checkpoint(model: Model, folder: str | PathLike, weights: dict[str, Tensor]) -> Path:
    """Save weights as a Hugging Face checkpoint with the model's configuration and tokenizer, atomically.

    If the model is sharded over processes, every process must call it, with whole weights, and the first one writes.
    """
    folder = files.path_of(folder, "export a model")
    with distributed.writing(model.root) as writes:
        return _write(model, folder, weights) if writes else folder


def guard(root: nn.Module) -> None:
    """Let the model's own `save_pretrained`, which knows nothing of adapters, refuse while a change is not merged.

    It would write the base, or with a LoRA on it, weights by names that no model has. What is merged is written.
    """
    if hasattr(type(root), "save_pretrained"):
        vars(root).setdefault("save_pretrained", partial(_save_pretrained, root))  # a copy gets its own


def unguard(root: nn.Module) -> None:
    """Give the model its own `save_pretrained` back when the last adapter has gone."""
    own = vars(root).get("save_pretrained")
    if getattr(own, "func", None) is _save_pretrained and not _is_adapted(root):
        del vars(root)["save_pretrained"]


def _is_adapted(root: nn.Module) -> bool:
    return any(f".{SLOT}." in f".{name}." or ".base_layer." in f".{name}." for name, _ in root.named_modules())


def _save_pretrained(root: Any, *args: Any, **kwargs: Any) -> Any:
    asked = f"save_pretrained of {type(root).__name__}"
    has_lora = any(".base_layer." in name for name, _ in root.named_parameters())
    if has_lora or are_live(root):
        found = f"{'a LoRA' if has_lora else 'an adapter'} on the model, which a plain checkpoint would lack"
        do = "call the LoRA's save(path)" if has_lora else "call the adapter's merge() first, or its export(folder)"
        raise ModelError(asked, found, f"{do}, or detach() to save the base")
    with bare(root):
        return type(root).save_pretrained(root, *args, **kwargs)


def _write(model: Model, folder: Path, weights: dict[str, Tensor]) -> Path:
    shows_progress = logging.is_progress_bar_enabled()

    def write(partial: Path) -> None:
        type(model.root).save_pretrained(model.root, partial, state_dict=weights)  # not the guard's
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(partial)

    try:
        logging.disable_progress_bar()
        return write_folder(folder, write, f"export to {folder}")
    finally:
        if shows_progress:
            logging.enable_progress_bar()


def write_folder(folder: str | PathLike, write: Callable[[Path], None], asked: str) -> Path:
    """Write a new folder atomically, by a function that is given the path to write it to.

    Raises:
        FileError: the folder exists and is not empty, or cannot be written; then nothing is left of it.
    """
    folder = files.path_of(folder, asked)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileError(asked, f"something is there already: {folder}", "give a folder that is new or empty")
    begun: list[Path] = []

    def noted(partial: Path) -> None:
        begun.append(partial)
        write(partial)

    try:
        return files.write(folder, noted)
    finally:
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

    path = files.path_of(path, f"save a {kind}")
    header = {"format": files.FORMAT, "kind": kind, "unit": unit, "widths": dict(widths or {}), "manifest": manifest}
    metadata = {"neuroscope": json.dumps(header)}
    with contextlib.nullcontext(True) if root is None else distributed.writing(root) as writes:
        if writes:
            files.write(path, lambda partial: save_file(tensors, partial, metadata))
    return path
