"""A model's fingerprint: digits that change with its weights; and a scope in which the weights are read for it once.

Of each parameter, 64 evenly spaced entries and two sums of its bits read as integers go into the fingerprint, one of
them weighted by place: sums of integers are the same on every device and in every order, but take a reading of all
weights. Within `read_once` a reading is kept and given again as long as the parameters are the same tensors, have not
been written to, and have the same 64 entries: what torch notices of a change (not every optimizer tells it) and what
the entries show of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from neuroscope.distributed import gathered, has_shards

ENTRIES = 64
CHUNK = {"cpu": 1 << 18}  # weights added at a time: those that stay in a processor's cache take a tenth of the time
MANY = 1 << 22  # elsewhere
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a weight

_readings: WeakKeyDictionary[nn.Module, dict[str, str]] = WeakKeyDictionary()  # of the models within `read_once`
_numbers: Any = WeakIdKeyDictionary()  # a number for each tensor that is alive: Python uses the ids of dead ones again
_next_number = itertools.count()


@contextlib.contextmanager
def read_once(root: nn.Module) -> Iterator[None]:
    """A scope in which the weights are read again only after a change; within it, an inner one does nothing."""
    outermost = root not in _readings
    if outermost:
        _readings[root] = {}
    try:
        yield
    finally:
        if outermost:
            del _readings[root]


def forget(root: nn.Module) -> None:
    """Have the weights read again: for what writes them in ways that torch does not count, as fused optimizers do."""
    if root in _readings:
        _readings[root].clear()


def fingerprint(root: nn.Module) -> str:
    """16 digits that change with the architecture or with any weight, or with how much an adapter counts."""
    known = _readings.get(root)
    if known is None or has_shards(root):  # every process of a sharded model takes part in each reading
        return read_weights(root)
    state = _state(root)
    if state not in known:
        known[state] = read_weights(root)
    return known[state]


def read_weights(root: nn.Module) -> str:
    """The fingerprint, from a reading of all weights."""
    digits = hashlib.sha256()
    for name, parameter in root.named_parameters():
        flat = gathered(parameter).flatten()
        digits.update(f"{name.replace('._original_component', '')}{tuple(parameter.shape)}".encode())
        digits.update(_entries(flat))
        if flat.element_size() in INTEGERS:
            digits.update(str(_sums(flat.view(INTEGERS[flat.element_size()]))).encode())
    for note in _notes(root):
        digits.update(note.encode())
    return digits.hexdigest()[:16]


def _sums(bits: Tensor) -> tuple[int, int]:
    """The sum of the bits, and one in which each counts by its place: it tells weights that changed places."""
    chunk = min(CHUNK.get(bits.device.type, MANY), bits.numel())
    place = torch.arange(1, chunk + 1, device=bits.device)
    plain = by_place = 0
    for start in range(0, bits.numel(), max(1, chunk)):
        part = bits[start : start + chunk].long()
        total = int(part.sum())
        plain += total
        by_place += int((part * place[: len(part)]).sum()) + start * total  # each modulo 2**64
    return plain % 2**64, by_place % 2**64


def _state(root: nn.Module) -> str:
    """What tells, without a reading of all weights, whether they are those that were read."""
    digits = hashlib.sha256()
    for name, parameter in root.named_parameters():
        number = _numbers.setdefault(parameter, None)
        if number is None:
            number = _numbers[parameter] = next(_next_number)
        written = "" if parameter.is_inference() else parameter._version  # torch counts what it writes
        digits.update(f"{name} {number} {written} {parameter.data_ptr()} {tuple(parameter.shape)}".encode())
        digits.update(_entries(parameter.detach().flatten()))
    for note in _notes(root):
        digits.update(note.encode())
    return digits.hexdigest()


def _entries(flat: Tensor) -> bytes:
    """Some entries of a parameter, evenly spaced."""
    return flat[:: max(1, flat.numel() // ENTRIES)].float().cpu().numpy().tobytes()


def _notes(root: nn.Module) -> Iterator[str]:
    """What switches or scales an adapter, which no parameter shows."""
    for name, module in root.named_modules():
        is_lora = hasattr(module, "lora_A") and hasattr(module, "active_adapters")
        note = repr(module.active_adapters) if is_lora else getattr(module, "note", "")
        if note and isinstance(note, str):
            yield f"{name} {note}"
