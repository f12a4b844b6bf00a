"""Groups of bars: measurements with whiskers, controls with a shaded band."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from neuroscope.checks import public
from neuroscope.errors import choose
from neuroscope.figures import intervals, style

if TYPE_CHECKING:
    import plotly.graph_objects as go

PATTERNS = ("", "/", ".", "x", "-")


@public
def bars_with_band(
    names: Sequence[str],
    series: Mapping[str, style.Band],
    bands: Collection[str] = (),
    *,
    title: str,
    value_label: str,
    subtitle: str = "",
    low_high: str = "95 % interval",
    band_label: str = "over seeds",
    hover: Mapping[str, Sequence[str]] | None = None,
    within: intervals.Within = intervals.ANYTHING,
    mark: Sequence[float] | None = None,
    mark_label: str = "mark",
    colours: Mapping[str, str] | None = None,
) -> go.Figure:
    """Groups of bars, one group per name: measurements with whiskers, controls with a shaded band.

    Args:
        names: one group of bars each.
        series: label -> (value, low, high), each as long as `names`, in drawing order; low and high may be None.
        bands: labels of the series that are controls, drawn pale with a shaded band from low to high.
        low_high: what the whiskers span; `band_label`: what the bands span. Both are shown in the hover.
        hover: label -> one more line of hover text for each name.
        within: the least and the greatest value that there can be: whiskers and bands end there; the hover says so.
        mark: of each name, what its bars are to be above: a dashed line across them (NaN: none), which `hover` may say
            more of under `mark_label`.
        colours: label -> colour such as "#1f2933", of series that have one of their own.
    """
    import plotly.graph_objects as go

    for label in [*bands, *(hover or {}), *(colours or {})]:
        choose(label, [*series, *([] if mark is None else [mark_label])], "series of bands")
    free, greys = iter(style.CATEGORIES * len(series)), iter(tuple(style.RANDOM.values()) * len(series))
    patterns = {band: (_pattern(i, band) for i in range(len(series))) for band in (False, True)}
    traces = []
    for label, band_of in series.items():
        style.matrix([band_of[0]], (1, len(names)), f"{label}, by names")
        (value, low, high), notes = intervals.cut(band_of, within)
        band = label in bands
        colour = (colours or {}).get(label) or next(greys if band else free)
        span = band_label if band else low_high
        more = intervals.joined((hover or {}).get(label, [""] * len(names)), notes)
        filling = next(patterns[band])
        traces.append(
            go.Bar(
                name=label,
                x=list(names),
                y=list(value),
                marker={"color": style.fade(colour, 0.45) if band else colour, "pattern": filling},
                error_y=intervals.error_bar(
                    value, low, high, colour=style.fade(colour, 0.75) if band else style.INK, band=band
                ),
                customdata=intervals.bar_hover(label, value, low, high, span, more),
                hovertemplate="<b>%{x}</b><br>%{customdata}<extra></extra>",
            )
        )
    lines: list[tuple[int, float]] = []
    if mark is not None:
        levels = style.matrix([mark], (1, len(names)), mark_label)[0].tolist()
        lines = [(i, at) for i, at in enumerate(levels) if at == at]
    if lines:
        values, about = [at for _, at in lines], (hover or {}).get(mark_label, [""] * len(names))
        more = [about[i] for i, _ in lines]
        traces.append(
            go.Scatter(
                name=mark_label,
                x=[names[i] for i, _ in lines],
                y=values,
                mode="markers",
                marker={"symbol": "line-ew", "size": 18, "line": {"color": style.INK, "width": 2}},
                customdata=intervals.bar_hover(mark_label, values, None, None, "", more),
                hovertemplate="<b>%{x}</b><br>%{customdata}<extra></extra>",
            )
        )
    figure = style.house_figure(traces, title, subtitle, height=440)
    for i, at in lines:
        dash = {"color": style.INK, "width": 1.5, "dash": "dash"}
        figure.add_shape(type="line", x0=i - 0.43, x1=i + 0.43, y0=at, y1=at, line=dash)
    figure.update_layout(barmode="group", bargap=0.28, bargroupgap=0.06)
    style.legend_on_top(figure)
    figure.update_xaxes(type="category", tickangle=-40 if len(names) > 4 else 0, showgrid=False)
    figure.update_yaxes(title_text=value_label, rangemode="tozero")
    return figure


def _pattern(i: int, band: bool) -> dict[str, object]:
    """What is drawn on the bars of the i-th series, so that they can be told apart without colours."""
    ink = style.INK if band else "white"
    return {
        "shape": PATTERNS[i % len(PATTERNS)],
        "fillmode": "overlay",
        "fgcolor": ink,
        "fgopacity": 0.6,
        "size": 6,
        "solidity": 0.25,
    }
