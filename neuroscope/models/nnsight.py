"""Open an nnsight model."""

from __future__ import annotations

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
