"""Train a mask's neurons, measure tasks, take the training back: what every training experiment is made of."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from neuroscope import distributed, files
from neuroscope.checks import FEWEST_RANDOM, Progress
from neuroscope.errors import ArgumentError, choose
from neuroscope.evaluation import Outcomes, judge
from neuroscope.experiments.judging import Judge, masks_manifest
from neuroscope.masks import NeuronMask
from neuroscope.models import Model, identity_of
from neuroscope.statistics import standard_error
from neuroscope.tasks import Task
from neuroscope.tasks.prompts import hash_of
from neuroscope.training import NeuronAdapter, Recipe
from neuroscope.training.finetuning import finetune
from neuroscope.training.garbage import settled_garbage
from neuroscope.training.processes import wants_shards
from neuroscope.training.stuck_loss import StuckLoss

if TYPE_CHECKING:
    import pandas as pd

Run = tuple[NeuronMask, Sequence[str], int, Sequence[str]]  # what is trained, on which tasks, seed, tasks measured
LR = 3e-3  # a few neurons want several times the learning rate of the whole model
FEW_SEEDS = f"give {FEWEST_RANDOM} seeds or more, such as seeds=3: fewer do not tell how random masks differ"
ADAPTERS = "adapters"  # in the output folder


class Trials:
    """Trainings of masks on tasks, and outcomes of tasks on test examples before and after them; each made once.

    A training is known by the model's weights, the mask, the data, the recipe and the seed; a measurement by the
    training and the task measured. Several processes share the trainings out: each trains its own, on its own copy of
    the model. Interventions around the call are not part of that, so what is measured under one
    needs an output folder of its own. The model is as it was between measurements, also after an error.
    """

    def __init__(
        self,
        model: Model,
        tasks: Mapping[str, Task],
        trained: Iterable[str],
        recipe: Recipe | Mapping[str, Any] | None = None,
        *,
        n: int | None = None,
        batch_size: int | None = None,
        output: str | PathLike | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.recipe = Recipe.of(recipe, lr=LR)
        self.model, self.tasks, self.progress = model, dict(tasks), progress
        self.output = None if output is None else Path(output)
        self.measuring: dict[str, Any] = {"n": n, "batch_size": batch_size}
        self.is_random: dict[str, bool] = {}  # of the trainings, by the key under which the journal has who is stuck
        for name in trained:
            self.tasks[name].split("train")

    @cached_property
    def before(self) -> Judge:
        """Outcomes of the tasks without training."""
        return Judge(self.model, self.tasks, **self.measuring, output=self.output)

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What the model is, before any training."""
        return self.model.provenance()

    def train(self, mask: NeuronMask, on: Sequence[str], seed: int) -> NeuronAdapter:
        """The mask's neurons trained on some tasks, now or by an earlier run: an adapter, live on the model."""
        path = self.path(mask, on, seed)
        if path is not None and path.exists():
            return NeuronAdapter.load(self.model, path)
        how: Any = {**vars(self.recipe), "seed": seed, "progress": self.progress}
        # random neurons may learn nothing: the words of a result count the trainings that are stuck
        quiet: Any = {"action": "ignore", "category": StuckLoss} if _is_random(mask) else {}
        with warnings.catch_warnings(**quiet):
            trained = finetune(self.model, [self.tasks[name] for name in on], mask, **how)
        return cast("NeuronAdapter", trained)  # of a mask

    def path(self, mask: NeuronMask, on: Sequence[str], seed: int) -> Path | None:
        """Where the adapter of a training is kept, if any is."""
        if self.output is None:
            return None
        return self.output / ADAPTERS / f"{files.digest(*self._key(mask, on, seed))}.safetensors"

    def _key(self, mask: NeuronMask, on: Sequence[str], seed: int) -> tuple[Any, ...]:
        """What tells a training from others."""
        learnt = [hash_of(self.model, self.tasks[name]) for name in on]
        model = (*identity_of(self.provenance).values(), files.versions().get("neuroscope"))
        return "trained", *model, mask.identity, learnt, sorted(self.recipe.settings().items()), seed

    def measure(self, runs: Iterable[Run], desc: str) -> None:
        """Measure every task, and what is not known of trainings, shared out over the processes; then each knows it."""
        self.before.measure([(name, None) for name in self.tasks], self.progress, f"{desc}: before")
        known = self.before.journal.known
        missing = {
            files.digest(self._keys(*run)): partial(self._run, *run)
            for run in runs
            if not known.keys() >= set(self._keys(*run).values())
        }
        whole = distributed.has_shards(self.model.root) or wants_shards(self.recipe)
        with settled_garbage(when=bool(missing)):
            for found in distributed.shared_out(desc, missing, self.progress, whole).values():
                known |= found

    def after(self, mask: NeuronMask, on: Sequence[str], seed: int, tasks: Sequence[str]) -> dict[str, Outcomes]:
        """[example] outcomes of each of the tasks once the mask's neurons are trained on some."""
        self._run(mask, on, seed, tasks)
        return {name: self.before.recorded(key, name) for name, key in self._keys(mask, on, seed, tasks).items()}

    def _keys(self, mask: NeuronMask, on: Sequence[str], seed: int, tasks: Sequence[str]) -> dict[str, str]:
        """Under which keys the journal has the tasks' outcomes after a training."""
        training = self._key(mask, on, seed)
        return {name: files.digest(*training, *self.before.judged(name)) for name in tasks}

    def _run(self, *run: Any) -> dict[str, list[float]]:
        """The journal's entries on a training, made now where it has none."""
        mask, on, seed, tasks = run
        keys, journal = self._keys(*run), self.before.journal
        stuck = files.digest(*self._key(mask, on, seed), "stuck")
        self.is_random[stuck] = _is_random(mask)
        missing = [name for name in tasks if keys[name] not in journal.known]
        if missing:
            adapter = self.train(mask, on, seed)
            try:
                journal.get(stuck, lambda: [float(adapter.manifest.get("stuck") is True)])
                for name in missing:
                    journal.get(keys[name], partial(self._judge, name))
            finally:
                adapter.detach()
        return {key: journal.known[key] for key in (*keys.values(), stuck) if key in journal.known}

    def row(self, task: str, outcomes: Outcomes) -> dict[str, Any]:
        """`Judge.row`, and the score's standard error over examples (se)."""
        return self.before.row(task, outcomes) | {"se": standard_error(outcomes)}

    def _judge(self, task: str) -> list[float]:
        return judge(self.model, self.before.prepared[task]).tolist()

    def training_manifest(self, masks: Mapping[str, NeuronMask], **more: Any) -> dict[str, Any]:
        """What the trainings depend on."""
        return {
            **self.provenance,
            **masks_manifest(masks),
            "data_hash": {name: task.data_hash for name, task in self.tasks.items()},
            "recipe": self.recipe.settings(),
            **more,
            "versions": files.versions(),
        }

    def manifest(self, masks: Mapping[str, NeuronMask], **more: Any) -> dict[str, Any]:
        """What the numbers depend on.

        `seen` counts the test prompts that are training prompts of some task too, `stuck` the trainings whose loss did
        not fall, where there are any: [all, stuck, those of random neurons].
        """
        learnt = {e.prompt for task in self.tasks.values() for e in task.train}
        seen = sum(e.prompt in learnt for p in self.before.prepared.values() for e in p.examples)
        known = self.before.journal.known
        stuck = [is_random for key, is_random in self.is_random.items() if known.get(key) == [1.0]]
        more |= {"stuck": [len(self.is_random), len(stuck), sum(stuck)]} if stuck else {}
        return self.training_manifest(masks, split="test", n=self.before.n, seen=seen, **more)


def over_tasks(cells: pd.DataFrame) -> tuple[Any, float]:
    """[seed] mean score over tasks, and its standard error over examples; a task measured in several groups is one."""
    tasks = cells.assign(seed=cells["seed"].fillna(0)).groupby(["seed", "task"])["score"].mean()
    errors = cells.groupby("task")["se"].mean()
    return tasks.groupby("seed").mean().to_numpy(dtype=float), float(np.sqrt((errors**2).sum()) / len(errors))


def require_random_masks(seeds: Sequence[int], asked: str) -> None:
    """Refuse fewer runs than random masks are needed, since every run draws its own.

    Raises:
        ArgumentError: fewer than three seeds.
    """
    if len(seeds) < FEWEST_RANDOM:
        found = f"{len(seeds)} of each kind, each with a random mask of its own"
        raise ArgumentError(f"{asked}(seeds={tuple(seeds)})", found, FEW_SEEDS)


def parted(tasks: Mapping[str, Task], held_out: str | Sequence[str], asked: str) -> tuple[list[str], list[str]]:
    """Names of the tasks to train on, and of those held out: only measured.

    Raises:
        ArgumentError: no such task, or none left to train on.
    """
    measured = [held_out] if isinstance(held_out, str) else list(dict.fromkeys(held_out))
    for name in measured:
        choose(name, tasks, "held-out task")
    learnt = [name for name in tasks if name not in measured]
    if not learnt:
        raise ArgumentError(f"{asked}(held_out={measured})", "every task: none to train on", "leave out fewer")
    return learnt, measured


def caveats(manifest: Mapping[str, Any]) -> list[str]:
    """That some test prompts were not held out, or that some trainings taught nothing, where that is so."""
    lines, seen = [], manifest.get("seen", 0)
    if seen:
        lines.append(f"- **{seen}** of the test prompts are training prompts as well: those were not held out.")
    if "stuck" in manifest:
        every, stuck, random = manifest["stuck"]
        found = f"- The loss of **{stuck} of {every}** trainings did not fall (stuck), {random} of them of random"
        lines.append(f"{found} neurons: try another lr, or more steps.")
    return lines


def _is_random(mask: NeuronMask) -> bool:
    """Whether neurons were drawn: by `NeuronMask.random_like`, or with a preset overlap (`t9_draws`)."""
    return not mask.manifest.keys().isdisjoint(("random_like", "inside"))
