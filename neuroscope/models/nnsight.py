"""Open an nnsight model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from neuroscope.models.hugging_face import open_hugging_face
from neuroscope.models.model import Model


def open_nnsight(model: Any, tokenizer: Any = None, named: Any = None) -> Model:
    """Find the sites of the torch model under an nnsight one; the hooks act inside its traces as well."""
    if getattr(model, "dispatched", True) is False:
        model.dispatch()  # nnsight loads the weights at first use
    root = model._module
    tokenizer = tokenizer if tokenizer is not None else getattr(model, "tokenizer", None)
    return open_hugging_face(root, tokenizer, backend="nnsight", original=model, named=named)


@contextlib.contextmanager
def outside_traces(model: Model) -> Iterator[None]:
    """A scope in which a trace of the model that is running sees nothing: a pass within is not taken for its own."""
    interleaver = getattr(model.original, "interleaver", None) if model.backend == "nnsight" else None
    if interleaver is None:
        yield
        return
    is_on = interleaver.interleaving
    interleaver.interleaving = False  # as nnsight does where a trace calls a module by itself
    try:
        yield
    finally:
        interleaver.interleaving = is_on
