"""MOSSA: model-oriented sub-population and spectral analysis (Zhao, Ziser & Cohen 2024, "Layer by Layer"; ZZC24).

How much of what a model computes for a task is what a model made for this task alone would compute? For every task t:

1. A control model C_t: the base tuned on t alone. The base is put back, to the bit, before the next one.
2. Representations of t's inputs at every layer: of the experimental model E (the pre-trained one, and one tuned on all
   tasks) and of C_t. Only the control models' representations are kept.
3. CKA(E, C_t) at every layer: high where E has what C_t needs for t. Debiased by default; ZZC24 used the biased form,
   which rises towards 1 where features outnumber examples (`debiased=False`).
4. Beside it, the number of principal components that hold 99 % of the variance of E's representations.

Simplified: one seed per control model, so that the spread over tasks holds the chance of training too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from neuroscope import files
from neuroscope.errors import ArgumentError, NumericalError, TaskError, public
from neuroscope.masks import NeuronMask
from neuroscope.models import Model
from neuroscope.mossa.controls import control, method_name, multi_task, opened, read, same_run
from neuroscope.mossa.result import ALL, MULTI, PRE, Mossa
from neuroscope.representations import Representations
from neuroscope.similarity import compare, variance_dimension
from neuroscope.tasks.task import Task, check_task

__all__ = ["Mossa", "mossa"]

FEWEST = 4  # examples: the unbiased HSIC divides by n - 3
Progress = Callable[..., Iterable[Any]]


@public
def mossa(
    base: Any,
    tuned: Any,
    tasks: Task | Sequence[Task] | Mapping[str, Task],
    controls: Mapping[str, Any] | None = None,
    *,
    method: str | NeuronMask = "full",
    recipe: Mapping[str, Any] | None = None,
    held_out: Sequence[str] = (),
    at: Any = "last",
    split: str = "test",
    n: int | None = None,
    normed: bool = True,
    batch_size: int = 16,
    debiased: bool = True,
    share: float = 0.99,
    null: int = 0,
    seed: int = 0,
    output: str | PathLike | None = None,
    progress: Progress | None = None,
) -> Mossa:
    """Compare a pre-trained and a multi-task model with models tuned on one task each, layer by layer (ZZC24).

    Args:
        base: the pre-trained model, or its representations of the tasks where control models are given.
        tuned: the model tuned on all tasks, or its representations; "train": made of the base by `method` and `recipe`
            on the tasks that are not held out; None: the pre-trained model alone.
        tasks: to compare on; their family is their cluster.
        controls: task -> control model, or its representations (of that task, as a mapping or an array
            [layer, example, feature]). A name or folder is opened when its turn comes. None: trained here, one at a
            time, on the tasks' training examples.
        method: how: "full", "ffn" (all hidden neurons), "lora", or a `NeuronMask`.
        recipe: keywords of `finetune`, such as `{"steps": 200, "lr": 1e-4}`; for "lora" also rank and alpha.
        held_out: names of the tasks that the multi-task model has not learnt.
        at, split, n, normed, batch_size: what is read, as for `representations`.
        debiased: the unbiased HSIC; False as published.
        share: of the variance, for the number of components.
        null: permutations of the examples for a chance band at every layer; none if 0.
        seed: of the permutations. Training takes its own from `recipe`.
        output: folder for representations. Tasks that are finished there are not trained again.
        progress: called as `progress(tasks, description)`.

    Returns:
        `Mossa`. A layer whose activations are all the same has no value, and its reason stands in the table.

    Raises:
        TaskError: fewer than four examples, or no training examples where a model has to be trained.
        ArgumentError: controls, tasks or layers that do not match; a tuned model that is the base.
        NumericalError: activations that are not finite.
        FileError: `output` is of another run.
    """
    named = _named(tasks)
    settings = {"at": at, "split": split, "n": n, "normed": normed, "batch_size": batch_size}
    recipe = dict(recipe or {})
    _check(named, settings, held_out, controls, tuned)
    folder = None if output is None else Path(output)
    about = {
        "tasks": {name: task.data_hash for name, task in named.items()}, "held_out": list(held_out), **settings,
        "method": method_name(method), "recipe": recipe, "trained_controls": controls is None,
    }  # fmt: skip
    trains = controls is None or _made_here(tuned)
    if trains or not isinstance(base, Mapping):
        base = opened(base, "train models with mossa")
    if folder is not None:
        same_run(folder, about | ({"base": base.fingerprint()} if isinstance(base, Model) else {}))
    models = {PRE: read(base, named, settings, folder and folder / "pre-trained")}
    if _made_here(tuned):
        learnt = [task for name, task in named.items() if name not in held_out]
        models[MULTI] = multi_task(base, learnt, named, method, recipe, settings, folder and folder / "multi-task")
    elif tuned is not None:
        models[MULTI] = read(tuned, named, settings, folder and folder / "multi-task")
        _other(models[PRE], models[MULTI])
    rows: list[dict[str, Any]] = []
    loop = list(enumerate(named.items()))
    for number, (name, task) in progress(loop, "control models") if progress else loop:
        where = folder and folder / "controls" / f"{number:03d}"
        if controls is None:
            found = control(base, task, method, recipe, settings, where)
        else:
            given = controls[name] if not isinstance(controls[name], np.ndarray) else {name: controls[name]}
            found = read(given, {name: task}, settings, where)
        for label, reps in models.items():
            made = compare({name: reps[name]}, {name: found[name]}, "cka", debiased=debiased, null=null, seed=seed)
            rows += [{**_about(label, name, named, held_out), **_cka(row)} for row in made.table.to_dict("records")]
    rows += _dimensions(models, named, held_out, share)
    manifest = about | {
        "debiased": debiased, "share": share, "null": null, "seed": seed,
        "layers": models[PRE].layers, "families": {name: task.family for name, task in named.items()},
        "models": {label: dict(reps.manifest) for label, reps in models.items()}, "versions": files.versions(),
    }  # fmt: skip
    import pandas as pd  # heavy: only where a table is made

    return Mossa(pd.DataFrame(rows), manifest, models)


def _about(label: str, task: str, named: Mapping[str, Task], held_out: Sequence[str]) -> dict[str, Any]:
    family = named[task].family if task in named else ALL
    return {"model": label, "task": task, "family": family, "held_out": task in held_out}


def _cka(row: Mapping[str, Any]) -> dict[str, Any]:
    band = {key: row.get(key, np.nan) for key in ("low", "high")}
    return {"measure": "cka", "layer": row["layer_a"], "value": row["value"], **band, "limit": np.nan} | {
        "reason": row["reason"]
    }


def _dimensions(
    models: Mapping[str, Representations], named: Mapping[str, Task], held_out: Sequence[str], share: float
) -> list[dict[str, Any]]:
    """Components for a share of the variance, of each task's examples and of all tasks' together."""
    rows = []
    for label, reps in models.items():
        for task in [*named, ALL] if len(named) > 1 else list(named):
            for layer in range(reps.n_layers):
                x = np.concatenate([np.asarray(reps[t][layer]) for t in ([task] if task != ALL else named)])
                value, reason = np.nan, ""
                try:
                    value = float(variance_dimension(x, share))
                except NumericalError as error:
                    reason = error.found
                row = {"measure": "dimension", "layer": layer, "value": value, "low": np.nan, "high": np.nan}
                limit = float(min(len(x) - 1, x.shape[1]))
                rows.append({**_about(label, task, named, held_out), **row, "limit": limit, "reason": reason})
    return rows


def _named(tasks: Any) -> dict[str, Task]:
    listed = [tasks] if isinstance(tasks, Task) else list(tasks.values() if isinstance(tasks, Mapping) else tasks)
    for task in listed:
        check_task(task, "mossa on tasks")
    named = {task.name: task for task in listed}
    if not listed or len(named) != len(listed) or ALL in named:
        found = "no task" if not listed else f"two tasks of one name, or one called {ALL!r}"
        raise TaskError("mossa on tasks", found, "give one or more tasks, each with a name of its own")
    return named


def _check(
    named: Mapping[str, Task], settings: Mapping[str, Any], held_out: Sequence[str], controls: Any, tuned: Any
) -> None:
    """Refuse before anything is trained what could not be compared afterwards."""
    for name, task in named.items():
        count = len(task.split(settings["split"], settings["n"]))
        if count < FEWEST:
            raise TaskError(f"CKA on task {name!r}", f"{count} examples", f"give {FEWEST} examples or more")
    if isinstance(held_out, str) or any(name not in named for name in held_out):
        raise ArgumentError(f"held_out={held_out!r}", f"tasks {sorted(named)}", "give a list of names among them")
    if len(held_out) == len(named) and tuned is not None:
        raise ArgumentError("held_out", "every task", "leave the multi-task model some tasks to have learnt")
    if controls is not None and set(controls) != set(named):
        found = f"controls for {sorted(controls)}, tasks {sorted(named)}"
        raise ArgumentError("mossa with control models", found, "give one control model per task")
    train_on = {t for t in named if controls is None or (_made_here(tuned) and t not in held_out)}
    for name in train_on:
        named[name].split("train")


def _made_here(tuned: Any) -> bool:
    return isinstance(tuned, str) and tuned == "train"


def _other(pre: Representations, multi: Representations) -> None:
    """Refuse the base itself as the tuned model."""
    prints = [reps.manifest.get("fingerprint") for reps in (pre, multi)]
    if prints[0] is not None and prints[0] == prints[1]:
        found = f"the weights of the base ({prints[0]})"
        raise ArgumentError("the tuned model", found, "give the multi-task model, 'train' to make it, or None")
