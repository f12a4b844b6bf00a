"""How many neurons to train: specialization and generalization by the share k (LX24 §3.2, Figures 2 and 6).

1. Every training task's neurons are scored once; its mask at k is the top k of all neurons.
2. Joint (Figure 2): the union of the tasks' masks is trained on all of them together. Single (Figure 6): each task's
   mask is trained on that task alone.
3. Scores on the tasks trained on are specialization (in-domain); on all others, generalization (out-of-domain).
4. At every k, as many random neurons of the same layers are trained in the same way: the size of the mask alone has an
   effect too. At k = 1 the two are the same.

Run s trains with seed s, and draws its random masks with it.

LX24's Table 3 swaps the two words in its caption; its §3.2 is followed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from neuroscope import figures
from neuroscope.attribution import attribute
from neuroscope.checks import Progress, by_text, public, seeds_of
from neuroscope.errors import ArgumentError, choose, kind_of
from neuroscope.evaluation import Outcomes
from neuroscope.experiments.judging import refuse_masks_of_test_examples
from neuroscope.experiments.standings import MEANS, Standings
from neuroscope.experiments.trials import Run, Trials, caveats, over_tasks, parted, require_random_masks
from neuroscope.masks import NeuronMask, Scores
from neuroscope.models import resolve
from neuroscope.results import Result
from neuroscope.statistics import seeds_and_examples_interval
from neuroscope.tasks import Tasks, tasks_of
from neuroscope.training import Recipe

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

DOMAINS = {"in": "specialization (in-domain)", "out": "generalization (out-of-domain)"}


@dataclass(frozen=True, repr=False)
class ProportionSweep(Result):
    """LX24 Figures 2 and 6: one row per trained group, k, condition, seed and task measured.

    Columns: group (the task trained on, or "joint"), k (share in each task's mask; 0: not trained), density (share of
    all neurons that is trained), neurons, condition ("zero-shot", "task", "random-layer"), seed (of training and of the
    random mask), task, domain ("in" or "out"), n, score, low, high (95 % interval over examples), majority,
    uniform and p_majority (the best constant answer, guessing, and whether the score is above: `evaluation.constant`),
    se.

    Example:
        >>> import pandas as pd
        >>> scores = {("zero-shot", 0.0): 0.5, ("task", 0.1): 0.7, ("random-layer", 0.1): 0.6}
        >>> rows = [{"condition": name, "k": k, "density": k, "score": score} for (name, k), score in scores.items()]
        >>> runs = pd.concat([pd.DataFrame(rows).assign(seed=seed) for seed in (0, 1, 2)])
        >>> found = ProportionSweep(runs.assign(group="joint", task="nli", domain="in", se=0.02), {})
        >>> found.summary()[["k", "zero-shot", "task", "random-layer", "difference"]].round(2).to_dict("records")
        [{'k': 0.1, 'zero-shot': 0.5, 'task': 0.7, 'random-layer': 0.6, 'difference': 0.1}]
    """

    title = "Scores by the share of neurons trained"
    captions: ClassVar[Mapping[str, str]] = {
        "summary": "Chosen against random neurons, by share",
        "runs": "Every measurement",
    }

    @property
    def standings(self) -> Standings:
        """Which tasks the model is above chance at, without training or after any: of all rows, by Bonferroni.

        Means hold every task; of a domain all of whose tasks are at chance, nothing is concluded.
        """
        return Standings(self.table, "with and without training")

    def curves(self) -> pd.DataFrame:
        """One row per domain, condition and k: density, score (mean over tasks and groups), low, high (95 %).

        Half the interval's width joins Student's t over seeds and the standard error over examples, in which a task
        that several groups are measured on counts once (`statistics.seeds_and_examples_interval`).
        """
        import pandas as pd  # heavy: only for tables

        rows = []
        for (domain, condition, k), cells in self.table.groupby(["domain", "condition", "k"], sort=False):
            score, low, high = seeds_and_examples_interval(*over_tasks(cells), is_score=True)
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
            chosen, random = (cells[cells["condition"] == c] for c in ("task", "random-layer"))
            (chosen_means, chosen_error), (random_means, random_error) = over_tasks(chosen), over_tasks(random)
            gap = seeds_and_examples_interval(chosen_means - random_means, float(np.hypot(chosen_error, random_error)))
            if chosen["density"].min() == 1.0:  # all neurons: there is nothing to choose
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
            subtitle=f"{how}; bands: 95 % over examples and seeds ({len(self.manifest['seeds'])}); "
            f"{self.manifest['n']} test examples a task" + self.standings.note(),
            x_label="neurons in each task's mask, %",
            y_label="score, %",
            within=(0.0, 100.0),
            reference_label="not trained",
            hover=hover,
        )

    def in_words(self) -> str:
        """At which share each kind of score is highest, and where the choice of neurons made a difference."""
        standings = self.standings
        known = self.table.loc[self.table["task"].isin(standings.others), "domain"].unique()
        why = [*standings.why(), *([MEANS] if standings.at_chance else [])]
        if not len(known):
            return "\n".join([standings.nothing(), *why, *caveats(self.manifest)])
        summary = self.summary()
        summary = summary[summary["domain"].isin(known)]
        best = {domain: cells.loc[cells["task"].idxmax()] for domain, cells in summary.groupby("domain")}
        peaks = [f"{DOMAINS[domain]} is highest at k = **{row['k']:.0%}**" for domain, row in best.items()]
        lines = [f"Of the shares of neurons trained, {' and '.join(peaks)}{standings.but()}.\n", *why]
        for domain, cells in summary.groupby("domain", sort=False):
            top, first, last = best[domain], cells.iloc[0], cells.iloc[-1]
            lines.append(
                f"- {DOMAINS[domain].capitalize()}: {first['zero-shot']:.1%} before training, **{top['task']:.1%}** "
                f"[{top['low']:.1%}, {top['high']:.1%}] at best; {first['task']:.1%} at k = {first['k']:.0%} and "
                f"{last['task']:.1%} at k = {last['k']:.0%}."
            )
            better = cells[cells["difference_low"] > 0]["k"]
            worse = cells[cells["difference_high"] < 0]["k"]
            differ = [
                f"{what} at k = {', '.join(f'{k:.0%}' for k in shares)}"
                for what, shares in (("better", better), ("worse", worse))
                if len(shares)
            ]
            lines.append(
                f"- Chosen against random neurons of the same layers, {domain}-domain: "
                f"{'; '.join(differ) or '**A negative**, no difference was shown at any k'} (95 % intervals over "
                f"examples and seeds ({len(self.manifest['seeds'])}), not corrected for the number of k)."
            )
        return "\n".join([*lines, *caveats(self.manifest)])

    def tables(self) -> dict[str, pd.DataFrame]:
        """The summary, and every measurement."""
        return {"summary": self.summary(), "runs": self.to_frame()}


@public
def proportion_sweep(
    model: Any,
    tasks: Tasks,
    *,
    held_out: str | Sequence[str] = (),
    k: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 1.0),
    joint: bool = True,
    scores: Mapping[str, Scores] | None = None,
    seeds: int | Sequence[int] = 3,
    recipe: Recipe | Mapping[str, Any] | None = None,
    n: int | None = None,
    batch_size: int | None = None,
    output: str | PathLike | None = None,
    progress: Progress | None = None,
) -> ProportionSweep:
    """Train a growing share of the tasks' neurons; measure the tasks trained on, and others.

    Args:
        held_out: names of tasks that are only measured. Without any, `joint` has no out-of-domain scores; single-task
            training is measured on the other training tasks too.
        k: shares of all neurons in each task's mask, growing.
        joint: train the union of the masks on all tasks together (Figure 2), or each task alone (Figure 6).
        scores: of every training task, found on other examples than the test ones; None: `attribute`'s default.
        seeds: three runs or more of each mask: 3 is seeds 0, 1 and 2. Run s trains with seed s; it also draws its own
            random mask.
        model, tasks, recipe, n, batch_size, output, progress: as in `train_only`.

    Raises:
        ArgumentError: shares that are none, fewer than three seeds, a held-out task that is none, or no task left to
            train on.
        TaskError, MaskError, ModelError, NumericalError: as in `train_only`.

    Example:
        >>> import neuroscope as ns
        >>> model, tasks = ns.load("mini"), ns.load_tasks("mini-sequence", train=8, discovery=4, test=4)
        >>> two = [tasks["praise"], tasks["agreement"]]
        >>> found = ns.experiments.proportion_sweep(model, two, held_out="agreement", k=[0.5], recipe={"steps": 1})
        >>> found.summary()[["domain", "k", "density"]].to_dict("records")
        [{'domain': 'in', 'k': 0.5, 'density': 0.5}, {'domain': 'out', 'k': 0.5, 'density': 0.5}]
    """
    import pandas as pd  # heavy: only for tables

    tasks = tasks_of(tasks, "proportion_sweep")
    learnt, _ = parted(tasks, held_out, "proportion_sweep")
    seeds = seeds_of(seeds)
    require_random_masks(seeds, "proportion_sweep")
    model = resolve(model)
    measuring: dict[str, Any] = {"n": n, "batch_size": batch_size, "output": output, "progress": progress}
    trials = Trials(model, tasks, learnt, recipe, **measuring)
    if scores is None:
        scores = {name: attribute(model, tasks[name], progress=progress) for name in learnt}
    scores = by_text(scores, "scores", "give a dict: task -> Scores")
    for name in learnt:
        score = scores[choose(name, scores, "scores of task")]
        if not isinstance(score, Scores):
            raise ArgumentError(f"scores[{name!r}]", kind_of(score), "give Scores, as attribute makes them")
    groups = {"joint": learnt} if joint else {name: [name] for name in learnt}
    masks = {
        (group, share): reduce(or_, (scores[m].top(share) for m in members))
        for group, members in groups.items()
        for share in k
    }
    refuse_masks_of_test_examples({name: scores[name].top(k[0]) for name in learnt}, tasks, tasks.values())
    rows: list[dict[str, Any]] = []

    def add(group: str, share: float, mask: NeuronMask | None, condition: str, seed: int | None, measured: Any) -> None:
        columns = {"group": group, "k": share, "density": mask.density if mask is not None else 0.0}
        columns |= {"neurons": 0 if mask is None else len(mask), "condition": condition, "seed": seed}
        for name, outcomes in measured.items():
            place = {"task": name, "domain": "in" if name in groups[group] else "out"}
            rows.append(columns | place | trials.row(name, outcomes))

    runs: list[tuple[tuple[str, float], str, Run]] = [
        (place, condition, (chosen, groups[place[0]], seed, list(tasks)))
        for place, mask in masks.items()
        for seed in seeds
        for condition, chosen in (("task", mask), ("random-layer", mask.random_like(seed=seed)))
    ]
    trials.measure([run for _, _, run in runs], "proportion sweep")
    for group in groups:
        before: dict[str, Outcomes] = {name: trials.before(name) for name in tasks}
        add(group, 0.0, None, "zero-shot", None, before)
    for (group, share), condition, run in runs:
        add(group, share, run[0], condition, run[2], trials.after(*run))
    table = pd.DataFrame(rows)
    table["seed"] = table["seed"].astype("Int64")
    settings = {"joint": joint, "seeds": list(seeds), "trained on": learnt, "k": list(k)}
    return ProportionSweep(
        table, trials.manifest({f"{group} {share:g}": mask for (group, share), mask in masks.items()}, **settings)
    )
