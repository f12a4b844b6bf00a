"""Similarity of tasks' neurons by their parameters, layer by layer (LX24 §3.3, Figure 3).

1. The FFN parameters of every layer's masked neurons are read: out of an opened model, or out of a checkpoint on disk,
   a few neurons at a time and never the whole layer but for the estimator that matches neurons.
2. An estimator turns two sets of neurons into one number (estimators.py says which there are).
3. The same number for random masks with as many neurons in every layer, drawn independently for the two sides, gives
   the band that it has to leave before it says anything about the tasks.
4. With a model per task, tasks i and j are compared inside model i; by_layer() averages over i (LX24 Figure 3).
5. With `other`, the same neurons are compared between two models, such as before and after fine-tuning.

Simplified: neurons are compared in place. Two models are expected to share their order of neurons, as a model and its
fine-tuned self do; permuted copies of a model are not recognised as equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from einops import rearrange

from neuroscope import files
from neuroscope.checks import Progress, all_of, public, watched
from neuroscope.comparison.parameters.estimators import ESTIMATORS, change
from neuroscope.comparison.parameters.layer_sets import Block, Layer, blocks_of
from neuroscope.comparison.parameters.similarity_by_depth import ParameterSimilarity
from neuroscope.comparison.parameters.sources import Source, open_source, with_adapter
from neuroscope.comparison.parameters.tabulating import Measured, result_of
from neuroscope.distributed import shared_out
from neuroscope.errors import ArgumentError, MaskError, ModelError, choose, naming
from neuroscope.masks import NeuronMask, Scores, is_one_mask, masks_of

ASKED = "similarity of parameters"
Pair = tuple[str, str]
Estimator = Literal["masked", "mean", "matched"]
Part = Literal["all", "gate", "up", "down"]


@dataclass(frozen=True)
class Settings:
    """How neurons are compared; checked when made. The fields are the arguments of `parameter_similarity`."""

    estimator: Estimator = "masked"
    part: Part = "all"
    n_random: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        choose(self.estimator, ESTIMATORS, "estimator")
        choose(self.part, get_args(Part), "part")


@public
def parameter_similarity(
    model: Any,
    masks: Any,
    *,
    estimator: Estimator = "masked",
    part: Part = "all",
    n_random: int = 20,
    seed: int = 0,
    other: Any = None,
    progress: Progress | None = None,
) -> ParameterSimilarity:
    """Per layer, how alike tasks' neurons are by their parameters inside a model, or a mask's neurons in two models.

    Args:
        model: anything that can be opened, or a checkpoint folder (config.json and safetensors, sharded or not), which
            is read in place: only the parameters of neurons in a mask or a random one. Or a tuple `(base, path)` of
            such a model or folder and the file of a NeuronAdapter trained on it, whose deltas are added in float64
            (merging rounds). Or a mapping task -> any of these, opened one after another: masks are then compared
            inside the model of each task (LX24 Figure 3), such as `{"a": (folder, "a.safetensors"), "b": ...}`.
        masks: name -> mask of hidden neurons or output units; two or more, or with `other` one or more.
        estimator: "masked", "mean" or "matched", as in estimators.py. "matched" holds a layer's neurons in float32.
        part: of hidden neurons, "gate", "up" (of an ungated FFN its input projection) or "down"; biases go with theirs.
        n_random: how many random masks stand beside every mask, at least 3. Of a checkpoint their neurons are read too:
            twenty of 10 % together hold 88 % of a layer's neurons.
        seed: of the random masks.
        other: compare each mask's parameters between `model` and this one: any of these, or the file of a NeuronAdapter
            trained on `model`; where that is itself `(base, path)`, give this one as `(base, path)` too.
        progress: called as `progress(layers, desc=...)`, such as tqdm; None is silent.

    Returns:
        ParameterSimilarity. Cosines in [-1, 1]; a layer where a mask is empty is NaN with a reason.

    Raises:
        MaskError: a mask of another model, of attention heads, or empty.
        NumericalError: a parameter that is read is NaN or infinite.
        ModelError: parameters that something rewrites or adds to (TransformerBridge, PEFT, a live adapter), or that are
            out of reach.
        FileError: a checkpoint or an adapter that cannot be read.

    Example:
        >>> from neuroscope.models import load
        >>> mini = load("mini")
        >>> widths = {address: site.width for address, site in mini.sites().items()}
        >>> mask = NeuronMask.of({"blocks.0.mlp.hook_post": [1, 2, 3]}, widths)
        >>> found = parameter_similarity(mini, {"a": mask, "b": mask}, n_random=3)
        >>> found.table["value"].round(6).tolist(), found.table["reason"].iloc[-1]
        ([1.0, nan, nan, nan], 'no neuron of a, b in this layer')
    """
    settings = Settings(estimator, part, n_random, seed)
    if other is not None and estimator != "masked":
        found = "two models, between which a mask's neurons are compared in place"
        raise ArgumentError(f"estimator={estimator!r}", found, "take estimator='masked'")
    named = _named(masks, model)
    _check_masks(named, model, 1 if other is not None else 2)
    return compared(model, named, settings, other, progress)


def compared(
    model: Any, masks: Mapping[str, NeuronMask], settings: Settings, other: Any = None, progress: Progress | None = None
) -> ParameterSimilarity:
    """The same of arguments that are checked; without random masks there is no band."""
    n_random, seed = settings.n_random, settings.seed
    sets = {name: _with_random(name, mask, n_random, seed) for name, mask in masks.items()}
    source: dict[str, Any]
    if isinstance(model, Mapping):
        cells = {name: partial(_of_task, model, name, sets, other, settings, progress) for name in model}
        by_model = shared_out(f"{ASKED} in each task's model", cells)
        if len({tuple(measured.blocks) for measured in by_model.values()}) > 1:
            raise ModelError(ASKED, "models of different depth", "give models of one architecture, one per task")
        measured = list(by_model.values())
        source = {name: m.source for name, m in by_model.items()}
    else:
        measured = [_inside(model, None, sets, other, settings, progress)]
        source = measured[0].source
    manifest = {
        **asdict(settings),
        "other": other is not None,
        "per_task": isinstance(model, Mapping),
        "source": source,
        "masks": {name: dict(mask.manifest) | {"neurons": len(mask)} for name, mask in masks.items()},
        "versions": files.versions(),
    }
    return result_of(measured, masks, manifest)


def _of_task(
    models: Mapping[str, Any], name: str, sets: Mapping[str, list[NeuronMask]], other: Any, settings: Settings,
    progress: Progress | None,
) -> Measured:  # fmt: skip
    return _inside(models[name], name, sets, other, settings, progress)


def _inside(
    model: Any, owner: str | None, sets: Mapping[str, list[NeuronMask]], other: Any, settings: Settings,
    progress: Progress | None,
) -> Measured:  # fmt: skip
    """The pairs of one model: of all masks, or of the owner's and the others'; or each mask with itself."""
    pairs = _pairs(list(sets), owner, between_models=other is not None)
    needed = [name for name in sets if any(name in pair for pair in pairs)]
    masks = [mask for name in needed for mask in sets[name]]
    each = settings.n_random + 1  # a mask, and the random ones beside it
    places = {name: i * each for i, name in enumerate(needed)}
    source, second, blocks = _open(model, other, masks)
    measures = ["value"] if second is None else ["value", "delta", "relative"]
    cells = {measure: np.full((len(pairs), len(blocks), each), np.nan) for measure in measures}
    wanted = [(places[a] + i, places[b] + i) for a, b in pairs for i in range(each)]
    for block in watched(blocks, progress, ASKED if owner is None else f"{ASKED} in {owner}"):
        layer = Layer.of(source.read, block, masks, settings.part, ASKED)
        if second is None:
            numbers = {"value": ESTIMATORS[settings.estimator](layer, wanted)}
        else:
            after = Layer.of(second.read, _same(block, second, masks[0].unit), masks, settings.part, ASKED)
            numbers = {m: v[[a for a, _ in wanted]] for m, v in change(layer, after).items()}
        for measure, column in numbers.items():
            cells[measure][:, block.depth] = rearrange(column, "(pair draw) -> pair draw", draw=each)
    origin = {"model": source.origin | _bytes(source)} | ({"other": second.origin | _bytes(second)} if second else {})
    values, random = ({m: v[..., at] for m, v in cells.items()} for at in (0, slice(1, None)))
    return Measured(pairs, [b.name for b in blocks], values, random, origin)


def _pairs(names: list[str], owner: str | None, between_models: bool) -> list[Pair]:
    if between_models:
        return [(name, name) for name in names if owner in (None, name)]
    if owner is None:
        return list(combinations(names, 2))
    return [(owner, name) for name in names if name != owner]


def _open(model: Any, other: Any, sets: list[NeuronMask]) -> tuple[Source, Source | None, list[Block]]:
    source = open_source(model, ASKED)
    sites = source.model.sites(sets[0].unit)
    for mask in sets:
        mask.fits(sites, ASKED)
    if other is None:
        return source, None, blocks_of(sites)
    is_file = isinstance(other, (str, PathLike)) and Path(other).is_file()
    with naming("other"):
        second = with_adapter(source, other, ASKED) if is_file else open_source(other, ASKED)
    sets[0].fits(second.model.sites(sets[0].unit), f"{ASKED} in the other model")
    return source, second, blocks_of(sites)


def _same(block: Block, source: Source, unit: str) -> Block:
    """The same layer of another model."""
    sites = source.model.sites(unit)
    return Block(block.name, block.depth, tuple(sites[s.address] for s in block.sites))


def _bytes(source: Source) -> dict[str, int]:
    read = source.checkpoint
    return {} if read is None else {"header_bytes": read.header_bytes, "tensor_bytes": read.tensor_bytes}


def _with_random(name: str, mask: NeuronMask, n_random: int, seed: int) -> list[NeuronMask]:
    """The mask and random ones of its sizes, drawn from seeds that hold its name: equal masks get independent ones."""
    seeds = [int(files.digest(seed, name, number), 16) for number in range(n_random)]
    return [mask, *(mask.drawn_like(s, "layer") for s in seeds)]


def _named(masks: Any, model: Any) -> dict[str, NeuronMask]:
    """Masks by name; what is written by hand is of the model, or of the first of several."""
    given = {"mask": masks} if is_one_mask(masks) else masks
    every = given.values() if isinstance(given, Mapping) else ()
    if all(isinstance(mask, NeuronMask | Scores) for mask in every) or (isinstance(model, Mapping) and not model):
        return masks_of(given, ASKED)
    first = model[next(iter(model))] if isinstance(model, Mapping) else model
    return masks_of(given, ASKED, open_source(first, ASKED).model)


def _check_masks(masks: Mapping[str, NeuronMask], model: Any, least: int) -> None:
    if len(masks) < least:
        do = f"give {least} or more, name -> NeuronMask, such as scores.top(0.10)"
        raise ArgumentError(ASKED, f"{len(masks)} mask(s)", do)
    first, *others = masks.values()
    if first.unit not in ("hidden", "output"):
        raise MaskError(ASKED, f"masks of {first.unit} neurons", "give masks of hidden neurons or output units")
    if any(dict(m.widths) != dict(first.widths) or m.unit != first.unit for m in others):
        raise MaskError(ASKED, "masks of different models or units", "compare masks found on one model")
    empty = [name for name, mask in masks.items() if not len(mask)]
    if empty:
        raise MaskError(ASKED, f"no neuron in {empty[0]!r}", "give masks with at least one neuron")
    if isinstance(model, Mapping):
        for name in all_of(model, "model"):  # names alone: a model may be made when it is looked up
            with naming("model"):
                choose(name, masks, "mask")
        if not model:
            raise ArgumentError(ASKED, "no model", "give a model per task, or one model")
