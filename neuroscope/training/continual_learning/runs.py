"""Learn tasks one after another by one method, over every order and seed.

1. A run is a sequence of stages, one per task. After each, every task is measured, also those still to come and those
   that the base could do before; what the stage added is saved, and its record is written last.
2. A run that was killed starts again after its last finished stage.
3. The records of all runs become one table. Several processes share the runs out, each on its own copy of the model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroscope import files
from neuroscope.checks import Progress, flag, public, seeds_of
from neuroscope.distributed import has_shards, shared_out
from neuroscope.errors import ArgumentError, choose, shown, suggest
from neuroscope.models import identity_of, require_parameters, resolve
from neuroscope.models.packed import refuse_packed
from neuroscope.tasks import Task, Tasks, tasks_of
from neuroscope.tasks.prompts import hash_of
from neuroscope.training.continual_learning.continual_result import Continual
from neuroscope.training.continual_learning.learner import Setting
from neuroscope.training.continual_learning.learnt import chance_of
from neuroscope.training.continual_learning.methods import METHODS
from neuroscope.training.continual_learning.sequence import Record, learn_sequence, orders_of
from neuroscope.training.garbage import settled_garbage
from neuroscope.training.processes import wants_shards
from neuroscope.training.recipe import PLAIN, Recipe

if TYPE_CHECKING:
    import pandas as pd


@public
def continual(
    model: Any,
    tasks: Tasks,
    method: str = "ncft",
    *,
    orders: Sequence[Sequence[str]] | None = None,
    seeds: int | Sequence[int] = 1,
    recipe: Recipe | Mapping[str, Any] | None = None,
    known: Tasks = (),
    split: str = "test",
    n: int | None = None,
    batch_size: int | None = None,
    ahead: bool = True,
    output: str | PathLike | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Continual:
    """Learn tasks one after another and measure all of them after every stage (LX24 §4.2, Table 5, Figure 4).

    Args:
        model: anything that can be opened, with parameters of its own. It is as it was afterwards.
        tasks: those to learn.
        method: "ncft" (options `k`, `scored_in`, `exclude`, `protect`, `overlap_penalty`, `objective`, `examples`),
            "w-ncft" (also `weighting`, `temperature`, `samples`), "ncft-random", "ffn", "seqft", "seq-lora" (`rank`,
            `alpha`), "o-lora" (also `orthogonality`, `l2`, `distance`), "epi" (`rank`, `alpha`, `samples`,
            `shrinkage`), "osf" (`preserved`), "ewc" (`strength`, `fisher_examples`), "cnl" (`share`, `examples`),
            "replay" (`share`), "replay-lora" (`rank`, `alpha`, `share`), "per-task" or "joint".
        orders: sequences of names of tasks, all of the same length; None: the order given.
        seeds: of training, random masks and samples; one run per order and seed. 3 is seeds 0, 1 and 2.
        recipe: of the training of every stage; its lr, where it has none, is the method's own. Neuron masks want
            several times that of the whole model.
        known: tasks that the base can do already, to see what becomes of them; `protect` keeps their neurons.
        split, n, batch_size: the examples that scores are measured on: how many (None: all), how many at once.
        ahead: whether tasks still to come are measured after every stage too; no number of `metrics` needs them.
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

    Example:
        >>> import neuroscope as ns
        >>> tasks = ns.load_tasks("mini-sequence", train=16, discovery=4, test=8)
        >>> two = [tasks["praise"], tasks["agreement"]]
        >>> found = ns.continual("mini", two, "ffn", recipe={"steps": 4, "lr": 1e-2})
        >>> found.table.groupby("stage")["learnt"].first().to_dict()
        {0: '(base)', 1: 'praise', 2: 'agreement'}
        >>> bool(found.metrics()["average accuracy"][0] > 0.5)
        True
    """
    entry = METHODS[choose(method, METHODS, "method")]
    for name in options:
        if name not in entry.options:
            raise _no_such_option(method, name, options[name])
    recipe, ahead = Recipe.of(recipe, lr=entry.lr), flag(ahead, "ahead")
    to_learn, before = _checked(tasks, known, split, n)
    known = list(before.values())
    orders = orders_of(list(to_learn), orders)
    model = resolve(model)
    require_parameters(model, f"continual(method={method!r})")
    refuse_packed(model.root, f"continual(method={method!r})")
    provenance, measured_on = model.provenance(), {"split": split, "n": n}
    every_option = {name: _plain(value) for name, value in {**entry.options, **options}.items()}
    settings = {"method": method, **recipe.settings(), **measured_on, "options": every_option}
    # for all runs: the examples to measure on, made ready once, and the base's outcomes
    prepared: dict[str, Any] = {}
    in_base: dict[str, Any] = {}
    runs: dict[str, Callable[[], list[Record]]] = {}
    for number, order in enumerate(orders):
        sequence = [to_learn[name] for name in order]
        for seed in seeds_of(seeds):
            setting = Setting(model, sequence, known, recipe, seed, split, n, batch_size, progress, prepared)
            setting = replace(setting, in_base=in_base, ahead=ahead)
            run = identity_of(provenance) | {**settings, "seed": seed}
            run["version"] = files.versions().get("neuroscope")
            run |= {} if ahead else {"ahead": False}
            run |= {
                "tasks": [hash_of(model, task) for task in sequence],
                "known": [hash_of(model, task) for task in known],
            }
            folder = None if output is None else Path(output) / f"{method}-order{number}-seed{seed}"
            start = partial(entry.start, **options)
            place = {"order": number, "seed": seed}
            runs[files.digest(run, number)] = partial(_records, place, setting, start, entry.at_once, folder, run)
    whole = has_shards(model.root) or wants_shards(recipe)
    with settled_garbage():
        records = [r for part in shared_out(f"continual {method}", runs, progress, whole).values() for r in part]
    changed = " ".join(f"{name}={value}" for name, value in sorted(options.items()) if value != entry.options[name])
    run_of = {"method": method, "options": changed}
    manifest = {
        **provenance,
        "data_hash": {name: task.data_hash for name, task in to_learn.items()},
        "known": {name: task.data_hash for name, task in before.items()},
        "orders": orders,
        "sees": {method: entry.sees},
        "chance": chance_of(model, list(to_learn.values()), split, n),
        **measured_on,
        "runs": [
            run_of | {key: record[key] for key in ("order", "seed", "stage", "learnt", "log")} | {"settings": settings}
            for record in records
            if record["stage"]
        ],
        "versions": files.versions(),
    }
    return Continual(_table(records, {**run_of, "lr": recipe.lr}), manifest)


def _records(place: dict[str, int], *run: Any) -> list[Record]:
    return [record | place for record in learn_sequence(*run)]


def _no_such_option(method: str, name: str, value: Any) -> ArgumentError:
    asked = f"continual(method={method!r}, {name}=...)"
    if name in Recipe.__dataclass_fields__:
        return ArgumentError(asked, "a setting of training", f"give recipe={{{name!r}: {value!r}}}")
    others = [other for other, entry in METHODS.items() if name in entry.options]
    if others:
        return ArgumentError(asked, "no such option", f"it is one of {', '.join(others)}")
    names = [*inspect.signature(continual).parameters, *METHODS[method].options]
    return ArgumentError(asked, "no such option", suggest(name, names))


def known_of(known: Any) -> dict[str, Task]:
    """Tasks that the base can do already, by name; each Task has the name that it is called by."""
    if known is None or (isinstance(known, Sequence | Mapping) and not known):
        return {}
    return {name: replace(task, name=name) for name, task in tasks_of(known, shown("known", known), "known").items()}


def _checked(tasks: Any, known: Any, split: str, n: int | None) -> tuple[dict[str, Task], dict[str, Task]]:
    """Tasks to learn, and known ones, by name; each Task has the name that it is called by."""
    choose(split, ("train", "discovery", "test"), "split")
    asked = "learn a sequence of tasks"
    learnt = {name: replace(task, name=name) for name, task in tasks_of(tasks, asked).items()}
    before = known_of(known)
    twice = next((name for name in before if name in learnt), "")
    if twice or len(learnt) < 2:
        what = f"two named {twice!r}" if twice else f"{len(learnt)} task(s)"
        raise ArgumentError(asked, what, "give two or more tasks of different names")
    for task in learnt.values():
        task.split("train")
    for task in [*learnt.values(), *before.values()]:
        task.split(split, n)
    return learnt, before


def _plain(value: Any) -> Any:
    return value if isinstance(value, PLAIN) else repr(value)


def _table(records: Iterable[Record], run_of: Mapping[str, Any]) -> pd.DataFrame:
    """One row per record and task."""
    import pandas as pd  # heavy: only where a table is made

    rows = []
    for record in records:
        numbers = {name: int(record["log"].get(name, 0)) for name in ("trained", "stored")}
        numbers |= {name: record["cost"].get(name, 0.0) for name in ("seconds", "peak_mib")}
        stage = {name: record[name] for name in ("order", "seed", "stage", "learnt")}
        for task, (score, low, high, error, n) in record["scores"].items():
            place = record["tasks"].index(task) + 1 if task in record["tasks"] else 0
            scores = {"score": score, "low": low, "high": high, "se": error, "n": int(n)}
            rows.append({**run_of, **stage, "task": task, "position": place, **scores, **numbers})
    return pd.DataFrame(rows)
