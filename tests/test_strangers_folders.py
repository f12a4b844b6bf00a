"""A folder belongs to one set of settings; what is wrong is said before a model is loaded; paths as users give them."""

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import WORDS, tiny_model

import neuroscope as ns
from neuroscope import checks, files
from neuroscope.__main__ import main
from neuroscope.errors import ArgumentError, FileError, TaskError
from neuroscope.experiments import EXPERIMENTS
from neuroscope.reports.bench import GIVEN, accepted
from neuroscope.reports.cached_scores import cached_scores
from neuroscope.tasks import Example, Task

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"examples": 4, "n": 4, "n_random": 3}


def food_task(name, offset):
    words = [" ".join(WORDS[i + offset : i + offset + 3]) for i in range(6)]
    return Task(name, train=[Example(w, "good") for w in words], test=[Example(f"so {w}", "bad") for w in words],
                labels=("good", "bad"))  # fmt: skip


def no_model():
    raise AssertionError("a model was loaded")


@pytest.fixture(scope="module")
def tasks():
    return {name: food_task(name, i) for i, name in enumerate(("one", "two"))}


def files_in(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_belongs_to_one_set_of_settings(tasks, tmp_path):
    model, small = tiny_model(), {"output": tmp_path, **SMALL}
    ns.run(model, tasks, **small)
    before = files_in(tmp_path)
    ns.run(model, tasks, batch_size=3, **small)  # the same again goes on where it was, however it is cut
    assert files_in(tmp_path).keys() == before.keys()
    for other, text in (
        ({"tasks": {"one": tasks["one"]}}, r"order \['one', 'two'\], now \['one'\]; tasks.two .*, now None"),
        ({"tasks": {**tasks, "two": food_task("two", 2)}}, "tasks.two"),
        ({"tasks": dict(reversed(tasks.items()))}, "order"),
        ({"k": 0.2}, "k 0.1, now 0.2"),
        ({"n_random": 4}, "n_random 3, now 4"),
        ({"examples": 3, "n": None}, "examples 4, now 3; n 4, now None"),
        ({"method": "activation"}, "method"),
        ({"objective": "log-odds"}, "objective"),
        ({"unit": "head"}, "unit"),
        ({"model": tiny_model(seed=1)}, "fingerprint"),
    ):
        with pytest.raises(FileError, match=f"another run: {text}") as error:
            ns.run(**{"model": model, "tasks": tasks, **small, **other})
        assert error.value.asked == f"run into {tmp_path}" and "another folder" in error.value.do
    assert files_in(tmp_path) == before


def test_an_experiment_has_settings_of_its_own_beside_a_run(tasks, tmp_path):
    model = tiny_model()
    ns.run(model, tasks, output=tmp_path, **SMALL)
    ns.reproduce("T8", model, tasks, output=tmp_path, examples=4)  # scores of the run
    ns.reproduce("T1", model, tasks, output=tmp_path, examples=4, n=4, n_random=3)
    ns.reproduce("T1", model, tasks, output=tmp_path, examples=4, n=4, n_random=3)
    before = files_in(tmp_path)
    with pytest.raises(FileError, match="T1 into .*\n.*another run: n 4, now 3"):
        ns.reproduce("T1", model, tasks, output=tmp_path, examples=4, n=3, n_random=3)
    (tmp_path / "settings" / "T8.json").unlink()
    with pytest.raises(FileError, match=r"keep scores in .*one.safetensors\n.*another run: .*examples"):
        ns.reproduce("T8", model, tasks, output=tmp_path, examples=3)  # which would be those of the other two's tables
    assert files_in(tmp_path).keys() >= before.keys() - {tmp_path / "settings" / "T8.json"}
    for other in ({"examples": 3}, {"unit": "head"}, {"objective": "log-odds"}, {"method": "activation"}):
        with pytest.raises(FileError, match="scores of another run"):
            cached_scores(model, tasks, tmp_path / "scores", **{"examples": 4, **other})


@pytest.mark.parametrize("settings", ["[]", "{"])
def test_damaged_settings_are_told(tasks, tmp_path, settings):
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "run.json").write_text(settings)
    with pytest.raises(FileError, match=r"run\.json"):
        ns.run(tiny_model(), tasks, output=tmp_path, **SMALL)


def test_settings_are_checked_before_a_model_is_loaded(tasks, tmp_path):
    (tmp_path / "file").write_text("")
    untaught = {"one": tasks["one"], "two": Task("two", test=tasks["two"].test, labels=("good", "bad"))}
    found_only = {**untaught, "two": replace(untaught["two"], discovery=tasks["two"].train)}
    for kind, text, given in (
        (ArgumentError, "did you mean 'activation'", {"method": "activatoin"}),
        (ArgumentError, "objective='losss'", {"objective": "losss"}),
        (ArgumentError, "unit='neuron'", {"unit": "neuron"}),
        (ArgumentError, "k=2", {"k": 2}),
        (ArgumentError, "did you mean 'nli-food'", {"tasks": "nli-fod"}),
        (TaskError, "discovery examples of task 'two'", {"tasks": untaught}),
        (FileError, "is a file", {"output": tmp_path / "file" / "deeper"}),
    ):
        with pytest.raises(kind, match=text):
            ns.run(no_model, **{"tasks": tasks, "output": tmp_path / "out", **given})
    for kind, text, id_, given in (
        (ArgumentError, "did you mean 'lr'", "T2", {"recipe": {"lrr": 1}}),
        (ArgumentError, "a list", "T2", {"recipe": [1]}),
        (ArgumentError, "give 3 seeds", "T2", {"seeds": 2}),
        (ArgumentError, "give 3 seeds", "F5", {"seeds": (4,)}),
        (ArgumentError, "did you mean 'seqft'", "T5", {"methods": ["seqftt"]}),
        (ArgumentError, "did you mean 'nli-food'", "T1", {"tasks": "nli-fod"}),
        (ArgumentError, "did you mean 'two'", "F2", {"held_out": "twoo"}),
        (TaskError, "train examples of task 'two'", "F5", {"tasks": found_only}),
        (FileError, "is a file", "T1", {"output": tmp_path / "file" / "deeper"}),
    ):
        with pytest.raises(kind, match=text):
            ns.reproduce(id_, no_model, **{"tasks": tasks, "output": tmp_path / "out", **given})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("id_", list(EXPERIMENTS))
def test_an_argument_that_an_experiment_lacks_is_refused(tasks, tmp_path, id_):
    values = {"k": 0.2, "seeds": 2, "n_random": 4, "examples": 5, "n": 4, "recipe": {"steps": 1}, "methods": "ncft"}
    lacking = {**values, "held_out": "two"}.keys() - set(accepted(EXPERIMENTS[id_]))
    assert lacking and set(accepted(EXPERIMENTS[id_])) <= set(GIVEN)
    for name in lacking:
        with pytest.raises(ArgumentError, match=rf"reproduce\('{id_}', {name}=...\)\n.*no such argument"):
            ns.reproduce(id_, no_model, tasks, output=tmp_path, **{name: {**values, "held_out": "two"}[name]})


def test_the_command_line_loads_no_model_before_all_is_right(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("neuroscope.models.load", lambda *_, **__: no_model())
    for arguments, text in (
        (["run", "--k", "2"], "give a share"),
        (["run", "--method", "magic"], "no such method"),
        (["run", "--tasks", "nli-fod"], "did you mean nli-food"),
        (["reproduce", "T1", "--methods", "ncft"], "T1: --methods\n"),
        (["reproduce", "T2", "--seeds", "2"], "give 3 seeds"),
        (["reproduce", "T5", "--lr", "0"], "lr"),
    ):
        assert main([*arguments, "--output", str(tmp_path / "out")]) == 2
        assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_help_says_no_default_that_is_none(capsys):
    for name in ("run", "reproduce"):
        with pytest.raises(SystemExit):
            main([name, "--help"])
        said = " ".join(capsys.readouterr().out.split())
        assert "None" not in said and "(default: 256)" in said and "--prompt" in said


MASK = ns.NeuronMask.of({"blocks.0.mlp.hook_post": [1]}, {"blocks.0.mlp.hook_post": 4})


@pytest.mark.parametrize(
    "path", [None, io.BytesIO(), b"/tmp/mask", "nul\0", "", 3], ids=lambda path: type(path).__name__
)
def test_what_is_no_path_is_refused(tasks, path):
    for use in (
        MASK.save, ns.NeuronMask.load, ns.load_result, ns.Representations.load, Task.from_jsonl,
        lambda path: ns.run(no_model, tasks, output=path),
        lambda path: ns.interop.load_lape(path, names=["a"], width=3),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=r"no path|no folder|empty text|null character"):
            use(path)


def test_the_home_folder(tasks, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    MASK.save("~/mask.safetensors")
    assert ns.NeuronMask.load("~/mask.safetensors") == ns.NeuronMask.load(tmp_path / "mask.safetensors") == MASK
    files.write("~/tasks/one/test.jsonl", '{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n')
    assert list(ns.load_tasks("~/tasks")) == ["one"] and ns.Task.from_jsonl(Path("~/tasks/one")).labels == ("x", "y")
    ns.representations(tiny_model(), tasks, n=2, output="~/reps").save("~/saved")
    assert list(ns.Representations.load("~/reps")) == list(ns.Representations.load("~/saved")) == list(tasks)
    assert not (tmp_path / "~").exists()


def test_a_path_that_the_system_cannot_say_is_refused(tmp_path):
    settings = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code = f"from neuroscope.__main__ import main; main(['run', '--output', {str(tmp_path)!r} + '/\\u043e'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=settings, cwd=ROOT)
    assert "Traceback" not in done.stderr and "PYTHONUTF8=1" in done.stderr


def test_a_folder_that_cannot_be_written_is_told_first(tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(FileError, match="no permission to write in .*"):
        ns.run(no_model, tasks, output=tmp_path / "new")


def test_a_long_name_is_read_back(tmp_path):
    name = "long " * 60
    model, tasks = tiny_model(), {name: food_task(name, 0), "two": food_task("two", 1)}
    ns.run(model, tasks, output=tmp_path, **SMALL)
    assert {scores.manifest["task"] for scores in map(ns.Scores.load, (tmp_path / "scores").iterdir())} == set(tasks)
    assert {mask.manifest["task"] for mask in map(ns.NeuronMask.load, (tmp_path / "masks").iterdir())} == set(tasks)
    noted = files.read_json(tmp_path / "settings" / "run.json", "settings")["order"]
    assert noted == [name, "two"] and (tmp_path / "masks" / f"{files.encoded(name)}.safetensors").exists()


@pytest.mark.parametrize(
    ("progress", "found"),
    [
        (lambda items: items, "desc"),
        (lambda items, desc: None, "not iterable"),
        (lambda items, desc: list(items)[:1], "1 of 2 items"),
        (lambda items, desc: [*items, *items], "4 of 2 items"),
    ],
    ids=["no desc", "nothing", "stops early", "twice"],
)
def test_progress_that_misbehaves_is_told_as_that(tasks, tmp_path, progress, found):
    with pytest.raises(ArgumentError, match=f"progress\\(items, desc=.*\n.*{found}"):
        list(checks.watched([1, 2], progress, "count"))
    with pytest.raises(ArgumentError, match=r"progress\(items, desc="):
        ns.attribute(tiny_model(), tasks["one"], progress=progress, batch_size=3)


def test_a_suite_is_found_by_its_name():
    for name in ("mini", "mini-sequence", "".join(["mini-", "conflict"])):
        assert ns.load_tasks(name, train=2, test=2)


def test_a_run_that_is_refused_does_not_claim_its_folder(tmp_path, tiny_model):
    """Neurons would be found on the prompts that they are judged on: told before anything is written."""
    same = [Example("the food was", "good"), Example("the plot was", "bad")]
    task = Task("t", train=same, test=same, labels=("good", "bad"))
    for k in (0.2, 0.3):
        with pytest.raises(TaskError, match="on the same examples"):
            ns.run(tiny_model(), task, output=tmp_path, k=k, n_random=3)
    assert not list(tmp_path.rglob("*.json"))
