"""Judge tasks under masks, each once; and which masks may be judged on which examples."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from neuroscope import distributed, files
from neuroscope.checks import Progress
from neuroscope.errors import ArgumentError, FileError, NeuroscopeError, TaskError
from neuroscope.evaluation import Constant, Neutral, Outcomes, Prepared, judge, losses_of, prepare_neutral, prepare_task
from neuroscope.evaluation.repetition import generates, repetition_of
from neuroscope.interventions import ablate
from neuroscope.interventions.corrupt_prompts import corrupt_prompts
from neuroscope.interventions.corrupt_run import corrupted
from neuroscope.interventions.edits import Value
from neuroscope.interventions.mask_sites import MaskSites, Scope
from neuroscope.interventions.replacements import ByAddress, mean_activations
from neuroscope.masks import NeuronMask, masks_of
from neuroscope.models import Model, identity_of, resolve
from neuroscope.statistics import score_interval
from neuroscope.tasks import Task, tasks_of

JOURNAL = "journal.jsonl"  # in the output folder: one for all experiments that write to it
EXAMPLES = 256  # discovery examples that a mean is taken over, or a sample drawn from


@dataclass(frozen=True)
class Change:
    """What is done to a mask's neurons; by default they are switched off.

    Attributes:
        said: what tells it from another.
        scope: of a model and a mask, the intervention.
    """

    said: tuple[Any, ...] = ()
    scope: Callable[[Model, NeuronMask], Scope] = ablate


class Judge:
    """Outcomes of tasks under masks: each task prepared once, each measurement made once, by one of the processes.

    A measurement is known by the model with what is live on it, the task, the mask, and what its neurons become. Once
    per mask, the loss on neutral text is measured too, where texts are given.

    Args:
        n, batch_size, output: as in `deactivation`.
        neutral: texts (None: the model's own; () leaves it out).
        repetition: whether what the model makes of the neutral texts' beginnings is measured too, once per mask: how
            far it repeats itself.
        value: what the neurons of a mask become, as in `ablate`. A mean is made once for each task. Under neutral texts
            they are off.
        data: a task whose discovery examples give the mean or the sample; None: each task's own. With "corrupt" it is
            none: the corrupt prompts are those of the examples that are judged.
    """

    def __init__(
        self,
        model: Model,
        tasks: Mapping[str, Task],
        n: int | None = None,
        batch_size: int | None = None,
        output: str | PathLike | None = None,
        neutral: Sequence[str] | None = (),
        value: Value | float = "zero",
        data: Task | None = None,
        repetition: bool = False,
    ) -> None:
        self.model, self.tasks = model, tasks
        self.change = Change()
        self.neutral, self.no_neutral = _neutral(model, neutral, batch_size)
        self.repetition = repetition and self.neutral is not None and generates(model)
        self.value, self.data = value, data
        if value == "corrupt" and data is not None:
            do = "leave out data: the corrupt prompts are those of the examples that are judged"
            raise ArgumentError(f"value='corrupt' with data={data.name!r}", "data of another task", do)
        if value in ("mean", "resample"):
            for task in [*tasks.values()] if data is None else [data]:
                task.split("discovery", EXAMPLES)  # there are some
        self._means: dict[tuple[str, str], ByAddress] = {}
        self.journal = files.Journal(None if output is None else Path(output) / JOURNAL, _is_measurement)
        self.provenance = model.provenance()
        self.model_key = (*identity_of(self.provenance).values(), files.versions().get("neuroscope"))
        self.prepared: dict[str, Prepared] = {
            name: prepare_task(model, task, "test", n, batch_size) for name, task in tasks.items()
        }
        self._corrupt = {name: corrupt_prompts(model, task) for name, task in tasks.items() if value == "corrupt"}
        for name, prompts in self._corrupt.items():
            prompts.check(self.prepared[name].examples)

    def under(self, change: Change) -> Judge:
        """One of the same tasks, texts and journal that does something else to the neurons."""
        other = copy.copy(self)
        other.change = change
        return other

    def require_two_examples(self, asked: str) -> None:
        """Refuse a task of one test example, before anything is measured: its effects have no interval.

        Raises:
            ArgumentError: there is one.
        """
        few = next((name for name, of in self.prepared.items() if len(of.examples) < 2), None)
        if few is not None:
            raise ArgumentError(f"{asked}(n=...)", f"one test example of task {few!r}", "judge two or more")

    def __call__(self, task: str, mask: NeuronMask | None = None) -> Outcomes:
        """[example] outcomes of a task's test examples with the mask's neurons off."""
        key = self._key(task, mask)
        self.journal.get(key, lambda: self._measure(task, mask))
        return self.recorded(key, task)

    def measure(self, cells: Iterable[tuple[str, NeuronMask | None]], progress: Progress | None, desc: str) -> None:
        """Measure what is not known of tasks under masks, shared out over the processes; then each knows all of it."""
        wanted: dict[str, Callable[[], Any]] = {}
        for task, mask in cells:
            wanted[self._key(task, mask)] = partial(self._measure, task, mask)
            if self.neutral is not None:
                wanted[self._neutral_key(mask)] = partial(self._measure_neutral, mask)
            if self.repetition:
                wanted[self._neutral_key(mask, "repetition")] = partial(self._measure_repetition, mask)
        missing = {
            key: partial(self.journal.get, key, measure)
            for key, measure in wanted.items()
            if key not in self.journal.known
        }
        is_sharded = distributed.has_shards(self.model.root)
        self.journal.known |= distributed.shared_out(desc, missing, progress, whole=is_sharded)

    def _key(self, task: str, mask: NeuronMask | None) -> str:
        off = [""] if mask is None else [mask.identity, *self._becomes(task)]
        return files.digest(*self.model_key, *self.judged(task), *off)

    def _becomes(self, task: str) -> tuple[str | float | int, ...]:
        """What tells the value of a mask's neurons from zero."""
        if self.change.said:
            return self.change.said
        if isinstance(self.value, str):
            source = (self.value, self._source(task).data_hash)
            return () if self.value == "zero" else source if self.value == "corrupt" else (*source, EXAMPLES)
        return (float(self.value),) if self.value else ()

    def _source(self, task: str) -> Task:
        return self.tasks[task] if self.data is None else self.data

    def _neutral_key(self, mask: NeuronMask | None, what: str = "neutral") -> str:
        texts = "" if self.neutral is None else self.neutral.digest
        off = [""] if mask is None else [mask.identity, *self.change.said]
        return files.digest(*self.model_key, what, texts, *off)

    def recorded(self, key: str, task: str) -> Outcomes:
        """[example] outcomes of a task's test examples that the journal has under a key."""
        outcomes, n = self.journal.known[key], len(self.prepared[task].examples)
        if not isinstance(outcomes, list) or len(outcomes) != n:
            found = f"{len(outcomes)} outcomes of task {task!r}, which has {n} examples, under {key}"
            raise FileError(f"read the journal {self.journal.path}", found, "give another path, or delete the file")
        return np.array(outcomes)

    def neutral_losses(self, task: str, mask: NeuronMask | None = None) -> Outcomes:
        """[text] losses (nats a token) with the mask's neurons off, of the texts that are neutral beside a task.

        Of no text where none are measured. A text is neutral beside a task if it is not of its family.
        """
        if self.neutral is None:
            return np.array([])
        key = self._neutral_key(mask)
        losses = self.journal.get(key, lambda: self._measure_neutral(mask))["losses"]
        return np.array(losses)[self.neutral.beside(self.tasks[task].family)]

    def repetitions(self, task: str, mask: NeuronMask | None = None) -> Outcomes:
        """[text] how far what the model makes of each neutral text's beginning repeats itself; of those texts."""
        if not self.repetition:
            return np.array([])
        assert self.neutral is not None
        shares = self.journal.get(self._neutral_key(mask, "repetition"), lambda: self._measure_repetition(mask))
        return np.array(shares)[self.neutral.beside(self.tasks[task].family)]

    def judged(self, task: str) -> tuple[str | int, ...]:
        """What tells the examples that a task is judged on from others: data, number, and template of a chat."""
        prepared = self.prepared[task]
        template = [prepared.asked["template"]] if "template" in prepared.asked else []
        return self.tasks[task].data_hash, len(prepared.examples), *template

    def constant(self, task: str) -> Constant:
        """What a task's test examples give without a model."""
        return self.prepared[task].constant

    def row(self, task: str, outcomes: Outcomes) -> dict[str, Any]:
        """A measurement's columns: n, score, its 95 % interval over examples (low, high), and its level.

        Of the level of chance: majority and uniform, the scores of the best constant answer and of guessing, and
        p_majority, of no more than the first (`evaluation.constant`).
        """
        low, high = score_interval(outcomes)
        score = {"n": len(outcomes), "score": float(outcomes.mean()), "low": low, "high": high}
        return score | self.constant(task).columns(outcomes)

    @property
    def n(self) -> int:
        """Test examples of the task that has most."""
        return max(len(prepared.examples) for prepared in self.prepared.values())

    def manifest(self, masks: Mapping[str, NeuronMask], **more: Any) -> dict[str, Any]:
        """What the numbers depend on."""
        return {
            **self.provenance,
            **masks_manifest(masks),
            "data_hash": {name: self.tasks[name].data_hash for name in masks},
            "split": "test",
            "n": self.n,
            "value": self.value,
            "measured": files.today(),
            "asked": {name: self.prepared[name].asked for name in masks if self.prepared[name].asked},
            **({} if self.neutral is None else {"neutral": self.neutral.manifest()}),
            **({"neutral": {"why": self.no_neutral}} if self.no_neutral else {}),
            **more,
            "versions": files.versions(),
        }

    def _measure(self, task: str, mask: NeuronMask | None) -> list[float]:
        if mask is None:
            return judge(self.model, self.prepared[task]).tolist()
        with self._ablated(task, mask):
            return judge(self.model, self.prepared[task]).tolist()

    def _ablated(self, task: str, mask: NeuronMask) -> Scope:
        if self.change.said:
            return self.change.scope(self.model, mask)
        if self.value == "resample":
            return ablate(self.model, mask, value=self.value, data=self._source(task), examples=EXAMPLES)
        if self.value == "corrupt":
            places = MaskSites.find(self.model, mask, "ablate(value='corrupt')")
            return corrupted(places, self._corrupt[task], None, self.tasks[task].data_hash)
        if self.value != "mean":
            return ablate(self.model, mask, value=self.value)
        source = self._source(task)
        place = (source.data_hash, mask.unit)
        if place not in self._means:
            places = MaskSites.find(self.model, mask | ~mask, "the mean activations of all neurons")
            self._means[place] = mean_activations(places, source, EXAMPLES)
        means = self._means[place]  # of this model: whatever model the mask was found on
        return ablate(self.model, NeuronMask(mask.values_by_site, mask.widths, mask.unit, means=means), value="mean")

    def _measure_neutral(self, mask: NeuronMask | None) -> dict[str, list[float]]:
        assert self.neutral is not None
        with contextlib.nullcontext() if mask is None else self.change.scope(self.model, mask):
            return {"losses": losses_of(self.model, self.neutral).tolist()}

    def _measure_repetition(self, mask: NeuronMask | None) -> list[float]:
        assert self.neutral is not None
        with contextlib.nullcontext() if mask is None else self.change.scope(self.model, mask):
            return repetition_of(self.model, self.neutral).tolist()


def _is_measurement(value: Any) -> bool:
    """Outcomes of a task, or losses on neutral texts."""
    if isinstance(value, dict):
        return list(value) == ["losses"] and _are_from_0_to(math.inf, value["losses"])
    return _are_from_0_to(1, value)


def _are_from_0_to(most: float, values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(x, int | float) and 0 <= x <= most for x in values)  # NaN is not


def _neutral(model: Model, texts: Sequence[str] | None, batch_size: int | None) -> tuple[Neutral | None, str]:
    """The neutral texts to measure; without any of the model's own, none, and why."""
    if texts is not None:
        return (prepare_neutral(model, texts, batch_size, "neutral") if texts else None), ""
    try:
        return prepare_neutral(model, None, batch_size, "neutral"), ""
    except NeuroscopeError as error:  # a tokenizer without English, a context of a few tokens
        return None, f"{error.found}; {error.do}"


def masks_manifest(masks: Mapping[str, NeuronMask]) -> dict[str, Any]:
    """How masks were made, their sizes, and what tells them from all others."""
    return {
        "masks": {name: dict(mask.manifest) for name, mask in masks.items()},
        "sizes": {name: len(mask) for name, mask in masks.items()},
        "identities": {name: mask.identity for name, mask in masks.items()},
    }


def tasks_and_masks(
    model: Any, tasks: object, masks: object, asked: str
) -> tuple[Model, dict[str, Task], dict[str, NeuronMask]]:
    """The model, opened; masks of it by name; and of the tasks those that have one, in the order of the masks.

    Raises:
        ArgumentError: not tasks, not masks, or a mask without a task.
        MaskError: a mask of another model, or neurons that it does not have.
        TaskError: a mask that was found on test examples of one of these tasks.
    """
    named, model = tasks_of(tasks, asked), resolve(model)
    chosen = masks_of(masks, asked, model)
    missing = [name for name in chosen if name not in named]
    if missing:
        raise ArgumentError(f"{asked}: a task for every mask", f"no task for {missing}", f"tasks has {list(named)}")
    named = {name: named[name] for name in chosen}
    refuse_masks_of_test_examples(chosen, named, named.values())
    return model, named, chosen


def refuse_masks_of_test_examples(
    masks: Mapping[str, NeuronMask], tasks: Mapping[str, Task], judged: Iterable[Task]
) -> None:
    """Refuse masks that were found on test examples of a judged task, or on all test prompts of their own.

    Raises:
        TaskError: there is such a mask.
    """
    tests = {(task.data_hash, "test") for task in judged}
    for name, mask in masks.items():
        examples = _found_on(mask.manifest)
        if tests & examples or _has_all_test_prompts(tasks[name], examples):
            raise _same_examples(name)


def refuse_tasks_without_tests_of_their_own(tasks: Mapping[str, Task]) -> None:
    """Refuse tasks all of whose test prompts are discovery prompts, before neurons are looked for on these.

    Raises:
        TaskError: there is such a task.
    """
    for name, task in tasks.items():
        if _has_all_test_prompts(task, {(task.data_hash, "discovery")}):
            raise _same_examples(name)


def _same_examples(name: str) -> TaskError:
    asked = f"judge the neurons of {name!r} on its test examples"
    do = "find them with attribute(..., split='discovery'), on other prompts than the test ones"
    return TaskError(asked, "they were found on the same examples", do)


def _found_on(manifest: Mapping[str, Any]) -> set[tuple[Any, Any]]:
    """(data, split) that a mask was found on, also where it was combined from others or drawn like another."""
    examples = {(manifest.get("data_hash"), manifest.get("split"))}
    for part in [*manifest.get("operands", []), *([manifest["random_like"]] if "random_like" in manifest else [])]:
        examples |= _found_on(part)
    return examples


def _has_all_test_prompts(task: Task, found_on: set[tuple[Any, Any]]) -> bool:
    """Whether every test prompt of the task is among those of the split that its mask was found on."""
    for split in ("train", "discovery"):
        if (task.data_hash, split) in found_on:
            known = {e.prompt for e in task.split(split)}
            return bool(task.test) and all(e.prompt in known for e in task.test)
    return False
