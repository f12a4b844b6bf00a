"""Where do tasks part inside a model? The figures of Zhao, Ziser & Cohen 2024 ("Layer by Layer"; ZZC24), in words too.

One run of `mossa` is behind all of them: a control model per task, and a multi-task model that has not learnt the tasks
held out. Every figure has a level by chance beside it:

- Z-F1, the layers in segments: the same curve with its layers shuffled, and a smooth curve (`segmentation`).
- Z-F2, CKA with the control models: the examples shuffled.
- Z-F3, the same by cluster: the clusters' names shuffled over the tasks.
- Z-F4, t-SNE maps: in the representation itself, whether the nearest examples of other tasks are of the same cluster,
  beside the clusters' names shuffled over the tasks. A map alone proves no cluster.
- Z-F5, principal components: the same activations with every feature shuffled by itself (Horn 1965, parallel analysis).
- Z-F7, tasks held out: every other choice of as many tasks to hold out.

A mean over layers is over those where every task has a value in every model.
Z-F1 to Z-F3 are of the tasks that the multi-task model has learnt, the others of all.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from neuroscope.checks import public
from neuroscope.errors import ArgumentError, FileError, choose
from neuroscope.experiments.layer_by_layer.layer_figures import FIGURES
from neuroscope.experiments.layer_by_layer.mossa_run import Mossa, mossa
from neuroscope.experiments.trials import check_settings
from neuroscope.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclasses.dataclass(frozen=True, repr=False)
class LayerByLayer(Result):
    """One figure of ZZC24: its numbers (`table`), the figures, and what they show and do not show (`in_words`)."""

    drawn: list[Any] = dataclasses.field(default_factory=list)

    def summary(self) -> pd.DataFrame:
        """The numbers behind the words."""
        return self.table

    def figure(self) -> go.Figure:
        """The first of `drawn`.

        Raises:
            ArgumentError: a result that has none.
        """
        if not self.drawn:
            raise ArgumentError("the figure", "a result without figures", "run it again")
        return self.drawn[0]

    def save(self, path: str | PathLike) -> Path:
        """Write the result with its figures as one JSON file, atomically."""
        drawn = [figure.to_json() for figure in self.drawn]
        return Result.save(dataclasses.replace(self, manifest={**self.manifest, "drawn": drawn}), path)

    @classmethod
    def load(cls, path: str | PathLike) -> Self:
        """Read back what `save` wrote, figures too.

        Raises:
            FileError: the file is missing, truncated, or holds something else.
        """
        found = super().load(path)
        import plotly.io as pio  # heavy: only where figures are read

        try:
            drawn = [pio.from_json(text) for text in found.manifest.pop("drawn", [])]
        except (TypeError, ValueError) as error:
            asked, do = f"read the figures from {path}", "write the file again"
            raise FileError(asked, f"a damaged figure ({type(error).__name__})", do) from None
        return dataclasses.replace(found, drawn=drawn)

    def in_words(self) -> str:
        """Text with `**bold**` and lists; failures are stated."""
        return str(self.manifest["words"])


@public
def layer_by_layer(
    model: Any,
    tasks: Any,
    which: str = "Z-F2",
    *,
    tuned: Any = "train",
    held_out: Sequence[str] = (),
    null: int = 100,
    seed: int = 0,
    **settings: Any,
) -> LayerByLayer:
    """One figure of ZZC24 on a model and tasks, with its level by chance and in words.

    Args:
        model: the pre-trained model.
        tasks: two or more; their family is their cluster.
        which: "Z-F1", "Z-F2", "Z-F3", "Z-F4", "Z-F5" or "Z-F7".
        tuned: the multi-task model, or "train" to make it of the tasks that are not held out.
        held_out: names of the tasks that it has not learnt; needed for Z-F7.
        null: permutations of the examples for the band of CKA.
        seed: of everything that is shuffled.
        settings: further ones of `mossa`. With the same `output`, all figures share one run.

    Returns:
        `LayerByLayer`.

    Raises:
        ArgumentError: an unknown figure, or nothing held out for Z-F7; and as `mossa`.
    """
    check_settings("layer_by_layer", settings, [*inspect.signature(mossa).parameters])
    choose(which, FIGURES, "figure")
    if which == "Z-F7" and not held_out:
        raise ArgumentError("Z-F7", "no task held out", "give held_out=[names], and a model that has not learnt them")
    found = mossa(model, tuned, tasks, held_out=held_out, null=null, seed=seed, **settings)
    return layer_figure(found, which, seed=seed)


@public
def layer_figure(found: Mossa, which: str, *, seed: int = 0) -> LayerByLayer:
    """One figure of ZZC24 of a finished `mossa`, with its level by chance and in words; as `layer_by_layer`."""
    sentences, drawn, table, about = FIGURES[choose(which, FIGURES, "figure")](found, seed)
    words = "\n".join(f"- {sentence}" for sentence in sentences)
    return LayerByLayer(table, {**found.manifest, **about, "figure": which, "words": words}, drawn)
