"""Published masks in other people's formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

import torch

from neuroscope import files
from neuroscope.checks import names_of, public, whole
from neuroscope.errors import ByName, FileError, MaskError
from neuroscope.masks import NeuronMask, masks_of


@public
def load_lape(path: str | PathLike, *, names: Sequence[str], width: int) -> dict[str, NeuronMask]:
    """Read published language-specific neurons (Tang et al. 2024), without unpickling.

    Args:
        path: their `.neuron.pth`: a list over languages of a list over layers of LongTensors of hidden neurons.
        names: the languages, in the file's order.
        width: FFN width of the model (Llama-2-7b: 11008).

    Raises:
        FileError: not such a file, or another number of languages.
    """
    names, width, asked = list(names_of(names, "names")), whole(width, "width", 1), f"read LAPE masks from {path}"
    path = files.path_of(path, "read LAPE masks")
    try:
        languages = torch.load(path, weights_only=True, map_location="cpu")
        layers = {len(language) for language in languages}
        tensors_inside = all(torch.is_tensor(layer) for language in languages for layer in language)
    except Exception as error:  # a broken pickle raises nearly anything
        text = str(error).partition("\n")[0]
        raise FileError(asked, f"{type(error).__name__}: {text}", "check the path") from None
    if len(layers) != 1 or not tensors_inside or not isinstance(languages, list):
        raise FileError(asked, "something else than a list of languages of layers", "give a LAPE .neuron.pth file")
    if len(languages) != len(names):
        found = f"{len(languages)} languages for {len(names)} different names"
        raise FileError(asked, found, "give a name for each, in order")
    widths = {f"blocks.{i}.mlp.hook_post": width for i in range(layers.pop())}
    masks: dict[str, NeuronMask] = ByName()
    for name, language in zip(names, languages, strict=True):
        about = {"method": "lape", "task": name}
        try:
            masks[name] = NeuronMask.of(dict(zip(widths, language, strict=True)), widths, manifest=about)
        except MaskError as error:
            do = "check the width, and the file"
            raise FileError(asked, f"{error.asked} for {name!r}: {error.found}", do) from None
    return masks


@public
def save_lape(masks: Mapping[str, NeuronMask], path: str | PathLike) -> Path:
    """Write masks in LAPE's `.neuron.pth` format: languages in the mapping's order.

    Raises:
        ArgumentError: no dict of masks.
        MaskError: neurons that the format has no place for (experts, output units, heads, encoders).
    """
    masks = masks_of(masks, "save_lape")
    for name, mask in masks.items():
        plain = [f"blocks.{i}.mlp.hook_post" for i in range(len(mask.widths))]
        if list(mask.widths) != plain:
            other = next(a for a, b in zip(mask.widths, plain, strict=True) if a != b)
            raise MaskError(
                f"write {name!r} as LAPE masks", f"a site {other}", "use mask.save(path), which keeps any site"
            )
    languages = [list(mask.values()) for mask in masks.values()]
    return files.write(path, lambda partial: torch.save(languages, partial))
