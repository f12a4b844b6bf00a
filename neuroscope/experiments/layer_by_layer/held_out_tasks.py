"""CKA on tasks that the multi-task model has not learnt (ZZC24 Figure 7), beside all other choices of as many."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from neuroscope import figures
from neuroscope.errors import ArgumentError
from neuroscope.experiments.layer_by_layer.chance import choices, too_few
from neuroscope.experiments.layer_by_layer.mossa_table import MULTI, PRE, MossaTable, tasks_words
from neuroscope.experiments.layer_by_layer.part import NEGATIVE, MossaPart, capital, left_out
from neuroscope.statistics import ALPHA, mean_interval, percentile_interval, permutation_p

if TYPE_CHECKING:
    import plotly.graph_objects as go

NOTE = (
    "The tasks differ in more than in having been learnt: the pre-trained model, which has learnt neither, shows what "
    "difference there is without it."
)


class HeldOut(MossaPart):
    """A row per task: mean CKA over layers of each model, whether it was held out, and the models' difference."""

    title = "CKA with models tuned on one task, for tasks held out"
    captions: ClassVar[Mapping[str, str]] = {"summary": "Mean CKA by task"}


def held_out(mossa: MossaTable) -> HeldOut:
    """Whether what the multi-task model learnt reaches tasks that it has not seen.

    Raises:
        ArgumentError: no task was held out.
    """
    if not mossa.manifest["held_out"]:
        do = "give mossa(held_out=[names]), and a multi-task model that has not learnt them"
        raise ArgumentError("the tasks held out", "no task held out", do)
    lines, wide = words(mossa), mossa.means()
    out = wide.index.isin(mossa.manifest["held_out"])
    table = wide.assign(held_out=out).rename_axis("task").reset_index()
    if out.all() or not out.any():
        lines.append(f"{NEGATIVE}no task {'learnt' if out.all() else 'held out'} has a value: nothing can be compared.")
    else:
        table["difference"] = difference = (wide[MULTI] - wide[PRE]).to_numpy()
        lines.insert(0, _beside_other_choices(difference, out, mossa.manifest["seed"]))
    return HeldOut.of(mossa, [*lines, *left_out(mossa, "cka"), NOTE], [panels(mossa)], table)


def panels(mossa: MossaTable) -> go.Figure:
    """Box plots over tasks by layer: tasks that the multi-task model has learnt, beside those it has not."""
    out = list(mossa.manifest["held_out"])
    gone = mossa.missing("cka")
    return figures.box_panels(
        {
            "tasks learnt": mossa.series("cka", [task for task in mossa.families if task not in out]),
            "held-out tasks": mossa.series("cka", out),
        },
        mossa.layer_names, title="CKA with the models tuned on one task, learnt and held out", y_label=mossa.cka_name,
        subtitle="one value per task" + (f"; {gone}" if gone else ""), limits=mossa.limits("cka"),
    )  # fmt: skip


def words(mossa: MossaTable) -> list[str]:
    """Mean CKA of each model on tasks learnt and held out."""
    rows, dropped = mossa.without_gaps()
    if rows.empty:
        return ["There is no CKA to speak of.", *dropped]
    lines = []
    for model, cells in rows.groupby("model", sort=False):
        means = cells.groupby(["task", "held_out"])["value"].mean().reset_index()
        parts = []
        for out, what in ((False, "that the multi-task model learnt"), (True, "held out")):
            values = means.loc[means["held_out"] == out, "value"].to_numpy()
            if not len(values):
                parts.append(f"no task {what} has a value")
                continue
            low, high = mean_interval(values)
            high = min(high, 1.0)  # of CKA; Student's t does not know its end
            span = f"95 % interval {low:.3f} to {high:.3f}" if len(values) > 1 else "one task, no interval"
            parts.append(f"{values.mean():.3f} on {tasks_words(len(values))} {what} ({span})")
        lines.append(f"Mean CKA of the {model} model with the control models: {'; '.join(parts)}.")
    return [*lines, *dropped]


def _beside_other_choices(difference: Any, out: Any, seed: int) -> str:
    """How much more the tasks learnt gained than those held out, and how much other choices of tasks would."""
    apart = float(difference[~out].mean() - difference[out].mean())
    others, exact = choices(difference, int(out.sum()), seed)
    p, (low, high) = permutation_p(abs(apart), np.abs(others), exact), percentile_interval(others)
    sure = p <= ALPHA and apart > 0
    moved = "moved" if sure else "was not shown to move"
    line = (
        f"training on the other tasks {moved} the multi-task model further towards the control models on tasks it "
        f"learnt than on tasks held out. It moved by {difference[~out].mean():+.4f} CKA on tasks "
        f"it learnt, by {difference[out].mean():+.4f} on tasks held out: {apart:+.4f} apart, "
        f"where 95 % of the {len(others)} choices of {int(out.sum())} tasks to hold out give {low:+.4f} to {high:+.4f} "
        f"(p = {p:.2g})."
    )
    few = too_few(math.comb(len(out), int(out.sum())), ALPHA)
    return capital(line) if sure else f"{NEGATIVE}{line}{few}"
