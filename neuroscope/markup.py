"""Texts, tables and figures as HTML: what pages and notebooks are made of. Hostile text stays text."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ROWS = 50  # of a table that are shown
# plotly.js would offer a button that sends the chart to a server of its makers.
CONFIG = {
    "responsive": True,
    "displaylogo": False,
    "showSendToCloud": False,
    "topojsonURL": "",
    "typesetMath": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "sendChartToCloud"],
}


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


def table_html(caption: str, frame: pd.DataFrame) -> str:
    """The first ROWS rows of a frame, its index included where it has names."""
    if frame.index.name is not None or frame.index.nlevels > 1 or frame.index.dtype.kind not in "iu":
        frame = frame.reset_index(names=None if any(frame.index.names) else "")
    head = "".join(
        f'<th scope="col"{_number_class(kind)}>{html.escape(str(column))}</th>' for column, kind in frame.dtypes.items()
    )
    rows = "".join(
        "<tr>" + "".join(_cell(value) for value in row) + "</tr>"
        for row in frame.head(ROWS).itertuples(index=False, name=None)
    )
    note = f" (first {ROWS} of {len(frame)} rows)" if len(frame) > ROWS else ""
    return (
        f'<div class="table"><table><caption>{html.escape(caption)}{note}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _number_class(kind: Any) -> str:
    return ' class="number"' if kind.kind in "iuf" else ""


def _cell(value: object) -> str:
    """Numbers to four digits and to the right, missing values as a dash, everything else as escaped text."""
    if isinstance(value, (str, bool)):
        return f"<td>{html.escape(str(value))}</td>"
    if value is None or str(value) == "<NA>" or (isinstance(value, Real) and math.isnan(value)):
        return '<td class="number">&ndash;</td>'
    if isinstance(value, Real):
        return f'<td class="number">{value if isinstance(value, Integral) else format(value + 0.0, ".4g")}</td>'
    return f"<td>{html.escape(str(value))}</td>"
