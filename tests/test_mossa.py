"""MOSSA: planted control models give the planted curves; training leaves the base alone; figures have the numbers."""

import copy
import re

import numpy as np
import pandas as pd
import pytest
import torch
from browser import needs_chromium, opened
from quick_training import finetune as quick_finetune
from state import unchanged

from neuroscope.comparison.hidden_states import Representations, representations
from neuroscope.comparison.segmentation import segment
from neuroscope.comparison.similarity import cka, permutation_null, variance_dimension
from neuroscope.errors import ArgumentError, ModelError, NumericalError, TaskError
from neuroscope.experiments import Mossa, mossa
from neuroscope.experiments.layer_by_layer import (
    by_cluster,
    by_layer,
    component_counts,
    controls,
    held_out_tasks,
    layer_segments,
)
from neuroscope.experiments.layer_by_layer.mossa_table import ALL, MULTI, PRE, MossaTable
from neuroscope.models import load
from neuroscope.reports.page import write_report
from neuroscope.results import Section
from neuroscope.tasks import Example, Task
from neuroscope.training import LoraAdapter, every_ffn, finetune, train

RECIPE = {"steps": 3, "lr": 1e-2, "batch_size": 8}
NOUNS, VERBS, ENDS = ["food", "film", "story", "plot", "soup"], ["was", "so", "very"], ["good", "bad", "great", "awful"]


def task(name, family, answer, ends=ENDS, train=12):
    """Prompts of three words; different answers for different tasks."""
    texts = [f"the {noun} {verb} {end}" for noun in NOUNS for verb in VERBS for end in ends]
    order = np.random.default_rng(len(name)).permutation(len(texts))
    made = [Example(texts[i], answer) for i in order]
    return Task(name, train=made[:train], test=made[-16:], family=family, max_new_tokens=1)


TASKS = {"mood": task("mood", "feeling", "yes"), "taste": task("taste", "feeling", "no")}
COLON = [Example(f"the {n} {verb} {end} :", "maybe") for n in NOUNS[:4] for verb in VERBS[:2] for end in ENDS[:2]]
TASKS["colon"] = Task("colon", train=COLON[:6], test=COLON, family="form", max_new_tokens=1)  # the last token is one


def changed(base, layer, seed=0, scale=0.4):
    """A copy of a model whose block `layer` has other FFN weights."""
    root = copy.deepcopy(base.root)
    weight = root.model.layers[layer].mlp.down_proj.weight
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        weight.add_(scale * noise)
    return load(root, tokenizer=base.tokenizer)


@pytest.fixture(scope="module")
def base():
    from tiny import tiny_model

    return tiny_model()


@pytest.fixture(scope="module")
def planted(base):
    """Control models that differ from the base in the last block alone; the multi-task model from its first on."""
    made = {name: changed(base, 1, seed=i) for i, name in enumerate(TASKS)}
    return mossa(base, TASKS, tuned=changed(base, 0, seed=9), controls=made, held_out=["taste"], null=30, share=0.9)


def cells(found, **where):
    rows = found.table
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return rows


def test_equal_layers_have_cka_one_and_others_less(planted):
    pre = planted.values()
    np.testing.assert_allclose(pre.loc[["mood", "taste"], [0, 1]], 1, atol=1e-6)
    assert (pre[2] < 0.999).all()
    multi = planted.values("cka", "multi-task")
    np.testing.assert_allclose(multi.loc[["mood", "taste"], 0], 1, atol=1e-6)
    assert (multi[1] < 0.999).all()


def test_the_values_are_cka_of_the_two_representations(base, planted):
    other = changed(base, 1, seed=1)
    e, c = (representations(m, TASKS["taste"])["taste"] for m in (base, other))
    row = cells(planted, task="taste", model="pre-trained", measure="cka", layer=2).iloc[0]
    assert row["value"] == pytest.approx(cka(e[2], c[2]), abs=1e-6)
    band = permutation_null(e[2], c[2], null=30, seed=0)
    assert (row["low"], row["high"]) == (pytest.approx(band.low), pytest.approx(band.high))
    assert row["p"] == pytest.approx(band.p)
    assert row["held_out"] and row["family"] == "feeling" and row["reason"] == ""
    seeded = mossa(base, TASKS["taste"], tuned=None, controls={"taste": other}, null=9, seed=3)
    band = permutation_null(e[2], c[2], null=9, seed=3)
    row = cells(seeded, measure="cka", layer=2).iloc[0]
    assert (row["low"], row["high"], row["p"]) == (pytest.approx(band.low), pytest.approx(band.high), band.p)
    default = mossa(base, TASKS["taste"], tuned=None, controls={"taste": other})
    assert default.manifest["null"] == 100 and cells(default, measure="cka")["p"].min() == pytest.approx(1 / 101)
    biased = mossa(base, TASKS["taste"], tuned=None, controls={"taste": other}, debiased=False, null=0)
    assert biased.table[["low", "high", "p", "q"]].isna().all(None)
    assert biased.values().loc["taste", 2] == pytest.approx(cka(e[2], c[2], debiased=False), abs=1e-6)
    assert biased.models == ["pre-trained"] and cells(biased, task=ALL).empty


def test_constant_layers_are_gaps_with_their_reason(planted):
    gaps = cells(planted, task="colon", layer=0)
    assert gaps["value"].isna().all() and gaps["reason"].str.contains("constant activations").all()
    assert cells(planted, task="colon", layer=1)["value"].notna().all()
    subtitle = by_layer.boxes(planted).layout.title.subtitle.text.replace("<br>", " ")
    assert "2 values at the embedding are missing: constant act" in subtitle
    for view in (planted.by_layer(), planted.by_cluster(), planted.held_out()):
        assert "2 values at the embedding are missing" in view.in_words()


def test_q_is_of_all_cka_of_the_table():
    """Of four layers one is the same, one constant, and two are unrelated."""
    rng = np.random.default_rng(0)
    e, c = rng.normal(size=(2, 4, 16, 6))
    c[0], c[1] = e[0], 1
    found = mossa({"mood": e}, TASKS["mood"], tuned=None, controls={"mood": c}, null=99)
    rows = cells(found, measure="cka")
    p = [rows["p"].iloc[layer] for layer in (0, 2, 3)]
    assert p[0] == 0.01 < 0.05 < min(p[1:]) and np.isnan([rows["p"].iloc[1], rows["q"].iloc[1]]).all()
    expected = [3 * 0.01, min(1.5 * min(p[1:]), max(p)), max(p)]
    assert sorted(rows["q"].dropna()) == pytest.approx(expected)
    assert cells(found, measure="dimension")[["p", "q"]].isna().all(None)


def test_dimensions(base, planted):
    reps = representations(base, TASKS)
    row = cells(planted, task="mood", model="pre-trained", measure="dimension", layer=1).iloc[0]
    assert row["value"] == variance_dimension(reps["mood"][1], 0.9) and row["limit"] == 15
    pooled = cells(planted, task=ALL, model="pre-trained", layer=2).iloc[0]
    together = np.concatenate([reps[t][2] for t in TASKS])
    assert pooled["value"] == variance_dimension(together, 0.9) and pooled["limit"] == 32
    assert len(cells(planted, measure="dimension")) == 2 * 3 * 4


@pytest.mark.parametrize("method", ["full", "ffn", "lora", "mask"])
def test_trained_controls_equal_training_by_hand_and_leave_the_base(method, tiny_model):
    model, one = tiny_model(), TASKS["mood"]
    mask = every_ffn(model)
    options = {"rank": 2, "alpha": 8} if method == "lora" else {}
    with unchanged(model.root):
        found = mossa(
            model, one, tuned=None, method=mask if method == "mask" else method, recipe=RECIPE, options=options
        )
    if method == "lora":
        handle = LoraAdapter(model, 2, 8)
        train(handle, [one], RECIPE)
    else:
        handle = finetune(model, one, {"full": None, "ffn": "ffn", "mask": mask}[method], **RECIPE)
    tuned = representations(handle.model, one)["mood"]
    handle.detach()
    own = representations(model, one)["mood"]
    for layer in range(3):
        assert found.values().loc["mood", layer] == pytest.approx(cka(own[layer], tuned[layer]), abs=1e-6)
    assert found.values().loc["mood", 2] < 0.9999
    assert found.manifest["method"] == (f"mask {mask.identity}" if method == "mask" else method)
    assert found.manifest["trained_controls"] and RECIPE.items() <= found.manifest["recipe"].items()
    assert found.manifest["options"] == options


def test_the_base_is_put_back_after_an_error(tiny_model, monkeypatch):
    model, calls, real = tiny_model(), [], controls.representations

    def fails(*args, **settings):
        calls.append(args)
        if len(calls) == 2:  # of the control model
            raise KeyboardInterrupt
        return real(*args, **settings)

    monkeypatch.setattr(controls, "representations", fails)
    with unchanged(model.root), pytest.raises(KeyboardInterrupt):
        mossa(model, TASKS["mood"], tuned=None, recipe=RECIPE)
    assert len(calls) == 2


def test_finished_tasks_are_not_trained_again(tiny_model, tmp_path, monkeypatch):
    model, two = tiny_model(), [TASKS["mood"], TASKS["taste"]]
    trained, fails_at = [], 0

    def counted(model, tasks, mask, **recipe):
        trained.append([t.name for t in tasks])
        if len(trained) == fails_at:
            raise KeyboardInterrupt
        return quick_finetune(model, tasks, mask, **recipe)

    monkeypatch.setattr(controls, "finetune", counted)
    uninterrupted = mossa(model, two, recipe=RECIPE)
    trained.clear()
    fails_at = 3
    with unchanged(model.root), pytest.raises(KeyboardInterrupt):
        mossa(model, two, recipe=RECIPE, output=tmp_path)
    assert trained == [["mood", "taste"], ["mood"], ["taste"]]
    (folder,) = (tmp_path / "mossa").iterdir()
    (folder / "controls" / "001").mkdir()  # begun, and not finished
    trained.clear()
    fails_at = 0
    found = mossa(model, two, recipe=RECIPE, output=tmp_path)
    assert trained == [["taste"]]
    np.testing.assert_allclose(found.table["value"], uninterrupted.table["value"], atol=1e-6)
    for other in ({"recipe": {**RECIPE, "steps": 4}}, {"at": "mean"}, {"method": "ffn"}, {"seed": 1}, {"n": 8}):
        trained.clear()
        mossa(model, two, **{"recipe": RECIPE, **other}, output=tmp_path, null=0)  # has a folder of its own
        assert len(trained) == 3, other
    trained.clear()
    mossa(tiny_model(seed=1), two, recipe=RECIPE, output=tmp_path, null=0)
    assert len(trained) == 3 and len(list((tmp_path / "mossa").iterdir())) == 7
    trained.clear()
    mossa(model, two, recipe=RECIPE, output=tmp_path, null=3, share=0.5)  # what is only computed is computed again
    assert trained == []


def test_the_multi_task_model_does_not_learn_what_is_held_out(tiny_model, monkeypatch):
    learnt = []
    monkeypatch.setattr(
        controls,
        "finetune",
        lambda m, tasks, mask, **r: learnt.append([t.name for t in tasks]) or quick_finetune(m, tasks, mask, **r),
    )
    watched = []
    found = mossa(
        tiny_model(), TASKS, recipe=RECIPE, held_out="taste",
        progress=lambda loop, desc: watched.append((len(loop), desc)) or loop,
    )  # fmt: skip
    assert learnt == [["mood", "colon"], ["mood"], ["taste"], ["colon"]]
    assert watched == [(3, "control models")]
    assert set(cells(found, held_out=True)["task"]) == {"taste"}


def test_models_representations_and_arrays_are_equal_ways_to_give_a_model(base, tmp_path):
    one, other, multi = TASKS["mood"], changed(base, 1), changed(base, 0)
    expected = mossa(base, one, tuned=multi, controls={"mood": other}).table
    folder = tmp_path / "control"
    other.root.save_pretrained(folder)
    other.tokenizer.save_pretrained(folder)
    assert mossa(base, one, tuned=multi, controls={"mood": folder}).table.equals(expected)
    reps = {name: representations(m, one) for name, m in (("e", base), ("c", other), ("m", multi))}
    assert mossa(reps["e"], one, tuned=reps["m"], controls={"mood": reps["c"]}).table.equals(expected)
    assert mossa({"mood": reps["e"]["mood"]}, one, tuned=reps["m"], controls={"mood": reps["c"]["mood"]}).table.equals(
        expected
    )


def test_boxes_show_the_table(planted):
    figure = by_layer.boxes(planted)
    band, *entries = figure.data[:3]
    boxes = figure.data[3:]
    assert [(t.name, t.showlegend) for t in entries] == [(m, None) for m in planted.models]
    assert not any(box.showlegend for box in boxes)
    assert [b.name for b in boxes] == ["pre-trained", "multi-task"] * 5  # all tasks, a cluster of two, each task
    assert [b.visible for b in boxes] == [True, True] + [False] * 8
    for box, model in zip(boxes, planted.models, strict=False):
        rows = cells(planted, model=model, measure="cka").dropna(subset=["value"])
        shown = sorted(zip(box.x, box.y, box.customdata, strict=True))
        names = ["emb", "1", "2"]
        assert shown == sorted((names[r["layer"]], r["value"], r["task"]) for r in rows.to_dict("records"))
    assert set(boxes[8].customdata) == {"colon"} and boxes[0].offsetgroup != boxes[1].offsetgroup
    assert figure.layout.boxmode == "group"
    menu = figure.layout.updatemenus[0].buttons
    assert [b.label for b in menu] == ["all tasks", "cluster: feeling", *TASKS]
    assert list(menu[1].args[0]["visible"]) == [True] * 3 + [False, False, True, True] + [False] * 6
    low = cells(planted, measure="cka", layer=2)["low"].mean()
    assert band.y[-1] == pytest.approx(cells(planted, measure="cka", layer=0)["low"].mean())
    assert low in [pytest.approx(v) for v in band.y]
    assert len(by_layer.boxes(planted, band=False).data) == 12
    shown = {task for box in planted.figure().data for task in (box.customdata if box.customdata is not None else ())}
    assert shown == {"mood", "colon"}  # taste is held out


def test_panels_by_cluster_and_by_held_out(planted):
    clusters = by_cluster.panels(planted)
    assert [a.text for a in clusters.layout.annotations] == ["feeling", "form"]
    assert [(t.name, t.mode) for t in clusters.data[:2]] == [(m, "markers") for m in planted.models]  # the legend
    assert [(t.name, set(t.customdata)) for t in clusters.data[2:]] == [
        ("pre-trained", {"mood", "taste"}), ("multi-task", {"mood", "taste"}),
        ("pre-trained", {"colon"}), ("multi-task", {"colon"}),
    ]  # fmt: skip
    assert [t.showlegend for t in clusters.data] == [None, None, False, False, False, False]
    out = planted.held_out().figure()
    assert [a.text for a in out.layout.annotations] == ["tasks learnt", "held-out tasks"]
    assert set(out.data[4].customdata) == {"taste"} and set(out.data[2].customdata) == {"mood", "colon"}
    values = cells(planted, measure="cka", task="taste", model="multi-task")["value"]
    assert list(out.data[5].y) == list(values)


def test_curves_of_dimensions(planted):
    figure = planted.dimensions().figure()
    thick = [t for t in figure.data if t.mode == "lines+markers" and t.name != "features shuffled"]
    for trace, model in zip(thick, planted.models, strict=True):
        assert list(trace.y) == list(cells(planted, task=ALL, model=model)["value"])
    thin = [t.name for t in figure.data if t.mode == "lines"]
    assert thin == [*TASKS, *TASKS, "features shuffled: band"]
    shown = figure.layout.updatemenus[0].buttons[list(TASKS).index("colon") + 2].args[0]["visible"]
    assert [t.name for t, on in zip(figure.data, shown, strict=True) if on][:4] == [
        "pre-trained", "colon", "multi-task", "colon",
    ]  # fmt: skip
    assert figure.layout.yaxis.title.text == "components for 90 % of the variance"


def test_words_have_the_numbers(planted):
    curve, clusters, out = (" ".join(part.words(planted)) for part in (by_layer, by_cluster, held_out_tasks))
    rows = cells(planted, measure="cka").dropna(subset=["value"])
    medians = rows[rows["model"] == "pre-trained"].groupby("layer")["value"].median()
    assert f"{medians[0]:.3f} at the embedding (median of 2 tasks) and" in curve  # one is constant there
    assert f"{medians[2]:.3f} at layer 2 (median of 3 tasks)" in curve
    both = rows[rows["layer"] > 0]
    means = both.groupby(["model", "task"])["value"].mean()
    difference = (means["multi-task"] - means["pre-trained"]).mean()
    wording = f"neither clearly closer to them nor farther from them than the pre-trained one ({difference:+.4f}, mean"
    assert difference < 0 and wording in curve  # of three tasks nothing is clear
    for text in (curve, clusters, out):
        assert "Means over layers leave out the embedding" in text
    assert "not that the same computation is made" in curve
    share, sure = (rows["value"] > rows["high"]).mean(), (rows["q"] <= 0.05).mean()
    assert f"{share:.0%} of the values lie above the band of 95 % of shuffled examples (2.5 % would" in curve
    assert f"by chance), {sure:.0%} at q <= 0.05" in curve
    assert by_layer.boxes(planted).data[0].name == "95 % of shuffled examples, mean over tasks and models"
    assert "2 of 2 clusters have fewer than three tasks" in clusters
    pooled = cells(planted, task=ALL, model="pre-trained")["value"].tolist()
    counted = planted.dimensions().in_words()
    assert f"90 % of the variance of the pre-trained model's representations take {pooled[0]:.0f} comp" in counted
    own = both[(both["model"] == "multi-task") & (both["task"] == "taste")]["value"].mean()
    assert f"{own:.3f} on 1 task held out (one task, no interval)" in out
    assert out.split(" Means over")[0] in planted.held_out().in_words().replace("\n- ", " ")
    made = "The control models were given; tasks that the multi-task model has not learnt: taste."
    assert (
        all(made in section.text for section in planted.sections()) and planted.in_words() in planted.sections()[0].text
    )


def rows_of(values, measure="cka", held_out=(), limit=99.0):
    """A table like mossa's of model -> task -> value per layer; the task's first letter is its family."""
    rows = [
        {"model": model, "task": t, "family": t[0], "held_out": t in held_out, "measure": measure, "layer": layer}
        | {"value": value, "low": -0.1, "high": 0.1, "p": 0.01, "q": 0.01, "limit": limit}
        | {"reason": "" if np.isfinite(value) else "a: gone"}
        for model, tasks in values.items()
        for t, curve in tasks.items()
        for layer, value in enumerate(curve)
    ]
    return pd.DataFrame(rows)


def said_of(part, rows, **about):
    """The words of a view on a table."""
    return " ".join(part.words(MossaTable(rows, {"null": 0, "share": 0.99, "held_out": []} | about)))


EIGHT = ["x1", "x2", "x3", "y1", "y2", "y3", "z1", "z2"]
LEVEL = {"x": 0.35, "y": 0.8, "z": 0.5}


def test_words_name_the_lowest_the_highest_and_the_direction():
    """Layers fall and rise again; x is the lowest cluster, y the highest; eight tasks allow p = 1 / 128."""
    pre = {t: [LEVEL[t[0]] + 0.1, LEVEL[t[0]] - 0.2, LEVEL[t[0]] + 0.1] for t in EIGHT}
    near = {t: [v + 0.05 + 0.002 * i for v in curve] for i, (t, curve) in enumerate(pre.items())}
    said = said_of(by_layer, rows_of({PRE: pre, MULTI: near}), null=99)
    # the medians lie between z and the lowest of y, x, x, x, z, z, y, y, y: that of z
    assert "is 0.600 at the embedding (median of 8 tasks) and 0.600 at layer 2 (median of 8 tasks)" in said
    assert "it is lowest, 0.300 at layer 1 (median of 8 tasks)" in said
    mean = 0.05 + 0.002 * 3.5
    assert f"multi-task model is closer to them than the pre-trained one ({mean:+.4f}, mean over layers and 8" in said
    assert "p = 0.0078)" in said and "100% of the values lie above the band" in said and "100% at q <= 0.05" in said
    low, high = (float(x) for x in said.split("95 % interval ")[1].split(",")[0].split(" to "))
    half = 2.36462 * 0.002 * np.sqrt(6 / 8)  # t of 7 degrees; the variance of 0 ... 7 is 6
    assert [low, high] == pytest.approx([mean - half, mean + half], abs=0.00006)
    assert "nothing could have been clear" not in said and "raise null" not in said
    far = said_of(by_layer, rows_of({PRE: near, MULTI: pre}), null=99)
    assert f"is farther from them than the pre-trained one ({-mean:+.4f}, mean" in far
    one = said_of(by_layer, rows_of({m: {"x1": [0.5, v]} for m, v in ((PRE, 0.5), (MULTI, 0.1))}), null=99)
    assert "neither clearly closer" in one and "1 task; one task, no interval, p = 1)" in one
    clusters = said_of(by_cluster, rows_of({PRE: pre}))
    assert "3 clusters, x has the lowest CKA with its control models (0.350, mean" in clusters
    assert "and y the highest (0.800)" in clusters and "1 of 3 clusters have fewer than three" in clusters


@pytest.mark.parametrize(("tasks", "least"), [(5, "0.062"), (6, "")])
def test_words_say_where_so_few_tasks_allow_no_clear_difference(tasks, least):
    """All of 2^n signs alike are two: 2 / 32 = 0.0625 is more than 0.05, 2 / 64 is not."""
    pre = {f"x{i}": [0.5, 0.4] for i in range(tasks)}
    multi = {t: [0.8 + 0.01 * i, 0.7] for i, t in enumerate(pre)}
    said = said_of(by_layer, rows_of({PRE: pre, MULTI: multi}), null=0)
    assert ("is closer to them than" in said) == (not least)
    assert (f"With {tasks} tasks this p cannot be below {least}: nothing could have been clear." in said) == bool(least)
    assert ("nothing could" in said) == bool(least)


def test_words_say_where_permutations_are_too_few_for_q():
    rows = rows_of({PRE: {f"x{i}": [0.5, 0.4] for i in range(5)}})
    few = said_of(by_layer, rows.assign(p=0.1, q=0.1), null=9)  # 1 / 10 is never below 0.05
    assert "10 of 10 values are not shown" in few
    assert "With 9 permutations neither p nor q can fall below 0.1, and 10 of these values none of them reached" in few
    some = rows.assign(p=[0.01] * 3 + [0.02] + [0.5] * 6, q=[0.06] * 4 + [0.5] * 6)
    said = said_of(by_layer, some, null=99)
    assert "can fall below 0.01, and 3 of these values none of them reached: raise null" in said
    assert "raise null" not in said_of(by_layer, some.assign(p=0.03), null=99)  # reached: more would not help
    assert "raise null" not in said_of(by_layer, some.assign(q=0.04), null=99)
    assert "raise null" not in said_of(by_layer, some, null=0)


def test_intervals_over_tasks_are_students():
    half = 4.302653 * np.sqrt(7 / 3 / 3) / 10  # t of two degrees, variance of 1, 2 and 4: 7 / 3
    rows = rows_of({PRE: {"x1": [0.1], "x2": [0.2], "x3": [0.4], "y1": [0.5]}}, held_out=["y1"])
    said = said_of(held_out_tasks, rows)
    assert f"0.233 on 3 tasks that the multi-task model learnt (95 % interval {0.7 / 3 - half:.3f} to" in said
    assert "0.500 on 1 task held out (one task, no interval)" in said


def test_words_of_dimensions_name_the_most_and_who_takes_more():
    pre, multi = {"x1": [3.0, 9, 5], "x2": [3.0, 9, 5]}, {"x1": [2.0, 10, 6], "x2": [2.0, 8, 5]}
    said = said_of(component_counts, rows_of({PRE: pre, MULTI: multi}, "dimension"))
    assert (
        "pre-trained model's representations take 3 components at the embedding, 5 at layer 2, and most (9) at" in said
    )
    assert "most (9) at layer 1." in said and "more than the pre-trained one in 2 of 6 comparisons" in said
    none = said_of(component_counts, rows_of({PRE: {"x1": [np.nan] * 2}}, "dimension"))
    assert none.startswith("There are no dimensions to speak of.") and "nan" not in none


def test_words_where_values_are_missing():
    gap = rows_of({PRE: {"x1": [np.nan, 0.5], "y1": [0.1, 0.6]}, MULTI: {"x1": [np.nan] * 2, "y1": [np.nan] * 2}})
    said = said_of(by_layer, gap, null=0)
    assert "0.100 at the embedding (median of 1 task) and 0.550 at layer 1 (median of 2 tasks)" in said
    two = rows_of({PRE: {"x1": [np.nan, 0.5]}, MULTI: {"x1": [0.5, np.nan]}})
    assert "No layer has a value for every task in both models" in said_of(by_layer, two, null=0)
    gone = rows_of({PRE: {"x1": [np.nan] * 2, "y1": [np.nan] * 2}})
    for part in (by_layer, by_cluster, held_out_tasks):
        assert said_of(part, gone, null=9).startswith("There is no CKA to speak of.")
    assert "4 values at the embedding, layer 1" in MossaTable(gone, {}).missing("cka")


def test_dimensions_at_the_limit_are_called_so(base):
    found = mossa(base, TASKS["mood"], tuned=None, controls={"mood": changed(base, 1)}, n=4, share=1.0)
    assert list(cells(found, measure="dimension")["value"]) == [2, 3, 3]  # of 3; the four prompts end on three words
    assert (
        "67% of these numbers are near the most that so few examples or features allow" in found.dimensions().in_words()
    )


def test_segments_and_maps(planted):
    cut = layer_segments.cut(planted, "pre-trained", boundaries=1, min_size=1, alpha=0.99)
    assert cut.manifest["left_out"] == [] and cut.manifest["layers"] == [1, 2]
    assert cut.figure().layout.yaxis.title.text == "CKA, debiased, with the control models"
    mapped = planted.maps()
    assert set(mapped.table["layer"]) == {0, 1, 2} and len(mapped.figures()) == 5
    with pytest.raises(ArgumentError, match="2 layers with a value beside the embedding"):
        planted.segments()


def test_the_embedding_hides_no_segments(planted):
    """It is 1, and two steps follow: cut with it, there is no clear boundary."""
    rng = np.random.default_rng(1)
    names = [f"x{i}" for i in range(6)]
    curves = {t: [1.0, *(np.repeat([0.5, 0.4, 0.3], [10, 6, 16]) + rng.normal(0, 0.03, 32))] for t in names}
    found = Mossa(rows_of({PRE: curves}), planted.manifest)
    cut = layer_segments.cut(found, PRE, null=199)
    assert cut.boundaries == [11, 17] and cut.manifest["layers"] == list(range(1, 33))
    assert list(cut.table["name"]) == ["shared", "transition", "refinement"]
    assert not segment(found.values(), null=199).clear


def test_a_subtitle_says_that_held_out_tasks_are_among_the_values(planted):
    def subtitle(view):
        return view.figure().layout.title.subtitle.text.replace("<br>", " ")

    assert "held-out tasks among them" in subtitle(planted.dimensions())
    for view in (planted.by_layer(), planted.by_cluster(), planted.held_out()):  # without them, or apart
        assert "among them" not in subtitle(view)
    none = Mossa(planted.table, planted.manifest | {"held_out": []}, planted.representations)
    assert "among them" not in subtitle(none.dimensions())


def test_saved_and_loaded(planted, tmp_path):
    again = Mossa.load(planted.save(tmp_path / "m.json"))
    assert again.table.equals(planted.table) and again.in_words() == planted.in_words()
    assert again.figure().to_json() == planted.figure().to_json()
    with pytest.raises(ArgumentError, match="loaded from a file"):
        again.maps()


@needs_chromium
def test_a_browser_draws_every_figure(planted, tmp_path):
    views = [planted.by_layer(), planted.by_cluster(), planted.held_out(), planted.dimensions(), planted.maps()]
    figures = [figure for view in views for figure in view.figures()]
    figures.append(layer_segments.cut(planted, PRE, boundaries=1, min_size=1, alpha=0.99).figure())
    page = write_report(tmp_path / "page.html", title="MOSSA", sections=[Section("All", figures=figures)])
    body, drawn, errors = opened(page, tmp_path / "profile")
    assert drawn == [f"section-1-figure-{i}" for i in range(1, 12)] and errors == []
    assert body.count('class="slider-group"') == 2 and "play" in body


@pytest.mark.parametrize("wrong", [
    {"share": 2}, {"share": 0}, {"null": -1}, {"null": True}, {"null": 2.5}, {"seed": -1}, {"debiased": "no"},
], ids=str)  # fmt: skip
def test_bad_settings_are_refused_before_anything_is_read_or_trained(wrong, base, monkeypatch):
    monkeypatch.setattr(controls, "representations", lambda *_, **__: pytest.fail("was read"))
    name, value = next(iter(wrong.items()))
    with pytest.raises(ArgumentError, match=re.escape(f"{name}={value!r}")):
        mossa(base, TASKS["mood"], tuned=None, **wrong)


def test_what_cannot_be(base, tiny_model):
    other = {name: changed(base, 1) for name in ("mood",)}
    one = TASKS["mood"]
    few = Task("few", train=one.train, test=one.test[:3])
    untaught = Task("untaught", test=one.test)
    for tuned, tasks, given, wrong, error, text in (
        (None, few, {"few": base}, {}, TaskError, "task 'few'\n  found: 3 examples"),
        (None, one, other, {"n": 3}, TaskError, "3 examples"),
        (None, untaught, None, {}, TaskError, "train examples"),
        (None, [], {}, {}, ArgumentError, "no task"),
        (None, {"all tasks together": one}, {"all tasks together": base}, {}, TaskError, "another name"),
        (base, one, other, {}, ArgumentError, "the weights of the base"),
        ("trian", one, other, {}, ArgumentError, "did you mean 'train'"),
        ("tuned", one, other, {}, ModelError, "load model 'tuned'"),
        ("train", one, other, {"held_out": ["mood"]}, ArgumentError, "every task"),
        (None, one, other, {"held_out": ["food"]}, ArgumentError, "held-out task='food'"),
        (None, one, {"taste": base}, {}, ArgumentError, "one control model per task"),
        (None, one, None, {"method": "prefix"}, ArgumentError, "method='prefix'"),
        (None, one, None, {"recipe": {"rate": 1}}, ArgumentError, "rate"),
        (None, one, other, {"masks": 1}, ArgumentError, "masks"),
        (None, [one, TASKS["taste"]], None, {"held_out": ["mood"]}, ArgumentError, "no multi-task model"),
        (None, one, None, {"options": {"rank": 2}}, ArgumentError, "only 'lora' has options"),
        (None, one, None, {"method": "lora", "options": {"ranks": 2}}, ArgumentError, "give some of"),
        (None, one, other, {"recipe": {"steps": 3}}, ArgumentError, "no model to train"),
    ):
        with pytest.raises(error, match=text):
            mossa(base, tasks, tuned=tuned, controls=given, **wrong)
    reps = representations(base, one)
    with pytest.raises(ArgumentError, match="representations instead of a model"):
        mossa(reps, one, tuned=None)
    with pytest.raises(ArgumentError, match="3 and 2 layers"):
        mossa(reps, one, tuned=None, controls={"mood": reps["mood"][:2]})
    with pytest.raises(ArgumentError, match="15 examples of 'mood'"):
        mossa(reps, one, tuned=None, controls={"mood": reps["mood"][:, 1:]})
    with pytest.raises(ArgumentError, match="other examples of 'mood'"):
        swapped = Representations(dict(reps), {"mood": [("x", "y")] * 16})
        mossa(swapped, one, tuned=None, controls=other)
    with pytest.raises(ArgumentError, match="at='mean' instead of 'last'"):
        mossa(representations(base, one, at="mean"), one, tuned=None, controls=other)
    with pytest.raises(ArgumentError, match="no task held out"):
        mossa(base, one, tuned=None, controls=other).held_out()
    broken = tiny_model()
    with torch.no_grad():
        broken.root.model.layers[0].mlp.down_proj.weight[:] = torch.inf
    with pytest.raises(NumericalError, match="not finite at layer 1 of example"):
        mossa(base, one, tuned=None, controls={"mood": broken})


def test_an_interval_of_cka_ends_at_one():
    """Two tasks at 0.95 and 0.99: Student's t over one degree of freedom reaches far beyond 1."""
    two = {PRE: {"x1": [0.5, 0.95], "x2": [0.5, 0.99], "y1": [0.5, 0.5]}}
    table = rows_of(two, held_out=["x1", "x2"])
    said = said_of(held_out_tasks, table[table["layer"] == 1], null=9)
    half = 12.706 * 0.04 / 2  # t(0.975, 1) * standard error of two values 0.04 apart
    assert f"0.970 on 2 tasks held out (95 % interval {0.97 - half:.3f} to 1.000)" in said
