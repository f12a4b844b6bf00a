"""Task: examples with one kind of question, and how the answers are judged."""

from __future__ import annotations

import inspect
import numbers
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from typing import Any, Literal

from neuroscope import files
from neuroscope.annotations import pairs_of
from neuroscope.checks import all_of, plain, public, whole
from neuroscope.errors import ArgumentError, TaskError, choose, kind_of, naming
from neuroscope.tasks.example import Example, Turns, check_pairs
from neuroscope.tasks.hub import Columns, HubSource, read_hub
from neuroscope.tasks.jsonl import read_jsonl
from neuroscope.tasks.metrics import METRICS, RANKINGS
from neuroscope.tasks.rows import OPTIONS, PROMPT, SPLITS, check_options, check_sizes
from neuroscope.tasks.shots import draw, key_of

Kind = Literal["classification", "generation", "pairs"]
Ranking = Literal["sum", "token", "character"]
TooLong = Literal["error", "skip", "cut"]
METRIC_OF = {"classification": "accuracy", "generation": "rouge-l", "pairs": "accuracy"}


@dataclass(frozen=True)
class Task:
    """Examples with one kind of question and one way to judge the answers.

    Attributes:
        name: of the task; masks and tables refer to it.
        train: examples for fine-tuning.
        test: examples on which a model is judged.
        discovery: examples on which neurons are looked for; of a task that has none, its training examples serve.
        labels: the possible answers; they make the task a classification task.
        kind: "classification", "generation", or "pairs": each example's answer is ranked against its own wrong one, its
            `corrupt_answer`, as in minimal pairs.
        family: the group of tasks that this one belongs to, such as "sentiment"; its name if empty.
        domain: what its texts are about.
        prompt: the template that the examples' prompts were made with, and that they are cut by.
        metric: one of `METRICS`; "rouge-l" for generation and otherwise "accuracy" if empty.
        ranking: how labels are compared: by log-likelihood ("sum", lm-evaluation-harness' acc), by its mean per token
            ("token"), or per character ("character", its acc_norm).
        separator: what stands between prompt and answer.
        max_new_tokens: how long a generated answer may become.
        chat: whether each prompt is a turn of the user in the chat template of the model's tokenizer, which also says
            what stands before the answer (`separator` does not) and what closes it.
        system: the system message of a chat; if empty there is none, or the template's own.
        shots: solved examples before every prompt (in a chat: earlier turns). A number of them is drawn from `train`,
            as by `with_shots` with seed 0. `split` leaves them out of `train`.
        max_tokens: how many tokens a prompt may have, with template and shots; the model's context limits it anyway.
        too_long: what becomes of a prompt that is too long for that, or for the context with an answer. "error"
            refuses it; "skip" leaves the example out, with a warning and in manifests; "cut" cuts the example's own
            text from the left, and nothing that stands around it: template, system message, shots, and what `prompt`
            has before its first and after its last field. A prompt written out whole ("{text}") loses its beginning,
            with a warning. None: "cut" with `max_tokens`, else "error".
        source: where the examples come from.

    Raises:
        ArgumentError: no such kind or metric, no name, or a number of tokens that is none.
        TaskError: examples or labels that cannot be used; fewer training examples than shots, or a shot that is one of
            the discovery or test prompts.

    Example:
        >>> task = Task("colour", train=[Example("sky is", "blue")], test=[Example("snow is", "white")],
        ...             labels=("blue", "white"))
        >>> task.kind, task.metric, len(task.split("discovery"))
        ('classification', 'accuracy', 1)
        >>> chat = Task("colour", train=task.train, labels=task.labels, chat=True, shots=1, max_tokens=512)
        >>> chat.shots[0].prompt, chat.when_too_long
        ('sky is', 'cut')
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
    chat: bool = False
    system: str = ""
    shots: Sequence[Example] | Any = ()  # of a number Examples are made
    max_tokens: int | None = None
    too_long: TooLong | None = None
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.name:
            raise ArgumentError("Task(name='')", "no name", "give the task a name, such as 'sentiment'")
        whole(self.max_new_tokens, "max_new_tokens", 1)
        if self.max_tokens is not None:
            whole(self.max_tokens, "max_tokens", 1)
        if self.system and not self.chat:
            raise ArgumentError("Task(system=...)", "chat=False", "give chat=True: only a chat has a system message")
        if self.chat and self.separator not in ("", " "):
            do = "leave separator out: the chat template says what stands before an answer"
            raise ArgumentError(f"Task(chat=True, separator={self.separator!r})", "two things before the answer", do)
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
        object.__setattr__(self, "shots", self._shots())
        if kind == "classification":
            self._check_labels()
        if kind == "pairs":
            if labels:
                do = "leave labels out: each pair has its own"
                raise ArgumentError(f"kind='pairs' of task {self.name!r}", f"labels {list(labels)}", do)
            for split in SPLITS:
                check_pairs(getattr(self, split), f"{split} example", f"of task {self.name!r}")

    def _shots(self) -> tuple[Example, ...]:
        if isinstance(plain(self.shots), numbers.Number | str):
            return self._drawn(self.shots, seed=0)
        shots = self._examples("shots")
        if isinstance(self.shots, Turns):
            return Turns(shots)
        for shot in shots:
            if key_of(shot) in self._judged():
                found = f"{shot.prompt!r:.60}, which is a discovery or test prompt too"
                raise TaskError(f"a shot of task {self.name!r}", found, "show other examples, such as training ones")
        return shots

    def _drawn(self, n: Any, seed: int) -> tuple[Example, ...]:
        n = whole(n, "shots", 0, "give how many, or Examples")
        return draw(self.name, self.train, self._judged(), self.labels, n, seed)

    def _judged(self) -> set[str]:
        return {key_of(example) for split in ("discovery", "test") for example in getattr(self, split)}

    def _examples(self, split: str) -> tuple[Example, ...]:
        value = getattr(self, split)
        listed = [value] if isinstance(value, Example) else () if value is None else value
        examples = tuple(all_of(listed, split) if isinstance(listed, Iterable) else [listed])
        for example in examples:
            if not isinstance(example, Example):
                found = f"{kind_of(example)} in {split}"
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
        for split in (*SPLITS, "shots"):
            for i, example in enumerate(getattr(self, split)):
                if example.answer not in self.labels:
                    raise TaskError(
                        f"classification task {self.name!r} with labels {list(self.labels)}",
                        f"answer {example.answer!r} in {split} example {i}",
                        "add it to labels, or correct the example",
                    )

    @public
    def split(self, name: str, n: int | None = None) -> tuple[Example, ...]:
        """The first `n` examples (all if None) of "train", "discovery" or "test"; never empty, and without shots."""
        with naming("name"):
            choose(name, SPLITS, "split")
        examples = tuple(getattr(self, name))
        if name == "discovery" and not examples:
            examples = tuple(self.train)
        known = set() if isinstance(self.shots, Turns) else {key_of(shot) for shot in self.shots}
        examples = tuple(e for e in examples if key_of(e) not in known) if known else examples
        if not examples:
            found = f"none ({', '.join(f'{split} {len(getattr(self, split))}' for split in (*SPLITS, 'shots'))})"
            do = f"give the task {name} examples"
            do += ", or load it with holdout=0.2" if name == "test" and self.train else ""
            raise TaskError(f"the {name} examples of task {self.name!r}", found, do)
        return examples[:n]

    @public
    def with_shots(self, shots: int | Sequence[Example], seed: int = 0) -> Task:
        """This task with other shots: so many training examples or these ones, the same before every prompt.

        A number is drawn by `seed`, as many of each label as of the others where the examples allow it, none of them
        with the prompt of a discovery or test example.

        Example:
            >>> task = Task("colour", train=[Example("sky is", "blue"), Example("milk is", "white")],
            ...             test=[Example("snow is", "white")], labels=("blue", "white"))
            >>> sorted(shot.prompt for shot in task.with_shots(2).shots)
            ['milk is', 'sky is']
        """
        is_number = isinstance(plain(shots), numbers.Number | str)
        return replace(self, shots=self._drawn(shots, seed) if is_number else shots)

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
        holdout: float | None = None,
        shots: int | Sequence[Example] = 0,
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
            holdout: share of the rows that becomes the test split: of a single file's (0.2 if None), or of train.jsonl
                in a folder without test.jsonl (none if None: such a task is for finding neurons and training alone).
            shots: how many training examples stand solved before every prompt, drawn by `seed`; or Examples.
            options: family, domain, metric, ranking, separator, max_new_tokens, chat, system, max_tokens, too_long of
                the task.

        Raises:
            FileError, TaskError: a file or a line that cannot be used: it names file, line, and the fields there are.
        """
        sizes = check_sizes(train=train, discovery=discovery, test=test)
        check_options("from_jsonl", options, _keywords(cls.from_jsonl))
        words = None if max_words is None else whole(max_words, "max_words", 1)
        source = files.path_of(path, "Task.from_jsonl(path=...)")
        fields = read_jsonl(source, prompt, labels, sizes, seed, words, holdout)
        return cls(name=name or source.stem, **fields, **options).with_shots(shots, seed)

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
        shots: int | Sequence[Example] = 0,
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
            train, discovery, test, seed, max_words, shots, options: as in `from_jsonl`.
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
        return cls(name=name or config or path.split("/")[-1], **fields, **options).with_shots(shots, seed)

    @property
    def when_too_long(self) -> TooLong:
        """What becomes of a prompt that is too long: `too_long`, or its default."""
        return self.too_long or ("error" if self.max_tokens is None else "cut")

    @cached_property
    def data_hash(self) -> str:
        """16 digits that change with any example, label or template, or with how answers are asked for and judged."""
        asked = (self.name, self.kind, self.labels, self.prompt, self.separator, self.metric, self.max_new_tokens)
        shown = [self.chat, self.system, self.shots, self.max_tokens, self.when_too_long]
        shown = [] if shown == [False, "", (), None, "error"] else shown
        return files.digest(*asked, self.ranking, self.train, self.discovery, self.test, *shown)

    def __repr__(self) -> str:
        sizes = f"{len(self.train)} train, {len(self.discovery)} discovery, {len(self.test)} test"
        labels = f", labels {'/'.join(self.labels)}" if self.labels else ""
        asked = ", chat" if self.chat else ""
        asked += f", {len(self.shots)} shot{'s' * (len(self.shots) != 1)}" if self.shots else ""
        return f"Task({self.name!r}: {self.kind} by {self.metric}, {sizes}{labels}, prompt {self.prompt!r}{asked})"


# a dataclass makes its own constructor: unknown arguments are refused as everywhere
Task.__init__ = public(Task.__init__)  # type: ignore[method-assign]


def _keywords(function: Callable[..., Any]) -> list[str]:
    return [*[name for name in inspect.signature(function).parameters if name != "options"], *OPTIONS]


Tasks = Task | Sequence[Task] | Mapping[str, Task]  # what `tasks_of` takes


def tasks_of(tasks: object, asked: str, name: str = "tasks") -> dict[str, Task]:
    """Tasks by name: what every function with an argument `tasks` makes of it.

    Args:
        tasks: a Task, a sequence of Tasks with different names, or a mapping name -> Task (whose names count).
        asked: what the caller wants them for: the first line of an error.
        name: of the argument.

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
        pairs = pairs_of(tasks, name, do)
        if not isinstance(tasks, dict) and not any(isinstance(task, Task) for _, task in pairs):  # a mask, scores ...
            raise ArgumentError(asked, f"{kind_of(tasks)} in place of tasks", do)
    elif isinstance(tasks, Iterable) and not isinstance(tasks, str | bytes):
        pairs = [(getattr(task, "name", None), task) for task in all_of(tasks, name)]
    else:
        raise ArgumentError(asked, f"{kind_of(tasks)} in place of tasks", do)
    if not pairs:
        raise ArgumentError(asked, "no task", do)
    for key, task in pairs:
        if not isinstance(task, Task) or not isinstance(key, str):
            wrong = key if isinstance(task, Task) else task
            what = "the name of a task" if isinstance(task, Task) else "a task"
            raise ArgumentError(asked, f"{kind_of(wrong)} in place of {what}", do)
    names = [key for key, _ in pairs]
    twice = next((key for key in names if names.count(key) > 1), None)
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
        raise ArgumentError(asked, f"{kind_of(task)} in place of a task", do)
