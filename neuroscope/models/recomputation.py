"""Gradient checkpointing: hooks that acted when a part of a model ran act when the backward pass runs it again.

torch.utils.checkpoint keeps no activations but the function that made them, and calls it again in the backward pass:
perhaps after the hooks are gone, in another thread, or among hooks that were not there. So:

1. a hook that acts looks up the stack for the checkpoints around it, and leaves itself with each function kept there;
2. when the function is called again, exactly the hooks that were left with it act, in the order of their scopes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import torch.utils.checkpoint

from neuroscope.errors import ModelError

FILE = torch.utils.checkpoint.__file__


class Leaving(Protocol):
    """A hook that can be put on its module again."""

    number: int  # of its scope, in the order of entry

    def register(self, again: Again | None = None) -> Any:
        """Put it on its module; the handle removes it."""


class Again:
    """A checkpointed function, run among the hooks that acted when it ran first."""

    def __init__(self, function: Callable) -> None:
        self.function = function
        self.hooks: list[Leaving] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it with the hooks on their modules, and take them off."""
        before, handles = RUNNING.set(self), []
        try:
            for hook in sorted(self.hooks, key=lambda hook: hook.number):
                handles.append(hook.register(self))
            return self.function(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
            RUNNING.reset(before)


RUNNING: ContextVar[Again | None] = ContextVar("running", default=None)  # the function that is run again here


class Checkpoint(NamedTuple):
    """Who keeps the checkpointed function, and under which name."""

    keeper: Any
    name: str

    def leave(self, hook: Leaving) -> None:
        """Have the hook act again when the function is run again."""
        again = getattr(self.keeper, self.name)
        if not isinstance(again, Again):
            again = Again(again)
            setattr(self.keeper, self.name, again)
        if not any(known is hook for known in again.hooks):
            again.hooks.append(hook)


def checkpoints() -> tuple[list[Checkpoint], bool]:
    """The checkpoints that the forward pass on the stack is inside of, and whether it is run again in a backward pass.

    Raises:
        ModelError: a checkpoint that keeps its function where this version of torch is not known to keep it.
    """
    around: list[Checkpoint] = []
    frame: Any = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename == FILE:
            name = frame.f_code.co_name
            if name in ("backward", "recompute_fn"):
                return around, True
            if name == "forward" and "ctx" in frame.f_locals:  # use_reentrant=True
                around.append(Checkpoint(frame.f_locals["ctx"], "run_function"))
            elif name == "checkpoint" and torch.is_grad_enabled() and frame.f_locals.get("use_reentrant") is False:
                around.append(Checkpoint(_kept_by(frame.f_locals.get("gen")), "recompute_fn"))
        frame = frame.f_back
    return around, False


def _kept_by(generator: Any) -> Any:
    """The object in which `checkpoint(use_reentrant=False)` keeps its function, from its suspended generator."""
    suspended = getattr(generator, "gi_frame", None)
    keeper = suspended.f_locals.get("new_frame") if suspended is not None else None
    if not hasattr(keeper, "recompute_fn"):
        found = f"gradient checkpointing as torch {torch.__version__} does it, which is not known here"
        raise ModelError("change or read neurons", found, "switch it off: model.gradient_checkpointing_disable()")
    return keeper
