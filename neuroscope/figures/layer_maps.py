"""Two-dimensional maps of examples, one per layer: with a slider, or beside each other."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from neuroscope import arrays  # noqa: F401  # for what `ArrayLike` takes
from neuroscope.checks import public, whole
from neuroscope.errors import ArgumentError
from neuroscope.figures import style
from neuroscope.figures.parts import choices_of, grid, menu

if TYPE_CHECKING:
    import plotly.graph_objects as go

SYMBOLS = (
    "circle", "diamond", "square", "triangle-up", "cross", "x", "triangle-down", "star", "circle-open", "diamond-open",
    "square-open", "triangle-up-open",
)  # fmt: skip
Maps = Sequence[tuple[str, Mapping[str, ArrayLike], tuple[str, str]]]  # layer, task -> [example, 2], titles of the axes


@public
def map_explorer(
    maps: Maps,
    *,
    title: str,
    subtitle: str = "",
    groups: Mapping[str, str] | None = None,
    hover: Mapping[str, Sequence[str]] | None = None,
    start: int = -1,
) -> go.Figure:
    """Two-dimensional maps with a layer slider and a play button; colour is the cluster, legend and menu pick tasks.

    Every layer is scaled to fill the same square: distances compare within a layer, not between layers. A page written
    by `figure.write_html(path)` starts playing when it is opened; `auto_play=False` waits for the button.

    Args:
        maps: (name of the layer, task -> points [example, 2], titles of the two axes), one per layer.
        groups: task -> cluster.
        hover: task -> text of each example.
        start: which of the maps is shown at first.
    """
    import plotly.graph_objects as go

    drawn = [(name, _square(points), titles) for name, points, titles in maps]
    if not -len(drawn) <= start < len(drawn):
        raise ArgumentError(f"start with map {start}", f"{len(drawn)} maps", "give one map or more, and one of them")
    start = range(len(drawn))[start]
    tasks = list(drawn[start][1])
    figure = style.house_figure(_points(drawn[start][1], tasks, groups, hover), title, subtitle, _height(tasks, groups))
    figure.frames = [
        go.Frame(
            name=name,
            data=[go.Scatter(x=points[t][:, 0], y=points[t][:, 1]) for t in tasks],
            traces=list(range(len(tasks))),
            layout={"xaxis": {"title": {"text": titles[0]}}, "yaxis": {"title": {"text": titles[1]}}},
        )
        for name, points, titles in drawn
    ]
    _plain_axes(figure)
    figure.update_layout(
        xaxis_title_text=drawn[start][2][0],
        yaxis_title_text=drawn[start][2][1],
        legend={
            "groupclick": "toggleitem",
            "itemdoubleclick": "toggleothers",
            "tracegroupgap": 2,
            "font": {"size": 11},
        },
        margin={"b": 164},
        sliders=[_slider([name for name, _, _ in drawn], start)],
    )
    _play(figure)
    offered = choices_of(tasks, groups)
    if len(offered) > 1:
        menu(figure, {c: [t in chosen or "legendonly" for t in tasks] for c, chosen in offered.items()})
    return figure


@public
def map_multiples(
    maps: Maps,
    *,
    title: str,
    subtitle: str = "",
    groups: Mapping[str, str] | None = None,
    hover: Mapping[str, Sequence[str]] | None = None,
    columns: int = 3,
) -> go.Figure:
    """The maps of several layers beside each other, one legend for all; arguments as for `map_explorer`."""
    if not maps or columns < 1:
        raise ArgumentError(f"maps of {len(maps)} layers in {columns} columns", "nothing to draw", "give one or more")
    columns = min(columns, len(maps))
    figure = grid([f"layer {n}" if n.isdigit() else n for n, _, _ in maps], columns, title, subtitle, 300)
    for i, (_, points, _) in enumerate(maps):
        for trace in _points(_square(points), list(points), groups, hover):
            trace.update(legendgroup=trace.name, legendgrouptitle=None, showlegend=i == 0, marker_size=5)
            figure.add_trace(trace, row=i // columns + 1, col=i % columns + 1)
    _plain_axes(figure)
    figure.update_layout(legend_itemsizing="constant")
    return figure


@public
def hover_text(prompt: str, answer: str, width: int = 70, lines: int = 8) -> str:
    """A prompt and its answer for a hover, wrapped and cut in the middle; characters of HTML are escaped."""
    width = whole(width, "width", 1)
    wrapped = textwrap.wrap(" ".join(prompt.split()), width)
    if len(wrapped) > lines:
        wrapped = [*wrapped[: lines - 2], "...", wrapped[-1]]
    short = textwrap.shorten(" ".join(answer.split()), 2 * width, placeholder=" ...")
    return "<br>".join(html.escape(line) for line in wrapped) + f"<br><b>{html.escape(short)}</b>"


def _points(
    points: Mapping[str, Any],
    tasks: Sequence[str],
    groups: Mapping[str, str] | None,
    hover: Mapping[str, Sequence[str]] | None,
) -> list[Any]:
    import plotly.graph_objects as go

    families = list(dict.fromkeys((groups or {}).get(t, t) for t in tasks))
    seen: dict[str, int] = {}
    traces = []
    for task in tasks:
        family = (groups or {}).get(task, task)
        member = seen[family] = seen.get(family, -1) + 1
        colour = style.CATEGORIES[families.index(family) % len(style.CATEGORIES)]
        turn = families.index(family)  # other symbols in each cluster: they are told apart without colours as well
        texts = list((hover or {}).get(task, [""] * len(points[task])))
        if len(texts) != len(points[task]):
            found = f"{len(texts)} texts for {len(points[task])} examples"
            raise ArgumentError(f"hover texts of {task!r}", found, "give one per example")
        traces.append(
            go.Scatter(
                name=task, legendgroup=family, x=points[task][:, 0], y=points[task][:, 1], mode="markers",
                legendgrouptitle={"text": html.escape(family), "font": {"size": 12}} if family != task else None,
                marker={
                    "color": colour, "symbol": SYMBOLS[(member + 2 * turn) % len(SYMBOLS)], "size": 7, "opacity": 0.8,
                    "line": {"width": 0.5, "color": "white"},
                },
                customdata=texts,
                hovertemplate=f"<b>{html.escape(task)}</b> ({html.escape(family)})<br>%{{customdata}}<extra></extra>",
            )
        )  # fmt: skip
    return traces


def _square(points: Mapping[str, ArrayLike]) -> dict[str, Any]:
    """The points of one layer, centred on the middle of their range and scaled to the square from -1 to 1."""
    found = {task: np.asarray(p, dtype=float) for task, p in points.items()}
    for task, p in found.items():
        if p.ndim != 2 or p.shape[1] != 2:
            raise ArgumentError(f"a map of {task!r}", f"shape {p.shape}", "give points [example, 2]")
    every = np.concatenate(list(found.values()))
    middle = (every.max(0) + every.min(0)) / 2
    reach = np.abs(every - middle).max() or 1.0
    return {task: (p - middle) / reach for task, p in found.items()}


def _play(figure: Any) -> None:
    run = {"frame": {"duration": 700, "redraw": True}, "transition": {"duration": 350}, "mode": "immediate"}
    stop = {"frame": {"duration": 0, "redraw": False}, "mode": "immediate"}
    buttons = [
        {"label": "&#9654; play", "method": "animate", "args": [None, run]},
        {"label": "&#10073;&#10073; pause", "method": "animate", "args": [[None], stop]},
    ]
    below = {
        "type": "buttons", "direction": "right", "buttons": buttons, "showactive": False, "pad": {"t": 124, "r": 8},
        "x": 0, "xanchor": "left", "y": 0, "yanchor": "top", "bgcolor": "white", "bordercolor": "#9aa5b1",
        "font": {"size": 12},
    }  # fmt: skip
    figure.update_layout(updatemenus=[*figure.layout.updatemenus, below])


def _slider(names: Sequence[str], active: int) -> dict[str, Any]:
    go_to = {"frame": {"duration": 300, "redraw": True}, "transition": {"duration": 250}, "mode": "immediate"}
    steps = [{"label": name, "method": "animate", "args": [[name], go_to]} for name in names]
    return {
        "steps": steps, "active": active, "x": 0, "len": 1, "y": 0, "pad": {"t": 44},
        "currentvalue": {"prefix": "layer: ", "font": {"size": 13}, "xanchor": "left"}, "font": {"size": 11},
    }  # fmt: skip


def _plain_axes(figure: Any) -> None:
    figure.update_xaxes(range=[-1.08, 1.08], showticklabels=False, ticks="", showgrid=False)
    figure.update_yaxes(range=[-1.08, 1.08], showticklabels=False, ticks="", showgrid=False)


def _height(tasks: Sequence[str], groups: Mapping[str, str] | None) -> int:
    """High enough for the legend not to scroll."""
    return max(620, 240 + 20 * len(tasks) + 26 * len({(groups or {}).get(t, t) for t in tasks}))
