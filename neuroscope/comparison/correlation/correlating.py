"""Does similarity predict transfer? Correlation of two numbers per pair of tasks (LX24 §3.3, Table 4).

1. similarity[i, j], of the neurons of tasks i and j (inside the model trained on i), stands against transfer[i, j],
   the score on task j of the model trained on i. A task with itself is left out: its similarity is 1 by construction.
2. Per test task j, as LX24 does: over the n models i, Pearson's r and Spearman's rho, each with its 95 % interval and
   an exact permutation p, and Benjamini-Hochberg's q over the test tasks. LX24 has n = 6: the interval of its r = 0.79
   is [-0.06, 0.98].
3. Over all pairs at once, which share tasks and so are not independent: p permutes the tasks' labels, and the interval
   draws whole tasks (measures.py has the sources).
4. The same once what each source and each test task has in all its pairs is taken out of both numbers (two-way fixed
   effects). A task that is like all others and easy for every model makes a correlation in 3, in which no pair has a
   part: what decides whether the similarity of two tasks predicts transfer between them is this view.
5. By layer, all again with each layer's similarity, and q over the layers as well: in which layer does similarity
   predict transfer?

Simplified: the layers' q is Benjamini and Hochberg's, which holds for tests that are positively dependent, as those of
neighbouring layers are. The interval of 4 draws the residuals as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

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
    correlation,
    interval,
    label_permutation_test,
    orders,
    permutation_test,
    relabelled,
    task_bootstrap,
    task_draws,
    without_tasks,
)
from neuroscope.comparison.correlation.correlation_result import PAIRS, TWO_WAY, Correlation
from neuroscope.errors import ArgumentError, choose
from neuroscope.results import Result
from neuroscope.statistics import benjamini_hochberg

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Correlation", "correlate"]

BY = ("all", "layer")


@public
def correlate(similarity: Any, transfer: Any, *, by: Literal["all", "layer"] = "all", seed: int = 0) -> Correlation:
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
    choose(by, BY, "by")
    layers, scores = similarity_cells(similarity), transfer_cells(transfer)
    if by == "layer" and None in layers:
        do = "give a similarity by layer, or by='all'"
        raise ArgumentError("correlate(by='layer')", "a similarity without layers", do)
    names, cells, measured = matrices(layers, scores)
    pairs = max(int((np.isfinite(x) & np.isfinite(measured)).sum()) for x in cells.values())
    if pairs < LEAST:
        found = f"{pairs} pairs of tasks with both numbers"
        raise ArgumentError("correlate", found, f"give {LEAST} or more; {np.isfinite(measured).sum()} have a score")
    left_out: list[int | None] = []
    if by == "all":
        mean, left_out = mean_over_layers(cells, measured)
        cells = {None: mean}
    classes = _classes(measured)
    labels, exact = orders(classes, seed)
    shuffled = {0: (relabelled(labels, measured), exact)}  # of tasks; and of n models:
    counts = {int(n) for x in cells.values() for n in (np.isfinite(x) & np.isfinite(measured)).sum(0)}
    shuffled |= {n: orders([range(n)], seed) for n in counts if n >= LEAST}
    draws = task_draws(classes, seed)
    rows = [row for layer, x in cells.items() for row in _rows(names, layer, x, measured, shuffled, draws)]
    used = [(a, b) for a, b in scores if a != b and a in names and b in names]
    manifest = {
        "by": by,
        "seed": seed,
        "tasks": names,
        "layers": [layer for layer in cells if layer is not None],
        "averaged": len(layers) - len(left_out),
        "left_out": left_out,  # layers in no mean, as some pair has no value there
        "pairs": int(np.isfinite(measured).sum()),
        "pairs_left_out": len(scores) - len(used),  # a task with itself, or with no similarity
        "interval": "Fisher (r), Bonett & Wright 2000 (rho); over all pairs, bootstrap over tasks",
        "p": f"two-sided permutation, exact up to {EXACT} orders; over all pairs, of the tasks' labels (Mantel 1967), "
        "without the tasks' effects by double semi-partialing (Dekker, Krackhardt & Snijders 2007)",
        "similarity": dict(similarity.manifest) if isinstance(similarity, Result) else None,
        "transfer": dict(transfer.manifest) if isinstance(transfer, Result) else None,
        "versions": files.versions(),
    }
    return Correlation(_corrected(rows, by), manifest)


def _classes(measured: Floats) -> list[list[int]]:
    """Tasks that may change places: those that are both source and test, one of them, or neither."""
    sources, tests = np.isfinite(measured).any(1), np.isfinite(measured).any(0)
    kinds = (sources & tests, sources & ~tests, ~sources & tests, ~sources & ~tests)
    return [np.flatnonzero(flags).tolist() for flags in kinds if flags.any()]


def _rows(
    names: list[str], layer: int | None, x: Floats, y: Floats, shuffled: dict[int, tuple[Orders, bool]], draws: Floats
) -> list[dict[str, Any]]:  # fmt: skip
    """Every view and statistic of one layer, without q."""
    rows = []
    both = np.isfinite(x) & np.isfinite(y)
    own = (x, y, int(both.sum()))
    views = {PAIRS: own, TWO_WAY: without_tasks(x, y) if both.any() else own}
    is_few = min(both.any(0).sum(), both.any(1).sum()) < TASKS
    for statistic in STATISTICS:
        for j in np.flatnonzero(np.isfinite(y).any(0)).tolist():
            one, two = x[both[:, j], j], y[both[:, j], j]
            row = _row(names[j], layer, statistic, one, two, int(np.isfinite(y[:, j]).sum()), "models")
            if not row["reason"]:
                row["low"], row["high"] = interval(row["r"], len(one), statistic)
                every, row["exact"] = shuffled[len(one)]
                row["p"], row["least"] = permutation_test(one, two, statistic, every)
                row["orders"] = len(every)
            rows.append(row)
        for view, (one, two, freedom) in views.items():
            row = _row(view, layer, statistic, one[both], two[both], int(np.isfinite(y).sum()), "pairs", freedom)
            if not row["reason"]:
                places, row["exact"] = shuffled[0]
                row["p"], row["least"] = label_permutation_test(one, two, statistic, places)
                row["orders"] = len(places)
                if is_few:
                    row["reason"] = f"no interval: fewer than {TASKS} tasks"
                else:
                    row["low"], row["high"] = task_bootstrap(one, two, statistic, draws)
            rows.append(row)
    return rows


def _row(
    test: str, layer: int | None, statistic: str, x: Floats, y: Floats, scored: int, unit: str, freedom: int = LEAST
) -> dict[str, Any]:
    nothing: dict[str, Any] = {"r": np.nan, "low": np.nan, "high": np.nan, "p": np.nan, "exact": False, "orders": 0}
    nothing |= {"least": np.nan, "reason": ""}
    row = {"test": test, "layer": layer, "statistic": statistic, "n": len(x), "gaps": scored - len(x)} | nothing
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
    import pandas as pd

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
