"""LAPE: masks in the format of its authors, and by their rule."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

import torch

from neuroscope import files
from neuroscope.checks import names_of, public, whole
from neuroscope.checks import share as share_of
from neuroscope.errors import ArgumentError, ByName, FileError, MaskError
from neuroscope.masks import NeuronMask, Scores, masks_of, scores_of


@public
def load_lape(path: str | PathLike, *, names: Sequence[str], width: int) -> dict[str, NeuronMask]:
    """Read published language-specific neurons (Tang et al. 2024), without unpickling.

    Args:
        path: their `.neuron.pth`: a list over languages of a list over layers of LongTensors of hidden neurons.
        names: the languages, in the file's order.
        width: FFN width of the model (Llama-2-7b: 11008).

    Raises:
        FileError: not such a file, or another number of languages.
    """
    names, width, asked = list(names_of(names, "names")), whole(width, "width", 1), f"read LAPE masks from {path}"
    path = files.path_of(path, "read LAPE masks")
    try:
        languages = torch.load(path, weights_only=True, map_location="cpu")
        layers = {len(language) for language in languages}
        tensors_inside = all(torch.is_tensor(layer) for language in languages for layer in language)
    except Exception as error:  # a broken pickle raises nearly anything
        text = str(error).partition("\n")[0]
        raise FileError(asked, f"{type(error).__name__}: {text}", "check the path") from None
    if len(layers) != 1 or not tensors_inside or not isinstance(languages, list):
        raise FileError(asked, "something else than a list of languages of layers", "give a LAPE .neuron.pth file")
    if len(languages) != len(names):
        found = f"{len(languages)} languages for {len(names)} different names"
        raise FileError(asked, found, "give a name for each, in order")
    widths = {f"blocks.{i}.mlp.hook_post": width for i in range(layers.pop())}
    masks: dict[str, NeuronMask] = ByName()
    for name, language in zip(names, languages, strict=True):
        about = {"method": "lape", "task": name}
        try:
            masks[name] = NeuronMask.of(dict(zip(widths, language, strict=True)), widths, manifest=about)
        except MaskError as error:
            do = "check the width, and the file"
            raise FileError(asked, f"{error.asked} for {name!r}: {error.found}", do) from None
    return masks


@public
def save_lape(masks: Mapping[str, NeuronMask], path: str | PathLike) -> Path:
    """Write masks in LAPE's `.neuron.pth` format: languages in the mapping's order.

    Raises:
        ArgumentError: no dict of masks.
        MaskError: neurons that the format has no place for (experts, output units, heads, encoders).
    """
    masks = masks_of(masks, "save_lape")
    for name, mask in masks.items():
        plain = [f"blocks.{i}.mlp.hook_post" for i in range(len(mask.widths))]
        if list(mask.widths) != plain:
            other = next(a for a, b in zip(mask.widths, plain, strict=True) if a != b)
            raise MaskError(
                f"write {name!r} as LAPE masks", f"a site {other}", "use mask.save(path), which keeps any site"
            )
    languages = [list(mask.values()) for mask in masks.values()]
    return files.write(path, lambda partial: torch.save(languages, partial))


@public
def lape_masks(scores: Mapping[str, Scores], share: float = 0.01) -> dict[str, NeuronMask]:
    """The masks that LAPE's own rule chooses, for all tasks at once (Tang et al. 2024, §2.2, and their `identify.py`).

    1. A neuron is eligible where the probability that it is active is above the bar in one task or more: strictly above
       the `quantile` of all probabilities that `attribute` was given (95 %).
    2. Of those, the ones with the lowest entropy are chosen, once for all tasks together: `share` of *all* neurons.
    3. A chosen neuron belongs to every task in which its probability is above the bar.

    So masks differ in size, a neuron may be in several, and a task may have none, with a warning. `Scores.top` is
    another rule: as many neurons for each task. Equal entropies at the cut are taken in forward order.

    Args:
        scores: name -> Scores, all those of one call of `attribute(model, tasks, method="lape")`.
        share: how many neurons are chosen, of all (the paper: 0.01; the authors' code for Llama-2-70b: 0.05).

    Returns:
        Task -> NeuronMask; `save_lape` writes them in the authors' format.

    Raises:
        ArgumentError: scores of another method, or not all of one call.

    Example:
        >>> scores = attribute(model, tasks, method="lape")  # doctest: +SKIP
        >>> lape_masks(scores)  # doctest: +SKIP
        {'en': NeuronMask(9 of 2,048 hidden neurons for en, 0.4%), 'zh': ...}
    """
    named, share = scores_of(scores, "lape_masks"), share_of(share, "share")
    _refuse_others(named)
    vectors = torch.stack([s.vector().cpu() for s in named.values()])
    specific = vectors.amax(0)  # log(number of tasks) - entropy, the same in every task where it is not negative
    asked = max(1, round(share * len(specific)))
    order = specific.sort(descending=True, stable=True).indices[:asked]
    chosen = torch.zeros(len(specific), dtype=torch.bool)
    chosen[order] = True
    rule = {"rule": "lape", "share": share, "asked": asked, "eligible": int((specific >= 0).sum())}
    masks: dict[str, NeuronMask] = ByName()
    for (name, one), vector in zip(named.items(), vectors, strict=True):
        flags = (chosen & (vector >= 0)).split(list(one.widths.values()))
        neurons = {a: f.nonzero().flatten() for a, f in zip(one.widths, flags, strict=True)}
        masks[name] = NeuronMask(neurons, one.widths, one.unit, {**one.manifest, "selection": rule}, one.means)
    empty = [name for name, mask in masks.items() if not len(mask)]
    if empty:
        text = f"LAPE chooses no neuron for {', '.join(map(repr, empty))}: {rule['eligible']:,} of {len(specific):,}"
        warnings.warn(f"{text} are above the bar in any task, and {asked:,} were to be chosen", stacklevel=3)
    return masks


def _refuse_others(named: Mapping[str, Scores]) -> None:
    """Only what one call of LAPE gave can be ranked together."""
    asked, do = "lape_masks", 'give all that one call of attribute(model, tasks, method="lape") returned'
    for name, one in named.items():
        if one.manifest.get("method") != "lape":
            raise ArgumentError(asked, f"scores by {one.manifest.get('method')!r} for {name!r}", do)
        if sorted(one.manifest.get("together", [])) != sorted(named):
            found = f"scores of {', '.join(map(repr, named))}; {name!r} was scored with "
            raise ArgumentError(asked, found + ", ".join(map(repr, one.manifest.get("together", []))), do)
    vectors = torch.stack([s.vector().cpu() for s in named.values()])
    apart = torch.where(vectors >= 0, vectors, vectors.amax(0)) != vectors.amax(0)
    if apart.any():
        raise ArgumentError(asked, "scores of several calls", do)
