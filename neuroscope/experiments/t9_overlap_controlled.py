"""Does training a test task's neurons on other tasks help it? Training with a preset overlap (LX24 Tables 9 to 11).

1. A fixed number of neurons is trained on the training tasks. A preset share of them lies inside the mask of the tasks
   held out, drawn at random from it; the rest is drawn at random from outside. Run s draws, and trains, with seed s.
2. Scores on the tasks held out (generalization) and on the training tasks (specialization) follow, by share and seed.
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
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy import stats

from neuroscope import figures
from neuroscope.checks import Progress, public, seeds_of, whole
from neuroscope.checks import shares as shares_of
from neuroscope.errors import ArgumentError, choose
from neuroscope.experiments.judging import tasks_and_masks
from neuroscope.experiments.standings import MEANS, Standings
from neuroscope.experiments.t9_draws import draw_with_overlap
from neuroscope.experiments.trials import Run, Trials, caveats, over_tasks, parted, require_random_masks
from neuroscope.masks import Masks, Match, NeuronMask
from neuroscope.results import Result
from neuroscope.statistics import ALPHA, permutation_p, seeds_and_examples_interval
from neuroscope.tasks import Tasks, tasks_of
from neuroscope.training import Recipe

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ROLES = {"test": "held-out tasks (generalization)", "train": "training tasks (specialization)"}
PERMUTATIONS = 4999


@dataclass(frozen=True, repr=False)
class OverlapControlled(Result):
    """LX24 Tables 9 to 11: one row per share, seed and task measured.

    Columns: share (of the trained neurons that lies inside the held-out tasks' mask; NaN: not trained), seed, inside,
    neurons (trained), inside_train (share of the trained neurons in the training tasks' masks; NaN where those were not
    given), task, role ("test": held out, or "train"), n, score, low, high (95 % interval over examples),
    majority, uniform and p_majority (the best constant answer, guessing, and whether the score is above:
    `evaluation.constant`), se.

    Example:
        >>> import pandas as pd
        >>> rows = [
        ...     {"share": share, "seed": seed, "score": 0.6 + 0.3 * share + 0.01 * seed}
        ...     for share in (0.0, 0.5, 1.0)
        ...     for seed in (0, 1, 2)
        ... ]
        >>> table = pd.DataFrame(rows).assign(task="nli", role="test", majority=0.5, uniform=0.5, p_majority=0.001)
        >>> OverlapControlled(table, {}).trend().round(2).to_dict("records")
        [{'role': 'test', 'spearman': 0.95, 'p': 0.01, 'runs': 9}]
    """

    title = "Training with a preset overlap"
    captions: ClassVar[Mapping[str, str]] = {
        "summary": "Score by share of the trained neurons inside the held-out tasks' mask",
        "trend": "Trend over all runs",
        "runs": "Every measurement",
    }

    @property
    def standings(self) -> Standings:
        """Which tasks the model is above chance at, without training or after any: of all rows, by Bonferroni.

        Means hold every task; of a role all of whose tasks are at chance, nothing is concluded.
        """
        return Standings(self.table, "with and without training")

    def summary(self) -> pd.DataFrame:
        """One row per role and share (first: not trained): neurons inside, inside_train, score, low, high (95 %).

        The score is a mean over the role's tasks; its interval is over examples and seeds.
        """
        import pandas as pd  # heavy: only for tables

        rows = []
        for (role, share), cells in self.table.sort_values("role", kind="stable").groupby(
            ["role", "share"], sort=False, dropna=False
        ):
            score, low, high = seeds_and_examples_interval(*over_tasks(cells), is_score=True)
            rows.append(
                {"role": role, "share": share, "inside": int(cells["inside"].iloc[0])}
                | {"inside_train": cells["inside_train"].mean(), "score": score, "low": low, "high": high}
            )
        return pd.DataFrame(rows)

    def trend(self) -> pd.DataFrame:
        """One row per role: Spearman's correlation of score and share over all runs, p (two-sided), number of runs.

        p is the share of permutations of the shares within every seed with a correlation at least as large,
        `(1 + hits) / (1 + 4999)`. NaN correlation, p = 1: all runs score the same. NaN p: all tasks are at chance.
        """
        import pandas as pd  # heavy: only for tables

        trained = self.table[self.table["share"].notna()]
        rows, others = [], self.standings.others
        for role, cells in trained.groupby("role", sort=False):
            wide = cells.groupby(["seed", "share"])["score"].mean().unstack()
            rho, p = _spearman(wide.to_numpy(dtype=float), wide.columns.to_numpy(dtype=float))
            p = p if cells["task"].isin(others).any() else float("nan")
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
        trends = "; ".join(
            f"{r.role}: {_said(r.spearman)}, {f'p = {r.p:.2g}' if r.p == r.p else 'at chance'}"
            for r in self.trend().itertuples()
        )
        return figures.curves_with_band(
            curves,
            reference,
            title="Training with a preset overlap",
            subtitle=f"{self.manifest['size']} neurons trained, {len(self.manifest['seeds'])} draws each; bands: 95 % "
            f"over examples and draws<br>{trends}" + self.standings.note(),
            x_label="trained neurons inside the held-out tasks' mask, %",
            y_label="score, %",
            within=(0.0, 100.0),
            reference_label="not trained",
            hover=hover,
        )

    def in_words(self) -> str:
        """The scores at the lowest and the highest share, and whether there is a trend."""
        summary, trends, standings = self.summary(), self.trend(), self.standings
        why = [*standings.why(), *([MEANS] if standings.at_chance else [])]
        if not standings.others:
            return "\n".join([standings.nothing(), *why, *caveats(self.manifest)])
        trends = trends[trends["p"].notna()]
        shown = [ROLES[trend.role] for trend in trends.itertuples() if trend.p < ALPHA]
        lines = [
            "As more of the trained neurons lie inside the held-out tasks' mask, a trend of the score was shown for "
            f"**{' and '.join(shown) if shown else 'neither kind of task'}**{standings.but()}.\n",
            *why,
            f"- {self.manifest['size']} neurons were trained each time.",
        ]
        for trend in trends.itertuples():
            cells = summary[summary["role"] == trend.role]
            rows, before = cells[cells["share"].notna()], cells[cells["share"].isna()].iloc[0]
            first, last = rows.iloc[0], rows.iloc[-1]
            test = f"{_said(trend.spearman)}, p = {trend.p:.2g}, {trend.runs} runs"
            verdict = f"a trend ({test})" if trend.p < ALPHA else f"**A negative**: no trend was shown ({test})"
            lines.append(
                f"- {ROLES[trend.role].capitalize()}: {before['score']:.1%} before training, "
                f"**{first['score']:.1%}** with {first['share']:.0%} of the trained neurons inside, "
                f"**{last['score']:.1%}** with {last['share']:.0%}; {verdict}."
            )
        return "\n".join([*lines, *caveats(self.manifest)])

    def tables(self) -> dict[str, pd.DataFrame]:
        """The summary, the trends, and every measurement."""
        return {"summary": self.summary(), "trend": self.trend(), "runs": self.to_frame()}


def _said(rho: float) -> str:
    return f"Spearman {rho:+.2f}" if np.isfinite(rho) else "all runs score the same"


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
    tasks: Tasks,
    masks: Masks,
    *,
    held_out: str | Sequence[str],
    shares: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    size: int | None = None,
    match: Match = "uniform",
    seeds: int | Sequence[int] = 3,
    recipe: Recipe | Mapping[str, Any] | None = None,
    n: int | None = None,
    batch_size: int | None = None,
    output: str | PathLike | None = None,
    progress: Progress | None = None,
) -> OverlapControlled:
    """Train as many neurons at every share, more and more of them inside the held-out tasks' mask, on the other tasks.

    Args:
        tasks: all of them: those to train on, and those held out.
        masks: by task; those of the tasks held out (their union is used), and of the training tasks if `inside_train`
            is wanted.
        held_out: names of the tasks that are only measured.
        shares: of the trained neurons that are to lie inside; numbers are rounded to whole neurons.
        size: neurons trained; None: as many as the held-out tasks' mask has, or as lie outside of it, if that is less.
        match: where neurons outside come from: "uniform" (LX24), or "layer" (see above).
        seeds: three draws of neurons or more at every share: 3 is seeds 0, 1 and 2. Run s draws, and trains, with
            seed s.
        model, recipe, n, batch_size, output, progress: as in `train_only`.

    Raises:
        ArgumentError: tasks, shares or a size that cannot be, or fewer than three seeds.
        MaskError: too few neurons outside the mask, in a layer or at all.
        TaskError, ModelError, NumericalError: as in `train_only`.

    Example:
        >>> import neuroscope as ns
        >>> model, tasks = ns.load("mini"), ns.load_tasks("mini-sequence", train=8, discovery=4, test=4)
        >>> two, how = [tasks["praise"], tasks["agreement"]], {"shares": (0, 1), "recipe": {"steps": 1}}
        >>> masks = {"agreement": ns.NeuronMask.of({2: range(200)}, model)}
        >>> found = ns.experiments.overlap_controlled(model, two, masks, held_out="agreement", **how)
        >>> found.summary()[["role", "share", "inside"]]
            role  share  inside
        0   test    NaN       0
        1   test    0.0       0
        2   test    1.0     200
        3  train    NaN       0
        4  train    0.0       0
        5  train    1.0     200
    """
    import pandas as pd  # heavy: only for tables

    asked = "overlap_controlled"
    tasks = tasks_of(tasks, asked)
    learnt, measured_only = parted(tasks, held_out, asked)
    if not measured_only:
        raise ArgumentError(f"{asked}(held_out=())", "no task held out", "name one or more")
    model, _, masks = tasks_and_masks(model, tasks, masks, asked)
    for name in measured_only:
        choose(name, masks, "mask of held-out task")
    shares, seeds = shares_of(shares, "shares", with_zero=True), seeds_of(seeds)
    require_random_masks(seeds, asked)
    if len(shares) < 2:
        raise ArgumentError(f"shares={shares}", "one share", "give two or more: their trend is the question")
    choose(match, ("layer", "uniform"), "match")
    measuring: dict[str, Any] = {"n": n, "batch_size": batch_size, "output": output, "progress": progress}
    trials = Trials(model, tasks, learnt, recipe, **measuring)
    target = reduce(or_, (masks[name] for name in measured_only))
    training_mask = reduce(or_, (masks[name] for name in learnt)) if all(name in masks for name in learnt) else None
    size = _size(size, target)
    drawn = {(x, s): draw_with_overlap(target, size, x, seed=s, match=match) for s in seeds for x in shares}
    roles = {name: {"task": name, "role": "test"} for name in measured_only}
    roles |= {name: {"task": name, "role": "train"} for name in learnt}
    columns: dict[str, Any] = {"share": np.nan, "seed": None, "inside": 0, "neurons": 0, "inside_train": np.nan}
    runs: dict[Any, Run] = {place: (mask, learnt, place[1], list(roles)) for place, mask in drawn.items()}
    trials.measure(runs.values(), "overlap-controlled training")
    rows = [columns | role | trials.row(name, trials.before(name)) for name, role in roles.items()]
    for (share, seed), mask in drawn.items():
        columns = {"share": share, "seed": seed, "inside": len(mask & target), "neurons": len(mask)}
        columns["inside_train"] = np.nan if training_mask is None else len(mask & training_mask) / len(mask)
        for name, outcomes in trials.after(*runs[share, seed]).items():
            rows.append(columns | roles[name] | trials.row(name, outcomes))
    table = pd.DataFrame(rows)
    table["seed"] = table["seed"].astype("Int64")
    settings = {"held_out": measured_only, "train": learnt, "size": size, "match": match, "seeds": list(seeds)}
    return OverlapControlled(table, trials.manifest(masks, **settings))


def _size(size: int | None, target: NeuronMask) -> int:
    """How many neurons are trained: at every share, enough must lie inside the target, and outside."""
    outside = sum(target.widths.values()) - len(target)
    most = min(len(target), outside)
    if size is None:
        return most
    if whole(size, "size", 1) > most:
        found = f"{len(target)} neurons inside the mask and {outside} outside"
        raise ArgumentError(f"train {size!r} neurons", found, "give a size from 1 to the smaller of the two")
    return whole(size, "size", 1)
