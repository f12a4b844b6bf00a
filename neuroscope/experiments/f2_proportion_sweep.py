"""How many neurons to train: specialization and generalization by the share k (LX24 §3.2, Figures 2 and 6).

1. Every training task's neurons are scored once; its mask at k is the top k of all neurons.
2. Joint (Figure 2): the union of the tasks' masks is trained on all of them together. Single (Figure 6): each task's
   mask is trained on that task alone.
3. Scores on the tasks trained on are specialization (in-domain); on all others given, generalization (out-of-domain).
4. At every k, as many random neurons of the same layers are trained in the same way: the size of the mask alone has an
   effect too. At k = 1 the two are the same.

LX24's Table 3 swaps the two words in its caption; its §3.2 is followed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from neuroscope import figures
from neuroscope.attribution import attribute
from neuroscope.checks import public
from neuroscope.errors import ArgumentError, choose
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
from neuroscope.masks import NeuronMask, Scores
from neuroscope.results import Result
from neuroscope.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

DOMAINS = {"in": "specialization (in-domain)", "out": "generalization (out-of-domain)"}


@dataclass(frozen=True, repr=False)
class ProportionSweep(Result):
    """LX24 Figures 2 and 6: one row per trained group, k, condition, seed and task measured.

    Columns: group (the task trained on, or "joint"), k (share in each task's mask; 0: not trained), density (share of
    all neurons that is trained), neurons, condition ("zero-shot", "task", "random-layer"), seed (of training and of the
    random mask), task, domain ("in" or "out"), n, score, low, high (95 % bootstrap interval over examples), se.
    """

    def curves(self) -> pd.DataFrame:
        """One row per domain, condition and k: density, score (mean over tasks and groups), low, high (95 %).

        Half the interval's width joins Student's t over seeds and the standard error over examples, in which a task
        that several groups are measured on counts once (`experiments.trials.spread`).
        """
        import pandas as pd  # heavy: only for tables

        rows = []
        for (domain, condition, k), cells in self.table.groupby(["domain", "condition", "k"], sort=False):
            score, low, high = bounded(spread(*over_tasks(cells)))
            rows.append(
                {"domain": domain, "condition": condition, "k": k, "density": cells["density"].mean()}
                | {"score": score, "low": low, "high": high}
            )
        return pd.DataFrame(rows)

    def summary(self) -> pd.DataFrame:
        """One row per domain and k: the chosen neurons' score with its interval, and what random ones leave.

        Columns: domain, k, density, zero-shot, task, low, high, random-layer, difference (task - random-layer),
        difference_low, difference_high (95 %: t over seeds, and both standard errors over examples as if the examples
        were different ones, so that it is rather too wide).
        """
        import pandas as pd  # heavy: only for tables

        curves = self.curves().set_index(["domain", "condition", "k"])
        rows = []
        trained = self.table[self.table["condition"] != "zero-shot"].sort_values("domain", kind="stable")
        for (domain, k), cells in trained.groupby(["domain", "k"], sort=False):
            own, random = (cells[cells["condition"] == c] for c in ("task", "random-layer"))
            (mine, error), (others, error_) = over_tasks(own), over_tasks(random)
            gap = spread(mine - others, float(np.hypot(error, error_)))
            if own["density"].min() == 1.0:  # all neurons: there is nothing to choose
                gap = (0.0, 0.0, 0.0)
            rows.append(
                {"domain": domain, "k": k, "density": curves.loc[(domain, "task", k), "density"]}
                | {"zero-shot": curves.loc[(domain, "zero-shot", 0.0), "score"]}
                | curves.loc[(domain, "task", k), ["score", "low", "high"]].rename({"score": "task"}).to_dict()
                | {"random-layer": curves.loc[(domain, "random-layer", k), "score"]}
                | dict(zip(("difference", "difference_low", "difference_high"), gap, strict=True))
            )
        return pd.DataFrame(rows)

    def figure(self) -> go.Figure:
        """Both scores by k, chosen and random neurons, with 95 % bands; dotted: without training."""
        curves = self.curves()
        drawn: dict[str, Any] = {}
        hover: dict[str, list[str]] = {}
        reference = {}
        for domain in curves["domain"].unique():
            for condition, end in (("task", ""), ("random-layer", ", random neurons")):
                label = DOMAINS[domain] + end
                rows = curves[(curves["domain"] == domain) & (curves["condition"] == condition)]
                drawn[label] = (100 * rows["k"], tuple(100 * rows[c] for c in ("score", "low", "high")))
                hover[label] = [
                    f"95 %: {100 * r.low:.1f} to {100 * r.high:.1f}<br>{r.density:.1%} of all neurons trained"
                    for r in rows.itertuples()
                ]
            zero = curves[(curves["domain"] == domain) & (curves["condition"] == "zero-shot")]["score"].iloc[0]
            ks = drawn[DOMAINS[domain]][0]
            reference[DOMAINS[domain]] = ([ks.min(), ks.max()], [100 * zero] * 2)
        how = "all training tasks together" if self.manifest["joint"] else "each training task alone"
        return figures.curves_with_band(
            drawn,
            reference,
            title="Scores by the share of neurons trained",
            subtitle=f"{how}; bands: 95 % over examples and {self.manifest['seeds']} seeds; "
            f"{self.manifest['n']} test examples a task",
            x_label="neurons in each task's mask, %",
            y_label="score, %",
            reference_label="not trained",
            hover=hover,
        )

    def in_words(self) -> str:
        """What was found, as text with `**bold**` and lists; failures are stated."""
        lines = []
        for domain, cells in self.summary().groupby("domain", sort=False):
            best, first = cells.loc[cells["task"].idxmax()], cells.iloc[0]
            lines.append(
                f"- {DOMAINS[domain].capitalize()}: {first['zero-shot']:.1%} before training, "
                f"highest at k = **{best['k']:.0%}** with **{best['task']:.1%}** "
                f"[{best['low']:.1%}, {best['high']:.1%}]; {first['task']:.1%} at k = {first['k']:.0%} and "
                f"{cells.iloc[-1]['task']:.1%} at k = {cells.iloc[-1]['k']:.0%}."
            )
            better = cells[cells["difference_low"] > 0]["k"]
            worse = cells[cells["difference_high"] < 0]["k"]
            told = [
                f"{what} at k = {', '.join(f'{k:.0%}' for k in ks)}"
                for what, ks in (("better", better), ("worse", worse))
                if len(ks)
            ]
            chosen = "; ".join(told) or "**a negative**, no difference was shown at any k"
            lines.append(
                f"- Chosen against random neurons of the same layers, {domain}-domain: {chosen} (95 % intervals over "
                f"examples and {self.manifest['seeds']} seeds, not corrected for the number of k)."
            )
        return "\n".join(lines)


@public
def proportion_sweep(
    model: Any,
    tasks: Mapping[str, Task],
    test: Mapping[str, Task] | None = None,
    *,
    ks: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 1.0),
    joint: bool = True,
    scores: Mapping[str, Scores] | None = None,
    seeds: int = 3,
    **settings: Unpack[Settings],
) -> ProportionSweep:
    """Train a growing share of the tasks' neurons; measure the tasks trained on, and others.

    Args:
        tasks: to train on, by name.
        test: others, that are only measured. Without any, `joint` has no out-of-domain scores; single-task training is
            measured on the other training tasks too.
        ks: shares of all neurons in each task's mask, growing.
        joint: train the union of the masks on all tasks together (Figure 2), or each task alone (Figure 6).
        scores: of every training task, found on other examples than the test ones; None: `attribute`'s default.
        seeds: trainings of every mask, and random masks (run s trains with seed s).
        settings: as in `train_only`.

    Raises:
        ArgumentError: shares that are none, or a task that is in both `tasks` and `test`.
        TaskError, MaskError, ModelError, NumericalError: as in `train_only`.
    """
    import pandas as pd  # heavy: only for tables

    check_settings("proportion_sweep", settings)
    others = dict(test or {})
    _check(tasks, others, ks, seeds)
    every = {**tasks, **others}
    trials = Trials(model, every, tasks, settings, "proportion_sweep")
    if scores is None:
        scores = {name: attribute(trials.model, task, progress=trials.progress) for name, task in tasks.items()}
    for name in tasks:
        choose(name, scores, "scores of task")
    groups = {"joint": list(tasks)} if joint else {name: [name] for name in tasks}
    masks = {(g, k): reduce(or_, (scores[m].top(k) for m in members)) for g, members in groups.items() for k in ks}
    check_masks({name: scores[name].top(ks[0]) for name in tasks}, every, judged=every)
    rows: list[dict[str, Any]] = []

    def keep(group: str, k: float, mask: NeuronMask | None, condition: str, seed: int | None, found: Any) -> None:
        about = {"group": group, "k": float(k), "density": mask.density if mask is not None else 0.0}
        about |= {"neurons": 0 if mask is None else len(mask), "condition": condition, "seed": seed}
        for name, outcomes in found.items():
            place = {"task": name, "domain": "in" if name in groups[group] else "out"}
            rows.append(about | place | measured(outcomes))

    for group in groups:
        keep(group, 0.0, None, "zero-shot", None, {name: trials.before(name) for name in every})
    for (group, k), mask in trials.watched(list(masks.items()), "proportion sweep"):
        for seed in range(seeds):
            for condition, chosen in (("task", mask), ("random-layer", mask.random_like(seed=seed))):
                found = trials.after(chosen, groups[group], seed, list(every))
                keep(group, k, chosen, condition, seed, found)
    table = pd.DataFrame(rows)
    table["seed"] = table["seed"].astype("Int64")
    about = {"joint": joint, "seeds": seeds, "trained on": list(tasks), "ks": [float(k) for k in ks]}
    named = {f"{group} {k:g}": mask for (group, k), mask in masks.items()}
    return ProportionSweep(table, trials.manifest(named, **about))


def _check(tasks: Any, others: Mapping[str, Task], ks: Any, seeds: Any) -> None:
    if not isinstance(tasks, Mapping) or not tasks:
        raise ArgumentError("proportion_sweep", f"tasks={tasks!r:.60}", "give a dict of name -> Task")
    both = [name for name in others if name in tasks]
    if both:
        do = "give each task once: trained on, or only measured"
        raise ArgumentError("proportion_sweep", f"{both[0]!r} in tasks and in test", do)
    check_growing("ks", ks, 1e-9, "shares in (0, 1]")
    check_runs(seeds)
