"""The layers cut where the curves of CKA change (ZZC24 Figure 1), beside shuffled layers and smooth curves.

The embedding is no layer to cut: it is left out, as it could be no segment of two, and hides the layers' steps where
its CKA is far from theirs. Fewer than six layers leave no choice of segments of two: there one boundary is looked for,
anywhere. Of the tasks that the multi-task model has learnt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from neuroscope.comparison.segmentation import ZZC24, Segmentation, segment
from neuroscope.errors import ArgumentError
from neuroscope.experiments.layer_by_layer.mossa_table import MossaTable
from neuroscope.experiments.layer_by_layer.part import NEGATIVE, MossaPart, capital, stacked, with_model

FEW = 6  # layers, below which one boundary is looked for
FEWEST_LAYERS = 3  # beside the embedding


class Segments(MossaPart):
    """A row per model and segment: the columns of `Segmentation`, clear, and p_cut (of all boundaries together)."""

    title = "The layers cut where the curves of CKA change"
    captions: ClassVar[Mapping[str, str]] = {"summary": "Segments"}


def segments(mossa: MossaTable) -> Segments:
    """Each model's layers in segments, or that they have no clear boundary.

    Raises:
        ArgumentError: fewer than three layers beside the embedding with a value.
    """
    mossa = mossa.learnt()
    lines, drawn, tables = [], [], []
    for model in mossa.models:
        layers = int(mossa.values("cka", model).drop(columns=0).notna().all().sum())
        if layers < FEWEST_LAYERS:
            found = f"{layers} layers with a value beside the embedding"
            raise ArgumentError("cut the layers into segments", found, "give a deeper model")
        segmentation = cut(mossa, model)
        lines += _words(segmentation, model, layers)
        drawn.append(with_model(segmentation.figure(), model))
        columns = {"model": model, "clear": segmentation.clear, "p_cut": segmentation.manifest["p"]}
        tables.append(segmentation.to_frame().assign(**columns))
    return Segments.of(mossa, lines, drawn, stacked(tables))


def cut(mossa: MossaTable, model: str, **settings: Any) -> Segmentation:
    """One model's segmentation; `settings` are those of `segment`."""
    wide = mossa.values("cka", model).drop(columns=0).dropna(how="all")
    few = wide.notna().all().sum() < FEW
    defaults: dict[str, Any] = {"boundaries": 1, "min_size": 1} if few else {"boundaries": 2, "min_size": 2}
    defaults |= {"label": f"{mossa.cka_name}, with the control models", "seed": mossa.manifest["seed"]}
    return segment(wide, **{**defaults, **settings})


def _words(segmentation: Segmentation, model: str, layers: int) -> list[str]:
    sentence = segmentation.sentence()
    line = f"{capital(model)} model: {sentence[0].lower()}{sentence[1:]}"
    if not segmentation.clear:
        few = (
            f" {layers} layers have only {math.factorial(layers)} orders, and were looked at for one boundary: that "
            "none is clear says little of a deeper model."
        )
        return [NEGATIVE + line + (few if segmentation.manifest["boundaries"] == 1 else "")]
    if tuple(segmentation.table["name"]) == ZZC24:
        return [line]
    other = (
        f"{NEGATIVE}shared, transition and refinement layers, three segments each below the one before, are not "
        f"established in the {model} model."
    )
    return [line, other]
