"""Pruning by score, against it and at random: every number a loop over `prune`, `finetune` and `evaluate`."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from families import build
from state import unchanged
from test_dose import LABELS, TEXTS
from tiny import WORDS, tiny_model

import neuroscope as ns
from neuroscope.errors import ArgumentError, TaskError
from neuroscope.evaluation.neutral_texts import prepare_neutral
from neuroscope.evaluation.repetition import repetition_of
from neuroscope.experiments.judging import JOURNAL
from neuroscope.experiments.pruning_sweep import Pruning, pruning, taking_out
from neuroscope.experiments.pruning_sweep.pruning_result import TESTS
from neuroscope.statistics import against_controls, benjamini_hochberg, paired_permutation
from neuroscope.training import LoraAdapter, train

K = (0.25, 0.5)
RECIPE = {"steps": 2, "lr": 1e-2, "batch_size": 4}
HOW = {"k": K, "recipe": RECIPE, "neutral": TEXTS}


def task_of(model, name="one", seed=0):
    """A task at which a model is right: its own answers."""
    rng, words = np.random.default_rng(seed), [w for w in sorted(set(WORDS)) if w != "and"]
    prompts = list(dict.fromkeys(" ".join(rng.choice(words, size=4)) + " :" for _ in range(40)))
    right = ns.evaluate(model, ns.Task("t", test=[ns.Example(p, "good") for p in prompts], labels=LABELS))
    examples = [ns.Example(p, a) for p, a in zip(prompts, right.table["prediction"], strict=True)]
    return ns.Task(name, train=examples[:12], discovery=examples[12:20], test=examples[20:], labels=LABELS)


@pytest.fixture(scope="module")
def setting():
    model = tiny_model()
    task = task_of(model)
    return model, task, ns.attribute(model, {"one": task})


@pytest.fixture(scope="module")
def found(setting, tmp_path_factory):
    model, task, scores = setting
    folder = tmp_path_factory.mktemp("pruning")
    with unchanged(model.root):
        return folder, pruning(model, task, scores, **HOW, output=folder)


def mask_by_hand(scores, share, condition, model):
    """Of every layer, the neurons of the lowest or the highest scores."""
    chosen = {}
    for address, values in scores.items():
        ranked = sorted(range(len(values)), key=lambda i: (float(values[i]), i))
        count = round(share * len(values))
        chosen[address] = ranked[:count] if condition == "selective" else ranked[-count:]
    return ns.NeuronMask.of(chosen, model)


def measured(model, task):
    neutral = prepare_neutral(model, TEXTS, None, "neutral")
    return ns.evaluate(model, task).outcomes, ns.neutral_loss(model, TEXTS).losses, repetition_of(model, neutral)


def trained(model, task):
    adapter = ns.finetune(model, task, "ffn", **RECIPE)
    try:
        return measured(model, task)
    finally:
        adapter.detach()


def row_of(table, condition, share, recovered, seed=None):
    rows = table[(table["condition"] == condition) & (table["share"] == share) & (table["recovered"] == recovered)]
    return (rows if seed is None else rows[rows["seed"] == seed]).iloc[0]


def test_every_number_is_a_loop_over_prune(setting, found):
    model, task, scores = setting
    table = found[1].to_frame()
    for recovered, measure in ((False, measured), (True, trained)):
        intact, bare = measure(model, task), measured(model, task)
        assert row_of(table, "intact", 0.0, recovered)["score"] == pytest.approx(intact[0].mean())
        for share in K:
            masks = {c: mask_by_hand(scores["one"], share, c, model) for c in ("selective", "reverse")}
            randoms = []
            for seed in range(3):
                small = ns.prune(model, masks["selective"].random_like(seed=seed))
                randoms.append(measure(small, task))
                row = row_of(table, "random", share, recovered, seed)
                assert row["score"] == pytest.approx(randoms[-1][0].mean())
                assert row["neutral"] == pytest.approx(randoms[-1][1].mean(), abs=1e-5)
                assert row["parameters"] == small.n_parameters
            for condition, mask in masks.items():
                small = ns.prune(model, mask)
                own, row = measure(small, task), row_of(table, condition, share, recovered)
                columns = row[["score", "neutral", "repetition"]].tolist()
                assert columns == pytest.approx([values.mean() for values in own], abs=1e-5)
                assert (row["neurons"], row["parameters"]) == (len(mask), small.n_parameters)
                test = against_controls(own[0], [r[0] for r in randoms])
                wanted = [test[name] for name in ("effect", "low", "high", "p")]
                assert row[["effect", "effect_low", "effect_high", "p"]].tolist() == pytest.approx(wanted)
                for name, a, b in zip(("intact_p", "neutral_p", "repetition_p"), own, bare, strict=True):
                    assert row[name] == pytest.approx(paired_permutation(a, b), abs=1e-6)
    for p, q in TESTS.items():
        for _, family in table.groupby("recovered"):  # what was trained again is a family of tests of its own
            wanted = benjamini_hochberg(family[p].to_numpy(dtype=float))
            assert np.allclose(family[q], wanted, equal_nan=True)
    assert table["score"].nunique() > 3  # pruning and training move something


def test_a_run_goes_on_where_it_stopped(setting, found, tmp_path, monkeypatch):
    model, task, scores = setting
    folder, before = found
    with monkeypatch.context() as never:
        never.setattr(taking_out, "train", None)
        again = pruning(model, task, scores, **HOW, output=folder)
    pd.testing.assert_frame_equal(again.to_frame(), before.to_frame())
    lines, calls = (folder / JOURNAL).read_text().splitlines(keepends=True), []
    (tmp_path / JOURNAL).write_text("".join(lines[:-4]) + lines[-4][:20])  # killed within the last training but one

    def counted(*args, **kwargs):
        calls.append(args)
        return train(*args, **kwargs)

    monkeypatch.setattr(taking_out, "train", counted)
    again = pruning(model, task, scores, **HOW, output=tmp_path)
    pd.testing.assert_frame_equal(again.to_frame(), before.to_frame())
    assert len(calls) == 2


def test_a_lora_and_no_recovery(setting):
    model, task, scores = setting
    how = {"k": (0.5,), "neutral": []}
    bare = pruning(model, task, scores, **how, recovery=None)
    assert not bare.to_frame()["recovered"].any() and bare.to_frame()["neutral"].isna().all()
    assert "training" not in bare.in_words().rpartition("- Of every layer")[0]
    with unchanged(model.root):
        mended = pruning(model, task, scores, **how, recovery="lora", recipe=RECIPE)
    small = ns.prune(model, mask_by_hand(scores["one"], 0.5, "selective", model))
    adapter = LoraAdapter(small, seed=0)
    train(adapter, {"one": task}, RECIPE)
    wanted = ns.evaluate(small, task).score
    assert row_of(mended.to_frame(), "selective", 0.5, True)["score"] == pytest.approx(wanted)
    assert "training a LoRA" in mended.in_words()


def test_neurons_that_do_nothing_can_go(setting):
    """Planted: half of the neurons of each layer write nothing, and the scores say which."""
    model = tiny_model(seed=3)
    with torch.no_grad():
        for layer in model.root.model.layers:
            layer.mlp.down_proj.weight[:, ::2] = 0.0
    task, flags = task_of(model), torch.arange(48) % 2
    widths = {a: s.width for a, s in model.sites().items()}
    scores = {"one": ns.Scores({a: flags.float() for a in widths}, widths)}
    found = pruning(model, task, scores, k=(0.5,), recovery=None, neutral=TEXTS)
    table = found.shares().iloc[0]
    assert table["selective"] == table["intact"] == 1.0 and table["selective_text"] == "holds"
    assert table["selective_neutral"] == pytest.approx(table["intact_neutral"], abs=1e-6)
    assert table["reverse"] < table["random"] < 1.0 and table["reverse_neutral"] != table["intact_neutral"]
    words = found.in_words()
    assert "- With **50%** of every layer gone" in words and f"100% by score, {table['random']:.0%} at random" in words
    assert found.shares()["parameters"].iloc[0] == pytest.approx(
        1 - 2 * 24 * 3 * 32 / sum(p.numel() for p in model.root.parameters())
    )


def rows(task, share, recovered, score, neutral, repetition, condition, seed=None, **more):
    given = {"task": task, "family": "", "condition": condition, "share": share, "seed": seed, "recovered": recovered}
    given |= {"neurons": 1, "parameters": 100 if share == 0 else 50, "n": 40, "score": score, "low": score - 0.1}
    given |= {"high": score + 0.1, "majority": 0.5, "uniform": 0.5, "p_majority": 0.0, "neutral": neutral}
    given |= {"neutral_low": neutral, "neutral_high": neutral, "repetition": repetition, "repetition_low": repetition}
    return given | {"repetition_high": repetition, **more}


def made(recovered=True):
    """A result of known numbers: by score nothing is lost, against it all, and the text repeats itself."""
    q = {"q": 0.01, "intact_q": 0.01}
    table = []
    for after in (False, True) if recovered else (False,):
        back = 0.4 * after
        table.append(rows("one", 0.0, after, 0.95, 1.0, 0.1, "intact"))
        text = {"neutral_p": 0.5, "neutral_q": 0.5, "repetition_p": 0.5, "repetition_q": 0.5}
        table.append(rows("one", 0.5, after, 0.94, 1.0, 0.1, "selective", effect=-0.2 + back / 2, **q, **text))
        text = {"neutral_p": 0.01, "neutral_q": 0.01, "repetition_p": 0.01, "repetition_q": 0.01}
        table.append(rows("one", 0.5, after, 0.3 + back, 5.0, 0.8, "reverse", effect=0.4, **q, **text))
        table += [rows("one", 0.5, after, s + back / 2, 1.5, 0.1, "random", i) for i, s in enumerate((0.7, 0.72, 0.74))]
    manifest = {"k": [0.5], "n_random": 3, "n": 40, "recovery": "neurons" if recovered else None, "neutral": {"n": 8}}
    return Pruning(pd.DataFrame(table), manifest)


def test_words_are_those_of_the_numbers():
    words = made().in_words()
    for part in (
        "costs it less than random pruning in **1** of 1 (task and share)", "costs more in **1** (q < 0.05)",
        "94% by score, 72% at random, 30% against the score; 95% with nothing gone",
        "(50% of all parameters left)", "With what the task needs least gone, neutral text was not shown to suffer",
        "With what it needs most gone the text suffers, from 50% on, in 1 of 1 tasks: neutral text costs up to 5 nats",
        "it repeats itself: 80% of 4-grams in one at 50% (intact 10%)",
        "94% by score (from 94%), 92% at random (from 72%), 70% against it (from 30%)",
        "1 by score (before the training 1), 5 against it (before the training 5)",
        "**A negative**: after training, pruning by score was not shown to leave more",
    ):  # fmt: skip
        assert part in words, part
    worse = made(False)
    table = worse.table.assign(effect=worse.table["effect"].abs())
    words = replace(worse, table=table).in_words()
    assert words.startswith("**A negative**") and "costs more than random pruning: one at 50%" in words
    assert replace(worse, table=table.assign(p_majority=0.5)).in_words().startswith("**Nothing can be concluded**")


def test_the_figure_has_the_table_s_numbers(found):
    table, figure = found[1].to_frame(), found[1].figure()
    for name, condition in (("least needed gone", "selective"), ("most needed gone, then trained", "reverse")):
        recovered = name.endswith("trained")
        curve = next(t for t in figure.data if t.name == name)
        ends = [row_of(table, "intact", 0.0, recovered), *(row_of(table, condition, k, recovered) for k in K)]
        assert list(curve.x) == [0, 25, 50] and list(curve.y) == pytest.approx([100 * r["score"] for r in ends])
    assert {t.name for t in figure.data} >= {"random gone", "random gone, then trained"}
    assert found[1].standings.table["score"].tolist() == [1.0]


def test_what_is_refused(setting):
    model, task, scores = setting
    one = scores["one"]
    for k, text in (((0.5, 1.0), "nothing would be left"), ((0.001,), "0 of the 48 neurons"), ((0.5, 0.2), "growing")):
        with pytest.raises(ArgumentError, match=text):
            pruning(model, task, scores, k=k)
    with pytest.raises(ArgumentError, match="recovery"):
        pruning(model, task, scores, recovery="full")
    with pytest.raises(ArgumentError, match="no task for"):
        pruning(model, task, {"two": one})
    with pytest.raises(TaskError, match="found on the same examples"):
        pruning(model, task, ns.attribute(model, {"one": task}, split="test"), k=(0.5,))
    grouped = ns.load(build("llama"))
    heads = {a: torch.rand(site.width) for a, site in grouped.sites("head").items()}
    with pytest.raises(ArgumentError, match="share keys and values"):
        pruning(grouped, task, {"one": ns.Scores(heads, {a: len(v) for a, v in heads.items()}, "head")}, k=(0.5,))
    with pytest.raises(TaskError, match="train"):
        pruning(model, replace(task, train=()), scores, k=(0.5,))
