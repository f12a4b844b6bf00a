"""Intervals in figures: whiskers, bands, their hover text, and where a measure has no values they are cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from neuroscope.figures.style import Band, fade

Within = tuple[float, float]  # the least and the greatest value that a measure can have
ANYTHING: Within = (-np.inf, np.inf)


def cut(band: Band, within: Within) -> tuple[Band, list[str]]:
    """A band without what lies beyond a measure's range, and for each point a line that says where it was cut, or "".

    Example:
        >>> cut(([0.5, 0.9], [0.4, 0.7], [0.6, 1.1]), (0.0, 1.0))
        (([0.5, 0.9], [0.4, 0.7], [0.6, 1.0]), ['', 'interval cut at 1: no value lies beyond'])
    """
    value, low, high = band
    if low is None or high is None or within == ANYTHING:
        return band, [""] * len(value)
    notes = []
    for a, b in zip(low, high, strict=True):
        ends = [f"{end:g}" for end, beyond in zip(within, (a < within[0], b > within[1]), strict=True) if beyond]
        notes.append(f"interval cut at {' and '.join(ends)}: no value lies beyond" if ends else "")
    inside = [[min(max(float(v), within[0]), within[1]) if v == v else v for v in edge] for edge in (low, high)]
    return (value, inside[0], inside[1]), notes


def joined(lines: Sequence[str], more: Sequence[str]) -> list[str]:
    """Two hover texts for each point, one below the other; empty ones take no line."""
    return ["<br>".join(filter(None, pair)) for pair in zip(lines, more, strict=True)]


def shade(label: str, x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str) -> Any:
    """The area between two curves, as one closed outline for each stretch without a gap (NaN)."""
    import plotly.graph_objects as go

    edges = list(zip(x, low, high, strict=True))
    runs = [list(run) for defined, run in groupby(edges, lambda e: np.isfinite([*e[1:]]).all()) if defined]
    across: list[Any] = []
    along: list[Any] = []
    for run in runs:
        gap = [None] if across else []
        across += [*gap, *(e[0] for e in run), *(e[0] for e in reversed(run))]
        along += [*gap, *(e[2] for e in run), *(e[1] for e in reversed(run))]
    return go.Scatter(
        x=across, y=along, fill="toself", fillcolor=fade(colour, 0.18),
        line={"width": 0}, mode="lines", hoverinfo="skip", showlegend=False, legendgroup=label, name=f"{label}: band",
    )  # fmt: skip


def error_bar(
    value: Sequence[float], low: Sequence[float] | None, high: Sequence[float] | None, *, colour: str, band: bool
) -> dict[str, Any] | None:
    """Whiskers, or (band) one thick stroke that reads as a shaded box."""
    if low is None or high is None:
        return None
    shape = {"thickness": 9, "width": 0} if band else {"thickness": 1.3, "width": 3}
    up, down = np.subtract(high, value), np.subtract(value, low)
    return {"type": "data", "array": up, "arrayminus": down, "color": colour, **shape}


def bar_hover(
    label: str, value: Sequence[float], low: Sequence[float] | None, high: Sequence[float] | None, span: str,
    more: Sequence[str],
) -> list[str]:  # fmt: skip
    """The hover text of each bar: value, span and one more line."""
    lines = [f"{label}: {v:.4g}" for v in value]
    if low is not None and high is not None:
        lines = [f"{line}<br>{span}: {a:.4g} to {b:.4g}" for line, a, b in zip(lines, low, high, strict=True)]
    return joined(lines, more)
