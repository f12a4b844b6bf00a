"""Does a task need its neurons? Each task with random neurons off, and with its own off (LX24 Tables 1 and 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from neuroscope import figures
from neuroscope.checks import Progress, public
from neuroscope.evaluation import AT_CHANCE, CONSTANT, Outcomes, standing
from neuroscope.experiments.evidence_parts import effect_part, measured_as, neutral_part
from neuroscope.experiments.judging import CONTROLS, Judge, tasks_and_masks
from neuroscope.experiments.neutrality import MEANS, Neutrality, neutral_columns
from neuroscope.experiments.standings import Standings
from neuroscope.masks import DRAWN, NeuronMask
from neuroscope.masks.evidence import Evidence
from neuroscope.models import resolve
from neuroscope.results import Result
from neuroscope.statistics import ALPHA, against_controls, benjamini_hochberg
from neuroscope.tasks import Tasks

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

LABELS = {
    "original": "original",
    "random-uniform": "random off, uniform",
    "random-layer": "random off, same layers",
    "task": "the task's own neurons off",
}


@dataclass(frozen=True, repr=False)
class Deactivation(Result):
    """LX24 Table 1 and 6: one row per task, condition and random mask.

    Columns: task, family, kind, metric, condition ("original", "random-uniform", "random-layer", "task"), seed (of the
    random mask), neurons, n, score in [0, 1], low and high (95 % interval over examples), majority, uniform
    and p_majority (the best constant answer, guessing, and whether the score is above: `evaluation.constant`); for
    "task" also p (against the layer-matched controls, over examples and over masks: `statistics.against_controls`) and
    q (Benjamini-Hochberg over the tasks). Where nothing is off and the model is at chance, nothing can be lost: p and q
    are NaN. Further neutral, the loss on neutral text (nats a token; NaN where it was left out), and for "task" also
    neutral_random, neutral_original, neutral_low, neutral_high and neutral_p, beside layer-matched random masks
    (`experiments.neutrality`).
    """

    title = "Switching neurons off"
    captions: ClassVar[Mapping[str, str]] = {
        "summary": "By task, and means over tasks (off: each task's own neurons off)",
        "runs": "Every measurement",
    }

    @property
    def neutrality(self) -> Neutrality:
        """What switching each task's own neurons off does to the loss on neutral text."""
        return Neutrality.of(self.table[self.table["condition"] == "task"], DRAWN["layer"], self.manifest)

    @property
    def standings(self) -> Standings:
        """Which tasks the model is above chance at with nothing off."""
        return Standings(self.table[self.table["condition"] == "original"], "with nothing switched off")

    def summary(self) -> pd.DataFrame:
        """One row per task, then the means over each kind of task, over all, and over those not at chance if some are.

        Columns: name, original, random-uniform and random-layer (means over random masks), off (the task's own neurons
        off), loss_random_layer and loss_off (original minus these), p and q, majority, uniform, p_majority and chance
        ("above", "at chance" or "no test", with nothing off); neutral, neutral_random (layer-matched) and
        neutral_original (losses on neutral text, nats a token), neutral_low and neutral_high (95 % interval of the
        first minus the second), neutral_p and neutral_q.
        """
        import pandas as pd  # heavy: only for tables

        scores = self.table.groupby(["task", "condition"], sort=False)["score"].mean().unstack()
        off = self.table[self.table["condition"] == "task"].set_index("task")
        neutral = self.neutrality.rows
        rows = scores.loc[off.index, ["original", *CONTROLS]].assign(off=scores["task"])
        rows = rows.join(neutral[MEANS])
        kinds = {f"mean ({kind})": off.index[off["kind"] == kind] for kind in off["kind"].unique()}
        kinds |= {"mean (all)": off.index}
        kinds |= self.standings.means()
        means = {label: rows.loc[names].mean() for label, names in kinds.items()}
        summary = pd.concat([rows, pd.DataFrame(means).T])
        summary["loss_random_layer"] = summary["original"] - summary["random-layer"]
        summary["loss_off"] = summary["original"] - summary["off"]
        summary = self.standings.beside(summary.join(off[["p", "q"]])).join(neutral.drop(columns=MEANS))
        summary = summary[[name for name in summary if name not in neutral] + list(neutral)]  # these stand last
        return summary.rename_axis("name", axis=0).rename_axis(None, axis=1).reset_index()

    @public
    def about(self, mask: NeuronMask) -> Evidence:
        """What this says of one of its masks, for its evidence card: the effect beside each kind of random masks.

        Raises:
            ArgumentError: a mask that was not measured here.
        """
        name = measured_as(self.manifest, mask, "deactivation(...).about(mask)")
        rows = self.table[self.table["task"] == name].set_index("condition")
        off, scores = rows.loc["task"], rows.groupby(level=0)["score"].mean()
        tests = int(self.table["q"].notna().sum())
        found = neutral_part("layer", self.manifest, name, self.neutrality)
        for condition, match in CONTROLS.items():
            row = {"score": scores["task"], "original": scores["original"], "control": scores[condition], "n": off["n"]}
            row["effect"] = row["control"] - row["score"]
            tested = {"p": off["p"], "q": off["q"]} if match == "layer" else {}
            found |= effect_part(match, self.manifest, name, row | tested, tests)
        return found

    def in_words(self) -> str:
        """What switching the tasks' own neurons off does, beside random ones; where nothing was shown, or can be."""
        summary = self.summary().set_index("name")
        standings = self.standings
        if not standings.others:
            return "\n".join([standings.nothing(), *standings.why(), *self.neutrality.in_words()])
        tests = summary[summary["q"].notna()]
        total = summary.loc[standings.mean]
        hurt = tests[(tests["q"] < ALPHA) & (tests["off"] < tests["random-layer"])]
        rest = [name for name in tests.index if name not in set(hurt.index)]
        lines = [
            "Switching off a task's own neurons breaks it more than switching off random ones of the same layers does "
            f"in **{len(hurt)} of {len(tests)}** tasks (q < {ALPHA}){standings.but()}.\n",
            *standings.why(),
            f"- With each task's own neurons off, the mean score over tasks ({len(tests)}) goes from "
            f"**{total['original']:.1%}** to **{total['off']:.1%}**; with as many random neurons of the same layers "
            f"off it is {total['random-layer']:.1%}, and drawn from the whole model {total['random-uniform']:.1%}.",
        ]
        if rest:
            lines.append(
                f"- **A negative**: with {self.manifest['n_random']} random masks, the task's own neurons were not "
                f"shown to break more than random ones of the same layers in {', '.join(rest)}."
            )
        lines += self.neutrality.in_words()
        lines.append(
            "- p compares the task's own neurons with layer-matched random ones, over examples and over random masks; "
            "q corrects it over the tasks" + (", but for those at chance." if standings.at_chance else ".")
        )
        return "\n".join(lines)

    def tables(self) -> dict[str, pd.DataFrame]:
        """The summary, and every measurement."""
        return {"summary": self.summary(), "runs": self.to_frame()}

    def figure(self) -> go.Figure:
        """Bars per task: original, random off (band over random masks), the task's own neurons off."""
        names = list(self.table["task"].unique())
        series: dict[str, figures.Band] = {}
        for condition, label in LABELS.items():
            rows = self.table[self.table["condition"] == condition].groupby("task", sort=False)
            if condition in CONTROLS:
                series[label] = tuple(100 * rows["score"].agg(how).loc[names] for how in ("mean", "min", "max"))
            else:
                series[label] = tuple(100 * rows[column].first().loc[names] for column in ("score", "low", "high"))
        tests = self.table[self.table["condition"] == "task"].set_index("task").loc[names]
        level, about = self.standings.bars(names)
        neutrality = self.neutrality
        return figures.bars_with_band(
            names,
            series,
            [LABELS[c] for c in CONTROLS],
            title="Switching neurons off",
            subtitle=f"{self.manifest['n_random']} random masks of the same size each; "
            f"{self.manifest['n']} test examples a task; whiskers: 95 % over examples" + self.standings.note(),
            value_label="score, %",
            within=(0.0, 100.0),
            band_label=f"range over {self.manifest['n_random']} random masks",
            mark=level,
            mark_label=CONSTANT,
            hover={
                CONSTANT: about,
                LABELS["task"]: [
                    f"{int(r.neurons)} neurons; against random in the same layers "
                    + (f"p = {r.p:.2g}, q = {r.q:.2g}" if r.p == r.p else "nothing is tested: at chance")
                    + neutrality.hover(r.Index)
                    for r in tests.itertuples()
                ],
            },
        )

    def figures(self) -> list[go.Figure]:
        """Scores, and where it was measured the loss on neutral text."""
        return [self.figure(), *self.neutrality.figures()]


@public
def deactivation(
    model: Any,
    tasks: Tasks,
    masks: Mapping[str, NeuronMask],
    *,
    n_random: int = 5,
    n: int | None = None,
    batch_size: int | None = None,
    neutral: Sequence[str] | None = None,
    output: str | PathLike | None = None,
    progress: Progress | None = None,
) -> Deactivation:
    """Each task with nothing off, random neurons off, and its own neurons off (LX24 §4.1, Table 1 and 6).

    A task at which the model is at chance with nothing off has nothing to lose: it is measured, but not tested.

    Args:
        tasks: those with a mask are judged, on their test examples.
        masks: by task; found on other examples than the test ones.
        n_random: random masks of each kind: uniform over the model, and layer-matched.
        n: test examples per task (None: all).
        batch_size: examples per forward pass (None: chosen by tokens).
        neutral: texts to measure the loss on under each mask, which says whether the model is still a model; None: its
            own (`neutral_loss`), where it has some; [] leaves this out.
        output: a folder for what is measured, from which a killed call goes on.
        progress: called as `progress(iterable, desc=...)`, such as tqdm.

    Raises:
        ArgumentError: a mask without a task; neutral texts that the model cannot be asked.
        TaskError: a mask was found on the examples it would be judged on.
        MaskError: a mask is of another model.
    """
    import pandas as pd  # heavy: only for tables

    tasks, masks = tasks_and_masks(tasks, masks, "deactivation")
    judge = Judge(resolve(model), tasks, n, batch_size, output, neutral)
    off = {name: _conditions(mask, n_random) for name, mask in masks.items()}
    judge.measure([(name, what) for name, each in off.items() for what in each.values()], progress, "deactivation")
    rows: list[dict[str, Any]] = []
    for name, mask in masks.items():
        task = tasks[name]
        outcomes = {condition: judge(name, what) for condition, what in off[name].items()}
        for (condition, seed), measured in outcomes.items():
            rows.append(
                {"task": name, "family": task.family, "kind": task.kind, "metric": task.metric}
                | {"condition": condition, "seed": seed, "neurons": 0 if condition == "original" else len(mask)}
                | judge.row(name, measured)
                | {"neutral": _mean(judge.neutral_losses(name, off[name][condition, seed]))}
            )
        matched = [outcomes["random-layer", s] for s in range(n_random)]
        tested = standing(judge.constant(name).p(outcomes["original", None])) != AT_CHANCE
        rows[-1] |= neutral_columns(judge, name, mask, [off[name]["random-layer", s] for s in range(n_random)])
        rows[-1]["p"] = against_controls(outcomes["task", None], matched)["p"] if tested else np.nan
    table = pd.DataFrame(rows)
    off_rows = table["condition"] == "task"
    table.loc[off_rows, "q"] = benjamini_hochberg(table.loc[off_rows, "p"].to_numpy())
    table["seed"] = table["seed"].astype("Int64")
    return Deactivation(table, judge.manifest(masks, n_random=n_random))


def _mean(losses: Outcomes) -> float:
    return float(losses.mean()) if losses.size else np.nan


def _conditions(mask: NeuronMask, n_random: int) -> dict[tuple[str, int | None], NeuronMask | None]:
    """What is off, by condition and seed: nothing, random neurons of each kind, and the task's own."""
    off: dict[tuple[str, int | None], NeuronMask | None] = {("original", None): None}
    off |= {(name, s): mask.random_like(seed=s, match=m) for name, m in CONTROLS.items() for s in range(n_random)}
    return off | {("task", None): mask}
