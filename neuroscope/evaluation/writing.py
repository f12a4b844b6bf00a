"""What a model goes on with: the tokens that it makes after prompts, up to the end of the text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from neuroscope.models import Model
from neuroscope.tasks.encoding import Batch


def stop_ids(model: Model) -> set[int]:
    """The ids that end a text: the tokenizer's and the generation config's."""
    ids: list[Any] = [model.tokenizer.eos_token_id]
    listed = getattr(getattr(model.base, "generation_config", None), "eos_token_id", None)
    ids += listed if isinstance(listed, list) else [listed]
    return {int(token) for token in ids if token is not None}


def written(model: Model, batches: Iterable[Batch], new: int, stops: set[int]) -> Iterator[tuple[int, list[int]]]:
    """Each row's index and the tokens that follow it, at most `new`, without the one of `stops` that ends them.

    Raises:
        NumericalError: logits that are not finite.
    """
    with model.quiet(), torch.no_grad():
        for batch in batches:
            batch = batch.to(model.device)
            made = model.generate(batch.inputs["input_ids"], batch.inputs["attention_mask"], new)
            for i, ids in zip(batch.index.tolist(), made.tolist(), strict=True):
                yield i, ids[: next((k for k, token in enumerate(ids) if token in stops), len(ids))]
