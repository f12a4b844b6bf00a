"""A matrix of numbers as coloured cells; and where in depth masks lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from neuroscope import arrays  # noqa: F401  # for what `ArrayLike` takes
from neuroscope.checks import public
from neuroscope.errors import choose
from neuroscope.figures import style

if TYPE_CHECKING:
    import plotly.graph_objects as go

Scale = Literal["sequential", "diverging"]
FEW = 16  # columns whose cells have room for numbers


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
    hover: Any = None,
    scale: Scale = "sequential",
    text: Any = None,
    groups: Mapping[str, str] | None = None,
    origin: Literal["top", "bottom"] = "top",
    limits: tuple[float, float] | None = None,
) -> go.Figure:
    """A matrix of numbers, one cell per pair of names.

    Args:
        values: shape [len(y), len(x)]. NaN cells stay grey.
        hover: shape of `values`: the text under the pointer, line breaks as `<br>`.
        scale: "sequential" for amounts, "diverging" for signed numbers (zero is white, blue is positive).
        text: shape of `values`: written into the cells; None: signed numbers are, where cells have room for them.
        groups: name -> family: neighbours of one family are bracketed, and the family's own block is outlined, which
            the subtitle says.
        origin: where the first row goes.
        limits: the values at the two ends of the colour scale.
    """
    import plotly.graph_objects as go

    table = style.matrix(values, (len(y), len(x)), "values by y and x")
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
        texttemplate="%{text}" if text is not None else "%{z:.2g}" if scale == "diverging" and len(x) <= FEW else None,
        hovertemplate=("%{customdata}" if hover is not None else "%{y} | %{x}<br>%{z:.3g}") + "<extra></extra>",
        colorscale=style.SCALES[scale],
        zmin=limits[0] if limits else None,
        zmax=limits[1] if limits else None,
        colorbar=style.colour_bar(colour_label),
        xgap=1,
        ygap=1,
    )
    if groups and style.meet_themselves(x, y, groups):
        subtitle = "; ".join(filter(None, [subtitle, "outlined: within one family"]))
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
            choose(address, widths, "site of widths")
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
