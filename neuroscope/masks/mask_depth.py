"""Where in depth the neurons of masks are, and how much of the relevance they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from neuroscope import figures, files
from neuroscope.masks.neuron_mask import NeuronMask
from neuroscope.masks.scores import Scores
from neuroscope.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False)
class MaskDepth(Result):
    """A row per mask and site: name, address, neurons (of the mask there), width (all neurons there), share (of them).

    `manifest["held"]` has the share of the positive relevance that each mask's neurons hold.

    Attributes:
        scores: name -> what the masks were made of, for the figure of relevance; empty on a result from a file.
    """

    title = "Depth and relevance"
    captions: ClassVar[Mapping[str, str]] = {"sites": "Neurons of each mask by site"}

    scores: Mapping[str, Scores] = field(default_factory=dict)

    def in_words(self) -> str:
        """How much of the relevance the masks hold, and at which sites most of their neurons are."""
        held, about = list(self.manifest["held"].values()), self.manifest
        lines = [
            f"The neurons in a mask hold **{sum(held) / len(held):.0%}** of the relevance ({about['method']}, "
            f"{about['reduction']}), mean over {len(held)} task(s).\n"
        ]
        for name, rows in self.table.groupby("name", sort=False):
            most = rows.loc[rows["share"].idxmax()]
            lines.append(f"- {name}: most at {most['address']}, {most['share']:.0%} of the neurons there.")
        return "\n".join(lines)

    def figure(self) -> go.Figure:
        """The masks' neurons by layer."""
        counts = {
            str(name): dict(zip(rows["address"], rows["neurons"], strict=True))
            for name, rows in self.table.groupby("name", sort=False)
        }
        widths = dict(zip(self.table["address"], self.table["width"], strict=True))
        return figures.depth_map(counts, widths, title="Neurons by layer", groups=self.manifest["families"])

    def figures(self) -> list[go.Figure]:
        """The masks' neurons by layer, and how relevance falls with rank."""
        vectors = {name: scores.vector().numpy() for name, scores in self.scores.items()}
        about: dict[str, Any] = {"k": self.manifest["k"], "groups": self.manifest["families"]}
        by_rank = [figures.distribution(vectors, title="Relevance by rank", **about)] if vectors else []
        return [self.figure(), *by_rank]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every mask at every site."""
        return {"sites": self.to_frame()}


def mask_depth(
    masks: Mapping[str, NeuronMask], scores: Mapping[str, Scores], k: float, families: Mapping[str, str]
) -> MaskDepth:
    """Where masks of the top k of scores have their neurons.

    Args:
        masks, scores, families: by the same names.
        k: share of all neurons in each mask.
    """
    import pandas as pd  # heavy: only where a table is made

    rows = [
        {"name": name, "address": address, "neurons": count, "width": mask.widths[address]}
        for name, mask in masks.items()
        for address, count in mask.counts().items()
    ]
    table = pd.DataFrame(rows)
    table["share"] = table["neurons"] / table["width"]
    first = next(iter(scores.values())).manifest
    held = {name: _held(scores[name], len(mask)) for name, mask in masks.items()}
    about = {"method": first.get("method", ""), "reduction": first.get("reduction", ""), "k": k, "held": held}
    return MaskDepth(table, about | {"families": dict(families), "versions": files.versions()}, scores)


def _held(scores: Scores, count: int) -> float:
    """The share of the positive relevance that the `count` most relevant neurons hold."""
    positive = scores.vector().clamp_min(0).sort(descending=True).values
    return float(positive[:count].sum() / positive.sum().clamp_min(1e-30))
