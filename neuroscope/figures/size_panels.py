"""Curves over the size of a mask, on a logarithmic axis, one panel per task, beside bands of controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from neuroscope.checks import public, whole
from neuroscope.errors import ArgumentError, choose
from neuroscope.figures import intervals, style
from neuroscope.figures.parts import bottom_legend, grid

if TYPE_CHECKING:
    import plotly.graph_objects as go

GREYS = ("#52606d", "#9aa5b1")
NARROW = 4  # panels up to which two stand side by side, beyond three


@public
def size_panels(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], style.Band]]],
    bands: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]]] | None = None,
    *,
    title: str,
    x_label: str,
    y_label: str,
    subtitle: str = "",
    is_log: bool = True,
    columns: int | None = None,
    colours: Mapping[str, str] | None = None,
) -> go.Figure:
    """Curves with whiskers over a logarithmic axis, and shaded bands of controls, one panel each.

    Args:
        panels: name of the panel -> label -> (x, (y, low, high)); low and high may be None, x is above 0.
        bands: name of the panel -> label -> (x, low, high): controls, in greys, under the curves.
        is_log: whether the axis is logarithmic; a linear one has room for an x of 0.
        columns: how many panels stand side by side; None: two, or three of many.
        colours: label -> colour such as "#1f2933", of curves that have one of their own.

    Raises:
        ArgumentError: no panel, or numbers that do not fit each other.
    """
    import plotly.graph_objects as go

    if not panels:
        raise ArgumentError("a figure of panels", "no panels", "give one or more, each with its curves")
    if columns is not None:
        whole(columns, "columns", 1, "give how many panels stand side by side, or None")
    columns = min(columns or (2 if len(panels) <= NARROW else 3), len(panels))
    figure = grid(list(panels), columns, title, subtitle, 230)
    labels = list(dict.fromkeys(label for curves in panels.values() for label in curves))
    controls = list(dict.fromkeys(label for each in (bands or {}).values() for label in each))
    for label in colours or {}:
        choose(label, labels, "curve")
    styles, seen, ticks = style.line_styles(labels, colours=colours), set(), set()
    for i, (panel, curves) in enumerate(panels.items()):
        at = {"row": i // columns + 1, "col": i % columns + 1}
        for label, (x, least, most) in (bands or {}).get(panel, {}).items():
            for edge in (least, most):
                style.matrix([edge], (1, len(x)), f"the band of {label} in {panel}")
            shade = intervals.shade(label, x, least, most, GREYS[controls.index(label) % len(GREYS)])
            shade.update(name=label, showlegend=label not in seen, line={"width": 0.8, "color": GREYS[0]})
            figure.add_trace(shade, **at)
            seen.add(label)
        for label, (x, (y, low, high)) in curves.items():
            style.matrix([y], (1, len(x)), f"{label} in {panel}")
            colour, dash = styles[label]
            curve = go.Scatter(
                name=label, legendgroup=label, showlegend=label not in seen, x=list(x), y=list(y),
                mode="lines+markers", line={"color": colour, "dash": dash},
                marker={"symbol": style.symbol(dash), "size": 6},
                error_y=intervals.error_bar(y, low, high, colour=colour, band=False),
                customdata=intervals.bar_hover(label, y, low, high, "95 % interval", [""] * len(x)),
                hovertemplate=f"{x_label}: %{{x:.3g}}<br>%{{customdata}}<extra></extra>",
            )  # fmt: skip
            figure.add_trace(curve, **at)
            seen.add(label)
            ticks |= set(map(float, x))
        below = i + columns < len(panels)
        figure.update_xaxes(title_text="" if below else x_label, **at)
        figure.update_yaxes(title_text=y_label if at["col"] == 1 else "", **at)
    figure.update_xaxes(
        type="log" if is_log else "linear",
        tickvals=sorted(ticks),
        ticktext=[f"{t:g}" for t in sorted(ticks)],
        tickangle=0,
    )
    figure.update_layout(legend=bottom_legend(), margin_b=80, height=figure.layout.height + 20)
    return figure
