"""Where neurons' parameters are read from: an opened model, a checkpoint on disk, or an adapter's file over either."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuroscope import files
from neuroscope.comparison.parameters.checkpoint_rows import DTYPES, Checkpoint
from neuroscope.distributed import has_shards
from neuroscope.errors import ArgumentError, FileError, MaskError, ModelError
from neuroscope.masks import NeuronMask, read_safetensors
from neuroscope.models import Model, bundled, require_parameters, resolve
from neuroscope.models.sites import Rows, Site
from neuroscope.models.skeleton import skeleton

Read = Callable[
    [Rows, Tensor, slice], Tensor
]  # neurons -> some of their entries of a parameter, [neuron, rest], float64
DELTAS = "neuron_deltas"  # what a NeuronAdapter calls its part of a linear layer


@dataclass(frozen=True, eq=False)
class Source:
    """A model whose neurons' parameters can be read.

    Attributes:
        model: with its sites; without data if the source is a checkpoint.
        read: the entries of chosen neurons.
        origin: where the parameters come from, for the manifest.
        checkpoint: what was read of which file, if the source is a checkpoint.
    """

    model: Model
    read: Read
    origin: dict[str, Any]
    checkpoint: Checkpoint | None = None

    def names(self) -> dict[int, str]:
        """Name of each parameter, by its identity."""
        return {id(p): name for name, p in self.model.root.named_parameters(remove_duplicate=False)}


def open_source(model: Any, asked: str) -> Source:
    """Anything that can be opened; a local folder is read in place, without loading it; (either, adapter's file).

    Raises:
        ArgumentError: a tuple of something else.
        ModelError: parameters that are rewritten, wrapped, sharded, or changed by a live adapter.
        FileError: a checkpoint or an adapter that cannot be read.
    """
    if isinstance(model, tuple):
        if len(model) != 2 or not isinstance(model[1], (str, PathLike)):
            found = f"a tuple of {', '.join(type(part).__name__ for part in model) or 'nothing'}"
            raise ArgumentError(asked, found, 'give (model or checkpoint folder, "adapter.safetensors")')
        return with_adapter(open_source(model[0], asked), model[1], asked)
    if hasattr(model, "detach") and hasattr(model, "mask"):  # a NeuronAdapter, which stands on a floor above
        do = 'save it, detach it, and give its file: "adapter.safetensors"'
        raise ArgumentError(asked, "an adapter, whose model is another one while it is on", do)
    folder = _folder(model)
    return _checkpoint(folder, str(model), asked) if folder is not None else _live(resolve(model), asked)


def rows_of(site: Site, part: str, asked: str) -> list[tuple[str, Rows]]:
    """The slices of parameters that make up the site's neurons, named by role.

    Raises:
        ModelError: the parameters are out of reach, or the FFN has no such part.
    """
    if not site.out or (site.unit == "hidden" and not site.ins):
        do = "open the model in float32 or bfloat16, not quantised"
        raise ModelError(asked, f"{site.address}, whose parameters are out of reach", do)
    roles = [(role, rows) for role, listed in site.ins.items() for rows in listed]
    roles += [("down" if site.unit == "hidden" else "out", rows) for rows in site.out]
    wanted = [pair for pair in roles if part == "all" or _part(pair[0]) == part]
    if not wanted:
        have = ", ".join(sorted({_part(role) for role, _ in roles}))
        raise ModelError(asked, f"no part {part!r} in {site.address}, which has {have}", "take part='all'")
    return wanted


def _part(role: str) -> str:
    name = role.removesuffix(".bias")
    return "up" if name == "in" else name


def _folder(model: Any) -> Path | None:
    if not isinstance(model, (str, PathLike)):
        return None
    folder = bundled(str(model)) or Path(model).expanduser()
    return folder if (folder / "config.json").is_file() else None


def _live(model: Model, asked: str) -> Source:
    require_parameters(model, asked)
    if model.base is not model.root:
        raise ModelError(asked, "a PEFT wrapper", "call merge_and_unload() on it, and open what that returns")
    if has_shards(model.root):
        raise ModelError(asked, "parameters that are sharded over processes", "open the model unsharded")
    for path, module in model.root.named_modules():
        for delta in getattr(module, DELTAS, {}).values():
            if delta.live and delta.strength != 0:
                do = "call adapter.merge() before (and unmerge() after), or save and detach it, and give its file"
                raise ModelError(asked, f"a NeuronAdapter at {path}, which is not in the parameters", do)

    def read(rows: Rows, neurons: Int[Tensor, " chosen"], within: slice) -> Float[Tensor, "chosen rest"]:
        entries = rows.view().detach()
        entries = entries[within] if entries.ndim > 1 else entries
        return _wide(entries.index_select(-1, neurons.to(entries.device)).movedim(-1, 0))

    return Source(model, read, model.provenance())


def _wide(entries: Tensor) -> Tensor:
    """Float64, on the same device if that has it, one row per neuron."""
    entries = entries.cpu() if entries.device.type == "mps" else entries
    return (entries[:, None] if entries.ndim == 1 else entries).contiguous().double()


def _checkpoint(folder: Path, label: str, asked: str) -> Source:
    model, stored = skeleton(folder), Checkpoint.open(folder)
    keys: dict[int, str] = {}
    prefix = getattr(model.root, "base_model_prefix", "")
    names = {id(p): n for n, p in model.root.named_parameters(remove_duplicate=False)}

    def key_of(rows: Rows) -> str:
        name = names[id(rows.param)]
        spellings = (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}")
        key = next((spelling for spelling in spellings if spelling in stored.entries), "")
        entry = stored.entries.get(key)
        if entry is None or entry.shape != tuple(rows.param.shape) or entry.dtype not in DTYPES:
            have = f"{name} of shape {entry.shape} in {entry.dtype}" if entry else f"no tensor {name}"
            do = "load the model, and give it instead: its names or its format are not those of the class"
            raise FileError(asked, f"{have} in {folder}, for {tuple(rows.param.shape)}", do)
        return key

    def read(rows: Rows, neurons: Int[Tensor, " chosen"], within: slice) -> Float[Tensor, "chosen rest"]:
        key = keys.get(id(rows.param)) or keys.setdefault(id(rows.param), key_of(rows))
        return _wide(stored.take(key, rows.dim, rows.start + rows.step * neurons, within))

    dtype = next((e.dtype for e in stored.entries.values()), "")
    origin = {"model": label, "backend": "checkpoint", "dtype": dtype, "layout": stored.digest()}
    return Source(model, read, origin, stored)


def with_adapter(base: Source, path: str | PathLike, asked: str) -> Source:
    """The base with the deltas of a NeuronAdapter's file added, in float64, nothing written.

    A live base is checked by its fingerprint; a checkpoint's cannot be known without loading it, so there only names
    and shapes are.
    """
    if "adapter" in base.origin:
        raise ModelError(asked, "an adapter over an adapter, whose changes would add", "give other=(base, path)")
    try:
        tensors, shape, manifest = read_safetensors(path, "NeuronAdapter")
    except FileError as error:
        do = "give the file of a NeuronAdapter; merge a LoRA, save the model, and give that folder as a model"
        raise FileError(asked, f"{path}: {error.found}", do) from None
    if not {"base", "scale"} <= manifest.keys():
        raise FileError(asked, f"no base or scale in the manifest of {path}", "write it with adapter.save()")
    if base.checkpoint is None and manifest["base"] != base.origin["fingerprint"]:
        found = f"an adapter of a base of fingerprint {manifest['base']}; this model is {base.origin['fingerprint']}"
        raise ModelError(asked, found, "open the model it was trained on, of the same revision and dtype")
    chosen = {a: tensors[f"values/{a}"] for a in shape["widths"] if f"values/{a}" in tensors}
    try:
        mask = NeuronMask.of(chosen, shape["widths"], shape["unit"])
        sites = base.model.sites(mask.unit)
        mask.fits(sites, asked)
    except MaskError as error:
        raise FileError(asked, f"{path}: {error.found}", "give an adapter of this model") from None
    changes = dict(_changes(base, mask, sites, tensors, str(path), asked))

    def read(rows: Rows, neurons: Int[Tensor, " chosen"], within: slice) -> Float[Tensor, "chosen rest"]:
        entries = base.read(rows, neurons, within)
        if id(rows.param) not in changes:
            return entries
        index, delta = changes[id(rows.param)]
        where = torch.full((rows.param.shape[rows.dim],), -1)
        where[index] = torch.arange(len(index))
        places = where[rows.start + rows.step * neurons]
        changed = places >= 0
        entries[changed] += manifest["scale"] * delta[places[changed], within].to(entries.device)
        return entries

    adapter = {"adapter": files.digest(mask.identity, manifest["base"]), "scale": manifest["scale"]}
    return replace(base, read=read, origin=base.origin | adapter)


def _changes(
    base: Source, mask: NeuronMask, sites: Mapping[str, Site], tensors: Mapping[str, Tensor], path: str, asked: str
) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    """For each parameter by identity: which of its slices an adapter changes, and by what."""
    names = base.names()
    places: dict[int, list[tuple[Rows, Tensor]]] = {}
    for address, neurons in mask.items():
        for _, rows in rows_of(sites[address], "all", asked) if len(neurons) else []:
            places.setdefault(id(rows.param), []).append((rows, rows.start + rows.step * neurons))
    for key, slices in places.items():
        index = torch.cat([indices for _, indices in sorted(slices, key=lambda one: one[0].start)])
        module, _, kind = names[key].rpartition(".")
        stored = [tensors.get(f"deltas/{module}.{side}.{kind}") for side in ("rows", "columns")]
        delta = next((d for d in stored if d is not None), torch.zeros(0))
        first = slices[0][0]
        if (
            len(delta) != len(index)
            or delta.numel() != len(index) * first.param.numel() // first.param.shape[first.dim]
        ):
            raise FileError(asked, f"no delta of {len(index)} neurons for {names[key]} in {path}", "save it again")
        yield key, (index, _wide(delta))
