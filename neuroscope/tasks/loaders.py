"""Tasks by name: the bundled suites, folders of files, and the papers' data sets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from neuroscope.checks import names_of, public
from neuroscope.errors import ArgumentError, ByName, FileError, brief, shown, suggest
from neuroscope.files import path_of
from neuroscope.tasks.catalogue import CATALOGUE, GROUPS
from neuroscope.tasks.mini import NAMES, mini_tasks
from neuroscope.tasks.mini_sequence import CONFLICTING, DISTINCT, sequence_tasks
from neuroscope.tasks.minimal_pairs import has_minimal_pairs, read_minimal_pairs
from neuroscope.tasks.rows import ASKED, OPTIONS
from neuroscope.tasks.task import Task, tasks_of

BUNDLED: dict[str, Callable[..., dict[str, Task]]] = {
    "mini": mini_tasks,
    "mini-sequence": partial(sequence_tasks, "distinct"),
    "mini-conflict": partial(sequence_tasks, "conflicting"),
}
# name of a bundled task -> its suite
SUITE_OF = {
    **dict.fromkeys(CONFLICTING, "mini-conflict"),
    **dict.fromkeys(DISTINCT, "mini-sequence"),
    **dict.fromkeys(NAMES, "mini"),
}


@public
def load_tasks(source: str | PathLike[str] | Sequence[str] = "mini", **options: Any) -> dict[str, Task]:
    """Several tasks by name.

    Args:
        source: a bundled suite, "mini", or "mini-sequence" or "mini-conflict" (tasks to learn one after the other, see
            `sequence_tasks`); a folder of task folders (`train.jsonl`, `test.jsonl`), or one .jsonl file; a folder of
            minimal pairs as of Han et al. 2026 (the repository LLM_Modularity, its `data`, or one family of it:
            `data/<family>/<task>.json`, and `config/<family>/config.json`); or names, as a list or separated by commas:
            of bundled tasks, of the catalogue of the papers' tasks, or of its groups.
        options: arguments of `mini_tasks`, `sequence_tasks`, `Task.from_jsonl` or `Task.from_hub`, such as `seed`, and
            `train`, `discovery`, `test`: how many examples of each split (of files: at most). Of all tasks: chat,
            system, max_tokens, too_long, and `shots`, which are drawn by `seed`. Minimal pairs: `holdout` (the share
            of rows that are test examples, 0.5), and chat=False for a model without a chat template.

    Raises:
        ArgumentError: no such folder or name; it lists the known ones.

    Warns:
        UserWarning: rows of minimal pairs that are none are left out; it counts and names them.

    Example:
        >>> list(load_tasks("mini", train=2, discovery=2, test=2))[:2]
        ['sentiment-food', 'sentiment-film']
    """
    if isinstance(source, (str, PathLike)) and str(source) in BUNDLED:  # a text may have become a path on its way
        return ByName(_bundled(str(source), options, str(source)))
    place = path_of(source, "load_tasks") if isinstance(source, (str, PathLike)) else Path()
    if place.suffix == ".jsonl" and place.is_file():
        task = Task.from_jsonl(place, **options)
        return ByName({task.name: task})
    if isinstance(source, (str, PathLike)) and place.is_dir():
        folders = [path for path in [place, *sorted(place.iterdir())] if list(path.glob("*.jsonl"))]
        if not folders and has_minimal_pairs(place):
            return ByName(tasks_of(read_minimal_pairs(place, **options), f"tasks in {source}"))
        if not folders:
            raise FileError(
                f"tasks in {source}", "no folder with .jsonl files", "give each task a folder with train.jsonl"
            )
        return ByName(tasks_of([Task.from_jsonl(folder, **options) for folder in folders], f"tasks in {source}"))
    asked = str(source).split(",") if isinstance(source, (str, PathLike)) else names_of(source, "source")
    names = [member for name in asked for member in GROUPS.get(name.strip(), (name.strip(),))]
    known = [*BUNDLED, *SUITE_OF, *GROUPS, *CATALOGUE]
    if not names:
        raise ArgumentError(f"load_tasks({shown('source', source)})", "no name", suggest("", known))
    for name in names:
        if name not in SUITE_OF and name not in CATALOGUE:
            if name in BUNDLED:
                raise ArgumentError(
                    f"source: tasks {asked}", f"a suite, {name!r}, among them", "load it alone, or name its tasks"
                )
            raise ArgumentError(f"source: tasks {name!r}", no_such_task(name), suggest(name, known))
    tasks: dict[str, Task] = ByName()
    suites: dict[str, dict[str, Task]] = {}
    for name in names:
        if name in CATALOGUE:
            tasks[name] = Task.from_hub(**{"name": name, **CATALOGUE[name], **options})
            continue
        suite = SUITE_OF[name]
        suites[suite] = suites.get(suite) or _bundled(suite, options, name)
        tasks[name] = suites[suite][name]
    return tasks


def _bundled(suite: str, options: dict[str, Any], name: str) -> dict[str, Task]:
    """A bundled suite, its prompts shown as the options say; `name` is of the suite or the task that was asked for."""
    _refuse_what_is_read(suite, options, name)
    asked = {name: value for name, value in options.items() if name in ASKED}
    own = {name: value for name, value in options.items() if name not in (*ASKED, "shots")}
    tasks = BUNDLED[suite](**own)
    if not asked and "shots" not in options:
        return tasks
    shots, seed = options.get("shots", 0), options.get("seed", 0)
    return {name: replace(task, **asked).with_shots(shots, seed) for name, task in tasks.items()}


def _refuse_what_is_read(suite: str, options: dict[str, Any], name: str) -> None:
    """Options of how rows are read and judged are of no use where nothing is read."""
    of_rows = {option for make in (Task.from_jsonl, Task.from_hub) for option in inspect.signature(make).parameters}
    of_rows = (of_rows | {*OPTIONS}) - {*inspect.signature(BUNDLED[suite]).parameters, *ASKED, "shots", "options"}
    refused = [option for option in options if option in of_rows]
    if not refused:
        return
    tasks = BUNDLED[suite](train=1, discovery=1, test=1)
    which = [tasks[name]] if name in tasks else list(tasks.values())
    which = which[:1] if all(_says(task, refused) == _says(which[0], refused) for task in which) else which
    found = " and ".join(_says(which[0], refused)) if len(which) == 1 else "each with its own"
    asked = ", ".join(f"{option}=..." for option in refused)
    can = ", ".join(f"{option}=..." for option in (*ASKED, "shots"))
    do = f"leave {asked} out, which files of jsonl and data sets of the Hub take; bundled tasks take {can}"
    raise ArgumentError(f"load_tasks({name!r}, {asked})", f"bundled, {found or 'and made, not read'}", do)


def _says(task: Task, options: list[str]) -> list[str]:
    """What a task has of options."""
    return [f"with {option} {brief(getattr(task, option))}" for option in options if hasattr(task, option)]


def no_such_task(name: str) -> str:
    """What was found in the place of a task that is not there."""
    if Path(name).is_file():
        return "a file; tasks are .jsonl files, or folders with train.jsonl and test.jsonl"
    return "no such file or folder, bundled task, group or catalogue name"
