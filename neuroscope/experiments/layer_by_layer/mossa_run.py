"""MOSSA: model-oriented sub-population and spectral analysis (Zhao, Ziser & Cohen 2024, "Layer by Layer"; ZZC24).

How much of what a model computes for a task is what a model made for this task alone would compute? For every task t:

1. A control model C_t: the base tuned on t alone. The base is put back, to the bit, before the next one.
2. Representations of t's inputs at every layer: of the experimental model E (the pre-trained one, and one tuned on all
   tasks) and of C_t. Only the control models' representations are kept.
3. CKA(E, C_t) at every layer: high where E has what C_t needs for t. Debiased by default; ZZC24 used the biased form,
   which rises towards 1 where features outnumber examples (`debiased=False`).
   Beside it the CKA of shuffled examples, p, and Benjamini-Hochberg q over all values of the table.
4. The number of principal components that hold 99 % of the variance of E's representations.

Simplified: one seed per control model, so that the spread over tasks holds the chance of training too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from neuroscope import files
from neuroscope.checks import public
from neuroscope.comparison.hidden_states import Representations
from neuroscope.comparison.layers import compare, dimensions
from neuroscope.comparison.similarity.inputs import FEWEST
from neuroscope.errors import ArgumentError, TaskError
from neuroscope.experiments.layer_by_layer.controls import method_name, opened, read, same_run, tuned_reading
from neuroscope.experiments.layer_by_layer.mossa_result import ALL, MULTI, PRE, Mossa
from neuroscope.masks import NeuronMask
from neuroscope.models import Model
from neuroscope.statistics import benjamini_hochberg
from neuroscope.tasks.task import Task, check_task

__all__ = ["Mossa", "mossa"]

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
    null: int = 100,
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
        null: permutations of the examples for the chance band, p and q at every layer; none if 0. Neither p nor q can
            be below 1 / (null + 1). A layer's takes as long as `null` values of CKA: little beside the training, most
            of the time where controls are given.
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
    _check_share(share, debiased)
    trains = controls is None or _made_here(tuned)
    if recipe and not trains:
        raise ArgumentError(f"recipe={recipe}", "no model to train: all are given", "leave it out, or the models")
    folder = None if output is None else Path(output)
    about = {
        "tasks": {name: task.data_hash for name, task in named.items()}, "held_out": list(held_out), **settings,
        "method": method_name(method), "recipe": recipe, "trained_controls": controls is None,
    }  # fmt: skip
    if trains or not isinstance(base, Mapping):
        base = opened(base, "train models with mossa")
    if folder is not None:
        same_run(folder, about | ({"base": base.fingerprint()} if isinstance(base, Model) else {}))
    models = {PRE: read(base, named, settings, folder and folder / "pre-trained")}
    if _made_here(tuned):
        learnt = [task for name, task in named.items() if name not in held_out]
        where = folder and folder / "multi-task"
        models[MULTI] = tuned_reading(base, learnt, list(named.values()), method, recipe, settings, where)
    elif tuned is not None:
        models[MULTI] = read(tuned, named, settings, folder and folder / "multi-task")
        _other(models[PRE], models[MULTI])
    rows: list[dict[str, Any]] = []
    loop = list(enumerate(named.items()))
    for number, (name, task) in progress(loop, "control models") if progress else loop:
        where = folder and folder / "controls" / f"{number:03d}"
        if controls is None:
            found = tuned_reading(base, [task], [task], method, recipe, settings, where)
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

    table = pd.DataFrame(rows)
    table.insert(table.columns.get_loc("p") + 1, "q", benjamini_hochberg(table["p"].to_numpy()))
    return Mossa(table, manifest, models)


def _about(label: str, task: str, named: Mapping[str, Task], held_out: Sequence[str]) -> dict[str, Any]:
    family = named[task].family if task in named else ALL
    return {"model": label, "task": task, "family": family, "held_out": task in held_out}


def _cka(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: row.get(key, np.nan) for key in ("value", "low", "high", "p")}
    return {"measure": "cka", "layer": row["layer_a"], **kept, "limit": np.nan, "reason": row["reason"]}


def _dimensions(
    models: Mapping[str, Representations], named: Mapping[str, Task], held_out: Sequence[str], share: float
) -> list[dict[str, Any]]:
    """Components for a share of the variance, of each task's examples and of all tasks' together."""
    found = dimensions(models, share=share, pooled=ALL if len(named) > 1 else None).table
    empty = {"measure": "dimension", **dict.fromkeys(("low", "high", "p"), np.nan)}
    return [
        {**_about(row.pop("model"), row.pop("task"), named, held_out), **empty, **row}
        for row in found.to_dict("records")
    ]


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
    if isinstance(tuned, str) and tuned != "train" and get_close_matches(tuned, ["train"]) and not Path(tuned).exists():
        raise ArgumentError(f"tuned={tuned!r}", "neither 'train' nor a folder", "did you mean 'train'?")
    if held_out and tuned is None:
        found = "no multi-task model"
        raise ArgumentError(f"held_out={held_out!r}", found, "give one that has not learnt them, or tuned='train'")
    if len(held_out) == len(named):
        raise ArgumentError("held_out", "every task", "leave the multi-task model some tasks to have learnt")
    if controls is not None and set(controls) != set(named):
        found = f"controls for {sorted(controls)}, tasks {sorted(named)}"
        raise ArgumentError("mossa with control models", found, "give one control model per task")
    train_on = {t for t in named if controls is None or (_made_here(tuned) and t not in held_out)}
    for name in train_on:
        named[name].split("train")


def _check_share(share: Any, debiased: Any) -> None:
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ArgumentError(f"share={share!r}", "no share of the variance", "give a number above 0, at most 1")
    if not isinstance(debiased, bool):
        raise ArgumentError(f"debiased={debiased!r}", "neither True nor False", "give one of them")


def _made_here(tuned: Any) -> bool:
    return isinstance(tuned, str) and tuned == "train"


def _other(pre: Representations, multi: Representations) -> None:
    """Refuse the base itself as the tuned model."""
    prints = [reps.manifest.get("fingerprint") for reps in (pre, multi)]
    if prints[0] is not None and prints[0] == prints[1]:
        found = f"the weights of the base ({prints[0]})"
        raise ArgumentError("the tuned model", found, "give the multi-task model, 'train' to make it, or None")
