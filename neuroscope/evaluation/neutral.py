"""Is the model still a model? Its loss on neutral text, which no task is made of, under whatever is live on it.

The labels of a task are ranked, so a model that can no longer write a sentence may look as if it had lost that task
alone. The loss on neutral text tells:

1. Texts that no task is made of are tokenized (`neutral_texts`).
2. The negative log-likelihood of each token that is scored is averaged over each text: so many nats a token.
3. The loss is the mean over texts, each of which counts alike; its interval is over texts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float

from neuroscope import figures, files
from neuroscope.checks import Progress, public, watched
from neuroscope.errors import NumericalError
from neuroscope.evaluation.neutral_texts import Neutral, prepare_neutral
from neuroscope.markup import NEGATIVE
from neuroscope.models import Model, resolve
from neuroscope.results import Result
from neuroscope.statistics import mean_interval
from neuroscope.tasks.encoding import batches_for

if TYPE_CHECKING:
    import plotly.graph_objects as go

GUESSING = "guessing evenly among all tokens"
ROUNDING = 1e-4  # nats: of a model that guesses


@dataclass(frozen=True, repr=False)
class NeutralLoss(Result):
    """A model's loss on neutral texts.

    Attributes:
        table: one row per text: text, given (what is read before it, and not scored), tokens (how many are scored),
            loss (their mean negative log-likelihood, nats).
        manifest: model, revision, fingerprint, backend, dtype, interventions, texts (what they are), texts_hash,
            vocabulary (rows of the embedding), versions.
    """

    title = "Loss on neutral text"
    captions: ClassVar[dict[str, str]] = {"rows": "Every text"}

    @property
    def losses(self) -> Float[np.ndarray, " text"]:
        """[text] mean negative log-likelihood of each text's tokens, in nats."""
        return np.asarray(self.table["loss"], dtype=float)

    @property
    def loss(self) -> float:
        """Mean over texts, in nats a token."""
        return float(self.losses.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the loss over texts (`statistics.mean_interval`), from 0 up; NaN for a single text."""
        low, high = mean_interval(self.losses)
        return max(low, 0.0), high

    @property
    def guessing(self) -> float:
        """The loss of a model that takes every token for as likely: ln(vocabulary)."""
        return math.log(self.manifest["vocabulary"])

    def in_words(self) -> str:
        """The loss with its interval, beside guessing."""
        low, high = self.interval
        said = f"a loss of **{self.loss:.2f} nats a token** (95 % interval {low:.2f} to {high:.2f}; perplexity "
        said += f"{math.exp(min(self.loss, 700)):.3g}; {GUESSING}: {self.guessing:.2f})"
        where = f"On {len(self.table)} neutral text(s) ({self.manifest['texts']})"
        if max(self.loss, high) < self.guessing - ROUNDING:
            return f"{where} the model has {said}."
        return f"{NEGATIVE}: {where[0].lower()}{where[1:]} the model has {said}, not shown to be better than guessing."

    def figure(self) -> go.Figure:
        """The loss on each text, beside guessing."""
        low, high = self.interval
        texts = [f"{r.given} | {r.text}" if r.given else r.text for r in self.table.itertuples()]
        return figures.bars_with_band(
            [str(i + 1) for i in range(len(self.table))],
            {"loss": (self.losses.tolist(), None, None)},
            title=f"Loss on neutral text: {self.loss:.2f} nats a token",
            subtitle=f"95 % interval {low:.2f} to {high:.2f} over {len(self.table)} texts",
            value_label="nats a token",
            hover={"loss": texts},
            mark=[self.guessing] * len(self.table),
            mark_label=GUESSING,
        )

    def __repr__(self) -> str:
        low, high = self.interval
        return f"neutral text: {self.loss:.2f} nats a token [{low:.2f}, {high:.2f}], n = {len(self.table)}"


def losses_of(model: Model, neutral: Neutral, progress: Progress | None = None) -> Float[np.ndarray, " text"]:
    """[text] mean negative log-likelihood (nats) of each text's scored tokens, under whatever is live on the model.

    Raises:
        NumericalError: one of them is not finite; it is never averaged away.
    """
    total = torch.zeros(len(neutral.texts), dtype=torch.float64)
    owners = torch.tensor(neutral.owners)
    with model.quiet(), torch.no_grad():
        cut = list(batches_for(model, neutral.rows, neutral.batch_size))
        for batch in watched(cut, progress, "neutral text"):
            batch = batch.to(model.device)
            scored = batch.scored
            logits = model.logits(batch.inputs, scored, answers=False).float()
            right = logits.gather(-1, batch.targets[scored][:, None])[:, 0]
            rows = batch.index[scored.nonzero()[:, 0]].cpu()  # of each scored token
            total.index_add_(0, owners[rows], (logits.logsumexp(-1) - right).double().cpu())
    losses = np.maximum(total.numpy() / tokens_of(neutral), 0.0)  # of a certain token, rounding is all there is
    if not np.isfinite(losses).all():
        i = int(np.flatnonzero(~np.isfinite(losses))[0])
        raise NumericalError(
            f"the loss on neutral text {neutral.texts[i].scored[:60]!r}",
            str(losses[i]),
            "look for overflow (float16 weights, a scaled or patched activation), or load the model in float32",
        )
    return losses


def tokens_of(neutral: Neutral) -> np.ndarray:
    """[text] how many tokens of each text are scored."""
    numbers = [len(row.answer) for row in neutral.rows]
    return np.bincount(neutral.owners, weights=numbers, minlength=len(neutral.texts)).astype(int)


@public
def neutral_loss(
    model: Any,
    texts: Sequence[str] | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> NeutralLoss:
    """Loss on text that no task is made of, under whatever interventions are live: is the model still a model?

    The mean over texts of the negative log-likelihood per token, in nats. Every token is scored after those before it;
    of masked models each with itself alone masked (Salazar et al. 2020); of seq2seq models those of the second half,
    where the encoder reads the first.

    Args:
        model: anything that `neuroscope.load` opens, or a model from transformers, TransformerLens or nnsight.
        texts: to measure the loss on; None: 24 plain English sentences that come with the package. The bundled model
            knows no English: its own are answers to its tasks, each after its prompt.
        batch_size: texts per forward pass (masked models: tokens); None: as many as the model runs best at once. It
            does not change the result.
        progress: called as `progress(batches, desc=...)`, such as tqdm; None is silent.

    Returns:
        `loss`, its `interval` over texts, and `losses`, one per text; more is worse.

    Raises:
        ArgumentError: no text, or one that has nothing to score, words that the tokenizer does not know, or more tokens
            than the model's context.
        ModelError: the model has no tokenizer, or it knows neither English nor the bundled model's words.
        NumericalError: a loss that is not finite.

    Example:
        >>> neutral_loss("mini", ["infer taster sold rare pasta => yes"]).table["tokens"].tolist()
        [7]
    """
    import pandas as pd  # heavy: only where a table is made

    model = resolve(model)
    neutral = prepare_neutral(model, texts, batch_size)
    losses = losses_of(model, neutral, progress)
    table = pd.DataFrame(
        {
            "text": [text.scored for text in neutral.texts],
            "given": [text.given for text in neutral.texts],
            "tokens": tokens_of(neutral),
            "loss": losses,
        }
    )
    manifest = {
        **model.provenance(),
        "texts": neutral.kind,
        "texts_hash": neutral.digest,
        "vocabulary": len(model.embedding.weight),
        "versions": files.versions(),
    }
    return NeutralLoss(table, manifest)
