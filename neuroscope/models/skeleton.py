"""A model without weights: where the neurons of a checkpoint are, found without reading its tensors.

1. The class that config.json names is built on torch's meta device, where parameters have shapes and names but no data.
2. Discovery runs there as it does on any model, because the autograd graph needs no numbers.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import torch

from neuroscope.errors import ModelError
from neuroscope.models.discovery import discover
from neuroscope.models.experts import untapped
from neuroscope.models.hugging_face import architecture, sites_by_unit, style_of
from neuroscope.models.model import Model, quiet
from neuroscope.models.running import probe
from neuroscope.models.sites import unedited


def skeleton(folder: str | PathLike) -> Model:
    """The sites of a local checkpoint; parameters have their names, shapes and orientation, and no data.

    Raises:
        ModelError: no configuration that transformers knows, or a mixture of experts.
    """
    import transformers  # heavy: only where a checkpoint is opened

    folder, asked = Path(folder), f"find the neurons of the checkpoint {folder}"
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        kind: Any = architecture(config)
        build = kind.from_config if kind.__name__.startswith("Auto") else kind
        with torch.device("meta"):
            root = build(config).eval()
    except Exception as error:  # transformers raises a dozen kinds; the text is what helps
        text = " ".join(str(error).split())[:300]
        do = "give a local folder with the config.json of a transformers model"
        raise ModelError(asked, f"{type(error).__name__}: {text}", do) from error
    closed = untapped(root)
    if closed:
        do = "load the model, tap its experts (ns.interop.tap_experts), and give the model itself"
        raise ModelError(asked, f"a mixture of experts ({closed[0]}), stored expert by expert", do)
    style = style_of(root)
    with unedited(), torch.inference_mode(False), quiet(root):
        inputs = probe(root, style)
        del inputs["attention_mask"]  # its values would be asked for, and there are none
        root.config.pad_token_id = None  # likewise: some models compare their input with it, to warn
        units, problems = sites_by_unit(root, root, discover(root, inputs))
    return Model(str(folder), "checkpoint", style, root, None, folder, units, problems, has_parameters=False)
