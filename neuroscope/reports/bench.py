"""What an experiment is given: values by keyword, each made only where the experiment's signature names it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from neuroscope.experiments.table import Experiment
from neuroscope.masks import NeuronMask, Scores
from neuroscope.models import Model
from neuroscope.reports.cached_scores import cached_scores
from neuroscope.reports.main_job import names_by_family
from neuroscope.results import Result
from neuroscope.tasks import Task
from neuroscope.training import Recipe


class Bench:
    """One model and its tasks, ready for any experiment of the table.

    Attributes:
        arguments: what the user gave, by keyword; None: the experiment's own.
    """

    def __init__(self, model: Model, tasks: Mapping[str, Task], output: Path, arguments: Mapping[str, Any]) -> None:
        self.model, self.tasks, self.output = model, dict(tasks), output
        self.arguments = {name: value for name, value in arguments.items() if value is not None}
        self.arguments |= {"examples": arguments["examples"]}  # None: all

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

    def run(self, experiment: Experiment) -> Result:
        """The experiment's function, called with what its signature names; its part that is this figure."""
        function = experiment.load()
        keywords = dict(experiment.keywords)
        for name, parameter in inspect.signature(function).parameters.items():
            if name in ("model", "tasks", "output", "scores", "masks", "groups"):
                keywords[name] = getattr(self, name)
            elif name == "recipe":
                keywords[name] = merged(experiment.keywords.get(name), self.arguments.get(name))
            elif name == "k" and isinstance(parameter.default, Sequence):
                continue  # its shares are what it is about
            elif name in self.arguments:
                keywords[name] = self.arguments[name]
        result = function(**keywords)
        return getattr(result, experiment.part)() if experiment.part else result

    @staticmethod
    def finds_neurons(experiment: Experiment) -> bool:
        """Whether the experiment is given neurons that were found here."""
        return not {"scores", "masks"}.isdisjoint(inspect.signature(experiment.load()).parameters)


def merged(own: Mapping[str, Any] | None, given: Recipe | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """An experiment's own recipe with what the user gave; epochs, where given alone, take the place of its steps."""
    given = vars(given) if isinstance(given, Recipe) else given or {}
    chosen = {name: value for name, value in given.items() if value is not None}
    recipe = {name: value for name, value in (own or {}).items() if name != "steps" or "epochs" not in chosen} | chosen
    return recipe or None
