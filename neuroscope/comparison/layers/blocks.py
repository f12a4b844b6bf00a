"""Linear CKA of many layers from files, in bounded memory: float32 products, float64 sums.

Sources: as `alignment`. With centred X, K = XX', k its diagonal and K0 = K with zero diagonal, K0's rows sum to -k, so
    n(n - 3) HSIC = <K0, L0> - 2/(n-2) k.l + sum(k) sum(l) / ((n-1)(n-2)),
and <K, L> = <K0, L0> + k.l is the biased one. Self terms are the same products of a layer with itself, once per layer.

1. Layers are read and centred: mean and differences in float64, scaled by the largest difference (so that squares of
   squares neither overflow nor vanish), then float32.
2. "gram": the tiles on and above the diagonal of K0 of every layer side by side, [layer, row, column]; one batched
   product per tile gives <K0, L0> of all pairs of layers at once: of each row in float32, their sum in float64.
   "features": |X'Y|_F^2, X'Y summed over blocks of examples in float64, one pair of layers after the other.
3. The form with fewer multiplications is chosen, then the largest block of examples that fits the memory; a layer that
   does not fit is read in blocks. A file mapped for reading hands its pages back after every block.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from neuroscope.comparison.similarity.cka_formulas import unbias
from neuroscope.comparison.similarity.inputs import fault
from neuroscope.errors import ArgumentError

SMALLEST = 16  # examples in a block
STRIP = 64  # rows in float64 at a time
READING = 24  # bytes per number while a block is read, centred and cast: 8, 8, 4, and room
ROUNDING = 1e-7  # share of the biased self-similarity below which the debiased one is float32 rounding


class Plan(NamedTuple):
    """How to compare layers: the form, the examples in a block, and the bytes held at once at most."""

    form: str
    rows: int
    held: int


def plan(n: int, widths: tuple[int, int], layers: tuple[int, int], memory: int) -> Plan:
    """The form with fewer multiplications, in the largest blocks that fit.

    Args:
        n: examples; `widths`: features of either side; `layers`: how many of either side are compared.
        memory: bytes.
    """
    (d, e), (i, j) = widths, layers
    work = {
        "gram": n * n * ((i * d + j * e) / 2 + i * j),
        "features": n * (i * d * d + j * e * e + i * j * d * e),
    }
    smallest = min(n, SMALLEST)
    for form in sorted(work, key=lambda name: work[name]):
        rows = n
        while rows > smallest and held(form, rows, n, widths, layers) > memory:
            rows = max(smallest, math.ceil(rows / 2))
        if held(form, rows, n, widths, layers) <= memory:
            return Plan(form, rows, held(form, rows, n, widths, layers))
    least = min(held(form, smallest, n, widths, layers) for form in work)
    raise ArgumentError(
        f"memory={memory} bytes",
        f"{least} are needed for blocks of {smallest} examples",
        "allow more, or compare fewer layers",
    )


def held(form: str, rows: int, n: int, widths: tuple[int, int], layers: tuple[int, int]) -> int:
    """Bytes held at once: blocks being read, products, and what is kept per layer."""
    (d, e), (i, j) = widths, layers
    per_layer = 24 * n * (i + j) + 8 * (i * d + j * e) + 64 * (i * j + i + j)  # norms (put together), means, sums
    blocks = READING * rows * max(d, e) + 4 * rows * (d + e)
    if form == "gram":
        return per_layer + blocks + 4 * rows * rows * (i + j + 1) + 12 * rows * i * j
    return per_layer + blocks + 24 * max(d, e) ** 2


class Layers:
    """Activations [layer, example, feature] of one task, read layer by layer and block by block."""

    def __init__(self, array: Any, device: torch.device, rows: int) -> None:
        self.array, self.device, self.rows = array, device, rows
        self.n = int(array.shape[1])
        self._moments: dict[int, tuple[Tensor, float]] = {}  # layer -> mean, largest difference from it

    def fault(self, layer: int) -> str:
        """What is wrong with the layer; "" if nothing is."""
        return fault(*self._moments_of(layer))

    def centred(self, layer: int, start: int, stop: int) -> Float[Tensor, "rows d"]:
        """Step 1: a block of a layer, centred, float32; zeros where something is wrong with the layer."""
        block = self._read(layer, start, stop)
        if len(block) == self.n and layer not in self._moments:  # all of it: one reading is enough
            mean = _sum(block) / self.n
            self._moments[layer] = mean, _largest(block, mean)
        mean, largest = self._moments_of(layer)
        out = torch.empty(block.shape, dtype=torch.float32, device=self.device)
        if fault(mean, largest):
            return out.zero_()
        for strip, raw in zip(_strips(out), _strips(block), strict=True):
            strip.copy_((raw - mean).mul_(1 / largest))  # a new tensor: the activations are the caller's
        return out

    def _moments_of(self, layer: int) -> tuple[Tensor, float]:
        """Mean and largest difference from it, in two readings."""
        if layer not in self._moments:
            blocks = [(s, min(s + self.rows, self.n)) for s in range(0, self.n, self.rows)]
            mean = torch.stack([_sum(self._read(layer, *b)) for b in blocks]).sum(0) / self.n
            largest = max(_largest(self._read(layer, *b), mean) for b in blocks)
            self._moments[layer] = mean, largest
        return self._moments[layer]

    def _read(self, layer: int, start: int, stop: int) -> Float[Tensor, "rows d"]:
        if isinstance(self.array, Tensor):
            values = self.array[layer, start:stop].detach()
            narrow = values.dtype.is_floating_point and values.dtype != torch.float64
            return values.to(self.device, torch.float32 if narrow else torch.float64)
        part = self.array[layer, start:stop]
        block = np.array(part, dtype=np.float64 if part.dtype.kind != "f" or part.dtype.itemsize > 4 else np.float32)
        hand_back(self.array)
        return torch.from_numpy(block).to(self.device)


def _strips(block: Float[Tensor, "rows d"]) -> tuple[Tensor, ...]:
    """Rows that stay in a processor's cache while they are float64."""
    return block.split(STRIP if block.device.type == "cpu" else len(block))


def _sum(block: Float[Tensor, "rows d"]) -> Float[Tensor, " d"]:
    return torch.stack([strip.double().sum(0) for strip in _strips(block)]).sum(0)


def _largest(block: Float[Tensor, "rows d"], mean: Float[Tensor, " d"]) -> float:
    """The largest difference from the mean; NaN if there is one."""
    return float(torch.maximum(block.amax(0) - mean, mean - block.amin(0)).max())


def linear_grid(
    a: Layers, b: Layers, layers_a: Sequence[int], layers_b: Sequence[int], form: str, debiased: bool
) -> tuple[Float[np.ndarray, "i j"], list[str], list[str]]:
    """Linear CKA of every layer of a with every layer of b, and what is wrong with each layer of either side."""
    sums = _by_grams if form == "gram" else _by_features
    cross, of_a, of_b, k, l = sums(a, b, layers_a, layers_b)  # noqa: E741
    n, k_sum, l_sum = a.n, k.sum(1), l.sum(1)
    first, second, between = of_a, of_b, cross
    if debiased:
        first = unbias(of_a, (k * k).sum(1), k_sum**2, n)
        second = unbias(of_b, (l * l).sum(1), l_sum**2, n)
        between = unbias(cross, k @ l.T, torch.outer(k_sum, l_sum), n)
    value = between / (first[:, None] * second).sqrt()
    faults = [
        [side.fault(layer) or ("" if float(h) > ROUNDING * float(w) else "a self-similarity of zero")
         for layer, h, w in zip(layers, hsic, biased, strict=True)]
        for side, layers, hsic, biased in ((a, layers_a, first, of_a), (b, layers_b, second, of_b))
    ]  # fmt: skip
    return value.cpu().numpy(), faults[0], faults[1]


Sums = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _by_grams(a: Layers, b: Layers, layers_a: Sequence[int], layers_b: Sequence[int]) -> Sums:
    """<K, L>, <K, K>, <L, L>, k and l."""
    i, j, n = len(layers_a), len(layers_b), a.n
    totals = [torch.zeros(shape, dtype=torch.float64, device=a.device) for shape in ((i, j), (i,), (j,))]
    norms = torch.zeros(i + j, n, dtype=torch.float64, device=a.device)
    sides = [(a, layer) for layer in layers_a] + [(b, layer) for layer in layers_b]
    for start in range(0, n, a.rows):
        for left in range(start, n, a.rows):
            weight = 1 if left == start else 2  # the tile below the diagonal has the same sums
            for total, of_tile in zip(totals, _tile(sides, i, start, left, norms), strict=True):
                total += weight * of_tile
    k, l = norms[:i], norms[i:]  # noqa: E741
    return totals[0] + k @ l.T, totals[1] + (k * k).sum(1), totals[2] + (l * l).sum(1), k, l


def _tile(sides: Sequence[tuple[Layers, int]], i: int, start: int, left: int, norms: Tensor) -> Sequence[Tensor]:
    """One tile's part of <K0, L0>, <K0, K0> and <L0, L0>, the first i sides against the others."""
    n, step = sides[0][0].n, sides[0][0].rows
    stop, right = min(start + step, n), min(left + step, n)
    tiles = torch.empty(len(sides), stop - start, right - left, device=norms.device)
    for tile, norm, (side, layer) in zip(tiles, norms, sides, strict=True):
        x = side.centred(layer, start, stop)
        _product(x, x if left == start else side.centred(layer, left, right), tile)
        if left == start:
            norm[start:stop] = tile.diagonal()
            tile.fill_diagonal_(0)
    selves = torch.stack([torch.linalg.vecdot(tile, tile).double().sum() for tile in tiles])
    left_side = rearrange(tiles[:i], "layer row column -> row layer column")
    right_side = rearrange(tiles[i:], "layer row column -> row column layer")
    return torch.bmm(left_side, right_side).double().sum(0), selves[:i], selves[i:]


def _by_features(a: Layers, b: Layers, layers_a: Sequence[int], layers_b: Sequence[int]) -> Sums:
    """|X'Y|^2, |X'X|^2, |Y'Y|^2, k and l."""
    of_a = [_squared(a, layer, a, layer) for layer in layers_a]
    of_b = [_squared(b, layer, b, layer) for layer in layers_b]
    cross = torch.stack([torch.stack([_squared(a, i, b, j) for j in layers_b]) for i in layers_a])
    k, l = (torch.stack([_norms(s, layer) for layer in c]) for s, c in ((a, layers_a), (b, layers_b)))  # noqa: E741
    return cross, torch.stack(of_a), torch.stack(of_b), k, l


def _squared(a: Layers, i: int, b: Layers, j: int) -> Float[Tensor, ""]:
    """|X'Y|_F^2."""
    total: Any = 0
    for start in range(0, a.n, a.rows):
        stop = min(start + a.rows, a.n)
        x = a.centred(i, start, stop)
        y = x if (a, i) == (b, j) else b.centred(j, start, stop)
        total = (x.T @ y).double().add_(total)
    return total.square_().sum()


def _norms(side: Layers, layer: int) -> Float[Tensor, " n"]:
    blocks = [side.centred(layer, s, min(s + side.rows, side.n)) for s in range(0, side.n, side.rows)]
    return torch.cat([(x * x).sum(1).double() for x in blocks])


def _product(x: Float[Tensor, "r d"], y: Float[Tensor, "c d"], out: Float[Tensor, "r c"]) -> None:
    """xy' into `out`; numpy's product of a matrix with itself takes half the operations, torch's does not."""
    if x.device.type == "cpu":
        np.matmul(x.numpy(), y.numpy().T, out=out.numpy())
    else:
        torch.mm(x, y.T, out=out)


def hand_back(array: Any) -> None:
    """Let go of the pages of a file mapped for reading only: they would count as this process's memory."""
    mapped = getattr(array, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and getattr(array, "mode", None) == "r" and hasattr(mmap, "MADV_DONTNEED"):
        with contextlib.suppress(OSError, ValueError):
            mapped.madvise(mmap.MADV_DONTNEED)
