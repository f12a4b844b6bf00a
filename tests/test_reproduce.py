"""Every row of the experiments' table runs from one call to a report, and adding one takes its function and its row."""

import html
import inspect
import sys
import types

import pandas as pd
import pytest
import torch
import transformers
from quick_training import quick  # noqa: F401 (for the whole file)
from state import unchanged
from test_experiments import TASKS, never
from tiny import tiny_model

from neuroscope.__main__ import main
from neuroscope.command_line.parsing import typed_values
from neuroscope.command_line.table import COMMANDS
from neuroscope.errors import ArgumentError
from neuroscope.experiments import EXPERIMENTS, Experiment, trials
from neuroscope.experiments.layer_by_layer import controls
from neuroscope.experiments.pruning_sweep import taking_out
from neuroscope.models import load
from neuroscope.reports.bench import accepted, merged
from neuroscope.reports.reproduction import reproduce
from neuroscope.results import Result
from neuroscope.tasks import load_tasks
from neuroscope.tasks.mini import mini_tokenizer
from neuroscope.training import Recipe
from neuroscope.training.continual_learning.learner import Setting

RECIPE = {"steps": 1, "lr": 1e-3}


def four_layers():
    """Two of them cannot be cut."""
    words = mini_tokenizer()
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.LlamaConfig(vocab_size=len(words), initializer_range=0.3, **size)
        return load(transformers.LlamaForCausalLM(config), tokenizer=words)


@pytest.fixture(scope="module")
def suite():
    every = load_tasks("mini", train=8, discovery=8, test=8)
    return {name: every[name] for name in list(every)[:6]}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One folder for all experiments: what they have in common is made once."""
    return tmp_path_factory.mktemp("reproduce")


@pytest.fixture
def no_more_work(monkeypatch):
    """A call: from then on, training and finding neurons fail."""

    def stop():
        trains = ((controls, "finetune"), (sys.modules[Setting.__module__], "train"), (taking_out, "train"))
        for module, name in ((trials, "finetune"), *trains):
            monkeypatch.setattr(module, name, never)
        monkeypatch.setattr("neuroscope.reports.cached_scores.attribute", never)

    return stop


@pytest.mark.parametrize("row", EXPERIMENTS.values(), ids=list(EXPERIMENTS))
def test_every_row_is_one_call(row, suite, shared, no_more_work):
    model = four_layers()
    few = 2 if row.id == "PRUNING" else 4  # one prunes and generates at every share
    tasks = suite if row.paper == "ZZC24" else {name: suite[name] for name in list(suite)[:few]}
    given = {"seeds": 3, "recipe": RECIPE, "n": 8, "examples": 8, "methods": ["seqft", "ncft"]}
    options = {name: given[name] for name in accepted(row) if name in given} | {"output": shared}
    with unchanged(model.root):
        path = reproduce(row.id, model, tasks, **options)
    page = path.read_text()
    assert path == shared / f"{row.id}.html" and html.escape(f"{row.citation}: {row.title}.") in page
    assert 'class="plotly-graph-div"' in page and "<h2>" in page
    if row.id == "T4" or (row.paper == "ZZC24" and row.part != "dimensions"):  # whose level even such a model passes
        assert "<strong>A negative</strong>" in page  # random weights, nothing learnt
    tables = {p: p.read_bytes() for p in (shared / "tables").glob(f"{row.id}_*.csv")}
    assert tables and all(len(pd.read_csv(p)) for p in tables)
    assert {p.with_suffix(".parquet") for p in tables} <= set((shared / "tables").iterdir())
    no_more_work()
    reproduce(row.id, model, tasks, **options)
    assert {p: p.read_bytes() for p in tables} == tables


@pytest.mark.parametrize("row", EXPERIMENTS.values(), ids=list(EXPERIMENTS))
def test_every_row_names_a_function_that_takes_its_keywords(row):
    named = inspect.signature(row.load()).parameters
    assert set(row.keywords) <= set(named) and ("held_out" in named) == bool(row.held_out)
    assert row.tasks in ("mini", "mini-sequence") and EXPERIMENTS[row.id] is row


def test_tasks_held_out_are_only_measured(suite, shared):  # goes on with what the rows have left there
    tasks = {name: suite[name] for name in list(suite)[:4]}
    for name, (role, out) in {"F2": ("domain", "out"), "T9": ("role", "test")}.items():
        reproduce(name, four_layers(), tasks, seeds=3, recipe=RECIPE, n=8, examples=8, output=shared)
        runs = pd.read_csv(shared / "tables" / f"{name}_runs.csv")
        assert set(runs[runs[role] == out]["task"]) == {list(tasks)[-1]}


@pytest.fixture
def asked(monkeypatch):
    """What a row's function was called with."""
    calls = {}

    def noted(model, tasks, *, held_out=(), recipe=None, n=None, seeds=3, n_random=5, output=None, scores=None):
        calls.update({name: value for name, value in locals().items() if name != "calls"})
        raise KeyboardInterrupt

    module = types.ModuleType("temporary_experiment")
    module.noted = noted
    monkeypatch.setitem(sys.modules, "temporary_experiment", module)
    row = Experiment(
        "X1", "ZZC24", "noted", "temporary_experiment:noted", {"recipe": {"steps": 20}, "n": 128}, "", "mini", 2
    )
    monkeypatch.setitem(EXPERIMENTS, "X1", row)
    return calls


def test_a_function_gets_what_its_signature_names(asked, suite, tmp_path):
    def call(**options):
        with pytest.raises(KeyboardInterrupt):
            reproduce("X1", four_layers(), suite, output=tmp_path / str(len(options)), examples=8, **options)
        return asked

    got = call()
    assert got["recipe"] == {"steps": 20} and got["n"] == 128 and got["seeds"] == 3 and got["n_random"] == 5
    assert got["held_out"] == list(suite)[-2:] and list(got["tasks"]) == list(suite) == list(got["scores"])
    assert got["output"] == tmp_path / "0"
    got = call(recipe={"epochs": 2, "lr": 0.1}, held_out="nli-food", n=4, seeds=(4,), n_random=7)
    assert got["recipe"] == {"epochs": 2, "lr": 0.1} and got["n"] == 4  # epochs in place of the row's steps
    assert (got["held_out"], got["seeds"], got["n_random"]) == (["nli-food"], (4,), 7)


def test_a_recipe_goes_before_the_rows_own():
    own = {"steps": 20, "lr": 0.1}
    assert merged(own, None) == own and merged(None, None) is None
    assert merged(own, {"lr": 0.2}) == {"steps": 20, "lr": 0.2}
    assert merged(own, {"steps": 5, "epochs": 1}) == {"steps": 5, "lr": 0.1, "epochs": 1}
    whole = merged(own, Recipe(weight_decay=0.5))  # which has epochs, and no steps
    assert "steps" not in whole and whole["epochs"] == 3 and whole["lr"] == 0.1 and whole["weight_decay"] == 0.5


class Counted(Result):
    """The result of an experiment that a test adds."""

    title = "Words per task"

    def in_words(self):
        return f"There are **{len(self.table)}** tasks."

    def figure(self):
        import plotly.graph_objects as go

        return go.Figure(go.Bar(x=self.table["task"], y=self.table["words"]))


def test_an_experiment_is_one_function_and_one_row(monkeypatch, suite, tmp_path, capsys):
    def count_words(tasks, n=None):
        rows = [{"task": name, "words": sum(len(e.prompt) for e in t.split("test", n))} for name, t in tasks.items()]
        return Counted(pd.DataFrame(rows), {})

    module = types.ModuleType("counting")
    module.count_words = count_words
    monkeypatch.setitem(sys.modules, "counting", module)
    monkeypatch.setitem(
        EXPERIMENTS, "T99", Experiment("T99", "LX24", "words of the tasks", "counting:count_words", tasks="mini")
    )
    assert main(["reproduce", "--list"]) == 0
    assert "T99     words of the tasks (LX24)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["reproduce", "--help"])
    assert "T99" in capsys.readouterr().out
    page = reproduce("T99", four_layers(), suite, output=tmp_path, n=2).read_text()
    assert "Table 99 of Leng &amp; Xiong 2025: words of the tasks." in page
    assert "<h2>Words per task</h2>" in page and "There are <strong>6</strong> tasks." in page
    assert len(pd.read_csv(tmp_path / "tables" / "T99_rows.csv")) == 6


def test_the_command_line(tmp_path, capsys):
    arguments = ["reproduce", "t8", "--tasks", "sentiment-food,sentiment-film", "--examples", "4", "--output"]
    assert main([*arguments, str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(tmp_path / "T8.html")
    assert len(pd.read_csv(tmp_path / "tables" / "T8_pairs.csv")) > 0
    for unknown, nearest in (("T99", "did you mean T9?"), ("ZF2", "did you mean Z-F2?")):
        assert main(["reproduce", unknown]) == 2
        said = capsys.readouterr().err
        assert f"experiment {unknown}\n" in said and nearest in said and "choose from T1, T2" in said
    assert main(["reproduce"]) == 2
    values, _ = typed_values(COMMANDS["reproduce"], ["z-f7", "--held-out", "nli-food,nli-film", "t1"])
    assert values == {"experiment": ["z-f7", "t1"], "held_out": "nli-food,nli-film"}


def test_bad_input_is_refused(tmp_path):
    model = tiny_model()
    for call, text in (
        (lambda: reproduce("T3", model), "experiment='T3'"),
        (lambda: reproduce("F2", model, TASKS, held_out=list(TASKS), output=tmp_path), "no task to train on"),
        (lambda: reproduce("Z-F2", model, {"yes": TASKS["yes"]}, output=tmp_path), "no task to train on"),
        (lambda: reproduce("F2", model, TASKS, held_out="yess", output=tmp_path), "did you mean 'yes'"),
        (lambda: reproduce("T2", model, TASKS, recipe={"lrr": 1}, output=tmp_path), "did you mean 'lr'"),
    ):
        with pytest.raises(ArgumentError, match=text):
            call()
