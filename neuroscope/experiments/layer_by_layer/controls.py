"""The models that MOSSA compares: whose representations are read, and the control models that are trained for it."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from neuroscope import files
from neuroscope.comparison.hidden_states import Representations, representations
from neuroscope.errors import ArgumentError, FileError, choose
from neuroscope.masks import NeuronMask
from neuroscope.models import Model, resolve
from neuroscope.tasks.task import Task
from neuroscope.training import LoraAdapter, Recipe, finetune, train

RUN = "mossa.json"


def _lora(model: Model, tasks: Sequence[Task], recipe: Mapping[str, Any]) -> LoraAdapter:
    settings = dict(recipe)
    shape = {key: settings.pop(key) for key in ("rank", "alpha") if key in settings}
    seed = settings.pop("seed", 0)
    checked = Recipe.of(settings)
    adapter = LoraAdapter(model, **shape, seed=seed)
    train(adapter, tasks, checked, seed=seed)
    return adapter


# name -> (model, tasks, recipe) -> a handle that is live on the model, and whose detach puts the base back
METHODS: dict[str, Callable[[Model, Sequence[Task], Mapping[str, Any]], Any]] = {
    "full": lambda model, tasks, recipe: finetune(model, tasks, None, **recipe),
    "ffn": lambda model, tasks, recipe: finetune(model, tasks, "ffn", **recipe),
    "lora": _lora,
}


@contextlib.contextmanager
def tuned_on(
    model: Model, tasks: Sequence[Task], method: str | NeuronMask, recipe: Mapping[str, Any]
) -> Iterator[Model]:
    """A scope in which the model is tuned on tasks; on exit it is as it was, to the bit, also after an error."""
    if isinstance(method, NeuronMask):
        handle: Any = finetune(model, tasks, method, **recipe)
    else:
        handle = METHODS[choose(method, METHODS, "method")](model, tasks, recipe)
    try:
        yield handle.model
    finally:
        handle.detach()


def read(source: Any, tasks: Mapping[str, Task], settings: Mapping[str, Any], output: Path | None) -> Representations:
    """The representations of a model on tasks, or those that were given, checked to be of these tasks."""
    if isinstance(source, Mapping):
        found = source if isinstance(source, Representations) else Representations(dict(source))
        return _fitting(found, tasks, settings)
    return representations(source, list(tasks.values()), **settings, output=output)


def _fitting(found: Representations, tasks: Mapping[str, Task], settings: Mapping[str, Any]) -> Representations:
    asked, do = "compare representations that were given", "compute them with the tasks and settings given here"
    for name, task in tasks.items():
        if name not in found:
            raise ArgumentError(asked, f"none of task {name!r}", do)
        pairs = [(e.prompt, e.answer) for e in task.split(settings["split"], settings["n"])]
        if found[name].shape[1] != len(pairs):
            raise ArgumentError(asked, f"{found[name].shape[1]} examples of {name!r}, which has {len(pairs)} here", do)
        if name in found.examples and [tuple(pair) for pair in found.examples[name]] != pairs:
            raise ArgumentError(asked, f"other examples of {name!r}", do)
    for key in ("at", "normed"):
        if key in found.manifest and found.manifest[key] != settings[key]:
            raise ArgumentError(asked, f"{key}={found.manifest[key]!r} instead of {settings[key]!r}", do)
    return found


def tuned_reading(
    base: Model, learnt: Sequence[Task], tasks: Sequence[Task], method: str | NeuronMask, recipe: Mapping[str, Any],
    settings: Mapping[str, Any], output: Path | None,
) -> Representations:  # fmt: skip
    """The representations, on tasks, of the model tuned on those to learn, or what an earlier, finished run left."""
    if output is not None and output.exists():
        with contextlib.suppress(FileError):  # unfinished: trained once more, from its start
            return Representations.load(output)
        shutil.rmtree(output)
    with tuned_on(base, learnt, method, recipe) as tuned:
        return representations(tuned, tasks, **settings, output=output)


def same_run(output: Path, run: Mapping[str, Any]) -> None:
    """Note what a folder is for, or refuse one that is for something else."""
    run = json.loads(json.dumps(run))
    if not (output / RUN).exists():
        files.write(output / RUN, json.dumps(run, indent=1))
        return
    before = files.read_json(output / RUN, "a run of mossa")
    other = [key for key in run if not isinstance(before, dict) or before.get(key) != run[key]]
    if other:
        raise FileError(f"mossa with output={output}", f"a run of another {other[0]}", "give another folder")


def method_name(method: str | NeuronMask) -> str:
    """What a manifest says of the method."""
    return f"mask {method.identity}" if isinstance(method, NeuronMask) else choose(method, METHODS, "method")


def opened(model: Any, asked: str) -> Model:
    """The model to train control models from."""
    if isinstance(model, Mapping):
        do = "give the model itself as base, or the control models' representations as controls"
        raise ArgumentError(asked, "representations instead of a model", do)
    return resolve(model)
