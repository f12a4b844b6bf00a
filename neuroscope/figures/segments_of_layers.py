"""A curve over layers, cut into shaded segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope.checks import public
from neuroscope.errors import ArgumentError
from neuroscope.figures import style
from neuroscope.figures.parts import task_hover

if TYPE_CHECKING:
    import plotly.graph_objects as go


@public
def segmented(
    layers: Sequence[int],
    curve: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    segments: Sequence[tuple[str, float, float]],
    boundaries: Sequence[tuple[float, float, float]],
    *,
    title: str,
    subtitle: str = "",
    y_label: str = "similarity",
) -> go.Figure:
    """A curve over layers with its segments shaded.

    Args:
        layers: their numbers.
        curve: the mean, per layer.
        curves: task -> value per layer, drawn thin.
        segments: (name, first layer, last layer).
        boundaries: (first layer after it, low, high): the boundary is drawn half a layer before; NaN: no interval.
    """
    import plotly.graph_objects as go

    soft = {"color": style.fade(style.INK, 0.16), "width": 1}
    traces: list[Any] = [
        go.Scatter(
            name=task, x=list(layers), y=list(row), mode="lines", line=soft, showlegend=False,
            hovertemplate=task_hover(task, ""),
        )
        for task, row in (curves.items() if len(curves) > 1 else ())
    ]  # fmt: skip
    traces.append(
        go.Scatter(
            name="mean over tasks" if len(curves) > 1 else next(iter(curves), "curve"), x=list(layers), y=list(curve),
            mode="lines+markers", line={"color": style.INK, "width": 2.6},
            hovertemplate="layer %{x}<br>mean: %{y:.3g}<extra></extra>",
        )
    )  # fmt: skip
    if not layers:
        raise ArgumentError("layers=[]", "no layer", "give the layers of the curve")
    for name, row in {"the curve": curve, **{f"curves[{name!r}]": row for name, row in curves.items()}}.items():
        style.matrix([row], (1, len(layers)), f"{name}, by layers")
    every = [v for row in [*curves.values(), curve] for v in row]
    low, high = min(every), max(every)
    room = (high - low) or 1.0
    if boundaries:
        spans = [(first - 0.5, a - 0.5, b - 0.5) for first, a, b in boundaries]
        known = [np.isfinite(a) for _, a, _ in spans]
        hover = [
            f"boundary before layer {int(first)}" + (f"<br>95 % over tasks: layer {int(a)} to {int(b)}" if k else "")
            for (first, a, b), k in zip(boundaries, known, strict=True)
        ]  # fmt: skip
        traces.append(
            go.Scatter(
                name="boundaries, 95 % over tasks" if any(known) else "boundaries", mode="markers",
                x=[s[0] for s in spans],
                y=[low - (0.09 + 0.05 * i) * room for i in range(len(spans))],  # else one interval would cover another
                marker={"color": style.CATEGORIES[1], "size": 9, "symbol": "diamond"},
                error_x={
                    "type": "data", "thickness": 3, "width": 6, "color": style.CATEGORIES[1],
                    "array": [s[2] - s[0] if k else 0 for s, k in zip(spans, known, strict=True)],
                    "arrayminus": [s[0] - s[1] if k else 0 for s, k in zip(spans, known, strict=True)],
                },
                customdata=hover, hovertemplate="%{customdata}<extra></extra>",
            )
        )  # fmt: skip
    figure = style.house_figure(traces, title, subtitle, height=440)
    shades = (style.CATEGORIES[0], style.CATEGORIES[5], style.CATEGORIES[2], style.CATEGORIES[3])
    for i, (name, first, last) in enumerate(segments):
        colour = shades[i % len(shades)] if len(segments) > 1 else "#7b8794"
        figure.add_vrect(
            x0=first - 0.5, x1=last + 0.5, fillcolor=style.fade(colour, 0.14), line_width=0, layer="below",
            annotation={"text": f"<b>{name}</b><br>{int(first)}-{int(last)}", "font": {"size": 12, "color": style.INK}},
            annotation_position="top",
        )  # fmt: skip
    for first, _, _ in boundaries:
        figure.add_vline(x=first - 0.5, line={"color": style.CATEGORIES[1], "dash": "dot", "width": 1.4})
    style.legend_on_top(figure)
    style.layer_ticks(figure, layers)
    figure.update_xaxes(title_text="layer", range=[min(layers) - 0.5, max(layers) + 0.5], showgrid=False)
    figure.update_yaxes(
        title_text=y_label, range=[low - (0.16 + 0.05 * max(len(boundaries) - 1, 0)) * room, high + 0.24 * room]
    )
    return figure
