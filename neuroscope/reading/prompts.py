"""What is read: prompts and tasks become rows of tokens, and batches of rows with the tokens that are looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from neuroscope.annotations import pairs_of
from neuroscope.checks import all_of, text_of
from neuroscope.errors import ArgumentError, ModelError, TaskError, kind_of, shown
from neuroscope.interventions.where import positions_of
from neuroscope.models import Model
from neuroscope.models.passes import Layout
from neuroscope.tasks import Example, Task, tasks_of
from neuroscope.tasks.encoding import Batch, Encoded, encode
from neuroscope.tasks.one_prompt import is_prompt, task_of_prompt
from neuroscope.tasks.prompts import fitting, prompt_pieces
from neuroscope.tasks.tokens import decoder_start, tokenize, tokenizer_of

Part = Literal["last", "prompt", "answer"]  # of what is read: nothing is generated
At = Part | int | Sequence[int]
GIVEN = "prompts"  # the task of prompts that are given without one
DECODER = "decoder_"  # how addresses of an encoder-decoder model's decoder begin


@dataclass(frozen=True)
class Chat:
    """One chat, shown in the template of the model's tokenizer.

    Attributes:
        task: its one discovery example is the last message of the user, with what the assistant then says.
        answered: whether the assistant's message was given; else the prompt alone is read.
    """

    task: Task
    answered: bool


Groups = Mapping[str, Task | Chat | Sequence[str]]


@dataclass(frozen=True)
class Row:
    """One text that a model reads.

    Attributes:
        task: the task that it is of, or what its group of texts is called.
        text: its place in the task.
        prompt: as it was given.
        label: the answer that it is shown with; empty where there is none.
        encoded: its tokens.
    """

    task: str
    text: int
    prompt: str
    label: str
    encoded: Encoded


def chats_and_groups(prompts: Any, asked: str, name: str = "prompts") -> dict[str, Task | Chat | tuple[str, ...]]:
    """As `groups_of`; the messages of a chat may stand in place of texts.

    Raises:
        ArgumentError: as there; messages in another order than the template's.
    """
    if _is_chat(prompts):
        return {GIVEN: _chat(prompts)}
    if not isinstance(prompts, Mapping):
        return dict(groups_of(prompts, asked, name))
    chats = {key: _chat(value) for key, value in prompts.items() if _is_chat(value)}
    others = {key: value for key, value in prompts.items() if key not in chats}
    found = {**chats, **(groups_of(others, asked, name) if others or not chats else {})}
    return {text_of(key, name): found[key] for key in prompts}


def _is_chat(value: Any) -> bool:
    return not isinstance(value, str) and is_prompt(value)


def _chat(messages: Sequence[Mapping[str, Any]]) -> Chat:
    answered = messages[-1].get("role") == "assistant"
    if answered and len(messages) > 1:
        return Chat(task_of_prompt(messages[:-1], messages[-1].get("content")), True)
    return Chat(task_of_prompt(messages, "none"), False)


def groups_of(prompts: Any, asked: str, name: str = "prompts") -> dict[str, Task | tuple[str, ...]]:
    """Tasks and texts by name: what an argument of prompts may be.

    Args:
        prompts: a text, several, a Task, several, or a mapping from a name to any of these.

    Raises:
        ArgumentError: anything else, or nothing.
    """
    do = "give texts, Tasks, or a dict of them by name"
    if isinstance(prompts, str):
        return {GIVEN: (text_of(prompts, name),)}
    if isinstance(prompts, Task):
        return dict(tasks_of(prompts, asked, name))
    if isinstance(prompts, Mapping):
        pairs = [(key, _group(value, f"{name}[{key!r}]")) for key, value in pairs_of(prompts, name, do)]
        if not pairs or not all(isinstance(key, str) for key, _ in pairs):
            raise ArgumentError(shown(name, prompts), kind_of(prompts), do)
        return {text_of(key, name): group for key, group in pairs}
    if isinstance(prompts, bytes | bytearray | set | frozenset) or not hasattr(prompts, "__iter__"):
        raise ArgumentError(shown(name, prompts), kind_of(prompts), do)
    listed = all_of(prompts, name)
    if any(isinstance(one, Task) for one in listed):
        return dict(tasks_of(listed, asked, name))
    return {GIVEN: _texts(listed, name)}


def _group(value: Any, name: str) -> Task | tuple[str, ...]:
    if isinstance(value, Task):
        return value
    if isinstance(value, str):
        return (text_of(value, name),)
    if isinstance(value, list | tuple) or type(value).__name__ in ("ndarray", "Series"):
        return _texts(list(value), name)
    raise ArgumentError(name, kind_of(value), "give a Task, or texts")


def _texts(listed: list[Any], name: str) -> tuple[str, ...]:
    if not listed:
        raise ArgumentError(f"{name}=[]", "no text", "give one or more")
    return tuple(text_of(text, f"{name}[{i}]") for i, text in enumerate(listed))


def rows_of(model: Model, groups: Groups, split: str, n: int | None) -> list[Row]:
    """Every text as tokens, in the order of the groups.

    Raises:
        ArgumentError, TaskError: a text of no tokens, or longer than the model's context; a task without examples.
        ModelError: a model without a tokenizer.
    """
    rows = []
    for name, group in groups.items():
        if isinstance(group, Task):
            examples = fitting(model, group, group.split(split, n)).values()
            items = encode(model, group, list(examples))
            rows += [Row(name, i, *_shown(e), item) for i, (e, item) in enumerate(zip(examples, items, strict=True))]
        elif isinstance(group, Chat):
            (example,) = group.task.discovery
            (item,) = encode(model, group.task, [example]) if group.answered else [_unanswered(model, group.task)]
            rows.append(Row(name, 0, example.prompt, example.answer if group.answered else "", item))
        else:
            items = encode_texts(model, group[:n], f"texts of {name!r}")
            rows += [Row(name, i, t, "", item) for i, (t, item) in enumerate(zip(group[:n], items, strict=True))]
    return rows


def _shown(example: Example) -> tuple[str, str]:
    return example.prompt, example.answer


def _unanswered(model: Model, task: Task) -> Encoded:
    """The prompt of a chat by itself, up to where the assistant would begin."""
    (((prefix, body, suffix), cut),) = prompt_pieces(model, task, task.discovery)
    return _read_whole(model, prefix + body + ([] if model.style == "causal" else suffix), cut)


def _read_whole(model: Model, tokens: list[int], cut: int = 0) -> Encoded:
    decoder = [decoder_start(model)] if model.style == "seq2seq" else []
    return Encoded(tokens, [], 0 if decoder else len(tokens) - 1, decoder, cut=cut)


def encode_texts(model: Model, texts: Sequence[str], asked: str) -> list[Encoded]:
    """Plain texts as tokens; an encoder-decoder model's decoder has its start token.

    Raises:
        ArgumentError: a text of no tokens, or longer than the model's context.
    """
    pieces = tokenize(tokenizer_of(model), texts)
    encoded = []
    for i, text in enumerate(texts):
        prefix, body, suffix = pieces[text]
        tokens = prefix + body + ([] if model.style == "causal" else suffix)
        if not body:
            raise ArgumentError(f"{asked}, number {i}, {text[:60]!r}", "no tokens", "leave it out, or give it words")
        if model.context is not None and len(tokens) > model.context:
            found = f"{len(tokens)} tokens, for a context of {model.context}"
            raise ArgumentError(f"{asked}, number {i}, {text[:60]!r}", found, "cut it into shorter texts")
        encoded.append(_read_whole(model, tokens))
    model.check_ids(max((i for item in encoded for i in item.inputs), default=0))
    return encoded


@dataclass(frozen=True)
class Tokens:
    """The tokens of a batch in one stack of the model.

    Attributes:
        looked: those that are looked at.
        first: those that begin a row.
        real: all but padding.
    """

    looked: Bool[Tensor, "row pos"]
    first: Bool[Tensor, "row pos"]
    real: Bool[Tensor, "row pos"]


@dataclass(frozen=True)
class Looked:
    """Which tokens of a pass are looked at, by the stack that reads them.

    Attributes:
        at: as of `ablate`; None for all.
        skip_first: whether each row's first token is left out.
    """

    at: Part | tuple[int, ...] | None
    skip_first: bool

    @classmethod
    def of(cls, model: Model, at: At | None, skip_first: bool, asked: str) -> Looked:
        """Of a public function's arguments.

        Raises:
            ArgumentError: another part of a text, or positions that are no whole numbers.
            ModelError: a part of a text, of a model that is not causal.
        """
        if at is None:
            return cls(None, skip_first)
        do = "give 'last', 'prompt', 'answer', positions such as [0, -1], or None for all tokens"
        if isinstance(at, str):
            if at not in get_args(Part):
                raise ArgumentError(f"{asked}(at={at!r})", "no such tokens", do)
            chosen: Any = str(at)
        else:
            chosen = tuple(positions_of(at, f"{asked}(at)"))
            if not chosen:
                raise ArgumentError(f"{asked}(at={at!r})", "no positions", do)
        if model.style != "causal":
            found = f"a {model.style} model, whose answer does not follow its prompt"
            raise ModelError(f"{asked}(at={at!r})", found, "leave out at=, or use a causal model")
        return cls(chosen, skip_first)

    def tokens(self, batch: Batch, asked: str) -> dict[str, Tokens]:
        """By how addresses begin: "" of the first stack, "decoder_" of a second one."""
        found = {"": self._of(batch.real, batch, asked)}
        if "decoder_attention_mask" in batch.inputs:
            found[DECODER] = self._of(batch.inputs["decoder_attention_mask"].bool(), batch, asked)
        return found

    def _of(self, real: Tensor, batch: Batch, asked: str) -> Tokens:
        number = (real.cumsum(1) - 1).masked_fill(~real, -1)
        first = number == 0
        looked = real
        if self.at is not None:
            layout = _layout(batch, number)
            layout.check(self.at, asked)
            looked = layout.chosen(self.at)
        return Tokens(looked & ~first if self.skip_first else looked, first, real)


def _layout(batch: Batch, number: Tensor) -> Layout:
    """A row's prompt ends where its answer's first token is predicted; one without an answer is all prompt."""
    scored = batch.scored
    before = number.gather(1, scored.int().argmax(1, keepdim=True))[:, 0] + 1
    return Layout(number, torch.where(scored.any(1), before, number.amax(1) + 1), "scored", True)


def parts_of(batch: Batch) -> np.ndarray:
    """[row, pos] whether each token of the first stack is read after the prompt."""
    number = (batch.real.cumsum(1) - 1).masked_fill(~batch.real, -1)
    if batch.inputs.get("decoder_attention_mask") is not None:
        return np.zeros(tuple(number.shape), dtype=bool)
    return _layout(batch, number).chosen("answer").cpu().numpy()


def refuse_nothing(read: int, at: Any, asked: str) -> None:
    """Refuse to go on with no token.

    Raises:
        TaskError: none is looked at.
    """
    if not read:
        found = "none: an answer of one token is predicted, not read" if at == "answer" else "none"
        raise TaskError(f"{asked}: the tokens to read", found, "give at=None for all tokens, or longer texts")
