"""Change points: the best of all cuts, nominal on noise, within a layer of what was planted."""

import itertools

import numpy as np
import pandas as pd
import pytest

from neuroscope.comparison.segmentation import Segmentation, change_points, cutting, segment
from neuroscope.comparison.segmentation.change_points import Search, cuts, gains
from neuroscope.errors import ArgumentError, NumericalError


def planted(rng, edges=(10, 16), levels=(1.0, 0.7, 0.4), layers=33, tasks=12, noise=0.05):
    """Steps with a level per task and noise per layer."""
    place = np.searchsorted(edges, np.arange(layers), side="right")
    steps = np.array(levels)[place]
    return steps + rng.normal(0, 0.05, (tasks, 1)) + rng.normal(0, noise, (tasks, layers))


@pytest.mark.parametrize(("boundaries", "min_size"), [(1, 1), (2, 1), (2, 2), (3, 3)])
def test_many_curves_at_once_are_cut_as_the_best_of_all_cuts_cuts_each(boundaries, min_size):
    curves = np.random.default_rng(boundaries).normal(size=(25, 17))
    costs, starts = cuts(curves, boundaries, min_size)
    every = [
        places
        for places in itertools.combinations(range(1, 17), boundaries)
        if min(b - a for a, b in itertools.pairwise([0, *places, 17])) >= min_size
    ]
    for curve, cost, start in zip(curves, costs, starts, strict=True):
        errors = [sum(((piece - piece.mean()) ** 2).sum() for piece in np.split(curve, places)) for places in every]
        assert tuple(start) == every[np.argmin(errors)] and cost == pytest.approx(min(errors))


def test_the_gain_is_a_polynomials_error_over_the_pieces():
    curve = np.array([1.0, 1.2, 0.9, 0.2, 0.1, 0.35])
    x = np.arange(6)
    smooth = ((curve - np.polyval(np.polyfit(x, curve, 2), x)) ** 2).sum()  # one boundary, two levels: three numbers
    pieces = ((curve[:3] - curve[:3].mean()) ** 2).sum() + ((curve[3:] - curve[3:].mean()) ** 2).sum()
    assert gains(curve[None], 1, 1)[0] == pytest.approx(smooth / pieces)
    line = ((curve[:3] - np.polyval(np.polyfit(x[:3], curve[:3], 1), x[:3])) ** 2).sum()  # three numbers fit all three
    assert gains(curve[None, :3], 1, 1)[0] == pytest.approx(line / (0.1**2 * 2))


def test_beside_two_boundaries_the_smooth_curve_may_be_a_bump_on_a_slope():
    x = np.arange(20)
    curve = 0.3 + 0.01 * x + 0.5 * np.exp(-((x - 8) ** 2) / 2) + np.random.default_rng(0).normal(0, 0.01, 20)
    errors = []
    for place in x:
        for width in np.geomspace(1, 10, 8):
            columns = np.stack([np.ones(20), x, np.exp(-((x - place) ** 2) / (2 * width**2))], 1)
            errors.append(((curve - columns @ np.linalg.lstsq(columns, curve)[0]) ** 2).sum())
    pieces = cuts(curve[None], 2, 2)[0][0]
    assert gains(curve[None], 2, 2)[0] == pytest.approx(min(errors) / pieces, rel=1e-6) and min(errors) < pieces / 10
    one = ((curve - np.polyval(np.polyfit(x, curve, 2), x)) ** 2).sum()  # beside one boundary it has too many numbers
    assert gains(curve[None], 1, 2)[0] == pytest.approx(one / cuts(curve[None], 1, 2)[0][0])
    five = curve[None, 5:10]  # and of five layers it could fit every curve
    left = ((five[0] - np.polyval(np.polyfit(x[:5], five[0], 3), x[:5])) ** 2).sum()
    assert gains(five, 2, 1)[0] == pytest.approx(left / cuts(five, 2, 1)[0][0])


def test_steps_without_error_gain_the_same_at_every_scale():
    """The pieces' error is then 1e-12 of the curve's, not what rounding left."""
    steps = np.repeat([0.3, 0.1], 4)
    smooth = steps - np.polyval(np.polyfit(np.arange(8), steps, 2), np.arange(8))
    expected = (smooth**2).sum() / (1e-12 * ((steps - steps.mean()) ** 2).sum())
    for scale in (1e-3, 1, 700):
        assert gains(scale * steps[None], 1, 2)[0] == pytest.approx(expected, rel=1e-3)


def test_chunks_make_no_difference(monkeypatch):
    curves = np.random.default_rng(0).normal(size=(7, 9))
    whole = gains(curves, 2, 1)
    found = segment(curves, resamples=50, null=50)
    monkeypatch.setattr(change_points, "CHUNK", 100)
    assert np.array_equal(gains(curves, 2, 1), whole)
    again = segment(curves, resamples=50, null=50)
    assert again.table.equals(found.table) and again.manifest["p"] == found.manifest["p"]


@pytest.mark.parametrize("kind", ["gaussian", "heavy tails", "slope"])
def test_noise_has_no_clear_boundary_at_the_nominal_rate(kind):
    """At alpha = 0.2 (which needs fewer curves to see than 0.05) 20 % of pure noise pass the test, of a slope less."""
    rng, curves, alpha = np.random.default_rng(1), 400, 0.2
    noise = rng.standard_t(2, (curves, 12)) if kind == "heavy tails" else rng.normal(size=(curves, 12))
    noise = noise + 1.5 * np.arange(12) if kind == "slope" else noise
    cut = np.mean([change_points.tested(row, Search(2, 2, alpha, 99, 1, 0), rng)[0] <= alpha for row in noise])
    margin = 3 * np.sqrt(alpha * (1 - alpha) / curves)  # three standard errors of the share
    assert cut < alpha + margin
    assert kind == "slope" or cut > alpha - margin


def test_p_is_uniform_on_noise():
    rng = np.random.default_rng(2)
    found = [segment(rng.normal(size=(3, 10)), null=99, resamples=1, seed=i) for i in range(100)]
    p = [f.manifest["p"] for f in found]
    assert all(f.clear <= (q <= 0.05) for f, q in zip(found, p, strict=True))
    assert np.mean([f.clear for f in found]) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 100)
    assert 0.4 < np.mean(p) < 0.6


def cut_of(make, count, **settings):
    """Boundaries found in `count` curves of 33 layers."""
    found = [segment(make(np.random.default_rng(i)), null=99, resamples=1, seed=i, **settings) for i in range(count)]
    return [f.boundaries for f in found], found


@pytest.mark.parametrize("shape", [
    lambda x: (x - 0.5) ** 2, lambda x: np.exp(-((x - 0.4) ** 2) / 0.08), lambda x: np.sin(2 * np.pi * x),
    lambda x: 1 / (1 + np.exp(12 * (x - 0.5))), lambda x: np.exp(-4 * x), lambda x: np.exp(-(((x - 0.5) / 0.1) ** 2)),
], ids=["U", "hump", "sine", "sigmoid", "decay", "narrow bump"])  # fmt: skip
def test_a_smooth_curve_has_no_boundary(shape):
    curve = shape(np.linspace(0, 1, 33))
    starts, found = cut_of(lambda rng: curve + rng.normal(0, 0.02, 33), 10)
    assert starts == [[]] * 10
    assert all("a smooth curve fits it better" in f.sentence() for f in found)


@pytest.mark.parametrize("boundaries", [2, 3])
def test_one_step_is_one_boundary(boundaries):
    """A second one is found at most at the nominal rate, though two or three are looked for."""
    starts, found = cut_of(
        lambda rng: np.where(np.arange(33) < 14, 1, 0.5) + rng.normal(0, 0.05, 33), 60, boundaries=boundaries
    )
    one = [s for s in starts if len(s) == 1]
    assert all(abs(s[0] - 14) <= 1 for s in one)
    assert len(one) >= 60 * 0.95 - 3 * np.sqrt(60 * 0.95 * 0.05)
    assert all("err alike" in f.sentence() for f in found if not f.clear)
    plain = found[starts.index(one[0])]
    assert list(plain.table["name"]) == ["highest", "lowest"]
    assert f"{boundaries - 1} of {boundaries} boundaries looked for did not hold" in plain.sentence()
    assert np.isnan(plain.table["p"][0]) and plain.table["p"][1] == 0.01


@pytest.mark.parametrize("boundaries", [2, 3])
def test_two_steps_are_two_boundaries(boundaries):
    levels = np.repeat([1, 0.7, 0.4], [10, 6, 17])
    starts, found = cut_of(lambda rng: levels + rng.normal(0, 0.03, 33), 30, boundaries=boundaries)
    two = [s for s in starts if len(s) == 2]
    assert all(abs(s[0] - 10) <= 1 and abs(s[1] - 16) <= 1 for s in two)
    assert len(two) >= 30 * 0.95 - 3 * np.sqrt(30 * 0.95 * 0.05)
    assert list(found[starts.index(two[0])].table["name"]) == ["shared", "transition", "refinement"]


def test_p_of_a_boundary_beside_the_others():
    """By hand, for the second of two: what the best cut of either piece that is left takes away."""
    curve = np.repeat([1, 0.5, 0.4], 5) + np.random.default_rng(3).normal(0, 0.05, 15)
    starts = [5, 10]

    def error(y):
        return ((y - y.mean()) ** 2).sum()

    def taken(y):
        pieces = y[:5], y[5:]
        saved = [error(p) - error(p[:i]) - error(p[i:]) for p in pieces for i in range(2, len(p) - 1)]
        return max(saved) / sum(map(error, pieces))

    residuals = np.concatenate([piece - piece.mean() for piece in np.split(curve, starts)])
    drawn = np.random.default_rng(0).permuted(np.tile(residuals, (199, 1)), axis=1)
    expected = (1 + sum(taken(y) >= taken(curve) for y in drawn)) / 200
    assert 0.01 < expected < 0.9
    assert change_points.each(curve, starts, 2, 199, np.random.default_rng(0))[1] == pytest.approx(expected)


def test_one_boundary_that_does_not_hold_is_none(monkeypatch):
    monkeypatch.setattr(change_points, "each", lambda mean, starts, *_: [0.3] * len(starts))
    found = segment(planted(np.random.default_rng(0)))
    assert not found.clear and found.boundaries == [] and found.manifest["p"] == 0.001
    assert "no boundary holds by itself (p = 0.3, more than 0.05)" in found.sentence()


def test_where_neighbouring_layers_err_alike_there_is_no_clear_boundary():
    wander = np.zeros(33)
    for i, e in enumerate(np.random.default_rng(0).normal(0, 0.05, 33)):
        wander[i] = 0.9 * wander[i - 1] + e
    levels = np.repeat([1, 0.2], [14, 19])
    found = segment(levels + wander, boundaries=1)
    e = levels + wander - np.repeat([(levels + wander)[:14].mean(), (levels + wander)[14:].mean()], [14, 19])
    r = (e[1:] * e[:-1]).sum() / (e**2).sum()
    assert found.manifest["autocorrelation"] == pytest.approx(r) and r > 1.645 / np.sqrt(33)
    assert not found.clear and found.boundaries == [] and found.manifest["p"] <= 0.05
    assert f"err alike around the best cut (correlation {r:.2f}): it waves, wanders, or has more" in found.sentence()
    steps = segment(planted(np.random.default_rng(0)))
    assert steps.manifest["autocorrelation"] < 1.645 / np.sqrt(33) and steps.clear
    assert segment(np.repeat([1, 0.2], 6), boundaries=1).manifest["autocorrelation"] == pytest.approx(0)


@pytest.mark.parametrize(("r", "clear"), [(1.645 / 6 - 0.001, True), (1.645 / 6 + 0.001, False)])
def test_neighbours_err_alike_beyond_what_independent_ones_do_in_5_percent(r, clear, monkeypatch):
    monkeypatch.setattr(cutting, "autocorrelation", lambda pieces: r)
    assert segment(planted(np.random.default_rng(0), layers=36)).clear == clear


def test_two_periods_of_a_sine_are_not_cut():
    curve = np.sin(4 * np.pi * np.linspace(0, 1, 33))
    starts, _ = cut_of(lambda rng: curve + rng.normal(0, 0.02, 33), 20)
    assert sum(map(bool, starts)) <= 1


def test_a_p_of_few_distinct_values_is_counted_exactly():
    """One shuffle of thousands is of perfect steps, and gains 1e12: the others still count as they are."""
    curve = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 1.0])
    rng = np.random.default_rng(0)
    p, _ = change_points.tested(curve, Search(1, 1, 0.05, 2000, 1, 0), rng)
    drawn = gains(np.random.default_rng(0).permuted(np.tile(curve, (2000, 1)), axis=1), 1, 1)
    assert drawn.max() > 1e10
    assert p == pytest.approx((1 + (drawn >= gains(curve[None], 1, 1)[0] * (1 - 1e-7)).sum()) / 2001) and p < 0.2


@pytest.mark.parametrize("seed", range(5))
def test_planted_change_points_are_found(seed):
    found = segment(planted(np.random.default_rng(seed)))
    assert found.clear and found.manifest["p"] == 0.001
    assert all(abs(b - true) <= 1 for b, true in zip(found.boundaries, (10, 16), strict=True))
    assert list(found.table["name"]) == ["shared", "transition", "refinement"]
    assert list(found.table["first"]) == [0, *found.boundaries] and found.table["last"].iloc[-1] == 32
    for b, low, high in found.table[["first", "low", "high"]].to_numpy()[1:]:
        assert low <= b <= high and high - low <= 2


def test_a_ramp_between_plateaus_is_the_transition():
    curve = np.concatenate([np.full(10, 0.95), np.linspace(0.95, 0.5, 8)[1:-1], np.full(17, 0.5)])
    curve = curve + np.random.default_rng(0).normal(0, 0.01, 33)
    found = segment({"one": curve}, layers=range(33))
    first, second = found.boundaries
    assert found.clear and 10 <= first <= 13 and 13 <= second <= 17
    assert found.table[["low", "high"]].isna().all(None)
    p, q = found.table["p"][1:]
    said = f"with its p beside the others (one task, no interval): {first} (p = {p:.2g}), {second} (p = {q:.2g})."
    assert said in found.sentence()


def test_intervals_widen_with_disagreement():
    """Half of the tasks step at 28, half at 34: the interval has to span it."""
    rng = np.random.default_rng(0)
    mixed = np.vstack([planted(rng, (28,), (1, 0), 60, 6), planted(rng, (34,), (1, 0), 60, 6)])
    ((low, high),) = change_points.intervals(mixed, 1, 2, 1000, rng)
    assert low <= 28 and high >= 34
    assert "more boundaries than looked for" in segment(mixed, boundaries=1).sentence()
    assert segment(mixed).boundaries == [28, 34]
    agreed = segment(planted(rng, (11,), (1, 0), 24, 12), boundaries=1).table.iloc[1]
    assert (agreed["low"], agreed["first"], agreed["high"]) == (11, 11, 11)


def test_intervals_hold_95_percent_of_the_drawn_sets_of_tasks():
    """By hand: every task steps at a layer of its own."""
    curves = np.array([np.repeat([1.0, 0], [at, 60 - at]) for at in (10, 15, 20, 25, 30, 35, 40, 45, 50)])
    curves = curves + np.random.default_rng(0).normal(0, 0.01, curves.shape)
    rng = np.random.default_rng(5)
    starts = [cuts(curves[rng.integers(9, size=9)].mean(0)[None], 1, 2)[1][0, 0] for _ in range(1000)]
    low, lower, upper, high = np.quantile(starts, (0.025, 0.25, 0.75, 0.975))
    assert lower - low >= 5 and high - upper >= 5  # narrower quantiles would differ
    cut = change_points.intervals(curves, 1, 2, 1000, np.random.default_rng(1))
    np.testing.assert_allclose(cut, [[low, high]], atol=1)


def test_names_come_from_the_curve():
    steps = np.repeat([0.2, 0.9, 0.5], 6) + np.random.default_rng(0).normal(0, 0.02, 18)
    found = segment(steps)
    assert list(found.table["name"]) == ["lowest", "highest", "rank 2"]
    last = segment(np.repeat([0.9, 0.2, 0.5], 6) + np.random.default_rng(0).normal(0, 0.02, 18))
    assert list(last.table["name"]) == ["highest", "lowest", "rank 2"]
    assert "highest layers 6-11 (mean 0.899)" in found.sentence() and "Llama-2-7b" in found.sentence()


def test_a_straight_line_and_a_constant_have_no_boundary():
    line = segment(np.linspace(1, 0, 20))
    assert not line.clear and line.boundaries == [] and list(line.table["name"]) == ["all layers"]
    assert "a smooth curve fits it better" in line.sentence()
    assert segment(np.full(9, 0.3)).manifest["reason"] == "the curve is constant"


def test_gaps_are_left_out_and_reported():
    curves = {f"t{i}": row for i, row in enumerate(planted(np.random.default_rng(0), layers=20, edges=(6, 12)))}
    curves["t0"][0] = np.nan
    curves["gone"] = np.full(20, np.nan)
    found = segment(curves, layers=range(1, 21))
    assert found.manifest["left_out"] == ["task gone", 1] and found.manifest["layers"][0] == 2
    assert found.boundaries == [7, 13] and found.table["first"][0] == 2
    low, high = found.table[["low", "high"]].to_numpy()[1:].T
    assert (low <= found.boundaries).all() and (high >= found.boundaries).all()  # numbers of layers, too
    assert "Left out, as values are missing: task gone, layer 1." in found.sentence()


def test_figure_and_file(tmp_path):
    curves = planted(np.random.default_rng(0))
    found = segment({f"t{i}": row for i, row in enumerate(curves)}, label="CKA")
    figure = found.figure()
    mean = next(t for t in figure.data if t.name == "mean over tasks")
    np.testing.assert_allclose(mean.y, curves.mean(0))
    assert sum(t.line.width == 1 for t in figure.data) == 12
    marks = next(t for t in figure.data if t.mode == "markers")
    rows = found.table.iloc[1:]
    np.testing.assert_allclose(marks.x, rows["first"] - 0.5)
    np.testing.assert_allclose(np.array(marks.x) + marks.error_x.array, rows["high"] - 0.5)
    np.testing.assert_allclose(np.array(marks.x) - marks.error_x.arrayminus, rows["low"] - 0.5)
    shaded = [(s.x0, s.x1) for s in figure.layout.shapes if s.type == "rect"]
    assert shaded == [(a - 0.5, b + 0.5) for a, b in found.table[["first", "last"]].to_numpy()]
    assert figure.layout.yaxis.title.text == "CKA"
    assert figure.layout.title.subtitle.text == "p = 0.001 against shuffled layers; thin: single tasks"
    assert "thin" not in segment(curves[0]).figure().layout.title.subtitle.text
    again = Segmentation.load(found.save(tmp_path / "s.json"))
    assert again.boundaries == found.boundaries and again.sentence() == found.sentence()
    assert list(found.tables()) == ["segments", "curve"] and found.in_words() == found.sentence()
    assert found.tables()["curve"]["mean"].tolist() == pytest.approx(curves.mean(0).tolist())
    plain = segment(np.random.default_rng(3).normal(size=12))
    assert plain.in_words().startswith("**A negative**: no clear boundary in the curve of one task over 12 layers")
    assert not plain.clear and "no clear boundary" in plain.figure().layout.title.subtitle.text


def test_seeds(tmp_path):
    curves = planted(np.random.default_rng(0), noise=1.0)
    assert segment(curves, seed=1).table.equals(segment(curves, seed=1).table)
    state = np.random.get_state()[1].tolist()
    segment(curves)
    assert np.random.get_state()[1].tolist() == state


def test_what_cannot_be():
    for curves, wrong, error, text in (
        (np.zeros((2, 5)), {}, ArgumentError, "5 layers"),
        ([[1, 2, 3], [1, 2]], {}, ArgumentError, "different lengths"),
        ({"a": [1, 2, 3], "b": [1, 2]}, {}, ArgumentError, "different lengths"),
        ({"a": ["x", "y"]}, {}, ArgumentError, "give numbers"),
        ({}, {}, ArgumentError, "shape"),
        (np.full(9, np.nan), {}, ArgumentError, "no layer where every task"),
        ([1, np.inf] * 5, {}, NumericalError, "infinite"),
        (np.arange(9), {"layers": [1, 2]}, ArgumentError, "for 9 values"),
        (np.arange(9), {"boundaries": 0}, ArgumentError, "boundaries=0"),
        (np.arange(9), {"alpha": 1}, ArgumentError, "alpha=1"),
        (np.arange(9), {"null": 0}, ArgumentError, "null=0"),
        (np.arange(9), {"resamples": 1.5}, ArgumentError, "resamples=1.5"),
        (np.arange(9), {"n_boundaries": 1}, ArgumentError, "did you mean 'boundaries'"),
    ):
        with pytest.raises(error, match=text):
            segment(curves, **wrong)


def test_a_frame_has_tasks_as_rows_and_layers_as_columns():
    rng = np.random.default_rng(0)
    values = np.r_[np.ones(6), np.zeros(6)] + rng.normal(0, 0.02, (4, 12))
    frame = pd.DataFrame(values, index=list("abcd"), columns=range(1, 13))
    found = segment(frame)
    assert found.boundaries == [7] and found.manifest["layers"] == list(range(1, 13))
    assert list(found.manifest["curves"]) == list("abcd")
    assert found.table.equals(segment(values, layers=range(1, 13)).table)
    assert segment(frame.rename(columns=str)).boundaries == [6]  # names are no numbers: counted from 0
    assert repr(found).startswith("Segmentation(boundaries before layers 7; 12 layers, 4 task(s), p = 0.00")
    assert "no clear boundary; 12 layers" in repr(segment(rng.normal(size=(4, 12))))
