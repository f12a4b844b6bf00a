"""The numbers behind a correlation: against scipy, by enumeration, and under the null hypothesis."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from neuroscope.comparison.correlation.coefficients import (
    coefficient_interval,
    correlation,
    label_permutation_test,
    orders,
    permutation_test,
    relabelled,
    task_bootstrap,
    task_draws,
    without_tasks,
)

RNG = np.random.default_rng(0)


def label_p(x, y, statistic="pearson"):
    return label_permutation_test(x, y, statistic, relabelled(orders([range(len(x))], 0)[0], y))[0]


def test_the_interval_of_six_models():
    """LX24 has n = 6: with r = 0.79 the 95 % interval is [-0.06, 0.98]."""
    low, high = coefficient_interval(0.79, 6, "pearson")
    assert (round(low, 2), round(high, 2)) == (-0.06, 0.98)


@pytest.mark.parametrize("n", [4, 6, 30])
def test_intervals_against_scipy_and_by_hand(n):
    x, y = RNG.normal(size=(2, n))
    expected = stats.pearsonr(x, y).confidence_interval()
    assert coefficient_interval(correlation(x, y, "pearson"), n, "pearson") == pytest.approx(
        (expected.low, expected.high)
    )
    rho = stats.spearmanr(x, y).statistic
    reach = 1.959963985 * math.sqrt((1 + rho**2 / 2) / (n - 3))  # Bonett & Wright 2000, Eq. for rho
    by_hand = (math.tanh(math.atanh(rho) - reach), math.tanh(math.atanh(rho) + reach))
    assert coefficient_interval(rho, n, "spearman") == pytest.approx(by_hand)
    assert all(map(math.isnan, (*coefficient_interval(1.0, n, "pearson"), *coefficient_interval(0.5, 3, "pearson"))))


def test_the_intervals_cover():
    """95 % intervals of normal pairs with correlation 0.6 hold it 95 % of the time, give or take the simulation."""
    held = {"pearson": 0, "spearman": 0}
    truth = {"pearson": 0.6, "spearman": 6 / math.pi * math.asin(0.3)}
    rng = np.random.default_rng(1)
    for _ in range(600):
        x = rng.normal(size=20)
        y = 0.6 * x + 0.8 * rng.normal(size=20)
        for statistic in held:
            low, high = coefficient_interval(correlation(x, y, statistic), 20, statistic)
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
    assert permutation_test(x, y, statistic, shuffled[0]) == (expected, np.mean(np.array(drawn) >= max(drawn) - 1e-12))
    by_scipy = stats.permutation_test(
        (x,),
        lambda z: abs(correlation(z, y, statistic)),
        permutation_type="pairings",
        alternative="greater",
        n_resamples=np.inf,
    )
    assert expected == pytest.approx(by_scipy.pvalue)


def test_the_least_p_that_these_numbers_can_have():
    x = np.arange(4.0)
    every = orders([range(4)], 0)[0]
    assert permutation_test(x, x[[1, 0, 2, 3]], "spearman", every)[1] == 2 / 24  # the same order, and the reverse
    assert permutation_test(np.array([0.0, 0, 1, 1]), x, "pearson", every)[1] == 8 / 24  # ties: 2! 2! of each of them
    assert permutation_test(x**4, x[[1, 0, 2, 3]] ** 4, "pearson", every)[1] == 1 / 24


def test_more_models_are_drawn():
    x = RNG.normal(size=12)
    y = x + RNG.normal(size=12)
    every, exact = orders([range(12)], 0)
    assert every.shape == (5000, 12) and not exact and every[0].tolist() == list(range(12))  # 4999, and the own one
    assert (np.sort(every, axis=1) == np.arange(12)).all()
    assert permutation_test(x, y, "pearson", every)[0] == pytest.approx(stats.pearsonr(x, y).pvalue, abs=0.02)
    assert permutation_test(x, x, "pearson", every) == (1 / 5000, 1 / 5000)


def test_label_permutations_by_enumeration():
    x, y = (np.where(np.eye(4), np.nan, RNG.random((4, 4))) for _ in range(2))
    off = ~np.eye(4, dtype=bool)
    for statistic in ("pearson", "spearman"):
        drawn = [
            abs(correlation(x[np.ix_(order, order)][off], y[off], statistic))
            for order in itertools.permutations(range(4))
        ]
        expected = np.mean(np.array(drawn) >= abs(correlation(x[off], y[off], statistic)) - 1e-12)
        assert label_p(x, y, statistic) == expected


@pytest.mark.parametrize("statistic", ["pearson", "spearman"])
def test_gaps_move_with_their_tasks(statistic):
    x, y = (np.where(np.eye(5), np.nan, RNG.random((5, 5))) for _ in range(2))
    x[0, 1] = x[3, 2] = y[1, 4] = np.nan

    def ranks(m):
        return np.where(np.isfinite(m), stats.rankdata(m, nan_policy="omit").reshape(m.shape), np.nan)

    def expected(x, y):
        if statistic == "spearman":  # ranks among all numbers, once
            x, y = ranks(x), ranks(y)
        drawn = []
        for order in itertools.permutations(range(5)):
            moved = x[np.ix_(order, order)]
            both = np.isfinite(moved) & np.isfinite(y)
            drawn.append(abs(correlation(moved[both], y[both], "pearson")))
        return np.mean(np.array(drawn) >= drawn[0] - 1e-12)

    assert label_p(x, y, statistic) == expected(x, y)
    one, two, _ = without_tasks(x, y)  # two has the gaps of x too
    places = relabelled(orders([range(5)], 0)[0], y)
    assert label_permutation_test(one, two, statistic, places)[0] == expected(one, two)


def test_pairs_that_share_tasks_are_not_independent():
    """Under the null hypothesis with an effect of each task, a test over pairs errs; over tasks' labels it does not."""
    rng = np.random.default_rng(3)
    off = ~np.eye(6, dtype=bool)
    labels, pairs = [], []
    for _ in range(300):
        a, b = rng.normal(size=(2, 6))
        x, y = (np.where(off, v[:, None] + v, np.nan) + 0.3 * rng.normal(size=(6, 6)) for v in (a, b))
        labels.append(label_p(x, y))
        pairs.append(stats.pearsonr(x[off], y[off]).pvalue)
    error = 4 * math.sqrt(0.05 * 0.95 / 300)
    assert abs(np.mean(np.array(labels) <= 0.05) - 0.05) < error
    assert np.mean(np.array(pairs) <= 0.05) > 0.05 + 2 * error


def world(rng, effect=0.0, hubs=0.0, tasks=6):
    """Symmetric similarity and transfer: a pair's own effect; tasks that are like all others and easy for all."""
    off = ~np.eye(tasks, dtype=bool)
    pair = np.triu(rng.normal(size=(tasks, tasks)), 1)
    pair = pair + pair.T
    hub, noise = rng.normal(size=tasks), rng.normal(size=(tasks, tasks))
    difficulty = rng.normal(size=tasks) if not hubs else hub
    source = rng.normal(size=(tasks, 1))
    x = pair + 2 * hubs * (hub[:, None] + hub)
    y = effect * pair + 2 * difficulty + (0 if hubs else source) + 0.4 * noise
    return np.where(off, x, np.nan), np.where(off, y, np.nan)


def test_tasks_that_are_alike_to_all_and_easy_for_all_are_no_finding():
    """Hubs: over raw labels nearly always 'found', two-way at the nominal rate; a pair's own effect: the reverse."""
    rng, share = np.random.default_rng(4), {}
    places = relabelled(orders([range(6)], 0)[0], world(rng)[1])

    def p(x, y, statistic="pearson"):
        return label_permutation_test(x, y, statistic, places)[0]

    for name, settings in (("hubs", {"hubs": 1.0}), ("effect", {"effect": 0.5}), ("nothing", {})):
        worlds = [world(rng, **settings) for _ in range(150)]
        for view, ps in (
            ("raw", [p(*w) for w in worlds]),
            ("two-way", [p(*without_tasks(*w)[:2]) for w in worlds]),
            ("spearman", [p(*without_tasks(*w)[:2], "spearman") for w in worlds]),
        ):
            share[name, view] = np.mean(np.array(ps) <= 0.05)
    nominal = 0.05 + 4 * math.sqrt(0.05 * 0.95 / 150)
    assert share["hubs", "raw"] > 0.8 and share["effect", "raw"] < 0.6
    for view in ("two-way", "spearman"):
        assert share["hubs", view] < nominal and share["nothing", view] < nominal and share["effect", view] > 0.9


@pytest.mark.parametrize("gaps", [0, 4])
def test_two_way_is_the_partial_correlation_of_a_regression(gaps):
    """r^2 is the share of the squares, left by the tasks' effects, that similarity takes further away."""
    rng = np.random.default_rng(gaps)
    x, y = (np.where(np.eye(6), np.nan, rng.normal(size=(6, 6)) + 9 * rng.normal(size=6)) for _ in range(2))
    x.flat[rng.integers(36, size=gaps)] = np.nan
    both = np.isfinite(x) & np.isfinite(y)
    tasks = pd.get_dummies(pd.DataFrame(np.argwhere(both), columns=["source", "test"]).astype(str)).to_numpy(float)

    def squares(design):
        return np.sum((y[both] - design @ np.linalg.pinv(design) @ y[both]) ** 2)

    left = squares(tasks)
    slope = (np.linalg.pinv(np.column_stack([tasks, x[both]])) @ y[both])[-1]
    expected = np.sign(slope) * math.sqrt((left - squares(np.column_stack([tasks, x[both]]))) / left)
    one, two, freedom = without_tasks(x, y)
    assert freedom == both.sum() - np.linalg.matrix_rank(tasks) == 30 - gaps - 11
    assert correlation(one[both], two[both], "pearson") == pytest.approx(expected)
    assert (np.isfinite(one) == both).all() and (np.isfinite(two) == both).all()
    additive = np.where(np.eye(6), np.nan, np.arange(6.0)[:, None] + 0.1 * np.arange(6))
    assert (without_tasks(additive, y)[0][both] == 0).all()  # nothing, not rounding errors


def test_the_bootstrap_by_weights_is_the_bootstrap_by_copies():
    """The weighted ranks and moments equal scipy's on samples written out in full."""
    x, y = (np.where(np.eye(5), np.nan, RNG.integers(0, 4, size=(5, 5))) for _ in range(2))
    counts = task_draws([range(5)], 7)
    assert counts.shape == (1000, 5) and (counts.sum(1) == 5).all() and counts.mean(0) == pytest.approx(1, abs=0.15)
    for statistic, own in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        found = []
        for count in counts.astype(int):
            draw = np.repeat(np.arange(5), count)
            one, two = x[np.ix_(draw, draw)], y[np.ix_(draw, draw)]
            there = np.isfinite(one)
            if (count > 0).sum() > 2 and np.ptp(one[there]) > 0 and np.ptp(two[there]) > 0:
                found.append(own(one[there], two[there]).statistic)
        expected = np.quantile(found, [0.025, 0.975])
        assert task_bootstrap(x, y, statistic, counts) == pytest.approx(expected)


def test_the_bootstrap_of_five_tasks_is_no_matter_of_the_last_digit():
    """A draw of two tasks has two pairs, which correlate by +-1 as soon as they differ by a hair."""
    rng = np.random.default_rng(0)
    x = np.where(np.eye(5), np.nan, rng.random((5, 5)))
    x = (x + x.T) / 2
    y = 2 * x + 0.02 * rng.normal(size=(5, 5))
    counts = task_draws([range(5)], 0)
    low, high = task_bootstrap(x, y, "pearson", counts)
    again = task_bootstrap(x + 1e-9 * rng.normal(size=(5, 5)), y, "pearson", counts)
    assert 0.9 < low < high < 1 and again == pytest.approx((low, high), abs=1e-3)


def test_the_bootstrap_covers():
    """Pairs' own correlation 0.78, six tasks of different difficulty: 95 % intervals are too wide, if anything."""
    rng, held = np.random.default_rng(2), 0
    counts = task_draws([range(6)], 0)[:400]
    for _ in range(150):
        low, high = task_bootstrap(*without_tasks(*world(rng, effect=0.5))[:2], "pearson", counts)
        held += low <= 0.5 / math.hypot(0.5, 0.4) <= high
    assert held / 150 > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 150)
