"""Continual learning: what every method of the table must keep to, and what is refused."""

import functools
import json
from itertools import pairwise

import families
import pytest
import quick_training
import torch
from sequences import KNOWN, A, B, C, fine_outcomes, learn, made
from state import unchanged
from tiny import tiny_model
from transformer_lens.model_bridge import TransformerBridge

from neuroscope import files
from neuroscope.errors import ArgumentError, FileError, ModelError, NeuroscopeError, NumericalError, TaskError
from neuroscope.evaluation import engine as evaluation
from neuroscope.evaluation import evaluate
from neuroscope.tasks.task import Task
from neuroscope.training import finetune
from neuroscope.training.continual_learning import METHODS, Continual, learner
from neuroscope.training.continual_learning.learner import Setting
from neuroscope.training.trainer import NeuronTrainer

TRAINED = ("ncft", "o-lora", "ewc")  # with real training too: neurons, a LoRA per task, the whole model
COLUMNS = [
    "method",
    "options",
    "lr",
    "order",
    "seed",
    "stage",
    "learnt",
    "task",
    "position",
    "score",
    "low",
    "high",
    "se",
]
COLUMNS += ["n", "trained", "stored", "seconds", "peak_mib"]


def numbers(result):
    """What must be equal to the bit when a run is repeated: all but seconds and memory."""
    return result.table.drop(columns=["seconds", "peak_mib"]).to_dict("records")


# --- what every method keeps to


@pytest.fixture(name="fine")
def fine_fixture(monkeypatch):
    """Outcomes that tell models apart to the last bit."""
    fine_outcomes(monkeypatch)


@pytest.fixture(name="made_up")
def made_up_fixture(monkeypatch):
    """Nothing is trained: what a stage changes is drawn in milliseconds, the same for the same stage."""
    monkeypatch.setattr(learner, "train", quick_training.train)


@pytest.fixture(name="method", params=[*METHODS, *(f"{method} trained" for method in TRAINED)])
def method_fixture(request, monkeypatch):
    """Every method with training that is made up, and some with real training."""
    method, _, is_trained = request.param.partition(" ")
    if not is_trained:
        monkeypatch.setattr(learner, "train", quick_training.train)
    return method


@functools.cache
def uninterrupted(method, train):
    """Two seeds of a run over three tasks, with fine outcomes, by one way to train."""
    assert learner.train is train
    return learn(method, seeds=(0, 1))


def test_a_run_leaves_no_trace_and_fills_the_table(method):
    model = tiny_model()
    with unchanged(model.root):
        result = learn(method, model, known=[KNOWN], weight_decay=0.1)
    table, at_once = result.table, METHODS[method].at_once
    assert list(table) == COLUMNS
    learnt = ["(base)", "(all)"] if at_once else ["(base)", "a", "b", "c"]
    stages = [0, 3] if at_once else [0, 1, 2, 3]
    expected = [
        (s, name, t, i)
        for s, name in zip(stages, learnt, strict=True)
        for t, i in (("a", 1), ("b", 2), ("c", 3), ("known", 0))
    ]
    assert list(table[["stage", "learnt", "task", "position"]].itertuples(index=False, name=None)) == expected
    assert not table.isna().any().any()
    assert ((table["low"] <= table["score"]) & (table["score"] <= table["high"])).all()
    assert table["score"].between(0, 1).all() and (table["n"] == 12).all()
    base = table[table["stage"] == 0]
    untouched = [evaluate(model, task) for task in (A, B, C, KNOWN)]
    assert base["score"].tolist() == [one.score for one in untouched]
    assert base[["low", "high"]].to_numpy().tolist() == [list(one.interval) for one in untouched]
    assert base["se"].tolist() == pytest.approx([one.outcomes.std(ddof=1) / 12**0.5 for one in untouched])
    assert (base["trained"] == 0).all() and (table[table["stage"] > 0]["trained"] > 0).all()
    assert (table[table["stage"] > 0]["seconds"] > 0).all()
    logs = result.manifest["runs"]
    assert [run["log"]["trained"] for run in logs] == table[table["task"] == "a"]["trained"].tolist()[1:]
    settings = logs[0]["settings"]
    assert (settings["batch_size"], settings["steps"], settings["weight_decay"]) == (8, 4, 0.1)
    assert settings["options"] == METHODS[method].options  # also those that nobody gave


class Nth:
    """Stands in for a function, and interrupts its n-th call (never, if that is 0), before or after it."""

    def __init__(self, function, at=0, error=KeyboardInterrupt, after=False):
        self.function, self.at, self.error, self.after, self.calls = function, at, error, after, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls == self.at:
            if self.after:
                self.function(*args, **kwargs)
            raise self.error
        return self.function(*args, **kwargs)

    def __get__(self, instance, owner):
        return functools.partial(self, instance)


def cut_training(patch, stage, step, error):
    """Interrupt training at a step, counted over all stages; where it is made up, at the end of the stage."""
    if learner.train is quick_training.train:
        patch.setattr(learner, "train", Nth(quick_training.train, stage, error, after=True))
    else:
        patch.setattr(NeuronTrainer, "training_step", Nth(NeuronTrainer.training_step, step, error))


def test_an_error_in_the_middle_leaves_no_trace(method, monkeypatch):
    model, at_once = tiny_model(), METHODS[method].at_once
    error = NumericalError("this", "as planned", "nothing")
    with monkeypatch.context() as patch, unchanged(model.root), pytest.raises(NumericalError, match="planned"):
        cut_training(patch, *((1, 3) if at_once else (2, 6)), error)  # in the last stage
        learn(method, model, tasks=[A, B])
    with monkeypatch.context() as patch, unchanged(model.root), pytest.raises(NumericalError, match="planned"):
        at = 3 if at_once else 5  # when the first stage has been learnt (or in its end)
        patch.setattr(evaluation, "predict", Nth(evaluation.predict, at, error))
        learn(method, model, tasks=[A, B])


def test_training_that_diverges_leaves_no_trace(method):
    model = tiny_model()
    with unchanged(model.root), pytest.raises(NumericalError, match=r"not finite"):
        learn(method, model, tasks=[A, B], lr=1e30, arguments={"optim": "sgd", "max_grad_norm": 0.0})


def test_a_killed_run_goes_on_and_equals_the_uninterrupted_one(method, fine, tmp_path, monkeypatch):
    stages = 1 if METHODS[method].at_once else 3
    model, whole = tiny_model(), uninterrupted(method, learner.train)
    train = Nth(Setting.train)
    monkeypatch.setattr(Setting, "train", train)
    # 1. while the first seed's last record is written: what the stage has added is there, its record is not
    write = files.write
    with monkeypatch.context() as patch, unchanged(model.root), pytest.raises(KeyboardInterrupt):
        patch.setattr(files, "write", lambda path, content: Nth(write, path.name == "stage-3.json")(path, content))
        learn(method, model, seeds=(0, 1), output=tmp_path)
    assert train.calls == stages
    # 2. in the middle of the second seed's last stage
    train.calls, steps = 0, 4 if stages > 1 else 12  # per stage
    with monkeypatch.context() as patch, unchanged(model.root), pytest.raises(KeyboardInterrupt):
        cut_training(patch, 1 + stages, steps * (1 + stages) - 1, KeyboardInterrupt)
        learn(method, model, seeds=(0, 1), output=tmp_path)
    assert train.calls == 1 + stages
    # 3. to the end
    train.calls = 0
    again = learn(method, model, seeds=(0, 1), output=tmp_path)
    assert train.calls == 1
    assert numbers(again) == numbers(whole)
    assert again.manifest["runs"] == whole.manifest["runs"]
    assert numbers(learn(method, model, seeds=(0, 1), output=tmp_path)) == numbers(whole)
    assert train.calls == 1  # nothing was left


def test_a_kill_at_any_file_costs_one_stage(fine, made_up, tmp_path, monkeypatch):
    """Of the method with the most files per stage: cut off at every one of them in turn."""
    model, write, written = tiny_model(), files.write, []
    monkeypatch.setattr(files, "write", lambda path, content: (written.append(path.name), write(path, content))[1])
    whole = learn("ewc", model, tasks=[A, B], output=tmp_path / "whole")
    assert written == [
        "run.json", "stage-0.json", "springs-0.safetensors", "weights-0.safetensors", "stage-1.json",
        "springs-1.safetensors", "weights-1.safetensors", "stage-2.json",
    ]  # fmt: skip
    train = Nth(Setting.train)
    monkeypatch.setattr(Setting, "train", train)
    for name in written:

        def killed(path, content, name=name):
            if path.name == name:
                raise KeyboardInterrupt
            return write(path, content)

        monkeypatch.setattr(files, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            learn("ewc", model, tasks=[A, B], output=tmp_path / "killed")
    monkeypatch.setattr(files, "write", write)
    assert numbers(learn("ewc", model, tasks=[A, B], output=tmp_path / "killed")) == numbers(whole)
    assert train.calls == 2 * (3 + 1)  # each stage is lost at each of its three files, and kept once


def test_every_stage_changes_the_model_and_every_seed_is_another_run(method, fine):
    runs = uninterrupted(method, learner.train).runs()
    tables = [run.pivot(index="stage", columns="task", values="score") for _, run in runs]
    for table in tables:
        for before, after in pairwise(table.index):
            assert table.loc[after, "abc"[after - 1]] != table.loc[before, "abc"[after - 1]]
    assert tables[0].loc[0].equals(tables[1].loc[0])  # the base
    for stage in tables[0].index[1:]:
        assert not tables[0].loc[stage].equals(tables[1].loc[stage])


# --- bad input


# calls that must be refused, with the class and a part of the text
EMPTY = Task("empty", test=A.test, labels=A.labels)
UNTESTED = Task("untested", train=A.train, labels=A.labels)
REFUSED = {
    "one task": ({"tasks": [A]}, ArgumentError, r"1 task\(s\).*two or more"),
    "no list": ({"tasks": 3}, ArgumentError, "int in place of tasks"),
    "same name": ({"tasks": [A, A]}, ArgumentError, "two tasks named 'a'"),
    "known twice": ({"known": [A]}, ArgumentError, "two named 'a'"),
    "unknown in an order": ({"orders": [["a", "x"]]}, ArgumentError, r"order \['a', 'x'\].*no task 'x'.*a, b, c"),
    "twice in an order": ({"orders": [["a", "a"]]}, ArgumentError, "one twice"),
    "no order": ({"orders": []}, ArgumentError, "no order"),
    "a flat order": ({"orders": ["a", "b"]}, ArgumentError, r"orders\[0\].*one text.*in a list"),
    "orders of two lengths": ({"orders": [["a", "b"], ["a", "b", "c"]]}, ArgumentError, "different lengths"),
    "an order twice": ({"orders": [["a", "b"], ["a", "b"]]}, ArgumentError, "an order twice"),
    "no training examples": ({"tasks": [A, EMPTY]}, TaskError, "train examples of task 'empty'"),
    "no test examples": ({"tasks": [A, UNTESTED]}, TaskError, "test examples of task 'untested'"),
    "n": ({"n": 0}, ArgumentError, "n=0"),
    "split": ({"split": "dev"}, ArgumentError, "no such split"),
    "method": ({"method": "nctf"}, ArgumentError, "did you mean 'ncft'"),
    "option": (
        {"method": "seqft", "k": 0.1},
        ArgumentError,
        r"method='seqft', k=\.\.\..*no such option.*it is one of ncft, w-ncft, ncft-random",
    ),
    "no seeds": ({"seeds": []}, ArgumentError, r"seeds=\[\]"),
    "negative seed": ({"seeds": -1}, ArgumentError, "seeds=-1"),
    "a seed twice": ({"seeds": (1, 1)}, ArgumentError, "a seed twice"),
    "a setting of training": ({"dev": 0.1}, ArgumentError, r"dev=\.\.\..*give recipe=\{'dev': 0\.1\}"),
    "recipe": ({"recipe": {"step": 1}}, ArgumentError, "step=1.*did you mean 'steps'"),
    "lr": ({"lr": 0}, ArgumentError, "lr=0.*not positive"),
    "steps": ({"steps": 0}, ArgumentError, "steps=0"),
    "k": ({"k": 0}, ArgumentError, "k=0.*not a share"),
    "scored in": ({"scored_in": "first"}, ArgumentError, "did you mean|choose from"),
    "overlap penalty": ({"overlap_penalty": 1.0}, ArgumentError, r"not in \[0, 1\).*exclude=True"),
    "exclude": ({"k": 0.4, "exclude": True}, ArgumentError, r"96 of 96 neurons are free, for 3 task\(s\) with 38 each"),
    "no need to draw by": ({"method": "ncft-random", "exclude": "score"}, ArgumentError, "needed by no task"),
    "protect nothing": ({"protect": True}, ArgumentError, "protect=True.*no task in known"),
    "protect too much": (
        {"protect": True, "known": [KNOWN], "k": 0.6},
        ArgumentError,
        r"38 of 96 neurons are free, for 1 task\(s\) with 58 each",
    ),
    "protect what": ({"protect": "all"}, ArgumentError, "protect='all'"),
    "weighting": ({"method": "w-ncft", "weighting": "max"}, ArgumentError, "weighting='max'"),
    "temperature": ({"method": "w-ncft", "temperature": 0}, ArgumentError, "not positive"),
    "strength": ({"method": "ewc", "strength": -1}, ArgumentError, "strength=-1"),
    "fisher examples": ({"method": "ewc", "fisher_examples": 0}, ArgumentError, "fisher_examples=0"),
    "share": ({"method": "replay", "share": 0}, ArgumentError, "share=0"),
    "training argument": ({"arguments": {"learning_rat": 1}}, ArgumentError, "did you mean 'learning_rate'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_before_anything_is_written(case, tmp_path):
    settings, kind, text = REFUSED[case]
    model = tiny_model()
    with unchanged(model.root), pytest.raises(kind, match=f"(?s){text}"):
        learn(**({"model": model, "output": tmp_path / "run"} | settings))
    assert not (tmp_path / "run").exists()


def test_models_that_cannot_be_trained_are_refused(tmp_path):
    words = families.tokenizer(tmp_path)
    bridge = TransformerBridge.boot_transformers("b", hf_model=families.build("gpt2"), tokenizer=words, device="cpu")
    for method in METHODS:
        with pytest.raises(ModelError, match="TransformerBridge"):
            learn(method, bridge)
    with pytest.raises(NeuroscopeError, match="compile"):
        learn("ncft", torch.compile(tiny_model().root))


def test_the_output_of_another_run_is_refused(made_up, tmp_path):
    model = tiny_model()
    run = {"model": model, "tasks": [A, B], "output": tmp_path}
    learn(**run)
    for change, text in (
        ({"lr": 0.06}, r"lr 0\.05, now 0\.06"),
        ({"recipe": {"batch_size": 4}}, "batch_size 8, now 4"),
        ({"k": 0.2}, r"options\.k 0\.1, now 0\.2"),
        ({"tasks": [B, A]}, "tasks"),
        ({"known": [C]}, "known"),
        ({"model": tiny_model(seed=1)}, "fingerprint"),
        ({"arguments": {"optim": "sgd"}}, "optim"),
        ({"n": 5}, "n None, now 5"),
    ):
        with pytest.raises(FileError, match=f"(?s)another run: .*{text}"):
            learn(**(run | change))
    learn(**run, batch_size=3)  # how many at once changes nothing
    (tmp_path / "ncft-order0-seed1").mkdir()
    (tmp_path / "ncft-order0-seed1" / "notes.txt").write_text("mine")
    with pytest.raises(FileError, match="files of something else"):
        learn(**run, seeds=(1,))


@pytest.mark.parametrize(
    ("name", "damage", "text"),
    [
        ("stage-1.json", b'{"stage": 1', "not JSON"),
        ("stage-1.json", b'{"stage": 1}', "no scores"),
        ("stage-1.json", b"[]", "no scores"),
        ("run.json", b"[]", "a list instead of settings"),
        ("part-0.safetensors", b"1234567890", "read NeuronAdapter"),
        ("part-0.safetensors", None, "read NeuronAdapter"),
    ],
)
def test_a_damaged_stage_is_told(name, damage, text, made_up, tmp_path):
    model = tiny_model()
    learn(model=model, tasks=[A, B], output=tmp_path, steps=1)
    folder = tmp_path / "ncft-order0-seed0"
    (folder / "stage-2.json").unlink()
    (folder / name).unlink() if damage is None else (folder / name).write_bytes(damage)
    with unchanged(model.root), pytest.raises(FileError, match=f"(?s){name}.*{text}|{text}.*{name}"):
        learn(model=model, tasks=[A, B], output=tmp_path, steps=1)


# --- one call, several runs


def test_orders_and_seeds_are_runs_of_their_own(made_up, tmp_path):
    orders = [["a", "b"], ["c", "a"]]
    result = learn(orders=orders, seeds=(0, 3), known={"known": KNOWN}, n=5, k=0.2, output=tmp_path, steps=2)
    assert result.manifest["orders"] == orders
    assert [key for key, _ in result.runs()] == [("ncft", "k=0.2", 0.05, o, s) for o in (0, 1) for s in (0, 3)]
    assert (result.table["n"] == 5).all()
    second = result.table[result.table["order"] == 1]
    assert set(second["task"]) == {"c", "a", "known"}
    assert dict(zip(second["task"], second["position"], strict=True)) == {"c": 1, "a": 2, "known": 0}
    assert {p.name for p in tmp_path.iterdir()} == {f"ncft-order{o}-seed{s}" for o in (0, 1) for s in (0, 3)}
    alone = learn(tasks=[C, A], seeds=(3,), known=[KNOWN], n=5, k=0.2, steps=2)
    mine = second[second["seed"] == 3].drop(columns=["order", "seconds", "peak_mib"])
    assert mine.to_dict("records") == alone.table.drop(columns=["order", "seconds", "peak_mib"]).to_dict("records")


def test_scores_on_another_split(made_up):
    found = learn("seqft", tasks=[A, B], split="train", n=6, steps=1).table
    assert found["score"].tolist()[:2] == [evaluate(tiny_model(), t, split="train", n=6).score for t in (A, B)]


def test_generation_and_other_styles_run_too():
    telling = Task("telling", train=A.train, test=A.test[:3], max_new_tokens=2)
    assert learn("w-ncft", tasks=[telling, B], steps=2).table["score"].between(0, 1).all()
    for style in ("seq2seq", "masked"):
        model = tiny_model(style)
        with unchanged(model.root):
            assert isinstance(learn("w-ncft", model, tasks=[A, B], steps=2), Continual)


def test_progress_sees_every_stage():
    seen = []

    def progress(steps, desc):
        seen.append(desc)
        return steps

    learn("seqft", tasks=[A, B], progress=progress, steps=2)
    assert seen == ["continual seqft"] + ["fine-tune"] * 2
    assert json.dumps(learn("per-task", tasks=[A, B], steps=1).manifest)  # all of it can be written


def test_the_first_stage_is_finetune():
    model = tiny_model()
    result = learn("seqft", model, tasks=[A, B])
    handle = finetune(model, A, None, steps=4, batch_size=8, lr=0.01, seed=0)
    assert result.table[result.table["stage"] == 1]["score"].tolist() == [evaluate(model, t).score for t in (A, B)]
    handle.detach()
    assert made("d", 9, "yes", "no").data_hash != A.data_hash
