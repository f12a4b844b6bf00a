"""The numbers that `mossa` makes, before anything is shown of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from neuroscope.checks import public
from neuroscope.comparison.hidden_states import Representations
from neuroscope.errors import ArgumentError, choose

if TYPE_CHECKING:
    import pandas as pd

PRE, MULTI, ALL = "pre-trained", "multi-task", "all tasks together"


@dataclass(frozen=True, repr=False)
class MossaTable:
    """CKA of a pre-trained and a multi-task model with control models, and their dimensions, by task and layer.

    `table` has a row per model, task, layer and measure: model ("pre-trained" or "multi-task"), task, family, held_out,
    measure ("cka", with the task's control model; "dimension", components for a share of the variance, also for all
    tasks together), layer (0: embedding), value, low, high (95 % of the CKA of shuffled examples), p, q (Benjamini-
    Hochberg, over all CKA of the table), limit (most components that the examples allow), reason ("" or why there is no
    value).

    Attributes:
        manifest: tasks, models and settings behind the numbers.
        representations: model -> `Representations`, for maps; empty on a result that was loaded from a file.
    """

    table: pd.DataFrame
    manifest: dict[str, Any]
    representations: dict[str, Representations] = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        """The experimental models: "pre-trained", and "multi-task" where there is one."""
        return [str(m) for m in self.table["model"].unique()]

    @property
    def families(self) -> dict[str, str]:
        """Task -> cluster."""
        return dict(self.manifest["families"])

    @property
    def layer_names(self) -> list[str]:
        """For an axis."""
        return ["emb", *self.manifest["layers"][1:]]

    @property
    def cka_name(self) -> str:
        """For an axis."""
        return "CKA, debiased" if self.manifest["debiased"] else "CKA, biased"

    @public
    def values(self, measure: str = "cka", model: str = PRE) -> pd.DataFrame:
        """Tasks x layers of one measure and model."""
        choose(measure, ("cka", "dimension"), "measure")
        choose(model, self.models, "model")
        rows = self.table[(self.table["measure"] == measure) & (self.table["model"] == model)]
        wide = rows.pivot(index="task", columns="layer", values="value")
        return wide.loc[list(dict.fromkeys(rows["task"]))]

    def cka(self) -> pd.DataFrame:
        """The rows of CKA that have a value."""
        return self.table[(self.table["measure"] == "cka") & self.table["value"].notna()]

    def learnt(self) -> Self:
        """The same without the tasks held out."""
        out = set(self.manifest["held_out"])
        families = {task: family for task, family in self.families.items() if task not in out}
        table = self.table[~self.table["task"].isin(out)].reset_index(drop=True)
        return dataclasses.replace(self, table=table, manifest=self.manifest | {"families": families})

    def without_gaps(self) -> tuple[pd.DataFrame, list[str]]:
        """Rows of CKA whose means over layers are of the same layers everywhere, and, in words, what that left out.

        A task without any value in one of the models goes first; then every layer where a task is without.
        """
        rows = self.table[self.table["measure"] == "cka"]
        has_value = rows["value"].notna().groupby([rows["model"], rows["task"]]).any()
        tasks = sorted(has_value[~has_value].index.get_level_values("task").unique())
        rows = rows[~rows["task"].isin(tasks)]
        layers = sorted(rows.loc[rows["value"].isna(), "layer"].unique())
        gone = [f"task {task}" for task in tasks] + [layer_words(layer) for layer in layers]
        words = f"Means over layers leave out {', '.join(gone)}: there not every task has a value in every model."
        return rows[~rows["layer"].isin(layers)], [words] if gone else []

    def means(self) -> pd.DataFrame:
        """Mean CKA over the layers where every task has a value, [task, model]."""
        rows = self.without_gaps()[0]
        return rows.pivot_table(index="task", columns="model", values="value", sort=False)

    @public
    def series(self, measure: str, tasks: Sequence[str] | None = None) -> dict[str, dict[str, list[float]]]:
        """Model -> task -> value by layer."""
        wide = {model: self.values(measure, model) for model in self.models}
        chosen = list(self.families) if tasks is None else list(tasks)
        return {m: {t: table.loc[t].tolist() for t in chosen if t in table.index} for m, table in wide.items()}

    def limits(self, measure: str) -> tuple[float, float]:
        """The lowest and highest value, with some room: one axis for all panels."""
        values = self.table.loc[self.table["measure"] == measure, "value"].dropna()
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        room = 0.06 * ((high - low) or 1.0)
        return low - room, high + room

    def missing(self, measure: str) -> str:
        """How many values there are not, where and why; "" where all are there."""
        rows = self.table
        gone = rows[(rows["measure"] == measure) & rows["value"].isna() & (rows["task"] != ALL)]
        if gone.empty:
            return ""
        why = dict.fromkeys(r.partition("; ")[0].removeprefix("a: ").removeprefix("b: ") for r in gone["reason"])
        layers = ", ".join(layer_words(layer) for layer in sorted(gone["layer"].unique()))
        return f"{len(gone)} values at {layers} are missing: {'; '.join(why)}"

    def require_representations(self, what: str) -> None:
        """Refuse a result that was loaded from a file.

        Raises:
            ArgumentError: it has no representations.
        """
        if not self.representations:
            do = "call mossa again with the same output, which trains nothing again"
            raise ArgumentError(what, "a result without representations, loaded from a file", do)


def layer_words(layer: int) -> str:
    """A layer's name in a sentence."""
    return f"layer {layer}" if layer else "the embedding"


def layers_words(layers: Sequence[int]) -> str:
    """Several layers' names in a sentence."""
    listed = ", ".join(map(str, layers))
    return f"layer{'s' if len(layers) > 1 else ''} {listed}" if len(layers) else "no layer"


def tasks_words(count: int) -> str:
    """How many tasks, in a sentence."""
    return f"{count} task{'s' if count != 1 else ''}"


def nan_row(**columns: Any) -> dict[str, Any]:
    """A row of the table without its band and p."""
    return {**columns, **dict.fromkeys(("low", "high", "p"), np.nan)}
