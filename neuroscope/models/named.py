"""Sites named by hand, for models in which discovery does not find them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from neuroscope.errors import ArgumentError, ModelError, choose, suggest
from neuroscope.models.discovery import Reader
from neuroscope.models.packed import is_packed
from neuroscope.models.running import PROBE, runs
from neuroscope.models.sites import Rows, Side, Site, edit

NAMEABLE = ("hidden", "output")
LAYER = "{layer}"
HOW = 'give sites={"hidden": "blocks.{layer}.mlp.fc2"} (the module whose input is the neurons), a list of such names, '
HOW += 'or ("blocks.{layer}.mlp.act", "output")'


def named_readers(base: Any, sites: Mapping[str, Any], inputs: dict[str, Tensor]) -> dict[str, list[Reader]]:
    """The modules that the user named, by unit, measured by one tiny forward pass.

    Raises:
        ArgumentError: no such unit or module, or not a name.
        ModelError: a module that is not run once in a pass, or on another thing than a vector per token.
    """
    if not isinstance(sites, Mapping) or not sites:
        raise ArgumentError(f"sites={sites!r}", "not a mapping from a unit to modules", HOW)
    found = {choose(unit, NAMEABLE, "unit of sites"): _modules(base, unit, named) for unit, named in sites.items()}
    places = [Site(path, path, m, 0, layer, side=side) for ms in found.values() for path, m, layer, side in ms]
    shapes: dict[tuple[str, Side], list[torch.Size]] = {}

    def measure(site: Site, h: Any, tokens: Any) -> None:
        shapes.setdefault((site.path, site.side), []).append(h.shape if torch.is_tensor(h) else torch.Size())

    with torch.no_grad(), runs("find the sites named by hand"), edit(places, measure):
        base(**inputs)
    return {unit: [_reader(*place, shapes.get((place[0], place[3]), [])) for place in ms] for unit, ms in found.items()}


def _modules(base: nn.Module, unit: str, named: Any) -> list[tuple[str, nn.Module, int, Side]]:
    """Path, module, layer and side of every module that was named."""
    side: Side = "input" if unit == "hidden" else "output"
    if isinstance(named, tuple) and len(named) == 2:
        named, side = named[0], choose(named[1], get_args(Side), f"side of {named[0]!r}")
    several = not isinstance(named, str)
    listed = list(named) if isinstance(named, Sequence) and several else [named]
    if not listed or not all(isinstance(name, str) for name in listed):
        raise ArgumentError(f"sites={{{unit!r}: {named!r}}}", "not a name or a list of names", HOW)
    known = {path: m for path, m in base.named_modules() if path}
    places: list[tuple[str, nn.Module, int, Side]] = []
    for name in listed:
        pattern = re.compile(re.escape(name).replace(re.escape(LAYER), r"(\d+)"))
        matches = [(path, match) for path in known if (match := pattern.fullmatch(path))]
        if not matches:
            patterns = dict.fromkeys(re.sub(r"(^|\.)\d+(?=\.|$)", rf"\1{LAYER}", path) for path in known)
            options = list(patterns) if LAYER in name else list(known)
            near = suggest(name, options)
            near = near if len(options) <= 20 else near.partition("choose")[0].removesuffix(" or ").strip()
            raise ArgumentError(
                f"sites={{{unit!r}: {name!r}}}", "no module of that name", near + "; " * bool(near) + HOW
            )
        for path, match in matches:
            layer = int(match[1]) if match.groups() and not several else len(places)
            places.append((path, known[path], layer, side))
    return sorted(places, key=lambda place: place[2])


def _reader(path: str, module: Any, layer: int, side: Side, shapes: list[torch.Size]) -> Reader:
    asked, what = f"name the site {path}", f"its {side}"
    if len(shapes) != 1:
        found = f"a module that is run {len(shapes)} times in a forward pass"
        do = "give a module that is run once" + (", such as a copy (copy.deepcopy) for each block" if shapes else "")
        raise ModelError(asked, found, do)
    shape = shapes[0]
    is_first = len(shape) == 3 and (isinstance(module, nn.Conv1d) or shape[1] != PROBE) and shape[2] == PROBE
    if not is_first and (len(shape) not in (2, 3) or shape[:-1].numel() != PROBE):
        found = f"{what} of shape {tuple(shape)} where {PROBE} tokens were given"
        raise ModelError(asked, found, "give a module that has a vector per token, [batch, pos, neuron], there")
    width = shape[1] if is_first else shape[-1]
    weight: Any = getattr(module, "weight", None)
    is_map = isinstance(weight, nn.Parameter) and not is_packed(weight) and weight.ndim == 2 and side == "input"
    rows = (Rows(weight, 0 if hasattr(module, "nf") else 1, width),) if is_map and width in weight.shape else ()
    return Reader(path, module, rows, width, layer=layer, side=side, channels_first=is_first)
