"""A mask as TransformerLens hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from neuroscope.checks import finite, public
from neuroscope.errors import ModelError
from neuroscope.masks import NeuronMask, check_mask

Hook = Callable[[Tensor, Any], Tensor]


@public
def lens_hooks(mask: NeuronMask, *, value: float = 0.0) -> list[tuple[str, Hook]]:
    """TransformerLens `fwd_hooks` that set a mask's neurons to a value: for `bridge.run_with_hooks(fwd_hooks=...)`.

    Raises:
        ArgumentError: no mask, or a value that is no finite number.
        ModelError: neurons of an expert, which TransformerLens does not know.
    """
    check_mask(mask, "lens_hooks")
    value = finite(value, "lens_hooks(value)")
    chosen = {address: neurons for address, neurons in mask.items() if len(neurons)}
    expert = next((address for address in chosen if ".experts." in address), None)
    if expert:
        do = "use ns.ablate(bridge, mask)"
        raise ModelError("lens_hooks for a neuron of an expert", f"{expert}, which TransformerLens does not know", do)
    return [(address, _setter(neurons, address, value)) for address, neurons in chosen.items()]


def _setter(neurons: Tensor, address: str, value: float) -> Hook:
    dim = -2 if address.endswith("hook_z") else -1  # TransformerLens shows heads as [batch, pos, head, d_head]

    def fill(activation: Tensor, hook: Any) -> Tensor:
        return activation.index_fill(dim, neurons.to(activation.device), value)

    return fill
