"""What MOSSA's figures show, and what they do not show, in words made of the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from neuroscope.statistics import ALPHA, paired_permutation

if TYPE_CHECKING:
    import pandas as pd

PRE, MULTI, ALL = "pre-trained", "multi-task", "all tasks together"
CAVEAT = (
    "CKA says how alike the examples are arranged, not that the same computation is made, nor that the task needs it."
)
NEAR = 0.9  # of the most components that the examples allow: then their number is the examples', not the model's


def complete(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Rows of CKA whose means over layers are of the same layers everywhere, and, in words, what was dropped for that.

    A task without any value in one of the models goes first; then every layer where a task is without.
    """
    rows = table[table["measure"] == "cka"]
    made = rows["value"].notna().groupby([rows["model"], rows["task"]]).any()
    tasks = sorted(made[~made].index.get_level_values("task").unique())
    rows = rows[~rows["task"].isin(tasks)]
    layers = sorted(rows.loc[rows["value"].isna(), "layer"].unique())
    gone = [f"task {task}" for task in tasks] + [_layer(layer) for layer in layers]
    said = f"Means over layers leave out {', '.join(gone)}: there not every task has a value in every model."
    return rows[~rows["layer"].isin(layers)], [said] if gone else []


def by_layer(table: pd.DataFrame, manifest: Mapping[str, Any]) -> str:
    """Z-F2."""
    rows = _cka(table)
    if rows.empty:
        return " ".join(["There is no CKA to speak of.", *_left_out(table, "cka")])
    parts = []
    for model, own in rows.groupby("model", sort=False):
        medians = own.groupby("layer")["value"].agg(["median", "count"])
        first, last, low = (
            f"{medians.loc[layer, 'median']:.3f} at {_layer(layer)} (median of {_tasks(medians.loc[layer, 'count'])})"
            for layer in (medians.index[0], medians.index[-1], medians["median"].idxmin())
        )
        parts.append(
            f"The {model} model's CKA with the models tuned on one task is {first} and {last}; it is lowest, {low}."
        )
    if rows["model"].nunique() == 2:
        parts += _difference(table)
    if manifest["null"]:
        outside, sure = (rows["value"] > rows["high"]).mean(), (rows["q"] <= ALPHA).mean()
        parts.append(
            f"{outside:.0%} of the values lie above the band of 95 % of shuffled examples (2.5 % would by chance), "
            f"{sure:.0%} at q <= {ALPHA}."
        )
        parts += _floor(rows, manifest["null"])
    return " ".join([*parts, *_left_out(table, "cka"), CAVEAT])


def _difference(table: pd.DataFrame) -> list[str]:
    rows, dropped = complete(table)
    if rows.empty:
        return ["No layer has a value for every task in both models: they are not compared.", *dropped]
    wide = rows.pivot_table(index="task", columns="model", values="value", aggfunc="mean")
    difference = (wide[MULTI] - wide[PRE]).to_numpy()
    p, mean = paired_permutation(wide[MULTI].to_numpy(), wide[PRE].to_numpy()), difference.mean()
    low, high = interval(difference)
    span = f"95 % interval {low:+.4f} to {high:+.4f}" if len(wide) > 1 else "one task, no interval"
    least = 2 / 2 ** len(wide)  # of all signs of the tasks' differences, all alike are two
    few = f"With {_tasks(len(wide))} this p cannot be below {least:.2g}: nothing could have been clear."
    verdict = "closer to them than" if mean > 0 else "farther from them than"
    if p >= ALPHA:
        verdict = "neither clearly closer to them nor farther from them than"
    said = (
        f"The multi-task model is {verdict} the pre-trained one ({mean:+.4f}, mean over layers and {_tasks(len(wide))}"
    )
    return [f"{said}; {span}, p = {p:.2g}).", *([few] if least >= ALPHA else []), *dropped]


def interval(values: ArrayLike) -> tuple[float, float]:
    """95 % interval of the mean over tasks: Student's t, as a bootstrap of so few is too narrow. NaN for one task."""
    v = np.asarray(values, dtype=float)
    if len(v) < 2:
        return np.nan, np.nan
    half = stats.t.ppf(0.975, len(v) - 1) * v.std(ddof=1) / np.sqrt(len(v))
    return float(v.mean() - half), float(v.mean() + half)


def at_the_floor(rows: pd.DataFrame, null: int) -> int:
    """Values of CKA that are not beyond chance by q, though no permutation reached them: more might show them so."""
    return int(((rows["q"] > ALPHA) & (rows["p"] <= (1 + 1e-9) / (null + 1))).sum())


def _floor(rows: pd.DataFrame, null: int) -> list[str]:
    count = at_the_floor(rows, null)
    if not count and 1 / (null + 1) <= ALPHA:
        return []
    return [
        f"With {null} permutations neither p nor q can fall below {1 / (null + 1):.2g}; {count} values that no "
        f"permutation reached have q > {ALPHA}: raise null."
    ]


def by_cluster(table: pd.DataFrame, manifest: Mapping[str, Any]) -> str:
    """Z-F3."""
    rows, dropped = complete(table)
    if rows.empty:
        return " ".join(["There is no CKA to speak of.", *dropped, *_left_out(table, "cka")])
    clusters = rows["family"].nunique()
    if clusters < 2:
        return " ".join(["All tasks are of one cluster: there is nothing to compare.", *dropped])
    parts = []
    for model, own in rows.groupby("model", sort=False):
        means = own.groupby("family")["value"].mean().sort_values()
        parts.append(
            f"Of the {model} model's {len(means)} clusters, {means.index[0]} has the lowest CKA with its control "
            f"models ({means.iloc[0]:.3f}, mean over layers and tasks) and {means.index[-1]} the highest "
            f"({means.iloc[-1]:.3f})."
        )
    sizes = rows.groupby("family")["task"].nunique()
    few = (
        f"{(sizes < 3).sum()} of {clusters} clusters have fewer than three tasks: their boxes are single tasks' values."
    )
    return " ".join([*parts, *([few] if (sizes < 3).any() else []), *dropped, *_left_out(table, "cka"), CAVEAT])


def dimensions(table: pd.DataFrame, manifest: Mapping[str, Any]) -> str:
    """Z-F5."""
    rows = table[(table["measure"] == "dimension") & table["value"].notna()]
    pooled = rows[rows["task"] == ALL] if (rows["task"] == ALL).any() else rows
    if pooled.empty:
        return " ".join(["There are no dimensions to speak of.", *_left_out(table, "dimension")])
    parts = []
    for model, own in pooled.groupby("model", sort=False):
        medians = own.groupby("layer")["value"].median()
        parts.append(
            f"{100 * manifest['share']:g} % of the variance of the {model} model's representations take "
            f"{medians.iloc[0]:.0f} components at {_layer(medians.index[0])}, {medians.iloc[-1]:.0f} at "
            f"{_layer(medians.index[-1])}, and most ({medians.max():.0f}) at {_layer(medians.idxmax())}."
        )
    if pooled["model"].nunique() == 2:
        wide = pooled.pivot_table(index=["task", "layer"], columns="model", values="value")
        more = int((wide[MULTI] > wide[PRE]).sum())
        parts.append(f"The multi-task model takes more than the pre-trained one in {more} of {len(wide)} comparisons.")
    near = float((pooled["value"] >= NEAR * pooled["limit"]).mean())
    if near:
        parts.append(
            f"{near:.0%} of these numbers are near the most that so few examples or features allow: there they say how "
            "many examples there are, not how the model works."
        )
    few = "The number grows with the examples: compare only models on the same ones."
    return " ".join([*parts, *_left_out(table, "dimension"), few])


def held_out(table: pd.DataFrame, manifest: Mapping[str, Any]) -> str:
    """Z-F7."""
    rows, dropped = complete(table)
    if rows.empty:
        return " ".join(["There is no CKA to speak of.", *dropped, *_left_out(table, "cka")])
    parts = []
    for model, own in rows.groupby("model", sort=False):
        means = own.groupby(["task", "held_out"])["value"].mean().reset_index()
        said = []
        for out, what in ((False, "that the multi-task model learnt"), (True, "held out")):
            values = means.loc[means["held_out"] == out, "value"].to_numpy()
            if not len(values):
                said.append(f"no task {what} has a value")
                continue
            low, high = interval(values)
            high = min(high, 1.0)  # of CKA; Student's t does not know its end
            span = f"95 % interval {low:.3f} to {high:.3f}" if len(values) > 1 else "one task, no interval"
            said.append(f"{values.mean():.3f} on {_tasks(len(values))} {what} ({span})")
        parts.append(f"Mean CKA of the {model} model with the control models: {'; '.join(said)}.")
    note = (
        "The tasks differ in more than in having been learnt: the pre-trained model, which has learnt neither, shows "
        "what difference there is without it."
    )
    return " ".join([*parts, *dropped, *_left_out(table, "cka"), note])


def missing(table: pd.DataFrame, measure: str) -> str:
    """How many values there are not, where and why; "" where all are there."""
    gone = table[(table["measure"] == measure) & table["value"].isna() & (table["task"] != ALL)]
    if gone.empty:
        return ""
    why = dict.fromkeys(r.partition("; ")[0].removeprefix("a: ").removeprefix("b: ") for r in gone["reason"])
    layers = ", ".join(_layer(layer) for layer in sorted(gone["layer"].unique()))
    return f"{len(gone)} values at {layers} are missing: {'; '.join(why)}"


def _cka(table: pd.DataFrame) -> pd.DataFrame:
    return table[(table["measure"] == "cka") & table["value"].notna()]


def _left_out(table: pd.DataFrame, measure: str) -> list[str]:
    gone = missing(table, measure)
    return [f"{gone}; they are in no number here."] if gone else []


def _tasks(count: int) -> str:
    return f"{count} task{'s' if count != 1 else ''}"


def _layer(layer: int) -> str:
    return f"layer {layer}" if layer else "the embedding"
