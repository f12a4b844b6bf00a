"""Maps: clusters that were planted stay together, the explorer shows the table's numbers, gaps are told."""

import random
import sys
import types

import numpy as np
import pytest
import torch
from sklearn import manifold
from sklearn.decomposition import PCA

from neuroscope import figures
from neuroscope.comparison.hidden_states import Representations
from neuroscope.comparison.maps import Maps, pca, tsne
from neuroscope.errors import ArgumentError, NumericalError
from neuroscope.figures import style

TASKS = {"nli-a": "nli", "nli-b": "nli", "mood": "mood"}


@pytest.fixture(scope="module")
def reps():
    """Layer 0: all alike. Layer 1: noise. Layer 2: one far blob per family."""
    rng = np.random.default_rng(0)
    arrays = {}
    for task, family in TASKS.items():
        x = rng.normal(size=(3, 12, 10)).astype(np.float32)
        x[0] = 1.0
        x[2] += 40 * (np.arange(10) == (0 if family == "nli" else 1))
        arrays[task] = x
    examples = {task: [(f"is <b>{i}</b> & more?", f"yes {i}") for i in range(12)] for task in TASKS}
    return Representations(arrays, examples, TASKS, {"model": "planted"})


@pytest.fixture(scope="module")
def mapped(reps):
    return tsne(reps, seed=3)


def points(result, layer, task):
    rows = result.table[(result.table["layer"] == layer) & (result.table["task"] == task)]
    return rows[["x", "y"]].to_numpy()


def test_the_table(mapped, reps):
    assert list(mapped.table.columns) == ["layer", "task", "family", "example", "x", "y"]
    assert len(mapped.table) == 3 * 36 and mapped.layers == [0, 1, 2]
    assert list(mapped.table["example"][:13]) == [*range(12), 0]
    assert mapped.manifest["perplexity"] == pytest.approx(35 / 3) and mapped.manifest["seed"] == 3
    assert mapped.manifest["representations"] == {"model": "planted"}


def test_planted_families_stay_together(mapped):
    here = np.concatenate([points(mapped, 2, task) for task in TASKS])
    family = np.repeat(["nli", "nli", "mood"], 12)
    distance = np.linalg.norm(here[:, None] - here[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert all(family[distance.argmin(1)] == family)
    same = (family[:, None] == family[None]) & np.isfinite(distance)
    gap = distance[family[:, None] != family[None]].min()
    assert gap > np.median(distance[same])


def test_equal_seeds_give_equal_maps_and_nothing_global_moves(mapped, reps):
    state = np.random.get_state()[1].tolist()
    before = {task: array.copy() for task, array in reps.items()}
    again = tsne(reps, seed=3)
    assert again.table.equals(mapped.table)
    assert np.random.get_state()[1].tolist() == state
    assert all(np.array_equal(reps[t], before[t]) for t in reps)


def test_a_layer_starts_from_the_map_before(reps, monkeypatch):
    import sklearn.manifold

    starts = []

    class Still:
        def __init__(self, init, **settings):
            starts.append(init)

        def fit_transform(self, x):
            return np.full((len(x), 2), 5.0) + np.arange(len(x))[:, None] * [1, -1]

    monkeypatch.setattr(sklearn.manifold, "TSNE", Still)
    tsne(reps, layers=[1, 2])
    moved = 5.0 + np.arange(36)[:, None] * [1, -1]
    np.testing.assert_allclose(starts[1], moved / moved[:, 0].std() * 1e-4, rtol=1e-6)
    starts.clear()
    tsne(reps, layers=[1, 2], independent=True)
    assert not np.allclose(starts[1], moved / moved[:, 0].std() * 1e-4)
    assert starts[1][:, 0].std() == pytest.approx(1e-4)


def test_a_layer_of_equal_examples_has_no_map(mapped):
    assert mapped.manifest["gaps"] == {"0": "all examples are the same there"}
    assert mapped.table.loc[mapped.table["layer"] == 0, ["x", "y"]].isna().all(None)
    figure = mapped.figure()
    assert [frame.name for frame in figure.frames] == ["1", "2"]
    assert "no map (all examples alike): layer 0" in figure.layout.title.subtitle.text.replace("<br>", " ")
    with pytest.raises(ArgumentError, match="all examples are the same there"):
        mapped.multiples([0])


def test_principal_components_are_scikit_learns(reps):
    found = pca(reps)
    for layer in (1, 2):
        x = np.concatenate([reps[task][layer] for task in TASKS]).astype(float)
        fitted = PCA(2).fit(x)
        own = np.concatenate([points(found, layer, task) for task in TASKS])
        np.testing.assert_allclose(np.abs(own), np.abs(fitted.transform(x)), atol=1e-5)
        np.testing.assert_allclose(found.manifest["shares"][str(layer)], fitted.explained_variance_ratio_, atol=1e-6)
    assert found.figure().layout.xaxis.title.text == f"PC 1 ({found.manifest['shares']['2'][0]:.0%})"


def test_components_keep_their_sign_over_layers():
    """By itself each layer's largest coordinate is positive, which is another example's at the second layer."""
    x = np.random.default_rng(1).normal(size=(20, 4)) * [3, 1, 0.1, 0.1]
    first, second = x.copy(), x.copy()
    first[:2, 0], second[:2, 0] = (30, -20), (20, -30)
    found = pca({"a": np.stack([first, second])})
    assert points(found, 0, "a")[0, 0] > 15 and points(found, 1, "a")[0, 0] > 15
    assert points(pca({"a": second[None]}), 0, "a")[0, 0] < -15
    one = pca({"a": np.arange(5.0).reshape(1, 5, 1)})  # a single feature: the second component is 0
    assert (one.table["y"] == 0).all() and one.manifest["shares"]["0"] == [1.0, 0.0]


def scaled(every, own):
    middle = (every.max(0) + every.min(0)) / 2
    return (own - middle) / np.abs(every - middle).max()


def test_the_explorer(mapped):
    figure = mapped.figure(0)
    assert [t.name for t in figure.data] == list(TASKS)
    for place, layer in ((None, 1), (0, 1), (1, 2)):
        every = np.concatenate([points(mapped, layer, task) for task in TASKS])
        for i, task in enumerate(TASKS):
            trace = figure.data[i] if place is None else figure.frames[place].data[i]
            drawn = np.stack([trace.x, trace.y], 1)
            np.testing.assert_allclose(drawn, scaled(every, points(mapped, layer, task)))
    colours = [t.marker.color for t in figure.data]
    assert colours == [style.CATEGORIES[0], style.CATEGORIES[0], style.CATEGORIES[1]]
    assert figure.data[0].marker.symbol != figure.data[1].marker.symbol
    assert [t.legendgroup for t in figure.data] == ["nli", "nli", "mood"]
    assert figure.layout.legend.groupclick == "toggleitem"
    assert figure.data[0].customdata[3] == "is &lt;b&gt;3&lt;/b&gt; &amp; more?<br><b>yes 3</b>"
    slider = figure.layout.sliders[0]
    assert [s.label for s in slider.steps] == ["1", "2"] and slider.active == 0
    assert [list(s.args[0]) for s in slider.steps] == [["1"], ["2"]]
    play, menu = figure.layout.updatemenus
    assert "play" in play.buttons[0].label and play.buttons[0].method == "animate" and play.buttons[0].args[0] is None
    assert [b.label for b in menu.buttons] == ["all tasks", "cluster: nli", *TASKS]
    assert list(menu.buttons[1].args[0]["visible"]) == [True, True, "legendonly"]
    assert list(menu.buttons[-1].args[0]["visible"]) == ["legendonly", "legendonly", True]
    assert mapped.figure().layout.sliders[0].active == 1
    with pytest.raises(ArgumentError, match="2 maps"):
        mapped.figure(2)


def test_small_multiples(mapped):
    figure = mapped.multiples([1, 2], columns=2)
    assert len(figure.data) == 6 and [t.showlegend for t in figure.data] == [True] * 3 + [False] * 3
    assert [a.text for a in figure.layout.annotations] == ["layer 1", "layer 2"]
    every = np.concatenate([points(mapped, 2, task) for task in TASKS])
    np.testing.assert_allclose(figure.data[5].x, scaled(every, points(mapped, 2, "mood"))[:, 0])
    assert figure.data[5].xaxis == "x2"
    assert len(mapped.multiples().data) == 6
    with pytest.raises(ArgumentError, match=r"choose from \[1, 2\]"):
        mapped.multiples([7])


def test_many_clusters_differ_by_symbol():
    names = [f"t{i}" for i in range(9)]
    figure = pca({t: np.random.default_rng(i).normal(size=(1, 4, 3)) for i, t in enumerate(names)}).figure()
    looks = {(t.marker.color, t.marker.symbol) for t in figure.data}
    assert len(looks) == 9


def test_saved_and_loaded(mapped, tmp_path):
    again = Maps.load(mapped.save(tmp_path / "map.json"))
    assert np.allclose(again.table[["x", "y"]], mapped.table[["x", "y"]], equal_nan=True)
    assert again.figure().to_plotly_json()["layout"]["sliders"] == mapped.figure().to_plotly_json()["layout"]["sliders"]


def test_arrays_alone_and_some_layers_and_examples(reps):
    found = tsne({"a": reps["mood"], "b": reps["nli-a"]}, layers=[-1], n=5)
    assert found.layers == [2] and len(found.table) == 10 and set(found.table["family"]) == {"a", "b"}
    assert found.figure().data[0].customdata == ("",) * 5
    seen = []
    pca(reps, progress=lambda loop, desc: seen.append((list(loop), desc)) or loop)
    assert seen == [([0, 1, 2], "PCA by layer")]


def test_long_hover_texts_are_cut():
    text = figures.hover_text("word " * 400, "answer " * 100)
    assert text.count("<br>") == 8 and "<br>...<br>" in text and len(text) < 900


def test_what_cannot_be(reps):
    broken = {"a": np.array(reps["mood"])}
    broken["a"][1, 4, 2] = np.nan
    for given, wrong, error, text in (
        ({"a": np.ones((2, 3, 4))}, {}, ArgumentError, "3 examples"),
        ({"a": np.ones((2, 5, 4))}, {}, NumericalError, r"all 5 examples are the same at layers \[0, 1\]"),
        (broken, {}, NumericalError, "task 'a'\n  found: not finite at layer 1 of example 4"),
        (reps, {"layers": [3]}, ArgumentError, "layers 0 to 2"),
        (reps, {"layers": []}, ArgumentError, "layers 0 to 2"),
        (reps, {"n": 0}, ArgumentError, "n=0"),
        (reps, {"perplexity": 0}, ArgumentError, "perplexity=0"),
        (reps, {"iterations": 5}, ArgumentError, "iterations"),
    ):
        with pytest.raises(error, match=text):
            tsne(given, **wrong)


def test_pythons_generator_stays_where_it_was_though_imports_draw_from_it(reps, monkeypatch):
    class Drawing(types.ModuleType):
        """A module that draws when it is imported from."""

        def __getattr__(self, name):
            random.random()
            return getattr(manifold, name)

    monkeypatch.setitem(sys.modules, "sklearn.manifold", Drawing("sklearn.manifold"))
    state = random.getstate()
    tsne(reps, layers=[1])
    assert random.getstate() == state


def test_settings_and_arrays_of_wrong_types_are_refused(reps):
    for wrong, match in (
        ({"seed": -1}, "seed=-1"),
        ({"n": 2.5}, "n=2.5"),
        ({"perplexity": "high"}, "perplexity='high'"),
        ({"layers": ["first"]}, "layers.0.='first'"),
        ({"layers": [0.5]}, "layers.0.=0.5"),
    ):
        with pytest.raises(ArgumentError, match=match):
            tsne(reps, **wrong)
    with pytest.raises(ArgumentError, match="a list"):
        pca([reps["mood"]])
    assert pca({"a": torch.from_numpy(reps["mood"])}, layers=-1, n=np.int64(5)).layers == [2]


def test_words_say_how_often_the_nearest_point_is_of_the_same_task(mapped):
    rows = mapped.nearest().set_index("layer")
    for layer in (1, 2):
        here = np.concatenate([points(mapped, layer, task) for task in TASKS])
        distance = np.linalg.norm(here[:, None] - here[None], axis=-1)
        np.fill_diagonal(distance, np.inf)
        near = distance.argmin(1)
        for names, label in ((np.repeat(list(TASKS), 12), "task"), (np.repeat(list(TASKS.values()), 12), "cluster")):
            assert rows.loc[layer, f"same_{label}"] == pytest.approx((names[near] == names).mean())
    assert rows.loc[2, "chance_task"] == pytest.approx(11 / 35)
    assert rows.loc[2, "chance_cluster"] == pytest.approx((24 * 23 + 12 * 11) / (36 * 35))
    words = mapped.in_words()
    assert words.startswith("The nearest point is of the same task most often at layer ")
    assert "\n- t-SNE of 36 examples of 3 task(s) at 2 layers." in words
    assert "**A negative**: at layer" in words or rows["same_task"].gt(11 / 35).all()
    assert f"most often at layer 2 ({rows.loc[2, 'same_cluster']:.0%}; of shuffled points 54%)" in words
    assert "no map of the embedding (all examples are the same there)" in words and "can appear in noise" in words
    assert len(mapped.figures()) == 2 and list(mapped.tables()) == ["nearest", "rows"]


def test_of_equal_points_the_nearest_is_another():
    twins = np.repeat(np.random.default_rng(0).normal(size=(1, 5, 4)), 2, axis=1)
    assert pca({"a": twins[:, ::2], "b": twins[:, 1::2]}).nearest()["same_task"].tolist() == [0.0]
