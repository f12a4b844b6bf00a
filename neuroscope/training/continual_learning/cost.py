"""What a stage of training costs: seconds and memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import torch

MIB = 2**20
PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


@contextlib.contextmanager
def measure_cost(device: torch.device) -> Iterator[dict[str, float]]:
    """Seconds, and peak memory in MiB beyond what was held before: of the device, or of the process on a CPU.

    Where the kernel does not tell a process's peak, that is NaN.
    """
    cost: dict[str, float] = {}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device) / MIB
    else:
        held = _reset_peak()
    start = time.perf_counter()
    yield cost
    cost["seconds"] = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated(device) / MIB if device.type == "cuda" else _peak()
    cost["peak_mib"] = peak - held


def _reset_peak() -> float:
    """Ask the kernel to forget the process's high-water mark of memory; what is held now."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # glibc has it; else memory freed hides the peak
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return float("nan")
    return _peak()


def _peak() -> float:
    if os.name != "posix" or not Path("/proc/self/status").exists():
        return float("nan")
    line = PEAK.search(Path("/proc/self/status").read_text())
    return int(line[1]) / 1024 if line else float("nan")
