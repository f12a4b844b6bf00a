"""Figures over layers: what the menu shows, where boxes stand, room for legend and subtitle, refused input."""

import numpy as np
import pytest

from neuroscope import figures
from neuroscope.errors import ArgumentError
from neuroscope.figures import style
from neuroscope.figures.parts import choices_of

LAYERS = ["emb", "1", "2"]
GROUPS = {"a": "even", "b": "odd", "c": "even"}


def rows(tasks, start=0.0):
    return {task: [start + i + 0.1 * layer for layer in range(3)] for i, task in enumerate(tasks)}


def test_the_menu_offers_all_tasks_clusters_of_several_and_each_task():
    assert choices_of("abca", GROUPS) == {
        "all tasks": ["a", "b", "c"], "cluster: even": ["a", "c"], "a": ["a"], "b": ["b"], "c": ["c"],
    }  # fmt: skip
    assert choices_of("ac", GROUPS) == {"all tasks": ["a", "c"], "a": ["a"], "c": ["c"]}  # one cluster is all tasks
    assert choices_of("b", GROUPS) == {"all tasks": ["b"]}
    assert list(choices_of("ab", None)) == ["all tasks", "a", "b"]


def test_the_menu_of_curves_shows_the_chosen_tasks_and_every_mean():
    curves = {"own": ([0, 1, 2], [0, 0, 0], [3, 3, 3]), "random": ([0, 0, 0], None, None)}
    tasks = {"own": rows("abc"), "random": rows("ab", 5)}
    figure = figures.layer_curves(curves, LAYERS, title="t", y_label="y", tasks=tasks, groups=GROUPS)
    menu = {b.label: b.args[0]["visible"] for b in figure.layout.updatemenus[0].buttons}
    assert list(menu) == ["all tasks", "cluster: even", "a", "b", "c"]
    every = ["own: band", "own", "a", "b", "c", "random", "a", "b"]
    assert [t.name for t in figure.data] == every and all(menu["all tasks"])
    shown = {label: [t.name for t, on in zip(figure.data, v, strict=True) if on] for label, v in menu.items()}
    assert shown["cluster: even"] == ["own: band", "own", "a", "c", "random", "a"]
    assert shown["b"] == ["own: band", "own", "b", "random", "b"]


def test_few_tasks_have_points_and_no_box():
    for names, width in (("abcd", 0), ("abcde", 1.4)):
        figure = figures.layer_boxes({"m": rows(names)}, LAYERS, title="t", y_label="y")
        entry, box = figure.data[:2]  # all tasks; the menu's other choices follow
        assert entry.name == "m" and box.line.width == width and box.boxpoints == "all"
        assert sorted(box.y) == sorted(v for row in rows(names).values() for v in row)


def test_there_is_room_above_the_axes_for_subtitle_legend_and_menu():
    short = figures.bars_with_band(
        ["x"], {"a": ([1], None, None), "b": ([1], None, None)}, value_label="v", title="t", subtitle="s"
    )
    long = {f"a label of some length, number {i}": ([1], None, None) for i in range(5)}
    full = figures.bars_with_band(["x"], long, value_label="v", title="t", subtitle="word " * 50)
    lines = full.layout.title.subtitle.text.split("<br>")
    assert " ".join(lines) == ("word " * 50).strip() and max(map(len, lines)) <= style.LINE
    extra = (style.legend_rows(full) - 1) * style.LEGEND_ROW + 18 * (len(lines) - 1)
    assert style.legend_rows(full) >= 3  # two such labels in a row of 560 pixels
    assert full.layout.margin.t - short.layout.margin.t == extra == full.layout.height - short.layout.height
    broken = figures.bars_with_band(["x"], long, value_label="v", title="t", subtitle="one<br>" + "word " * 25)
    assert broken.layout.title.subtitle.text.split("<br>")[:1] == ["one"]  # what was broken by hand stays so
    plain = figures.layer_boxes({"m": rows("a"), "n": rows("a")}, LAYERS, title="t", y_label="y")
    picked = figures.layer_boxes({"m": rows("ab"), "n": rows("ab")}, LAYERS, title="t", y_label="y")
    assert picked.layout.margin.t > plain.layout.margin.t and not plain.layout.updatemenus
    assert picked.layout.updatemenus[0].y > picked.layout.legend.y  # over the legend


def test_layers_have_whole_ticks():
    for count, step in ((4, 1), (16, 1), (17, 2), (33, 3)):
        x = list(range(1, count + 1))
        figure = figures.curves_with_band({"a": (x, (x, None, None))}, title="t", x_label="layer", y_label="y")
        assert (figure.layout.xaxis.tick0, figure.layout.xaxis.dtick) == (1, step)
    free = figures.curves_with_band({"a": ([0.5], ([1], None, None))}, title="t", x_label="share", y_label="y")
    assert free.layout.xaxis.dtick is None


POINTS = [("1", {"a": np.eye(2)}, ("x", "y"))]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.box_panels({}, LAYERS, title="t", y_label="y"),
        lambda: figures.layer_boxes({"m": {"a": [1, 2]}}, LAYERS, title="t", y_label="y"),
        lambda: figures.layer_curves(
            {"m": ([1, 2, 3], None, None)}, LAYERS, title="t", y_label="y", tasks={"m": {"a": [1]}}
        ),
        lambda: figures.layer_curves({"m": ([1, 2, 3], [1], [2])}, LAYERS, title="t", y_label="y"),
        lambda: figures.map_explorer([], title="t"),
        lambda: figures.map_explorer(POINTS, title="t", start=4),
        lambda: figures.map_explorer(POINTS, title="t", hover={"a": ["one"]}),
        lambda: figures.map_explorer([("1", {"a": np.eye(3)}, ("x", "y"))], title="t"),
        lambda: figures.map_multiples([], title="t"),
        lambda: figures.map_multiples(POINTS, title="t", columns=0),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw):
    with pytest.raises(ArgumentError):
        draw()
