"""An adapter as a folder that PEFT opens: a LoRA of full rank on the rows and columns that were trained.

With R the chosen outputs ("rows") of a layer, C its chosen inputs ("columns"), D their changes and E the unit vectors,

    delta W = E_R D_R + D_C E_C^T = B A,      A = [D_R; E_C^T],      B = [E_R, D_C]

    A [rank, inputs], B [outputs, rank], rank = |R| + |C|

which is exact. The changes of biases are the bias of B (`lora_bias`). Each layer has its own rank, and alpha = rank, so
that PEFT's scale alpha / rank is 1. The unit vectors are stored as well: a file of 4 rank (inputs + outputs) bytes a
layer, where the adapter's own has 4 rank inputs (or outputs).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuroscope import distributed, files
from neuroscope.errors import ModelError
from neuroscope.training.deltas import PlacedDelta
from neuroscope.training.saving import write_folder

TASKS = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "masked": None}


def write_peft(adapter: Any, folder: str | PathLike) -> Path:
    """Write an adapter's changes, at the scale that it has, as PEFT's `adapter_config.json` and weights.

    Raises:
        FileError: the folder exists and is not empty, or cannot be written.
        ModelError: layers of both torch's and GPT-2's kind, which one configuration of PEFT cannot say.
    """
    import peft  # heavy: only where an adapter is written for it
    from safetensors.torch import save_file  # only where a file is written

    model = adapter.model
    asked = f"write an adapter of {model.name} for PEFT"
    by_layer: dict[str, list[PlacedDelta]] = {}
    for placed in adapter.placed:
        by_layer.setdefault(placed.path, []).append(placed)
    transposed = {hasattr(each[0].linear, "nf") for each in by_layer.values()}
    if len(transposed) > 1:
        raise ModelError(asked, "layers of two kinds, Linear and Conv1D", "export(folder) writes a whole checkpoint")
    has_bias = any(placed.delta.bias is not None for placed in adapter.placed)
    distributed.settle(model.root)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for path, each in by_layer.items():
        down, up, bias = _factors(each)
        ranks[path] = len(down)
        tensors[f"base_model.model.{path}.lora_A.weight"] = down
        tensors[f"base_model.model.{path}.lora_B.weight"] = up
        if has_bias:
            tensors[f"base_model.model.{path}.lora_B.bias"] = bias
    most = max(ranks.values())
    config = peft.LoraConfig(
        r=most,
        lora_alpha=most,
        target_modules=list(ranks),
        rank_pattern=ranks,
        alpha_pattern=ranks,
        lora_bias=has_bias,
        fan_in_fan_out=transposed == {True},
        task_type=TASKS[model.style],
        base_model_name_or_path=getattr(model.config, "_name_or_path", "") or model.name,
        inference_mode=True,
    )

    def write(partial: Path) -> None:
        partial.mkdir()
        config.save_pretrained(str(partial))
        save_file(tensors, partial / "adapter_model.safetensors", {"format": "pt"})
        (partial / "README.md").write_text(_card(adapter, ranks, tensors), encoding="utf-8")

    with distributed.writing(model.root) as writes:
        return write_folder(folder, write, asked) if writes else files.path_of(folder, asked)


@torch.no_grad()
def _factors(each: Sequence[PlacedDelta]) -> tuple[Tensor, Tensor, Tensor]:
    """A [rank, inputs], B [outputs, rank] and the bias [outputs] of one layer."""
    linear: Any = each[0].linear
    n_in, n_out = linear.weight.shape if hasattr(linear, "nf") else linear.weight.shape[::-1]
    downs, ups, bias = [], [], torch.zeros(n_out)
    for placed in each:
        delta = placed.delta
        change = delta.strength * distributed.gathered(delta.weight).detach().cpu().float()
        index = delta.index.cpu()
        units = torch.zeros(len(index), n_out if delta.side == "rows" else n_in)
        units[torch.arange(len(index)), index] = 1.0
        downs.append(change if delta.side == "rows" else units)
        ups.append(units.T if delta.side == "rows" else change.T)
        if delta.bias is not None:
            bias[index] += delta.strength * distributed.gathered(delta.bias).detach().cpu().float()
    return torch.cat(downs).contiguous(), torch.cat(ups, dim=1).contiguous(), bias


def _card(adapter: Any, ranks: dict[str, int], tensors: dict[str, Tensor]) -> str:
    """What the folder holds, for its readers."""
    stored = sum(t.numel() for t in tensors.values())
    base = getattr(adapter.model.config, "_name_or_path", "") or adapter.model.name
    head = {"base_model": base, "library_name": "peft", "tags": ["neuroscope", "lora"]}
    lines = "".join(f"{key}: {json.dumps(value)}\n" for key, value in head.items())
    return (
        f"---\n{lines}---\n\nA change to {len(adapter.mask):,} {adapter.mask.unit} neurons, as a LoRA of full rank on "
        f"their rows and columns: rank {min(ranks.values())} to {max(ranks.values())} at {len(ranks)} layers, "
        f"{stored:,} numbers for {adapter.n_parameters:,} that were trained. It is for a base of fingerprint "
        f"{adapter.base}.\n\n```python\npeft.PeftModel.from_pretrained(base, folder)\n```\n"
    )
