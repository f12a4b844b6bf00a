"""What the handles on trained weights share: a scope for training, their files, and plain checkpoints."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor, nn
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


@contextlib.contextmanager
def training_only(root: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """A scope in which these parameters of a model require gradients and no others do."""
    before = {name: p.requires_grad for name, p in root.named_parameters()}
    try:
        root.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        for name, parameter in root.named_parameters():  # FSDP has put others in their place
            parameter.requires_grad_(before[name])


def write_tensors(root: nn.Module, path: str | PathLike, tensors: dict[str, Tensor], about: Mapping[str, Any]) -> Path:
    """Write what a handle holds as one safetensors file, atomically; one process does where `root` is sharded."""
    from safetensors.torch import save_file  # only where a file is written

    metadata = {"neuroscope": json.dumps({"format": files.FORMAT, **about})}
    with distributed.writing(root) as writes:
        if writes:
            files.write(path, lambda partial: save_file(tensors, partial, metadata))
    return Path(path)
