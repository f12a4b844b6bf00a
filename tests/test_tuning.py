"""Tuning on all tasks before neurons are looked for: the tuned model is kept, and the model given is as it was."""

import itertools
import json

import families
import nnsight
import numpy as np
import pandas as pd
import pytest
import torch
from tiny import tiny_model
from transformer_lens.model_bridge import TransformerBridge

from neuroscope.__main__ import main
from neuroscope.errors import ArgumentError, FileError, ModelError, TaskError
from neuroscope.evaluation import evaluate
from neuroscope.models import load
from neuroscope.reports import tuning
from neuroscope.reports.main_job import run
from neuroscope.tasks.example import Example
from neuroscope.tasks.task import Task
from neuroscope.training import Recipe, WholeModel, finetune

QUICK = {"n_random": 3}
RECIPE = {"steps": 40, "lr": 1e-2, "every": 10}


def task(noun, discovery=True):
    """A task that a few steps teach: good and great are yes, bad and awful are no."""
    examples = [
        Example(f"the {noun} was {' '.join(words)} {last}", answer)
        for words in itertools.product(("very", "so", "not"), repeat=2)
        for last, answer in (("good", "yes"), ("bad", "no"), ("great", "yes"), ("awful", "no"))
    ]
    found = {"discovery": examples[16:24]} if discovery else {}
    return Task(noun, train=examples[:16], test=examples[24:], labels=("yes", "no"), family=noun, **found)


@pytest.fixture(scope="module")
def tasks():
    return {"food": task("food"), "film": task("film", discovery=False)}


def weights(model):
    return {name: value.detach().clone() for name, value in model.root.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def first(tasks, tmp_path_factory):
    model = tiny_model()
    before = weights(model)
    path = run(model, tasks, output=tmp_path_factory.mktemp("first"), tune=RECIPE, **QUICK)
    assert same(weights(model), before)
    return path


def trainings(monkeypatch):
    seen = []
    monkeypatch.setattr(tuning, "finetune", lambda *args, **how: seen.append(how) or finetune(*args, **how))
    return seen


def test_the_kept_model_is_what_finetune_makes_and_what_all_is_about(first, tasks):
    model, kept = tiny_model(), load(first.parent / "tuned")
    base = {name: evaluate(model, each).score for name, each in tasks.items()}
    finetune(model, tasks, None, **RECIPE)
    assert same(weights(kept), weights(model))
    assert kept.tokenizer.get_vocab() == model.tokenizer.get_vocab()
    runs = pd.read_parquet(first.parent / "tables" / "deactivation_runs.parquet")
    rows = pd.read_parquet(first.parent / "tables" / "tuning_rows.parquet").set_index("task")
    for name, each in tasks.items():
        score = evaluate(kept, each).score
        assert score == runs.loc[(runs["task"] == name) & (runs["condition"] == "original"), "score"].item()
        assert (rows.loc[name, "before"], rows.loc[name, "after"]) == (base[name], score)
        assert score > base[name]
    page = first.read_text()
    mean = np.mean(list(base.values()))
    assert (
        f"mean score of <strong>{mean:.1%}</strong> to <strong>{rows['after'].mean():.1%}</strong>"
        in page.split("<h2>")[0]
    )
    assert "2 tasks, 40 steps of 16 examples, learning rate 0.01" in page.split("<h2>")[0]
    assert "found on the examples tuned on in film" in page
    assert kept.fingerprint() in page
    assert not (first.parent / "tuning").exists()
    noted = json.loads((first.parent / "settings" / "run.json").read_text())
    assert noted["tune"] == Recipe.of(RECIPE, lr=1e-2).settings()
    assert noted["fingerprint"] == tiny_model().fingerprint() != kept.fingerprint()


def test_a_second_run_trains_nothing_and_another_recipe_is_refused(first, tasks, monkeypatch):
    model, seen = tiny_model(), trainings(monkeypatch)
    before, report = weights(model), first.read_bytes()
    run(model, tasks, output=first.parent, tune=RECIPE, **QUICK)
    assert (seen, first.read_bytes()) == ([], report)
    assert same(weights(model), before)
    for other in ({**RECIPE, "lr": 1e-3}, None):
        with pytest.raises(FileError, match=r"tune\.lr"):
            run(model, tasks, output=first.parent, tune=other, **QUICK)


@pytest.mark.parametrize("stage", ["fine-tune", "after tuning", "deactivation"])
def test_a_run_stopped_leaves_the_model_as_it_was_and_goes_on(first, tasks, stage, tmp_path, monkeypatch):
    model, seen = tiny_model(), trainings(monkeypatch)
    before = weights(model)

    def stops(items, desc, **unit):
        for i, item in enumerate(items):
            if desc == stage and i == (25 if desc == "fine-tune" else 0):
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        run(model, tasks, output=tmp_path, tune=RECIPE, progress=stops, **QUICK)
    assert same(weights(model), before)
    steps = []
    count = lambda items, desc, **unit: steps.append(len(items)) or items if desc == "fine-tune" else items  # noqa: E731
    run(model, tasks, output=tmp_path, tune=RECIPE, progress=count, **QUICK)
    assert steps == ([20] if stage == "fine-tune" else [])  # from the checkpoint at step 20
    assert len(seen) == 1 + (stage == "fine-tune")
    assert same(weights(load(tmp_path / "tuned")), weights(load(first.parent / "tuned")))
    assert same(weights(model), before)


def test_a_damaged_folder_is_told_and_the_model_left_as_it_was(tasks, tmp_path):
    model = tiny_model()
    before = weights(model)
    tiny_model("seq2seq").root.save_pretrained(tmp_path / "tuned")
    with pytest.raises(FileError, match="no weights for model.embed_tokens.weight"):
        run(model, tasks, output=tmp_path, tune=RECIPE, **QUICK)
    assert same(weights(model), before)
    WholeModel(model).detach()  # nothing is left on it that would refuse another


def test_mistakes_are_told_before_the_folder_is_claimed(tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "finetune", None)
    untaught = Task("untaught", discovery=tasks["food"].discovery, test=tasks["food"].test, labels=("yes", "no"))
    for kind, text, given in (
        (ArgumentError, "no such setting of training", {"tune": {"step": 4}}),
        (ArgumentError, "found: a str", {"tune": "yes"}),
        (TaskError, "the train examples of task 'untaught'", {"tasks": untaught, "tune": True}),
    ):
        with pytest.raises(kind, match=text):
            run(**{"model": tiny_model(), "tasks": tasks, "output": tmp_path / "out"} | QUICK | given)
    assert not (tmp_path / "out").exists()


def test_other_backends_work_or_are_refused(first, tasks, tmp_path):
    tiny, words = tiny_model(), families.tokenizer(tmp_path)
    wrapped = load(nnsight.LanguageModel(tiny.root, tokenizer=tiny.tokenizer), tokenizer=tiny.tokenizer)
    run(wrapped, tasks, output=tmp_path / "nnsight", tune=RECIPE, **QUICK)
    assert same(weights(load(tmp_path / "nnsight" / "tuned")), weights(load(first.parent / "tuned")))
    assert same(weights(tiny), weights(tiny_model()))
    bridge = TransformerBridge.boot_transformers("b", hf_model=families.build("gpt2"), tokenizer=words, device="cpu")
    with pytest.raises(ModelError, match="TransformerBridge"):
        run(bridge, tasks, output=tmp_path / "bridge", tune=RECIPE, **QUICK)
    assert not (tmp_path / "bridge").exists()


def test_the_command_line_makes_the_recipe(capsys, monkeypatch):
    asked = []
    monkeypatch.setattr("neuroscope.reports.main_job.run", lambda model, **given: asked.append(given["tune"]))
    for arguments in ([], ["--tune"], ["--tune", "--tune-steps", "7"], ["--tune-lr", "1e-4", "--tune-epochs", "2"]):
        assert main(["run", *arguments]) == 1  # there is no report
    assert asked == [False, True, {"steps": 7}, {"epochs": 2.0, "lr": 1e-4}]
