"""How well a model does a task: label ranking or generation, one outcome per example.

1. `prepare` tokenizes and batches once.
   Classification: every label after every prompt; labels that need the same logits share a row.
2. `judge` runs the model on what was prepared, under whatever intervention is live, and returns outcomes in [0, 1].
3. `evaluate` adds the table, the interval and the manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuroscope import files
from neuroscope.checks import public
from neuroscope.errors import ArgumentError, NumericalError, TaskError, choose
from neuroscope.models import Model, resolve
from neuroscope.results import Result
from neuroscope.statistics import bootstrap_interval
from neuroscope.tasks import Example, Task
from neuroscope.tasks.metrics import METRICS, rank_labels
from neuroscope.tasks.prompts import Batch, batches, encode, encode_prompts, pad_id
from neuroscope.tasks.ranking import Candidates, candidates_of, score, share_rows
from neuroscope.tasks.task import check_task

if TYPE_CHECKING:
    import plotly.graph_objects as go

Outcomes = NDArray[np.float64]
Progress = Callable[[Iterable[Any], str], Iterable[Any]]


@dataclass(frozen=True, repr=False)
class Evaluation(Result):
    """A model's outcomes on one split of one task.

    Attributes:
        table: one row per example: task, example (index in the split), prompt, answer, prediction, outcome in [0, 1].
        manifest: task, data_hash, model, revision, fingerprint, backend, dtype, n, split, metric, seed, versions.
    """

    @property
    def outcomes(self) -> Outcomes:
        """[examples] outcome of each example, in [0, 1]."""
        return np.asarray(self.table["outcome"], dtype=float)

    @property
    def score(self) -> float:
        """Mean outcome: the accuracy, or the mean ROUGE-L."""
        return float(self.outcomes.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % percentile bootstrap interval of the score, over examples."""
        return bootstrap_interval(self.outcomes, seed=self.manifest["seed"])

    def figure(self) -> go.Figure:
        """The mean outcome by right answer (classification), or the distribution of outcomes (generation)."""
        import plotly.express as px  # heavy: only where a figure is wanted

        metric, title = self.manifest["metric"], repr(self)
        if metric != "accuracy":
            return px.histogram(
                self.table, x="outcome", nbins=20, range_x=(0, 1), labels={"outcome": metric}, title=title
            )
        by_answer = self.table.groupby("answer", as_index=False)["outcome"].mean()
        return px.bar(by_answer, x="answer", y="outcome", range_y=(0, 1), labels={"outcome": metric}, title=title)

    def __repr__(self) -> str:
        low, high = self.interval
        about = self.manifest
        return f"{about['task']}: {about['metric']} {self.score:.2f} [{low:.2f}, {high:.2f}], n = {about['n']}"


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


@public
def evaluate(
    model: Any,
    task: Task,
    split: str = "test",
    n: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Judge a model on a task, under whatever interventions are live.

    Classification ranks the task's labels by log-likelihood per token after the prompt; generation decodes greedily,
    stops at the end-of-text token, strips whitespace, and compares with the references by the task's metric.

    Args:
        model: anything that `neuroscope.load` opens, or a model from transformers, TransformerLens or nnsight.
        split: "test", "train" or "discovery".
        n: the first n examples; all if None.
        batch_size: examples (for labels of several tokens: rows) per forward. It does not change the result.
        seed: of the bootstrap interval.
        progress: called as `progress(batches, description)`, such as tqdm; None is silent.

    Raises:
        TaskError: the split is empty, or a prompt does not fit the model's context.
        NumericalError: the model gave a label a log-likelihood that is not finite.
    """
    import pandas as pd  # heavy: only where a table is made

    model = resolve(model)
    prepared = prepare(model, task, split, n, batch_size)
    predictions = predict(model, prepared, progress)
    scores = _judged(task, prepared.examples, predictions)
    table = pd.DataFrame(
        {
            "task": task.name,
            "example": range(len(scores)),
            "prompt": [example.prompt for example in prepared.examples],
            "answer": [example.answer for example in prepared.examples],
            "prediction": predictions,
            "outcome": scores,
        }
    )
    manifest = {
        "task": task.name,
        "data_hash": task.data_hash,
        **model.provenance(),
        "n": len(scores),
        "split": split,
        "metric": task.metric,
        "seed": seed,
        "versions": files.versions(),
    }
    return Evaluation(table, manifest)


def prepare(model: Any, task: Task, split: str = "test", n: int | None = None, batch_size: int = 64) -> Prepared:
    """Tokenize and batch a split once, on the model's device."""
    model = resolve(model)
    check_task(task, "evaluate")
    choose(task.metric, METRICS, "metric")
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


def judge(model: Any, prepared: Prepared) -> Outcomes:
    """[examples] outcomes in [0, 1] of a prepared split, under whatever interventions are live."""
    return _judged(prepared.task, prepared.examples, predict(model, prepared))


def predict(model: Any, prepared: Prepared, progress: Progress | None = None) -> list[str]:
    """The model's answer to every example: a label, or the text it generates."""
    model = resolve(model)
    if prepared.lengths is None:
        return _generated(model, prepared, progress)
    best = rank_labels(label_loglik(model, prepared, progress), prepared.lengths)
    return [prepared.task.labels[i] for i in best.tolist()]


def label_loglik(model: Any, prepared: Prepared, progress: Progress | None = None) -> Tensor:
    """[examples, labels] log-likelihood (nats, summed over the label's tokens) of every label; CPU, float32.

    Raises:
        NumericalError: one of them is not finite; it is never averaged away.
    """
    model = resolve(model)
    if prepared.lengths is None:
        raise ArgumentError(f"label_loglik of task {prepared.task.name!r}", "a generation task", "use predict")
    loglik = torch.full(prepared.lengths.shape, torch.nan).flatten()
    with model.quiet(), torch.no_grad():
        for batch, candidates in _watched(prepared, progress):
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
        for batch, _ in _watched(prepared, progress):
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
    found: list[Any] = [model.tokenizer.eos_token_id]
    listed = getattr(getattr(model.base, "generation_config", None), "eos_token_id", None)
    found += listed if isinstance(listed, list) else [listed]
    return {int(token) for token in found if token is not None}


def _judged(task: Task, examples: Sequence[Example], predictions: Sequence[str]) -> Outcomes:
    metric = METRICS[task.metric]
    return np.array([metric(text, example.references) for text, example in zip(predictions, examples, strict=True)])


def _watched(prepared: Prepared, progress: Progress | None) -> Iterable[Any]:
    return progress(prepared.parts, f"evaluate {prepared.task.name}") if progress else prepared.parts
