"""Does training a test task's neurons on other tasks help it? Training with a preset overlap (LX24 Tables 9 to 11).

1. A fixed number of neurons is trained on the training tasks. A preset share of them lies inside the test task's mask,
   drawn at random from it; the rest is drawn at random from outside.
2. Scores on the test task (generalization) and on the training tasks (specialization) follow, by share and seed.
3. The trend is Spearman's correlation of score and share; its p comes from permuting the shares within every seed.

LX24 gives no interval and no test. Neurons inside a mask also lie in other layers than those outside; with
`match="layer"` (ours) every neuron drawn from outside takes the place of one of the mask's, in the same layer, so that
depth is the same at every share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from scipy import stats

from neuroscope import figures
from neuroscope.checks import public
from neuroscope.errors import ArgumentError, choose
from neuroscope.experiments.draws import draw
from neuroscope.experiments.judging import check_masks
from neuroscope.experiments.trials import (
    Settings,
    Trials,
    bounded,
    check_growing,
    check_runs,
    check_settings,
    measured,
    over_tasks,
    spread,
)
from neuroscope.masks import Match, NeuronMask
from neuroscope.results import Result
from neuroscope.statistics import ALPHA, permutation_p
from neuroscope.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ROLES = {"test": "test tasks (generalization)", "train": "training tasks (specialization)"}
PERMUTATIONS = 4999


@dataclass(frozen=True, repr=False)
class OverlapControlled(Result):
    """LX24 Tables 9 to 11: one row per share, seed and task measured.

    Columns: share (of the trained neurons that lies inside the test tasks' mask; NaN: not trained), seed, inside,
    neurons (trained), inside_train (share of the trained neurons in the training tasks' masks; NaN where those were not
    given), task, role ("test" or "train"), n, score, low, high (95 % bootstrap interval over examples), se.
    """

    def summary(self) -> pd.DataFrame:
        """One row per role and share (first: not trained): neurons inside, inside_train, score, low, high (95 %).

        The score is a mean over the role's tasks; its interval is over examples and seeds.
        """
        import pandas as pd  # heavy: only for tables

        rows = []
        for (role, share), cells in self.table.sort_values("role", kind="stable").groupby(
            ["role", "share"], sort=False, dropna=False
        ):
            score, low, high = bounded(spread(*over_tasks(cells)))
            rows.append(
                {"role": role, "share": share, "inside": int(cells["inside"].iloc[0])}
                | {"inside_train": cells["inside_train"].mean(), "score": score, "low": low, "high": high}
            )
        return pd.DataFrame(rows)

    def trend(self) -> pd.DataFrame:
        """One row per role: Spearman's correlation of score and share over all runs, p (two-sided), number of runs.

        p is the share of permutations of the shares within every seed with a correlation at least as large,
        `(1 + hits) / (1 + 4999)`. NaN correlation, p = 1: all runs score the same.
        """
        import pandas as pd  # heavy: only for tables

        trained = self.table[self.table["share"].notna()]
        rows = []
        for role, cells in trained.groupby("role", sort=False):
            wide = cells.groupby(["seed", "share"])["score"].mean().unstack()
            rho, p = _spearman(wide.to_numpy(dtype=float), wide.columns.to_numpy(dtype=float))
            rows.append({"role": role, "spearman": rho, "p": p, "runs": wide.size})
        return pd.DataFrame(rows)

    def figure(self) -> go.Figure:
        """Score by share, with 95 % bands; dotted: without training."""
        summary = self.summary()
        curves: dict[str, Any] = {}
        reference, hover = {}, {}
        for role, cells in summary.groupby("role", sort=False):
            rows, before = cells[cells["share"].notna()], cells[cells["share"].isna()]["score"].iloc[0]
            x = 100 * rows["share"]
            curves[ROLES[role]] = (x, tuple(100 * rows[column] for column in ("score", "low", "high")))
            reference[ROLES[role]] = ([x.min(), x.max()], [100 * before] * 2)
            hover[ROLES[role]] = [
                f"95 %: {100 * r.low:.1f} to {100 * r.high:.1f}<br>{r.inside} neurons inside" for r in rows.itertuples()
            ]
        trends = "; ".join(f"{r.role}: Spearman {r.spearman:.2f}, p = {r.p:.2g}" for r in self.trend().itertuples())
        return figures.curves_with_band(
            curves,
            reference,
            title="Training with a preset overlap",
            subtitle=f"{self.manifest['size']} neurons trained, {self.manifest['seeds']} draws each; bands: 95 % over "
            f"examples and draws<br>{trends}",
            x_label="trained neurons inside the test tasks' mask, %",
            y_label="score, %",
            reference_label="not trained",
            hover=hover,
        )

    def in_words(self) -> str:
        """What was found, as text with `**bold**` and lists; failures are stated."""
        summary, lines = self.summary(), []
        for trend in self.trend().itertuples():
            cells = summary[summary["role"] == trend.role]
            rows, before = cells[cells["share"].notna()], cells[cells["share"].isna()].iloc[0]
            first, last = rows.iloc[0], rows.iloc[-1]
            said = f"Spearman {trend.spearman:+.2f}, p = {trend.p:.2g}, {trend.runs} runs"
            shown = f"a trend ({said})" if trend.p < ALPHA else f"**a negative**: no trend was shown ({said})"
            lines.append(
                f"- {ROLES[trend.role].capitalize()}: {before['score']:.1%} before training, "
                f"**{first['score']:.1%}** with {first['share']:.0%} of the {self.manifest['size']} trained neurons "
                f"inside the test tasks' mask, **{last['score']:.1%}** with {last['share']:.0%}; {shown}."
            )
        return "\n".join(lines)


def _spearman(scores: Any, shares: Any) -> tuple[float, float]:
    """Of [seed, share] scores with their shares; p by permuting within rows."""
    if np.ptp(scores) == 0:
        return float("nan"), 1.0
    y = stats.rankdata(scores).reshape(scores.shape)
    y -= y.mean()
    x = stats.rankdata(np.broadcast_to(shares, scores.shape)).reshape(scores.shape)
    x -= x.mean()
    norm = np.sqrt((x**2).sum() * (y**2).sum())
    rho = float((x * y).sum() / norm)
    rng = np.random.default_rng(0)
    drawn = [abs((rng.permuted(x, axis=1) * y).sum()) / norm for _ in range(PERMUTATIONS)]
    return rho, permutation_p(abs(rho), drawn)


@public
def overlap_controlled(
    model: Any,
    masks: Mapping[str, NeuronMask],
    tasks: Mapping[str, Task],
    test: str | Sequence[str],
    train: Sequence[str] | None = None,
    *,
    shares: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    size: int | None = None,
    match: Match = "uniform",
    seeds: int = 3,
    **settings: Unpack[Settings],
) -> OverlapControlled:
    """Train as many neurons at every share, more and more of them inside the test tasks' mask, on the training tasks.

    Args:
        masks: by task; those of the test tasks (their union is used), and of the training tasks if `inside_train` is
            wanted.
        tasks: by name.
        test, train: names of tasks; `train=None`: all others.
        shares: of the trained neurons that are to lie inside; numbers are rounded to whole neurons.
        size: neurons trained; None: as many as the test mask has, or as lie outside of it, if that is less.
        match: where neurons outside come from: "uniform" (LX24), or "layer" (see above).
        seeds: draws of neurons at every share (run s trains with seed s).
        settings: as in `train_only`.

    Raises:
        ArgumentError: tasks, shares or a size that cannot be.
        MaskError: too few neurons outside the mask, in a layer or at all.
        TaskError, ModelError, NumericalError: as in `train_only`.
    """
    import pandas as pd  # heavy: only for tables

    check_settings("overlap_controlled", settings)
    tested = [test] if isinstance(test, str) else list(test)
    learnt = [name for name in tasks if name not in tested] if train is None else list(train)
    _check(tasks, masks, tested, learnt, shares, seeds)
    known = {name: masks[name] for name in [*tested, *learnt] if name in masks}
    check_masks(known, tasks)
    measuring = [*tested, *learnt]
    trials = Trials(model, {name: tasks[name] for name in measuring}, learnt, settings, "overlap_controlled")
    target = reduce(or_, (masks[name] for name in tested))
    own = reduce(or_, (masks[name] for name in learnt)) if all(name in masks for name in learnt) else None
    outside = sum(target.widths.values()) - len(target)
    size = min(len(target), outside) if size is None else size
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= min(len(target), outside):
        found = f"{len(target)} neurons inside the mask and {outside} outside"
        raise ArgumentError(f"train {size!r} neurons", found, "give a size from 1 to the smaller of the two")
    drawn = {(x, s): draw(target, size, x, seed=s, match=match) for s in range(seeds) for x in shares}
    about: dict[str, Any] = {"share": np.nan, "seed": None, "inside": 0, "neurons": 0, "inside_train": np.nan}
    rows = [about | _place(name, tested) | measured(trials.before(name)) for name in measuring]
    for (share, seed), mask in trials.watched(list(drawn.items()), "overlap-controlled training"):
        about = {"share": float(share), "seed": seed, "inside": len(mask & target), "neurons": len(mask)}
        about["inside_train"] = np.nan if own is None else len(mask & own) / len(mask)
        for name, outcomes in trials.after(mask, learnt, seed, measuring).items():
            rows.append(about | _place(name, tested) | measured(outcomes))
    table = pd.DataFrame(rows)
    table["seed"] = table["seed"].astype("Int64")
    about = {"test": tested, "train": learnt, "size": size, "match": match, "seeds": seeds}
    return OverlapControlled(table, trials.manifest(known, **about))


def _place(name: str, tested: Sequence[str]) -> dict[str, str]:
    return {"task": name, "role": "test" if name in tested else "train"}


def _check(
    tasks: Any, masks: Any, tested: Sequence[str], learnt: Sequence[str], shares: Sequence[float], seeds: Any
) -> None:
    for name in tested:
        choose(name, masks, "mask of test task")
    for name in [*tested, *learnt]:
        choose(name, tasks, "task")
    if not learnt or not tested or set(learnt) & set(tested):
        found = f"test {list(tested)}, train {list(learnt)}"
        raise ArgumentError("tasks to train on, and others to test", found, "name one or more for each, none for both")
    check_growing("shares", shares, 0.0, "shares from 0 to 1")
    if len(shares) < 2:
        raise ArgumentError(f"shares={tuple(shares)}", "one share", "give two or more: their trend is the question")
    check_runs(seeds)
