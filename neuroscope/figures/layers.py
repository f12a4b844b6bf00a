"""Values by layer: boxes over tasks, curves with bands, and segments."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope.checks import public
from neuroscope.errors import ArgumentError, choose
from neuroscope.figures import style
from neuroscope.figures.parts import bottom_legend, choices_of, grid, menu

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
        traces.append(_shade(band[0], layers, band[1], band[2], "#7b8794"))
        traces[0].update(name=band[0], showlegend=True, hoverinfo="skip")
    styles = style.line_styles(series)
    traces += [_entry(label, styles[label][0]) for label in series]
    shared = len(traces)
    for i, tasks in enumerate(offered.values()):
        for label, rows in series.items():
            chosen = {t: rows[t] for t in tasks if t in rows}
            traces.append(_box(label, chosen, layers, styles[label][0], visible=i == 0))
    figure = style.house_figure(traces, title, subtitle, height=460)
    _axes_of_layers(figure, layers, y_label, limits)
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
    styles = style.line_styles(labels)
    figure.add_traces([_entry(label, styles[label][0]) for label in labels])
    for i, tables in enumerate(panels.values()):
        for label, rows in tables.items():
            box = _box(label, rows, layers, styles[label][0], visible=True)
            figure.add_trace(box, row=i // columns + 1, col=i % columns + 1)
    _axes_of_layers(figure, layers, y_label, limits)
    figure.update_layout(boxmode="group", boxgap=0.25, boxgroupgap=0.1, legend=bottom_legend())
    for i in range(len(panels)):  # titles at the outer axes only
        row, column = i // columns + 1, i % columns + 1
        below = i + columns < len(panels)
        figure.update_xaxes(title_text="" if below else "layer", row=row, col=column)
        figure.update_yaxes(title_text=y_label if column == 1 else "", row=row, col=column)
    figure.update_layout(margin_b=60 if len(panels) > columns else 70)
    return figure


@public
def layer_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float] | None, Sequence[float] | None]],
    layers: Sequence[str],
    *,
    title: str,
    y_label: str,
    subtitle: str = "",
    tasks: Tables | None = None,
    groups: Mapping[str, str] | None = None,
    limits: tuple[float, float] | None = None,
) -> go.Figure:
    """Curves over layers with a shaded band each; a menu picks whose tasks are drawn thin: all, a cluster's, or one.

    Args:
        curves: label -> (value, low, high) per layer; low and high may be None.
        tasks: label of a curve -> task -> value per layer.
        groups: task -> cluster.
    """
    import plotly.graph_objects as go

    for label in tasks or {}:
        choose(label, curves, "curve")
    styles, traces = style.line_styles(curves), []
    thin: list[str | None] = []  # the task of every trace, None for a curve or its band
    for i, (label, (value, low, high)) in enumerate(curves.items()):
        style.matrix([value], (1, len(layers)), label)
        colour, dash = styles[label][0], style.DASHES[i % len(style.DASHES)]  # both, where one curve covers another
        if low is not None and high is not None:
            traces.append(_shade(label, layers, low, high, colour))
            thin.append(None)
        traces.append(
            go.Scatter(
                name=label, legendgroup=label, x=list(layers), y=list(value), mode="lines+markers",
                line={"color": colour, "dash": dash, "width": 2.4},
                hovertemplate=f"layer %{{x}}<br>{y_label}: %{{y:.3g}}<extra>{html.escape(label)}</extra>",
            )
        )  # fmt: skip
        thin.append(None)
        for task, row in (tasks or {}).get(label, {}).items():
            style.matrix([row], (1, len(layers)), f"{label}, {task}")
            traces.append(
                go.Scatter(
                    name=task, legendgroup=label, x=list(layers), y=list(row), mode="lines", showlegend=False,
                    line={"color": style.fade(colour, 0.35), "width": 1},
                    hovertemplate=_task_hover(task, label),
                )
            )  # fmt: skip
            thin.append(task)
    figure = style.house_figure(traces, title, subtitle, height=440)
    _axes_of_layers(figure, layers, y_label, limits)
    style.legend_on_top(figure)
    offered = choices_of((task for task in thin if task is not None), groups)
    if len(offered) > 1:
        menu(
            figure,
            {c: [t is None or t in tasks for t in thin] for c, tasks in offered.items()},
            style.legend_rows(figure),
        )
    return figure


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
            hovertemplate=_task_hover(task, ""),
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
                x=[s[0] for s in spans], y=[low - 0.09 * room] * len(spans),
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
    figure.update_yaxes(title_text=y_label, range=[low - 0.16 * room, high + 0.24 * room])
    return figure


def _entry(label: str, colour: str) -> Any:
    """An entry of the legend: boxes without a line would have none to show."""
    import plotly.graph_objects as go

    marker = {"color": style.fade(colour, 0.6), "size": 12, "symbol": "square", "line": {"color": colour, "width": 1.4}}
    return go.Scatter(name=label, legendgroup=label, x=[None], y=[None], mode="markers", marker=marker)


def _box(label: str, rows: Mapping[str, Sequence[float]], layers: Sequence[str], colour: str, *, visible: bool) -> Any:
    """Boxes over the tasks, or where they are few their points alone."""
    import plotly.graph_objects as go

    for task, row in rows.items():
        style.matrix([row], (1, len(layers)), f"{label}, {task}")
    cells = [(layer, v, t) for t, row in rows.items() for layer, v in zip(layers, row, strict=True) if np.isfinite(v)]
    boxed = len(rows) >= FEW
    return go.Box(
        name=label, x=[c[0] for c in cells], y=[c[1] for c in cells], customdata=[html.escape(c[2]) for c in cells],
        marker={"color": colour, "size": 4 if boxed else 7}, line={"width": 1.4 if boxed else 0}, visible=visible,
        fillcolor=style.fade(colour, 0.3 if boxed else 0.0), pointpos=0, jitter=0.35,
        boxpoints="all" if len(rows) < 12 else "outliers",
        offsetgroup=label, legendgroup=label, showlegend=False,
        hovertemplate="<b>%{customdata}</b><br>layer %{x}: %{y:.3g}<extra>" + html.escape(label) + "</extra>",
    )  # fmt: skip


def _axes_of_layers(figure: Any, layers: Sequence[str], y_label: str, limits: tuple[float, float] | None) -> None:
    figure.update_xaxes(
        type="category", categoryorder="array", categoryarray=list(layers), title_text="layer", showgrid=False,
        range=[-0.5, len(layers) - 0.5], tickangle=0 if len(layers) < 14 else -40,
    )  # fmt: skip
    figure.update_yaxes(title_text=y_label, range=list(limits) if limits else None)


def _task_hover(task: str, label: str) -> str:
    return f"<b>{html.escape(task)}</b><br>layer %{{x}}: %{{y:.3g}}<extra>{html.escape(label)}</extra>"


def _shade(label: str, layers: Sequence[str], low: Sequence[float], high: Sequence[float], colour: str) -> Any:
    """The area between two curves, without the layers where either has no value."""
    for edge in (low, high):
        style.matrix([edge], (1, len(layers)), f"the band of {label}")
    rows = [(name, a, b) for name, a, b in zip(layers, low, high, strict=True) if np.isfinite(a) and np.isfinite(b)]
    names: Any = [row[0] for row in rows]  # categories instead of numbers
    return style.shade(label, names, [row[1] for row in rows], [row[2] for row in rows], colour)
