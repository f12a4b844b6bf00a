"""Text to tensors: an example becomes token ids, and token ids become batches that score each example on its own.

1. `encode` splits prompt and answer into tokens, by the model's style. The ids that predict the answer's last token
   are the last ones shown: that token itself is never an input, so one-token answers to one prompt share their inputs.
   - causal: `prompt + separator + answer` is tokenized whole, the answer is what follows the prompt's tokens; trailing
     whitespace of the prompt moves to the answer (as lm-evaluation-harness does). A space that two of the three bring
     is read once. In a chat (`prompts`), what the template ends with stays with the prompt, and the answer follows.
   - seq2seq: the encoder reads the prompt, the decoder start token and the answer.
   - masked: one mask token per answer token stands before the tokenizer's closing special tokens.
2. `batches` sorts by length, pads, and aligns targets with logits: `logits[b, t]` should predict `targets[b, t]`.

Padding is told from tokens by position, never by id, so the end-of-text token may serve as padding.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from neuroscope.errors import ArgumentError, ModelError, TaskError, choose
from neuroscope.models.memory import tokens_at_once
from neuroscope.tasks.example import Example
from neuroscope.tasks.prompts import ends, prompt_pieces, shown, tokenized, trimmed, trims, without_end
from neuroscope.tasks.task import Task
from neuroscope.tasks.tokens import Pieces, decoder_start, end_ids, tokenizer_of, unknown_id

if TYPE_CHECKING:
    from neuroscope.models import Model

STYLES = ("causal", "seq2seq", "masked")
ROWS = 128  # at most so many examples are in a batch whose size is not given
MOSTLY = 0.5  # unknown tokens among those of all prompts, from which there is a warning
UNSCORED = -100  # the target of a position that predicts no answer token


@dataclass(frozen=True)
class Encoded:
    """One prompt with one answer, as token ids.

    Attributes:
        inputs: what the model (for seq2seq: its encoder) is shown.
        answer: ids of the answer's tokens; empty where only the prompt was encoded.
        first: position of the logits that predict `answer[0]`; `answer[i]` is predicted at `first + i`.
        decoder: what the decoder is shown (seq2seq only).
        corrupt: like `inputs`, from the corrupt prompt with the same answer; empty where not asked for.
        depth, end: of a tree of tokens laid out in a row, each token's position on its branch, and one beyond the last
            token below it; empty of tokens in a line.
        cut: how many tokens of the prompt were left out.
    """

    inputs: list[int]
    answer: list[int]
    first: int
    decoder: list[int] = field(default_factory=list)
    corrupt: list[int] = field(default_factory=list)
    depth: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    cut: int = 0


@dataclass(frozen=True)
class Batch:
    """Some examples as padded tensors.

    Attributes:
        inputs: keyword arguments of the model: `input_ids` and `attention_mask` [batch, pos]; for seq2seq also
            `decoder_input_ids` and `decoder_attention_mask` [batch, decoder pos]; for trees `position_ids`.
        targets: [batch, pos] (for seq2seq: decoder pos); `logits[b, t]` should predict `targets[b, t]`; -100: unscored.
        real: [batch, pos] True at the tokens of `input_ids` that are not padding.
        index: [batch] place of each example in the caller's order.
        corrupt: `inputs` of the corrupt prompts, position for position; None where not asked for.
        end: [batch, pos] of trees of tokens, one beyond the last token below each; None of tokens in a line.
    """

    inputs: dict[str, Tensor]
    targets: Tensor
    real: Tensor
    index: Tensor
    corrupt: dict[str, Tensor] | None = None
    end: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return replace(
            self,
            inputs={k: v.to(device) for k, v in self.inputs.items()},
            corrupt=self.corrupt and {k: v.to(device) for k, v in self.corrupt.items()},
            end=None if self.end is None else self.end.to(device),
            **{k: getattr(self, k).to(device) for k in ("targets", "real", "index")},
        )

    @property
    def scored(self) -> Tensor:
        """[batch, pos] True at the logits that predict an answer token."""
        return self.targets != UNSCORED

    def shown(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """What the model is given: the inputs; of trees with a mask by which a token sees its own branch alone."""
        if self.end is None:
            return self.inputs
        place = torch.arange(self.end.shape[1], device=self.end.device)
        before, below = place <= place[:, None], place[:, None] < self.end[:, None, :]  # [query, key], [batch, ...]
        sees = (before & below) | (place == place[:, None])  # padding sees itself, or it would be NaN
        mask = torch.zeros(sees.shape, dtype=dtype, device=sees.device)
        return self.inputs | {"attention_mask": mask.masked_fill(~sees, torch.finfo(dtype).min)[:, None]}

    def real_at(self, address: str, h: Tensor, tokens: Tensor | None) -> Tensor:
        """Which rows of a site's vector are tokens and not padding.

        `h` is [batch, pos, coordinate], or [row, coordinate] with the flat token index of each row (None: all tokens).
        """
        real = self.inputs["decoder_attention_mask"].bool() if address.startswith("decoder_") else self.real
        real = real.to(h.device)  # of a model on several devices, sites are not where the inputs are
        if h.ndim == 3:
            return real
        return real.flatten() if tokens is None else real.flatten()[tokens]


def encode(
    model: Model,
    task: Task,
    examples: Sequence[Example],
    answers: Sequence[str] | None = None,
    *,
    corrupt: bool = False,
    end: bool = False,
) -> list[Encoded]:
    """Encode each example's prompt with its answer.

    Args:
        answers: the texts to score in place of the examples' own answers.
        corrupt: pair each prompt with its corrupt one, which must have as many tokens (for activation patching).
        end: score the end-of-text token after the answer too (for training; evaluation and attribution do not).

    Raises:
        TaskError: a prompt with its answer is longer than the model's context, or encodes to no tokens, or a corrupt
            prompt is missing or of another length.
        ModelError: the model has no tokenizer, or a masked model's tokenizer no mask token.
    """
    answers = [example.answer for example in examples] if answers is None else list(answers)
    if len(answers) != len(examples):
        found = f"{len(examples)} examples, {len(answers)} answers"
        raise ArgumentError("encode(examples, answers)", found, "give one answer for each example")
    prompts = [example.prompt for example in examples]
    encoded = _pair(model, task, prompts, answers, end)
    model.check_ids(max((i for e in encoded for i in (*e.inputs, *e.answer, *e.decoder)), default=0))
    if not corrupt:
        return encoded
    for i, example in enumerate(examples):
        if example.corrupt is None:
            raise TaskError(f"the corrupt prompt of {_where(task, i)}", "None", "give the example corrupt=...")
    others = _pair(model, task, [example.corrupt or "" for example in examples], answers, end)
    for i, (clean, other) in enumerate(zip(encoded, others, strict=True)):
        if (len(clean.inputs), clean.first, clean.answer) != (len(other.inputs), other.first, other.answer):
            raise TaskError(
                f"a corrupt prompt as long as the clean one in {_where(task, i)}",
                f"{len(clean.inputs)} tokens for {prompts[i]!r}, {len(other.inputs)} for {examples[i].corrupt!r}",
                "make both prompts the same number of tokens, so that patched positions match",
            )
    return [replace(clean, corrupt=other.inputs) for clean, other in zip(encoded, others, strict=True)]


def encode_prompts(model: Model, task: Task, examples: Sequence[Example]) -> list[Encoded]:
    """Encode the prompts alone, for generation: the model continues with separator and answer.

    Raises:
        ModelError: the model is masked (it does not generate) or has no tokenizer.
        TaskError: prompt and `task.max_new_tokens` together are longer than the model's context.
    """
    if model.style == "masked":
        raise ModelError(f"generate answers to task {task.name!r}", "a masked model", "use a classification task")
    encoded, context = [], model.context
    for i, ((prefix, body, suffix), cut) in enumerate(prompt_pieces(model, task, examples)):
        inputs = prefix + body + (suffix if model.style == "seq2seq" else [])
        new = 0 if model.style == "seq2seq" else task.max_new_tokens
        _check_length(context, task, i, len(inputs) + new, f"{len(inputs)} prompt tokens and {new} new ones")
        if not inputs:
            raise TaskError(f"a prompt to continue in {_where(task, i)}", "a prompt of no tokens", "give it some text")
        encoded.append(Encoded(inputs, [], len(inputs) - 1, cut=cut))
    mind_unknown_tokens(model, f"task {task.name!r}", encoded)
    return encoded


def batches_for(
    model: Model,
    encoded: Sequence[Encoded],
    batch_size: int | None = None,
    side: Literal["right", "left"] = "right",
    new: int = 0,
    together: Sequence[Sequence[int]] | None = None,
) -> Iterator[Batch]:
    """Batches on the model's device, padded its way; without a `batch_size` of as many tokens as it runs best.

    Rows share a batch only where the model's rotary frequencies are the same for all of them (`Model.short`), also when
    each has gained up to `new` generated tokens.
    """
    pad, tokens = pad_id(tokenizer_of(model)), tokens_at_once(model, generates=new > 0)
    apart = None if model.short is None else (model.short - new, model.short + 1)
    return batches(encoded, batch_size, pad, model.device, model.style, side, tokens, apart, together)


def batches(
    encoded: Sequence[Encoded],
    batch_size: int | None,
    pad_id: int,
    device: torch.device | str,
    style: str,
    side: Literal["right", "left"] = "right",
    tokens: int = 0,
    apart: tuple[int, int] | None = None,
    together: Sequence[Sequence[int]] | None = None,
) -> Iterator[Batch]:
    """Cut into batches, longest examples first (so that memory runs out at once or never).

    A batch has `batch_size` examples; None: as many as `tokens` tokens allow, padding among them, and at most `ROWS`.
    `Batch.index` restores the caller's order: `out[batch.index] = values`. Pad on the right to score, on the left
    (causal models only) to generate. Rows of lengths within `apart` share a batch only with rows as long; and those
    up to its first, or from its last, only with each other. Rows that are listed `together` (each row once, those of
    one prompt) are one example, neighbours in one batch.
    """
    choose(style, STYLES, "style")
    choose(side, ("right", "left"), "side")
    lengths = [max(len(item.inputs), len(item.decoder)) for item in encoded]
    kinds = [0 if apart is None else min(max(_depth(item), apart[0]), apart[1]) for item in encoded]
    units = [[i] for i in range(len(encoded))] if together is None else together
    order = sorted(units, key=lambda unit: (-kinds[unit[0]], -len(encoded[unit[0]].inputs)))
    start = 0
    while start < len(order):
        size = _units(order[start : start + ROWS], lengths, tokens) if batch_size is None else batch_size
        chosen = [unit for unit in order[start : start + size] if kinds[unit[0]] == kinds[order[start][0]]]
        index = [i for unit in chosen for i in unit]
        yield _batch([encoded[i] for i in index], index, pad_id, style, side).to(device)
        start += len(chosen)


def _depth(item: Encoded) -> int:
    """How many positions a row has: fewer than tokens where branches lie side by side."""
    return 1 + max(item.depth) if item.depth else len(item.inputs)


def _units(units: Sequence[Sequence[int]], lengths: Sequence[int], tokens: int) -> int:
    """How many of the next examples fit into one batch, one at least."""
    rows = [*accumulate(map(len, units))]
    longest = accumulate((max(lengths[i] for i in unit) for unit in units), max)
    return max(1, sum(n * length <= tokens and n <= ROWS for n, length in zip(rows, longest, strict=True)))


def pad_id(tokenizer: Any) -> int:
    """The id to pad with: the tokenizer's own, else its end-of-text token, else 0. The tokenizer is left as it is."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def _batch(items: list[Encoded], index: list[int], pad: int, style: str, side: str) -> Batch:
    ids, real = _pad([item.inputs for item in items], pad, side)
    inputs = {"input_ids": ids, "attention_mask": real.long()}
    scored = [item.inputs for item in items]
    if style == "seq2seq" and items[0].decoder:
        scored = [item.decoder for item in items]
        decoder, told = _pad(scored, pad, side)
        inputs |= {"decoder_input_ids": decoder, "decoder_attention_mask": told.long()}
    targets, _ = _pad([_targets(item, len(row)) for item, row in zip(items, scored, strict=True)], UNSCORED, side)
    corrupt = None
    if items[0].corrupt:
        corrupt = inputs | {"input_ids": _pad([item.corrupt for item in items], pad, side)[0]}
    end = None
    if any(item.end for item in items):
        inputs["position_ids"] = _pad([item.depth or [*range(len(item.inputs))] for item in items], 0, side)[0]
        end = _pad([item.end or [len(item.inputs)] * len(item.inputs) for item in items], 0, side)[0]
    return Batch(inputs, targets, real, torch.tensor(index), corrupt, end)


def _targets(item: Encoded, length: int) -> list[int]:
    rest = length - item.first - len(item.answer)
    return [UNSCORED] * item.first + item.answer + [UNSCORED] * rest


def _pad(rows: list[list[int]], value: int, side: str) -> tuple[Tensor, Tensor]:
    """Rows of ids as one tensor [rows, longest], and True where a row has an id."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), value)
    real = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[i, place] = torch.tensor(row, dtype=torch.long)
        real[i, place] = True
    return ids, real


def _pair(model: Model, task: Task, prompts: Sequence[str], answers: Sequence[str], end: bool) -> list[Encoded]:
    """Each prompt with its answer, by the model's style."""
    style = choose(model.style, STYLES, "style")
    tokenizer = tokenizer_of(model)
    prompts, (between, closing) = shown(tokenizer, task, prompts), ends(tokenizer, task)
    if style != "seq2seq":
        prompts, answers = _with_one_space(task, between, prompts, answers)
    kept = [without_end(task, prompt) for prompt in prompts]
    texts = [(k, p[len(k) :] + between + a) for k, p, a in zip(kept, prompts, answers, strict=True)]
    if style == "seq2seq":  # the decoder starts afresh: no separator
        texts = [(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    wholes = [answer if style == "seq2seq" else prompt + answer for prompt, answer in texts]
    tokens = tokenized(tokenizer, task, [prompt for prompt, _ in texts] + wholes)
    cuts = trims(model, task, [tokens[prompt] for prompt, _ in texts], answers)
    last, unknown, context = end_ids(tokenizer, end, closing), unknown_id(tokenizer), model.context
    encoded = []
    for i, ((prompt, rest), whole) in enumerate(zip(texts, wholes, strict=True)):
        joint = rest[: len(rest) - len(answers[i])]
        if style != "seq2seq" and not any(c.isspace() for c in joint + answers[i][:1]):
            _check_joint(tokens[prompt].body, tokens[whole].body, answers[i], _where(task, i), task.chat)
        item = _assemble(model, style, tokens[prompt], tokens[whole].body, last, cuts[i])
        if not item.answer[: len(item.answer) - len(last)]:
            raise TaskError(
                f"the answer {answers[i]!r} of {_where(task, i)}", "no tokens", "give an answer the tokenizer can write"
            )
        is_known = [token != unknown for token in item.answer]
        if not (all if task.kind == "classification" else any)(is_known):
            found = "a word that the tokenizer does not know, and would score as unknown"
            do = "use words that it knows, or the model's own tokenizer"
            raise TaskError(f"the answer {answers[i]!r} of {_where(task, i)}", found, do)
        if item.first < 0:
            raise TaskError(f"a prompt before the answer in {_where(task, i)}", "no tokens", "give it some text")
        longest = max(len(item.inputs), len(item.decoder))
        _check_length(context, task, i, longest, f"{longest} tokens for prompt and answer")
        encoded.append(item)
    mind_unknown_tokens(model, f"task {task.name!r}", encoded)
    return encoded


def _with_one_space(
    task: Task, between: str, prompts: Sequence[str], answers: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Prompts and answers without a space that the separator brings too; there is a warning where any had one."""
    shorter = [prompt.rstrip(" ") if between[:1] == " " else prompt for prompt in prompts]
    bare = [a.lstrip(" ") if (p + between)[-1:] == " " else a for p, a in zip(shorter, answers, strict=True)]
    if shorter != list(prompts) or bare != list(answers):
        found = f"some prompts of task {task.name!r} end, or answers begin, with a space beside its separator"
        warnings.warn(f"{found}: the model reads one space; strip them, or give separator=''", stacklevel=2)
    return shorter, bare


def mind_unknown_tokens(model: Model, what: str, encoded: Sequence[Encoded]) -> None:
    """Warn of texts that the tokenizer mostly does not know, or whose answers all follow a word unknown to it."""
    unknown = unknown_id(model.tokenizer)
    texts = [ids for item in encoded for ids in (item.inputs, item.answer)]
    share = sum(ids.count(unknown) for ids in texts) / max(1, sum(map(len, texts)))
    ends = [item.inputs[item.first : item.first + 1] for item in encoded] if model.style == "causal" else []
    at_end = len(ends) > 1 and all(end == [unknown] for end in ends)
    if share > MOSTLY or at_end:
        found = f"{share:.0%} of the tokens of {what} are unknown to the tokenizer"
        found += ", the last of every prompt among them" if at_end else ""
        warnings.warn(f"{found}: is it the model's own, and does it know the language?", stacklevel=2)


def _assemble(model: Model, style: str, prompt: Pieces, whole: list[int], last: list[int], cut: range) -> Encoded:
    """Lay out one prompt and `whole`: the text of prompt and answer (for seq2seq: of the answer)."""
    if style == "seq2seq":
        answer, shown = whole + last, prompt.prefix + trimmed(prompt.body, cut) + prompt.suffix
        return Encoded(shown, answer, 0, [decoder_start(model), *answer[:-1]], cut=len(cut))
    joint = len(prompt.body)
    answer, before = whole[joint:] + last, prompt.prefix + trimmed(whole[:joint], cut)
    if style == "causal":
        return Encoded(before + answer[:-1], answer, len(before) - 1, cut=len(cut))
    mask = model.tokenizer.mask_token_id
    if mask is None:
        raise ModelError("score answers at mask tokens", "a tokenizer without one", "use the model's own tokenizer")
    return Encoded(before + [mask] * len(answer) + prompt.suffix, answer, len(before), cut=len(cut))


def _check_joint(prompt: list[int], whole: list[int], answer: str, where: str, is_chat: bool) -> None:
    if whole[: len(prompt)] != prompt:
        do = (
            "begin the answer with a space, give the task separator=' ', or end the prompt with a space or a line break"
        )
        raise TaskError(
            f"the answer {answer!r} of {where}",
            "a token that is part of the prompt and of the answer at once",
            f"set them apart: {'let the chat template end with a line break' if is_chat else do}",
        )


def _check_length(context: int | None, task: Task, i: int, length: int, what: str) -> None:
    if context is not None and length > context:
        raise TaskError(
            f"{what} in {_where(task, i)}",
            f"a context of {context} tokens",
            "give the task too_long='cut' or 'skip', load it with max_words=..., or use a model with a longer context",
        )


def _where(task: Task, i: int) -> str:
    return f"example {i} of task {task.name!r}"
