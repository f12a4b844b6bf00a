"""Evidence: every number equals a loop by hand, masks are judged on other examples, and a killed run goes on."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from tiny import WORDS
from tiny import tiny_model as build_tiny_model

from neuroscope import files
from neuroscope.attribution import attribute
from neuroscope.errors import ArgumentError, FileError, MaskError, TaskError
from neuroscope.evaluation import Evaluation, evaluate
from neuroscope.experiments.f5_cross_ablation import CrossAblation, cross_ablation
from neuroscope.experiments.judging import JOURNAL
from neuroscope.experiments.t1_deactivation import Deactivation, deactivation
from neuroscope.interventions import ablate
from neuroscope.interventions.patch_grid import PatchSweep
from neuroscope.masks import NeuronMask, Overlap, OverlapSweep, overlap, overlap_sweep
from neuroscope.results import Result, load_result
from neuroscope.statistics import against_controls, benjamini_hochberg, effect_margin, score_interval
from neuroscope.tasks import Example, Task


def make_tasks():
    """Three small tasks in two families; one generates."""

    def split(offset, answers):
        return [
            Example(" ".join((WORDS * 2)[i + offset : i + offset + 3 + i % 4]), answers[i % len(answers)])
            for i in range(12)
        ]

    labels = ("good", "bad", "awful")
    return {
        "food": Task("food", train=split(0, labels), test=split(5, labels), labels=labels, family="sentiment"),
        "film": Task("film", train=split(1, labels), test=split(7, labels), labels=labels, family="sentiment"),
        "plot": Task("plot", train=split(2, WORDS[:5]), test=split(9, WORDS[:5]), family="summary", max_new_tokens=4),
    }


def able(model, task):
    """The task with test answers that the model gives, but for the first, so that there is something to lose."""
    answers = evaluate(model, task).table["prediction"]
    test = [dataclasses.replace(e, answer=a, references=()) for e, a in zip(task.test[1:], answers[1:], strict=True)]
    return dataclasses.replace(task, test=[task.test[0], *test])


@pytest.fixture(scope="module")
def setting():
    model, tasks = build_tiny_model(), make_tasks()
    tasks |= {name: able(model, tasks[name]) for name in ("food", "film")}
    return model, tasks, {name: attribute(model, t).top(0.3, per_layer=True) for name, t in tasks.items()}


@pytest.fixture(scope="module")
def off(setting):
    return deactivation(*setting, n_random=3)


@pytest.fixture(scope="module")
def crossed(setting):
    return cross_ablation(*setting, n_random=3)


class Forwards:
    """Counts a model's forward passes."""

    def __init__(self, model):
        self.n = 0
        self.handle = model.root.register_forward_pre_hook(self.count)

    def count(self, *args):
        self.n += 1

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.handle.remove()


def outcomes_without(model, task, mask, n=None):
    with ablate(model, mask):
        return evaluate(model, task, n=n).outcomes


def test_deactivation_is_a_loop_over_ablate_and_evaluate(setting, off):
    model, tasks, masks = setting
    table = off.to_frame()
    assert len(table) == 3 * (1 + 3 + 3 + 3 + 1)
    matches = {"random-uniform": "uniform", "random-layer": "layer", "random-activation": "activation"}
    ps, spread = {condition: [] for condition in matches}, set()
    breaks_more = {condition: [] for condition in matches}
    for name, task in tasks.items():
        rows = table[table["task"] == name]
        original = evaluate(model, task).outcomes
        mask = masks[name]
        runs = {("original", None): original, ("task", None): outcomes_without(model, task, mask)}
        for seed in range(3):
            for condition, match in matches.items():
                drawn = mask.random_like(seed=seed, match=match)
                runs[condition, seed] = outcomes_without(model, task, drawn)
        assert len(rows) == len(runs)
        for (condition, seed), outcomes in runs.items():
            at = rows[
                (rows["condition"] == condition) & (rows["seed"].isna() if seed is None else rows["seed"] == seed)
            ]
            (row,) = at.to_dict("records")
            assert row["score"] == outcomes.mean()
            assert (row["low"], row["high"]) == score_interval(outcomes)
            assert row["neurons"] == (0 if condition == "original" else len(mask))
            assert (row["family"], row["kind"], row["metric"], row["n"]) == (task.family, task.kind, task.metric, 12)
            spread.add(row["score"])
            if condition == "original":
                assert math.isnan(row["p"]) and math.isnan(row["q"])
        for condition, found in ps.items():
            random = [runs[condition, seed] for seed in range(3)]
            found.append(p_by_hand(runs["task", None], random))
            breaks_more[condition].append(runs["task", None].mean() < np.mean(random))
    # of the claim that it breaks more than every kind, against which one that breaks as much or more speaks fully
    claim = np.max([np.where(breaks_more[c], ps[c], 1.0) for c in ps], axis=0)
    for condition, found in (ps | {"task": claim}).items():
        rows = table[table["condition"] == condition].drop_duplicates("task")
        assert rows["p"].tolist() == pytest.approx(list(found), rel=1e-12)
        assert rows["q"].tolist() == benjamini_hochberg(rows["p"]).tolist()
    assert len(spread) > 5  # else the numbers say nothing
    assert str(table["seed"].dtype) == "Int64"
    assert off.manifest["sizes"] == {name: len(m) for name, m in masks.items()}
    assert (off.manifest["n"], off.manifest["n_random"], off.manifest["split"]) == (12, 3, "test")
    assert off.manifest["fingerprint"] == model.fingerprint()


def test_summary_is_the_means(off):
    table, summary = off.to_frame(), off.summary()
    assert summary["name"].tolist() == [
        "food",
        "film",
        "plot",
        "mean (classification)",
        "mean (generation)",
        "mean (all)",
    ]
    by_name = summary.set_index("name")
    for name in ("food", "film", "plot"):
        rows = table[table["task"] == name]
        score = lambda condition, rows=rows: rows.loc[rows["condition"] == condition, "score"]  # noqa: E731
        row = by_name.loc[name]
        assert row["original"] == score("original").item()
        assert row["off"] == score("task").item()
        assert row["random-layer"] == pytest.approx(score("random-layer").mean())
        assert row["random-uniform"] == pytest.approx(score("random-uniform").mean())
        assert row["random-activation"] == pytest.approx(score("random-activation").mean())
        assert row["loss_off"] == pytest.approx(row["original"] - row["off"])
        assert row["loss_random_layer"] == pytest.approx(row["original"] - row["random-layer"])
        assert row["q"] == rows.loc[rows["condition"] == "task", "q"].item()
        assert row["q_layer"] == rows.loc[rows["condition"] == "random-layer", "q"].unique().item()
    for column in ("original", "random-uniform", "random-layer", "off", "loss_off"):
        assert by_name.loc["mean (classification)", column] == pytest.approx(by_name[column].iloc[:2].mean())
        assert by_name.loc["mean (generation)", column] == pytest.approx(by_name[column].iloc[2])
        assert by_name.loc["mean (all)", column] == pytest.approx(by_name[column].iloc[:3].mean())
    assert by_name[["p", "q"]].iloc[3:].isna().all(axis=None)


def p_by_hand(run, controls):
    """Student's t of the mask as one more of the random masks, and of what its examples vary beyond theirs."""
    controls, n = np.array(controls), len(run)
    rows, columns = len(controls), controls.mean(axis=0)
    residual = [(c - c.mean() - columns + columns.mean()) ** 2 for c in controls]
    noise = np.sum(residual) / ((rows - 1) * (n - 1)) / n
    of_masks = (1 + 1 / rows) * max(np.var([c.mean() for c in controls], ddof=1), 1 / n**2)
    of_examples = max(0.0, np.var(columns - run, ddof=1) / n - (1 + 1 / rows) * noise)
    df = (of_masks + of_examples) ** 2 / (of_masks**2 / (rows - 1) + of_examples**2 / (n - 1))
    return 2 * scipy.stats.t.sf(abs(np.mean(columns - run)) / np.sqrt(of_masks + of_examples), df)


def test_cross_ablation_is_a_loop_over_ablate_and_evaluate(setting, crossed):
    model, tasks, masks = setting
    table = crossed.to_frame()
    ps = []
    for source, mask in masks.items():
        drawn = [mask.random_like(seed=s, match="layer") for s in range(3)]
        for target, task in tasks.items():
            (row,) = table[(table["source"] == source) & (table["target"] == target)].to_dict("records")
            run = outcomes_without(model, task, mask)
            each = [outcomes_without(model, task, d) for d in drawn]
            control = np.mean(each, axis=0)
            assert row["score"] == run.mean()
            assert row["original"] == evaluate(model, task).score
            assert row["control"] == pytest.approx(control.mean())
            assert row["effect"] == pytest.approx((control - run).mean())
            assert row["low"] <= row["effect"] <= row["high"]
            assert row["p"] == pytest.approx(p_by_hand(run, each), rel=1e-12)
            assert row["margin"] == pytest.approx(effect_margin(run, each))
            assert (row["source_family"], row["target_family"]) == (tasks[source].family, task.family)
            assert crossed.matrix.loc[source, target] == row["effect"]
            ps.append(row["p"])
    assert len(ps) == len(table) == 9
    assert table["q"].tolist() == benjamini_hochberg(ps).tolist()
    assert list(crossed.matrix.index) == list(crossed.matrix.columns) == list(masks)
    assert table["effect"].abs().max() > 0.1
    uniform = cross_ablation(*setting, n_random=3, match="uniform", n=4)
    source, target = "food", "plot"
    drawn = [masks[source].random_like(seed=s, match="uniform") for s in range(3)]
    row = uniform.table.set_index(["source", "target"]).loc[(source, target)]
    each = [outcomes_without(model, tasks[target], d, n=4).mean() for d in drawn]
    assert row["control"] == pytest.approx(np.mean(each))
    assert (uniform.manifest["n"], uniform.manifest["match"]) == (4, "uniform")
    for said in (uniform.in_words(), uniform.figure().layout.title.subtitle.text):
        assert "random neurons of the whole model" in said and "of the same layers" not in said


def test_tasks_without_a_mask_are_named(setting):
    model, tasks, masks = setting
    with pytest.warns(UserWarning, match="leaves out tasks without a mask: film, plot"):
        found = cross_ablation(model, tasks, {"food": masks["food"]}, n_random=3, n=4, neutral=[])
    assert found.table["target"].tolist() == ["food"]


def test_decompose_sums_back_and_specific_has_no_margins(crossed):
    parts = crossed.decompose()
    total = parts["mean"] + parts["source_part"] + parts["target_part"] + parts["specific"]
    np.testing.assert_allclose(total, crossed.table["effect"], atol=1e-12)
    for side in ("source", "target"):
        np.testing.assert_allclose(parts.groupby(side)["specific"].sum(), 0, atol=1e-12)
        np.testing.assert_allclose(parts.drop_duplicates(side)[f"{side}_part"].sum(), 0, atol=1e-12)
    matrix = crossed.matrix.to_numpy()
    by_hand = matrix[0, 1] - matrix[0].mean() - matrix[:, 1].mean() + matrix.mean()
    assert parts.set_index(["source", "target"]).loc[("food", "film"), "specific"] == pytest.approx(by_hand)
    assert parts["specific"].abs().max() > 0.01


def constructed(effects, families, low=0.05, q=0.01, others_q=0.01):
    """A matrix with given effects; intervals of +- `low`, one q on the diagonal and one off it."""
    names = list(families)
    rows = [
        {"source": a, "target": b, "source_family": families[a], "target_family": families[b], "score": 0.5}
        | {"original": 0.9, "control": 0.8, "effect": effects[i][j]}
        | {"p": q if i == j else others_q, "q": q if i == j else others_q}
        | {
            "low": effects[i][j] - low,
            "high": effects[i][j] + low,
            "margin": low,
            "majority": 0.5,
            "uniform": 0.5,
            "p_majority": 0.01,
        }
        for i, a in enumerate(names)
        for j, b in enumerate(names)
    ]
    return CrossAblation(pd.DataFrame(rows), {"n_random": 3, "n": 10, "match": "layer"})


def test_verdicts():
    families = {"a1": "a", "a2": "a", "b1": "b", "c1": "c"}
    effects = [[0.6, 0.4, 0.1, 0.0], [0.5, 0.5, 0.0, 0.1], [0.3, 0.56, 0.02, 0.2], [0.1, 0.4, 0.04, -0.5]]
    found = constructed(effects, families).verdicts().set_index("task")
    # a1 is selective (0.6 less the means of its row, 0.275, and column, 0.375, and all again: 0.1575), and 0.55 > 0.3,
    # the stronger of b and c; a2 and b1 are not, and break half of the others' tasks or all; c1: below zero
    assert found["verdict"].tolist() == ["specific", "general", "general", "no effect"]
    assert found["breaks"].tolist() == [0.5, 0.5, 1.0, 1.0]
    few = constructed(effects, families, others_q=0.2).verdicts()
    assert few["verdict"].tolist() == ["specific", "shared", "shared", "no effect"] and (few["breaks"] == 0).all()
    # a2 has the mean of its row, 0.275, its column, 0.465, and all, 0.2075: 0.5 - 0.275 - 0.465 + 0.2075 < 0
    assert found.loc["a2", "selectivity"] == pytest.approx(-0.0325)
    # of 16 cells of +- 0.05, its own counts (3/4)^2, six of its row and column -3/16, and nine 1/16: 0.75 of one
    assert found.loc["a2", "selectivity_low"] == pytest.approx(-0.0325 - 0.75 * 0.05)
    np.testing.assert_allclose(found["other_families"], [0.2, 0.48, (0.1 + 0 + 0.04) / 3, 0.1])
    assert found["strongest"].tolist() == ["b", "b", "a", "b"]
    np.testing.assert_allclose(found["strongest_effect"], [0.3, 0.56, 0.05, 0.2])
    effects[2][0] = 0.58  # b alone comes near a1's own 0.6, the mean of b and c does not
    # what is left of a1's 0.6 beside the means of its row, 0.275, its column, 0.445, and all, 0.225: 0.105
    both = constructed(effects, families).verdicts()  # and a1's mask breaks b1: by 0.1, q = 0.01
    assert both["verdict"].tolist()[0] == "shared" and both["shared_with"].tolist()[0] == "b1"
    assert constructed(effects, families, low=0.2).verdicts()["verdict"].tolist()[0] == "general"
    effects[0][2] = 0.0  # now it does not: 0.6 - 0.25 - 0.445 + 0.21875 is left
    alone = constructed(effects, families).verdicts()
    assert alone["verdict"].tolist()[0] == "selective" and alone["shared_with"].tolist()[0] == ""
    effects[2][0], effects[0][2] = 0.3, 0.1
    np.testing.assert_allclose(found["same_family"], [0.5, 0.4, np.nan, np.nan])
    np.testing.assert_allclose(found["effect"], np.diag(effects))
    assert constructed(effects, families, q=0.2).verdicts()["verdict"].tolist() == ["no effect"] * 4
    alone = constructed(effects, dict.fromkeys(families, "a")).verdicts()
    assert alone["verdict"].tolist() == ["not compared"] * 2 + ["not compared", "no effect"]
    assert alone["other_families"].isna().all()


def test_a_mask_that_breaks_another_task_as_much_is_not_specific():
    """Own effect 0.6 [0.55, 0.65], and nobody else breaks the task; what decides is what the mask breaks elsewhere."""
    families = {"a1": "a", "a2": "a", "b1": "b", "c1": "c"}

    def found(row, **more):
        effects = [row, [0.5, 0.6, 0.0, 0.0], [0.0, 0.0, 0.6, 0.0], [0.0, 0.0, 0.0, 0.6]]
        result = constructed(effects, families)
        if more:
            result = dataclasses.replace(result, table=result.table.assign(**more))
        return result, result.verdicts().set_index("task").loc["a1"]

    result, own = found([0.6, 0.6, 0.1, 0.0])  # a task of its own family may break as much
    assert own["verdict"] == "specific" and "not specific, for" not in result.in_words()
    # the difference of 0.6 +- 0.05 and 0.1 +- 0.05 is 0.5 +- 0.0707; of what tasks can lose, 0.9 - 0.5, the first is
    # all and more, held to 1, and the second 0.25 [0.125, 0.375]: 0.625
    assert own["row_low"] == pytest.approx(0.5 - 0.05 * 2**0.5) and own["column_low"] == pytest.approx(
        0.6 - 0.05 * 2**0.5
    )
    assert (own["breaks_most"], own["breaks_most_effect"]) == ("b1", 0.1)
    result, own = found([0.6, 0.6, 0.9, 0.0])
    assert own["verdict"] == "selective" and (own["breaks_most"], own["breaks_most_effect"]) == ("b1", 0.9)
    assert (
        "- **A negative**: selective, not specific, for they break another family's task as much" in result.in_words()
    )
    assert "what it can lose: a1 (b1 loses 90 points, it 60)." in result.in_words()
    assert found([0.6, 0.6, 0.54, 0.0])[1]["verdict"] == "selective"  # 0.06 +- 0.07: not shown either way
    # 0.45 of the 0.45 that b1 can lose is all of it, 0.6 of the 0.9 that a1 can lose is not
    level = np.where([t == "b1" for t in result.table["target"]], 0.45, 0.0)
    assert found([0.6, 0.6, 0.45, 0.0], majority=0.0)[1]["verdict"] == "specific"
    own = found([0.6, 0.6, 0.45, 0.0], majority=level)[1]
    assert own["verdict"] == "selective" and own["row_low"] == pytest.approx(2 / 3 - 1 - 0.05 / 0.9)
    nothing_to_lose = found([0.6, 0.6, 0.1, 0.0], majority=np.nan, original=np.where(level > 0, 0.0, 0.9))[1]
    assert nothing_to_lose["row_low"] == pytest.approx(0.5 - 0.05 * 2**0.5)


def test_without_a_task_of_another_family_that_can_break_nothing_is_compared():
    table = constructed([[0.6, 0.0], [0.0, 0.6]], {"a": "a", "b": "b"}).table
    hopeless = table.assign(p_majority=np.where(table["target"] == "b", 0.5, 0.01))
    hopeless.loc[hopeless["target"] == "b", ["p", "q"]] = np.nan
    verdicts = CrossAblation(hopeless, {"n_random": 3, "n": 10, "match": "layer"}).verdicts()
    assert verdicts["verdict"].tolist() == ["not compared", "not competent"]


def drawn_world(rng, selective=0.0, tasks=6, n=64, n_random=5, elsewhere=False):
    """A matrix in which masks break tasks by how much they break in general and how easily the task breaks, and besides
    their own by `selective`: answers are right or wrong at random, and random masks differ among themselves.
    `elsewhere`: every other mask breaks the next task, too, as much as its own."""
    families = {name: name for name in "abcdef"[:tasks]}
    strength, weakness = rng.uniform(0, 0.35, tasks), rng.uniform(0, 0.2, tasks)
    rows = []
    for i, a in enumerate(families):
        random = rng.normal(0.05, 0.03, (n_random, 1))
        for j, b in enumerate(families):
            hard = rng.normal(0, 0.1, n)
            right = np.clip(0.95 - weakness[j] - hard, 0, 1)
            is_hit = i == j or (elsewhere and i % 2 == 0 and j == i + 1)
            off = rng.random(n) < np.clip(right - strength[i] - selective * is_hit, 0, 1)
            controls = rng.random((n_random, n)) < np.clip(right - random, 0, 1)
            rows.append(
                {"source": a, "target": b, "source_family": a, "target_family": b, "score": off.mean()}
                | {"original": 0.9, "control": controls.mean(), "majority": 0.5, "uniform": 0.5, "p_majority": 0.01}
                | against_controls(off, controls)
                | {"margin": effect_margin(off, controls)}
            )
    table = pd.DataFrame(rows)
    table["q"] = benjamini_hochberg(table["p"].to_numpy())
    return CrossAblation(table, {"n_random": n_random, "n": n, "match": "layer"})


def test_masks_without_a_task_of_their_own_are_not_given_one():
    rng = np.random.default_rng(0)
    none = pd.concat([drawn_world(rng).verdicts() for _ in range(60)])["verdict"]
    assert none.isin(["specific", "selective"]).mean() <= 0.05  # of 360 masks
    assert (none == "general").mean() > 0.1
    own = pd.concat([drawn_world(rng, selective=0.5).verdicts() for _ in range(10)])["verdict"]
    assert own.isin(["specific", "selective"]).mean() >= 0.9 and (own == "specific").mean() > 0.3
    both = pd.concat([drawn_world(rng, selective=0.3, elsewhere=True).verdicts().iloc[::2] for _ in range(30)])
    assert (both["verdict"] == "specific").mean() <= 0.05  # of 90 masks that break two tasks alike


def test_figures_carry_the_numbers(off, crossed):
    heat = next(trace for trace in crossed.figure().data if trace.type == "heatmap")
    shown = np.array(heat.z, dtype=float)
    expected = 100 * crossed.matrix.to_numpy()
    assert np.allclose(shown, expected) or np.allclose(shown[::-1], expected)
    bars = {trace.name: trace for trace in off.figure().data if trace.type == "bar"}
    scores = off.summary().set_index("name").loc[["food", "film", "plot"]]
    found = {name: np.array(bar.y, dtype=float) for name, bar in bars.items()}
    np.testing.assert_allclose(found["original"], 100 * scores["original"])
    np.testing.assert_allclose(found["the task's own neurons off"], 100 * scores["off"])


def test_words_say_what_is_beyond_chance_and_what_is_not(off):
    summary = off.summary().set_index("name")
    total, tests = summary.loc["mean (all)"], summary[summary["q"].notna()]
    words = off.in_words()
    assert words.startswith("Switching off a task's own neurons breaks it more than switching off random ones")
    assert f"**{total['original']:.1%}** to **{total['off']:.1%}**" in words
    shown = (tests["q"] < 0.05) & (tests["off"] < tests["random-layer"])
    assert f"**{shown.sum()} of 3**" in words and not shown.any()  # no effect is clear with so few
    of_all = "of the whole model or of the same layers or of the same layers that are as loud"
    assert f"than random ones {of_all} in {', '.join(tests.index)}." in words
    table = off.table.copy()
    own = table["condition"] == "task"
    clear = table.assign(q=np.where(table["condition"] == "original", np.nan, 0.01), effect=0.5)
    clear = dataclasses.replace(off, table=clear.assign(score=table["score"] - 9 * own))
    assert "**3 of 3**" in clear.in_words() and "negative" not in clear.in_words()
    assert list(off.tables()) == ["summary", "controls", "runs"]


def test_words_of_the_verdicts():
    families = {"a1": "a", "a2": "a", "b1": "b", "c1": "c"}
    effects = [[0.6, 0.4, 0.1, 0.0], [0.5, 0.5, 0.0, 0.1], [0.58, 0.56, 0.02, 0.2], [0.1, 0.4, 0.04, -0.5]]
    own = constructed([effects[0], effects[1], [0.3, *effects[2][1:]], effects[3]], families).in_words()
    assert own.startswith("In **1 of 4**")  # a1's neurons break b1, but not c1
    assert "- **A negative**: those of a1, though called so, are shown to break at least half of the other" in own
    together = constructed(effects, families).in_words()  # shared, general, general, no effect: see above
    assert "**A negative**: the neurons were not shown to be the task's own in a1 (with b1)." in together
    effects[0][2] = 0.0
    found = constructed(effects, families)  # selective, general, general, no effect
    words = found.in_words()
    assert (
        words.startswith("In **0 of 4** tasks the task's own neurons are **specific**, breaking it more than")
        and "and no other family's task as much; in **1** more they are **selective**.\n" in words
    )
    assert "**A negative**: the neurons of a2, b1 are **general**, breaking at least half of the other" in words
    shared = constructed(effects, families, others_q=0.2).in_words()
    assert "**A negative**: the neurons were not shown to be the task's own in a2 (compare those of b), b1" in shared
    assert (
        "once corrected over all 16 cells of this matrix (q), switching a task's own neurons off was not shown" in words
    )
    assert (
        list(found.tables()) == ["verdicts", "runs"]
        and found.sections()[0].title == "Are the neurons their task's own?"
    )
    alone = constructed(effects, dict.fromkeys(families, "a")).in_words()
    assert "Without another family to compare with: a1, a2, b1." in alone


def test_masks_found_on_the_test_examples_are_refused(setting):
    model, tasks, masks = setting
    on_test = attribute(model, tasks["food"], split="test").top(0.3)
    found = deactivation(model, tasks, {"food": masks["food"]}, n_random=3, n=2)
    assert found.table["task"].unique().tolist() == ["food"]
    for bad in (on_test, on_test | masks["food"], ~on_test, (masks["film"] - on_test), on_test.random_like(seed=0)):
        for call in (deactivation, cross_ablation):
            with pytest.raises(TaskError, match="same examples"):
                call(model, tasks, {"food": bad})
            with pytest.raises(TaskError, match="same examples"):  # under another task's name
                call(model, tasks, {"film": bad, "food": masks["food"]})


def test_what_does_not_fit_is_refused(setting):
    model, tasks, masks = setting
    other = dict.fromkeys(masks["food"].widths, 5)
    for call in (deactivation, cross_ablation):
        for bad in (0, 2, 1.5, True, "3"):
            with pytest.raises(ArgumentError, match="fewer do not tell how random masks differ"):
                call(model, tasks, masks, n_random=bad)
        with pytest.raises(ArgumentError, match=r"no task for \['plot'\]"):
            call(model, {k: tasks[k] for k in ("food", "film")}, masks)
        for bad in ({}, {"food": 3}, [masks["food"]]):
            with pytest.raises(ArgumentError, match=rf"^{call.__name__}(, masks|\(masks=.*\))?\n"):
                call(model, tasks, bad)
        with pytest.raises(MaskError, match=r"2 sites of 5 neurons.*2 sites of 48 neurons"):
            call(model, tasks, {"food": NeuronMask.of({}, other)})
    with pytest.raises(ArgumentError, match="did you mean 'layer'"):
        cross_ablation(model, tasks, masks, match="layers")


def test_a_list_of_tasks_is_those_tasks(setting, off):
    model, tasks, masks = setting
    pd.testing.assert_frame_equal(deactivation(model, list(tasks.values()), masks, n_random=3).table, off.table)


def test_a_finished_journal_needs_no_forward_pass(setting, off, crossed, tmp_path):
    model, tasks, masks = setting
    how, path = {"n_random": 3, "output": tmp_path}, tmp_path / JOURNAL
    with Forwards(model) as count:
        first = deactivation(*setting, **how)
        assert count.n > 10
        before = count.n
        second = deactivation(*setting, **how, batch_size=3)
        assert count.n == before
        lines = path.read_text().splitlines()
        assert len(lines) == 3 * 11
        cross_ablation(*setting, **how)  # shares originals, diagonals and controls
        assert len(path.read_text().splitlines()) - len(lines) == 9 * 4 - 3 * 4
    for table in (first.table, second.table):
        pd.testing.assert_frame_equal(table, off.table)
    changed = {name: dataclasses.replace(t, separator=" : ") for name, t in tasks.items()}
    unlike = {"n": {"n": 3}, "separator": {"tasks": changed}, "mask": {"masks": {k: ~m for k, m in masks.items()}}}
    for what, replaced in unlike.items():
        with Forwards(model) as count:
            deactivation(**{"model": model, "tasks": tasks, "masks": masks} | replaced, **how)
            assert count.n > 0, what


def test_another_model_does_not_share_a_journal(setting, tiny_model, tmp_path):
    model, tasks, masks = setting
    how = {"n_random": 3, "output": tmp_path}
    first = deactivation(model, tasks, masks, **how)
    other = tiny_model(seed=1)
    second = deactivation(other, tasks, masks, **how)
    pd.testing.assert_frame_equal(second.table, deactivation(other, tasks, masks, n_random=3).table)
    assert not first.table["score"].equals(second.table["score"])
    for dtype in (torch.bfloat16, torch.float32):  # rounded weights, then the same weights computed with more digits
        other.root.to(dtype)
        with Forwards(other) as count:
            deactivation(other, tasks, masks, **how)
            assert count.n > 0, dtype


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_killed_run_goes_on_where_it_stopped(setting, off, crossed, tmp_path, error):
    how, path = {"n_random": 3, "output": tmp_path}, tmp_path / JOURNAL

    def dies(items, desc):
        for i, item in enumerate(items):
            if i == 2:
                raise error
            yield item

    with pytest.raises(error):
        deactivation(*setting, **how, progress=dies)
    done = path.read_text()
    assert len(done.splitlines()) == 2  # cells
    path.write_text(done[:-30])  # the kill came in the middle of a line
    asked = []
    resumed = deactivation(*setting, **how, progress=lambda x, desc: asked.append(desc) or x)
    pd.testing.assert_frame_equal(resumed.table, off.table)
    assert len(path.read_text().splitlines()) == 3 * 11
    assert asked == ["deactivation"]
    with pytest.raises(error):
        cross_ablation(*setting, **how, progress=dies)
    resumed = cross_ablation(*setting, **how)
    pd.testing.assert_frame_equal(resumed.table, crossed.table)


def every_result(setting, off, crossed):
    model, tasks, masks = setting
    scores = {name: attribute(model, t) for name, t in tasks.items()}
    sweep = pd.DataFrame(
        {
            "row": ["layer 0", "layer 1"],
            "column": "output",
            "recovered": [1 / 3, 1e-17],
            "low": np.nan,
            "high": np.nan,
            "n": 1,
        }
    )
    return [
        evaluate(model, tasks["food"]),
        off,
        crossed,
        overlap(masks),
        overlap({"none": masks["food"] - masks["food"], "no": masks["film"] - masks["film"]}),  # NaN
        overlap_sweep(scores, groups={"sentiment": ["food", "film"], "summary": ["plot"]}),
        PatchSweep(sweep, {"by": "layer", "direction": "noising", "pairs": 1}),
    ]


def test_every_result_survives_its_file(setting, off, crossed, tmp_path):
    results = every_result(setting, off, crossed)
    kinds = {Evaluation, Deactivation, CrossAblation, Overlap, OverlapSweep, PatchSweep}
    assert {type(r) for r in results} == kinds <= set(Result.__subclasses__())
    for result in results:
        path = result.save(tmp_path / "folder" / "result.json")
        loaded = type(result).load(path)
        again = load_result(path)
        assert type(again) is type(result) and again.manifest == result.manifest and again.table.equals(loaded.table)
        pd.testing.assert_frame_equal(loaded.table, result.table, check_exact=True)
        assert loaded.manifest == result.manifest
        assert (type(loaded), repr(loaded)) == (type(result), repr(result))
        assert loaded.to_frame() is not loaded.table
        assert loaded.figure().data[0].type == result.figure().data[0].type
        other = next(k for k in kinds if k is not type(result))
        with pytest.raises(FileError, match=f"a file of kind '{type(result).__name__}'"):
            other.load(path)
        text = path.read_text()
        assert "NaN" not in text  # strict JSON
        damaged = [text.replace('"values"', '"value"'), text.replace('"manifest": {', '"manifest": null, "rest": {')]
        damaged += [text.replace('"format": 1', f'"format": {form}') for form in ("99", "null", '"x"')]
        for broken in (text[: len(text) // 2], "[]", "3", *damaged):
            with pytest.raises(FileError, match=type(result).__name__):
                type(result).load(files.write(tmp_path / "broken.json", broken))
    with pytest.raises(FileError, match="No such file"):
        Overlap.load(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("kind", "module"), [("Popen", "subprocess"), ("NeuronMask", "neuroscope.masks"), ("A", "neuroscope.b")]
)
def test_a_file_names_no_class_but_a_result(kind, module, tmp_path, off):
    path = off.save(tmp_path / "result.json")
    with pytest.raises(FileError, match=r"ns.Representations.load\(folder\)"):
        load_result(tmp_path)
    files.write(path, json.dumps(json.loads(path.read_text()) | {"kind": kind, "module": module}))
    with pytest.raises(FileError, match=f"a file of kind '{kind}'"):
        load_result(path)
