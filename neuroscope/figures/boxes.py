"""Boxes over tasks by layer, with a picker of tasks, or in panels."""

from __future__ import annotations

import html
from collections.abc import Collection, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope.checks import public
from neuroscope.errors import ArgumentError
from neuroscope.figures import style
from neuroscope.figures.parts import axes_of_layers, bottom_legend, choices_of, grid, menu, shade_layers

if TYPE_CHECKING:
    import plotly.graph_objects as go

FEW = 5  # tasks below which points stand without a box: quartiles of so few say nothing
Tables = Mapping[str, Mapping[str, Sequence[float]]]  # label -> task -> one value per layer


@public
def layer_boxes(
    series: Tables,
    layers: Sequence[str],
    *,
    title: str,
    y_label: str,
    subtitle: str = "",
    groups: Mapping[str, str] | None = None,
    band: tuple[str, Sequence[float], Sequence[float]] | None = None,
    limits: tuple[float, float] | None = None,
) -> go.Figure:
    """Box plots over tasks, by layer, of several series side by side.

    Args:
        series: label -> task -> value per layer; NaN where there is none.
        layers: their names, in order.
        groups: task -> cluster: a menu picks all tasks, a cluster, or one task.
        band: label, low and high per layer, shaded behind the boxes; NaN where there is none.
        limits: of the vertical axis.
    """
    offered = choices_of((task for rows in series.values() for task in rows), groups)
    traces: list[Any] = []
    if band is not None:
        traces.append(shade_layers(band[0], layers, band[1], band[2], "#7b8794"))
        traces[0].update(name=band[0], showlegend=True, hoverinfo="skip")
    styles = _styles(series)
    traces += [_entry(label, *styles[label]) for label in series]
    shared = len(traces)
    for i, tasks in enumerate(offered.values()):
        for label, rows in series.items():
            chosen = {t: rows[t] for t in tasks if t in rows}
            traces.append(_box(label, chosen, layers, *styles[label], visible=i == 0))
    figure = style.house_figure(traces, title, subtitle, height=460)
    axes_of_layers(figure, layers, y_label, limits)
    figure.update_layout(boxmode="group", boxgap=0.25, boxgroupgap=0.1)
    style.legend_on_top(figure)
    if len(offered) > 1:
        shown = {c: [True] * shared + [c == d for d in offered for _ in series] for c in offered}
        menu(figure, shown, style.legend_rows(figure))
    return figure


@public
def box_panels(
    panels: Mapping[str, Tables],
    layers: Sequence[str],
    *,
    title: str,
    y_label: str,
    subtitle: str = "",
    limits: tuple[float, float] | None = None,
) -> go.Figure:
    """Box plots over tasks by layer, one panel per cluster; series are side by side in each.

    Args:
        panels: name of the panel -> label -> task -> value per layer.
    """
    if not panels:
        raise ArgumentError("box plots by layer", "no panel", "give one table of values or more")
    columns = min(2, len(panels))
    figure = grid(list(panels), columns, title, subtitle, 240)
    labels = list(dict.fromkeys(label for tables in panels.values() for label in tables))
    styles = _styles(labels)
    figure.add_traces([_entry(label, *styles[label]) for label in labels])
    for i, tables in enumerate(panels.values()):
        for label, rows in tables.items():
            box = _box(label, rows, layers, *styles[label], visible=True)
            figure.add_trace(box, row=i // columns + 1, col=i % columns + 1)
    axes_of_layers(figure, layers, y_label, limits)
    figure.update_layout(boxmode="group", boxgap=0.25, boxgroupgap=0.1, legend=bottom_legend())
    for i in range(len(panels)):  # titles at the outer axes only
        row, column = i // columns + 1, i % columns + 1
        below = i + columns < len(panels)
        figure.update_xaxes(title_text="" if below else "layer", row=row, col=column)
        figure.update_yaxes(title_text=y_label if column == 1 else "", row=row, col=column)
    figure.update_layout(margin_b=60 if len(panels) > columns else 70)
    return figure


def _styles(labels: Collection[str]) -> dict[str, tuple[str, str, float]]:
    """label -> colour, symbol of its points, and how full its boxes are: told apart without colours as well."""
    fills, styles = cycle((0.55, 0.1, 0.3)), style.line_styles(labels)
    return {n: (colour, style.symbol(dash), next(fills)) for n, (colour, dash) in styles.items()}


def _entry(label: str, colour: str, symbol: str, fill: float) -> Any:
    """An entry of the legend: boxes without a line would have none to show."""
    import plotly.graph_objects as go

    marker = {"color": style.fade(colour, fill), "size": 12, "symbol": symbol, "line": {"color": colour, "width": 1.4}}
    return go.Scatter(name=label, legendgroup=label, x=[None], y=[None], mode="markers", marker=marker)


def _box(
    label: str, rows: Mapping[str, Sequence[float]], layers: Sequence[str], colour: str, symbol: str, fill: float, *,
    visible: bool,
) -> Any:  # fmt: skip
    """Boxes over the tasks, or where they are few their points alone."""
    import plotly.graph_objects as go

    for task, row in rows.items():
        style.matrix([row], (1, len(layers)), f"{label}, {task}, by layers")
    cells = [(layer, v, t) for t, row in rows.items() for layer, v in zip(layers, row, strict=True) if np.isfinite(v)]
    boxed = len(rows) >= FEW
    return go.Box(
        name=label, x=[c[0] for c in cells], y=[c[1] for c in cells], customdata=[html.escape(c[2]) for c in cells],
        marker={"color": colour, "size": 4 if boxed else 7, "symbol": symbol}, visible=visible,
        line={"width": 1.4 if boxed else 0},
        fillcolor=style.fade(colour, fill if boxed else 0.0), pointpos=0, jitter=0.35,
        boxpoints="all" if len(rows) < 12 else "outliers",
        offsetgroup=label, legendgroup=label, showlegend=False,
        hovertemplate="<b>%{customdata}</b><br>layer %{x}: %{y:.3g}<extra>" + html.escape(label) + "</extra>",
    )  # fmt: skip
