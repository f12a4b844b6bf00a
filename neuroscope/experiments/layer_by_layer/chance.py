"""What the figures of ZZC24 would show by chance: names, features or choices of tasks shuffled."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neuroscope.comparison.hidden_states import Representations
from neuroscope.comparison.similarity import variance_dimension
from neuroscope.comparison.similarity.neighbours import parts
from neuroscope.statistics import percentile_interval, permutation_p

Floats = NDArray[np.float64]
DRAWS = 999  # of shuffled names
SHUFFLED = 5  # copies with shuffled features
EXACT = 5000  # choices up to which all are counted
TIE = 1e-9  # of cosine: less is rounding
NEAREST, PER_TASK = 10, 64  # neighbours counted, and examples of a task that they are looked for among


def between_clusters(values: Floats, names: Any) -> float:
    """How far apart clusters lie: the standard deviation of their means."""
    return float(np.std([values[names == name].mean() for name in dict.fromkeys(names)]))


def neighbours(reps: Representations, families: Mapping[str, str], seed: int = 0) -> list[dict[str, Any]]:
    """By layer, the share of each example's nearest examples of other tasks that are of its cluster (by cosine).

    Only tasks that share their cluster count. low, high and p are those of the clusters' names shuffled over tasks.
    """
    tasks = list(reps)
    names = np.array([families[task] for task in tasks])
    shared = len(set(names)) < len(names) and len(set(names)) > 1
    every = [names, *orders(names, seed)] if shared else []
    size = min(PER_TASK, *(reps[task].shape[1] for task in tasks))
    rows = []
    for layer in range(reps.n_layers):
        row: dict[str, Any] = {"layer": layer, "value": np.nan, "low": np.nan, "high": np.nan, "p": np.nan}
        x = np.concatenate([np.asarray(reps[task][layer][:size], dtype=np.float64) for task in tasks])
        if not shared:
            row["reason"] = f"{len(set(names))} clusters of {len(names)} tasks"
        elif np.ptp(x, axis=0).max() == 0:
            row["reason"] = "all examples are the same there"
        else:
            near = _near(x, len(tasks), size)
            share, *shuffled = (_together(near, order) for order in every)
            low, high = percentile_interval(shuffled)
            p = permutation_p(share, shuffled)
            row |= {"value": share, "low": low, "high": high, "p": p, "reason": ""}
        rows.append(row)
    return rows


def _near(x: Floats, tasks: int, size: int) -> Floats:
    """[task, other task]: of the nearest examples of other tasks, the share that each has; equally near ones share."""
    x = x - x.mean(0)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(float).tiny)
    owner = np.repeat(np.arange(tasks), size)
    shares, nearest = np.zeros((tasks, tasks)), min(NEAREST, (tasks - 1) * size)
    for task in range(tasks):
        weight = parts(torch.from_numpy(x[owner == task] @ x[owner != task].T), nearest, TIE).numpy()
        shares[task] = np.bincount(owner[owner != task], weights=weight.sum(0), minlength=tasks) / weight.sum()
    return shares


def _together(near: Floats, names: Any) -> float:
    same = (names[:, None] == names[None]) & ~np.eye(len(names), dtype=bool)
    return float((near * same).sum(1)[same.any(1)].mean())


def shuffled_dimensions(reps: Representations, share: float, seed: int) -> tuple[Floats, Floats]:
    """Lowest and highest number of components over copies whose features are shuffled; NaN for constant layers."""
    rng = np.random.default_rng(seed)
    counts = np.full((SHUFFLED, reps.n_layers), np.nan)
    for layer in range(reps.n_layers):
        x = np.concatenate([np.asarray(reps[task][layer]) for task in reps])
        if np.ptp(x, axis=0).max() > 0:
            counts[:, layer] = [variance_dimension(rng.permuted(x, axis=0), share) for _ in range(SHUFFLED)]
    return counts.min(0), counts.max(0)


def choices(difference: Floats, size: int, seed: int) -> tuple[Floats, bool]:
    """The difference between tasks learnt and held out for choices of tasks to hold out, and whether these are all."""
    n, total = len(difference), difference.sum()
    exact = math.comb(n, size) <= EXACT
    if exact:
        chosen = np.array(list(itertools.combinations(range(n), size)))
    else:
        rng = np.random.default_rng(seed)
        chosen = np.array([rng.choice(n, size, replace=False) for _ in range(EXACT)])
    out = difference[chosen].sum(1)
    return (total - out) / (n - size) - out / size, exact


def groupings(names: Any) -> int:
    """In how many ways the tasks can be put into clusters of the sizes that they have; p is at least one in so many.

    Example:
        >>> groupings(["a", "a", "b", "b"])  # with the first task goes one of three
        3
    """
    sizes = list(Counter(names).values())
    ways = math.factorial(len(names)) // math.prod(map(math.factorial, sizes))
    return ways // math.prod(map(math.factorial, Counter(sizes).values()))


def too_few(ways: int, alpha: float) -> str:
    """What to say where chance has so few ways that nothing could have been found; "" where it has enough."""
    return (
        f" With so few tasks p cannot be below about {1 / ways:.2g}: nothing could have been found."
        if ways * alpha < 1
        else ""
    )


def orders(names: Any, seed: int) -> Iterator[Any]:
    """Names shuffled over the tasks."""
    rng = np.random.default_rng(seed)
    return (rng.permutation(names) for _ in range(DRAWS))
