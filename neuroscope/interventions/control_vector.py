"""What is added to neurons, as a control vector of llama.cpp: a GGUF file with one direction per layer.

1. Adding c_j to neuron j of a layer's FFN adds c_j w_out,j to what the FFN writes: the same vector at every token,

       direction.N = sum_j c_j w_out,j          [d_model]

   whatever else the model does. llama.cpp adds direction.N to the residual stream after block N.
2. That is exact where the FFN writes straight into the residual stream. A norm after the output projection (Gemma 2
   and 3), a factor on what a block writes, or another change after it makes it something else: the model is run with
   the one and the other, and refused where its logits differ.
3. llama.cpp has no direction for the first block (numbers begin at 1).

The format: `general.architecture` "controlvector", `controlvector.model_hint`, `controlvector.layer_count`, and tensors
`direction.1`, `direction.2`, ... of float32.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuroscope import files
from neuroscope.errors import ModelError
from neuroscope.models import Model
from neuroscope.models.running import logits_of, probe
from neuroscope.models.sites import Site, edit, unedited

CLOSE = 1e-4  # of the largest logit: how far rounding may move one
ARCHITECTURE = "controlvector"


def write_control_vector(
    model: Model, sites: Mapping[str, Site], added: Mapping[str, Float[Tensor, " coordinate"]], path: str | PathLike
) -> Path:
    """Write what is added to sites' vectors as a control vector, atomically.

    Args:
        sites: by address, where it is added.
        added: by address, what is added to each coordinate; 0 to those of no neuron of the mask.

    Raises:
        ModelError: the package gguf is missing; no hidden neurons of a causal model's dense FFNs; the first block; or
            a model in which it is no constant of the residual stream.
        FileError: the file cannot be written.
    """
    asked = f"write a control vector of {model.name}"
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(asked, "no package gguf, which writes it", "pip install 'neuroscope[gguf]'")
    directions = _directions(model, sites, added, asked)
    _check_same(model, sites, added, directions, asked)
    hint = str(getattr(model.config, "model_type", "") or "unknown")
    path = files.path_of(path, asked)

    def write(partial: Path) -> None:
        import gguf  # an extra: only where a file is written

        writer = gguf.GGUFWriter(partial, ARCHITECTURE)
        try:
            writer.add_string(f"{ARCHITECTURE}.model_hint", hint)
            writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(directions))
            for layer, direction in directions.items():
                writer.add_tensor(f"direction.{layer}", direction.numpy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()

    return files.write(path, write)


@torch.no_grad()
def _directions(
    model: Model, sites: Mapping[str, Site], added: Mapping[str, Tensor], asked: str
) -> dict[int, Float[Tensor, " d_model"]]:
    """By layer, the sum of the neurons' output weights, each times what is added to it."""
    directions: dict[int, Tensor] = {}
    for address, site in sites.items():
        dense = site.unit == "hidden" and site.expert is None and "shared_expert" not in address and bool(site.out)
        if model.style != "causal" or not (dense or site.unit == "output"):
            found = f"{address} of a {model.style} model, which writes no constant into the residual stream"
            raise ModelError(asked, found, "add to hidden neurons or outputs of dense FFNs of a causal model")
        if site.layer == 0:
            found = f"neurons of the first block, {address}, for which llama.cpp has no direction"
            raise ModelError(asked, found, "leave them out of the mask: later blocks read what the first one writes")
        direction = added[address].float()
        if dense:
            direction = site.out[0].view().detach().to("cpu", torch.float32) @ direction  # [d_model, neuron] of neurons
        directions[site.layer] = directions.get(site.layer, torch.zeros_like(direction)) + direction
    return dict(sorted(directions.items()))


def _check_same(
    model: Model, sites: Mapping[str, Site], added: Mapping[str, Tensor], directions: Mapping[int, Tensor], asked: str
) -> None:
    """Refuse a model whose logits are others with the directions than with what is added to its neurons."""

    def plus(site: Site, h: Tensor, tokens: Tensor | None) -> Tensor:
        return h + added[site.address].to(h)

    def after(layer: int) -> Any:
        def hook(module: nn.Module, args: tuple, output: Any) -> Any:
            first = output[0] if isinstance(output, tuple) else output
            new = first + directions[layer].to(first)
            return (new, *output[1:]) if isinstance(output, tuple) else new

        return hook

    with unedited(), model.quiet(), torch.no_grad():
        inputs = probe(model.base, model.style)
        with edit(sites.values(), plus):
            expected = logits_of(model.root(**inputs))
        blocks = {site.layer: _block(model, site) for site in sites.values()}
        handles = [block.register_forward_hook(after(layer)) for layer, block in blocks.items()]
        try:
            logits = logits_of(model.root(**inputs))
        finally:
            for handle in handles:
                handle.remove()
    apart, largest = float((logits - expected).abs().max()), float(expected.abs().max())
    if not apart <= max(CLOSE, 8 * torch.finfo(expected.dtype).eps) * largest:
        found = f"a {type(model.base).__name__}, in which it is no constant of the residual stream (a norm or a factor "
        found += f"after the FFN): its logits are {apart:.2g} apart"
        raise ModelError(asked, found, "steer it where it runs: with ns.add(model, mask, amount)")


def _block(model: Model, site: Site) -> nn.Module:
    """The block that a site is in."""
    inside = re.match(r".*?\.\d+(?=\.)", site.path)
    assert inside is not None  # every site is in a numbered block
    return model.base.get_submodule(inside[0])
