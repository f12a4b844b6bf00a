"""Train a task's own neurons and nothing else, beside as many random ones (LX24 §4.2, Tables 2 and 7).

1. Each task is measured without training.
2. As many random neurons as its mask has are trained on it: drawn from the whole model, and from the same layers.
3. The mask's own neurons are trained on it, with the same recipe and seeds.

Run s trains with seed s, and draws its random masks with it. LX24 has one random mask and one run of each, and no
intervals.

What the own mask gains is tested as where nothing is trained (`statistics.against_controls`). A random mask's score
varies by its draw and by its training, and one further run is predicted of both; the own mask's is a mean over its
runs, which varies less: the interval is rather too wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from neuroscope import figures
from neuroscope.checks import Progress, public, seeds_of
from neuroscope.evaluation import AT_CHANCE, CONSTANT, Outcomes, standing
from neuroscope.experiments.judging import tasks_and_masks
from neuroscope.experiments.standings import Standings
from neuroscope.experiments.trials import Run, Trials, caveats, require_random_masks
from neuroscope.masks import Masks, Match
from neuroscope.results import Result
from neuroscope.statistics import ALPHA, against_controls, benjamini_hochberg, seeds_and_examples_interval
from neuroscope.tasks import Tasks
from neuroscope.training import Recipe

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

CONDITIONS = {
    "zero-shot": "not trained",
    "random-uniform": "random trained, uniform",
    "random-layer": "random trained, same layers",
    "task": "the task's own neurons trained",
}
CONTROLS: dict[str, Match] = {"random-uniform": "uniform", "random-layer": "layer"}
TESTS = ["gain", "gain_low", "gain_high", "p", "q"]


@dataclass(frozen=True, repr=False)
class TrainOnly(Result):
    """LX24 Tables 2 and 7: one row per task, condition and seed.

    Columns: task, family, kind, metric, condition ("zero-shot", "random-uniform", "random-layer", "task"), seed (of
    training, and of the random mask), neurons (trained), n, score in [0, 1], low and high (95 % interval over
    examples), majority, uniform and p_majority (the best constant answer, guessing, and whether the score is above:
    `evaluation.constant`), se. On rows of random masks, the same on all of a task's and kind's: gain (score of the
    task's own neurons over these, means over seeds), gain_low, gain_high and p (over examples and masks:
    `statistics.against_controls`), q (Benjamini-Hochberg over all tasks and both kinds). Where none of a task's scores
    is above chance, before training or after, nothing was learnt that could be compared: p and q are NaN.

    Example:
        >>> import pandas as pd
        >>> rows = [("zero-shot", None, 0.5), ("random-layer", 0, 0.6), ("random-layer", 1, 0.7), ("task", 0, 0.8)]
        >>> table = pd.DataFrame(rows, columns=["condition", "seed", "score"]).assign(task="nli")
        >>> TrainOnly(table, {"seeds": [0, 1]}).to_frame().groupby("condition")["score"].mean().round(3).to_dict()
        {'random-layer': 0.65, 'task': 0.8, 'zero-shot': 0.5}
    """

    title = "Training each task's own neurons alone"
    captions: ClassVar[Mapping[str, str]] = {"summary": "By task, and means over tasks", "runs": "Every measurement"}

    @property
    def standings(self) -> Standings:
        """Which tasks the model is above chance at, without training or after any: of all rows, by Bonferroni."""
        return Standings(self.table, "with and without training")

    def means(self) -> pd.DataFrame:
        """One row per task and condition: neurons, score, low, high (95 %, over examples and seeds)."""
        import pandas as pd  # heavy: only for tables

        rows = []
        for (task, condition), runs in self.table.groupby(["task", "condition"], sort=False):
            score, low, high = seeds_and_examples_interval(runs["score"], runs["se"].mean(), is_score=True)
            rows.append(
                {"task": task, "condition": condition, "neurons": int(runs["neurons"].iloc[0])}
                | {"score": score, "low": low, "high": high}
            )
        return pd.DataFrame(rows)

    def tests(self) -> pd.DataFrame:
        """One row per task and kind of random mask: what the task's own neurons gain over them, with p and q."""
        rows = self.table[self.table["condition"].isin(list(CONTROLS))]
        return rows.groupby(["task", "condition"], sort=False)[TESTS].first().reset_index()

    def summary(self) -> pd.DataFrame:
        """One row per task, then the means over each kind of task, over all, and over those not at chance if some are.

        Columns: name, zero-shot, random-uniform, random-layer, task (means over seeds), low and high (95 % of task,
        over examples and seeds), gain (task - random-layer), gain_uniform, p and q (of the first), p_uniform and
        q_uniform, majority, uniform, p_majority and chance ("above", "at chance" or "no test": see `standings`).
        """
        import pandas as pd  # heavy: only for tables

        means = self.means()
        rows = means.pivot(index="task", columns="condition", values="score")
        names = list(self.table["task"].unique())
        kinds = self.table.groupby("task")["kind"].first().loc[names]
        rows = rows.loc[names, list(CONDITIONS)]
        trained = means[means["condition"] == "task"].set_index("task")[["low", "high"]]
        groups = {f"mean ({kind})": kinds.index[kinds == kind] for kind in kinds.unique()} | {"mean (all)": names}
        groups |= self.standings.means()
        total = pd.DataFrame({label: rows.loc[list(members)].mean() for label, members in groups.items()}).T
        summary = pd.concat([rows.join(trained), total])
        tests = self.tests().pivot(index="task", columns="condition", values=["p", "q"])
        summary["gain"] = summary["task"] - summary["random-layer"]
        summary["gain_uniform"] = summary["task"] - summary["random-uniform"]
        for suffix, condition in (("", "random-layer"), ("_uniform", "random-uniform")):
            for number in ("p", "q"):
                summary[number + suffix] = tests[number, condition]
        summary = self.standings.beside(summary)
        return summary.rename_axis("name", axis=0).rename_axis(None, axis=1).reset_index()

    def figure(self) -> go.Figure:
        """Bars per task: not trained, random neurons trained (band over seeds), the task's own neurons trained."""
        means = self.means().set_index(["condition", "task"])
        names, runs = list(self.table["task"].unique()), len(self.manifest["seeds"])
        ranges = self.table.groupby(["condition", "task"])["score"].agg(["min", "max"])
        series: dict[str, figures.Band] = {}
        for condition, label in CONDITIONS.items():
            rows = means.loc[condition].loc[names]
            low, high = rows["low"], rows["high"]
            if condition in CONTROLS:
                low, high = (ranges.loc[condition].loc[names, end] for end in ("min", "max"))
            series[label] = (100 * rows["score"], 100 * low, 100 * high)
        tests = self.tests().set_index(["condition", "task"])
        level, about = self.standings.bars(names)
        hover = {
            CONDITIONS["task"]: [
                f"{means.loc[('task', name), 'neurons']:.0f} neurons; "
                f"{100 * test['gain']:+.1f} points over random in the same layers, "
                + (f"p = {test['p']:.2g}, q = {test['q']:.2g}" if test["p"] == test["p"] else "not tested: at chance")
                for name, test in tests.loc["random-layer"].loc[names].iterrows()
            ],
            CONSTANT: about,
        }
        return figures.bars_with_band(
            names,
            series,
            [CONDITIONS[c] for c in CONTROLS],
            title="Training a task's own neurons, and random ones",
            subtitle=f"{runs} random masks of the same size each, {runs} runs of the own; {self.manifest['n']} test "
            "examples a task" + self.standings.note(),
            value_label="score, %",
            within=(0.0, 100.0),
            band_label=f"range over {runs} seeds",
            mark=level,
            mark_label=CONSTANT,
            hover=hover,
        )

    def in_words(self) -> str:
        """What training the tasks' own neurons brings, and where random ones do as well or better."""
        summary = self.summary().set_index("name")
        standings, runs = self.standings, len(self.manifest["seeds"])
        names = standings.others
        if not names:
            return "\n".join([standings.nothing(), *standings.why(), *caveats(self.manifest)])
        total, tests = summary.loc[standings.mean], self.tests().set_index(["task", "condition"])
        better = [n for n in names if all(_beats(tests.loc[(n, c)]) for c in CONTROLS)]
        worse = [n for n in names if any(_beats(-tests.loc[(n, c)], tests.loc[(n, c), "q"]) for c in CONTROLS)]
        rest = [n for n in names if n not in better and n not in worse]
        lines = [
            "Training a task's own neurons does better than training **both** kinds of random ones in "
            f"**{len(better)} of {len(names)}** tasks (q < {ALPHA}){standings.but()}.\n",
            *standings.why(),
            f"- Trained on each task alone ({len(names)} of them), its own neurons bring the mean score from "
            f"**{total['zero-shot']:.1%}** to **{total['task']:.1%}**; as many random neurons of the same layers bring "
            f"it to {total['random-layer']:.1%}, and drawn from the whole model to {total['random-uniform']:.1%}.",
            *([f"- They do better in {', '.join(better)}."] if better else []),
        ]
        if rest:
            lines.append(
                f"- **A negative**: with {runs} random masks of each kind, the own neurons were not shown to do better "
                f"than both kinds of random ones in {', '.join(rest)}."
            )
        if worse:
            lines.append(f"- **A negative**: random neurons did better in {', '.join(worse)}.")
        return "\n".join([*lines, *caveats(self.manifest)])

    def tables(self) -> dict[str, pd.DataFrame]:
        """The summary, and every measurement."""
        return {"summary": self.summary(), "runs": self.to_frame()}


def _beats(test: Any, q: float | None = None) -> bool:
    return bool((test["q"] if q is None else q) < ALPHA and test["gain"] > 0)


@public
def train_only(
    model: Any,
    tasks: Tasks,
    masks: Masks,
    *,
    seeds: int | Sequence[int] = 3,
    recipe: Recipe | Mapping[str, Any] | None = None,
    n: int | None = None,
    batch_size: int | None = None,
    output: str | PathLike | None = None,
    progress: Progress | None = None,
) -> TrainOnly:
    """Each task not trained, with random neurons trained on it, and with its own neurons trained on it.

    The claim is about trained models, and so is the test of chance: a task is left untested where the model is at
    chance before training and after every one.

    Args:
        model: anything that can be opened, with parameters of its own. It is as it was afterwards.
        tasks: those with a mask are trained and measured: they need training and test examples.
        masks: hidden neurons or output units by task; found on other examples than the test ones.
        seeds: three runs or more of each mask: 3 is seeds 0, 1 and 2. Run s trains with seed s; it also draws its own
            random mask of each kind, while the task's own mask is the same in all.
        recipe: of every training: a `Recipe`, or a mapping of some of its values; its lr is 3e-3 if it has none.
        n: test examples per task (None: all).
        batch_size: test examples per forward pass (None: chosen by tokens); that of training is in the recipe.
        output: a folder for what is measured (`journal.jsonl`), from which a killed call goes on; experiments with one
            folder share what they measure. Neurons that `parameter_depth` trained there are not trained again.
        progress: called as `progress(iterable, desc=...)`, such as tqdm.

    Raises:
        ArgumentError: fewer than three seeds, or a mask without a task.
        TaskError: a task without training or test examples, or a mask found on its test examples.
        MaskError: a mask of another model, or an empty one.
        ModelError: the model's parameters cannot be trained here; the text says why.
        NumericalError: a training diverged. What was measured before is in the journal.

    Example:
        >>> import neuroscope as ns
        >>> model, task = ns.load("mini"), ns.load_tasks("mini-sequence", train=8, discovery=4, test=4)["praise"]
        >>> masks = {"praise": ns.NeuronMask.of({1: range(200), 2: range(200)}, model)}
        >>> found = ns.experiments.train_only(model, task, masks, recipe={"steps": 1})  # too few to learn
        >>> found.table.groupby("condition", sort=False)["neurons"].agg(list).to_dict()
        {'zero-shot': [0], 'random-uniform': [400, 400, 400], 'random-layer': [400, 400, 400], 'task': [400, 400, 400]}
    """
    import pandas as pd  # heavy: only for tables

    model, tasks, masks = tasks_and_masks(model, tasks, masks, "train_only")
    seeds = seeds_of(seeds)
    require_random_masks(seeds, "train_only")
    measuring: dict[str, Any] = {"n": n, "batch_size": batch_size, "output": output, "progress": progress}
    trials = Trials(model, tasks, tasks, recipe, **measuring)
    runs: dict[str, dict[str, list[Run]]] = {}
    for name, mask in masks.items():
        drawn = {c: [mask.random_like(seed=s, match=m) for s in seeds] for c, m in CONTROLS.items()}
        drawn["task"] = [mask] * len(seeds)
        runs[name] = {c: [(m, [name], s, [name]) for s, m in zip(seeds, ms, strict=True)] for c, ms in drawn.items()}
    trials.measure([run for of_task in runs.values() for part in of_task.values() for run in part], "train only")
    rows: list[dict[str, Any]] = []
    for name, mask in masks.items():
        task = tasks[name]
        before: Outcomes = trials.before(name)
        outcomes = {c: [trials.after(*run)[name] for run in part] for c, part in runs[name].items()}
        columns = {"task": name, "family": task.family, "kind": task.kind, "metric": task.metric}
        rows.append(columns | {"condition": "zero-shot", "seed": None, "neurons": 0} | trials.row(name, before))
        own = np.mean(outcomes["task"], axis=0)
        every = trials.before.constant(name).columns(before, *(m for judged in outcomes.values() for m in judged))
        is_tested = standing(every["p_majority"]) != AT_CHANCE
        for condition, judged in outcomes.items():
            test = {} if condition == "task" else _test(own, np.array(judged), is_tested)
            for seed, measured in zip(seeds, judged, strict=True):
                numbers = {"condition": condition, "seed": seed, "neurons": len(mask)} | trials.row(name, measured)
                rows.append(columns | numbers | test)
    table = pd.DataFrame(rows)
    table["seed"] = table["seed"].astype("Int64")
    first = table[table["condition"].isin(list(CONTROLS))].groupby(["task", "condition"], sort=False)["p"].first()
    q = dict(zip(first.index, benjamini_hochberg(first.to_numpy()), strict=True))
    table["q"] = [q.get(key, np.nan) for key in zip(table["task"], table["condition"], strict=True)]
    return TrainOnly(table, trials.manifest(masks, seeds=list(seeds)))


def _test(outcomes: Any, controls: Any, is_tested: bool) -> dict[str, float]:
    """What the own mask gains over random ones."""
    test = against_controls(outcomes, controls)  # its effect is what the own mask has less
    p = test["p"] if is_tested else np.nan
    return {"gain": -test["effect"], "gain_low": -test["high"], "gain_high": -test["low"], "p": p}
