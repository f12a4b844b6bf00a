"""T4: equal to the direct calls; the words follow planted numbers, sentence by sentence."""

import itertools

import numpy as np
import pandas as pd
import pytest
from quick_training import quick  # noqa: F401 (for the whole file)
from state import unchanged
from test_experiments import FOUR, RECIPE, never
from tiny import tiny_model

from neuroscope.attribution import attribute
from neuroscope.comparison.correlation import correlate
from neuroscope.errors import ArgumentError
from neuroscope.experiments import (
    ParameterDepth,
    ParameterTransfer,
    cross_training,
    parameter_depth,
    parameter_transfer,
    trials,
)
from neuroscope.experiments.t4_parameter_transfer import joined

NEGATIVE = "**A negative**: "


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def masks(model):
    return {name: s.top(0.2) for name, s in attribute(model, FOUR).items()}


def test_transfer_is_correlate_of_depth_and_cross_training(model, masks, tmp_path):
    shared, how = {"output": tmp_path, "recipe": RECIPE}, {"n_random": 3, "seed": 3}
    with unchanged(model.root):
        found = parameter_transfer(model, FOUR, masks, seeds=3, **how, **shared)
    assert isinstance(found, ParameterTransfer)
    alike = parameter_depth(model, FOUR, masks, **how, **shared)
    scores = cross_training(model, FOUR, masks, seeds=3, **shared)
    for view, direct in (
        ("all", correlate(alike, scores, seed=3)),
        ("layer", correlate(alike, scores, by="layer", seed=3)),
        ("control", correlate(alike, scores.table[["source", "target"]].assign(score=scores.table["control"]), seed=3)),
    ):
        pd.testing.assert_frame_equal(found.view(view).table, direct.table, check_dtype=False)
    cells = found.cells()
    assert len(cells) == 12 and (cells["source"] != cells["target"]).all()
    row = cells.query("source == 'yes' and target == 'late'").iloc[0]
    assert row["score"] == scores.matrix.loc["yes", "late"]
    assert row["similarity"] == alike.table.query("a == 'yes' and b == 'late'")["value"].mean()
    assert sum(len(t.x) for t in found.pairs_figure().data) == 12
    assert {t.name for t in found.pairs_figure().data} == set(FOUR)
    assert len(found.figure().data) and len(found.layer_figure().data)
    assert set(found.summary()["view"]) == {"all", "layer", "control"}


def test_arguments_are_refused_before_anything_is_trained(model, masks, monkeypatch):
    monkeypatch.setattr(trials, "finetune", never)
    wrong = (
        ({"seeds": 2}, "3 seeds"),
        ({"match": "norm"}, "match"),
        ({"lrr": 1}, "lrr"),
        ({"recipe": {"a": 1}}, "a=1"),
    )
    for settings, match in wrong:
        with pytest.raises(ArgumentError, match=match):
            parameter_transfer(model, FOUR, masks, **settings)
    with pytest.raises(ArgumentError, match="3 tasks"):
        parameter_transfer(model, FOUR, {name: masks[name] for name in list(masks)[:3]})


def planted(score, control, names="abcde", layers=lambda s, layer: s, seed=0):
    """T4 of a similarity that was made up, another one way than the other, and of scores that follow it as told."""
    rng = np.random.default_rng(0)
    alike = {pair: rng.uniform() for pair in itertools.permutations(names, 2)}
    rows = [
        {"a": a, "b": b, "layer": layer, "value": layers(value, layer)}
        for (a, b), value in alike.items()
        for layer in range(2)
    ]
    cells = [
        {"source": a, "target": b, "score": score(s, b), "control": control(s, b), "zero_shot": 0.1}
        for (a, b), s in alike.items()
    ]
    return joined(ParameterDepth(pd.DataFrame(rows), {}), ParameterTransfer(pd.DataFrame(cells), {}), seed)


def noise(seed):
    rng = np.random.default_rng(seed)
    return lambda similarity, target: rng.uniform()


def test_words_of_transfer_follow_the_numbers():
    due = "Similarity predicts both: what it predicts is how tasks' data transfer"
    both = planted(lambda s, b: 0.5 * s, lambda s, b: 0.3 * s).in_words()
    assert "- Over 20 pairs of 5 tasks, more similar tasks transfer better (r = 1.00" in both
    assert due in both and both.count(NEGATIVE) == 1  # ranks of four models, of which 2 of 24 orders are as far
    assert NEGATIVE + "none of 5 test tasks holds by itself" in both and "p cannot be below 0.083" in both
    assert "- By layer: More similar tasks transfer better in layers 0-1 (2 of 2 layers" in both
    for seed in range(1, 5):  # with r of both signs
        own = planted(lambda s, b: 0.5 * s, noise(seed)).in_words()
        assert "The control" in own and due not in own
    reverse = planted(lambda s, b: 0.5 * s, lambda s, b: -0.3 * s).in_words()
    assert "r = -1.00 (p = 0.0083) once source and test task are taken out, beside 1.00" in reverse
    assert due not in reverse
    nothing = planted(noise(1), lambda s, b: 0.0).in_words()
    assert f"- {NEGATIVE}over 20 pairs of 5 tasks, similarity does not predict transfer" in nothing
    assert f"- By layer: {NEGATIVE}no layer's similarity predicts transfer" in nothing
    assert "control correlation is undefined (all scores are equal" in nothing


def test_what_holds_for_a_test_task_is_no_negative():
    """Similarity helps task a and harms task b: over all pairs nothing, for these two alone much."""
    follow, rest = {"a": 1.0, "b": -1.0}, noise(2)
    found = planted(lambda s, b: follow[b] * s if b in follow else rest(s, b), noise(3), names="abcdefgh").in_words()
    assert found.startswith("Tasks with more similar neurons are **not shown** to transfer better (r = **0.05**)")
    first = found.splitlines()[2]
    assert first.startswith(f"- {NEGATIVE}over 56 pairs of 8 tasks, similarity does not predict transfer")
    assert " 2 of 8 test tasks' correlations hold after correction (a, b)." in first
    assert first.count(NEGATIVE) == 1


def test_a_layer_without_a_pair_is_in_no_mean():
    """Layer 1 is missing where scores are high: the other pairs' mean over both layers would be a correlation."""
    gone = lambda s, layer: np.nan if layer and s > 0.7 else s + layer  # noqa: E731
    found = planted(lambda s, b: s, noise(1), layers=gone)
    cells = found.cells()
    np.testing.assert_allclose(cells["similarity"], cells["score"])
    assert "1 of 2 layers are in no mean, as some pair has no value there (1)." in found.in_words()
    assert "mean over layers with a value for every pair" in found.pairs_figure().layout.xaxis.title.text


def test_the_seed_is_that_of_the_bootstrap():
    one, again, other = (planted(noise(1), noise(2), "abcdefg", seed=seed) for seed in (0, 0, 7))
    for view in ("all", "layer", "control"):
        pd.testing.assert_frame_equal(one.view(view).table, again.view(view).table)
        low = [t.view(view).rows()[2]["low"].to_numpy() for t in (one, other)]
        assert np.isfinite(low).all() and (low[0] != low[1]).all() and other.view(view).manifest["seed"] == 7
