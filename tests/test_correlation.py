"""Correlation of similarity with transfer: against scipy, by enumeration, and under the null hypothesis."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from neuroscope.correlation import Correlation, correlate
from neuroscope.correlation.measures import (
    correlation,
    interval,
    label_permutation_p,
    orders,
    permutation_p,
    task_bootstrap,
)
from neuroscope.errors import ArgumentError
from neuroscope.masks import NeuronMask
from neuroscope.overlap import overlap
from neuroscope.parameters import parameter_similarity

RNG = np.random.default_rng(0)
TASKS = list("abcdef")
PAIRS = [(i, j) for i in TASKS for j in TASKS if i != j]


def random_cells(seed, tasks=TASKS):
    rng = np.random.default_rng(seed)
    return {(i, j): float(rng.random()) for i in tasks for j in tasks if i != j}


def row(result, test="all pairs", statistic="pearson", layer=None):
    table = result.table[(result.table.test == test) & (result.table.statistic == statistic)]
    return (table if layer is None else table[table.layer == layer]).iloc[0]


# --- the numbers ---


def test_the_interval_of_six_models():
    """LX24 has n = 6: with r = 0.79 the 95 % interval is [-0.06, 0.98]."""
    low, high = interval(0.79, 6, "pearson")
    assert (round(low, 2), round(high, 2)) == (-0.06, 0.98)


@pytest.mark.parametrize("n", [4, 6, 30])
def test_intervals_against_scipy_and_by_hand(n):
    x, y = RNG.normal(size=(2, n))
    expected = stats.pearsonr(x, y).confidence_interval()
    assert interval(correlation(x, y, "pearson"), n, "pearson") == pytest.approx((expected.low, expected.high))
    rho = stats.spearmanr(x, y).statistic
    reach = 1.959963985 * math.sqrt((1 + rho**2 / 2) / (n - 3))  # Bonett & Wright 2000, Eq. for rho
    by_hand = (math.tanh(math.atanh(rho) - reach), math.tanh(math.atanh(rho) + reach))
    assert interval(rho, n, "spearman") == pytest.approx(by_hand)
    assert all(map(math.isnan, (*interval(1.0, n, "pearson"), *interval(0.5, 3, "pearson"))))


def test_the_intervals_cover():
    """95 % intervals of normal pairs with correlation 0.6 hold it 95 % of the time, give or take the simulation."""
    held = {"pearson": 0, "spearman": 0}
    truth = {"pearson": 0.6, "spearman": 6 / math.pi * math.asin(0.3)}
    rng = np.random.default_rng(1)
    for _ in range(600):
        x = rng.normal(size=20)
        y = 0.6 * x + 0.8 * rng.normal(size=20)
        for statistic in held:
            low, high = interval(correlation(x, y, statistic), 20, statistic)
            held[statistic] += low <= truth[statistic] <= high
    for statistic, hits in held.items():
        assert abs(hits / 600 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 600), statistic


@pytest.mark.parametrize("values", ["free", "tied"])
def test_correlations_against_scipy(values):
    x, y = RNG.normal(size=(2, 12)) if values == "free" else RNG.integers(0, 3, size=(2, 12)).astype(float)
    assert correlation(x, y, "pearson") == pytest.approx(stats.pearsonr(x, y).statistic)
    assert correlation(x, y, "spearman") == pytest.approx(stats.spearmanr(x, y).statistic)
    assert math.isnan(correlation(np.full(12, 0.1), y, "pearson"))
    assert math.isnan(correlation(0.1 + 0.2 * np.ones(12) * 3, y, "spearman"))
    assert correlation(1e-9 * x, 1e9 * y, "pearson") == pytest.approx(stats.pearsonr(x, y).statistic)


@pytest.mark.parametrize("statistic", ["pearson", "spearman"])
@pytest.mark.parametrize("n", [4, 6])
def test_the_permutation_p_is_exact(statistic, n):
    x, y = RNG.normal(size=(2, n))
    drawn = [abs(correlation(x[list(order)], y, statistic)) for order in itertools.permutations(range(n))]
    expected = np.mean(np.array(drawn) >= abs(correlation(x, y, statistic)) - 1e-12)
    shuffled = orders([range(n)], 0)
    assert len(shuffled[0]) == math.factorial(n) and shuffled[1]
    assert permutation_p(x, y, statistic, shuffled) == expected
    by_scipy = stats.permutation_test(
        (x,),
        lambda z: abs(correlation(z, y, statistic)),
        permutation_type="pairings",
        alternative="greater",
        n_resamples=np.inf,
    )
    assert expected == pytest.approx(by_scipy.pvalue)


def test_more_models_are_drawn():
    x = RNG.normal(size=12)
    y = x + RNG.normal(size=12)
    shuffled = orders([range(12)], 0)
    assert shuffled[0].shape == (4999, 12) and not shuffled[1]
    assert (np.sort(shuffled[0], axis=1) == np.arange(12)).all()
    p = permutation_p(x, y, "pearson", shuffled)
    assert p == pytest.approx(stats.pearsonr(x, y).pvalue, abs=0.02) and p >= 1 / 5000


def test_label_permutations_by_enumeration():
    x, y = (np.where(np.eye(4), np.nan, RNG.random((4, 4))) for _ in range(2))
    off = ~np.eye(4, dtype=bool)
    for statistic in ("pearson", "spearman"):
        drawn = [
            abs(correlation(x[np.ix_(order, order)][off], y[off], statistic))
            for order in itertools.permutations(range(4))
        ]
        expected = np.mean(np.array(drawn) >= abs(correlation(x[off], y[off], statistic)) - 1e-12)
        assert label_permutation_p(x, y, statistic, orders([range(4)], 0)) == expected


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


def test_pairs_that_share_tasks_are_not_independent():
    """Under the null hypothesis with an effect of each task, a test over pairs errs; over tasks' labels it does not."""
    rng = np.random.default_rng(3)
    off = ~np.eye(6, dtype=bool)
    every = orders([range(6)], 0)
    labels, pairs = [], []
    for _ in range(300):
        a, b = rng.normal(size=(2, 6))
        x, y = (np.where(off, v[:, None] + v, np.nan) + 0.3 * rng.normal(size=(6, 6)) for v in (a, b))
        labels.append(label_permutation_p(x, y, "pearson", every))
        pairs.append(stats.pearsonr(x[off], y[off]).pvalue)
    error = 4 * math.sqrt(0.05 * 0.95 / 300)
    assert abs(np.mean(np.array(labels) <= 0.05) - 0.05) < error
    assert np.mean(np.array(pairs) <= 0.05) > 0.05 + 2 * error


def test_the_bootstrap_by_weights_is_the_bootstrap_by_copies():
    """The weighted ranks and moments equal scipy's on samples written out in full."""
    x, y = (np.where(np.eye(5), np.nan, RNG.integers(0, 4, size=(5, 5))) for _ in range(2))
    for statistic, own in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        draws = np.random.default_rng(7).integers(5, size=(1000, 5))  # the same draws
        found = []
        for draw in draws:
            one, two = x[np.ix_(draw, draw)], y[np.ix_(draw, draw)]
            there = np.isfinite(one)
            if there.any() and np.ptp(one[there]) > 0 and np.ptp(two[there]) > 0:
                found.append(own(one[there], two[there]).statistic)
        expected = np.quantile(found, [0.025, 0.975])
        assert task_bootstrap(x, y, statistic, [range(5)], 7) == pytest.approx(expected)


# --- correlate ---


def test_per_test_task_and_over_all_pairs():
    alike, scores = random_cells(1), random_cells(2)
    found = correlate(alike, scores)
    assert isinstance(found, Correlation) and len(found.table) == 2 * 7
    x, y = (np.array([d[i, "c"] for i in "abdef"]) for d in (alike, scores))
    for statistic, own in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        c = row(found, "c", statistic)
        assert (c.n, c.gaps, c.exact, c.orders, c.reason) == (5, 0, True, 120, "")
        assert c.r == pytest.approx(own(x, y).statistic)
        assert (c.low, c.high) == pytest.approx(interval(c.r, 5, statistic))
        both = row(found, "all pairs", statistic)
        expected = own([alike[p] for p in PAIRS], [scores[p] for p in PAIRS]).statistic
        assert both.r == pytest.approx(expected)
        assert (both.n, both.orders, both.exact) == (30, 720, True)
        assert both.q == both.p
    p = found.table[(found.table.statistic == "pearson") & (found.table.test != "all pairs")].p.to_numpy()
    order = np.argsort(p)
    q = np.minimum.accumulate((p[order] * 6 / np.arange(1, 7))[::-1])[::-1]
    ours = found.table[(found.table.statistic == "pearson") & (found.table.test != "all pairs")].q.to_numpy()
    np.testing.assert_allclose(ours[order], q)
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
    both = found.table[(found.table.test == "all pairs") & (found.table.statistic == "pearson")]
    assert set(both.layer[both.q <= 0.05]) == planted
    np.testing.assert_allclose(both.q.min(), min(both.p.sort_values() * 6 / np.arange(1, 7)))
    words = found.in_words()
    assert words.startswith("More similar tasks transfer better in layers 2-3 (2 of 6 layers with q <= 0.05; strongest")
    figure = found.figure()
    curve = next(t for t in figure.data if t.name == "Pearson's r")
    assert list(curve.y) == both.r.tolist() and "q = " in curve.customdata[0]
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
    both = found.table[(found.table.test == "all pairs") & (found.table.statistic == "pearson")]
    assert both.q.min() > 0.05
    assert found.in_words().startswith("No layer's similarity predicts transfer after correction over 4 layers")
    best = both.loc[both.p.idxmin()]
    assert f"layer {best.layer}: r = {best.r:.2f}" in found.in_words()
    assert "with so few models, p cannot be below 0.0083" in found.in_words().lower()  # 1 / 5!, of 24 tests
    assert repr(found) == f"Correlation({found.in_words()})"
    overall = correlate({p: v[0] for p, v in alike.items()}, random_cells(11))
    assert "similarity does not predict transfer beyond chance" in overall.in_words()


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
    names = {t: f"<b>{t}</b>" if t == "all pairs" else t for t in found.table.test}
    own = found.table[found.table.statistic == "pearson"].set_index("test")
    assert set(beyond.y) == {names[t] for t in own.index[own.q <= 0.05]} >= {"a", "b"}
    assert set(not_beyond.y) == {names[t] for t in own.index[own.q > 0.05]} != set()
    for trace in (beyond, not_beyond):
        for name, r, up in zip(trace.y, trace.x, trace.error_x.array, strict=True):
            test = name.removeprefix("<b>").removesuffix("</b>")
            assert r == own.r[test] and r + up == pytest.approx(own.high[test])
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
    similarity = parameter_similarity(model, masks, controls=0)
    found = correlate(similarity, scores, by="layer")
    assert found.manifest["layers"] == [0, 1] and (found.table.n.isin([5, 30])).all()


def test_bad_input():
    alike, scores = random_cells(1), random_cells(2)
    rows = pd.DataFrame([{"a": "a", "b": "b", "value": 1.0}] * 2)
    for similarity, transfer, match in (
        (alike, {("x", "y"): 1.0}, "no pair of tasks in both"),
        (alike, {}, "a dict"),
        (3, scores, "a int"),
        (alike, {("a", "b"): 1.0, ("b", "a"): 2.0, ("a", "c"): 3.0}, "3 pairs of tasks with both numbers"),
        (dict.fromkeys(alike, math.nan), scores, "0 pairs"),
        (alike, dict.fromkeys(scores, math.nan), "0 pairs"),
        (alike | {("a", "b"): math.inf}, scores, "infinite number for a -> b"),
        (rows, scores, "several rows for a -> b"),
        (rows.drop(columns="value"), scores, "a table of a, b"),
        ({"ab": "x"}, scores, "something else"),
        ({("a", "b"): [1, 2], ("a", "c"): [1]}, scores, "1 and 2 layers|2 and 1 layers"),
    ):
        with pytest.raises(ArgumentError, match=match):
            correlate(similarity, transfer)
    with pytest.raises(ArgumentError, match="without layers"):
        correlate(alike, scores, by="layer")
    for keyword in ({"by": "layers"}, {"alpha": 0.1}):
        with pytest.raises(ArgumentError):
            correlate(alike, scores, **keyword)
    with pytest.raises(ArgumentError, match="no such statistic"):
        correlate(alike, scores).figure("kendall")
