"""Checkpoints of a run of training: which to go on from, and whose they are.

A checkpoint is a folder that Hugging Face's Trainer writes, with what is trained and what tells its run from others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from neuroscope import files
from neuroscope.errors import ArgumentError, FileError, kind_of

WEIGHTS = "adapter.safetensors"
RUN = "run.json"
STATE = "trainer_state.json"  # the last file of a checkpoint that Trainer writes


def checkpoint_of(wanted: bool | str | PathLike, output: str | PathLike | None, run: Mapping[str, Any]) -> Path | None:
    """The checkpoint to go on from, None to start anew.

    Args:
        wanted: False for a new run, a checkpoint's folder, or True for the latest in `output`, if there is any.
        output: the run's folder.
        run: what tells this run from another.

    Raises:
        ArgumentError, FileError: there is no such checkpoint, or it is of another run.
    """
    if wanted is False:
        if output is not None and last_checkpoint(output) is not None:
            do = "give resume_from_checkpoint=True to go on with it, or another folder"
            raise FileError(f"start a run with output={str(output)!r}", "checkpoints of an earlier run", do)
        return None
    if not isinstance(wanted, (bool, str, PathLike)):
        raise ArgumentError(f"resume_from_checkpoint={wanted!r}", kind_of(wanted), "give a folder, or True")
    if wanted is True and output is None:
        raise ArgumentError("resume_from_checkpoint=True", "output=None", "give the run's output folder")
    path = last_checkpoint(output or "") if wanted is True else files.path_of(wanted, "resume_from_checkpoint")
    if path is None:
        return None
    if not is_complete(path):
        raise FileError(
            f"resume_from_checkpoint={str(path)!r}", "no complete checkpoint", "give a checkpoint's folder, or True"
        )
    refuse_other_run(path, run)  # before anything of it is read
    return path


def refuse_other_run(checkpoint: str | PathLike, run: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose run differs, naming what differs."""
    do = "repeat the run's arguments, or give another output folder"
    files.refuse_other_settings(Path(checkpoint) / RUN, run, f"resume from {checkpoint}", do)


def last_checkpoint(output: str | PathLike) -> Path | None:
    """The latest complete checkpoint of a run's folder; one that a kill cut off is passed over."""
    numbered = [p for p in Path(output).glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    for path in sorted(numbered, key=lambda p: -int(p.name.removeprefix("checkpoint-"))):
        if is_complete(path):
            return path
    return None


def is_complete(checkpoint: Path) -> bool:
    """Whether the checkpoint was written to its end."""
    try:
        json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (checkpoint / WEIGHTS).is_file() and (checkpoint / RUN).is_file()
