"""Several processes for one command: `--processes 2` starts them, and so does torchrun; they share the work.

1. What was typed is started again in further processes, each with a copy of the model; this one is the first.
2. They join as torchrun's processes do, so that everything in the library that shares work shares it (`distributed`).
3. The first alone speaks. Where another fails, its last words are in the first one's error.
4. None outlives the first, also where that is killed: each watches a pipe that ends with it. An interrupt from a
   terminal reaches all, so that the first does not wait for an answer of another.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

from neuroscope.checks import whole
from neuroscope.command_line.processes import alone, rank
from neuroscope.errors import ArgumentError, NeuroscopeError

FOLLOWS = "NEUROSCOPE_FOLLOWS"  # set in a process that the first one started, and ends with
HERE = "127.0.0.1"
HELLO = "there: "  # of a process that has come, by its number
PATIENCE = timedelta(days=7)  # of a process that is done before others: a training may take long
LAST = 20  # seconds that others are given to end after the first
SHOWN = 3  # lines of what a process that failed said last


class Gone(RuntimeError):
    """A process ended before it joined."""


@contextlib.contextmanager
def sharing(words: Sequence[str], processes: int) -> Iterator[None]:
    """A scope in which several processes share the work.

    Args:
        words: what was typed after `neuroscope`.
        processes: how many; 1: this one alone, or those that torchrun has started.

    Raises:
        ArgumentError: no number of processes, or some where torchrun has started some.
        NeuroscopeError: a process ended before the work was done; what it said last.
    """
    processes = whole(processes, "processes", 1)
    if not alone():
        if processes > 1 and FOLLOWS not in os.environ:
            do = "leave --processes out, or start it without torchrun"
            found = f"{os.environ['WORLD_SIZE']} processes that torchrun has started"
            raise ArgumentError(f"--processes {processes}", found, do)
        with _joined():
            yield
        return
    if processes == 1:
        yield
        return
    from torch.distributed import DistError  # heavy, as the next

    from neuroscope.distributed import PeerError

    with tempfile.TemporaryDirectory() as folder, _meeting_place(processes) as store:
        others = [_start(words, number, Path(folder)) for number in range(1, processes)]
        try:
            _wait_for(others, store)
            with _joined(store):
                yield
            for other in others:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    other.wait(LAST)
        except (PeerError, RuntimeError) as error:
            by_another = isinstance(error, PeerError | Gone | DistError) or "gloo" in str(error)
            if by_another and (failed := _said(others, Path(folder))):
                raise failed from error
            raise
        finally:
            for other in others:
                _end(other)


@contextlib.contextmanager
def _meeting_place(processes: int) -> Iterator[Any]:
    """A scope with a store that the others find by what torchrun would tell them in the environment."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore(HERE, 0, processes, is_master=True, wait_for_workers=False)
    size, threads = str(processes), str(max(1, (os.cpu_count() or 1) // processes))
    values = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    values |= {"MASTER_ADDR": HERE, "MASTER_PORT": str(store.port), "OMP_NUM_THREADS": threads}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield store
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _wait_for(others: Sequence[subprocess.Popen[Any]], store: Any) -> None:
    """Until all are there.

    Raises:
        Gone: one ended on its way.
    """
    names = [f"{HELLO}{number}" for number in range(1, len(others) + 1)]
    while not store.check(names):
        if any(other.poll() is not None for other in others):
            raise Gone
        time.sleep(0.05)


@contextlib.contextmanager
def _joined(store: Any = None) -> Iterator[None]:
    """A scope in which this process is one of the group."""
    import torch
    from torch import distributed

    if distributed.is_initialized():
        yield
        return
    if FOLLOWS in os.environ:
        threading.Thread(target=_end_with_the_first, args=(sys.stdin,), daemon=True).start()
        place = HERE, int(os.environ["MASTER_PORT"]), int(os.environ["WORLD_SIZE"])
        store = distributed.TCPStore(*place)  # type: ignore[attr-defined]
        store.set(f"{HELLO}{rank()}", "")
    threads = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", threads)))
    accelerators = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if accelerators:
        torch.accelerator.set_device_index(int(os.environ.get("LOCAL_RANK", 0)) % accelerators)
    how: dict[str, Any] = {"backend": None if accelerators else "gloo", "timeout": PATIENCE}
    if store is not None:  # else by the environment, as torchrun has it
        how |= {"store": store, "rank": rank(), "world_size": int(os.environ["WORLD_SIZE"])}
    distributed.init_process_group(**how)
    try:
        yield
    finally:
        distributed.destroy_process_group()
        torch.set_num_threads(threads)


def _end_with_the_first(pipe: IO[str]) -> None:
    pipe.read()  # it says nothing: this returns when it is gone
    os._exit(1)


def _start(words: Sequence[str], number: int, folder: Path) -> subprocess.Popen[Any]:
    """A process that does what was typed, as one of the others."""
    place = {"RANK": str(number), "LOCAL_RANK": str(number), FOLLOWS: "1"}
    with open(folder / str(number), "wb") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "neuroscope", *words], env=os.environ | place, stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=said,
        )  # fmt: skip


def _end(other: subprocess.Popen[Any]) -> None:
    assert other.stdin is not None
    with contextlib.suppress(OSError):
        other.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        other.wait(1)
    other.kill()
    other.wait()


def _said(others: Sequence[subprocess.Popen[Any]], folder: Path) -> NeuroscopeError | None:
    """The error to raise where one of the others failed, with what it said last."""
    for number, other in enumerate(others, 1):
        with contextlib.suppress(subprocess.TimeoutExpired):
            other.wait(LAST)
        if not other.returncode:
            continue
        how = f"was killed by signal {-other.returncode}" if other.returncode < 0 else "failed"
        said = (folder / str(number)).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-SHOWN:]
        found = "; ".join([f"process {number + 1} of {len(others) + 1} {how}", *(line.strip() for line in said)])
        do = "give the same command again, which goes on where it was; if memory ran out, with fewer --processes"
        return NeuroscopeError("share the work among processes", found, do)
    return None
