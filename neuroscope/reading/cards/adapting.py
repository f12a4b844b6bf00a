"""Before and after an adapter: a scope in which it is off, and one in which it is on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

from neuroscope.errors import ArgumentError, ModelError, kind_of
from neuroscope.models import Model
from neuroscope.training import NeuronAdapter


@contextlib.contextmanager
def adapter_on(model: Model, adapter: Any, asked: str) -> Iterator[NeuronAdapter | None]:
    """A scope with the adapter that was given, or that a file has; one from a file is off the model after the scope.

    Raises:
        ArgumentError: something else, or an adapter of another model.
        ModelError: an adapter that is merged or detached.
    """
    if adapter is None:
        yield None
        return
    if isinstance(adapter, str | PathLike):
        loaded = NeuronAdapter.load(model, Path(adapter))
        try:
            yield loaded
        finally:
            loaded.detach()
        return
    do = "give what ns.finetune returns for these neurons, while it is on this model, or the file that its save() wrote"
    if not isinstance(adapter, NeuronAdapter):
        raise ArgumentError(f"{asked}(adapter)", kind_of(adapter), do)
    if adapter.model.root is not model.root:
        raise ArgumentError(f"{asked}(adapter)", "an adapter of another model", do)
    if adapter.is_merged:
        raise ModelError(f"{asked}(adapter)", "an adapter that is merged", "call adapter.unmerge() first")
    yield adapter


@contextlib.contextmanager
def off(adapter: NeuronAdapter | None) -> Iterator[None]:
    """A scope in which the model is as it was before the adapter."""
    if adapter is None:
        yield
        return
    before = adapter.scale
    adapter.scale = 0.0
    try:
        yield
    finally:
        adapter.scale = before
