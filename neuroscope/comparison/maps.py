"""Two-dimensional maps of representations, layer by layer: t-SNE (ZZC24 Fig. 4) and principal components.

1. The examples of all tasks are mapped together, each layer on its own.
2. t-SNE (van der Maaten & Hinton 2008): the first layer starts from its principal components, every further one from
   the map of the layer before, so that clusters keep their place where nothing moved them. `independent=True` starts
   each layer from its own components instead.
3. Principal components keep their sign and order by the layer before, where they agree with it.

A t-SNE map shows who is near whom. Sizes of clusters and distances between them mean nothing, and clusters can appear
in noise: compare with the CKA and the pca map before believing one.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuroscope import figures, files
from neuroscope.checks import public
from neuroscope.comparison.hidden_states import Representations
from neuroscope.comparison.similarity.inputs import whole
from neuroscope.errors import ArgumentError, NumericalError
from neuroscope.results import Result

if TYPE_CHECKING:
    import plotly.graph_objects as go

Floats = NDArray[np.float64]
Progress = Callable[..., Iterable[Any]]
FEWEST = 4  # examples of all tasks together: a third of the other three is a perplexity of 1, the least there is
TITLES = {"t-SNE": "t-SNE", "PCA": "Principal components"}


@dataclasses.dataclass(frozen=True, repr=False)
class Maps(Result):
    """A two-dimensional map per layer.

    `table` has a row per layer and example: layer, task, family, example (its place in the task), x, y. A layer whose
    examples are all the same has NaN, and its reason is in `manifest["gaps"]`.
    """

    @property
    def layers(self) -> list[int]:
        """The mapped layers; 0 is the embedding."""
        return [int(layer) for layer in self.table["layer"].unique()]

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

    def multiples(self, layers: Sequence[int] | None = None, columns: int | None = None) -> go.Figure:
        """Some layers beside each other; six, evenly spread, if None. Three in a row, or two of up to four."""
        known = [layer for layer in self.layers if not self._gap(layer)]
        if layers is None:
            spread = np.linspace(0, len(known) - 1, min(6, len(known)))
            layers = [known[i] for i in dict.fromkeys(np.round(spread).astype(int).tolist())]
        for layer in layers:
            if layer not in known:
                found = self._gap(layer) or "no map of it"
                raise ArgumentError(f"the map of layer {layer!r}", found, f"choose from {known}")
        return figures.map_multiples(
            self._maps(layers), title=self._title(), subtitle=self._subtitle(), groups=self._families(),
            hover=self._hover(), columns=columns if columns is not None else 2 if len(layers) <= 4 else 3,
        )  # fmt: skip

    def _gap(self, layer: int) -> str:
        return str(self.manifest["gaps"].get(str(layer), ""))

    def _maps(self, layers: Sequence[int]) -> list[tuple[str, Mapping[str, ArrayLike], tuple[str, str]]]:
        found: list[tuple[str, Mapping[str, ArrayLike], tuple[str, str]]] = []
        for layer in layers:
            rows = self.table[self.table["layer"] == layer]
            points = {str(task): r[["x", "y"]].to_numpy() for task, r in rows.groupby("task", sort=False)}
            shares = self.manifest["shares"].get(str(layer))
            titles = tuple(f"PC {i + 1} ({share:.0%})" for i, share in enumerate(shares)) if shares else ("", "")
            found.append((str(layer) if layer else "embedding", points, (titles[0], titles[1])))
        return found

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


@public
def tsne(
    reps: Representations | Mapping[str, ArrayLike],
    *,
    layers: Sequence[int] | None = None,
    n: int | None = None,
    perplexity: float = 30.0,
    independent: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Maps:
    """t-SNE of all tasks' representations, one map per layer (ZZC24 Fig. 4).

    Args:
        reps: from `representations`, or task -> [layer, example, feature].
        layers: which, all if None; negative ones count from the last.
        n: the first examples of each task, all if None.
        perplexity: about how many neighbours an example has; lowered to a third of the examples where these are few.
        independent: whether each layer starts anew, and not from the map of the layer before.
        seed: equal seeds give equal maps on one machine.
        progress: called as `progress(layers, description)`.

    Raises:
        ArgumentError: fewer than four examples, or layers that are not there.
        NumericalError: an activation that is not finite.
    """
    if not (isinstance(perplexity, (int, float)) and perplexity > 0):
        raise ArgumentError(f"perplexity={perplexity!r}", "not a positive number", "30 is usual")
    seed = whole(seed, "seed", 0, "0 is usual")
    data = _data(reps, layers, n)
    used = min(float(perplexity), max(1.0, (data.examples - 1) / 3))

    def place(x: Floats, before: Floats | None) -> tuple[Floats, list[float] | None]:
        state = random.getstate()
        from sklearn.manifold import TSNE  # heavy: only where a map is made

        random.setstate(state)  # what is imported with it draws from Python's generator
        start = _components(x)[0] if before is None or independent else before
        start = start / max(start[:, 0].std(), np.finfo(float).tiny) * 1e-4  # as scikit-learn does with its own
        made = TSNE(perplexity=used, init=start.astype(np.float32), random_state=seed, learning_rate="auto", n_jobs=1)
        return made.fit_transform(x.astype(np.float32)).astype(np.float64), None

    settings = {"perplexity": used, "independent": independent, "seed": seed}
    return _make("t-SNE", data, place, settings, progress)


@public
def pca(
    reps: Representations | Mapping[str, ArrayLike],
    *,
    layers: Sequence[int] | None = None,
    n: int | None = None,
    progress: Progress | None = None,
) -> Maps:
    """The first two principal components of all tasks' representations, one map per layer.

    Args:
        reps, layers, n, progress: as for `tsne`.

    Returns:
        `Maps`; `manifest["shares"]` has the two components' shares of the variance by layer.

    Raises:
        ArgumentError: fewer than four examples, or layers that are not there.
        NumericalError: an activation that is not finite.

    Example:
        >>> maps = pca({"a": np.random.default_rng(0).normal(size=(2, 9, 5))})
        >>> maps.table.shape, maps.layers
        ((18, 6), [0, 1])
    """

    def place(x: Floats, before: Floats | None) -> tuple[Floats, list[float] | None]:
        points, shares = _components(x)
        if before is not None:  # turn each axis to where it was
            points = points * np.where((points * before).sum(0) < 0, -1.0, 1.0)
        return points, shares

    return _make("PCA", _data(reps, layers, n), place, {}, progress)


@dataclasses.dataclass(frozen=True)
class Data:
    """What is mapped: the chosen layers and examples of all tasks."""

    reps: Mapping[str, Any]
    layers: list[int]
    sizes: dict[str, int]
    about: dict[str, Any]

    @property
    def examples(self) -> int:
        """Examples of all tasks."""
        return sum(self.sizes.values())

    def at(self, layer: int) -> Floats:
        """Activations [example, feature] of one layer, tasks one after another."""
        found = [np.asarray(self.reps[t][layer][:size], dtype=np.float64) for t, size in self.sizes.items()]
        for task, x in zip(self.sizes, found, strict=True):
            if not np.isfinite(x).all():
                bad = int(np.argwhere(~np.isfinite(x))[0, 0])
                where = f"not finite at layer {layer} of example {bad}"
                raise NumericalError(f"a map of task {task!r}", where, "compute the representations again")
        return np.concatenate(found)


def _make(
    method: str, data: Data, place: Callable[..., Any], settings: dict[str, Any], progress: Progress | None
) -> Maps:
    import pandas as pd  # heavy: only where a table is made

    task = [t for t, size in data.sizes.items() for _ in range(size)]
    family = [data.about["families"][t] for t in task]
    number = [i for size in data.sizes.values() for i in range(size)]
    frames, gaps, shares, before = [], {}, {}, None
    for layer in progress(data.layers, f"{method} by layer") if progress else data.layers:
        x = data.at(layer)
        points = np.full((data.examples, 2), np.nan)
        if np.ptp(x, axis=0).max() == 0:
            gaps[str(layer)] = "all examples are the same there"
        else:
            before, share = place(x, before)
            points = before
            if share is not None:
                shares[str(layer)] = share
        about = {"layer": layer, "task": task, "family": family, "example": number}
        frames.append(pd.DataFrame(about | {"x": points[:, 0], "y": points[:, 1]}))
    if len(gaps) == len(data.layers):
        found = f"all {data.examples} examples are the same at layers {data.layers}"
        raise NumericalError(f"a {method} map", found, "give other layers, or another position of the prompt")
    manifest = {
        "method": method,
        **settings,
        "gaps": gaps,
        "shares": shares,
        **data.about,
        "versions": files.versions(),
    }
    return Maps(pd.concat(frames, ignore_index=True), manifest)


def _data(reps: Any, layers: Sequence[int] | None, n: int | None) -> Data:
    found = reps if isinstance(reps, Representations) else Representations(reps)
    n = None if n is None else whole(n, "n", 1, "give 1 or more, or None for all")
    total = found.n_layers
    chosen = list(range(total)) if layers is None else np.atleast_1d(layers).tolist()
    if not chosen or any(layer not in range(-total, total) for layer in chosen):
        raise ArgumentError(f"layers={chosen}", f"layers 0 to {total - 1}", "choose from them")
    sizes = {task: array.shape[1] if n is None else min(n, array.shape[1]) for task, array in found.items()}
    if sum(sizes.values()) < FEWEST:
        raise ArgumentError("a map of representations", f"{sum(sizes.values())} examples", f"give {FEWEST} or more")
    examples = {task: [list(pair) for pair in pairs[: sizes[task]]] for task, pairs in found.examples.items()}
    about = {"families": dict(found.families), "examples": examples, "representations": dict(found.manifest)}
    return Data(found, [int(layer) % total for layer in chosen], sizes, about)


def _components(x: Floats) -> tuple[Floats, list[float]]:
    """The first two principal components [example, 2], and their shares of the variance.

    The largest coordinate of each is positive, so that the sign does not depend on the machine.
    """
    centred = x - x.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    points = np.zeros((len(x), 2))
    kept = min(2, len(s))
    points[:, :kept] = u[:, :kept] * s[:kept]
    largest = np.abs(points).argmax(0)
    signs = np.where(points[largest, [0, 1]] < 0, -1.0, 1.0)
    shares = np.zeros(2)
    shares[:kept] = (s**2 / (s**2).sum())[:kept]
    return points * signs, shares.tolist()
