"""What can be known of a mask, part by part: which numbers a part has, and what measures it.

Evidence is a dict: name of a part -> its fields, all of them plain values that JSON can say, so that a mask's file can
carry it. A result that knows something of a mask answers `result.about(mask)` with parts, made by `evidence_of`;
`checked` holds them to the table below, and `of_file` takes of a file what the table knows. To add a part, add its
row.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from neuroscope.arrays import json_plain
from neuroscope.checks import by_text, text_of
from neuroscope.errors import ArgumentError, brief, kind_of
from neuroscope.masks.draws import DRAWN
from neuroscope.masks.per_neuron import PerNeuron

Evidence: TypeAlias = dict[str, dict[str, Any]]
Kind = Literal["number", "text", "texts"]
ALWAYS: dict[str, Kind] = {"task": "text", "measured": "text", "fingerprint": "text", "interventions": "texts"}
CUT = {
    "k",
    "count",
    "per_layer",
    "asked",
    "eligible",
    "tied",
    "by_position",
}  # what a mask says that was cut by scores.top(k)
RECIPE = ("method", "objective", "reduction", "sign", "options", "skip_first", "split", "data_hash", "fingerprint")


class Witness(Protocol):
    """A result that knows something of masks."""

    def about(self, mask: Any) -> Evidence: ...


@dataclass(frozen=True)
class Part:
    """One kind of evidence.

    Attributes:
        title: what it is, in a few words.
        how: the call that measures it, where it is missing; `{k}` is the mask's share of the neurons.
        fields: name -> kind of value, besides those that every part has: the task, the day on which its numbers were
            put together, the fingerprint of the model's weights, and what was live on it. A number may be None.
    """

    title: str
    how: str
    fields: Mapping[str, Kind]


def _kinds(numbers: tuple[str, ...], texts: tuple[str, ...] = ()) -> dict[str, Kind]:
    kinds: dict[str, Kind] = dict.fromkeys(numbers, "number")
    return kinds | dict.fromkeys(texts, "text")


VERDICT_NUMBERS = (
    "selectivity", "selectivity_low", "breaks", "strongest_effect", "column_low", "breaks_most_effect", "row_low",
)  # fmt: skip
# q: among the tests of this kind of random masks; q_all: of the largest p of all kinds measured, which the claim is
_EFFECT = ("score", "original", "control", "effect", "low", "high", "p", "q", "q_all", "tests", "n", "n_random")
_CROSSED = "ns.cross_ablation(model, tasks, masks)"
_HOW = {"layer": _CROSSED} | {match: f'{_CROSSED[:-1]}, match="{match}")' for match in ("activation", "uniform")}

PARTS: dict[str, Part] = {
    f"effect-{match}": Part(f"beside {DRAWN[match]}", how, _kinds(_EFFECT, ("value",))) for match, how in _HOW.items()
} | {
    "verdict": Part(
        "is it the task's own",
        f"{_CROSSED}, with tasks of other families",
        _kinds((*VERDICT_NUMBERS, "tasks"), ("verdict", "match", "strongest", "breaks_most")),
    ),
    "neutral": Part(
        "loss on neutral text",
        f"{_CROSSED}, with `neutral=` texts where the model has none of its own",
        _kinds(("loss", "random", "original", "low", "high", "q"), ("texts", "match")),
    ),
    "stability": Part(
        "how far it replicates",
        "ns.stability(model, tasks, k=[{k}])",
        _kinds(("k", "ceiling", "chance", "examples", "half", "full")),
    ),
    "minimal": Part(
        "how few neurons suffice",
        "ns.faithfulness(model, tasks, scores)",
        _kinds(
            ("share", "k", "neurons", "only", "low", "high", "random", "largest", "n", "n_random"),
            ("value", "match", "why"),
        ),
    ),
}


def evidence_of(name: str, manifest: Mapping[str, Any], task: str, **fields: Any) -> Evidence:
    """One part, of a result with that manifest: numbers as Python's own, missing ones as None."""
    about = {"task": task, "measured": manifest.get("measured", ""), "fingerprint": manifest.get("fingerprint", "")}
    about["interventions"] = [str(text) for text in manifest.get("interventions", [])]
    given = {field: None if str(value) == "<NA>" else value for field, value in fields.items()}  # of whole numbers
    return checked({name: {**about, **given}})


def checked(evidence: Any, asked: str = "evidence") -> Evidence:
    """Evidence as a dict of its own.

    Raises:
        ArgumentError: parts or fields that there are not, or values of another kind.
    """
    do = "leave it to mask.with_evidence(result, ...)"
    return {name: _fields(name, of, asked, do) for name, of in by_text(evidence, asked, do).items()}


def of_file(evidence: Any, path: Any) -> Evidence:
    """What of a file's evidence this version knows, which may be less than what it was written with.

    What it does not know is left out, and a field that it knows and the file does not have is unknown (None, or no
    text): the mask is worth more than its card. A warning names both.
    """
    known, strange = dict[str, dict[str, Any]](), list[str]()
    for name, of in evidence.items() if isinstance(evidence, Mapping) else [("evidence", evidence)]:
        if name not in PARTS or not isinstance(of, Mapping):
            strange.append(str(name))
            continue
        kinds = {**ALWAYS, **PARTS[name].fields}
        fields: dict[str, Any] = {}
        for field, kind in kinds.items():
            try:
                fields[field] = _value(of[field], kind, field, "")
            except (KeyError, ArgumentError):  # not there, or of another kind
                fields[field] = _UNKNOWN[kind]()
                strange.append(f"{name}.{field}")
        strange += [f"{name}.{field}" for field in of if field not in kinds]
        known[name] = fields
    if strange:
        text = f"the evidence in {path} is of another version; left out or unknown: {brief(strange)}"
        warnings.warn(f"{text}. Measure again with mask.with_evidence(result, ...)", stacklevel=5)
    return known


_UNKNOWN: dict[Kind, Callable[[], Any]] = {"number": lambda: None, "text": str, "texts": list}


def _fields(name: str, of: Any, asked: str, do: str) -> dict[str, Any]:
    if name not in PARTS:
        raise ArgumentError(asked, f"{brief(name)} for a part; there are {', '.join(PARTS)}", do)
    kinds = {**ALWAYS, **PARTS[name].fields}
    given = by_text(of, f"{asked}[{name!r}]", do)
    if set(given) != set(kinds):
        wrong = sorted(set(given) ^ set(kinds))
        raise ArgumentError(f"{asked}[{name!r}]", f"other fields than it has: {brief(wrong)}", do)
    return {field: _value(given[field], kind, f"{asked}[{name!r}][{field!r}]", do) for field, kind in kinds.items()}


def _value(value: Any, kind: Kind, asked: str, do: str) -> Any:
    if kind == "text":
        return text_of(value, asked)
    if kind == "texts":
        if not isinstance(value, list | tuple):
            raise ArgumentError(asked, f"{kind_of(value)}, not a list of texts", do)
        return [text_of(text, asked) for text in value]
    number = json_plain(value, lambda other: other)
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ArgumentError(asked, f"{kind_of(value)}, not a number", do)
    return number


def name_in(manifest: Mapping[str, Any], mask: PerNeuron, identity: str, asked: str) -> str:
    """Under which name a result has measured just these neurons.

    Raises:
        ArgumentError: under none: it measured others.
    """
    names = [name for name, known in manifest.get("identities", {}).items() if known == identity]
    own = mask.manifest.get("task")
    if not names:
        found = f"masks of {', '.join(manifest.get('sizes', {})) or 'an unknown kind'}, none of just these neurons"
        raise ArgumentError(asked, found, "give the result of a call with this very mask")
    return str(own) if own in names else names[0]


def same_recipe(mask: PerNeuron, scored: Mapping[str, Any], *more: str) -> bool:
    """Whether a mask was found as scores with this manifest were: way, data and model; and what else is named."""
    return all(mask.manifest.get(key) == scored.get(key) for key in (*RECIPE, *more))


def is_top(mask: PerNeuron) -> bool:
    """Whether a mask has the most relevant neurons of the whole model, so many of them."""
    selection = mask.manifest.get("selection")
    return isinstance(selection, Mapping) and not selection.get("per_layer") and not set(selection) - CUT
