"""Jaccard, its two chance levels, unions, and the sweep over k, against hand counts and simulation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroscope.errors import ArgumentError, MaskError
from neuroscope.masks import NeuronMask, Overlap, OverlapSweep, Scores, overlap, overlap_sweep

WIDTHS = {"blocks.0.mlp.hook_post": 10, "blocks.1.mlp.hook_post": 30}
FIRST, SECOND = WIDTHS


def make_mask(chosen, widths=WIDTHS):
    return NeuronMask.of({address: list(neurons) for address, neurons in chosen.items()}, widths)


A = make_mask({FIRST: [0, 1, 2], SECOND: [5]})
B = make_mask({FIRST: [2, 3], SECOND: [5, 6, 7]})
C = make_mask({SECOND: [29]})
NONE = make_mask({})


def row(result, a, b):
    table = result.to_frame()
    return table[(table.a == a) & (table.b == b)].iloc[0]


def test_pairs_by_hand():
    result = overlap({"A": A, "B": B, "C": C})
    assert isinstance(result, Overlap) and result.names == ["A", "B", "C"]
    assert list(zip(result.table.a, result.table.b, strict=True)) == [("A", "B"), ("A", "C"), ("B", "C")]
    ab = row(result, "A", "B")
    assert (ab.size_a, ab.size_b, ab.shared) == (4, 5, 2)
    assert ab.jaccard == 2 / 7
    assert ab.chance_uniform == pytest.approx(4 * 5 / (40 * (4 + 5) - 4 * 5))
    shared = 3 * 2 / 10 + 1 * 3 / 30
    assert ab.chance_layer == pytest.approx(shared / (9 - shared))
    assert row(result, "A", "C").jaccard == 0 == row(result, "A", "C").shared


def test_matrix_is_symmetric_with_a_unit_diagonal():
    matrix = overlap({"A": A, "B": B, "C": C}).matrix
    np.testing.assert_allclose(matrix, [[1, 2 / 7, 0], [2 / 7, 1, 0], [0, 0, 1]])
    assert list(matrix.index) == list(matrix.columns) == ["A", "B", "C"]


@given(st.integers(1, 40))
def test_chance_of_two_equal_shares_is_k_over_2_minus_k(size):
    neurons = make_mask({"x": range(size)}, {"x": 40})
    k = size / 40
    chance = overlap({"a": neurons, "b": neurons}).table.iloc[0]
    assert chance.chance_uniform == pytest.approx(k / (2 - k))
    assert chance.chance_layer == pytest.approx(k / (2 - k))  # one site: the same question


def test_chance_levels_are_what_random_masks_give():
    rng = np.random.default_rng(0)
    widths = {"x": 200, "y": 600}

    def draw(sizes):
        return make_mask({s: rng.choice(widths[s], n, replace=False).tolist() for s, n in sizes.items()}, widths)

    found = [overlap({"a": draw({"x": 100, "y": 60}), "b": draw({"x": 90, "y": 30})}).table.iloc[0] for _ in range(60)]
    jaccard = np.array([r.jaccard for r in found])
    assert jaccard.mean() == pytest.approx(found[0].chance_layer, abs=4 * jaccard.std() / math.sqrt(60))
    assert found[0].chance_uniform < found[0].chance_layer - 4 * jaccard.std() / math.sqrt(60)


def test_empty_masks_are_reported_and_not_averaged():
    result = overlap({"A": A, "none": NONE, "nil": NONE, "B": B})
    assert math.isnan(row(result, "none", "nil").jaccard) and math.isnan(row(result, "none", "nil").chance_layer)
    assert row(result, "A", "none").jaccard == 0
    assert math.isnan(result.matrix.loc["none", "none"])
    summary = result.within_between({"A": "full", "B": "full", "none": "empty", "nil": "empty"})
    assert summary["within"] == 2 / 7 and summary["pairs_within"] == 1 and summary["undefined"] == 1
    assert summary["between"] == 0 and summary["pairs_between"] == 4 and math.isnan(summary["ratio"])


def test_within_between():
    result = overlap({"A": A, "B": B, "C": C, "D": A})
    summary = result.within_between({"A": "f", "B": "g", "C": "g", "D": "f"})
    assert summary["within"] == pytest.approx((1 + 0) / 2)  # A-D, B-C
    assert summary["between"] == pytest.approx((2 / 7 + 0 + 2 / 7 + 0) / 4)
    assert summary["ratio"] == pytest.approx(summary["within"] / summary["between"])
    assert summary["chance_within"] == pytest.approx(
        (row(result, "A", "D").chance_layer + row(result, "B", "C").chance_layer) / 2
    )
    with pytest.raises(ArgumentError, match=r"no family for \['C', 'D'\]"):
        result.within_between({"A": "f", "B": "g"})


def test_groups_are_unions():
    result = overlap({"A": A, "B": B, "C": C}, {"train": ["A", "C"], "test": ["B"]})
    assert result.names == ["train", "test"]
    pair = result.table.iloc[0]
    assert (pair.size_a, pair.size_b, pair.shared, pair.jaccard) == (5, 5, 2, 2 / 8)
    shared = 3 * 2 / 10 + 2 * 3 / 30  # the union has 3 and 2 neurons in the two sites
    assert pair.chance_layer == pytest.approx(shared / (10 - shared))
    union_of_overlapping = overlap({"A": A, "B": B, "C": C}, {"ab": ["A", "B"], "c": ["C"]})
    assert union_of_overlapping.table.iloc[0].size_a == 7  # not 4 + 5


def test_sweep_repeats_overlap_for_each_k():
    generator = torch.Generator().manual_seed(0)
    scores = {
        n: Scores({FIRST: torch.rand(10, generator=generator), SECOND: torch.rand(30, generator=generator)}, WIDTHS)
        for n in "abcde"
    }
    sweep = overlap_sweep(scores, k=(0.1, 0.5, 1.0))
    assert isinstance(sweep, OverlapSweep) and len(sweep.table) == 3 * 10
    half = overlap({n: s.top(0.5) for n, s in scores.items()}).table
    np.testing.assert_array_equal(sweep.table[sweep.table.k == 0.5].jaccard, half.jaccard)
    assert (sweep.table[sweep.table.k == 1.0].jaccard == 1).all()
    assert (sweep.table[sweep.table.k == 1.0].chance_layer == 1).all()
    band, mean, chance = sweep.figure().data  # ten pairs: their mean and range
    for i, k in enumerate((0.1, 0.5, 1.0)):
        rows = sweep.table[sweep.table.k == k]
        assert mean.x[i] == 100 * k and mean.y[i] == pytest.approx(100 * rows.jaccard.mean())
        assert band.y[i] == 100 * rows.jaccard.max() and band.y[-1 - i] == 100 * rows.jaccard.min()
        assert chance.y[i] == pytest.approx(100 * rows.chance_layer.mean())
    pairs = overlap_sweep(scores, k=(0.1, 0.5), groups={"ab": ["a", "b"], "c": ["c"], "de": ["d", "e"]})
    assert [t.name for t in pairs.figure().data[:3]] == ["ab | c", "ab | de", "c | de"]
    assert pairs.manifest["groups"] == {"ab": ["a", "b"], "c": ["c"], "de": ["d", "e"]}


def test_results_say_themselves():
    families = {"A": "f", "B": "f", "C": "g"}
    plain, known = overlap({"A": A, "B": B, "C": C}), overlap({"A": A, "B": B, "C": C}, families=families)
    assert f"3 pairs: **{2 / 7 / 3:.2f}**" in plain.in_words()
    assert "**0.29** within a family" in known.in_words() and "**0.00** across" in known.in_words()
    assert known.families == families and plain.families is None
    assert "**A negative**: 2 of 3 pairs" in plain.in_words()  # those with C share nothing
    assert known.figure().layout.shapes == plain.figure(families).layout.shapes != plain.figure().layout.shapes
    assert "no pair has a neuron" in overlap({"none": NONE, "nil": NONE}).in_words()
    section = known.sections()[0]
    assert section.title == "Overlap of the masks" and section.tables[0][0] == "Overlap of pairs"
    scores = {n: Scores({FIRST: torch.rand(10), SECOND: torch.rand(30)}, WIDTHS) for n in "ab"}
    sweep = overlap_sweep(scores, k=(0.1, 1.0))
    assert "- k = 100%: mean Jaccard **1.00**, by chance in the same layers 1.00." in sweep.in_words()
    assert "of 2 pairs overlap no more than by chance" in sweep.in_words()
    assert sweep.sections()[0].tables[0][1].equals(sweep.to_frame())


def test_figure_shows_percent_with_chance_in_the_hover():
    figure = overlap({"A": A, "B": B, "C": C}).figure({"A": "f", "B": "f", "C": "g"})
    cells = figure.data[0]
    np.testing.assert_allclose(cells.z, [[100, 200 / 7, 0], [200 / 7, 100, 0], [0, 0, 100]])
    assert cells.customdata[0][1] == cells.customdata[1][0] and cells.customdata[0][0] == "<b>A</b><br>4 neurons"
    for part in ("shared: 2", "Jaccard: 28.6%", "5.9% uniform", "8.4% layer-matched"):
        assert part in cells.customdata[0][1]
    assert sum(s.type == "rect" for s in figure.layout.shapes) == 2
    assert math.isnan(overlap({"A": A, "none": NONE}).figure().data[0].z[1][1])


def test_saved_and_loaded_alike(tmp_path):
    result = overlap({"A": A, "none": NONE, "nil": NONE})
    loaded = Overlap.load(result.save(tmp_path / "overlap.json"))
    np.testing.assert_array_equal(loaded.matrix, result.matrix)
    assert loaded.names == result.names and loaded.manifest == result.manifest
    assert loaded.figure().data[0].customdata[0][1] == result.figure().data[0].customdata[0][1]


@pytest.mark.parametrize(
    ("call", "error", "parts"),
    [
        (lambda: overlap({"A": A}), ArgumentError, ["1 mask(s)", "two or more"]),
        (lambda: overlap({"A": A, "B": B}, {"x": ["A"], "y": []}), ArgumentError, ["'y' has no masks"]),
        (lambda: overlap({"AA": A, "B": B}, {"x": ["A"], "y": ["B"]}), ArgumentError, ["mask='A'", "mean 'AA'"]),
        (
            lambda: overlap({"A": A, "B": make_mask({}, {FIRST: 11, SECOND: 30})}),
            MaskError,
            ["'A' is over 2 sites of 10 / 30 neurons", "'B' over 2 sites of 11 / 30 neurons"],
        ),
        (lambda: overlap({"A": A, "B": B}, group={}), ArgumentError, ["did you mean 'groups'"]),
        (lambda: overlap([A, B]), ArgumentError, ["overlap", "a list", "dict name -> NeuronMask"]),
        (lambda: overlap(A), ArgumentError, ["overlap", "a NeuronMask", "dict name -> NeuronMask"]),
        (lambda: overlap({"A": A, "B": None}), ArgumentError, ["a NoneType under 'B'"]),
        (lambda: overlap({"A": A, "B": B}, families={"A": "f"}), ArgumentError, ["no family for ['B']"]),
        (lambda: overlap_sweep({}), ArgumentError, ["overlap_sweep", "an empty dict"]),
        (lambda: overlap_sweep({"A": A, "B": B}), ArgumentError, ["a NeuronMask under 'A'", "dict name -> Scores"]),
        (lambda: overlap_sweep({}, k=()), ArgumentError, ["not growing shares"]),
        (lambda: overlap_sweep({}, k=(0.5, 0.1)), ArgumentError, ["not growing shares"]),
    ],
)
def test_refusals(call, error, parts):
    with pytest.raises(error) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)
