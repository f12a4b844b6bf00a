"""F3: its words follow the numbers, training has no verdict, nothing that is given is swallowed."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from quick_training import quick  # noqa: F401 (for the whole file)
from state import unchanged
from test_experiments import FOUR, RECIPE, TASKS, never, reviews
from test_parameters import saved
from tiny import tiny_model

from neuroscope.attribution import attribute
from neuroscope.comparison.parameters import parameter_similarity
from neuroscope.comparison.parameters.bands import ALL
from neuroscope.errors import ArgumentError, FileError, TaskError
from neuroscope.experiments import ParameterDepth, cross_training, parameter_depth, trials
from neuroscope.experiments.trials import Trials
from neuroscope.training import NeuronAdapter


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def masks(model):
    return {name: s.top(0.2) for name, s in attribute(model, TASKS).items()}


@pytest.fixture(scope="module")
def four(model):
    return {name: s.top(0.2) for name, s in attribute(model, FOUR).items()}


def test_depth_is_parameter_similarity_of_models_trained_by_hand(model, four):
    with unchanged(model.root):
        found = parameter_depth(model, FOUR, four, n_random=4, seed=3, recipe=RECIPE)
    assert isinstance(found, ParameterDepth)
    for name in four:
        adapter = trials.finetune(model, FOUR[name], four[name], seed=3, **RECIPE)
        adapter.merge()
        alone = parameter_similarity({name: model}, four, n_random=4, seed=3).table
        adapter.unmerge()
        adapter.detach()
        rows = found.table[found.table["a"] == name].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, alone)
    means = found.table.groupby("layer")["value"].mean()
    np.testing.assert_allclose(found.summary()["value"], means)
    before = parameter_similarity(model, four, n_random=3).by_layer()
    np.testing.assert_allclose(found.summary()["untrained"], before[before["task"] == ALL]["value"])
    assert not np.allclose(found.summary()["untrained"], found.summary()["value"])
    dotted = found.figure().data[-1]
    assert "before training" in dotted.name
    np.testing.assert_allclose(dotted.y, found.summary()["untrained"])


def test_depth_of_the_one_model_given_trains_nothing(model, four, monkeypatch):
    monkeypatch.setattr(trials, "finetune", never)
    found = parameter_depth(model, None, four, n_random=4)
    pd.testing.assert_frame_equal(found.table, parameter_similarity(model, four, n_random=4).table)
    assert found.summary()["untrained"].isna().all() and "inside the model given" in found.in_words()
    assert "before training" not in [trace.name for trace in found.figure().data]


def test_trained_adapters_are_kept_and_read(model, four, tmp_path, monkeypatch):
    two = {name: four[name] for name in ("yes", "turned")}
    first = parameter_depth(model, TASKS, two, n_random=3, output=tmp_path, recipe=RECIPE)
    assert len(list(tmp_path.glob("adapters/*.safetensors"))) == 2
    with pytest.raises(AssertionError):  # another recipe is another training
        monkeypatch.setattr(trials, "finetune", never)
        parameter_depth(model, TASKS, two, n_random=3, output=tmp_path, recipe=RECIPE | {"lr": 0.01})
    again = parameter_depth(model, TASKS, two, n_random=3, output=tmp_path, recipe=RECIPE)
    pd.testing.assert_frame_equal(first.table, again.table)


def test_the_base_is_put_back_after_an_error(model, four, monkeypatch):
    real, calls = trials.finetune, []

    def fails(*args, **settings):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **settings)

    monkeypatch.setattr(trials, "finetune", fails)
    with unchanged(model.root), pytest.raises(KeyboardInterrupt):
        parameter_depth(model, FOUR, four, n_random=3, recipe=RECIPE)


def made_up(values, before, band=(0.1, 0.2), band_before=(0.1, 0.2), draws=20, cells=None, tasks=""):
    """F3 of means by layer that were made up; the two pairs' cells are `cells`, else the means."""
    n = len(values)
    ends = {name: [v] * n for name, v in zip(("low", "high"), band, strict=True)}
    numbers = {"value": list(values), **ends, "layer": list(range(n)), "block": [f"blocks.{i}" for i in range(n)]}
    rows = {**numbers, "pairs": [2] * n, "gaps": [0] * n}
    labels = [*tasks, ALL]
    by_task = {"task": [t for t in labels for _ in range(n)]} | {c: v * len(labels) for c, v in rows.items()}
    rows = [
        {"a": a, "b": b, "layer": i, "value": v, "low": band[0], "high": band[1], "reason": ""}
        for a, b in (("a", "b"), ("b", "a"))
        for i, v in enumerate(values if cells is None else cells)
    ]
    about = {"by_layer": {"value": {"tasks": by_task}}, "n_random": draws, "estimator": "masked", "per_task": True}
    ends = {name: [v] * n for name, v in zip(("low", "high"), band_before, strict=True)}
    about |= {"untrained": {"value": before, **ends}, "touched": 0.104, "part": "all", "other": False}
    about |= {"blocks": numbers["block"], "masks": {"a": {}, "b": {}}}
    about["by_layer"]["value"]["random"] = {"value": [0.15] * n, "low": [band[0]] * n, "high": [band[1]] * n}
    return ParameterDepth(pd.DataFrame(rows), about)


def test_words_beside_random_masks():
    """20 draws: a further one is above the band with a chance of (0.025 * 19 + 1) / 21 = 0.0702."""
    words = made_up([0.15, 0.7, 0.5, 0.5], [0.1] * 4, cells=[0.15, 0.7, 0.05, 0.5]).in_words()
    assert "**0.463** (mean over 4 layers and 2 pairs): highest in layer 1 (0.700), lowest in layer 0" in words
    assert "0.150 (middle of the band of 20 draws)" in words
    assert "above their band in **3 of 4** layers (0.3 by chance alone)" in words
    assert "single pairs in 4 of 8 (0.6 by chance alone)" in words
    assert "**A negative**: in layer 0 the tasks' neurons are no more alike than random ones" in words
    nothing = made_up([np.nan], [0.1])
    nothing = dataclasses.replace(nothing, table=nothing.table.assign(reason="no neuron"))
    assert nothing.in_words() == "- **A negative**: in no layer is there a similarity (no neuron)."


def test_words_of_training():
    """The distances to the middle of the band, 0.15 after training, and before it 0.15 or 0.25."""
    learnt = made_up([0.3, 0.8, 0.7], [0.35, 0.2, 0.7]).in_words()
    assert "- Training the neurons changed the mean by at most +0.6000 (layer 1). From the middle of" in learnt
    assert "it is +0.450 away, and before training it was +0.267 away from theirs (59% of that)." in learnt
    assert "all of a task's neurons and about 10% of a random mask's, so that their changes cannot be comp" in learnt
    assert "at most -0.6000 (layer 0)" in made_up([0.3, 0.7], [0.9, 0.705]).in_words()
    same = made_up([0.5, 0.7], [0.495, 0.709]).in_words()
    assert "+0.450 away, and before training it was +0.452 away from theirs (100% of that)" in same
    own = made_up([0.5, 0.7], [0.495, 0.709], band_before=(0.2, 0.3)).in_words()  # its own band
    assert "+0.352 away from theirs (78% of that)" in own
    low = made_up([0.1, 0.1], [0.14, 0.14]).in_words()
    assert "it is -0.050 away, and before training it was -0.010 away from theirs." in low
    assert "it was -0.010 away from theirs." in made_up([0.3, 0.3], [0.14, 0.14]).in_words()
    assert "no similarity before training" in made_up([0.5], [None]).in_words()


def test_random_masks_as_the_tasks_masks_are_no_finding(model):
    """What training does to all neurons of a random mask is no finding, though it does less to other random masks."""
    tasks = TASKS | {"yes": reviews("yes", ("no", "yes"), 0, family="straight")}
    drawn = {name: s.top(0.2).random_like(seed=1, match="layer") for name, s in attribute(model, tasks).items()}
    found = parameter_depth(model, tasks, drawn, n_random=20, seed=2, recipe=RECIPE)
    said = [line for line in found.in_words().splitlines() if "raining" in line.split("**")[0]]
    assert len(said) == 2 and not any("**" in line for line in said)
    assert "cannot be compared" in said[1] and "above their band in **0 of 2** layers" in found.in_words()
    columns = ["value", "low", "high", "untrained", "untrained_low", "untrained_high", "pairs", "gaps"]
    assert list(found.summary().columns[2:]) == columns
    assert repr(found).startswith("ParameterDepth(masked cosine, 3 masks")


def test_before_training_and_what_training_touches(model, masks):
    found = parameter_depth(model, TASKS, masks, n_random=6, seed=2, recipe=RECIPE)
    before = parameter_similarity(model, masks, n_random=6, seed=2).by_layer().query("task == @ALL")
    for name in ("value", "low", "high"):
        column = "untrained" if name == "value" else f"untrained_{name}"
        assert found.summary()[column].tolist() == before[name].tolist()
    hit = [
        np.mean([len(mask & mask.random_like(seed=s, match="layer")) / len(mask) for s in range(200)])
        for mask in masks.values()
    ]
    assert found.manifest["touched"] == pytest.approx(np.mean(hit), abs=0.01)


def test_the_figure_shows_the_mean_over_all_pairs_before_and_after():
    found = made_up([0.3, 0.8], [0.35, 0.2])
    many = made_up([0.3, 0.8], [0.35, 0.2], tasks="abcdefgh")
    few = made_up([0.3, 0.8], [0.35, 0.2], tasks="ab")
    for shown, names in ((found, []), (few, ["a", "b"]), (many, [])):
        figure = shown.figure()
        assert [t.name for t in figure.data[2:]] == [*names, "all pairs, after training", "all pairs, before training"]
        after, before = figure.data[-2:]
        assert (list(after.y), list(before.y)) == ([0.3, 0.8], [0.35, 0.2])
        assert (after.line.dash, before.line.dash, after.line.color) == ("solid", "dot", before.line.color)
        assert figure.layout.legend.orientation == "h"
    words = {
        name: made.figure().layout.title.subtitle.text.replace("<br>", " ")
        for name, made in (("few", few), ("many", many))
    }
    assert "95 % of a single task's mean over 20 draws" in words["few"]
    assert words["few"].endswith("the band of the mean over all pairs is narrower")
    assert words["many"].endswith("the band is that of the mean over all pairs") and "single" not in words["many"]


def test_arguments_of_training_need_tasks(model, masks, tmp_path):
    for given in ({"recipe": {"lr": 0.1}}, {"output": tmp_path / "none"}):
        with pytest.raises(ArgumentError, match=rf"{next(iter(given))}=\.\.\..*\n.*no tasks to train on"):
            parameter_depth(model, None, masks, **given)
    seen = []
    found = parameter_depth(model, None, masks, n_random=3, progress=lambda items, desc: seen.append(desc) or items)
    assert seen == ["similarity of parameters"] and found.summary()["untrained_low"].isna().all()
    assert not (tmp_path / "none").exists()
    for wrong in ({"recipe": {"lr": -5}}, {"recipe": {"steps": "x"}}, {"n": 3}, {"output": 3}):
        with pytest.raises(ArgumentError):
            parameter_depth(model, TASKS, masks, **wrong)


def test_no_test_example_is_needed_or_reported(model, masks):
    blind = {name: dataclasses.replace(task, test=()) for name, task in TASKS.items()}
    found = parameter_depth(model, blind, masks, n_random=3, recipe=RECIPE)
    training = found.manifest["training"]
    assert not {"split", "n", "seen"} & training.keys()
    assert training["seed"] == 0 and training["recipe"]["lr"] == 0.02 and set(training["data_hash"]) == set(TASKS)
    with pytest.raises(TaskError, match="test examples"):
        cross_training(model, blind, masks, seeds=3, recipe=RECIPE)


def test_what_it_has_trained_is_not_trained_again(model, masks, tmp_path, monkeypatch):
    names = list(masks)
    parameter_depth(model, TASKS, masks, n_random=3, seed=1, output=tmp_path, recipe=RECIPE)
    fresh = Trials(model, TASKS, names, RECIPE).after(masks["yes"], ["yes"], 1, names)
    monkeypatch.setattr(trials, "finetune", never)
    kept = Trials(model, TASKS, names, RECIPE, output=tmp_path)
    found = kept.after(masks["yes"], ["yes"], 1, names)
    for name in names:
        np.testing.assert_array_equal(found[name], fresh[name])
    for other in ((masks["yes"], ["yes"], 0), (masks["maybe"], ["yes"], 1), (masks["yes"], ["maybe"], 1)):
        with pytest.raises(AssertionError):
            kept.after(*other, names)


def test_an_adapter_that_cannot_be_saved_leaves_the_base(model, masks, tmp_path, monkeypatch):
    def refuse(self, path):
        raise FileError(f"write {path}", "a full disk", "make room")

    monkeypatch.setattr(NeuronAdapter, "save", refuse)
    before = model.fingerprint()
    with pytest.raises(FileError, match="full disk"):
        parameter_depth(model, TASKS, masks, n_random=3, output=tmp_path, recipe=RECIPE)
    assert model.fingerprint() == before


def test_figure_3_from_a_folder_and_adapters(model, masks, tmp_path):
    """M_i = base + adapter_i, with nothing opened that must be trained."""
    folder, models = saved(model.root, tmp_path / "base"), {}
    for name, mask in masks.items():
        adapter = trials.finetune(model, TASKS[name], mask, seed=0, **RECIPE)
        models[name] = (folder, adapter.save(tmp_path / f"{name}.safetensors"))
        adapter.detach()
    found = parameter_depth(models, None, masks, n_random=3)
    trained = parameter_depth(model, TASKS, masks, n_random=3, recipe=RECIPE)
    for column in ("value", "low", "high"):
        np.testing.assert_allclose(found.table[column], trained.table[column], rtol=1e-5)
    assert "inside the models trained on one task each" in found.in_words()


def test_the_legend_is_on_top_where_nothing_is_trained_too(model, masks):
    figure = parameter_depth(model, None, masks, n_random=3).figure()
    assert figure.layout.legend.orientation == "h" and figure.data[-1].name == list(masks)[-1]
