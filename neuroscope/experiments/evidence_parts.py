"""What results of judging masks know of one of them: parts of its evidence card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neuroscope.experiments.neutrality import Neutrality
from neuroscope.masks import NeuronMask, check_mask
from neuroscope.masks.evidence import Evidence, evidence_of, name_in


def measured_as(manifest: Mapping[str, Any], mask: object, asked: str) -> str:
    """Under which name a result has measured just this mask.

    Raises:
        ArgumentError: no mask, or one that it did not measure.
    """
    check_mask(mask, asked)
    assert isinstance(mask, NeuronMask)
    return name_in(manifest, mask, mask.identity, asked)


def effect_part(match: str, manifest: Mapping[str, Any], task: str, row: Mapping[str, Any], tests: int) -> Evidence:
    """What switching the mask off does to its task, beside one kind of random masks.

    Args:
        match: how these were drawn.
        row: score, original, control, effect and n; low, high, p and q where they are known; q_all where all kinds of
            random masks were measured: of the largest of their p.
        tests: how many tests q corrects over.
    """
    numbers = {
        name: row.get(name)
        for name in ("score", "original", "control", "effect", "low", "high", "p", "q", "q_all", "n")
    }
    about = {"tests": tests, "n_random": manifest.get("n_random"), "value": str(manifest.get("value", "zero"))}
    return evidence_of(f"effect-{match}", manifest, task, **numbers, **about)


def neutral_part(match: str, manifest: Mapping[str, Any], task: str, neutrality: Neutrality) -> Evidence:
    """What switching the mask off does to the loss on neutral text; nothing where that was left out."""
    row = neutrality.rows.loc[task]
    if row["neutral"] != row["neutral"]:
        return {}
    numbers = {name: row[f"neutral_{name}"] for name in ("random", "original", "low", "high", "q")}
    texts = str(neutrality.texts.get("texts", "given"))
    return evidence_of("neutral", manifest, task, match=match, texts=texts, loss=row["neutral"], **numbers)
