"""Does similarity predict transfer? Correlation of two numbers per pair of tasks (LX24 §3.3, Table 4).

1. similarity[i, j], of the neurons of tasks i and j (inside the model trained on i), stands against transfer[i, j],
   the score on task j of the model trained on i. A task with itself is left out: its similarity is 1 by construction.
2. Per test task j, as LX24 does: over the n models i, Pearson's r and Spearman's rho, each with its 95 % interval and
   an exact permutation p, and Benjamini-Hochberg's q over the test tasks. LX24 has n = 6: the interval of its r = 0.79
   is [-0.06, 0.98].
3. Over all pairs at once, which share tasks and so are not independent: p permutes the tasks' labels, and the interval
   draws whole tasks (coefficients.py has the sources).
4. The same once what each source and each test task has in all its pairs is taken out of both numbers (two-way fixed
   effects). A task that is like all others and easy for every model makes a correlation in 3, in which no pair has a
   part: what decides whether the similarity of two tasks predicts transfer between them is this view.
5. By layer, all again with each layer's similarity, and q over the layers as well: in which layer does similarity
   predict transfer?

Simplified: the layers' q is Benjamini and Hochberg's, which holds for tests that are positively dependent, as those of
neighbouring layers are. The interval of 4 draws the residuals as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from neuroscope import files
from neuroscope.checks import public
from neuroscope.comparison.correlation.cells import matrices, mean_over_layers, similarity_cells, transfer_cells
from neuroscope.comparison.correlation.coefficients import (
    EXACT,
    LEAST,
    STATISTICS,
    TASKS,
    Floats,
    Orders,
    coefficient_interval,
    correlation,
    label_permutation_test,
    orders,
    permutation_test,
    relabelled,
    task_bootstrap,
    task_draws,
    without_tasks,
)
from neuroscope.comparison.correlation.verdicts import Correlation
from neuroscope.comparison.correlation.views import PAIRS, TWO_WAY
from neuroscope.errors import ArgumentError, choose
from neuroscope.results import Result
from neuroscope.statistics import benjamini_hochberg

if TYPE_CHECKING:
    import pandas as pd

Bools = NDArray[np.bool_]

METHODS = {
    "interval": "Fisher (r), Bonett & Wright 2000 (rho); over all pairs, bootstrap over tasks",
    "p": f"two-sided permutation, exact up to {EXACT} orders; over all pairs, of the tasks' labels (Mantel 1967), "
    "without the tasks' effects by double semi-partialing (Dekker, Krackhardt & Snijders 2007)",
}
By = Literal["all", "layer"]


@dataclass(frozen=True)
class Chance:
    """What is shuffled and drawn, once for all layers, views and statistics.

    Attributes:
        labels: orders of the tasks, as places in the flat matrix of scores (`relabelled`).
        models: number of models -> their orders.
        draws: how often each task is in each draw of the bootstrap.

    Beside each set of orders stands whether they are all there are.
    """

    labels: tuple[Orders, bool]
    models: dict[int, tuple[Orders, bool]]
    draws: Floats

    @classmethod
    def of(cls, layers: Iterable[Floats], scores: Floats, seed: int) -> Chance:
        """For these similarities and scores, [source, test] each."""
        classes = _classes(scores)
        labels, exact = orders(classes, seed)
        counts = {int(n) for x in layers for n in (np.isfinite(x) & np.isfinite(scores)).sum(0)}
        models = {n: orders([range(n)], seed) for n in counts if n >= LEAST}
        return cls((relabelled(labels, scores), exact), models, task_draws(classes, seed))


@public
def correlate(similarity: Any, transfer: Any, *, by: By = "all", seed: int = 0) -> Correlation:
    """Correlate tasks' similarity with how well a model trained on one does on the other.

    Args:
        similarity: a ParameterSimilarity, an Overlap, a tidy table (a, b, and layer if there are any, with a value), a
            matrix, or {(a, b): number, or one per layer}. A pair that is there one way only counts both ways.
        transfer: scores, such as {(trained on, measured on): score}, {trained on: {measured on: score}}, a matrix with
            the tasks trained on as its index, or a result of cross-training. NaN marks what was not measured.
        by: "all" takes each pair's mean over the layers where every pair has a value; "layer" every layer for itself.
        seed: of drawn permutations (where there are more than 40 320) and of the bootstrap.

    Returns:
        Correlation: one row per view (each test task; all pairs; all pairs without what is due to source and test
        task), layer and statistic. What cannot be computed (fewer than four models, scores that are all equal; of three
        tasks the last view, as their effects leave one degree of freedom) is NaN with a reason, and in no correction.

    Raises:
        ArgumentError: no task in both, fewer than four pairs in all, layers asked for where there are none, or
            something else than pairs and numbers.

    Example:
        >>> alike = {("a", "b"): 0.9, ("a", "c"): 0.2, ("b", "c"): 0.1}
        >>> scores = {(i, j): 10 * s for (a, b), s in alike.items() for i, j in ((a, b), (b, a))}
        >>> found = correlate(alike, scores)
        >>> row = found.table[(found.table["test"] == "all pairs") & (found.table["statistic"] == "pearson")].iloc[0]
        >>> float(round(row["r"], 6)), int(row["n"]), float(round(row["p"], 3))  # 1 of the 6 orders of three tasks
        (1.0, 6, 0.167)
    """
    choose(by, get_args(By), "by")
    layers, scores = similarity_cells(similarity), transfer_cells(transfer)
    if by == "layer" and None in layers:
        do = "give a similarity by layer, or by='all'"
        raise ArgumentError("correlate(by='layer')", "a similarity without layers", do)
    names, cells, matrix = matrices(layers, scores)
    pairs = max(int((np.isfinite(x) & np.isfinite(matrix)).sum()) for x in cells.values())
    if pairs < LEAST:
        found = f"{pairs} pairs of tasks with both numbers"
        raise ArgumentError("correlate", found, f"give {LEAST} or more; {np.isfinite(matrix).sum()} have a score")
    left_out: list[int | None] = []
    if by == "all":
        mean, left_out = mean_over_layers(cells, matrix)
        cells = {None: mean}
    chance = Chance.of(cells.values(), matrix, seed)
    rows = [row for layer, x in cells.items() for row in _rows(names, layer, x, matrix, chance)]
    used = [(a, b) for a, b in scores if a != b and a in names and b in names]
    manifest = {
        "by": by,
        "seed": seed,
        "tasks": names,
        "layers": [layer for layer in cells if layer is not None],
        "averaged": len(layers) - len(left_out),
        "left_out": left_out,  # layers in no mean, as some pair has no value there
        "pairs": int(np.isfinite(matrix).sum()),
        "pairs_left_out": len(scores) - len(used),  # a task with itself, or with no similarity
        **METHODS,
        "similarity": dict(similarity.manifest) if isinstance(similarity, Result) else None,
        "transfer": dict(transfer.manifest) if isinstance(transfer, Result) else None,
        "versions": files.versions(),
    }
    return Correlation(_corrected(rows, by), manifest)


def _classes(scores: Floats) -> list[list[int]]:
    """Tasks that may change places: those that are both source and test, one of them, or neither."""
    sources, tests = np.isfinite(scores).any(1), np.isfinite(scores).any(0)
    kinds = (sources & tests, sources & ~tests, ~sources & tests, ~sources & ~tests)
    return [np.flatnonzero(flags).tolist() for flags in kinds if flags.any()]


def _rows(names: list[str], layer: int | None, x: Floats, y: Floats, chance: Chance) -> list[dict[str, Any]]:
    """Every view and statistic of one layer, without q."""
    both = np.isfinite(x) & np.isfinite(y)
    as_it_is = (x, y, int(both.sum()))
    views = {PAIRS: as_it_is, TWO_WAY: without_tasks(x, y) if both.any() else as_it_is}
    rows = []
    for statistic in STATISTICS:
        for j in np.flatnonzero(np.isfinite(y).any(0)).tolist():
            scored = int(np.isfinite(y[:, j]).sum())
            rows.append(_of_models(names[j], layer, statistic, x[both[:, j], j], y[both[:, j], j], scored, chance))
        for view, (one, two, freedom) in views.items():
            row = _row(view, layer, statistic, one[both], two[both], int(np.isfinite(y).sum()), "pairs", freedom)
            rows.append(row if row["reason"] else row | _over_pairs(one, two, statistic, both, chance))
    return rows


def _of_models(
    test: str, layer: int | None, statistic: str, x: Floats, y: Floats, scored: int, chance: Chance
) -> dict[str, Any]:
    """One test task: its correlation over the models."""
    row = _row(test, layer, statistic, x, y, scored, "models")
    if not row["reason"]:
        row["low"], row["high"] = coefficient_interval(row["r"], len(x), statistic)
        every, row["exact"] = chance.models[len(x)]
        row["p"], row["least"] = permutation_test(x, y, statistic, every)
        row["orders"] = len(every)
    return row


def _over_pairs(x: Floats, y: Floats, statistic: str, both: Bools, chance: Chance) -> dict[str, Any]:
    """Chance beside the correlation over all pairs."""
    places, exact = chance.labels
    p, least = label_permutation_test(x, y, statistic, places)
    row: dict[str, Any] = {"exact": exact, "p": p, "least": least, "orders": len(places)}
    if min(both.any(0).sum(), both.any(1).sum()) < TASKS:
        return row | {"reason": f"no interval: fewer than {TASKS} tasks"}
    low, high = task_bootstrap(x, y, statistic, chance.draws)
    return row | {"low": low, "high": high}


def _row(
    test: str, layer: int | None, statistic: str, x: Floats, y: Floats, scored: int, unit: str, freedom: int = LEAST
) -> dict[str, Any]:
    """A row with r, or why there is none; what chance makes of it is not known yet."""
    row: dict[str, Any] = {"test": test, "layer": layer, "statistic": statistic, "n": len(x), "gaps": scored - len(x)}
    row |= {"r": np.nan, "low": np.nan, "high": np.nan, "p": np.nan, "exact": False, "orders": 0}
    row |= {"least": np.nan, "reason": ""}
    if len(x) < LEAST:
        return row | {"reason": f"{len(x)} {unit}: fewer than {LEAST}"}
    if freedom < LEAST:
        return row | {"reason": f"{freedom} degree{'' if freedom == 1 else 's'} of freedom left: fewer than {LEAST}"}
    r = correlation(x, y, statistic)
    constant = "similarities" if np.ptp(x) <= np.ptp(y) else "scores"
    beyond = " but for source and test task" if test == TWO_WAY else ""
    return row | ({"r": r} if np.isfinite(r) else {"reason": f"all {constant} are equal{beyond}"})


def _corrected(rows: list[dict[str, Any]], by: str) -> pd.DataFrame:
    """The table with q: per statistic over test tasks (and layers), and over layers for each view of all pairs."""
    import pandas as pd  # heavy: only where a table is made

    table = pd.DataFrame(rows)
    table["q"] = np.nan
    for statistic in STATISTICS:
        for kind in (~table["test"].isin([PAIRS, TWO_WAY]), table["test"] == PAIRS, table["test"] == TWO_WAY):
            family = (table["statistic"] == statistic) & kind
            if family.any():
                table.loc[family, "q"] = benjamini_hochberg(table.loc[family, "p"].to_numpy())
    order = ["test", "layer", "statistic", "n", "gaps", "r", "low", "high", "p", "q", "exact", "orders"]
    order += ["least", "reason"]
    return table[order] if by == "layer" else table[order].drop(columns="layer")
