"""What `mossa` returns: the figures of ZZC24, and what they show in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope import figures
from neuroscope.comparison import maps, segmentation
from neuroscope.comparison.hidden_states import Representations
from neuroscope.errors import ArgumentError, choose
from neuroscope.experiments.layer_by_layer import words
from neuroscope.experiments.layer_by_layer.words import ALL, MULTI, PRE
from neuroscope.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

__all__ = ["ALL", "MULTI", "PRE", "Mossa"]


@dataclass(frozen=True, repr=False)
class Mossa(Result):
    """CKA of a pre-trained and a multi-task model with control models, and their dimensions, by task and layer.

    `table` has a row per model, task, layer and measure: model ("pre-trained" or "multi-task"), task, family, held_out,
    measure ("cka", with the task's control model; "dimension", components for a share of the variance, also for all
    tasks together), layer (0: embedding), value, low, high (95 % of the CKA of shuffled examples), p, q (Benjamini-
    Hochberg, over all CKA of the table), limit (most components that the examples allow), reason ("" or why there is no
    value).

    Attributes:
        representations: model -> `Representations`, for maps; empty on a result that was loaded from a file.
    """

    representations: dict[str, Representations] = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        """The experimental models: "pre-trained", and "multi-task" where there is one."""
        return [str(m) for m in self.table["model"].unique()]

    def values(self, measure: str = "cka", model: str = PRE) -> pd.DataFrame:
        """Tasks x layers of one measure and model."""
        choose(measure, ("cka", "dimension"), "measure")
        choose(model, self.models, "model")
        rows = self.table[(self.table["measure"] == measure) & (self.table["model"] == model)]
        wide = rows.pivot(index="task", columns="layer", values="value")
        return wide.loc[list(dict.fromkeys(rows["task"]))]

    def figure(self, band: bool = True) -> go.Figure:
        """Z-F2: box plots over tasks of the CKA with the control models, by layer, models side by side.

        Args:
            band: whether to shade the chance level, where one was computed.
        """
        return figures.layer_boxes(
            self._series("cka"), self._layers, title="CKA with the models tuned on one task", y_label=self._cka,
            subtitle=f"one value per task{self._among}{self._gaps('cka')}", groups=self.manifest["families"],
            band=self._band() if band else None,
        )  # fmt: skip

    def clusters(self) -> go.Figure:
        """Z-F3: the same by cluster of tasks, one panel each."""
        families = self.manifest["families"]
        panels = {
            family: self._series("cka", [t for t, f in families.items() if f == family])
            for family in dict.fromkeys(families.values())
        }
        return figures.box_panels(
            panels, self._layers, title="CKA with the models tuned on one task, by cluster", y_label=self._cka,
            subtitle=f"one value per task{self._among}{self._gaps('cka')}", limits=self._limits("cka"),
        )  # fmt: skip

    def dimensions(self) -> go.Figure:
        """Z-F5: components that hold the share of the variance, by layer; all tasks together, and each task thin."""
        tasks = self._series("dimension")
        pooled = self._series("dimension", [ALL])
        curves = {m: (next(iter((pooled[m] or tasks[m]).values())), None, None) for m in self.models}
        thick = "all tasks together, thin: one task's examples" if len(tasks[self.models[0]]) > 1 else "the one task"
        return figures.layer_curves(
            curves, self._layers, title="Dimensions of the representations",
            subtitle=f"thick: {thick}{self._among}{self._gaps('dimension')}",
            y_label=f"components for {100 * self.manifest['share']:g} % of the variance",
            tasks=tasks, groups=self.manifest["families"],
        )  # fmt: skip

    def held_out(self) -> go.Figure:
        """Z-F7: CKA with the control models, tasks that the multi-task model has learnt beside those it has not."""
        out = self._outside()
        panels = {
            "tasks learnt": self._series("cka", [t for t in self.manifest["families"] if t not in out]),
            "held-out tasks": self._series("cka", out),
        }
        return figures.box_panels(
            panels, self._layers, title="CKA with the models tuned on one task, learnt and held out", y_label=self._cka,
            subtitle=f"one value per task{self._gaps('cka')}", limits=self._limits("cka"),
        )  # fmt: skip

    def segments(self, model: str | None = None, **settings: Any) -> segmentation.Segmentation:
        """Z-F1: the layers cut by the change points of the CKA curves; `settings` are those of `segment`.

        The curves are of all tasks, held-out ones among them. The embedding is no layer to cut: it is left out, as it
        could be no segment of two, and hides the layers' steps where its CKA is far from theirs. Fewer than six layers
        leave no choice of segments of two: there one boundary is looked for, anywhere.

        Args:
            model: "pre-trained" or "multi-task" (the default where there is one).
        """
        wide = self.values("cka", model or self.models[-1]).drop(columns=0).dropna(how="all")
        few = wide.notna().all().sum() < 6
        return segmentation.segment(
            wide,
            **{
                "label": f"{self._cka}, with the control models",
                "boundaries": 1 if few else 2,
                "min_size": 1 if few else 2,
                **settings,
            },
        )

    def map(self, model: str | None = None, kind: str = "tsne", **settings: Any) -> maps.Maps:
        """Z-F4: maps of a model's representations of all tasks; `settings` are those of `tsne` or `pca`.

        Raises:
            ArgumentError: a result that was loaded from a file, which has no representations.
        """
        choose(kind, ("tsne", "pca"), "kind")
        choose(model or self.models[-1], self.models, "model")
        if not self.representations:
            do = "map Representations.load(folder) of the run's output: ns.tsne(...)"
            raise ArgumentError("a map of the representations", "a result without them, loaded from a file", do)
        reps = self.representations[model or self.models[-1]]
        return maps.tsne(reps, **settings) if kind == "tsne" else maps.pca(reps, **settings)

    def sentences(self) -> dict[str, str]:
        """What each figure shows and does not show, from its numbers: "Z-F2", "Z-F3", "Z-F5", "Z-F7"."""
        found = {
            "Z-F2": words.by_layer(self.table, self.manifest),
            "Z-F3": words.by_cluster(self.table, self.manifest),
            "Z-F5": words.dimensions(self.table, self.manifest),
        }
        return found | ({"Z-F7": words.held_out(self.table, self.manifest)} if self.manifest["held_out"] else {})

    def sentence(self, which: str = "Z-F2") -> str:
        """One of `sentences`."""
        known = self.sentences()
        return known[choose(which, known, "sentence")]

    @property
    def _layers(self) -> list[str]:
        return ["emb", *self.manifest["layers"][1:]]

    @property
    def _cka(self) -> str:
        return "CKA, debiased" if self.manifest["debiased"] else "CKA, biased"

    @property
    def _among(self) -> str:
        """For the subtitle of a figure that does not part them: that there are held-out tasks among the values."""
        return ", held-out tasks among them" if set(self.manifest["held_out"]) & set(self.manifest["families"]) else ""

    def _outside(self) -> list[str]:
        out = list(self.manifest["held_out"])
        if not out:
            raise ArgumentError("the held-out tasks", "none", "give mossa(held_out=[names]), and a model without them")
        return out

    def _series(self, measure: str, tasks: Sequence[str] | None = None) -> dict[str, dict[str, list[float]]]:
        wide = {model: self.values(measure, model) for model in self.models}
        chosen = list(self.manifest["families"]) if tasks is None else list(tasks)
        return {m: {t: table.loc[t].tolist() for t in chosen if t in table.index} for m, table in wide.items()}

    def _limits(self, measure: str) -> tuple[float, float]:
        values = self.table.loc[self.table["measure"] == measure, "value"].dropna()
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        room = 0.06 * ((high - low) or 1.0)
        return low - room, high + room

    def _gaps(self, measure: str) -> str:
        gone = words.missing(self.table, measure)
        return f"; {gone}" if gone else ""

    def _band(self) -> tuple[str, list[float], list[float]] | None:
        if not self.manifest["null"]:
            return None
        rows = self.table[self.table["measure"] == "cka"].groupby("layer")[["low", "high"]]
        means = rows.agg(lambda v: v.mean() if v.notna().any() else np.nan)
        over = "tasks and models" if len(self.models) > 1 else "tasks"
        return f"95 % of shuffled examples, mean over {over}", means["low"].tolist(), means["high"].tolist()
