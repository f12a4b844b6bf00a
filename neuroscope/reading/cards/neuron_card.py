"""One neuron, and all that is known of it."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neuroscope import figures
from neuroscope.markup import TABLE_STYLE, fold, table_html
from neuroscope.masks.neuron_names import layer_of
from neuroscope.statistics import ALPHA

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

HEAT = {1: "0, 114, 178", -1: "213, 94, 0"}  # blue and vermilion: apart also for colour-blind eyes
ENDS = {  # part -> what its two ends are called
    "tokens": ("Highest at", "Lowest at"),
    "writes": ("Writes toward", "Writes away from"),
    "reads": ("Reads toward", "Reads away from"),
}
FAINT, STRONG = 0.06, 0.6
STYLE = """
.ns-card { max-width: 60rem; color: #1f2933; line-height: 1.45; }
.ns-card .text { margin: .3rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.ns-card .where, .ns-card .note { color: #52606d; font-size: .88rem; }
.ns-card pre { overflow: auto; background: #f5f7fa; padding: .6rem; }
.ns-card bdi { unicode-bidi: isolate; }
"""


@dataclass(frozen=True, repr=False)
class NeuronCard:
    """One neuron's card.

    Attributes:
        name: such as "9.431".
        rows: of each task: score, rank, effect and so on, as in the table of all cards.
        parts: plain data by part, where known: site, width (of the site), neuron, notes, tasks, masks, texts,
            histogram, writes, reads, breaks, stability, nearest, code, tokens.
    """

    name: str
    rows: pd.DataFrame
    parts: Mapping[str, Any]

    @property
    def layer(self) -> int:
        """The layer it is in."""
        return layer_of(str(self.parts["site"]))

    def to_frame(self) -> pd.DataFrame:
        """A row per task."""
        return self.rows.copy()

    def to_explorer(self) -> dict[str, Any]:
        """The card as an explorer takes it: plain data."""
        return dict(self.parts)

    def in_words(self) -> str:
        """Where it fires, what it writes, and what breaks without it."""
        lines = [f"Neuron **{self.name}** of `{self.parts['site']}`."]
        fires = self.parts.get("tokens", {}).get("toward", [])
        if fires:
            lines.append(f"- Fires most at {_listed(fires)}.")
        written = self.parts.get("writes", {})
        if written.get("toward"):
            lines.append(f"- Writes toward {_listed(written['toward'])}, away from {_listed(written['away'])}.")
        broken = [row for row in self.parts.get("breaks", []) if does_more(row)]
        for row in sorted(broken, key=lambda row: -abs(row["effect"])):
            change = "rises" if row["effect"] > 0 else "falls"
            lines.append(
                f"- Without it alone the {lost_in(row)} on {row['task']} {change} by {abs(row['effect']):.3g} "
                f"({row['low']:.3g} to {row['high']:.3g}); without random neurons of its layer by {row['random']:.3g} "
                f"(q = {row['q']:.2g})."
            )
        if self.parts.get("breaks") and not broken:
            lines.append("- **A negative**: no task is shown to depend on it alone more than on random neurons.")
        return "\n".join([*lines, *(f"- {note}" for note in self.parts.get("notes", []))])

    def figure(self) -> go.Figure:
        """What breaks without it, by task, beside random neurons; without tasks, what it writes."""
        rows = self.parts.get("breaks", [])
        if rows:
            series = {
                "without it alone": _band(rows, "effect", "low", "high"),
                "without random neurons": _band(rows, "random", "random_low", "random_high"),
            }
            return figures.bars_with_band(
                [html.escape(row["task"]) for row in rows],
                series,
                bands=["without random neurons"],
                title=f"What breaks without neuron {html.escape(self.name)}",
                subtitle=f"rise of the {lost_in(rows[0])} on each task's answers, with this neuron alone at zero",
                value_label=unit_of(rows[0]),
                band_label="95 % interval over random neurons of its layer",
            )
        written = self.parts.get("writes", {})
        pairs = [*written.get("toward", []), *reversed(written.get("away", []))]
        names = [f"{i + 1} {html.escape(repr(token)[1:-1])}" for i, (token, _) in enumerate(pairs)]
        return figures.bars_with_band(
            names,
            {"logit": ([value for _, value in pairs], None, None)},
            title=f"Tokens that neuron {html.escape(self.name)} writes",
            value_label="logits per unit of activation",
        )

    def _repr_html_(self) -> str:
        """All of it as a page's part, which needs nothing else; texts of users stay text."""
        parts = self.parts
        found = [f"<style>{TABLE_STYLE}{STYLE}</style><div class='ns-card'><h3>Neuron {html.escape(self.name)}</h3>"]
        found.append(f"<p class='where'>{html.escape(str(parts['site']))}, neuron {parts['neuron']}")
        found.append(f"; in {', '.join(map(_text, parts['masks']))}</p>" if parts.get("masks") else "</p>")
        found += [f"<p class='note'>{html.escape(note)}</p>" for note in parts.get("notes", [])]
        columns = [c for c in ("task", "score", "rank", "effect", "random", "q", "share") if c in self.rows]
        if len(columns) > 1:
            found.append(table_html("By task", self.rows[columns]))
        for sign, title in ((1, "Highest activations"), (-1, "Lowest activations")):
            texts = [text for text in parts.get("texts", []) if text["sign"] == sign]
            found.append(f"<h4>{title}</h4>" if texts else "")
            found += [_heat(text, max(_strength(other) for other in parts["texts"])) for text in texts]
        for part, titles in ENDS.items():
            found.append(_ends(titles, parts.get(part, {})))
        by: dict[str, list[str]] = {}
        for near in parts.get("nearest", []):
            by.setdefault(near["by"], []).append(f"{_text(near['neuron'])} ({near['similarity']:.2f})")
        found += [f"<p><strong>Nearest by {_text(kind)}</strong>: {', '.join(told)}</p>" for kind, told in by.items()]
        code = "".join(f"<h4>{_text(n)}</h4><pre>{_text(lines)}</pre>" for n, lines in parts.get("code", {}).items())
        return "".join([*found, fold("Code to paste", code), "</div>"])

    def __repr__(self) -> str:
        return f"NeuronCard({self.name} at {self.parts['site']}; {', '.join(self.parts)})"


def does_more(test: Mapping[str, Any]) -> bool:
    """Whether it is shown that a neuron alone does more than random ones, whichever way: not that it does less."""
    return test.get("q") is not None and test["q"] < ALPHA and abs(test["effect"]) > abs(test["random"])


def lost_in(row: Mapping[str, Any]) -> str:
    """What rises where a neuron that helps is missing."""
    return f"lost {row['unit'].removesuffix(' lost')}" if "unit" in row else "loss"


def unit_of(row: Mapping[str, Any]) -> str:
    """What that is measured in."""
    return str(row.get("unit", "nats"))


def _band(rows: Sequence[Mapping[str, Any]], *names: str) -> tuple[list[float], list[float], list[float]]:
    value, low, high = ([math.nan if r.get(name) is None else r[name] for r in rows] for name in names)
    return value, low, high


def _text(value: Any) -> str:
    return html.escape(str(value))


def _listed(pairs: Sequence[tuple[str, Any]], count: int = 5) -> str:
    return ", ".join(f"`{repr(token)[1:-1].replace('`', chr(39))}`" for token, _ in pairs[:count])


def _strength(text: Mapping[str, Any]) -> float:
    return max((abs(value) for value in text["activations"] if value is not None), default=0.0)


def _heat(text: Mapping[str, Any], largest: float) -> str:
    """A text, its tokens on a ground whose strength is the activation's."""
    spans = []
    for token, value in zip(text["tokens"], text["activations"], strict=True):
        share = 0.0 if value is None or not largest else abs(value) / largest
        ground = f"background: rgba({HEAT[1 if (value or 0) >= 0 else -1]}, {STRONG * share:.2f})"
        style = f" style='{ground}'" if STRONG * share > FAINT else ""
        told = "" if value is None else f" title='{value:.3g}'"
        spans.append(f"<span{style}{told}>{html.escape(token)}</span>")
    where = f"<span class='where'>{html.escape(text['where'])}</span>"
    return f"<p class='text'><bdi>{''.join(spans)}</bdi><br>{where}</p>"


def _ends(titles: tuple[str, str], part: Mapping[str, Any]) -> str:
    """Tokens toward and away, as a line each."""
    lines = []
    for side, title in zip(("toward", "away"), titles, strict=True):
        if part.get(side):
            tokens = ", ".join(f"<code>{html.escape(token)}</code>" for token, _ in part[side])
            lines.append(f"<p><strong>{title}</strong>: {tokens}</p>")
    note = f"<p class='note'>{html.escape(part['note'])}</p>" if part.get("note") and lines else ""
    return "".join(lines) + note
