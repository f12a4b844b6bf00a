"""Training experiments: every number equals training and evaluating by hand, nothing leaks, a killed run goes on.

But where learning is asserted, nothing is trained: `quick_training` stands in.
"""

import dataclasses
import itertools
import random
import re
import sys
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from quick_training import finetune as quick_finetune
from quick_training import quick  # noqa: F401 (for the whole file)
from state import unchanged
from tiny import tiny_model

from neuroscope import training
from neuroscope.attribution import attribute
from neuroscope.errors import ArgumentError, MaskError, NumericalError, TaskError
from neuroscope.evaluation import evaluate
from neuroscope.experiments import (
    OverlapControlled,
    TrainOnly,
    continual_comparison,
    cross_training,
    overlap_controlled,
    proportion_sweep,
    train_only,
    trials,
)
from neuroscope.experiments.judging import JOURNAL
from neuroscope.experiments.t9_draws import draw_with_overlap
from neuroscope.experiments.trials import over_tasks
from neuroscope.masks import NeuronMask
from neuroscope.statistics import (
    against_controls,
    benjamini_hochberg,
    outcomes_interval,
    score_interval,
    seeds_and_examples_interval,
)
from neuroscope.tasks import Example, Task
from neuroscope.training.continual_learning import Continual, continual
from neuroscope.training.continual_learning.learner import Setting

NOUNS = ("food", "film", "soup", "story", "plot")
MOOD = {"good": 1, "great": 1, "bad": 0, "awful": 0}
RECIPE = {"steps": 4, "lr": 0.02, "batch_size": 8}
QUICK = {"recipe": RECIPE, "seeds": 3}


def reviews(name, labels, seed, discovery=12, family=""):
    """Is the mood good? Answered by one of two words."""
    draw_ = random.Random(seed)

    def some(n):
        words = [(draw_.choice(NOUNS), draw_.choice(list(MOOD))) for _ in range(n)]
        return [Example(f"Review : the {noun} was very {mood} Answer :", labels[MOOD[mood]]) for noun, mood in words]

    return Task(name, train=some(24), test=some(20), discovery=some(discovery), labels=labels, family=family)


def known(task):
    """The task with what the untrained model answers as the right test answers: one that is above chance."""
    answers = evaluate(tiny_model(), task).table["prediction"]
    return dataclasses.replace(task, test=[Example(e.prompt, a) for e, a in zip(task.test, answers, strict=True)])


TASKS = {
    "yes": known(reviews("yes", ("so", "maybe"), 0, family="straight")),
    "maybe": reviews("maybe", ("the", "maybe"), 1, family="straight"),
    "turned": reviews("turned", ("yes", "no"), 2, family="turned"),
}
FOUR = {**TASKS, "late": reviews("late", ("a", "the"), 3, family="turned")}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def scores(model):
    return attribute(model, TASKS)


@pytest.fixture(scope="module")
def masks(scores):
    return {name: s.top(0.2) for name, s in scores.items()}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Shared by the experiments on the one model: what two of them measure is measured once."""
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="module")
def only(model, masks, output):
    with unchanged(model.root):
        return train_only(model, TASKS, masks, output=output, **QUICK)


@pytest.fixture(scope="module")
def crossed(model, masks, output):
    with unchanged(model.root):
        return cross_training(model, TASKS, masks, output=output, **QUICK)


@pytest.fixture(scope="module")
def joint(model, scores, output):
    return proportion_sweep(
        model, list(TASKS.values()), held_out="turned", k=(0.1, 1.0), scores=scores, output=output, **QUICK
    )


@pytest.fixture(scope="module")
def controlled(model, masks, output):
    shares = (0.0, 0.5, 1.0)
    return overlap_controlled(model, TASKS, masks, held_out="turned", shares=shares, size=10, output=output, **QUICK)


HAND: dict = {}


def by_hand(model, mask, on, seed, measured):
    """Outcomes on a task after training, the long way."""
    if (mask, *on, seed) not in HAND:
        adapter = trials.finetune(model, [TASKS[name] for name in on], mask, seed=seed, **RECIPE)
        HAND[(mask, *on, seed)] = {name: evaluate(model, task).outcomes for name, task in TASKS.items()}
        adapter.detach()
    return HAND[(mask, *on, seed)][measured]


def never(*args, **kwargs):
    raise AssertionError("this was measured before")


# --- trials


def test_over_tasks_counts_a_task_of_several_groups_once():
    cells = pd.DataFrame(
        {
            "task": ["a", "a", "b", "a", "a", "b"],
            "seed": [0, 0, 0, 1, 1, 1],
            "score": [0.2, 0.4, 0.7, 0.4, 0.6, 0.9],
            "se": [0.3, 0.3, 0.4, 0.3, 0.3, 0.4],
        }
    )
    by_seed, error = over_tasks(cells)
    np.testing.assert_allclose(by_seed, [(0.3 + 0.7) / 2, (0.5 + 0.9) / 2])
    assert error == pytest.approx(0.5 / 2)  # sqrt(0.3 ** 2 + 0.4 ** 2) over two tasks


# --- train only


def test_train_only_is_a_loop_over_finetune_and_evaluate(model, masks, only):
    table = only.to_frame()
    assert len(table) == 3 * (1 + 3 * 3)
    for name in ("yes",):
        mask = masks[name]
        rows = table[table["task"] == name].set_index(["condition", "seed"])
        before = evaluate(model, TASKS[name])
        zero = table[(table["task"] == name) & (table["condition"] == "zero-shot")].iloc[0]
        assert (zero["score"], zero["low"], zero["high"]) == (before.score, *before.interval)
        assert zero["neurons"] == 0
        found = {
            "task": [by_hand(model, mask, [name], s, name) for s in range(3)],
            "random-uniform": [
                by_hand(model, mask.random_like(seed=s, match="uniform"), [name], s, name) for s in range(3)
            ],
            "random-layer": [
                by_hand(model, mask.random_like(seed=s, match="layer"), [name], s, name) for s in range(3)
            ],
        }
        for condition, runs in found.items():
            for s, outcomes in enumerate(runs):
                row = rows.loc[(condition, s)]
                assert row["score"] == outcomes.mean() and row["neurons"] == len(mask)
                assert (row["low"], row["high"]) == score_interval(outcomes)
                assert row["se"] == pytest.approx(outcomes.std(ddof=1) / np.sqrt(20))
        own = np.mean(found["task"], axis=0)
        for condition in ("random-uniform", "random-layer"):
            test = against_controls(own, np.array(found[condition]))
            row = rows.loc[(condition, 1)]
            assert row["gain"] == -test["effect"] == pytest.approx(own.mean() - np.mean(found[condition]))
            assert (row["gain_low"], row["gain_high"], row["p"]) == (-test["high"], -test["low"], test["p"])
        assert rows.loc["task"]["p"].isna().all()
    tests = only.tests()
    assert len(tests) == 3 * 2
    np.testing.assert_allclose(tests["q"], benjamini_hochberg(tests["p"]))
    assert only.standings.others == ["yes"]  # the others no training lifts above chance
    assert set(tests.loc[tests["q"].isna(), "task"]) == {"maybe", "turned"}
    assert "of 1** tasks" in only.in_words() and "about **maybe, turned**, at chance with and" in only.in_words()


def test_train_only_sums_up(only):
    summary, table = only.summary().set_index("name"), only.to_frame()
    for condition in ("zero-shot", "random-uniform", "random-layer", "task"):
        by_task = table[table["condition"] == condition].groupby("task")["score"].mean()
        assert summary.loc["turned", condition] == pytest.approx(by_task["turned"])
        assert summary.loc["mean (all)", condition] == pytest.approx(by_task.mean())
    assert summary.loc["yes", "gain"] == pytest.approx(summary.loc["yes", "task"] - summary.loc["yes", "random-layer"])
    tests = only.tests().set_index(["task", "condition"])
    assert summary.loc["yes", "q_uniform"] == tests.loc[("yes", "random-uniform"), "q"]
    runs = table[(table["task"] == "yes") & (table["condition"] == "task")]
    _, low, high = seeds_and_examples_interval(runs["score"], runs["se"].mean(), is_score=True)
    assert (summary.loc["yes", "low"], summary.loc["yes", "high"]) == (low, high)
    assert np.isnan(summary.loc["mean (all)", "p"])


def test_train_only_says_who_won():
    rows = [
        {"task": name, "kind": "classification", "condition": condition, "seed": seed, "neurons": 5, "score": score,
         "se": 0.01, "gain": gain if condition.startswith("random") else np.nan, "gain_low": 0.0, "gain_high": 0.0,
         "p": q, "q": q if condition.startswith("random") else np.nan, "majority": 0.4, "uniform": 0.4,
         "p_majority": 0.001}
        for name, own, gain, q in (("up", 0.9, 0.4, 0.01), ("down", 0.1, -0.4, 0.01), ("same", 0.6, 0.1, 0.3))
        for condition, score in (("zero-shot", 0.5), ("random-uniform", 0.5), ("random-layer", 0.5), ("task", own))
        for seed in range(2)
    ]  # fmt: skip
    text = TrainOnly(pd.DataFrame(rows), {"seeds": [0, 1]}).in_words()
    assert "from **50.0%** to **53.3%**" in text and "- They do better in up." in text
    assert text.startswith(
        "Training a task's own neurons does better than training **both** kinds of random ones in **1"
    )
    assert re.search(r"\*\*A negative\*\*: with 2 random masks.* were not shown to do better.* in same\.", text)
    assert "random neurons did better in down." in text


def test_train_only_draws_its_numbers(only):
    zero, uniform, layer, own, level = only.figure().data
    summary = only.summary().set_index("name").loc[list(TASKS)]
    assert list(own.x) == list(TASKS)
    shares = [100 * max(np.mean([e.answer == a for e in t.test]) for a in t.labels) for t in TASKS.values()]
    np.testing.assert_allclose(level.y, shares)
    for bar, condition in ((zero, "zero-shot"), (uniform, "random-uniform"), (layer, "random-layer"), (own, "task")):
        np.testing.assert_allclose(bar.y, 100 * summary[condition])
    np.testing.assert_allclose(np.array(own.y) + own.error_y.array, 100 * summary["high"])
    rows = only.to_frame().query("condition == 'random-layer'").groupby("task")["score"].agg(["min", "max"])
    np.testing.assert_allclose(np.array(layer.y) + layer.error_y.array, 100 * rows.loc[list(TASKS), "max"])
    np.testing.assert_allclose(np.array(layer.y) - layer.error_y.arrayminus, 100 * rows.loc[list(TASKS), "min"])
    assert "p = " in own.customdata[0] and f"{int(0.2 * 96)} neurons" in own.customdata[0]


# --- cross training


def test_cross_training_is_a_loop_over_finetune_and_evaluate(model, masks, crossed):
    table = crossed.to_frame()
    assert len(table) == 9
    for source, target in (("yes", "turned"), ("yes", "yes")):
        cell = table[(table["source"] == source) & (table["target"] == target)].iloc[0]
        before = evaluate(model, TASKS[target]).outcomes
        own = np.array([by_hand(model, masks[source], [source], s, target) for s in range(3)])
        random_ = [masks[source].random_like(seed=s) for s in range(3)]
        controls = np.array([by_hand(model, mask, [source], s, target) for s, mask in enumerate(random_)])
        assert (cell["score"], cell["zero_shot"]) == pytest.approx((own.mean(), before.mean()))
        assert (cell["low"], cell["high"]) == pytest.approx(outcomes_interval(own, is_score=True)[1:])
        assert (cell["gain"], cell["gain_low"], cell["gain_high"]) == pytest.approx(outcomes_interval(own - before))
        test = against_controls(own.mean(0), controls)
        assert cell["effect"] == pytest.approx(own.mean() - controls.mean()) == -test["effect"]
        assert (cell["effect_low"], cell["effect_high"]) == (-test["high"], -test["low"])
        assert cell["neurons"] == len(masks[source])
        share = max(np.mean([e.answer == a for e in TASKS[target].test]) for a in TASKS[target].labels)
        ps = [
            scipy.stats.binomtest(round(20 * o.mean()), 20, share, alternative="greater").pvalue
            for o in (before, *own, *controls)
        ]
        assert cell["majority"] == share and cell["p_majority"] == pytest.approx(min(1, 7 * min(ps)))
        assert cell["p"] == test["p"] if target == "yes" else np.isnan(cell["p"])
    np.testing.assert_allclose(table["q"], benjamini_hochberg(table["p"]))
    wide = crossed.matrix
    assert list(wide.index) == ["(not trained)", *TASKS] and list(wide.columns) == list(TASKS)
    assert wide.loc["(not trained)", "turned"] == evaluate(model, TASKS["turned"]).score
    assert wide.loc["yes", "turned"] == table.query("source == 'yes' and target == 'turned'")["score"].item()


def test_cross_training_sums_up_and_draws(crossed):
    table = crossed.to_frame().set_index(["source", "target"])
    summary = crossed.summary().set_index("source")
    assert summary.loc["yes", "own"] == table.loc[("yes", "yes"), "gain"]
    assert summary.loc["yes", "family"] == table.loc[("yes", "maybe"), "gain"]
    assert summary.loc["yes", "others"] == table.loc[("yes", "turned"), "gain"]
    cell = table.loc[("yes", "turned")]
    assert summary.loc["yes", "others_control"] == cell["control"] - cell["zero_shot"]
    assert np.isnan(summary.loc["turned", "family"])
    (cells,) = crossed.figure().data
    assert list(cells.y) == ["(not trained)", *TASKS]
    np.testing.assert_allclose(cells.z[0], 0)
    assert cells.text[0][0] == f"{100 * table.loc[('yes', 'yes'), 'zero_shot']:.0f}"
    for i, source in enumerate(TASKS):
        gains = table.loc[source, "gain"].where(table.loc[source, "p"].notna())  # at chance: grey
        np.testing.assert_allclose(np.array(cells.z[1 + i], dtype=float), 100 * gains.loc[list(TASKS)])
    assert f"random trained {100 * cell['control']:.1f} %" in cells.customdata[1][2]
    text = crossed.in_words()
    own = [table.loc[(name, name), "gain"] for name in crossed.standings.others]
    assert f"**{100 * np.mean(own):+.1f} points**" in text
    beyond = sum(table.loc[(n, n), "q"] < 0.05 and table.loc[(n, n), "effect"] > 0 for n in TASKS)
    assert crossed.standings.others == ["yes"] and f"**{beyond} of 1**" in text
    assert ("A negative" in text) == (beyond < 1) and "nothing can be concluded about **maybe, turned**" in text
    assert summary["chance"].tolist() == ["above", "at chance", "at chance"]


def test_what_two_experiments_measure_is_measured_once(model, masks, output, only, crossed, monkeypatch):
    monkeypatch.setattr(trials, "finetune", never)
    before = (output / JOURNAL).read_text()
    again = train_only(model, TASKS, masks, output=output, **QUICK)
    pd.testing.assert_frame_equal(again.to_frame(), only.to_frame())
    own = only.to_frame().query("condition == 'task'").groupby("task")["score"].mean()
    for name in TASKS:  # the diagonal of the other experiment
        assert crossed.matrix.loc[name, name] == pytest.approx(own[name])
    assert (output / JOURNAL).read_text() == before


# --- proportion sweep


def test_a_joint_sweep_trains_unions_on_all_tasks(model, scores, joint):
    table = joint.to_frame()
    assert len(table) == 3 + 2 * 3 * 2 * 3  # zero-shot; shares, seeds, conditions, tasks
    union = scores["yes"].top(0.1) | scores["maybe"].top(0.1)
    rows = table[(table["k"] == 0.1) & (table["seed"] == 1)].set_index(["condition", "task"])
    assert set(rows["neurons"]) == {len(union)} and set(rows["group"]) == {"joint"}
    assert rows["density"].iloc[0] == len(union) / 96
    for name in TASKS:
        assert rows.loc[("task", name), "score"] == by_hand(model, union, ["yes", "maybe"], 1, name).mean()
        control = by_hand(model, union.random_like(seed=1), ["yes", "maybe"], 1, name).mean()
        assert rows.loc[("random-layer", name), "score"] == control
        assert rows.loc[("task", name), "domain"] == ("out" if name == "turned" else "in")
    full = table[table["k"] == 1.0].set_index(["condition", "seed", "task"]).sort_index()
    assert (full["neurons"] == 96).all()
    assert (full.loc["task", "score"] == full.loc["random-layer", "score"]).all()  # nothing to choose
    zero = table[table["condition"] == "zero-shot"].set_index("task")
    assert zero.loc["turned", "score"] == evaluate(model, TASKS["turned"]).score


def test_a_sweep_sums_up_and_draws(joint):
    table, curves = joint.to_frame(), joint.curves().set_index(["domain", "condition", "k"])
    cells = table[(table["domain"] == "in") & (table["condition"] == "task") & (table["k"] == 0.1)]
    by_seed = cells.groupby("seed")["score"].mean()
    error = np.sqrt((cells.groupby("task")["se"].mean() ** 2).sum()) / 2
    row = curves.loc[("in", "task", 0.1)]
    assert (row["score"], row["low"], row["high"]) == pytest.approx(
        seeds_and_examples_interval(by_seed, error, is_score=True)
    )
    summary = joint.summary().set_index(["domain", "k"])
    low_k, high_k = summary.loc[("in", 0.1)], summary.loc[("in", 1.0)]
    assert low_k["difference"] == pytest.approx(low_k["task"] - low_k["random-layer"])
    assert low_k["difference_low"] < low_k["difference"] < low_k["difference_high"]
    assert (high_k["difference"], high_k["difference_low"], high_k["difference_high"]) == (0, 0, 0)
    lines = {t.name: t for t in joint.figure().data if t.name and t.mode}
    own = lines["specialization (in-domain)"]
    np.testing.assert_allclose(own.x, [10, 100])
    np.testing.assert_allclose(own.y, [100 * low_k["task"], 100 * high_k["task"]])
    np.testing.assert_allclose(
        lines["generalization (out-of-domain), random neurons"].y,
        [100 * summary.loc[("out", k), "random-layer"] for k in (0.1, 1.0)],
    )
    np.testing.assert_allclose(lines["specialization (in-domain): not trained"].y, [100 * low_k["zero-shot"]] * 2)
    text = joint.in_words()
    assert f"{low_k['zero-shot']:.1%} before training" in text and "out-of-domain" not in text  # turned is at chance
    assert joint.standings.others == ["yes"] and "nothing can be concluded about **maybe, turned**" in text


def test_a_single_task_sweep_trains_each_alone(model, scores, output, monkeypatch):
    calls = []
    monkeypatch.setattr(
        sys.modules["neuroscope.experiments.f2_proportion_sweep"],
        "attribute",
        lambda model, task, **how: calls.append(task.name) or scores[task.name],
    )
    two = {name: TASKS[name] for name in ("yes", "turned")}
    sweep = proportion_sweep(model, two, k=(0.1, 0.2), joint=False, seeds=3, output=output, recipe=RECIPE)
    assert calls == ["yes", "turned"]  # once each, for all shares
    table = sweep.to_frame()
    assert set(zip(table["group"], table["task"], table["domain"], strict=True)) == {
        ("yes", "yes", "in"), ("yes", "turned", "out"), ("turned", "turned", "in"), ("turned", "yes", "out"),
    }  # fmt: skip
    row = table.query("group == 'turned' and task == 'yes' and k == 0.2 and condition == 'task'").iloc[0]
    assert row["score"] == by_hand(model, scores["turned"].top(0.2), ["turned"], 0, "yes").mean()
    assert row["neurons"] == len(scores["turned"].top(0.2)) == 19


# --- preset overlap


@pytest.mark.parametrize("match", ["uniform", "layer"])
def test_draws_have_exactly_the_share_inside(masks, match):
    target = masks["yes"]
    seen = set()
    for seed, share in itertools.product(range(3), (0.0, 0.25, 0.5, 1.0)):
        drawn = draw_with_overlap(target, len(target), share, seed=seed, match=match)
        assert len(drawn) == len(target) == 19
        assert len(drawn & target) == round(share * 19)
        assert drawn == draw_with_overlap(target, len(target), share, seed=seed, match=match)
        if match == "layer":
            assert drawn.counts() == target.counts()
        seen.add(drawn)
    assert len(seen) == 3 * 3 + 1  # all of the mask is one set
    uniform = [draw_with_overlap(target, 10, 0.0, seed=s) for s in range(80)]
    assert (sum(m.flags().int() for m in uniform) > 0).sum() == 96 - 19  # every neuron outside has its turn


def test_a_layer_without_neurons_to_spare_is_named(model):
    widths = {a: s.width for a, s in model.sites().items()}
    first = next(iter(widths))
    dense = NeuronMask.of({first: range(40)}, widths)
    assert len(draw_with_overlap(dense, 8, 0.0, seed=0, match="layer") & dense) == 0
    with pytest.raises(MaskError, match=f"9 neurons outside the mask at {first}"):
        draw_with_overlap(dense, 9, 0.0, seed=0, match="layer")


def test_overlap_controlled_is_a_loop_over_finetune_and_evaluate(model, masks, controlled):
    table = controlled.to_frame()
    assert len(table) == 3 + 3 * 3 * 3
    own = masks["yes"] | masks["maybe"]
    for share, seed in ((0.5, 1), (1.0, 0)):
        mask = draw_with_overlap(masks["turned"], 10, share, seed=seed)
        rows = table[(table["share"] == share) & (table["seed"] == seed)].set_index("task")
        assert set(rows["inside"]) == {10 * share} and set(rows["neurons"]) == {10}
        assert rows["inside_train"].iloc[0] == len(mask & own) / 10
        for name in ("turned", "yes"):
            assert rows.loc[name, "score"] == by_hand(model, mask, ["yes", "maybe"], seed, name).mean()
    assert dict(zip(table["task"], table["role"], strict=True)) == {"turned": "test", "yes": "train", "maybe": "train"}
    assert (table[table["share"].isna()]["neurons"] == 0).all()


def test_the_trend_is_spearmans_with_a_permutation_p():
    shares, scores = (0.0, 0.5, 1.0), {0: (0.1, 0.3, 0.2), 1: (0.3, 0.4, 0.9)}
    rows = [
        {"role": "test", "share": x, "seed": s, "score": v, "task": "t", "se": 0.0, "inside": 0, "inside_train": 0.0}
        | {"majority": 0.0, "uniform": 0.0, "p_majority": 0.001}
        for s, values in scores.items()
        for x, v in zip(shares, values, strict=True)
    ]
    trend = OverlapControlled(pd.DataFrame(rows), {"size": 1}).trend().iloc[0]
    x, y = [r["share"] for r in rows], [r["score"] for r in rows]
    assert trend["spearman"] == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    orders = list(itertools.permutations(shares))
    exact = [abs(scipy.stats.spearmanr([*a, *b], y).statistic) for a in orders for b in orders]
    share_as_large = np.mean(np.array(exact) >= abs(trend["spearman"]) - 1e-9)
    assert trend["p"] == pytest.approx(share_as_large, abs=0.02) and trend["runs"] == 6
    flat = OverlapControlled(pd.DataFrame(rows).assign(score=0.5), {"size": 1}).trend().iloc[0]
    assert np.isnan(flat["spearman"]) and flat["p"] == 1


def test_overlap_controlled_sums_up_and_draws(controlled):
    summary = controlled.summary().set_index(["role", "share"])
    table = controlled.to_frame()
    cells = table[(table["share"] == 0.5) & (table["role"] == "train")]
    by_seed, error = cells.groupby("seed")["score"].mean(), np.sqrt((cells.groupby("task")["se"].mean() ** 2).sum()) / 2
    assert tuple(summary.loc[("train", 0.5), ["score", "low", "high"]]) == pytest.approx(
        seeds_and_examples_interval(by_seed, error, is_score=True)
    )
    lines = {t.name: t for t in controlled.figure().data if t.name and t.mode}
    np.testing.assert_allclose(
        lines["training tasks (specialization)"].y, [100 * summary.loc[("train", x), "score"] for x in (0, 0.5, 1)]
    )
    before = table[table["share"].isna() & (table["role"] == "test")]["score"].item()
    np.testing.assert_allclose(lines["held-out tasks (generalization): not trained"].y, [100 * before] * 2)
    text, trends = controlled.in_words(), controlled.trend().set_index("role", drop=False)
    assert controlled.standings.others == ["yes"] and np.isnan(trends.loc["test", "p"])  # turned is at chance
    assert "nothing can be concluded about **turned, maybe**" in text and "hold those at chance as well" in text
    assert "test: " in controlled.figure().layout.title.subtitle.text and "Held-out tasks" not in text
    for row in trends.loc[["train"]].itertuples():
        rho = "all runs score the same" if np.isnan(row.spearman) else f"Spearman {row.spearman:+.2f}"
        assert f"{rho}, p = {row.p:.2g}, 9 runs" in text
        assert f"{row.role}: {rho}, p = " in controlled.figure().layout.title.subtitle.text.replace("<br>", " ")
    assert text.count("**A negative**") == (controlled.trend()["p"] >= 0.05).sum()


def test_only_the_planted_neurons_learn(monkeypatch):
    """All neurons but twelve are dead, and stay dead: their gradients are zero."""
    monkeypatch.setattr(trials, "finetune", training.finetune)
    model = tiny_model()
    sites = model.sites()
    alive = NeuronMask.of({a: range(6) for a in sites}, {a: s.width for a, s in sites.items()})
    with torch.no_grad():
        for address, site in sites.items():
            dead = torch.ones(site.width, dtype=torch.bool)
            dead[alive[address]] = False
            for rows in [*site.out, *(r for found in site.ins.values() for r in found)]:
                rows.view(rows.param)[..., dead] = 0.0
    masks = {"yes": alive, "turned": alive}
    tasks = {name: TASKS[name] for name in masks}
    recipe = {"steps": 60, "lr": 0.05, "batch_size": 8}
    found = overlap_controlled(model, tasks, masks, held_out="turned", shares=(0.0, 1.0), seeds=3, recipe=recipe)
    summary = found.summary().set_index(["role", "share"])["score"]
    before = evaluate(model, tasks["yes"]).score
    assert summary[("train", 0.0)] == before  # to the last digit
    assert summary[("train", 1.0)] > before + 0.2
    assert found.trend().set_index("role").loc["train", "spearman"] > 0.8


# --- what is trained with which seed


class Planned:
    """In place of `finetune`: notes what would be trained, and trains nothing."""

    manifest: ClassVar[dict] = {}

    def __init__(self, monkeypatch):
        self.runs = []
        monkeypatch.setattr(trials, "finetune", self)

    def __call__(self, model, tasks, mask, *, seed, **recipe):
        self.runs.append((mask, tuple(task.name for task in tasks), seed))
        assert recipe["lr"] == 0.02 and recipe["steps"] == 4 and recipe["batch_size"] == 8
        return self

    def detach(self):
        pass


def test_every_run_trains_with_its_own_seed(model, masks, scores, monkeypatch):
    planned = Planned(monkeypatch)
    one, mask = {"yes": masks["yes"]}, masks["yes"]
    train_only(model, TASKS, one, seeds=(0, 5, 7), recipe=RECIPE)
    likes = [mask.random_like(seed=s, match=m) for m in ("uniform", "layer") for s in (0, 5, 7)]
    assert planned.runs == [(m, ("yes",), (0, 5, 7)[i % 3]) for i, m in enumerate([*likes, *[mask] * 3])]
    planned.runs.clear()
    said = cross_training(model, TASKS, one, match="uniform", **QUICK).in_words()
    assert "random neurons of the whole model" in said and "of the same layers" not in said
    likes = [mask.random_like(seed=s, match="uniform") for s in range(3)]
    assert planned.runs == [(m, ("yes",), i % 3) for i, m in enumerate([*[mask] * 3, *likes])]
    planned.runs.clear()
    top = scores["yes"].top(0.1)
    proportion_sweep(model, {"yes": TASKS["yes"]}, k=0.1, scores=scores, **QUICK)
    assert planned.runs == [(m, ("yes",), s) for s in range(3) for m in (top, top.random_like(seed=s))]
    planned.runs.clear()
    overlap_controlled(model, TASKS, masks, held_out=["turned"], shares=(0.0, 1.0), size=9, match="layer", **QUICK)
    drawn = [(draw_with_overlap(masks["turned"], 9, x, seed=s, match="layer"), s) for s in range(3) for x in (0.0, 1.0)]
    assert planned.runs == [(m, ("yes", "maybe"), s) for m, s in drawn]


def swept(model, tasks, masks, **how):
    return proportion_sweep(model, {"yes": tasks["yes"]}, k=0.1, **how)


def preset(model, tasks, masks, **how):
    return overlap_controlled(model, tasks, {"turned": masks["turned"]}, held_out="turned", shares=(0.0, 1.0), **how)


@pytest.mark.parametrize("experiment", [train_only, cross_training, swept, preset])
def test_two_seeds_draw_too_few_random_masks(experiment, model, masks, monkeypatch):
    """What the error says is true: three seeds are taken."""
    for seeds in (1, [3], 2, (0, 7)):
        with pytest.raises(ArgumentError, match=r"with a random mask of its own(.|\n)*give 3 seeds or more"):
            experiment(model, TASKS, masks, seeds=seeds, recipe=RECIPE)
    Planned(monkeypatch)  # nothing is trained
    if experiment in (train_only, cross_training):
        masks = {"yes": masks["yes"]}
    assert experiment(model, TASKS, masks, seeds=(0, 1, 5), recipe=RECIPE, n=2).manifest["seeds"] == [0, 1, 5]


def test_training_is_finetune(model, masks, monkeypatch):
    """The stand-in of this file stands in for the function that it says."""
    monkeypatch.setattr(trials, "finetune", training.finetune)
    one = {"yes": masks["yes"]}
    row = train_only(model, TASKS, one, **QUICK).table.query("condition == 'task' and seed == 1").iloc[0]
    adapter = training.finetune(model, TASKS["yes"], masks["yes"], seed=1, **RECIPE)
    assert row["score"] == evaluate(model, TASKS["yes"]).score
    adapter.detach()


# --- resuming, and leaving no trace


def test_a_killed_run_goes_on(model, masks, only, tmp_path, monkeypatch):
    one, done = {"yes": masks["yes"]}, []

    def until_killed(*args, **kwargs):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return quick_finetune(*args, **kwargs)

    monkeypatch.setattr(trials, "finetune", until_killed)
    with unchanged(model.root), pytest.raises(KeyboardInterrupt):
        train_only(model, TASKS, one, output=tmp_path, **QUICK)
    done.clear()
    monkeypatch.setattr(trials, "finetune", lambda *args, **kwargs: done.append(1) or quick_finetune(*args, **kwargs))
    again = train_only(model, TASKS, one, output=tmp_path, **QUICK)
    assert len(done) == 9 - 2
    first = only.to_frame().query("task == 'yes'")
    pd.testing.assert_frame_equal(again.to_frame().drop(columns="q"), first.drop(columns="q"))


def test_another_recipe_seed_or_test_set_is_measured_again(model, masks, only, output, monkeypatch):
    monkeypatch.setattr(trials, "finetune", never)
    one = {"yes": masks["yes"]}
    for change in ({"lr": 0.03}, {"steps": 5}, {"batch_size": 4}, {"arguments": {"optim": "sgd"}}):
        with pytest.raises(AssertionError, match="measured before"):
            train_only(model, TASKS, one, output=output, seeds=3, recipe=RECIPE | change)
    for change in ({"n": 10}, {"seeds": 4}, {"seeds": (0, 1, 7)}):
        with pytest.raises(AssertionError, match="measured before"):
            train_only(model, TASKS, one, output=output, **QUICK | change)
    with pytest.raises(AssertionError, match="measured before"):
        train_only(model, TASKS, {"yes": masks["turned"]}, output=output, **QUICK)
    with pytest.raises(AssertionError, match="measured before"):
        train_only(tiny_model(seed=1), TASKS, one, output=output, **QUICK)


def test_an_error_leaves_no_trace(model, masks, monkeypatch):
    def fail(*args):
        raise RuntimeError("in the measurement")

    monkeypatch.setattr(trials, "judge", fail)
    with unchanged(model.root), pytest.raises(RuntimeError, match="in the measurement"):
        train_only(model, TASKS, masks, **QUICK)
    with unchanged(model.root), pytest.raises(RuntimeError, match="in the measurement"):
        overlap_controlled(model, TASKS, masks, held_out="yes", **QUICK)


def test_progress_is_told(model, masks, output, only):
    told = []

    def progress(items, desc):
        told.append((desc, len(items)))
        return items

    train_only(model, TASKS, masks, output=output, progress=progress, **QUICK)
    assert not told  # all is known
    one = {"yes": masks["yes"]}
    train_only(model, TASKS, one, progress=progress, **QUICK)
    assert [t for t in told if t[0].startswith("train only")] == [("train only: before", 1), ("train only", 9)]


@pytest.mark.parametrize("name", ["only", "crossed", "joint", "controlled"])
def test_results_survive_a_file(name, request, tmp_path):
    result = request.getfixturevalue(name)
    again = type(result).load(result.save(tmp_path / "result.json"))
    pd.testing.assert_frame_equal(again.to_frame(), result.to_frame())
    pd.testing.assert_frame_equal(again.summary(), result.summary())
    assert again.in_words() == result.in_words()
    about = again.manifest
    assert about["split"] == "test" and about["n"] == 20 and about["recipe"]["lr"] == 0.02
    assert about["data_hash"]["yes"] == TASKS["yes"].data_hash and about["seen"] >= 0


def test_test_prompts_that_were_trained_on_are_counted(model, masks):
    task = TASKS["yes"]
    same = Task("yes", train=task.train, test=task.train[:6], discovery=task.discovery, labels=task.labels)
    mask = {"yes": attribute(model, same).top(0.2)}
    found = train_only(model, same, mask, **QUICK)
    assert found.manifest["seen"] == 6
    assert "- **6** of the test prompts are training prompts as well" in found.in_words()


# --- continual learning


@pytest.fixture
def splits(monkeypatch):
    """The splits that continual learning measures, in order."""
    setting = sys.modules[Setting.__module__]
    found, real = [], setting.prepare_task

    def watched(model, task, split, *args):
        found.append(split)
        return real(model, task, split, *args)

    monkeypatch.setattr(setting, "prepare_task", watched)
    return found


PAIR = [TASKS["yes"], TASKS["maybe"]]
SHORT = {"steps": 2, "batch_size": 8}  # a recipe


def test_rates_are_tuned_without_test_examples(model, splits, tmp_path, monkeypatch):
    orders = [["maybe", "yes"], ["yes", "maybe"]]
    grid = (1e-4, 1e-2)
    how = {"orders": orders, "seeds": (3,), "lrs": grid, "output": tmp_path, "recipe": SHORT}
    with unchanged(model.root):
        result = continual_comparison(model, PAIR, ["seqft"], **how)
    assert isinstance(result, Continual)
    first_test = splits.index("test")
    assert set(splits[:first_test]) == {"discovery"} and set(splits[first_test:]) == {"test"}
    found = {
        lr: continual(
            model, PAIR, "seqft", orders=orders[:1], seeds=(1000,), recipe=SHORT | {"lr": lr}, split="discovery"
        )
        .metrics()["average accuracy"].item()
        for lr in grid
    }  # fmt: skip
    tuned = result.manifest["tuning"]["seqft"]
    assert tuned["grid"] == {f"{lr:g}": score for lr, score in found.items()}
    best = max(grid, key=lambda lr: found[lr])
    assert tuned["chosen"] == best and tuned["edge"] is True
    assert set(result.table["lr"]) == {best} and set(result.table["seed"]) == {3}
    assert result.manifest["orders"] == orders and result.manifest["split"] == "test"
    assert result.manifest["tuned_on"] == {"yes": "discovery", "maybe": "discovery"}
    monkeypatch.setattr(sys.modules[Setting.__module__], "train", never)
    again = continual_comparison(model, PAIR, ["seqft"], **how)
    pd.testing.assert_frame_equal(again.table, result.table)
    assert again.manifest["tuning"] == result.manifest["tuning"]


def test_grids_by_method_and_a_fall_back_that_is_told(model, splits):
    plain = reviews("plain", ("no", "yes"), 5, discovery=0)
    result = continual_comparison(
        model, [TASKS["yes"], plain], ["ncft-random"], seeds=(0,), options={"ncft-random": {"k": 0.2}},
        lrs={"ncft-random": (1e-3, 1e-2)}, recipe=SHORT,
    )  # fmt: skip
    assert result.manifest["tuned_on"] == {"yes": "discovery", "plain": "train"}
    assert next(iter(result.manifest["runs"]))["settings"]["options"]["k"] == 0.2
    text = result.in_words()
    assert "tuned on training examples of plain" in text and "edge of the grid for ncft-random" in text


def test_a_rate_that_diverges_is_passed_over(model):
    both = continual_comparison(model, PAIR, ["seqft"], seeds=(0,), lrs=(1e-3, 1e30), recipe=SHORT)
    tuned = both.manifest["tuning"]["seqft"]
    assert tuned["chosen"] == 1e-3 and np.isnan(tuned["grid"]["1e+30"])
    with unchanged(model.root), pytest.raises(NumericalError, match="every one diverged"):
        continual_comparison(model, PAIR, ["seqft"], seeds=(0,), lrs=(1e30, 1e31), recipe=SHORT)


def test_a_recipes_rate_is_not_tuned_and_neurons_are_found_as_told(model):
    result = continual_comparison(
        model, PAIR, ["ncft-random", "seqft"], seeds=(0,), recipe=SHORT | {"lr": 1e-3}, k=0.3, examples=4
    )
    assert set(result.table["lr"]) == {1e-3} and set(result.table["options"]) == {"examples=4 k=0.3", ""}
    assert result.manifest["tuning"]["seqft"] == {"grid": {"0.001": None}, "chosen": 1e-3, "edge": False}


# --- bad input


def found_on_test(model, name):
    return attribute(model, TASKS[name], split="test")


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda m, k: train_only(m, TASKS, k, seed=1), ArgumentError, r"did you mean 'seeds'"),
        (lambda m, k: train_only(m, TASKS, k, recipe={"lrr": 1}), ArgumentError, r"lrr=1(.|\n)*did you mean 'lr'"),
        (lambda m, k: train_only(m, TASKS, k, recipe={"lr": -1}), ArgumentError, "not positive"),
        (lambda m, k: train_only(m, k, TASKS), ArgumentError, "a NeuronMask in place of a task"),
        (lambda m, k: train_only(m, TASKS["yes"], k), ArgumentError, r"no task for \['maybe', 'turned'\]"),
        (lambda m, k: train_only(m, TASKS, {"yes": found_on_test(m, "yes").top(0.1)}), TaskError, "same examples"),
        (lambda m, k: train_only(m, {"e": dataclasses.replace(TASKS["yes"], name="e", train=())}, {"e": k["yes"]}),
         TaskError, "the train examples of task 'e'"),
        (lambda m, k: train_only(m, TASKS, {"yes": k["yes"] - k["yes"]}, **QUICK), MaskError, "mask"),
        (lambda m, k: cross_training(m, TASKS, k, match="depth"), ArgumentError, "match='depth'"),
        (lambda m, k: cross_training(m, TASKS, k, wrong=1), ArgumentError, "unexpected keyword argument 'wrong'"),
        (lambda m, k: proportion_sweep(m, {}), ArgumentError, "no task"),
        (lambda m, k: proportion_sweep(m, TASKS, held_out=list(TASKS)), ArgumentError, "none to train on"),
        (lambda m, k: proportion_sweep(m, TASKS, held_out="yess"), ArgumentError, "did you mean 'yes'"),
        (lambda m, k: proportion_sweep(m, TASKS, k=(0.5, 0.1)), ArgumentError, "not growing"),
        (lambda m, k: proportion_sweep(m, TASKS, k=(0.0, 0.1)), ArgumentError, "not growing"),
        (lambda m, k: proportion_sweep(m, TASKS, scores={}), ArgumentError, "scores of task"),
        (lambda m, k: proportion_sweep(m, TASKS, seeds=0), ArgumentError, "seeds=0"),
        (lambda m, k: proportion_sweep(m, TASKS, scores=attribute(m, TASKS, split="test")), TaskError, "same examples"),
        (lambda m, k: proportion_sweep(
            m, TASKS, held_out=["maybe", "turned"], scores={"yes": found_on_test(m, "maybe")}
        ), TaskError, "same examples"),
        (lambda m, k: overlap_controlled(
            m, TASKS, k | {"yes": found_on_test(m, "yes").top(0.1)}, held_out="yes"
        ), TaskError, "same examples"),
        (lambda m, k: overlap_controlled(m, TASKS, k, held_out="other"), ArgumentError, "held-out task='other'"),
        (lambda m, k: overlap_controlled(m, TASKS, {"maybe": k["maybe"]}, held_out="yes"), ArgumentError,
         "mask of held-out task='yes'"),
        (lambda m, k: overlap_controlled(m, TASKS, k, held_out=()), ArgumentError, "no task held out"),
        (lambda m, k: overlap_controlled(m, TASKS, k, held_out="yes", shares=(0, 2)), ArgumentError, "not growing"),
        (lambda m, k: overlap_controlled(m, TASKS, k, held_out="yes", shares=(0.5,)), ArgumentError, "one share"),
        (lambda m, k: overlap_controlled(m, TASKS, k, held_out="yes", size=20), ArgumentError, "19 neurons inside"),
        (lambda m, k: overlap_controlled(m, TASKS, k, held_out="yes", size=0), ArgumentError, "size=0"),
        (lambda m, k: continual_comparison(m, PAIR, ["sftseq"]), ArgumentError, "method='sftseq'"),
        (lambda m, k: continual_comparison(m, PAIR, []), ArgumentError, "methods="),
        (lambda m, k: continual_comparison(m, PAIR, "seqft", seeds=(1000,)), ArgumentError, "also in seeds"),
        (lambda m, k: continual_comparison(m, PAIR, ["seqft"], lrs={"ncft": 1e-3}), ArgumentError, "lrs of 'seqft'"),
        (lambda m, k: continual_comparison(m, PAIR, ["seqft"], lrs=()), ArgumentError, "no learning rates"),
        (lambda m, k: continual_comparison(m, PAIR, ["seqft"], lrs=(0.1, "a")), ArgumentError, "give a number"),
        (lambda m, k: continual_comparison(m, PAIR, ["seqft"], split="test"), ArgumentError, "argument 'split'"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_the_way_out(model, masks, call, error, text):
    with unchanged(model.root), pytest.raises(error, match=text):
        call(model, masks)
