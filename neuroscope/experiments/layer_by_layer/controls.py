"""The models that MOSSA compares: whose representations are read, and the control models that are trained for it."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from neuroscope.comparison.hidden_states import Representations, representations
from neuroscope.errors import ArgumentError, FileError, choose, naming
from neuroscope.masks import NeuronMask
from neuroscope.models import Model, resolve
from neuroscope.tasks import Task
from neuroscope.training import LoraAdapter, Recipe, finetune, train

MethodName = Literal["full", "ffn", "lora"]
NAMES: tuple[MethodName, ...] = get_args(MethodName)
LORA = ("rank", "alpha")  # options of "lora"


@dataclass(frozen=True)
class Tuning:
    """How control models, and the multi-task model, are trained; checked when it is made.

    Attributes:
        method: what is trained: "full", the whole model; "ffn", all hidden neurons; "lora", or the neurons of a mask.
        options: of the method.

    Raises:
        ArgumentError: an unknown method, or an option that it does not have.
    """

    method: MethodName | NeuronMask
    recipe: Recipe
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = LORA if choose_method(self.method) == "lora" else ()
        for name in self.options:
            if name not in known:
                do = f"give some of {known}" if known else "leave it out: only 'lora' has options"
                raise ArgumentError(f"options={{{name!r}: ...}} of method {self.name!r}", "no such option", do)

    @property
    def name(self) -> str:
        """What a manifest says of the method."""
        return f"mask {self.method.identity}" if isinstance(self.method, NeuronMask) else self.method

    @contextlib.contextmanager
    def scope(self, model: Model, tasks: Sequence[Task]) -> Iterator[Model]:
        """A scope in which the model is tuned on tasks; on exit it is as it was, to the bit, also after an error."""
        handle: Any
        if self.method == "lora":
            handle = LoraAdapter(model, **self.options, seed=self.seed)
            train(handle, tasks, self.recipe, seed=self.seed)
        else:
            neurons: Any = None if self.method == "full" else self.method
            with warnings.catch_warnings():  # a tuned model is trained further on purpose, and has its weights back
                warnings.filterwarnings("ignore", ".*was fine-tuned before")
                handle = finetune(model, tasks, neurons, seed=self.seed, **vars(self.recipe))
        try:
            yield handle.model
        finally:
            handle.detach()


def choose_method(method: Any) -> Any:
    """The method itself, if there is such a one."""
    return method if isinstance(method, NeuronMask) else choose(method, NAMES, "method")


def read(source: Any, tasks: Mapping[str, Task], settings: Mapping[str, Any], output: Path | None) -> Representations:
    """The representations of a model on tasks, or those that were given, checked to be of these tasks."""
    if isinstance(source, Mapping):
        named = source if isinstance(source, Representations) else Representations(source)
        return _fitting(named, tasks, settings)
    return representations(source, tasks, **settings, output=output)


def of_task(control: Any, name: str) -> Any:
    """An array alone as representations of its task."""
    return {name: control} if isinstance(control, np.ndarray) else control


def check_source(source: Any, tasks: Mapping[str, Task], settings: Mapping[str, Any], what: str) -> None:
    """Refuse what is neither a model nor representations of these tasks; a name or a folder is opened in its turn."""
    with naming(what):
        if isinstance(source, Mapping):
            read(source, tasks, settings, None)
        elif not isinstance(source, str | PathLike):
            resolve(source)


def _fitting(reps: Representations, tasks: Mapping[str, Task], settings: Mapping[str, Any]) -> Representations:
    """Representations that were given, checked to be of these tasks, examples and positions."""
    wanted, do = "compare representations that were given", "compute them with the tasks and settings given here"
    for name, task in tasks.items():
        if name not in reps:
            raise ArgumentError(wanted, f"none of task {name!r}", do)
        asked = reps.manifest.get("asked", {}).get(name, {})
        skipped = asked.get("prompts", {}).get("skipped", ())
        given = enumerate(task.split(settings["split"], settings["n"]))
        pairs = [(e.prompt, e.answer) for i, e in given if i not in skipped]
        if reps[name].shape[1] != len(pairs):
            raise ArgumentError(wanted, f"{reps[name].shape[1]} examples of {name!r}, which has {len(pairs)} here", do)
        if name in reps.examples and [tuple(pair) for pair in reps.examples[name]] != pairs:
            raise ArgumentError(wanted, f"other examples of {name!r}", do)
    for key in ("at", "normed"):
        if key in reps.manifest and reps.manifest[key] != settings[key]:
            raise ArgumentError(wanted, f"{key}={reps.manifest[key]!r} instead of {settings[key]!r}", do)
    return reps


def tuned_reading(
    base: Model,
    learnt: Sequence[Task],
    tasks: Mapping[str, Task],
    tuning: Tuning,
    settings: Mapping[str, Any],
    output: Path | None,
) -> Representations:
    """The representations, on tasks, of the model tuned on those to learn, or what an earlier, finished run left."""
    if output is not None and output.exists():
        with contextlib.suppress(FileError):  # unfinished: trained once more, from its start
            return Representations.load(output)
        shutil.rmtree(output)
    with tuning.scope(base, learnt) as tuned:
        return representations(tuned, tasks, **settings, output=output)


def opened(model: Any, asked: str) -> Model:
    """The model to train control models from."""
    if isinstance(model, Mapping):
        do = "give the model itself, or the control models' representations as controls"
        raise ArgumentError(asked, "representations instead of a model", do)
    return resolve(model)
