"""How far masks replicate: closed forms and simulations of the formulas, and the whole on the bundled model."""

import math
from dataclasses import replace

import numpy as np
import pytest

import neuroscope as ns
from neuroscope.attribution import reliability
from neuroscope.errors import ArgumentError, TaskError

NAMES = ["sentiment-food", "nli-food"]


@pytest.fixture(scope="module")
def mini():
    return ns.load("mini")


@pytest.fixture(scope="module")
def tasks():
    return ns.load_tasks(",".join(NAMES))


@pytest.fixture(scope="module")
def found(mini, tasks):
    return ns.stability(mini, tasks, k=(0.02, 0.1), examples=48, seed=1)


def test_pairs_of_disjoint_parts_are_all_there_are():
    assert len(reliability.disjoint_pairs(8, 4)) == 35 == math.comb(8, 4) // 2
    assert len(reliability.disjoint_pairs(8, 1)) == 28 == math.comb(8, 2)
    assert len(reliability.disjoint_pairs(8, 2)) == 35 < math.comb(8, 2) * math.comb(6, 2) // 2
    for first, second in reliability.disjoint_pairs(8, 2):
        assert len({*first, *second}) == 4


def test_reliability_of_simulated_scores():
    # true scores of variance 1 and noise of variance 4 in each of 8 parts: r = 1 / (1 + 4 / 4) of halves
    rng = np.random.default_rng(0)
    parts = rng.normal(size=4000) + 2 * rng.normal(size=(8, 4000))
    half, full = reliability.split_half(parts)
    spearman = 6 / math.pi * math.asin(0.5 / 2)  # of normal scores with Pearson's r = 0.5
    assert half == pytest.approx(spearman, abs=0.02)
    assert full == pytest.approx(2 * spearman / (1 + spearman), abs=0.02)
    assert math.isnan(reliability.split_half(np.ones((4, 10)))[0])


@pytest.mark.parametrize(("way", "part", "rest"), [(0.0, 0.0, 1.0), (0.5, 0.0, 0.3), (0.2, 0.8, 0.4)])
def test_shares_of_variance_are_those_put_in(way, part, rest):
    rng = np.random.default_rng(0)
    n, n_ways, n_parts = 6000, 4, 6
    scores = (
        rng.normal(size=n)
        + math.sqrt(way) * rng.normal(size=(n_ways, 1, n))
        + math.sqrt(part) * rng.normal(size=(1, n_parts, n))
        + math.sqrt(rest) * rng.normal(size=(n_ways, n_parts, n))
    )
    shares = reliability.shares_of_variance(np.exp(scores))  # ranks do not see the exponential
    examples = (part + rest) / n_parts
    whole = 1 + way + examples
    assert shares["neurons"] == pytest.approx(1 / whole, abs=0.02)
    assert shares["ways"] == pytest.approx(way / whole, abs=0.02)
    assert shares["examples"] == pytest.approx(examples / whole, abs=0.02)
    alone = reliability.shares_of_variance(np.exp(scores[:1]))
    assert alone["ways"] == 0 and alone["examples"] == pytest.approx(examples / (1 + way + examples), abs=0.03)


def test_masks_of_noise_overlap_by_chance_and_equal_ones_wholly():
    rng = np.random.default_rng(0)
    noise = reliability.jaccards(rng.normal(size=(8, 5000)), 4, 0.1)
    assert noise.mean() == pytest.approx(0.1 / 1.9, abs=0.005)
    assert (reliability.jaccards(np.tile(rng.normal(size=5000), (8, 1)), 2, 0.1) == 1).all()
    often = reliability.selected(rng.normal(size=(8, 5000)), 0.1)
    assert often.mean() == pytest.approx(0.1) and (often > 0.9).mean() < 0.002


def test_parts_together_are_the_scores_on_all_examples(mini, tasks, found):
    task = tasks[NAMES[0]]
    whole = ns.attribute(mini, replace(task, discovery=task.split("discovery")[:48]))
    # eight parts of six: the mean of their means is the mean of all
    again = ns.stability(mini, {NAMES[0]: task}, k=(0.1,), parts=2, examples=48)
    assert again.table["examples"].tolist() == [24]
    order = np.random.default_rng(0).permutation(48)
    halves = [
        ns.attribute(mini, replace(task, discovery=[task.split("discovery")[i] for i in part])).top(0.1)
        for part in (order[:24], order[24:])
    ]
    assert again.table["jaccard"].item() == pytest.approx(halves[0].jaccard(halves[1]))
    assert again.consensus(NAMES[0], 0.1) == halves[0] & halves[1]
    assert len(again.consensus(NAMES[0]) & whole.top(0.1)) > 0.9 * len(again.consensus(NAMES[0]))


def test_what_a_stability_says(found, mini, tasks, tmp_path):
    assert found.table.groupby(["task", "k"])["examples"].apply(list).tolist() == [[6, 12, 24]] * 4
    ceiling = found.ceiling(0.1)
    assert set(ceiling) == set(NAMES) and all(0.5 < value < 1 for value in ceiling.values())
    chance = found.table[found.table["k"] == 0.1]["chance"]
    assert (chance < 0.2).all() and (found.table["jaccard"] > found.table["chance"]).all()
    grown = found.table[found.table["k"] == 0.1].groupby("examples")["jaccard"].mean()
    assert grown.is_monotonic_increasing  # more examples, better masks
    table = found.reliability().set_index("task")
    assert (table["full"] > table["half"]).all() and (table["full"] < 1).all()
    assert "No two tasks can be expected to overlap more" in found.in_words()
    mask = found.consensus("nli-food", 0.1)
    assert 0 < len(mask) <= 205 and mask.manifest["selection"] == {"k": 0.1, "often": 0.9}
    crossed = ns.overlap({n: ns.attribute(mini, tasks[n], examples=48).top(0.1) for n in NAMES}, ceiling=ceiling)
    assert crossed.table["ceiling"].item() == pytest.approx(math.sqrt(ceiling[NAMES[0]] * ceiling[NAMES[1]]))
    assert "A negative" not in found.in_words()
    weak = replace(
        found, table=found.table.assign(jaccard=found.table["jaccard"].where(found.table["task"] != NAMES[1], 0.43))
    )
    assert f"of {NAMES[1]}, two masks share less than half of the neurons that are in either" in weak.in_words()
    again = ns.load_result(found.save(tmp_path / "stability.json"))
    assert again.ceiling(0.1) == ceiling and again.consensus("nli-food", 0.1) == mask
    assert again.in_words() == found.in_words()
    assert [trace.name for trace in found.figure().data if trace.mode == "lines+markers"] == ["k = 2 %", "k = 10 %"]


def test_a_mask_that_was_made_stable_is_known_by_its_examples(found, mini, tasks):
    swapped = replace(tasks["nli-food"], test=tasks["nli-food"].discovery)
    assert found.consensus("nli-food").manifest["data_hash"] == tasks["nli-food"].data_hash != swapped.data_hash


def test_ways_of_asking_have_their_share(mini, tasks):
    task = tasks["sentiment-food"]
    same = {"templates": {"same": {"sentiment-food": task}}}
    none = ns.stability(mini, task, k=(0.1,), parts=4, examples=16, variants=same)
    assert none.reliability()["templates"].item() == pytest.approx(0, abs=1e-9)
    other = replace(task, discovery=[replace(e, prompt="the " + e.prompt) for e in task.split("discovery")])
    some = ns.stability(mini, task, k=(0.1,), parts=4, examples=16, variants={"templates": {"the": other}})
    assert 0 < some.reliability()["templates"].item() < 1
    assert "is that of templates" in some.in_words()


@pytest.mark.parametrize(
    ("how", "error", "text"),
    [
        ({"k": ()}, ArgumentError, "growing shares"),
        ({"k": (0.0,)}, ArgumentError, "growing shares"),
        ({"parts": 3}, ArgumentError, "even"),
        ({"parts": 0}, ArgumentError, "parts"),
        ({"parts": 64, "examples": 8}, TaskError, "8 examples"),
        ({"often": 2}, ArgumentError, "often"),
        ({"split": "test"}, ArgumentError, "no such option"),
        ({"nosuch": 1}, ArgumentError, "no such option"),
        ({"variants": {"templates": 1}}, ArgumentError, "variants"),
        ({"variants": {"templates": {"x": "mini"}}}, (ArgumentError, TaskError), "variants"),
    ],
)
def test_what_cannot_be_is_refused(mini, tasks, how, error, text):
    with pytest.raises(error, match=text):
        ns.stability(mini, tasks["nli-food"], **{"examples": 16, "parts": 2} | how)
    shorter = replace(tasks["nli-food"], discovery=tasks["nli-food"].split("discovery")[:4])
    with pytest.raises(TaskError, match="4 discovery examples instead of"):
        ns.stability(mini, tasks["nli-food"], variants={"templates": {"shorter": shorter}})


def test_shares_that_were_not_measured_are_refused(found):
    for ask in (lambda: found.ceiling(0.5), lambda: found.consensus("nli-food", 0.5), lambda: found.consensus("nli")):
        with pytest.raises(ArgumentError):
            ask()
