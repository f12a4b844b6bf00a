"""Compare methods of continual learning, each at its best learning rate (LX24 §4.2, Table 5 and Figure 4).

1. Every method learns the first order once per learning rate of its grid, with a seed that is used for nothing else,
   and is measured on discovery examples. The rate with the highest average accuracy is taken; the lowest of equal ones.
2. At that rate it learns every order with every seed, and is measured on test examples.

LX24 does not say how its learning rates were chosen. Methods that look for neurons look on discovery examples too.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroscope.checks import public
from neuroscope.errors import ArgumentError, NumericalError, choose
from neuroscope.experiments.trials import check_settings
from neuroscope.models import resolve
from neuroscope.tasks.catalogue import CL_ORDERS
from neuroscope.tasks.task import Task
from neuroscope.training import Recipe
from neuroscope.training.continual_learning import METHODS, Continual, continual

if TYPE_CHECKING:
    import pandas as pd

# LX24 Table 5, Llama-2-7b: average accuracy in %, means over orders 1 to 3 (four tasks) and 4 to 6 (eight)
PUBLISHED = {
    "seqft": (47.1, 34.6), "seq-lora": (53.8, 47.7), "epi": (48.4, 42.6), "o-lora": (76.1, 71.6), "ncft": (71.3, 70.0),
    "w-ncft": (73.3, 72.0), "per-task": (77.2, 84.5),
}  # fmt: skip
WHOLE = ("seqft", "replay", "ewc", "per-task", "joint")  # train the base's own weights, in its own dtype
STEP = 10**0.5  # between the learning rates that are tried where none are given
OURS = ("split", "method", "orders", "seeds")  # of `continual`: not to be passed on

Grid = Sequence[float]


@public
def continual_comparison(
    model: Any,
    tasks: Sequence[Task] | Mapping[str, Task],
    methods: Sequence[str] = tuple(METHODS),
    *,
    orders: Sequence[Sequence[str]] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    lrs: Mapping[str, Grid] | Grid | None = None,
    tune_seed: int = 1000,
    recipe: Recipe | Mapping[str, Any] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    output: str | PathLike | None = None,
    **settings: Any,
) -> Continual:
    """Tune every method's learning rate without test examples, then run it over all orders and seeds.

    Args:
        tasks: those to learn.
        methods: names out of `continual.METHODS`.
        orders, seeds: as in `continual`.
        lrs: learning rates to try, for each method by name, or the same for all; None: each method's own, and those of
            a half power of ten around it. A grid of one is not tuned.
        tune_seed: of the tuning runs; none of `seeds`.
        recipe: of the training of every stage, but for its lr.
        options: of methods, by method.
        output: a folder from which a killed call goes on when it is called again in the same way.
        settings: `known`, `n`, `batch_size` and `progress`, as in `continual`.

    Returns:
        The joined `Continual`. `manifest["tuning"]` has per method the grid's average accuracies (NaN: diverged),
        the rate chosen, and whether it is at the grid's edge (then a better one may lie outside);
        `manifest["tuned_on"]` the split that each task was tuned on: "discovery", or "train" where it has no
        discovery examples.

    Raises:
        ArgumentError: unknown methods or settings, or a grid that is none.
        NumericalError: every rate of a method diverged, or the chosen one on another order or seed.
        TaskError, ModelError, FileError: as in `continual`.
    """
    methods, options = list(methods), dict(options or {})
    seeds = [seeds] if isinstance(seeds, int) else list(seeds)
    for method in [*methods, *options]:
        choose(method, METHODS, "method")
    if not methods or len(set(methods)) < len(methods):
        raise ArgumentError(f"methods={methods}", "none, or one twice", f"name some of {', '.join(METHODS)}, each once")
    check_settings("continual_comparison", settings, [*inspect.signature(continual).parameters])
    for name in OURS:
        if name in settings:
            raise ArgumentError(
                f"continual_comparison({name}=...)", "no such argument", "it is chosen: see lrs and seeds"
            )
    if tune_seed in seeds:
        raise ArgumentError(f"tune_seed={tune_seed}", f"also in seeds={seeds}", "tune with a seed of its own")
    grids = {method: _grid(method, lrs) for method in methods}
    recipe = Recipe.of(recipe)
    model = resolve(model)
    listed = list(tasks.values()) if isinstance(tasks, Mapping) else list(tasks)
    folder = None if output is None else Path(output)
    tuning: dict[str, dict[str, Any]] = {}
    results = []
    for method in methods:
        own = {**settings, **options.get(method, {})}
        found = _tune(model, listed, method, grids[method], recipe, orders, tune_seed, folder, own)
        tuning[method] = found
        where = None if folder is None else folder / "runs" / f"lr-{found['chosen']:g}"
        results.append(
            continual(
                model, listed, method, orders=orders, seeds=seeds, recipe=replace(recipe, lr=found["chosen"]),
                output=where, **own,
            )
        )  # fmt: skip
    joined = Continual.join(results)
    splits = {task.name: "discovery" if task.discovery else "train" for task in listed}
    about = {"tuning": tuning, "tuned_on": splits, "tune_seed": tune_seed, "tune_order": joined.manifest["orders"][0]}
    return Continual(joined.table, {**joined.manifest, **about})


def _grid(method: str, lrs: Mapping[str, Grid] | Grid | None) -> list[float]:
    own = METHODS[method].lr
    grid: Any = tuple(float(f"{lr:.2g}") for lr in (own / STEP, own, own * STEP)) if lrs is None else lrs
    if isinstance(grid, Mapping):
        if method not in grid:
            raise ArgumentError(f"lrs of {method!r}", f"grids for {', '.join(grid)}", "give every method a grid")
        grid = grid[method]
    rates = sorted({grid} if isinstance(grid, (int, float)) else set(grid))
    if not rates or not all(isinstance(lr, (int, float)) and 0 < lr < math.inf for lr in rates):
        raise ArgumentError(f"lrs={grid!r} of {method!r}", "no learning rates", "give some, such as (1e-3, 3e-3)")
    return [float(lr) for lr in rates]


def _tune(
    model: Any,
    tasks: list[Task],
    method: str,
    grid: list[float],
    recipe: Recipe,
    orders: Sequence[Sequence[str]] | None,
    seed: int,
    folder: Path | None,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The grid's scores on discovery examples, and the best rate."""
    if len(grid) == 1:
        return {"grid": {f"{grid[0]:g}": None}, "chosen": grid[0], "edge": False}
    first = None if orders is None else [list(next(iter(orders)))]
    # known tasks have no part in the choice, but for their neurons
    rest = {name: value for name, value in settings.items() if name != "known" or settings.get("protect")}
    scores = {}
    for lr in grid:
        where = None if folder is None else folder / "tuning" / f"lr-{lr:g}"
        try:
            tried = continual(
                model,
                tasks,
                method,
                orders=first,
                seeds=(seed,),
                recipe=replace(recipe, lr=lr),
                split="discovery",
                output=where,
                **rest,
            )
            scores[lr] = float(tried.metrics()["average accuracy"].iloc[0])
        except NumericalError:
            scores[lr] = math.nan
    finished = [lr for lr in grid if not math.isnan(scores[lr])]
    if not finished:
        asked, found = (
            f"tune the learning rate of {method!r}",
            f"every one diverged: {', '.join(f'{x:g}' for x in grid)}",
        )
        raise NumericalError(asked, found, "give lower ones in lrs")
    best = max(finished, key=lambda lr: scores[lr])
    grid_scores = {f"{lr:g}": score for lr, score in scores.items()}
    return {"grid": grid_scores, "chosen": best, "edge": best in (grid[0], grid[-1])}


def beside_published(result: Continual) -> pd.DataFrame | None:
    """Average accuracy beside LX24's Table 5 (Llama-2-7b), in %; None if an order is not one of that table's.

    Columns: method, runs, ours, low, high (95 % over runs), LX24 (mean over its three orders of that length).
    """
    published = {order: number for number, order in CL_ORDERS.items()}
    numbers = [published.get(tuple(order)) for order in result.manifest["orders"]]
    if None in numbers:
        return None
    eight = len(result.manifest["orders"][0]) == 8
    summary = result.summary()
    table = 100 * summary[["average accuracy", "low", "high"]].rename(columns={"average accuracy": "ours"})
    table.insert(0, "runs", summary["runs"])
    table.insert(0, "method", summary["method"])
    table["LX24"] = [PUBLISHED.get(name, (math.nan, math.nan))[eight] for name in table["method"]]
    return table


def in_words(result: Continual) -> str:
    """What was found, as text with `**bold**` and lists; failures are stated."""
    ranked = result.summary().sort_values("average accuracy", ascending=False)
    tuning = result.manifest.get("tuning", {})
    lines = [
        "- Average accuracy after the last stage, best first: "
        + "; ".join(
            f"**{r['method']}** {r['average accuracy']:.1%} [{max(0.0, r['low']):.1%}, "
            f"{min(1.0, r['high']):.1%}] at rate {r['lr']:.2g}"
            for r in ranked.to_dict("records")
        )
        + "."
    ]
    methods = set(result.methods)
    for method, control, what in (
        ("ncft", "ncft-random", "as many random neurons of the same layers"),
        ("ncft", "ffn", "all FFN neurons"),
        ("ncft", "seqft", "the whole model"),
        ("ncft", "seq-lora", "LoRA on all linear layers"),
        ("w-ncft", "ncft", "the same without weighting"),
    ):
        if {method, control} <= methods:
            gap = result.differences(method).set_index("method").loc[control]
            span = f"[{100 * gap['low']:.1f}, {100 * gap['high']:.1f}] over runs" if gap["runs"] > 1 else "in one run"
            said = f"{100 * gap['difference']:+.1f} points {span}"
            negative = "" if gap["low"] > 0 else "**A negative**, no advantage shown: "
            lines.append(f"- {negative}{method} against {control} ({what}): {said}.")
    lines += _unequal(result, methods)
    edge = [method for method, found in tuning.items() if found["edge"]]
    if edge:
        lines.append(f"- The best learning rate lies at the edge of the grid for {', '.join(edge)}: not fully tuned.")
    fallen = [task for task, split in result.manifest.get("tuned_on", {}).items() if split == "train"]
    if fallen:
        lines.append(f"- Learning rates were tuned on training examples of {', '.join(fallen)}: no discovery examples.")
    return "\n".join(lines)


def _unequal(result: Continual, methods: set[str]) -> list[str]:
    """In what the methods compared are not on equal terms, and how W-NCFT weighted."""
    lines = []
    told = [name for name in ("w-ncft", "per-task") if name in methods]
    if told:
        lines.append(f"- Not on equal terms: {' and '.join(told)} are told which task is asked; the others are not.")
    whole = [name for name in WHOLE if name in methods]
    dtype = result.manifest["dtype"]
    if whole and dtype != "float32":
        lines.append(
            f"- **Not on equal terms**: {', '.join(whole)} train the weights in the base's {dtype}, which rounds small "
            "steps away; neurons and LoRA are trained in float32. Open the model in float32 for a fair comparison."
        )
    ways = {run["settings"]["options"].get("weighting") for run in result.manifest["runs"] if run["method"] == "w-ncft"}
    lines += [f"- W-NCFT weighted its neurons by {way!r}." for way in sorted(ways)]
    return lines
