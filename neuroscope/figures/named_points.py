"""Named points in a plane, with whiskers both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from neuroscope.checks import public
from neuroscope.figures import style

if TYPE_CHECKING:
    import plotly.graph_objects as go


@public
def plane(
    points: Mapping[str, Sequence[tuple[float, float | None, float | None]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    subtitle: str = "",
) -> go.Figure:
    """Named points with whiskers both ways, each labelled where there is room beside it.

    Args:
        points: label -> ((x, low, high), (y, low, high)); low and high may be None.
    """
    import plotly.graph_objects as go

    styles, traces = style.line_styles(points), []
    sides = style.label_sides({label: (x[0], y[0]) for label, (x, y) in points.items()})
    for label, ((x, *x_span), (y, *y_span)) in points.items():
        colour, dash = styles[label]
        spans = [(f"{s[0]:.3f} to {s[1]:.3f}" if s[0] is not None else "one run") for s in (x_span, y_span)]
        bars = [
            style.error_bar([v], [s[0]] if s[0] is not None else None, [s[1]] if s[1] is not None else None,
                            colour=style.fade(colour, 0.6), band=False)
            for v, s in ((x, x_span), (y, y_span))
        ]  # fmt: skip
        traces.append(
            go.Scatter(
                name=label,
                x=[x],
                y=[y],
                mode="markers+text",
                text=[label],
                textposition=sides[label],
                marker={"color": colour, "size": 11, "symbol": style.SYMBOLS[style.DASHES.index(dash)]},
                error_x=bars[0],
                error_y=bars[1],
                hovertemplate=f"<b>{label}</b><br>{x_label}: {x:.3f} ({spans[0]})<br>{y_label}: {y:.3f} ({spans[1]})"
                "<extra></extra>",
            )
        )
    figure = style.house_figure(traces, title, subtitle, height=520)
    figure.update_layout(xaxis_title_text=x_label, yaxis_title_text=y_label, showlegend=False)
    return figure
