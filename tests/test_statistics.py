"""Intervals, p and q against closed forms and against scipy."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from neuroscope import statistics
from neuroscope.errors import ArgumentError, NumericalError
from neuroscope.statistics import (
    against_controls,
    benjamini_hochberg,
    bootstrap_interval,
    effect_margin,
    mean_interval,
    outcomes_interval,
    paired_permutation,
    percentile_interval,
    permutation_p,
    score_interval,
    seeds_and_examples_interval,
    standard_error,
)


def sample(n, seed=0):
    return np.random.default_rng(seed).gamma(2.0, size=n)


def test_bootstrap_agrees_with_scipy():
    values = sample(60)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    assert bootstrap_interval(values, resamples=20000) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_bootstrap_of_a_coin_is_the_binomial_quantile():
    heads, n = 30, 100  # a bootstrap mean is Binomial(n, 0.3) / n
    low, high = scipy.stats.binom.ppf([0.025, 0.975], n, heads / n) / n
    coin = [1] * heads + [0] * (n - heads)
    assert bootstrap_interval(coin, resamples=20000) == pytest.approx((low, high), abs=0.011)


def test_bootstrap_edges():
    assert bootstrap_interval([0.25]) == (0.25, 0.25)
    assert bootstrap_interval([3.0] * 7) == (3.0, 3.0)


def test_the_middle_of_draws_leaves_out_what_is_no_draw():
    assert percentile_interval([*range(41), np.nan, np.inf]) == pytest.approx((1, 39))  # 2.5 % of 40 steps is one
    assert np.isnan(percentile_interval([np.nan])).all() and np.isnan(percentile_interval([])).all()


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9), st.sampled_from((0.5, 0.9, 0.95)))
def test_the_interval_and_error_of_a_mean_agree_with_scipy(values, level):
    assert standard_error(values) == pytest.approx(scipy.stats.sem(values), abs=1e-12)
    low, high = mean_interval(values, level)
    assert low <= np.mean(values) <= high
    if np.ptp(values) > 1e-6:  # scipy warns of values that are all alike
        theirs = scipy.stats.ttest_1samp(values, 0).confidence_interval(level)
        assert (low, high) == pytest.approx((theirs.low, theirs.high), rel=1e-9, abs=1e-9)


def test_one_value_has_no_interval_and_no_error():
    assert np.isnan(mean_interval([0.5])).all() and np.isnan(mean_interval([0.5, np.nan])).all()
    assert np.isnan(standard_error([0.5]))


def test_seeds_and_examples_are_two_kinds_of_chance():
    z, t = scipy.stats.norm.ppf(0.975), scipy.stats.t.ppf(0.975, 2)
    means = [0.5, 0.6, 0.7]
    assert seeds_and_examples_interval([0.5], 0.1) == pytest.approx((0.5, 0.5 - 0.1 * z, 0.5 + 0.1 * z))
    assert seeds_and_examples_interval(means, 0.0)[1:] == pytest.approx(mean_interval(means))
    half = np.hypot(0.1 * z, t * 0.1 / np.sqrt(3))
    assert seeds_and_examples_interval(means, 0.1) == pytest.approx((0.6, 0.6 - half, 0.6 + half))
    assert seeds_and_examples_interval([0.5], 1.0, is_score=True) == (0.5, 0.0, 1.0)
    runs = np.array([[0, 1, 1, 1], [0, 0, 1, 1]])
    error = scipy.stats.sem([0, 0.5, 1, 1])  # of the mean over seeds: the seeds share their examples
    assert outcomes_interval(runs) == pytest.approx(seeds_and_examples_interval([0.75, 0.5], error))
    assert outcomes_interval(runs, is_score=True)[2] == 1.0


def test_a_seed_is_the_whole_of_the_chance(monkeypatch):
    values = sample(40)
    state = np.random.get_state()[1].copy()
    first = bootstrap_interval(values, seed=3)
    assert first == bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)
    p = paired_permutation(values, sample(40, 1), seed=3)
    assert p == paired_permutation(values, sample(40, 1), seed=3)
    assert (np.random.get_state()[1] == state).all()
    monkeypatch.setattr(statistics.intervals, "BATCH", 1)  # one row at a time: still the right number of rows
    assert bootstrap_interval(values, resamples=400) == pytest.approx(first, abs=0.2)
    assert paired_permutation([1.0] * 30, [0.0] * 30, permutations=99) == 1 / 100


@pytest.mark.parametrize("n", [2, 5, 12])
def test_exact_permutation_agrees_with_scipy(n):
    a, b = sample(n, 1), sample(n, 2)
    theirs = scipy.stats.permutation_test(
        (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert paired_permutation(a, b) == pytest.approx(theirs, abs=1e-12)


def test_exact_permutation_ignores_ties():
    a, b = np.zeros(100), np.zeros(100)
    a[:5] = 1
    assert paired_permutation(a, b) == 2 / 2**5
    assert paired_permutation(b, b) == 1.0
    assert paired_permutation([1], [0]) == 1.0  # one example: both flips are as extreme


def test_equal_sums_count_as_equal_despite_rounding():
    # 0.1 + 0.2 - 0.3 is 2.8e-17 in floats and 0 on paper: every flip is as extreme as no difference at all.
    assert paired_permutation([0.1, 0.2, -0.3], [0, 0, 0]) == 1.0


def test_drawn_permutation_is_the_sign_test_for_equal_differences():
    a = np.array([1.0] * 20 + [0.0] * 10)
    expected = scipy.stats.binomtest(20, 30).pvalue
    assert paired_permutation(a, 1 - a, permutations=20000) == pytest.approx(expected, abs=0.01)
    assert paired_permutation(1 - a, a, permutations=20000) == pytest.approx(expected, abs=0.01)


def test_drawn_p_is_never_zero():
    assert paired_permutation(np.ones(200), np.zeros(200), permutations=999) == 1 / 1000


def test_q_agrees_with_scipy():
    p = np.random.default_rng(0).beta(0.5, 2, size=(6, 6))
    np.testing.assert_allclose(
        benjamini_hochberg(p).ravel(), scipy.stats.false_discovery_control(p.ravel()), rtol=1e-12
    )


@given(st.lists(st.one_of(st.just(float("nan")), st.floats(0, 1)), min_size=1, max_size=30))
def test_q_with_missing_tests(p):
    q, p = benjamini_hochberg(p), np.asarray(p)
    made = ~np.isnan(p)
    assert (np.isnan(q) == ~made).all()
    if made.any():
        np.testing.assert_allclose(q[made], scipy.stats.false_discovery_control(p[made]), rtol=1e-12, atol=0)
        assert (q[made] >= p[made] * (1 - 1e-12)).all() and q[made].max() <= 1


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: bootstrap_interval([]), ArgumentError, "shape (0,)"),
        (lambda: bootstrap_interval([[1.0]]), ArgumentError, "shape (1, 1)"),
        (lambda: bootstrap_interval([1, float("nan"), 2]), NumericalError, "1 of 3 values are not finite"),
        (lambda: bootstrap_interval([1, 2], resamples=0), ArgumentError, "resamples=0"),
        (lambda: bootstrap_interval([1, 2], sede=0), ArgumentError, "did you mean 'seed'"),
        (lambda: paired_permutation([], []), ArgumentError, "shape (0,)"),
        (lambda: paired_permutation([1], [1, 2]), ArgumentError, "1 and 2 values"),
        (lambda: paired_permutation([1, 2], [1, float("inf")]), NumericalError, "number 1, is inf"),
        (lambda: paired_permutation([1], [2], permutations=0), ArgumentError, "permutations=0"),
        (lambda: benjamini_hochberg([0.5, 1.5]), ArgumentError, "p from 0.5 to 1.5"),
        (lambda: benjamini_hochberg([]), ArgumentError, "no p values"),
    ],
)
def test_refusals(call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)


def drawn(rng, masks, n=60, spread=0.15):
    """Outcomes of random masks that hurt by chance: each mask has a level of its own, each example another chance."""
    levels = np.clip(rng.normal(0.7, spread, masks), 0, 1)
    return (rng.random((masks, n)) < levels[:, None]).astype(float)


def test_a_random_mask_is_not_found_to_differ_from_random_masks():
    """A mask that is one more random mask: p < 0.05 in at most about 5 % of cases, where examples alone say 50 %."""
    rng = np.random.default_rng(0)
    tables = [drawn(rng, 6) for _ in range(200)]
    found = sum(against_controls(t[0], t[1:])["p"] < 0.05 for t in tables)
    by_examples = sum(paired_permutation(t[0], t[1:].mean(0)) < 0.05 for t in tables)
    assert found <= 0.05 * 200 + 2 * np.sqrt(200 * 0.05 * 0.95)
    assert by_examples > 0.2 * 200


def test_a_mask_that_breaks_the_task_is_found():
    rng = np.random.default_rng(1)
    controls = drawn(rng, 5, spread=0.02)
    found = against_controls(np.zeros(60), controls)
    assert found["p"] < 1e-3
    assert found["effect"] == pytest.approx(controls.mean())
    assert found["low"] < found["effect"] < found["high"]
    same = against_controls(controls[0], np.stack([controls[0]] * 3))
    half = stats.t.ppf(0.975, 2) * np.sqrt(4 / 3) / 60  # masks that score alike may differ by one example of sixty
    assert same == {"effect": 0, "low": pytest.approx(-half), "high": pytest.approx(half), "p": 1}


def test_the_test_against_controls_by_hand():
    """Three masks and two examples: V, degrees of freedom and p as the docstring has them."""
    controls, own = np.array([[1.0, 0.5], [0.5, 0.8], [0.6, 0.8]]), np.array([0.0, 0.25])
    s2 = (0.05**2 + 0.05**2) / 2  # of 0.75, 0.65 and 0.7
    noise = (
        2 * (0.25**2 + 0.15**2 + 0.1**2) / 2 / 2
    )  # residuals +-0.25, -+0.15, -+0.1, 2 degrees of freedom, 2 examples
    d = np.array([0.7, 0.45])
    of_masks, of_examples = 4 / 3 * max(s2, 1 / 4), max(0, d.var(ddof=1) / 2 - 4 / 3 * noise)
    freedom = (of_masks + of_examples) ** 2 / (of_masks**2 / 2 + of_examples**2)
    found = against_controls(own, controls)
    error = np.sqrt(of_masks + of_examples)
    assert found["effect"] == pytest.approx(0.575)
    assert found["high"] - found["effect"] == pytest.approx(stats.t.ppf(0.975, freedom) * error)
    assert found["p"] == pytest.approx(2 * stats.t.sf(0.575 / error, freedom))


@pytest.mark.parametrize("masks", [3, 5, 20])
@pytest.mark.parametrize(("spread", "effect"), [(0.1, 0.0), (0.5, 0.0), (0.5, 1.5)])
def test_the_interval_against_controls_holds_the_truth_and_p_inverts_it(masks, spread, effect):
    """400 worlds, 64 examples that are right or wrong: 93 to 98 % hold it (give or take what 400 allow)."""
    rng, held, p = np.random.default_rng(masks), 0, []
    for _ in range(400):
        harm = rng.normal(0, spread, masks + 2)
        harm[-1] += effect
        able = 0.5 + rng.normal(size=64)[None] - harm[:, None] + rng.normal(size=(masks + 2, 64))
        further, own = stats.norm.cdf((0.5 - harm[-2:]) / np.sqrt(2))
        outcomes = (able > 0).astype(float)
        test = against_controls(outcomes[-1], outcomes[:masks])
        held += test["low"] <= further - own <= test["high"]
        p.append(test["p"])
        assert (test["p"] < 0.05) == (not test["low"] <= 0 <= test["high"])
    assert 0.925 <= held / 400 <= 0.985
    if not effect:
        assert stats.kstest(p[:300], "uniform").pvalue > 0.001 and np.mean(np.array(p) < 0.05) < 0.075


def test_the_interval_of_a_score_is_wilsons_where_outcomes_are_right_or_wrong():
    for right, n in ((96, 96), (0, 10), (3, 7), (50, 64)):
        outcomes = np.r_[np.ones(right), np.zeros(n - right)]
        by_scipy = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
        assert score_interval(outcomes) == pytest.approx((by_scipy.low, by_scipy.high))
    assert score_interval([1.0] * 5)[1] == 1.0
    shares = np.random.default_rng(0).random(40)
    assert score_interval(shares, seed=3) == bootstrap_interval(shares, seed=3)
    assert score_interval([0.5] * 20)[0] < 0.4  # examples that agree are no certainty
    with pytest.raises(ArgumentError, match="from 0.0 to 2.0"):
        score_interval([0, 2])


def test_the_interval_grows_with_the_spread_of_the_controls():
    rng = np.random.default_rng(2)
    alike = np.stack([drawn(rng, 1)[0]] * 5)
    apart = np.stack([np.zeros(60), np.ones(60), np.zeros(60), np.ones(60), alike[0]])
    own = drawn(rng, 1)[0]
    narrow, wide = (against_controls(own, c) for c in (alike, apart))
    assert wide["high"] - wide["low"] > 1.5 * (narrow["high"] - narrow["low"])


@pytest.mark.parametrize("controls", [np.ones((1, 4)), np.ones((2, 4)), np.ones((3, 5)), np.ones(4)])
def test_too_few_or_other_controls_are_refused(controls):
    with pytest.raises(ArgumentError, match="3 random masks or more"):
        against_controls(np.ones(4), controls)


def test_a_permutation_p_counts_ties_and_leaves_out_gaps():
    drawn = [0.3, np.nan, 0.1, 0.5, np.nan]
    assert permutation_p(0.1 + 0.2, drawn, exact=True) == 2 / 3  # 0.30000000000000004 on this machine
    assert permutation_p(0.1 + 0.2, drawn) == (1 + 2) / (1 + 3)
    assert permutation_p(1e6 * (0.1 + 0.2), [3e5, 1e5]) == 2 / 3 and permutation_p(0.6, drawn) == 1 / 4
    for values in ([], [np.nan]):
        with pytest.raises(NumericalError, match="a permutation p"):
            permutation_p(1.0, values)
    with pytest.raises(ArgumentError, match="value=nan"):
        permutation_p(np.nan, [1.0])


def test_the_margin_of_an_effect_is_over_examples_and_drawn_masks():
    """By hand: the masks' scores are 1/2, 3/4 and 1."""
    outcomes, controls = [0, 0, 0, 0], [[0, 1, 1, 0], [0, 1, 1, 1], [1, 1, 1, 1]]
    d = np.array([1, 3, 3, 2]) / 3
    examples, masks = d.var(ddof=1) / 4, (1 / 4) ** 2 / 3
    freedom = (examples + masks) ** 2 / (examples**2 / 3 + masks**2 / 2)
    expected = stats.t.ppf(0.975, freedom) * np.sqrt(examples + masks)
    assert effect_margin(outcomes, controls) == pytest.approx(expected)
    same = effect_margin([0] * 10, [[1] * 10] * 3)  # s is at least one example
    assert same == pytest.approx(stats.t.ppf(0.975, 2) / 10 / 3**0.5)


def test_the_margin_covers_the_mean_over_masks():
    """Of 400 worlds in which random masks' scores differ, at 3 and 20 masks: at least 93 % hold the effect."""
    rng = np.random.default_rng(1)
    for masks in (3, 20):
        hits = 0
        for _ in range(400):
            level = np.clip(rng.normal(0.7, 0.05, (masks, 1)), 0, 1)
            controls, own = rng.random((masks, 48)) < level, rng.random(48) < 0.4
            effect, margin = (controls.mean() - own.mean()), effect_margin(own, controls)
            hits += abs(effect - 0.3) <= margin
        assert 0.93 <= hits / 400 <= 0.995
