"""O-LoRA: one LoRA per task, in orthogonal subspaces.

Wang et al. 2023, "Orthogonal Subspace Learning for Language Model Continual Learning".

1. Every task gets a new LoRA. The earlier ones stay live, so that the changes add, and are frozen.
2. The rows of A span the inputs that a LoRA reads. The new one's are kept orthogonal to all earlier ones' in the same
   layer by `orthogonality` (lambda 1) times a sum over layers and earlier tasks i of how far A_i A_new^T is from zero:
   - "abs", the default: the sum of its absolute entries, as in the authors' code;
   - "squared": the sum of its squared entries, as in the paper's equation.
3. `l2` (lambda 2) times the sum of the norms (not squared, as in the code) of the new A and B; 0 by default.

Both terms are added to the loss at every step. Ours: all linear layers have a LoRA, where the authors change queries
and values only; the sums, and with them what a lambda does, grow with the number of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from neuroscope.checks import finite
from neuroscope.errors import ArgumentError, choose
from neuroscope.training import LoraAdapter
from neuroscope.training.continual_learning.learner import Learner, Log, Setting
from neuroscope.training.continual_learning.seq_lora import lora_per_task

Distance = Literal["abs", "squared"]
DISTANCES: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": lambda products: products.abs().sum(),
    "squared": lambda products: products.square().sum(),
}


def o_lora(
    setting: Setting,
    *,
    rank: int = 8,
    alpha: float = 16,
    orthogonality: float = 0.5,
    l2: float = 0.0,
    distance: Distance = "abs",
) -> Learner:
    """A LoRA per task, all live, in subspaces that are kept orthogonal.

    The log's "overlap" is the sum of the first penalty before and after the training, without its weight.

    Args:
        rank, alpha: of every LoRA, as in `seq_lora`.
        orthogonality: lambda 1.
        l2: lambda 2.
        distance: of A_i A_new^T from zero: "abs" or "squared".
    """
    for name, value in (("orthogonality", orthogonality), ("l2", l2)):
        if finite(value, name) < 0:
            raise ArgumentError(f"{name}={value!r}", "negative", "give 0 or more")
    choose(distance, DISTANCES, "distance")

    def penalty(lora: LoraAdapter) -> Callable[[], Tensor] | None:
        earlier = stacked([one.down for one in loras.parts if one is not lora])
        terms: list[Callable[[], Tensor]] = []
        if earlier and orthogonality:
            terms.append(lambda: orthogonality * overlap(earlier, lora.down, distance))
        if l2:
            terms.append(lambda: l2 * norms(lora.parameters()))
        before.append(float(overlap(earlier, lora.down, distance)))
        return (lambda: torch.stack([term() for term in terms]).sum()) if terms else None

    before: list[float] = []  # the overlap of every task's LoRA with the earlier ones, before it was trained
    loras = lora_per_task(setting, rank, alpha, penalty)

    def learn(stage: int) -> Log:
        log = loras.learn(stage)
        after = float(overlap(stacked([one.down for one in loras.parts[:-1]]), loras.parts[-1].down, distance))
        return log | {"overlap": [before[-1], after]}

    return replace(loras, learn=learn)


def stacked(down: Sequence[Mapping[str, Tensor]]) -> dict[str, Float[Tensor, "rows inputs"]]:
    """The matrices A of all earlier tasks, one below the other, by layer; empty before the second task."""
    return {path: torch.cat([one[path].detach() for one in down]) for path in down[0]} if down else {}


def overlap(
    earlier: Mapping[str, Float[Tensor, "rows inputs"]],
    new: Mapping[str, Float[Tensor, "rank inputs"]],
    distance: Distance = "abs",
) -> Float[Tensor, ""]:
    """How far A_i A_new^T are from zero, summed over layers and earlier tasks i.

    Example:
        >>> earlier, new = {"layer": torch.tensor([[1.0, 2.0], [0.0, 1.0]])}, {"layer": torch.tensor([[2.0, 1.0]])}
        >>> overlap(earlier, new).item(), overlap(earlier, new, "squared").item()
        (5.0, 17.0)
    """
    if not earlier:
        return torch.zeros(())
    return torch.stack([DISTANCES[distance](rows @ new[path].t()) for path, rows in earlier.items()]).sum()


def norms(parameters: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Sum of the parameters' Euclidean norms; where one is zero, its gradient is too.

    Example:
        >>> norms([torch.tensor([3.0, 4.0]), torch.tensor([1.0])]).item()
        6.0
    """
    return torch.stack([torch.linalg.vector_norm(p) for p in parameters]).sum()
