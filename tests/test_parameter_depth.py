"""F3: its words follow the numbers, training stands beside random masks, nothing that is given is swallowed."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from conftest import tiny_model
from test_experiments import RECIPE, TASKS, never
from test_parameters import saved

from neuroscope.attribution import attribute
from neuroscope.errors import ArgumentError, FileError, TaskError
from neuroscope.experiments import ParameterDepth, cross_training, parameter_depth, trials
from neuroscope.experiments.trials import Trials
from neuroscope.parameters import parameter_similarity
from neuroscope.parameters.result import ALL
from neuroscope.training import finetune


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def masks(model):
    return {name: s.top(0.2) for name, s in attribute(model, TASKS).items()}


def made_up(values, before, change=(-0.01, 0.01), band=(0.1, 0.2), controls=20, cells=None):
    """F3 of means by layer that were made up; the two pairs' cells are `cells`, else the means."""
    n = len(values)
    ends = {name: [v] * n if controls else [None] * n for name, v in zip(("low", "high"), band, strict=True)}
    numbers = {"value": list(values), **ends, "layer": list(range(n)), "block": [f"blocks.{i}" for i in range(n)]}
    tasks = {"task": [ALL] * n, **numbers, "pairs": [2] * n, "gaps": [0] * n}
    rows = [
        {"a": a, "b": b, "layer": i, "value": v, "low": band[0], "high": band[1], "reason": ""}
        for a, b in (("a", "b"), ("b", "a"))
        for i, v in enumerate(values if cells is None else cells)
    ]
    about = {"by_layer": {"value": {"tasks": tasks}}, "controls": controls, "estimator": "masked", "per_task": True}
    about |= {"untrained": before, "random_change": [[end if controls else None] * n for end in change]}
    return ParameterDepth(pd.DataFrame(rows), about)


def test_words_beside_random_masks():
    """20 draws: a further one is above the band with a chance of (0.025 * 19 + 1) / 21 = 0.0702."""
    words = made_up([0.15, 0.7, 0.5, 0.5], [0.1] * 4, cells=[0.15, 0.7, 0.05, 0.5]).in_words()
    assert "**0.463** (mean over 4 layers and 2 pairs): highest in layer 1 (0.700), lowest in layer 0" in words
    assert "0.150 (middle of the band of 20 draws)" in words
    assert "above their band in **3 of 4** layers (0.3 by chance alone)" in words
    assert "single pairs in 4 of 8 (0.6 by chance alone)" in words
    assert "**A negative**: in layers 0 the tasks' neurons are no more alike than random ones" in words
    nothing = made_up([np.nan], [0.1])
    nothing = dataclasses.replace(nothing, table=nothing.table.assign(reason="no neuron"))
    assert nothing.in_words() == "- **A negative**: in no layer is there a similarity (no neuron)."


def test_words_of_training():
    """The change of the mean beside that of random masks: 2 * 0.0702 a layer leave their band by chance."""
    learnt = made_up([0.3, 0.8, 0.7], [0.35, 0.2, 0.7]).in_words()
    assert "- Training the neurons changed the mean by at most +0.6000 (layer 1), that of random masks by" in learnt
    assert "-0.0100 to +0.0100 there. It leaves their band in **2 of 3** layers (0.4 by chance alone)." in learnt
    assert "Most of the curve" in learnt  # 0.267 of 0.45 above random
    fallen = made_up([0.3, 0.7], [0.9, 0.705]).in_words()
    assert "at most -0.6000 (layer 0)" in fallen and "**1 of 2** layers (0.3 by chance" in fallen
    most = made_up([0.5, 0.7], [0.2, 0.3]).in_words()
    assert "A negative" not in most
    same = made_up([0.5, 0.7], [0.495, 0.709]).in_words()
    assert "- **A negative**: training the neurons changed the mean by at most -0.0090 (layer 1)" in same
    assert "in **0 of 2** layers" in same
    assert "**A negative**: the mean lies 0.450 above random masks, and before training 0.452. Most of" in same
    seven = made_up([0.5] * 7 + [0.52], [0.5] * 8).in_words()  # one of eight layers, where 1.1 do by chance
    assert "**A negative**: training the neurons changed the mean by at most +0.0200 (layer 7)" in seven
    low = made_up([0.1, 0.1], [0.14, 0.14]).in_words()
    assert "Most of the curve" not in low  # there is no distance to random masks
    assert "no similarity before training" in made_up([0.5], [None]).in_words()


def test_without_random_masks_there_is_no_verdict():
    words = made_up([0.5, 0.7], [0.5, 0.69], controls=0).in_words()
    assert "changed the mean by at most +0.0100 (layer 1); without random masks there is nothing to compare" in words
    assert "A negative" not in words and "Random masks of" not in words


def test_the_change_of_random_masks_is_theirs_over_the_same_training(model, masks):
    found = parameter_depth(model, masks, TASKS, controls=6, seed=2, **RECIPE)

    def drawn(given, chosen):
        return np.array(parameter_similarity(given, chosen, controls=6, seed=2).manifest["by_layer"]["value"]["drawn"])

    after = []
    for name in masks:
        adapter = finetune(model, TASKS[name], masks[name], seed=2, **RECIPE)
        adapter.merge()
        after.append(drawn({name: model}, masks))
        adapter.unmerge()
        adapter.detach()
    change = np.mean(after, axis=0) - drawn(model, masks)
    summary = found.summary()
    np.testing.assert_allclose(summary["change_low"], np.quantile(change, 0.025, axis=1))
    np.testing.assert_allclose(summary["change_high"], np.quantile(change, 0.975, axis=1))
    assert (summary["change_low"] < summary["change_high"]).all()
    assert list(summary.columns[2:8]) == ["value", "low", "high", "untrained", "change_low", "change_high"]


def test_arguments_of_training_need_tasks(model, masks, tmp_path):
    for given in ({"lr": -5}, {"steps": "x"}, {"n": -3}, {"output": tmp_path / "none"}, {"journal": None}):
        with pytest.raises(ArgumentError, match=rf"{next(iter(given))}=\.\.\..*\n.*no tasks to train on"):
            parameter_depth(model, masks, **given)
    seen = []
    found = parameter_depth(model, masks, controls=0, progress=lambda items, what: seen.append(what) or items)
    assert seen == ["similarity of parameters"] and found.summary()["change_low"].isna().all()
    assert not (tmp_path / "none").exists()
    for wrong in ({"lr": -5}, {"steps": "x"}, {"adapters": tmp_path}):
        with pytest.raises(ArgumentError):
            parameter_depth(model, masks, TASKS, **wrong)


def test_no_test_example_is_needed_or_reported(model, masks):
    blind = {name: dataclasses.replace(task, test=()) for name, task in TASKS.items()}
    found = parameter_depth(model, masks, blind, controls=0, **RECIPE)
    training = found.manifest["training"]
    assert not {"split", "n", "seen"} & training.keys()
    assert training["seed"] == 0 and training["recipe"]["lr"] == "0.02" and set(training["data_hash"]) == set(TASKS)
    with pytest.raises(TaskError, match="test examples"):
        cross_training(model, masks, blind, seeds=2, **RECIPE)


def test_what_it_has_trained_is_not_trained_again(model, masks, tmp_path, monkeypatch):
    names = list(masks)
    parameter_depth(model, masks, TASKS, controls=0, seed=1, output=tmp_path, **RECIPE)
    fresh = Trials(model, TASKS, names, RECIPE, "measure").after(masks["yes"], ["yes"], 1, names)
    monkeypatch.setattr(trials, "finetune", never)
    kept = Trials(model, TASKS, names, {**RECIPE, "adapters": tmp_path}, "measure")
    found = kept.after(masks["yes"], ["yes"], 1, names)
    for name in names:
        np.testing.assert_array_equal(found[name], fresh[name])
    for other in ((masks["yes"], ["yes"], 0), (masks["maybe"], ["yes"], 1), (masks["yes"], ["maybe"], 1)):
        with pytest.raises(AssertionError):
            kept.after(*other, names)


def test_an_adapter_that_cannot_be_saved_leaves_the_base(model, masks, tmp_path):
    (tmp_path / "file").write_text("no folder")
    before = model.fingerprint()
    with pytest.raises(FileError):
        parameter_depth(model, masks, TASKS, controls=0, output=tmp_path / "file", **RECIPE)
    assert model.fingerprint() == before


def test_figure_3_from_a_folder_and_adapters(model, masks, tmp_path):
    """M_i = base + adapter_i, with nothing opened that must be trained."""
    folder, models = saved(model.root, tmp_path / "base"), {}
    for name, mask in masks.items():
        adapter = finetune(model, TASKS[name], mask, seed=0, **RECIPE)
        models[name] = (folder, adapter.save(tmp_path / f"{name}.safetensors"))
        adapter.detach()
    found = parameter_depth(models, masks, controls=3)
    trained = parameter_depth(model, masks, TASKS, controls=3, **RECIPE)
    for column in ("value", "low", "high"):
        np.testing.assert_allclose(found.table[column], trained.table[column], rtol=1e-5)
    assert "inside the models trained on one task each" in found.in_words()
