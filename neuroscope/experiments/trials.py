"""Train a mask's neurons, measure tasks, take the training back: what every training experiment is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from neuroscope import files
from neuroscope.errors import ArgumentError, suggest
from neuroscope.evaluation import Outcomes, judge
from neuroscope.experiments.judging import Judge
from neuroscope.masks import NeuronMask
from neuroscope.models import Model, resolve
from neuroscope.statistics import bootstrap_interval
from neuroscope.tasks.task import Task, check_task
from neuroscope.training import NeuronAdapter, Recipe
from neuroscope.training.finetuning import finetune

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[Iterable[Any], str], Iterable[Any]]


class Settings(TypedDict, total=False):
    """Keyword arguments that all training experiments share.

    Attributes:
        lr: peak learning rate of every training (3e-3; a few neurons want several times that of the whole model).
        steps, epochs, batch_size, arguments: as in `finetune`.
        n: test examples per task (None: all).
        eval_batch_size: examples at once when tasks are measured.
        journal: a `files.Journal` with a path makes a long run resumable. Interventions that are live around the call
            are not part of its keys: what is measured under one needs a journal of its own.
        adapters: folder of an earlier `parameter_depth(output=...)`: what was trained there is not trained again.
        progress: called as `progress(iterable, description)`; `tqdm` fits.
    """

    lr: float
    steps: int | None
    epochs: float
    batch_size: int
    arguments: Mapping[str, Any] | None
    n: int | None
    eval_batch_size: int
    journal: files.Journal | None
    adapters: str | PathLike | None
    progress: Progress | None


DEFAULTS: Settings = {
    "lr": 3e-3, "steps": None, "epochs": 3, "batch_size": 16, "arguments": None, "n": None, "eval_batch_size": 64,
    "journal": None, "adapters": None, "progress": None,
}  # fmt: skip


def check_settings(asked: str, settings: Mapping[str, Any], known: Iterable[str] = DEFAULTS) -> None:
    """Refuse settings that are none."""
    for name in settings:
        if name not in known:
            raise ArgumentError(f"{asked}({name}=...)", "no such argument", suggest(name, known))


class Training:
    """Trainings of masks on tasks, each known by the model's weights, the mask, the data, the recipe and the seed."""

    def __init__(self, model: Any, tasks: Mapping[str, Task], trained: Iterable[str], settings: Settings, asked: str):
        check_settings(asked, settings)
        given: dict[str, Any] = {**DEFAULTS, **settings}
        self.recipe = Recipe.of({name: given[name] for name in ("lr", "steps", "epochs", "batch_size", "arguments")})
        self.progress, self.tasks = given["progress"], dict(tasks)
        for task in self.tasks.values():
            check_task(task, asked)
        for name in trained:
            self.tasks[name].split("train")
        self.adapters = None if given["adapters"] is None else Path(given["adapters"])
        self.model: Model = resolve(model)
        named = {name: getattr(self.recipe, name) for name in ("lr", "steps", "epochs", "batch_size")}
        about = {name: repr(value) for name, value in {**named, **self.recipe.arguments}.items()}
        self.about = sorted(about.items())

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Of the model as it is before any training."""
        return self.model.provenance()

    def key(self, mask: NeuronMask, on: Sequence[str], seed: int) -> tuple[Any, ...]:
        """What tells a training from others."""
        learnt = [self.tasks[name].data_hash for name in on]
        model = self.provenance["fingerprint"], self.provenance["dtype"], files.versions().get("neuroscope")
        return "trained", *model, mask.identity, learnt, self.about, seed

    def path(self, mask: NeuronMask, on: Sequence[str], seed: int) -> Path | None:
        """Where the adapter of a training is kept, if any is."""
        if self.adapters is None:
            return None
        return self.adapters / f"{files.digest(*self.key(mask, on, seed))}.safetensors"

    def __call__(self, mask: NeuronMask, on: Sequence[str], seed: int) -> NeuronAdapter:
        """The mask's neurons trained on some tasks, now or by an earlier run: an adapter, live on the model."""
        path = self.path(mask, on, seed)
        if path is not None and path.exists():
            return NeuronAdapter.load(self.model, path)
        learnt = [self.tasks[name] for name in on]
        how: Any = {"seed": seed, "progress": self.progress, **vars(self.recipe)}
        return cast("NeuronAdapter", finetune(self.model, learnt, mask, **how))  # of a mask

    def manifest(self, masks: Mapping[str, NeuronMask], **more: Any) -> dict[str, Any]:
        """What a training depends on."""
        return {
            **self.provenance,
            "masks": {name: dict(mask.manifest) for name, mask in masks.items()},
            "sizes": {name: len(mask) for name, mask in masks.items()},
            "data_hash": {name: task.data_hash for name, task in self.tasks.items()},
            "recipe": dict(self.about),
            **more,
            "versions": files.versions(),
        }


class Trials:
    """Outcomes of tasks on test examples before and after training; each measured once.

    A measurement after training is known by the training, and the task measured. The model is as it was between
    measurements, also after an error.
    """

    def __init__(self, model: Any, tasks: Mapping[str, Task], trained: Iterable[str], settings: Settings, asked: str):
        self.training = Training(model, tasks, trained, settings, asked)
        self.model, self.tasks, self.progress = self.training.model, self.training.tasks, self.training.progress
        given: dict[str, Any] = {**DEFAULTS, **settings}
        kept = given["journal"]
        journal = files.Journal(kept) if isinstance(kept, (str, PathLike)) else kept
        self.before = Judge(self.model, self.tasks, given["n"], given["eval_batch_size"], journal)
        self.training.provenance = self.before.provenance  # a fingerprint reads every weight: once is enough
        self.journal = self.before.journal

    def after(self, mask: NeuronMask, on: Sequence[str], seed: int, tasks: Sequence[str]) -> dict[str, Outcomes]:
        """[example] outcomes of each of the tasks once the mask's neurons are trained on some."""
        trained, keys = self.training.key(mask, on, seed), {}
        for name in tasks:
            judged = (self.tasks[name].data_hash, len(self.before.prepared[name].examples))
            keys[name] = files.digest(*trained, *judged)
        missing = [name for name in tasks if keys[name] not in self.journal.known]
        if missing:
            adapter = self.training(mask, on, seed)
            try:
                for name in missing:
                    self._keep(keys[name], name)
            finally:
                adapter.detach()
        return {name: np.array(self.journal.known[keys[name]]) for name in tasks}

    def _keep(self, key: str, task: str) -> None:
        self.journal.get(key, lambda: judge(self.model, self.before.prepared[task]).tolist())

    def watched(self, items: Sequence[Any], description: str) -> Iterable[Any]:
        """The items, with progress."""
        return self.progress(items, description) if self.progress else items

    def _seen(self) -> int:
        """How many test prompts that were measured are also training prompts of some task."""
        learnt = {e.prompt for task in self.tasks.values() for e in task.train}
        return sum(e.prompt in learnt for p in self.before.prepared.values() for e in p.examples)

    def manifest(self, masks: Mapping[str, NeuronMask], **more: Any) -> dict[str, Any]:
        """What the numbers depend on."""
        n = max(len(p.examples) for p in self.before.prepared.values())
        return self.training.manifest(masks, split="test", n=n, seen=self._seen(), **more)


def measured(outcomes: Outcomes) -> dict[str, Any]:
    """n, score, 95 % bootstrap interval over examples (low, high), and its standard error (se)."""
    low, high = bootstrap_interval(outcomes)
    return {"n": len(outcomes), "score": float(outcomes.mean()), "low": low, "high": high, "se": error_of(outcomes)}


def error_of(values: ArrayLike) -> float:
    """Standard error of the mean over examples; 0 of a single one."""
    sample = np.asarray(values, dtype=float)
    return float(sample.std(ddof=1) / np.sqrt(len(sample))) if len(sample) > 1 else 0.0


def spread(seeds: ArrayLike, error: float) -> tuple[float, float, float]:
    """Mean over seeds, with a 95 % interval over both kinds of chance.

    Half its width is the root of the sum of the squares of two: Student's t over the seeds' means (none of a single
    seed), and 1.96 standard errors over examples, which the seeds share.

    Example:
        >>> [round(v, 3) for v in spread([0.5], 0.1)]
        [0.5, 0.304, 0.696]
    """
    values = np.asarray(seeds, dtype=float)
    half = float(stats.norm.ppf(0.975)) * error
    if len(values) > 1:
        half = np.hypot(half, stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def interval(runs: Sequence[Outcomes] | Outcomes) -> tuple[float, float, float]:
    """`spread` of [seed, example] outcomes, or of differences of them."""
    values = np.asarray(runs)
    return spread(values.mean(axis=1), error_of(values.mean(axis=0)))


def over_tasks(cells: pd.DataFrame) -> tuple[Any, float]:
    """[seed] mean score over tasks, and its standard error over examples; a task measured in several groups is one."""
    tasks = cells.assign(seed=cells["seed"].fillna(0)).groupby(["seed", "task"])["score"].mean()
    errors = cells.groupby("task")["se"].mean()
    return tasks.groupby("seed").mean().to_numpy(dtype=float), float(np.sqrt((errors**2).sum()) / len(errors))


def check_runs(seeds: Any) -> None:
    """Refuse a number of seeds that leaves no run."""
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise ArgumentError(f"seeds={seeds!r}", "no run", "give 1 or more")


def check_growing(name: str, values: Any, least: float, what: str) -> None:
    """Refuse what are not growing numbers from `least` to 1."""
    good = all(isinstance(v, (int, float)) and not isinstance(v, bool) and least <= v <= 1 for v in values)
    if not good or not len(values) or list(values) != sorted(set(values)):
        raise ArgumentError(f"{name}={tuple(values)}", f"not growing {what}", "give some, such as (0.1, 0.5, 1.0)")


def bounded(span: tuple[float, float, float]) -> tuple[float, float, float]:
    """A score with an interval that does not leave [0, 1]."""
    return span[0], max(0.0, span[1]), min(1.0, span[2])
