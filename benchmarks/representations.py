"""The grid of debiased CKA between two models, from files on disk, against the textbook's loop in numpy.

The loop is float64 throughout and does per pair what the formulas say: centre, K = XX', L = YY' (numpy takes half the
operations for a matrix with its own transpose), three times the unbiased HSIC of Song et al. 2012. Three loops:
"as written", with tr(KL) and 1'KL1 of the product KL; "sums", with sum(K * L) and row sums in their place; for all
pairs of layers also "sums, kept Gram matrices": all of a task's are held, 2 x 33 x 8 MB. Each loop is measured on some
pairs, in turn with the grid, and scaled to all. On one thread seconds are the process's own (CPU time), which a busy
machine changes less; on several, or with a GPU, they are the clock's.
"""

from __future__ import annotations

import gc
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

THREADS = sys.argv[sys.argv.index("--threads") + 1] if "--threads" in sys.argv else "1"
os.environ["OPENBLAS_NUM_THREADS"] = THREADS  # numpy's, before it is imported

import common  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from neuroscope.comparison.layers import compare  # noqa: E402

LAYERS, EXAMPLES, FEATURES, TASKS = 33, 1000, 1024, 20
CLOCK = time.process_time if THREADS == "1" and not torch.cuda.is_available() else time.perf_counter
PAIRS = 6  # that a loop is measured on at a time
Models = tuple[dict[str, Any], dict[str, Any]]


def write(folder: Path, tasks: int, layers: int) -> None:
    """Activations of two models that have something in common, less so from layer to layer."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, 4, EXAMPLES, FEATURES), dtype=np.float32)
    for task in range(tasks):
        shared = rng.standard_normal((EXAMPLES, 20), dtype=np.float32)
        for model in range(2):
            shape = (layers, EXAMPLES, FEATURES)
            array = np.lib.format.open_memmap(folder / f"{model}-{task:02d}.npy", "w+", np.float32, shape)
            for layer in range(layers):
                mixing = rng.standard_normal((20, FEATURES), dtype=np.float32)
                array[layer] = shared @ mixing + (1 + layer / 4) * np.roll(noise[model, layer % 4], task + layer, 0)
            array.flush()


def read(folder: Path) -> Models:
    """Both models' files, mapped."""
    a, b = (
        {path.stem[2:]: np.load(path, mmap_mode="r") for path in sorted(folder.glob(f"{model}-*.npy"))}
        for model in range(2)
    )
    return a, b


def gram(x: Any) -> Any:
    """K of centred activations in float64."""
    x = np.array(x, dtype=np.float64)
    x = x - x.mean(0)
    return x @ x.T


def hsic_as_written(k: Any, l: Any) -> float:  # noqa: E741
    """Song et al. 2012, Eq. 4."""
    n, one = len(k), np.ones(len(k))
    k, l = without_diagonal(k), without_diagonal(l)  # noqa: E741
    kl = k @ l
    sums = np.trace(kl) + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ kl @ one)
    return float(sums / (n * (n - 3)))


def hsic_by_sums(k: Any, l: Any) -> float:  # noqa: E741
    """The same without the product of the two."""
    n = len(k)
    k, l = without_diagonal(k), without_diagonal(l)  # noqa: E741
    sums = (k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) @ l.sum(1))
    return float(sums / (n * (n - 3)))


def without_diagonal(k: Any) -> Any:
    k = k.copy()
    np.fill_diagonal(k, 0)
    return k


def from_grams(k: Any, l: Any, hsic: Callable[[Any, Any], float] = hsic_by_sums) -> float:  # noqa: E741
    return hsic(k, l) / (hsic(k, k) * hsic(l, l)) ** 0.5


def textbook(x: Any, y: Any, hsic: Callable[[Any, Any], float]) -> float:
    """Debiased CKA of one pair."""
    return from_grams(gram(x), gram(y), hsic)


LOOPS = {"as written": hsic_as_written, "sums": hsic_by_sums}


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = CLOCK()
    out = function()
    return CLOCK() - start, out


def rate(dtype: torch.dtype) -> float:
    """GFLOP/s of a matrix product of the grid's shape, the best of five."""
    x, y = (torch.randn(EXAMPLES, FEATURES, dtype=dtype).numpy() for _ in range(2))
    return 2 * EXAMPLES**2 * FEATURES / min(timed(lambda: x @ y.T)[0] for _ in range(5)) / 1e9


def same_layers(a: Any, b: Any) -> Iterator[dict[str, float]]:
    """Per task: seconds a pair of the grid and of each loop, and the largest difference."""
    for task in a:
        x, y = a[task], b[task]
        layers = np.linspace(0, len(x) - 1, PAIRS).astype(int)
        mine, found = timed(lambda x=x, y=y, task=task: compare({task: x}, {task: y}))
        value = found.to_frame()["value"].to_numpy()[layers]
        yield {"grid": mine / len(x), **loops(x, y, layers, layers, value)}


def all_layers(a: Any, b: Any, repeats: int) -> Iterator[dict[str, float]]:
    """The same per round, for all pairs of layers of one task."""
    task = next(iter(a))
    x, y = a[task], b[task]
    first = np.linspace(0, len(x) - 1, PAIRS).astype(int)
    second = first[::-1]
    for _ in range(repeats):
        mine, found = timed(lambda: compare({task: x}, {task: y}, pairs="all"))
        value = found.to_frame()["value"].to_numpy().reshape(len(x), len(y))[first, second]
        making, k = timed(lambda: gram(x[0]))
        using, _ = timed(lambda k=k: [from_grams(k, k) for _ in range(PAIRS)])
        pairs = len(x) * len(y)
        kept = making * (len(x) + len(y)) / pairs + using / PAIRS
        yield {"grid": mine / pairs, **loops(x, y, first, second, value), "sums, kept Gram matrices": kept}


def loops(x: Any, y: Any, first: Any, second: Any, value: Any) -> dict[str, float]:
    """Seconds a pair of each loop, and the largest difference to the grid's values."""
    out = {"difference": 0.0}
    for name, hsic in LOOPS.items():
        seconds, expected = timed(lambda h=hsic: [textbook(x[i], y[j], h) for i, j in zip(first, second, strict=True)])
        out[name] = seconds / len(first)
        out["difference"] = max(out["difference"], float(np.abs(value - expected).max()))
    return out


def peak(folder: Path, pairs: str) -> None:
    """In a process of its own: print the peak MB above the imported package (the kernel's high-water mark)."""
    a, b = read(folder)
    task = next(iter(a))
    compare({task: a[task][:1, :50]}, {task: b[task][:1, :50]})  # imports, and the libraries' own buffers
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    first = dict(list(a.items())[:1]) if pairs == "all" else a
    compare(first, {t: b[t] for t in first}, pairs=pairs)
    print("peak", _status("VmHWM") - before)


def _status(key: str) -> float:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def memory(folder: Path, pairs: str) -> float:
    """MB of a process that makes the grid."""
    command = [sys.executable, __file__, "--threads", THREADS, "--child", f"{pairs}:{folder}"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("peak")[-1])


def main() -> None:
    """Print the table."""
    options = common.arguments(__doc__ or "")
    if options.child:
        pairs, _, folder = options.child.partition(":")
        peak(Path(folder), pairs)
        return
    tasks, layers, repeats = (2, 9, 2) if options.quick else (TASKS, LAYERS, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, tasks, layers)
        a, b = read(folder)
        task = next(iter(a))
        compare({task: a[task][:2]}, {task: b[task][:2]})  # warm
        measured = {
            ("same layer, all tasks", tasks * layers): list(same_layers(a, b)),
            ("all pairs, one task", layers**2): list(all_layers(a, b, repeats)),
        }
        peaks = memory(folder, "same"), memory(folder, "all")
    print(common.heading(f"debiased CKA, {tasks} tasks x {layers} layers x {EXAMPLES} x {FEATURES}, two models"))
    print(
        f"Matrix products of that shape: {rate(torch.float32):.0f} GFLOP/s in float32, {rate(torch.float64):.0f} in "
        f"float64. Files of {tasks * layers * 2 * EXAMPLES * FEATURES * 4 / 1e9:.1f} GB, in the page cache.\n"
    )
    work = 2 * EXAMPLES**2 * FEATURES  # of a Gram matrix, counted in full
    flops = (2 * work * tasks * layers, 2 * work * layers + 2 * layers**2 * EXAMPLES**2)
    rows = []
    for ((name, pairs), rounds), peaked, operations in zip(measured.items(), peaks, flops, strict=True):
        own = [r["grid"] for r in rounds]
        wrong = max(r["difference"] for r in rounds)
        total = statistics.median(own) * pairs
        rows.append([f"**{name}, grid**", pairs, f"{total:.2f}", "", f"{operations / total / 1e9:.0f}", f"{peaked:.0f}",
                     f"{wrong:.0e}"])  # fmt: skip
        for loop in (key for key in rounds[0] if key not in {"grid", "difference"}):
            theirs = [r[loop] for r in rounds]
            rows.append([f"loop, {loop}", pairs, f"{statistics.median(theirs) * pairs:.1f}", common.ratio(own, theirs),
                         "", "", ""])  # fmt: skip
    header = ["", "pairs", "s", "grid / loop (quartiles)", "GFLOP/s", "peak MB", "largest difference"]
    print(common.table(header, rows))


if __name__ == "__main__":
    main()
