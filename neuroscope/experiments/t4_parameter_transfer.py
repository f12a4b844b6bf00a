"""Does the similarity of tasks' neurons predict transfer (LX24 Table 4)?

1. Similarity of task i's and task j's neurons inside M_i, the model whose neurons of i were trained on i
   (parameter_depth.py).
2. M_i's score on task j (`cross_training`), correlated with that similarity: over all pairs, as they are and with what
   is due to source and test task taken out, for each test task j, and by layer (correlation/).
3. The control: the same similarity against the score on j of models whose random neurons were trained on i. What it
   predicts as well is not due to the neurons.

Simplified: the similarity is read in the model of one training seed, the scores are means over `seeds` of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from neuroscope import files
from neuroscope.checks import Progress, public, seeds_of
from neuroscope.comparison.correlation import PAIRS, TWO_WAY, Correlation, correlate
from neuroscope.comparison.correlation.cells import matrices, mean_over_layers, similarity_cells, transfer_cells
from neuroscope.comparison.correlation.verdicts import marked
from neuroscope.comparison.parameters import Estimator, ParameterSimilarity, Part
from neuroscope.errors import ArgumentError, choose, naming
from neuroscope.experiments.f3_parameter_depth import parameter_depth
from neuroscope.experiments.f5_cross_training import cross_training
from neuroscope.experiments.judging import tasks_and_masks
from neuroscope.experiments.standings import Standings
from neuroscope.experiments.trials import caveats, require_random_masks
from neuroscope.figures import style
from neuroscope.masks import Masks, Match
from neuroscope.results import Result
from neuroscope.statistics import ALPHA
from neuroscope.tasks import Tasks
from neuroscope.training import Recipe

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

VIEWS = ("all", "layer", "control")


@dataclass(frozen=True, repr=False)
class ParameterTransfer(Result):
    """LX24 Table 4: `Correlation` of parameter similarity with M_i's score on j.

    `table` has the columns of `Correlation`, and view: "all" (mean over the layers where every pair has a value),
    "layer", or "control" (as "all", against the scores of models whose random neurons were trained).
    `manifest["cells"]` has the numbers behind it: source, target, similarity (that mean), score, control, zero_shot.

    Example:
        >>> import pandas as pd
        >>> cell = {"source": "a", "target": "b", "similarity": 0.4, "score": 0.8, "control": 0.6, "zero_shot": 0.5}
        >>> found = ParameterTransfer(pd.DataFrame({"view": ["all"], "r": [0.3]}), {"cells": [cell]})
        >>> found.cells()[["source", "target", "similarity", "score"]].to_dict("records")
        [{'source': 'a', 'target': 'b', 'similarity': 0.4, 'score': 0.8}]
    """

    title = "Whether similar neurons predict transfer"
    captions: ClassVar[Mapping[str, str]] = {
        "summary": "Correlations",
        "pairs": "What was correlated",
        "runs": "Every correlation",
    }

    @public
    def view(self, which: str = "all") -> Correlation:
        """One of the three correlations."""
        with naming("which"):
            choose(which, VIEWS, "view")
        rows = self.table[self.table["view"] == which].drop(columns="view").reset_index(drop=True)
        if which == "layer":
            rows["layer"] = rows["layer"].astype(int)
        else:
            rows = rows.drop(columns="layer")
        return Correlation(rows, self.manifest[which])

    def summary(self) -> pd.DataFrame:
        """The rows that count every pair, and those of the test tasks over all layers."""
        rows = self.table
        chosen = rows[rows["test"].isin([PAIRS, TWO_WAY]) | (rows["view"] == "all")]
        columns = ["view", "test", "layer", "statistic", "n", "r", "low", "high", "p", "q", "orders", "reason"]
        return chosen[columns].reset_index(drop=True)

    def cells(self) -> pd.DataFrame:
        """The correlated numbers, one row per pair of tasks."""
        import pandas as pd  # heavy: only for tables

        return pd.DataFrame(self.manifest["cells"])

    def figure(self) -> go.Figure:
        """Correlation with each test task and over all pairs."""
        return self.view().figure()

    def layer_figure(self) -> go.Figure:
        """Correlation over all pairs by layer."""
        return self.view("layer").figure()

    def pairs_figure(self) -> go.Figure:
        """Every pair of tasks: similarity across, score upwards, one colour per test task."""
        import plotly.graph_objects as go

        rows = self.cells()
        styles = style.line_styles(list(rows["target"].unique()))
        traces = []
        for task, cells in rows.groupby("target", sort=False):
            hover = [
                f"<b>{r.source}</b> trained, <b>{r.target}</b> measured<br>similarity {r.similarity:.3f}<br>score "
                f"{r.score:.1%}, random neurons trained {r.control:.1%}, before {r.zero_shot:.1%}"
                for r in cells.itertuples()
            ]
            traces.append(
                go.Scatter(
                    name=str(task), x=cells["similarity"], y=100 * cells["score"], mode="markers", customdata=hover,
                    marker={"color": styles[str(task)][0], "size": 10, "symbol": style.symbol(styles[str(task)][1])},
                    hovertemplate="%{customdata}<extra></extra>",
                )
            )  # fmt: skip
        subtitle = "a point: a model trained on one task, measured on another; colour: the task measured"
        figure = style.house_figure(traces, "Similarity of neurons and transfer", subtitle, height=460)
        where = " with a value for every pair" if self.manifest["all"]["left_out"] else ""
        figure.update_xaxes(title_text=f"similarity of the two tasks' neurons, mean over layers{where}")
        figure.update_yaxes(title_text="score on the task measured, in %")
        style.legend_on_top(figure)
        return figure

    def figures(self) -> list[go.Figure]:
        """The correlations, the same by layer, and the pairs."""
        return [self.figure(), self.layer_figure(), self.pairs_figure()]

    def tables(self) -> dict[str, pd.DataFrame]:
        """The summary, the pairs, and every correlation."""
        return {"summary": self.summary(), "pairs": self.cells(), "runs": self.to_frame()}

    def in_words(self) -> str:
        """Whether similarity predicts transfer, over all pairs, by layer, and beside the control."""
        tasks, control = (self.view(which).rows()[2].iloc[0] for which in ("all", "control"))
        if not np.isfinite(tasks["r"]):
            verdict = "Whether tasks with more similar neurons transfer better cannot be told: r is undefined"
        elif tasks["p"] > ALPHA:
            verdict = f"Tasks with more similar neurons are **not shown** to transfer better (r = **{tasks['r']:.2f}**)"
        else:
            how = "better" if tasks["r"] > 0 else "worse"
            verdict = f"Tasks with more similar neurons transfer **{how}** (r = **{tasks['r']:.2f}**)"
        lines = [
            f"{verdict}, over {len(self.cells())} pairs of tasks, once source and test task are taken out.\n",
            *(_said(self.view().sentences(statistic)) for statistic in ("pearson", "spearman")),
        ]
        lines.append(_said(self.view("layer").sentences(), "By layer: "))
        if np.isfinite(control["r"]):
            beside = f"{tasks['r']:.2f} with the tasks' own" if np.isfinite(tasks["r"]) else "none with the tasks' own"
            lines.append(
                f"- The control: the same similarity against scores after **random** neurons are trained on the same "
                f"tasks has r = {control['r']:.2f} (p = {control['p']:.2g}) once source and test task are taken out, "
                f"beside {beside}." + _due(tasks, control)
            )
        else:
            lines.append(f"- The control correlation is undefined ({control['reason']}).")
        lines.append(
            "- A correlation over tasks does not say that similar parameters make the transfer: tasks with alike "
            "prompts and answers have both. The correlations of single test tasks still mix sources that teach "
            "every task more or less, which is taken out over all pairs."
        )
        return "\n".join([*lines, *self.manifest.get("at_chance", []), *caveats(self.manifest)])


def _said(sentences: list[tuple[str, bool]], before: str = "") -> str:
    """One point of a list; each sentence that tells a negative says so."""
    texts = [marked(text, is_negative) for text, is_negative in sentences]
    return f"- {before}{' '.join(texts)}"


def _due(tasks: Mapping[str, Any], control: Mapping[str, Any]) -> str:
    """That similarity predicts the control as well, where it does."""
    if tasks["p"] <= ALPHA and control["p"] <= ALPHA and np.sign(tasks["r"]) == np.sign(control["r"]):
        return " Similarity predicts both: what it predicts is how tasks' data transfer, not these neurons."
    return ""


@public
def parameter_transfer(
    model: Any,
    tasks: Tasks,
    masks: Masks,
    *,
    estimator: Estimator = "masked",
    part: Part = "all",
    n_random: int = 20,
    seed: int = 0,
    seeds: int | Sequence[int] = 3,
    match: Match = "layer",
    recipe: Recipe | Mapping[str, Any] | None = None,
    n: int | None = None,
    batch_size: int | None = None,
    output: str | PathLike | None = None,
    progress: Progress | None = None,
) -> ParameterTransfer:
    """T4: does the similarity of task i's and task j's neurons predict the score on j of the model trained on i?

    Args:
        model, tasks, masks: as in `cross_training`, four tasks or more; with five, every test task has the four
            models that a correlation of its own needs, and all pairs have an interval.
        estimator, part, n_random, seed: of the similarity, as in `parameter_depth`; `seed` is of the bootstrap too.
        seeds, match: of the scores, as in `cross_training`.
        recipe, n, batch_size, output, progress: as in `train_only`. With a folder, nothing is trained or measured
            twice.

    Returns:
        `ParameterTransfer`: Pearson and Spearman with 95 % intervals, exact permutation p and Benjamini-Hochberg q;
        over all pairs (as they are; with source and test task taken out), for each test task, by layer, and for the
        control. `.in_words()` says what holds.

    Raises:
        As `parameter_depth`, `cross_training` and `correlate`.

    Example:
        >>> import neuroscope as ns
        >>> model, tasks = ns.load("mini"), ns.load_tasks("mini-sequence", train=2, discovery=2, test=2)
        >>> four = {name: tasks[name] for name in ("praise", "agreement", "food-text", "asks-who")}
        >>> masks = {name: ns.NeuronMask.of({1: range(30 * i, 30 * i + 60)}, model) for i, name in enumerate(four)}
        >>> found = ns.experiments.parameter_transfer(model, four, masks, n_random=3, recipe={"steps": 1})
        >>> len(found.cells()), found.table["view"].unique().tolist()
        (12, ['all', 'layer', 'control'])
    """
    choose(match, ("layer", "uniform"), "match")
    require_random_masks(seeds_of(seeds), "parameter_transfer")
    model, tasks, masks = tasks_and_masks(model, tasks, masks, "parameter_transfer")
    if len(masks) < 4:
        do = "give four or more; five give every test task four models"
        raise ArgumentError("correlate similarity with transfer", f"{len(masks)} tasks", do)
    shared: dict[str, Any] = {"recipe": recipe, "output": output, "progress": progress}
    how: dict[str, Any] = {"estimator": estimator, "part": part, "n_random": n_random, "seed": seed}
    alike = parameter_depth(model, tasks, masks, **how, **shared)
    scores = cross_training(model, tasks, masks, seeds=seeds, match=match, n=n, batch_size=batch_size, **shared)
    return joined(alike, scores, seed)


def joined(alike: ParameterSimilarity, scores: Result, seed: int = 0) -> ParameterTransfer:
    """The correlations of a similarity with the scores of cross-training, and with those of its controls."""
    import pandas as pd  # heavy: only for tables

    random = scores.table[["source", "target", "control"]].rename(columns={"control": "score"})
    views = {
        "all": correlate(alike, scores, seed=seed),
        "layer": correlate(alike, scores, by="layer", seed=seed),
        "control": correlate(alike, random, seed=seed),
    }
    table = pd.concat([c.table.assign(view=view) for view, c in views.items()], ignore_index=True)
    names, layers, measured = matrices(similarity_cells(alike), transfer_cells(scores))
    means = pd.DataFrame(mean_over_layers(layers, measured)[0], names, names)
    cells = [
        {"source": r["source"], "target": r["target"], "similarity": float(means.loc[r["source"], r["target"]])}
        | {name: float(r[name]) for name in ("score", "control", "zero_shot")}
        for r in scores.table.to_dict("records")
        if r["source"] != r["target"]
    ]
    manifests = {view: c.manifest for view, c in views.items()}
    level = Standings(scores.table.assign(task=scores.table["target"]), "with and without any task's training")
    shared: dict[str, Any] = {"at_chance": level.why()} if "p_majority" in scores.table else {}
    shared |= {key: scores.manifest[key] for key in ("seen", "stuck") if key in scores.manifest}
    shared |= {"cells": cells, "seed": seed, "versions": files.versions()}
    return ParameterTransfer(table[["view", *views["layer"].table.columns]], manifests | shared)
