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
from neuroscope.experiments.judging import Judge, tasks_and_masks
from neuroscope.experiments.neutrality import MEANS, Neutrality, neutral_columns
from neuroscope.experiments.random_controls import (
    CONTROLS,
    COUNT,
    FROM,
    TEST,
    Controls,
    against_each,
    drawn_beside,
    with_q,
)
from neuroscope.experiments.standings import Standings
from neuroscope.masks import DRAWN, Masks, NeuronMask
from neuroscope.masks.evidence import Evidence
from neuroscope.results import Result
from neuroscope.statistics import ALPHA
from neuroscope.tasks import Tasks

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

LABELS = {
    "original": "original",
    "random-uniform": "random off, uniform",
    "random-layer": "random off, same layers",
    "random-activation": "random off, same layers and as loud",
    "task": "the task's own neurons off",
}


@dataclass(frozen=True, repr=False)
class Deactivation(Result):
    """LX24 Table 1 and 6: one row per task, condition and random mask.

    Columns: task, family, kind, metric, condition ("original", "random-uniform", "random-layer", "random-activation",
    "task"), seed (of the random mask), neurons, n, score in [0, 1], low and high (95 % interval over examples),
    majority, uniform and p_majority (the best constant answer, guessing, and whether the score is above:
    `evaluation.constant`). On rows of random masks, the same on all of a task's and kind's: effect (score under these -
    under the task's own), effect_low, effect_high and p (over examples and masks: `statistics.against_controls`), q
    (Benjamini-Hochberg over the tasks); and loudness, where they were drawn to be as loud: theirs over the mask's own.
    On "task" the same of the kind with the largest p of breaking more (1 where the mask breaks no more than it), which
    is named in `strictest`: the verdict rests on it, and so on all kinds. Where nothing is off and the model is at
    chance, nothing can be lost: p and q are NaN. Further neutral, the loss on neutral text (nats a token; NaN where it
    was left out), and for "task" also neutral_random, neutral_original, neutral_low, neutral_high and neutral_p, beside
    layer-matched random masks (`experiments.neutrality`).

    Example:
        >>> import pandas as pd
        >>> rows = [("original", 0.9, 0.001), ("random-layer", 0.85, None), ("task", 0.6, None)]
        >>> table = pd.DataFrame(rows, columns=["condition", "score", "p_majority"])
        >>> found = Deactivation(table.assign(task="nli", majority=0.5, uniform=0.5), {"n_random": 1})
        >>> found.standings.others, found.to_frame().set_index("condition")["score"].to_dict()
        (['nli'], {'original': 0.9, 'random-layer': 0.85, 'task': 0.6})
    """

    title = "Switching neurons off"
    captions: ClassVar[Mapping[str, str]] = {
        "summary": "By task, and means over tasks (off: each task's own neurons off)",
        "controls": "Each task's own neurons beside each kind of random ones",
        "runs": "Every measurement",
    }

    @property
    def controls(self) -> Controls:
        """What was shown against each kind of random mask, and on what the verdict rests."""
        return Controls(self.table, self.manifest.get("no_control", {}), self.manifest["n_random"])

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

        Columns: name, original, random-uniform, random-layer and random-activation (means over random masks; NaN where
        none were drawn), off (the task's own neurons off), loss_random_layer and loss_off (original minus these); of
        the verdict strictest (the kind of random masks that it rests on), p and q; q_uniform, q_layer and q_activation
        of each kind alone; majority, uniform, p_majority and chance ("above", "at chance" or "no test", with nothing
        off); neutral, neutral_random (layer-matched) and neutral_original (losses on neutral text, nats a token),
        neutral_low and neutral_high (95 % interval of the first minus the second), neutral_p and neutral_q.
        """
        import pandas as pd  # heavy: only for tables

        scores = self.table.groupby(["task", "condition"], sort=False)["score"].mean().unstack()
        off = self.table[self.table["condition"] == "task"].set_index("task")
        neutral = self.neutrality.rows
        rows = scores.loc[off.index].reindex(columns=["original", *CONTROLS]).assign(off=scores["task"])
        rows = rows.join(neutral[MEANS])
        kinds = {f"mean ({kind})": off.index[off["kind"] == kind] for kind in off["kind"].unique()}
        kinds |= {"mean (all)": off.index}
        kinds |= self.standings.means()
        means = {label: rows.loc[names].mean() for label, names in kinds.items()}
        summary = pd.concat([rows, pd.DataFrame(means).T])
        summary["loss_random_layer"] = summary["original"] - summary["random-layer"]
        summary["loss_off"] = summary["original"] - summary["off"]
        alone = self.controls.tests.pivot(index="task", columns="condition", values="q")
        alone = alone.reindex(columns=list(CONTROLS)).rename(columns={c: f"q_{match}" for c, match in CONTROLS.items()})
        summary = summary.join(off[["strictest", "p", "q"]]).join(alone)
        summary = self.standings.beside(summary.assign(strictest=summary["strictest"].fillna("")))
        summary = summary.join(neutral.drop(columns=MEANS))
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
        off, original = rows.loc["task"], rows.loc["original"]
        found = neutral_part("layer", self.manifest, name, self.neutrality)
        tests = self.controls.tests.set_index(["condition", "task"])
        tested = tests["q"].notna().groupby("condition").sum()  # tasks over which each kind's q is taken
        for condition in self.controls.kinds:
            if (condition, name) not in tests.index:  # none could be drawn
                continue
            test = tests.loc[(condition, name)]
            row = {"score": off["score"], "original": original["score"], "control": test["score"], "n": off["n"]}
            row |= dict(zip(("effect", "low", "high", "p", "q"), test[TEST], strict=True)) | {"q_all": off["q"]}
            found |= effect_part(CONTROLS[condition], self.manifest, name, row, int(tested[condition]))
        return found

    def in_words(self) -> str:
        """What switching the tasks' own neurons off does, beside random ones; where nothing was shown, or can be."""
        summary = self.summary().set_index("name")
        standings = self.standings
        if not standings.others:
            return "\n".join([standings.nothing(), *standings.why(), *self.neutrality.in_words()])
        total, controls = summary.loc[standings.mean], self.controls
        tests, kinds = controls.tested, controls.kinds
        means = [f"{total[kind]:.1%} ({FROM[kind]})" for kind in kinds]
        lines = [
            "Switching off a task's own neurons breaks it more than switching off random ones of "
            f"{COUNT[len(kinds)]} does in **{len(controls.shown)} of {len(tests)}** tasks (q < {ALPHA})"
            f"{standings.but()}.\n",
            *standings.why(),
            f"- With each task's own neurons off, the mean score over tasks ({len(tests)}) goes from "
            f"**{total['original']:.1%}** to **{total['off']:.1%}**; with as many random neurons off it is "
            f"{', '.join(means)}.",
            *controls.in_words(),
        ]
        lines += self.neutrality.in_words()
        lines.append(
            "- p compares the task's own neurons with random ones, over examples and over random masks. That of a task "
            "is the largest of all kinds, for the claim is about each of them (the strictest are of the same layers "
            "and as loud); q corrects it over the tasks"
            + (", but for those at chance." if standings.at_chance else ".")
        )
        return "\n".join(lines)

    def tables(self) -> dict[str, pd.DataFrame]:
        """The summary, the tests against each kind of random masks, and every measurement."""
        return {"summary": self.summary(), "controls": self.controls.tests, "runs": self.to_frame()}

    def figure(self) -> go.Figure:
        """Bars per task: original, random off (band over random masks), the task's own neurons off."""
        names = list(self.table["task"].unique())
        series: dict[str, figures.Band] = {}
        neutrality, controls = self.neutrality, self.controls
        for condition in ("original", *controls.kinds, "task"):
            label = LABELS[condition]
            rows = self.table[self.table["condition"] == condition].groupby("task", sort=False)
            if condition in CONTROLS:
                series[label] = tuple(100 * rows["score"].agg(how).reindex(names) for how in ("mean", "min", "max"))
            else:
                series[label] = tuple(100 * rows[column].first().loc[names] for column in ("score", "low", "high"))
        tests = self.table[self.table["condition"] == "task"].set_index("task").loc[names]
        level, about = self.standings.bars(names)
        return figures.bars_with_band(
            names,
            series,
            [LABELS[c] for c in controls.kinds],
            title="Switching neurons off",
            subtitle=f"{self.manifest['n_random']} random masks of the same size each; "
            f"{self.manifest['n']} test examples a task; whiskers: 95 % over examples" + self.standings.note(),
            value_label="score, %",
            within=(0.0, 100.0),
            band_label=f"range over {self.manifest['n_random']} random masks",
            mark=level,
            mark_label=CONSTANT,
            colours={LABELS["original"]: figures.style.MEASURED, LABELS["task"]: figures.style.OWN_OFF}
            | {LABELS[c]: figures.style.RANDOM[CONTROLS[c]] for c in controls.kinds},
            hover={
                CONSTANT: about,
                LABELS["task"]: [
                    f"{int(r.neurons)} neurons; against every kind of random ones "
                    + (f"p = {r.p:.2g}, q = {r.q:.2g}" if r.p == r.p else "nothing is tested: at chance")
                    + controls.hover(r.Index)
                    + neutrality.hover(r.Index)
                    for r in tests.itertuples()
                ],
            },
        )

    def figures(self) -> list[go.Figure]:
        """Scores, what is lost beyond each kind of random masks, and the loss on neutral text if it was measured."""
        return [self.figure(), self.controls.figure(), *self.neutrality.figures()]


@public
def deactivation(
    model: Any,
    tasks: Tasks,
    masks: Masks,
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

    The verdict on a mask rests on all kinds of random masks: it is shown to break its task where it does so more than
    each of them. The strictest are in the same layers and as loud; where the mask breaks more than others of its
    layers, but not more than these, the words say so (`experiments.random_controls`).

    Args:
        tasks: those with a mask are judged, on their test examples.
        masks: by task; found on other examples than the test ones.
        n_random: random masks of each kind: uniform over the model, layer-matched, and layer-matched and as loud. The
            last need a mask that carries `norms`, as those of `attribute` do, and at most half of every site in it;
            else the verdict rests on the other two, and the words say so.
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

    Example:
        >>> import neuroscope as ns
        >>> model, task = ns.load("mini"), ns.load_tasks("mini", train=4, discovery=8, test=16)["nli-food"]
        >>> masks = {"nli-food": ns.attribute(model, task).top(0.10)}
        >>> found = ns.experiments.deactivation(model, task, masks, n_random=3, neutral=[])
        >>> found.summary().set_index("name").loc["nli-food", ["original", "random-layer"]].to_dict()
        {'original': 1.0, 'random-layer': 1.0}
        >>> bool(found.summary()["q"][0] < 0.05)  # it breaks more than random ones do
        True
    """
    import pandas as pd  # heavy: only for tables

    model, tasks, masks = tasks_and_masks(model, tasks, masks, "deactivation")
    judge = Judge(model, tasks, n, batch_size, output, neutral)
    judge.require_two_examples("deactivation")
    drawn = {name: drawn_beside(mask, range(n_random)) for name, mask in masks.items()}
    off = {name: _conditions(mask, drawn[name][0]) for name, mask in masks.items()}
    judge.measure([(name, what) for name, each in off.items() for what in each.values()], progress, "deactivation")
    rows: list[dict[str, Any]] = []
    for name, mask in masks.items():
        task = tasks[name]
        outcomes = {condition: judge(name, what) for condition, what in off[name].items()}
        random = {c: [outcomes[c, seed] for seed in range(n_random)] for c in drawn[name][0]}
        tested = standing(judge.constant(name).p(outcomes["original", None])) != AT_CHANCE
        tests = against_each(outcomes["task", None], random, tested)
        for (condition, seed), measured in outcomes.items():
            what = off[name][condition, seed]
            rows.append(
                {"task": name, "family": task.family, "kind": task.kind, "metric": task.metric}
                | {"condition": condition, "seed": seed, "neurons": 0 if what is None else len(mask)}
                | judge.row(name, measured)
                | {"neutral": _mean(judge.neutral_losses(name, what))}
                | tests.get(condition, {})
                | ({} if what is None or what is mask else {"loudness": what.manifest.get("loudness", np.nan)})
            )
        rows[-1] |= neutral_columns(judge, name, mask, drawn[name][0]["random-layer"])
    table = with_q(pd.DataFrame(rows))
    table["seed"] = table["seed"].astype("Int64")
    missing = {name: why for name, (_, why) in drawn.items() if why}
    more: dict[str, Any] = {"no_control": missing} if missing else {}
    return Deactivation(table, judge.manifest(masks, n_random=n_random, **more))


def _mean(losses: Outcomes) -> float:
    return float(losses.mean()) if losses.size else np.nan


def _conditions(
    mask: NeuronMask, drawn: Mapping[str, Sequence[NeuronMask]]
) -> dict[tuple[str, int | None], NeuronMask | None]:
    """What is off, by condition and seed: nothing, random neurons of each kind, and the task's own."""
    off: dict[tuple[str, int | None], NeuronMask | None] = {("original", None): None}
    off |= {(name, seed): each for name, kind in drawn.items() for seed, each in enumerate(kind)}
    return off | {("task", None): mask}
