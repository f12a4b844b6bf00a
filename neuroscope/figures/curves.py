"""Curves with bands: over any number, and over layers with a picker of tasks."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from neuroscope.checks import public
from neuroscope.errors import choose
from neuroscope.figures import intervals, style
from neuroscope.figures.parts import axes_of_layers, choices_of, menu, shade_layers, task_hover

if TYPE_CHECKING:
    import plotly.graph_objects as go


@public
def curves_with_band(
    curves: Mapping[str, tuple[Sequence[float], style.Band]],
    reference: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    *,
    title: str,
    x_label: str,
    y_label: str,
    subtitle: str = "",
    reference_label: str = "chance",
    hover: Mapping[str, Sequence[str]] | None = None,
    within: intervals.Within = intervals.ANYTHING,
    colours: Mapping[str, str] | None = None,
) -> go.Figure:
    """Curves with a shaded band each, and dashed reference curves in the colour of the curve they belong to.

    Args:
        curves: label -> (x, (y, low, high)); low and high may be None.
        reference: label of a curve -> (x, y) of its reference, for example its chance level.
        hover: label -> one more line of hover text for each point.
        within: the least and the greatest value that there can be: bands end there, and the hover says so.
        colours: label -> colour such as "#1f2933", of curves that have one of their own.
    """
    import plotly.graph_objects as go

    for label in [*(reference or {}), *(hover or {}), *(colours or {})]:
        choose(label, curves, "curve")
    styles, traces = style.line_styles(curves, colours=colours), []
    for label, (x, band) in curves.items():
        style.matrix([band[0]], (1, len(x)), label)
        (y, low, high), notes = intervals.cut(band, within)
        colour, dash = styles[label]
        if low is not None and high is not None:
            traces.append(intervals.shade(label, x, low, high, colour))
        traces.append(
            go.Scatter(
                name=label,
                legendgroup=label,
                x=list(x),
                y=list(y),
                mode="lines+markers",
                line={"color": colour, "dash": dash},
                marker={"symbol": style.symbol(dash)},
                customdata=intervals.joined((hover or {}).get(label, [""] * len(x)), notes),
                hovertemplate=f"{x_label}: %{{x}}<br>{y_label}: %{{y:.3g}}<br>%{{customdata}}"
                "<extra>%{fullData.name}</extra>",
            )
        )
    for label, (x, y) in (reference or {}).items():
        traces.append(
            go.Scatter(
                name=f"{label}: {reference_label}",
                legendgroup=label,
                x=list(x),
                y=list(y),
                mode="lines",
                line={"color": styles[label][0], "dash": "dot", "width": 1.5},
                hovertemplate=f"{x_label}: %{{x}}<br>%{{y:.3g}}<extra>%{{fullData.name}}</extra>",
            )
        )
    entries = len(curves) + len(reference or {})
    figure = style.house_figure(traces, title, subtitle, height=max(440, 160 + 30 * entries))  # the whole legend
    figure.update_layout(xaxis_title_text=x_label, yaxis_title_text=y_label, yaxis_rangemode="tozero")
    if x_label.startswith(("layer", "stage")):
        style.layer_ticks(figure, [v for x, _ in curves.values() for v in x])
    return figure


@public
def layer_curves(
    curves: Mapping[str, style.Band],
    layers: Sequence[str],
    *,
    title: str,
    y_label: str,
    subtitle: str = "",
    tasks: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    groups: Mapping[str, str] | None = None,
    limits: tuple[float, float] | None = None,
    within: intervals.Within = intervals.ANYTHING,
) -> go.Figure:
    """Curves over layers with a shaded band each; a menu picks whose tasks are drawn thin: all, a cluster's, or one.

    Args:
        curves: label -> (value, low, high) per layer; low and high may be None.
        tasks: label of a curve -> task -> value per layer.
        groups: task -> cluster.
        within: the least and the greatest value that there can be: bands end there, and the hover says so.
    """
    import plotly.graph_objects as go

    for label in tasks or {}:
        choose(label, curves, "curve")
    styles, traces = style.line_styles(curves), []
    thin: list[str | None] = []  # the task of every trace, None for a curve or its band
    for label, band in curves.items():
        style.matrix([band[0]], (1, len(layers)), f"{label}, by layers")
        (value, low, high), notes = intervals.cut(band, within)
        colour, dash = styles[label]
        if low is not None and high is not None:
            traces.append(shade_layers(label, layers, low, high, colour))
            thin.append(None)
        traces.append(
            go.Scatter(
                name=label, legendgroup=label, x=list(layers), y=list(value), mode="lines+markers",
                line={"color": colour, "dash": dash, "width": 2.4}, customdata=notes,
                marker={"symbol": style.symbol(dash)},
                hovertemplate=f"layer %{{x}}<br>{y_label}: %{{y:.3g}}<br>%{{customdata}}"
                f"<extra>{html.escape(label)}</extra>",
            )
        )  # fmt: skip
        thin.append(None)
        for task, row in (tasks or {}).get(label, {}).items():
            style.matrix([row], (1, len(layers)), f"{label}, {task}, by layers")
            traces.append(
                go.Scatter(
                    name=task, legendgroup=label, x=list(layers), y=list(row), mode="lines", showlegend=False,
                    line={"color": style.fade(colour, 0.35), "width": 1},
                    hovertemplate=task_hover(task, label),
                )
            )  # fmt: skip
            thin.append(task)
    figure = style.house_figure(traces, title, subtitle, height=440)
    axes_of_layers(figure, layers, y_label, limits)
    style.legend_on_top(figure)
    offered = choices_of((task for task in thin if task is not None), groups)
    if len(offered) > 1:
        menu(
            figure,
            {c: [t is None or t in tasks for t in thin] for c, tasks in offered.items()},
            style.legend_rows(figure),
        )
    return figure
