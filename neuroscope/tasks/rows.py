"""Rows of named fields become Examples, and the fields of a Task: what files and the Hub share.

A template names fields in braces, as in `str.format`: "{premise}", "{answers[text][0]}". A field that holds a list of
texts reads as one text, joined by commas.
"""

from __future__ import annotations

import difflib
import math
import re
import string
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from neuroscope.checks import number_of_examples
from neuroscope.errors import ArgumentError, NeuroscopeError, TaskError, suggest
from neuroscope.tasks.example import Example

PROMPT = "{text}\nAnswer:"
ASKED = ("chat", "system", "max_tokens", "too_long")  # fields of Task: how its prompts are shown
OPTIONS = ("family", "domain", "metric", "ranking", "separator", "max_new_tokens", *ASKED)  # of Task, passed through
SPLITS = ("train", "discovery", "test")
MANY = 20  # examples of which one with a label of its own is likely a typo
UNLABELLED = (-1, "-")  # the marks of a row without a gold label

Row = dict[str, Any]
Located = tuple[str, Row]  # where it stands, for errors; its fields


def fields_of(
    rows: Mapping[str, Sequence[Located]],
    key: Literal["label", "target"],
    prompt: str,
    labels: Sequence[str] | None,
    max_words: int | None,
) -> dict[str, Any]:
    """The fields of a task of the rows of each split: examples, labels and prompt; the field `key` is the answer."""
    if key == "label" and labels is None:
        labels = sorted({answer(row, key, None, where) for part in rows.values() for where, row in part})
    examples = {
        split: [_example(row, key, labels, prompt, max_words, where) for where, row in part]
        for split, part in rows.items()
    }
    return {"labels": tuple(labels or ()) if key == "label" else (), "prompt": prompt, **examples}


def _example(row: Row, key: str, labels: Sequence[str] | None, prompt: str, words: int | None, where: str) -> Example:
    target = row.get("target")
    if key == "target" and isinstance(target, list) and target:  # several accepted answers
        row = {**row, "target": target[0], "references": row.get("references") or target}
    corrupt = row.get("corrupt")
    try:
        return Example(
            prompt=fill(prompt, row, words, where),
            answer=answer(row, key, labels, where),
            references=row.get("references") or (),
            corrupt=None if corrupt is None else fill(prompt, {**row, "text": corrupt}, words, where),
            corrupt_answer=None if row.get("corrupt_answer") is None else answer(row, "corrupt_answer", labels, where),
        )
    except NeuroscopeError as error:
        raise error if where in error.asked else TaskError(f"{error.asked} in {where}", error.found, error.do) from None


def answer(row: Row, key: str, labels: Sequence[str] | None, where: str) -> str:
    """The text of the row's answer; a whole number counts into the labels."""
    value = row.get(key)
    if value is None or value == "":
        found = f"{'null' if value is None else 'an empty text'} as {key!r}"
        if key not in row:
            found = f"no {key!r} among the fields {sorted(row)}"
        raise TaskError(f"an answer in {where}", found, 'give every row a "label", or every row a "target"')
    if isinstance(value, float) and (key != "target" or math.isnan(value)):
        do = "write texts or whole numbers (a table with gaps makes 1 into 1.0, a gap into NaN), or leave the row out"
        raise TaskError(f"an answer in {where}", f"{value!r} as {key!r}", do)
    if (isinstance(value, bool) and str(value) not in (labels or ())) or isinstance(value, list | dict):
        raise TaskError(f"an answer in {where}", f"{value!r} as {key!r}", "write texts or whole numbers")
    if isinstance(value, int) and not isinstance(value, bool) and labels:
        if not 0 <= value < len(labels):
            raise TaskError(f"label {value} in {where}", f"{len(labels)} labels: {list(labels)}", "number them from 0")
        return labels[value]
    if labels and str(value) not in labels:
        raise TaskError(f"label {value!r} in {where}", f"labels {list(labels)}", "add it to labels, or correct the row")
    return str(value)


def has_gold(row: Row, key: str, labels: Sequence[str] | None) -> bool:
    """False where the field says that nobody agreed on a label, as NLI data and the Hub do."""
    return row.get(key) not in UNLABELLED or row.get(key) in (labels or ())


def fill(template: str, row: Row, max_words: int | None, where: str) -> str:
    """The template with the row's fields in it."""
    try:
        return _Fields(max_words).vformat(template, (), row)
    except (KeyError, IndexError, AttributeError, ValueError, TypeError) as error:
        raise TaskError(
            f"the template {template!r} in {where}",
            f"{type(error).__name__}: {error}; the fields are {sorted(row)}",
            "name the row's own fields in braces",
        ) from None


class _Fields(string.Formatter):
    """`str.format` of fields and their [keys], without attributes; a gap is no text."""

    def __init__(self, max_words: int | None) -> None:
        self.max_words = max_words

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        if "." in re.sub(r"\[[^]]*\]", "", field_name):
            raise ValueError(f"{field_name!r} asks for an attribute")
        value, used = super().get_field(field_name, args, kwargs)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            raise ValueError(f"{field_name!r} is {value}: a gap in the data")
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            value = ", ".join(value)
        if isinstance(value, str) and self.max_words is not None:
            first_words = re.match(rf"(?:\s*\S+){{0,{self.max_words}}}", value)
            value = first_words.group() if first_words else value
        return value, used


def merge_prompts(rows: Sequence[Located], prompt: str, max_words: int | None) -> list[Located]:
    """One row for each prompt, in the order of first sight, with all its answers as references."""
    merged: dict[str, Located] = {}
    for where, row in rows:
        first = merged.setdefault(fill(prompt, row, max_words, where), (where, {**row, "references": []}))
        first[1]["references"].append(row["target"])
    return list(merged.values())


def warn_of_typos(labelled: Sequence[tuple[str, str]]) -> None:
    """Warn of labels that stand once among many examples; given (where, label) of each.

    Where most labels stand once, such as free answers, that says nothing.
    """
    counts = Counter(label for _, label in labelled)
    once = [(where, label) for where, label in labelled if counts[label] == 1]
    if len(labelled) < MANY or 2 * len(once) > len(counts):
        return
    for where, label in once:
        near = difflib.get_close_matches(label, [other for other in counts if counts[other] > 1], n=1, cutoff=0)
        text = f"label {label!r} stands once among {len(labelled)} examples, in {where}: is it {near[0]!r}?"
        warnings.warn(f"{text} Correct it there, or give labels=[...]", stacklevel=5)


def check_sizes(**sizes: Any) -> dict[str, int | None]:
    """How many examples of each split are asked for; None is all."""
    return {split: number_of_examples(size, split) for split, size in sizes.items()}


def check_options(function: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse what is not a field of Task that is passed through; `known` are all arguments."""
    for name in options:
        if name not in OPTIONS:
            raise ArgumentError(f"{function}({name}=...)", "no such argument", suggest(name, known))
