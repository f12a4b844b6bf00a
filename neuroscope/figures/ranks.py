"""How unequal scores are: score against rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from neuroscope import arrays  # noqa: F401  # for what `ArrayLike` takes
from neuroscope.checks import public
from neuroscope.errors import ArgumentError
from neuroscope.figures import style

if TYPE_CHECKING:
    import plotly.graph_objects as go

CURVE_POINTS = 300  # of a rank curve: more would only make the file larger
TAIL = 0.95  # share of a rank curve in view at first: the last scores fall without end on a logarithmic axis


@public
def distribution(
    values: Mapping[str, ArrayLike],
    *,
    title: str,
    k: float | None = None,
    value_label: str = "relevance",
    subtitle: str = "",
    groups: Mapping[str, str] | None = None,
) -> go.Figure:
    """How unequal the scores of the neurons are: score against rank, both logarithmic, one curve per task.

    Args:
        values: name -> scores of all neurons, any shape. Values that are not positive have no place on the curve:
            they are counted in the hover.
        k: share of the neurons in the mask: marked on every curve, its hover tells what share of the sum it holds.
        groups: name -> family: a family shares a colour, its members differ by dash.
    """
    import plotly.graph_objects as go

    styles, traces, marks, limits = style.line_styles(values, groups), [], [], []
    for name, scores in values.items():
        ranked = np.sort(np.ravel(np.asarray(scores, dtype=float)))[::-1]  # NaN first, if any
        if not ranked.size or not np.isfinite(ranked).all():
            raise ArgumentError(f"distribution of {name!r}", "no or not only finite scores", "give finite scores")
        positive = int((ranked > 0).sum())
        ranks = np.unique(np.geomspace(1, max(positive, 1), CURVE_POINTS).astype(int))[:positive]
        limits += [ranked[0], ranked[int(TAIL * positive)]] if positive else []
        colour, dash = styles[name]
        traces.append(
            go.Scatter(
                name=name,
                x=100 * ranks / ranked.size,
                y=ranked[ranks - 1],
                mode="lines",
                line={"color": colour, "dash": dash, "width": 1.8},
                customdata=[f"rank {r} of {ranked.size} ({ranked.size - positive} not positive)" for r in ranks],
                hovertemplate=f"%{{customdata}}<br>{value_label} %{{y:.3g}}<extra>%{{fullData.name}}</extra>",
            )
        )
        if k is not None:
            last = max(1, round(k * ranked.size))
            held = ranked[:last].clip(0).sum() / max(ranked.clip(0).sum(), np.finfo(float).tiny)
            marks.append((100 * last / ranked.size, ranked[last - 1], f"{name}: {held:.1%} of the sum", colour))
    if marks:
        traces.append(style.marks(marks, f"top {k:.3g}"))
    figure = style.house_figure(traces, title, subtitle, height=460)
    if k is not None:
        figure.add_vline(x=100 * k, line={"color": style.INK, "dash": "dot", "width": 1})
        where = {"x": np.log10(100 * k), "y": 1, "yref": "paper", "xanchor": "right", "yanchor": "top", "xshift": -4}
        figure.add_annotation(text=f"top {100 * k:.3g} %", showarrow=False, **where)
    figure.update_xaxes(type="log", title_text="rank, in % of all neurons", dtick=1)
    figure.update_yaxes(type="log", title_text=value_label, exponentformat="power", dtick=1)
    if limits:
        figure.update_yaxes(range=[np.log10(min(limits)) - 0.1, np.log10(max(limits)) + 0.2])
    return figure
