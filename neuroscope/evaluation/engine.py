"""The engine that judges a model on a task: label ranking or generation, one outcome per example.

1. `prepare_task` tokenizes and batches a split once.
   Classification: every label after every prompt; labels that need the same logits share a row.
2. `predict` runs the model on what was prepared, under whatever intervention is live: a label or a text per example.
   Labels are ranked by their log-likelihoods (`label_loglik`).
3. `judge` compares the answers with the references by the task's metric: outcomes in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuroscope.checks import Progress, watched
from neuroscope.errors import ArgumentError, NumericalError, TaskError
from neuroscope.evaluation.ranking import Candidates, candidates_of, rank_labels, score, share_rows
from neuroscope.models import Model
from neuroscope.tasks import Example, Task
from neuroscope.tasks.encoding import Batch, batches, encode, encode_prompts, pad_id
from neuroscope.tasks.metrics import METRICS

Outcomes = NDArray[np.float64]


@dataclass(frozen=True)
class Prepared:
    """A split of a task, tokenized and batched for one model, to be judged under many interventions.

    Attributes:
        lengths: [examples, labels] number of tokens of each label (None for generation).
        parts: batches, each with the labels that it scores (None for generation).
    """

    task: Task
    split: str
    examples: tuple[Example, ...]
    lengths: Tensor | None
    parts: tuple[tuple[Batch, Candidates | None], ...]


def prepare_task(
    model: Model, task: Task, split: str = "test", n: int | None = None, batch_size: int | None = None
) -> Prepared:
    """Tokenize and batch a split once, on the model's device."""
    examples = task.split(split, n)
    if task.kind == "generation":
        encoded = encode_prompts(model, task, examples)
        side: Literal["right", "left"] = "right" if model.style == "seq2seq" else "left"
        cut = batches(encoded, batch_size, pad_id(model.tokenizer), model.device, model.style, side)
        return Prepared(task, split, examples, None, tuple((batch, None) for batch in cut))
    labels = [encode(model, task, examples, [label] * len(examples)) for label in task.labels]
    _tell_apart(task, [label[0].answer for label in labels])
    lengths = torch.tensor([[len(label[i].answer) for label in labels] for i in range(len(examples))])
    rows, members = share_rows(labels, model.style)
    cut = batches(rows, batch_size, pad_id(model.tokenizer), model.device, model.style)
    return Prepared(task, split, examples, lengths, tuple((batch, candidates_of(batch, members)) for batch in cut))


def _tell_apart(task: Task, ids: list[list[int]]) -> None:
    for i, answer in enumerate(ids):
        if answer in ids[:i]:
            found = f"{task.labels[ids.index(answer)]!r} and {task.labels[i]!r} are the same tokens to the model"
            raise TaskError(f"rank the labels of task {task.name!r}", found, "use words that its tokenizer knows")


def judge(model: Model, prepared: Prepared) -> Outcomes:
    """[examples] outcomes in [0, 1] of a prepared split, under whatever interventions are live."""
    return outcomes_of(prepared.task, prepared.examples, predict(model, prepared))


def predict(model: Model, prepared: Prepared, progress: Progress | None = None) -> list[str]:
    """The model's answer to every example: a label, or the text it generates."""
    if prepared.lengths is None:
        return _generated(model, prepared, progress)
    best = rank_labels(label_loglik(model, prepared, progress), prepared.lengths)
    return [prepared.task.labels[i] for i in best.tolist()]


def label_loglik(model: Model, prepared: Prepared, progress: Progress | None = None) -> Tensor:
    """[examples, labels] log-likelihood (nats, summed over the label's tokens) of every label; CPU, float32.

    Raises:
        NumericalError: one of them is not finite; it is never averaged away.
    """
    if prepared.lengths is None:
        raise ArgumentError(f"label_loglik of task {prepared.task.name!r}", "a generation task", "use predict")
    loglik = torch.full(prepared.lengths.shape, torch.nan).flatten()
    with model.quiet(), torch.no_grad():
        for batch, candidates in _batches(prepared, progress):
            batch = batch.to(model.device)
            logits = model.logits(batch.inputs, batch.keep).float()  # [rows, kept, vocabulary]
            loglik[candidates.slot] = score(logits, candidates).cpu()
    loglik = loglik.view(prepared.lengths.shape)
    if not loglik.isfinite().all():
        example, label = (~loglik.isfinite()).nonzero()[0].tolist()
        raise NumericalError(
            f"the log-likelihood of {prepared.task.labels[label]!r} in example {example} of {prepared.task!r}",
            str(loglik[example, label].item()),
            "look for overflow (float16 weights, a scaled or patched activation), or load the model in float32",
        )
    return loglik


def _generated(model: Model, prepared: Prepared, progress: Progress | None) -> list[str]:
    texts = [""] * len(prepared.examples)
    stops = _stop_ids(model)
    with model.quiet(), torch.no_grad():
        for batch, _ in _batches(prepared, progress):
            batch = batch.to(model.device)
            new = model.generate(
                batch.inputs["input_ids"], batch.inputs["attention_mask"], prepared.task.max_new_tokens
            )
            for i, ids in zip(batch.index.tolist(), new.tolist(), strict=True):
                end = next((k for k, token in enumerate(ids) if token in stops), len(ids))
                texts[i] = model.tokenizer.decode(ids[:end], skip_special_tokens=True).strip()
    return texts


def _stop_ids(model: Model) -> set[int]:
    """The ids that end a text: the tokenizer's and the generation config's."""
    ids: list[Any] = [model.tokenizer.eos_token_id]
    listed = getattr(getattr(model.base, "generation_config", None), "eos_token_id", None)
    ids += listed if isinstance(listed, list) else [listed]
    return {int(token) for token in ids if token is not None}


def outcomes_of(task: Task, examples: Sequence[Example], predictions: Sequence[str]) -> Outcomes:
    """[examples] outcomes in [0, 1] of predictions, by the task's metric."""
    metric = METRICS[task.metric]
    return np.array([metric(text, example.references) for text, example in zip(predictions, examples, strict=True)])


def _batches(prepared: Prepared, progress: Progress | None) -> Iterable[Any]:
    return watched(prepared.parts, progress, f"evaluate {prepared.task.name}")
