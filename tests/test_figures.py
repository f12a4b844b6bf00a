"""Figures by the numbers in fig.data and the shapes in fig.layout."""

import numpy as np
import plotly.io
import pytest

from neuroscope import figures
from neuroscope.errors import ArgumentError
from neuroscope.figures import FIGURES, labels, ranks, style

VALUES = [[1.0, 2.0, 3.0], [4.0, float("nan"), 6.0]]


def heatmap(**changes):
    options = {"title": "T", "colour_label": "points"} | changes
    return figures.heatmap(VALUES, ["a", "b", "c"], ["r", "s"], **options)


def test_heatmap_shows_its_numbers():
    figure = heatmap(text=[["1", "2", "3"], ["4", "", "6"]], hover=[["h1", "h2", "h3"], ["h4", "h5", "h6"]])
    (cells,) = figure.data
    np.testing.assert_array_equal(cells.z, VALUES)
    assert list(cells.x) == ["a", "b", "c"] and list(cells.y) == ["r", "s"]
    assert cells.customdata[1][0] == "h4" and "%{customdata}" in cells.hovertemplate
    assert cells.text[0][2] == "3" and cells.texttemplate == "%{text}"
    assert cells.colorbar.title.text == "points" and "T" in figure.layout.title.text
    assert figure.layout.yaxis.autorange == "reversed"  # the first row is on top
    assert heatmap(origin="bottom").layout.yaxis.autorange is True
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "category"  # names like "2024" stay names


def test_diverging_scale_is_centred_on_zero():
    cells = heatmap(scale="diverging").data[0]
    assert (cells.zmin, cells.zmax) == (-6, 6)
    assert len(style.SCALES["diverging"]) % 2 == 1  # so that the middle colour, near white, is zero
    empty = figures.heatmap([[0.0]], ["a"], ["b"], title="", colour_label="", scale="diverging").data[0]
    assert (empty.zmin, empty.zmax) == (-1, 1)


def test_outlines_are_explained_and_cells_of_signed_numbers_say_them():
    names, groups = ["a1", "a2", "b1"], {"a1": "a", "a2": "a", "b1": "b"}
    draw = {"title": "", "colour_label": "", "groups": groups, "subtitle": "s"}
    square = figures.heatmap(np.eye(3), names, names, **draw)
    assert square.layout.title.subtitle.text == "s; outlined: within one family"
    assert {s.line.color for s in square.layout.shapes if s.type == "rect"} == {style.INK}  # no colour of the scales
    by_layer = figures.heatmap(np.ones((2, 3)), names, ["1", "2"], **draw)
    assert by_layer.layout.title.subtitle.text == "s" and not [s for s in by_layer.layout.shapes if s.type == "rect"]
    assert heatmap(scale="diverging").data[0].texttemplate == "%{z:.2g}" and heatmap().data[0].texttemplate is None
    wide = figures.heatmap([range(40)], list(map(str, range(40))), ["r"], title="", colour_label="", scale="diverging")
    assert wide.data[0].texttemplate is None


def test_families_are_separated_and_outlined():
    names = ["a1", "a2", "b1", "c1"]
    groups = {"a1": "a", "a2": "a", "b1": "b"}
    figure = figures.heatmap(np.eye(4), names, names, title="", colour_label="", groups=groups)
    lines = [s for s in figure.layout.shapes if s.type == "line"]
    boxes = [(s.x0, s.x1, s.y0, s.y1) for s in figure.layout.shapes if s.type == "rect"]
    assert [s.x0 for s in lines if s.x0 == s.x1] == [1.5, 2.5] == [s.y0 for s in lines if s.y0 == s.y1]
    assert boxes == [(-0.5, 1.5, -0.5, 1.5), (1.5, 2.5, 1.5, 2.5)]  # c1 has no family
    assert [(a.text, a.x) for a in figure.layout.annotations] == [("a", 0.5), ("b", 2.0), ("", 3.0)]


def test_depth_map_is_a_share_of_each_layer():
    figure = figures.depth_map(
        {"one": {"blocks.0.mlp": 1, "blocks.1.mlp": 5}, "two": {"blocks.0.mlp": 2}},
        {"blocks.0.mlp": 10, "blocks.1.mlp": 20, "blocks.2.mlp": 0},
    )
    np.testing.assert_array_equal(figure.data[0].z, [[10, 20], [25, 0], [np.nan, np.nan]])
    assert list(figure.data[0].y) == ["0", "1", "2"] and figure.layout.yaxis.autorange is True
    assert "blocks.1.mlp<br>5 of 20 neurons" in figure.data[0].customdata[1][0]
    assert (figure.data[0].zmin, figure.data[0].zmax) == (0, 25)


def test_bars_carry_intervals_and_bands():
    series = {
        "Original": ([90, 80], [85, 70], [92, 85]),
        "Random": ([88, 79], [86, 75], [89, 80]),
        "Own": ([20, 30], None, None),
    }
    figure = figures.bars_with_band(["x", "y"], series, ["Random"], title="D", value_label="accuracy, %")
    original, random, own = figure.data
    assert [t.name for t in figure.data] == list(series)
    assert list(original.y) == [90, 80] and list(original.x) == ["x", "y"]
    assert list(original.error_y.array) == [2, 5] and list(original.error_y.arrayminus) == [5, 10]
    assert list(random.error_y.array) == [1, 1] and list(random.error_y.arrayminus) == [2, 4]
    assert random.error_y.width == 0 and random.error_y.thickness > original.error_y.thickness  # a box, not whiskers
    assert own.error_y.array is None
    assert original.customdata[0] == "Original: 90<br>95 % interval: 85 to 92"
    assert random.customdata[1] == "Random: 79<br>over seeds: 75 to 80" and own.customdata[1] == "Own: 30"
    assert figure.layout.yaxis.title.text == "accuracy, %"
    assert len({t.marker.color for t in figure.data}) == 3


def test_curves_with_bands_and_references():
    curves = {"a": ([1, 2, 3], ([5, 6, 7], [4, 5, 6], [6, 7, 8])), "b": ([1, 2], ([0, 1], None, None))}
    figure = figures.curves_with_band(
        curves, {"a": ([1, 3], [2, 2])}, title="", x_label="k", y_label="J", hover={"b": ["p", "q"]}
    )
    band, a, b, reference = figure.data
    assert list(band.x) == [1, 2, 3, 3, 2, 1] and list(band.y) == [6, 7, 8, 6, 5, 4] and band.fill == "toself"
    assert list(a.y) == [5, 6, 7] and list(b.y) == [0, 1] and list(b.customdata) == ["p", "q"]
    assert list(reference.y) == [2, 2] and reference.name == "a: chance"
    assert reference.line.color == a.line.color != b.line.color and reference.line.dash != a.line.dash


def test_distribution_is_a_rank_curve():
    scores = 1 / np.arange(1, 1001)  # Zipf: score times rank is 1 everywhere
    figure = figures.distribution({"zipf": np.random.default_rng(0).permutation(scores)}, k=0.1, title="")
    curve, marks = figure.data
    np.testing.assert_allclose(np.asarray(curve.x) * 10 * curve.y, 1)  # x is in % of 1000 neurons
    assert (curve.x[0], curve.x[-1]) == (0.1, 100) and len(curve.x) <= ranks.CURVE_POINTS
    assert marks.x == (10,) and marks.y == (1 / 100,)
    assert marks.customdata == (f"zipf: {scores[:100].sum() / scores.sum():.1%} of the sum",)
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"
    low, high = figure.layout.yaxis.range
    assert low == pytest.approx(np.log10(1 / 951) - 0.1) and high > 0  # 95 % of the ranks are in view, and a margin


def test_distribution_leaves_out_what_has_no_logarithm():
    figure = figures.distribution({"signed": [3.0, -1.0, 0.0, 2.0], "none": [0.0, -1.0]}, title="")
    assert list(figure.data[0].y) == [3, 2] and list(figure.data[0].x) == [25, 50]
    assert "2 not positive" in figure.data[0].customdata[0]
    assert len(figure.data[1].y) == 0


def test_no_two_of_28_lines_look_alike():
    assert len(set(style.line_styles([str(i) for i in range(28)]).values())) == 28
    names = [f"{family}-{domain}" for family in "abcdef" for domain in "xy"]
    styles = style.line_styles(names, {name: name[0] for name in names})
    assert len(set(styles.values())) == 12 and styles["c-x"][0] == styles["c-y"][0] != styles["d-x"][0]


def test_short_names():
    assert style.short_names(["b.0.x", "b.1.x", "b.10.x"]) == ["0", "1", "10"]
    assert style.short_names(["enc.0.x", "dec.0.x"]) == ["enc", "dec"]
    assert style.short_names(["b.0.x.e.0", "b.0.x.e.1", "b.1.x.e.0"]) == ["0.x.e.0", "0.x.e.1", "1.x.e.0"]
    assert style.short_names(["a", "a.b"]) == ["a", "a.b"]  # one begins with the other
    assert style.short_names(["b.0.x"]) == ["b.0.x"] and style.short_names([]) == []


def test_plotly_keeps_its_own_default():
    before = plotly.io.templates.default
    figure = heatmap()
    assert plotly.io.templates.default == before
    assert tuple(figure.layout.template.layout.colorway) == style.CATEGORIES


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: figures.heatmap([[1.0]], ["a", "b"], ["r"], title="", colour_label=""), "shape (1, 1)"),
        (lambda: figures.heatmap([[1.0], [1.0, 2.0]], ["a"], ["r"], title="", colour_label=""), "different lengths"),
        (lambda: heatmap(hover=[["x"]]), "give shape (2, 3)"),
        (lambda: heatmap(scale="divergent"), "did you mean 'diverging'"),
        (lambda: heatmap(colour="red"), "choose from"),
        (lambda: figures.depth_map({"a": {"blok.0": 1}}, {"block.0": 10}), "did you mean 'block.0'"),
        (lambda: figures.distribution({"a": []}, title=""), "give finite scores"),
        (lambda: figures.distribution({"a": [1.0, float("nan")]}, title=""), "give finite scores"),
        (
            lambda: figures.bars_with_band(["x"], {"a": ([1], None, None)}, ["b"], title="", value_label=""),
            "no such series",
        ),
        (
            lambda: figures.bars_with_band(["x"], {"a": ([1, 2], None, None)}, title="", value_label=""),
            "give shape (1, 1)",
        ),
    ],
)
def test_refusals(call, text):
    with pytest.raises(ArgumentError) as caught:
        call()
    assert text in str(caught.value)


# ---- names beside points

NEAR = {f"method-{i}": (0.70 + 0.002 * i, 0.80 + 0.003 * (i % 3)) for i in range(8)}
SPREAD = {"one": (0.0, 0.0), "other": (0.5, 0.4), "third": (1.0, 1.0)}


def boxes(points, width):
    """Left, bottom, right and top of every name written, and of every marker, in pixels of axes of this width."""
    names, marks = [], []
    for name, offset in labels.offsets(points, (0, 1), (0, 1)).items():
        x, y = width * points[name][0], labels.HEIGHT * points[name][1]
        marks.append((x - 5, y - 5, x + 5, y + 5))
        if offset:
            half = 7 * len(name) / 2  # letters are about 7 pixels wide and 14 high
            names.append((x + offset[0] - half, y + offset[1] - 7, x + offset[0] + half, y + offset[1] + 7))
    return names, marks


def meet(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@pytest.mark.parametrize("width", [560, 640, 720, 800, 880])
@pytest.mark.parametrize(
    "points", [NEAR, dict.fromkeys(NEAR, (0.5, 0.5)), {f"p{i}": (i % 7 / 9 + 0.1, 0.5) for i in range(40)}]
)
def test_no_name_covers_another_name_or_a_point_or_leaves_the_axes(points, width):
    names, marks = boxes(points, width)
    assert len(names) >= 4
    assert not any(meet(a, b) for i, a in enumerate(names) for b in [*names[:i], *marks])
    assert all(a[0] >= 0 and a[2] <= width and a[1] >= 0 and a[3] <= labels.HEIGHT for a in names)


def test_names_without_room_stand_under_the_pointer_only():
    crowd = {f"a rather long name {i}": (0.5, 0.5) for i in range(60)}
    written = [o for o in labels.offsets(crowd, (0, 1), (0, 1)).values() if o]
    assert 4 <= len(written) < 60
    figure = figures.plane(
        {name: ((x, None, None), (y, None, None)) for name, (x, y) in crowd.items()}, title="", x_label="x", y_label="y"
    )
    assert len(figure.layout.annotations) < 60
    assert all(name in trace.hovertemplate for name, trace in zip(crowd, figure.data, strict=True))


def test_a_name_beside_its_point_has_no_leader_and_one_further_off_has():
    def leaders(points):
        spans = {name: ((x, None, None), (y, None, None)) for name, (x, y) in points.items()}
        figure = figures.plane(spans, title="", x_label="x", y_label="y")
        return {a.text: a.arrowcolor for a in figure.layout.annotations}

    assert set(leaders(SPREAD).values()) == {"rgba(0,0,0,0)"} and set(leaders(SPREAD)) == set(SPREAD)
    assert "#7b8794" in leaders(NEAR | SPREAD).values()
    assert list(leaders({"<b>x": (0, 0)})) == ["&lt;b&gt;x"]  # names stay text
    figures.plane({}, title="", x_label="x", y_label="y")


# ---- what is possible


def test_bands_and_whiskers_end_where_the_measure_ends_and_the_hover_says_so():
    band = ([0.5, 0.95], [-0.1, 0.9], [0.8, 1.2])
    said = ["interval cut at 0: no value lies beyond", "interval cut at 1: no value lies beyond"]
    axes = {"title": "", "y_label": "y"}
    shaded, curve = figures.curves_with_band({"m": ([1, 2], band)}, x_label="x", within=(0, 1), **axes).data
    assert list(shaded.y) == [0.8, 1, 0.9, 0] and list(curve.customdata) == said and list(curve.y) == band[0]
    shaded, curve = figures.layer_curves({"m": band}, ["1", "2"], within=(0, 1), **axes).data
    assert list(shaded.y) == [0.8, 1, 0.9, 0] and list(curve.customdata) == said
    (bars,) = figures.bars_with_band(["a", "b"], {"m": band}, title="", value_label="y", within=(0, 1)).data
    assert bars.error_y.array[1] == pytest.approx(0.05) and bars.error_y.arrayminus[0] == 0.5
    assert bars.customdata[0] == f"m: 0.5<br>95 % interval: 0 to 0.8<br>{said[0]}"
    (point,) = figures.plane(
        {"m": ((0.0, -1.5, 0.5), (0.9, 0.7, 1.3))}, x_label="x", x_within=(-1, 1), y_within=(0, 1), **axes
    ).data
    assert point.error_x.arrayminus[0] == 1 and point.error_y.array[0] == pytest.approx(0.1)
    assert "x: 0.000 (-1.000 to 0.500)<br>interval cut at -1" in point.hovertemplate
    shaded, curve = figures.curves_with_band({"m": ([1, 2], band)}, x_label="x", **axes).data
    assert max(shaded.y) == 1.2 and not any(curve.customdata)  # where nothing is known about the measure


# ---- without colours


def test_series_differ_without_their_colours():
    four, axes = {str(i): ([1, 2], None, None) for i in range(4)}, {"title": "", "y_label": "y"}
    bars = figures.bars_with_band(["a", "b"], four, ["2", "3"], title="", value_label="y").data
    assert len({(t.marker.pattern.shape, t.error_y.width, t.marker.color[:4]) for t in bars}) == 4
    curves = figures.curves_with_band({n: ([1, 2], v) for n, v in four.items()}, x_label="x", **axes).data
    assert len({(t.line.dash, t.marker.symbol) for t in curves}) == 4
    assert len({t.line.dash for t in figures.layer_curves(four, ["1", "2"], **axes).data}) == 4
    entries = figures.layer_boxes({n: {"t": [1, 2]} for n in four}, ["1", "2"], **axes).data[:4]
    assert len({(t.marker.symbol, t.marker.color.rsplit(",")[-1]) for t in entries}) == 4
    tasks = {f"{family}-{i}": np.eye(2) for family in "abcd" for i in range(2)}
    maps = figures.map_explorer([("1", tasks, ("", ""))], title="", groups={t: t[0] for t in tasks}).data
    assert len({t.marker.symbol for t in maps}) == 8


# ---- every kind of figure


@pytest.fixture(params=FIGURES)
def kind(request):
    return FIGURES[request.param]


def test_every_figure_is_in_the_table():
    drawing = {name for name in figures.__all__ if name[0].islower()} - {"hover_text"}
    assert set(FIGURES) >= drawing


def test_every_kind_is_drawn_in_the_house_style(kind):
    before = plotly.io.templates.default
    figure = kind.draw(**kind.example, title="The title", subtitle="what it shows")
    assert plotly.io.templates.default == before
    assert figure.layout.template.layout.colorway == style.CATEGORIES
    assert "The title" in figure.layout.title.text and "what it shows" in figure.layout.title.subtitle.text
    assert all(t.hovertemplate or t.hoverinfo == "skip" or (t.x and t.x[0] is None) for t in figure.data)
    assert plotly.io.from_json(figure.to_json()) == figure  # plain data: it can be saved and read back


def test_every_kind_refuses_an_unknown_argument(kind):
    with pytest.raises(ArgumentError, match="no_such"):
        kind.draw(**kind.example, title="", no_such=1)
