"""A task's prompts as token ids, each with its corrupt one of as many tokens: found again in what a model is run on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from neuroscope.errors import TaskError
from neuroscope.models import Model
from neuroscope.tasks import Example, Task
from neuroscope.tasks.encoding import Encoded, encode, encode_prompts
from neuroscope.tasks.prompts import fitting

Tokens = tuple[int, ...]
ASKED = "ablate(value='corrupt')"
DO = "give every example a corrupt prompt of as many tokens, Example(corrupt=...); or value='zero', 'mean', 'resample'"
NONE = "no corrupt prompt"
UNLIKE = "a corrupt prompt of another number of tokens"
SEVERAL = "several corrupt prompts for one prompt"


@dataclass(frozen=True)
class CorruptPrompts:
    """The prompts of a task, with the corrupt ones that take their places.

    Attributes:
        task: its name.
        corrupt: prompt -> corrupt prompt, as token ids, special tokens before them included.
        wrong: of the prompts that have none to take their place, why.
        reasons: the same by the prompt's text.
    """

    task: str
    corrupt: Mapping[Tokens, Tokens]
    wrong: Mapping[Tokens, str]
    reasons: Mapping[str, str]

    @cached_property
    def lengths(self) -> list[int]:
        """The numbers of tokens that prompts have, longest first."""
        return sorted({len(prompt) for prompt in (*self.corrupt, *self.wrong)}, reverse=True)

    def of(self, tokens: Sequence[int], most: int) -> Tokens:
        """The corrupt prompt of the longest prompt that a row begins with, of so many tokens at most.

        Raises:
            TaskError: the row begins with no prompt of the task, or with one that has none.
        """
        for length in self.lengths:
            prompt = tuple(tokens[:length])
            if length > most or len(prompt) < length:
                continue
            if prompt in self.wrong:
                self._refuse([self.wrong[prompt]], "a prompt that is run")
            if prompt in self.corrupt:
                return self.corrupt[prompt]
        found = f"a row of tokens {list(tokens[:8])} ... that begins with none of its {len(self.corrupt)} prompts"
        do = "run the task's own prompts within the scope, with the special tokens that its tokenizer puts around them"
        raise TaskError(f"{ASKED}: a prompt of task {self.task!r}", found, do)

    def check(self, examples: Iterable[Example]) -> None:
        """Refuse to run examples some of which have no corrupt prompt to take the place of theirs.

        Raises:
            TaskError: there are such examples; the text says how many.
        """
        examples = list(examples)
        wrong = [self.reasons[e.prompt] for e in examples if e.prompt in self.reasons]
        if wrong:
            self._refuse(wrong, f"{len(examples)} examples to be judged")

    def _refuse(self, wrong: Sequence[str], where: str) -> None:
        found = ", ".join(f"{count} with {why}" for why, count in Counter(wrong).items())
        raise TaskError(f"{ASKED} on task {self.task!r}", f"{found}, of {where}", DO)


def corrupt_prompts(model: Model, task: Task) -> CorruptPrompts:
    """The pairs of all of a task's examples, tokenized as they are when it is judged, scored or generated.

    Raises:
        TaskError: none of them has a corrupt prompt of as many tokens.
    """
    every = list(dict.fromkeys([*task.discovery, *task.train, *task.test]))
    every = list(fitting(model, task, every).values()) if every else []
    corrupt: dict[Tokens, Tokens] = {}
    wrong: dict[Tokens, str] = {}
    reasons: dict[str, str] = {}
    paired = [replace(e, prompt=e.prompt if e.corrupt is None else e.corrupt) for e in every]
    for clean, other in zip(_shown(model, task, every), _shown(model, task, paired), strict=True):
        for example, prompt, instead in zip(every, clean, other, strict=True):
            why = NONE if example.corrupt is None else UNLIKE if len(prompt) != len(instead) else ""
            why = why or (SEVERAL if corrupt.get(prompt, instead) != instead else "")
            if why:
                wrong[prompt] = reasons[example.prompt] = why
            else:
                corrupt[prompt] = instead
    if not corrupt:
        found = ", ".join(f"{n} with {why}" for why, n in Counter(reasons.values()).items()) or "no examples"
        raise TaskError(f"{ASKED} on task {task.name!r}", f"{found}, of {len(every)} examples", DO)
    return CorruptPrompts(task.name, corrupt, wrong, reasons)


def _shown(model: Model, task: Task, examples: Sequence[Example]) -> list[list[Tokens]]:
    """The prompts of examples as token ids, in each way in which they are shown.

    What a cut leaves of a prompt depends on the answer that is to follow, so that each label has its own.
    """
    answers: list[list[str] | None] = [None]
    if task.when_too_long == "cut" and task.labels:
        answers += [[label] * len(examples) for label in task.labels]
    ways = [encode(model, task, examples, each) for each in answers]
    prompts = [[_before(model, item) for item in way] for way in ways]
    if task.kind == "generation" and model.style != "masked":
        prompts.append([tuple(item.inputs) for item in encode_prompts(model, task, examples)])
    return prompts


def _before(model: Model, item: Encoded) -> Tokens:
    """The tokens of the prompt alone, without the answer's and, of masked models, without what closes the text."""
    end = {"causal": item.first + 1, "masked": item.first}.get(model.style, len(item.inputs))
    return tuple(item.inputs[:end])
