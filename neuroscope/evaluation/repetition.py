"""Does a model still write, or only repeat itself? The share of repeated n-grams in what it generates.

1. The model goes on greedily from the beginnings of neutral texts (`neutral_texts`): from what is given before a text,
   or else from its first half; an encoder-decoder model from what its encoder reads.
2. Of the tokens that it makes, up to the end-of-text token,

       seq-rep-n = 1 - (distinct n-grams) / (n-grams)

   (Welleck et al. 2020, arXiv 1908.04319, section 4), with n = 4 as there. A text that ends before it has an n-gram
   repeats nothing: 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from neuroscope.evaluation.neutral_texts import Neutral
from neuroscope.evaluation.writing import batches_to_continue, stop_ids, until, written
from neuroscope.models import Model
from neuroscope.tasks.encoding import Encoded

GRAM = 4
NEW = 32  # tokens that are generated, at most


def repeated_share(tokens: Sequence[int], n: int = GRAM) -> float:
    """Share of a text's n-grams that it had before (seq-rep-n); 0 of a text without any.

    Example:
        >>> repeated_share([1, 2, 1, 2, 1, 2], n=2), repeated_share([1, 2, 3])  # 2 of the 5 pairs are distinct
        (0.6, 0.0)
    """
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def generates(model: Model) -> bool:
    """Whether a model can go on from a text."""
    return model.style != "masked" and getattr(model.base, "generation_config", None) is not None


def repetition_of(model: Model, neutral: Neutral) -> Float[np.ndarray, " text"]:
    """[text] seq-rep-4 of what the model makes of each neutral text, under whatever is live on it.

    Raises:
        ModelError: a model that does not generate.
        NumericalError: logits that are not finite.
    """
    beginnings = beginnings_of(model, neutral)
    room = NEW if model.context is None else model.context - max(len(row.inputs) for row in beginnings)
    new, stops = NEW if model.style == "seq2seq" else max(1, min(NEW, room)), stop_ids(model)
    found = np.zeros(len(beginnings))
    for i, ids in written(model, batches_to_continue(model, beginnings, new, neutral.batch_size), new).items():
        found[i] = repeated_share(until(ids, stops))
    return found


def beginnings_of(model: Model, neutral: Neutral) -> list[Encoded]:
    """What the model goes on from: of each neutral text, one row."""
    rows = []
    for text, row in zip(neutral.texts, neutral.rows, strict=True):
        if model.style == "seq2seq":
            tokens = row.inputs
        else:
            whole = [*row.inputs, row.answer[-1]]
            tokens = whole[: row.first + 1] if text.given else whole[: max(row.first + 1, (len(whole) + 1) // 2)]
        rows.append(Encoded(tokens, [], len(tokens) - 1))
    return rows
