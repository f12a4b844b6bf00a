"""Are a task's neurons its own? Deactivation with random controls, and every task's neurons off under every task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from neuroscope import figures, files
from neuroscope.errors import ArgumentError, TaskError, choose, public
from neuroscope.evaluation import Prepared, judge, prepare
from neuroscope.interventions import ablate
from neuroscope.masks import Match, NeuronMask
from neuroscope.models import Model, resolve
from neuroscope.results import Result
from neuroscope.statistics import ALPHA, against_controls, benjamini_hochberg, bootstrap_interval
from neuroscope.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Progress = Callable[..., Iterable[Any]]
Outcomes = npt.NDArray[np.float64]
CONTROLS: dict[str, Match] = {"random-uniform": "uniform", "random-layer": "layer"}


class Judge:
    """Outcomes of tasks under masks: each prepared once, each measured once.

    A measurement is known by the model's weights, the task and the mask; interventions around the call are not part of
    that, so what is measured under one needs a journal of its own.
    """

    def __init__(
        self, model: Any, tasks: Mapping[str, Task], n: int | None, batch_size: int, journal: files.Journal | None
    ) -> None:
        self.model: Model = resolve(model)
        self.tasks, self.n = tasks, n
        self.journal = journal or files.Journal()
        self.provenance = self.model.provenance()
        self.model_key = (self.provenance["fingerprint"], self.provenance["dtype"], files.versions().get("neuroscope"))
        self.prepared: dict[str, Prepared] = {
            k: prepare(self.model, t, "test", n, batch_size) for k, t in tasks.items()
        }

    def __call__(self, task: str, mask: NeuronMask | None = None) -> Outcomes:
        """[example] outcomes of a task's test examples with the mask's neurons off."""
        t = self.tasks[task]
        judged = (t.data_hash, len(self.prepared[task].examples))
        key = files.digest(*self.model_key, *judged, "" if mask is None else mask.identity)
        return np.array(self.journal.get(key, lambda: self._measure(task, mask)))

    def _measure(self, task: str, mask: NeuronMask | None) -> list[float]:
        if mask is None:
            return judge(self.model, self.prepared[task]).tolist()
        with ablate(self.model, mask):
            return judge(self.model, self.prepared[task]).tolist()


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
    return Deactivation(table, _manifest(judge_, masks, names) | {"seeds": seeds})


@dataclass(frozen=True, repr=False)
class CrossAblation(Result):
    """LX24 Figure 5: source task's neurons off, target task measured; one row per cell.

    Columns: source, target, source_family, target_family, score, original, control (mean over random masks of the same
    size, layer-matched to the source's), effect = control - score (what this mask breaks beyond chance), low and high
    (95 % bootstrap interval of the effect, over examples and random masks), p (of both kinds of chance:
    `statistics.against_controls`), q (Benjamini-Hochberg over
    the whole matrix).
    """

    @property
    def matrix(self) -> pd.DataFrame:
        """Effects, source by target."""
        names = list(self.table["source"].unique())
        return self.table.pivot(index="source", columns="target", values="effect").loc[names, names]

    def decompose(self) -> pd.DataFrame:
        """The effects as sum of mean + source + target + specific (row and column means removed): one row per cell.

        `source` says how much these neurons matter for everything, `specific` how much for this task in particular.
        """
        m = self.matrix
        mean, source, target = m.to_numpy().mean(), m.mean(axis=1), m.mean(axis=0)
        parts = self.table[["source", "target", "effect"]].copy()
        parts["mean"] = mean
        parts["source_part"] = parts["source"].map(source) - mean
        parts["target_part"] = parts["target"].map(target) - mean
        parts["specific"] = parts["effect"] - mean - parts["source_part"] - parts["target_part"]
        return parts

    def verdicts(self) -> pd.DataFrame:
        """For each task, whether its mask is its own, computed from the matrix.

        - "specific": breaks its own task beyond chance (q < 0.05, effect > 0), and beyond the masks of every other
          family: the interval of its effect lies above the mean effect of the one that breaks this task most
          (`strongest`).
        - "selective": not that, but breaks its own task more than is explained by how much the mask breaks in general
          and how easily the task breaks: the interval of `selectivity`, the diagonal of `decompose()`, lies above zero.
        - "shared": beyond chance, but neither of these.
        - "not shown": not beyond chance. "not compared": beyond chance, but there is no other family.

        A verdict is about the tasks that were compared: with others it can be another.

        The interval of the selectivity is that of the cell's own effect, moved: the means it is taken from are treated
        as known.
        """
        import pandas as pd  # heavy: only for tables

        parts = self.decompose().set_index(["source", "target"])["specific"]
        rows = []
        for name, cells in self.table.groupby("target", sort=False):
            own = cells[cells["source"] == name].iloc[0]
            family = cells[(cells["source"] != name) & (cells["source_family"] == own["target_family"])]["effect"]
            outside = cells[cells["source_family"] != own["target_family"]]
            others = outside.groupby("source_family", sort=False)["effect"].mean()
            selectivity = parts[name, name]
            selective_low = selectivity - (own["effect"] - own["low"])
            rows.append(
                {"task": name, "verdict": _verdict(own, others, selective_low)}
                | {column: own[column] for column in ("effect", "low", "high", "p", "q")}
                | {"selectivity": selectivity, "selectivity_low": selective_low}
                | {"same_family": family.mean(), "other_families": outside["effect"].mean()}
                | {"strongest": others.idxmax() if len(others) else "", "strongest_effect": others.max()}
            )
        return pd.DataFrame(rows)

    def figure(self) -> go.Figure:
        """The effects as a heatmap, tasks bracketed by family."""
        names = list(self.matrix.index)
        cells = {(r.source, r.target): r for r in self.table.itertuples()}
        families = dict(zip(self.table["source"], self.table["source_family"], strict=True))

        def hover(r: Any) -> str:
            return (
                f"<b>{r.source}</b> off, <b>{r.target}</b> measured<br>score {100 * r.score:.1f} %; nothing off "
                f"{100 * r.original:.1f} %; random off {100 * r.control:.1f} %<br>effect {100 * r.effect:.1f} points "
                f"[{100 * r.low:.1f}, {100 * r.high:.1f}], p = {r.p:.2g}, q = {r.q:.2g}"
            )

        return figures.heatmap(
            100 * self.matrix,
            names,
            names,
            title="Whose neurons break which task",
            subtitle=f"score lost beyond random neurons of the same layers; dots: q < {ALPHA}",
            colour_label="points lost",
            x_label="task measured",
            y_label="whose neurons are off",
            hover=[[hover(cells[a, b]) for b in names] for a in names],
            text=[
                [f"{round(100 * cells[a, b].effect)}" + ("·" if cells[a, b].q < ALPHA else "") for b in names]
                for a in names
            ],
            scale="diverging",
            groups=families,
        )


def _verdict(own: pd.Series, others: pd.Series, selective_low: float) -> str:
    if not (own["q"] < ALPHA and own["effect"] > 0):
        return "not shown"
    if others.empty:
        return "not compared"
    if own["low"] > others.max():
        return "specific"
    return "selective" if selective_low > 0 else "shared"


@public
def cross_ablation(
    model: Any,
    masks: Mapping[str, NeuronMask],
    tasks: Mapping[str, Task],
    *,
    seeds: int = 5,
    n: int | None = None,
    batch_size: int = 128,
    match: Match = "layer",
    journal: files.Journal | None = None,
    progress: Progress | None = None,
) -> CrossAblation:
    """Every task's neurons off under every task (LX24 Figure 5 a, b).

    Args:
        masks, tasks: by name; those that are in both are used.
        seeds: random masks per source; each is measured on every task.
        match: "layer" (random masks keep the source's number of neurons at every site) or "uniform".
        n, batch_size, journal, progress: as in `deactivation`.
    """
    import pandas as pd  # heavy: only for tables

    names = check_masks(masks, tasks)
    choose(match, ("layer", "uniform"), "match")
    check_seeds(seeds)
    judge_ = Judge(model, {t: tasks[t] for t in names}, n, batch_size, journal)
    rows = []
    for source in progress(names, desc="cross-ablation") if progress else names:
        controls = [masks[source].random_like(seed=s, match=match) for s in range(seeds)]
        for target in names:
            original, off = judge_(target), judge_(target, masks[source])
            random = [judge_(target, c) for c in controls]
            rows.append(
                {"source": source, "target": target}
                | {"source_family": tasks[source].family, "target_family": tasks[target].family}
                | {"score": off.mean(), "original": original.mean(), "control": float(np.mean(random))}
                | against_controls(off, random)
            )
    table = pd.DataFrame(rows)
    table["q"] = benjamini_hochberg(table["p"].to_numpy())
    return CrossAblation(table, _manifest(judge_, masks, names) | {"seeds": seeds, "match": match})


def check_seeds(seeds: Any) -> None:
    """Refuse a number of random masks that leaves no control."""
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 2:
        do = "give seeds=2 or more: one random mask does not tell how much random masks differ"
        raise ArgumentError(f"seeds={seeds!r}", "no control, or only one", do)


def _found_on(manifest: Mapping[str, Any]) -> set[tuple[Any, Any]]:
    """(data, split) that a mask was found on, also where it was combined from others or drawn like another."""
    found = {(manifest.get("data_hash"), manifest.get("split"))}
    for part in [*manifest.get("operands", []), *([manifest["random_like"]] if "random_like" in manifest else [])]:
        found |= _found_on(part)
    return found


def _same_prompts(task: Task, found_on: set[tuple[Any, Any]]) -> bool:
    """Whether every test prompt of the task is among those of the split that its mask was found on."""
    for split in ("train", "discovery"):
        if (task.data_hash, split) in found_on:
            known = {e.prompt for e in task.split(split)}
            return all(e.prompt in known for e in task.split("test"))
    return False


def check_masks(
    masks: Mapping[str, NeuronMask], tasks: Mapping[str, Task], judged: Iterable[str] | None = None
) -> list[str]:
    """Names of the masks; refuse those without a task, or found on test examples of tasks that are judged (theirs)."""
    for what, given in (("masks", masks), ("tasks", tasks)):
        if not isinstance(given, Mapping):
            raise ArgumentError(f"{what} by name", f"a {type(given).__name__}", f"give a dict of name -> {what[:-1]}")
    missing = [name for name in masks if name not in tasks]
    if missing or not masks:
        found = f"no task for {missing}" if masks else "no mask"
        raise ArgumentError("masks and tasks by the same names", found, f"tasks has {list(tasks)}")
    tests = {(tasks[name].data_hash, "test") for name in (masks if judged is None else judged)}
    for name, mask in masks.items():
        if not isinstance(mask, NeuronMask):
            raise ArgumentError(f"the mask of {name!r}", f"a {type(mask).__name__}", "give scores.top(0.10)")
        found_on = _found_on(mask.manifest)
        if any(test in found_on for test in tests) or _same_prompts(tasks[name], found_on):
            raise TaskError(
                f"judge the neurons of {name!r} on its test examples",
                "they were found on the same examples",
                "find them with attribute(..., split='discovery')",
            )
    return list(masks)


def _manifest(judge_: Judge, masks: Mapping[str, NeuronMask], names: list[str]) -> dict[str, Any]:
    return {
        **judge_.provenance,
        "masks": {name: dict(masks[name].manifest) for name in names},
        "sizes": {name: len(masks[name]) for name in names},
        "data_hash": {name: judge_.tasks[name].data_hash for name in names},
        "split": "test",
        "n": max(len(p.examples) for p in judge_.prepared.values()),
        "versions": files.versions(),
    }
