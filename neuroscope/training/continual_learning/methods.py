"""Continual learning: a sequence of tasks, one table of methods, every score after every stage.

1. `METHODS` has a row per method; `continual` runs one of them over every order and seed.
2. A run is a sequence of stages. After each, every task is measured, also those still to come and those that the base
   could do before; what the stage added is saved, and its record is written last.
3. A run that was killed starts again after its last finished stage.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from neuroscope import files
from neuroscope.checks import Progress, public, seeds_of
from neuroscope.errors import ArgumentError, choose, suggest
from neuroscope.models import require_parameters, resolve
from neuroscope.tasks.task import Task, tasks_of
from neuroscope.training.continual_learning.continual_result import Continual
from neuroscope.training.continual_learning.epi import epi
from neuroscope.training.continual_learning.ewc import ewc
from neuroscope.training.continual_learning.lora import o_lora, seq_lora
from neuroscope.training.continual_learning.neurons import ffn, ncft, ncft_random
from neuroscope.training.continual_learning.sequence import Record, learn_sequence, orders_of
from neuroscope.training.continual_learning.setting import Learner, Setting
from neuroscope.training.continual_learning.weighted import w_ncft
from neuroscope.training.continual_learning.whole import joint, per_task, replay, seqft
from neuroscope.training.recipe import Recipe

__all__ = ["METHODS", "Continual", "Method", "continual"]

PLAIN = (bool, int, float, str, type(None))  # what JSON can say


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        start: called with a `Setting` and the method's own options (keyword only).
        lr: the learning rate where none is given.
        at_once: it has one stage, the last, in which it sees all tasks.
    """

    start: Callable[..., Learner]
    lr: float
    at_once: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """The method's own keyword arguments with their defaults."""
        own = list(inspect.signature(self.start).parameters.values())[1:]
        return {parameter.name: parameter.default for parameter in own}


METHODS: dict[str, Method] = {
    "ncft": Method(ncft, 3e-3),
    "w-ncft": Method(w_ncft, 3e-3),
    "ncft-random": Method(ncft_random, 3e-3),
    "ffn": Method(ffn, 1e-3),
    "seqft": Method(seqft, 3e-4),
    "seq-lora": Method(seq_lora, 1e-3),
    "o-lora": Method(o_lora, 1e-3),
    "epi": Method(epi, 1e-3),
    "ewc": Method(ewc, 3e-4),
    "replay": Method(replay, 3e-4),
    "per-task": Method(per_task, 3e-4),
    "joint": Method(joint, 3e-4, at_once=True),
}


@public
def continual(
    model: Any,
    tasks: Task | Sequence[Task] | Mapping[str, Task],
    method: str = "ncft",
    *,
    orders: Sequence[Sequence[str]] | None = None,
    seeds: int | Sequence[int] = 1,
    recipe: Recipe | Mapping[str, Any] | None = None,
    known: Task | Sequence[Task] | Mapping[str, Task] = (),
    split: str = "test",
    n: int | None = None,
    batch_size: int | None = None,
    output: str | PathLike | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Continual:
    """Learn tasks one after another and measure all of them after every stage (LX24 §4.2, Table 5, Figure 4).

    Args:
        model: anything that can be opened, with parameters of its own. It is as it was afterwards.
        tasks: those to learn.
        method: "ncft" (options `k`, `masks`, `exclude`, `protect`, `overlap_penalty`, `objective`, `examples`),
            "w-ncft" (also `weighting`, `temperature`, `samples`), "ncft-random", "ffn", "seqft", "seq-lora" (`rank`,
            `alpha`), "o-lora" (also `orthogonality`, `l2`, `distance`), "epi" (`rank`, `alpha`, `samples`,
            `shrinkage`), "ewc" (`strength`, `fisher_examples`), "replay" (`share`), "per-task" or "joint".
        orders: sequences of names of tasks, all of the same length; None: the order given.
        seeds: of training, random masks and samples; one run per order and seed. 3 is seeds 0, 1 and 2.
        recipe: of the training of every stage; its lr, where it has none, is the method's own. Neuron masks want
            several times that of the whole model.
        known: tasks that the base can do already, to see what becomes of them; `protect` keeps their neurons.
        split, n, batch_size: the examples that scores are measured on: how many (None: all), how many at once.
        output: a folder for finished stages, from which a killed run goes on when it is called again in the same way.
        progress: called as `progress(iterable, desc=...)`, such as tqdm.

    Returns:
        `Continual`: scores with intervals, trained parameters, seconds, memory; `.summary()`, `.figure()`.

    Raises:
        ArgumentError: an unknown method or option, a wrong order or seed.
        TaskError: a task without training or test examples.
        ModelError: the model's parameters cannot be trained here; the text says why.
        FileError: the output folder holds another run.
        NumericalError: the training diverged. Stages before it are kept.
    """
    entry = METHODS[choose(method, METHODS, "method")]
    for name in options:
        if name not in entry.options:
            raise _no_such_option(method, name, options[name])
    recipe = Recipe.of(recipe, lr=entry.lr)
    found, kept = _checked(tasks, known, split, n)
    names = orders_of(list(found), orders)
    asked = f"continual(method={method!r})"
    model = resolve(model)
    require_parameters(model, asked)
    measuring = {"split": split, "n": n}
    plain = {name: value for name, value in vars(recipe).items() if name != "arguments"}
    settings = {"method": method, **plain, **measuring, "options": _plain({**entry.options, **options})}
    settings["arguments"] = _plain(recipe.arguments)
    shared: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    shared |= {"prepared": {}, **measuring}
    provenance = model.provenance()
    own = " ".join(f"{k}={v}" for k, v in sorted(options.items()) if v != entry.options[k])
    records = []
    for number, order in enumerate(names):
        for seed in seeds_of(seeds):
            sequence = tuple(found[name] for name in order)
            setting = Setting(model, sequence, tuple(kept.values()), recipe, seed, **shared)
            run = {"fingerprint": provenance["fingerprint"], **settings, "seed": seed}
            run |= {"tasks": [t.data_hash for t in sequence], "known": [t.data_hash for t in kept.values()]}
            folder = None if output is None else Path(output) / f"{method}-order{number}-seed{seed}"
            done = learn_sequence(setting, partial(entry.start, **options), entry.at_once, folder, run)
            records += [r | {"method": method, "options": own, "order": number, "seed": seed} for r in done]
    manifest = {
        **provenance,
        "data_hash": {name: task.data_hash for name, task in found.items()},
        "known": {name: task.data_hash for name, task in kept.items()},
        "orders": names,
        **measuring,
        "runs": [_about(r, settings) for r in records if r["stage"]],
        "versions": files.versions(),
    }
    return Continual(_table(records, recipe.lr), manifest)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v if isinstance(v, PLAIN) else repr(v) for k, v in values.items()}


def _no_such_option(method: str, name: str, value: Any) -> ArgumentError:
    asked = f"continual(method={method!r}, {name}=...)"
    if name in Recipe.__dataclass_fields__:
        return ArgumentError(asked, "a setting of training", f"give recipe={{{name!r}: {value!r}}}")
    others = [other for other, entry in METHODS.items() if name in entry.options]
    if others:
        return ArgumentError(asked, "no such option", f"it is one of {', '.join(others)}")
    names = [*inspect.signature(continual).parameters, *METHODS[method].options]
    return ArgumentError(asked, "no such option", suggest(name, names))


def _checked(tasks: Any, known: Any, split: str, n: int | None) -> tuple[dict[str, Task], dict[str, Task]]:
    """Tasks to learn, and known ones, by name; each Task has the name that it is called by."""
    choose(split, ("train", "discovery", "test"), "split")
    asked = "learn a sequence of tasks"
    learnt = {name: replace(task, name=name) for name, task in tasks_of(tasks, asked).items()}
    kept = {name: replace(task, name=name) for name, task in (tasks_of(known, asked) if known else {}).items()}
    twice = next((name for name in kept if name in learnt), None)
    if twice or len(learnt) < 2:
        what = f"two named {twice!r}" if twice else f"{len(learnt)} task(s)"
        raise ArgumentError(asked, what, "give two or more tasks of different names")
    for task in learnt.values():
        task.split("train")
    for task in [*learnt.values(), *kept.values()]:
        task.split(split, n)
    return learnt, kept


def _about(record: Record, settings: Mapping[str, Any]) -> Record:
    kept = ("method", "options", "order", "seed", "stage", "learnt", "log")
    return {key: record[key] for key in kept} | {"settings": dict(settings)}


def _table(records: Sequence[Record], lr: float | None) -> Any:
    import pandas as pd  # heavy: only where a table is made

    rows = []
    for record in records:
        for task, (score, low, high, error, count) in record["scores"].items():
            place = record["tasks"].index(task) + 1 if task in record["tasks"] else 0
            rows.append(
                {
                    "method": record["method"], "options": record["options"], "lr": lr,
                    "order": record["order"], "seed": record["seed"], "stage": record["stage"],
                    "learnt": record["learnt"], "task": task, "position": place,
                    "score": score, "low": low, "high": high, "se": error, "n": int(count),
                    "trained": int(record["log"].get("trained", 0)),
                    "seconds": record["cost"].get("seconds", 0.0), "peak_mib": record["cost"].get("peak_mib", 0.0),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)
