"""Three kinds of random masks beside a mask: a world in which they must disagree, the verdict that rests on all."""

import dataclasses
import html

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tiny import TINY_SPECIAL, TINY_WORDS, tiny_tokenizer

import neuroscope as ns
from neuroscope.experiments.random_controls import CONTROLS, FROM, Controls, against_each, drawn_beside, with_q
from neuroscope.masks import NeuronMask
from neuroscope.reports.main_job import _sections, run
from neuroscope.statistics import against_controls, benjamini_hochberg
from neuroscope.tasks import Example, Task

VOCABULARY = [*TINY_SPECIAL, *TINY_WORDS]
SITE, LATER = "blocks.0.mlp.hook_post", "blocks.1.mlp.hook_post"
WIDTH, CONSTANT, WRONG = 400, 31, 30  # neurons of a layer; two dimensions that are no word's
GENERAL, LOUD = range(16), range(16, 56)  # all that are loud: these hold every task, those do nothing
OWN = {"food": (56, 57), "film": (58, 59), "soup": (60, 61), "plot": (62, 63)}  # word -> neurons that know its answer
ANSWERS = {"food": "good", "film": "bad", "soup": "yes", "plot": "no"}
MASKS = {"own": OWN["food"] + OWN["film"], "general": (0, 1, 2, 3), "irrelevant": (16, 17, 18, 19)}


def world():
    """No attention: the last word decides. Own neurons write its answer; "bad" and "no" are said without them.

    Every word comes with 8 in the direction of "bad" and "no", and each of 16 loud neurons takes half a point of it. A
    right "good" or "yes" has 1 (half a point of each of its two neurons) against a quarter and half a point for every
    loud one that is off: it stands while one is off, and falls with two, in every task.
    """
    config = transformers.LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=32, intermediate_size=WIDTH, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        root = transformers.LlamaForCausalLM(config).eval()
    at = {word: i for i, word in enumerate(VOCABULARY)}
    with torch.no_grad():
        embeddings, head = root.model.embed_tokens.weight.zero_(), root.lm_head.weight.zero_()
        embeddings[:, : len(VOCABULARY)] = torch.eye(len(VOCABULARY))
        embeddings[:, CONSTANT], embeddings[:, WRONG] = 1.0, 8.0
        for i in range(len(VOCABULARY)):
            head[i, i] = 1.0
        for word in ("bad", "no"):
            head[at[word], CONSTANT], head[at[word], WRONG] = 0.25, 1.0
        for layer in root.model.layers:
            for part in (layer.self_attn.o_proj, layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj):
                part.weight.zero_()
        mlp, seen = root.model.layers[0].mlp, (32 / 66) ** 0.5  # a one after the norm

        def neuron(i, reads, loudness, writes=None, amount=0.0):
            activation = seen * loudness * torch.nn.functional.silu(torch.tensor(seen * loudness))
            mlp.gate_proj.weight[i, reads] = mlp.up_proj.weight[i, reads] = loudness
            if writes is not None:
                mlp.down_proj.weight[writes, i] = amount / activation

        for i in GENERAL:
            neuron(i, CONSTANT, 20.0, WRONG, -0.5)
        for i in LOUD:
            neuron(i, CONSTANT, 24.0)
        for word, neurons in OWN.items():
            for i in neurons:
                neuron(i, at[word], 2.0, at[ANSWERS[word]], 0.5)
        for i in range(64, WIDTH):  # as quiet as the tasks' own, and written nowhere
            neuron(i, at[list(OWN)[i % 4]], 2.0)
    return ns.load(root, tokenizer=tiny_tokenizer())


def task_of(name, words):
    starts = ("the", "a", "very", "so", "not", "maybe", "the very", "a very", "so very", "not so", "the so", "a so")
    test, train = (
        [Example(f"{start} {word}", ANSWERS[word]) for start in each for word in words] for each in (starts, ("great",))
    )
    return Task(name, test=test, train=train, labels=[ANSWERS[word] for word in words], family=name)


@pytest.fixture(scope="module")
def setting():
    model = world()
    tasks = {name: task_of(name, ("food", "film") if name == "own" else ("soup", "plot")) for name in MASKS}
    norms = ns.attribute(model, tasks, method="activation")["own"].norms
    widths = dict.fromkeys((SITE, LATER), WIDTH)
    masks = {name: NeuronMask.of({SITE: neurons}, widths) for name, neurons in MASKS.items()}
    return model, tasks, {name: dataclasses.replace(mask, norms=norms) for name, mask in masks.items()}


@pytest.fixture(scope="module")
def off(setting):
    return ns.experiments.deactivation(*setting, n_random=5, neutral=[])


def score(name, neurons):
    """What the task gets with some neurons off: all, or half where its "good" or "yes" is no longer said."""
    neurons = set(neurons)
    said, other = ("food", "film") if name == "own" else ("soup", "plot")
    points = 0.5 * len(set(OWN[said]) - neurons) - 0.5 * len(set(GENERAL) & neurons) - 0.25
    assert points != 0
    falls = 0.5 * len(set(OWN[other]) - neurons) + 0.25 + 0.5 * len(set(GENERAL) & neurons) <= 0
    return (0.5 if points < 0 else 1.0) - 0.5 * falls


def test_every_score_of_the_world_is_that_of_its_rule(setting, off):
    _, _, masks = setting
    for name, mask in masks.items():
        rows = off.table[off.table["task"] == name].set_index("condition")
        assert rows.loc["original", "score"] == 1.0
        assert rows.loc["task", "score"] == score(name, MASKS[name])
        for condition, match in CONTROLS.items():
            drawn = [mask.random_like(seed=seed, match=match)[SITE].tolist() for seed in range(5)]
            assert rows.loc[condition, "score"].tolist() == [score(name, neurons) for neurons in drawn]
    assert [score(name, MASKS[name]) for name in MASKS] == [0.5, 0.5, 1.0]


def test_only_as_loud_neurons_tell_the_general_from_the_own(off):
    """Beside neurons of the same layers both masks break half; beside as loud ones the general breaks nothing."""
    tests = off.controls.tests.set_index(["task", "condition"])
    for name in ("own", "general"):
        for kind in ("random-uniform", "random-layer"):
            row = tests.loc[(name, kind)]
            assert row["effect"] == 0.5 and row["effect_low"] > 0 and row["q"] < 0.05
    row = tests.loc[("own", "random-activation")]
    assert row["effect"] == 0.5 and row["q"] < 0.05 and row["loudness"] == pytest.approx(1)
    row = tests.loc[("general", "random-activation")]
    assert (row["effect"], row["p"], row["loudness"]) == (0.0, 1.0, pytest.approx(1))
    assert row["effect_low"] == pytest.approx(-row["effect_high"])  # of masks that all score alike: one example
    assert tests.loc["irrelevant"]["effect"].tolist() == [0.0] * 3
    controls = off.controls
    assert controls.failing == {"own": [], "general": ["random-activation"], "irrelevant": list(CONTROLS)}
    assert (controls.shown, controls.only_loud) == (["own"], ["general"])
    own = off.table[off.table["condition"] == "task"].set_index("task")
    assert own.loc["general", ["strictest", "p", "effect"]].tolist() == ["random-activation", 1.0, 0.0]
    layer = benjamini_hochberg([tests.loc[(name, "random-layer"), "p"] for name in MASKS])
    assert (layer < 0.05).tolist() == [True, True, False]  # what was said before there was a third


def test_the_words_say_where_controls_disagree(off):
    words = off.in_words()
    assert words.startswith(
        "Switching off a task's own neurons breaks it more than switching off random ones of all three kinds does in "
        "**1 of 3** tasks (q < 0.05).\n"
    )
    assert (
        "each with its own q: **2 of 3** beside those of the whole model; **2 of 3** beside those of the same layers; "
        "**1 of 3** beside those of the same layers that are as loud." in words
    )
    assert (
        "- **A negative**: with 5 random masks of each kind, the task's own neurons were not shown to break more than "
        "random ones of the same layers that are as loud in general, though they break more than random ones of the "
        "whole model or of the same layers: with these off the mean score is 100.0%, with the former 50.0%, with the "
        "own 50.0%. The harm may be that of any neurons as loud." in words
    )
    assert "of the same layers or of the same layers that are as loud in irrelevant." in words
    assert "loudest neurons of their layers" not in words
    summary = off.summary().set_index("name")
    assert summary.loc["general", "strictest"] == "random-activation"
    assert (
        summary.loc["general", "q"] == summary.loc["general", "q_activation"] > 0.05 > summary.loc["general", "q_layer"]
    )
    assert list(off.tables()) == ["summary", "controls", "runs"]


def test_figures_show_each_kind(off):
    scores, beyond = off.figures()
    assert len([trace for trace in scores.data if trace.type == "bar"]) == 5
    bars = {trace.name: trace for trace in beyond.data}
    tests = off.controls.tests
    for kind, match in CONTROLS.items():
        rows, bar = tests[tests["condition"] == kind], bars[f"beyond {ns.masks.DRAWN[match]}"]
        np.testing.assert_allclose(bar.y, 100 * rows["effect"])
        np.testing.assert_allclose(bar.error_y.array, 100 * (rows["effect_high"] - rows["effect"]))


def test_a_mask_that_has_no_loudness_rests_on_two_kinds_and_says_so(setting, off):
    model, tasks, masks = setting
    by_hand = masks | {"general": dataclasses.replace(masks["general"], norms=None)}
    found = ns.experiments.deactivation(model, tasks, by_hand, n_random=5, neutral=[])
    assert found.controls.shown == ["own", "general"]
    assert "random-activation" not in set(found.table[found.table["task"] == "general"]["condition"])
    assert (
        "No random neurons as loud stand beside the masks of general (no norms of activations at "
        f"{SITE}): the verdict rests on the other kinds there." in found.in_words()
    )
    assert np.isnan(found.summary().set_index("name").loc["general", "random-activation"])
    assert len(found.figures()) == 2 and found.controls.hover("general").count("<br>") == 2
    about = found.about(by_hand["own"])
    assert {match: about[f"effect-{match}"]["tests"] for match in CONTROLS.values()} == {
        "uniform": 3, "layer": 3, "activation": 2,
    }  # fmt: skip
    none = {name: dataclasses.replace(mask, norms=None) for name, mask in masks.items()}
    alone = ns.experiments.deactivation(model, tasks, none, n_random=5, neutral=[])
    assert "of both kinds does in **2 of 3**" in alone.in_words() and len(alone.figure().data) == 5  # and the level
    assert [drawn_beside(mask, range(2))[1] for mask in none.values()] == [f"no norms of activations at {SITE}"] * 3


def test_all_kinds_are_measured_once(setting, off, tmp_path):
    model, tasks, masks = setting
    how = {"n_random": 5, "neutral": [], "output": tmp_path}
    found = ns.experiments.deactivation(model, tasks, masks, **how)
    pd.testing.assert_frame_equal(found.table, off.table)
    known = {(name, "") for name in masks}  # nothing off
    for name, mask in masks.items():
        drawn = [mask.random_like(seed=seed, match=match) for match in CONTROLS.values() for seed in range(5)]
        known |= {(name, each.identity) for each in (mask, *drawn)}
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == len(known)
    ns.cross_ablation(model, tasks, masks, match="activation", **how)
    for mask in masks.values():
        drawn = [mask.random_like(seed=seed, match="activation") for seed in range(5)]
        known |= {(name, each.identity) for each in (mask, *drawn) for name in masks}
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == len(known)


outcomes = st.lists(st.sampled_from((0.0, 1.0)), min_size=6, max_size=6)


@given(st.lists(st.tuples(outcomes, st.lists(outcomes, min_size=9, max_size=9)), min_size=1, max_size=4))
def test_the_verdict_is_that_of_the_largest_p(tasks):
    rows, expected = [], []
    for i, (own, controls) in enumerate(tasks):
        random = {kind: np.array(controls[3 * j : 3 * j + 3]) for j, kind in enumerate(CONTROLS)}
        tests = against_each(np.array(own), random, True)
        p = {kind: against_controls(own, each)["p"] for kind, each in random.items()}
        assert {kind: tests[kind]["p"] for kind in CONTROLS} == p
        more = {kind: p[kind] if tests[kind]["effect"] > 0 else 1.0 for kind in CONTROLS}
        assert tests["task"]["p"] == max(more.values()) == more[tests["task"]["strictest"]]
        expected.append(max(more.values()))
        rows += [{"task": str(i), "condition": kind, "score": 0.0} | test for kind, test in tests.items()]
    table = with_q(pd.DataFrame(rows))
    wide = table.pivot(index="task", columns="condition", values="q")
    assert wide["task"].tolist() == pytest.approx(benjamini_hochberg(expected).tolist())
    assert (wide.to_numpy() <= wide[["task"]].to_numpy() + 1e-12).all()
    controls = Controls(table, {}, 3)
    effects = table.pivot(index="task", columns="condition", values="effect")
    assert controls.shown == [
        name for name in wide.index if wide.loc[name, "task"] < 0.05 and (effects.loc[name, list(CONTROLS)] > 0).all()
    ]


def test_what_is_sure_to_break_less_than_one_kind_is_not_shown_by_another():
    own = np.repeat([0.0, 1.0], 20)
    less, more = np.ones((3, 40)), np.zeros((3, 40))  # what is left under random masks
    tests = against_each(own, {"random-layer": less, "random-activation": more}, True)
    assert tests["random-activation"]["p"] < 0.001 and tests["random-layer"]["p"] < 0.001
    verdict = tests["task"]
    assert (verdict["p"], verdict["effect"], verdict["strictest"]) == (1.0, -0.5, "random-activation")


def test_random_neurons_that_do_more_harm_are_told():
    own, random = np.ones(40), np.zeros((3, 40))
    tests = against_each(own, {"random-layer": random, "random-activation": np.ones((3, 40))}, True)
    table = with_q(
        pd.DataFrame([{"task": "x", "condition": c, "score": 0.0, "loudness": 0.5} | t for c, t in tests.items()])
    )
    words = "\n".join(Controls(table, {}, 3).in_words())
    assert "**A negative**: random neurons of the same layers break more than the own in x." in words
    assert "those drawn to be as loud are less loud (root mean square, as a share of the mask's) in x (50%)" in words
    assert Controls(table, {}, 3).shown == []


def test_the_report_says_which_verdicts_do_not_hold_beside_every_kind(setting, off):
    crossed = ns.cross_ablation(*setting, n_random=5, neutral=[])
    verdicts = crossed.verdicts().set_index("task")["verdict"]
    assert verdicts["general"] == "general" and verdicts["irrelevant"] == "no effect" and verdicts["own"] == "selective"
    (section,) = _sections("cross_ablation", {"deactivation": off, "cross_ablation": crossed})
    assert section.text.endswith(
        "- **A negative**: a verdict here rests on random neurons of the same layers alone. That these neurons break "
        "their own task does not hold beside every kind of random ones for general (general) (see Switching neurons "
        "off)."
    )
    table = off.table.assign(q=0.01, effect=0.5)
    clear = {"deactivation": dataclasses.replace(off, table=table), "cross_ablation": crossed}
    assert _sections("cross_ablation", clear)[0].text == crossed.in_words()


@pytest.mark.filterwarnings("ignore:top")  # larger masks take in neurons that do nothing
def test_the_report_has_every_kind(setting, tmp_path):
    model, tasks, _ = setting
    names = ("own", "general")
    page = run(model, {n: tasks[n] for n in names}, output=tmp_path, k=20 / 800, n_random=3, neutral=[], sizes=None)
    text = html.unescape(page.read_text())
    for said in ("each kind of random ones", "Is it more than random neurons break?", *FROM.values()):
        assert said in text
    masks = {name: NeuronMask.load(tmp_path / "masks" / f"{name}.safetensors") for name in names}
    mine = {"own": {*OWN["food"], *OWN["film"]}, "general": {*OWN["soup"], *OWN["plot"]}}
    assert {name: set(mask[SITE].tolist()) for name, mask in masks.items()} == {
        n: mine[n] | set(GENERAL) for n in names
    }
    tests = pd.read_parquet(tmp_path / "tables" / "deactivation_controls.parquet").set_index(["condition", "task"])
    quiet, loud = (float(masks["own"].norms[SITE][i]) for i in (OWN["food"][0], GENERAL[0]))
    drawn = (4 * quiet + 16 * 1.2**2 * loud) / (4 * quiet + 16 * loud)  # loud ones left do nothing
    assert tests.loc["random-activation", "loudness"].tolist() == pytest.approx([drawn] * 2)
    assert tests.loc["random-activation", "effect"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("experiment", [ns.experiments.deactivation, ns.cross_ablation, ns.experiments.mask_parts])
def test_one_test_example_is_refused_before_anything_is_measured(setting, experiment, monkeypatch):
    monkeypatch.setattr("neuroscope.experiments.judging.judge", lambda *_: pytest.fail("measured"))
    with pytest.raises(ns.NeuroscopeError, match=r"\(n=\.\.\.\)\n  found: one test example of task 'own'"):
        experiment(*setting, n_random=3, n=1)
