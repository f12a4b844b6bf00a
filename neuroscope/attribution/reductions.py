"""How a quantity per token becomes one per neuron: first within each example, then over examples. One table of ways."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from neuroscope.tasks.encoding import Batch


def owners(h: Tensor, tokens: Tensor | None, batch: Batch) -> Tensor | None:
    """The example that each row of flattened tokens belongs to; None where the vector keeps the batch's shape."""
    if h.ndim == 3:
        return None
    length = batch.real.shape[1]  # flattened tokens occur in decoders only, which see one sequence
    rows = torch.arange(len(h), device=h.device) if tokens is None else tokens
    return rows // length


def _per_example(x: Tensor, owner: Tensor | None, n: int) -> Float[Tensor, "example neuron"]:
    if owner is None:
        return x.sum(1, dtype=torch.float32)
    return torch.zeros(n, x.shape[-1], device=x.device).index_add(0, owner, x.float())


SIGNED = "signed"  # the reduction that keeps the sign

# x: [batch, pos, neuron] or [token, neuron]; signed is positive where removing the neuron raises the loss
# owner: the example of each row, where tokens are flattened; n: how many examples
REDUCTIONS: dict[str, Callable[[Tensor, Tensor | None, int], Tensor]] = {
    "abs_of_sum": lambda x, owner, n: _per_example(x, owner, n).abs().sum(0),
    "sum_of_abs": lambda x, owner, n: _per_example(x.abs(), owner, n).sum(0),
    SIGNED: lambda x, owner, n: -_per_example(x, owner, n).sum(0),
}
