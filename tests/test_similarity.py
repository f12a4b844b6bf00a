"""Every measure against a textbook written here, its invariances, its null; the grid against the loop."""

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial.distance
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroscope.comparison.similarity import (
    CKA,
    MEASURES,
    cka,
    cka_formulas,
    neighbour_overlap,
    participation_ratio,
    permutation_null,
    procrustes,
    pwcca,
    svcca,
    two_nn,
    variance_dimension,
)
from neuroscope.comparison.similarity.measure_table import complete
from neuroscope.errors import ArgumentError, NeuroscopeError, NumericalError

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
    x, y = cka_formulas.pair(*related(20, 9, 14), "test")
    options = {"kernel": "linear", "debiased": debiased, "bandwidth": 1.0}
    values = [
        cka_formulas.between(*(cka_formulas.state(s, **options, form=form) for s in (x, y)))
        for form in ("gram", "features")
    ]
    assert values[0] == pytest.approx(values[1], abs=1e-12)
    assert cka_formulas.cheaper_form(1000, 64, 64) == "features"
    assert cka_formulas.cheaper_form(1000, 1024, 1024) == "gram"


def test_u_centred_products_are_the_unbiased_hsic():
    k, q = (torch.from_numpy(s @ s.T) for s in related(9, 4, 5))
    product = float((cka_formulas.u_centre(k) * cka_formulas.u_centre(q)).sum()) / (9 * 6)
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
@settings(max_examples=15)
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
        a, b = (measure.state(s, **settings_) for s in cka_formulas.pair(x, y, "test"))
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
    monkeypatch.setattr(cka_formulas, "gram", None)  # would fail if it were called
    assert permutation_null(x, y, null=19).value == pytest.approx(textbook_cka(x, y), abs=1e-9)


def test_equal_values_count_as_hits_though_they_differ_in_the_last_digit():
    """A feature of 0 and 1, and another that is 1 where it is 0: CKA is 1 for 2 of the 20 ways to pair them."""
    x = np.repeat([0.0, 0.1], 3)
    found = permutation_null(x[:, None], 0.1 - x[:, None], null=99, seed=2)
    rng = np.random.default_rng(2)
    hits = sum(len(set(x[rng.permutation(6)][:3])) == 1 for _ in range(99))
    assert 0 < hits < 99 and found.p == (1 + hits) / 100


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


@pytest.mark.parametrize("dimension", [variance_dimension, participation_ratio, two_nn])
def test_dimensions_refuse_bad_input(dimension):
    x = gaussian(20, 3)
    for bad, error in ((x * np.nan, NumericalError), (np.ones((20, 3)), NumericalError), (x[:3], ArgumentError)):
        with pytest.raises(error):
            dimension(bad)
