"""Where the names of points stand: beside them, further off on a leader, or under the pointer only."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

Box = tuple[float, float, float, float]  # middle, width and height, in pixels

WIDTHS, HEIGHT = (560.0, 720.0, 880.0), 400.0  # of the axes: names keep clear of each other at each of them
LETTER, LINE, MARKER = 7.5, 17.0, 14.0
RINGS, DIRECTIONS = (36.0, 56.0, 80.0, 110.0), 16  # of a leader: its lengths, and how many ways it may go


def name_points(figure: Any, points: Mapping[str, tuple[float, float]], x: Sequence[float], y: Sequence[float]) -> None:
    """Write names beside points of a figure whose axes go from x[0] to x[1] and from y[0] to y[1]."""
    for name, offset in offsets(points, x, y).items():
        if offset is None:
            continue
        far = max(abs(offset[0]) - LETTER * len(name) / 2, abs(offset[1]) - LINE / 2) > MARKER
        figure.add_annotation(
            x=points[name][0], y=points[name][1], text=html.escape(name), ax=offset[0], ay=-offset[1], borderpad=1,
            showarrow=True, arrowhead=0, arrowwidth=1, arrowcolor="#7b8794" if far else "rgba(0,0,0,0)", standoff=6,
            bgcolor="rgba(255,255,255,0.75)",
        )  # fmt: skip


def offsets(
    points: Mapping[str, tuple[float, float]], x: Sequence[float], y: Sequence[float]
) -> dict[str, tuple[float, float] | None]:
    """By how many pixels the middle of each name is off its point; None where it would cover another or a point.

    Example:
        >>> offsets({"a": (0.2, 0.5), "far": (0.8, 0.5)}, (0, 1), (0, 1))
        {'a': (0.0, 17.0), 'far': (0.0, 17.0)}
    """
    at = {
        name: ((px - x[0]) / (x[1] - x[0]), HEIGHT * (py - y[0]) / (y[1] - y[0])) for name, (px, py) in points.items()
    }
    taken = {width: [(width * px, py, MARKER, MARKER) for px, py in at.values()] for width in WIDTHS}
    found: dict[str, tuple[float, float] | None] = {}
    for name, (px, py) in at.items():
        size = (LETTER * len(name), LINE)
        found[name] = next(
            (o for o in _tries(*size) if all(_fits(w, (w * px, py), o, size, taken[w]) for w in WIDTHS)), None
        )
        for width in WIDTHS if found[name] else ():
            taken[width] += _covered((width * px, py), found[name] or (0, 0), size)
    return found


def _tries(width: float, height: float) -> list[tuple[float, float]]:
    """Beside the point first, above before below; then around it, further and further off."""
    side, up = (width + MARKER) / 2 + 2, (height + MARKER) / 2 + 1.5
    near = [(0.0, up), (0.0, -up), (side, 0.0), (-side, 0.0), *product((side, -side), (up, -up))]
    angles = np.linspace(0, 2 * np.pi, DIRECTIONS, endpoint=False)
    return near + [
        (r * np.cos(a) + np.sign(round(np.cos(a), 6)) * width / 2, r * np.sin(a)) for r in RINGS for a in angles
    ]


def _fits(
    axes: float, point: tuple[float, float], offset: tuple[float, float], size: tuple[float, float], taken: list[Box]
) -> bool:
    name, *leader = _covered(point, offset, size)
    inside = name[2] / 2 <= name[0] <= axes - name[2] / 2 and name[3] / 2 <= name[1] <= HEIGHT - name[3] / 2
    return inside and not any(_meet(box, other) for box in (name, *leader) for other in taken)


def _covered(point: tuple[float, float], offset: tuple[float, float], size: tuple[float, float]) -> list[Box]:
    """The name's box, then small ones along its leader, but for the point itself."""
    length = float(np.hypot(*offset))
    along = np.arange(MARKER + 1, length, 4.0) / length
    return [
        (point[0] + offset[0], point[1] + offset[1], *size),
        *[(point[0] + t * offset[0], point[1] + t * offset[1], 1.0, 1.0) for t in along],
    ]


def _meet(a: Box, b: Box) -> bool:
    return all(abs(a[i] - b[i]) < (a[i + 2] + b[i + 2]) / 2 for i in (0, 1))
