"""Whose neurons do the damage: those that a task's mask shares with others, or those that it has alone?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from neuroscope import figures
from neuroscope.checks import Progress, public
from neuroscope.errors import ArgumentError, choose
from neuroscope.evaluation import AT_CHANCE, standing
from neuroscope.experiments.judging import Judge, tasks_and_masks
from neuroscope.experiments.standings import Standings
from neuroscope.masks import DRAWN, Masks, Match, NeuronMask
from neuroscope.results import Result
from neuroscope.statistics import ALPHA, against_controls, benjamini_hochberg
from neuroscope.tasks import Tasks

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

PARTS = {  # of a mask -> its neurons
    "unique": "in no other task's mask",
    "family": "in masks of its family alone",
    "shared": "also in masks of other families",
}


@dataclass(frozen=True, repr=False)
class MaskParts(Result):
    """What each part of the tasks' masks breaks, switched off alone.

    `table` has a row per task and part ("whole", "unique", "family", "shared"): task, family, part, neurons, n, score,
    original, control (mean under random masks of as many neurons as the part), effect, low, high, p (beside these:
    `statistics.against_controls`), q (Benjamini-Hochberg over all rows), majority, uniform and p_majority (of the
    intact model). Of a part without neurons, and of a task at chance, effects or tests are NaN.

    Example:
        >>> import pandas as pd
        >>> rows = [("whole", 50, 0.4, 0.001), ("unique", 30, 0.3, 0.01), ("shared", 20, 0.0, 0.9)]
        >>> table = pd.DataFrame(rows, columns=["part", "neurons", "effect", "q"]).assign(task="nli", original=0.9)
        >>> found = MaskParts(table.assign(majority=0.5, uniform=0.5, p_majority=0.001), {"match": "layer"})
        >>> found.standings.others, found.to_frame().set_index("part")["effect"].to_dict()
        (['nli'], {'whole': 0.4, 'unique': 0.3, 'shared': 0.0})
    """

    title = "Shared and unique neurons"
    captions: ClassVar[Mapping[str, str]] = {"parts": "Each part of each mask switched off alone"}

    @property
    def standings(self) -> Standings:
        """Which tasks the model is above chance at with nothing off."""
        whole = self.table[self.table["part"] == "whole"]
        return Standings(whole.assign(score=whole["original"]), "with nothing switched off")

    def in_words(self) -> str:
        """Which part breaks the tasks, beside random neurons."""
        standings = self.standings
        if not standings.others:
            return standings.nothing()
        tested = self.table[self.table["task"].isin(standings.others)]
        shown = tested[(tested["q"] < ALPHA) & (tested["effect"] > 0)]
        unique = list(shown[shown["part"] == "unique"]["task"])
        total = len(standings.others)
        lines = [
            f"In **{len(unique)} of {total}** tasks the neurons that no other task's mask has break the task by "
            f"themselves, beyond random ones (q < {ALPHA}){standings.but()}.\n",
            *standings.why(),
        ]
        for part, what in PARTS.items():
            rows = tested[(tested["part"] == part) & (tested["neurons"] > 0)]
            if not len(rows):
                continue
            found = list(shown[shown["part"] == part]["task"])
            lines.append(
                f"- {part.capitalize()} ({what}): {rows['neurons'].mean():.0f} neurons in the mean, "
                f"{100 * rows['effect'].mean():.1f} points lost beyond {DRAWN[self.manifest['match']]}; shown in "
                f"{', '.join(found) or 'no task'}."
            )
            if rest := [name for name in rows["task"] if name not in found]:
                lines.append(f"- **A negative**: {part} neurons alone are not shown to matter in {', '.join(rest)}.")
        return "\n".join(lines)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every part of every mask."""
        return {"parts": self.to_frame()}

    def figure(self) -> go.Figure:
        """Points lost beyond random neurons, by task and part, with 95 % intervals."""
        names = list(self.table["task"].unique())
        series: dict[str, figures.Band] = {}
        hover: dict[str, list[str]] = {}
        for part in ("whole", *PARTS):
            rows = self.table[self.table["part"] == part].set_index("task").loc[names]
            label = f"{part}: {PARTS[part]}" if part in PARTS else "the whole mask"
            series[label] = tuple(100 * rows[column] for column in ("effect", "low", "high"))
            hover[label] = [
                f"{int(r.neurons)} neurons; score {100 * r.score:.1f} %, nothing off {100 * r.original:.1f} %"
                + (f"; q = {r.q:.2g}" if r.q == r.q else "; nothing is tested")
                for r in rows.itertuples()
            ]
        return figures.bars_with_band(
            names,
            series,
            title=self.title,
            subtitle=f"score lost beyond {DRAWN[self.manifest['match']]}, {self.manifest['n_random']} random masks of "
            "each part's size; whiskers: 95 % over examples and random masks" + self.standings.note(),
            value_label="points lost",
            hover=hover,
        )


def parts_of(masks: Mapping[str, NeuronMask], families: Mapping[str, str]) -> dict[str, dict[str, NeuronMask]]:
    """Of every mask its unique neurons, those shared within its family alone, and those shared with another family.

    The three have no neuron in common, and are the whole mask together.

    Args:
        masks: by task, of one model.
        families: of every task.
    """
    found = {}
    for name, mask in masks.items():
        nobody = mask - mask
        inside, outside = nobody, nobody
        for other, theirs in masks.items():
            if other != name and families[other] == families[name]:
                inside = inside | theirs
            elif other != name:
                outside = outside | theirs
        found[name] = {"unique": mask - inside - outside, "family": (mask & inside) - outside, "shared": mask & outside}
    return found


@public
def mask_parts(
    model: Any,
    tasks: Tasks,
    masks: Masks,
    *,
    n_random: int = 5,
    n: int | None = None,
    batch_size: int | None = None,
    match: Match = "layer",
    output: str | PathLike | None = None,
    progress: Progress | None = None,
) -> MaskParts:
    """Each part of every task's mask switched off alone: unique neurons, and those shared in or beyond the family.

    Where the shared part does all the damage, the mask is that of what tasks have in common; `cross_ablation` says
    whether the whole is the task's own.

    Args:
        tasks: those with a mask are judged, on their test examples.
        masks: by task, two or more; found on other examples than the test ones.
        n_random: random masks beside every part, of as many neurons.
        match: how these are drawn: "layer", "activation" (as loud as well) or "uniform".
        n, batch_size, output, progress: as in `deactivation`.

    Raises:
        ArgumentError: one mask alone, or one without a task.
        TaskError, MaskError: as in `deactivation`.

    Example:
        >>> import neuroscope as ns
        >>> model, tasks = ns.load("mini"), ns.load_tasks("mini", train=4, discovery=4, test=8)
        >>> two = {name: tasks[name] for name in ("sentiment-food", "nli-food")}
        >>> masks = {name: ns.NeuronMask.of({1: range(40 * i, 40 * i + 60)}, model) for i, name in enumerate(two)}
        >>> found = ns.experiments.mask_parts(model, two, masks, n_random=3)
        >>> found.table.pivot(index="task", columns="part", values="neurons").loc["nli-food"].to_dict()
        {'family': 0, 'shared': 20, 'unique': 40, 'whole': 60}
    """
    import pandas as pd  # heavy: only for tables

    model, tasks, masks = tasks_and_masks(model, tasks, masks, "mask_parts")
    choose(match, tuple(DRAWN), "match")
    if len(masks) < 2:
        raise ArgumentError("mask_parts", "one mask", "give those of two tasks or more, or use deactivation")
    judge = Judge(model, tasks, n, batch_size, output)
    judge.require_two_examples("mask_parts")
    parts = parts_of(masks, {name: task.family for name, task in tasks.items()})
    cells = {
        (name, part): mask for name, whole in masks.items() for part, mask in {"whole": whole, **parts[name]}.items()
    }
    controls = {
        key: [mask.random_like(seed=seed, match=match) for seed in range(n_random)]
        for key, mask in cells.items()
        if len(mask)
    }
    wanted = [(name, None) for name in masks] + [
        (name, off) for (name, part), random in controls.items() for off in (cells[name, part], *random)
    ]
    judge.measure(wanted, progress, "parts of masks")
    rows = []
    for (name, part), mask in cells.items():
        original, off = judge(name), judge(name, mask if len(mask) else None)
        level = judge.constant(name).columns(original)
        numbers: dict[str, float] = dict.fromkeys(("control", "effect", "low", "high", "p"), np.nan)
        if len(mask):
            random = [judge(name, control) for control in controls[name, part]]
            numbers = {"control": float(np.mean(random))} | against_controls(off, random)
            if standing(level["p_majority"]) == AT_CHANCE:
                numbers["p"] = np.nan
        rows.append(
            {"task": name, "family": tasks[name].family, "part": part, "neurons": len(mask), "n": len(off)}
            | {"score": float(off.mean()), "original": float(original.mean())}
            | numbers
            | level
        )
    table = pd.DataFrame(rows)
    table["q"] = benjamini_hochberg(table["p"].to_numpy())
    return MaskParts(table, judge.manifest(masks, n_random=n_random, match=match))
