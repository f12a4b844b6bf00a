"""Save weights as a plain Hugging Face checkpoint."""

from __future__ import annotations

import shutil
from os import PathLike
from pathlib import Path

from torch import Tensor
from transformers.utils import logging

from neuroscope import distributed, files
from neuroscope.errors import FileError, ModelError
from neuroscope.models import Model


def save_checkpoint(model: Model, folder: str | PathLike, weights: dict[str, Tensor]) -> Path:
    """Save weights as a Hugging Face checkpoint with the model's configuration and tokenizer, atomically.

    If the model is sharded over processes, every process must call it, with whole weights, and the first one writes.
    """
    folder = Path(folder)
    with distributed.writing(model.root) as writes:
        return _write(model, folder, weights) if writes else folder


def refuse_loras(model: Model, asked: str) -> None:
    """Refuse a model with LoRAs on it, under which its weights have other names."""
    if any(".base_layer." in name for name, _ in model.root.named_parameters()):
        raise ModelError(asked, "a LoRA on the model", "call its detach() first")


def _write(model: Model, folder: Path, weights: dict[str, Tensor]) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileError(f"export to {folder}", "something is there already", "give a folder that is new or empty")
    made: list[Path] = []
    shows_progress = logging.is_progress_bar_enabled()

    def write(partial: Path) -> None:
        made.append(partial)
        model.root.save_pretrained(partial, state_dict=weights)
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(partial)

    try:
        logging.disable_progress_bar()
        return files.write(folder, write)
    finally:
        if shows_progress:
            logging.enable_progress_bar()
        for partial in made:  # gone already where all went well
            shutil.rmtree(partial, ignore_errors=True)
