"""The evidence card of a mask: everything known about it in one small record, and how to measure what is not."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from neuroscope import figures, files
from neuroscope.arrays import json_plain
from neuroscope.errors import ArgumentError, kind_of
from neuroscope.markup import NEGATIVE, NOTHING, isolated, markdown
from neuroscope.masks.card_rows import percent, points, rows_of
from neuroscope.masks.draws import DRAWN
from neuroscope.masks.evidence import PARTS, checked
from neuroscope.masks.neuron_names import block_of
from neuroscope.masks.per_neuron import PerNeuron
from neuroscope.results import Result
from neuroscope.statistics import ALPHA

if TYPE_CHECKING:
    import plotly.graph_objects as go

FOUND = (
    "method", "reduction", "objective", "sign", "options", "examples", "split", "seed", "data_hash", "selection",
    "operation", "match",
)  # fmt: skip
MODEL = ("model", "revision", "fingerprint", "dtype", "interventions")
SILENT = ("no effect", "not competent")  # verdicts that claim nothing
VERDICTS = {
    "specific": "These {size} are **specific** for {task}{among}: switched off, they break it more than random neurons "
    "do, more than they break tasks in general, more than the neurons of any other family do, and no other family's "
    "task as much.",
    "selective": "These {size} are **selective** for {task}{among}: switched off, they break it more than random "
    "neurons do, and more than they break tasks in general.",
    "shared": f"{NEGATIVE}: these {{size}} are **shared** by {{task}} and others{{among}}: switched off, they break "
    "it, but a task of another family has neurons that break it as much, and is broken by these; or they break it no "
    "more than is explained by how much they break in general.",
    "general": f"{NEGATIVE}: these {{size}} are **general**{{among}}, not those of {{task}} alone: switched off, they "
    "break at least half of the other families' tasks as well.",
    "no effect": f"{NEGATIVE}: switching these {{size}} off has **no effect** on {{task}} that is shown to be more "
    "than that of random neurons.",
    "not compared": "Switched off, these {size} break {task} more than random neurons do; whether they are its own "
    "was **not compared**, for there was no other family.",
    "not competent": f"{NOTHING} about these {{size}}: the model is **not competent** at {{task}}, not shown to be "
    "better there than the best constant answer.",
}
OTHER = "These {size} are **{verdict}** for {task}{among}."


@dataclass(frozen=True, repr=False)
class EvidenceCard(Result):
    """What is known of one mask: a row per fact, with the day on which it was measured.

    `table` has part, what, value (in words) and measured; `manifest` has the same as numbers (`to_dict` gives a copy):
    name, unit, neurons, of, identity, layers (neurons and all neurons of each), found and model (how, on what), and
    `evidence` by part (`masks.evidence.PARTS`). Shown as Markdown by `str(card)`, in notebooks as a table.
    """

    title = "Evidence card"
    captions: ClassVar[Mapping[str, str]] = {"facts": "What is known, and how to measure what is not"}

    def __post_init__(self) -> None:
        super().__post_init__()
        do = "take the card of a mask, mask.card(), or write it again"
        kinds = {"name": str, "neurons": int, "of": int, "layers": dict, "evidence": dict}
        for key, kind in kinds.items():
            if not isinstance(self.manifest.get(key), kind):
                found = f"{kind_of(self.manifest[key])} for {key}" if key in self.manifest else f"no {key}"
                raise ArgumentError("EvidenceCard(table, manifest)", found, do)
        checked(self.manifest["evidence"], "EvidenceCard(table, manifest): evidence")

    @property
    def evidence(self) -> dict[str, dict[str, Any]]:
        """Part -> its numbers, such as `card.evidence["effect-layer"]["q"]`; a copy."""
        return copy.deepcopy(self.manifest["evidence"])

    @property
    def unknown(self) -> list[str]:
        """Parts that were not measured."""
        return [name for name in PARTS if name not in self.manifest["evidence"]]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values that JSON can say; missing numbers are None."""
        return copy.deepcopy(self.manifest)

    def in_words(self) -> str:
        """The verdict, the effect with its interval, and what was not measured."""
        return self._words(isolated)

    def _words(self, shown: Callable[[str], str]) -> str:
        evidence, size = self.manifest["evidence"], f"{self.manifest['neurons']:,} neurons"
        # beside the random neurons that they are told apart from least, as the claim rests on every kind; of kinds
        # alike beside those that are most like these
        matches = [match for match in ("activation", "layer", "uniform") if f"effect-{match}" in evidence]
        match = max(matches, key=lambda m: evidence[f"effect-{m}"]["p"] or 0.0, default="")
        verdict, effect = evidence.get("verdict"), evidence[f"effect-{match}"] if match else None
        task = shown((verdict or effect or {"task": self.manifest["name"]})["task"])
        cost = points(effect, match) if effect else ""
        if verdict:
            among = "" if verdict["tasks"] is None else f", among {verdict['tasks']} tasks"
            words = {"size": size, "task": task, "among": among, "verdict": shown(verdict["verdict"])}
            lines = [VERDICTS.get(verdict["verdict"], OTHER).format(**words)]
            lines += [f"- Switched off, they cost {cost}."] * bool(cost)
        elif effect:
            lines = [f"Switched off, these {size} cost {task} {cost}."]
        else:
            lines = [f"What these {size} do for {task} is not measured."]
        weak = [match for match in DRAWN if _is_not_shown(evidence.get(f"effect-{match}"))]
        claims = [evidence[part]["q_all"] for part in evidence if part.startswith("effect-")]
        q_all = max((q for q in claims if q is not None), default=None)
        if weak and not (verdict and verdict["verdict"] in SILENT):
            kinds = " nor ".join(DRAWN[match] for match in weak)
            lines.append(f"- {NEGATIVE}: they are not shown to break it more than {kinds} (q < {ALPHA}).")
        elif q_all is not None and q_all >= ALPHA and not (verdict and verdict["verdict"] in SILENT):
            lines.append(
                f"- {NEGATIVE}: they are not shown to break it more than random neurons of every kind (the largest p "
                f"of all kinds has q = {q_all:.2g}), though more than those of each kind alone."
            )
        if self.unknown:
            lines.append(f"- Not measured: {', '.join(PARTS[name].title for name in self.unknown)}.")
        return "\n".join([lines[0], "", *lines[1:]])

    def to_markdown(self) -> str:
        """The card as Markdown: a heading, the verdict, a table. Names are shown as they are, whatever is in them."""
        head = f"## {self.title}: {markdown(isolated(self.manifest['name']))}"
        rows = ["| part | what | value | measured |", "|---|---|---|---|"]
        for row in self.table.itertuples(index=False):
            rows.append("| " + " | ".join(markdown(cell) for cell in row) + " |")
        words = self._words(lambda name: markdown(isolated(name)))
        return "\n".join([head, "", words, "", *rows, ""])

    def __str__(self) -> str:
        """What `print` shows: the same in columns, with nothing escaped."""
        head = f"{self.title}: {isolated(self.manifest['name'])}"
        cells = self.table[["part", "what", "value"]].to_numpy()
        rows = [[" ".join(str(cell).split()) for cell in row] for row in cells]
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(2)]
        told, before = [], ""
        for part, what, value in rows:
            called = "" if part == before else part
            told.append(f"{called:<{widths[0]}}  {what:<{widths[1]}}  {value}")
            before = part
        return "\n".join([head, "", self.in_words(), "", *told])

    def __repr__(self) -> str:
        known = len(PARTS) - len(self.unknown)
        share = percent(self.manifest["neurons"] / max(self.manifest["of"], 1))
        return f"EvidenceCard({self.manifest['name']!r}, {share}, {known} of {len(PARTS)} parts measured)"

    def _repr_html_(self) -> str:
        """Words and table; the figure is `figure()`."""
        return f"<div>{self._words_and_table()}</div>"

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display  # only in a notebook, which has it

        display(HTML(self._repr_html_()))

    def figure(self) -> go.Figure:
        """Where in depth the neurons are."""
        layers = self.manifest["layers"]
        counts = {label: of["neurons"] for label, of in layers.items()}
        return figures.depth_map({self.manifest["name"]: counts}, {label: of["of"] for label, of in layers.items()})

    def tables(self) -> dict[str, Any]:
        """The facts."""
        return {"facts": self.to_frame()}


def card_of(mask: PerNeuron, identity: str, evidence: Mapping[str, Any]) -> EvidenceCard:
    """The card of a mask.

    Args:
        mask: its neurons, and how it was found.
        identity: what tells it from other masks.
        evidence: what is known of just these neurons.
    """
    import pandas as pd  # heavy: only where a table is made

    known = {
        "name": str(mask.manifest.get("task", "mask")),
        "unit": mask.unit,
        "neurons": len(mask),
        "of": sum(mask.widths.values()),
        "identity": identity,
        "layers": _layers(mask),
        "found": {key: json_plain(mask.manifest[key]) for key in FOUND if key in mask.manifest},
        "model": {key: json_plain(mask.manifest[key]) for key in MODEL if key in mask.manifest},
        "evidence": checked(evidence),
        "versions": files.versions(),
    }
    return EvidenceCard(pd.DataFrame(rows_of(known), columns=["part", "what", "value", "measured"]), known)


def _is_not_shown(effect: Mapping[str, Any] | None) -> bool:
    """Whether an effect was tested, and not shown to be more than random neurons have."""
    return effect is not None and effect["q"] is not None and not (effect["q"] < ALPHA and effect["effect"] > 0)


def _layers(mask: PerNeuron) -> dict[str, dict[str, int]]:
    """By layer, all its sites (of its experts) together: neurons in the mask, and all."""
    layers: dict[str, dict[str, int]] = {}
    for address, neurons in mask.items():
        layer = layers.setdefault(block_of(address), {"neurons": 0, "of": 0})
        layer["neurons"] += len(neurons)
        layer["of"] += mask.widths[address]
    return layers
