"""What every method of continual learning is given (a `Setting`), and what it hands back (a `Learner`).

A method is a function: it checks its options, and returns functions that learn and answer, with the parts that they
train. The sequence calls these, and saves, restores and takes off the parts; a method does none of that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from neuroscope.checks import Progress
from neuroscope.evaluation import Outcomes, Prepared, judge, prepare_task
from neuroscope.masks import read_safetensors
from neuroscope.models import Model
from neuroscope.tasks.task import Task
from neuroscope.training import Recipe, Trainable, train
from neuroscope.training.saving import write_tensors

Log = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """One sequence of tasks to be learnt by one method.

    Attributes:
        tasks: in the order of learning.
        known: tasks that the base can do already, to see what becomes of them.
        recipe: of the training of one stage.
        seed: of this run: of training, random masks, and samples.
        split, n, batch_size: the examples that scores are measured on, and how many at once.
        ahead: whether tasks still to come are measured too.
    """

    model: Model
    tasks: Sequence[Task]
    known: Sequence[Task]
    recipe: Recipe
    seed: int
    split: str = "test"
    n: int | None = None
    batch_size: int | None = None
    progress: Progress | None = None
    prepared: dict[str, Prepared] = field(default_factory=dict)  # shared by the runs on one model
    in_base: dict[str, Outcomes] = field(default_factory=dict)  # too
    ahead: bool = True
    stuck: list[bool] = field(default_factory=list)  # of each training so far, whether its loss did not fall

    def train(self, part: Trainable, tasks: Sequence[Task], recipe: Recipe | None = None, **more: Any) -> None:
        """One stage of training, with a new optimizer."""
        train(part, tasks, recipe or self.recipe, seed=self.seed, progress=self.progress, **more)
        self.stuck.append(bool(part.manifest.get("stuck")))

    def judge(self, task: Task) -> Outcomes:
        """[examples] outcomes of the model as it stands."""
        if task.data_hash not in self.prepared:
            self.prepared[task.data_hash] = prepare_task(self.model, task, self.split, self.n, self.batch_size)
        return judge(self.model, self.prepared[task.data_hash])

    def judge_base(self, task: Task) -> Outcomes:
        """[examples] outcomes of the base, which the model is now: measured once for all runs."""
        if task.data_hash not in self.in_base:
            self.in_base[task.data_hash] = self.judge(task)
        return self.in_base[task.data_hash]


class Part(Protocol):
    """Something that a method trains or keeps: a `NeuronAdapter`, a `LoraAdapter`, a `WholeModel`, or `Tensors`."""

    def save(self, path: str | PathLike) -> Path:
        """Write it to a file."""

    def restore(self, path: str | PathLike) -> None:
        """Read it back."""

    def detach(self) -> None:
        """Leave the model as it was."""


@dataclass(frozen=True)
class Learner:
    """A method at work on one sequence. The model is the base until the first stage.

    Attributes:
        learn: called with the number of a stage, learns its task. What it returns is logged and must survive JSON;
            "trained" counts parameters, and "stored" numbers that are kept, where that is not what `stored` counts.
        outcomes: called with any task of the setting: [examples] outcomes, the way the method answers after the stages
            so far.
        parts: one for every stage so far, in order, each saved once. `learn` appends to it before it trains, so that
            whatever happens, the part is taken off again.
        load: called with the file of a part, puts it on the model as `learn` left it, and appends it to `parts`.
        carried: parts that all stages train on, by name; they are saved anew after every stage.
    """

    learn: Callable[[int], Log]
    outcomes: Callable[[Task], Outcomes]
    parts: list[Any] = field(default_factory=list)
    load: Callable[[Path], None] | None = None
    carried: Mapping[str, Part] = field(default_factory=dict)

    def save(self, folder: Path, stage: int) -> None:
        """Write what the stage has added. A kill may follow, so that the files of the stage before stay."""
        if self.load is not None:
            self.parts[stage].save(_file(folder, "part", stage))
        for name, part in self.carried.items():
            part.save(_file(folder, name, stage))
        for name in self.carried:
            _file(folder, name, stage - 2).unlink(missing_ok=True)

    def restore(self, folder: Path, stage: int) -> None:
        """Be as after that stage."""
        if self.load is not None:
            for number in range(stage + 1):
                self.load(_file(folder, "part", number))
        for name, part in self.carried.items():
            part.restore(_file(folder, name, stage))

    @property
    def stored(self) -> int:
        """How many numbers are kept besides the base, or instead of it, to answer and to go on learning."""
        kept = [*self.parts, *self.carried.values()]
        return sum(
            sum(v.numel() for v in part.values()) if isinstance(part, Tensors) else part.n_parameters for part in kept
        )

    def take_off(self) -> None:
        """Leave the model as it was, to the bit: the last part goes first, out of the weights if it is merged."""
        with contextlib.ExitStack() as every:  # also the others, where one fails; the last that is put on comes first
            for part in [*self.parts, *reversed(list(self.carried.values()))]:
                every.callback(_take_off, part)
        self.parts.clear()


class Tensors(dict[str, Tensor]):
    """Numbers by name that a method keeps from stage to stage, as a part."""

    def save(self, path: str | PathLike) -> Path:
        """Write them to a file, atomically."""
        tensors = {name: values.cpu().contiguous() for name, values in self.items()}
        return write_tensors(path, "Tensors", tensors, {})

    def restore(self, path: str | PathLike) -> None:
        """Read them back, onto the CPU."""
        saved = read_safetensors(path, "Tensors")[0]
        self.clear()
        self.update(saved)

    def detach(self) -> None:
        """They are not on the model."""


def _take_off(part: Any) -> None:
    """Out of the weights, if it is merged, and off the model."""
    if getattr(part, "is_merged", False):
        part.unmerge()
    part.detach()


def _file(folder: Path, name: str, stage: int) -> Path:
    return folder / f"{name}-{stage}.safetensors"
