"""Similarity of two models' layers: the table, what it says in words, and its figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from neuroscope import figures
from neuroscope.checks import public
from neuroscope.errors import choose
from neuroscope.results import Result
from neuroscope.statistics import ALPHA

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

WRITTEN = 16  # layers up to which the numbers stand in the cells
BANDS = 7  # curves up to which each is drawn with its null band
CAVEAT = "A similarity says how alike the examples are arranged, not that the same computation is made."


@dataclass(frozen=True, repr=False)
class Similarity(Result):
    """How alike two models' layers are, by task.

    `table` has a row per task and pair of layers: task, layer_a, layer_b, value, reason ("" or why there is no value),
    and under a permutation null low, high (2.5 and 97.5 % quantile of the null, not an interval of the value), p, and
    q, the false discovery rate at which p would be a finding among all that the table has (Benjamini & Hochberg 1995).
    """

    title: ClassVar[str] = "Similarity of the layers"
    captions: ClassVar[Mapping[str, str]] = {
        "mean over tasks": "Mean over tasks, by pair of layers",
        "rows": "Every task",
    }

    @public
    def figure(self, task: str | None = None) -> go.Figure:
        """Curves by layer, one per task (with the null's band where they are few); a heatmap for all pairs of layers.

        Args:
            task: this one only. A heatmap of several tasks is of their mean, and says so; a pair of layers that has no
                value in one of them stays grey.
        """
        names = list(self.table["task"].unique())
        chosen = names if task is None else [choose(task, names, "task")]
        rows = self.table[self.table["task"].isin(chosen)]
        label = _label(self.manifest)
        title = f"Similarity of the layers: {label}" + (f", {chosen[0]}" if len(chosen) == 1 else "")
        if self.manifest["pairs"] == "all":
            many = len(chosen) > 1
            cells = rows.groupby(["layer_a", "layer_b"])["value"].agg(lambda v: v.mean(skipna=False)).unstack()
            values = cells.to_numpy(dtype=float)
            low = min(0.0, float(np.nanmin(values, initial=0.0)))
            written = [[f"{v:.2f}" if np.isfinite(v) else "" for v in row] for row in values]
            return figures.heatmap(
                cells, [str(c) for c in cells.columns], [str(r) for r in cells.index], title=title, colour_label=label,
                subtitle=f"mean over {len(chosen)} tasks" if many else "", x_label="layer of b", y_label="layer of a",
                origin="bottom", limits=(low, 1.0), text=written if len(values) <= WRITTEN else None,
            )  # fmt: skip
        shaded = "low" in rows and len(chosen) <= BANDS
        curves: dict[str, Any] = {
            name: (r["layer_a"].tolist(), (r["value"].tolist(), *_shade(r, shaded)))
            for name, r in rows.groupby("task", sort=False)
        }
        return figures.curves_with_band(
            curves, title=title, x_label="layer", y_label=label,
            subtitle="; ".join(_subtitle(rows, shaded)),
        )  # fmt: skip

    def tables(self) -> dict[str, pd.DataFrame]:
        """The mean over tasks of each pair of layers, and every row."""
        over_tasks = self.table.groupby(["layer_a", "layer_b"])["value"]
        mean = over_tasks.agg(mean=lambda v: v.mean(skipna=False), lowest="min", highest="max", tasks="count")
        return {"mean over tasks": mean.reset_index(), "rows": self.to_frame()}

    def in_words(self) -> str:
        """How alike the layers are, where most and least, and whether more than chance makes them."""
        known = self.table[self.table["value"].notna()]
        if known.empty:
            return f"**A negative**: no pair of layers has a value ({_reasons(self.table)})."
        by_layer = known.groupby(["layer_a", "layer_b"])["value"].mean()
        tasks = known["task"].nunique()
        over = f"mean over {tasks} task{'s' if tasks != 1 else ''} and {len(by_layer)} pairs of layers"
        said = [
            f"The {_label(self.manifest)} of the two models' layers is **{known['value'].mean():.3f}** ({over}): "
            f"highest at {_where(by_layer.idxmax())} ({by_layer.max():.3f}), lowest at {_where(by_layer.idxmin())} "
            f"({by_layer.min():.3f})."
        ]
        said += _beside_chance(known, self.manifest["null"])
        gaps = int(self.table["value"].isna().sum())
        if gaps:
            said.append(f"- {gaps} of {len(self.table)} values are missing ({_reasons(self.table)}) and in no mean.")
        return "\n".join([said[0], "", *said[1:], f"- {CAVEAT}"])


def _where(layers: tuple[int, int]) -> str:
    a, b = layers
    return f"layer {a}" if a == b else f"layer {a} of a with layer {b} of b"


def _reasons(rows: pd.DataFrame) -> str:
    """Why there is no value, without the layers' sides."""
    reasons = rows.loc[rows["value"].isna(), "reason"]
    return "; ".join(dict.fromkeys(reason.partition(": ")[2].partition("; ")[0] or reason for reason in reasons))


def _beside_chance(known: pd.DataFrame, null: int) -> list[str]:
    if not null:
        return ["- Whether this is more than chance makes was not asked: give `null=200` for permuted examples."]
    above, sure = int((known["value"] > known["high"]).sum()), int((known["q"] <= ALPHA).sum())
    said = (
        f"{above} of {len(known)} values lie above 97.5 % of those under permuted examples, **{sure}** at q <= {ALPHA}"
    )
    if sure == len(known):
        return [f"- {said}."]
    few = f" With {null} permutations q cannot fall below {1 / (null + 1):.2g}." if 1 / (null + 1) > ALPHA else ""
    return [f"- {said}. **A negative**: the other {len(known) - sure} are not shown to be more than chance.{few}"]


def _subtitle(rows: Any, shaded: bool) -> Iterator[str]:
    if shaded:
        yield "shaded, one band per task: 95 % of the values under permuted examples"
    gaps = rows[rows["value"].isna()]
    if len(gaps):
        yield f"no value at layer {', '.join(map(str, sorted(gaps['layer_a'].unique())))}: {_reasons(rows)}"


def _label(manifest: Mapping[str, Any]) -> str:
    options = manifest["options"]
    if manifest["measure"] != "cka":
        return str(manifest["measure"]).replace("_", " ")
    kernel = "linear" if options["kernel"] == "linear" else "RBF"
    return f"{'debiased' if options['debiased'] else 'biased'} {kernel} CKA"


def _shade(rows: Any, shaded: bool) -> tuple[Any, Any]:
    return (rows["low"].tolist(), rows["high"].tolist()) if shaded else (None, None)
