"""Read single neurons out of a checkpoint on disk: (sharded) safetensors, element by element, without loading it.

1. The header of each shard says where every tensor lies: 8 bytes of length, JSON, then the tensors, row-major.
2. The shards are mapped into memory, and only the elements asked for are copied out of the map.
3. A row of a matrix is one stretch of the file. A column (what a hidden neuron has in a `[d_model, d_ffn]` output
   projection) is one element per row: exactly those elements are copied, but the disk delivers whole 4 KiB pages, so
   that where the columns asked for lie closer than a page the operating system reads (and can drop again) most of it:
   ask for all columns at once, and some rows of the matrix at a time. Memory holds the elements asked for either way.
"""

from __future__ import annotations

import json
import math
import mmap
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuroscope import files
from neuroscope.errors import FileError

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # in the file


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
        """Read the headers. As in transformers, an index counts where there is no model.safetensors.

        Raises:
            FileError: no safetensors, a shard that is missing or truncated, or a damaged header or index.
        """
        folder = Path(folder)
        index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
        shards, size = [single], 0
        if index.is_file() and not single.is_file():
            shards, size = [folder / name for name in _shards(index)], index.stat().st_size
        if not shards or not shards[0].is_file():
            do = "give a folder with model.safetensors or its shards (save_pretrained writes them), or an opened model"
            raise FileError(f"read the checkpoint {folder}", "no safetensors files", do)
        checkpoint = cls({}, size)
        for shard in shards:
            entries, header = _header(shard)
            checkpoint.entries |= entries
            checkpoint.header_bytes += header
        return checkpoint

    def take(
        self, name: str, dim: int, index: Int[Tensor, " chosen"], within: slice = slice(None)
    ) -> Float[Tensor, "chosen rest"]:
        """Some slices of a vector or matrix along one dimension, first in the result, in the file's dtype.

        Args:
            within: of each slice of a matrix, which entries; of columns, no others are read.
        """
        entry = self.entries[name]
        dtype, file = DTYPES[entry.dtype], self._map(entry)
        size = math.prod(entry.shape) * dtype.itemsize
        stored = np.frombuffer(file, np.uint8, size, entry.start).reshape(*entry.shape, dtype.itemsize)  # if misaligned
        page = entry.start - entry.start % mmap.PAGESIZE
        place = (page, entry.start + size - page)
        if dim == 0 and hasattr(mmap, "MADV_RANDOM"):  # rows are whole stretches: no reading ahead
            file.madvise(mmap.MADV_RANDOM, *place)
        copied = np.take(stored[within] if dim == 1 else stored, index.numpy(), axis=dim)
        if hasattr(mmap, "MADV_DONTNEED"):  # the copy is ours: let go of the file's pages
            file.madvise(mmap.MADV_DONTNEED, *place)
        self.tensor_bytes += copied.nbytes
        taken = torch.from_numpy(copied).view(dtype).squeeze(-1)
        return taken.T if dim == 1 else taken[:, within] if taken.ndim == 2 else taken

    def digest(self) -> str:
        """16 digits that change with the tensors' names, shapes, dtypes and places: not with their values."""
        return files.digest(*((n, e.file.name, e.start, e.shape, e.dtype) for n, e in sorted(self.entries.items())))

    def _map(self, entry: Entry) -> mmap.mmap:
        if entry.file not in self.maps:
            with entry.file.open("rb") as file:
                self.maps[entry.file] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self.maps[entry.file]


def _shards(index: Path) -> list[str]:
    """Names of the files that an index lists."""
    listed = files.read_json(index, "an index of shards")
    names = listed.get("weight_map") if isinstance(listed, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        do = "the index is damaged; download it again"
        raise FileError(f"read an index of shards from {index}", "no weight_map of tensors' names to files' names", do)
    return list(dict.fromkeys(names.values()))


def _header(path: Path) -> tuple[dict[str, Entry], int]:
    """Where the tensors of one file lie, and the bytes read to know."""
    asked, do = f"read the checkpoint's file {path}", "the file is truncated, damaged, or missing; download it again"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length) if length < size else b"")
        entries, end = {}, 0
        for name, described in header.items():
            if name != "__metadata__":
                start, stop = described["data_offsets"]
                entries[name] = entry = Entry(path, 8 + length + start, tuple(described["shape"]), described["dtype"])
                known = DTYPES.get(entry.dtype)
                extent = stop - start if known is None else math.prod(entry.shape) * known.itemsize
                is_sound = all(type(v) is int and v >= 0 for v in (*entry.shape, start, stop))
                if not is_sound or stop < start or stop - start != extent:
                    raise ValueError(f"{name} of shape {entry.shape} in {entry.dtype} at bytes {start} to {stop}")
                end = max(end, 8 + length + stop)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FileError(asked, f"{type(error).__name__}: {error}", do) from None
    if end > size:
        raise FileError(asked, f"{size:,} bytes where its header promises {end:,}", do)
    return entries, 8 + length
