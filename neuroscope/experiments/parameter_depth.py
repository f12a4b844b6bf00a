"""Are tasks' neurons alike by their parameters, layer by layer (LX24 Figure 3)?

1. Task i's neurons alone are trained on task i and merged into the weights: model M_i. One at a time; the base is put
   back, to the bit, before the next one.
2. In every layer, the similarity of task i's and every other task j's neurons inside M_i, averaged over i, beside the
   band of random masks of the same sizes (parameters/).
3. The same inside the model before training: what is there already is due to which neurons were chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from neuroscope import style
from neuroscope.errors import public
from neuroscope.evidence import check_masks
from neuroscope.experiments.trials import Settings, Trials, check_settings
from neuroscope.masks import NeuronMask
from neuroscope.models import Model
from neuroscope.parameters import Estimator, ParameterSimilarity, Part, parameter_similarity
from neuroscope.parameters.result import ALL, BAND
from neuroscope.tasks.task import Task
from neuroscope.training import NeuronAdapter

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

UNTRAINED = "before training"
SMALL = 0.1  # of the distance to random masks: what training changed less than this is called little
LIMITS = {
    "masked": "In this cosine only neurons that both tasks have meet: it is their overlap, weighted by the size of "
    "their parameters, and says nothing of different neurons that do the same.",
    "mean": "A cosine of mean parameters says that sets of neurons point the same way on the whole, not that any two "
    "neurons do the same.",
    "matched": "A neuron that both tasks have matches itself, so this cosine too rises with the overlap of the tasks.",
}


@dataclass(frozen=True, repr=False)
class ParameterDepth(ParameterSimilarity):
    """LX24 Figure 3: `ParameterSimilarity` inside the models M_i (or the one model given), with words.

    `manifest["untrained"]` has the mean over all pairs by layer before training; None where nothing was trained.
    """

    def summary(self) -> pd.DataFrame:
        """The mean over all pairs by layer: block, layer, value, low, high (random masks), untrained, pairs, gaps."""
        rows = self.by_layer()
        rows = rows[rows["task"] == ALL].drop(columns="task").reset_index(drop=True)
        before = self.manifest["untrained"]
        rows.insert(5, "untrained", np.nan if before is None else np.array(before, dtype=float))
        return rows

    def figure(self, measure: str = "value") -> go.Figure:
        """As of `ParameterSimilarity`, with the mean before training dotted."""
        figure = ParameterSimilarity.figure(self, measure)
        rows = self.summary()
        if rows["untrained"].notna().any():
            figure.add_scatter(
                name=f"all pairs, {UNTRAINED}", x=rows["layer"], y=rows["untrained"], mode="lines",
                line={"color": style.INK, "dash": "dot", "width": 1.6},
                hovertemplate="layer %{x}<br>" + UNTRAINED + ": %{y:.3g}<extra></extra>",
            )  # fmt: skip
            figure.update_layout(legend=style.legend_on_top(len(figure.data)))
        return figure

    def in_words(self) -> str:
        """What was found, as text with `**bold**` and lists; failures are stated."""
        rows, about = self.summary(), self.manifest
        made = rows[rows["value"].notna()]
        if made.empty:
            return f"- **A negative**: in no layer is there a similarity ({self.table['reason'].iloc[0]})."
        best, least = made.loc[made["value"].idxmax()], made.loc[made["value"].idxmin()]
        where = "inside the models trained on one task each" if about["per_task"] else "inside the model given"
        lines = [
            f"- The {about['estimator']} cosine of two tasks' neurons {where} is **{made['value'].mean():.3f}** (mean "
            f"over {len(made)} layers and {int(made['pairs'].max())} pairs): highest in layer {best['layer']} "
            f"({best['value']:.3f}), lowest in layer {least['layer']} ({least['value']:.3f})."
        ]
        if about["controls"]:
            lines += _beside_random(made, self.table, about["controls"])
        if about["untrained"] is not None:
            lines.append(_training(made))
        gaps = int(self.table["value"].isna().sum())
        if gaps:
            lines.append(f"- {gaps} of {len(self.table)} layers of pairs have no value, and are in no mean.")
        return "\n".join([*lines, f"- {LIMITS[about['estimator']]}"])


def _beside_random(made: pd.DataFrame, table: pd.DataFrame, draws: int) -> list[str]:
    above, cells = made[made["value"] > made["high"]], table[table["value"].notna()]
    chance = (BAND[0] * (draws - 1) + 1) / (draws + 1)
    middle = ((made["low"] + made["high"]) / 2).mean()
    lines = [
        f"- Random masks of the same sizes in the same layers have {middle:.3f} (middle of the band of {draws} draws). "
        f"The tasks' mean lies above their band in **{len(above)} of {len(made)}** layers, single pairs in "
        f"{int((cells['value'] > cells['high']).sum())} of {len(cells)} ({chance * len(cells):.1f} by chance alone)."
    ]
    rest = made[made["value"] <= made["high"]]["layer"].tolist()
    if rest:
        named = ", ".join(map(str, rest))
        lines.append(f"- **A negative**: in layers {named} the tasks' neurons are no more alike than random ones.")
    return lines


def _training(made: pd.DataFrame) -> str:
    change = made["value"] - made["untrained"]
    if change.isna().all():
        return "- There is no similarity before training to compare with."
    at = change.abs().idxmax()
    excess = (made["value"] - (made["low"] + made["high"]) / 2).abs().mean()
    most = f"at most {change[at]:+.4f} (layer {made.loc[at, 'layer']})"
    if np.isfinite(excess) and abs(change[at]) > SMALL * excess:
        return f"- Training the neurons changed the mean by {most}."
    return (
        f"- **A negative**: training the neurons changed the mean by {most} only. The curve shows which neurons were "
        "chosen, not what they learnt."
    )


class Trained(Mapping[str, Model]):
    """Task -> the model with that task's neurons trained on it and merged; the one before is taken out first."""

    def __init__(self, trials: Trials, masks: Mapping[str, NeuronMask], seed: int, output: str | PathLike | None):
        self.trials, self.masks, self.seed = trials, masks, seed
        self.output = None if output is None else Path(output)
        self.adapter: NeuronAdapter | None = None

    def __getitem__(self, name: str) -> Model:
        self.close()
        self.adapter = self._adapter(name)
        self.adapter.merge()
        return self.trials.model

    def _adapter(self, name: str) -> NeuronAdapter:
        """Trained now, or read where an earlier run has left it."""
        if self.output is None:
            return self.trials.train(self.masks[name], [name], self.seed)
        path = self.output / f"{self.trials.trained_key(self.masks[name], [name], self.seed)}.safetensors"
        if path.exists():
            return NeuronAdapter.load(self.trials.model, path)
        adapter = self.trials.train(self.masks[name], [name], self.seed)
        try:
            adapter.save(path)
        except BaseException:
            adapter.detach()
            raise
        return adapter

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
    masks: Mapping[str, NeuronMask],
    tasks: Mapping[str, Task] | None = None,
    *,
    estimator: Estimator = "masked",
    part: Part = "all",
    controls: int = 20,
    seed: int = 0,
    output: str | PathLike | None = None,
    **settings: Unpack[Settings],
) -> ParameterDepth:
    """F3: per layer, how alike tasks' neurons are by their parameters, inside models trained on one task each.

    Args:
        model: anything that can be opened; with `tasks`, one that can be trained.
        masks: name -> hidden neurons, two or more.
        tasks: by the same names, whose training examples to learn. None: nothing is trained, and the neurons are
            compared inside the model given.
        estimator, part, controls: as in `parameter_similarity`.
        seed: of the trainings and of the random masks.
        output: folder for the trained adapters. What is there of an earlier run is not trained again.
        settings: of training, as in `train_only`.

    Returns:
        `ParameterDepth`: cosines in [-1, 1], with `.by_layer()`, `.summary()`, `.figure()` and `.in_words()`.

    Raises:
        TaskError, MaskError, ModelError, NumericalError, FileError: as `parameter_similarity` and `finetune`.
    """
    check_settings("parameter_depth", settings)
    how: dict[str, Any] = {"estimator": estimator, "part": part, "seed": seed, "progress": settings.get("progress")}
    if tasks is None:
        found = parameter_similarity(model, masks, controls=controls, **how)
        return ParameterDepth(found.table, found.manifest | {"untrained": None})
    names = check_masks(masks, tasks)
    trials = Trials(model, {name: tasks[name] for name in names}, names, settings, "parameter_depth")
    before = parameter_similarity(trials.model, masks, controls=0, **how).by_layer()
    trained = Trained(trials, masks, seed, output)
    try:
        found = parameter_similarity(trained, masks, controls=controls, **how)
    finally:
        trained.close()
    untrained = [v if np.isfinite(v) else None for v in before[before["task"] == ALL]["value"].tolist()]
    about = {"untrained": untrained, "training": trials.manifest(masks, seed=seed)}
    return ParameterDepth(found.table, found.manifest | about)
