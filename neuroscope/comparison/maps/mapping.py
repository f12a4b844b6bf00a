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

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuroscope import files
from neuroscope.checks import Progress, finite, flag, public, watched
from neuroscope.comparison.hidden_states import Representations
from neuroscope.comparison.maps.layer_maps import Maps
from neuroscope.errors import ArgumentError, NumericalError

Floats = NDArray[np.float64]
FEWEST = 4  # examples of all tasks together: a third of the other three is a perplexity of 1, the least there is
Place = Callable[[Floats, Floats | None], tuple[Floats, list[float] | None]]  # a layer and the map before -> its map


@public
def tsne(
    reps: Representations | Mapping[str, ArrayLike],
    *,
    layers: int | Sequence[int] | None = None,
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
        progress: called as `progress(layers, desc=...)`, such as tqdm; None is silent.

    Raises:
        ArgumentError: fewer than four examples, or layers that are not there.
        NumericalError: an activation that is not finite.

    Example:
        >>> maps = tsne({"a": np.random.default_rng(0).normal(size=(2, 9, 5))})
        >>> maps.table.shape, maps.layers, round(maps.manifest["perplexity"], 3)
        ((18, 6), [0, 1], 2.667)
    """
    if finite(perplexity, "perplexity", "30 is usual") <= 0:
        raise ArgumentError(f"perplexity={perplexity!r}", "not a positive number", "30 is usual")
    flag(independent, "independent")
    data = _data(reps, layers, n)
    used = min(float(perplexity), max(1.0, (data.examples - 1) / 3))

    def place(x: Floats, before: Floats | None) -> tuple[Floats, list[float] | None]:
        state = random.getstate()
        from sklearn.manifold import TSNE  # heavy: only where a map is made

        random.setstate(state)  # what is imported with it draws from Python's generator
        start = _components(x)[0] if before is None or independent else before
        start = start / max(start[:, 0].std(), np.finfo(float).tiny) * 1e-4  # as scikit-learn does with its own
        fit = TSNE(perplexity=used, init=start.astype(np.float32), random_state=seed, learning_rate="auto", n_jobs=1)
        return fit.fit_transform(x.astype(np.float32)).astype(np.float64), None

    settings = {"perplexity": used, "independent": independent, "seed": seed}
    return _maps("t-SNE", data, place, settings, progress)


@public
def pca(
    reps: Representations | Mapping[str, ArrayLike],
    *,
    layers: int | Sequence[int] | None = None,
    n: int | None = None,
    progress: Progress | None = None,
) -> Maps:
    """The first two principal components of all tasks' representations, one map per layer.

    Args:
        reps: from `representations`, or task -> [layer, example, feature].
        layers: which, all if None; negative ones count from the last.
        n: the first examples of each task, all if None.
        progress: called as `progress(layers, desc=...)`, such as tqdm; None is silent.

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

    return _maps("PCA", _data(reps, layers, n), place, {}, progress)


@dataclass(frozen=True)
class Data:
    """What is mapped: the chosen layers and examples of all tasks.

    Attributes:
        sizes: task -> how many of its examples, the first ones.
    """

    reps: Representations
    layers: list[int]
    sizes: dict[str, int]

    @property
    def examples(self) -> int:
        """Examples of all tasks."""
        return sum(self.sizes.values())

    def at(self, layer: int) -> Floats:
        """Activations [example, feature] of one layer, tasks one after another."""
        by_task = [np.asarray(self.reps[t][layer][:size], dtype=np.float64) for t, size in self.sizes.items()]
        for task, x in zip(self.sizes, by_task, strict=True):
            if not np.isfinite(x).all():
                bad = int(np.argwhere(~np.isfinite(x))[0, 0])
                where = f"not finite at layer {layer} of example {bad}"
                raise NumericalError(f"a map of task {task!r}", where, "compute the representations again")
        return np.concatenate(by_task)

    def origin(self) -> dict[str, Any]:
        """For the manifest: what the points are of."""
        pairs = {task: texts[: self.sizes[task]] for task, texts in self.reps.examples.items()}
        return {
            "families": dict(self.reps.families),
            "examples": {task: [list(pair) for pair in texts] for task, texts in pairs.items()},
            "representations": dict(self.reps.manifest),
        }


def _maps(method: str, data: Data, place: Place, settings: dict[str, Any], progress: Progress | None) -> Maps:
    import pandas as pd  # heavy: only where a table is made

    tasks = [(task, i) for task, size in data.sizes.items() for i in range(size)]
    names = {
        "task": [task for task, _ in tasks],
        "family": [data.reps.families[task] for task, _ in tasks],
        "example": [i for _, i in tasks],
    }
    frames, gaps, shares, before = [], {}, {}, None
    for layer in watched(data.layers, progress, f"{method} by layer"):
        x = data.at(layer)
        points = np.full((data.examples, 2), np.nan)
        if np.ptp(x, axis=0).max() == 0:
            gaps[str(layer)] = "all examples are the same there"
        else:
            before, share = place(x, before)
            points = before
            if share is not None:
                shares[str(layer)] = share
        frames.append(pd.DataFrame({"layer": layer, **names, "x": points[:, 0], "y": points[:, 1]}))
    if len(gaps) == len(data.layers):
        found = f"all {data.examples} examples are the same at layers {data.layers}"
        raise NumericalError(f"a {method} map", found, "give other layers, or another position of the prompt")
    manifest = {"method": method, **settings, "gaps": gaps, "shares": shares, **data.origin()}
    return Maps(pd.concat(frames, ignore_index=True), manifest | {"versions": files.versions()})


def _data(activations: Any, layers: int | Sequence[int] | None, n: int | None) -> Data:
    reps = activations if isinstance(activations, Representations) else Representations(activations)
    total = reps.n_layers
    chosen = list(range(total)) if layers is None else np.atleast_1d(layers).tolist()
    if not chosen or any(layer not in range(-total, total) for layer in chosen):
        raise ArgumentError(f"layers={chosen}", f"layers 0 to {total - 1}", "choose from them")
    sizes = {task: array.shape[1] if n is None else min(n, array.shape[1]) for task, array in reps.items()}
    if sum(sizes.values()) < FEWEST:
        raise ArgumentError("a map of representations", f"{sum(sizes.values())} examples", f"give {FEWEST} or more")
    return Data(reps, [int(layer) % total for layer in chosen], sizes)


def _components(x: Floats) -> tuple[Floats, list[float]]:
    """The first two principal components [example, 2], and their shares of the variance.

    The largest coordinate of each is positive, so that the sign does not depend on the machine.
    """
    centred = x - x.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    points = np.zeros((len(x), 2))
    count = min(2, len(s))
    points[:, :count] = u[:, :count] * s[:count]
    largest = np.abs(points).argmax(0)
    signs = np.where(points[largest, [0, 1]] < 0, -1.0, 1.0)
    shares = np.zeros(2)
    shares[:count] = (s**2 / (s**2).sum())[:count]
    return points * signs, shares.tolist()
