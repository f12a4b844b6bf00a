"""Files of JSON lines become the fields of a Task.

Rows are shuffled by the seed, so that the first n of a split are a fair sample even where the file is sorted by label.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from neuroscope import files
from neuroscope.checks import finite
from neuroscope.errors import ArgumentError, FileError
from neuroscope.tasks.rows import SPLITS, Located, answer, fields_of, has_gold, warn_of_typos


def read_jsonl(
    path: Path,
    prompt: str,
    labels: Sequence[str] | None,
    sizes: Mapping[str, int | None],
    seed: int,
    max_words: int | None,
    holdout: float | None,
) -> dict[str, Any]:
    """The fields of a task out of a folder of JSON lines, or out of one file; see `Task.from_jsonl`."""
    rng = np.random.default_rng(seed)
    if path.is_dir():
        rows = {split: _read(path / f"{split}.jsonl") for split in SPLITS if (path / f"{split}.jsonl").exists()}
        if not rows:
            raise FileError(f"a task in {path}", "no train.jsonl, discovery.jsonl or test.jsonl", "check the path")
        if labels is None and (path / "labels.json").exists():
            labels = _label_list(path / "labels.json")
        if holdout is not None and ("test" in rows or "train" not in rows):
            found = f"{' and '.join(f'{split}.jsonl' for split in rows)} in {path}"
            do = "leave holdout out: it is a share of train.jsonl, for folders without test.jsonl"
            raise ArgumentError(f"{holdout=}", found, do)
        shuffled = {split: _shuffle(part, rng) for split, part in rows.items()}
        if holdout is not None:
            shuffled |= _split_off(shuffled["train"], holdout)
    else:
        shuffled = _split_off(_shuffle(_read(path), rng), 0.2 if holdout is None else holdout)
    targets = any("target" in row for part in shuffled.values() for _, row in part)
    key: Literal["label", "target"] = "target" if targets else "label"
    if key == "label":
        shuffled = {split: [r for r in part if has_gold(r[1], key, labels)] for split, part in shuffled.items()}
        every = [located for part in shuffled.values() for located in part]
        if not every:
            raise FileError(f"a task in {path}", "no row with a gold label", "give rows labels other than -1 and '-'")
        if not labels:  # of all rows: the first few may miss some
            labelled = [(where, answer(row, key, None, where)) for where, row in every]
            labels = sorted({label for _, label in labelled})
            warn_of_typos(labelled)
    first = {split: part[: sizes[split]] for split, part in shuffled.items()}
    return fields_of(first, key, prompt, labels, max_words) | {"source": str(path)}


def _split_off(rows: list[Located], holdout: float) -> dict[str, list[Located]]:
    if not 0 <= finite(holdout, "holdout") < 1:
        raise ArgumentError(f"holdout={holdout!r}", "no share of the rows", "give 0 <= holdout < 1, such as 0.2")
    cut = len(rows) - round(holdout * len(rows))
    return {"train": rows[:cut], "test": rows[cut:]}


def _read(path: Path) -> list[Located]:
    """Every line of a JSON-lines file, with its place."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # a byte-order mark is no text
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"read a task from {path}", str(error), "check the path; the file must be UTF-8") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line, object_pairs_hook=_object)
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
    if not rows:
        raise FileError(f"read a task from {path}", "no lines", "write one JSON object a line")
    return rows


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError(f"a key twice among {[key for key, _ in pairs]}")
    return row


def _label_list(path: Path) -> list[str]:
    labels = files.read_json(path, "labels")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise FileError(f"labels in {path}", f"{str(labels)[:60]}", "write a list of texts")
    return labels


def _shuffle(rows: Sequence[Located], rng: np.random.Generator) -> list[Located]:
    return [rows[i] for i in rng.permutation(len(rows))]
