"""Several processes: parts of a loop, sums over all processes, and tensors that are cut into shards.

`torchrun` or `accelerate launch` starts the same script in every process. Where torch.distributed is initialised:

1. every process works on its part (`my_part`) of a loop over examples, or over the cells of a grid;
2. `total` adds the processes' sums, and `exchanged` gives each the others' cells, so that all go on with the same
   numbers (`shared_out` does both for the cells of a grid);
3. an error in one process is told to the others at the next exchange, so that none waits for ever.

FSDP2 keeps of each parameter a shard per process: `gathered` gives it whole, `fill` writes it; every process must call
them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from neuroscope import files
from neuroscope.checks import Progress, watched
from neuroscope.errors import ArgumentError, NeuroscopeError

T = TypeVar("T")
_alone: ContextVar[bool] = ContextVar("alone", default=False)


class PeerError(NeuroscopeError):
    """Another process failed, so that there is no sum over all of them."""


def _peers(asked: str, failed: Mapping[int, str]) -> PeerError:
    found = "; ".join(f"an error in process {number}: {words}" for number, words in failed.items())
    return PeerError(asked, found, "see what that process said")


def world() -> tuple[int, int]:
    """This process's rank, and the number of processes: (0, 1) without a process group, and within `apart`."""
    if _alone.get() or not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def is_apart() -> bool:
    """Whether this process computes on its own, though there are others."""
    return _alone.get() and distributed.is_available() and distributed.is_initialized()


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """A scope in which this process computes on its own, such as each process another task."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def my_part(items: Sequence[T]) -> list[T]:
    """Every n-th of the items, n being the number of processes: together the processes have each item once."""
    rank, size = world()
    return list(items[rank::size])


def is_told(error: Exception) -> bool:
    """Whether every process has this error or knows of it, so that all may go on alike."""
    return isinstance(error, PeerError) or bool(vars(error).get("told"))


@contextlib.contextmanager
def together(asked: str, *same: object) -> Iterator[None]:
    """A scope that all processes enter for the same purpose; an error in one of them ends it in all.

    Args:
        same: what must be the same in every process; anything whose `repr` says all there is to say.

    Raises:
        ArgumentError: the processes ask for different things.
        PeerError: another process failed.
    """
    if world()[1] == 1:
        yield
        return
    number = int(files.digest(asked, *same), 16) // 2
    extremes = _reduced(torch.tensor([number, -number]), distributed.ReduceOp.MAX)
    if int(extremes[0]) != -int(extremes[1]):
        do = "call it alike in every process, or each within `with neuroscope.distributed.apart():`"
        raise ArgumentError(asked, "processes that differ in the model, the data or the settings", do)
    try:
        yield
    except Exception as error:
        if not is_told(error):  # else by a scope within this one
            with contextlib.suppress(RuntimeError):  # the connection itself may be what failed
                _tell(error)
            vars(error)["told"] = True
        raise


def total(sums: Mapping[str, Tensor], keys: Sequence[str]) -> dict[str, Tensor]:
    """The sum over processes of each tensor, within `together`; with one process, the tensors as they are.

    Args:
        sums: this process's, of some of the keys; a process that lacks one counts as zeros.
        keys: all that there may be, in the same order in every process.

    Returns:
        For each key that any process has, a flat float64 tensor on the CPU, the same in every process.
    """
    if world()[1] == 1:
        return dict(sums)
    if failed := _tell():
        raise _peers("a sum over processes", failed)
    sizes = torch.tensor([sums[k].numel() if k in sums else 0 for k in keys])
    sizes = _reduced(sizes, distributed.ReduceOp.MAX)
    named = [(k, n) for k, n in zip(keys, sizes.tolist(), strict=True) if n]
    parts = [sums[k].detach().flatten().double().cpu() if k in sums else torch.zeros(n).double() for k, n in named]
    if not parts:
        return {}
    added = _reduced(torch.cat(parts), distributed.ReduceOp.SUM).split([n for _, n in named])
    return {k: s for (k, _), s in zip(named, added, strict=True)}


def shared_out(
    asked: str, cells: Mapping[str, Callable[[], T]], progress: Progress | None = None, whole: bool = False
) -> dict[str, T]:
    """What every cell gives, each computed by one of the processes on its own, in the order of the cells.

    Args:
        asked: what it is for; `progress` shows this process's cells under this name.
        cells: by a key that tells a cell from others, the same in every process, as is their order.
        whole: the processes do all cells together, as the passes of a model that is sharded over them need it.
    """
    with together(asked, *cells):
        mine = list(cells) if whole else my_part(list(cells))
        with contextlib.nullcontext() if whole else apart():
            found = {key: cells[key]() for key in watched(mine, progress if mine else None, asked)}
        every = found if whole else exchanged(found)
    return {key: every[key] for key in cells}


def exchanged(found: Mapping[str, T]) -> dict[str, T]:
    """What all processes found, within `together`; with one process, what it found."""
    size = world()[1]
    if size == 1:
        return dict(found)
    if failed := _tell():
        raise _peers("what all processes found", failed)
    parts: list[Any] = [None] * size
    distributed.all_gather_object(parts, dict(found))
    return {key: value for part in parts for key, value in part.items()}


def _tell(error: Exception | None = None) -> dict[int, str]:
    """Tell the others whether this process failed; of those that did, their number and what they say."""
    rank, size = world()
    flags = torch.zeros(size, dtype=torch.int64)
    flags[rank] = int(error is not None)
    if not _reduced(flags, distributed.ReduceOp.MAX).any():
        return {}
    found = error.found if isinstance(error, NeuroscopeError) else str(error)
    words: list[Any] = [None] * size
    distributed.all_gather_object(words, None if error is None else f"{type(error).__name__}: {found}")
    return {number: each for number, each in enumerate(words) if each is not None}


def _reduced(tensor: Tensor, how: distributed.ReduceOp.RedOpType) -> Tensor:
    backends = distributed.get_backend_config()  # such as "cpu:gloo,cuda:nccl"
    device = "cpu" if "cpu:" in backends else backends.partition(":")[0]  # its current one: NCCL has no other
    moved = tensor.to(device)
    distributed.all_reduce(moved, how)
    return moved.cpu()


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds a shard of the tensor only."""
    return hasattr(tensor, "full_tensor")


def has_shards(root: nn.Module) -> bool:
    """Whether a model's parameters are sharded over processes."""
    return hasattr(root, "unshard") or any(is_sharded(p) for p in root.parameters())


def gathered(tensor: Tensor) -> Tensor:
    """The tensor itself, or gathered from its shards, without a graph; to be called in every process."""
    full = getattr(tensor, "full_tensor", None)
    if full is None:
        return tensor.detach()
    with torch.no_grad():
        return full().detach()


@torch.no_grad()
def fill(tensor: Tensor, values: Tensor) -> None:
    """Overwrite a tensor, or this process's shard of it, by values of all of it."""
    if not is_sharded(tensor):
        tensor.copy_(values)
        return
    from torch.distributed.tensor import DTensor, distribute_tensor  # only where there are shards

    assert isinstance(tensor, DTensor)
    values = values.to(tensor.device, tensor.dtype)
    # every process has the values: none needs to be sent
    tensor.copy_(distribute_tensor(values, tensor.device_mesh, tensor.placements, src_data_rank=None))


@contextlib.contextmanager
def writing(root: nn.Module) -> Iterator[bool]:
    """Whether this process writes a file that all of a sharded model's processes are asked for; they wait for it.

    Where nothing is sharded, whoever asks for a file writes it.
    """
    if not has_shards(root):
        yield True
        return
    failed: Exception | None = None
    try:
        yield distributed.get_rank() == 0
    except Exception as error:
        failed = error
        raise
    finally:
        others = _tell(failed)
        if others and failed is None:
            raise _peers("write a file", others)


def settle(root: nn.Module) -> None:
    """Let FSDP2 put the shards back in place, of modules whose parameters are still gathered from a forward pass."""
    for module in root.modules():
        if hasattr(module, "unshard"):
            module.reshard()  # type: ignore[operator]
