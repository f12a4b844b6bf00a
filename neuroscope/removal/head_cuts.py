"""Attention heads cut out of the projections that make and read them.

1. A head has rows in the projections of queries, keys and values, and columns of the output projection.
2. Where several query heads share a key-value head (grouped queries), a whole group goes, with its keys and values;
   of a group in part, the heads stay and their columns of the output projection become zero. That gives the same
   logits and saves nothing.
3. The projections are known by name: three of their own, or one that is fused, by thirds (GPT-2) or by head (GPT-NeoX).
   What the family's code makes of fewer heads is tried on the cut model (`removing.prune`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from neuroscope.errors import ModelError
from neuroscope.masks import NeuronMask
from neuroscope.models import Model
from neuroscope.models.sites import Site
from neuroscope.removal.cuts import Cuts
from neuroscope.training.trainable import require_plain

APART = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("q_lin", "k_lin", "v_lin"))
FUSED = ("c_attn", "query_key_value")
NUMBERS = ("num_heads", "n_heads", "num_attention_heads", "num_key_value_heads")  # of heads
SIZES = ("all_head_size", "split_size")  # of all heads together


class _Attention:
    """One block's attention, as its projections show it."""

    def __init__(self, model: Model, site: Site, asked: str) -> None:
        self.site, self.asked = site, asked
        self.modules = _around(model.root, site.path)
        found = [names for names in APART if any(hasattr(m, names[0]) for m in self.modules.values())]
        fused = [name for name in FUSED if any(hasattr(m, name) for m in self.modules.values())]
        if (not found and not fused) or not isinstance(getattr(site.module, "weight", None), nn.Parameter):
            names = ", ".join(name for name, _ in next(iter(self.modules.values())).named_children())
            raise self.refusal(f"attention whose queries, keys and values are not made by layers known here ({names})")
        self.fused = "" if found else fused[0]
        self.projections = [self._linear(name) for name in (found[0] if found else (self.fused,))]
        if found:
            rows = [_rows(linear) for linear in self.projections]
            self.n_kv = rows[1] // site.group
            is_whole = rows[0] == site.width * site.group and rows[1] == rows[2] == self.n_kv * site.group
            if not is_whole or site.width % max(self.n_kv, 1):
                raise self.refusal(f"projections of {rows} rows for {site.width} heads of {site.group}")
        else:
            self.n_kv = site.width
            if _rows(self.projections[0]) != 3 * site.width * site.group:
                raise self.refusal(f"a fused projection of {_rows(self.projections[0])} rows")

    @property
    def shared(self) -> int:
        """How many query heads share a key-value head."""
        return self.site.width // self.n_kv

    def refusal(self, found: str) -> ModelError:
        do = "switch the heads off where they are: ns.ablate(model, mask)"
        return ModelError(self.asked, f"{found}, at {self.site.address}", do)

    def _linear(self, name: str) -> Any:
        linear: Any = next(getattr(m, name) for m in self.modules.values() if hasattr(m, name))
        if not isinstance(getattr(linear, "weight", None), nn.Parameter) or linear.weight.ndim != 2:
            raise self.refusal(f"{name}, which is no plain linear layer")
        return linear

    def cut(self, cuts: Cuts, gone: Tensor) -> None:
        """Note what goes with these heads, whole groups of them."""
        width, size = self.site.width, self.site.group
        groups = gone[:: self.shared] // self.shared
        if self.fused == "c_attn":  # [queries, keys, values]
            each = [_coordinates(gone, size) + third * width * size for third in range(3)]
            _cut_rows(cuts, self.projections[0], torch.cat(each))
        elif self.fused:  # by head: its query, its key, its value
            _cut_rows(cuts, self.projections[0], _coordinates(gone, 3 * size))
        else:
            for linear, heads in zip(self.projections, (gone, groups, groups), strict=True):
                _cut_rows(cuts, linear, _coordinates(heads, size))
        output: Any = self.site.module
        cuts.remove(output.weight, 0 if hasattr(output, "nf") else 1, _coordinates(gone, size))
        left, left_kv = width - len(gone), self.n_kv - len(groups)
        new = dict.fromkeys(NUMBERS, (width, left)) | dict.fromkeys(SIZES, (width * size, left * size))
        if self.n_kv != width:
            new["num_key_value_heads"] = (self.n_kv, left_kv)
        for path, module in self.modules.items():
            changed = {name: to for name, (was, to) in new.items() if getattr(module, name, None) == was}
            if changed:
                cuts.settings[path] = changed

    def silence(self, cuts: Cuts, silent: Tensor) -> None:
        """Note that these heads write nothing."""
        output: Any = self.site.module
        cuts.zero(output.weight, 0 if hasattr(output, "nf") else 1, _coordinates(silent, self.site.group))


def _around(root: nn.Module, path: str) -> dict[str, nn.Module]:
    """The attention modules of a block by path, innermost first: what holds the output projection, and what is in it.

    BERT's projections are in a module beside the one that holds the output projection.
    """
    parent = path.rpartition(".")[0]
    tops = [parent] + [parent.rpartition(".")[0]] * ("attention" in parent.rpartition(".")[0].rpartition(".")[2])
    found = {}
    for top in tops:
        for name, module in root.get_submodule(top).named_modules():
            if not hasattr(module, "weight"):
                found[f"{top}.{name}" if name else top] = module
    return found


def _rows(linear: Any) -> int:
    return int(linear.weight.shape[1 if hasattr(linear, "nf") else 0])


def _coordinates(heads: Tensor, size: int) -> Tensor:
    return rearrange(heads[:, None] * size + torch.arange(size), "head coordinate -> (head coordinate)")


def _cut_rows(cuts: Cuts, linear: Any, rows: Tensor) -> None:
    cuts.remove(linear.weight, 1 if hasattr(linear, "nf") else 0, rows)
    if getattr(linear, "bias", None) is not None:
        cuts.remove(linear.bias, 0, rows)


def groups_of(model: Model, mask: NeuronMask, asked: str) -> dict[str, int]:
    """At each site of the mask's heads, how many query heads share a key-value head, and so go together.

    Raises:
        ModelError: attention that is not known here.
    """
    require_plain(model, asked)
    sites = model.sites("head")
    return {a: _Attention(model, sites[a], asked).shared for a in mask if len(mask[a])}


def cut_heads(model: Model, gone: Mapping[str, Tensor], silent: Mapping[str, Tensor], asked: str) -> Cuts:
    """The cuts that take heads out, whole groups of them, and let others write nothing."""
    cuts, sites = Cuts(), model.sites("head")
    for address, heads in gone.items():
        if len(heads):
            _Attention(model, sites[address], asked).cut(cuts, heads)
    for address, heads in silent.items():
        if len(heads):
            _Attention(model, sites[address], asked).silence(cuts, heads)
    return cuts
