"""What explorers are made of: a menu, a grid of panels, a legend below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from neuroscope import style

if TYPE_CHECKING:
    pass

EVERY = "all clusters"


def menu(figure: Any, choices: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """A menu at the top right that restyles the traces."""
    buttons = [{"label": label, "method": "restyle", "args": [change]} for label, change in choices]
    picker = {
        "buttons": buttons, "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom", "showactive": True,
        "bgcolor": "white", "bordercolor": "#9aa5b1", "font": {"size": 12}, "pad": {"b": 2},
    }  # fmt: skip
    figure.update_layout(updatemenus=[*figure.layout.updatemenus, picker])


def grid(titles: Sequence[str], columns: int, title: str, subtitle: str, height: int) -> Any:
    """Empty panels in the house style."""
    from plotly.subplots import make_subplots

    rows = -(-len(titles) // columns)
    house = style.house_figure([], title, subtitle, height=150 + rows * height)
    grid = make_subplots(
        rows,
        columns,
        subplot_titles=list(titles),
        horizontal_spacing=0.06,
        vertical_spacing=min(0.3, 70 / (rows * height)),
    )
    about = house.layout
    grid.update_layout(template=about.template, title=about.title, height=about.height, margin_t=about.margin.t + 16)
    grid.update_annotations(font_size=12)
    return grid


def bottom_legend() -> dict[str, Any]:
    """Layout of a legend in one line under the figure."""
    return {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"}
