"""What is scored: a loss of each answer token. One function each, one table of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuroscope.errors import ArgumentError, kind_of

Objective = Literal["loss", "log-odds", "logit-difference"]
Measure = Callable[[Tensor], Tensor]  # of one prompt's logits [position, vocabulary]; more is better


def loss(logits: Float[Tensor, "token vocab"], target: Int[Tensor, " token"]) -> Float[Tensor, " token"]:
    """Cross-entropy of each answer token, in nats (LX24 Eq. 2)."""
    return torch.nn.functional.cross_entropy(logits, target, reduction="none")


def log_odds(logits: Float[Tensor, "token vocab"], target: Int[Tensor, " token"]) -> Float[Tensor, " token"]:
    """Minus log p/(1-p) of each answer token: a loss that does not saturate where the model is certain.

    log(p / (1-p)) = logit of the target - logsumexp of all other logits, without a difference of rounded probabilities.
    """
    others = logits.scatter(-1, target[:, None], -torch.inf).logsumexp(-1)
    return others - logits.gather(-1, target[:, None]).squeeze(-1)


def logit_difference(
    logits: Float[Tensor, "token vocab"], target: Int[Tensor, " token"], foil: Int[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """Minus (logit of the answer - logit of the foil), at the answer's first token: the measure of `patch_sweep`.

    An objective with a foil is asked of the first token alone, because what follows depends on which answer was begun.
    """
    return (logits.gather(-1, foil[:, None]) - logits.gather(-1, target[:, None])).squeeze(-1)


OBJECTIVES: dict[Objective, Callable[..., Tensor]] = {
    "loss": loss,
    "log-odds": log_odds,
    "logit-difference": logit_difference,
}


def needs_foil(objective: Objective | Measure) -> bool:
    """Whether an objective compares the answer with another one."""
    return not callable(objective) and "foil" in inspect.signature(OBJECTIVES[objective]).parameters


def minus(measure: Measure, logits: Float[Tensor, "position vocab"]) -> Float[Tensor, ""]:
    """Minus what a user's function makes of one prompt's logits: a loss.

    Raises:
        ArgumentError: something else than one number that depends on them.
    """
    value = measure(logits)
    do = "return one number that is made of the logits by torch, such as logits[-1, 3] - logits[-1, 5]"
    asked = "objective=a function of the logits [position, vocabulary]"
    if not torch.is_tensor(value) or value.numel() != 1 or value.is_complex():
        found = f"a tensor of shape {tuple(value.shape)}" if torch.is_tensor(value) else kind_of(value)
        raise ArgumentError(asked, found, do)
    if logits.requires_grad and not value.requires_grad:  # every gradient would be 0
        raise ArgumentError(asked, "a number through which no gradient goes back to them", do)
    return -value.reshape(()).float()
