"""`neuroscope mask show`, `mask diff` and `mask convert`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroscope import files
from neuroscope.command_line.call import Answer, Call
from neuroscope.errors import ArgumentError

if TYPE_CHECKING:
    from neuroscope.masks import NeuronMask

LAPE = "neuroscope.interop.lape:load_lape"
FORMATS = (".safetensors", ".json")


def show(call: Call, *, masks: Sequence[str] = ()) -> Answer:
    """Evidence cards.

    Args:
        masks: files of masks, or a folder of them.
    """
    del masks  # read by the call
    cards = {name: mask.card() for name, mask in call.masks().items()}
    text = "\n".join(card.to_markdown() for card in cards.values()).rstrip()
    return Answer(text, {"cards": {name: card.to_dict() | {"facts": card.to_frame()} for name, card in cards.items()}})


def diff(call: Call, *, a: str | None = None, b: str | None = None) -> Answer:
    """Two masks beside each other.

    Args:
        a: the file of a mask.
        b: the file of another one of the same model.
    """
    from neuroscope.masks import NeuronMask, overlap

    one, other = (NeuronMask.load(path) for path in [_named(call, "a"), _named(call, "b")])
    pair = overlap({"a": one, "b": other}).to_frame().iloc[0].to_dict()
    layers = [_of_site(one, other, address) for address in one.widths]
    differ = {"only_a": _written(one - other), "only_b": _written(other - one)}
    numbers = {**pair, "a": len(one), "b": len(other), "of": sum(one.widths.values())}
    jaccard = "no neuron in either" if math.isnan(pair["jaccard"]) else f"Jaccard {pair['jaccard']:.3f}"
    lines = [
        f"a: {one!r}  {a}",
        f"b: {other!r}  {b}",
        f"shared: {int(pair['shared']):,} neurons, {jaccard}; by chance in the same layers {pair['chance_layer']:.3f}, "
        f"uniformly {pair['chance_uniform']:.3f}; p {pair['p']:.2g}",
        "",
        f"{'site':28} {'a':>6} {'b':>6} {'shared':>6} {'expected':>8} {'of':>6}",
        *(
            f"{row['site']:28} {row['a']:6} {row['b']:6} {row['shared']:6} {row['expected']:8.1f} {row['of']:6}"
            for row in layers
        ),
    ]
    return Answer("\n".join(lines), {"numbers": numbers, "layers": layers, **differ})


def _named(call: Call, name: str) -> str:
    if not call.given.get(name):
        raise ArgumentError("neuroscope mask diff", f"no {name.upper()}", "give two files of masks")
    return str(call.given[name])


def _of_site(one: NeuronMask, other: NeuronMask, address: str) -> dict[str, Any]:
    a, b, width = set(one[address].tolist()), set(other[address].tolist()), one.widths[address]
    expected = len(a) * len(b) / width if width else 0.0
    return {"site": address, "a": len(a), "b": len(b), "shared": len(a & b), "expected": expected, "of": width}


def _written(mask: NeuronMask) -> dict[str, list[int]]:
    return {address: neurons.tolist() for address, neurons in mask.items() if len(neurons)}


def convert(call: Call, *, source: str | None = None, target: str | None = None) -> Answer:
    """A mask in another format.

    Args:
        source: a mask: .safetensors, .json, or LAPE's .pth, which is read without unpickling.
        target: the file to write, .safetensors or .json; of a .pth a folder.
    """
    from neuroscope.interop import load_lape
    from neuroscope.masks import NeuronMask
    from neuroscope.masks.json_file import save_json

    if source is None or target is None:
        raise ArgumentError("neuroscope mask convert", "no two paths", "give a mask, and the file to write")
    how = call.of(LAPE)
    is_lape = Path(source).suffix == ".pth"
    if is_lape and set(how) != {"names", "width"}:
        missing = " and ".join(f"--{name}" for name in ("names", "width") if name not in how)
        raise ArgumentError(f"mask convert {source}", f"no {missing}", "a .pth file has neither: give both")
    if not is_lape and how:
        raise ArgumentError(f"--{next(iter(how))} with {source}", "a file that says it itself", "leave it out")
    masks = load_lape(source, **how) if is_lape else {"": NeuronMask.load(source)}
    kind = Path(target).suffix
    if not is_lape and kind not in FORMATS:
        raise ArgumentError(f"mask convert {source} {target}", f"the ending {kind or 'of no kind'!r}",
                            f"end the file in {' or '.join(FORMATS)}")  # fmt: skip
    lost: list[str] = []
    paths: list[Path] = []
    for name, mask in masks.items():
        path = Path(target) / f"{files.encoded(name)}.safetensors" if is_lape else Path(target)
        if path.suffix == ".json":
            lost = [part for part in ("evidence", "means", "norms") if getattr(mask, part)]
        paths.append((save_json(mask, path) if path.suffix == ".json" else mask.save(path)).resolve())
    text = "\n".join(map(str, paths))
    note = f"left out, which JSON does not hold: {', '.join(lost)}"
    if lost:
        call.say(note, always=True)
    return Answer(text, {"written": paths, "left_out": lost})
