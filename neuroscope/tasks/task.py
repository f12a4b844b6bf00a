"""Task: examples with one kind of question, and how the answers are judged."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, Literal

from neuroscope import files
from neuroscope.checks import all_of, public, whole
from neuroscope.errors import ArgumentError, TaskError, choose
from neuroscope.tasks.example import Example
from neuroscope.tasks.hub import Columns, HubSource, read_hub
from neuroscope.tasks.jsonl import read_jsonl
from neuroscope.tasks.metrics import METRICS, RANKINGS
from neuroscope.tasks.rows import OPTIONS, PROMPT, SPLITS, check_options, check_sizes

Kind = Literal["classification", "generation"]
Ranking = Literal["sum", "token", "character"]
METRIC_OF = {"classification": "accuracy", "generation": "rouge-l"}


@dataclass(frozen=True)
class Task:
    """Examples with one kind of question and one way to judge the answers.

    Attributes:
        name: of the task; masks and tables refer to it.
        train: examples for fine-tuning.
        test: examples on which a model is judged.
        discovery: examples on which neurons are looked for; of a task that has none, its training examples serve.
        labels: the possible answers; they make the task a classification task.
        kind: "classification" or "generation".
        family: the group of tasks that this one belongs to, such as "sentiment"; its name if empty.
        domain: what its texts are about.
        prompt: the template that the examples' prompts were made with.
        metric: one of `METRICS`; "accuracy" for classification and "rouge-l" for generation if empty.
        ranking: how labels are compared: by log-likelihood ("sum", lm-evaluation-harness' acc), by its mean per token
            ("token"), or per character ("character", its acc_norm).
        separator: what stands between prompt and answer.
        max_new_tokens: how long a generated answer may become.
        source: where the examples come from.

    Raises:
        ArgumentError: no such kind or metric, no name, or a number of tokens that is none.
        TaskError: examples or labels that cannot be used.

    Example:
        >>> task = Task("colour", train=[Example("sky is", "blue")], test=[Example("snow is", "white")],
        ...             labels=("blue", "white"))
        >>> task.kind, task.metric, len(task.split("discovery"))
        ('classification', 'accuracy', 1)
    """

    name: str
    train: Sequence[Example] = ()
    test: Sequence[Example] = ()
    discovery: Sequence[Example] = ()
    labels: Sequence[str] = ()
    kind: Kind | None = None
    family: str = ""
    domain: str = ""
    prompt: str = "{text}"
    metric: str = ""
    ranking: Ranking = "sum"
    separator: str = " "
    max_new_tokens: int = 32
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.name:
            raise ArgumentError("Task(name='')", "no name", "give the task a name, such as 'sentiment'")
        whole(self.max_new_tokens, "max_new_tokens", 1)
        labels = tuple(map(str, self.labels))
        kind = self.kind or ("classification" if labels else "generation")
        choose(kind, METRIC_OF, "kind")
        choose(self.metric or METRIC_OF[kind], METRICS, "metric")
        choose(self.ranking, RANKINGS, "ranking")
        values: dict[str, Any] = {
            "kind": kind,
            "metric": self.metric or METRIC_OF[kind],
            "family": self.family or self.name,
            "labels": labels,
            **{split: self._examples(split) for split in SPLITS},
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if kind == "classification":
            self._check_labels()

    def _examples(self, split: str) -> tuple[Example, ...]:
        value = getattr(self, split)
        listed = [value] if isinstance(value, Example) else () if value is None else value
        examples = tuple(listed if isinstance(listed, Iterable) else [listed])
        for example in examples:
            if not isinstance(example, Example):
                found = f"a {type(example).__name__} in {split}"
                raise TaskError(f"the examples of task {self.name!r}", found, "give Example(prompt, answer)")
        return examples

    def _check_labels(self) -> None:
        if len({label.strip() for label in self.labels}) < len(set(self.labels)):
            found = f"{list(self.labels)}, of which two differ by spaces at an end only"
            raise TaskError(f"labels of task {self.name!r}", found, "strip them, and the examples' answers")
        if len(set(self.labels)) < 2 or len(set(self.labels)) != len(self.labels):
            raise TaskError(
                f"classification task {self.name!r}", f"labels {self.labels}", "give at least two labels, each once"
            )
        if len({label.casefold() for label in self.labels}) < len(self.labels):
            found = f"labels {list(self.labels)} of task {self.name!r}, of which two differ by case only"
            warnings.warn(f"{found}: they are different answers", stacklevel=4)
        for split in SPLITS:
            for i, example in enumerate(getattr(self, split)):
                if example.answer not in self.labels:
                    raise TaskError(
                        f"classification task {self.name!r} with labels {list(self.labels)}",
                        f"answer {example.answer!r} in {split} example {i}",
                        "add it to labels, or correct the example",
                    )

    @public
    def split(self, name: str, n: int | None = None) -> tuple[Example, ...]:
        """The first `n` examples (all if None) of "train", "discovery" or "test"; never empty."""
        choose(name, SPLITS, "split")
        examples = tuple(getattr(self, name))
        if name == "discovery" and not examples:
            examples = tuple(self.train)
        if not examples:
            raise TaskError(
                f"the {name} examples of task {self.name!r}",
                f"none (train {len(self.train)}, discovery {len(self.discovery)}, test {len(self.test)})",
                f"give the task {name} examples",
            )
        return examples[:n]

    @classmethod
    @public
    def from_jsonl(
        cls,
        path: str | PathLike[str],
        name: str | None = None,
        *,
        prompt: str = PROMPT,
        labels: Sequence[str] | None = None,
        train: int | None = None,
        discovery: int | None = None,
        test: int | None = None,
        seed: int = 0,
        max_words: int | None = None,
        holdout: float = 0.2,
        **options: Any,
    ) -> Task:
        """A task out of JSON lines: `{"text", "label"}` for classification, `{"text", "target"}` for generation.

        Args:
            path: a folder with any of train.jsonl, discovery.jsonl, test.jsonl, and labels.json (a list; without it the
                labels are those in the data, sorted); or one file, of which a random share becomes the test split.
            name: the folder's or file's name if None.
            prompt: template over the row's fields; a text that is a whole prompt already wants "{text}". Rows may also
                have "references" (a list of accepted answers), "corrupt" (a field in place of "text" that gives the
                corrupt prompt) and "corrupt_answer".
            labels: in place of labels.json. A whole number as a label counts into them; rows with -1 or "-" (no gold
                label) are left out.
            train, discovery, test: at most so many examples of each split; all if None.
            seed: of the shuffle.
            max_words: cut every field to its first words, so that long texts fit the model's context.
            holdout: share of a single file's rows that becomes the test split.
            options: family, domain, metric, ranking, separator, max_new_tokens of the task.

        Raises:
            FileError, TaskError: a file or a line that cannot be used: it names file, line, and the fields there are.
        """
        sizes = check_sizes(train=train, discovery=discovery, test=test)
        check_options("from_jsonl", options, _keywords(cls.from_jsonl))
        words = None if max_words is None else whole(max_words, "max_words", 1)
        source = files.path_of(path, "Task.from_jsonl(path=...)")
        fields = read_jsonl(source, prompt, labels, sizes, seed, words, holdout)
        return cls(name=name or source.stem, **fields, **options)

    @classmethod
    @public
    def from_hub(
        cls,
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
        train: int | None = None,
        discovery: int | None = None,
        test: int | None = None,
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
            name: the configuration's or data set's name if None.
            config: the data set's configuration, such as "mnli" of "nyu-mll/glue".
            splits: the data set's name for the task's splits; `{"train": "train", "test": "test"}` if None.
            text, prompt: templates; `text` is over the row's fields and stands for {text} in `prompt`.
            label: the field with the class. Numbers become the class's name; rows with -1 or "-" (no gold label) are
                left out.
            target: template of the answer; it makes the task a generation task.
            labels: words for the classes, in the order of their numbers.
            train, discovery, test, seed, max_words, options: as in `from_jsonl`.
            merge: test rows with one prompt become one example with all their answers as references.
            streaming: read rows as they come, without downloading the data set; shuffled within 10,000 rows.

        Raises:
            FileError: the data set cannot be opened, or has no such configuration or split.
            TaskError: a row lacks a field that a template names; it lists the fields.
        """
        sizes = check_sizes(train=train, discovery=discovery, test=test)
        check_options("from_hub", options, _keywords(cls.from_hub))
        source = HubSource(path, config, revision, streaming, data_files)
        words = None if max_words is None else whole(max_words, "max_words", 1)
        columns = Columns(text, prompt, label, target, labels, words, merge)
        splits = splits or {"train": "train", "test": "test"}
        fields = read_hub(source, splits, columns, sizes, seed)
        return cls(name=name or config or path.split("/")[-1], **fields, **options)

    @property
    def data_hash(self) -> str:
        """16 digits that change with any example, label or template, or with how answers are asked for and judged."""
        asked = (self.name, self.kind, self.labels, self.prompt, self.separator, self.metric, self.max_new_tokens)
        return files.digest(*asked, self.ranking, self.train, self.discovery, self.test)

    def __repr__(self) -> str:
        sizes = f"{len(self.train)} train, {len(self.discovery)} discovery, {len(self.test)} test"
        labels = f", labels {'/'.join(self.labels)}" if self.labels else ""
        return f"Task({self.name!r}: {self.kind} by {self.metric}, {sizes}{labels}, prompt {self.prompt!r})"


# a dataclass makes its own constructor: unknown arguments are refused as everywhere
Task.__init__ = public(Task.__init__)  # type: ignore[method-assign]


def _keywords(function: Callable[..., Any]) -> list[str]:
    return [*[name for name in inspect.signature(function).parameters if name != "options"], *OPTIONS]


Tasks = Task | Sequence[Task] | Mapping[str, Task]  # what `tasks_of` takes


def tasks_of(tasks: object, asked: str) -> dict[str, Task]:
    """Tasks by name: what every function with an argument `tasks` makes of it.

    Args:
        tasks: a Task, a sequence of Tasks with different names, or a mapping name -> Task (whose names count).
        asked: what the caller wants them for: the first line of an error.

    Raises:
        ArgumentError: anything else, no task at all, or two of one name.

    Example:
        >>> list(tasks_of(Task("colour", labels=("blue", "white")), asked="judge tasks"))
        ['colour']
    """
    do = "give a Task, a list of Tasks, or a dict name -> Task, such as load_tasks('mini')"
    if isinstance(tasks, Task):
        tasks = [tasks]
    if isinstance(tasks, Mapping):
        pairs = list(zip(all_of(tasks, "tasks"), all_of(tasks.values(), "tasks"), strict=True))
    elif isinstance(tasks, Iterable) and not isinstance(tasks, str | bytes):
        pairs = [(getattr(task, "name", None), task) for task in all_of(tasks, "tasks")]
    else:
        raise ArgumentError(asked, f"{_kind_of(tasks)} in place of tasks", do)
    if not pairs:
        raise ArgumentError(asked, "no task", do)
    for name, task in pairs:
        if not isinstance(task, Task) or not isinstance(name, str):
            wrong = name if isinstance(task, Task) else task
            what = "the name of a task" if isinstance(task, Task) else "a task"
            raise ArgumentError(asked, f"{_kind_of(wrong)} in place of {what}", do)
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ArgumentError(asked, f"two tasks named {twice!r}", "give each a name of its own, as keys of a dict")
    return dict(pairs)


def check_task(task: object, asked: str) -> None:
    """Refuse what is not one Task.

    Raises:
        ArgumentError: anything else.
    """
    if not isinstance(task, Task):
        do = "give one Task, such as load_tasks('mini')['nli-food']"
        raise ArgumentError(asked, f"{_kind_of(task)} in place of a task", do)


def _kind_of(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
