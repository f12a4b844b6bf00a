"""The engine that judges a model on a task: label ranking or generation, one outcome per example.

1. `prepare_task` tokenizes a split once.
2. `predict` runs the model on what was prepared, under whatever intervention is live: a label or a text per example.
   Labels are ranked by their log-likelihoods (`label_loglik`), all of them from one pass over each prompt where the
   model can do that (`against_trees`). An encoder is run on each prompt once, the decoder on a row for each branch of
   the labels.
3. `judge` compares the answers with the references by the task's metric: outcomes in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from neuroscope.checks import Progress, watched
from neuroscope.errors import ArgumentError, NumericalError, TaskError
from neuroscope.evaluation.constant import Constant
from neuroscope.evaluation.ranking import Candidates, Scored, candidates_of, prompts_of, rank_labels, rows_of, score
from neuroscope.evaluation.trees import against_trees
from neuroscope.evaluation.writing import batches_to_continue, stop_ids, until, written
from neuroscope.models import Model
from neuroscope.models.encoder import encoder_once
from neuroscope.tasks import Example, Task
from neuroscope.tasks.encoding import Batch, Encoded, batches_for, encode, encode_prompts
from neuroscope.tasks.foils import foil_of
from neuroscope.tasks.metrics import METRICS, RANKINGS
from neuroscope.tasks.prompts import answer_in, closing_ids, fitting, how_asked

Outcomes = NDArray[np.float64]
Parts = list[tuple[Batch, Candidates]]


@dataclass(frozen=True)
class Prepared:
    """A split of a task, tokenized for one model, to be judged under many interventions.

    Attributes:
        task: the task.
        split: "test", "train" or "discovery".
        examples: of the split, but for those that are too long where the task skips them.
        index: their places in the split.
        asked: what a manifest says of how they are asked for.
        batch_size: examples per forward pass; None: as many as make up a number of tokens.
        prompts: of a generation task, in batches.
        labels: [labels][examples] every label after every prompt, of a classification task; of pairs the wrong and the
            right answer of every example.
        texts: [labels][examples] these as texts.
        short: `Model.short` of that model.
        parts: batches of these, each with the labels that it scores, by whether trees are laid out in one row; made
            when they are first asked for.
    """

    task: Task
    split: str
    examples: tuple[Example, ...]
    batch_size: int | None
    index: Sequence[int]
    asked: dict[str, Any]
    prompts: Sequence[Batch] = ()
    labels: Sequence[Sequence[Encoded]] = ()
    texts: Sequence[Sequence[str]] = ()
    short: int | None = None
    parts: dict[bool, Parts] = field(default_factory=dict)

    @property
    def lengths(self) -> Int[Tensor, "example label"]:
        """What the task's ranking divides the log-likelihood of each label by."""
        length = RANKINGS[self.task.ranking]
        columns = [
            [length(text, len(item.answer)) for text, item in zip(texts, items, strict=True)]
            for texts, items in zip(self.texts, self.labels, strict=True)
        ]
        return torch.tensor(columns).T

    @cached_property
    def constant(self) -> Constant:
        """What the examples give without a model."""
        return Constant.of(self.task, self.examples)

    @cached_property
    def trees(self) -> tuple[list[Encoded], list[list[Scored]]]:
        """The labels of every prompt in one row, and what each row scores."""
        return rows_of(self.labels, "causal", one_row=True, short=self.short)

    def against_one_row(self, model: Model) -> str:
        """Why labels are scored in rows of their own, under what is live on the model; empty where they are not."""
        return f"a {model.style} model" if model.style != "causal" else against_trees(model, self.trees[0])

    def batches(self, model: Model, one_row: bool) -> Parts:
        """The batches to run, on the model's device."""
        if one_row not in self.parts:
            rows, members = (
                self.trees if one_row else rows_of(self.labels, model.style, one_row=False, short=self.short)
            )
            together = prompts_of(members, len(self.labels)) if model.style == "seq2seq" else None
            cut = batches_for(model, rows, self.batch_size, together=together)
            self.parts[one_row] = [(batch, candidates_of(batch, members)) for batch in cut]
        return self.parts[one_row]


def prepare_task(
    model: Model, task: Task, split: str = "test", n: int | None = None, batch_size: int | None = None
) -> Prepared:
    """Tokenize a split once."""
    given = task.split(split, n)
    kept = fitting(model, task, given)
    examples = tuple(kept.values())

    def prepared(encoded: Sequence[Encoded], **parts: Any) -> Prepared:
        asked = how_asked(model, task, len(given), kept, (item.cut for item in encoded))
        return Prepared(task, split, examples, batch_size, [*kept], asked, **parts)

    if task.kind == "generation":
        encoded = encode_prompts(model, task, examples)
        cut = batches_to_continue(model, encoded, task.max_new_tokens, batch_size)
        return prepared(encoded, prompts=list(cut))
    texts = [[label] * len(examples) for label in task.labels]
    if task.kind == "pairs":
        right, wrong = [example.answer for example in examples], [foil_of(task, example) for example in examples]
        texts = [wrong, right]  # of equal ones the first counts: a model that prefers neither is not right
    labels = [encode(model, task, examples, each) for each in texts]
    for i in range(len(examples) if task.kind == "pairs" else 1):  # labels are the same in all
        _tell_apart(task, [each[i] for each in texts], [each[i].answer for each in labels])
    return prepared(labels[0], labels=labels, texts=texts, short=model.short)


def _tell_apart(task: Task, texts: list[str], ids: list[list[int]]) -> None:
    for i, answer in enumerate(ids):
        if answer in ids[:i]:
            found = f"{texts[ids.index(answer)]!r} and {texts[i]!r} are the same tokens to the model"
            raise TaskError(f"rank the labels of task {task.name!r}", found, "use words that its tokenizer knows")


def judge(model: Model, prepared: Prepared) -> Outcomes:
    """[examples] outcomes in [0, 1] of a prepared split, under whatever interventions are live."""
    return outcomes_of(prepared.task, prepared.examples, predict(model, prepared))


def predict(model: Model, prepared: Prepared, progress: Progress | None = None) -> list[str]:
    """The model's answer to every example: a label, or the text it generates."""
    if not prepared.labels:
        return _generated(model, prepared, progress)
    best = rank_labels(label_loglik(model, prepared, progress), prepared.lengths)
    return [prepared.texts[label][example] for example, label in enumerate(best.tolist())]


def label_loglik(model: Model, prepared: Prepared, progress: Progress | None = None) -> Tensor:
    """[examples, labels] log-likelihood (nats, summed over the label's tokens) of every label; CPU, float32.

    Raises:
        NumericalError: one of them is not finite; it is never averaged away.
    """
    if not prepared.labels:
        raise ArgumentError(f"label_loglik of task {prepared.task.name!r}", "a generation task", "use predict")
    loglik = torch.full((len(prepared.examples), len(prepared.labels)), torch.nan)
    with model.quiet(), torch.no_grad():
        parts = prepared.batches(model, not prepared.against_one_row(model))
        dtype = model.embedding.weight.dtype
        for batch, candidates in watched(parts, progress, f"evaluate {prepared.task.name}"):
            batch = batch.to(model.device)
            with encoder_once(model.base, batch.inputs) if model.style == "seq2seq" else nullcontext():
                logits = model.logits(batch.shown(dtype), candidates.at).float()
            loglik.view(-1)[candidates.slot] = score(logits, candidates).cpu()
    if not loglik.isfinite().all():
        example, label = (~loglik.isfinite()).nonzero()[0].tolist()
        raise NumericalError(
            f"the log-likelihood of {prepared.texts[label][example]!r} in example {example} of {prepared.task!r}",
            str(loglik[example, label].item()),
            "look for overflow (float16 weights, a scaled or patched activation), or load the model in float32",
        )
    return loglik


def _generated(model: Model, prepared: Prepared, progress: Progress | None) -> list[str]:
    texts = [""] * len(prepared.examples)
    stops = stop_ids(model) | closing_ids(model, prepared.task)
    batches = watched(prepared.prompts, progress, f"evaluate {prepared.task.name}")
    for i, ids in written(model, batches, prepared.task.max_new_tokens).items():
        text = model.tokenizer.decode(until(ids, stops), skip_special_tokens=True)
        texts[i] = answer_in(prepared.task, text)
    return texts


def outcomes_of(task: Task, examples: Sequence[Example], predictions: Sequence[str]) -> Outcomes:
    """[examples] outcomes in [0, 1] of predictions, by the task's metric."""
    metric = METRICS[task.metric]
    return np.array([metric(text, example.references) for text, example in zip(predictions, examples, strict=True)])
