"""Is the model still a model? The loss on neutral text beside experiments: by hand, kept, and in words."""

import json

import numpy as np
import pandas as pd
import pytest
from tiny import tiny_model

import neuroscope as ns
from neuroscope.__main__ import main
from neuroscope.errors import ArgumentError
from neuroscope.experiments.judging import JOURNAL, Judge
from neuroscope.experiments.neutrality import COLUMNS, Neutrality
from neuroscope.statistics import against_controls, benjamini_hochberg
from neuroscope.tasks import Example, Task

TEXTS = ["the food was good", "a story was so so", "the film was not so great", "very very awful soup : maybe yes"]
LABELS = ("good", "bad")


@pytest.fixture(scope="module")
def setting():
    """A tiny model, two tasks, and masks that are not random: the first third of each layer, and the last."""
    model = tiny_model()
    examples = [Example(f"the {noun} was", LABELS[i % 2]) for i, noun in enumerate(("food", "film", "story", "plot"))]
    tasks = {name: Task(name, test=examples, labels=LABELS, family=name) for name in ("a", "b")}
    widths = {address: site.width for address, site in model.sites().items()}
    thirds = {"a": lambda w: range(w // 3), "b": lambda w: range(2 * w // 3, w)}
    masks = {n: ns.NeuronMask.of({a: part(w) for a, w in widths.items()}, widths) for n, part in thirds.items()}
    return model, tasks, masks


@pytest.fixture(scope="module")
def off(setting):
    return ns.experiments.deactivation(*setting, n_random=3, neutral=TEXTS)


@pytest.fixture(scope="module")
def crossed(setting):
    return ns.cross_ablation(*setting, n_random=3, neutral=TEXTS)


def losses(model, mask=None):
    if mask is None:
        return ns.neutral_loss(model, TEXTS).losses
    with ns.ablate(model, mask):
        return ns.neutral_loss(model, TEXTS).losses


def test_every_loss_is_that_of_ablating_by_hand(setting, off, crossed):
    model, _, masks = setting
    table, ps = off.to_frame(), []
    for name, mask in masks.items():
        drawn = {m: [mask.random_like(seed=s, match=m) for s in range(3)] for m in ("uniform", "layer")}
        random = {m: [losses(model, d) for d in masks_] for m, masks_ in drawn.items()}
        own, rows = losses(model, mask), table[table["task"] == name].set_index(["condition"])
        assert rows.loc["original", "neutral"] == pytest.approx(losses(model).mean(), rel=1e-6)
        for match, measured in random.items():
            found = rows.loc[f"random-{match}", "neutral"].tolist()
            assert found == pytest.approx([x.mean() for x in measured], rel=1e-6)
        test = against_controls(-own, [-x for x in random["layer"]])
        assert test["effect"] == pytest.approx(own.mean() - np.mean(random["layer"]))  # more is worse
        expected = [own.mean(), np.mean(random["layer"]), losses(model).mean(), test["low"], test["high"], test["p"]]
        assert rows.loc["task", COLUMNS].tolist() == pytest.approx(expected, rel=1e-5)
        for row in crossed.table[crossed.table["source"] == name][COLUMNS].to_numpy():
            assert row == pytest.approx(expected, rel=1e-5)
        ps.append(test["p"])
    assert off.neutrality.rows["neutral_q"].tolist() == pytest.approx(benjamini_hochberg(ps).tolist(), rel=1e-5)
    summary = off.summary().set_index("name")
    assert summary.loc["mean (all)", "neutral"] == pytest.approx(off.neutrality.rows["neutral"].mean())
    assert crossed.verdicts()["neutral_q"].tolist() == pytest.approx(off.neutrality.rows["neutral_q"].tolist())
    assert off.manifest["neutral"]["n"] == len(TEXTS) and off.manifest["neutral"]["texts"] == "given"


def test_it_is_measured_once_for_each_mask_and_kept(setting, off, crossed, tmp_path, monkeypatch):
    how, path = {"n_random": 3, "output": tmp_path, "neutral": TEXTS}, tmp_path / JOURNAL
    pd.testing.assert_frame_equal(ns.experiments.deactivation(*setting, **how).table, off.table)
    kept = [value for _, value in map(json.loads, path.read_text().splitlines()) if isinstance(value, dict)]
    assert len(kept) == 1 + 2 * (1 + 3 + 3)  # nothing off once for both tasks
    pd.testing.assert_frame_equal(ns.cross_ablation(*setting, **how).table, crossed.table)
    again = [value for _, value in map(json.loads, path.read_text().splitlines()) if isinstance(value, dict)]
    assert again == kept
    lines = path.read_text().splitlines()
    ns.cross_ablation(*setting, **how | {"neutral": TEXTS[:2]})
    assert len(path.read_text().splitlines()) == len(lines) + 1 + 2 * (1 + 3)
    ns.cross_ablation(*setting, **how | {"neutral": []})
    assert len(path.read_text().splitlines()) == len(lines) + 1 + 2 * (1 + 3)


def test_left_out_or_impossible(setting, off):
    """Without it nothing else changes; a model without neutral texts of its own says so, and has no number."""
    out = ns.experiments.deactivation(*setting, n_random=3, neutral=[])
    others = [name for name in off.table if not name.startswith("neutral")]
    pd.testing.assert_frame_equal(out.table[others], off.table[others])
    assert out.table[COLUMNS].isna().all(axis=None) and "neutral" not in out.manifest
    assert "eutral" not in out.in_words() and len(out.figures()) == 2 and out.neutrality.hover("a") == ""
    none = ns.cross_ablation(*setting, n_random=3)
    assert none.table[COLUMNS].isna().all(axis=None)
    assert "- The loss on neutral text is not known: a tokenizer that does not know" in none.in_words()
    assert "neutral=[...]" in none.in_words()
    with pytest.raises(ArgumentError, match=r"neutral\[1\].*\n.*does not know"):
        ns.cross_ablation(*setting, neutral=["the food", "Paris in spring"])
    one = ns.experiments.deactivation(*setting, n_random=3, neutral="the food was good")
    assert one.neutrality.is_known and one.neutrality.rows["neutral_q"].isna().all() and one.neutrality.broken == []


def constructed(q):
    rows = pd.DataFrame({"task": ["x", "y"], "neutral": [7.4, 3.0], "neutral_random": [4.1, 3.2]})
    rows = rows.assign(neutral_original=2.9, neutral_low=[2.0, -0.5], neutral_high=[4.6, 0.1], neutral_p=q)
    return Neutrality.of(rows, "random neurons of the same layers", {"neutral": {"texts": "English sentences"}})


def test_words_say_whether_the_task_alone_is_broken():
    found = constructed([0.001, 0.2])
    assert found.rows["neutral_q"].tolist() == pytest.approx([0.002, 0.2]) and found.broken == ["x"]
    mean, broken, rest = found.in_words()
    assert "(English sentences) is 2.90 nats a token with nothing off, **5.20**" in mean and "3.65 with random" in mean
    assert broken.startswith("- **A negative**: in 1 of 2 tasks **what is broken is not the task alone**")
    assert (
        "x: from 2.90 to 7.40 nats a token (with random neurons of the same layers off 4.10; 3.30 [2.00, 4.60]"
        in broken
    )
    assert " in y. That is not shown to be no harm: in y it went from 2.90 to 3.00 nats a token (with" in rest
    assert "7.40 nats a token; random off 4.10; nothing off 2.90; q = 0.002" in found.hover("x")
    (figure,) = found.figures()
    assert [tuple(bar.y) for bar in figure.data[:3]] == [(2.9, 2.9), (4.1, 3.2), (7.4, 3.0)]
    assert (
        constructed([0.001, 0.002]).in_words()[1].endswith("more than these).")
    )  # y loses less than beside random ones
    both = constructed([0.001, 0.002])
    both.rows.loc["y", "neutral"] = 3.4
    assert both.in_words()[1].endswith("more than these); also in y.") and len(both.in_words()) == 2
    less = constructed([0.2, 0.001])  # y loses less than with random ones off: nothing is broken
    assert less.broken == [] and not any("negative" in line for line in less.in_words())


def test_a_report_shows_it(off, crossed):
    """The text of the result has these lines, and its figures the losses."""
    assert off.neutrality.in_words() and all(line in off.in_words() for line in off.neutrality.in_words())
    scores, _, bars = off.figures()
    assert np.allclose(bars.data[2].y, off.neutrality.rows["neutral"])
    assert "neutral text:" in str(scores.to_dict()) and "neutral text:" in str(crossed.figure().to_dict())


def test_saved_results_open(off, crossed, tmp_path):
    for result in (off, crossed):
        again = ns.load_result(result.save(tmp_path / "r.json"))
        assert again.in_words() == result.in_words()
        table = result.table[[name for name in result.table if not name.startswith("neutral")]]
        older = type(result)(table, {k: v for k, v in result.manifest.items() if k != "neutral"})
        opened = ns.load_result(older.save(tmp_path / "old.json"))
        assert "neutral text" not in opened.in_words() and opened.figures() and opened.tables()


def test_beside_a_bundled_task_its_family_is_not_neutral():
    model, tasks = ns.load("mini"), ns.load_tasks("mini")
    named = {name: tasks[name] for name in ("nli-food", "summary-film")}
    judge = Judge(model, named, n=1, neutral=None)
    every = ns.neutral_loss(model)
    for name, task in named.items():
        others = [
            not given.startswith({"nli": "infer", "summary": "summarize"}[task.family])
            for given in every.table["given"]
        ]
        assert sum(others) == 20
        np.testing.assert_allclose(judge.neutral_losses(name), every.losses[others], rtol=1e-5, atol=1e-7)


def test_the_command_line_reads_a_file_of_texts(tmp_path, capsys):
    (tmp_path / "empty").write_text("\n \n")
    for path, found in ((tmp_path / "none.txt", "No such file"), (tmp_path / "empty", "no text")):
        assert main(["run", "--neutral", str(path), "--output", str(tmp_path / "out")]) == 1
        assert found in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
