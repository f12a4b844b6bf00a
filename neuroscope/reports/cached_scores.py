"""Scores of tasks, from the folder where an earlier run left them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from neuroscope import files
from neuroscope.attribution import METHODS, attribute
from neuroscope.checks import Progress
from neuroscope.errors import FileError, NeuroscopeError, choose
from neuroscope.masks import Scores
from neuroscope.models import Model
from neuroscope.tasks import Task
from neuroscope.tasks.prompts import template_of


def cached_scores(
    model: Model,
    tasks: Mapping[str, Task],
    folder: Path,
    *,
    method: str = "grad-x-act",
    objective: str = "loss",
    unit: str = "hidden",
    examples: int | None = 256,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Scores]:
    """Scores of every task, made where the folder has none.

    Raises:
        FileError: the folder has scores of a task that were made with another model, data or settings.
    """
    together = METHODS[choose(method, METHODS, "method")].together
    settings: dict[str, Any] = {"method": method, "objective": objective, "unit": unit, "examples": examples}
    asked: dict[str, Any] = {"asked": {"unit": unit, "examples": examples}}
    if together:
        asked["together"] = [task.data_hash for task in tasks.values()]
    asked["version"] = files.versions().get("neuroscope")
    wanted = model.identity() | asked
    wanted |= {"method": method, "objective": objective}
    scores: dict[str, Scores] = {}
    for name, task in tasks.items():
        data = {"data_hash": task.data_hash} | template_of(model, task)
        known = _known(folder / f"{files.encoded(name)}.safetensors", wanted | data)
        if known is not None:
            scores[name] = known
    missing = {} if len(scores) == len(tasks) else {n: t for n, t in tasks.items() if together or n not in scores}
    for group in [missing] if together and missing else [{name: task} for name, task in missing.items()]:
        for name, fresh in attribute(model, group, batch_size=batch_size, progress=progress, **settings).items():
            scores[name] = replace(fresh, manifest={**fresh.manifest, **asked})
            scores[name].save(folder / f"{files.encoded(name)}.safetensors")
    return {name: scores[name] for name in tasks}


def _known(path: Path, wanted: Mapping[str, Any]) -> Scores | None:
    if not path.exists():
        return None
    try:
        scores = Scores.load(path)
    except NeuroscopeError:  # damaged, or not ours: made again
        return None
    other = [key for key, value in wanted.items() if scores.manifest.get(key) != value]
    if other:
        found = "scores of another run: " + "; ".join(
            f"{key} {scores.manifest.get(key)!s:.60}, now {wanted[key]!s:.60}" for key in other
        )
        raise FileError(f"keep scores in {path}", found, "give another folder, or repeat that run's settings")
    return scores
