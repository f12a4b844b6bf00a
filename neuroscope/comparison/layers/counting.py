"""Dimensions of every task at every layer, of one model or several.

Each layer is measured by itself; one that cannot be measured leaves NaN and its reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from neuroscope import files
from neuroscope.checks import Progress, public, watched
from neuroscope.comparison.layers.dimension_curves import Dimensions
from neuroscope.comparison.similarity.dimension import DIMENSIONS
from neuroscope.comparison.similarity.inputs import as_batch, names_of, shape
from neuroscope.comparison.similarity.measure_table import complete
from neuroscope.errors import ArgumentError, NumericalError, choose

ASKED = "dimensions of representations"


@public
def dimensions(
    reps: Mapping[str, Any],
    measure: str = "variance",
    *,
    pooled: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Dimensions:
    """How many dimensions the examples of every task have at every layer.

    Args:
        reps: task -> activations [layer, example, feature], as `Representations` are; or name of a model -> such.
        measure: "variance" (`variance_dimension`), "participation" (`participation_ratio`) or "two-nn" (`two_nn`).
        pooled: a name for the examples of all tasks together, which are measured too; None: each task alone.
        progress: called as `progress(iterable, desc=...)`, such as tqdm; None is silent.
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
    several = all(isinstance(reps[name], Mapping) for name in names_of(reps, ASKED))
    models = reps if several else {"": reps}
    units = [
        (model, label, tasks, layer)
        for model, by_task in models.items()
        for label, tasks, layers in _groups(by_task, pooled)
        for layer in range(layers)
    ]
    rows = []
    for model, label, tasks, layer in watched(units, progress, ASKED):
        x = torch.cat([as_batch(models[model][task][layer], ASKED) for task in tasks])
        value, reason = np.nan, ""
        try:
            value = float(function(x, **settings))
        except NumericalError as error:
            reason = error.found
        limit = float(min(len(x) - 1, x.shape[1])) if measure != "two-nn" else np.nan
        row = {"task": label, "layer": layer, "value": value, "limit": limit, "reason": reason}
        rows.append({"model": model, **row} if several else row)
    import pandas as pd  # heavy: only where a table is made

    origins = {model: dict(getattr(by_task, "manifest", {})) for model, by_task in models.items()}
    manifest = {
        "measure": measure, "options": settings, "pooled": pooled, "of": origins if several else origins.get(""),
        "versions": files.versions(),
    }  # fmt: skip
    return Dimensions(pd.DataFrame(rows), manifest)


def _groups(reps: Mapping[str, Any], pooled: str | None) -> list[tuple[str, list[str], int]]:
    """(label, tasks, layers) of what is measured together."""
    shapes = {task: shape(reps[task], f"{ASKED}, {task!r}") for task in names_of(reps, ASKED)}
    groups = [(task, [task], layers) for task, (layers, _, _) in shapes.items()]
    if pooled is None:
        return groups
    if pooled in shapes or len({(layers, width) for layers, _, width in shapes.values()}) > 1:
        found = f"a task of that name, or other layers or features: {shapes}"
        raise ArgumentError(f"pooled={pooled!r}", found, "give another name, and tasks of one model")
    return [*groups, (pooled, list(shapes), groups[0][2])]
