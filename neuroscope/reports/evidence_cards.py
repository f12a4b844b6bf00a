"""What the main job knows of each mask: put together from its results, kept in the masks' files, shown as cards."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroscope import files
from neuroscope.attribution import Stability, stability
from neuroscope.errors import NeuroscopeError
from neuroscope.masks import DRAWN, EvidenceCard, NeuronMask
from neuroscope.models import Model
from neuroscope.results import Result, Section
from neuroscope.tasks import Task

if TYPE_CHECKING:
    import pandas as pd

REPLICATES = "stability.json"  # in the output folder: how far the masks replicate
WITNESSES = ("cross_ablation", "deactivation", "stability", "faithfulness")  # results that know something of masks
EFFECT = ["effect", "low", "high", "q"]  # beside the random masks of the same layers


def replication(
    model: Model, tasks: Mapping[str, Task], k: float, parts: int, folder: Path, *, examples: int | None, **how: Any
) -> Stability | None:
    """How far masks of these tasks replicate; None where a task has fewer examples than parts. Kept in the folder.

    The folder belongs to one set of settings, so that what is there is what would be measured.
    """
    if any(len(task.split("discovery", examples)) < parts for task in tasks.values()):
        return None
    path = folder / REPLICATES
    with contextlib.suppress(NeuroscopeError):  # not there, or damaged: made now
        return Stability.load(path)
    found = stability(model, tasks, k=(k,), parts=parts, examples=examples, **how)
    found.save(path)
    return found


def keep(masks: Mapping[str, NeuronMask], folder: Path) -> None:
    """Write the masks that have no file yet, so that what is known of them already stays."""
    for name, mask in masks.items():
        if _kept(mask, _path(folder, name)) is None:
            mask.save(_path(folder, name))


def with_evidence(
    masks: Mapping[str, NeuronMask], results: Mapping[str, Result], folder: Path
) -> dict[str, NeuronMask]:
    """The masks with what results of the main job know of them, each written to its file.

    A file that has the same already is left alone: so a second run, on another day, keeps the day of the first.
    """
    known = {}
    for name, mask in masks.items():
        known[name] = mask.with_evidence(*(results[key] for key in WITNESSES if key in results))
        before = _kept(mask, _path(folder, name))
        if before is not None and _undated(before) == _undated(known[name]):
            known[name] = before
        else:
            known[name].save(_path(folder, name))
    return known


def _path(folder: Path, name: str) -> Path:
    return folder / f"{files.encoded(name)}.safetensors"


def _kept(mask: NeuronMask, path: Path) -> NeuronMask | None:
    """The same neurons in a file; None where there are none, or it is damaged."""
    with contextlib.suppress(NeuroscopeError):
        before = NeuronMask.load(path)
        return before if before == mask else None
    return None


def _undated(mask: NeuronMask) -> dict[str, dict[str, Any]]:
    return {name: {**of, "measured": ""} for name, of in mask.evidence.items()}


def cards_section(masks: Mapping[str, NeuronMask]) -> Section:
    """A card for every mask: the most telling numbers of all side by side, then every card in full, folded."""
    import pandas as pd  # heavy: only where a table is made

    cards = {name: mask.card() for name, mask in masks.items()}
    unknown = {part for card in cards.values() for part in card.unknown}
    whole = sum(not card.unknown for card in cards.values())
    lines = [
        f"What is known of each mask is on its card: of **{whole} of {len(cards)}** masks every part was measured.\n",
        "- The card is in the mask's file too: `ns.NeuronMask.load(path).card()`.",
        "- What was not measured says how it would be." if unknown else "",
    ]
    caption = f"By mask (effect: share of score lost beyond {DRAWN['layer']}; ceiling: of overlap)"
    tables: list[tuple[str, pd.DataFrame]] = [(caption, pd.DataFrame([_row(n, c) for n, c in cards.items()]))]
    tables += [(f"{card.title}: {name}", card.to_frame()) for name, card in cards.items()]
    return Section("Evidence cards", "\n".join(line for line in lines if line), tables=tables)


def _row(name: str, card: EvidenceCard) -> dict[str, Any]:
    """What a mask's row says: size, effect beside the random masks of its layers, verdict, ceiling, smallest size."""
    known = card.evidence
    effect, verdict = known.get("effect-layer", {}), known.get("verdict", {})
    replicates, minimal = known.get("stability", {}), known.get("minimal", {})
    return {
        "mask": name,
        "neurons": card.manifest["neurons"],
        **{key: effect.get(key) for key in EFFECT},
        "verdict": verdict.get("verdict", "not measured"),
        "selectivity": verdict.get("selectivity"),
        "ceiling": replicates.get("ceiling"),
        "sufficient k": minimal.get("k"),
    }
