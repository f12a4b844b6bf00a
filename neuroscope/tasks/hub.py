"""Tasks out of the Hugging Face Hub, or out of anything else that `datasets.load_dataset` opens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from neuroscope.checks import public
from neuroscope.errors import FileError
from neuroscope.tasks.rows import (
    PROMPT,
    Count,
    Located,
    Row,
    answer,
    build,
    cap,
    check_options,
    fill,
    has_gold,
    merge_prompts,
)
from neuroscope.tasks.task import Task

BUFFER = 10_000  # rows that a streamed split is shuffled within


@public
def from_hub(
    path: str,
    name: str | None = None,
    *,
    config: str | None = None,
    splits: Mapping[str, str] | None = None,
    text: str = "{text}",
    prompt: str = PROMPT,
    label: str = "label",
    target: str | None = None,
    labels: Sequence[str] | None = None,
    n: Count = None,
    seed: int = 0,
    max_words: int | None = None,
    merge: bool = False,
    streaming: bool = False,
    revision: str | None = None,
    data_files: Mapping[str, str] | None = None,
    **options: Any,
) -> Task:
    """A task out of a data set on the Hugging Face Hub (or of a local one that `datasets.load_dataset` opens).

    Args:
        path: the data set's id; or "json", "csv", "parquet" with `data_files`.
        config: the data set's configuration, such as "mnli" of "nyu-mll/glue".
        splits: the data set's name for the task's splits; `{"train": "train", "test": "test"}` if None.
        text, prompt: templates; `text` is over the row's fields and stands for {text} in `prompt`.
        label: the field with the class. Numbers become the class's name; rows with -1 or "-" (no gold label) are out.
        target: template of the answer; it makes the task a generation task.
        labels: words for the classes, in the order of their numbers.
        n, seed, max_words, options: as in `Task.from_jsonl`.
        merge: test rows with one prompt become one example with all their answers as references.
        streaming: read rows as they come, without downloading the data set; shuffled within 10,000 rows.

    Raises:
        FileError: the data set cannot be opened, or has no such configuration or split.
        TaskError: a row lacks a field that a template names; it lists the fields.
    """
    check_options("from_hub", options)
    splits = dict(splits or {"train": "train", "test": "test"})
    found: dict[str, list[Located]] = {}
    for split, theirs in splits.items():
        data = _open(path, config, theirs, streaming, revision, data_files)
        names = getattr((data.features or {}).get(label), "names", None)
        words = list(labels or names or ())
        rows = _labelled(_shuffled(data, seed, streaming), f"{path} {theirs}", label, words, target is None)
        whole = merge and split == "test"
        found[split] = list(rows if whole else _first(rows, cap(n, split)))
        labels = words or None
    template = prompt.replace("{text}", text)
    if target is not None:
        found = {split: [_with_target(row, target) for row in rows] for split, rows in found.items()}
    if merge and "test" in found:
        found["test"] = merge_prompts(found["test"], template, max_words)[: cap(n, "test")]
    source = f"{path}{'/' + config if config else ''}{'@' + revision if revision else ''}"
    key: Literal["label", "target"] = "label" if target is None else "target"
    name = name or config or path.split("/")[-1]
    return build(found, name, key, template, labels, max_words, source=source, **options)


def _open(path: str, config: Any, split: str, streaming: bool, revision: Any, data_files: Any) -> Any:
    try:
        from datasets import load_dataset  # optional, and heavy: only where a data set is opened
    except ImportError:
        raise FileError(f"open {path}", "the package datasets is not installed", "pip install datasets") from None
    try:
        return load_dataset(
            path, config, split=split, streaming=streaming, revision=revision, data_files=dict(data_files or {}) or None
        )
    except Exception as error:  # the Hub's client raises many kinds; all mean that there is no data
        raise FileError(
            f"open {path} (config {config!r}, split {split!r})",
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            "check the names and the network, or use Task.from_jsonl with a local copy",
        ) from error


def _shuffled(data: Any, seed: int, streaming: bool) -> Iterator[Row]:
    return iter(data.shuffle(seed=seed, buffer_size=BUFFER) if streaming else data.shuffle(seed=seed))


def _labelled(rows: Iterable[Row], where: str, label: str, words: list[str], classes: bool) -> Iterator[Located]:
    for number, row in enumerate(rows):
        place = f"{where}, row {number} as shuffled"
        if not classes:
            yield place, {key: value for key, value in row.items() if key != "references"}
        elif has_gold(row, label, words):
            yield place, {**row, "label": answer(row, label, words, place)}


def _first(rows: Iterable[Located], n: int | None) -> Iterator[Located]:
    for i, row in enumerate(rows):
        if i == n:
            return
        yield row


def _with_target(located: Located, target: str) -> Located:
    where, row = located
    return where, {**row, "target": fill(target, row, None, where).strip()}
