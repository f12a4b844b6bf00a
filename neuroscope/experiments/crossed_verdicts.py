"""Whether masks are their tasks' own: the rules on a matrix of effects, every mask off under every task.

A mask is "specific" for its task only if both hold of its own effect (the score that its task loses with it off, beyond
random masks):

1. Column: it breaks its task more than the masks of every other family do (the mean over a family's masks).
2. Row: it breaks no task of another family as much as its own, neither in points of score nor as a share of what the
   task has to lose, at most all of it: a task of two labels that falls to chance is broken, though by 50 points alone.

Each comparison is of the two effects' difference, whose 95 % interval comes from theirs (MOVER, Zou & Donner 2008):

    low = a - b - sqrt((a - low_a)^2 + (high_b - b)^2)

These are intervals of the effects themselves (`statistics.effect_margin`), not of the next random mask, for no random
mask is compared. It takes them for independent; those of one mask share its random masks and those of one task its
examples, which makes it rather too wide. A claim is made where every comparison's `low` lies above zero (an
intersection-union test, Berger 1982: without a correction the claim is wrong no more often than a single comparison).
What cannot be shown either way is therefore not "specific".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope.markup import NEGATIVE
from neuroscope.statistics import ALPHA, Floats

if TYPE_CHECKING:
    import pandas as pd

NOT_COMPETENT = "not competent"  # the verdict where the model is at chance
MANY = 0.5  # a mask that is shown to break this share of the other families' tasks breaks in general


def difference_low(a: float, low_a: float, b: float, high_b: float) -> float:
    """Lower end of the 95 % interval of a - b, from the lower end of a's and the upper end of b's.

    Example:
        >>> round(difference_low(0.5, 0.4, 0.2, 0.3), 3)
        0.159
    """
    return float(a - b - np.hypot(a - low_a, high_b - b))


def verdict_rows(table: pd.DataFrame, selectivity: pd.DataFrame, at_chance: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row per task of `CrossAblation.verdicts`, but for what its mask does to neutral text.

    Args:
        table: of `CrossAblation`.
        selectivity: by task, `selectivity` and the lower end of its interval, `selectivity_low`.
        at_chance: tasks of which nothing can be concluded.
    """
    names = list(table["source"].unique())
    own_rows = table[table["source"] == table["target"]].set_index("source").loc[names]
    effect, q = _matrix(table, "effect", names), _matrix(table, "q", names)
    margin = _matrix(table, "margin", names)
    is_broken = (q < ALPHA) & (effect > 0)
    families = own_rows["target_family"].to_numpy()
    to_lose = (own_rows["original"] - own_rows["majority"].fillna(0)).to_numpy(float)
    for t, name in enumerate(names):
        is_other = families != families[t]
        row = np.flatnonzero(is_other & ~np.isnan(q[t]))  # others' tasks that its mask could break
        own, others = own_rows.iloc[t], np.flatnonzero(is_other)  # others' masks
        of_family = {f: others[families[others] == f] for f in dict.fromkeys(families[others])}
        means = {f: float(effect[of, t].mean()) for f, of in of_family.items()}
        column_lows = [
            _ahead(effect[t, t], margin[t, t], means[f], np.sqrt((margin[of, t] ** 2).sum()) / len(of))
            for f, of in of_family.items()
        ]
        row_lows = [
            _ahead_on_both(effect[t, t], margin[t, t], to_lose[t], effect[t, u], margin[t, u], to_lose[u]) for u in row
        ]
        lows = [min(found, default=np.nan) for found in (column_lows, row_lows)]
        as_much = [u for u in others if not _ahead(effect[t, t], margin[t, t], effect[u, t], margin[u, t]) > 0]
        partners = [names[u] for u in row if u in as_much and is_broken[u, t] and is_broken[t, u]]
        broken = float(is_broken[t, row].mean()) if len(row) else np.nan
        strongest = max(means, key=means.__getitem__, default="")
        most = row[int(np.argmin(row_lows))] if len(row) else None
        selective, selective_low = selectivity.loc[name, ["selectivity", "selectivity_low"]]
        same = [i for i in np.flatnonzero(~is_other) if i != t]
        verdict = _verdict(bool(is_broken[t, t]), lows, selective_low, broken, partners)
        yield (
            {"task": name, "verdict": NOT_COMPETENT if name in at_chance else verdict}
            | {column: own[column] for column in ("effect", "low", "high", "p", "q")}
            | {"selectivity": selective, "selectivity_low": selective_low, "breaks": broken}
            | {"shared_with": ", ".join(partners)}
            | {"same_family": _mean(effect[same, t]), "other_families": _mean(effect[others, t])}
            | {"strongest": strongest, "strongest_effect": means.get(strongest, np.nan), "column_low": lows[0]}
            | {"breaks_most": "" if most is None else names[most]}
            | {"breaks_most_effect": np.nan if most is None else effect[t, most], "row_low": lows[1]}
        )


def lacking(selective: pd.DataFrame) -> list[str]:
    """What the masks that are selective lack to be specific, in words: lines. Takes their rows of the verdicts."""
    lines = []
    row, column = selective[~(selective["row_low"] > 0)], selective[~(selective["column_low"] > 0)]
    if len(row):
        told = ", ".join(
            f"{r.task} ({r.breaks_most} loses {100 * r.breaks_most_effect:.0f} points, it {100 * r.effect:.0f})"
            for r in row.itertuples()
        )
        lines.append(
            f"- {NEGATIVE}: selective, not specific, for they break another family's task as much, or are not shown to "
            f"break it less, in points or as a share of what it can lose: {told}."
        )
    if len(column):
        told = ", ".join(
            f"{r.task} (those of {r.strongest} break it by {100 * r.strongest_effect:.0f} points, its own by "
            f"{100 * r.effect:.0f})"
            for r in column.itertuples()
        )
        lines.append(
            f"- {NEGATIVE}: selective, not specific, for another family's break the task as much, or are not shown to "
            f"break it less: {told}."
        )
    return lines


def _verdict(
    is_broken: bool, lows: Sequence[float], selective_low: float, broken: float, partners: Sequence[str]
) -> str:
    if not is_broken:
        return "no effect"
    if np.isnan(lows).any():
        return "not compared"
    if not selective_low > 0:
        return "general" if broken >= MANY else "shared"
    if min(lows) > 0:
        return "specific"
    return "shared" if partners else "selective"


def _matrix(table: pd.DataFrame, values: str, names: Sequence[str]) -> Floats:
    """[source, target] values."""
    return table.pivot(index="source", columns="target", values=values).loc[names, names].to_numpy(float)


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else np.nan


def _ahead(own: float, margin: float, other: float, other_margin: float) -> float:
    """How far an effect surely is above another."""
    return difference_low(own, own - margin, other, other + other_margin)


def _ahead_on_both(own: float, margin: float, room: float, other: float, other_margin: float, its_room: float) -> float:
    """The same, of points of score and of shares of what each task can lose, held to 1; the smaller of the two."""
    points = _ahead(own, margin, other, other_margin)
    if not (room > 0 and its_room > 0):
        return points
    a, low_a = (min(value / room, 1.0) for value in (own, own - margin))
    b, high_b = (min(value / its_room, 1.0) for value in (other, other + other_margin))
    return min(points, difference_low(a, low_a, b, high_b))
