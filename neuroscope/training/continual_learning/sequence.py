"""One run over a sequence of tasks: a record after every stage, in a folder from which a killed run goes on.

A stage's record is the last thing that is written of it: what it tells of is complete.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from neuroscope import files
from neuroscope.errors import ArgumentError, FileError
from neuroscope.evaluation import Outcomes
from neuroscope.statistics import score_interval, standard_error
from neuroscope.tasks.task import Task
from neuroscope.training.checkpoints import RUN, refuse_other_run
from neuroscope.training.continual_learning.cost import measure_cost
from neuroscope.training.continual_learning.learner import Learner, Setting

Record = dict[str, Any]
FIELDS = {"stage", "learnt", "tasks", "scores", "cost", "log"}


def orders_of(names: Sequence[str], orders: Sequence[Sequence[str]] | None) -> list[list[str]]:
    """The orders asked for, each a list of some or all of the tasks; as many in each, for means over orders."""
    if orders is None:
        return [list(names)]
    listed = isinstance(orders, Sequence) and not isinstance(orders, str)
    if not listed or not all(isinstance(order, Sequence) and not isinstance(order, str) for order in orders):
        found_there = "a text, or no list of lists"
        raise ArgumentError(f"orders={orders!r}", found_there, "give a list of orders, each a list of names of tasks")
    chosen = [list(order) for order in orders]
    for order in chosen:
        unknown = [name for name in order if name not in names]
        if unknown or len(set(order)) != len(order) or len(order) < 2:
            asked = f"the order {order}"
            do = f"name two or more of {', '.join(names)}, each once"
            raise ArgumentError(asked, f"no task {unknown[0]!r}" if unknown else "too few, or one twice", do)
    if not chosen:
        raise ArgumentError("orders=[]", "no order", "give one or more, or None for the order of the tasks")
    if len({len(order) for order in chosen}) > 1 or any(chosen.count(order) > 1 for order in chosen):
        raise ArgumentError(
            f"orders={chosen}", "different lengths, or an order twice", "give each length a call of its own"
        )
    return chosen


def learn_sequence(
    setting: Setting, start: Callable[[Setting], Learner], at_once: bool, folder: Path | None, run: Mapping[str, Any]
) -> list[Record]:
    """The records of one run: one of the base, and one per stage.

    Args:
        start: makes the method's learner; it refuses wrong options.
        at_once: there is one stage, the last, for all tasks.
        folder: where finished stages are kept; None: nowhere.
        run: what tells this run from another; it must survive JSON.
    """
    stages = [len(setting.tasks) - 1] if at_once else list(range(len(setting.tasks)))
    records = _finished(folder, run, stages)
    if len(records) == len(stages) + 1:
        return records
    learner = start(setting)  # before anything is measured or written: wrong options show at once
    try:
        if not records:
            records.append(_record(setting, setting.judge_base, 0, "(base)", {}, {}))
            if folder is not None:
                files.write(folder / RUN, json.dumps(dict(run), indent=1))
                _keep(folder, records[-1])
        done = len(records) - 1
        if done and folder is not None:
            learner.restore(folder, stages[done - 1])
        for stage in stages[done:]:
            with measure_cost(setting.model.device) as cost:
                log = learner.learn(stage)
            stuck = {"stuck": True} if setting.stuck and setting.stuck[-1] else {}
            log = {"stored": learner.stored, **stuck, **log}
            learnt = "(all)" if at_once else setting.tasks[stage].name
            records.append(_record(setting, learner.outcomes, stage + 1, learnt, cost, log))
            if folder is not None:
                learner.save(folder, stage)
                _keep(folder, records[-1])
    finally:
        learner.take_off()
    return records


def _record(
    setting: Setting,
    outcomes: Callable[[Task], Outcomes],
    stage: int,
    learnt: str,
    cost: Mapping[str, float],
    log: Mapping[str, Any],
) -> Record:
    """Scores of the tasks after a stage (0 is the base); each [score, low, high, standard error, n]."""
    scores = {}
    measured = setting.tasks if setting.ahead or not stage else setting.tasks[:stage]
    for task in [*measured, *setting.known]:
        values = outcomes(task)
        interval = score_interval(values, seed=setting.seed)
        scores[task.name] = [float(values.mean()), *interval, standard_error(values), len(values)]
    order = [task.name for task in setting.tasks]
    return {"stage": stage, "learnt": learnt, "tasks": order, "scores": scores, "cost": dict(cost), "log": dict(log)}


def _finished(folder: Path | None, run: Mapping[str, Any], stages: Sequence[int]) -> list[Record]:
    """Records of the base and of the stages that an earlier call finished."""
    if folder is None:
        return []
    if not (folder / RUN).exists():
        if folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):  # hidden: cut off
            raise FileError(f"keep a run in {folder}", "files of something else", "give another output folder")
        return []
    refuse_other_run(folder, run)
    records = []
    for stage in [-1, *stages]:
        path = folder / f"stage-{stage + 1}.json"
        if not path.exists():
            break
        record = files.read_json(path, "the record of a stage")
        if not isinstance(record, dict) or not record.keys() >= FIELDS:
            found = "no scores, or not all that belongs to them"
            raise FileError(f"read the record of a stage from {path}", found, "delete it to repeat the stage")
        records.append(record)
    return records


def _keep(folder: Path, record: Record) -> None:
    files.write(folder / f"stage-{record['stage']}.json", json.dumps(record, indent=1))
