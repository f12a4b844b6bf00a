"""Compare methods of continual learning, each at its best learning rate (LX24 §4.2, Table 5 and Figure 4).

1. Every method learns the first order once per learning rate of its grid, with a seed that is used for nothing else,
   and is measured on discovery examples. The rate with the highest average accuracy is taken; the lowest of equal ones.
2. At that rate it learns every order with every seed, and is measured on test examples.

LX24 does not say how its learning rates were chosen. Methods that look for neurons look on discovery examples too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from neuroscope.checks import ONE, Progress, finite, public, seed_of, seeds_of
from neuroscope.distributed import has_shards, shared_out
from neuroscope.errors import ArgumentError, NumericalError, choose
from neuroscope.models import Model, resolve
from neuroscope.tasks import Tasks, tasks_of
from neuroscope.training import Recipe
from neuroscope.training.continual_learning import METHODS, Continual, continual
from neuroscope.training.continual_learning.runs import known_of
from neuroscope.training.continual_learning.sequence import orders_of
from neuroscope.training.processes import wants_shards

STEP = 10**0.5  # between the learning rates that are tried where none are given

Grid = float | Sequence[float]


@public
def continual_comparison(
    model: Any,
    tasks: Tasks,
    methods: str | Sequence[str] = tuple(METHODS),
    *,
    orders: Sequence[Sequence[str]] | None = None,
    seeds: int | Sequence[int] = 3,
    lrs: Mapping[str, Grid] | Grid | None = None,
    tune_seed: int = 1000,
    k: float | None = None,
    examples: int | None = 256,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    recipe: Recipe | Mapping[str, Any] | None = None,
    known: Tasks = (),
    n: int | None = None,
    batch_size: int | None = None,
    output: str | PathLike | None = None,
    progress: Progress | None = None,
) -> Continual:
    """Tune every method's learning rate without test examples, then run it over all orders and seeds.

    Args:
        tasks: those to learn.
        methods: names out of `continual.METHODS`.
        orders, seeds: as in `continual`.
        lrs: learning rates to try, for each method by name, or the same for all; None: that of the recipe, and if it
            has none, each method's own and those of a half power of ten around it. A single one is not tuned.
        tune_seed: of the tuning runs; none of `seeds`.
        k, examples: of methods that look for neurons: share of all neurons in each task's mask (None: each method's
            own), and discovery examples that they are found on.
        options: further ones of methods, by method.
        recipe: of the training of every stage.
        known, n, batch_size, progress: as in `continual`.
        output: a folder from which a killed call goes on when it is called again in the same way.

    Returns:
        The joined `Continual`. `manifest["tuning"]` has per method the grid's average accuracies (NaN: diverged),
        the rate chosen, and whether it is at the grid's edge (then a better one may lie outside);
        `manifest["tuned_on"]` the split that each task was tuned on: "discovery", or "train" where it has no
        discovery examples.

    Raises:
        ArgumentError: unknown methods, or learning rates that are none.
        NumericalError: every rate of a method diverged, or the chosen one on another order or seed.
        TaskError, ModelError, FileError: as in `continual`.

    Example:
        >>> import neuroscope as ns
        >>> tasks = ns.load_tasks("mini-sequence", train=16, discovery=8, test=8)
        >>> two, how = [tasks["praise"], tasks["agreement"]], {"seeds": 1, "recipe": {"steps": 2}}
        >>> found = ns.experiments.continual_comparison("mini", two, ["ffn"], lrs=(1e-3, 1e-2), **how)
        >>> found.manifest["tuning"]["ffn"]["chosen"], found.manifest["tuned_on"]
        (0.01, {'praise': 'discovery', 'agreement': 'discovery'})
    """
    methods = [methods] if isinstance(methods, str) else list(methods)
    for method in [*methods, *(options or {})]:
        choose(method, METHODS, "method")
    if not methods or len(set(methods)) < len(methods):
        raise ArgumentError(f"methods={methods}", "none, or one twice", f"name some of {', '.join(METHODS)}, each once")
    seeds, recipe = seeds_of(seeds), Recipe.of(recipe)
    if seed_of(tune_seed, "tune_seed") in seeds:
        raise ArgumentError(f"tune_seed={tune_seed}", f"also in seeds={seeds}", "tune with a seed of its own")
    grids = {method: _grid(method, recipe.lr if lrs is None else lrs) for method in methods}
    for name, by_method in (("options", options), ("lrs", lrs if isinstance(lrs, Mapping) else None)):
        idle = sorted(set(by_method or {}) - set(methods))
        if idle:
            raise ArgumentError(f"{name} of {idle[0]!r}", f"methods {', '.join(methods)}", "name it in methods too")
    model, tasks = resolve(model), tasks_of(tasks, "continual_comparison")
    orders_of(list(tasks), orders)
    known_of(known)  # all is checked before the first run
    measuring: dict[str, Any] = {"n": n, "batch_size": batch_size, "progress": progress}
    folder = None if output is None else Path(output) / "continual"
    tuning: dict[str, dict[str, Any]] = {}
    given: dict[str, dict[str, Any]] = {}
    for method in methods:
        neurons = {"examples": examples} | ({} if k is None else {"k": k})
        chosen = {name: value for name, value in neurons.items() if name in METHODS[method].options}
        given[method] = {**measuring, "known": known, **chosen, **(options or {}).get(method, {})}
    trying = {
        (method, lr): partial(_tried, model, tasks, method, lr, recipe, orders, tune_seed, folder, given[method])
        for method in methods
        for lr in grids[method]
        if len(grids[method]) > 1
    }
    whole = has_shards(model.root) or wants_shards(recipe)
    keys = {place: f"{place[0]} {place[1]:g}" for place in trying}
    scores = shared_out("tune the learning rates", {keys[place]: run for place, run in trying.items()}, None, whole)
    tried = {place: scores[key] for place, key in keys.items()}
    results = []
    for method in methods:
        tuning[method] = _chosen(method, {lr: tried.get((method, lr)) for lr in grids[method]})
        lr, settings = tuning[method]["chosen"], given[method]
        settings["output"] = None if folder is None else folder / "runs" / f"lr-{lr:g}"
        results.append(
            continual(model, tasks, method, orders=orders, seeds=seeds, recipe=replace(recipe, lr=lr), **settings)
        )
    joined = Continual.join(results)
    splits = {name: "discovery" if task.discovery else "train" for name, task in tasks.items()}
    tuned = {"tuning": tuning, "tuned_on": splits, "tune_seed": tune_seed, "tune_order": joined.manifest["orders"][0]}
    return Continual(joined.table, {**joined.manifest, **tuned})


def _grid(method: str, lrs: Any) -> list[float]:
    """The learning rates to try of a method, growing."""
    usual = METHODS[method].lr
    grid: Any = tuple(float(f"{lr:.2g}") for lr in (usual / STEP, usual, usual * STEP)) if lrs is None else lrs
    if isinstance(grid, Mapping):
        if method not in grid:
            raise ArgumentError(f"lrs of {method!r}", f"grids for {', '.join(grid)}", "give every method a grid")
        grid = grid[method]
    listed = list(grid) if isinstance(grid, Sequence) and not isinstance(grid, ONE) else [grid]
    rates = sorted({finite(lr, f"lrs of {method!r}", "give some, such as (1e-3, 3e-3)") for lr in listed})
    if not rates or rates[0] <= 0:
        raise ArgumentError(f"lrs={grid!r} of {method!r}", "no learning rates", "give some, such as (1e-3, 3e-3)")
    return rates


def _tried(
    model: Model,
    tasks: Tasks,
    method: str,
    lr: float,
    recipe: Recipe,
    orders: Sequence[Sequence[str]] | None,
    seed: int,
    folder: Path | None,
    settings: Mapping[str, Any],
) -> float:
    """The average accuracy of one rate on discovery examples; NaN: it diverged."""
    first = None if orders is None else [list(next(iter(orders)))]
    # known tasks have no part in the choice, but for their neurons
    settings = {name: value for name, value in settings.items() if name != "known" or settings.get("protect")}
    settings |= {"orders": first, "seeds": (seed,), "split": "discovery"}
    where = None if folder is None else folder / "tuning" / f"lr-{lr:g}"
    try:
        tried = continual(model, tasks, method, recipe=replace(recipe, lr=lr), output=where, **settings)
        return float(tried.metrics()["average accuracy"].iloc[0])
    except NumericalError:
        return math.nan


def _chosen(method: str, scores: Mapping[float, float | None]) -> dict[str, Any]:
    """The grid's scores, growing rates, and the best of them; a single rate was not tried."""
    grid = list(scores)
    grid_scores = {f"{lr:g}": score for lr, score in scores.items()}
    finished = {lr: score for lr, score in scores.items() if score is not None and not math.isnan(score)}
    if len(grid) == 1:
        return {"grid": grid_scores, "chosen": grid[0], "edge": False}
    if not finished:
        found = f"every one diverged: {', '.join(f'{lr:g}' for lr in grid)}"
        raise NumericalError(f"tune the learning rate of {method!r}", found, "give lower ones in lrs")
    best = max(finished, key=lambda lr: finished[lr])
    return {"grid": grid_scores, "chosen": best, "edge": best in (grid[0], grid[-1])}
