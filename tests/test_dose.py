"""Dose sweeps: every number a loop over `scale` and `add`; the ends known; a text that repeats itself is said to."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from state import unchanged
from tiny import WORDS, tiny_model

import neuroscope as ns
from neuroscope.errors import ArgumentError, MaskError, TaskError
from neuroscope.evaluation import evaluate, neutral_loss
from neuroscope.evaluation.neutral_texts import prepare_neutral
from neuroscope.evaluation.repetition import beginnings_of, repeated_share, repetition_of
from neuroscope.experiments.dose_sweep import DoseResponse, dose
from neuroscope.experiments.dose_sweep.dose_result import TESTS
from neuroscope.experiments.dose_sweep.dose_words import FEWEST_TEXTS
from neuroscope.experiments.judging import JOURNAL
from neuroscope.statistics import against_controls, benjamini_hochberg, paired_permutation
from neuroscope.tasks import Example, Task

LABELS = ("good", "bad", "awful")
TEXTS = [
    "the food was very good so the film", "a great story", "the plot was not very bad so a soup was",
    "the film was awful so the story", "a soup was very good", "the story was not so great",
]  # fmt: skip
FACTORS = (0, 0.5, 1, 3)
HOW = {"factors": FACTORS, "n_random": 3, "neutral": TEXTS}


@pytest.fixture(scope="module")
def setting():
    model, rng = tiny_model(), np.random.default_rng(0)
    words = [w for w in sorted(set(WORDS)) if w != "and"]
    prompts = list(dict.fromkeys(" ".join(rng.choice(words, size=4)) + " :" for _ in range(60)))
    right = evaluate(model, Task("t", test=[Example(p, "good") for p in prompts], labels=LABELS)).table["prediction"]
    examples = [Example(p, a) for p, a in zip(prompts, right, strict=True)]
    parts = {"one": (examples[40:50], examples[:20]), "two": (examples[50:], examples[20:40])}
    tasks = {name: Task(name, train=seen, test=test, labels=LABELS) for name, (seen, test) in parts.items()}
    masks = {name: ns.attribute(model, task).top(0.2) for name, task in tasks.items()}
    return model, tasks, masks


@pytest.fixture(scope="module")
def found(setting):
    model, tasks, masks = setting
    with unchanged(model.root):
        return dose(model, tasks, masks, **HOW)


def rows_of(found, condition, task, factor):
    table = found.to_frame()
    return table[(table["condition"] == condition) & (table["task"] == task) & (table["factor"] == factor)]


def by_hand(model, task, mask, factor, texts=TEXTS):
    """Outcomes, losses, and shares of repeated 4-grams, from the public calls and from `generate`."""
    with ns.scale(model, mask, factor):
        outcomes, losses = evaluate(model, task).outcomes, neutral_loss(model, TEXTS).losses
        repeated = []
        for text in texts:
            ids = [1, *model.tokenizer(text, add_special_tokens=False).input_ids]
            begin = ids[: (len(ids) + 1) // 2]
            new = min(32, 64 - max((len(t.split()) + 2) // 2 for t in TEXTS))
            made = model.root.generate(
                input_ids=torch.tensor([begin]), max_new_tokens=new, do_sample=False, pad_token_id=0
            )[0, len(begin) :].tolist()
            made = made[: made.index(2)] if 2 in made else made
            grams = {tuple(made[i : i + 4]) for i in range(len(made) - 3)}
            repeated.append(1 - len(grams) / (len(made) - 3) if len(made) > 3 else 0.0)
    return outcomes, losses, np.array(repeated)


def test_every_number_is_a_loop_over_scale(setting, found):
    model, tasks, masks = setting
    for name, task in tasks.items():
        intact = by_hand(model, task, masks[name], 1.0)
        for factor in FACTORS:
            own = rows_of(found, "mask", name, factor).iloc[0]
            hand = by_hand(model, task, masks[name], factor)
            for column, values in zip(("score", "neutral", "repetition"), hand, strict=True):
                assert own[column] == pytest.approx(values.mean(), abs=1e-6)
            random = [by_hand(model, task, masks[name].random_like(seed=s), factor, ()) for s in range(3)]
            shown = rows_of(found, "random", name, factor)
            assert shown["score"].tolist() == pytest.approx([r[0].mean() for r in random], abs=1e-12)
            assert shown["neutral"].tolist() == pytest.approx([r[1].mean() for r in random], abs=1e-6)
            if factor == 1:
                assert own[[*TESTS]].isna().all()
                continue
            test = against_controls(hand[0], [r[0] for r in random])
            assert own["p"] == pytest.approx(test["p"]) and own["effect"] == pytest.approx(test["effect"])
            pairs = zip(("intact_p", "neutral_p", "repetition_p"), hand, intact, strict=True)
            for column, values, before in pairs:
                assert own[column] == pytest.approx(paired_permutation(values, before), abs=1e-9)
    table = found.to_frame()
    for p, q in TESTS.items():
        assert np.allclose(table[q], benjamini_hochberg(table[p].to_numpy()), equal_nan=True)
    assert table["repetition"].max() > 0  # some text repeats itself


def test_dose_one_is_the_model_as_it_is_and_dose_zero_is_zero_ablation(setting, found, tmp_path):
    model, tasks, masks = setting
    columns = ["score", "low", "high", "neutral", "neutral_low", "neutral_high", "repetition", "repetition_high"]
    for name, task in tasks.items():
        table = found.to_frame()
        intact = table[(table["condition"] == "intact") & (table["task"] == name)].iloc[0]
        for row in [*rows_of(found, "mask", name, 1).iloc, *rows_of(found, "random", name, 1).iloc]:
            assert row[columns].tolist() == intact[columns].tolist()
        with ns.ablate(model, masks[name]):
            zero, losses = evaluate(model, task), neutral_loss(model, TEXTS)
        own = rows_of(found, "mask", name, 0).iloc[0]
        assert own["score"] == zero.score and (own["low"], own["high"]) == zero.interval
        assert own["neutral"] == pytest.approx(losses.loss, abs=1e-12)
        with ns.scale(model, masks[name], 0.0):  # and so does a factor of zero, though it is run as ablation
            assert evaluate(model, task).outcomes.tolist() == zero.outcomes.tolist()
    folder = tmp_path / "shared"
    ns.experiments.deactivation(model, tasks, masks, n_random=3, neutral=TEXTS, output=folder)
    before = (folder / JOURNAL).read_text().count("\n")
    dose(model, tasks, masks, factors=(0, 1), n_random=3, neutral=TEXTS, output=folder)
    lines = (folder / JOURNAL).read_text().split("\n")[before:-1]
    assert len(lines) == 9  # repetition alone is new: of nothing done, and of two masks and three random ones of each


def test_a_direction_is_added_so_many_times(setting):
    model, tasks, masks = setting
    task, mask = {"one": tasks["one"]}, masks["one"]
    push = {a: torch.linspace(-1, 1, s.width) for a, s in model.sites().items()}
    for direction in (0.3, push):
        found = dose(model, task, mask, factors=(0, 0.5, 2), direction=direction, n_random=3, neutral=[])
        for factor in (0, 0.5, 2):
            amount = {a: factor * v for a, v in push.items()} if direction is push else factor * direction
            with ns.add(model, mask, amount):
                assert rows_of(found, "mask", "one", factor)["score"].item() == evaluate(model, task["one"]).score
        assert rows_of(found, "mask", "one", 0)[[*TESTS]].isna().all(axis=None)  # nothing is added
        assert rows_of(found, "mask", "one", 2)["p"].notna().all()
        assert "how many times the direction is added" in found.in_words()
        assert "Whether the text holds was not asked." in found.in_words()


def test_a_killed_sweep_goes_on(setting, tmp_path):
    model, tasks, masks = setting
    calls, few = [], HOW | {"factors": (0, 3), "neutral": TEXTS[1:2]}

    def killed(items, desc):
        for i, item in enumerate(items):
            if len(calls) == 7:
                raise KeyboardInterrupt
            calls.append((desc, i))
            yield item

    with pytest.raises(KeyboardInterrupt), unchanged(model.root):
        dose(model, tasks["one"], masks["one"], **few, output=tmp_path, progress=killed)
    assert (tmp_path / JOURNAL).read_text().count("\n") == 7
    seen = []
    follow = {"output": tmp_path, "progress": lambda items, desc: seen.append(desc) or items}
    again = dose(model, tasks["one"], masks["one"], **few, **follow).to_frame()
    assert list(dict.fromkeys(seen)) == ["dose 0", "dose 3"]
    whole, alone = (dose(model, tasks["one"], masks["one"], **few, batch_size=size).to_frame() for size in (None, 1))
    pd.testing.assert_frame_equal(again, whole)
    pd.testing.assert_frame_equal(alone, whole, rtol=1e-4, atol=1e-6)


def test_the_result_is_one_of_ours(found, tmp_path):
    again = ns.load_result(found.save(tmp_path / "dose.json"))
    assert isinstance(again, DoseResponse) and again.in_words() == found.in_words()
    pd.testing.assert_frame_equal(again.to_frame(), found.to_frame())
    figure = found.figure()
    curves = {t.name: t for t in figure.data if t.xaxis == "x"}
    own = [rows_of(found, "mask", "one", f).iloc[0] for f in FACTORS]
    assert list(curves["the task's own neurons"].x) == list(FACTORS)
    assert list(curves["the task's own neurons"].y) == pytest.approx([100 * row["score"] for row in own])
    assert figure.layout.xaxis.type == "linear" and len(figure.layout.annotations) >= 6
    assert next(t.text for t in figure.layout.annotations if "repeated" in t.text) == "one<br>repeated 4-grams, %"


def planted_words(found, **columns):
    """What is said where the doses of the first task are as given."""
    table = found.to_frame()
    for (condition, factor), values in columns.pop("cells").items():
        rows = (table["task"] == "one") & (table["condition"] == condition)
        rows &= table["factor"].isna() if factor is None else table["factor"] == factor
        for name, value in values.items():
            table.loc[rows, name] = value
    return dataclasses.replace(found, table=table).in_words()


def test_what_breaks_is_said(found):
    calm = {f"{name}_q": 1.0 for name in ("neutral", "repetition")} | {"q": 1.0, "intact_q": 1.0}
    still = {"majority": 0.3, "p_majority": 1e-6, "score": 0.9, "neutral": 2.0, "repetition": 0.05}
    base = {("intact", None): still, ("mask", 0.0): still | calm, ("mask", 0.5): still | calm}
    base |= {("random", f): still for f in FACTORS} | {("mask", 3.0): still | calm}
    words = planted_words(found, cells=base)
    assert "one, at" not in words
    off = {("mask", 0.0): still | calm | {"score": 0.2, "q": 0.001}}
    words = planted_words(found, cells=base | off)
    line = "- one, at **0x**: 20% (random 90%, intact 90%); the text was not shown to suffer: what changes is the task."
    assert line in words
    loud = {"score": 0.2, "q": 0.001, "repetition": 0.8, "repetition_q": 0.01}
    words = planted_words(found, cells=base | {("mask", 3.0): still | calm | loud})
    assert (
        "**3x**: 20% (random 90%, intact 90%); the text repeats itself (5% to 80% of 4-grams): **what breaks is"
        in words
    )
    assert "not the task alone**" in words
    loud |= {"q": 0.5, "repetition_q": 0.5, "neutral": 4.0, "neutral_q": 0.01}
    words = planted_words(found, cells=base | {("mask", 3.0): still | calm | loud})
    assert "neutral text costs 4 nats a token (intact 2, random 2): **what breaks is the text, as far as is" in words
    tiny = {"neutral": 2.005, "neutral_q": 0.001}  # sure, and nothing to speak of
    assert "one, at" not in planted_words(found, cells=base | {("mask", 3.0): still | calm | tiny})


def test_few_texts_do_not_say_that_the_text_holds(found):
    flips = [paired_permutation(np.arange(1, n + 1), np.zeros(n)) for n in (FEWEST_TEXTS - 1, FEWEST_TEXTS)]
    assert flips[0] >= 0.05 > flips[1]
    assert (found.doses()["text"] != "not known").all() and "not known" not in found.in_words()
    about = {**found.manifest["neutral"], "n": FEWEST_TEXTS - 1}
    few = dataclasses.replace(found, manifest={**found.manifest, "neutral": about})
    assert (few.doses()["text"] == "not known").all()
    assert "not known: 5 texts cannot show it: give 6 or more" in few.in_words()
    assert "what changes is the task" not in few.in_words()


def test_repetition_is_that_of_welleck_et_al():
    text = [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]  # 7 four-grams: 1234 2341 3412 4123, the rest again
    assert repeated_share(text) == pytest.approx(3 / 7)
    assert repeated_share([5] * 33) == pytest.approx(29 / 30) and repeated_share(range(40)) == 0.0
    assert repeated_share([1, 2, 3]) == 0.0 and repeated_share([]) == 0.0


@pytest.mark.parametrize("style", ["causal", "seq2seq"])
def test_texts_are_gone_on_from_their_beginnings(style):
    model = tiny_model(style)
    neutral = prepare_neutral(model, TEXTS)
    sizes = [len(row.inputs) for row in beginnings_of(model, neutral)]
    words = [len(t.split()) for t in TEXTS]
    assert sizes == ([(w + 2) // 2 for w in words] if style == "causal" else [(w + 1) // 2 + 1 for w in words])
    one = repetition_of(model, dataclasses.replace(neutral, batch_size=1))
    assert np.allclose(one, repetition_of(model, neutral))


def test_a_model_that_does_not_generate_is_said_to_not_repeat_itself():
    model = tiny_model("masked")
    examples = [Example(f"the {w} was", "good") for w in ("food", "film", "soup", "plot", "story")]
    task = Task("t", train=examples[:2], discovery=examples[:2], test=examples[2:], labels=("good", "bad"))
    found = dose(model, task, {"t": ns.attribute(model, task).top(0.2)}, factors=(0, 1), n_random=3, neutral=TEXTS)
    assert found.to_frame()["repetition"].isna().all() and found.to_frame()["neutral"].notna().all()
    assert "does not generate: whether it repeats itself is not known" in found.in_words()


def test_what_cannot_be_given_is_refused(setting):
    model, tasks, masks = setting
    for factors, said in (
        ((), "no doses"),
        ((0, -1), "a negative dose"),
        ((1, 0.5), "do not grow"),
        ((0, 1, 1), "do not grow"),
        ((0, float("nan")), "factors"),
        ((0, float("inf")), "factors"),
        (2.0, "factors"),
        (("a",), "factors"),
    ):
        with pytest.raises(ArgumentError, match=said):
            dose(model, tasks, masks, factors=factors, n_random=3)
    with pytest.raises(ArgumentError, match="direction"):
        dose(model, tasks, masks, direction=float("nan"), n_random=3)
    with pytest.raises(ArgumentError, match="direction"):
        dose(model, tasks, masks, direction={"blocks.0.mlp.hook_post": torch.ones(3)}, n_random=3)
    with pytest.raises(ArgumentError, match="n_random"):
        dose(model, tasks, masks, n_random=2)
    with pytest.raises(ArgumentError, match="one test example"):
        dose(model, tasks, masks, n=1, n_random=3)
    with pytest.raises(MaskError, match="neurons"):
        small = ns.NeuronMask.of({a: [0] for a in model.sites()}, dict.fromkeys(model.sites(), 5))
        dose(model, tasks, small, n_random=3)
    with pytest.raises(TaskError, match="same examples"):
        found = ns.attribute(model, tasks["one"], split="test").top(0.2)
        dose(model, tasks["one"], found, n_random=3)
