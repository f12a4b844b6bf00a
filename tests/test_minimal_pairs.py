"""Minimal pairs: folders of them, and a model judged by which of a pair's two answers it prefers."""

import json
import warnings

import numpy as np
import pytest
import torch

import neuroscope as ns
from neuroscope import evaluation
from neuroscope.errors import ArgumentError, FileError, TaskError
from neuroscope.evaluation import Constant
from neuroscope.masks import NeuronMask
from neuroscope.tasks import Example, Task, load_tasks
from neuroscope.tasks.minimal_pairs import _parted


def row(i, right="yes", wrong="no", **more):
    fields = {"clean_problem": f"is {i} so", "corrupted_problem": f"is {i} not", "clean_correct": right}
    fields |= {"clean_incorrect": wrong, "corrupted_correct": wrong, "corrupted_incorrect": right}
    return fields | more


def write(root, family, name, rows, config=None):
    path = root / "data" / family / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), encoding="utf-8")
    if config is not None:
        path = root / "config" / family / "config.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config), encoding="utf-8")
    return root


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "Lan", "npi", [row(i, " any", " some") for i in range(10)], {
        "negation": {"path": "npi.json", "prefix": None, "force_base_evaluation": True},
    })  # fmt: skip
    return write(tmp_path, "MD", "sums", [row(i, str(i), str(i + 1)) for i in range(9)], {
        "sums": {"path": "sums.json", "prefix": "What is ", "concatenation": "?",
                 "suffix": "Say {correct_answer} or {incorrect_answer}."},
    })  # fmt: skip


def test_a_folder_becomes_tasks_by_family_with_their_templates(folder):
    tasks = load_tasks(folder)
    assert {name: (t.family, t.kind, t.chat, t.separator) for name, t in tasks.items()} == {
        "negation": ("Lan", "pairs", False, ""), "sums": ("MD", "pairs", True, " "),
    }  # fmt: skip
    sums = {e.prompt: e for e in (*tasks["sums"].train, *tasks["sums"].test)}
    assert sums["What is is 3 so? Say 3 or 4."] == Example(
        "What is is 3 so? Say 3 or 4.", "3", corrupt="What is is 3 not? Say 4 or 3.", corrupt_answer="4"
    )
    assert len(sums) == 9 and len(tasks["sums"].test) == 4  # half of nine, to even
    assert list(load_tasks(folder / "data")) == list(tasks) == ["negation", "sums"]
    assert list(load_tasks(folder / "data" / "MD")) == ["sums"]
    assert not load_tasks(folder, chat=False)["sums"].chat


def test_without_a_configuration_files_are_tasks_and_prompts_as_they_are(tmp_path):
    write(tmp_path, "Lan", "npi", [row(i, " any", " some") for i in range(4)])
    tasks = load_tasks(write(tmp_path, "Lan", "yes", [row(i) for i in range(4)]))
    assert {name: (t.separator, t.chat) for name, t in tasks.items()} == {"npi": ("", False), "yes": (" ", False)}
    assert {e.prompt for e in (*tasks["yes"].train, *tasks["yes"].test)} == {f"is {i} so" for i in range(4)}


def test_splits_are_drawn_by_the_seed_and_capped(folder):
    first, again, other = (load_tasks(folder, seed=seed)["sums"] for seed in (0, 0, 1))
    assert first == again and first.train != other.train
    few = load_tasks(folder, discovery=2, train=1, test=3, holdout=0.34)["sums"]
    assert (len(few.discovery), len(few.train), len(few.test)) == (2, 1, 3)
    assert not {e.prompt for e in few.test} & {e.prompt for e in (*few.discovery, *few.train)}


def test_rows_that_share_a_prompt_stay_in_one_split(tmp_path):
    chain = [row(0, clean_problem=f"p{i}", corrupted_problem=f"p{i + 1}") for i in range(5)]  # one after the other
    twice = [row(0, "yes", "no", clean_problem="q"), row(0, "true", "false", clean_problem="q")]
    alone = [row(i) for i in range(1, 8)]
    task = load_tasks(write(tmp_path, "A", "t", chain + twice + alone))["t"]
    sides = [{p.strip() for e in part for p in (e.prompt, e.corrupt)} for part in (task.train, task.test)]
    assert not sides[0] & sides[1]
    assert len(task.train) == len(task.test) == 7


def test_broken_rows_are_counted_and_named(tmp_path):
    bad = [
        "text", row(1, "same", "same"), row(2, corrupted_problem="is 2 so"), row(3, corrupted_correct="maybe"),
        row(4, clean_correct=None), {"clean_problem": "x"},
    ]  # fmt: skip
    write(tmp_path, "A", "t", [row(0), *bad, row(7)])
    text = "6 of 8 rows of .*t.json are left out: row 1: a str, not an object; row 2: 'same' as right and as wrong "
    with pytest.warns(UserWarning, match=text + "answer; row 3: one prompt, twice, and 3 more") as said:
        task = load_tasks(tmp_path)["t"]
    assert said[0].filename == __file__  # the caller's line
    assert {e.prompt for e in (*task.train, *task.test)} == {"is 0 so", "is 7 so"}


@pytest.mark.parametrize(
    ("rows", "text"),
    [([], "0 rows, none of them a pair"), ([{"clean_problem": 1}], "none of them a pair: row 0: no corrupted_problem")],
)
def test_a_file_without_a_pair_is_refused(tmp_path, rows, text):
    write(tmp_path, "A", "t", [row(0), row(1)])
    write(tmp_path, "A", "u", rows)
    with pytest.raises(FileError, match=text):
        load_tasks(tmp_path)


def test_a_configuration_that_is_wrong_and_options_that_are_none(folder):
    for options, text in (
        ({"labels": ["a"]}, "no such option of minimal pairs"), ({"holdout": 1}, "no share of the rows"),
        ({"chat": "yes"}, "chat='yes'"), ({"seed": -1}, "seed"), ({"test": -1}, "test"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=text):
            load_tasks(folder, **options)
    write(folder, "MD", "sums", [row(0)], {"sums": {"path": "gone.json"}})
    with pytest.raises(FileError, match="'gone.json', which is not in"):
        load_tasks(folder)


def test_two_tasks_of_one_name_are_told_apart_by_their_family(tmp_path):
    write(tmp_path, "A", "t", [row(i) for i in range(4)])
    assert list(load_tasks(write(tmp_path, "B", "t", [row(i) for i in range(4)]))) == ["A/t", "B/t"]


def test_pairs_need_two_answers_each():
    pair = Example("is 1 so", "yes", corrupt="is 1 not", corrupt_answer="no")
    assert Task("t", train=[pair], kind="pairs").metric == "accuracy"
    for wrong in (Example("x", "yes"), Example("x", "yes", corrupt_answer="yes")):
        with pytest.raises(TaskError, match="a pair of answers in test example 1 of task 't'"):
            Task("t", test=[pair, wrong], kind="pairs")
    with pytest.raises(ArgumentError, match="leave labels out"):
        Task("t", test=[pair], kind="pairs", labels=("yes", "no"))


@pytest.fixture(scope="module")
def mini():
    return ns.load("mini")


@pytest.fixture(scope="module")
def pairs():
    """A generation task of the suite, whose answers have several tokens, as pairs."""
    task = load_tasks("mini", train=1, discovery=8, test=24)["data2text-food"]
    return Task(task.name, test=task.test, discovery=task.discovery, kind="pairs")


def log_likelihood(model, prompt, answer):
    ids = lambda text: model.tokenizer(text, return_tensors="pt").input_ids  # noqa: E731
    whole = ids(f"{prompt} {answer}")
    start = ids(prompt).shape[1]
    with torch.no_grad():
        logprobs = model.logits({"input_ids": whole, "attention_mask": torch.ones_like(whole)})[0].log_softmax(-1)
    return float(sum(logprobs[i - 1, whole[0, i]] for i in range(start, whole.shape[1])))


def test_pairs_are_judged_by_the_log_likelihood_of_both_answers(mini, pairs):
    width = {a: s.width for a, s in mini.sites("hidden").items()}
    broken = NeuronMask({a: torch.arange(0, w, 2) for a, w in width.items()}, width, "hidden")
    with ns.ablate(mini, broken):  # so that some answers are wrong
        want = [
            float(log_likelihood(mini, e.prompt, e.answer) > log_likelihood(mini, e.prompt, e.corrupt_answer))
            for e in pairs.test
        ]
        found = ns.evaluate(mini, pairs)
        loglik = evaluation.label_loglik(mini, evaluation.prepare_task(mini, pairs))[0].tolist()
        first = pairs.test[0]
        by_hand = [log_likelihood(mini, first.prompt, text) for text in (first.corrupt_answer, first.answer)]
    assert 0 < sum(want) < len(want)
    assert found.outcomes.tolist() == want
    assert loglik == pytest.approx(by_hand, abs=1e-4)
    assert set(found.table["prediction"]) <= {e.answer for e in pairs.test} | {e.corrupt_answer for e in pairs.test}
    assert "24 test example(s)" in found.in_words() and len(found.figure().data[0].x) == 1  # no bar for each answer


def test_answers_that_are_equally_likely_count_as_wrong(mini, pairs):
    with torch.no_grad():
        head = mini.root.get_output_embeddings().weight
        kept = head.clone()
        try:
            head.zero_()  # every token as likely as any other, and answers of one length
            same = [e for e in pairs.test if len(e.answer.split()) == len(e.corrupt_answer.split())]
            score = ns.evaluate(mini, Task("t", test=same, kind="pairs")).score
        finally:
            head.copy_(kept)
    assert len(same) and score == 0.0


def test_the_best_constant_answer_of_pairs(pairs):
    texts = [("a", "b"), ("a", "b"), ("b", "a"), ("c", "d")]
    examples = [Example("p", right, corrupt="q", corrupt_answer=wrong) for right, wrong in texts]
    constant = Constant.of(Task("t", test=examples, kind="pairs"), examples)
    assert (constant.answer, constant.uniform) == ("a", 0.5)
    assert constant.majority == pytest.approx((1 + 1 + 0 + 0.5) / 4)  # by hand: a is said, and c or d guessed
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Constant.of(pairs, pairs.test).known


def test_large_groups_of_rows_do_not_fill_the_test_split():
    """Of 40 rows in groups of 8 and 40 alone, over draws about half of the test split is of either kind."""
    many = [Example(f"g{i % 5}", "a", corrupt=f"h{i}", corrupt_answer="b") for i in range(40)]
    alone = [Example(f"s{i}", "a", corrupt=f"t{i}", corrupt_answer="b") for i in range(40)]
    tests = [_parted([*many, *alone], 0.5, np.random.default_rng(seed))[1] for seed in range(20)]
    assert {len(test) for test in tests} <= set(range(33, 41))
    assert 0.35 < np.mean([example.prompt.startswith("g") for test in tests for example in test]) < 0.65
