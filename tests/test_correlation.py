"""Correlation of similarity with transfer: against scipy, by layer, and in words."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_correlation_measures import label_p, world

from neuroscope.comparison.correlation import Correlation, correlate
from neuroscope.comparison.correlation.coefficients import (
    coefficient_interval,
    correlation,
    task_bootstrap,
    task_draws,
    without_tasks,
)
from neuroscope.comparison.correlation.views import TWO_WAY
from neuroscope.comparison.layers import compare
from neuroscope.comparison.parameters import parameter_similarity
from neuroscope.errors import ArgumentError
from neuroscope.masks import NeuronMask, overlap

RNG = np.random.default_rng(0)
TASKS = list("abcdef")
PAIRS = [(i, j) for i in TASKS for j in TASKS if i != j]


def random_cells(seed, tasks=TASKS):
    rng = np.random.default_rng(seed)
    return {(i, j): float(rng.random()) for i in tasks for j in tasks if i != j}


def row(result, test="all pairs", statistic="pearson", layer=None):
    table = result.table[(result.table.test == test) & (result.table.statistic == statistic)]
    return (table if layer is None else table[table.layer == layer]).iloc[0]


def test_sources_and_tests_apart_are_permuted_apart():
    """Three sources and two tests that are none of them: 3! 2! orders of rows and columns on their own."""
    scores = {(i, j): float(RNG.random()) for i in "abc" for j in "xy"}
    alike = {(i, j): float(RNG.random()) for i in "abc" for j in "xy"}
    found = row(correlate(alike, scores))
    x, y = (np.array([[d[i, j] for j in "xy"] for i in "abc"]) for d in (alike, scores))
    drawn = [
        abs(correlation(x[np.ix_(r, c)].ravel(), y.ravel(), "pearson"))
        for r in itertools.permutations(range(3))
        for c in itertools.permutations(range(2))
    ]
    assert found.p == np.mean(np.array(drawn) >= abs(found.r) - 1e-12)
    assert (found.n, found.orders, found.exact) == (6, 12, True)


def test_per_test_task_and_over_all_pairs():
    alike, scores = random_cells(1), random_cells(2)
    found = correlate(alike, scores)
    assert isinstance(found, Correlation) and len(found.table) == 2 * 8
    x, y = (np.array([d[i, "c"] for i in "abdef"]) for d in (alike, scores))
    for statistic, own in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        c = row(found, "c", statistic)
        assert (c.n, c.gaps, c.exact, c.orders, c.reason) == (5, 0, True, 120, "")
        assert c.r == pytest.approx(own(x, y).statistic)
        assert (c.low, c.high) == pytest.approx(coefficient_interval(c.r, 5, statistic))
        both = row(found, "all pairs", statistic)
        expected = own([alike[p] for p in PAIRS], [scores[p] for p in PAIRS]).statistic
        assert both.r == pytest.approx(expected)
        assert (both.n, both.orders, both.exact) == (30, 720, True)
        assert both.q == both.p
        beyond = row(found, TWO_WAY, statistic)
        x_all, y_all = (np.array([[d.get((i, j), np.nan) for j in TASKS] for i in TASKS]) for d in (alike, scores))
        one, two, freedom = without_tasks(x_all, y_all)
        assert freedom == 30 - 11
        assert beyond.r == pytest.approx(own(one[np.isfinite(one)], two[np.isfinite(two)]).statistic)
        assert beyond.q == beyond.p == label_p(one, two, statistic) != both.p and beyond.least == both.least == 1 / 720
        assert (beyond.low, beyond.high) == task_bootstrap(one, two, statistic, task_draws([range(6)], 0))
    tests = found.rows()[0]
    p = tests.p.to_numpy()
    order = np.argsort(p)
    q = np.minimum.accumulate((p[order] * 6 / np.arange(1, 7))[::-1])[::-1]
    np.testing.assert_allclose(tests.q.to_numpy()[order], q)
    assert correlate(alike, scores).table.equals(found.table)


def test_by_layer_finds_the_layer_that_predicts():
    rng = np.random.default_rng(5)
    tasks = list("abcdefg")
    scores = random_cells(4, tasks)
    planted = {2, 3}
    alike = {
        pair: [s + 0.02 * rng.normal() if layer in planted else rng.random() for layer in range(6)]
        for pair, s in scores.items()
    }
    found = correlate(alike, scores, by="layer")
    _, pairs, both = found.rows()
    for view in (pairs, both):
        assert set(view.layer[view.q <= 0.05]) == planted
        np.testing.assert_allclose(view.q.min(), min(view.p.sort_values() * 6 / np.arange(1, 7)))
    words = found.in_words()
    assert words.startswith(
        "More similar tasks transfer better in layers 2-3 (2 of 6 layers with q <= 0.05 once source"
    )
    assert "With source and test task left in: layers 2-3." in words and not found.sentences()[0][1]
    figure = found.figure()
    curve = next(t for t in figure.data if t.name == "source and test task taken out")
    assert list(curve.y) == both.r.tolist() and "q = " in curve.customdata[0]
    raw = next(t for t in figure.data if t.name == "all pairs as they are")
    assert list(raw.y) == pairs.r.tolist() != both.r.tolist()
    marks = next(t for t in figure.data if t.name == "q <= 0.05")
    assert set(marks.x) == planted
    worse = correlate({p: [-v for v in vs] for p, vs in alike.items()}, scores, by="layer")
    assert "More similar tasks transfer worse in layers 2-3" in worse.in_words("spearman")
    overall = correlate(alike, scores)  # the mean over the layers
    mean = {p: float(np.mean(v)) for p, v in alike.items()}
    assert row(overall).r == pytest.approx(row(correlate(mean, scores)).r)


def test_nothing_is_said_in_words():
    alike = {p: [float(v) for v in np.random.default_rng(i).random(4)] for i, p in enumerate(PAIRS)}
    found = correlate(alike, random_cells(11), by="layer")
    both = found.rows()[2]
    assert both.q.min() > 0.05
    assert found.in_words().startswith(
        "**A negative**: no layer's similarity predicts transfer once source and test task are taken"
    )
    best = both.loc[both.p.idxmin()]
    assert f"layer {best.layer}: r = {best.r:.2f}" in found.in_words()
    assert "with so few models, p cannot be below 0.0083" in found.in_words().lower()  # 1 / 5!, of 24 tests
    assert repr(found) == f"Correlation({' '.join(text for text, _ in found.sentences())})"
    assert found.in_words().split("\n\n- ")[1].startswith("**A negative**: none of 6 test tasks in 4 layers holds")
    assert [negative for _, negative in found.sentences()] == [True, True]
    overall = correlate({p: v[0] for p, v in alike.items()}, random_cells(14))
    assert 0.05 < row(overall, TWO_WAY).p < 0.5
    text, is_negative = overall.sentences()[0]
    assert is_negative and "similarity does not predict transfer beyond chance" in text


def test_a_layer_is_found_by_q_and_not_by_p():
    rng, scores = np.random.default_rng(8), random_cells(4)
    alike = {p: [s + 0.75 * rng.normal(), *rng.random(9)] for p, s in scores.items()}
    found = correlate(alike, scores, by="layer")
    both = found.rows()[2]
    assert both.p.min() <= 0.05 < both.q.min()
    assert found.in_words().startswith("**A negative**: no layer's") and found.sentences()[0][1]


def test_words_go_by_the_view_without_hubs():
    x, y = world(np.random.default_rng(1), hubs=1.0)
    index = [(i, j) for i in range(6) for j in range(6) if i != j]
    alike, scores = ({(TASKS[i], TASKS[j]): m[i, j] for i, j in index} for m in (x, y))
    found = correlate(alike, scores)
    raw, beyond = row(found), row(found, TWO_WAY)
    assert raw.p <= 0.05 < beyond.p
    text, is_negative = found.sentences()[0]
    assert is_negative and text.startswith(
        "Over 30 pairs of 6 tasks, similarity does not predict transfer beyond chance"
    )
    assert f"r = {beyond.r:.2f} [{beyond.low:.2f}, {beyond.high:.2f}], p = {beyond.p:.2g} once source" in text
    assert f"As they are, r = {raw.r:.2f} [{raw.low:.2f}, {raw.high:.2f}], p = {raw.p:.2g}" in text
    assert text.endswith("Some tasks may be alike to all and easy for all.")
    layers = correlate({p: [v, v] for p, v in alike.items()}, scores, by="layer").in_words()
    assert "With source and test task left in: layers 0-1." in layers


def test_few_tasks_say_what_they_cannot():
    four = list("abcd")
    asym = correlate(random_cells(1, four), random_cells(2, four))
    raw = row(asym)
    assert math.isnan(raw.low) and np.isfinite([raw.r, raw.p, raw.q]).all()
    assert raw.reason == row(asym, TWO_WAY).reason == "no interval: fewer than 5 tasks"
    assert "fewer than 5 tasks" in asym.figure().data[0].customdata[-1]
    assert "nan" not in asym.in_words()
    symmetric = {p: random_cells(1, four)[min(p), max(p)] for p in random_cells(1, four)}
    found = correlate(symmetric, random_cells(2, four))
    # without source and test task, a pair is as alike as the other two tasks: 4 of 24 orders change nothing
    assert row(found, TWO_WAY).least == pytest.approx(4 / 24)
    assert "With so few tasks, p cannot be below 0.17" in found.in_words()
    levels = dict(zip(four, (0.1, 0.3, 0.4, 0.9), strict=True))
    found = correlate({(i, j): levels[i] + levels[j] for i, j in symmetric}, random_cells(2, four))
    assert row(found, TWO_WAY).reason == "all similarities are equal but for source and test task"
    assert "what is due to pairs alone cannot be told" in found.in_words() and found.sentences()[0][1]


def test_three_tasks_leave_nothing_to_correlate():
    """Six pairs and five effects: two residuals of one degree of freedom correlate by +-1, whatever the numbers."""
    three = list("abc")
    x, y = (np.array([[random_cells(s, three).get((i, j), math.nan) for j in three] for i in three]) for s in (1, 2))
    one, two, freedom = without_tasks(x, y)
    both = np.isfinite(one)
    assert freedom == 1 and abs(correlation(one[both], two[both], "pearson")) == pytest.approx(1)
    found = correlate(random_cells(1, three), random_cells(2, three))
    for statistic in ("pearson", "spearman"):
        beyond, raw = row(found, TWO_WAY, statistic), row(found, "all pairs", statistic)
        assert np.isnan([beyond.r, beyond.p, beyond.q, beyond.low]).all() and np.isfinite([raw.r, raw.p]).all()
        assert beyond.reason == "1 degree of freedom left: fewer than 4"
    text, is_negative = found.sentences()[0]
    assert is_negative and "cannot be told (1 degree of freedom left: fewer than 4)" in text
    # three sources and two tests leave two, three and three leave four
    for tests, left in (("xy", 2), ("xyz", 4)):
        cells = [{(i, j): float(RNG.random()) for i in three for j in tests} for _ in range(2)]
        assert np.isfinite(row(correlate(*cells), TWO_WAY).r) == (left == 4)


def test_layers_that_a_pair_lacks_are_in_no_mean():
    """All pairs share one curve over depth: were gaps left out pair by pair, they alone would make a correlation."""
    scores = random_cells(3)
    depth = [0.1, 0.2, 0.4, 0.8]
    alike = {p: [v if s < 0.7 or layer < 2 else math.nan for layer, v in enumerate(depth)] for p, s in scores.items()}
    assert any(math.isnan(v[3]) for v in alike.values())
    found = correlate(alike, scores)
    assert math.isnan(row(found).r) and row(found).reason == "all similarities are equal"
    assert found.manifest["left_out"] == [2, 3] and found.manifest["averaged"] == 2
    assert "2 of 4 layers are in no mean, as some pair has no value there (2-3)." in found.in_words()
    own = {p: [v[0] + scores[p], v[1] - 3 * scores[p], *v[2:]] for p, v in alike.items()}
    mean = {p: (v[0] + v[1]) / 2 for p, v in own.items()}
    assert row(correlate(own, scores)).r == pytest.approx(row(correlate(mean, scores)).r) == pytest.approx(-1)
    never = own | {("a", "b"): [math.nan] * 4}  # a gap, and no reason to leave out every layer
    found = correlate(never, scores)
    assert row(found).n == 29 and found.manifest["left_out"] == [2, 3]
    apart = {p: [v[0], math.nan] if i % 2 else [math.nan, v[0]] for i, (p, v) in enumerate(own.items())}
    found = correlate(apart, scores)
    assert found.manifest["left_out"] == [0, 1] and "2 of 2 layers are in no mean" in found.in_words()
    unscored = {p: v for p, v in scores.items() if v < 0.7}  # pairs that are not used leave out no layer
    assert correlate(alike, unscored).manifest["left_out"] == []


def test_gaps_are_counted_and_said():
    alike, scores = random_cells(1), random_cells(2)
    alike["a", "c"] = math.nan
    scores["b", "c"] = math.nan
    scores |= {(i, "e"): 0.5 for i in TASKS}
    alike |= {(i, "f"): math.nan for i in "ab"}
    found = correlate(alike, scores)
    c, e, f = row(found, "c"), row(found, "e"), row(found, "f")
    assert (c.n, c.gaps, c.reason) == (3, 1, "3 models: fewer than 4") and math.isnan(c.r) and math.isnan(c.q)
    assert e.reason == "all scores are equal" and math.isnan(e.p)
    assert (f.n, f.gaps, f.reason) == (3, 2, "3 models: fewer than 4")
    both = row(found)
    assert both.n == 30 - 4 and both.gaps == 3 and 0 < both.p <= 1
    kept = [p for p in PAIRS if np.isfinite(alike[p]) and np.isfinite(scores[p])]
    assert both.r == pytest.approx(stats.pearsonr([alike[p] for p in kept], [scores[p] for p in kept]).statistic)
    made = found.table[(found.table.statistic == "pearson") & found.table.test.isin(list("abd"))]
    assert made.q.min() == pytest.approx(min(np.sort(made.p) * 3 / np.arange(1, 4)))  # three tests were made
    assert "3 of 6 could not be computed" in found.in_words()
    texts = [a.text for a in found.figure().layout.annotations]
    assert texts.count("3 models: fewer than 4") == 2 and "all scores are equal" in texts
    perfect = correlate({p: 2 * v for p, v in random_cells(9).items()}, random_cells(9))
    assert row(perfect, "a").r == 1 and math.isnan(row(perfect, "a").low) and row(perfect, "a").p == 1 / 120


def test_the_forest_shows_what_the_table_says(tmp_path):
    scores = random_cells(2, list("abcdefg"))
    rng = np.random.default_rng(0)
    alike = {p: v + (0.01 if p[1] in "ab" else 1.0) * rng.normal() for p, v in scores.items()}
    found = correlate(alike, scores)
    beyond, not_beyond = found.figure().data
    names = dict(zip(found.table.test, found.table.test, strict=True))
    names |= {"all pairs": "<b>all pairs</b>", TWO_WAY: "<b>source and test<br>task taken out</b>"}
    tests = {name: test for test, name in names.items()}
    own = found.table[found.table.statistic == "pearson"].set_index("test")
    assert set(beyond.y) == {names[t] for t in own.index[own.q <= 0.05]} >= {"a", "b"}
    assert set(not_beyond.y) == {names[t] for t in own.index[own.q > 0.05]} != set()
    for trace in (beyond, not_beyond):
        for name, r, up in zip(trace.y, trace.x, trace.error_x.array, strict=True):
            assert r == own.r[tests[name]] and r + up == pytest.approx(own.high[tests[name]])
    back = Correlation.load(found.save(tmp_path / "c.json"))
    assert back.table.equals(found.table) and back.in_words() == found.in_words()


def test_every_way_to_give_the_numbers():
    alike, scores = random_cells(1), random_cells(2)
    expected = correlate(alike, scores).table
    tidy = pd.DataFrame([{"source": i, "target": j, "score": v} for (i, j), v in scores.items()])
    matrix = pd.DataFrame([[scores.get((i, j), math.nan) for j in TASKS] for i in TASKS], TASKS, TASKS)
    nested = {i: {j: scores[i, j] for j in TASKS if j != i} for i in TASKS}
    for given in (tidy, matrix, nested):
        assert correlate(alike, given).table.equals(expected)
    with_base = pd.concat([matrix, pd.DataFrame([[0.5] * 6], ["before training"], TASKS)])
    found = correlate(alike, with_base)
    assert found.table.equals(expected) and found.manifest["pairs_left_out"] == 6 + 6  # the diagonal, and the base
    table = pd.DataFrame([{"a": i, "b": j, "value": v} for (i, j), v in alike.items()])
    assert correlate(table, scores).table.equals(expected)
    layers = pd.concat([table.assign(layer=layer) for layer in (0, 1)])
    assert correlate(layers, scores).table.equals(expected)
    by_layer = correlate(layers, scores, by="layer").table
    assert by_layer[by_layer.layer == 1].r.tolist() == expected.r.tolist()


def test_measures_of_this_library(tiny_model):
    """Overlap and ParameterSimilarity list a pair once; it counts both ways."""
    model = tiny_model()
    sizes = {a: s.width for a, s in model.sites().items()}
    rng = np.random.default_rng(0)
    masks = {t: NeuronMask.of({a: rng.permutation(w)[:12].tolist() for a, w in sizes.items()}, sizes) for t in TASKS}
    scores = random_cells(2)
    found = overlap(masks)
    jaccard = {(a, b): v for a, b, v in zip(found.table.a, found.table.b, found.table.jaccard, strict=True)}
    both = [jaccard.get(p, jaccard.get(p[::-1])) for p in PAIRS]
    expected = stats.pearsonr(both, [scores[p] for p in PAIRS]).statistic
    assert row(correlate(found, scores)).r == pytest.approx(expected)
    similarity = parameter_similarity(model, masks, n_random=3)
    found = correlate(similarity, scores, by="layer")
    assert found.manifest["layers"] == [0, 1] and (found.table.n.isin([5, 30])).all()


def test_bad_input():
    alike, scores = random_cells(1), random_cells(2)
    rows = pd.DataFrame([{"a": "a", "b": "b", "value": 1.0}] * 2)
    layers = np.random.default_rng(0).normal(size=(2, 8, 3))
    for similarity, transfer, match in (
        (alike, {("x", "y"): 1.0}, "no pair of tasks in both"),
        (alike, {}, "an empty dict"),
        (3, scores, "an int"),
        (alike, {("a", "b"): 1.0, ("b", "a"): 2.0, ("a", "c"): 3.0}, "3 pairs of tasks with both numbers"),
        (dict.fromkeys(alike, math.nan), scores, "0 pairs"),
        (alike, dict.fromkeys(scores, math.nan), "0 pairs"),
        (alike | {("a", "b"): math.inf}, scores, "infinite number for a -> b"),
        (rows, scores, "several rows for a -> b"),
        (
            rows.drop(columns="value"),
            scores,
            "a table of a, b\n.*a or source; b or target or test; and value or jaccard",
        ),
        (alike, rows.drop(columns="value"), r"a table of a, b\n.*and score or value .*matrix of numbers"),
        (
            compare({"a": layers}, {"a": layers}),
            scores,
            "a table of .*layer_a, layer_b, value.*\n.*columns a or source",
        ),
        (pd.DataFrame({"x": ["a"]}), scores, "a table of x\n.*columns a or source"),
        (pd.DataFrame({"x": [math.inf]}, ["y"]), scores, "infinite number for y -> x"),
        ({"ab": "x"}, scores, "something else"),
        ({("a", "b"): [1, 2], ("a", "c"): [1]}, scores, "1 and 2 layers|2 and 1 layers"),
    ):
        with pytest.raises(ArgumentError, match=match):
            correlate(similarity, transfer)
    for layer in ("embedding", math.nan, 0.5):
        table = pd.DataFrame([{"a": a, "b": b, "layer": layer, "value": v} for (a, b), v in alike.items()])
        with pytest.raises(ArgumentError, match=f"a layer {layer!r}"):
            correlate(table, scores)
    with pytest.raises(ArgumentError, match="without layers"):
        correlate(alike, scores, by="layer")
    for keyword in ({"by": "layers"}, {"alpha": 0.1}):
        with pytest.raises(ArgumentError):
            correlate(alike, scores, **keyword)
    with pytest.raises(ArgumentError, match="no such statistic"):
        correlate(alike, scores).figure("kendall")
