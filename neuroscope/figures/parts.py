"""What explorers are made of: a menu, a grid of panels, a legend below."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from neuroscope.figures import intervals, style

EVERY = "all tasks"
ROW = 36  # pixels of the row that a menu takes above the legend


def choices_of(tasks: Iterable[str], groups: Mapping[str, str] | None) -> dict[str, list[str]]:
    """What a menu offers -> the tasks that it shows: all, every cluster of several, every task."""
    tasks = list(dict.fromkeys(tasks))
    clusters: dict[str, list[str]] = {}
    for task in tasks:
        clusters.setdefault((groups or {}).get(task, task), []).append(task)
    several = {f"cluster: {c}": members for c, members in clusters.items() if 1 < len(members) < len(tasks)}
    return {EVERY: tasks} | several | ({task: [task] for task in tasks} if len(tasks) > 1 else {})


def menu(figure: Any, choices: Mapping[str, Sequence[Any]], legend_rows: int = 0) -> None:
    """A menu in a row of its own at the right, over the legend: each choice says what traces are visible."""
    buttons = [
        {"label": html.escape(label), "method": "restyle", "args": [{"visible": list(shown)}]}
        for label, shown in choices.items()
    ]
    layout = figure.layout
    axes = layout.height - layout.margin.t - (layout.margin.b or 20)
    picker = {
        "buttons": buttons, "x": 1, "xanchor": "right", "y": 1.02 + style.LEGEND_ROW * legend_rows / axes,
        "yanchor": "bottom", "showactive": True, "bgcolor": "white", "bordercolor": "#9aa5b1", "font": {"size": 12},
        "pad": {"b": 2},
    }  # fmt: skip
    figure.update_layout(
        updatemenus=[*layout.updatemenus, picker], height=layout.height + ROW, margin_t=layout.margin.t + ROW
    )


def grid(titles: Sequence[str], columns: int, title: str, subtitle: str, height: int) -> Any:
    """Empty panels in the house style."""
    from plotly.subplots import make_subplots

    rows = -(-len(titles) // columns)
    house = style.house_figure([], title, subtitle, height=150 + rows * height)
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=list(titles),
        horizontal_spacing=0.06,
        vertical_spacing=min(0.3, 70 / (rows * height)),
    )
    about = house.layout
    figure.update_layout(template=about.template, title=about.title, height=about.height, margin_t=about.margin.t + 16)
    figure.update_annotations(font_size=12)
    return figure


def bottom_legend() -> dict[str, Any]:
    """Layout of a legend in one line under the figure."""
    return {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"}


def axes_of_layers(figure: Any, layers: Sequence[str], y_label: str, limits: tuple[float, float] | None) -> None:
    """Layers along the axis, each a category of its own, in their order."""
    figure.update_xaxes(
        type="category", categoryorder="array", categoryarray=list(layers), title_text="layer", showgrid=False,
        range=[-0.5, len(layers) - 0.5], tickangle=0 if len(layers) < 14 else -40,
    )  # fmt: skip
    figure.update_yaxes(title_text=y_label, range=list(limits) if limits else None)


def task_hover(task: str, label: str) -> str:
    """The text under the pointer of a task's curve; names stay text."""
    return f"<b>{html.escape(task)}</b><br>layer %{{x}}: %{{y:.3g}}<extra>{html.escape(label)}</extra>"


def shade_layers(label: str, layers: Sequence[str], low: Sequence[float], high: Sequence[float], colour: str) -> Any:
    """The area between two curves, without the layers where either has no value."""
    for edge in (low, high):
        style.matrix([edge], (1, len(layers)), f"the band of {label}, by layers")
    rows = [(name, a, b) for name, a, b in zip(layers, low, high, strict=True) if np.isfinite(a) and np.isfinite(b)]
    names: Any = [row[0] for row in rows]  # categories instead of numbers
    return intervals.shade(label, names, [row[1] for row in rows], [row[2] for row in rows], colour)
