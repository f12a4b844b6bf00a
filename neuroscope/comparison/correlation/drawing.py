"""The figures of a correlation: by layer, or a row per test task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope import figures
from neuroscope.comparison.correlation.views import PAIRS, SYMBOLS, TWO_WAY, written
from neuroscope.figures import intervals, style
from neuroscope.statistics import ALPHA

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SHORT = "<b>source and test<br>task taken out</b>"
NAMES = {"pearson": "Pearson's r", "spearman": "Spearman's rho"}


def _hover(row: Mapping[str, Any], symbol: str) -> str:
    if not np.isfinite(row["r"]):
        return str(row["reason"])
    orders = f"{'all' if row['exact'] else 'drawn'} {row['orders']:,} orders"
    gaps = f" ({row['gaps']} gaps)" if row["gaps"] else ""
    text = f"{written(row, symbol)}<br>n = {row['n']}{gaps}<br>p = {row['p']:.3g} ({orders})<br>q = {row['q']:.3g}"
    return text + (f"<br>{row['reason']}" if row["reason"] else "")


def by_layer(pairs: pd.DataFrame, two_way: pd.DataFrame, statistic: str, manifest: Mapping[str, Any]) -> go.Figure:
    """The correlation over all pairs by layer, with its interval, as they are and two-way; large dots where q holds."""
    rows, layers = two_way.to_dict("records"), two_way["layer"].tolist()
    without, raw = "source and test task taken out", "all pairs as they are"
    figure = figures.curves_with_band(
        {
            without: (layers, (two_way["r"].tolist(), two_way["low"].tolist(), two_way["high"].tolist())),
            raw: (layers, (pairs["r"].tolist(), None, None)),
        },
        title="Similarity and transfer, by layer",
        subtitle=f"over {manifest['pairs']} pairs of {len(manifest['tasks'])} tasks; shaded: 95 %, tasks drawn again; "
        f"large dots: q <= {ALPHA} over the layers",
        x_label="layer",
        y_label=f"{NAMES[statistic]} of similarity and transfer",
        hover={
            name: [_hover(row, SYMBOLS[statistic]) for row in table.to_dict("records")]
            for name, table in ((without, two_way), (raw, pairs))
        },
    )
    beyond = [
        (row["layer"], row["r"], f"layer {row['layer']}<br>{_hover(row, SYMBOLS[statistic])}", style.CATEGORIES[0])
        for row in rows
        if row["q"] <= ALPHA
    ]
    if beyond:
        x, y, hover, colour = zip(*beyond, strict=True)
        figure.add_scatter(
            name=f"q <= {ALPHA}", x=x, y=y, mode="markers", customdata=hover, showlegend=False,
            marker={"color": colour, "size": 11, "line": {"color": "white", "width": 1}},
            hovertemplate="%{customdata}<extra></extra>",
        )  # fmt: skip
    figure.add_hline(y=0, line={"color": style.INK, "width": 1, "dash": "dot"})
    figure.update_yaxes(range=[-1.05, 1.05])
    return figure


def forest(rows: list[dict[str, Any]], statistic: str, manifest: Mapping[str, Any]) -> go.Figure:
    """One row per test: a dot with its interval, filled where q holds; what is undefined says so."""
    import plotly.graph_objects as go

    symbol = SYMBOLS[statistic]
    names = [{PAIRS: f"<b>{PAIRS}</b>", TWO_WAY: SHORT}.get(row["test"], row["test"]) for row in rows]
    kinds = (
        (f"q <= {ALPHA}", style.CATEGORIES[0], "circle", [i for i, row in enumerate(rows) if row["q"] <= ALPHA]),
        ("not beyond chance", "#7b8794", "circle-open", [i for i, row in enumerate(rows) if row["q"] > ALPHA]),
    )
    traces = []
    for kind, colour, shape, chosen in kinds:
        r, low, high = ([rows[i][c] for i in chosen] for c in ("r", "low", "high"))
        traces.append(
            go.Scatter(
                name=kind,
                x=r,
                y=[names[i] for i in chosen],
                mode="markers",
                marker={"color": colour, "size": 10, "symbol": shape, "line": {"width": 2, "color": colour}},
                error_x=intervals.error_bar(r, low, high, colour=colour, band=False),
                customdata=[f"<b>{rows[i]['test']}</b><br>{_hover(rows[i], symbol)}" for i in chosen],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    tested = sum(bool(np.isfinite(row["q"])) for row in rows if row["test"] not in (PAIRS, TWO_WAY))
    subtitle = f"similarity against transfer, 95 % intervals; q over {tested} test tasks"
    figure = style.house_figure(traces, "Does similarity predict transfer?", subtitle, height=170 + 34 * len(rows))
    for name, row in zip(names, rows, strict=True):
        if not np.isfinite(row["r"]):
            figure.add_annotation(
                x=0, y=name, text=row["reason"], showarrow=False, bgcolor="white", font={"color": "#7b8794"}
            )
    figure.add_vline(x=0, line={"color": style.INK, "width": 1, "dash": "dot"})
    figure.update_xaxes(range=[-1.05, 1.05], title_text=NAMES[statistic])
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], type="category")
    figure.update_layout(legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom"})
    return figure
