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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from neuroscope import files
from neuroscope.checks import Progress, flag, public
from neuroscope.checks import share as share_of
from neuroscope.comparison.hidden_states import Representations
from neuroscope.comparison.layers import compare, dimensions
from neuroscope.comparison.similarity.inputs import FEWEST
from neuroscope.distributed import has_shards, shared_out
from neuroscope.errors import ArgumentError, TaskError, naming
from neuroscope.experiments.layer_by_layer.controls import (
    MethodName,
    Tuning,
    check_source,
    of_task,
    opened,
    read,
    tuned_reading,
)
from neuroscope.experiments.layer_by_layer.mossa_result import Mossa
from neuroscope.experiments.layer_by_layer.mossa_table import ALL, MULTI, PRE, nan_row
from neuroscope.experiments.trials import parted
from neuroscope.masks import NeuronMask
from neuroscope.models import Model
from neuroscope.statistics import benjamini_hochberg
from neuroscope.tasks import Task, Tasks, tasks_of
from neuroscope.training import Recipe
from neuroscope.training.garbage import settled_garbage
from neuroscope.training.processes import wants_shards
from neuroscope.training.recipe import FINETUNE_LR

FOLDER, RUN = "mossa", "mossa.json"  # in the output folder: one of a run's own; and in that, what it is of


@public
def mossa(
    model: Any,
    tasks: Tasks,
    *,
    tuned: Any = "train",
    controls: Mapping[str, Any] | None = None,
    method: MethodName | NeuronMask = "full",
    options: Mapping[str, Any] | None = None,
    recipe: Recipe | Mapping[str, Any] | None = None,
    held_out: str | Sequence[str] = (),
    at: Any = "last",
    split: str = "test",
    n: int | None = None,
    normed: bool = True,
    batch_size: int | None = None,
    debiased: bool = True,
    share: float = 0.99,
    null: int = 100,
    seed: int = 0,
    output: str | PathLike | None = None,
    progress: Progress | None = None,
) -> Mossa:
    """Compare a pre-trained and a multi-task model with models tuned on one task each, layer by layer (ZZC24).

    Args:
        model: the pre-trained model, or its representations of the tasks where control models are given.
        tasks: to compare on; their family is their cluster.
        tuned: the model tuned on all tasks, or its representations; "train": made of `model` by `method` and `recipe`
            on the tasks that are not held out; None: the pre-trained model alone.
        controls: task -> control model, or its representations (of that task, as a mapping or an array
            [layer, example, feature]). A name or folder is opened when its turn comes. None: trained here, one at a
            time, on the tasks' training examples.
        method: how: "full", "ffn" (all hidden neurons), "lora", or a `NeuronMask`.
        options: of the method: rank and alpha of "lora".
        recipe: of every training, such as `{"steps": 200, "lr": 1e-4}`; its lr is 3e-4 if it has none.
        held_out: names of the tasks that the multi-task model has not learnt.
        at, split, n, normed, batch_size: what is read, as for `representations`.
        debiased: the unbiased HSIC; False as published.
        share: of the variance, for the number of components.
        null: permutations of the examples for the chance band, p and q at every layer; none if 0. Neither p nor q can
            be below 1 / (null + 1). A layer's takes as long as `null` values of CKA: little beside the training, most
            of the time where controls are given.
        seed: of the trainings, and of everything that is shuffled, in the views of the result too.
        output: a folder for representations, where runs of other settings have folders of their own. Tasks that are
            finished there are not trained again.
        progress: called as `progress(tasks, desc=...)`, such as tqdm.

    Returns:
        `Mossa`. A layer whose activations are all the same has no value, and its reason stands in the table.

    Raises:
        TaskError: fewer than four examples, or no training examples where a model has to be trained.
        ArgumentError: controls, tasks or layers that do not match; a tuned model that is the base.
        NumericalError: activations that are not finite.

    Example:
        >>> import neuroscope as ns
        >>> tasks = ns.load_tasks("mini", train=4, discovery=4, test=4)
        >>> three = {name: tasks[name] for name in ("nli-food", "nli-film", "sentiment-food")}
        >>> found = ns.experiments.mossa("mini", three, held_out="nli-film", recipe={"steps": 1}, n=4)
        >>> found.models, found.values("cka", "multi-task").shape  # tasks, layers with the embedding
        (['pre-trained', 'multi-task'], (3, 5))
    """
    import pandas as pd  # heavy: only where a table is made

    named = {name: replace(task, name=name) for name, task in tasks_of(tasks, "mossa").items()}
    reading = {"at": at, "split": split, "n": n, "normed": normed, "batch_size": batch_size}
    learnt, out = parted(named, held_out, "mossa")
    train_tuned = isinstance(tuned, str) and tuned == "train"
    _check(named, reading, out, controls, tuned)
    taught = [named[t] for t in named if controls is None or (train_tuned and t in learnt)]
    share, debiased = share_of(share, "share", "give a share of the variance in (0, 1]"), flag(debiased, "debiased")
    tuning = Tuning(method, Recipe.of(recipe, lr=FINETUNE_LR), seed, options or {})
    for task in taught:
        task.split("train")
    if recipe is not None and not taught:
        raise ArgumentError(f"recipe={recipe}", "no model to train: all are given", "leave it out, or the models")
    if taught or not isinstance(model, Mapping):
        model = opened(model, "train models with mossa")
    settings = {
        "tasks": {name: task.data_hash for name, task in named.items()}, "held_out": out,
        "at": at, "split": split, "n": n, "normed": normed, "method": tuning.name, "options": dict(options or {}),
        "recipe": tuning.recipe.settings() if taught else {}, "seed": seed, "trained_controls": controls is None,
        "tuned": "trained here" if train_tuned else None if tuned is None else "given",
    }  # fmt: skip
    for name, control in controls.items() if isinstance(controls, dict) else ():  # another mapping may open them
        check_source(of_task(control, name), {name: named[name]}, reading, f"controls[{name!r}]")
    if tuned is not None and not train_tuned:
        check_source(tuned, named, reading, "tuned")
    folder = None if output is None else _folder(Path(output), model, settings)
    whole = wants_shards(tuning.recipe) or (isinstance(model, Model) and has_shards(model.root))
    models = {PRE: read(model, named, reading, folder and folder / "pre-trained")}
    where = folder and folder / "multi-task"
    if train_tuned:
        training = partial(tuned_reading, model, [named[t] for t in learnt], named, tuning, reading, where)
        # one process trains it; through a folder, or as it is, the others are given what it reads
        cell: Any = partial(_left, training) if where else training
        found = shared_out("multi-task model", {MULTI: cell}, None, whole)[MULTI]
        models[MULTI] = Representations.load(where) if where else found
    elif tuned is not None:
        with naming("tuned"):
            models[MULTI] = read(tuned, named, reading, where)
        _refuse_the_base(models[PRE], models[MULTI])

    def beside_control(number: int, name: str) -> list[dict[str, Any]]:
        """The rows of a task: every model beside the task's control model."""
        where, task = folder and folder / "controls" / f"{number:03d}", named[name]
        if controls is None:
            control = tuned_reading(model, [task], {name: task}, tuning, reading, where)
        else:
            with naming(f"controls[{name!r}]"):
                control = read(of_task(controls[name], name), {name: task}, reading, where)
        rows = []
        for label, reps in models.items():
            cka = compare({name: reps[name]}, {name: control[name]}, "cka", debiased=debiased, null=null, seed=seed)
            rows += [{**_place(label, name, named, out), **_cka(row)} for row in cka.table.to_dict("records")]
        return rows

    cells = {name: partial(beside_control, number, name) for number, name in enumerate(named)}
    with settled_garbage(when=controls is None):
        rows = [row for part in shared_out("control models", cells, progress, whole).values() for row in part]
    rows += _dimensions(models, named, out, share)
    manifest = settings | {
        "debiased": debiased, "share": share, "null": null,
        "layers": models[PRE].layers, "families": {name: task.family for name, task in named.items()},
        "models": {label: dict(reps.manifest) for label, reps in models.items()}, "versions": files.versions(),
    }  # fmt: skip
    table = pd.DataFrame(rows)
    table.insert(table.columns.get_loc("p") + 1, "q", benjamini_hochberg(table["p"].to_numpy()))
    return Mossa(table, manifest, models)


def _left(training: Callable[[], Representations]) -> None:
    training()


def _folder(output: Path, model: Any, settings: Mapping[str, Any]) -> Path:
    """The run's own folder, with a note of what it is of."""
    weights = model.identity() if isinstance(model, Model) else None
    run = {**settings, "model": weights, "version": files.versions().get("neuroscope")}
    folder = output / FOLDER / files.digest(run)
    files.keep_settings(folder / RUN, run, "mossa")
    return folder


def _place(label: str, task: str, named: Mapping[str, Task], held_out: Sequence[str]) -> dict[str, Any]:
    family = named[task].family if task in named else ALL
    return {"model": label, "task": task, "family": family, "held_out": task in held_out}


def _cka(row: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {key: row.get(key, np.nan) for key in ("value", "low", "high", "p")}
    return {"measure": "cka", "layer": row["layer_a"], **numbers, "limit": np.nan, "reason": row["reason"]}


def _dimensions(
    models: Mapping[str, Representations], named: Mapping[str, Task], held_out: Sequence[str], share: float
) -> list[dict[str, Any]]:
    """Components for a share of the variance, of each task's examples and of all tasks' together."""
    table = dimensions(models, share=share, pooled=ALL if len(named) > 1 else None).table
    return [
        {**_place(row.pop("model"), row.pop("task"), named, held_out), **nan_row(measure="dimension"), **row}
        for row in table.to_dict("records")
    ]


def _check(
    named: Mapping[str, Task], reading: Mapping[str, Any], held_out: Sequence[str], controls: Any, tuned: Any
) -> None:
    """Refuse before anything is trained what could not be compared afterwards."""
    if ALL in named:
        raise TaskError("mossa on tasks", f"one called {ALL!r}", "give it another name")
    for name, task in named.items():
        count = len(task.split(reading["split"], reading["n"]))
        if count < FEWEST:
            raise TaskError(f"CKA on task {name!r}", f"{count} examples", f"give {FEWEST} examples or more")
    if isinstance(tuned, str) and tuned != "train" and get_close_matches(tuned, ["train"]) and not Path(tuned).exists():
        raise ArgumentError(f"tuned={tuned!r}", "neither 'train' nor a folder", "did you mean 'train'?")
    if held_out and tuned is None:
        do = "give one that has not learnt them, or tuned='train'"
        raise ArgumentError(f"held_out={list(held_out)}", "no multi-task model", do)
    if controls is not None and (not isinstance(controls, Mapping) or set(controls) != set(named)):
        found = f"controls for {sorted(controls)}, tasks {sorted(named)}"
        raise ArgumentError("mossa with control models", found, "give one control model per task")


def _refuse_the_base(pre: Representations, multi: Representations) -> None:
    """Refuse the base itself as the tuned model."""
    prints = [reps.manifest.get("fingerprint") for reps in (pre, multi)]
    if prints[0] is not None and prints[0] == prints[1]:
        found = f"the weights of the base ({prints[0]})"
        raise ArgumentError("the tuned model", found, "give the multi-task model, 'train' to make it, or None")
