"""Similarity of tasks' neurons by their parameters, layer by layer (LX24 §3.3, Figure 3; F3 of the feature table).

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

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from neuroscope import files
from neuroscope.checks import public
from neuroscope.comparison.parameters import parameter_result
from neuroscope.comparison.parameters.estimators import ESTIMATORS, Block, Layer, blocks_of, change
from neuroscope.comparison.parameters.parameter_result import ALL, Floats, ParameterSimilarity
from neuroscope.comparison.parameters.sources import Source, open_source, with_adapter
from neuroscope.errors import ArgumentError, MaskError, ModelError, choose
from neuroscope.masks import NeuronMask

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ParameterSimilarity", "parameter_similarity"]

PARTS = ("all", "gate", "up", "down")
ASKED = "similarity of parameters"
Progress = Callable[[Iterable[Any], str], Iterable[Any]]
Pair = tuple[str, str]
Estimator = Literal["masked", "mean", "matched"]
Part = Literal["all", "gate", "up", "down"]


@dataclass(frozen=True)
class Found:
    """What one model gave: per measure the values [pair, layer] and those of random masks [pair, layer, control]."""

    pairs: list[Pair]
    blocks: list[str]
    values: dict[str, Floats]
    controls: dict[str, Floats]
    about: dict[str, Any]


@public
def parameter_similarity(
    model: Any,
    masks: Mapping[str, NeuronMask] | NeuronMask,
    *,
    estimator: Estimator = "masked",
    part: Part = "all",
    controls: int = 20,
    seed: int = 0,
    other: Any = None,
    progress: Progress | None = None,
) -> ParameterSimilarity:
    """Per layer, how alike tasks' neurons are by their parameters inside a model, or a mask's neurons in two models.

    Args:
        model: anything that can be opened, or a checkpoint folder (config.json and safetensors, sharded or not), which
            is read in place: only the parameters of neurons in a mask or a control. Or a tuple `(base, path)` of such a
            model or folder and the file of a NeuronAdapter trained on it, whose deltas are added in float64 (merging
            rounds). Or a mapping task -> any of these, opened one after another: masks are then compared inside the
            model of each task (LX24 Figure 3): `{"a": (folder, "a.safetensors"), "b": (folder, "b.safetensors")}`.
        masks: name -> mask of hidden neurons or output units; two or more, or with `other` one or more.
        estimator: "masked", "mean" or "matched", as in estimators.py. "matched" holds a layer's neurons in float32.
        part: of hidden neurons, "gate", "up" (of an ungated FFN its input projection) or "down"; biases go with theirs.
        controls: how many random masks stand beside every mask; 0 gives no band, and reads of a checkpoint the masks'
            own neurons alone. Twenty twins of a 10 % mask together hold 88 % of a layer's neurons.
        seed: of the controls.
        other: compare each mask's parameters between `model` and this one: any of these, or the file of a NeuronAdapter
            trained on `model`; where that is itself `(base, path)`, give this one as `(base, path)` too.
        progress: called as `progress(iterable, description)` over layers, such as tqdm.

    Returns:
        ParameterSimilarity. Cosines in [-1, 1]; a layer where a mask is empty is NaN with a reason.

    Raises:
        MaskError: a mask of another model, of attention heads, or empty.
        NumericalError: a parameter that is read is NaN or infinite.
        ModelError: parameters that are not the model's own (TransformerBridge, PEFT, a live adapter), or out of reach.
        FileError: a checkpoint or an adapter that cannot be read.

    Example:
        >>> from neuroscope.models import load
        >>> mini = load("mini")
        >>> widths = {address: site.width for address, site in mini.sites().items()}
        >>> mask = NeuronMask.of({"blocks.0.mlp.hook_post": [1, 2, 3]}, widths)
        >>> found = parameter_similarity(mini, {"a": mask, "b": mask}, controls=0)
        >>> found.table["value"].round(6).tolist(), found.table["reason"].iloc[-1]
        ([1.0, nan, nan, nan], 'no neuron of a, b in this layer')
    """
    _check(estimator, part, controls, other)
    masks = {"mask": masks} if isinstance(masks, NeuronMask) else dict(masks)
    _check_masks(masks, model, 1 if other is not None else 2)
    drawn = {name: _with_controls(name, mask, controls, seed) for name, mask in masks.items()}
    settings = (estimator, part, controls, progress or _silent)
    if isinstance(model, Mapping):
        results = {name: _inside(model[name], name, drawn, other, settings) for name in model}
        if len({tuple(r.blocks) for r in results.values()}) > 1:
            raise ModelError(ASKED, "models of different depth", "give models of one architecture, one per task")
        about: dict[str, Any] = {name: r.about for name, r in results.items()}
        found = list(results.values())
    else:
        found = [_inside(model, None, drawn, other, settings)]
        about = found[0].about
    manifest = {
        "estimator": estimator,
        "part": part,
        "controls": controls,
        "seed": seed,
        "other": other is not None,
        "per_task": isinstance(model, Mapping),
        "source": about,
        "masks": {name: dict(mask.manifest) | {"neurons": len(mask)} for name, mask in masks.items()},
        "versions": files.versions(),
    }
    return _result(found, masks, manifest)


def _inside(model: Any, owner: str | None, drawn: Mapping[str, list[NeuronMask]], other: Any, settings: tuple) -> Found:
    """The pairs of one model: of all masks, or of the owner's and the others'; or each mask with itself."""
    estimator, part, controls, progress = settings
    names = list(drawn)
    if other is not None:
        pairs = [(name, name) for name in names if owner in (None, name)]
    else:
        pairs = list(combinations(names, 2)) if owner is None else [(owner, name) for name in names if name != owner]
    needed = [name for name in names if any(name in pair for pair in pairs)]
    sets = [mask for name in needed for mask in drawn[name]]
    places = {name: i * (controls + 1) for i, name in enumerate(needed)}
    source, second, blocks = _open(model, other, sets)
    measures = ["value"] if second is None else ["value", "delta", "relative"]
    shape = (len(pairs), len(blocks), controls + 1)
    cells = {measure: np.full(shape, np.nan) for measure in measures}
    wanted = [(places[a] + c, places[b] + c) for a, b in pairs for c in range(controls + 1)]
    for block in progress(blocks, ASKED if owner is None else f"{ASKED} in {owner}"):
        layer = Layer.of(source.read, block, sets, part, ASKED)
        if second is None:
            numbers = {"value": ESTIMATORS[estimator](layer, wanted)}
        else:
            theirs = Layer.of(second.read, _same(block, second, sets[0].unit), sets, part, ASKED)
            numbers = {m: v[[a for a, _ in wanted]] for m, v in change(layer, theirs).items()}
        for measure, found in numbers.items():
            cells[measure][:, block.depth] = found.reshape(len(pairs), controls + 1)
    about = {"model": source.about | _bytes(source)} | ({"other": second.about | _bytes(second)} if second else {})
    values, bands = ({m: v[..., at] for m, v in cells.items()} for at in (0, slice(1, None)))
    return Found(pairs, [b.name for b in blocks], values, bands, about)


def _open(model: Any, other: Any, sets: list[NeuronMask]) -> tuple[Source, Source | None, list[Block]]:
    source = open_source(model, ASKED)
    sites = source.model.sites(sets[0].unit)
    for mask in sets:
        mask.fits(sites, ASKED)
    if other is None:
        return source, None, blocks_of(sites)
    is_file = isinstance(other, (str, PathLike)) and Path(other).is_file()
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


def _with_controls(name: str, mask: NeuronMask, controls: int, seed: int) -> list[NeuronMask]:
    """The mask, and its random twins: of seeds that hold its name, so that equal masks get independent ones."""
    seeds = [int(files.digest(seed, name, control), 16) for control in range(controls)]
    return [mask, *(mask.random_like(seed=s, match="layer") for s in seeds)]


def _result(found: list[Found], masks: Mapping[str, NeuronMask], manifest: dict[str, Any]) -> ParameterSimilarity:
    pairs, blocks = [pair for f in found for pair in f.pairs], found[0].blocks
    values = {m: np.concatenate([f.values[m] for f in found]) for m in found[0].values}
    controls = {m: np.concatenate([f.controls[m] for f in found]) for m in values}
    side = slice(1, 2) if manifest["per_task"] else slice(0, 2)
    groups = {task: [i for i, pair in enumerate(pairs) if task in pair[side]] for task in masks}
    groups = {task: own for task, own in groups.items() if own} | {ALL: list(range(len(pairs)))}
    by_layer = {m: parameter_result.curves(groups, values[m], controls[m], blocks) for m in values}
    table = _table(pairs, blocks, masks, values, controls)
    return ParameterSimilarity(table, manifest | {"blocks": blocks, "by_layer": by_layer})


def _table(
    pairs: list[Pair], blocks: list[str], masks: Mapping[str, NeuronMask], values: dict[str, Floats],
    controls: dict[str, Floats],
) -> pd.DataFrame:  # fmt: skip
    import pandas as pd

    bands = {m: parameter_result.band(drawn) for m, drawn in controls.items()}
    counts = {name: _counts(mask, blocks) for name, mask in masks.items()}
    rows = []
    for i, (a, b) in enumerate(pairs):
        shared = _counts(masks[a] & masks[b], blocks)
        for layer, block in enumerate(blocks):
            row = {"a": a, "b": b, "block": block, "layer": layer}
            row |= {"neurons_a": counts[a][block], "neurons_b": counts[b][block], "shared": shared[block]}
            for m, (low, high) in bands.items():
                before = "" if m == "value" else f"{m}_"
                row |= {m: values[m][i, layer], f"{before}low": low[i, layer], f"{before}high": high[i, layer]}
            rows.append(row | {"reason": _reason(row)})
    return pd.DataFrame(rows)


def _counts(mask: NeuronMask, blocks: list[str]) -> dict[str, int]:
    """Neurons of the mask in every layer."""
    found = dict.fromkeys(blocks, 0)
    for address, neurons in mask.items():
        found[".".join(address.split(".")[:2])] += len(neurons)
    return found


def _reason(row: Mapping[str, Any]) -> str:
    """Why there is no value."""
    if np.isfinite(row["value"]):
        return ""
    empty = dict.fromkeys(row[side] for side in ("a", "b") if row[f"neurons_{side}"] == 0)
    return f"no neuron of {', '.join(empty)} in this layer" if empty else "all parameters are zero"


def _check(estimator: str, part: str, controls: int, other: Any) -> None:
    choose(estimator, ESTIMATORS, "estimator")
    choose(part, PARTS, "part")
    if isinstance(controls, bool) or not isinstance(controls, int) or controls < 0:
        raise ArgumentError(f"controls={controls!r}", "not a number of random masks", "give 0 or more, such as 20")
    if other is not None and estimator != "masked":
        found = "two models, between which a mask's neurons are compared in place"
        raise ArgumentError(f"estimator={estimator!r}", found, "take estimator='masked'")


def _check_masks(masks: Mapping[str, NeuronMask], model: Any, least: int) -> None:
    wrong = [name for name, mask in masks.items() if not isinstance(mask, NeuronMask)]
    if wrong or len(masks) < least:
        found = f"a {type(masks[wrong[0]]).__name__} for {wrong[0]!r}" if wrong else f"{len(masks)} mask(s)"
        raise ArgumentError(ASKED, found, f"give {least} or more, name -> NeuronMask, such as scores.top(0.10)")
    first, *others = masks.values()
    if first.unit not in ("hidden", "output"):
        raise MaskError(ASKED, f"masks of {first.unit} neurons", "give masks of hidden neurons or output units")
    if any(dict(m.widths) != dict(first.widths) or m.unit != first.unit for m in others):
        raise MaskError(ASKED, "masks of different models or units", "compare masks found on one model")
    empty = [name for name, mask in masks.items() if not len(mask)]
    if empty:
        raise MaskError(ASKED, f"no neuron in {empty[0]!r}", "give masks with at least one neuron")
    if isinstance(model, Mapping):
        for name in model:
            choose(name, masks, "mask")
        if not model:
            raise ArgumentError(ASKED, "no model", "give a model per task, or one model")


def _silent(items: Iterable[Any], description: str) -> Iterable[Any]:
    return items
