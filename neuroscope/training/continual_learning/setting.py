"""What every method of continual learning is given, and what it must be able to do."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from neuroscope.checks import Progress
from neuroscope.evaluation import Outcomes, Prepared, judge, prepare_task
from neuroscope.models import Model
from neuroscope.tasks.task import Task
from neuroscope.training import Recipe, Trainable, train

MIB = 2**20
AT_ONCE = 64  # examples per forward pass where the caller does not say
PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


@dataclass(frozen=True)
class Setting:
    """One sequence of tasks to be learnt by one method.

    Attributes:
        tasks: in the order of learning.
        known: tasks that the base can do already, to see what becomes of them.
        recipe: of the training of one stage.
        seed: of this run: of training, random masks, and samples.
        split, n, batch_size: the examples that scores are measured on, and how many at once.
    """

    model: Model
    tasks: tuple[Task, ...]
    known: tuple[Task, ...]
    recipe: Recipe
    seed: int
    split: str = "test"
    n: int | None = None
    batch_size: int | None = None
    progress: Progress | None = None
    prepared: dict[str, Prepared] = field(default_factory=dict)  # shared by the runs on one model

    def train(self, adapter: Trainable, tasks: Sequence[Task], recipe: Recipe | None = None, **more: Any) -> None:
        """One stage of training, with a new optimizer."""
        train(adapter, tasks, recipe or self.recipe, seed=self.seed, progress=self.progress, **more)

    def judge(self, task: Task) -> Outcomes:
        """[examples] outcomes of the model as it stands."""
        if task.data_hash not in self.prepared:
            self.prepared[task.data_hash] = prepare_task(self.model, task, self.split, self.n, self.batch_size)
        return judge(self.model, self.prepared[task.data_hash])


class Learner(Protocol):
    """A method at work on one sequence. The model is the base until the first stage, and again once it is closed."""

    def learn(self, stage: int) -> dict[str, Any]:
        """Learn the stage's task; what is returned is logged and must survive JSON. "trained" counts parameters."""

    def outcomes(self, task: Task) -> Outcomes:
        """[examples] outcomes on any task of the setting, the way the method answers after the stages so far."""

    def save(self, folder: Path, stage: int) -> None:
        """Write what the stage has added. A kill may follow, so that `restore` to the stage before must still work."""

    def restore(self, folder: Path, stage: int) -> None:
        """Be as after that stage."""

    def close(self) -> None:
        """Leave the model as it was."""


@contextlib.contextmanager
def measured(device: torch.device) -> Iterator[dict[str, float]]:
    """Seconds, and peak memory in MiB beyond what was held before: of the device, or of the process on a CPU.

    Where the kernel does not tell a process's peak, that is NaN.
    """
    cost: dict[str, float] = {}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device) / MIB
    else:
        held = _reset_peak()
    start = time.perf_counter()
    yield cost
    cost["seconds"] = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated(device) / MIB if device.type == "cuda" else _peak()
    cost["peak_mib"] = peak - held


def _reset_peak() -> float:
    """Ask the kernel to forget the process's high-water mark of memory; what is held now."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # glibc has it; else memory freed hides the peak
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return float("nan")
    return _peak()


def _peak() -> float:
    if os.name != "posix" or not Path("/proc/self/status").exists():
        return float("nan")
    found = PEAK.search(Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")
