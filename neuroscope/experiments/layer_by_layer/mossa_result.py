"""What `mossa` returns: the numbers, and six views of them, each with its level by chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from neuroscope.experiments.layer_by_layer.by_cluster import ByCluster, by_cluster
from neuroscope.experiments.layer_by_layer.by_layer import ByLayer, boxes, by_layer
from neuroscope.experiments.layer_by_layer.component_counts import Components, components
from neuroscope.experiments.layer_by_layer.held_out_tasks import HeldOut, held_out
from neuroscope.experiments.layer_by_layer.layer_segments import FEWEST_LAYERS, Segments, segments
from neuroscope.experiments.layer_by_layer.mossa_table import MossaTable
from neuroscope.experiments.layer_by_layer.task_maps import TaskMaps, task_maps
from neuroscope.results import Result, Section

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False)
class Mossa(MossaTable, Result):
    """A finished `mossa`: the numbers, as `MossaTable` has them, and six views, each a result of its own.

    A mean over layers is over those where every task has a value in every model. `by_layer`, `by_cluster` and
    `segments` are of the tasks that the multi-task model has learnt, the others of all.

    Example:
        >>> import pandas as pd
        >>> rows = [{"layer": layer, "value": 1 - 0.2 * layer} for layer in range(3)]
        >>> table = pd.DataFrame(rows).assign(model="pre-trained", task="nli", measure="cka")
        >>> found = Mossa(table, {"families": {"nli": "nli"}})
        >>> found.models, found.values("cka", "pre-trained").round(2).loc["nli"].to_dict()
        (['pre-trained'], {0: 1.0, 1: 0.8, 2: 0.6})
    """

    title = "Where tasks part inside the model"

    def by_layer(self) -> ByLayer:
        """CKA with the models tuned on one task, by layer, beside shuffled examples (ZZC24 Figure 2)."""
        return by_layer(self)

    def by_cluster(self) -> ByCluster:
        """The same by cluster of tasks, beside the clusters' names shuffled over the tasks (ZZC24 Figure 3)."""
        return by_cluster(self)

    def held_out(self) -> HeldOut:
        """The same for tasks that the multi-task model has not learnt, beside other choices of them (ZZC24 Figure 7).

        Raises:
            ArgumentError: no task was held out.
        """
        return held_out(self)

    def dimensions(self) -> Components:
        """Dimensions of the representations, by layer, beside shuffled features (ZZC24 Figure 5).

        Raises:
            ArgumentError: a result that was loaded from a file, which has no representations.
        """
        return components(self)

    def segments(self) -> Segments:
        """The layers cut where the curves of CKA change, beside shuffled layers (ZZC24 Figure 1).

        Raises:
            ArgumentError: fewer than three layers beside the embedding with a value.
        """
        return segments(self)

    def maps(self) -> TaskMaps:
        """Maps of the representations, and whether clusters stand together in them (ZZC24 Figure 4).

        Raises:
            ArgumentError: a result that was loaded from a file, which has no representations.
        """
        return task_maps(self)

    def in_words(self) -> str:
        """Those of `by_layer`; each view has its own."""
        return self.by_layer().in_words()

    def figure(self) -> go.Figure:
        """That of `by_layer`; each view has its own."""
        return boxes(self.learnt())

    def sections(self) -> list[Section]:
        """Every view that these numbers allow."""
        views: list[Callable[[], Result]] = [self.by_layer, self.by_cluster]
        views += [self.held_out] if self.manifest["held_out"] else []
        views += [self.dimensions, self.maps] if self.representations else []
        enough = all(
            self.learnt().values("cka", model).drop(columns=0).notna().all().sum() >= FEWEST_LAYERS
            for model in self.models
        )
        views += [self.segments] if enough else []
        return [section for view in views for section in view().sections()]
