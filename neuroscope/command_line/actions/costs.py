"""What the parts of a job cost on a model, measured on a few examples: passes, seconds, memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from neuroscope.command_line.actions.work import Stage

if TYPE_CHECKING:
    from neuroscope.models import Model
    from neuroscope.tasks import Task

TRIED = 64  # examples of a measured pass
STEPS = (1, 3)  # of the measured trainings: what a step takes is their difference


@dataclass(frozen=True)
class Cost:
    """Forward passes and seconds of one evaluation, scoring, reading or training."""

    passes: float
    seconds: float

    def __mul__(self, times: float) -> Cost:
        return Cost(self.passes * times, self.seconds * times)

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.passes + other.passes, self.seconds + other.seconds)


NOTHING = Cost(0, 0)


class Costs:
    """Of a model and tasks; each part is measured when it is first asked for.

    Args:
        n: test examples; None: all.
        examples: discovery examples; None: all.
        steps: of a training, by task; what a recipe and the number of training examples give.
    """

    def __init__(
        self,
        model: Model,
        tasks: Mapping[str, Task],
        n: int | None,
        examples: int | None,
        batch_size: int | None,
        steps: Mapping[str, int],
    ) -> None:
        self.model, self.tasks, self.n, self.examples, self.batch_size = model, tasks, n, examples, batch_size
        self.steps = steps
        self.measured: list[str] = []
        self._known: dict[str, Cost] = {}

    def of(self, stage: Stage) -> Cost:
        """What a stage costs."""
        parts = [self.evaluation * stage.evaluations] if stage.evaluations or stage.neutral else []
        parts += [self.evaluation * stage.neutral] if stage.neutral else []
        parts += [self.scoring * stage.scorings] if stage.scorings else []
        parts += [self.scoring * (0.5 * stage.readings)] if stage.readings else []  # without going back
        parts += [self.training * stage.trainings] if stage.trainings else []
        return sum(parts, NOTHING)

    @property
    def evaluation(self) -> Cost:
        """One task, its mean over the tasks."""
        return self._get("evaluation", self._evaluation)

    @property
    def scoring(self) -> Cost:
        """One task, its mean over the tasks."""
        return self._get("scoring", self._scoring)

    @property
    def training(self) -> Cost:
        """One training on one task."""
        return self._get("training", self._training)

    def _get(self, name: str, measure: Any) -> Cost:
        if name not in self._known:
            self._known[name] = measure()
        return self._known[name]

    def _evaluation(self) -> Cost:
        from neuroscope.evaluation import judge, prepare_task

        by_kind: dict[str, float] = {}  # seconds of an example
        total = NOTHING
        for name, task in self.tasks.items():
            kind = task.kind or ""
            if kind not in by_kind:
                few = prepare_task(
                    self.model, task, "test", min(TRIED, len(task.split("test", self.n))), self.batch_size
                )
                judge(self.model, few)  # a first one is slower
                start = time.perf_counter()
                judge(self.model, few)
                by_kind[kind] = (time.perf_counter() - start) / len(few.examples)
                self.measured.append(f"{len(few.examples)} test examples of {name}")
            prepared = prepare_task(self.model, task, "test", self.n, self.batch_size)
            if prepared.labels:
                passes = len(prepared.batches(self.model, not prepared.against_one_row(self.model)))
            else:
                passes = len(prepared.prompts) * task.max_new_tokens  # at most: texts may end before
            total += Cost(passes, by_kind[kind] * len(prepared.examples))
        return total * (1 / len(self.tasks))

    def _scoring(self) -> Cost:
        from neuroscope.attribution import attribute
        from neuroscope.tasks.encoding import batches_for, encode

        name, task = next(iter(self.tasks.items()))
        tried = min(TRIED, len(task.split("discovery", self.examples)))
        start = time.perf_counter()
        attribute(self.model, task, examples=tried, batch_size=self.batch_size)
        seconds = (time.perf_counter() - start) / tried
        self.measured.append(f"the scores of {tried} discovery examples of {name}")
        given = task.split("discovery", self.examples)
        passes = len(list(batches_for(self.model, encode(self.model, task, given), self.batch_size)))
        counts = [len(one.split("discovery", self.examples)) for one in self.tasks.values()]
        each = sum(counts) / len(counts)
        return Cost(passes * each / len(given), seconds * each)

    def _training(self) -> Cost:
        from neuroscope.training import finetune

        name, task = next(iter(self.tasks.items()))
        taken = []
        for steps in STEPS:
            start = time.perf_counter()
            adapter = finetune(self.model, replace(task, test=task.test[:1]), "ffn", steps=steps)
            taken.append(time.perf_counter() - start)
            adapter.detach()
        step = max(taken[1] - taken[0], 0.0) / (STEPS[1] - STEPS[0])
        self.measured.append(f"{sum(STEPS)} steps of training on {name}")
        each = sum(self.steps.values()) / max(len(self.steps), 1)
        return Cost(each, max(taken[0] - step, 0.0) + each * step)


def memory_of(model: Model) -> dict[str, float]:
    """Bytes: of the weights, and the most that this process had so far, on its device."""
    import torch

    weights = sum(p.numel() * p.element_size() for p in model.root.parameters())
    device = str(model.device)
    if device.startswith("cuda"):
        return {"weights": float(weights), "most_so_far": float(torch.cuda.max_memory_allocated(model.device))}
    try:
        import resource  # which Windows does not have
    except ImportError:
        return {"weights": float(weights), "most_so_far": float("nan")}
    unit = 1 if sys.platform == "darwin" else 1024  # of what the system counts in
    return {"weights": float(weights), "most_so_far": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * float(unit)}
