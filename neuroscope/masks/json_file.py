"""Masks as JSON: what a page gives a reader to take away, and what is easily written by hand.

{"kind": "NeuronMask", "format": 1, "unit": "hidden",
 "widths": {"blocks.0.mlp.hook_post": 512}, "neurons": {"blocks.0.mlp.hook_post": [3, 17]}, "manifest": {}}
"""

from __future__ import annotations

import codecs
import json
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroscope import files
from neuroscope.errors import FileError

if TYPE_CHECKING:
    from neuroscope.masks.per_neuron import PerNeuron

PARTS = ("neurons", "widths", "unit", "manifest")


def is_json(path: str | PathLike) -> bool:
    """Whether a file begins as a JSON object, which no safetensors file does: the length of a header comes first.

    A file that cannot be read is none.
    """
    try:
        with files.path_of(path, "read NeuronMask").open("rb") as file:
            start = file.read(8)
    except OSError:
        return False
    return start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{") and b"\0" not in start


def mask_in_json(path: str | PathLike) -> dict[str, Any]:
    """The arguments of `NeuronMask.of`, of a file that has them.

    Raises:
        FileError: something else, or of a later version.
    """
    content = files.read_json(path, "NeuronMask")
    asked = f"read NeuronMask from {path}"
    kind, form = content.get("kind"), content.get("format")
    if kind != "NeuronMask" or not isinstance(form, int) or form > files.FORMAT:
        raise FileError(asked, f"a file of kind {kind!r}, format {form}", "load it with its own class, or update")
    if missing := [part for part in PARTS if part not in content]:
        raise FileError(asked, f"no {', no '.join(missing)}", "write the file again")
    return {part: content[part] for part in PARTS}


def save_json(mask: PerNeuron, path: str | PathLike) -> Path:
    """Write a mask's neurons, widths, unit and manifest as JSON; what else it carries (evidence, means) is left out.

    Raises:
        FileError: the file cannot be written.
    """
    content = {
        "kind": "NeuronMask",
        "format": files.FORMAT,
        "unit": mask.unit,
        "widths": dict(mask.widths),
        "neurons": {address: neurons.tolist() for address, neurons in mask.items() if len(neurons)},
        "manifest": dict(mask.manifest),
    }
    return files.write(path, json.dumps(content))
