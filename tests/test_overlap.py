"""Jaccard, its two chance levels, unions, and the sweep over k, against hand counts and simulation."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from neuroscope.errors import ArgumentError, MaskError
from neuroscope.masks import NeuronMask, Overlap, OverlapSweep, Scores, overlap, overlap_sweep
from neuroscope.masks.overlap_chance import beside_chance, families_p, shared_by_chance
from neuroscope.masks.overlap_clusters import adjusted_rand

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
    # A and B share 2 where (3 of 10) x (2 of 10) and (1 of 30) x (3 of 30) share 0.7: not shown, and C shares nothing
    assert "**A negative**: 3 of 3 pairs are not shown to overlap more" in plain.in_words()
    assert "that families matter is not shown" in known.in_words()
    assert known.figure().layout.shapes == plain.figure(families).layout.shapes != plain.figure().layout.shapes
    assert "no pair has a neuron" in overlap({"none": NONE, "nil": NONE}).in_words()
    section = known.sections()[0]
    assert section.title == "Overlap of the masks" and section.tables[0][0] == "Overlap of pairs"
    scores = {n: Scores({FIRST: torch.rand(10), SECOND: torch.rand(30)}, WIDTHS) for n in "ab"}
    sweep = overlap_sweep(scores, k=(0.1, 1.0))
    assert "- k = 100%: mean Jaccard **1.00**, by chance in the same layers 1.00." in sweep.in_words()
    assert "of 2 pairs are not shown to overlap more than by chance" in sweep.in_words()
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


def brute_force(a, b, widths):
    """Every pair of masks of these sizes by site: how many share 0, 1, 2, ..."""
    ways = [1]
    for one, other, width in zip(a, b, widths, strict=True):
        here = [0] * (width + 1)
        for first in combinations(range(width), one):
            for second in combinations(range(width), other):
                here[len(set(first) & set(second))] += 1
        ways = np.convolve(ways, here)
    return ways / ways.sum()


@pytest.mark.parametrize(
    ("a", "b", "widths"),
    [([2, 1], [1, 3], [4, 5]), ([0, 2], [3, 2], [3, 3]), ([3], [2], [3]), ([1, 2, 1], [2, 2, 0], [3, 4, 2])],
)
def test_shared_neurons_by_chance_are_counted_out(a, b, widths):
    every = brute_force(a, b, widths)
    least, chances = shared_by_chance(a, b, widths)
    np.testing.assert_allclose(chances, every[least : least + len(chances)], rtol=1e-12)
    assert chances.sum() == pytest.approx(1)
    numbers = np.arange(len(every))
    mean = numbers @ every
    for shared in range(least, least + len(chances)):
        found = beside_chance(shared, least, chances)
        assert found["expected"] == pytest.approx(mean)
        assert found["p"] == pytest.approx(every[shared:].sum() if len(chances) > 1 else 1)
        if len(chances) > 1:
            assert found["z"] == pytest.approx((shared - mean) / np.sqrt((numbers - mean) ** 2 @ every))


def test_the_tail_of_chance_is_exact_far_out():
    least, chances = shared_by_chance([300], [300], [3000])
    assert beside_chance(150, least, chances)["p"] == pytest.approx(stats.hypergeom.sf(149, 3000, 300, 300), rel=1e-6)
    assert stats.hypergeom.sf(149, 3000, 300, 300) == 0 or beside_chance(150, least, chances)["p"] >= 1e-36


def test_p_of_pairs_is_uniform_at_most_by_chance():
    rng = np.random.default_rng(0)
    widths = {"x": 60, "y": 90}
    masks = {
        f"m{i}": make_mask({s: rng.choice(w, 20, replace=False).tolist() for s, w in widths.items()}, widths)
        for i in range(40)
    }
    found = overlap(masks).table
    for level in (0.05, 0.2, 0.5):  # 780 pairs, in which each mask takes part 39 times
        assert (found.p <= level).mean() < level + 0.03
    assert (found.q < 0.05).sum() == 0
    again = overlap(masks | {"copy": masks["m0"]})
    assert row(again, "m0", "copy").q < 1e-6


def test_families_are_dealt_out_to_every_name():
    matrix = np.array([[1, 0.5, 0.1, 0.1], [0.5, 1, 0.1, 0.1], [0.1, 0.1, 1, 0.6], [0.1, 0.1, 0.6, 1]])
    families = {"a": "f", "b": "f", "c": "g", "d": "g"}
    # of the three ways to make two pairs of four names, one gives the largest difference
    assert families_p(matrix, families) == pytest.approx(1 / 3)
    assert math.isnan(families_p(matrix, dict.fromkeys("abcd", "f")))
    many = np.kron(np.eye(3), np.ones((4, 4))) * 0.4 + 0.1
    assert families_p(many, {str(i): "xyz"[i // 4] for i in range(12)}) == pytest.approx(1 / 5000)


def test_clusters_are_the_families_where_masks_are():
    widths = {"x": 400}
    rng = np.random.default_rng(0)
    own = {f: rng.choice(400, 40, replace=False).tolist() for f in "fgh"}
    masks, families = {}, {}
    for f, neurons in own.items():
        for i in range(3):
            masks[f"{f}{i}"] = make_mask({"x": [*neurons[:30], *rng.choice(400, 10).tolist()]}, widths)
            families[f"{f}{i}"] = f
    found = overlap(masks, families=families)
    clusters = found.clusters()
    assert clusters.table.groupby("family")["cluster"].nunique().tolist() == [1, 1, 1]
    assert clusters.table["cluster"].tolist() == [1] * 3 + [2] * 3 + [3] * 3
    assert clusters.manifest["rand"] == 1 and clusters.manifest["p"] < 0.01
    assert "clusters like their families" in clusters.in_words()
    assert found.within_between(families)["p"] < 0.01
    mixed = overlap(masks, families={name: "uvw"[i % 3] for i, name in enumerate(masks)}).clusters()
    assert "**A negative**" in mixed.in_words() and mixed.manifest["rand"] < 0.1
    assert "no families are known" in overlap(masks).clusters(4).in_words()
    assert overlap(masks).clusters(4).table["cluster"].nunique() == 4
    assert found.agreement(found)["tau"] == pytest.approx(1) and found.agreement(found)["p"] < 0.01
    with pytest.raises(ArgumentError, match="3 or more|three"):
        overlap({"a": A, "b": B}).clusters()
    with pytest.raises(ArgumentError, match="without a neuron"):
        overlap({"a": A, "b": B, "none": NONE}).clusters()
    with pytest.raises(ArgumentError, match="give the result"):
        found.agreement(masks)


@given(st.lists(st.integers(0, 3), min_size=4, max_size=9), st.randoms())
def test_adjusted_rand_is_scikit_learns(groups, random):
    from sklearn.metrics import adjusted_rand_score

    others = [random.randint(0, 2) for _ in groups]
    assert adjusted_rand(np.array(groups), np.array(others)) == pytest.approx(adjusted_rand_score(groups, others))


def test_sets_of_neurons_that_masks_share():
    result = overlap({"A": A, "B": B, "C": C})
    sets = {tuple(s["members"]): s for s in result.manifest["sets"]}
    assert {m: s["neurons"] for m, s in sets.items()} == {("A",): 2, ("B",): 3, ("C",): 1, ("A", "B"): 2}
    # 10 neurons of which 3 and 2 and 0 are drawn, and 30 of which 1, 3 and 1
    assert sets["A", "B"]["expected"] == pytest.approx(10 * 0.3 * 0.2 + 30 * (1 / 30) * 0.1 * (29 / 30))
    bars = result.upset().data[0]
    assert list(bars.y) == sorted([2, 3, 1, 2], reverse=True) and "by chance" in bars.customdata[0]
    assert len(result.figures()) == 3 and len(overlap({"A": A, "B": B}).figures()) == 2


def test_ceiling_stands_beside_chance():
    result = overlap({"A": A, "B": B, "C": C}, ceiling={"A": 0.9, "B": 0.4, "C": 1})
    assert row(result, "A", "B").ceiling == pytest.approx(0.6)
    assert "The ceiling: masks of one task, found on different examples, overlap" in result.in_words()
    assert "ceiling" in result.figure().data[0].customdata[0][1]
    for wrong in ({"A": 0.9}, {"A": 2, "B": 0, "C": 0}, {"A": "x", "B": 0, "C": 0}, 0.5):
        with pytest.raises(ArgumentError, match="ceiling"):
            overlap({"A": A, "B": B, "C": C}, ceiling=wrong)
