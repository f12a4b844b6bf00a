"""Faithfulness: shares and areas by hand, a planted circuit that is found, every number a loop over ablate."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import scipy.integrate
import scipy.stats
import torch
from state import unchanged
from tiny import WORDS, tiny_model

import neuroscope as ns
from neuroscope.errors import ArgumentError, MaskError, TaskError
from neuroscope.evaluation import evaluate
from neuroscope.experiments.judging import JOURNAL, Judge
from neuroscope.experiments.mask_sizes import Faithfulness, faithfulness
from neuroscope.experiments.mask_sizes.carried_share import area, carried, drawn_shares, draws_of, interval
from neuroscope.interventions import ablate
from neuroscope.masks import DRAWN, NeuronMask, Scores
from neuroscope.results import load_result
from neuroscope.statistics import against_controls, benjamini_hochberg
from neuroscope.tasks import Example, Task

LABELS = ("good", "bad", "awful")
ALIVE = 6  # neurons at each site that do anything
K = (1 / 96, 2 * ALIVE / 96, 0.5, 1.0)
HOW = {"k": K, "n_random": 3}


def planted_model():
    """All neurons but six at each of its two sites are dead."""
    model = tiny_model()
    with torch.no_grad():
        for site in model.sites().values():
            for rows in [*site.out, *(r for found in site.ins.values() for r in found)]:
                rows.view(rows.param)[..., ALIVE:] = 0.0
    return model


def answers(model, prompts):
    return list(
        evaluate(model, Task("t", test=[Example(p, "good") for p in prompts], labels=LABELS)).table["prediction"]
    )


@pytest.fixture(scope="module")
def setting():
    """Right is what the model answers, on prompts where it answers something else without any neuron."""
    model = planted_model()
    rng = np.random.default_rng(0)
    prompts = list(dict.fromkeys(" ".join(rng.choice(sorted(set(WORDS)), size=4)) + " :" for _ in range(400)))
    with ablate(model, everything(model)):
        without = answers(model, prompts)
    known = [(p, a) for p, a, b in zip(prompts, answers(model, prompts), without, strict=True) if a != b]
    examples = [Example(p, a) for p, a in known]
    assert len(examples) > 60
    one = Task("one", train=examples[40:60], test=examples[:24], labels=LABELS, family="x")
    turned = [Example(e.prompt, LABELS[i % 3]) for i, e in enumerate(examples[24:40])]
    tasks = {"one": one, "lost": Task("lost", train=examples[40:60], test=turned, labels=LABELS, family="y")}
    return (
        model,
        tasks,
        {"planted": dict.fromkeys(tasks, scores(model, True)), "other": dict.fromkeys(tasks, scores(model))},
    )


def everything(model):
    widths = {a: s.width for a, s in model.sites().items()}
    return NeuronMask.of({a: range(w) for a, w in widths.items()}, widths)


def scores(model, planted=False):
    """Relevance that is highest where neurons are alive, or in the order of the dead first."""
    widths = {a: s.width for a, s in model.sites().items()}
    values = {a: torch.arange(w).flip(0) / w if planted else torch.arange(w) / w for a, w in widths.items()}
    return Scores({a: v + (0.001 * i) for i, (a, v) in enumerate(values.items())}, widths, manifest={"method": "hand"})


@pytest.fixture(scope="module")
def found(setting):
    with unchanged(setting[0].root):
        return faithfulness(*setting, **HOW)


def outcomes(model, task, mask, **how):
    with ablate(model, mask, **how):
        return evaluate(model, task).outcomes


def rows_of(found, **values):
    table = found.table
    for name, value in values.items():
        table = table[np.isclose(table[name], value)] if name == "k" else table[table[name] == value]
    return table


# --- numbers


def test_shares_and_areas_by_hand():
    np.testing.assert_allclose(carried([0.5, 0.6, 0.9, 1.0], 0.5, 0.9), [0, 0.25, 1, 1.25])
    assert np.isnan(carried(0.7, 0.5, 0.5)) and np.isnan(carried(0.7, 0.6, 0.5))
    k, f = [0.1, 0.5], np.array([0.4, 1.2])
    cpr = 0.1 * (0 + 0.4) / 2 + 0.4 * (0.4 + 1.2) / 2 + 0.5 * (1.2 + 1) / 2
    cmd = 0.1 * (1 + 0.6) / 2 + 0.4 * (0.6 + 0.2) / 2 + 0.5 * (0.2 + 0) / 2
    assert float(area(k, f, 0.0, 1.0)) == pytest.approx(cpr)
    assert float(area(k, abs(1 - f), 1.0, 0.0)) == pytest.approx(cmd)
    assert float(area([0.1, 0.5, 1.0], [0.4, 1.2, 7.0], 0.0, 1.0)) == pytest.approx(cpr)  # f(1) = 1 by definition
    np.testing.assert_allclose(area(k, np.stack([f, f / 2]), [0, 0], [1, 0.5]), [cpr, cpr / 2])
    assert float(area([0.2], [0.2], 0.0, 1.0)) == pytest.approx(0.5) == scipy.integrate.trapezoid([0, 1], [0, 1])


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Of 150 worlds of 60 examples: a masked model that keeps right answers with a known probability."""
    rng, held, truth, full_rate, empty_rate = np.random.default_rng(1), [], 0.7, 0.95, 0.4
    for seed in range(150):
        full, empty = rng.random(60) < full_rate, rng.random(60) < empty_rate
        score = empty_rate + truth * (full_rate - empty_rate)
        only = np.where(full, rng.random(60) < score / full_rate, False)  # paired with the full model's
        low, high = interval(drawn_shares(draws_of(60, seed), only, empty, full)[:, 0])
        held.append(low <= truth <= high)
    assert 0.92 <= np.mean(held) <= 0.995


def test_agreement_on_few_examples_is_not_certainty():
    ends = [interval(drawn_shares(draws_of(n), np.ones(n), np.zeros(n), np.ones(n))[:, 0]) for n in (8, 400)]
    assert ends[0][0] < 0.8 and 0.98 < ends[1][0] < 1  # as Wilson's: 8 of 8 is 0.68 or more, 400 of 400 is 0.99
    draws = drawn_shares(draws_of(50), [[1] * 30 + [0] * 20], [0] * 50, [1] * 40 + [0] * 10)
    assert np.median(draws) == pytest.approx(0.75, abs=0.02)  # the made-up examples leave f where it is
    assert all(np.isnan(interval([np.nan] * 3 + [1.0] * 97))) and interval([np.nan] * 2 + [1.0] * 98) == (1, 1)


# --- a planted circuit


def test_every_measurement_is_a_loop_over_ablate_and_evaluate(setting, found):
    model, tasks, sets = setting
    task, mask = tasks["one"], sets["other"]["one"].top(0.5)
    full, empty = evaluate(model, task).outcomes, outcomes(model, task, everything(model))
    assert (full.mean(), empty.mean()) == (1, 0)
    drawn = [mask.random_like(seed=s) for s in range(3)]
    for condition, chosen in (("only", mask), ("off", mask), ("random-only", drawn[1]), ("random-off", drawn[2])):
        seed = {"random-only": 1, "random-off": 2}.get(condition)
        rows = rows_of(found, scores="other", task="one", condition=condition, k=0.5)
        (row,) = rows[rows["seed"].isna() if seed is None else rows["seed"] == seed].to_dict("records")
        by_hand = outcomes(model, task, ~chosen if condition.endswith("only") else chosen)
        assert row["score"] == by_hand.mean() and row["neurons"] == 48 and row["n"] == 24
        assert row["f"] == pytest.approx((by_hand.mean() - empty.mean()) / (full.mean() - empty.mean()))
        assert row["f_low"] <= row["f"] <= row["f_high"]
        if seed is None:
            side = [~m for m in drawn] if condition == "only" else drawn
            test = against_controls(by_hand, [outcomes(model, task, m) for m in side])
            assert row["p"] == test["p"]
    for condition in ("only", "off"):
        rows = rows_of(found, condition=condition)
        np.testing.assert_allclose(rows["q"], benjamini_hochberg(rows["p"]))


@pytest.mark.parametrize("match", ["uniform", "activation"])
def test_random_masks_are_drawn_as_match_says(setting, match):
    model, tasks, _ = setting
    scores = {"one": ns.attribute(model, tasks["one"], examples=8)}
    found = faithfulness(model, tasks, scores, k=(0.1,), n_random=3, match=match)
    drawn = [scores["one"].top(0.1).random_like(seed=s, match=match) for s in range(3)]
    random = rows_of(found, condition="random-off").sort_values("seed")
    assert random["score"].tolist() == [outcomes(model, tasks["one"], each).mean() for each in drawn]
    assert found.manifest["match"] == match
    for text in (found.in_words(), found.figure().layout.title.subtitle.text):
        assert DRAWN[match] in text
    part = found.about(scores["one"].top(0.1))["minimal"]
    assert part["match"] == match


def test_scores_without_norms_have_no_control_as_loud(setting):
    model, tasks, sets = setting
    with pytest.raises(MaskError, match="no norms"):
        faithfulness(model, tasks, sets["planted"], k=(0.1,), n_random=3, match="activation")
    with pytest.raises(ArgumentError, match="match"):
        faithfulness(model, tasks, sets["planted"], k=(0.1,), match="layers")


def test_the_planted_neurons_suffice_and_fewer_do_not(setting, found):
    planted = found.sizes().query("scores == 'planted' and task == 'one'").set_index("neurons")
    assert planted.loc[12, "only"] == 1 and planted.loc[12, "off"] == 0  # to the last digit: all others are dead
    assert planted.loc[1, "only"] < 0.6 and planted.loc[12, "random_only"] < 0.6
    assert (planted.loc[96, ["only", "only_low", "only_high"]] == 1).all() and (planted.loc[96, "off"] == 0).all()
    other = found.sizes().query("scores == 'other' and task == 'one'").set_index("neurons")
    assert other.loc[12, "only"] == 0 and other.loc[12, "off"] == 1  # dead neurons
    minimal = found.minimal(0.75).set_index(["scores", "task"])
    assert minimal.loc[("planted", "one"), "k"] == K[1] and minimal.loc[("planted", "one"), "neurons"] == 12
    assert minimal.loc[("planted", "one"), "low"] >= 0.75 and minimal.loc[("planted", "one"), "estimate"] == K[1]
    assert np.isnan(minimal.loc[("other", "one"), "k"])
    mask = found.masks(0.75)["one"]
    assert mask == setting[2]["planted"]["one"].top(K[1]) and len(mask) == 12 and set(found.masks(0.75)) == {"one"}
    assert found.masks(0.75, scores="other") == {}


def test_areas_are_those_of_the_curve(found):
    for group in ("planted", "other"):
        sizes = found.sizes().query(f"scores == '{group}' and task == 'one'")
        k = [0, *sizes["k"]]
        row = found.summary().set_index(["scores", "task"]).loc[(group, "one")]
        assert row["cpr"] == pytest.approx(np.trapezoid([0, *sizes["only"]], k))
        assert row["cmd"] == pytest.approx(np.trapezoid([1, *abs(1 - sizes["only"])], k))
        assert row["cpr_off"] == pytest.approx(np.trapezoid([1, *sizes["off"]], k))
        assert row["cpr_random"] == pytest.approx(np.trapezoid([0, *sizes["random_only"]], k))
        assert row["cpr_low"] <= row["cpr"] <= row["cpr_high"]


def test_sets_of_scores_are_compared_over_the_same_examples(setting, found):
    model, tasks, sets = setting
    rows = found.against()
    assert set(rows["scores"]) == {"other"} and set(rows["task"]) == {"one"} and len(rows) == len(K) + 1
    (row,) = rows[(rows["task"] == "one") & np.isclose(rows["k"], K[1])].to_dict("records")
    a, b = (outcomes(model, tasks["one"], ~sets[name]["one"].top(K[1])) for name in ("other", "planted"))
    exact = scipy.stats.permutation_test(
        (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=9999, rng=0
    )
    assert row["difference"] == a.mean() - b.mean() == -1 and row["p_first"] == pytest.approx(exact.pvalue, abs=2e-4)
    (of_all,) = rows[(rows["task"] == "one") & rows["k"].isna()].to_dict("records")
    summary = found.summary().query("task == 'one'").set_index("scores")["cpr"]
    assert of_all["difference"] == pytest.approx(summary["other"] - summary["planted"])
    cells = rows[rows["condition"] == "only"]
    np.testing.assert_allclose(cells["q_first"], benjamini_hochberg(cells["p_first"]))
    assert rows_of(found, task="lost")[["p", "p_first"]].isna().all(axis=None)


def test_words_say_what_suffices_and_what_does_not(found):
    text = found.in_words()
    assert text.startswith("**A negative**: of no task were fewer than all neurons by planted shown to carry 90% alone")
    assert "nothing can be concluded about **lost**, at chance with nothing ablated" in text
    assert "; 12.5% does by its estimate, but the examples are too few to show it)" in text
    assert (
        "other beside planted: it carries less in one." in text and "**Nothing can be concluded** about lost (" in text
    )
    assert found.standings.at_chance == ["lost"] and found.known == ["one"]
    enough = dataclasses.replace(found, table=found.table.assign(f_low=found.table["f"])).in_words()
    assert enough.startswith(
        "In this task **12.5%** of the neurons by planted, or fewer, alone are shown to carry 90% of the task"
    )
    assert "- **12.5%** of the neurons (12) suffice for one: alone they carry 100% [100%," in enough
    nothing = found.table.copy()
    nothing.loc[:, ["f", "f_low", "f_high"]] = np.nan
    undefined = dataclasses.replace(found, table=nothing)
    assert undefined.nothing_to_carry == ["one"] and undefined.summary()["chance"][0] == "nothing to carry"
    assert "scores no less than with nothing ablated" in undefined.in_words() and undefined.minimal()["k"].isna().all()


def test_a_task_that_needs_no_neuron_has_no_share(setting):
    model, tasks, sets = setting
    with ablate(model, everything(model)):
        same = answers(model, [e.prompt for e in tasks["one"].test])
    test = [Example(e.prompt, a) for e, a in zip(tasks["one"].test, same, strict=True)]
    task = dataclasses.replace(tasks["one"], name="easy", test=test)
    got = faithfulness(model, task, {"easy": sets["planted"]["one"]}, **HOW)
    assert got.table["f"].isna().all() and got.table["p"].isna().all()
    assert got.in_words().startswith("**Nothing can be concluded**") and got.figure().data


def test_the_figure_draws_its_numbers(found):
    figure = found.figure()
    by_name = {t.name: t for t in figure.data if t.xaxis == "x"}  # of the first task
    rows = found.sizes().query("scores == 'planted' and task == 'one'")
    line = by_name["planted: the mask alone"]
    np.testing.assert_allclose(line.x, 100 * rows["k"])
    np.testing.assert_allclose(line.y, 100 * rows["only"])
    np.testing.assert_allclose(line.y + line.error_y.array, 100 * rows["only_high"])
    assert (
        figure.layout.xaxis.type == "log" and len({t.line.color for t in figure.data if t.mode == "lines+markers"}) == 4
    )
    band = by_name["random masks, the mask alone"]
    random = rows_of(found, task="one", condition="random-only")["f"]
    assert (max(band.y), min(band.y)) == (100 * random.max(), 100 * random.min())


# --- what ablated neurons become, journals, and bad input


def test_the_mean_is_that_of_the_tasks_own_examples_and_has_keys_of_its_own(setting, tmp_path):
    model, tasks, sets = setting
    one, planted = {"one": tasks["one"]}, {"one": sets["planted"]["one"]}
    how = {"k": (0.25, 1.0), "n_random": 3, "output": tmp_path}
    ns.experiments.deactivation(model, one, {"one": planted["one"].top(0.25)}, n_random=3, output=tmp_path)
    lines = lambda: len((tmp_path / JOURNAL).read_text().splitlines())  # noqa: E731
    before = lines()
    zero = faithfulness(model, one, planted, **how)
    added = lines() - before  # off, what is random and off, and full are known; k = 1 is empty
    assert added == 1 + 3 + 1
    assert faithfulness(model, one, planted, value=0.0, **how).table.equals(zero.table) and lines() == before + added
    got = faithfulness(model, one, planted, value="mean", **how)
    assert lines() == before + added + 1 + 2 * 4  # all but full
    mask = planted["one"].top(0.25)
    by_hand = outcomes(model, tasks["one"], ~mask, value="mean", data=tasks["one"])
    assert rows_of(got, condition="only", k=0.25)["score"].item() == by_hand.mean()
    fewer = dataclasses.replace(tasks["one"], train=tasks["one"].train[:9])
    values = ((0.5, None), (0.25, None), ("resample", None), ("mean", None), ("mean", fewer))
    judges = [Judge(model, one, value=value, data=data) for value, data in values]
    for judge in judges:
        judge.measure([("one", mask)], None, "keys")
    assert len({key for judge in judges for key in judge.journal.known}) == 5
    assert judges[0]("one", mask).tolist() == outcomes(model, tasks["one"], mask, value=0.5).tolist()


def test_a_killed_run_goes_on_where_it_stopped(setting, found, tmp_path):
    def dies(items, desc):
        for i, item in enumerate(items):
            if i == 3:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        faithfulness(*setting, **HOW, output=tmp_path, progress=dies)
    assert len((tmp_path / JOURNAL).read_text().splitlines()) == 3
    resumed = faithfulness(*setting, **HOW, output=tmp_path)
    pd.testing.assert_frame_equal(resumed.table, found.table)
    path = resumed.save(tmp_path / "found.json")
    again = load_result(path)
    assert isinstance(again, Faithfulness) and again.in_words() == found.in_words()
    pd.testing.assert_frame_equal(again.summary(), found.summary(), check_dtype=False)
    with pytest.raises(ArgumentError, match="without the scores"):
        again.masks()


def test_bad_input_is_told_before_anything_is_measured(setting):
    model, tasks, sets = setting
    planted, widths = sets["planted"], {"blocks.0.mlp.hook_post": 5, "blocks.1.mlp.hook_post": 5}
    small = Scores({a: torch.arange(5.0) for a in widths}, widths)
    on_tests = dataclasses.replace(planted["one"], manifest={"data_hash": tasks["one"].data_hash, "split": "test"})
    for kind, text, given in (
        (ArgumentError, "one test example of task 'one'", {"n": 1}),
        (ArgumentError, "not growing shares", {"k": (0.1, 1.5)}),
        (ArgumentError, "not growing shares", {"k": (0.0, 0.5)}),
        (ArgumentError, "fewer do not tell", {"n_random": 2}),
        (ArgumentError, "did you mean 'mean'", {"value": "means"}),
        (ArgumentError, "no task for", {"tasks": tasks["one"]}),
        (ArgumentError, "scores of the same tasks", {"scores": {"a": planted, "b": {"one": planted["one"]}}}),
        (ArgumentError, "not a dict", {"scores": planted["one"]}),
        (ArgumentError, "empty dict", {"scores": {}}),
        (MaskError, "2 sites of 5 neurons", {"scores": {"one": small}}),
        (MaskError, "2 sites of 5 neurons", {"scores": {"a": planted, "b": dict.fromkeys(planted, small)}}),
        (TaskError, "found on the same examples", {"scores": {"one": on_tests}}),
    ):
        with pytest.raises(kind, match=text):
            faithfulness(**{"model": model, "tasks": tasks, "scores": planted, "k": K, "n_random": 3} | given)
    bare = dataclasses.replace(tasks["one"], train=[])
    with pytest.raises(TaskError, match="discovery"):
        faithfulness(model, bare, {"one": planted["one"]}, value="mean")
