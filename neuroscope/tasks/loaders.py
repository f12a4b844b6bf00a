"""Tasks by name, and tasks out of files of JSON lines.

Rows are shuffled by the seed, so that the first n of a split are a fair sample even where the file is sorted by label.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np

from neuroscope import files
from neuroscope.checks import public
from neuroscope.errors import ArgumentError, FileError, suggest
from neuroscope.tasks.catalogue import CATALOGUE, GROUPS
from neuroscope.tasks.hub import from_hub
from neuroscope.tasks.mini import NAMES, mini_tasks
from neuroscope.tasks.mini_sequence import sequence_tasks
from neuroscope.tasks.rows import PROMPT, Count, Located, answer, build, cap, check_options, has_gold
from neuroscope.tasks.task import Task

SPLITS = ("train", "discovery", "test")
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
        options: arguments of `mini_tasks`, `sequence_tasks`, `Task.from_jsonl` or `Task.from_hub`, such as `n`
            and `seed`.

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
        return {task.name: task for task in (from_jsonl(folder, **options) for folder in folders)}
    names = str(source).split(",") if isinstance(source, (str, PathLike)) else list(source)
    known = [*BUNDLED, *NAMES, *GROUPS, *CATALOGUE]
    if names and all(name.strip() in NAMES for name in names):
        bundled = mini_tasks(**options)
        return {name.strip(): bundled[name.strip()] for name in names}
    tasks = {}
    for name in (member for entry in names for member in GROUPS.get(entry.strip(), (entry.strip(),))):
        if name not in CATALOGUE:
            raise ArgumentError(f"tasks {name!r}", "no such folder, group or catalogue name", suggest(name, known))
        tasks[name] = from_hub(**{"name": name, **CATALOGUE[name], **options})
    return tasks


@public
def from_jsonl(
    path: str | PathLike[str],
    name: str | None = None,
    *,
    prompt: str = PROMPT,
    labels: Sequence[str] | None = None,
    n: Count = None,
    seed: int = 0,
    max_words: int | None = None,
    holdout: float = 0.2,
    **options: Any,
) -> Task:
    """A task out of JSON lines: `{"text", "label"}` for classification, `{"text", "target"}` for generation.

    Args:
        path: a folder with any of train.jsonl, discovery.jsonl, test.jsonl, and labels.json (a list; without it the
            labels are those found in the data, sorted); or one file, of which a random share becomes the test split.
        name: the folder's or file's name if None.
        prompt: template over the row's fields; a text that is a whole prompt already wants "{text}". Rows may also
            have "references" (a list of accepted answers),
            "corrupt" (a field in place of "text" that gives the corrupt prompt) and "corrupt_answer".
        labels: in place of labels.json. A whole number as a label counts into them; rows with -1 or "-" (no gold
            label) are left out.
        n: at most so many examples a split, or a number for each split by name.
        seed: of the shuffle.
        max_words: cut every field to its first words, so that long texts fit the model's context.
        holdout: share of a single file's rows that becomes the test split.
        options: family, domain, metric, separator, max_new_tokens of the task.

    Raises:
        FileError, TaskError: a file or a line that cannot be used: it names file, line, and the fields found.
    """
    check_options("from_jsonl", options)
    path = Path(path)
    rng = np.random.default_rng(seed)
    if path.is_dir():
        found = {split: _read(path / f"{split}.jsonl") for split in SPLITS if (path / f"{split}.jsonl").exists()}
        if not found:
            raise FileError(f"a task in {path}", "no train.jsonl, discovery.jsonl or test.jsonl", "check the folder")
        if labels is None and (path / "labels.json").exists():
            labels = _label_list(path / "labels.json")
        shuffled = {split: _shuffle(rows, rng) for split, rows in found.items()}
    else:
        rows = _shuffle(_read(path), rng)
        cut = len(rows) - round(holdout * len(rows))
        shuffled = {"train": rows[:cut], "test": rows[cut:]}
    targets = any("target" in row for rows in shuffled.values() for _, row in rows)
    key: Literal["label", "target"] = "target" if targets else "label"
    if key == "label":
        shuffled = {split: [r for r in rows if has_gold(r[1], key, labels)] for split, rows in shuffled.items()}
        every = [located for rows in shuffled.values() for located in rows]
        # Of all rows: a small n may miss some.
        labels = labels or sorted({answer(row, key, None, where) for where, row in every})
    found = {split: rows[: cap(n, split)] for split, rows in shuffled.items()}
    return build(found, name or path.stem, key, prompt, labels, max_words, source=str(path), **options)


def _read(path: Path) -> list[Located]:
    """Every line of a JSON-lines file, with its place."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"read a task from {path}", str(error), "check the path; the file must be UTF-8") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise FileError(f"a JSON object in {where}", f"{error}: {line[:60]!r}", "write one object a line") from None
        if not isinstance(row, dict):
            raise FileError(
                f"a JSON object in {where}", f"{type(row).__name__} {line[:60]!r}", "write one object a line"
            )
        if not {"label", "target"} & set(row):
            found = f"fields {sorted(row)}"
            raise FileError(f"an example in {where}", found, 'give "text" and "label", or "text" and "target"')
        rows.append((where, row))
    return rows


def _label_list(path: Path) -> list[str]:
    labels = files.read_json(path, "labels")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise FileError(f"labels in {path}", f"{str(labels)[:60]}", "write a list of texts")
    return labels


def _shuffle(rows: Sequence[Located], rng: np.random.Generator) -> list[Located]:
    return [rows[i] for i in rng.permutation(len(rows))]
