"""Data sets of the Hugging Face Hub, or anything else that `datasets.load_dataset` opens, as the fields of a Task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from neuroscope.errors import ArgumentError, FileError, brief, choose
from neuroscope.tasks.rows import SPLITS, Located, Row, answer, fields_of, fill, has_gold, merge_prompts

BUFFER = 10_000  # rows that a streamed split is shuffled within
READERS = ("json", "csv", "parquet", "text")  # what `datasets` reads files with


@dataclass(frozen=True)
class HubSource:
    """Which data set: the arguments of `datasets.load_dataset`."""

    path: str
    config: str | None
    revision: str | None
    streaming: bool
    data_files: Mapping[str, str] | None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.path}{'/' + self.config if self.config else ''}{revision}"


@dataclass(frozen=True)
class Columns:
    """How a row becomes an example; see `Task.from_hub`."""

    text: str
    prompt: str
    label: str
    target: str | None
    labels: Sequence[str] | None
    max_words: int | None
    merge: bool


def read_hub(
    source: HubSource, splits: Mapping[str, str], columns: Columns, sizes: Mapping[str, int | None], seed: int
) -> dict[str, Any]:
    """The fields of a task out of a data set; `splits` are the data set's names for the task's splits."""
    target, labels = columns.target, columns.labels
    if target is not None and labels is not None:
        raise ArgumentError(f"from_hub(target={target!r}, labels=...)", "texts and classes", "give one of them")
    rows: dict[str, list[Located]] = {}
    every: set[str] = set()  # classes of all rows: the first few may miss some
    for split, theirs in splits.items():
        choose(split, SPLITS, "split")
        data = _open(source, theirs)
        names = getattr((data.features or {}).get(columns.label), "names", None)
        words = list(labels or names or ()) if target is None else []
        if target is None and not words and not source.streaming:
            every |= _classes(data, columns.label)
        place = f"{source.path} {theirs}"
        located = _labelled(_shuffled(data, seed, source.streaming), place, columns.label, words, target is None)
        rows[split] = list(located if columns.merge and split == "test" else islice(located, sizes[split]))
        labels = words or None
    labels = labels or sorted(every) or None
    template = columns.prompt.replace("{text}", columns.text)
    if target is not None:
        rows = {split: [_with_target(row, target) for row in part] for split, part in rows.items()}
    if columns.merge and "test" in rows:
        rows["test"] = merge_prompts(rows["test"], template, columns.max_words)[: sizes["test"]]
    key: Literal["label", "target"] = "label" if target is None else "target"
    return fields_of(rows, key, template, labels, columns.max_words) | {"source": str(source)}


def _open(source: HubSource, split: str) -> Any:
    try:
        from datasets import load_dataset  # optional, and heavy: only where a data set is opened
    except ImportError:
        raise FileError(
            f"open {source.path}", "the package datasets is not installed", "pip install datasets"
        ) from None
    if source.path in READERS and not source.data_files and not Path(source.path).exists():
        asked = f"from_hub(path={source.path!r}, data_files={brief(source.data_files)})"
        raise ArgumentError(asked, "no files", 'give them by split, such as {"train": "train.csv"}')
    files = f", data_files {brief(source.data_files)}" if source.data_files else ""
    try:
        return load_dataset(
            source.path,
            source.config,
            split=split,
            streaming=source.streaming,
            revision=source.revision,
            data_files=dict(source.data_files or {}) or None,
        )
    except Exception as error:  # the Hub's client raises many kinds; all mean that there is no data
        raise FileError(
            f"open {source.path} (config {source.config!r}, split {split!r}{files})",
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            "check path, config and splits, and the network, or use Task.from_jsonl with a local copy",
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


def _classes(data: Any, label: str) -> set[str]:
    """The classes of a data set that names none."""
    is_plain = getattr((data.features or {}).get(label), "dtype", "") in ("string", "int32", "int64", "bool")
    values = data.unique(label) if is_plain else []
    return {str(value) for value in values if value not in (None, "") and has_gold({label: value}, label, None)}


def _with_target(located: Located, target: str) -> Located:
    where, row = located
    return where, {**row, "target": fill(target, row, None, where).strip()}
