"""Train a task's own neurons and nothing else, beside as many random ones (LX24 §4.2, Tables 2 and 7).

1. Each task is measured without training.
2. As many random neurons as its mask has are trained on it: drawn from the whole model, and from the same layers.
3. The mask's own neurons are trained on it, with the same recipe and seeds.

LX24 has one random mask and one run of each, and no intervals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from neuroscope import figures
from neuroscope.checks import public
from neuroscope.experiments.judging import CONTROLS, check_masks, check_seeds
from neuroscope.experiments.trials import Settings, Trials, bounded, check_settings, measured, spread
from neuroscope.masks import NeuronMask
from neuroscope.results import Result
from neuroscope.statistics import ALPHA, against_controls, benjamini_hochberg
from neuroscope.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

CONDITIONS = {
    "zero-shot": "not trained",
    "random-uniform": "random trained, uniform",
    "random-layer": "random trained, same layers",
    "task": "the task's own neurons trained",
}
TESTS = ["gain", "gain_low", "gain_high", "p", "q"]


@dataclass(frozen=True, repr=False)
class TrainOnly(Result):
    """LX24 Tables 2 and 7: one row per task, condition and seed.

    Columns: task, family, kind, metric, condition ("zero-shot", "random-uniform", "random-layer", "task"), seed (of
    training, and of the random mask), neurons (trained), n, score in [0, 1], low and high (95 % bootstrap interval over
    examples), se. On rows of random masks, the same on all of a task's and kind's: gain (score of the task's own
    neurons over these, means over seeds), gain_low, gain_high and p (over examples and masks:
    `statistics.against_controls`), q (Benjamini-Hochberg over all tasks and both kinds).
    """

    def means(self) -> pd.DataFrame:
        """One row per task and condition: neurons, score, low, high (95 %, over examples and seeds)."""
        import pandas as pd  # heavy: only for tables

        rows = []
        for (task, condition), runs in self.table.groupby(["task", "condition"], sort=False):
            score, low, high = bounded(spread(runs["score"], runs["se"].mean()))
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
        """One row per task, then the means over each kind of task and over all.

        Columns: name, zero-shot, random-uniform, random-layer, task (means over seeds), low and high (95 % of task,
        over examples and seeds), gain (task - random-layer), gain_uniform, p and q (of the first), p_uniform and
        q_uniform.
        """
        import pandas as pd  # heavy: only for tables

        means = self.means()
        rows = means.pivot(index="task", columns="condition", values="score")
        names = list(self.table["task"].unique())
        kinds = self.table.groupby("task")["kind"].first().loc[names]
        rows = rows.loc[names, list(CONDITIONS)]
        own = means[means["condition"] == "task"].set_index("task")[["low", "high"]]
        groups = {f"mean ({kind})": kinds.index[kinds == kind] for kind in kinds.unique()} | {"mean (all)": names}
        total = pd.DataFrame({label: rows.loc[list(members)].mean() for label, members in groups.items()}).T
        summary = pd.concat([rows.join(own), total])
        tests = self.tests().pivot(index="task", columns="condition", values=["p", "q"])
        summary["gain"] = summary["task"] - summary["random-layer"]
        summary["gain_uniform"] = summary["task"] - summary["random-uniform"]
        for suffix, condition in (("", "random-layer"), ("_uniform", "random-uniform")):
            for number in ("p", "q"):
                summary[number + suffix] = tests[number, condition]
        return summary.rename_axis("name", axis=0).rename_axis(None, axis=1).reset_index()

    def figure(self) -> go.Figure:
        """Bars per task: not trained, random neurons trained (band over seeds), the task's own neurons trained."""
        means = self.means().set_index(["condition", "task"])
        names = list(self.table["task"].unique())
        ranges = self.table.groupby(["condition", "task"])["score"].agg(["min", "max"])
        series: dict[str, figures.Band] = {}
        for condition, label in CONDITIONS.items():
            rows = means.loc[condition].loc[names]
            low, high = rows["low"], rows["high"]
            if condition in CONTROLS:
                low, high = (ranges.loc[condition].loc[names, end] for end in ("min", "max"))
            series[label] = (100 * rows["score"], 100 * low, 100 * high)
        tests = self.tests().set_index(["condition", "task"])
        hover = {
            CONDITIONS["task"]: [
                f"{means.loc[('task', name), 'neurons']:.0f} neurons; "
                f"{100 * test['gain']:+.1f} points over random in the same layers, "
                f"p = {test['p']:.2g}, q = {test['q']:.2g}"
                for name, test in tests.loc["random-layer"].loc[names].iterrows()
            ]
        }
        return figures.bars_with_band(
            names,
            series,
            [CONDITIONS[c] for c in CONTROLS],
            title="Training a task's own neurons, and random ones",
            subtitle=f"{self.manifest['seeds']} random masks of the same size each, {self.manifest['seeds']} runs "
            f"of the own; {self.manifest['n']} test examples a task",
            value_label="score, %",
            band_label=f"range over {self.manifest['seeds']} seeds",
            hover=hover,
        )

    def in_words(self) -> str:
        """What was found, as text with `**bold**` and lists; failures are stated."""
        summary = self.summary().set_index("name")
        names = list(self.table["task"].unique())
        total, tests = summary.loc["mean (all)"], self.tests().set_index(["task", "condition"])
        shown = [n for n in names if all(_beats(tests.loc[(n, c)]) for c in CONTROLS)]
        worse = [n for n in names if any(_beats(-tests.loc[(n, c)], tests.loc[(n, c), "q"]) for c in CONTROLS)]
        rest = [n for n in names if n not in shown and n not in worse]
        lines = [
            f"- Trained on each of {len(names)} tasks alone, its own neurons bring the mean score from "
            f"**{total['zero-shot']:.1%}** to **{total['task']:.1%}**; as many random neurons of the same layers bring "
            f"it to {total['random-layer']:.1%}, and drawn from the whole model to {total['random-uniform']:.1%}.",
            f"- The own neurons do better than **both** kinds of random ones (q < {ALPHA}) in **{len(shown)} of "
            f"{len(names)}** tasks{': ' + ', '.join(shown) if shown else ''}.",
        ]
        if rest:
            lines.append(
                f"- **A negative**: this was not shown, with {self.manifest['seeds']} random masks of each kind, in "
                f"{', '.join(rest)}."
            )
        if worse:
            lines.append(f"- **A negative**: random neurons did better in {', '.join(worse)}.")
        return "\n".join(lines)


def _beats(test: Any, q: float | None = None) -> bool:
    return bool((test["q"] if q is None else q) < ALPHA and test["gain"] > 0)


@public
def train_only(
    model: Any,
    masks: Mapping[str, NeuronMask],
    tasks: Mapping[str, Task],
    *,
    seeds: int = 3,
    **settings: Unpack[Settings],
) -> TrainOnly:
    """Each task not trained, with random neurons trained on it, and with its own neurons trained on it.

    Args:
        masks: hidden neurons or output units by task; found on other examples than the test ones.
        tasks: by the same names, with training and test examples.
        seeds: random masks of each kind, two or more; run s trains with seed s, and the task's own mask is trained with
            all of them.
        settings: `lr`, `steps`, `epochs`, `batch_size`, `arguments`, `n`, `eval_batch_size`, `journal`, `progress`: see
            `neuroscope.experiments.trials.Settings`.

    Raises:
        TaskError: a task without training or test examples, or a mask found on its test examples.
        MaskError: a mask of another model, or an empty one.
        ModelError: the model's parameters cannot be trained here; the text says why.
        NumericalError: a training diverged. What was measured before is in the journal.
    """
    import pandas as pd  # heavy: only for tables

    check_settings("train_only", settings)
    names = check_masks(masks, tasks)
    check_seeds(seeds)
    trials = Trials(model, {name: tasks[name] for name in names}, names, settings, "train_only")
    rows: list[dict[str, Any]] = []
    for name in trials.watched(names, "train only"):
        task, mask = tasks[name], masks[name]
        drawn = {c: [mask.random_like(seed=s, match=m) for s in range(seeds)] for c, m in CONTROLS.items()}
        drawn["task"] = [mask] * seeds
        found = {
            condition: [trials.after(trained, [name], s, [name])[name] for s, trained in enumerate(chosen)]
            for condition, chosen in drawn.items()
        }
        about = {"task": name, "family": task.family, "kind": task.kind, "metric": task.metric}
        rows.append(about | {"condition": "zero-shot", "seed": None, "neurons": 0} | measured(trials.before(name)))
        own = np.mean(found["task"], axis=0)
        for condition, runs in found.items():
            test = {} if condition == "task" else _test(own, np.array(runs))
            for s, outcomes in enumerate(runs):
                rows.append(
                    about | {"condition": condition, "seed": s, "neurons": len(mask)} | measured(outcomes) | test
                )
    table = pd.DataFrame(rows)
    table["seed"] = table["seed"].astype("Int64")
    first = table[table["condition"].isin(list(CONTROLS))].groupby(["task", "condition"], sort=False)["p"].first()
    q = dict(zip(first.index, benjamini_hochberg(first.to_numpy()), strict=True))
    table["q"] = [q.get(key, np.nan) for key in zip(table["task"], table["condition"], strict=True)]
    return TrainOnly(table, trials.manifest({name: masks[name] for name in names}, seeds=seeds))


def _test(own: Any, controls: Any) -> dict[str, float]:
    """What the own mask gains over random ones."""
    test = against_controls(own, controls)  # its effect is what the own mask has less
    return {"gain": -test["effect"], "gain_low": -test["high"], "gain_high": -test["low"], "p": test["p"]}
