"""The grid: every task, every layer of one model against those of another, from arrays in memory or on disk.

1. Shapes of all tasks are checked before any number is read.
2. Linear CKA without a null goes through `blocks`: float32 products, float64 sums, self terms once per layer.
   Everything else prepares every layer once in float64 (`measures`), as many layers of a at a time as fit the memory;
   under a null, each permutation of a layer of b serves all layers of a.
3. Where there is a null, q is Benjamini and Hochberg's of all p in the table.
4. A layer that cannot be compared leaves NaN and its reason in every pair that it is in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from neuroscope import figures, files
from neuroscope.checks import public
from neuroscope.comparison.similarity import alignment, blocks, inputs
from neuroscope.comparison.similarity.measures import MEASURES, NULL, band, complete, find, permutations, with_form
from neuroscope.errors import ArgumentError, NumericalError, choose
from neuroscope.results import Result
from neuroscope.statistics import benjamini_hochberg

if TYPE_CHECKING:
    import plotly.graph_objects as go

MEMORY = 2 << 30  # bytes
STATE = 32  # bytes per number of a prepared layer, with room for preparing it
WRITTEN = 16  # layers up to which the numbers stand in the cells
BANDS = 7  # curves up to which each is drawn with its null band

Progress = Callable[[Iterable[Any], str], Iterable[Any]]
Row = dict[str, Any]


@dataclass(frozen=True, repr=False)
class Similarity(Result):
    """How alike two models' layers are, by task.

    `table` has a row per task and pair of layers: task, layer_a, layer_b, value, reason ("" or why there is no value),
    and under a permutation null low, high (2.5 and 97.5 % quantile of the null, not an interval of the value), p, and
    q, the false discovery rate at which p would be a finding among all that the table has (Benjamini & Hochberg 1995).
    """

    def figure(self, task: str | None = None) -> go.Figure:
        """Curves by layer, one per task (with the null's band where they are few); a heatmap for all pairs of layers.

        Args:
            task: this one only. A heatmap of several tasks is of their mean, and says so; a pair of layers that has no
                value in one of them stays grey.
        """
        names = list(self.table["task"].unique())
        chosen = names if task is None else [choose(task, names, "task")]
        rows = self.table[self.table["task"].isin(chosen)]
        label = _label(self.manifest)
        title = f"Similarity of the layers: {label}" + (f", {chosen[0]}" if len(chosen) == 1 else "")
        if self.manifest["pairs"] == "all":
            many = len(chosen) > 1
            cells = rows.groupby(["layer_a", "layer_b"])["value"].agg(lambda v: v.mean(skipna=False)).unstack()
            found = cells.to_numpy(dtype=float)
            low = min(0.0, float(np.nanmin(found, initial=0.0)))
            written = [[f"{v:.2f}" if np.isfinite(v) else "" for v in row] for row in found]
            return figures.heatmap(
                cells, [str(c) for c in cells.columns], [str(r) for r in cells.index], title=title, colour_label=label,
                subtitle=f"mean over {len(chosen)} tasks" if many else "", x_label="layer of b", y_label="layer of a",
                origin="bottom", limits=(low, 1.0), text=written if len(found) <= WRITTEN else None,
            )  # fmt: skip
        shaded = "low" in rows and len(chosen) <= BANDS
        curves: dict[str, Any] = {
            name: (r["layer_a"].tolist(), (r["value"].tolist(), *_shade(r, shaded)))
            for name, r in rows.groupby("task", sort=False)
        }
        return figures.curves_with_band(
            curves, title=title, x_label="layer", y_label=label,
            subtitle="; ".join(_subtitle(rows, shaded)),
        )  # fmt: skip


def _subtitle(rows: Any, shaded: bool) -> Iterator[str]:
    if shaded:
        yield "shaded, one band per task: 95 % of the values under permuted examples"
    gaps = rows[rows["value"].isna()]
    if len(gaps):
        why = "; ".join(dict.fromkeys(reason.partition(": ")[2].partition("; ")[0] for reason in gaps["reason"]))
        yield f"no value at layer {', '.join(map(str, sorted(gaps['layer_a'].unique())))}: {why}"


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
        progress: called as progress(iterable, description); tqdm fits.

    Returns:
        Similarity. Linear CKA is made of float32 products with float64 sums and agrees with float64 to about 1e-6; the
        rest is float64. A layer that is constant or not finite makes NaN and a reason: nothing is averaged.

    Raises:
        ArgumentError: tasks, layers or examples that do not match, fewer than four examples, an unknown measure or
            option, a device that is not there, or too little memory for the smallest block.

    Example:
        >>> x = {"t": np.random.default_rng(0).normal(size=(2, 30, 5))}
        >>> compare(x, x).to_frame()["value"].round(6).tolist()
        [1.0, 1.0]
    """
    function = find(measure).function
    choose(pairs, ("same", "all"), "pairs")
    settings = complete(f"compare by {measure}", function, options, ("pairs", "null", "seed", "device", "memory"))
    if measure == "cka":
        alignment.check(**settings)
    null = inputs.whole(null, "null", 0, f"0 for none; {NULL}")
    seed, memory = inputs.whole(seed, "seed", 0, "0 is usual"), inputs.whole(memory, "memory", 1, "give bytes")
    origins = _origins(a, b)
    shapes = {task: _shapes(a, b, task, pairs) for task in _tasks(a, b)}
    place = _device(a, device)
    units = [
        (task, list(range(i)), list(range(j))) for task, ((i, *_), (j, *_)) in shapes.items() if pairs == "all"
    ] or [(task, [i], [i]) for task, ((layers, *_), _) in shapes.items() for i in range(layers)]
    fast = measure == "cka" and settings["kernel"] == "linear" and not null
    rows: list[Row] = []
    open_task: tuple[str, Any, Any] = ("", None, None)
    for task, i, j in progress(units, f"{measure}, {pairs} layers") if progress else units:
        if open_task[1] is None or open_task[0] != task:
            open_task = (task, inputs.real(a[task], task), inputs.real(b[task], task))
        if fast:
            made = _linear(open_task[1], open_task[2], i, j, settings["debiased"], place, memory)
        else:
            made = _prepared(open_task[1], open_task[2], i, j, measure, settings, null, seed, place, memory)
        rows += [{"task": task, **row} for row in made]
    manifest = {
        "measure": measure, "options": settings, "pairs": pairs, "null": null, "seed": seed, "memory": memory,
        "device": str(place), "float32_products": torch.get_float32_matmul_precision() if fast else None,
        "shapes": {task: [list(s) for s in two] for task, two in shapes.items()}, **origins,
        "versions": files.versions(),
    }  # fmt: skip
    return Similarity(_table(rows), manifest)


def _linear(
    a: Any, b: Any, layers_a: Sequence[int], layers_b: Sequence[int], debiased: bool, device: torch.device, memory: int
) -> list[Row]:
    """Step 2, the fast path."""
    (_, n, d), (_, _, e) = a.shape, b.shape
    form, rows, _ = blocks.plan(n, (d, e), (len(layers_a), len(layers_b)), memory)
    sides = blocks.Layers(a, device, rows), blocks.Layers(b, device, rows)
    values, faults_a, faults_b = blocks.linear_grid(*sides, layers_a, layers_b, form, debiased)
    return [
        _row(i, j, float(values[r, c]), faults_a[r], faults_b[c])
        for r, i in enumerate(layers_a)
        for c, j in enumerate(layers_b)
    ]


def _prepared(
    a: Any, b: Any, layers_a: Sequence[int], layers_b: Sequence[int], measure: str, settings: Mapping[str, Any],
    null: int, seed: int, device: torch.device, memory: int,
) -> list[Row]:  # fmt: skip
    """Step 2, the general path."""
    chosen, (_, n, d), (_, _, e) = MEASURES[measure], a.shape, b.shape
    settings = with_form(settings, n, d, e, null)
    one = STATE * n * max(d, e, 0 if settings.get("form") == "features" else n)
    fit = memory // one - 2  # a layer of b and its permutation are there too
    if fit < 1:
        found = f"{3 * one} are needed for three layers of {n} examples"
        raise ArgumentError(f"memory={memory} bytes", found, "allow more, or give fewer examples")
    rows = {}
    for start in range(0, len(layers_a), fit):
        group = {i: _state(a, i, measure, settings, device) for i in layers_a[start : start + fit]}
        ready = {i: state for i, (state, reason) in group.items() if not reason}
        for j in layers_b:
            other, reason = _state(b, j, measure, settings, device)
            draws: list[list[float]] = []
            if not reason and ready:
                for order in permutations(n, null, seed, device):
                    moved = chosen.permute(other, order)
                    draws.append([chosen.between(state, moved) for state in ready.values()])
            null_of = dict(zip(ready, np.array(draws).T, strict=True)) if draws else {}
            for i, (state, other_reason) in group.items():
                value = np.nan if reason or other_reason else chosen.between(state, other)
                rows[i, j] = _row(i, j, value, other_reason, reason)
                if null:
                    chance = band(value, null_of[i])[1:] if i in null_of and np.isfinite(value) else (np.nan,) * 3
                    rows[i, j].update(zip(("low", "high", "p"), chance, strict=True))
    return [rows[i, j] for i in layers_a for j in layers_b]


def _state(array: Any, layer: int, measure: str, settings: Mapping[str, Any], device: torch.device) -> tuple[Any, str]:
    """A prepared layer, or why it cannot be."""
    given = inputs.as_examples(array[layer], measure)
    blocks.hand_back(array)
    given = given._replace(values=given.values.to(device))
    try:
        return MEASURES[measure].prepare(inputs.checked(given, measure), **settings), ""
    except NumericalError as error:
        return None, error.found


def _row(i: int, j: int, value: float, reason_a: str, reason_b: str) -> Row:
    reasons = [f"{side}: {reason}" for side, reason in (("a", reason_a), ("b", reason_b)) if reason]
    if not reasons and not np.isfinite(value):
        reasons = ["the result is not finite"]
    return {"layer_a": i, "layer_b": j, "value": np.nan if reasons else value, "reason": "; ".join(reasons)}


def _table(rows: Sequence[Row]) -> Any:
    import pandas as pd  # heavy: only where a table is made

    table = pd.DataFrame(rows)
    if "p" in table:
        table["q"] = benjamini_hochberg(table["p"])
    return table[[*table.columns.drop("reason"), "reason"]]


def _tasks(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    asked = "compare two models"
    tasks, others = (inputs.tasks_of(side, asked) for side in (a, b))
    if set(tasks) != set(others):
        only = [("a", set(tasks) - set(others)), ("b", set(others) - set(tasks))]
        found = "; ".join(f"only in {side}: {sorted(names)}" for side, names in only if names)
        raise ArgumentError(asked, found, "give the same tasks of both models")
    return tasks


def _shapes(a: Mapping[str, Any], b: Mapping[str, Any], task: str, pairs: str) -> tuple[tuple[int, int, int], ...]:
    asked = f"compare {task!r}"
    first, second = (inputs.shape(side[task], asked) for side in (a, b))
    inputs.same_examples(first[1], second[1], asked)
    if pairs == "same" and first[0] != second[0]:
        raise ArgumentError(asked, f"{first[0]} and {second[0]} layers", "use pairs='all', or give matching layers")
    return first, second


def _origins(a: Any, b: Any) -> dict[str, Any]:
    """Where both sides come from, as far as they know (`Representations` do); other examples are refused.

    How many there are is settled by the arrays' shapes.
    """
    known = {side: dict(given.manifest) for side, given in (("a", a), ("b", b)) if getattr(given, "manifest", None)}
    if len(known) == 2:
        for task in a.keys() & b.keys():
            first, second = ([_of(about, task), about.get("split")] for about in known.values())
            if None not in first + second and first != second:
                found = f"data {first[0]}, split {first[1]} of a; data {second[0]}, split {second[1]} of b"
                raise ArgumentError(f"compare {task!r}", found, "read the same examples of the same task with both")
    return known


def _of(manifest: Mapping[str, Any], task: str) -> Any:
    """The hash of a task's data, if it is known."""
    return (manifest.get("tasks") or {}).get(task)


def _device(a: Mapping[str, Any], device: str | torch.device | None) -> torch.device:
    given = next((v.device for v in a.values() if isinstance(v, torch.Tensor) and v.device.type != "cpu"), None)
    wanted = device or given or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.ones(1, dtype=torch.float64, device=wanted).item()
        return torch.device(wanted)
    except (AssertionError, RuntimeError, TypeError) as error:
        found = str(error).split("\n")[0]
        raise ArgumentError(
            f"compare on {wanted}", found, "use a device that is there and has float64: 'cpu'"
        ) from None


def _label(manifest: Mapping[str, Any]) -> str:
    options = manifest["options"]
    if manifest["measure"] != "cka":
        return str(manifest["measure"]).replace("_", " ")
    kernel = "linear" if options["kernel"] == "linear" else "RBF"
    return f"{'debiased' if options['debiased'] else 'biased'} {kernel} CKA"


def _shade(rows: Any, shaded: bool) -> tuple[Any, Any]:
    return (rows["low"].tolist(), rows["high"].tolist()) if shaded else (None, None)
