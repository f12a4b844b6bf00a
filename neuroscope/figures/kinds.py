"""The table of figures: each kind with data to draw it from, for a gallery and for the tests that every kind passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from neuroscope.figures.bars import bars_with_band
from neuroscope.figures.boxes import box_panels, layer_boxes
from neuroscope.figures.curves import curves_with_band, layer_curves
from neuroscope.figures.layer_maps import map_explorer, map_multiples
from neuroscope.figures.matrices import depth_map, heatmap
from neuroscope.figures.named_points import plane
from neuroscope.figures.ranks import distribution
from neuroscope.figures.segments_of_layers import segmented
from neuroscope.figures.size_panels import size_panels


@dataclass(frozen=True)
class Kind:
    """A row of the table.

    Attributes:
        draw: the function; its keywords `title` and `subtitle` are those of every figure.
        example: its other arguments, by name: plain data.
    """

    draw: Callable[..., Any]
    example: Mapping[str, Any]


LAYERS = ["emb", "1", "2", "3"]
BY_TASK = {"nli": [0.9, 0.8, 0.6, 0.5], "sentiment": [0.9, 0.7, 0.5, 0.6]}
MAPS = [
    ("embedding", {"nli": [[0, 0], [1, 0]], "sentiment": [[0, 1], [1, 1]]}, ("", "")),
    ("1", {"nli": [[0, 0], [0.1, 0]], "sentiment": [[1, 1], [0.9, 1]]}, ("", "")),
]

FIGURES: dict[str, Kind] = {
    "heatmap": Kind(
        heatmap,
        {"values": [[0.5, -0.1], [0.0, 0.4]], "x": ["nli", "sentiment"], "y": ["nli", "sentiment"],
         "colour_label": "points lost", "scale": "diverging", "x_label": "measured", "y_label": "off"},
    ),
    "depth_map": Kind(
        depth_map, {"counts": {"nli": {"0": 1, "1": 3}, "sentiment": {"1": 2}}, "widths": {"0": 10, "1": 10}}
    ),
    "bars_with_band": Kind(
        bars_with_band,
        {"names": ["nli", "sentiment"], "bands": ["random off"], "value_label": "score, %", "mark": [35, 52],
         "series": {"original": ([90, 95], [85, 92], [94, 98]), "random off": ([88, 94], [86, 93], [90, 95])}},
    ),
    "curves_with_band": Kind(
        curves_with_band,
        {"curves": {"chosen": ([1, 5, 10], ([20, 60, 80], [15, 50, 75], [25, 70, 85]))}, "x_label": "neurons, %",
         "y_label": "score, %", "reference": {"chosen": ([1, 10], [10, 10])}},
    ),
    "layer_curves": Kind(
        layer_curves,
        {"curves": {"pre-trained": ([9, 7, 5, 6], [8, 6, 4, 5], [10, 8, 6, 7])}, "layers": LAYERS, "y_label": "CKA",
         "tasks": {"pre-trained": BY_TASK}},
    ),
    "distribution": Kind(distribution, {"values": {"nli": [8, 4, 2, 1], "sentiment": [9, 3, 1, 0]}, "k": 0.5}),
    "plane": Kind(
        plane,
        {"points": {"ncft": ((0.9, 0.8, 1.0), (0.7, 0.6, 0.8)), "seqft": ((0.8, None, None), (0.3, None, None))},
         "x_label": "average accuracy", "y_label": "retention"},
    ),
    "layer_boxes": Kind(layer_boxes, {"series": {"pre-trained": BY_TASK}, "layers": LAYERS, "y_label": "CKA"}),
    "box_panels": Kind(
        box_panels, {"panels": {"inference": {"pre-trained": BY_TASK}}, "layers": LAYERS, "y_label": "CKA"}
    ),
    "segmented": Kind(
        segmented,
        {"layers": [1, 2, 3, 4], "curve": [0.9, 0.9, 0.4, 0.4], "curves": {"nli": [0.9, 0.8, 0.4, 0.5]},
         "segments": [("shared", 1, 2), ("refinement", 3, 4)], "boundaries": [(3, 3, 4)], "y_label": "CKA"},
    ),
    "size_panels": Kind(
        size_panels,
        {"panels": {"nli": {"alone": ([1, 5, 10], ([20, 60, 80], [15, 50, 75], [25, 70, 85]))}},
         "bands": {"nli": {"random": ([1, 5, 10], [0, 5, 10], [5, 15, 20])}}, "x_label": "neurons, %",
         "y_label": "carried, %"},
    ),
    "map_explorer": Kind(map_explorer, {"maps": MAPS}),
    "map_multiples": Kind(map_multiples, {"maps": MAPS}),
}  # fmt: skip
