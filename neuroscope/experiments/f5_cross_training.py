"""Train task i's neurons on task i, measure task j (LX24 Figure 5, right half).

1. Every task is measured without training: the base row.
2. Task i's neurons alone are trained on task i, and every task is measured.
3. The same with as many random neurons of the same layers: what they do too is not due to the choice of neurons.

Run s trains with seed s, and draws its random masks with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from neuroscope import figures
from neuroscope.checks import Progress, public, seeds_of
from neuroscope.errors import choose
from neuroscope.evaluation import AT_CHANCE, Outcomes, standing
from neuroscope.experiments.judging import tasks_and_masks
from neuroscope.experiments.standings import Standings
from neuroscope.experiments.trials import Run, Trials, caveats, require_random_masks
from neuroscope.masks import DRAWN, Masks, Match
from neuroscope.results import Result
from neuroscope.statistics import ALPHA, against_controls, benjamini_hochberg, outcomes_interval
from neuroscope.tasks import Tasks
from neuroscope.training import Recipe

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

BASE = "(not trained)"


@dataclass(frozen=True, repr=False)
class CrossTraining(Result):
    """LX24 Figure 5 c, d: source task's neurons trained on it, target task measured; one row per cell.

    Columns: source, target, source_family, target_family, neurons, score (mean over seeds) with low and high,
    zero_shot, gain = score - zero_shot with gain_low and gain_high, control (mean score after random neurons are
    trained on the source instead), effect = score - control with effect_low, effect_high and p (over examples and
    masks: `statistics.against_controls`), q (Benjamini-Hochberg over the whole matrix). Other intervals are 95 % over
    examples and seeds (`statistics.outcomes_interval`). majority, uniform and p_majority: of the target, and of none of
    the cell's scores above chance (`evaluation.constant`): before training, and after every training of own and random
    neurons. Where none is, p and q are NaN.

    Example:
        >>> import pandas as pd
        >>> scores = {("a", "a"): 0.9, ("a", "b"): 0.5, ("b", "a"): 0.6, ("b", "b"): 0.8}
        >>> rows = [{"source": a, "target": b, "score": score, "zero_shot": 0.5} for (a, b), score in scores.items()]
        >>> CrossTraining(pd.DataFrame(rows), {}).matrix.T.to_dict()
        {'(not trained)': {'a': 0.5, 'b': 0.5}, 'a': {'a': 0.9, 'b': 0.5}, 'b': {'a': 0.6, 'b': 0.8}}
    """

    title = "Training one task's neurons, measuring every task"
    captions: ClassVar[Mapping[str, str]] = {"summary": "Points gained, by task trained", "runs": "Every cell"}

    @property
    def standings(self) -> Standings:
        """Which tasks the model is above chance at, without training or after training it on them."""
        own = self.table[self.table["source"] == self.table["target"]]
        return Standings(own.assign(task=own["target"]), "with and without training on it")

    @property
    def matrix(self) -> pd.DataFrame:
        """Scores: the base row first, then source by target."""
        import pandas as pd  # heavy: only for tables

        names = list(self.table["source"].unique())
        wide = self.table.pivot(index="source", columns="target", values="score").loc[names, names]
        base = self.table.groupby("target")["zero_shot"].first().loc[names]
        return pd.concat([base.to_frame(BASE).T, wide]).rename_axis("source").rename_axis("target", axis=1)

    def summary(self) -> pd.DataFrame:
        """One row per source: its neurons' gain on its own task, on others of the family, and on other families.

        Columns: source, own, own_control, own_q (of the difference of these two), family, family_control, others,
        others_control: means of the gain over zero-shot, and the gain that random neurons bring. NaN: no such task.
        chance: whether the source itself is "above", "at chance" or there is "no test" (see `standings`).
        """
        import pandas as pd  # heavy: only for tables

        rows = []
        table = self.table.assign(control_gain=self.table["control"] - self.table["zero_shot"])
        for source, cells in table.groupby("source", sort=False):
            is_own, is_family = cells["target"] == source, cells["target_family"] == cells["source_family"]
            row: dict[str, Any] = {"source": source, "own_q": float(cells.loc[is_own, "q"].iloc[0])}
            parts = {"own": is_own, "family": is_family & ~is_own, "others": ~is_family}
            for name, chosen in parts.items():
                row |= {name: cells.loc[chosen, "gain"].mean()}
                row |= {f"{name}_control": cells.loc[chosen, "control_gain"].mean()}
            rows.append(row)
        order = ["source", "own", "own_control", "own_q", "family", "family_control", "others", "others_control"]
        return pd.DataFrame(rows)[order].assign(chance=self.standings.table["chance"].tolist())

    def figure(self) -> go.Figure:
        """Points gained over zero-shot as a heatmap, tasks bracketed by family; the first row has the scores before."""
        names = list(self.table["source"].unique())
        cells = {(r.source, r.target): r for r in self.table.itertuples()}
        base = [100 * cells[names[0], b].zero_shot for b in names]

        def hover(r: Any) -> str:
            lines = [
                f"<b>{r.source}</b> trained ({r.neurons} neurons), <b>{r.target}</b> measured",
                f"score {100 * r.score:.1f} % [{100 * r.low:.1f}, {100 * r.high:.1f}]; "
                f"before {100 * r.zero_shot:.1f} %; random trained {100 * r.control:.1f} %",
                f"gain {100 * r.gain:+.1f} points [{100 * r.gain_low:.1f}, {100 * r.gain_high:.1f}]",
                f"over random {100 * r.effect:+.1f} [{100 * r.effect_low:.1f}, {100 * r.effect_high:.1f}], "
                + (f"p = {r.p:.2g}, q = {r.q:.2g}" if r.p == r.p else "not tested: at chance before and after"),
            ]
            return "<br>".join(lines)

        def text(r: Any) -> str:
            if r.p != r.p:
                return ""
            gain = round(100 * r.gain)
            return (f"{gain:+d}" if gain else "0") + ("·" if r.q < ALPHA else "")

        return figures.heatmap(
            [
                [0.0] * len(names),
                *([100 * cells[a, b].gain if cells[a, b].p == cells[a, b].p else np.nan for b in names] for a in names),
            ],
            names,
            [BASE, *names],
            title="Whose trained neurons help which task",
            subtitle="first row: score before, in %; below: points gained by training "
            f"({len(self.manifest['seeds'])} seeds)<br>dots: differs from {DRAWN[self.manifest['match']]}, "
            f"q < {ALPHA}" + "; grey: at chance before training and after" * bool(self.table["p"].isna().any()),
            colour_label="points gained",
            x_label="task measured",
            y_label="task trained, on its own neurons",
            hover=[
                [f"<b>{b}</b> before training<br>score {v:.1f} %" for b, v in zip(names, base, strict=True)],
                *([hover(cells[a, b]) for b in names] for a in names),
            ],
            text=[[f"{v:.0f}" for v in base], *([text(cells[a, b]) for b in names] for a in names)],
            scale="diverging",
            groups=dict(zip(self.table["source"], self.table["source_family"], strict=True)),
        )

    def in_words(self) -> str:
        """What training a task's neurons brings to it and to the others, and where random ones bring as much."""
        standings = self.standings
        if not standings.others:
            return "\n".join([standings.nothing(), *standings.why(), *caveats(self.manifest)])
        table = self.table[self.table["p"].notna()]
        is_own = table["source"] == table["target"]
        diagonal, others = table[is_own], table[~is_own]
        random_own, random_off = ((t["control"] - t["zero_shot"]).mean() for t in (diagonal, others))
        beyond = diagonal[(diagonal["q"] < ALPHA) & (diagonal["effect"] > 0)]
        lost = others[others["gain_high"] < 0]
        gained = others[others["gain_low"] > 0]
        lines = [
            f"Training a task's own neurons brings it more than training {DRAWN[self.manifest['match']]} does in "
            f"**{len(beyond)} of {len(diagonal)}** tasks (q < {ALPHA}){standings.but()}.\n",
            *standings.why(),
            f"- It gains **{100 * diagonal['gain'].mean():+.1f} points** on that task (mean over {len(diagonal)} "
            f"task(s)), where the random neurons gain {100 * random_own:+.1f}.",
        ]
        missed = [name for name in diagonal["source"] if name not in set(beyond["source"])]
        if missed:
            lines.append(
                f"- **A negative**: with {len(self.manifest['seeds'])} random masks, the own neurons were not shown to "
                f"learn better than random ones in {', '.join(missed)}."
            )
        if len(others):
            lines.append(
                f"- On the other tasks it gains {100 * others['gain'].mean():+.1f} points (random neurons "
                f"{100 * random_off:+.1f}): of {len(others)} pairs, {len(gained)} gained and {len(lost)} lost with an "
                "interval that excludes zero (not corrected for their number)."
                + " Pairs at chance before training and after are left out."
                * (len(table) < len(self.table))
            )
        return "\n".join([*lines, *caveats(self.manifest)])

    def tables(self) -> dict[str, pd.DataFrame]:
        """The summary, and every cell."""
        return {"summary": self.summary(), "runs": self.to_frame()}


@public
def cross_training(
    model: Any,
    tasks: Tasks,
    masks: Masks,
    *,
    seeds: int | Sequence[int] = 3,
    match: Match = "layer",
    recipe: Recipe | Mapping[str, Any] | None = None,
    n: int | None = None,
    batch_size: int | None = None,
    output: str | PathLike | None = None,
    progress: Progress | None = None,
) -> CrossTraining:
    """Every task's neurons trained on it, every task measured.

    The claim is about trained models, and so is the test of chance: a pair is left untested where the model is at
    chance before training and after every one.

    Args:
        seeds: three runs or more of each mask: 3 is seeds 0, 1 and 2. Run s trains with seed s; it also draws its own
            random mask for each source.
        match: "layer" (random masks keep the source's number of neurons at every site) or "uniform".
        model, tasks, masks, recipe, n, batch_size, output, progress: as in `train_only`; with its folder, what both
            measure is measured once.

    Raises:
        ArgumentError, TaskError, MaskError, ModelError, NumericalError: as in `train_only`.

    Example:
        >>> import neuroscope as ns
        >>> model, tasks = ns.load("mini"), ns.load_tasks("mini-sequence", train=8, discovery=4, test=4)
        >>> two = {name: tasks[name] for name in ("praise", "agreement")}
        >>> masks = {name: ns.NeuronMask.of({1: range(200)}, model) for name in two}
        >>> found = ns.experiments.cross_training(model, two, masks, recipe={"steps": 1})  # too few to learn
        >>> found.matrix.loc["(not trained)"].to_dict(), list(found.matrix.index)
        ({'praise': 0.5, 'agreement': 0.5}, ['(not trained)', 'praise', 'agreement'])
    """
    import pandas as pd  # heavy: only for tables

    model, tasks, masks = tasks_and_masks(model, tasks, masks, "cross_training")
    choose(match, ("layer", "uniform"), "match")
    seeds = seeds_of(seeds)
    require_random_masks(seeds, "cross_training")
    measuring: dict[str, Any] = {"n": n, "batch_size": batch_size, "output": output, "progress": progress}
    trials = Trials(model, tasks, tasks, recipe, **measuring)
    names, rows = list(tasks), []
    own: dict[str, list[Run]] = {name: [(m, [name], s, names) for s in seeds] for name, m in masks.items()}
    drawn: dict[str, list[Run]] = {
        name: [(m.random_like(seed=s, match=match), [name], s, names) for s in seeds] for name, m in masks.items()
    }
    trials.measure([run for name in names for run in own[name] + drawn[name]], "cross-training")
    for source, mask in masks.items():
        trained, random = ([trials.after(*run) for run in runs[source]] for runs in (own, drawn))
        for target in names:
            before: Outcomes = trials.before(target)
            after, controls = (np.array([run[target] for run in runs]) for runs in (trained, random))
            columns = {"source": source, "target": target, "neurons": len(mask), "zero_shot": before.mean()}
            columns |= {"source_family": tasks[source].family, "target_family": tasks[target].family}
            level = trials.before.constant(target).columns(before, *after, *controls)
            test = against_controls(after.mean(axis=0), controls)  # its effect is what the own mask has less
            rows.append(
                columns
                | dict(zip(("score", "low", "high"), outcomes_interval(after, is_score=True), strict=True))
                | dict(zip(("gain", "gain_low", "gain_high"), outcomes_interval(after - before), strict=True))
                | {"control": controls.mean(), "effect": -test["effect"]}
                | {"effect_low": -test["high"], "effect_high": -test["low"]}
                | {"p": test["p"] if standing(level["p_majority"]) != AT_CHANCE else np.nan}
                | level
            )
    table = pd.DataFrame(rows)
    table["q"] = benjamini_hochberg(table["p"].to_numpy())
    return CrossTraining(table, trials.manifest(masks, seeds=list(seeds), match=match))
