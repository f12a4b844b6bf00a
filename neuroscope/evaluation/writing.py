"""What a model goes on with: the tokens that it makes after prompts, up to the end of the text."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import torch

from neuroscope.models import Model
from neuroscope.tasks.encoding import Batch, Encoded, batches_for
from neuroscope.tasks.tokens import tokenizer_of


def stop_ids(model: Model) -> set[int]:
    """The ids that end a text: the tokenizer's and the generation config's.

    Raises:
        ModelError: a model without a tokenizer.
    """
    ids: list[Any] = [tokenizer_of(model).eos_token_id]
    listed = getattr(getattr(model.base, "generation_config", None), "eos_token_id", None)
    ids += listed if isinstance(listed, list) else [listed]
    return {int(token) for token in ids if token is not None}


def batches_to_continue(
    model: Model, encoded: Sequence[Encoded], new: int, batch_size: int | None = None
) -> Iterator[Batch]:
    """Batches of prompts, padded on the side that a model of this style goes on from."""
    return batches_for(model, encoded, batch_size, "right" if model.style == "seq2seq" else "left", new)


def written(model: Model, batches: Iterable[Batch], new: int) -> dict[int, list[int]]:
    """By each row's index the tokens that follow it, at most `new`; after the end of a text they mean nothing.

    Raises:
        NumericalError: logits that are not finite.
    """
    rows: dict[int, list[int]] = {}
    with model.quiet(), torch.no_grad():
        for batch in batches:
            batch = batch.to(model.device)
            made = model.generate(batch.inputs["input_ids"], batch.inputs["attention_mask"], new)
            rows |= dict(zip(batch.index.tolist(), made.tolist(), strict=True))
    return rows


def until(ids: Sequence[int], stops: Collection[int]) -> list[int]:
    """Tokens up to the one that ends their text.

    Example:
        >>> until([5, 6, 2, 7], {2}), until([5, 6], {2})
        ([5, 6], [5, 6])
    """
    return list(ids[: next((k for k, token in enumerate(ids) if token in stops), len(ids))])
