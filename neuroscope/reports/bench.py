"""What an experiment is given: by keyword, checked, and made only where the experiment's signature names it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from neuroscope.checks import seeds_of
from neuroscope.errors import ArgumentError, choose
from neuroscope.experiments.table import Experiment
from neuroscope.experiments.trials import FEW_SEEDS
from neuroscope.masks import NeuronMask, Scores
from neuroscope.models import Model
from neuroscope.reports.cached_scores import cached_scores
from neuroscope.reports.main_job import names_by_family
from neuroscope.results import Result
from neuroscope.tasks import Task
from neuroscope.training import Recipe
from neuroscope.training.continual_learning import METHODS

GIVEN = ("k", "seeds", "n_random", "examples", "n", "recipe", "methods", "held_out")  # by users of `reproduce`
MADE = ("model", "tasks", "output", "scores", "masks", "groups")  # here, where a signature names it


def accepted(experiment: Experiment) -> list[str]:
    """The arguments of a user's that change the experiment: what its signature, or finding its neurons, names."""
    parameters = inspect.signature(experiment.load()).parameters
    names = {name for name in GIVEN if name in parameters}
    if "k" in names and isinstance(parameters["k"].default, Sequence):
        names.remove("k")  # its shares are what it is about
    names |= {"k", "examples"} if "masks" in parameters else {"examples"} if "scores" in parameters else set()
    return [name for name in GIVEN if name in names]


class Bench:
    """One experiment of the table and its tasks, ready for a model.

    Attributes:
        arguments: what the user gave, by keyword; None: the experiment's own.
        keywords: of the experiment's function, but for what is made here.
        settings: what its numbers depend on, but for model and tasks.
        model: to be given before `run`.

    Raises:
        ArgumentError: a value that the experiment does not take.
        TaskError: a task without the examples that it needs.
    """

    model: Model

    def __init__(
        self, experiment: Experiment, tasks: Mapping[str, Task], output: Path, arguments: Mapping[str, Any]
    ) -> None:
        self.experiment, self.tasks, self.output = experiment, dict(tasks), output
        self.function = experiment.load()
        self.parameters = inspect.signature(self.function).parameters
        names = accepted(experiment)
        self.arguments = {name: value for name, value in arguments.items() if value is not None}
        self.arguments |= {"examples": arguments["examples"]}  # None: all
        own = {name: value for name, value in self.arguments.items() if name in self.parameters}
        self.keywords = {**experiment.keywords, **own}
        if "k" not in names:
            self.keywords.pop("k", None)
        if "recipe" in names:
            self.keywords["recipe"] = merged(experiment.keywords.get("recipe"), self.arguments.get("recipe"))
        defaults = {name: parameter.default for name, parameter in self.parameters.items()}
        self.settings = {name: {**self.arguments, **defaults, **self.keywords}[name] for name in names}
        self._check()

    def _check(self) -> None:
        """Refuse before there is a model what the experiment would refuse."""
        settings = self.settings
        if "recipe" in settings:
            settings["recipe"] = Recipe.of(settings["recipe"]).settings()
        if "seeds" in settings:
            settings["seeds"] = seeds_of(settings["seeds"])
            if len(settings["seeds"]) < self.experiment.fewest_seeds:
                found = f"{len(settings['seeds'])} of each kind, each with a random mask of its own"
                raise ArgumentError(f"reproduce({self.experiment.id!r}, seeds=...)", found, FEW_SEEDS)
        for name in settings.get("methods", ()):
            choose(name, METHODS, "method")
        for name, task in self.tasks.items():
            for argument, split in (("examples", "discovery"), ("n", "test")):
                if argument in settings:
                    task.split(split, settings[argument])
            if "recipe" in settings and name not in self.arguments["held_out"]:
                task.split("train")

    @cached_property
    def scores(self) -> dict[str, Scores]:
        """Of every task."""
        how: dict[str, Any] = {name: self.arguments.get(name) for name in ("examples", "progress")}
        return cached_scores(self.model, self.tasks, self.output / "scores", **how)

    @cached_property
    def masks(self) -> dict[str, NeuronMask]:
        """The top k of the scores."""
        return {name: scores.top(self.arguments["k"]) for name, scores in self.scores.items()}

    @property
    def groups(self) -> dict[str, list[str]] | None:
        """Names of tasks by family."""
        return names_by_family(self.tasks)

    def run(self) -> Result:
        """The experiment's function, called with what its signature names; its part that is this figure."""
        made = {name: getattr(self, name) for name in MADE if name in self.parameters}
        result = self.function(**made, **self.keywords)
        return getattr(result, self.experiment.part)() if self.experiment.part else result

    @property
    def finds_neurons(self) -> bool:
        """Whether the experiment is given neurons that were found here."""
        return not {"scores", "masks"}.isdisjoint(self.parameters)


def merged(own: Mapping[str, Any] | None, given: Recipe | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """An experiment's own recipe with what the user gave; epochs, where given alone, take the place of its steps."""
    values = given or {} if isinstance(given, Mapping | None) else vars(Recipe.of(given))
    chosen = {name: value for name, value in values.items() if value is not None}
    recipe = {name: value for name, value in (own or {}).items() if name != "steps" or "epochs" not in chosen} | chosen
    return recipe or None
