"""Continual learning: the numbers about a matrix of scores, tables over runs, and their figures."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from quick_training import quick_training
from tiny import tiny_model

from neuroscope.errors import ArgumentError
from neuroscope.evaluation import evaluate
from neuroscope.statistics import mean_interval
from neuroscope.tasks import Example, Task
from neuroscope.tasks.catalogue import CL_ORDERS
from neuroscope.training.continual_learning import METHODS, Continual, continual
from neuroscope.training.continual_learning.continual_result import PUBLISHED
from neuroscope.training.continual_learning.metrics import METRICS, forgetting, matrix, retention

# --- metrics


def test_every_metric_by_hand():
    a = np.array([[0.8, 0.1, 0.2], [0.4, 0.5, 0.3], [0.6, 0.2, 0.9]])
    after_two = 0.4 / 0.8
    after_three = (0.6 / 0.8 + 0.2 / 0.5) / 2
    assert retention(a)[1:] == pytest.approx([after_two, after_three])
    assert np.isnan(retention(a)[0])
    expected = {
        "average accuracy": (0.6 + 0.2 + 0.9) / 3,
        "retention": after_three,
        "backward transfer": ((0.6 - 0.8) + (0.2 - 0.5)) / 2,
        "forgetting": ((0.8 - 0.6) + (0.5 - 0.2)) / 2,
        "learning accuracy": (0.8 + 0.5 + 0.9) / 3,
    }
    assert {name: metric(a) for name, metric in METRICS.items()} == pytest.approx(expected)
    a[1, 0] = 0.9  # task 1 was best after stage 2: the peak, and nothing else, moves
    assert METRICS["forgetting"](a) == pytest.approx(((0.9 - 0.6) + (0.5 - 0.2)) / 2)
    assert METRICS["backward transfer"](a) == pytest.approx(expected["backward transfer"])
    a[0, 1] = 1.0  # before its own stage there is nothing to forget
    assert METRICS["forgetting"](a) == pytest.approx(((0.9 - 0.6) + (0.5 - 0.2)) / 2)


def test_what_is_undefined_is_nan():
    once = np.array([[np.nan] * 3, [np.nan] * 3, [0.5, 0.6, 0.7]])  # all at the last stage
    found = {name: metric(once) for name, metric in METRICS.items()}
    assert found.pop("average accuracy") == pytest.approx(0.6)
    assert all(np.isnan(value) for value in found.values())
    unlearnt = np.array([[0.0, 0.1], [0.3, 0.8]])
    assert np.isnan(retention(unlearnt)).all()  # 0.3 / 0
    assert METRICS["forgetting"](unlearnt) == pytest.approx(-0.3)


matrices = st.integers(2, 5).flatmap(
    lambda n: st.lists(st.lists(st.floats(0.01, 1), min_size=n, max_size=n), min_size=n, max_size=n).map(np.array)
)


@given(matrices)
def test_properties_of_the_metrics(a):
    stages = len(a)
    still = np.tile(np.diagonal(a), (stages, 1))  # nothing changes
    assert retention(still)[1:] == pytest.approx(1)
    assert METRICS["forgetting"](still) == METRICS["backward transfer"](still) == 0
    assert forgetting(a) >= -METRICS["backward transfer"](a) - 1e-12  # the peak is at least the own stage's
    falling = np.minimum.accumulate(a, axis=0)  # every task's peak, from its own stage on, is its own stage
    assert METRICS["forgetting"](falling) == pytest.approx(-METRICS["backward transfer"](falling))
    assert METRICS["retention"](falling) <= 1 + 1e-12
    assert retention(a * 0.5)[1:] == pytest.approx(retention(a)[1:])
    assert METRICS["average accuracy"](a) == pytest.approx(METRICS["average accuracy"](a[:, ::-1]))


# --- tables by hand

TASKS = ("x", "y")
ABOUT = {"fingerprint": "f", "data_hash": {"x": "1", "y": "2"}, "known": {"k": "3"}, "orders": [["x", "y"]]}


def table(method, a, seed=0, known=(0.8, 0.4), *, options="", lr=0.1, order=0, trained=7):
    """Scores [stage][task], the base's first; of a method without stages None in between."""
    rows = []
    for stage, scores in enumerate(a):
        for place, score in enumerate([*scores, known[min(stage, 1)]] if scores else (), 1):
            rows.append(
                {
                    "method": method, "options": options, "lr": lr, "order": order, "seed": seed, "stage": stage,
                    "learnt": ["(base)", *TASKS][stage] if None not in a else ["(base)", "", "(all)"][stage],
                    "task": (*TASKS, "k")[place - 1], "position": place % 3, "score": score, "low": score - 0.1,
                    "high": score + 0.1, "se": 0.03 if place == 1 else 0.04, "n": 10,
                    "trained": stage * trained, "seconds": 2.0 * stage, "peak_mib": 10.0 - stage if stage else 0.0,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def result(*tables, weighting=None, **about):
    whole = pd.concat(tables, ignore_index=True)
    runs = whole[["method", "options", "order", "seed"]].drop_duplicates().to_dict("records")
    settings = {"options": {"weighting": weighting} if weighting else {}}
    return Continual(
        whole, ABOUT | {"split": "test", "n": None} | about | {"runs": [r | {"settings": settings} for r in runs]}
    )


A1 = [[0.2, 0.1], [0.8, 0.3], [0.6, 0.9]]
A2 = [[0.2, 0.1], [0.9, 0.3], [0.3, 0.8]]
JOINT = [[0.2, 0.1], None, [0.7, 0.95]]


def test_metrics_of_runs_by_hand():
    found = result(table("m", A1), table("m", A2, seed=1), table("joint", JOINT)).metrics()
    assert found["seed"].tolist() == [0, 1, 0]
    assert found["average accuracy"].tolist() == pytest.approx([0.75, 0.55, 0.825])
    assert found["retention"].tolist()[:2] == pytest.approx([0.6 / 0.8, 0.3 / 0.9])
    assert found["forgetting"].tolist()[:2] == pytest.approx([0.2, 0.6])
    assert found.iloc[2][["retention", "forgetting", "backward transfer", "learning accuracy"]].isna().all()
    half = 1.959964 * 0.05 / 2  # sqrt(0.03^2 + 0.04^2) / 2
    assert found.iloc[0][["low", "high"]].tolist() == pytest.approx([0.75 - half, 0.75 + half])
    assert found["base"].tolist() == pytest.approx([0.8] * 3)
    assert found["base kept"].tolist() == pytest.approx([0.5] * 3)
    assert (found["trained"].tolist(), found["seconds"].tolist()) == ([14] * 3, [6.0, 6.0, 4.0])
    assert found["peak_mib"].tolist() == [9.0, 9.0, 8.0]
    alone = result(table("m", A1).query("position > 0")).metrics()
    assert alone[["base", "base kept"]].isna().all(axis=None)
    sure = table("m", [[0.2, 0.1], [1.0, 0.3], [1.0, 1.0]])
    assert result(sure).metrics().loc[0, ["low", "high"]].tolist() == pytest.approx([1 - half, 1])


def test_summary_and_differences_by_hand():
    found = result(table("m", A1), table("m", A2, seed=1), table("joint", JOINT), table("joint", JOINT, seed=1))
    summary = found.summary()
    assert summary[["method", "options", "lr", "runs"]].to_numpy().tolist() == [
        ["m", "", 0.1, 2],
        ["joint", "", 0.1, 2],
    ]
    assert summary["average accuracy"].tolist() == pytest.approx([0.65, 0.825])
    assert summary.loc[0, ["low", "high"]].tolist() == [0.0, 1.0]  # from -0.62 to 1.92: cut to what scores can be
    near = result(table("m", A1), table("m", (np.array(A1) - 0.01).tolist(), seed=1)).summary()
    assert near.loc[0, ["low", "high"]].tolist() == pytest.approx(mean_interval([0.75, 0.74]))
    assert summary.loc[1, ["low", "high"]].tolist() == pytest.approx([0.825, 0.825])
    assert np.isnan(summary.loc[1, "forgetting"])
    single = result(table("m", A1)).summary()
    assert single.loc[0, ["low", "high"]].tolist() == result(table("m", A1)).metrics().loc[0, ["low", "high"]].tolist()
    gaps = found.differences("joint")
    assert gaps["method"].tolist() == ["m"]
    assert gaps.loc[0, ["difference", "low", "high"]].tolist() == pytest.approx(
        [0.175, *mean_interval([0.825 - 0.75, 0.825 - 0.55])]
    )
    partly = result(table("m", A1), table("m", A2, seed=1), table("other", A2, seed=1), table("third", A1, seed=5))
    gaps = partly.differences("m").set_index("method")
    assert gaps.loc["other", "difference"] == 0 and gaps["runs"].tolist() == [1, 0]  # the same seeds alone
    assert gaps[["low", "high"]].isna().all(axis=None) and np.isnan(gaps.loc["third", "difference"])
    with pytest.raises(ArgumentError, match="runs of m, joint"):
        found.differences("ncft")


def test_a_method_is_named_by_what_it_differs_in():
    found = result(
        table("m", A1), table("m", A2, options="k=0.2"), table("m", A2, options="k=0.2", lr=0.5), table("o", A1)
    )
    assert found.methods == ["m 0.1", "m k=0.2 0.1", "m k=0.2 0.5", "o"]
    assert found.matrix("m k=0.2 0.5").to_numpy().tolist() == A2
    assert set(found.differences("o")["method"]) == {"m 0.1", "m k=0.2 0.1", "m k=0.2 0.5"}
    assert [trace.name for trace in found.plane_figure().data] == found.methods
    assert result(table("m", A1, options="k=0.2")).methods == ["m"]


def test_the_matrix_is_the_mean_over_seeds():
    found = result(table("m", A1), table("m", A2, seed=1), table("joint", JOINT))
    wide = found.matrix("m")
    assert (list(wide.index), list(wide.columns)) == (["(base)", "x", "y"], ["x", "y"])
    np.testing.assert_allclose(wide.to_numpy(), (np.array(A1) + np.array(A2)) / 2)
    joint = found.matrix("joint")
    assert list(joint.index) == ["(base)", "(all)"] and joint.to_numpy().tolist() == [JOINT[0], JOINT[2]]
    assert np.isnan(matrix(table("joint", JOINT))[0]).all() and matrix(table("joint", JOINT))[1].tolist() == JOINT[2]
    for settings, text in (
        ({}, "name one: method="),
        ({"method": "x"}, "runs of m, joint"),
        ({"method": "m", "order": 3}, "order=3"),
    ):
        with pytest.raises(ArgumentError, match=text):
            found.matrix(**settings)


def test_join():
    one, other = result(table("m", A1)), result(table("o", A2), orders=[["x", "y"]])
    both = Continual.join([one, other])
    assert both.methods == ["m", "o"] and len(both.table) == 18 and len(both.manifest["runs"]) == 2
    assert Continual.join([one]).table.equals(one.table)
    for change in (
        {"fingerprint": "g"},
        {"orders": [["y", "x"]]},
        {"data_hash": {}},
        {"known": {}},
        {"n": 5},
        {"split": "train"},
    ):
        with pytest.raises(ArgumentError, match=next(iter(change))):
            Continual.join([one, result(table("o", A2), **change)])
    with pytest.raises(ArgumentError, match=r"(?s)'method': 'm'.*'seed': 0.* twice"):
        Continual.join([one, other, result(table("m", A2))])
    with pytest.raises(ArgumentError, match="none"):
        Continual.join([])


def test_repr_says_what_was_run():
    orders = [["x", "y"], ["y", "x"]]
    text = repr(result(table("w", A1), table("w", A2, order=1), weighting="literal", orders=orders))
    assert "2 run(s) over x, y and 1 other order(s)" in text
    assert "average accuracy 0.650 [0.000, 1.000], weighting literal" in text


def test_saved_and_loaded(tmp_path):
    found = result(table("m", A1), table("joint", JOINT))
    back = Continual.load(found.save(tmp_path / "result.json"))
    assert back.table.equals(found.table) and back.manifest == found.manifest
    assert repr(back) == repr(found)
    assert back.summary().equals(found.summary())


# --- words


def runs_of(orders, methods=("seqft", "ncft"), **about):
    """Half of the examples right, and six of ten by ncft, at every stage."""
    rows = [
        {"method": m, "options": "", "lr": 1e-3, "order": i, "seed": 0, "stage": stage,
         "learnt": order[stage - 1], "task": task, "position": place, "score": 0.5 + 0.1 * (m == "ncft"),
         "low": 0.4, "high": 0.6, "se": 0.01, "n": 10, "trained": 1, "seconds": 0.0, "peak_mib": 0.0}
        for m in methods for i, order in enumerate(orders) for stage in range(1, len(order) + 1)
        for place, task in enumerate(order, 1)
    ]  # fmt: skip
    told = [{"weighting": "literal"} if m == "w-ncft" else {} for m in methods]
    runs = [{"method": m, "settings": {"options": o}, "log": {}} for m, o in zip(methods, told, strict=True)]
    sees = {m: METHODS[m].sees for m in methods}
    return Continual(pd.DataFrame(rows), {"orders": [list(o) for o in orders], "runs": runs, "sees": sees, **about})


def test_published_numbers_stand_beside_the_papers_orders_alone():
    four = runs_of([CL_ORDERS[1], CL_ORDERS[3]]).beside_published().set_index("method")
    assert four.loc["ncft", "LX24"] == 71.3 and four.loc["seqft", "LX24"] == 47.1
    assert four.loc["ncft", "ours"] == pytest.approx(60) and four.loc["ncft", "runs"] == 2
    eight = runs_of([CL_ORDERS[4]], ("w-ncft", "ewc")).beside_published().set_index("method")
    assert eight.loc["w-ncft", "LX24"] == 72.0 and np.isnan(eight.loc["ewc", "LX24"])
    assert runs_of([CL_ORDERS[1], CL_ORDERS[1][::-1]]).beside_published() is None
    assert PUBLISHED["per-task"] == (77.2, 84.5)
    assert list(runs_of([CL_ORDERS[1]]).tables()) == ["summary", "learnt", "runs", "metrics", "published"]


def test_in_words():
    orders = [CL_ORDERS[1], CL_ORDERS[2]]
    text = runs_of(orders).in_words()
    assert text.startswith("After 4 tasks, ncft has a mean score of **60.0%** on them, and **100%** of a task's score")
    assert "best first: **ncft** 60.0%" in text
    assert "ncft against seqft (the whole model): +10.0 points" in text
    reverse = runs_of(orders, ("ncft", "w-ncft")).in_words()
    assert "**A negative**, no advantage shown: w-ncft against ncft" in reverse
    assert "W-NCFT weighted its neurons by 'literal'" in reverse and "w-ncft sees the task that is asked" in reverse
    assert "terms" not in text
    tuned = runs_of(orders, tuning={"ncft": {"edge": True}}, tuned_on={"a": "train", "b": "discovery"}).in_words()
    assert "edge of the grid for ncft:" in tuned and "tuned on training examples of a:" in tuned
    joint = result(table("joint", JOINT)).in_words()  # no stages: nothing can be kept
    assert joint.startswith("After 2 tasks, joint has a mean score of **82.5%** on them.\n\n-")


def test_what_a_report_shows():
    (section,) = result(table("m", A1), table("m", A2, seed=1)).sections()
    assert section.title == "Learning tasks one after another" and len(section.figures) == 2
    captions = ["Means over runs, per method", "Every task right after its own stage, beside the best constant answer"]
    captions += ["Every task after every stage", "Every run"]
    assert [caption for caption, _ in section.tables] == captions
    (once,) = result(table("joint", JOINT)).sections()
    assert len(once.figures) == 1


# --- figures


def test_figure_shows_the_matrix():
    figure = result(table("m", A1), table("m", A2, seed=1)).figure()
    (cells,) = figure.data
    np.testing.assert_allclose(cells.z, (np.array(A1) + np.array(A2)) / 2)
    assert (list(cells.x), list(cells.y)) == (["x", "y"], ["(base)", "x", "y"])
    assert cells.text[1][0] == "0.85" and cells.zmin == 0 and cells.zmax == 1
    assert cells.customdata[1][0] == "<b>x</b> after x<br>0.850 [0.750, 0.950] over examples"
    assert "2 seed(s), order 0, learning rate 0.1" in figure.layout.title.subtitle.text
    joint = result(table("joint", JOINT)).figure()
    assert list(joint.data[0].y) == ["(base)", "(all)"]
    several = result(table("m", A1), table("joint", JOINT))
    assert several.figure() == several.plane_figure()
    assert several.figure("joint") == joint


def test_retention_figure():
    figure = result(table("m", A1), table("m", A2, seed=1), table("one", A1), table("joint", JOINT)).retention_figure()
    curves = {t.name: t for t in figure.data}
    assert set(curves) == {"m", "m: band", "one"}
    kept = [0.6 / 0.8, 0.3 / 0.9]
    assert list(curves["m"].x) == [2] and figure.layout.xaxis.dtick == 1  # there is no stage 2.5
    assert list(curves["m"].y) == pytest.approx([np.mean(kept)])
    low, high = mean_interval(kept)
    assert low < 0  # which no retention is
    assert sorted(curves["m: band"].y) == pytest.approx([0, high])
    assert "cut at 0" in curves["m"].customdata[0] and curves["one"].customdata[0] == ""
    assert list(curves["one"].y) == pytest.approx([0.75])
    with pytest.raises(ArgumentError, match="any but joint"):
        result(table("joint", JOINT)).retention_figure()


def test_plane_figure():
    figure = result(table("m", A1), table("m", A2, seed=1), table("one", A1), table("joint", JOINT)).plane_figure()
    points = {t.name: t for t in figure.data}
    assert set(points) == {"m", "one"}
    assert (points["m"].x[0], points["m"].y[0]) == pytest.approx((0.4, 0.65))
    assert points["m"].x[0] + points["m"].error_x.array[0] == 1.0 < mean_interval([0.2, 0.6])[1]
    assert points["m"].y[0] - points["m"].error_y.arrayminus[0] == pytest.approx(max(0, mean_interval([0.75, 0.55])[0]))
    assert points["one"].error_x.array is None
    with pytest.raises(ArgumentError, match="any but joint"):
        result(table("joint", JOINT)).plane_figure()


# --- what was never learnt


def test_a_task_that_was_never_learnt_gets_no_verdict():
    """Of 10 examples 8.5 are right on average after their own stage: 8 (x) and 5 (y) of them have the same answer."""
    level = {
        "x": {"answer": "a", "majority": 0.8, "uniform": 0.5},
        "y": {"answer": "a", "majority": 0.5, "uniform": 0.5},
    }
    found = result(table("m", A1), table("m", A2, seed=1), chance=level)
    learnt = found.learnt()
    assert learnt["task"].tolist() == ["x", "y"] and learnt["runs"].tolist() == [2, 2]
    assert learnt["learnt"].tolist() == pytest.approx([(0.8 + 0.9) / 2, (0.9 + 0.8) / 2])
    assert learnt["last"].tolist() == pytest.approx([(0.6 + 0.3) / 2, (0.9 + 0.8) / 2])
    p = [scipy.stats.binomtest(8, 10, share, alternative="greater").pvalue for share in (0.8, 0.5)]
    assert learnt["p_majority"].tolist() == pytest.approx(p)
    assert learnt["chance"].tolist() == ["at chance", "at chance" if p[1] >= 0.05 else "above"]
    sure = result(table("m", [[0.2, 0.1], [0.8, 0.3], [0.6, 1.0]]), chance=level)
    assert sure.learnt()["chance"].tolist() == ["at chance", "above"]
    assert np.isnan(sure.learnt()["kept"].iloc[0]) and sure.learnt()["kept"].iloc[1] == 1
    words = sure.in_words()
    assert (
        "**Nothing can be concluded** about forgetting of x (80.0%, where one answer given always gets 80.0%)" in words
    )
    assert "learning accuracy at chance" in words and "is kept" not in words and " y (" not in words
    assert "nothing can be concluded: x (m)" in sure.figure().layout.title.subtitle.text
    assert "the best constant answer: 0.800" in str(sure.figure().to_dict())
    easy = {**level, "x": {**level["x"], "majority": 0.5}}
    back = result(table("m", [[0.2, 0.1], [1.0, 0.3], [0.7, 0.5]]), chance=easy)  # here y was not learnt
    assert "**70%** of the score of a task learnt above chance is kept" in back.in_words()
    assert "about forgetting of y (50.0%" in back.in_words()


def test_results_without_a_level_have_no_test():
    learnt = result(table("m", A1), table("joint", JOINT)).learnt()
    assert learnt["chance"].tolist() == ["no test"] * 4 and learnt["majority"].isna().all()
    assert learnt["kept"].tolist() == pytest.approx([0.6 / 0.8, 1, 1, 1])
    assert "Nothing can be concluded" not in result(table("m", A1)).in_words()


def test_the_level_is_that_of_evaluating():
    answers = {"food": "yes", "film": "yes", "soup": "no"}
    examples = [Example(f"the {noun} was", answer) for noun, answer in answers.items()]
    model, labels = tiny_model(), ("yes", "no")
    tasks = {name: Task(name, examples, test=examples[:n], labels=labels) for name, n in (("a", 2), ("b", 3))}
    with quick_training():
        found = continual(model, tasks, "seqft", recipe={"steps": 1})
    for name, share in (("a", 1.0), ("b", 2 / 3)):
        assert found.manifest["chance"][name] == vars(evaluate(model, tasks[name]).constant)
        assert found.manifest["chance"][name]["majority"] == pytest.approx(share)
    assert found.learnt()["chance"].tolist() == ["at chance"] * 2  # of two or three examples nothing is shown
    assert found.in_words().startswith("After 2 tasks") and "kept" not in found.in_words().split("\n")[0]
