"""A mask as the lines of an nnsight trace, for runs where hooks cannot travel."""

from __future__ import annotations

from typing import Any

from neuroscope.checks import finite, public
from neuroscope.errors import ModelError
from neuroscope.interventions.mask_sites import MaskSites


@public
def nnsight_code(model: Any, mask: Any, *, value: float = 0.0, variable: str = "model") -> str:
    """The lines of an nnsight trace that set a mask's neurons to a value, for runs where hooks cannot travel.

    Put them into `with model.trace(prompt, remote=True):`.

    Args:
        model: anything that can be opened.
        mask: which neurons.
        value: what they become.
        variable: what the nnsight model is called in the trace.

    Raises:
        ArgumentError: no mask, or a value that is no finite number.
        MaskError: the mask is of another model.
        ModelError: neurons of an expert, whose hook points do not exist on a server.
    """
    places = MaskSites.find(model, mask, "nnsight_code")
    value = finite(value, "nnsight_code(value)")
    root = variable + (".base_model.model" if places.model.base is not places.model.root else "")  # PEFT's wrappers
    lines = []
    for address, site in places.sites.items():
        if site.expert is not None:
            raise ModelError(
                "nnsight trace code for a neuron of an expert",
                f"{address}, which exists only where ns.interop.tap_experts was called",
                "use ns.ablate(model, mask) on a local model",
            )
        place = f"{root}.{site.nnsight_path}"
        lines += [
            f"h = {place}.clone()",
            f"h[..., {places.coordinates[address].tolist()}{', :' if site.channels_first else ''}] = {value!r}",
            f"{place} = h",
        ]
    return "\n".join(lines) + "\n"
