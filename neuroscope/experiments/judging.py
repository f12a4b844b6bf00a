"""Judge tasks under masks, each once; and which masks may be judged on which examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope import files
from neuroscope.errors import ArgumentError, TaskError
from neuroscope.evaluation import Outcomes, Prepared, judge, prepare_task
from neuroscope.interventions import ablate
from neuroscope.masks import Match, NeuronMask
from neuroscope.models import Model, resolve
from neuroscope.tasks.task import Task

if TYPE_CHECKING:
    pass

CONTROLS: dict[str, Match] = {"random-uniform": "uniform", "random-layer": "layer"}


class Judge:
    """Outcomes of tasks under masks: each prepared once, each measured once.

    A measurement is known by the model's weights, the task and the mask; interventions around the call are not part of
    that, so what is measured under one needs a journal of its own.
    """

    def __init__(
        self, model: Any, tasks: Mapping[str, Task], n: int | None, batch_size: int, journal: files.Journal | None
    ) -> None:
        self.model: Model = resolve(model)
        self.tasks, self.n = tasks, n
        self.journal = journal or files.Journal()
        self.provenance = self.model.provenance()
        self.model_key = (self.provenance["fingerprint"], self.provenance["dtype"], files.versions().get("neuroscope"))
        self.prepared: dict[str, Prepared] = {
            k: prepare_task(self.model, t, "test", n, batch_size) for k, t in tasks.items()
        }

    def __call__(self, task: str, mask: NeuronMask | None = None) -> Outcomes:
        """[example] outcomes of a task's test examples with the mask's neurons off."""
        t = self.tasks[task]
        judged = (t.data_hash, len(self.prepared[task].examples))
        key = files.digest(*self.model_key, *judged, "" if mask is None else mask.identity)
        return np.array(self.journal.get(key, lambda: self._measure(task, mask)))

    def _measure(self, task: str, mask: NeuronMask | None) -> list[float]:
        if mask is None:
            return judge(self.model, self.prepared[task]).tolist()
        with ablate(self.model, mask):
            return judge(self.model, self.prepared[task]).tolist()


def check_seeds(seeds: Any) -> None:
    """Refuse a number of random masks that leaves no control."""
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 2:
        do = "give seeds=2 or more: one random mask does not tell how much random masks differ"
        raise ArgumentError(f"seeds={seeds!r}", "no control, or only one", do)


def _found_on(manifest: Mapping[str, Any]) -> set[tuple[Any, Any]]:
    """(data, split) that a mask was found on, also where it was combined from others or drawn like another."""
    found = {(manifest.get("data_hash"), manifest.get("split"))}
    for part in [*manifest.get("operands", []), *([manifest["random_like"]] if "random_like" in manifest else [])]:
        found |= _found_on(part)
    return found


def _same_prompts(task: Task, found_on: set[tuple[Any, Any]]) -> bool:
    """Whether every test prompt of the task is among those of the split that its mask was found on."""
    for split in ("train", "discovery"):
        if (task.data_hash, split) in found_on:
            known = {e.prompt for e in task.split(split)}
            return all(e.prompt in known for e in task.split("test"))
    return False


def check_masks(
    masks: Mapping[str, NeuronMask], tasks: Mapping[str, Task], judged: Iterable[str] | None = None
) -> list[str]:
    """Names of the masks; refuse those without a task, or found on test examples of tasks that are judged (theirs)."""
    for what, given in (("masks", masks), ("tasks", tasks)):
        if not isinstance(given, Mapping):
            raise ArgumentError(f"{what} by name", f"a {type(given).__name__}", f"give a dict of name -> {what[:-1]}")
    missing = [name for name in masks if name not in tasks]
    if missing or not masks:
        found = f"no task for {missing}" if masks else "no mask"
        raise ArgumentError("masks and tasks by the same names", found, f"tasks has {list(tasks)}")
    tests = {(tasks[name].data_hash, "test") for name in (masks if judged is None else judged)}
    for name, mask in masks.items():
        if not isinstance(mask, NeuronMask):
            raise ArgumentError(f"the mask of {name!r}", f"a {type(mask).__name__}", "give scores.top(0.10)")
        found_on = _found_on(mask.manifest)
        if any(test in found_on for test in tests) or _same_prompts(tasks[name], found_on):
            raise TaskError(
                f"judge the neurons of {name!r} on its test examples",
                "they were found on the same examples",
                "find them with attribute(..., split='discovery')",
            )
    return list(masks)


def judged_on(judge_: Judge, masks: Mapping[str, NeuronMask], names: list[str]) -> dict[str, Any]:
    """The manifest of what was judged: model, masks, data."""
    return {
        **judge_.provenance,
        "masks": {name: dict(masks[name].manifest) for name in names},
        "sizes": {name: len(masks[name]) for name in names},
        "data_hash": {name: judge_.tasks[name].data_hash for name in names},
        "split": "test",
        "n": max(len(p.examples) for p in judge_.prepared.values()),
        "versions": files.versions(),
    }
