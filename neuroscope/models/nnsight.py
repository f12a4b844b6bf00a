"""Open an nnsight model, and write edits as nnsight trace code for runs where hooks cannot travel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Int
from torch import Tensor

from neuroscope.errors import ModelError
from neuroscope.models.hugging_face import open_hugging_face
from neuroscope.models.model import Model


def open_nnsight(model: Any, tokenizer: Any = None) -> Model:
    """Find the sites of the torch model under an nnsight one; the hooks act inside its traces as well."""
    if getattr(model, "dispatched", True) is False:
        model.dispatch()  # nnsight loads the weights at first use
    root = model._module
    tokenizer = tokenizer if tokenizer is not None else getattr(model, "tokenizer", None)
    return open_hugging_face(root, tokenizer, backend="nnsight", original=model)


def trace_lines(
    model: Model, chosen: Mapping[str, Int[Tensor, " chosen"]], unit: str, value: float, variable: str
) -> str:
    """The edit as the lines of an nnsight trace.

    Args:
        model: an opened model.
        chosen: neurons by address.
        unit: what the addresses are.
        value: what the neurons become.
        variable: what the nnsight model is called in the trace.

    Raises:
        ModelError: neurons of an expert, whose hook points do not exist on a server.
    """
    sites, lines = model.sites(unit), []
    if model.base is not model.root:
        variable += ".base_model.model"  # PEFT's wrappers
    for name, neurons in chosen.items():
        if len(neurons) == 0:
            continue
        site = sites[name]
        if site.expert is not None:
            raise ModelError(
                "nnsight trace code for a neuron of an expert",
                f"{name}, which exists only where ns.interop.tap_experts was called",
                "use ns.ablate(model, mask) on a local model",
            )
        place = f"{variable}.{site.nnsight_path}"
        lines += [
            f"h = {place}.clone()",
            f"h[..., {site.coordinates(neurons).tolist()}] = {value!r}",
            f"{place} = h",
        ]
    return "\n".join(lines) + "\n"
