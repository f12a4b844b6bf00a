"""A corpus: texts of several sources, one after another, of which a part at a time is in memory.

A source is a Task, texts, or a file: JSON lines (`{"text": ...}` or plain strings), a `.json` file that is one list of
such, or, of any other ending, one text a line. A line of a file that is no text is broken: it is left out, counted and
named, and the others are read.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from neuroscope import files
from neuroscope.annotations import pairs_of
from neuroscope.checks import text_of
from neuroscope.errors import ArgumentError, FileError, kind_of, shown
from neuroscope.models import Model
from neuroscope.reading.prompts import GIVEN, Row, groups_of
from neuroscope.tasks import Example, Task
from neuroscope.tasks.encoding import Encoded, encode
from neuroscope.tasks.prompts import fitting, hash_of
from neuroscope.tasks.tokens import decoder_start, tokenize, tokenizer_of

NAMED = 10  # broken lines that are named
JSON = (".jsonl", ".ndjson", ".json")
DO_LINES = "give JSON lines with a text each, or one text a line"
DO = "give texts, Tasks, a file of JSON lines, or a dict of these by name"


@dataclass
class Broken:
    """The lines of a file that are no texts: how many, and which are the first."""

    count: int = 0
    lines: list[str] = field(default_factory=list)

    def add(self, number: int, why: str, of: str = "line") -> None:
        """Note one."""
        self.count += 1
        if len(self.lines) < NAMED:
            self.lines.append(f"{of} {number}: {why}")

    def __str__(self) -> str:
        more = f"; and {self.count - len(self.lines):,} more" if self.count > len(self.lines) else ""
        return "; ".join(self.lines) + more


@dataclass(frozen=True)
class Source:
    """Texts of one name; `given` is a Task, texts, or the path of a file."""

    name: str
    given: Task | Sequence[str] | Path

    def identity(self, model: Model) -> str:
        """What tells it from another."""
        if isinstance(self.given, Task):
            return hash_of(model, self.given)
        if not isinstance(self.given, Path):
            return files.digest(*self.given)
        found = hashlib.sha256()
        with _opened(self.given) as file:
            while part := file.read(2**20):
                found.update(part)
        return found.hexdigest()[:16]

    def items(self, model: Model, split: str, n: int | None, broken: Broken) -> Iterator[tuple[int, str | Example]]:
        """Every text or example with its place, the broken lines of a file left out and noted."""
        if isinstance(self.given, Task):
            yield from itertools.islice(fitting(model, self.given, self.given.split(split, n)).items(), n)
        elif isinstance(self.given, Path):
            yield from itertools.islice(enumerate(_lines(self.given, broken)), n)
        else:
            yield from enumerate(self.given[:n])


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise FileError(f"read a corpus from {path}", str(error), "check the path") from None


def _lines(path: Path, broken: Broken) -> Iterator[str]:
    """The texts of a file, line by line; of one that is a list in JSON, item by item."""
    is_json = path.suffix.lower() in JSON
    if path.suffix.lower() == ".json" and (rows := _list_in(path)) is not None:
        for number, row in enumerate(rows, start=1):
            try:
                yield _text_of_row(row)
            except ValueError as error:
                broken.add(number, str(error)[:80], "item")
        return
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if not text.strip():
                    continue
                text = _text_in(text) if is_json else text
                text.encode()  # half of a surrogate pair is no text
            except (ValueError, RecursionError) as error:
                broken.add(number, str(error)[:80])
                continue
            yield text


def _list_in(path: Path) -> list[Any] | None:
    """The list that a whole file is; None where it is no list, but lines.

    Raises:
        FileError: a list that is damaged.
    """
    with _opened(path) as file:
        start = file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()
        first = start.split(b"\n", 1)[0].rstrip()
        if not start.startswith(b"[") or (first.endswith(b"]") and b"\n" in start):  # a list on each line
            return None
        file.seek(0)
        try:
            rows = json.loads(file.read().decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            do = "give a list of texts, or JSON lines, one text each"
            raise FileError(f"read a corpus from {path}", f"a damaged list in JSON ({str(error)[:80]})", do) from None
        return rows if isinstance(rows, list) else None


def _text_in(line: str) -> str:
    return _text_of_row(json.loads(line))


def _text_of_row(row: Any) -> str:
    text = row.get("text") if isinstance(row, dict) else row
    if not isinstance(text, str) or not text.strip():
        if isinstance(row, dict) and "text" in row:
            raise ValueError(f'"text" is {kind_of(text) if not isinstance(text, str) else "empty"}, not a text')
        fields = f"fields {sorted(map(str, row))}" if isinstance(row, dict) else kind_of(row)
        raise ValueError(f'{fields}, no "text"')
    text.encode()  # half of a surrogate pair is no text
    return text


def sources_of(corpus: Any, asked: str) -> list[Source]:
    """The sources of a public function's argument.

    Raises:
        ArgumentError: something else.
        FileError: a file that is not there.
    """
    if isinstance(corpus, str | PathLike):
        return [_file(corpus, GIVEN)]
    if isinstance(corpus, Mapping):
        sources = []
        for name, value in pairs_of(corpus, "corpus", DO):
            if isinstance(value, str | PathLike):
                sources.append(_file(value, name))
                continue
            inner = groups_of(value, asked, f"corpus[{name!r}]")
            if len(inner) != 1:
                raise ArgumentError(f"corpus[{name!r}]", kind_of(value), DO)
            sources.append(Source(text_of(name, "corpus"), next(iter(inner.values()))))
        if not sources:
            raise ArgumentError("corpus={}", "an empty dict", DO)
        return sources
    if not isinstance(corpus, Task) and not hasattr(corpus, "__iter__"):
        raise ArgumentError(shown("corpus", corpus), kind_of(corpus), DO)
    return [Source(name, group) for name, group in groups_of(corpus, asked, "corpus").items()]


def _file(path: Any, name: Any) -> Source:
    found = files.path_of(path, shown("corpus", path))
    if not found.is_file():
        raise FileError(f"read a corpus from {found}", "no file there", "give a file's path; texts stand in a list")
    return Source(text_of(name, "corpus"), found)


@dataclass
class Corpus:
    """Sources one after another. Every text has a number, counted over all of them.

    Attributes:
        sources: in order.
        split, n: of tasks, which split; of each source, at most how many.
        broken: by source, the lines that are no texts; filled as a file is read.
        odd: how many texts were "cut" at their end, longer than the model's context, or left out, "empty" of tokens.
    """

    sources: Sequence[Source]
    split: str
    n: int | None
    broken: dict[str, Broken] = field(default_factory=dict)
    odd: dict[str, int] = field(default_factory=lambda: {"cut": 0, "empty": 0})

    def chunks(self, model: Model, size: int) -> Iterator[list[tuple[int, Source, int, str | Example]]]:
        """Parts of a number of texts: number, source, place in it, and the text or example."""
        every = ((source, *item) for source in self.sources for item in self._items(model, source))
        numbered = ((number, *item) for number, item in enumerate(every))
        while chunk := list(itertools.islice(numbered, size)):
            yield chunk

    def _items(self, model: Model, source: Source) -> Iterator[tuple[int, str | Example]]:
        self.broken[source.name] = Broken()
        return source.items(model, self.split, self.n, self.broken[source.name])

    def rows(self, model: Model, chunk: Sequence[tuple[int, Source, int, str | Example]]) -> list[Row]:
        """A chunk as tokens; in the place of a text stands its number."""
        rows: list[Row] = []
        for source, items in itertools.groupby(chunk, key=lambda item: item[1]):
            part = list(items)
            if isinstance(source.given, Task):
                examples = [item for *_, item in part if isinstance(item, Example)]
                encoded = encode(model, source.given, examples)
                told = [(example.prompt, example.answer) for example in examples]
            else:
                texts = [str(item) for *_, item in part]
                encoded = self._encoded(model, texts)
                told = [(text, "") for text in texts]
            numbers = [number for number, *_ in part]
            rows += [Row(source.name, i, *t, e) for i, t, e in zip(numbers, told, encoded, strict=True) if e.inputs]
        return rows

    def _encoded(self, model: Model, texts: Sequence[str]) -> list[Encoded]:
        """Texts as tokens, those that are too long cut at their end; one of no tokens has none."""
        pieces = tokenize(tokenizer_of(model), texts)
        decoder = [decoder_start(model)] if model.style == "seq2seq" else []
        found, context = [], model.context
        for text in texts:
            prefix, body, suffix = pieces[text]
            suffix = [] if model.style == "causal" else suffix
            room = len(body) if context is None else context - len(prefix) - len(suffix)
            self.odd["cut"] += len(body) > room
            self.odd["empty"] += not body
            tokens = prefix + body[:room] + suffix if body else []
            found.append(Encoded(tokens, [], 0 if decoder else len(tokens) - 1, decoder))
        model.check_ids(max((i for item in found for i in item.inputs), default=0))
        return found

    def told(self, model: Model, numbers: Collection[int], size: int) -> dict[int, tuple[int, Row]]:
        """Some texts by their numbers, with their places in their sources: a file is read again."""
        again = Corpus(self.sources, self.split, self.n)
        found: dict[int, tuple[int, Row]] = {}
        for chunk in again.chunks(model, size):
            wanted = [item for item in chunk if item[0] in numbers]
            places = {number: place for number, _, place, _ in wanted}
            found |= {row.text: (places[row.text], row) for row in again.rows(model, wanted)}
        return found

    def refuse_broken(self, asked: str) -> None:
        """Refuse files of which no line is a text.

        Raises:
            FileError: names the first of the lines.
        """
        every = [(name, broken) for name, broken in self.broken.items() if broken.count]
        if every:
            found = "; ".join(f"no text in {name}, {b.count:,} broken lines ({b})" for name, b in every)
            raise FileError(f"{asked}: read the corpus", found, DO_LINES)

    def in_manifest(self) -> dict[str, Any]:
        """What a manifest says of lines and texts that were left out, and of those that were cut."""
        broken = {name: {"count": b.count, "first": b.lines} for name, b in self.broken.items() if b.count}
        return ({"broken": broken} if broken else {}) | {name: n for name, n in self.odd.items() if n}
