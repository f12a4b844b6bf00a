"""What MOSSA's figures show, and what they do not show, in words made of the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from neuroscope.statistics import bootstrap_interval, paired_permutation

if TYPE_CHECKING:
    import pandas as pd

PRE, MULTI, ALL = "pre-trained", "multi-task", "all tasks together"
CAVEAT = (
    "CKA says how alike the examples are arranged, not that the same computation is made, nor that the task needs it."
)
NEAR = 0.9  # of the most components that the examples allow: then their number is the examples', not the model's


def by_layer(table: pd.DataFrame, manifest: Mapping[str, Any]) -> str:
    """Z-F2."""
    rows = _cka(table)
    if rows.empty:
        return " ".join(["There is no CKA to speak of.", *_left_out(table, "cka")])
    parts = []
    for model, own in rows.groupby("model", sort=False):
        medians = own.groupby("layer")["value"].median()
        first, last, low = medians.index[0], medians.index[-1], medians.idxmin()
        parts.append(
            f"The {model} model's CKA with the models tuned on one task is {medians[first]:.2f} at {_layer(first)} and "
            f"{medians[last]:.2f} at {_layer(last)} (median of {own['task'].nunique()} tasks), lowest at {_layer(low)} "
            f"({medians[low]:.2f})."
        )
    if rows["model"].nunique() == 2:
        parts.append(_difference(rows))
    if manifest["null"]:
        outside = (rows["value"] > rows["high"]).mean()
        parts.append(f"{outside:.0%} of the values lie above 95 % of what shuffled examples give.")
    return " ".join([*parts, *_left_out(table, "cka"), CAVEAT])


def _difference(rows: pd.DataFrame) -> str:
    wide = rows.pivot_table(index="task", columns="model", values="value", aggfunc="mean")[[PRE, MULTI]].dropna()
    difference = (wide[MULTI] - wide[PRE]).to_numpy()
    p = paired_permutation(wide[MULTI].to_numpy(), wide[PRE].to_numpy())
    low, high = bootstrap_interval(difference)
    verdict = (
        f"closer to them than the pre-trained one by {difference.mean():.3f}"
        if difference.mean() > 0
        else f"no closer to them than the pre-trained one ({difference.mean():+.3f})"
    )
    sure = "" if p < 0.05 else "; that may be chance"
    return (
        f"The multi-task model is {verdict}, mean over layers and {len(wide)} tasks (95 % interval {low:+.3f} to "
        f"{high:+.3f}, p = {p:.2g}{sure})."
    )


def by_cluster(table: pd.DataFrame, manifest: Mapping[str, Any]) -> str:
    """Z-F3."""
    rows = _cka(table)
    clusters = rows["family"].nunique()
    if clusters < 2:
        return "All tasks are of one cluster: there is nothing to compare."
    parts = []
    for model, own in rows.groupby("model", sort=False):
        means = own.groupby("family")["value"].mean().sort_values()
        parts.append(
            f"Of the {model} model's {len(means)} clusters, {means.index[0]} has the lowest CKA with its control "
            f"models ({means.iloc[0]:.2f}, mean over layers and tasks) and {means.index[-1]} the highest "
            f"({means.iloc[-1]:.2f})."
        )
    sizes = rows.groupby("family")["task"].nunique()
    few = (
        f"{(sizes < 3).sum()} of {clusters} clusters have fewer than three tasks: their boxes are single tasks' values."
    )
    return " ".join([*parts, *([few] if (sizes < 3).any() else []), *_left_out(table, "cka"), CAVEAT])


def dimensions(table: pd.DataFrame, manifest: Mapping[str, Any]) -> str:
    """Z-F5."""
    rows = table[(table["measure"] == "dimension") & table["value"].notna()]
    pooled = rows[rows["task"] == ALL] if (rows["task"] == ALL).any() else rows
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
    rows = _cka(table)
    if rows.empty:
        return " ".join(["There is no CKA to speak of.", *_left_out(table, "cka")])
    parts = []
    for model, own in rows.groupby("model", sort=False):
        means = own.groupby(["task", "held_out"])["value"].mean().reset_index()
        said = []
        for out, what in ((False, "that the multi-task model learnt"), (True, "held out")):
            values = means.loc[means["held_out"] == out, "value"].to_numpy()
            if not len(values):
                said.append(f"no task {what} has a value")
                continue
            low, high = bootstrap_interval(values)
            span = f"95 % interval {low:.2f} to {high:.2f}" if len(values) > 1 else "one task, no interval"
            said.append(f"{values.mean():.2f} on {len(values)} tasks {what} ({span})")
        parts.append(f"Mean CKA of the {model} model with the control models: {'; '.join(said)}.")
    note = (
        "The tasks differ in more than in having been learnt: the pre-trained model, which has learnt neither, shows "
        "what difference there is without it."
    )
    return " ".join([*parts, *_left_out(table, "cka"), note])


def reasons(rows: pd.DataFrame) -> str:
    """Why rows have no value."""
    return "; ".join(
        dict.fromkeys(r.partition("; ")[0].removeprefix("a: ").removeprefix("b: ") for r in rows["reason"])
    )


def _cka(table: pd.DataFrame) -> pd.DataFrame:
    return table[(table["measure"] == "cka") & table["value"].notna()]


def _left_out(table: pd.DataFrame, measure: str) -> list[str]:
    gone = table[(table["measure"] == measure) & table["value"].isna() & (table["task"] != ALL)]
    if gone.empty:
        return []
    layers = ", ".join(_layer(layer) for layer in sorted(gone["layer"].unique()))
    return [f"{len(gone)} values at {layers} are missing, and in no number here: {reasons(gone)}."]


def _layer(layer: int) -> str:
    return f"layer {layer}" if layer else "the embedding"
