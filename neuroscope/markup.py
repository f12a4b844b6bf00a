"""Texts, tables and figures as HTML: what pages and notebooks are made of. Hostile text stays text."""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ROWS = 50  # of a table that are shown
NEGATIVE = "**A negative**"  # how words mark what was not found
NOTHING = "**Nothing can be concluded**"  # and where nothing could be found
TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # direction of what follows
LONG = 40  # characters of a cell above which its text is broken into lines
# plotly.js would offer a button that sends the chart to a server of its makers.
CONFIG = {
    "responsive": True,
    "displaylogo": False,
    "showSendToCloud": False,
    "topojsonURL": "",
    "typesetMath": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "sendChartToCloud"],
}


@dataclass(frozen=True)
class Link:
    """A cell of a table that leads to a place in a file beside the page.

    Attributes:
        words: to be read.
        file: its name.
        place: what stands behind `#`, encoded already (`urlencode`); empty for the file's beginning.
    """

    words: str
    file: str
    place: str = ""

    def __str__(self) -> str:
        return self.words

    @property
    def html(self) -> str:
        """As a page has it."""
        target = html.escape(quote(self.file) + (f"#{self.place}" if self.place else ""))
        return f'<a href="{target}">{html.escape(self.words)}</a>'


@dataclass(frozen=True)
class Quote:
    """A cell of a text in which one piece is marked."""

    before: str
    marked: str
    after: str

    def __str__(self) -> str:
        return f"{self.before}«{self.marked}»{self.after}"

    @property
    def html(self) -> str:
        """As a page has it."""
        before, piece, after = map(html.escape, (self.before, self.marked, self.after))
        return f'<bdi class="quote">{before}<mark>{piece}</mark>{after}</bdi>'


def isolated(name: object) -> str:
    """A user's text within a line of ours: on one line, and right-to-left letters move nothing outside of it.

    Characters that would turn the direction of what follows, and halves of pairs, are spelt out.

    Example:
        >>> isolated("nli-food"), isolated(" a" + chr(0x202E) + "b" + chr(10) + "c")
        ('nli-food', 'a<U+202E>b c')
    """
    text = "".join(
        f"<U+{ord(c):04X}>" if unicodedata.category(c) == "Cs" or unicodedata.bidirectional(c) in TURNING else c
        for c in " ".join(str(name).split())
    )
    turned = any(unicodedata.bidirectional(c) in ("R", "AL", "AN") for c in text)
    return f"\u2068{text}\u2069" if turned else text


def markdown(text: object) -> str:
    """A text as Markdown that shows just that text, in a cell of a table too: nothing in it is markup.

    Example:
        >>> print(markdown("<b> a_b|c"))
        &lt;b&gt; a\\_b\\|c
    """
    escaped = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]|~#])", r"\\\1", escaped)


def markup(text: str) -> str:
    """Paragraphs, lists, **bold** and `code` as HTML; everything else is escaped.

    Example:
        >>> markup("k = **10 %** & `top`")
        '<p>k = <strong>10 %</strong> &amp; <code>top</code></p>'
    """
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = [_inline(line.strip()) for line in block.splitlines()]
        for is_list, run in _runs(lines):
            if is_list:
                blocks.append("<ul>" + "".join(f"<li>{line[2:]}</li>" for line in run) + "</ul>")
            else:
                blocks.append("<p>" + " ".join(run) + "</p>")
    return "\n".join(blocks)


def lead_and_rest(text: str) -> tuple[str, str]:
    """The first sentence, and what follows it.

    Example:
        >>> lead_and_rest("It is **0.5** of all. More so in a.\\n- **A negative**: not in b.")
        ('It is **0.5** of all.', 'More so in a.\\n- **A negative**: not in b.')
    """
    text = text.strip().removeprefix("- ")
    ends = re.finditer(r"[.!?](\*\*)?\s+(?=[A-Z*`])|\n\s*\n|\n(?=\s*- )", text)
    cut = next((end.end() for end in ends if text[: end.end()].count("**") % 2 == 0), len(text))  # not within bold
    return text[:cut].strip(), text[cut:].strip()


def told(text: str) -> str:
    """The first sentence in sight; the rest folded below it, with the number of its negatives on the fold."""
    lead, rest = lead_and_rest(text)
    count = rest.count(NEGATIVE)
    summary = "More" + (f", with {count} negative{'s' * (count > 1)}" if count else "")
    return markup(lead) + (fold(summary, markup(rest)) if rest else "")


def fold(summary: str, body: str) -> str:
    """HTML that a reader opens."""
    return f"<details><summary>{html.escape(summary)}</summary>{body}</details>"


def _runs(lines: Sequence[str]) -> list[tuple[bool, list[str]]]:
    """Lines in stretches of list items and of other lines."""
    runs: list[tuple[bool, list[str]]] = []
    for line in lines:
        is_item = line.startswith("- ")
        if not runs or runs[-1][0] != is_item:
            runs.append((is_item, []))
        runs[-1][1].append(line)
    return runs


def _inline(line: str) -> str:
    """Escape, then mark up; what stands inside backticks is left as it is."""
    pieces = re.split(r"`([^`]+)`", html.escape(line))
    pieces[::2] = [re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", piece) for piece in pieces[::2]]
    pieces[1::2] = [f"<code>{piece}</code>" for piece in pieces[1::2]]
    return "".join(pieces)


def figure_html(figure: go.Figure, anchor: str) -> str:
    """A figure without plotly.js, which the page holds once."""
    drawn = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        include_mathjax=False,
        auto_play=False,
        config=CONFIG,
        div_id=anchor,
    )
    return f'<figure class="plot">{drawn}</figure>'


# Of tables, in pages and notebooks. Where columns are out of sight the edge has a shadow, which is part of the ground:
# what lies over it moves with the table. Browsers that can (scroll timelines) say so in words as well.
TABLE_STYLE = """
.ns-table { margin: 1.25rem 0 .5rem; timeline-scope: --ns-columns; color: #1f2933; }
.ns-table figcaption { display: flow-root; color: #52606d; font-size: .88rem; padding-bottom: .4rem; }
.ns-table figcaption::after { content: "scroll for more columns \\2192"; float: right; visibility: hidden;
  animation: ns-more linear; animation-timeline: --ns-columns; }
@keyframes ns-more { from, 95% { visibility: visible; } to { visibility: hidden; } }
.ns-scroll { overflow: auto; max-height: 30rem; scroll-timeline: --ns-columns inline; scrollbar-width: thin;
  background: linear-gradient(to left, white 60%, transparent) right / 3rem 100% no-repeat local,
    linear-gradient(to top, white 60%, transparent) bottom / 100% 3rem no-repeat local,
    linear-gradient(to left, rgba(31, 41, 51, .3), transparent) right / 1.1rem 100% no-repeat scroll,
    linear-gradient(to top, rgba(31, 41, 51, .18), transparent) bottom / 100% .7rem no-repeat scroll, white; }
.ns-scroll table { border-collapse: separate; border-spacing: 0; margin: 0; font-size: .88rem; }
.ns-scroll th, .ns-scroll td { text-align: left; vertical-align: top; white-space: nowrap; max-width: none;
  padding: .25rem 1.2rem .25rem 0; border: 0; border-bottom: 1px solid #e4e7eb; }
.ns-scroll thead th { position: sticky; top: 0; background: white; border-bottom: 2px solid #1f2933; z-index: 1; }
.ns-scroll tr > :first-child { position: sticky; left: 0; background: white; padding-right: .8rem; }
.ns-scroll thead tr > :first-child { z-index: 2; }
.ns-scroll .number { text-align: right; font-variant-numeric: tabular-nums; }
.ns-scroll .long { white-space: normal; min-width: 20rem; }
.ns-scroll .long:first-child { min-width: 12rem; }
.ns-scroll mark { background: #f2c94c; color: inherit; border-radius: 2px; padding: 0 .1em; }
.ns-scroll .quote { white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 46rem) { .ns-scroll tr > :first-child { white-space: normal; min-width: 0; max-width: 40vw;
  overflow-wrap: break-word; } }
"""


def table_html(caption: str, frame: pd.DataFrame) -> str:
    """The first ROWS rows of a frame, its index included where it has names; wide ones scroll under their caption."""
    if frame.index.name is not None or frame.index.nlevels > 1 or frame.index.dtype.kind not in "iu":
        frame = frame.reset_index(names=None if any(frame.index.names) else "")
    head = "".join(
        f'<th scope="col"{_number_class(kind)}>{html.escape(str(column))}</th>' for column, kind in frame.dtypes.items()
    )
    rows = "".join(
        "<tr>" + "".join(_cell(value) for value in row) + "</tr>"
        for row in frame.head(ROWS).itertuples(index=False, name=None)
    )
    named = html.escape(caption + (f" (first {ROWS} of {len(frame)} rows)" if len(frame) > ROWS else ""))
    return (
        f'<figure class="ns-table"><figcaption>{named}</figcaption>'
        f'<div class="ns-scroll" role="region" aria-label="{named}" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></figure>"
    )


def in_notebook(caption: str, frame: pd.DataFrame) -> str:
    """A frame's table with the style that it needs."""
    return f"<style>{TABLE_STYLE}</style>{table_html(caption, frame)}"


def _number_class(kind: Any) -> str:
    return ' class="number"' if kind.kind in "iuf" else ""


def _cell(value: object) -> str:
    """Numbers to four digits and to the right, missing values as a dash, everything else as escaped text."""
    if isinstance(value, Link | Quote):
        return f'<td class="long">{value.html}</td>' if isinstance(value, Quote) else f"<td>{value.html}</td>"
    if isinstance(value, (str, bool)):
        broken = ' class="long"' if len(str(value)) > LONG else ""
        return f"<td{broken}>{html.escape(str(value))}</td>"
    if value is None or str(value) == "<NA>" or (isinstance(value, Real) and math.isnan(value)):
        return '<td class="number">&ndash;</td>'
    if isinstance(value, Real):
        return f'<td class="number">{value if isinstance(value, Integral) else format(value + 0.0, ".4g")}</td>'
    return f"<td>{html.escape(str(value))}</td>"
