"""Two-dimensional maps, a layer each: the points, what they say in words, and their figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree

from neuroscope import figures
from neuroscope.checks import public
from neuroscope.errors import ArgumentError
from neuroscope.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

TITLES = {"t-SNE": "t-SNE", "PCA": "Principal components"}
LIMITS = {
    "t-SNE": "A t-SNE map shows who is near whom; sizes of clusters and distances between them mean nothing, and "
    "clusters can appear in noise.",
    "PCA": "Two components are a shadow of all of them: what is near here may be far in the others.",
}


@dataclass(frozen=True, repr=False)
class Maps(Result):
    """A two-dimensional map per layer.

    `table` has a row per layer and example: layer, task, family, example (its place in the task), x, y. A layer whose
    examples are all the same has NaN, and its reason is in `manifest["gaps"]`.
    """

    title: ClassVar[str] = "Maps of the representations"
    captions: ClassVar[Mapping[str, str]] = {
        "nearest": "Share of points whose nearest point is of the same task or cluster",
        "rows": "Every point",
    }

    @property
    def layers(self) -> list[int]:
        """The mapped layers; 0 is the embedding."""
        return [int(layer) for layer in self.table["layer"].unique()]

    @public
    def figure(self, layer: int = -1) -> go.Figure:
        """All layers with a slider and a play button; colour is the cluster, the legend picks tasks.

        Args:
            layer: place of the layer that is shown at first, among those that have a map.
        """
        maps = self._maps([layer for layer in self.layers if not self._gap(layer)])
        if not -len(maps) <= layer < len(maps):
            raise ArgumentError(f"layer={layer!r}", f"{len(maps)} maps", "give a place among them, such as -1")
        return figures.map_explorer(
            maps,
            title=self._title(),
            subtitle=self._subtitle(),
            groups=self._families(),
            hover=self._hover(),
            start=layer,
        )

    @public
    def multiples(self, layers: Sequence[int] | None = None, columns: int | None = None) -> go.Figure:
        """Some layers beside each other; six, evenly spread, if None. Three in a row, or two of up to four."""
        known = [layer for layer in self.layers if not self._gap(layer)]
        if layers is None:
            places = np.linspace(0, len(known) - 1, min(6, len(known)))
            layers = [known[i] for i in dict.fromkeys(np.round(places).astype(int).tolist())]
        for layer in layers:
            if layer not in known:
                found = self._gap(layer) or "no map of it"
                raise ArgumentError(f"the map of layer {layer!r}", found, f"choose from {known}")
        return figures.map_multiples(
            self._maps(layers), title=self._title(), subtitle=self._subtitle(), groups=self._families(),
            hover=self._hover(), columns=columns if columns is not None else 2 if len(layers) <= 4 else 3,
        )  # fmt: skip

    def figures(self) -> list[go.Figure]:
        """The explorer of all layers, and some layers beside each other."""
        return [self.figure(), self.multiples()]

    def tables(self) -> dict[str, pd.DataFrame]:
        """By layer, how often the nearest point is of the same task or cluster; and every point."""
        return {"nearest": self.nearest(), "rows": self.to_frame()}

    def nearest(self) -> pd.DataFrame:
        """By layer, the share of points whose nearest other point is of the same task, and of the same cluster.

        Columns: layer, same_task, same_cluster, and what both would be if names were shuffled over the points.
        """
        import pandas as pd  # heavy: only where a table is made

        rows = []
        for layer in self.layers:
            points = self.table[self.table["layer"] == layer]
            if self._gap(layer):
                continue
            near = _nearest(points[["x", "y"]].to_numpy())
            row: dict[str, float] = {"layer": layer}
            for column, label in (("task", "task"), ("family", "cluster")):
                names = points[column].to_numpy()
                counts = points[column].value_counts().to_numpy()
                row[f"same_{label}"] = float((names[near] == names).mean())
                row[f"chance_{label}"] = float((counts * (counts - 1)).sum() / (len(names) * (len(names) - 1)))
            rows.append(row)
        return pd.DataFrame(rows)

    def in_words(self) -> str:
        """How often the nearest point is of the same task, at which layer most and least, and what a map cannot say."""
        rows, points = self.nearest(), self.table["layer"].eq(self.layers[0]).sum()
        best, worst = rows.loc[rows["same_task"].idxmax()], rows.loc[rows["same_task"].idxmin()]
        tasks = self.table["task"].nunique()
        lines = [f"{TITLES[self.manifest['method']]} of {points} examples of {tasks} task(s) at {len(rows)} layers."]
        if tasks > 1:
            most, least = f"**{best['same_task']:.0%}**", f"{worst['same_task']:.0%}"
            lines[0] = f"- {lines[0]}"
            lines.insert(
                0,
                f"The nearest point is of the same task most often at {_layer(best['layer'])} ({most}), least at "
                f"{_layer(worst['layer'])} ({least}); of shuffled points {best['chance_task']:.0%} would be.",
            )
            low = [_layer(layer) for layer in rows.loc[rows["same_task"] <= rows["chance_task"], "layer"]]
            if low:
                said = f"at {', '.join(low)} the nearest points are no more often of one task than shuffled ones"
                lines.append(f"- **A negative**: {said}.")
        if 1 < self.table["family"].nunique() < tasks:
            row = rows.loc[rows["same_cluster"].idxmax()]
            share, chance = f"{row['same_cluster']:.0%}", f"{row['chance_cluster']:.0%}"
            where = _layer(row["layer"])
            lines.append(f"- Of the same cluster it is most often at {where} ({share}; of shuffled points {chance}).")
        gone = [f"{_layer(int(layer))} ({why})" for layer, why in self.manifest["gaps"].items()]
        lines += [f"- There is no map of {', '.join(gone)}."] if gone else []
        return "\n".join([lines[0], "", *lines[1:], f"- {LIMITS[self.manifest['method']]}"])

    def _gap(self, layer: int) -> str:
        return str(self.manifest["gaps"].get(str(layer), ""))

    def _maps(self, layers: Sequence[int]) -> list[tuple[str, Mapping[str, ArrayLike], tuple[str, str]]]:
        maps: list[tuple[str, Mapping[str, ArrayLike], tuple[str, str]]] = []
        for layer in layers:
            rows = self.table[self.table["layer"] == layer]
            points = {str(task): r[["x", "y"]].to_numpy() for task, r in rows.groupby("task", sort=False)}
            shares = self.manifest["shares"].get(str(layer))
            titles = tuple(f"PC {i + 1} ({share:.0%})" for i, share in enumerate(shares)) if shares else ("", "")
            maps.append((str(layer) if layer else "embedding", points, (titles[0], titles[1])))
        return maps

    def _families(self) -> dict[str, str]:
        return dict(self.manifest["families"])

    def _hover(self) -> dict[str, list[str]]:
        return {
            task: [figures.hover_text(prompt, answer) for prompt, answer in pairs]
            for task, pairs in self.manifest["examples"].items()
        }

    def _title(self) -> str:
        return f"{TITLES[self.manifest['method']]} of the representations"

    def _subtitle(self) -> str:
        gaps = ", ".join(f"layer {layer}" for layer in self.manifest["gaps"])
        scaled = "each layer fills the square: compare within a layer; "
        return scaled + "colour: cluster" + (f"; no map (all examples alike): {gaps}" if gaps else "")


def _nearest(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """The place of the nearest other point of each."""
    _, two = KDTree(points).query(points, k=2)
    places = np.arange(len(points))
    return np.where(two[:, 0] == places, two[:, 1], two[:, 0])  # of equal points, oneself may come second


def _layer(layer: float) -> str:
    return f"layer {int(layer)}" if layer else "the embedding"
