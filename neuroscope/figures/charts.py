"""Every kind of figure, in one house style: plain data in, a plotly Figure out.

plotly is imported inside the functions, so that `import neuroscope` stays light.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

from neuroscope.checks import public
from neuroscope.errors import ArgumentError, choose
from neuroscope.figures import style

if TYPE_CHECKING:
    import plotly.graph_objects as go

CURVE_POINTS = 300  # of a rank curve: more would only make the file larger
TAIL = 0.95  # share of a rank curve in view at first: the last scores fall without end on a logarithmic axis

Band = tuple[Sequence[float], Sequence[float] | None, Sequence[float] | None]  # value, low, high
Scale = Literal["sequential", "diverging"]


@public
def heatmap(
    values: ArrayLike,
    x: Sequence[str],
    y: Sequence[str],
    *,
    title: str,
    colour_label: str,
    subtitle: str = "",
    x_label: str = "",
    y_label: str = "",
    hover: ArrayLike | None = None,
    scale: Scale = "sequential",
    text: ArrayLike | None = None,
    groups: Mapping[str, str] | None = None,
    origin: Literal["top", "bottom"] = "top",
    limits: tuple[float, float] | None = None,
) -> go.Figure:
    """A matrix of numbers, one cell per pair of names.

    Args:
        values: shape [len(y), len(x)]. NaN cells stay grey.
        hover: shape of `values`: the text under the pointer, line breaks as `<br>`.
        scale: "sequential" for amounts, "diverging" for signed numbers (zero is white, blue is positive).
        text: shape of `values`: written into the cells.
        groups: name -> family: neighbours of one family are bracketed, and the family's own block is outlined.
        origin: where the first row goes.
        limits: the values at the two ends of the colour scale.
    """
    import plotly.graph_objects as go

    table = style.matrix(values, (len(y), len(x)), "values")
    choose(scale, style.SCALES, "scale")
    if limits is None and scale == "diverging":
        largest = np.abs(table[np.isfinite(table)]).max(initial=0.0) or 1.0
        limits = (-largest, largest)
    cells = go.Heatmap(
        z=table,
        x=list(x),
        y=list(y),
        customdata=None if hover is None else style.texts(hover, table.shape, "hover"),
        text=None if text is None else style.texts(text, table.shape, "text"),
        texttemplate=None if text is None else "%{text}",
        hovertemplate=("%{customdata}" if hover is not None else "%{y} | %{x}<br>%{z:.3g}") + "<extra></extra>",
        colorscale=style.SCALES[scale],
        zmin=limits[0] if limits else None,
        zmax=limits[1] if limits else None,
        colorbar=style.colour_bar(colour_label),
        xgap=1,
        ygap=1,
    )
    figure = style.house_figure([cells], title, subtitle, height=180 + max(190, 30 * len(y)))
    figure.update_xaxes(
        type="category", title_text=x_label, tickangle=-40 if len(x) > 4 and max(map(len, x)) > 3 else 0, showgrid=False
    )
    figure.update_yaxes(type="category", title_text=y_label, showgrid=False, showline=False, ticks="")
    figure.update_layout(plot_bgcolor=style.MISSING, yaxis_autorange="reversed" if origin == "top" else True)
    if groups:
        style.bracket(figure, x, y, groups)
    return figure


@public
def depth_map(
    counts: Mapping[str, Mapping[str, int]],
    widths: Mapping[str, int],
    *,
    title: str = "Depth of the masks",
    subtitle: str = "",
    groups: Mapping[str, str] | None = None,
) -> go.Figure:
    """Where in the model each mask lies: the share of every site's neurons that it holds, first site at the bottom.

    Args:
        counts: name of the mask -> address of a site -> chosen neurons (none if it is not named).
        widths: address -> neurons of the site, in forward order.
        groups: name of the mask -> family.
    """
    for mask in counts.values():
        for address in mask:
            choose(address, widths, "site")
    names = style.short_names(list(widths))
    chosen = np.array([[mask.get(address, 0) for mask in counts.values()] for address in widths], dtype=float)
    size = np.array(list(widths.values()), dtype=float)[:, None]
    share = np.divide(100 * chosen, size, out=np.full(chosen.shape, np.nan), where=size > 0)
    hover = [
        [f"<b>{m}</b><br>{a}<br>{n:.0f} of {widths[a]} neurons" for m, n in zip(counts, row, strict=True)]
        for a, row in zip(widths, chosen, strict=True)
    ]
    return heatmap(
        share,
        list(counts),
        names,
        title=title,
        subtitle=subtitle,
        colour_label="% of the layer",
        y_label="layer",
        hover=hover,
        text=[[f"{v:.0f}" for v in row] for row in share] if len(names) <= 16 else None,
        groups=groups,
        origin="bottom",
        limits=(0.0, float(np.nanmax(share, initial=0.0)) or 1.0),
    )


@public
def bars_with_band(
    names: Sequence[str],
    series: Mapping[str, Band],
    bands: Collection[str] = (),
    *,
    title: str,
    value_label: str,
    subtitle: str = "",
    low_high: str = "95 % interval",
    band_label: str = "over seeds",
    hover: Mapping[str, Sequence[str]] | None = None,
) -> go.Figure:
    """Groups of bars, one group per name: measurements with whiskers, controls with a shaded band.

    Args:
        names: one group of bars each.
        series: label -> (value, low, high), each as long as `names`, in drawing order; low and high may be None.
        bands: labels of the series that are controls, drawn pale with a shaded band from low to high.
        low_high: what the whiskers span; `band_label`: what the bands span. Both are shown in the hover.
        hover: label -> one more line of hover text for each name.
    """
    import plotly.graph_objects as go

    for label in [*bands, *(hover or {})]:
        choose(label, series, "series")
    colours, greys = iter(style.CATEGORIES * len(series)), iter(("#7b8794", "#b0bac5", "#52606d") * len(series))
    traces = []
    for label, (value, low, high) in series.items():
        style.matrix([value], (1, len(names)), label)
        band = label in bands
        colour = next(greys if band else colours)
        span = band_label if band else low_high
        more = (hover or {}).get(label, [""] * len(names))
        traces.append(
            go.Bar(
                name=label,
                x=list(names),
                y=list(value),
                marker={"color": style.fade(colour, 0.45) if band else colour},
                error_y=style.error_bar(
                    value, low, high, colour=style.fade(colour, 0.75) if band else style.INK, band=band
                ),
                customdata=style.bar_hover(label, value, low, high, span, more),
                hovertemplate="<b>%{x}</b><br>%{customdata}<extra></extra>",
            )
        )
    figure = style.house_figure(traces, title, subtitle, height=440)
    figure.update_layout(barmode="group", bargap=0.28, bargroupgap=0.06)
    style.legend_on_top(figure)
    figure.update_xaxes(type="category", tickangle=-40 if len(names) > 4 else 0, showgrid=False)
    figure.update_yaxes(title_text=value_label, rangemode="tozero")
    return figure


@public
def curves_with_band(
    curves: Mapping[str, tuple[Sequence[float], Band]],
    reference: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    *,
    title: str,
    x_label: str,
    y_label: str,
    subtitle: str = "",
    reference_label: str = "chance",
    hover: Mapping[str, Sequence[str]] | None = None,
) -> go.Figure:
    """Curves with a shaded band each, and dashed reference curves in the colour of the curve they belong to.

    Args:
        curves: label -> (x, (y, low, high)); low and high may be None.
        reference: label of a curve -> (x, y) of its reference, for example its chance level.
        hover: label -> one more line of hover text for each point.
    """
    import plotly.graph_objects as go

    for label in [*(reference or {}), *(hover or {})]:
        choose(label, curves, "curve")
    styles, traces = style.line_styles(curves), []
    for label, (x, (y, low, high)) in curves.items():
        style.matrix([y], (1, len(x)), label)
        colour, dash = styles[label]
        if low is not None and high is not None:
            traces.append(style.shade(label, x, low, high, colour))
        traces.append(
            go.Scatter(
                name=label,
                legendgroup=label,
                x=list(x),
                y=list(y),
                mode="lines+markers",
                line={"color": colour, "dash": dash},
                customdata=list((hover or {}).get(label, [""] * len(x))),
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
    if x_label.startswith("layer"):
        style.layer_ticks(figure, [v for x, _ in curves.values() for v in x])
    return figure


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
