"""Every measure against a textbook written here, its invariances, its null; the grid against the loop."""

import re
import weakref
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial.distance
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from neuroscope.comparison.similarity import (
    CKA,
    MEASURES,
    Dimensions,
    Similarity,
    alignment,
    blocks,
    cka,
    compare,
    dimensions,
    grid,
    neighbour_overlap,
    participation_ratio,
    permutation_null,
    procrustes,
    pwcca,
    svcca,
    two_nn,
    variance_dimension,
)
from neuroscope.comparison.similarity.measures import complete
from neuroscope.errors import ArgumentError, NeuroscopeError, NumericalError
from neuroscope.statistics import benjamini_hochberg

SEEDS = st.integers(0, 10_000)


def gaussian(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def related(n, d, e, seed=0, noise=1.0):
    """Two representations that share some of what they hold."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, 3))
    return tuple(
        common @ rng.normal(size=(3, w)) + noise * rng.normal(size=(n, w)) + 5 * rng.normal(size=w) for w in (d, e)
    )


def orthogonal(d, seed):
    return np.linalg.qr(gaussian(d, d, seed))[0]


# ---- textbooks


def textbook_kernel(x, kernel, bandwidth=1.0):
    if kernel == "linear":
        return x @ x.T
    distances = scipy.spatial.distance.pdist(x)
    sigma = bandwidth * np.median(distances)
    return np.exp(-(scipy.spatial.distance.squareform(distances) ** 2) / (2 * sigma**2))


def song_hsic(k, q):
    """Song et al. 2012, Eq. 4, as printed."""
    n, one = len(k), np.ones(len(k))
    k, q = k - np.diag(np.diag(k)), q - np.diag(np.diag(q))
    sums = np.trace(k @ q) + (one @ k @ one) * (one @ q @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ q @ one)
    return sums / (n * (n - 3))


def gretton_hsic(k, q):
    h = np.eye(len(k)) - 1 / len(k)
    return np.trace(k @ h @ q @ h) / (len(k) - 1) ** 2


def textbook_cka(x, y, kernel="linear", debiased=True, bandwidth=1.0):
    k, q = (textbook_kernel(np.asarray(s, dtype=np.float64), kernel, bandwidth) for s in (x, y))
    hsic = song_hsic if debiased else gretton_hsic
    return hsic(k, q) / np.sqrt(hsic(k, k) * hsic(q, q))


def textbook_correlations(x, y):
    """Björck & Golub 1973: QR of either side, singular values of Q'Q."""
    bases = [np.linalg.qr(s - s.mean(0))[0] for s in (x, y)]
    return np.linalg.svd(bases[0].T @ bases[1])[1]


# ---- CKA


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize(("kernel", "bandwidth"), [("linear", 1.0), ("rbf", 1.0), ("rbf", 0.3)])
@pytest.mark.parametrize("shape", [(30, 4, 7), (12, 40, 5), (4, 3, 3), (25, 60, 80)])
def test_cka_is_the_textbooks(shape, kernel, bandwidth, debiased):
    x, y = related(*shape)
    expected = textbook_cka(x, y, kernel, debiased, bandwidth)
    assert cka(x, y, kernel=kernel, debiased=debiased, bandwidth=bandwidth) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("debiased", [True, False])
def test_both_forms_of_the_linear_kernel_agree(debiased):
    x, y = alignment.pair(*related(20, 9, 14), "test")
    options = {"kernel": "linear", "debiased": debiased, "bandwidth": 1.0}
    values = [
        alignment.between(*(alignment.prepare(s, **options, form=form) for s in (x, y)))
        for form in ("gram", "features")
    ]
    assert values[0] == pytest.approx(values[1], abs=1e-12)
    assert alignment.cheaper_form(1000, 64, 64) == "features"
    assert alignment.cheaper_form(1000, 1024, 1024) == "gram"


def test_u_centred_products_are_the_unbiased_hsic():
    k, q = (torch.from_numpy(s @ s.T) for s in related(9, 4, 5))
    product = float((alignment.u_centre(k) * alignment.u_centre(q)).sum()) / (9 * 6)
    assert product == pytest.approx(song_hsic(k.numpy(), q.numpy()), rel=1e-10)


def test_debiased_cka_of_unrelated_features_is_zero_on_average_and_biased_is_not():
    n, d, draws = 20, 60, 200
    pairs = [(gaussian(n, d, s), gaussian(n, d, s + draws)) for s in range(draws)]
    debiased = np.array([cka(x, y) for x, y in pairs])
    biased = np.array([cka(x, y, debiased=False) for x, y in pairs])
    assert abs(debiased.mean()) < 3 * debiased.std() / np.sqrt(draws)
    assert biased.mean() > 0.5 > 100 * biased.std() / np.sqrt(draws)


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("sizes", [(10, 10, 10), (1, 29), (30,), (7, 20, 3)])
def test_mini_batches_make_the_full_batch(sizes, debiased):
    x, y = related(30, 6, 4)
    x = x + 1000  # far from the origin
    batches = CKA(debiased=debiased)
    for stop, size in zip(np.cumsum(sizes), sizes, strict=True):
        batches.update(x[stop - size : stop], y[stop - size : stop])
    assert batches.value() == pytest.approx(cka(x, y, debiased=debiased), abs=1e-9)
    assert batches.examples == 30


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_the_mean_over_batches_is_that_of_the_unbiased_hsic(kernel):
    x, y = related(40, 3, 3)
    batches, terms = CKA(estimator="batches", kernel=kernel), []
    for start, stop in ((0, 8), (8, 20), (20, 40)):  # of different sizes, which count alike
        part = slice(start, stop)
        batches.update(x[part], y[part])
        k, q = textbook_kernel(x[part], kernel), textbook_kernel(y[part], kernel)
        terms.append([song_hsic(k, q), song_hsic(k, k), song_hsic(q, q)])
    cross, own, other = np.mean(terms, axis=0)
    assert batches.value() == pytest.approx(cross / np.sqrt(own * other), abs=1e-9)
    biased = CKA(estimator="batches", kernel=kernel, debiased=False)
    biased.update(x, y)
    assert biased.value() == pytest.approx(cka(x, y, kernel=kernel, debiased=False), abs=1e-9)


def test_the_mean_over_batches_approaches_the_full_batch():
    x, y = related(4000, 4, 4, noise=2.0)
    batches = CKA(estimator="batches")
    for start in range(0, 4000, 20):
        batches.update(x[start : start + 20], y[start : start + 20])
    assert batches.value() == pytest.approx(cka(x, y), abs=0.02)


def test_accumulation_refuses_what_does_not_fit():
    x, y = related(10, 3, 4)
    batches = CKA()
    batches.update(x[:3], y[:3])
    with pytest.raises(ArgumentError, match="3 examples"):
        batches.value()
    with pytest.raises(ArgumentError, match="features after"):
        batches.update(y, y)
    with pytest.raises(ArgumentError, match="10 and 9 examples"):
        batches.update(x, y[:9])
    with pytest.raises(NumericalError, match="non-finite activations after 3 examples"):
        batches.update(x * np.nan, y)
    batches.update(x[3:], y[3:])
    assert batches.value() == pytest.approx(cka(x, y), abs=1e-9)  # what was refused was not counted
    with pytest.raises(ArgumentError, match="finite set of features"):
        CKA(kernel="rbf")
    with pytest.raises(ArgumentError, match="a batch of 3"):
        CKA(estimator="batches").update(x[:3], y[:3])
    with pytest.raises(ArgumentError, match="did you mean 'kernel'"):
        CKA(kernle="rbf")
    constant = CKA()
    constant.update(np.ones((5, 2)), y[:5])
    with pytest.raises(NumericalError, match="CKA, x"):
        constant.value()


# ---- canonical correlations and Procrustes


def test_svcca_is_the_mean_canonical_correlation_and_sklearns():
    from sklearn.cross_decomposition import CCA

    x, y = related(80, 3, 5)
    expected = textbook_correlations(x, y)
    assert svcca(x, y, share=1.0) == pytest.approx(expected.mean(), abs=1e-9)
    a, b = CCA(n_components=3, scale=False, max_iter=5000, tol=1e-12).fit_transform(x, y)
    theirs = [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(3)]
    assert svcca(x, y, share=1.0) == pytest.approx(np.mean(theirs), abs=1e-4)


def test_svcca_keeps_the_components_of_the_share():
    rng = np.random.default_rng(0)
    scores = np.linalg.qr(rng.normal(size=(60, 4)))[0]
    scores -= scores.mean(0)
    u = np.linalg.qr(scores)[0]
    x = u * np.sqrt([90, 9, 0.9, 0.1])  # shares of the variance: 0.9, 0.99, 0.999, 1
    y = gaussian(60, 2, 1)
    for share, kept in ((0.5, 1), (0.95, 2), (0.995, 3), (1.0, 4)):
        y_kept = y if share > 0.5 else y @ np.linalg.svd(y - y.mean(0))[2][:1].T
        expected = textbook_correlations(x[:, :kept], y_kept).mean()
        assert svcca(x, y, share=share) == pytest.approx(expected, abs=1e-9), share


def test_pwcca_weighs_by_what_the_variates_account_for():
    x, y = related(70, 3, 4)
    centred = x - x.mean(0)
    q, p = np.linalg.qr(centred)[0], np.linalg.qr(y - y.mean(0))[0]
    u, r, _ = np.linalg.svd(q.T @ p, full_matrices=False)
    variates = q @ u
    weights = np.abs(variates.T @ centred).sum(1)
    assert pwcca(x, y) == pytest.approx((weights * r).sum() / weights.sum(), abs=1e-9)
    assert pwcca(x, y) != pytest.approx(pwcca(y, x), abs=1e-3)


@pytest.mark.parametrize("shape", [(30, 6, 6), (8, 20, 20)])
def test_procrustes_is_scipys(shape):
    x, y = related(*shape)
    a, b = (s - s.mean(0) for s in (x, y))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    rotation, scale = scipy.linalg.orthogonal_procrustes(a, b)
    assert procrustes(x, y) == pytest.approx(scale, abs=1e-9)
    assert procrustes(x, y) == pytest.approx(1 - np.linalg.norm(a @ rotation - b) ** 2 / 2, abs=1e-9)


def test_procrustes_pads_the_narrower_side():
    x, y = related(20, 3, 6)
    assert procrustes(x, y) == pytest.approx(procrustes(np.pad(x, ((0, 0), (0, 3))), y), abs=1e-12)


def test_too_few_examples_for_canonical_correlations_are_refused():
    x, y = gaussian(10, 9), gaussian(10, 3, 1)
    for measure in (pwcca, svcca):
        with pytest.raises(NumericalError, match="span them all"):
            measure(x, y, **({"share": 1.0} if measure is svcca else {}))


def test_the_rank_is_that_of_the_type_the_activations_came_in():
    """A rank of 3 in 8 features: float32's rounding must not count as five more dimensions."""
    x = (gaussian(100, 3) @ gaussian(3, 8, 1)).astype(np.float32)
    y = gaussian(100, 4, 2).astype(np.float32)
    expected = textbook_correlations(gaussian(100, 3), y.astype(np.float64))
    assert len(expected) == 3
    assert svcca(x, y, share=1.0) == pytest.approx(expected.mean(), abs=1e-5)
    assert svcca(torch.from_numpy(x), torch.from_numpy(y), share=1.0) == pytest.approx(expected.mean(), abs=1e-5)


def test_the_rank_rule_is_that_of_numpy():
    """A fourth dimension of 20 eps of the largest: below max(n, d) eps, and so not counted, though above eps."""
    eps = np.finfo(np.float32).eps
    basis = np.linalg.qr(np.concatenate([np.ones((100, 1)), gaussian(100, 4)], axis=1))[0][:, 1:]
    x = (basis * [1, 1, 1, 20 * eps]).astype(np.float32)
    centred = x - x.mean(0, dtype=np.float64)
    assert np.linalg.matrix_rank(centred, rtol=100 * eps) == 3 < np.linalg.matrix_rank(centred, rtol=eps)
    y = gaussian(100, 6, 2)
    assert svcca(x, y, share=1.0) == pytest.approx(textbook_correlations(basis[:, :3], y).mean(), abs=1e-5)


# ---- neighbours


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("blocked", [False, True])
def test_neighbours_are_sklearns(distance, blocked, monkeypatch):
    from sklearn.neighbors import NearestNeighbors

    from neuroscope.comparison.similarity import neighbours

    if blocked:
        monkeypatch.setattr(neighbours, "BLOCK", 7 * 50)  # seven rows at a time
    x, y = related(50, 6, 4)
    index = [NearestNeighbors(n_neighbors=5, metric=distance).fit(s).kneighbors(return_distance=False) for s in (x, y)]
    shared = np.array([len(set(a) & set(b)) for a, b in zip(*index, strict=True)])
    assert 0 < shared.mean() < 5
    assert neighbour_overlap(x, y, neighbours=5, distance=distance) == pytest.approx(shared.mean() / 5)
    jaccard = neighbour_overlap(x, y, neighbours=5, distance=distance, score="jaccard")
    assert jaccard == pytest.approx((shared / (10 - shared)).mean())


def test_neighbours_of_unrelated_representations_are_common_by_chance():
    values = [neighbour_overlap(gaussian(60, 5, s), gaussian(60, 5, s + 50)) for s in range(50)]
    assert np.mean(values) == pytest.approx(10 / 59, abs=3 * np.std(values) / np.sqrt(50))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_examples_at_equal_distances_are_neighbours_in_part(distance):
    """Four different vectors: of an example's s - 1 duplicates, each is one of its k neighbours to k / (s - 1)."""
    rng = np.random.default_rng(0)
    x, y = (rng.permuted(np.repeat(np.arange(4), 30)) for _ in range(2))
    vectors = rng.normal(size=(2, 4, 8))
    both = (x[:, None] == x) & (y[:, None] == y) & ~np.eye(120, dtype=bool)
    expected = both.sum(1).mean() * (10 / 29) ** 2 / 10
    assert neighbour_overlap(vectors[0, x], vectors[1, y], distance=distance) == pytest.approx(expected, abs=1e-12)
    found = permutation_null(vectors[0, x], vectors[1, y], "neighbour_overlap", null=200, distance=distance)
    assert found.low < 10 / 119 < found.high  # by the order of the examples it was far above
    z = [[0.0], [1], [2], [3.5], [10]]  # of 1, both 0 and 2 are the nearest: a half each
    assert neighbour_overlap(z, z, neighbours=1, distance="euclidean") == pytest.approx((4 * 1 + 2 * 0.5**2) / 5)


def test_neighbours_that_cannot_be_are_refused():
    x = gaussian(8, 2)
    with pytest.raises(ArgumentError, match="1 to 6"):
        neighbour_overlap(x, x, neighbours=7)
    x[3] = 0
    with pytest.raises(NumericalError, match="1 examples that are all zeros"):
        neighbour_overlap(x, x, neighbours=2)
    assert neighbour_overlap(x, x, neighbours=2, distance="euclidean") == 1.0


# ---- every measure: invariances, permutations, bad input


@pytest.mark.parametrize("name", MEASURES)
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, factor=st.floats(0.01, 100), d=st.integers(2, 5), side=st.sampled_from([0, 1]))
def test_the_invariances_of_the_table(name, seed, factor, d, side):
    measure = MEASURES[name]
    given_ = list(related(24, d, 5, seed))
    value = measure.function(*given_, **measure.exact)
    rng = np.random.default_rng(seed)
    width = given_[side].shape[1]
    mixing = rng.normal(size=(width, width)) + 3 * np.eye(width)
    if np.linalg.cond(mixing) > 50:
        mixing = np.diag(np.arange(1.0, width + 1)) @ orthogonal(width, seed)
    maps = {
        "translation": lambda s: s + rng.normal(size=width),
        "scaling": lambda s: factor * s,
        "orthogonal": lambda s: s @ orthogonal(width, seed),
        "invertible": lambda s: s @ mixing,
    }
    for invariance in measure.invariances[side]:
        changed = list(given_)
        changed[side] = maps[invariance](given_[side])
        assert measure.function(*changed, **measure.exact) == pytest.approx(value, abs=1e-6), invariance


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("side", [0, 1])
def test_no_measure_is_invariant_to_more_than_its_table_says(name, side):
    """Planted: one direction is stretched by 100 (invertible, not orthogonal), after a turn that splits the axes."""
    measure = MEASURES[name]
    given_ = list(related(40, 4, 4))
    value = measure.function(*given_, **measure.exact)
    changed = list(given_)
    changed[side] = given_[side] @ np.diag([100, 1, 1, 1])
    stretched = measure.function(*changed, **measure.exact)
    assert (abs(stretched - value) < 1e-6) == ("invertible" in measure.invariances[side])
    changed[side] = given_[side] @ orthogonal(4, 1)
    turned = measure.function(*changed, **measure.exact)
    assert (abs(turned - value) < 1e-6) == ("orthogonal" in measure.invariances[side])


@pytest.mark.parametrize("name", MEASURES)
def test_a_permuted_state_is_that_of_permuted_examples(name):
    measure = MEASURES[name]
    x, y = related(30, 4, 5)
    order = np.random.default_rng(0).permutation(30)
    variants = [{}, {"form": "features"}] if name == "cka" else [{}]
    for extra in variants:
        settings_ = {**complete("compare", MEASURES[name].function, {}), **extra}
        a, b = (measure.prepare(s, **settings_) for s in alignment.pair(x, y, "test"))
        permuted = measure.between(a, measure.permute(b, torch.from_numpy(order)))
        assert permuted == pytest.approx(measure.function(x, y[order]), abs=1e-9)
        assert measure.between(a, b) == pytest.approx(measure.function(x, y), abs=1e-9)
    assert measure.function(x, y) != pytest.approx(permuted, abs=1e-3)


@pytest.mark.parametrize("name", MEASURES)
def test_identical_is_one_and_types_and_orders_do_not_matter(name):
    function = MEASURES[name].function
    x, y = related(30, 4, 5)
    assert function(x, x) == pytest.approx(1, abs=1e-9)
    before = x.copy()
    value = function(x, y)
    assert type(value) is float
    assert (x == before).all()
    assert function(torch.from_numpy(x), torch.from_numpy(y).requires_grad_()) == pytest.approx(value, abs=1e-12)
    assert function(x.tolist(), y) == pytest.approx(value, abs=1e-12)
    order = np.random.default_rng(1).permutation(30)
    assert function(x[order], y[order]) == pytest.approx(value, abs=1e-9)
    assert function(x * 1e150, y * 1e-150) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("name", MEASURES)
def test_bad_input_is_refused(name):
    function = MEASURES[name].function
    x, y = related(20, 3, 4)
    hole, infinite = x.copy(), x.copy()
    hole[3, 1], infinite[0, 0] = np.nan, np.inf
    for bad, error, match in (
        (hole, NumericalError, "non-finite"),
        (infinite, NumericalError, "non-finite"),
        (np.full((20, 3), 0.1), NumericalError, "constant activations"),
        (np.full((20, 3), 1e9) + 1 / 3, NumericalError, "constant activations"),
        (x[:10], ArgumentError, "10"),
        (x[0], ArgumentError, r"shape \(3,\)"),
        (x[:, :0], ArgumentError, "shape"),
        (x.astype(str), ArgumentError, "real numbers"),
        (x * 1j, ArgumentError, "complex128"),
        (torch.from_numpy(x * 1j), ArgumentError, "complex128"),
        ([[1.0], [2.0, 3.0]], ArgumentError, "inhomogeneous"),
        ({"task": x}, ArgumentError, r"a mapping\n.*compare\(a, b\)"),
    ):
        for given_ in ((bad, y), (y, bad)):
            with pytest.raises(error, match=match):
                function(*given_)
    with pytest.raises(ArgumentError, match="3 examples"):
        function(x[:3], y[:3])
    with pytest.raises(NeuroscopeError, match="sharre"):
        function(x, y, sharre=1)


def test_bad_options_are_refused():
    x, y = related(20, 3, 4)
    for call in (
        lambda: cka(x, y, kernel="cubic"),
        lambda: cka(x, y, kernel="rbf", bandwidth=0),
        lambda: cka(x, y, kernel="rbf", bandwidth="wide"),
        lambda: cka(x, y, bandwidth=2.0),  # the linear kernel has none
        lambda: cka(x, y, debiased="no"),
        lambda: CKA(estimator="batches", kernel="rbf", bandwidth=-1),
        lambda: CKA(bandwidth=0.5),
        lambda: svcca(x, y, share="most"),
        lambda: neighbour_overlap(x, y, neighbours=2.5),
        lambda: permutation_null(x, y, null=2.5),
        lambda: permutation_null(x, y, seed=-1),
        lambda: svcca(x, y, share=0),
        lambda: svcca(x, y, share=1.1),
        lambda: neighbour_overlap(x, y, distance="taxi"),
        lambda: neighbour_overlap(x, y, score="dice"),
        lambda: variance_dimension(x, share=0),
        lambda: permutation_null(x, y, "ckka"),
        lambda: permutation_null(x, y, null=0),
        lambda: permutation_null(x, y, kernle="rbf"),
        lambda: permutation_null(x, y, "pwcca", share=1.0),
    ):
        with pytest.raises(ArgumentError):
            call()
    with pytest.raises(NumericalError, match="equally far"):
        cka(np.eye(6), y[:6])
    with pytest.raises(NumericalError, match="equally far"):
        cka(np.eye(6)[:, :5] * 1.0, np.eye(6))
    assert cka(np.eye(6), y[:6], debiased=False) > 0
    with pytest.raises(NumericalError, match="duplicates"):
        cka(np.repeat([[0.0], [1.0]], [8, 2], axis=0), gaussian(10, 2), kernel="rbf")


# ---- the null


@pytest.mark.parametrize("name", MEASURES)
def test_p_is_small_where_a_similarity_was_planted(name):
    x, y = related(40, 3, 4, noise=0.3)
    found = permutation_null(x, y, name, null=99, seed=1)
    assert found.value == pytest.approx(MEASURES[name].function(x, y), abs=1e-12)
    assert found.p == 1 / 100
    assert found.low < found.high < found.value
    assert found == permutation_null(x, y, name, null=99, seed=1)
    assert found.high != permutation_null(x, y, name, null=99, seed=2).high


@pytest.mark.parametrize("name", MEASURES)
def test_p_is_even_where_there_is_none(name):
    p = [permutation_null(gaussian(16, 3, s), gaussian(16, 3, s + 99), name, null=19).p for s in range(60)]
    share = np.mean(np.array(p) <= 0.5)
    assert share == pytest.approx(0.5, abs=3.5 * np.sqrt(0.25 / 60))
    assert np.mean(np.array(p) <= 0.1) <= 0.1 + 3.5 * np.sqrt(0.09 / 60)


def test_the_null_is_that_of_permuted_examples_and_leaves_the_global_generators_alone():
    x, y = related(20, 3, 30)
    states = np.random.get_state()[1].copy(), torch.get_rng_state().clone()
    found = permutation_null(x, y, null=50, seed=3)
    rng = np.random.default_rng(3)
    draws = [textbook_cka(x, y[rng.permutation(20)]) for _ in range(50)]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=1e-9)
    assert found.p == (1 + np.sum(draws >= textbook_cka(x, y))) / 51
    assert (np.random.get_state()[1] == states[0]).all() and torch.equal(torch.get_rng_state(), states[1])


def test_the_null_of_many_examples_needs_no_gram_matrix(monkeypatch):
    x, y = related(60, 2, 3)
    monkeypatch.setattr(alignment, "gram", None)  # would fail if it were called
    assert permutation_null(x, y, null=19).value == pytest.approx(textbook_cka(x, y), abs=1e-9)


def test_equal_values_count_as_hits_though_they_differ_in_the_last_digit():
    """A feature of 0 and 1, and another that is 1 where it is 0: CKA is 1 for 2 of the 20 ways to pair them."""
    x = np.repeat([0.0, 0.1], 3)
    found = permutation_null(x[:, None], 0.1 - x[:, None], null=99, seed=2)
    rng = np.random.default_rng(2)
    hits = sum(len(set(x[rng.permutation(6)][:3])) == 1 for _ in range(99))
    assert 0 < hits < 99 and found.p == (1 + hits) / 100


def test_the_grids_null_takes_the_form_with_fewer_multiplications(monkeypatch):
    """Many examples of few features: no [example, example] matrix is made, nor counted in the memory."""
    assert [alignment.cheaper_form(60, 2, 3, null) for null in (0, 19)] == ["features", "features"]
    assert [alignment.cheaper_form(60, 20, 30, null) for null in (0, 19)] == ["features", "gram"]
    a, b = models(n=60, widths=(2, 3))
    monkeypatch.setattr(alignment, "gram", None)  # would fail if it were called
    found = compare(a, b, null=19, memory=3 * 32 * 60 * 3)
    assert cells(found) == pytest.approx(loop(a, b, "same"), abs=1e-6)
    assert found.manifest["options"] == {"kernel": "linear", "debiased": True, "bandwidth": 1.0}


# ---- dimensions


def embed(points, d=50, seed=5):
    """Into d dimensions, by a turn."""
    return np.pad(points, ((0, 0), (0, d - points.shape[1]))) @ orthogonal(d, seed)


def test_two_nn_recovers_planted_dimensions():
    rng = np.random.default_rng(0)
    ball = rng.normal(size=(2000, 4))
    sphere = ball / np.linalg.norm(ball, axis=1, keepdims=True)  # a curved surface of 3 dimensions
    t, height = rng.uniform(1.5 * np.pi, 4.5 * np.pi, 2000), rng.uniform(0, 20, 2000)
    roll = np.stack([t * np.cos(t), height, t * np.sin(t)], axis=1)  # of 2
    for points, dimension in (
        (rng.uniform(size=(2000, 3)), 3),
        (rng.normal(size=(2000, 3)), 3),
        (sphere, 3),
        (roll, 2),
        (rng.uniform(size=(2000, 1)), 1),
    ):
        found = two_nn(embed(points))
        assert found == pytest.approx(dimension, rel=0.12)
        assert two_nn(1000 + 3 * embed(points)) == pytest.approx(found, rel=1e-6)


def test_two_nn_fits_the_line_of_facco(monkeypatch):
    """The estimator step by step: the slope through the origin of the lower 90 %."""
    from neuroscope.comparison.similarity import dimension

    x = gaussian(50, 3)
    distances = np.sort(scipy.spatial.distance.squareform(scipy.spatial.distance.pdist(x)), axis=1)
    ratio = np.sort(distances[:, 2] / distances[:, 1])[:45]
    up = -np.log(1 - np.arange(1, 46) / 50)
    slope = np.linalg.lstsq(np.log(ratio)[:, None], up, rcond=None)[0][0]
    assert two_nn(x) == pytest.approx(slope, rel=1e-9)
    monkeypatch.setattr(dimension, "BLOCK", 7 * 50)
    assert two_nn(x) == pytest.approx(slope, rel=1e-9)


def test_two_nn_refuses_duplicates_and_grids():
    x = gaussian(20, 3)
    with pytest.raises(NumericalError, match="2 of 21 examples have a duplicate"):
        two_nn(np.concatenate([x, x[:1]]))
    corners = np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, -1).T
    with pytest.raises(NumericalError, match="equal distances"):
        two_nn(corners)


def test_two_nn_of_nearly_duplicate_examples():
    """Each has a neighbour at 1e-9 of the others' distance: by products of coordinates it would be rounding."""
    x = gaussian(50, 3)
    x = np.concatenate([x, x + 1e-9 * gaussian(50, 3, 1)])
    distances = np.sort(scipy.spatial.distance.squareform(scipy.spatial.distance.pdist(x)), axis=1)
    ratio = np.sort(distances[:, 2] / distances[:, 1])[:90]
    up = -np.log(1 - np.arange(1, 91) / 100)
    assert two_nn(x) == pytest.approx(np.log(ratio) @ up / (np.log(ratio) @ np.log(ratio)), rel=1e-6)


def test_variance_dimension_counts_components():
    rng = np.random.default_rng(0)
    u = np.linalg.qr(np.concatenate([np.ones((200, 1)), rng.normal(size=(200, 3))], axis=1))[0][:, 1:]
    x = embed(u * np.sqrt([80, 19, 1]))  # 0.80, 0.99, 1
    assert [variance_dimension(x, s) for s in (0.5, 0.8, 0.81, 0.98, 0.995, 1.0)] == [1, 1, 2, 2, 3, 3]
    wide = embed(u * np.sqrt([80, 19, 1]), d=300)  # more features than examples
    assert variance_dimension(wide) == variance_dimension(x, 0.99 - 1e-9) == 2
    assert variance_dimension(embed(rng.normal(size=(400, 3)))) == 3


def test_participation_ratio_is_the_closed_form():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 5)) * [3, 1, 1, 0.5, 0.1]
    variances = np.linalg.eigvalsh(np.cov(x.T))
    expected = variances.sum() ** 2 / (variances**2).sum()
    assert participation_ratio(x) == pytest.approx(expected, rel=1e-9)
    assert participation_ratio(embed(x, d=60)) == pytest.approx(expected, rel=1e-9)
    n, d = 400, 100  # the docstring's n d / (n + d)
    assert participation_ratio(gaussian(n, d)) == pytest.approx(n * d / (n + d), rel=0.02)


def test_dimensions_by_task_and_layer(tmp_path):
    x, y = gaussian(30, 6), gaussian(20, 6, 1)
    a, b = np.stack([x, x * [1, 1, 0, 0, 0, 0], np.ones((30, 6))]), np.stack([y, y, y * [1, 0, 0, 0, 0, 0]])
    np.save(tmp_path / "a.npy", a)
    seen = []
    found = dimensions(
        {"a": np.load(tmp_path / "a.npy", mmap_mode="r"), "b": torch.from_numpy(b)},
        pooled="both", share=1.0, progress=lambda units, what: seen.append(len(units)) or units,
    )  # fmt: skip
    table = found.to_frame()
    assert list(table.columns) == ["task", "layer", "value", "limit", "reason"] and seen == [9]
    assert table["value"].tolist() == pytest.approx(
        [6, 2, np.nan, 6, 6, 1, 6, 6, 2], nan_ok=True
    )  # 2: b's, and from a to b
    assert table["limit"].tolist() == [6] * 9
    assert table["reason"].tolist() == ["", "", "constant activations (zero variance)", *[""] * 6]
    assert dimensions({"a": a[:2]}, "two-nn").table["limit"].isna().all()
    assert dimensions(Read({"a": a}, model="m")).manifest["of"] == {"model": "m"}
    assert dimensions({"p": Read({"a": a}, model="m")}).manifest["of"] == {"p": {"model": "m"}}
    assert dimensions({"a": a[:, :4]}).table["limit"].tolist() == [3] * 3  # four examples span three dimensions
    figure = found.figure()
    assert [t.name for t in figure.data] == ["a", "b", "both"] and "100 %" in figure.layout.yaxis.title.text
    np.testing.assert_array_equal(figure.data[0].y, [6, 2, np.nan])
    assert "1 of 9 points, at layer 2: constant" in figure.layout.title.subtitle.text
    assert Dimensions.load(found.save(tmp_path / "d.json")).to_frame().equals(table)
    for measure, function in (("participation", participation_ratio), ("two-nn", two_nn)):
        values = dimensions({"b": b}, measure).table["value"]
        assert values.tolist() == pytest.approx([function(layer) for layer in b])
    several = dimensions({"one": {"a": a}, "two": {"a": a[:, :10], "b": b}})
    assert list(several.table["model"]) == ["one"] * 3 + ["two"] * 6
    assert [t.name for t in several.figure().data] == ["one, a", "two, a", "two, b"]


def test_dimensions_that_cannot_be_are_refused():
    x = gaussian(20, 3)
    for call, match in (
        (lambda: dimensions(x), "a ndarray"),
        (lambda: dimensions({}), "no tasks"),
        (lambda: dimensions({"a": x}), r"shape \(20, 3\)"),
        (lambda: dimensions({"a": x[None, :3]}), "3 examples"),
        (lambda: dimensions({"a": x[None]}, "spectral"), "no such measure"),
        (lambda: dimensions({"a": x[None]}, shares=0.9), "did you mean 'share'"),
        (lambda: dimensions({"a": x[None]}, share=2), "share=2"),
        (lambda: dimensions({"a": x[None]}, pooled="a"), "a task of that name"),
        (lambda: dimensions({"a": x[None], "b": x[None, :, :2]}, pooled="all"), "other layers or features"),
        (lambda: variance_dimension({"a": x[None]}), r"dimensions\(a\)"),
    ):
        with pytest.raises(ArgumentError, match=match):
            call()


@pytest.mark.parametrize("dimension", [variance_dimension, participation_ratio, two_nn])
def test_dimensions_refuse_bad_input(dimension):
    x = gaussian(20, 3)
    for bad, error in ((x * np.nan, NumericalError), (np.ones((20, 3)), NumericalError), (x[:3], ArgumentError)):
        with pytest.raises(error):
            dimension(bad)


# ---- the grid


def models(tasks=2, layers=3, n=40, widths=(6, 9), seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    out = ({}, {})
    for t in range(tasks):
        common = rng.normal(size=(n, 3))
        for side, width in zip(out, widths, strict=True):
            noise = rng.normal(size=(layers, n, width)) * np.linspace(0.3, 3, layers)[:, None, None]
            mean = 20 * rng.normal(size=(layers, 1, width))
            side[f"t{t}"] = (common @ rng.normal(size=(layers, 3, width)) + noise + mean).astype(dtype)
    return out


def loop(a, b, pairs, function=textbook_cka, **options):
    """(task, layer of a, layer of b) -> value."""
    return {
        (task, i, j): function(np.float64(a[task][i]), np.float64(b[task][j]), **options)
        for task in a
        for i in range(len(a[task]))
        for j in range(len(b[task]))
        if pairs == "all" or i == j
    }


def cells(result):
    table = result.to_frame()
    return dict(zip(zip(table["task"], table["layer_a"], table["layer_b"], strict=True), table["value"], strict=True))


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("pairs", ["same", "all"])
@pytest.mark.parametrize("shape", [(40, (6, 9)), (25, (70, 50)), (120, (4, 5)), (4, (3, 3))])
def test_the_grid_is_the_loop(shape, pairs, debiased, tmp_path):
    n, widths = shape
    a, b = models(n=n, widths=widths)
    expected = loop(a, b, pairs, debiased=debiased)
    for task, array in b.items():
        np.save(tmp_path / f"{task}.npy", array)
    mapped = {task: np.load(tmp_path / f"{task}.npy", mmap_mode="r") for task in b}
    tensors = {task: torch.from_numpy(array) for task, array in b.items()}
    for other in (b, mapped, tensors):
        found = compare(a, other, pairs=pairs, debiased=debiased)
        assert cells(found) == pytest.approx(expected, abs=1e-5)
    assert (found.to_frame()["reason"] == "").all()


@pytest.mark.parametrize("pairs", ["same", "all"])
@pytest.mark.parametrize(
    ("n", "rows", "widths", "layers", "form"),
    [(90, 45, (40, 50), 6, "gram"), (90, 23, (40, 50), 2, "gram"), (100, 25, (2, 3), 2, "features")],
)
def test_a_tiny_memory_is_kept_to_and_changes_nothing(n, rows, widths, layers, form, pairs, monkeypatch, tmp_path):
    a, b = models(tasks=1, layers=layers, n=n, widths=widths)
    expected = loop(a, b, pairs)
    for task, array in b.items():
        np.save(tmp_path / f"{task}.npy", array)
    b = {task: np.load(tmp_path / f"{task}.npy", mmap_mode="r") for task in b}
    sides = (layers, layers) if pairs == "all" else (1, 1)
    memory = blocks.held(form, rows, n, widths, sides)
    assert blocks.plan(n, widths, sides, memory)[:2] == (form, rows)
    used = watch(monkeypatch)
    assert cells(compare(a, b, pairs=pairs, memory=memory)) == pytest.approx(expected, abs=1e-5)
    assert max(used["reads"]) <= rows
    assert 0 < max(used["bytes"]) <= memory
    assert memory < blocks.held(form, n, n, widths, sides)
    with pytest.raises(ArgumentError, match="needed for blocks of 16"):
        compare(a, b, pairs=pairs, memory=1000)


def watch(monkeypatch):
    """The rows of every read, and the bytes of all tensors alive after every torch function."""
    used = {"reads": [], "bytes": []}
    read, alive = blocks.Layers._read, []

    def reading(self, layer, start, stop):
        used["reads"].append(stop - start)
        return read(self, layer, start, stop)

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            alive[:] = [r for r in alive if r() is not None] + ([weakref.ref(out)] if torch.is_tensor(out) else [])
            held = {
                t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for r in alive if (t := r()) is not None
            }
            used["bytes"].append(sum(held.values()))
            return out

    whole = blocks.linear_grid

    def watched(*args):
        with Watch():
            return whole(*args)

    monkeypatch.setattr(blocks.Layers, "_read", reading)
    monkeypatch.setattr(blocks, "linear_grid", watched)
    return used


def test_every_layer_is_read_once_where_memory_allows(monkeypatch):
    a, b = models(tasks=1, layers=4, n=20, widths=(30, 30))
    used = watch(monkeypatch)
    compare(a, b, pairs="all")
    assert used["reads"] == [20] * 8


def test_massive_means_and_odd_scales_do_no_harm():
    a, b = models(n=60, widths=(30, 30), dtype=np.float64)
    expected = {pairs: loop(a, b, pairs) for pairs in ("same", "all")}  # neither shift nor scale changes CKA
    a["t0"][:, :, 3] += 1e6
    a["t1"] *= 1e-30
    b["t1"] *= 1e30
    for pairs in ("same", "all"):
        for memory in (1 << 30, blocks.held("gram", 20, 60, (30, 30), (3, 3) if pairs == "all" else (1, 1))):
            assert cells(compare(a, b, pairs=pairs, memory=memory)) == pytest.approx(expected[pairs], abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_half_and_double_activations(dtype):
    a, b = ({t: torch.from_numpy(v).to(dtype) for t, v in side.items()} for side in models())
    plain = [{t: v.double().numpy().copy() for t, v in side.items()} for side in (a, b)]
    assert cells(compare(a, b)) == pytest.approx(loop(*plain, "same"), abs=1e-5)
    if dtype != torch.bfloat16:
        numpy = [{t: v.numpy() for t, v in side.items()} for side in (a, b)]
        assert cells(compare(*numpy)) == pytest.approx(loop(*plain, "same"), abs=1e-5)
    for side, before in zip((a, b), plain, strict=True):  # the caller's activations are as before
        assert all((side[t].double().numpy() == before[t]).all() for t in side)


def test_whole_numbers_and_lists_are_compared_in_full_precision():
    x, y = (2**25 + np.random.default_rng(s).integers(0, 3, size=(1, 40, 4)) for s in (0, 1))
    expected = textbook_cka(x[0] - 2**25, y[0] - 2**25)
    for convert in (lambda v: v, torch.from_numpy, lambda v: v.tolist()):
        found = compare({"t": convert(x)}, {"t": convert(y)})
        assert found.table["value"][0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("pairs", ["same", "all"])
def test_every_measure_goes_through_the_grid(name, pairs, monkeypatch):
    a, b = models(n=30, widths=(4, 5))
    options = {"kernel": "rbf"} if name == "cka" else {}
    expected = loop(a, b, pairs, MEASURES[name].function, **options)
    assert cells(compare(a, b, name, pairs=pairs, **options)) == pytest.approx(expected, abs=1e-9)
    one_at_a_time = 3 * 32 * 30 * 30  # three layers of [30, 30] fit
    few = compare(a, b, name, pairs=pairs, memory=one_at_a_time, **options)
    assert cells(few) == pytest.approx(expected, abs=1e-9)
    with pytest.raises(ArgumentError, match="three layers"):
        compare(a, b, name, memory=one_at_a_time - 1, **options)


@pytest.mark.parametrize(("fit", "order"), [(1, "a0 b0 b1 a1 b0 b1 a2 b0 b1"), (2, "a0 a1 b0 b1 a2 b0 b1")])
def test_layers_are_prepared_once_for_as_many_others_as_fit(fit, order, monkeypatch):
    a, b = models(tasks=1, n=30, widths=(4, 5))
    b = {"t0": b["t0"][:2]}
    seen, prepare = [], grid._state

    def watched(array, layer, *rest):
        seen.append(("a" if array is a["t0"] else "b") + str(layer))
        return prepare(array, layer, *rest)

    monkeypatch.setattr(grid, "_state", watched)
    compare(a, b, "procrustes", pairs="all", memory=(fit + 2) * 32 * 30 * 30)
    assert " ".join(seen) == order


@pytest.mark.parametrize("pairs", ["same", "all"])
@pytest.mark.parametrize("name", MEASURES)
def test_the_grids_null_is_that_of_each_pair(name, pairs):
    a, b = models(tasks=1, layers=2, n=20, widths=(4, 3))
    table = compare(a, b, name, pairs=pairs, null=19, seed=4).to_frame()
    for row in table.to_dict("records"):
        x, y = a["t0"][row["layer_a"]], b["t0"][row["layer_b"]]
        expected = permutation_null(x, y, name, null=19, seed=4)
        assert tuple(row[c] for c in ("value", "low", "high", "p")) == pytest.approx(tuple(expected), abs=1e-9)
    assert len(table) == (4 if pairs == "all" else 2)


def test_q_counts_every_p_of_the_table():
    a, b = models(layers=4)
    a["t1"][2], b["t1"] = np.nan, models(seed=1, layers=4)[1]["t1"]  # the second task's are unrelated
    table = compare(a, b, null=19).to_frame()
    assert list(table.columns[-4:]) == ["high", "p", "q", "reason"]
    p = table["p"].dropna().to_numpy()
    assert len(p) == 7 and len(set(p)) > 1
    np.testing.assert_allclose(table["q"].dropna(), benjamini_hochberg(p))
    assert table["q"].isna().tolist() == table["p"].isna().tolist()
    assert "q" not in compare(a, b).table


@pytest.mark.parametrize("options", [{}, {"null": 5}, {"measure": "procrustes"}, {"memory": "tiny"}])
@pytest.mark.parametrize("pairs", ["same", "all"])
def test_what_cannot_be_compared_is_a_gap_with_a_reason(options, pairs):
    a, b = models(n=40, layers=4, widths=(30, 30))
    a["t0"][1, 7, 2] = np.nan
    b["t0"][2] = 0.1
    a["t0"][3], b["t0"][3] = np.inf, 3.0
    if options.get("memory"):
        options = {"memory": blocks.held("gram", 20, 40, (30, 30), (4, 4) if pairs == "all" else (1, 1))}
    table = compare(a, b, pairs=pairs, **options).to_frame()
    clean = compare(*models(n=40, layers=4, widths=(30, 30)), pairs=pairs, **options).to_frame()
    wrong_a = {1: "a: non-finite activations", 3: "a: non-finite activations"}
    wrong_b = dict.fromkeys((2, 3), "b: constant activations (zero variance)")
    for row, whole in zip(table.to_dict("records"), clean.to_dict("records"), strict=True):
        reasons = [r for r in (wrong_a.get(row["layer_a"]), wrong_b.get(row["layer_b"])) if r]
        if row["task"] != "t0" or not reasons:
            assert row["reason"] == "" and row["value"] == pytest.approx(whole["value"], abs=1e-6)
        else:
            assert np.isnan(row["value"]) and row["reason"] == "; ".join(reasons)
            assert all(np.isnan(row[c]) for c in ("low", "high", "p") if c in row)


def test_a_self_similarity_of_zero_is_a_gap():
    a, b = ({"t": np.stack([np.eye(12), gaussian(12, 12, s)])} for s in (1, 2))
    b["t"][0] = gaussian(12, 12, 3)
    for pairs, gaps in (("same", 1), ("all", 2)):
        table = compare(a, b, pairs=pairs).to_frame()
        assert table["value"].isna().sum() == gaps
        assert set(table["reason"]) == {"", "a: a self-similarity of zero"}
    assert compare(a, b, debiased=False).to_frame()["value"].notna().all()


def test_shapes_that_do_not_match_are_refused_before_anything_is_read(monkeypatch):
    a, b = models()
    monkeypatch.setattr(blocks.Layers, "_read", None)
    x = a["t0"]
    for first, second, match in (
        ({}, {}, "no tasks"),
        (a, {"t0": b["t0"]}, r"only in a: \['t1'\]"),
        ({"t0": x}, {"t0": x[:, :5]}, "40 and 5 examples"),
        ({"t0": x[:, :3]}, {"t0": x[:, :3]}, "3 examples"),
        ({"t0": x}, {"t0": x[:2]}, "3 and 2 layers"),
        ({"t0": x[0]}, {"t0": x}, r"shape \(40, 6\)"),
        (x, x, "a ndarray"),
        ([x], [x], "a list"),
        ({"t0": x * 1j}, {"t0": x}, "complex"),
        ({"t0": x}, {"t0": x.astype(object)}, "object"),
        ({"t0": x}, {"t0": torch.from_numpy(x * 1j)}, "complex"),
        ({"t0": x}, {"t0": x.astype(str)}, "real numbers"),
    ):
        with pytest.raises(ArgumentError, match=match):
            compare(first, second)
    for options in ({"measure": "ckaa"}, {"pairs": "some"}, {"debiase": True}, {"null": -1}, {"kernel": "cubic"}):
        with pytest.raises(ArgumentError):
            compare(a, b, **options)
    for name, bad in (
        ("null", 2.5), ("seed", -1), ("memory", "1 GB"), ("bandwidth", 0), ("bandwidth", 2), ("debiased", "no"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=f"{name}={bad!r}"):
            compare(a, b, **{name: bad})
    for device in ("gpu", "meta"):
        with pytest.raises(ArgumentError, match=f"compare on {device}"):
            compare(a, b, device=device)
    with pytest.raises(ArgumentError, match="float64"):
        compare(a, b, device="mps")


def test_models_of_different_depth_are_compared_over_all_pairs():
    a, b = models()
    b = {task: array[:2] for task, array in b.items()}
    assert cells(compare(a, b, pairs="all")) == pytest.approx(loop(a, b, "all"), abs=1e-5)


def test_progress_sees_every_unit():
    a, b = models()
    seen = []

    def progress(items, description):
        for item in items:
            seen.append((description, item[0]))
            yield item

    compare(a, b, progress=progress)
    assert seen == [("cka, same layers", t) for t in ("t0", "t0", "t0", "t1", "t1", "t1")]
    seen.clear()
    compare(a, b, pairs="all", progress=progress)
    assert seen == [("cka, all layers", "t0"), ("cka, all layers", "t1")]


def test_the_result_draws_what_it_holds_and_survives_a_file(tmp_path):
    a, b = models()
    a["t1"][2] = np.nan
    same = compare(a, b, null=9)
    curves = [t for t in same.figure().data if t.mode == "lines+markers"]
    table = same.to_frame()
    assert [t.name for t in curves] == ["t0", "t1"]
    np.testing.assert_array_equal(curves[1].y, table[table["task"] == "t1"]["value"])
    assert len(same.figure().data) == 4  # two bands
    assert "debiased linear CKA" in same.figure("t0").layout.title.text
    again = Similarity.load(same.save(tmp_path / "same.json"))
    assert again.to_frame().equals(table) and again.manifest == same.manifest
    both = compare(a, b, pairs="all", debiased=False)
    cube = both.to_frame()["value"].to_numpy().reshape(2, 3, 3)
    np.testing.assert_array_equal(both.figure("t0").data[0].z, cube[0])
    mean = both.figure()
    np.testing.assert_allclose(mean.data[0].z, cube.mean(0))  # NaN where t1 has none
    assert np.isnan(mean.data[0].z[2]).all() and "mean over 2 tasks" in mean.layout.title.subtitle.text
    assert "biased linear CKA" in mean.layout.title.text
    with pytest.raises(ArgumentError, match="did you mean 't1'"):
        same.figure("t11")
    assert same.manifest["options"] == {"kernel": "linear", "debiased": True, "bandwidth": 1.0}


def test_pages_of_a_file_are_handed_back_only_where_it_is_mapped_for_reading(tmp_path):
    x = models(tasks=1)[0]["t0"]
    np.save(tmp_path / "x.npy", x)
    private = np.load(tmp_path / "x.npy", mmap_mode="c")
    private[:] = 2 * x  # lives in this process's pages alone
    compare({"t": private}, {"t": x})
    np.testing.assert_array_equal(private, 2 * x)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells which pages are resident")
@pytest.mark.parametrize("measure", ["cka", "procrustes"])
def test_no_page_of_a_mapped_file_stays_resident(measure, tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, gaussian(64, 2048).reshape(2, 64, 1024))  # 1 MiB
    mapped = np.load(path, mmap_mode="r")
    assert mapped.sum() and resident(path) >= 1 << 20  # reading it the ordinary way keeps it
    compare({"t": mapped}, {"t": gaussian(64, 6).reshape(2, 64, 3)}, measure)
    assert resident(path) == 0


def resident(path):
    """Bytes of a mapped file that count as this process's memory."""
    _, _, lines = Path("/proc/self/smaps").read_text().partition(str(path))
    return int(re.search(r"Rss: +(\d+) kB", lines)[1]) << 10


class Read(dict):
    """Activations that know where they come from."""

    def __init__(self, arrays, **manifest):
        super().__init__(arrays)
        self.manifest = manifest


def test_other_examples_are_refused_and_origins_kept():
    x = np.random.default_rng(0).normal(size=(2, 9, 3))
    about = {"model": "m", "tasks": {"t": "hash"}, "split": "test", "n": 9}
    found = compare(Read({"t": x}, **about), Read({"t": x}, **about, at="last"))
    assert found.manifest["a"] == about and found.manifest["b"]["at"] == "last"
    both = {**about, "tasks": {"t": "hash", "other": "hash"}}
    assert compare(Read({"t": x}, **about), Read({"t": x}, **both)).table["value"].round(9).eq(1).all()
    for same in ({"n": None}, {"split": None}, {"tasks": None}):  # shapes settle n; what is not known is no difference
        assert len(compare(Read({"t": x}, **about), Read({"t": x}, **about | same)).table) == 2
    assert len(compare(Read({"t": x}), Read({"t": x}, **about)).table) == 2
    for change, told in (({"split": "train"}, "split train"), ({"tasks": {"t": "other"}}, "data other")):
        with pytest.raises(ArgumentError, match=told):
            compare(Read({"t": x}, **about), Read({"t": x}, **about | change))
    assert "a" not in compare({"t": x}, Read({"t": x}, **about)).manifest


def test_figures_say_where_there_is_no_value():
    x = np.random.default_rng(0).normal(size=(3, 9, 3))
    x[1] = 2.0
    line = compare({"t": x}, {"t": x}, null=20).figure()
    said = line.layout.title.subtitle.text.replace("<br>", " ")
    assert "no value at layer 1: " in said and "permuted examples" in said
    grid = compare({"t": x}, {"t": x}, pairs="all").figure().data[0]
    assert grid.zmax == 1 and grid.zmin <= 0 and grid.text[0][0] == "1.00"


def test_misspelt_options_are_told_of_all_there_are():
    x = {"t": np.random.default_rng(0).normal(size=(2, 9, 3))}
    with pytest.raises(ArgumentError, match="did you mean 'null'"):
        compare(x, x, nul=20)
