"""Which tokens a forward pass reads: the prompt's, and what follows it.

Whoever of this package runs a pass says it (`telling`). Of any other it is derived from what the model is given:

1. a pass that `generate` runs (of transformers, or of a TransformerBridge) has the prompt that `generate` was given,
   and after it what was generated, with a cache and without;
2. one with `labels` scores the labelled tokens: what is before the first is the prompt;
3. one that goes on from a cache that holds tokens reads what was generated;
4. any other reads a prompt.

Tokens are counted by the attention mask, so that padding before or after a text counts for nothing.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from neuroscope.errors import ArgumentError, ModelError

Part = Literal["last", "prompt", "answer", "generated"]
After = Literal["scored", "generated", "unknown"]
UNLABELLED = -100  # the label of a token that is not scored, in transformers
# whose function `generate` runs passes, and what it calls the prompt's ids
GENERATING = {
    "transformers.generation.utils": "input_ids",
    "transformer_lens.model_bridge.transformer_bridge": "input_tokens",
}


@dataclass(frozen=True)
class _Told:
    """What is said of a pass: its mask of tokens, and where an answer's tokens are predicted; None for none."""

    mask: Tensor | None
    at: Tensor | None


_told: ContextVar[_Told | None] = ContextVar("told", default=None)


@contextlib.contextmanager
def telling(mask: Tensor | None, at: Bool[Tensor, "row pos"] | None) -> Iterator[None]:
    """A scope whose passes score answers: of each row, the first position `at` which one is predicted ends the prompt.

    Args:
        mask: the attention mask, also of a model that takes none.
        at: for each row, or for the rows that are repeated; None of passes that score nothing.
    """
    token = _told.set(_Told(mask, at))
    try:
        yield
    finally:
        _told.reset(token)


@dataclass(frozen=True)
class Layout:
    """The tokens of a pass.

    Attributes:
        number: of each token in its row, from 0 on, those in the cache counted; -1 at padding.
        prompt: how many tokens of each row are the prompt's.
        after: what the others are: "scored", "generated", or "unknown" where there may be some among the prompt's.
        has_prompt: whether the prompt's tokens are in the pass, and not in a cache.
    """

    number: Int[Tensor, "row pos"]
    prompt: Int[Tensor, " row"]
    after: After
    has_prompt: bool

    @cached_property
    def shortest(self) -> int:
        """How many tokens the shortest prompt has."""
        return int(self.prompt.min())

    def check(self, at: Part | Sequence[int], asked: str) -> None:
        """Refuse what is not known of the pass, or not there.

        Raises:
            ArgumentError: the tokens of an answer where none is scored, those that were generated where that cannot be
                known, or a position that a prompt lacks.
        """
        if at == "answer" and self.after != "scored":
            do = "give at='generated'" if self.after == "generated" else "evaluate or attribute within the scope"
            raise ArgumentError(asked, "a pass that scores no answer", f"{do}; or give at='last' or 'prompt'")
        if at == "generated" and self.after == "unknown":
            found = "a pass without a cache, of which cannot be known whether its tokens are a prompt's"
            do = "use generate, evaluate within the scope, or give the pass past_key_values=DynamicCache()"
            raise ArgumentError(asked, found, do)
        if isinstance(at, str) or not self.has_prompt:
            return
        outside = [p for p in at if not -self.shortest <= p < self.shortest]
        if outside:
            do = f"give {-self.shortest} to {self.shortest - 1}"
            raise ArgumentError(f"{asked}: position {outside[0]}", f"a prompt of {self.shortest} tokens", do)

    def chosen(self, at: Part | Sequence[int]) -> Bool[Tensor, "row pos"]:
        """True at the tokens that `at` names."""
        number, prompt = self.number, self.prompt[:, None]
        of_prompt = (number >= 0) & (number < prompt)
        if at == "prompt":
            return of_prompt
        if at in ("answer", "generated"):
            return number >= prompt
        places = [-1] if at == "last" else [int(p) for p in at]
        wanted = torch.zeros_like(of_prompt)
        for place in places:
            wanted |= number == (place if place >= 0 else prompt + place)
        return wanted & of_prompt


def layout_of(module: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Layout:
    """The tokens of the pass that begins, by what the model's forward is given.

    Raises:
        ModelError: a mask or a cache from which tokens cannot be counted.
    """
    names = [n for n, p in inspect.signature(module.forward).parameters.items() if p.kind is not p.VAR_POSITIONAL]
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    shown = next((given[n] for n in ("input_ids", "inputs_embeds") if given.get(n) is not None), None)
    if shown is None:  # a module of one's own names its tokens otherwise
        shown = next(value for value in (*args, *kwargs.values()) if torch.is_tensor(value))
    rows, length = shown.shape[:2]
    cache, told = given.get("past_key_values"), _told.get()
    past = 0 if cache is None else _tokens_in(cache)
    mask = given.get("attention_mask") if told is None or told.mask is None else told.mask
    if told is not None and told.at is not None and torch.is_tensor(mask) and mask.ndim == 4:  # of trees
        number, real = given["position_ids"], None
    else:
        real = _real(mask, rows, past + length, shown.device)
        number = (real.cumsum(1) - 1).masked_fill(~real, -1)[:, past:]
    at = _scored(given) if told is None else told.at
    if at is not None:
        at = at.to(number.device).repeat(rows // len(at), 1)
        before = number.gather(1, at.int().argmax(1, keepdim=True))[:, 0] + 1
        return Layout(number, torch.where(at.any(1), before, number.amax(1) + 1), "scored", True)
    assert real is not None  # trees are scored
    width = _width_of_prompt() if told is None else None
    if width is not None and past + length < width:
        raise ModelError("tell the tokens of a prompt", "one that is read in pieces", "leave out prefill_chunk_size")
    if width is not None:
        return Layout(number, real[:, :width].sum(1), "generated", past < width)
    if past:
        return Layout(number, real[:, :past].sum(1), "generated", False)
    return Layout(number, real.sum(1), "unknown" if cache is None else "generated", True)


def _tokens_in(cache: Any) -> int:
    """How many tokens of each row a cache holds."""
    if not hasattr(cache, "get_seq_length"):
        found = f"past_key_values of type {type(cache).__name__}"
        raise ModelError("tell the tokens of a pass", found, "give a cache of transformers, such as DynamicCache")
    return int(cache.get_seq_length())


def _real(mask: Any, rows: int, length: int, device: torch.device) -> Bool[Tensor, "row pos"]:
    """Which tokens, those in the cache among them, are no padding."""
    if mask is None:
        return torch.ones(rows, length, dtype=torch.bool, device=device)
    if not torch.is_tensor(mask) or mask.shape != (rows, length):
        found = f"an attention mask of shape {tuple(mask.shape)}" if torch.is_tensor(mask) else "several masks"
        do = f"give one of shape {(rows, length)}: 1 at every token, those in the cache among them, and 0 at padding"
        raise ModelError("tell the tokens of a pass", found, do)
    return mask.bool()


def _scored(given: Mapping[str, Any]) -> Tensor | None:
    """Where a labelled token is predicted; None without labels."""
    labels = given.get("labels")
    return None if labels is None else torch.nn.functional.pad(labels[:, 1:] != UNLABELLED, (0, 1))


def _width_of_prompt() -> int | None:
    """How many columns the prompts have that `generate` was given, if it is on the stack; None elsewhere."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        name = GENERATING.get(frame.f_globals.get("__name__", ""))
        if name is not None and frame.f_code.co_name == "generate" and torch.is_tensor(frame.f_locals.get(name)):
            return int(frame.f_locals[name].shape[1])
        frame = frame.f_back
    return None
