"""Tasks by name: the bundled suites, folders of files, and the papers' data sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from neuroscope.checks import public
from neuroscope.errors import ArgumentError, FileError, suggest
from neuroscope.tasks.catalogue import CATALOGUE, GROUPS
from neuroscope.tasks.mini import NAMES, mini_tasks
from neuroscope.tasks.mini_sequence import sequence_tasks
from neuroscope.tasks.task import Task

BUNDLED: dict[str, Callable[..., dict[str, Task]]] = {
    "mini": mini_tasks,
    "mini-sequence": partial(sequence_tasks, "distinct"),
    "mini-conflict": partial(sequence_tasks, "conflicting"),
}


@public
def load_tasks(source: str | PathLike[str] | Sequence[str] = "mini", **options: Any) -> dict[str, Task]:
    """Several tasks by name.

    Args:
        source: "mini" (the bundled suite) or names of its tasks; "mini-sequence" or "mini-conflict" (tasks to
            learn one after the other, see `sequence_tasks`); a folder of task folders (`train.jsonl`, `test.jsonl`);
            or names from the catalogue of the papers' tasks, or of its groups, as a list or separated by commas.
        options: arguments of `mini_tasks`, `sequence_tasks`, `Task.from_jsonl` or `Task.from_hub`, such as `seed`, and
            `train`, `discovery`, `test`: how many examples of each split (of files: at most).

    Raises:
        ArgumentError: no such folder or name; it lists the known ones.

    Example:
        >>> list(load_tasks("mini", train=2, discovery=2, test=2))[:2]
        ['sentiment-food', 'sentiment-film']
    """
    if isinstance(source, str) and source in BUNDLED:
        return BUNDLED[source](**options)
    if isinstance(source, (str, PathLike)) and Path(source).is_dir():
        folders = [path for path in [Path(source), *sorted(Path(source).iterdir())] if list(path.glob("*.jsonl"))]
        if not folders:
            raise FileError(
                f"tasks in {source}", "no folder with .jsonl files", "give each task a folder with train.jsonl"
            )
        return {task.name: task for task in (Task.from_jsonl(folder, **options) for folder in folders)}
    names = str(source).split(",") if isinstance(source, (str, PathLike)) else list(source)
    known = [*BUNDLED, *NAMES, *GROUPS, *CATALOGUE]
    if names and all(name.strip() in NAMES for name in names):
        bundled = mini_tasks(**options)
        return {name.strip(): bundled[name.strip()] for name in names}
    tasks = {}
    for name in (member for entry in names for member in GROUPS.get(entry.strip(), (entry.strip(),))):
        if name not in CATALOGUE:
            raise ArgumentError(f"tasks {name!r}", "no such folder, group or catalogue name", suggest(name, known))
        tasks[name] = Task.from_hub(**{"name": name, **CATALOGUE[name], **options})
    return tasks
