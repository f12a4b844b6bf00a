"""Are tasks' neurons alike by their parameters, layer by layer (LX24 Figure 3)?

1. Task i's neurons alone are trained on task i and merged into the weights: model M_i. One at a time; the base is put
   back, to the bit, before the next one.
2. In every layer, the similarity of task i's and every other task j's neurons inside M_i, averaged over i, beside the
   band of random masks of the same sizes (parameters/).
3. The same inside the model before training: what is there already is due to which neurons were chosen.

What training changed has no control here: it touches all of a task's neurons, and of a random mask's only those that
happen to be among them (`manifest["touched"]`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from neuroscope.checks import Progress, public
from neuroscope.comparison.parameters import Estimator, ParameterSimilarity, Part, parameter_similarity
from neuroscope.comparison.parameters.bands import ALL, plain
from neuroscope.comparison.parameters.similarity_by_depth import LIMITS
from neuroscope.errors import ArgumentError
from neuroscope.experiments.judging import tasks_and_masks
from neuroscope.experiments.trials import Trials
from neuroscope.figures import style
from neuroscope.masks import Masks, NeuronMask
from neuroscope.models import Model
from neuroscope.tasks import Tasks
from neuroscope.training import NeuronAdapter, Recipe

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

TRAINED, UNTRAINED = "after training", "before training"


@dataclass(frozen=True, repr=False)
class ParameterDepth(ParameterSimilarity):
    """LX24 Figure 3: `ParameterSimilarity` inside the models M_i (or the one model given), with words.

    `manifest["untrained"]` has the mean over all pairs by layer before training, with the band of random masks then
    (value, low, high), and `manifest["touched"]` the share of a random mask's neurons that training a task's touches;
    None where nothing was trained.

    Example:
        >>> import neuroscope as ns
        >>> model = ns.load("mini")
        >>> masks = {"a": ns.NeuronMask.of({1: range(200)}, model), "b": ns.NeuronMask.of({1: range(150, 350)}, model)}
        >>> found = ns.experiments.parameter_depth(model, None, masks, n_random=3)  # nothing is trained
        >>> found.summary()[["layer", "value", "pairs"]].round(2)
           layer  value  pairs
        0      0    NaN      0
        1      1   0.25      1
        2      2    NaN      0
        3      3    NaN      0
    """

    title = "Tasks' neurons by their parameters, layer by layer"
    captions: ClassVar[Mapping[str, str]] = {"summary": "Mean over all pairs", "runs": "Every pair in every layer"}

    def summary(self) -> pd.DataFrame:
        """The mean over all pairs by layer.

        Columns: block, layer, value, low, high (random masks), untrained, untrained_low, untrained_high (the same
        before training), pairs, gaps.
        """
        rows = self.by_layer()
        rows = rows[rows["task"] == ALL].drop(columns="task").reset_index(drop=True)
        before = self.manifest["untrained"] or dict.fromkeys(("value", "low", "high"), [None] * len(rows))
        for at, (name, values) in enumerate(before.items(), 5):
            rows.insert(at, "untrained" if name == "value" else f"untrained_{name}", np.array(values, dtype=float))
        return rows

    def figure(self) -> go.Figure:  # type: ignore[override]  # one model at a time: there is but one measure
        """As of `ParameterSimilarity`, with the mean over all pairs in black: after training, and dotted before."""
        figure = super().figure()
        figure.update_layout(
            title_text="<b>Similarity of the tasks' neurons, inside models trained on one task each</b>"
        )
        rows = self.summary()
        if rows["untrained"].notna().any():
            figure.data = [trace for trace in figure.data if trace.name != ALL]
            for column, when, dash in (("value", TRAINED, "solid"), ("untrained", UNTRAINED, "dot")):
                figure.add_scatter(
                    name=f"all pairs, {when}", x=rows["layer"], y=rows[column], mode="lines",
                    line={"color": style.INK, "dash": dash, "width": 1.6},
                    hovertemplate=f"layer %{{x}}<br>all pairs, {when}: %{{y:.3g}}<extra></extra>",
                )  # fmt: skip
        style.legend_on_top(figure)
        return figure

    def _subtitle(self, is_one: bool, shown: Sequence[str]) -> str:
        subtitle = super()._subtitle(is_one, shown)
        if self.manifest["untrained"] is None:
            return subtitle
        of = "is that of the mean over all pairs" if shown == [ALL] else "of the mean over all pairs is narrower"
        return f"{subtitle}; inside the trained models; the band {of}"

    def in_words(self) -> str:
        """How alike the tasks' neurons are, where more than random ones, and what training changed."""
        rows, how = self.summary(), self.manifest
        known = rows[rows["value"].notna()]
        if known.empty:
            return f"- **A negative**: in no layer is there a similarity ({self.table['reason'].iloc[0]})."
        where = "inside the models trained on one task each" if how["per_task"] else "inside the model given"
        sentences = self.said_of_means(where)
        gaps = [sentences.pop()] if self.table["value"].isna().any() else []
        if how["untrained"] is not None:
            sentences += _training(known, how["touched"])
        lead, *points = [*sentences, *gaps, LIMITS[how["estimator"]]]
        return "\n".join([lead, "", *(f"- {point}" for point in points)])

    def tables(self) -> dict[str, pd.DataFrame]:
        """The mean over all pairs by layer, and every pair in every layer."""
        return {"summary": self.summary(), "runs": self.to_frame()}


def _training(known: pd.DataFrame, touched: float) -> list[str]:
    """What training changed, as plain numbers: it touches less of random masks, which are no measure of it."""
    change = known["value"] - known["untrained"]
    if change.isna().all():
        return ["There is no similarity before training to compare with."]
    at = change.abs().idxmax()
    most = f"Training the neurons changed the mean by at most {change[at]:+.4f} (layer {known.loc[at, 'layer']})"
    after = (known["value"] - (known["low"] + known["high"]) / 2).mean()
    before = (known["untrained"] - (known["untrained_low"] + known["untrained_high"]) / 2).mean()
    share = f" ({before / after:.0%} of that)" if after > 0 and before > 0 else ""
    return [
        f"{most}. From the middle of random masks' band it is {after:+.3f} away, and before training it was "
        f"{before:+.3f} away from theirs{share}.",
        "What was there before training shows which neurons were chosen, not what they learnt. For what came with it "
        f"there is no control: training touches all of a task's neurons and about {touched:.0%} of a random mask's, so "
        "that their changes cannot be compared.",
    ]


def _touched(masks: Mapping[str, NeuronMask]) -> float:
    """The share of a layer-matched random mask's neurons that are the task's own, expected, mean over the tasks."""
    return float(np.mean([sum(n * n / m.widths[a] for a, n in m.counts().items()) / len(m) for m in masks.values()]))


class Trained(Mapping[str, Model]):
    """Task -> the model with that task's neurons trained on it and merged; the one before is taken out first."""

    def __init__(self, trials: Trials, masks: Mapping[str, NeuronMask], seed: int):
        self.trials, self.masks, self.seed = trials, masks, seed
        self.adapter: NeuronAdapter | None = None

    def __getitem__(self, name: str) -> Model:
        self.close()
        training: Any = (self.masks[name], [name], self.seed)
        self.adapter, path = self.trials.train(*training), self.trials.path(*training)
        if path is not None and not path.exists():
            self.adapter.save(path)
        self.adapter.merge()
        return self.trials.model

    def close(self) -> None:
        """Put the base back."""
        if self.adapter is not None:
            adapter, self.adapter = self.adapter, None
            if adapter.is_merged:
                adapter.unmerge()
            adapter.detach()

    def __iter__(self) -> Iterator[str]:
        return iter(self.masks)

    def __len__(self) -> int:
        return len(self.masks)


@public
def parameter_depth(
    model: Any,
    tasks: Tasks | None,
    masks: Masks,
    *,
    estimator: Estimator = "masked",
    part: Part = "all",
    n_random: int = 20,
    seed: int = 0,
    recipe: Recipe | Mapping[str, Any] | None = None,
    output: str | PathLike | None = None,
    progress: Progress | None = None,
) -> ParameterDepth:
    """F3: per layer, how alike tasks' neurons are by their parameters, inside models trained on one task each.

    Args:
        model: with `tasks`, anything that can be opened and trained. Without, also all else that
            `parameter_similarity` takes, such as a folder, or task -> (folder, its adapter's file) for models M_i
            trained before.
        tasks: by the masks' names, whose training examples to learn. None: nothing is trained, and the neurons are
            compared inside the model given; then neither `recipe` nor `output` is taken.
        masks: name -> hidden neurons, two or more.
        estimator, part, n_random: as in `parameter_similarity`.
        seed: of the trainings and of the random masks.
        recipe: of every training, as in `train_only`.
        output: a folder for the trained adapters. What is there of an earlier run is not trained again.
        progress: called as `progress(iterable, desc=...)`, such as tqdm.

    Returns:
        `ParameterDepth`: cosines in [-1, 1], with `.by_layer()`, `.summary()`, `.figure()` and `.in_words()`.

    Raises:
        TaskError, MaskError, ModelError, NumericalError, FileError: as `parameter_similarity` and `finetune`.

    Example:
        >>> import neuroscope as ns
        >>> model, tasks = ns.load("mini"), ns.load_tasks("mini-sequence", train=8, discovery=4, test=4)
        >>> two = {name: tasks[name] for name in ("praise", "agreement")}
        >>> masks = {name: ns.NeuronMask.of({1: range(150 * i, 150 * i + 200)}, model) for i, name in enumerate(two)}
        >>> found = ns.experiments.parameter_depth(model, two, masks, n_random=3, recipe={"steps": 1})
        >>> found.summary().loc[1, ["value", "untrained"]].astype(float).round(2).to_dict()
        {'value': 0.25, 'untrained': 0.25}
    """
    how: dict[str, Any] = {"estimator": estimator, "part": part, "n_random": n_random, "seed": seed}
    how["progress"] = progress
    if tasks is None:
        for name, value in (("recipe", recipe), ("output", output)):
            if value is not None:
                do = f"give tasks as well, or leave {name} out"
                raise ArgumentError(f"parameter_depth({name}=...)", "no tasks to train on", do)
        similarity = parameter_similarity(model, masks, **how)
        return ParameterDepth(similarity.table, similarity.manifest | {"untrained": None, "touched": None})
    model, tasks, masks = tasks_and_masks(model, tasks, masks, "parameter_depth")
    trials = Trials(model, tasks, tasks, recipe, output=output, progress=progress)
    before = parameter_similarity(trials.model, masks, **how)
    trained = Trained(trials, masks, seed)
    try:
        after = parameter_similarity(trained, masks, **how)
    finally:
        trained.close()
    rows = before.by_layer()
    rows = rows[rows["task"] == ALL]
    untrained = {name: plain(rows[name].to_numpy()) for name in ("value", "low", "high")}
    manifest: dict[str, Any] = {"untrained": untrained, "touched": _touched(masks)}
    manifest["training"] = trials.training_manifest(masks, seed=seed)
    return ParameterDepth(after.table, after.manifest | manifest)
