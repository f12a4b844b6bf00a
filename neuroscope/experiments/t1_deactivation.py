"""Does a task need its neurons? Each task with random neurons off, and with its own off (LX24 Tables 1 and 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neuroscope import figures, files
from neuroscope.checks import Progress, public
from neuroscope.evaluation import Outcomes
from neuroscope.experiments.judging import CONTROLS, Judge, check_masks, check_seeds, judged_on
from neuroscope.masks import NeuronMask
from neuroscope.results import Result
from neuroscope.statistics import against_controls, benjamini_hochberg, bootstrap_interval
from neuroscope.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False)
class Deactivation(Result):
    """LX24 Table 1 and 6: one row per task, condition and seed.

    Columns: task, family, kind, metric, condition ("original", "random-uniform", "random-layer", "task"), seed,
    neurons, n, score in [0, 1], low and high (95 % bootstrap interval over examples); for "task" also p (against
    the layer-matched controls, over examples and over masks: `statistics.against_controls`) and q (Benjamini-Hochberg
    over the tasks).
    """

    def summary(self) -> pd.DataFrame:
        """One row per task, then the means over each kind of task and over all.

        Columns: name, original, random-uniform and random-layer (means over seeds), off (the task's own neurons off),
        loss_random_layer and loss_off (original minus these), p and q.
        """
        import pandas as pd  # heavy: only for tables

        scores = self.table.groupby(["task", "condition"], sort=False)["score"].mean().unstack()
        own = self.table[self.table["condition"] == "task"].set_index("task")
        rows = scores.loc[own.index, ["original", *CONTROLS]].assign(off=scores["task"])
        kinds = {f"mean ({kind})": own.index[own["kind"] == kind] for kind in own["kind"].unique()}
        means = {label: rows.loc[names].mean() for label, names in {**kinds, "mean (all)": own.index}.items()}
        summary = pd.concat([rows, pd.DataFrame(means).T])
        summary["loss_random_layer"] = summary["original"] - summary["random-layer"]
        summary["loss_off"] = summary["original"] - summary["off"]
        return summary.join(own[["p", "q"]]).rename_axis("name", axis=0).rename_axis(None, axis=1).reset_index()

    def figure(self) -> go.Figure:
        """Bars per task: original, random off (band over seeds), the task's own neurons off."""
        names = list(self.table["task"].unique())
        series: dict[str, figures.Band] = {}
        labels = {
            "original": "original",
            "random-uniform": "random off, uniform",
            "random-layer": "random off, same layers",
        }
        for condition, label in (labels | {"task": "the task's own neurons off"}).items():
            rows = self.table[self.table["condition"] == condition].groupby("task", sort=False)
            if condition in CONTROLS:
                series[label] = tuple(100 * rows["score"].agg(how).loc[names] for how in ("mean", "min", "max"))
            else:
                series[label] = tuple(100 * rows[column].first().loc[names] for column in ("score", "low", "high"))
        tests = self.table[self.table["condition"] == "task"].set_index("task").loc[names]
        return figures.bars_with_band(
            names,
            series,
            [labels[c] for c in CONTROLS],
            title="Switching neurons off",
            subtitle=f"{self.manifest['seeds']} random masks of the same size each; "
            f"{self.manifest['n']} test examples a task",
            value_label="score, %",
            band_label=f"range over {self.manifest['seeds']} seeds",
            hover={
                "the task's own neurons off": [
                    f"{int(r.neurons)} neurons; against random in the same layers p = {r.p:.2g}, q = {r.q:.2g}"
                    for r in tests.itertuples()
                ]
            },
        )


@public
def deactivation(
    model: Any,
    masks: Mapping[str, NeuronMask],
    tasks: Mapping[str, Task],
    *,
    seeds: int = 5,
    n: int | None = None,
    batch_size: int = 128,
    journal: files.Journal | None = None,
    progress: Progress | None = None,
) -> Deactivation:
    """Each task with nothing off, random neurons off, and its own neurons off (LX24 §4.1, Table 1 and 6).

    Args:
        masks: by task; found on other examples than the test ones.
        seeds: random masks of each kind: uniform over the model, and layer-matched.
        n: test examples per task (None: all).
        journal: a `files.Journal` with a path makes a long run resumable.

    Raises:
        TaskError: a mask was found on the examples it would be judged on.
        MaskError: a mask is of another model.
    """
    import pandas as pd  # heavy: only for tables

    names = check_masks(masks, tasks)
    check_seeds(seeds)
    judge_ = Judge(model, {t: tasks[t] for t in names}, n, batch_size, journal)
    rows: list[dict[str, Any]] = []
    for name in progress(names, desc="deactivation") if progress else names:
        task, mask = tasks[name], masks[name]
        about = {"task": name, "family": task.family, "kind": task.kind, "metric": task.metric}

        def row(condition: str, outcomes: Outcomes, seed: int | None, neurons: int, about: dict = about) -> None:
            low, high = bootstrap_interval(outcomes)
            rows.append(
                about
                | {"condition": condition, "seed": seed, "neurons": neurons, "n": len(outcomes)}
                | {"score": float(outcomes.mean()), "low": low, "high": high}
            )

        row("original", judge_(name), None, 0)
        for condition, match in CONTROLS.items():
            controls = [judge_(name, mask.random_like(seed=s, match=match)) for s in range(seeds)]
            for s, outcomes in enumerate(controls):
                row(condition, outcomes, s, len(mask))
        own = judge_(name, mask)
        row("task", own, None, len(mask))
        rows[-1]["p"] = against_controls(own, controls)["p"]  # the last controls are the layer-matched ones
    table = pd.DataFrame(rows)
    own_rows = table["condition"] == "task"
    table.loc[own_rows, "q"] = benjamini_hochberg(table.loc[own_rows, "p"].to_numpy())
    table["seed"] = table["seed"].astype("Int64")
    return Deactivation(table, judged_on(judge_, masks, names) | {"seeds": seeds})
