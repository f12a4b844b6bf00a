"""Read single neurons out of a checkpoint on disk: (sharded) safetensors, element by element, without loading it.

1. The header of each shard says where every tensor lies: 8 bytes of length, JSON, then the tensors, row-major.
2. The shards are mapped into memory, and only the elements asked for are copied out of the map.
3. A row of a matrix is one stretch of the file. A column (what a hidden neuron has in a `[d_model, d_ffn]` output
   projection) is one element per row: exactly those elements are copied, but the disk delivers whole 4 KiB pages, so
   that where the columns asked for lie closer than a page the operating system reads (and can drop again) most of it.
   Memory holds the elements asked for either way.
"""

from __future__ import annotations

import json
import math
import mmap
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuroscope import files
from neuroscope.errors import FileError

DTYPES: dict[str, tuple[Any, torch.dtype]] = {  # in the file -> what numpy calls the bits, and torch the numbers
    "F64": (np.int64, torch.float64),
    "F32": (np.int32, torch.float32),
    "F16": (np.int16, torch.float16),
    "BF16": (np.int16, torch.bfloat16),
}


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies."""

    file: Path
    start: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(eq=False)
class Checkpoint:
    """The tensors of a folder of safetensors files, by name.

    Attributes:
        entries: where each tensor lies.
        header_bytes: read to find out: the headers, and the index of the shards.
        tensor_bytes: of elements copied out of the tensors so far.
    """

    entries: dict[str, Entry]
    header_bytes: int = 0
    tensor_bytes: int = 0
    maps: dict[Path, mmap.mmap] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, folder: str | PathLike) -> Checkpoint:
        """Read the headers.

        Raises:
            FileError: no safetensors, a shard that is missing or truncated, or a damaged header.
        """
        folder = Path(folder)
        index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
        if index.is_file():
            listed = files.read_json(index, "an index of shards").get("weight_map", {})
            shards, size = [folder / name for name in dict.fromkeys(listed.values())], index.stat().st_size
        else:
            shards, size = [single], 0
        if not shards or not shards[0].is_file():
            do = "give a folder with model.safetensors or its shards (save_pretrained writes them), or an opened model"
            raise FileError(f"read the checkpoint {folder}", "no safetensors files", do)
        found = cls({}, size)
        for shard in shards:
            entries, header = _header(shard)
            found.entries |= entries
            found.header_bytes += header
        return found

    def take(self, name: str, dim: int, index: Int[Tensor, " chosen"]) -> Float[Tensor, "chosen rest"]:
        """Some slices of a vector or matrix along one dimension, first in the result, in the file's dtype."""
        entry = self.entries[name]
        bits, dtype = DTYPES[entry.dtype]
        file = self._map(entry)
        stored = np.frombuffer(file, bits, math.prod(entry.shape), entry.start).reshape(entry.shape)
        page = entry.start - entry.start % mmap.PAGESIZE
        place = (page, entry.start + stored.nbytes - page)
        if dim == 0 and hasattr(mmap, "MADV_RANDOM"):  # rows are whole stretches: no reading ahead
            file.madvise(mmap.MADV_RANDOM, *place)
        taken = torch.from_numpy(np.take(stored, index.numpy(), axis=dim)).view(dtype)
        if hasattr(mmap, "MADV_DONTNEED"):  # the copy is ours: let go of the file's pages
            file.madvise(mmap.MADV_DONTNEED, *place)
        self.tensor_bytes += taken.nbytes
        return taken.movedim(dim, 0)

    def digest(self) -> str:
        """16 digits that change with the tensors' names, shapes, dtypes and places: not with their values."""
        return files.digest(*((n, e.file.name, e.start, e.shape, e.dtype) for n, e in sorted(self.entries.items())))

    def _map(self, entry: Entry) -> mmap.mmap:
        if entry.file not in self.maps:
            with entry.file.open("rb") as file:
                self.maps[entry.file] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self.maps[entry.file]


def _header(path: Path) -> tuple[dict[str, Entry], int]:
    """Where the tensors of one file lie, and the bytes read to know."""
    asked, do = f"read the checkpoint's file {path}", "the file is truncated, damaged, or missing; download it again"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length) if length < size else b"")
        entries, end = {}, 0
        for name, about in header.items():
            if name != "__metadata__":
                start, stop = about["data_offsets"]
                entries[name] = Entry(path, 8 + length + start, tuple(about["shape"]), about["dtype"])
                end = max(end, 8 + length + stop)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise FileError(asked, f"{type(error).__name__}: {error}", do) from None
    if end > size:
        raise FileError(asked, f"{size:,} bytes where its header promises {end:,}", do)
    return entries, 8 + length
