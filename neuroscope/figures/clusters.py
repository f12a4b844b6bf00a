"""Sets and their kinship: a matrix with its tree, and the neurons that sets have in common."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from neuroscope import arrays  # noqa: F401  # for what `ArrayLike` takes
from neuroscope.checks import public
from neuroscope.errors import ArgumentError, choose
from neuroscope.figures import style

if TYPE_CHECKING:
    import plotly.graph_objects as go


@public
def heatmap_with_tree(
    values: ArrayLike,
    names: Sequence[str],
    linkage: ArrayLike,
    *,
    title: str,
    colour_label: str,
    distance_label: str,
    subtitle: str = "",
    hover: Any = None,
    text: Any = None,
    limits: tuple[float, float] | None = None,
    clusters: Mapping[str, int] | None = None,
) -> go.Figure:
    """A symmetric matrix in the order of a tree of its names, and the tree beside it.

    Args:
        values: shape [name, name]. NaN cells stay grey.
        linkage: [name - 1, 4], as `scipy.cluster.hierarchy.linkage` gives.
        distance_label: what the tree's lengths are, with their unit.
        hover, text: shape of `values`.
        limits: the values at the two ends of the colour scale.
        clusters: name -> number of its cluster: neighbours of one cluster are outlined.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots
    from scipy.cluster.hierarchy import dendrogram

    n = len(names)
    table = style.matrix(values, (n, n), "values by names")
    tree = dendrogram(style.matrix(linkage, (n - 1, 4), "the linkage of names"), no_plot=True)
    order = tree["leaves"]
    ordered = [names[i] for i in order]
    square = np.ix_(order, order)
    cells = go.Heatmap(
        z=table[square],
        x=list(range(n)),
        y=list(range(n)),
        customdata=style.texts(hover, (n, n), "hover")[square] if hover is not None else None,
        text=style.texts(text, (n, n), "text")[square] if text is not None else None,
        texttemplate="%{text}" if text is not None else None,
        hovertemplate=("%{customdata}" if hover is not None else "%{z:.3g}") + "<extra></extra>",
        colorscale=style.SCALES["sequential"],
        zmin=limits[0] if limits else None,
        zmax=limits[1] if limits else None,
        colorbar=style.colour_bar(colour_label),
        xgap=1,
        ygap=1,
    )
    branches = [
        go.Scatter(
            x=distances, y=[(v - 5) / 10 for v in places], mode="lines", line={"color": "#52606d", "width": 1.5},
            showlegend=False, hovertemplate=f"{html.escape(distance_label)}: {max(distances):.3g}<extra></extra>",
        )
        for places, distances in zip(tree["icoord"], tree["dcoord"], strict=True)
    ]  # fmt: skip
    figure = make_subplots(1, 2, column_widths=[0.78, 0.22], shared_yaxes=True, horizontal_spacing=0.01)
    about = style.house_figure([], title, subtitle, height=190 + max(190, 30 * n)).layout
    figure.update_layout(template=about.template, title=about.title, height=about.height, margin_t=about.margin.t)
    figure.add_trace(cells, 1, 1)
    figure.add_traces(branches, [1] * len(branches), [2] * len(branches))
    ticks = {"tickvals": list(range(n)), "ticktext": [html.escape(name) for name in ordered], "showgrid": False}
    figure.update_yaxes(**ticks, range=[n - 0.5, -0.5], showline=False, ticks="", col=1)
    figure.update_yaxes(showgrid=False, showline=False, ticks="", col=2)
    figure.update_xaxes(**ticks, range=[-0.5, n - 0.5], tickangle=-40 if n > 4 else 0, col=1)
    farthest = 1.05 * max(max(distances) for distances in tree["dcoord"])
    figure.update_xaxes(title_text=distance_label, range=[0, farthest or 1], showgrid=False, col=2)
    known = [(clusters or {}).get(name, i) for i, name in enumerate(ordered)]
    starts = [i for i in range(n) if i == 0 or known[i] != known[i - 1]]
    for start, end in zip(starts, [*starts[1:], n], strict=True) if clusters else ():
        box = {"x0": start - 0.5, "x1": end - 0.5, "y0": start - 0.5, "y1": end - 0.5}
        outline = {"line": {"color": style.INK, "width": 2}, "fillcolor": "rgba(0,0,0,0)"}
        figure.add_shape(type="rect", **box, **outline, row=1, col=1)
    return figure


@public
def upset(
    names: Sequence[str],
    members: Sequence[Sequence[str]],
    counts: Sequence[int],
    *,
    title: str,
    value_label: str,
    subtitle: str = "",
    expected: Sequence[float] | None = None,
    expected_label: str = "by chance",
) -> go.Figure:
    """How many elements are in just these sets and in no other: bars, over a grid that says which (Lex et al. 2014).

    Args:
        names: the sets, a row of the grid each.
        members: of every bar, the sets that its elements are in.
        counts: of every bar, its elements.
        expected: of every bar, how many there would be by chance: a mark across it.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    for group in members:
        for name in group:
            choose(name, names, "name of a set")
    bars = len(members)
    if not bars:
        raise ArgumentError("a figure of what sets have in common", "no bars", "give the members of one at least")
    style.matrix([counts], (1, bars), "counts, by members")
    said = [html.escape(" & ".join(group) or "none of them") for group in members]
    chance = [None] * bars if expected is None else style.matrix([expected], (1, bars), "expected, by members")[0]
    hover = [
        f"<b>{what}</b><br>{count:,.0f}" + ("" if e is None else f"; {html.escape(expected_label)} {e:,.1f}")
        for what, count, e in zip(said, counts, chance, strict=True)
    ]
    share = max(0.25, min(0.6, 0.06 * len(names)))
    figure = make_subplots(2, 1, row_heights=[1 - share, share], shared_xaxes=True, vertical_spacing=0.03)
    about = style.house_figure([], title, subtitle, height=330 + 26 * len(names)).layout
    figure.update_layout(template=about.template, title=about.title, height=about.height, margin_t=about.margin.t)
    pointed = {"customdata": hover, "hovertemplate": "%{customdata}<extra></extra>"}
    bar = go.Bar(x=list(range(bars)), y=list(counts), name=value_label, marker_color=style.MEASURED, **pointed)
    figure.add_trace(bar, 1, 1)
    if expected is not None:
        mark = {"symbol": "line-ew", "size": 16, "line": {"width": 3, "color": style.CHANCE}}
        points = {"mode": "markers", "marker": mark, **pointed}
        figure.add_trace(go.Scatter(x=list(range(bars)), y=list(chance), name=expected_label, **points), 1, 1)
    inside = [[name in group for name in names] for group in members]
    for is_in, colour in ((False, "#d9dee3"), (True, style.INK)):
        places = [(i, j) for i in range(bars) for j in range(len(names)) if inside[i][j] == is_in]
        x, y = [i for i, _ in places], [j for _, j in places]
        dots = {"mode": "markers", "marker": {"color": colour, "size": 9}, "hoverinfo": "skip", "showlegend": False}
        figure.add_trace(go.Scatter(x=x, y=y, **dots), 2, 1)
    x_lines: list[Any] = []
    y_lines: list[Any] = []
    for i, row in enumerate(inside):
        if sum(row) > 1:
            placed = [j for j, is_in in enumerate(row) if is_in]
            x_lines += [i, i, None]
            y_lines += [placed[0], placed[-1], None]
    lines = {"mode": "lines", "line": {"color": style.INK, "width": 2}, "hoverinfo": "skip", "showlegend": False}
    figure.add_trace(go.Scatter(x=x_lines, y=y_lines, **lines), 2, 1)
    figure.update_xaxes(showticklabels=False, ticks="", showgrid=False, showline=False, range=[-0.6, bars - 0.4])
    figure.update_yaxes(title_text=value_label, row=1)
    rows = {"tickvals": list(range(len(names))), "ticktext": [html.escape(name) for name in names]}
    figure.update_yaxes(**rows, range=[len(names) - 0.5, -0.5], showgrid=False, showline=False, ticks="", row=2)
    if expected is not None:
        style.legend_on_top(figure)
    return figure
