"""Every task, every layer of one model against those of another, from arrays in memory or on disk.

1. Shapes of all tasks are checked before any number is read.
2. The numbers of each task's pairs of layers (`layer_pairs`).
3. Where there is a null, q is Benjamini and Hochberg's of all p in the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from neuroscope import files
from neuroscope.checks import Progress, public, watched, whole
from neuroscope.comparison.layers.layer_pairs import Comparison, Row, rows_of
from neuroscope.comparison.layers.layer_similarity import Similarity
from neuroscope.comparison.similarity import cka_formulas, inputs
from neuroscope.comparison.similarity.measure_table import complete, find
from neuroscope.errors import ArgumentError, choose, shown
from neuroscope.statistics import benjamini_hochberg

MEMORY = 2 << 30  # bytes

Shapes = tuple[tuple[int, int, int], tuple[int, int, int]]  # layers, examples and features of either side


@public
def compare(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    measure: str = "cka",
    *,
    pairs: Literal["same", "all"] = "same",
    null: int = 0,
    seed: int = 0,
    device: str | torch.device | None = None,
    memory: int = MEMORY,
    progress: Progress | None = None,
    **options: Any,
) -> Similarity:
    """Compare the layers of two models on the same examples, task by task.

    Args:
        a: task -> activations [layer, example, feature]: numpy (also `numpy.load(path, mmap_mode="r")`) or torch.
        b: the same tasks with the same examples; features, and for all pairs layers, may be of another number.
        measure: a name in MEASURES; `options` are its keywords, such as `debiased=False`.
        pairs: "same", layer i against layer i, or "all".
        null: permutations per pair for low, high, p and q; none by default. All pairs of a task share the permutations.
        seed: of the permutations.
        device: where the products are made; by default a GPU that torch sees, or the processor.
        memory: bytes of activations and products held at a time. Linear CKA is cut into blocks that fit; other measures
            and the null hold whole layers, as many as fit. A mapped file's pages are handed back after every block.
        progress: called as `progress(iterable, desc=...)`, such as tqdm; None is silent.

    Returns:
        Similarity. Linear CKA is made of float32 products with float64 sums and agrees with float64 to about 1e-6; the
        rest is float64. A layer that is constant or not finite makes NaN and a reason: nothing is averaged.

    Raises:
        ArgumentError: tasks, layers or examples that do not match, fewer than four examples, an unknown measure or
            option, a device that is not there, or too little memory for the smallest block.

    Example:
        >>> import numpy as np
        >>> x = {"t": np.random.default_rng(0).normal(size=(2, 30, 5))}
        >>> compare(x, x).to_frame()["value"].round(6).tolist()
        [1.0, 1.0]
    """
    function = find(measure).function
    choose(pairs, ("same", "all"), "pairs")
    settings = complete(f"compare by {measure}", function, options, ("pairs", "null", "seed", "device", "memory"))
    if measure == "cka":
        cka_formulas.check(**settings)
    origins = _origins(a, b)
    shapes = {task: _shapes(a, b, task, pairs) for task in _tasks(a, b)}
    how = Comparison(measure, settings, null, seed, _device(a, device), whole(memory, "memory", 1, "give bytes"))
    rows = _rows(a, b, shapes, pairs, how, progress)
    manifest = {
        "measure": measure, "options": settings, "pairs": pairs, "null": null, "seed": seed, "memory": how.memory,
        "device": str(how.device), "float32_products": torch.get_float32_matmul_precision() if how.in_blocks else None,
        "shapes": {task: [list(s) for s in two] for task, two in shapes.items()}, **origins,
        "versions": files.versions(),
    }  # fmt: skip
    return Similarity(_table(rows), manifest)


def _rows(
    a: Mapping[str, Any], b: Mapping[str, Any], shapes: Mapping[str, Shapes], pairs: str, how: Comparison,
    progress: Progress | None,
) -> list[Row]:  # fmt: skip
    """Every pair of every task, one task's arrays open at a time."""
    units = [
        (task, list(range(i)), list(range(j))) for task, ((i, *_), (j, *_)) in shapes.items() if pairs == "all"
    ] or [(task, [i], [i]) for task, ((layers, *_), _) in shapes.items() for i in range(layers)]
    rows: list[Row] = []
    open_task, first, second = None, None, None
    for task, i, j in watched(units, progress, f"{how.measure}, {pairs} layers"):
        if task != open_task:
            open_task, first, second = task, inputs.real(a[task], task), inputs.real(b[task], task)
        rows += [{"task": task, **row} for row in rows_of(first, second, i, j, how)]
    return rows


def _table(rows: Sequence[Row]) -> Any:
    import pandas as pd  # heavy: only where a table is made

    table = pd.DataFrame(rows)
    if "p" in table:
        table["q"] = benjamini_hochberg(table["p"])
    return table[[*table.columns.drop("reason"), "reason"]]


def _tasks(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    asked = "compare two models"
    tasks, others = (inputs.names_of(side, f"{asked}, {name}") for name, side in (("a", a), ("b", b)))
    if set(tasks) != set(others):
        only = [("a", set(tasks) - set(others)), ("b", set(others) - set(tasks))]
        found = "; ".join(f"only in {side}: {sorted(names)}" for side, names in only if names)
        raise ArgumentError(asked, found, "give the same tasks of both models")
    return tasks


def _shapes(a: Mapping[str, Any], b: Mapping[str, Any], task: str, pairs: str) -> Shapes:
    asked = f"compare {task!r}"
    first, second = (inputs.shape(side[task], f"compare {name}[{task!r}]") for name, side in (("a", a), ("b", b)))
    inputs.same_examples(first[1], second[1], asked)
    if pairs == "same" and first[0] != second[0]:
        raise ArgumentError(asked, f"{first[0]} and {second[0]} layers", "use pairs='all', or give matching layers")
    return first, second


def _origins(a: Any, b: Any) -> dict[str, Any]:
    """Where both sides come from, as far as they know (`Representations` do); other examples are refused.

    How many there are is settled by the arrays' shapes.
    """
    known = {side: dict(reps.manifest) for side, reps in (("a", a), ("b", b)) if getattr(reps, "manifest", None)}
    if len(known) == 2:
        for task in a.keys() & b.keys():
            first, second = ([_data_hash(origin, task), origin.get("split")] for origin in known.values())
            if None not in first + second and first != second:
                found = f"data {first[0]}, split {first[1]} of a; data {second[0]}, split {second[1]} of b"
                raise ArgumentError(f"compare {task!r}", found, "read the same examples of the same task with both")
    return known


def _data_hash(manifest: Mapping[str, Any], task: str) -> Any:
    """The hash of a task's data, if it is known."""
    return (manifest.get("tasks") or {}).get(task)


def _device(a: Mapping[str, Any], device: str | torch.device | None) -> torch.device:
    holds = next((v.device for v in a.values() if isinstance(v, torch.Tensor) and v.device.type != "cpu"), None)
    wanted = device if device is not None else holds or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.ones(1, dtype=torch.float64, device=wanted).item()
        return torch.device(wanted)
    except Exception as error:  # of a device that is not there, or of what is no device
        found = str(error).split("\n")[0]
        raise ArgumentError(
            shown("device", wanted), found, "use a device that is there and has float64: 'cpu'"
        ) from None
