"""Dimensions of every task at every layer, of one model or several.

Each layer is measured by itself; one that cannot be measured leaves NaN and its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from neuroscope import figures, files
from neuroscope.checks import public
from neuroscope.comparison.similarity.dimension import participation_ratio, two_nn, variance_dimension
from neuroscope.comparison.similarity.inputs import as_batch, shape, tasks_of
from neuroscope.comparison.similarity.measures import complete
from neuroscope.errors import ArgumentError, NumericalError, choose
from neuroscope.results import Result

if TYPE_CHECKING:
    import plotly.graph_objects as go

DIMENSIONS: dict[str, Callable[..., float]] = {
    "variance": variance_dimension,
    "participation": participation_ratio,
    "two-nn": two_nn,
}
LABELS = {"participation": "participation ratio", "two-nn": "intrinsic dimension (TWO-NN)"}


@dataclass(frozen=True, repr=False)
class Dimensions(Result):
    """How many dimensions representations have, by task and layer.

    `table` has a row per task and layer: (model, where there are several,) task, layer, value, limit (the dimensions
    that so many examples of so many features span at most; NaN for TWO-NN, an estimate that may exceed them), reason
    ("" or why there is no value).
    """

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


@public
def dimensions(
    reps: Mapping[str, Any],
    measure: str = "variance",
    *,
    pooled: str | None = None,
    progress: Callable[[Iterable[Any], str], Iterable[Any]] | None = None,
    **options: Any,
) -> Dimensions:
    """How many dimensions the examples of every task have at every layer.

    Args:
        reps: task -> activations [layer, example, feature], as `Representations` are; or name of a model -> such.
        measure: "variance" (`variance_dimension`), "participation" (`participation_ratio`) or "two-nn" (`two_nn`).
        pooled: a name for the examples of all tasks together, which are measured too; None: each task alone.
        progress: called as progress(iterable, description); tqdm fits.
        options: keywords of the measure, such as `share=0.95`.

    Returns:
        Dimensions.

    Raises:
        ArgumentError: not such a mapping, fewer than four examples, an unknown measure, a bad option, or pooled tasks
            of different layers or features.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(2, 30, 5))
        >>> dimensions({"t": np.stack([x[0], x[1] * [1, 1, 0, 0, 0]])}).table["value"].tolist()
        [5.0, 2.0]
    """
    function = DIMENSIONS[choose(measure, DIMENSIONS, "measure")]
    settings = complete(f"dimensions by {measure}", function, options)
    asked = "dimensions of representations"
    several = all(isinstance(reps[name], Mapping) for name in tasks_of(reps, asked))
    models = reps if several else {"": reps}
    units = [
        (model, label, tasks, layer)
        for model, tasks_of_model in models.items()
        for label, tasks, layers in _groups(tasks_of_model, pooled, asked)
        for layer in range(layers)
    ]
    rows = []
    for model, label, tasks, layer in progress(units, asked) if progress else units:
        x = torch.cat([as_batch(models[model][task][layer], asked) for task in tasks])
        value, reason = np.nan, ""
        try:
            value = float(function(x, **settings))
        except NumericalError as error:
            reason = error.found
        limit = float(min(len(x) - 1, x.shape[1])) if measure != "two-nn" else np.nan
        row = {"task": label, "layer": layer, "value": value, "limit": limit, "reason": reason}
        rows.append({"model": model, **row} if several else row)
    import pandas as pd  # heavy: only where a table is made

    origins = {model: dict(getattr(given, "manifest", {})) for model, given in models.items()}
    about = {"measure": measure, "options": settings, "pooled": pooled, "of": origins if several else origins.get("")}
    return Dimensions(pd.DataFrame(rows), about | {"versions": files.versions()})


def _groups(reps: Mapping[str, Any], pooled: str | None, asked: str) -> list[tuple[str, list[str], int]]:
    """(label, tasks, layers) of what is measured together."""
    shapes = {task: shape(reps[task], f"{asked}, {task!r}") for task in tasks_of(reps, asked)}
    groups = [(task, [task], layers) for task, (layers, _, _) in shapes.items()]
    if pooled is None:
        return groups
    if pooled in shapes or len({(layers, width) for layers, _, width in shapes.values()}) > 1:
        found = f"a task of that name, or other layers or features: {shapes}"
        raise ArgumentError(f"pooled={pooled!r}", found, "give another name, and tasks of one model")
    return [*groups, (pooled, list(shapes), groups[0][2])]


def _label(manifest: Mapping[str, Any]) -> str:
    if manifest["measure"] == "variance":
        return f"components for {100 * manifest['options']['share']:g} % of the variance"
    return LABELS[manifest["measure"]]
