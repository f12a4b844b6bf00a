"""The house style of the figures: colours, fonts, template, and the small parts that figures are made of.

Colours can be told apart by colour-blind readers: Okabe & Ito's for categories, one blue ramp for amounts, orange to
blue for signed values.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from neuroscope.errors import ArgumentError

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Okabe & Ito 2008, ordered by how well they read on white; their yellow does not and is left out.
CATEGORIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
# What a colour means in every figure of a report, beside those of families, which are the categories' own.
MEASURED = "#1f2933"  # a single number; with nothing switched off
BEFORE = "#8c6d46"  # the same before tuning
OWN_OFF, OWN_ALONE = "#6b2d8f", "#b48ad0"  # a task's own neurons off; and all others off
RANDOM = {"uniform": "#7b8794", "layer": "#b0bac5", "activation": "#52606d"}  # by how random neurons are drawn
CHANCE = "#7b8794"
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "diamond", "square", "cross")  # of points, where curves have dashes
SCALES = {
    "sequential": ["#f7fafc", "#d3e3ef", "#9cc3dd", "#5b9bc6", "#2a70a8", "#124a80", "#062a54"],
    "diverging": ["#a04100", "#d55e00", "#f2b27a", "#f7f7f7", "#8fbfdf", "#0072b2", "#00456e"],
}
NARROW, LEGEND_ROW = 560, 30  # pixels: width of a narrow figure's axes, height of a row of its legend
LINE = 100  # characters of a subtitle in the narrowest figure
INK, FAINT, MISSING = "#1f2933", "#e4e7eb", "#eceff1"
FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"

Band = tuple[Sequence[float], Sequence[float] | None, Sequence[float] | None]  # value, low, high


def house_figure(traces: Sequence[Any], title: str, subtitle: str, height: int) -> go.Figure:
    """The traces in the house style. The template stays with the figure: plotly's global default is not touched."""
    import plotly.graph_objects as go

    soft = {"size": 13, "color": "#52606d"}
    axis = {
        "automargin": True, "gridcolor": FAINT, "linecolor": "#9aa5b1", "zeroline": False, "showline": True,
        "ticks": "outside", "tickcolor": "#9aa5b1", "ticklen": 4, "title": {"standoff": 14, "font": soft},
    }  # fmt: skip
    heading_style = {
        "x": 0, "xref": "container", "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top",
        "pad": {"t": 14, "l": 2}, "font": {"size": 16}, "subtitle": {"font": soft},
    }  # fmt: skip
    house = go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": INK},
            "title": heading_style,
            "colorway": CATEGORIES,
            "plot_bgcolor": "white",
            "paper_bgcolor": "white",
            "hoverlabel": {"bgcolor": "white", "bordercolor": "#9aa5b1", "font": {"color": INK}, "align": "left"},
            "margin": {"l": 60, "r": 20, "t": 100, "b": 20},
            "xaxis": axis,
            "yaxis": axis,
        }
    )
    lines = [
        line
        for part in subtitle.split("<br>")
        for line in textwrap.wrap(part, LINE, break_long_words=False, break_on_hyphens=False)
    ]
    more = 18 * max(len(lines) - 1, 0)
    heading = {"text": f"<b>{title}</b>", "subtitle": {"text": "<br>".join(lines)}}
    room = {"height": height + more, "margin_t": (100 if subtitle else 76) + more}
    return go.Figure(traces, layout={"template": house, "title": heading, **room})


def colour_bar(label: str) -> dict[str, Any]:
    """The legend of a colour scale, its label above the bar."""
    title = {"text": label, "side": "top", "font": {"size": 12, "color": "#52606d"}}
    return {"title": title, "thickness": 12, "outlinewidth": 0, "len": 1, "ypad": 0, "tickfont": {"size": 11}}


def short_names(addresses: Sequence[str]) -> list[str]:
    """Dotted addresses without the first and last parts that all of them share; unchanged if nothing would be left.

    Example:
        >>> short_names(["blocks.0.mlp.hook_post", "blocks.1.mlp.hook_post"])
        ['0', '1']
    """
    parts = [address.split(".") for address in addresses]
    columns = list(zip(*parts, strict=False))
    head = next((i for i, column in enumerate(columns) if len(set(column)) > 1), 0)
    tails = zip(*(reversed(p[head:]) for p in parts), strict=False)
    tail = next((i for i, column in enumerate(tails) if len(set(column)) > 1), 0)
    short = [".".join(p[head : len(p) - tail]) for p in parts]
    return short if all(short) else list(addresses)


def legend_on_top(figure: go.Figure) -> None:
    """Put the legend above the axes, and make room for as many rows as it takes in a narrow figure."""
    rows = legend_rows(figure)
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "visible": rows > 0})
    more = LEGEND_ROW * max(rows - 1, 0)
    figure.update_layout(height=figure.layout.height + more, margin_t=figure.layout.margin.t + more)


def legend_rows(figure: go.Figure) -> int:
    """Rows of a horizontal legend in a narrow figure; 0 where one curve needs none."""
    names = [trace.name or "" for trace in figure.data if trace.showlegend is not False and trace.visible is not False]
    rows, used = 1, 0.0
    for width in (46 + 7 * len(name) for name in names):  # pixels
        rows, used = (rows + 1, width) if used and used + width > NARROW else (rows, used + width)
    return rows if len(names) > 1 else 0


def layer_ticks(figure: go.Figure, layers: Collection[float]) -> None:
    """Ticks at whole layers (or stages) only, about sixteen at the most."""
    if len(layers):
        step = -(-(int(max(layers)) - int(min(layers)) + 1) // 16)
        figure.update_xaxes(tick0=int(min(layers)), dtick=step)


def bracket(figure: go.Figure, x: Sequence[str], y: Sequence[str], groups: Mapping[str, str]) -> None:
    """Separators between neighbouring families, their names above, and an outline where a family meets itself."""
    runs_x, runs_y = _runs(x, groups), _runs(y, groups)
    line = {"color": "white", "width": 4}
    for _, start, _ in runs_x[1:]:
        figure.add_shape(type="line", x0=start - 0.5, x1=start - 0.5, y0=-0.5, y1=len(y) - 0.5, line=line)
    for _, start, _ in runs_y[1:]:
        figure.add_shape(type="line", y0=start - 0.5, y1=start - 0.5, x0=-0.5, x1=len(x) - 0.5, line=line)
    for family, start, end in runs_x:
        figure.add_annotation(
            x=(start + end) / 2, y=1, yref="paper", yanchor="bottom", text=family, showarrow=False, yshift=2,
            font={"size": 11, "color": "#52606d"},
        )  # fmt: skip
    for start, end, low, high in meet_themselves(x, y, groups):
        box = {"x0": start - 0.5, "x1": end + 0.5, "y0": low - 0.5, "y1": high + 0.5}
        figure.add_shape(type="rect", **box, line={"color": INK, "width": 2}, fillcolor="rgba(0,0,0,0)")


def meet_themselves(x: Sequence[str], y: Sequence[str], groups: Mapping[str, str]) -> list[tuple[int, int, int, int]]:
    """First and last column, first and last row, where a family of the columns is that of the rows as well."""
    runs = [(a, b) for a in _runs(x, groups) for b in _runs(y, groups) if a[0] == b[0] != ""]
    return [(*a[1:], *b[1:]) for a, b in runs]


def _runs(names: Sequence[str], groups: Mapping[str, str]) -> list[tuple[str, int, int]]:
    """(family, first, last position) of each stretch of neighbours of one family; "" for names without one."""
    families = groupby(enumerate(names), key=lambda item: groups.get(item[1], ""))
    members = [(family, [i for i, _ in run]) for family, run in families]
    return [(family, run[0], run[-1]) for family, run in members]


def line_styles(
    names: Collection[str], groups: Mapping[str, str] | None = None, colours: Mapping[str, str] | None = None
) -> dict[str, tuple[str, str]]:
    """name -> (colour, dash), all different for 28 names: by family and member, or both another for each name.

    Names with a colour of their own in `colours` have that.
    """
    if groups is None:
        pairs = [(i % len(CATEGORIES), i) for i in range(len(names))]
    else:
        families = list(dict.fromkeys(groups.get(name, "") for name in names))
        seen: dict[str, int] = dict.fromkeys(families, -1)
        pairs = []
        for name in names:
            family = groups.get(name, "")
            seen[family] += 1
            pairs.append((families.index(family) % len(CATEGORIES), seen[family]))
    return {
        name: ((colours or {}).get(name, CATEGORIES[colour]), DASHES[dash % len(DASHES)])
        for name, (colour, dash) in zip(names, pairs, strict=True)
    }


def symbol(dash: str) -> str:
    """Of points, where curves have this dash."""
    return SYMBOLS[DASHES.index(dash)]


def marks(marks: Sequence[tuple[float, float, str, str]], name: str) -> Any:
    """One trace with a marker per (x, y, hover, colour)."""
    import plotly.graph_objects as go

    x, y, hover, colour = zip(*marks, strict=True)
    return go.Scatter(
        name=name, x=x, y=y, mode="markers", customdata=hover, showlegend=False,
        marker={"color": colour, "size": 7, "line": {"color": "white", "width": 1}},
        hovertemplate="%{customdata}<br>threshold %{y:.3g}<extra></extra>",
    )  # fmt: skip


def fade(colour: str, alpha: float) -> str:
    """A colour with some transparency."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def matrix(values: ArrayLike, shape: tuple[int, ...], what: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Numbers as an array of the shape that is asked for, or an error that names both."""
    try:
        table = np.asarray(values, dtype=np.float64)
    except ValueError:  # rows of different lengths
        raise ArgumentError(f"a figure of {what}", "rows of different lengths", f"give shape {shape}") from None
    _check_shape(table, shape, what)
    return table


def texts(values: ArrayLike, shape: tuple[int, ...], what: str) -> Any:
    """Texts as an array of the shape that is asked for."""
    try:
        table = np.asarray(values, dtype=object)
    except Exception as error:  # somebody else's object
        raise ArgumentError(f"a figure of {what}", str(error), "give texts") from None
    _check_shape(table, shape, what)
    return table


def _check_shape(table: Any, shape: tuple[int, ...], what: str) -> None:
    if table.shape != shape:
        raise ArgumentError(f"a figure of {what}", f"shape {table.shape}", f"give shape {shape}, rows first")
