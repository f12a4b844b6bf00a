"""All that is known of neurons, as one table and as plain data of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope.arrays import json_plain
from neuroscope.masks import NeuronMask
from neuroscope.masks.neuron_names import layer_of
from neuroscope.reading.cards import breaking, similar
from neuroscope.reading.cards.active_together import Near
from neuroscope.reading.cards.breaking import Lost, with_q
from neuroscope.reading.cards.firing import Firing
from neuroscope.reading.cards.neuron_card import lost_in
from neuroscope.reading.cards.pasting import code_for
from neuroscope.reading.cards.replicating import Use
from neuroscope.reading.cards.subject import Place, Subject
from neuroscope.reading.directions_result import READS, Directions
from neuroscope.statistics import ALPHA

if TYPE_CHECKING:
    import pandas as pd

WRITES = "Logits per unit of activation (negative activations write the opposite), less their mean; the norms' scales "
WRITES += "are frozen at typical inputs, and what later layers make of it is left out."
READ = "Each token's normed embedding, by itself, times the neuron's {} weights."
NUMBERS = (
    "score", "rank", "effect", "low", "high", "sign_q", "random", "random_low", "random_high", "p", "q", "mask_effect",
    "share", "rank_low", "rank_high", "selected", "activation",
)  # fmt: skip
ABOUT = ("neuron", "address", "layer", "index", "task")
NEAREST = 5  # neurons of each kind that a card names, at most
Row = dict[str, Any]


@dataclass(frozen=True)
class Known:
    """What was found.

    Attributes:
        uses: by task, how it uses every neuron.
        masks: by name, those that may hold a neuron.
        firing: where neurons fire.
        near: "activation" and "tasks" -> neuron -> the nearest ones.
        weights: what they write and read.
        breaks: by task, what it loses.
        missing: what was left out -> why.
        after: firing and breaks with an adapter on.
    """

    uses: Mapping[str, Use]
    masks: Mapping[str, NeuronMask]
    firing: Firing
    near: Mapping[str, Mapping[Place, Near]]
    weights: Directions | None
    breaks: Mapping[str, Lost]
    missing: Mapping[str, str]
    after: tuple[Firing, Mapping[str, Lost]] | None = None


def cards_and_table(subject: Subject, known: Known) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """A row per neuron and task, and a card per neuron, in the order of their best rank."""
    import pandas as pd  # heavy: only where a table is made

    rows = _rows(subject, known)
    every = [row for of_neuron in rows.values() for row in of_neuron]
    with_q(every)
    for row in every:
        row["sign"] = _sign(row)
    own = str(subject.mask.manifest.get("task"))
    ranks = {
        place: [row["rank"] for row in of if "rank" in row and own in (row["task"], "None")]
        for place, of in rows.items()
    }
    ranks = {place: found or [row["rank"] for row in rows[place] if "rank" in row] for place, found in ranks.items()}
    order = sorted(rows, key=lambda place: min(ranks[place], default=0))
    names = dict(zip(subject.places, subject.names, strict=True))
    cards = [_card(subject, known, place, names[place], rows[place]) for place in order]
    after = ("activation_after", "effect_after") if known.after is not None else ()
    table = pd.DataFrame([row for place in order for row in rows[place]], columns=[*ABOUT, *NUMBERS, "sign", *after])
    numbers = [*NUMBERS, *after]
    return table.astype(dict.fromkeys(numbers, float)).astype({"sign": int}), cards


def _rows(subject: Subject, known: Known) -> dict[Place, list[Row]]:
    """Of every neuron, a row for each task, and for texts of no task."""
    k = len(subject.mask) / sum(subject.mask.widths.values())
    of_task = {name: use.rows(subject.flat, k, subject.seed) for name, use in known.uses.items()}
    tasks = list(dict.fromkeys([*subject.tasks, *known.uses, *map(str, known.firing.acts.table["task"].unique())]))
    rows: dict[Place, list[Row]] = {}
    for i, (place, name) in enumerate(zip(subject.places, subject.names, strict=True)):
        means = known.firing.means(name)
        rows[place] = []
        for task in tasks:
            about = (name, place[0], layer_of(place[0]), place[1], task)
            row: Row = dict(zip(ABOUT, about, strict=True)) | {"activation": means.get(task, np.nan)}
            row |= of_task[task][i] if task in of_task else {}
            row |= known.breaks[task].row(place) if task in known.breaks else {}
            if known.after is not None:
                firing, breaks = known.after
                row["activation_after"] = firing.means(name).get(task, np.nan)
                row["effect_after"] = breaks[task].row(place)["effect"] if task in breaks else np.nan
            rows[place].append(row)
    return rows


def _sign(row: Row) -> int:
    """1 where it is shown to help, -1 where it is shown to hurt, among all neurons and tasks of the cards."""
    return int(np.sign(row["effect"])) if row.get("sign_q", np.nan) < ALPHA else 0


def _card(subject: Subject, known: Known, place: Place, name: str, rows: list[Row]) -> dict[str, Any]:
    firing = known.firing
    scored = [row for row in rows if "score" in row]
    parts: dict[str, Any] = {
        "notes": [
            *firing.notes(name),
            *_changes(subject, known, rows),
            *(f"Without {p}: {w}" for p, w in known.missing.items()),
        ],
        "tasks": [
            {"task": r["task"], "score": json_plain(r["score"]), "rank": int(r["rank"]), "sign": r["sign"]}
            for r in scored
        ],
        "masks": [label for label, mask in known.masks.items() if place[1] in mask[place[0]].tolist()],
        "texts": firing.texts(name),
        "histogram": firing.histogram(name),
        "tokens": firing.tokens(name),
        "writes": _writes(known.weights, name),
        "reads": _reads(known.weights, name),
        "breaks": [breaking.in_card(row["task"], row, subject.objective) for row in rows if "effect" in row],
        "stability": [
            {
                "task": r["task"],
                "low": json_plain(r["rank_low"]),
                "high": json_plain(r["rank_high"]),
                "share": json_plain(r["selected"]),
            }
            for r in scored
            if "selected" in r
        ],
        "nearest": similar.in_card(subject, place, name, known.weights, known.near, NEAREST),
        "code": code_for(subject, place),
    }
    kept = {part: value for part, value in parts.items() if value}
    return {"name": name, "site": place[0], "neuron": place[1], "width": subject.mask.widths[place[0]], **kept}


def _changes(subject: Subject, known: Known, rows: list[Row]) -> list[str]:
    """What an adapter changed, in sentences."""
    if known.after is None:
        return []
    told = []
    for row in rows:
        line = f"After the adapter, on {row['task']}: mean activation {row['activation']:.3g} -> "
        line += f"{row['activation_after']:.3g}"
        if np.isfinite(row.get("effect", np.nan)) and np.isfinite(row["effect_after"]):
            lost = lost_in(breaking.in_card(row["task"], row, subject.objective))
            line += f"; {lost} without it {row['effect']:+.3g} -> {row['effect_after']:+.3g}"
        told.append(line + ".")
    return told


def _pairs(frame: pd.DataFrame) -> dict[str, list[tuple[str, float | None]]]:
    return {
        side: [(str(r.name), json_plain(r.value)) for r in frame[frame["side"] == side].itertuples(index=False)]
        for side in ("toward", "away")
    }


def _writes(weights: Directions | None, name: str) -> dict[str, Any]:
    frame = None if weights is None else weights.writes(name)
    return {} if frame is None or frame.empty else {**_pairs(frame), "note": WRITES}


def _reads(weights: Directions | None, name: str) -> dict[str, Any]:
    """The gate's tokens (what opens it); the other input's in the note."""
    frame = None if weights is None else weights.reads(name)
    if frame is None or frame.empty:
        return {}
    parts = [part for part in READS if part in set(frame["part"])]
    note = READ.format(parts[0])
    for part in parts[1:]:
        ends = _pairs(frame[frame["part"] == part])
        toward, away = (", ".join(repr(t) for t, _ in ends[side][:5]) for side in ("toward", "away"))
        note += f" Its {part} weights: toward {toward}; away from {away}."
    return {**_pairs(frame[frame["part"] == parts[0]]), "note": note}
