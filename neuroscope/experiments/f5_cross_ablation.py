"""Are a task's neurons its own? Every task's neurons off under every task (LX24 Figure 5)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from neuroscope import figures
from neuroscope.checks import Progress, public
from neuroscope.errors import choose
from neuroscope.evaluation import AT_CHANCE, CONSTANT, standing
from neuroscope.experiments.crossed_verdicts import MANY, NOT_COMPETENT, lacking, verdict_rows
from neuroscope.experiments.evidence_parts import effect_part, measured_as, neutral_part
from neuroscope.experiments.judging import Judge, tasks_and_masks
from neuroscope.experiments.neutrality import Neutrality, neutral_columns
from neuroscope.experiments.standings import Standings
from neuroscope.interventions.edits import Value
from neuroscope.masks import DRAWN, Masks, Match, NeuronMask
from neuroscope.masks.evidence import VERDICT_NUMBERS, Evidence, evidence_of
from neuroscope.results import Result
from neuroscope.statistics import ALPHA, against_controls, benjamini_hochberg, effect_margin
from neuroscope.tasks import Tasks, tasks_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False)
class CrossAblation(Result):
    """LX24 Figure 5: source task's neurons off, target task measured; one row per cell.

    Columns: source, target, source_family, target_family, n, score, original, control (mean over random masks of the
    same size, layer-matched to the source's), effect = control - score (broken beyond random ones), low and high (95 %
    interval of the effect, over examples and the next random mask), margin (half the interval of the effect in the mean
    over random masks: `statistics.effect_margin`), p (of both kinds of chance: `statistics.against_controls`),
    q (Benjamini-Hochberg over the whole matrix), majority, uniform and p_majority (of the target with nothing off:
    `evaluation.constant`); neutral, neutral_random, neutral_original, neutral_low, neutral_high, neutral_p: the loss on
    neutral text with the source's neurons off, beside random masks (`experiments.neutrality`).

    A target at which the model is at chance with nothing off has nothing to lose: p and q are NaN, it gets no verdict,
    and it is in no mean. Its neurons stay as a source: what they break is broken, whatever they were found on.

    Example:
        >>> import pandas as pd
        >>> effects = {("a", "a"): 0.6, ("a", "b"): 0.2, ("b", "a"): 0.2, ("b", "b"): 0.4}
        >>> rows = [{"source": a, "target": b, "effect": effect} for (a, b), effect in effects.items()]
        >>> table = pd.DataFrame(rows).assign(original=1.0, majority=0.5, uniform=0.5, p_majority=0.001)
        >>> found = CrossAblation(table, {})
        >>> found.matrix.loc["a"].to_dict(), found.decompose()["specific"].round(2).tolist()
        ({'a': 0.6, 'b': 0.2}, [0.15, -0.15, -0.15, 0.15])
    """

    title = "Are the neurons their task's own?"
    captions: ClassVar[Mapping[str, str]] = {"verdicts": "Is the mask the task's own?", "runs": "Every cell"}

    @property
    def neutrality(self) -> Neutrality:
        """What switching each task's own neurons off does to the loss on neutral text."""
        rows = self.table.drop_duplicates("source")
        return Neutrality.of(rows.assign(task=rows["source"]), DRAWN[self.manifest["match"]], self.manifest)

    @property
    def standings(self) -> Standings:
        """Which targets the model is above chance at with nothing off."""
        rows = self.table.drop_duplicates("target")
        return Standings(rows.assign(task=rows["target"], score=rows["original"]), "with nothing switched off")

    @property
    def matrix(self) -> pd.DataFrame:
        """Effects, source by target."""
        names = list(self.table["source"].unique())
        return self.table.pivot(index="source", columns="target", values="effect").loc[names, names]

    def decompose(self) -> pd.DataFrame:
        """The effects as sum of mean + source + target + specific (row and column means removed): one row per cell.

        `source` says how much these neurons matter for everything, `specific` how much for this task in particular.
        Targets at chance have no parts, and no part in the means.
        """
        m = self.matrix[self.standings.others]
        mean, source, target = m.to_numpy().mean() if m.size else np.nan, m.mean(axis=1), m.mean(axis=0)
        parts = self.table[["source", "target", "effect"]].copy()
        parts["mean"] = mean
        parts["source_part"] = parts["source"].map(source) - mean
        parts["target_part"] = parts["target"].map(target) - mean
        parts["specific"] = parts["effect"] - mean - parts["source_part"] - parts["target_part"]
        return parts

    def verdicts(self) -> pd.DataFrame:
        """For each task, whether its mask is its own, computed from the matrix.

        - "not competent": the model is not better than the best constant answer with nothing off. No other verdict.
        - "no effect": the mask is not shown to break its task more than random masks do (q < 0.05, effect > 0).
        - "not compared": it is, but there is no mask, or no task, of another family.
        - "general": the interval of `selectivity`, the diagonal of `decompose()`, does not lie above zero: it breaks
          its own task no more than is explained by how much it breaks in general and how easily the task breaks; and it
          is shown to break at least half of the other families' tasks (`breaks`).
        - "specific": its selectivity lies above zero; it is shown to break its task more than the masks of every other
          family do (`column_low` > 0); and it is shown to break no other family's task as much as its own (`row_low` >
          0), neither in points nor as a share of what that task has to lose.
        - "shared": neither, and there are tasks of other families (`shared_with`) whose masks are shown to break this
          task, and not shown to break it less than its own mask does, and which its own mask is shown to break too. Or
          its selectivity does not lie above zero, and it is not general.
        - "selective": none of these: its selectivity lies above zero.

        What cannot be shown either way is not "specific"; `in_words()` says of what is "selective" what it lacks.
        `strongest` is the family whose masks break the task most, `breaks_most` the other family's task that the mask
        comes nearest to breaking as much as its own, or breaks more; `column_low` and `row_low` are the lower ends of
        the 95 % interval of how far its own effect is above the others', the smallest ones, as shares
        (`experiments.crossed_verdicts` has the rules). A verdict is about the tasks that were compared: with others it
        can be another.

        The interval of the selectivity takes the effects that it is made of for independent of one another. Those of
        one mask are not, for they share its random masks: it is then rather too wide.
        """
        import pandas as pd  # heavy: only for tables

        parts = self.decompose().set_index(["source", "target"])["specific"]
        halves = self._half_of_selectivity()
        own = pd.DataFrame({"selectivity": {name: parts[name, name] for name in self.table["target"].unique()}})
        own["selectivity_low"] = own["selectivity"] - pd.Series(halves, dtype=float)
        rows = verdict_rows(self.table, own, self.standings.at_chance)
        neutral = self.neutrality.rows[["neutral", "neutral_random", "neutral_original", "neutral_q"]]
        return pd.DataFrame(list(rows)).join(neutral, on="task")

    @public
    def about(self, mask: NeuronMask) -> Evidence:
        """What this says of one of its masks, for its evidence card: the effect on its own task, verdict, neutral text.

        Raises:
            ArgumentError: a mask that was not measured here.
        """
        name, match = measured_as(self.manifest, mask, "cross_ablation(...).about(mask)"), self.manifest["match"]
        cell = self.table[(self.table["source"] == name) & (self.table["target"] == name)].iloc[0]
        verdicts = self.verdicts().set_index("task")
        verdict = verdicts.loc[name]
        numbers = {key: verdict[key] for key in VERDICT_NUMBERS}
        words = {key: verdict[key] for key in ("verdict", "strongest", "breaks_most")} | {"match": match}
        return (
            effect_part(match, self.manifest, name, cell.to_dict(), int(self.table["q"].notna().sum()))
            | evidence_of("verdict", self.manifest, name, tasks=len(verdicts), **words, **numbers)
            | neutral_part(match, self.manifest, name, self.neutrality)
        )

    def _half_of_selectivity(self) -> dict[str, float]:
        """Half the width of the interval of every task's selectivity: of all cells, by their weight in it."""
        names, order = self.standings.others, list(self.matrix.index)
        half = self.table.assign(half=(self.table["high"] - self.table["low"]) / 2)
        m = half.pivot(index="source", columns="target", values="half").loc[order, names].to_numpy()
        sources, targets = m.shape
        found = {}
        for j, name in enumerate(names):
            i = order.index(name)
            weights = np.outer(np.eye(sources)[i] - 1 / sources, np.eye(targets)[j] - 1 / targets)
            found[name] = float(np.sqrt(((weights * m) ** 2).sum()))
        return found

    def in_words(self) -> str:
        """In how many tasks the mask is the task's own, which are not shown to be, and what the verdicts mean."""
        standings = self.standings
        if not standings.others:
            return "\n".join([standings.nothing(), *self.neutrality.in_words()])
        verdicts = self.verdicts()
        verdicts = verdicts[verdicts["verdict"] != NOT_COMPETENT]
        names = {verdict: list(rows["task"]) for verdict, rows in verdicts.groupby("verdict", sort=False)}
        specific, selective = (len(names.get(verdict, [])) for verdict in ("specific", "selective"))
        lines = [
            f"In **{specific} of {len(verdicts)}** tasks the task's own neurons are **specific**, breaking it more "
            f"than those of any other family do, and no other family's task as much; in **{selective}** more they are "
            f"**selective**{standings.but()}.\n",
            "- Selective: switched off, they break their task more than random ones do, and more than they break tasks "
            "in general. Specific: also more than those of any other family do, and no other family's task as much, in "
            "points or as a share of what it can lose. Shared: another family's break the task as much, and they break "
            "that family's; or they break tasks in general as much, if fewer than half of these.",
            *lacking(verdicts[verdicts["verdict"] == "selective"]),
        ]
        wide = verdicts[verdicts["verdict"].isin(["specific", "selective"]) & (verdicts["breaks"] >= MANY)]["task"]
        if len(wide):
            lines.append(
                f"- **A negative**: those of {', '.join(wide)}, though called so, are shown to break at least half of "
                "the other families' tasks as well: they are not of use there alone."
            )
        if general := names.get("general"):
            lines.append(
                f"- **A negative**: the neurons of {', '.join(general)} are **general**, breaking at least half of the "
                "other families' tasks as well, and their own not more than that explains."
            )
        shared = verdicts[verdicts["verdict"] == "shared"]
        if len(shared):
            by_whom = ", ".join(
                f"{r.task} ({f'with {r.shared_with}' if r.shared_with else f'compare those of {r.strongest}'})"
                for r in shared.itertuples()
            )
            lines.append(f"- **A negative**: the neurons were not shown to be the task's own in {by_whom}.")
        if "no effect" in names:
            lines.append(
                f"- **A negative**: once corrected over all {self.table['q'].notna().sum()} cells of this matrix (q), "
                "switching a task's own neurons off was not shown to break more of it than random neurons do in "
                f"{', '.join(names['no effect'])}."
            )
        if "not compared" in names:
            lines.append(f"- Without another family to compare with: {', '.join(names['not compared'])}.")
        return "\n".join(
            [
                *lines,
                f"- An effect is the score lost beyond {DRAWN[self.manifest['match']]}, a share of 1; below zero, "
                "random ones break more. Two kinds of neurons hide in a mask: those that matter for everything (a "
                "coloured row), and those that matter for this task (the diagonal, and the blocks of a family).",
                "- A verdict is about the tasks compared here: with other tasks it can be another.",
                *self.neutrality.in_words(),
            ]
        )

    def tables(self) -> dict[str, pd.DataFrame]:
        """The verdicts, and every cell."""
        return {"verdicts": self.verdicts(), "runs": self.to_frame()}

    def figure(self) -> go.Figure:
        """The effects as a heatmap, tasks bracketed by family."""
        names = list(self.matrix.index)
        cells = {(r.source, r.target): r for r in self.table.itertuples()}
        standings, neutrality = self.standings, self.neutrality
        families = dict(zip(self.table["source"], self.table["source_family"], strict=True))

        def hover(r: Any) -> str:
            return (
                f"<b>{r.source}</b> off, <b>{r.target}</b> measured<br>score {100 * r.score:.1f} %; nothing off "
                f"{100 * r.original:.1f} %; random off {100 * r.control:.1f} %<br>effect {100 * r.effect:.1f} points "
                f"[{100 * r.low:.1f}, {100 * r.high:.1f}]"
                + (f", p = {r.p:.2g}, q = {r.q:.2g}" if r.p == r.p else "<br>at chance with nothing off: not tested")
                + (f"<br>{CONSTANT}: {100 * r.majority:.1f} %" if r.majority == r.majority else "")
                + neutrality.hover(r.source)
            )

        return figures.heatmap(
            100 * self.matrix[standings.others].reindex(columns=names),
            names,
            names,
            title="Whose neurons break which task",
            subtitle=f"score lost beyond {DRAWN[self.manifest['match']]}; dots: q < {ALPHA}" + standings.note(", grey"),
            colour_label="points lost",
            x_label="task measured",
            y_label="whose neurons are off",
            hover=[[hover(cells[a, b]) for b in names] for a in names],
            text=[
                [
                    ""
                    if b in standings.at_chance
                    else f"{round(100 * cells[a, b].effect)}" + ("·" if cells[a, b].q < ALPHA else "")
                    for b in names
                ]
                for a in names
            ],
            scale="diverging",
            groups=families,
        )


@public
def cross_ablation(
    model: Any,
    tasks: Tasks,
    masks: Masks,
    *,
    n_random: int = 5,
    n: int | None = None,
    batch_size: int | None = None,
    match: Match = "layer",
    value: Value | float = "zero",
    neutral: Sequence[str] | None = None,
    output: str | PathLike | None = None,
    progress: Progress | None = None,
) -> CrossAblation:
    """Every task's neurons off under every task (LX24 Figure 5 a, b).

    A target at which the model is at chance with nothing off is measured, but not tested.

    Args:
        tasks: those with a mask are judged, on their test examples; a warning names those without.
        masks: by task; found on other examples than the test ones.
        n_random: random masks per source; each is measured on every task.
        match: how random masks are drawn: "layer" (they keep the source's number of neurons at every site),
            "activation" (and how loud they are) or "uniform".
        value: what neurons become under the tasks, as in `ablate`: of a mean or a sample, each target's own. Under
            neutral texts they are zero.
        n, batch_size, neutral, output, progress: as in `deactivation`; with its folder, what both measure is measured
            once.

    Raises:
        ArgumentError, TaskError, MaskError: as in `deactivation`.

    Example:
        >>> import neuroscope as ns
        >>> model, tasks = ns.load("mini"), ns.load_tasks("mini", train=4, discovery=8, test=16)
        >>> two = {name: tasks[name] for name in ("sentiment-food", "nli-food")}
        >>> masks = {name: ns.attribute(model, task).top(0.10) for name, task in two.items()}
        >>> found = ns.cross_ablation(model, two, masks, n_random=3, neutral=[])
        >>> found.matrix.idxmax(axis=1).to_dict()  # each mask breaks its own task most
        {'sentiment-food': 'sentiment-food', 'nli-food': 'nli-food'}
    """
    import pandas as pd  # heavy: only for tables

    given = tasks_of(tasks, "cross_ablation")
    model, tasks, masks = tasks_and_masks(model, given, masks, "cross_ablation")
    if without := [name for name in given if name not in tasks]:
        text = f"cross_ablation leaves out tasks without a mask: {', '.join(without)}. What masks do to them is not "
        warnings.warn(f"{text}measured: give masks of all tasks, or only the tasks that have one", stacklevel=3)
    choose(match, tuple(DRAWN), "match")
    judge = Judge(model, tasks, n, batch_size, output, neutral, value)
    judge.require_two_examples("cross_ablation")
    controls = {name: [m.random_like(seed=seed, match=match) for seed in range(n_random)] for name, m in masks.items()}
    off_by_turns = [None, *(m for source in masks for m in (masks[source], *controls[source]))]
    judge.measure([(target, off) for off in off_by_turns for target in tasks], progress, "cross-ablation")
    rows = []
    for source, mask in masks.items():
        neutrality = neutral_columns(judge, source, mask, controls[source])
        for target in tasks:
            original, off = judge(target), judge(target, mask)
            random = [judge(target, control) for control in controls[source]]
            level = judge.constant(target).columns(original)
            test = against_controls(off, random)
            if standing(level["p_majority"]) == AT_CHANCE:
                test["p"] = np.nan
            rows.append(
                {"source": source, "target": target}
                | {"source_family": tasks[source].family, "target_family": tasks[target].family}
                | {"n": len(off), "score": off.mean(), "original": original.mean(), "control": float(np.mean(random))}
                | test
                | {"margin": effect_margin(off, random)}
                | level
                | neutrality
            )
    table = pd.DataFrame(rows)
    table["q"] = benjamini_hochberg(table["p"].to_numpy())
    return CrossAblation(table, judge.manifest(masks, n_random=n_random, match=match, value=value))
