"""Several processes for one command: `--processes 2` starts them, and so does torchrun; they share the work.

1. What was typed is started again in further processes, each with a copy of the model; this one is the first.
2. They join as torchrun's processes do, so that everything in the library that shares work shares it (`distributed`).
3. The first alone speaks. Where another is gone, its last words are in the first one's error.
4. None outlives the first, also where that is killed: each watches a pipe that ends with it. An interrupt from a
   terminal reaches all, so that the first does not wait for an answer of another.

They find each other by a file in a folder of this user's, and talk over the loopback.
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

STORE = "NEUROSCOPE_STORE"  # the file by which a process that the first one started finds the others
LOOPBACK = {"linux": "lo", "darwin": "lo0"}
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
        if processes > 1 and STORE not in os.environ:
            do = "leave --processes out, or start it without torchrun"
            found = f"{os.environ['WORLD_SIZE']} processes that torchrun has started"
            raise ArgumentError(f"--processes {processes}", found, do)
        with _joined():
            yield
        return
    if processes == 1:
        yield
        return
    from torch.distributed import DistError  # heavy

    with tempfile.TemporaryDirectory() as name, _meeting_place(Path(name), processes) as store:
        others = [_start(words, number, Path(name)) for number in range(1, processes)]
        try:
            _wait_for(others, store)
            with _joined(store):
                yield
            for other in others:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    other.wait(LAST)
        except RuntimeError as error:
            lost = isinstance(error, Gone | DistError) or "gloo" in str(error)
            if lost and (failed := _said(others, Path(name))):
                raise failed from error
            raise
        finally:
            for other in others:
                _end(other)


@contextlib.contextmanager
def _meeting_place(folder: Path, processes: int) -> Iterator[Any]:
    """A scope with a store, and with an environment that says what torchrun's would."""
    import torch
    from torch.distributed import FileStore  # type: ignore[attr-defined]

    threads, size = max(1, torch.get_num_threads() // processes), str(processes)
    values = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    values |= {"OMP_NUM_THREADS": str(threads)}
    if sys.platform in LOOPBACK:
        values |= {"GLOO_SOCKET_IFNAME": LOOPBACK[sys.platform]}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield FileStore(str(folder / "store"), processes)
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
    size = int(os.environ["WORLD_SIZE"])
    before = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", before)))
    how: dict[str, Any] = {"backend": _backend(), "timeout": PATIENCE}
    if path := os.environ.get(STORE):
        threading.Thread(target=_end_with_the_first, args=(sys.stdin,), daemon=True).start()
        store = distributed.FileStore(path, size)  # type: ignore[attr-defined]
        store.set(f"{HELLO}{rank()}", "")
    if store is not None:  # else by the environment, as torchrun has it
        how |= {"store": store, "rank": rank(), "world_size": size}
    distributed.init_process_group(**how)
    try:
        yield
    finally:
        distributed.destroy_process_group()
        torch.set_num_threads(before)


def _backend() -> str:
    """NCCL where every process has a GPU of its own, which is made its current one; else all goes over the CPU."""
    import torch

    if not torch.cuda.is_available():
        return "gloo"
    count, place = torch.cuda.device_count(), int(os.environ["LOCAL_RANK"])
    torch.accelerator.set_device_index(place % count)
    return "cpu:gloo,cuda:nccl" if count >= int(os.environ.get("LOCAL_WORLD_SIZE", place + 1)) else "gloo"


def _end_with_the_first(pipe: IO[str]) -> None:
    pipe.read()  # it says nothing: this returns when it is gone
    os._exit(1)


def _start(words: Sequence[str], number: int, folder: Path) -> subprocess.Popen[Any]:
    """A process that does what was typed, as one of the others; it imports from where this one does."""
    place = {"RANK": str(number), "LOCAL_RANK": str(number), STORE: str(folder / "store")}
    place |= {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    with open(folder / str(number), "wb") as said:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "neuroscope", *words], env=os.environ | place, stdin=subprocess.PIPE,
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
    """The error to raise where others are gone: of one that was killed, else of one that did not just lose another."""
    found: list[tuple[int, str, str]] = []
    for number, other in enumerate(others, 1):
        with contextlib.suppress(subprocess.TimeoutExpired):
            other.wait(LAST)
        if not other.returncode:
            continue
        how = f"was killed by signal {-other.returncode}" if other.returncode < 0 else "failed"
        said = (folder / str(number)).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-SHOWN:]
        text = "; ".join([f"process {number} (this is 0) {how}", *(line.strip() for line in said)])
        do = "give the same command again, which goes on where it was"
        do += "; if memory ran out, with fewer --processes" if other.returncode < 0 else ", once that is mended"
        found.append((1 + ("gloo" in text) if other.returncode > 0 else 0, text, do))
    if not found:
        return None
    _, text, do = min(found)
    return NeuroscopeError("share the work among processes", text, do)
