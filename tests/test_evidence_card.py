"""Evidence cards: every number by hand, only on the mask it was measured on, through files, hostile text as text."""

import copy
import html
import inspect
import json
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import WORDS, tiny_model

import neuroscope as ns
from neuroscope import files
from neuroscope.errors import ArgumentError, FileError
from neuroscope.masks import EvidenceCard
from neuroscope.masks.evidence import PARTS
from neuroscope.results import load_result

HOSTILE = "<script>alert('1')</script> \"quotes\" |`x`| **b** [a](b)\n# next \u202e \u05e9\u05dc\u05d5\u05dd"
LABELS = ("good", "bad", "awful")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def tasks(model):
    """Two tasks of two families whose test answers the model gives, but for a few; one has a hostile name."""

    def examples(offset, count):
        prompts = [" ".join((WORDS * 3)[i + offset : i + offset + 3 + i % 5]) for i in range(count)]
        return [ns.Example(prompt, LABELS[i % 3]) for i, prompt in enumerate(prompts)]

    found = {}
    for i, name in enumerate(("food", HOSTILE)):
        task = ns.Task(name, train=examples(i, 16), test=examples(i + 8, 14), labels=LABELS, family=f"family {i}")
        answers = ns.evaluate(model, task).table["prediction"]
        right = [replace(e, answer=a, references=()) for e, a in zip(task.test[2:], answers[2:], strict=True)]
        found[name] = replace(task, test=[*task.test[:2], *right])
    return found


@pytest.fixture(scope="module")
def scores(model, tasks):
    return ns.attribute(model, tasks)


@pytest.fixture(scope="module")
def masks(scores):
    return {name: found.top(0.3) for name, found in scores.items()}


@pytest.fixture(scope="module")
def crossed(model, tasks, masks):
    return ns.cross_ablation(model, tasks, masks, n_random=3, neutral=["the food was good", "a film so awful"])


@pytest.fixture(scope="module")
def off(model, tasks, masks):
    return ns.experiments.deactivation(model, tasks, masks, n_random=3, neutral=[])


@pytest.fixture(scope="module")
def stable(model, tasks):
    return ns.stability(model, tasks, k=(0.1, 0.3), parts=4)


@pytest.fixture(scope="module")
def faithful(model, tasks, scores):
    return ns.faithfulness(model, tasks, scores, k=(0.1, 0.5, 0.9), n_random=3)


@pytest.fixture(scope="module")
def full(masks, crossed, off, stable, faithful):
    return {name: mask.with_evidence(off, crossed, stable, faithful) for name, mask in masks.items()}


def test_effects_are_those_of_evaluating_under_each_mask(model, tasks, masks, off):
    for name, mask in masks.items():
        own = mask.card(off).evidence

        def score(off, name=name):
            with ns.ablate(model, off):
                return ns.evaluate(model, tasks[name]).score

        tests = off.controls.tests.set_index(["task", "condition"]).loc[name]
        kinds = [condition.removeprefix("random-") for condition in tests.index]
        assert kinds[:2] == ["uniform", "layer"] and {f"effect-{match}" for match in kinds} <= set(own)
        for match in kinds:
            control = np.mean([score(mask.random_like(seed=seed, match=match)) for seed in range(3)])
            expected = {"score": score(mask), "control": control, "effect": control - score(mask), "n": 14}
            expected |= {"original": ns.evaluate(model, tasks[name]).score, "n_random": 3}
            of = own[f"effect-{match}"]
            assert {key: of[key] for key in expected} == pytest.approx(expected)
            assert of["task"] == name and of["value"] == "zero" and of["measured"] == files.today()
            assert of["fingerprint"] == model.fingerprint()
        for match in kinds:
            expected = tests.loc[f"random-{match}", ["effect", "effect_low", "effect_high", "p", "q"]].tolist()
            of = own[f"effect-{match}"]
            assert [of[key] for key in ("effect", "low", "high", "p", "q")] == pytest.approx(expected)
            assert of["tests"] == len(off.controls.tested) == 2
            assert of["q_all"] == pytest.approx(off.controls.tested.loc[name, "q"]) and of["q_all"] >= of["q"] - 1e-12


def test_tests_verdict_and_neutral_text_are_those_of_the_matrix(crossed, full):
    verdicts = crossed.verdicts().set_index("task")
    for name, mask in full.items():
        cell = crossed.table[(crossed.table["source"] == name) & (crossed.table["target"] == name)].iloc[0]
        own = mask.card(crossed).evidence
        for key in ("low", "high", "p", "q"):
            assert own["effect-layer"][key] == pytest.approx(cell[key])
        assert own["effect-layer"]["tests"] == crossed.table["q"].notna().sum()
        assert own["verdict"]["verdict"] == verdicts.loc[name, "verdict"] and own["verdict"]["tasks"] == 2
        assert own["verdict"]["selectivity"] == pytest.approx(verdicts.loc[name, "selectivity"])
        assert own["neutral"]["loss"] == pytest.approx(cell["neutral"]) and own["neutral"]["texts"] == "given"
        assert own["neutral"]["original"] == pytest.approx(cell["neutral_original"])


def test_the_ceiling_and_the_smallest_size_are_those_of_their_results(scores, stable, faithful, full):
    smallest = faithful.minimal(0.9).set_index("task")
    assert scores["food"].top(29).card(stable).evidence["stability"] == full["food"].evidence["stability"]
    for name, mask in full.items():
        own = mask.card().evidence
        assert own["stability"]["k"] == 0.3 and own["stability"]["ceiling"] == stable.ceiling(0.3)[name]
        assert own["stability"]["ceiling"] != stable.ceiling(0.1)[name] and own["stability"]["examples"] == 8
        assert own["stability"]["full"] == pytest.approx(stable.manifest["reliability"][name]["full"])
        row = smallest.loc[name]
        assert own["minimal"]["k"] == (None if np.isnan(row["k"]) else row["k"])
        assert own["minimal"]["largest"] == 0.9 and own["minimal"]["share"] == 0.9
        assert own["minimal"]["low"] == (None if np.isnan(row["low"]) else row["low"])


def test_of_what_two_measured_the_later_one_counts(masks, crossed, off):
    mask = masks["food"]
    for first, last in ((crossed, off), (off, crossed)):
        evidence = mask.with_evidence(first).with_evidence(last).evidence
        assert evidence == {**first.about(mask), **last.about(mask)} == mask.card(first, last).evidence
    assert off.about(mask)["effect-layer"]["tests"] != crossed.about(mask)["effect-layer"]["tests"]
    assert mask.with_evidence(crossed) == mask and mask.evidence == {}


def test_what_is_not_known_says_a_call_that_measures_it(masks):
    card = masks["food"].card()
    assert card.unknown == [*PARTS] and card.evidence == {}
    missing = card.table[card.table["value"].str.startswith("not measured: ")]["value"]
    assert len(missing) == len(PARTS)
    for text in missing:
        name, arguments = re.match(r"not measured: ns\.(\w+)\((.*?)\)", text).groups()
        known = inspect.signature(getattr(ns, name)).parameters
        assert all(argument.split("=")[0].strip() in known for argument in arguments.split(",")), text
    assert any("k=[0.3]" in text for text in missing)
    assert "is not measured" in card.in_words()


def test_the_facts_of_the_mask_itself(masks, tasks, model):
    mask, known = masks["food"], masks["food"].card().to_dict()
    assert known["neurons"] == len(mask) == sum(layer["neurons"] for layer in known["layers"].values())
    assert [layer["of"] for layer in known["layers"].values()] == [48, 48] and known["of"] == 96
    assert list(known["layers"]) == ["blocks.0", "blocks.1"] and known["identity"] == mask.identity
    assert known["found"]["method"] == "grad-x-act" and known["found"]["examples"] == 16
    assert known["found"]["data_hash"] == tasks["food"].data_hash and known["found"]["reduction"] == "abs_of_sum"
    assert known["model"]["fingerprint"] == model.fingerprint()
    experts = ns.NeuronMask.of(
        {"blocks.1.mlp.experts.0.hook_post": [0], "blocks.1.mlp.experts.1.hook_post": [1, 2]},
        {f"blocks.{layer}.mlp.experts.{i}.hook_post": 4 for layer in (0, 1) for i in (0, 1)},
    )
    assert experts.card().to_dict()["layers"] == {
        "blocks.0": {"neurons": 0, "of": 8},
        "blocks.1": {"neurons": 3, "of": 8},
    }


def test_a_file_carries_the_card(full, masks, tmp_path):
    for i, mask in enumerate(full.values()):
        read = ns.NeuronMask.load(mask.save(tmp_path / f"{i}.safetensors"))
        assert read == mask and read.card().to_dict() == mask.card().to_dict()
        assert str(read.card()) == str(mask.card())
    with safe_open(masks["food"].save(tmp_path / "plain.safetensors"), "pt") as file:
        described = json.loads(file.metadata()["neuroscope"])
    assert "evidence" not in described  # a mask of which nothing is known is written, and read, as ever
    assert ns.NeuronMask.load(tmp_path / "plain.safetensors").card().evidence == {}
    assert full["food"].card().save(tmp_path / "card.json").exists()
    card = load_result(tmp_path / "card.json")
    assert isinstance(card, EvidenceCard) and card.to_dict() == full["food"].card().to_dict()
    for change in ({"evidence": {"x": {}}}, {"layers": 3}, {"name": None}):
        content = json.loads((tmp_path / "card.json").read_text())
        content["manifest"] |= change
        (tmp_path / "other.json").write_text(json.dumps(content))
        with pytest.raises(FileError, match=next(iter(change))):
            EvidenceCard.load(tmp_path / "other.json")
    assert card.evidence is not card.evidence and card.table.equals(full["food"].card().table)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda e: "x", "evidence"),
        (lambda e: {"effect": {}}, "'effect' for a part"),
        (lambda e: {"verdict": {"verdict": "specific"}}, "other fields"),
        (lambda e: {"verdict": {**e["verdict"], "verdict": ["specific"]}}, "verdict"),
        (lambda e: {"verdict": {**e["verdict"], "tasks": "many"}}, "not a number"),
        (lambda e: {"verdict": {**e["verdict"], "interventions": "text"}}, "not a list"),
    ],
)
def test_evidence_that_is_none_is_refused(change, found, full):
    with pytest.raises(ArgumentError, match=found):
        replace(full["food"], evidence=change(full["food"].evidence))


def changed_file(mask, path, change):
    """A mask's file in which the evidence is another."""
    with safe_open(mask.save(path), "pt") as file:
        tensors, described = {k: file.get_tensor(k) for k in file.keys()}, json.loads(file.metadata()["neuroscope"])  # noqa: SIM118
    described["evidence"] = change(described["evidence"])
    save_file(tensors, path, {"neuroscope": json.dumps(described)})
    return path


@pytest.mark.parametrize(
    ("change", "named", "kept"),
    [
        (lambda e: {**e, "to come": {"x": 1}}, "to come", lambda e: e),
        (lambda e: {**e, "verdict": {**e["verdict"], "to_come": 1}}, "verdict.to_come", lambda e: e),
        (
            lambda e: {**e, "verdict": {k: v for k, v in e["verdict"].items() if k not in ("row_low", "breaks_most")}},
            "verdict.*row_low",
            lambda e: {**e, "verdict": {**e["verdict"], "row_low": None, "breaks_most": ""}},
        ),
        (
            lambda e: {**e, "verdict": {**e["verdict"], "tasks": "many", "interventions": 3}},
            "verdict.tasks",
            lambda e: {**e, "verdict": {**e["verdict"], "tasks": None, "interventions": []}},
        ),
        (lambda e: {**e, "stability": 3}, "stability", lambda e: {k: v for k, v in e.items() if k != "stability"}),
        (lambda e: "x", "evidence", lambda e: {}),
    ],
)
def test_a_file_of_another_version_opens_with_what_is_known(change, named, kept, full, tmp_path):
    mask = full["food"]
    path = changed_file(mask, tmp_path / "mask.safetensors", change)
    with pytest.warns(UserWarning, match=named):
        read = ns.NeuronMask.load(path)
    assert read == mask and read.evidence == kept(mask.evidence)
    assert read.card().in_words() and str(read.card())  # it can be shown
    again = ns.NeuronMask.load(read.save(tmp_path / "again.safetensors"))  # without a warning
    assert again.evidence == read.evidence


def test_evidence_is_not_changed_from_outside(full):
    mask = full["food"]
    before = json.dumps(mask.evidence)
    for change in (
        lambda e: e.update(x={}),
        lambda e: e.pop("verdict"),
        lambda e: e["verdict"].__setitem__("verdict", "specific"),
        lambda e: e["verdict"].__delitem__("q"),
        lambda e: e["verdict"]["interventions"].append("x"),
        lambda e: e["verdict"]["interventions"].__iadd__(["x"]),
    ):
        with pytest.raises(TypeError, match="with_evidence"):
            change(mask.evidence)
    given = copy.deepcopy(mask.card().evidence)
    other = replace(mask, evidence=given)
    given["verdict"]["verdict"] = "specific"  # what it was made of is nothing of its own
    assert json.dumps(mask.evidence) == json.dumps(other.evidence) == before
    for same in (copy.deepcopy(mask), pickle.loads(pickle.dumps(mask))):
        assert same == mask and json.dumps(same.evidence) == before


def test_what_is_made_of_masks_has_no_evidence(full):
    a, b = full.values()
    made = [a | b, a & b, a - b, a ^ b, ~a, a | a, a.random_like(seed=0), a.random_like(seed=0, match="uniform")]
    assert a.evidence and b.evidence
    for mask in made:
        assert mask.evidence == {} and "effect-layer" not in json.dumps(dict(mask.manifest))
        assert mask.card().unknown == [*PARTS]
    assert "combined by |" in str(made[0].card().table["value"].tolist())
    assert "random neurons of the same layers" in made[6].card().table["value"].tolist()[2]


def test_results_about_others_are_refused(model, tasks, scores, masks, crossed, stable, faithful):
    smaller = scores["food"].top(0.2)
    other = ns.attribute(model, tasks["food"], objective="log-odds").top(0.3)
    by_hand = ns.NeuronMask.of(dict(masks["food"]), masks["food"])
    without_first = replace(masks["food"], manifest={**masks["food"].manifest, "skip_first": True})
    fewer = ns.attribute(model, tasks["food"], examples=8).top(0.3)
    other_seed = replace(masks["food"], manifest={**masks["food"].manifest, "seed": 5})
    for mask, result, text in (
        (smaller, crossed, "none of just these neurons"),
        (masks["food"].random_like(seed=0), crossed, "none of just these neurons"),
        (smaller, stable, "a mask of 19 neurons, 0.198 of all"),
        (other, stable, "not found as those of food"),
        (scores["food"].top(0.3, per_layer=True), stable, "not cut from the scores of the whole model"),
        (by_hand, stable, "not found as those of food"),
        (without_first, stable, "not found as those of food"),
        (fewer, faithful, "not found as the scores of food"),
        (other_seed, faithful, "not found as the scores of food"),
        (other, faithful, "not found as the scores of food"),
        (masks["food"], tasks["food"], "a Task, which knows nothing of masks"),
        (masks["food"], None, "a NoneType"),
        (masks["food"], masks["food"], "a NeuronMask"),
        (masks["food"], type(crossed), "a type"),
    ):
        for ask in (mask.card, mask.with_evidence):
            with pytest.raises(ArgumentError, match=re.escape(text)):
                ask(result)
    assert by_hand.card(crossed).evidence["verdict"]["task"] == "food"  # the same neurons, whoever wrote them down
    assert smaller.card(faithful).evidence["minimal"]  # what its scores need does not depend on where they were cut


def test_the_same_neurons_found_for_two_tasks_know_their_own(model, tasks, masks):
    both = {name: replace(masks["food"], manifest=mask.manifest) for name, mask in masks.items()}
    crossed = ns.cross_ablation(model, tasks, both, n_random=3, neutral=[])
    assert [both[name].card(crossed).evidence["verdict"]["task"] for name in both] == list(both)


def test_another_model_and_a_live_intervention_are_told(tasks, masks):
    tuned = tiny_model(seed=1)
    with ns.scale(tuned, masks["food"], 0.5):
        card = masks["food"].card(ns.experiments.deactivation(tuned, tasks, masks, n_random=3, neutral=[]))
    (text,) = card.table[card.table["what"] == "beside random neurons of the same layers"]["value"]
    assert f"on another model, weights {tuned.fingerprint()}" in text and "under scale" in text


def test_at_chance_nothing_is_tested(model, tasks, masks):
    hopeless = {n: replace(t, test=[replace(e, answer="bad", references=()) for e in t.test]) for n, t in tasks.items()}
    card = masks["food"].card(ns.cross_ablation(model, hopeless, masks, n_random=3, neutral=[]))
    assert card.evidence["verdict"]["verdict"] == "not competent" and card.evidence["effect-layer"]["q"] is None
    assert "not tested" in str(card) and "**Nothing can be concluded**" in card.in_words()
    assert "neutral" in card.unknown and "nan" not in str(card).lower()


@pytest.mark.parametrize("verdict", ["specific", "selective", "shared", "general", "no effect", "not compared", "own"])
def test_the_first_sentence_is_the_verdict(verdict, full):
    evidence = full["food"].card().evidence
    strong, weak = ({**evidence["effect-layer"], "effect": 0.2, "q": q} for q in (0.01, 0.2))
    evidence["verdict"] |= {"verdict": verdict, "task": "{size} 'x'", "tasks": 7}
    for effect, is_weak in ((strong, False), (weak, True)):
        known = {"verdict": evidence["verdict"], "effect-layer": effect}
        lead, *rest = replace(full["food"], evidence=known).card().in_words().splitlines()
        assert f"**{verdict}**" in lead and "{size} 'x'" in lead and "29 neurons" in lead and lead.endswith(".")
        assert lead.startswith("**A negative**") == (verdict in ("shared", "general", "no effect"))
        assert any("cost 20.0 points" in line for line in rest)
        doubt = any("not shown to break it more than random neurons of the same layers" in line for line in rest)
        assert doubt == (is_weak and verdict != "no effect")  # a verdict that does not hold beside every control


def test_the_claim_is_that_of_the_largest_p(full):
    """Shown beside each kind alone, each with its own q, but not beside all of them together."""
    effect = {**full["food"].evidence["effect-layer"], "effect": 0.2, "q": 0.04, "q_all": 0.07}
    known = {"effect-layer": effect, "effect-uniform": {**effect, "q": 0.01}}
    card = replace(full["food"], evidence=known).card()
    assert "not shown to break it more than random neurons of every kind" in card.in_words() and "0.07" in str(card)
    clear = {kind: {**of, "q_all": 0.045} for kind, of in known.items()}
    assert "of every kind (the" not in replace(full["food"], evidence=clear).card().in_words()


KINDS = {"uniform": "of the whole model", "layer": "of the same layers do", "activation": "as loud"}


@pytest.mark.parametrize("least", KINDS)
def test_the_effect_in_words_is_the_one_least_told_apart_from_random(least, full):
    known = {
        f"effect-{match}": {
            **full["food"].evidence["effect-layer"],
            "effect": 0.1,
            "p": 0.9 if match == least else 1e-3,
        }
        for match in KINDS
    }
    assert KINDS[least] in replace(full["food"], evidence=known).card().in_words().splitlines()[0]


def test_hostile_names_stay_text(full):
    card = full[HOSTILE].card()
    assert card.to_dict()["name"] == card.evidence["verdict"]["task"] == HOSTILE  # as it is, in what is data
    page = card._repr_html_()
    assert "<script" not in page and "<b>" not in page and "\u202e" not in page
    assert html.escape("<script>alert('1')</script>") in page
    printed = str(card)
    assert "[a](b)" in printed and "\u202e" not in printed and "\n# next" not in printed and "\\[" not in printed
    text = card.to_markdown()
    assert "<script" not in text and "\u202e" not in text and "\n# next" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(card.table)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}  # the name's own bars part no cells
    assert r"\[a\](b)" in text and r"\*\*b\*\*" in text and r"\`x\`" in text
    for shown in (page, text, printed, *card.table["value"]):
        depth = [shown[: i + 1].count("\u2068") - shown[: i + 1].count("\u2069") for i in range(len(shown))]
        assert set(depth) <= {0, 1} and depth[-1] == 0  # right-to-left letters move nothing outside of the name
        assert all(depth[i] for i, c in enumerate(shown) if "\u0590" < c < "\u05ff")


def test_a_card_shows_itself(full, monkeypatch):
    card = full["food"].card()
    assert card.to_markdown().startswith("## Evidence card: food\n") and str(card).startswith("Evidence card: food\n")
    assert all(" ".join(str(value).split()) in str(card) for value in card.table["value"])
    assert "\\" not in str(card) and "&lt;" not in str(card)  # what is printed is no Markdown
    assert repr(card) == f"EvidenceCard('food', {100 * len(full['food']) / 96:.3g} %, 6 of 7 parts measured)"
    assert card.figure().data and card.sections()[0].title == "Evidence card"
    own = card.evidence
    assert own["verdict"]["verdict"] == "no effect"
    begins = "**A negative**: switching these 29 neurons off has **no effect** on food that is shown"
    assert card.in_words().startswith(begins) and f"\n{begins}" in str(card)
    assert f"{100 * own['effect-layer']['effect']:.1f} points" in card.in_words()
    assert "as loud" in card.in_words().splitlines()[-1]  # what is not measured
    shown = []
    display = type("display", (), {"HTML": str, "display": staticmethod(shown.append)})
    monkeypatch.setitem(__import__("sys").modules, "IPython.display", display)
    card._ipython_display_()
    assert shown == [card._repr_html_()]
