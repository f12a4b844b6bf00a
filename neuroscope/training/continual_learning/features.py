"""Mean last-layer features of a task's prompts, by which W-NCFT and EPI tell tasks apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from neuroscope.errors import NumericalError
from neuroscope.models import Model
from neuroscope.tasks import Example, Task
from neuroscope.tasks.encoding import Encoded, batches_for, encode, encode_prompts
from neuroscope.tasks.prompts import fitting


def prompt_features(
    model: Model, task: Task, examples: Sequence[Example], batch_size: int | None = None
) -> Float[Tensor, "example dim"]:
    """The last layer's output, mean over the tokens of each prompt that is not skipped; float32, on the CPU.

    Causal models: after the final norm. Encoder-decoder models: of the encoder.

    Raises:
        NumericalError: a feature that is not finite.
    """
    encoded = _encoded(model, task, list(fitting(model, task, examples).values()))
    features = torch.empty(len(encoded), 0)
    with model.quiet(), torch.no_grad():
        for batch in batches_for(model, encoded, batch_size):
            inputs = {k: v for k, v in batch.inputs.items() if k in ("input_ids", "attention_mask")}
            last = model.trunk(**inputs).last_hidden_state.float()  # [example, pos, dim]
            real = inputs["attention_mask"][..., None].to(last)
            means = ((last * real).sum(1) / real.sum(1)).cpu()
            if not features.shape[1]:
                features = torch.empty(len(encoded), means.shape[1])
            features[batch.index.cpu()] = means
    if not features.isfinite().all():
        bad = int((~features.isfinite().all(1)).nonzero()[0])
        do = "open the model in float32 or bfloat16"
        raise NumericalError(f"features of {task!r}", f"a prompt ({bad}) whose features are not finite", do)
    return features


def _encoded(model: Model, task: Task, examples: Sequence[Example]) -> list[Encoded]:
    """The prompts alone; where a masked model has the mask tokens of an answer, without those."""
    if model.style != "masked":
        if task.labels or task.when_too_long == "error":  # nothing is generated, and nothing cut to make room for it
            task = replace(task, max_new_tokens=1)
        return encode_prompts(model, task, examples)
    return [
        Encoded(item.inputs[: item.first] + item.inputs[item.first + len(item.answer) :], [], 0)
        for item in encode(model, task, examples)
    ]
