"""Run a model's output head on some positions alone, whatever the model's class."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from jaxtyping import Bool
from torch import Tensor, nn

from neuroscope.models.sites import is_foreign


@contextlib.contextmanager
def head_at(base: Any, at: Bool[Tensor, "row pos"]) -> Iterator[list[int]]:
    """A scope in which the output head is given the hidden states `at` some positions only, as one row.

    What the head gives is then `[1, wanted, vocab]`. Nothing is changed of a model without a module as head, or whose
    head is given something else than `[row, pos, coordinate]`, or has a user's hook, which expects all positions.

    Yields:
        A list that holds the number of positions once the head was called so.
    """
    find = getattr(base, "get_output_embeddings", None)
    head = find() if find is not None else None
    called: list[int] = []
    hooks = (*head._forward_pre_hooks.values(), *head._forward_hooks.values()) if isinstance(head, nn.Module) else ()
    if not isinstance(head, nn.Module) or any(map(is_foreign, hooks)):
        yield called
        return
    thread = threading.get_ident()

    def gather(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not args or threading.get_ident() != thread:  # another thread's pass has logits of its own
            return None
        h = args[0]
        if h.ndim != 3 or h.shape[1] != at.shape[1] or len(h) < len(at):
            return None
        wanted = h[: len(at)][at.to(h.device)]
        called[:] = [len(wanted)]
        return (wanted[None], *args[1:])

    handle = head.register_forward_pre_hook(gather)
    try:
        yield called
    finally:
        handle.remove()
