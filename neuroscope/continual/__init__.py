"""Continual learning: a sequence of tasks, one table of methods, every score after every stage.

1. `METHODS` has a row per method; `continual` runs one of them over every order and seed.
2. A run is a sequence of stages. After each, every task is measured, also those still to come and those that the base
   could do before; what the stage added is saved, and its record is written last.
3. A run that was killed starts again after its last finished stage.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from neuroscope import files
from neuroscope.continual.ewc import ewc
from neuroscope.continual.neurons import ffn, ncft, ncft_random
from neuroscope.continual.result import Continual, by_name, orders_of
from neuroscope.continual.setting import Learner, Setting, measured
from neuroscope.continual.weighted import w_ncft
from neuroscope.continual.whole import joint, per_task, replay, seqft
from neuroscope.errors import ArgumentError, FileError, choose, public, suggest
from neuroscope.evaluation import Outcomes
from neuroscope.models import resolve
from neuroscope.statistics import bootstrap_interval
from neuroscope.tasks.task import Task, check_task
from neuroscope.training.finetuning import RECIPE, check_recipe
from neuroscope.training.trainer import RUN, Progress, refuse_other_run

__all__ = ["METHODS", "Continual", "Method", "continual"]

Record = dict[str, Any]


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
    def options(self) -> list[str]:
        """The method's own keyword arguments."""
        return list(inspect.signature(self.start).parameters)[1:]


METHODS: dict[str, Method] = {
    "ncft": Method(ncft, 3e-3),
    "w-ncft": Method(w_ncft, 3e-3),
    "ncft-random": Method(ncft_random, 3e-3),
    "ffn": Method(ffn, 1e-3),
    "seqft": Method(seqft, 3e-4),
    "ewc": Method(ewc, 3e-4),
    "replay": Method(replay, 3e-4),
    "per-task": Method(per_task, 3e-4),
    "joint": Method(joint, 3e-4, at_once=True),
}


@public
def continual(
    model: Any,
    tasks: Sequence[Task] | Mapping[str, Task],
    method: str = "ncft",
    *,
    orders: Sequence[Sequence[str]] | None = None,
    seeds: Sequence[int] = (0,),
    lr: float | None = None,
    steps: int | None = None,
    epochs: float = 3,
    batch_size: int = 16,
    weight_decay: float = 0.0,
    arguments: Mapping[str, Any] | None = None,
    known: Sequence[Task] | Mapping[str, Task] = (),
    split: str = "test",
    n: int | None = None,
    eval_batch_size: int = 64,
    output: str | PathLike | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Continual:
    """Learn tasks one after another and measure all of them after every stage (LX24 §4.2, Table 5, Figure 4).

    Args:
        model: anything that can be opened, with parameters of its own. It is as it was afterwards.
        tasks: those to learn.
        method: "ncft" (options `k`, `masks`, `exclude`, `overlap_penalty`, `objective`, `examples`), "w-ncft" (also
            `weighting`, `temperature`, `samples`), "ncft-random", "ffn", "seqft", "seq-lora" (`rank`, `alpha`),
            "o-lora" (also `orthogonality`, `l2`), "epi", "ewc" (`strength`, `fisher_examples`), "replay" (`share`),
            "per-task" or "joint".
        orders: sequences of names of tasks; None: the order given.
        seeds: of training, random masks and samples; one run per order and seed.
        lr: peak learning rate; if None, the method's own. Neuron masks want several times that of the whole model.
        steps, epochs, batch_size, weight_decay, arguments: of every stage, as in `finetune`.
        known: tasks that the base can do already, to see what becomes of them.
        split, n, eval_batch_size: the examples that scores are measured on: how many (None: all), how many at once.
        output: a folder for finished stages, from which a killed run goes on when it is called again in the same way.
        progress: called as `progress(iterable, description)`; `tqdm` fits.

    Returns:
        `Continual`: scores with intervals, trained parameters, seconds, memory; `.summary()`, `.figure()`.

    Raises:
        ArgumentError: unknown method or option, an order that is none.
        TaskError: a task without training or test examples.
        ModelError: the model's parameters cannot be trained here; the text says why.
        FileError: the output folder holds another run.
        NumericalError: the training diverged. Stages before it are kept.
    """
    entry = METHODS[choose(method, METHODS, "method")]
    for name in options:
        if name not in entry.options:
            known_names = [*inspect.signature(continual).parameters, *entry.options]
            raise ArgumentError(
                f"continual(method={method!r}, {name}=...)", "no such option", suggest(name, known_names)
            )
    found, kept = _checked(tasks, known, split)
    names = orders_of(list(found), orders)
    seeds = [seeds] if isinstance(seeds, int) else list(seeds)
    if not seeds or any(isinstance(s, bool) or not isinstance(s, int) or s < 0 for s in seeds):
        raise ArgumentError(f"seeds={seeds}", "no seeds", "give whole numbers from 0 up, such as (0, 1, 2)")
    recipe = {**RECIPE, "steps": steps, "epochs": epochs, "lr": entry.lr if lr is None else lr}
    recipe |= {"batch_size": batch_size, "weight_decay": weight_decay}
    check_recipe(f"continual(method={method!r})", recipe)
    model = resolve(model)
    measuring = {"split": split, "n": n, "batch_size": eval_batch_size}
    settings = {"method": method, **recipe, **measuring, "options": options, "arguments": dict(arguments or {})}
    shared: dict[str, Any] = {"arguments": arguments, "progress": progress, "prepared": {}, **measuring}
    provenance = model.provenance()
    records = []
    for number, order in enumerate(names):
        for seed in seeds:
            sequence = tuple(found[name] for name in order)
            setting = Setting(model, sequence, tuple(kept.values()), recipe, seed, **shared)
            run = {"fingerprint": provenance["fingerprint"], "settings": settings, "seed": seed}
            run |= {"tasks": [t.data_hash for t in sequence], "known": [t.data_hash for t in kept.values()]}
            folder = None if output is None else Path(output) / f"{method}-order{number}-seed{seed}"
            records += [r | {"order": number, "seed": seed} for r in _sequence(setting, entry, options, folder, run)]
    manifest = {
        **provenance,
        "data_hash": {name: task.data_hash for name, task in found.items()},
        "orders": names,
        "split": split,
        "runs": [_about(r, settings) for r in records if r["stage"]],
        "versions": files.versions(),
    }
    return Continual(_table(records, method, recipe["lr"]), manifest)


def _checked(tasks: Any, known: Any, split: str) -> tuple[dict[str, Task], dict[str, Task]]:
    choose(split, ("train", "discovery", "test"), "split")
    found: list[Task] = []
    kept: list[Task] = []
    for given, into in ((tasks, found), (known, kept)):
        into += (
            list(given.values()) if isinstance(given, Mapping) else [given] if isinstance(given, Task) else list(given)
        )
        for task in into:
            check_task(task, "learn a sequence of tasks")
    names = [task.name for task in [*found, *kept]]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice or len(found) < 2:
        what = f"two named {twice!r}" if twice else f"{len(found)} task(s)"
        raise ArgumentError("learn a sequence of tasks", what, "give two or more tasks of different names")
    for task in found:
        task.split("train")
    for task in [*found, *kept]:
        task.split(split)
    return by_name(found), by_name(kept)


def _sequence(
    setting: Setting, entry: Method, options: Mapping[str, Any], folder: Path | None, run: Mapping[str, Any]
) -> list[Record]:
    """The records of one run: one of the base, and one per stage."""
    stages = [len(setting.tasks) - 1] if entry.at_once else list(range(len(setting.tasks)))
    records = _finished(folder, run, [-1, *stages])
    if len(records) == len(stages) + 1:
        return records
    learner: Learner | None = None
    try:
        if not records:
            records.append(_record(setting, setting.judge, -1, {}, {}))
            _keep(folder, records[-1])
        learner = entry.start(setting, **options)
        done = len(records) - 1
        if done and folder is not None:
            learner.restore(folder, stages[done - 1])
        for stage in stages[done:]:
            with measured(setting.model.device) as cost:
                log = learner.learn(stage)
            records.append(_record(setting, learner.outcomes, stage, cost, log))
            if folder is not None:
                learner.save(folder, stage)
            _keep(folder, records[-1])
    finally:
        if learner is not None:
            learner.close()
    return records


def _record(
    setting: Setting,
    outcomes: Callable[[Task], Outcomes],
    stage: int,
    cost: Mapping[str, float],
    log: Mapping[str, Any],
) -> Record:
    """Scores of all tasks after a stage (0 is the base); each [score, low, high, standard error, n]."""
    scores = {}
    for task in [*setting.tasks, *setting.known]:
        values = outcomes(task)
        error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
        scores[task.name] = [float(values.mean()), *bootstrap_interval(values, seed=setting.seed), error, len(values)]
    learnt = setting.tasks[stage].name if stage >= 0 else "(base)"
    order = [task.name for task in setting.tasks]
    return {
        "stage": stage + 1,
        "learnt": learnt,
        "tasks": order,
        "scores": scores,
        "cost": dict(cost),
        "log": dict(log),
    }


def _finished(folder: Path | None, run: Mapping[str, Any], stages: Sequence[int]) -> list[Record]:
    """Records of the stages that an earlier call finished; the folder is marked as this run's."""
    if folder is None:
        return []
    if not (folder / RUN).exists():
        if folder.exists() and any(folder.iterdir()):
            raise FileError(f"keep a run in {folder}", "files of something else", "give another output folder")
        files.write(folder / RUN, json.dumps(dict(run), indent=1))
    refuse_other_run(folder, run)
    records = []
    for stage in stages:
        path = folder / f"stage-{stage + 1}.json"
        if not path.exists():
            break
        records.append(files.read_json(path, "the record of a stage"))
    return records


def _keep(folder: Path | None, record: Record) -> None:
    """Written last: what a record tells of is complete."""
    if folder is not None:
        files.write(folder / f"stage-{record['stage']}.json", json.dumps(record, indent=1))


def _about(record: Record, settings: Mapping[str, Any]) -> Record:
    return {key: record[key] for key in ("order", "seed", "stage", "learnt", "log")} | {"settings": dict(settings)}


def _table(records: Sequence[Record], method: str, lr: float) -> Any:
    import pandas as pd  # heavy: only where a table is made

    rows = []
    for record in records:
        for task, (score, low, high, error, count) in record["scores"].items():
            place = record["tasks"].index(task) + 1 if task in record["tasks"] else 0
            rows.append(
                {
                    "method": method, "lr": lr, "order": record["order"], "seed": record["seed"],
                    "stage": record["stage"], "learnt": record["learnt"], "task": task, "position": place,
                    "score": score, "low": low, "high": high, "se": error, "n": int(count),
                    "trained": int(record["log"].get("trained", 0)),
                    "seconds": record["cost"].get("seconds", 0.0), "peak_mib": record["cost"].get("peak_mib", 0.0),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)
