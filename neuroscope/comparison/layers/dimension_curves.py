"""Dimensions of every task at every layer: the table, what it says in words, and its figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from neuroscope import figures
from neuroscope.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

LABELS = {"participation": "participation ratio", "two-nn": "intrinsic dimension (TWO-NN)"}
NEAR = 0.9  # of the most dimensions that the examples allow: then the number is that of the examples


@dataclass(frozen=True, repr=False)
class Dimensions(Result):
    """How many dimensions representations have, by task and layer.

    `table` has a row per task and layer: (model, where there are several,) task, layer, value, limit (the dimensions
    that so many examples of so many features span at most; NaN for TWO-NN, an estimate that may exceed them), reason
    ("" or why there is no value).
    """

    title: ClassVar[str] = "Dimensions of the representations"
    captions: ClassVar[Mapping[str, str]] = {"mean over tasks": "Mean over tasks, by layer", "rows": "Every task"}

    def tables(self) -> dict[str, pd.DataFrame]:
        """The mean over tasks of every layer, and every row."""
        keys = [key for key in ("model", "layer") if key in self.table]
        over_tasks = self.table.groupby(keys, sort=False)["value"]
        mean = over_tasks.agg(mean="mean", lowest="min", highest="max", tasks="count")
        return {"mean over tasks": mean.reset_index(), "rows": self.to_frame()}

    def in_words(self) -> str:
        """The number of dimensions at the first layer, the last, and the layer that has most; and what limits it."""
        known, label = self.table[self.table["value"].notna()], _label(self.manifest)
        if known.empty:
            return f"**A negative**: no layer has a value ({'; '.join(self.table['reason'].unique())})."
        models = known.groupby("model", sort=False) if "model" in known else [("", known)]
        said = []
        for model, rows in models:
            mean = rows.groupby("layer")["value"].mean()
            tasks = rows["task"].nunique()
            said.append(
                f"{f'{model}: ' if model else ''}{label}, mean over {tasks} task{'s' if tasks != 1 else ''}: "
                f"{mean.iloc[0]:.3g} at layer {mean.index[0]}, {mean.iloc[-1]:.3g} at layer {mean.index[-1]}; most, "
                f"**{mean.max():.3g}**, at layer {mean.idxmax()}."
            )
        lines = [said[0][0].upper() + said[0][1:]]
        if len(said) > 1:
            most = known.groupby(["model", "layer"])["value"].mean().groupby(level=0, sort=False).idxmax()
            where = ", ".join(f"at layer **{layer}** in {model}" for model, layer in most)
            lines = [f"Of the layers, {label} is highest {where}.\n", *(f"- {line}" for line in said)]
        return "\n".join([*lines, "", *self._limits(known)])

    def _limits(self, known: pd.DataFrame) -> list[str]:
        """What keeps the numbers from telling of the model."""
        said, near = [], int((known["value"] >= NEAR * known["limit"]).sum())
        if near:
            said.append(
                f"- **A negative**: {near} of {len(known)} numbers are near the most that so few examples or features "
                "allow: there they say how many examples there are, not how the model works."
            )
        gaps = len(self.table) - len(known)
        if gaps:
            why = "; ".join(reason for reason in self.table["reason"].unique() if reason)
            said.append(f"- {gaps} of {len(self.table)} values are missing ({why}) and in no mean.")
        return [*said, "- The number grows with the examples: compare only models on the same ones."]

    def figure(self) -> go.Figure:
        """Curves by layer, one per task (and model)."""
        keys = [key for key in ("model", "task") if key in self.table]
        rows = self.table.groupby(keys, sort=False)
        curves: dict[str, Any] = {
            ", ".join(map(str, names)): (r["layer"].tolist(), (r["value"].tolist(), None, None)) for names, r in rows
        }
        hover = {
            ", ".join(map(str, names)): [f"at most {v:g}" if v == v else "" for v in r["limit"]] for names, r in rows
        }
        gaps = self.table[self.table["value"].isna()]
        where = ", ".join(map(str, sorted(gaps["layer"].unique())))
        subtitle = f"no value at {len(gaps)} of {len(self.table)} points, at layer {where}: " if len(gaps) else ""
        return figures.curves_with_band(
            curves, title="Dimensions of the representations", x_label="layer", y_label=_label(self.manifest),
            subtitle=subtitle + ", ".join(gaps["reason"].unique()), hover=hover,
        )  # fmt: skip


def _label(manifest: Mapping[str, Any]) -> str:
    if manifest["measure"] == "variance":
        return f"components for {100 * manifest['options']['share']:g} % of the variance"
    return LABELS[manifest["measure"]]
