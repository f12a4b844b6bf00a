"""A task at which the model is not better than one answer given always is called so, and gets no verdict."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from tiny import WORDS, tiny_model

from neuroscope.attribution import attribute
from neuroscope.errors import ArgumentError
from neuroscope.evaluation import Constant, evaluate, p_of_none, standing
from neuroscope.experiments.f5_cross_ablation import cross_ablation
from neuroscope.experiments.standings import Standings
from neuroscope.experiments.t1_deactivation import deactivation
from neuroscope.markup import lead_and_rest
from neuroscope.reports.main_job import run
from neuroscope.reports.opening import ELSEWHERE
from neuroscope.statistics import benjamini_hochberg, better_than_share
from neuroscope.tasks import Example, Task

WHEN = "with nothing switched off"
ADVICE = "First tune the model on the task (longer, if it was), try another prompt or `ranking`"


@pytest.mark.parametrize(
    ("right", "n", "share"), [(0, 5, 0.5), (40, 40, 0.5), (31, 100, 0.33), (9, 10, 1.0), (7, 9, 0)]
)
def test_the_p_is_that_of_scipy(right, n, share):
    assert better_than_share(right, n, share) == pytest.approx(
        scipy.stats.binomtest(right, n, share, alternative="greater").pvalue
    )
    assert better_than_share(right + 0.5 if right < n else right, n, share) == better_than_share(right, n, share)
    for bad in ((n + 1, n, share), (right, n, 1.5), (math.nan, n, share)):
        with pytest.raises(ArgumentError, match="a binomial test|better_than_share"):
            better_than_share(*bad)


def test_at_most_one_score_in_twenty_is_above_chance_by_chance():
    rng = np.random.default_rng(0)
    drawn = rng.binomial(100, 0.4, size=4000)
    above = np.mean([standing(better_than_share(right, 100, 0.4)) == "above" for right in drawn])
    assert 0.02 < above <= 0.05  # exact tests of whole numbers stay below
    five = rng.binomial(100, 0.4, size=(1000, 5))
    assert np.mean([standing([better_than_share(r, 100, 0.4) for r in row]) == "above" for row in five]) <= 0.05


def test_a_constant_answer_is_the_commonest_label():
    answers = ["a", "b", "b", "c", "b", "a"]
    task = Task("t", test=[Example(f"x {i}", a) for i, a in enumerate(answers)], labels=("a", "b", "c"))
    found = Constant.of(task, task.test)
    assert (found.answer, found.majority, found.uniform) == ("b", 0.5, pytest.approx(1 / 3))
    assert found.p([1, 1, 1, 1, 1, 0]) == pytest.approx(7 / 64)  # 6 + 1 of the 64 ways of 6 coins
    assert found.p([1.0, 1.0, 0.9, 0.9, 0.9, 0.9]) == found.p([1, 1, 1, 1, 1, 0])  # means over runs: 5.6 right, so 5
    several = [Example("x", "a", references=("a", "c")), Example("y", "c"), Example("z", "b")]
    assert Constant.of(task, several) == Constant("c", 2 / 3, pytest.approx(4 / 9))
    same = Constant.of(task, [Example(f"x {i}", "a") for i in range(50)])
    assert (same.majority, same.p(np.ones(50)), standing(same.p(np.ones(50)))) == (1.0, 1.0, "at chance")
    for generated in (Task("g", test=task.test), Task("g", test=task.test, labels=task.labels, metric="rouge-l")):
        none = Constant.of(generated, generated.test)
        assert not none.known and math.isnan(none.p(np.ones(6))) and standing(none.p(np.ones(6))) == "no test"
    assert [p_of_none([0.01, 0.5]), p_of_none([0.6, 0.7]), standing([0.01, 0.04, 0.9])] == [0.02, 1.0, "above"]


LABELS = ("good", "bad", "awful")
PLANTED = ("good", "bad awful very bad")  # a long label has a low log-likelihood: the model always says the short one


def prompts_of(n):
    rng = np.random.default_rng(0)
    words = sorted(set(WORDS))
    return list(dict.fromkeys(" ".join(rng.choice(words, size=4)) + " :" for _ in range(2 * n)))[:n]


@pytest.fixture(scope="module")
def setting():
    """What the model answers is right in "able"; of "always" it knows one label; "text" is generated."""
    model, prompts = tiny_model(), prompts_of(60)

    def task(name, answers, labels=(), **more):
        examples = [Example(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        return Task(name, train=examples[36:], test=examples[:36], labels=labels, family=name, **more)

    blank = Task("able", test=[Example(prompt, "good") for prompt in prompts], labels=LABELS)
    tasks = [
        task("able", evaluate(model, blank).table["prediction"], LABELS),
        task("always", [PLANTED[i % 2] for i in range(60)], PLANTED),
        task("text", ["good"] * 60, max_new_tokens=3),
    ]
    tasks = {t.name: t for t in tasks}
    return model, tasks, {name: attribute(model, t).top(0.3) for name, t in tasks.items()}


def test_evaluate_says_what_a_constant_answer_gets(setting):
    model, tasks, _ = setting
    found = evaluate(model, tasks["always"])
    assert set(found.table["prediction"]) == {"good"} and found.score == 0.5
    assert found.manifest["constant"] == {"answer": "good", "majority": 0.5, "uniform": 0.5}
    (row,) = found.overall().to_dict("records")
    p = scipy.stats.binomtest(18, 36, 0.5, alternative="greater").pvalue
    assert (row["majority"], row["uniform"], row["p_majority"]) == (0.5, 0.5, pytest.approx(p))
    assert (row["chance"], row["constant"]) == ("at chance", "good")
    words = found.in_words()
    assert f"always answering good, which would be right in 50.0% (one-sided binomial test, p = {p:.2g}" in words
    assert "**Nothing can be concluded** about this task from this model: first tune it" in words
    figure = found.figure()
    assert "at chance: nothing can be concluded" in figure.layout.title.subtitle.text
    assert list(figure.data[1].y) == [50] and "guessing: 50<br>the model is at chance" in figure.data[1].customdata[0]
    assert evaluate(model, tasks["able"]).chance == "above" and evaluate(model, tasks["text"]).chance == "no test"
    assert "have no level of chance" in evaluate(model, tasks["text"]).in_words()
    alike = Task("alike", test=[Example(e.prompt, "good") for e in tasks["always"].test], labels=PLANTED)
    told = evaluate(model, alike)
    assert told.score == 1 and told.chance == "at chance" and "every example has the same answer" in told.in_words()


def test_deactivation_has_no_p_of_a_task_at_chance(setting):
    model, tasks, masks = setting
    found = deactivation(model, tasks, masks, n_random=3)
    own = found.table[found.table["condition"] == "task"].set_index("task")
    assert own["p"].isna().tolist() == own["q"].isna().tolist() == [False, True, False]
    np.testing.assert_array_equal(own["q"], benjamini_hochberg(own["p"]))
    alone = deactivation(model, tasks, {n: masks[n] for n in ("able", "text")}, n_random=3).table
    alone = alone[alone["condition"] == "task"]
    assert own["q"].dropna().tolist() == alone["q"].tolist()  # as if it were not there
    always = found.table[found.table["task"] == "always"]
    np.testing.assert_array_equal(always[["majority", "uniform"]], 0.5)
    p = [scipy.stats.binomtest(round(36 * s), 36, 0.5, "greater").pvalue for s in always["score"]]
    np.testing.assert_allclose(always["p_majority"], p)
    summary = found.summary().set_index("name")
    assert summary["chance"].tolist()[:3] == ["above", "at chance", "no test"] and set(summary["chance"][3:]) == {""}
    means = summary.loc["mean (not at chance)", ["original", "off"]]
    np.testing.assert_allclose(means, summary.loc[["able", "text"], ["original", "off"]].mean())
    lead, rest = lead_and_rest(found.in_words())
    assert " of 2** tasks" in lead
    assert lead.endswith(f"nothing can be concluded about **always**, at chance {WHEN}.")
    assert "about always (50.0%, where one answer given always gets 50.0%)" in rest and ADVICE in rest
    assert f"**{means['original']:.1%}** to **{means['off']:.1%}**" in rest
    negatives = [line for line in rest.splitlines() if "A negative" in line]
    assert not any("always" in line for line in negatives)
    figure = found.figure()
    level = figure.data[-1]
    assert level.name == "the best constant answer" and list(level.x) == ["able", "always"] and level.y[1] == 50
    assert len(figure.layout.shapes) == 2 and figure.layout.shapes[1].y0 == 50
    assert "at chance, nothing can be concluded: always" in figure.layout.title.subtitle.text
    assert "nothing is tested: at chance" in figure.data[4].customdata[1]
    nothing = deactivation(model, tasks, {"always": masks["always"]}, n_random=3)
    assert nothing.in_words().startswith(f"**Nothing can be concluded**: {WHEN} the model is not shown to be better")
    assert nothing.summary()["name"].tolist() == ["always", "mean (classification)", "mean (all)"]


def test_cross_ablation_gives_no_verdict_of_a_task_at_chance(setting):
    model, tasks, masks = setting
    found = cross_ablation(model, tasks, masks, n_random=3)
    table = found.table.set_index(["source", "target"])
    for source in tasks:  # as a source its neurons are tested like others
        assert table.loc[source, "p"].isna().tolist() == table.loc[source, "q"].isna().tolist() == [False, True, False]
    verdicts = found.verdicts().set_index("task")
    assert (
        verdicts.loc["always", "verdict"] == "not competent"
        and "not competent" not in verdicts.loc[["able", "text"], "verdict"]
    )
    parts, kept = found.decompose().set_index(["source", "target"]), found.matrix[["able", "text"]]
    assert parts.loc[("able", "able"), "mean"] == kept.to_numpy().mean()
    by_hand = kept.loc["able", "able"] - kept.loc["able"].mean() - kept["able"].mean() + kept.to_numpy().mean()
    assert parts.loc[("able", "able"), "specific"] == pytest.approx(by_hand)
    assert parts.xs("always", level="target")["specific"].isna().all()
    lead, rest = lead_and_rest(found.in_words())
    assert " of 2** tasks" in lead and lead.endswith(f"about **always**, at chance {WHEN}.")
    assert "always" not in rest.replace("given always", "")
    (cells,) = found.figure().data
    assert (
        np.isnan(np.array(cells.z, dtype=float)[:, 1]).all() and np.isfinite(np.array(cells.z, dtype=float)[:, 0]).all()
    )
    assert "at chance with nothing off: not tested<br>the best constant answer: 50.0 %" in cells.customdata[0][1]
    pair = dict.fromkeys(("always", "again"), masks["always"])
    alone = cross_ablation(model, {n: replace(tasks["always"], name=n) for n in pair}, pair, n_random=3)
    assert alone.in_words().startswith("**Nothing can be concluded**") and alone.figure().data
    assert alone.verdicts()["verdict"].tolist() == ["not competent"] * 2


def test_a_report_leads_with_what_cannot_be_concluded(setting, tmp_path):
    model, tasks, _ = setting
    page = run(model, [tasks["able"], tasks["always"]], output=tmp_path, n_random=3, k=0.3).read_text()
    intro = page[: page.index("Neurons were found on discovery examples")]
    assert intro.count("nothing can be concluded about <strong>always</strong>, at chance with nothing") == 1
    rest = page[page.index(f">{ELSEWHERE}</h2>") :]
    rest = rest[: rest.index("</section>")]
    assert rest.count("Nothing can be concluded about always") >= 1 and "First tune the model" in rest


def test_standings_take_the_best_of_several_scores():
    rows = pd.DataFrame(
        {"task": ["a", "a", "b", "b", "c"], "score": [0.5, 0.7, 0.5, 0.6, 0.1], "majority": [0.5] * 4 + [np.nan],
         "uniform": [0.5] * 4 + [np.nan], "p_majority": [0.9, 0.02, 0.9, 0.03, np.nan]}
    )  # fmt: skip
    found = Standings(rows, "now")
    assert found.table["chance"].tolist() == ["above", "at chance", "no test"]  # 2 * 0.02 < 0.05 < 2 * 0.03
    assert found.table["p_majority"].tolist()[:2] == [0.04, 0.06] and found.table["score"].tolist() == [0.7, 0.6, 0.1]
    assert (found.at_chance, found.others) == (["b"], ["a", "c"])
    assert "all its examples have that answer" in Standings(rows[2:4].assign(majority=1.0), "now").why()[0]
    assert Standings(rows[:2], "now").why() == [] and Standings(rows[:2], "now").but() == ""
