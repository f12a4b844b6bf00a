"""Named points in a plane, with whiskers both ways."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from neuroscope.checks import public
from neuroscope.figures import intervals, labels, style

if TYPE_CHECKING:
    import plotly.graph_objects as go

MARGIN = 0.08  # of an axis, beyond the outermost whiskers: room for names


@public
def plane(
    points: Mapping[str, Sequence[tuple[float, float | None, float | None]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    subtitle: str = "",
    x_within: intervals.Within = intervals.ANYTHING,
    y_within: intervals.Within = intervals.ANYTHING,
) -> go.Figure:
    """Named points with whiskers both ways; a name that would cover another stands under the pointer only.

    Args:
        points: label -> ((x, low, high), (y, low, high)); low and high may be None.
        x_within, y_within: the least and the greatest value that there can be: whiskers end there; the hover says so.
    """
    import plotly.graph_objects as go

    styles, traces = style.line_styles(points), []
    ends: tuple[list[float], list[float]] = ([], [])  # of the whiskers, on both axes
    for label, spans in points.items():
        colour, dash = styles[label]
        bars, said = [], []
        for axis, within, name, (value, *span) in zip(
            ends, (x_within, y_within), (x_label, y_label), spans, strict=True
        ):
            known = None not in span
            given: Any = ([value], *([[end] for end in span] if known else (None, None)))
            (_, low, high), (note,) = intervals.cut(given, within)
            bars.append(intervals.error_bar([value], low, high, colour=style.fade(colour, 0.6), band=False))
            where = f"{low[0]:.3f} to {high[0]:.3f}" if low and high else "one run"
            said += [f"{name}: {value:.3f} ({where})", *filter(None, [note])]
            axis += [value, *(low or ()), *(high or ())]
        traces.append(
            go.Scatter(
                name=label,
                x=[spans[0][0]],
                y=[spans[1][0]],
                mode="markers",
                marker={"color": colour, "size": 11, "symbol": style.symbol(dash)},
                error_x=bars[0],
                error_y=bars[1],
                hovertemplate=f"<b>{html.escape(label)}</b><br>{'<br>'.join(said)}<extra></extra>",
            )
        )
    figure = style.house_figure(traces, title, subtitle, height=520)
    ranges = [_range(axis) for axis in ends]
    figure.update_layout(xaxis_title_text=x_label, yaxis_title_text=y_label, showlegend=False)
    figure.update_layout(xaxis_range=ranges[0], yaxis_range=ranges[1])
    labels.name_points(figure, {label: (x[0], y[0]) for label, (x, y) in points.items()}, *ranges)
    return figure


def _range(ends: Sequence[float]) -> list[float]:
    """From the least to the greatest, and some room."""
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    room = MARGIN * ((high - low) or abs(high) or 1.0)
    return [low - room, high + room]
