"""Every row of the table of commands: help, options out of signatures, JSON, errors as they are typed."""

import contextlib
import inspect
import io
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from neuroscope.__main__ import main
from neuroscope.command_line import config, known, running, signatures
from neuroscope.command_line.actions import checkup
from neuroscope.command_line.actions.work import STAGES
from neuroscope.command_line.call import PROMPTS
from neuroscope.command_line.command import ACTIONS, Command, Use
from neuroscope.command_line.jsonable import plain
from neuroscope.command_line.options import Option, values_of
from neuroscope.command_line.parsing import parser
from neuroscope.command_line.signatures import UNKNOWN, Kind, parameters
from neuroscope.command_line.table import COMMANDS
from neuroscope.errors import ArgumentError, FileError
from neuroscope.experiments.table import EXPERIMENTS
from neuroscope.interop import save_lape
from neuroscope.masks import NeuronMask
from neuroscope.masks.json_file import save_json
from neuroscope.tasks.rows import ASKED

ROOT = Path(__file__).resolve().parents[1]
ROWS = pytest.mark.parametrize("row", COMMANDS.values(), ids=list(COMMANDS))
USES = sorted({use.function for row in COMMANDS.values() for use in (*row.uses, row.own)})
WIDTHS = {"blocks.0.mlp.hook_post": 512, "blocks.1.mlp.hook_post": 512, "blocks.2.mlp.hook_post": 512}
WIDTHS["blocks.3.mlp.hook_post"] = 512
TWO = "sentiment-food,nli-food"
PAGES = ["report.html", "explorer.html"]
SMALL = ["--tasks", TWO, "--examples", "4", "--n", "4", "--n-random", "3", "--parts", "none", "--sizes", "none"]


def run(*arguments):
    """The exit code of a command."""
    try:
        return main([str(one) for one in arguments])
    except SystemExit as end:
        return end.code


def function_of(target):
    module, _, path = target.partition(":")
    found = __import__(module, fromlist=["_"])
    for name in path.split("."):
        found = getattr(found, name)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Masks of the bundled model, and what `run` has left."""
    root = tmp_path_factory.mktemp("command_line")
    a = NeuronMask.of({0: [1, 2, 3], 3: [5]}, WIDTHS, manifest={"task": "sentiment-food"})
    b = NeuronMask.of({0: [2, 3, 4], 2: [7]}, WIDTHS, manifest={"task": "nli-food"})
    a.save(root / "masks" / "sentiment-food.safetensors")
    b.save(root / "masks" / "nli-food.safetensors")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert run("run", *SMALL, "--output", root / "run", "--json") == 0
    (root / "run.json").write_text(out.getvalue())
    assert [Path(page).name for page in json.loads(out.getvalue())["result"]["pages"]] == PAGES
    return root


def cheap(name, root):
    """What makes a command do little."""
    mask = root / "masks" / "nli-food.safetensors"
    return {
        "load": ["mini"],
        "tasks": ["nli-food"],
        "attribute": ["--tasks", "nli-food", "--examples", 4, "--output", root / "scores"],
        "ablate": [mask, "--tasks", "nli-food", "--n", 4, "--n-random", 3, "--neutral", "none"],
        "evaluate": ["--tasks", "nli-food", "--n", 4, "--mask", mask],
        "reproduce": ["T8", "--tasks", TWO, "--examples", 4, "--output", root / "t8"],
        "explore": [root / "run"],
        "report": [root / "run"],
        "benchmark": [mask],  # without tasks: the harness has tests of its own
        "mask show": [root / "masks"],
        "mask diff": [mask, root / "masks" / "sentiment-food.safetensors"],
        "mask convert": [mask, root / "mask.json"],
        "doctor": [],
    }[name]


@pytest.mark.parametrize("row", [row for row in COMMANDS.values() if row.needs], ids=lambda row: row.name)
def test_what_the_help_calls_needed_is_needed(row, capsys):
    assert run(*row.name.split()) == 2
    assert row.name in capsys.readouterr().err


@ROWS
def test_help_has_every_option_with_words_and_examples(row, capsys):
    assert run(*row.name.split(), "--help") == 0
    text = capsys.readouterr().out
    said = " ".join(text.split())
    options = row.options()
    for option in options.values():
        assert option.help and not {"None", "True"} & set(option.help.replace(",", " ").split()), option.name
        assert (option.name.upper() if option.nargs else option.flag) in said
    assert row.examples and all(example.startswith(f"neuroscope {row.name}") for example in row.examples)
    assert all(example in said for example in row.examples)
    assert {"--json", "--debug", "--config", "--version"} <= set(said.replace("[", " ").replace("]", " ").split())
    assert ("--dry-run" in said) == bool(row.plan)
    for name in row.places:
        assert (f"[{name.upper()}" in text.partition("[options]")[0]) == (name not in row.needs)
    assert max(map(len, text.splitlines())) < 120


@ROWS
def test_what_is_typed_is_what_the_functions_take(row):
    for use in (*row.uses, row.own):
        every = parameters(use.function)
        assert set(use.hide) | set(use.only) <= set(every) | {"progress", "arguments", "model", "tasks", "task"}
        if not use.only:
            silent = set(every) - set(use.names()) - set(use.hide)
            assert not silent, f"{use.function}: say in `hide` why {silent} cannot be typed"
    assert set(row.places) | set(row.defaults) <= {*row.options(), "tasks", "model"}


@pytest.mark.parametrize("target", USES)
def test_signatures_are_read_as_they_are(target):
    """The file's text against the function itself, imported."""
    function, read = function_of(target), parameters(target)
    real = inspect.signature(function).parameters
    several = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    names = [name for name, one in real.items() if one.kind not in several and name not in ("self", "cls")]
    assert list(read) == names
    for name in names:
        default = real[name].default
        assert read[name].required == (default is inspect.Parameter.empty), name
        if default is None or isinstance(default, str | int | float | bool | tuple):
            assert read[name].default == default, name
    if inspect.isfunction(function) and target.startswith("neuroscope.command_line"):
        assert all(read[name].help for name in names if name != "call"), "each argument of an action has its words"


def test_a_new_argument_is_an_option_by_itself(tmp_path, monkeypatch):
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "__init__.py").write_text("from extra.kinds import Colour\n")
    (tmp_path / "extra" / "kinds.py").write_text("from typing import Literal\nColour = Literal['red', 'blue']\n")
    text = '''
SIZES = (1, 2)
def paint(model, *, colour: Colour | None = "red", sizes: "Sequence[int]" = SIZES, far: dict = {}, deep: bool = True):
    """Paint.

    Args:
        colour: of the paint (None: none). It dries
            within a day.
        sizes, deep: of the brush.

    Returns:
        far: nothing.
    """
'''
    (tmp_path / "extra" / "paint.py").write_text("from extra import Colour\n" + text)
    monkeypatch.setattr(signatures, "ROOT", tmp_path)
    found = parameters("extra.paint:paint")
    assert found["colour"].kind == Kind(others=frozenset({"Colour"}), none=True)  # of another package: not followed
    assert (found["sizes"].default, found["sizes"].kind) == ((1, 2), Kind(several=Kind(frozenset({"int"}))))
    assert found["deep"].help == found["sizes"].help == "of the brush."
    assert found["far"].help == "" and not found["far"].kind.can_be_said
    row = Command("x", "paint", "doctor", (Use("extra.paint:paint", prefix="p_", hide={"model": ""}),))
    assert list(row.uses[0].options()) == ["p_sizes", "p_deep"]
    assert row.uses[0].options()["p_sizes"].read("3,4") == [3, 4]


@ROWS
def test_json_is_one_document_alone_on_stdout(row, folder, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    done = folder / f"{row.name}.json"  # of what is there already
    code = 0 if done.exists() else run(*row.name.split(), *cheap(row.name, folder), "--json")
    text, err = (done.read_text(), "") if done.exists() else capsys.readouterr()
    assert err == "" or code == 2  # a program is told nothing beside it but what is wrong
    found = json.loads(text, parse_constant=pytest.fail)
    assert (found["schema"], found["command"], found["exit_code"]) == (1, row.name, code)
    if row.name == "benchmark":
        assert code == 2 and found["result"] is None and found["errors"][0]["found"] == "no tasks"
    else:
        assert code == 0 and found["result"] and found["errors"] == []
    assert list(tmp_path.iterdir()) == []  # where it was started


@ROWS
def test_an_unknown_option_is_answered_with_the_nearest(row, capsys):
    name = next(iter(row.options()), "json")
    flag = f"--{name.replace('_', '-')}"
    assert run(*row.name.split(), f"{flag}x", 1) == 2
    out, err = capsys.readouterr()
    assert out == "" and f"neuroscope: {flag}x\n  found: no such option of `neuroscope {row.name}`" in err
    assert f"did you mean {flag}?" in err or len(flag) < 5
    assert run(*row.name.split(), "--json", "--no-such-thing") == 2
    found = json.loads(capsys.readouterr().out)
    assert found["exit_code"] == 2 and found["errors"][0]["asked"] == "--no-such-thing"


@ROWS
def test_an_option_of_a_file_is_as_one_that_is_typed(row, tmp_path):
    """Every option with a default, written into a file as TOML has it."""
    options = row.options()
    values = {n: o.default for n, o in options.items() if o.default is not UNKNOWN and o.default not in (None, "")}
    lines = [f"{n.replace('_', '-')} = {json.dumps(v)}" for n, v in values.items()]
    (tmp_path / "run.toml").write_text("\n".join(lines))
    read, wrong = config.read(str(tmp_path / "run.toml"), row, options)
    assert wrong == []
    assert {n: tuple(v) if isinstance(v, list) else v for n, v in read.items()} == values
    typed = {n: options[n].shown_default for n, v in values.items() if v not in (False, True, (), " ", "")}
    again, wrong = values_of(options, typed)
    assert not wrong and {n: tuple(v) if isinstance(v, list) else v for n, v in again.items()} == {
        n: v for n, v in values.items() if n in typed
    }


def test_a_file_with_several_errors_reports_all(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("neuroscope.models.load", lambda *_, **__: pytest.fail("a model was loaded"))
    path = tmp_path / "run.toml"
    path.write_text(
        'modle = "mini"\nk = 2\n\n[run]\nn-random = "many"\nmethod = "relpp"\ntune-lr = -1\nparts = 3\nexamples = -4\n'
    )
    assert run("run", "--config", path, "--output", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert said.startswith("neuroscope: 7 errors\n")
    for line, key, do in (
        (1, "modle = 'mini'", "did you mean model?"), (2, "k = 2", "give a share"), (5, "n-random = 'many'", "whole"),
        (6, "method = 'relpp'", "did you mean relp?"), (7, "tune-lr = -1", "more than 0"), (8, "parts = 3", "even"),
        (9, "examples = -4", "1 or more"),
    ):  # fmt: skip
        place = f"{path}, line {line}: {key}\n"
        assert place in said and do in said.partition(place)[2].partition("run.toml")[0], (key, said)
    assert "None" not in said  # which nobody can type
    assert run("run", "--config", path, "--json") == 2
    assert len(json.loads(capsys.readouterr().out)["errors"]) == 7
    assert not (tmp_path / "out").exists()


def test_what_is_typed_goes_before_the_file_and_a_table_is_for_its_command(tmp_path, capsys):
    path = tmp_path / "run.toml"
    path.write_text(
        'tasks = "nli-food"\nn = 5\n[evaluate]\nsplit = "train"\n[run]\nk = 0.5\n[mask.show]\nmasks = ["x"]\n'
    )
    assert run("evaluate", "--config", path, "--n", 3, "--json") == 0
    found = json.loads(capsys.readouterr().out)["result"]["tasks"]
    assert list(found) == ["nli-food"] and found["nli-food"]["manifest"]["split"] == "train"
    assert found["nli-food"]["manifest"]["n"] == 3
    values, wrong = config.read(str(path), COMMANDS["run"], COMMANDS["run"].options())
    assert values == {"tasks": "nli-food", "n": 5, "k": 0.5} and wrong == []
    path.write_text("n = \n")
    assert run("evaluate", "--config", path) == 1
    assert "not TOML" in capsys.readouterr().err
    assert run("evaluate", "--config", tmp_path / "none.toml") == 1
    assert "No such file" in capsys.readouterr().err


def test_values_are_read_as_they_are_typed():
    every = COMMANDS["evaluate"].options() | COMMANDS["run"].options() | COMMANDS["reproduce"].options()
    for name, typed, value in (
        ("value", "mean", "mean"), ("value", "-0.5", -0.5), ("at", "last", "last"), ("at", "0,-1", [0, -1]),
        ("at", "3", 3), ("when", "-inf,0", [-math.inf, 0.0]), ("n", "none", None), ("n", "7", 7), ("seeds", "3", 3),
        ("seeds", "4,5", [4, 5]), ("sizes", "0.1", [0.1]), ("sizes", "none", None), ("neutral", "none", []),
        ("held_out", "a, b", ["a", "b"]), ("tasks", "mini", "mini"), ("experiment", ["t1", "F5"], ["t1", "F5"]),
        ("split", "train", "train"), ("tune", True, True), ("separator", " ", " "), ("lr", "1e-3", 1e-3),
    ):  # fmt: skip
        assert every[name].read(typed) == value, name
    for name, typed, do in (
        ("n", "7.5", "give a whole number or none"), ("value", "maen", "did you mean mean?"),
        ("split", "tset", "mean test"), ("when", "1", "give two"), ("sizes", "0.1,x", "a number"),
        ("n", True, "a whole number"), ("n", [1], "give one"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError) as error:
            every[name].read(typed)
        assert do in str(error.value), (name, str(error.value))


def test_a_plan_counts_what_a_run_measures(folder, tmp_path, capsys):
    """The journal of the run has a line for each evaluation and each neutral loss of the plan."""
    assert run("run", *SMALL, "--output", tmp_path / "out", "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)["result"]
    lines = (folder / "run" / "journal.jsonl").read_text().splitlines()
    assert sum(stage["evaluations"] + stage["neutral"] for stage in plan["stages"]) == len(lines) == 22 + 8 + 21
    names = ["find neurons", "switch them off", "cross-ablate", "read the strongest neurons"]
    assert [stage["name"] for stage in plan["stages"]] == names
    assert plan["seconds"] > 0 and plan["passes"] > len(lines) and plan["memory"]["weights"] == 4 * 1_074_304
    assert len(plan["measured"]) == 2 and not (tmp_path / "out").exists()
    assert run("run", *SMALL, "--output", folder / "run", "--dry-run") == 0
    text = capsys.readouterr().out
    assert f"has {len(lines)} measurements already" in text and "cross-ablate" in text


def test_a_plan_of_experiments_counts_what_they_measure(tmp_path, capsys):
    few = ["--tasks", TWO, "--examples", 4, "--n", 4, "--n-random", 3]
    assert run("reproduce", "T1", "CPR", "T8", *few, "--output", tmp_path, "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)["result"]
    assert list(tmp_path.iterdir()) == []
    counted = {(s["job"], s["name"]): s["evaluations"] + s["neutral"] for s in plan["stages"]}
    assert counted == {
        ("T1", "find neurons"): 0, ("T1", "switch neurons off"): 22 + 21,
        ("CPR", "measure faithfulness"): 2 * (2 + 6 * 2 * 4),
    }  # fmt: skip
    assert run("reproduce", "t1", *few, "--output", tmp_path) == 0
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 22 + 21
    assert run("reproduce", "all", "--steps", 1, "--dry-run", "--json", "--tasks", "praise,asks-who,food-text") == 0
    plan = json.loads(capsys.readouterr().out.partition("{")[2].join(["{", ""]))["result"]
    assert {s["job"] for s in plan["stages"]} >= {"T1", "T2", "T5", "H-F2", "Z-F1"}
    trainings = {s["job"]: s["trainings"] for s in plan["stages"]}
    assert (trainings["T2"], trainings["F5"], trainings["F3"], trainings["T9"]) == (27, 18, 3, 15)


def test_several_experiments_are_each_given_what_they_have(tmp_path, capsys):
    few = ["--tasks", TWO, "--examples", 4, "--output", tmp_path]
    assert run("reproduce", "T8", "T1", "T8", *few, "--n", 4, "--n-random", 3) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "T8.html"), str(tmp_path / "T1.html")]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert run("reproduce", "T8,T1", *few, "--n", 4, "--n-random", 3, "--json") == 0
    found = json.loads(capsys.readouterr().out)["result"]
    assert [Path(page).name for page in found["pages"]] == ["T8.html", "T1.html"] and found["not_done"] == {}
    assert {path: path.read_bytes() for path in before} == before
    assert run("reproduce", "T8", "T1", *few, "--methods", "ncft") == 2
    assert "no such argument of T8, T1" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    assert run("reproduce", "T8", "T1", *few, "--n", 5, "--n-random", 3) == 1  # T8 has no n
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == str(tmp_path / "T8.html") and out.splitlines()[1].startswith("T1: not done")
    assert "n 4, now 5" in err


def test_several_wrong_values_are_told_together(capsys):
    assert run("run", "--n", "x", "--k", 2, "--method", "foo", "--unit", "heads", "--tasks", "nli-foo") == 2
    said = capsys.readouterr().err
    assert said.startswith("neuroscope: 5 errors\n") and "did you mean head?" in said and "mean nli-food?" in said
    with pytest.raises(FileError, match="No such file"):
        Option("x", parameters("neuroscope.reports.main_job:run")["neutral"], "", said_as="lines").read("/none")


WRONG = {"device": "cdua", "dtype": "bflt16", "model": "mni", "metric": "acc", "method": "relpp", "tasks": "nli-foo"}


@pytest.mark.parametrize("names", itertools.combinations(WRONG, 2), ids="-".join)
def test_two_wrong_names_are_told_together_typed_or_in_a_file(names, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("neuroscope.models.load", lambda *_, **__: pytest.fail("a model was loaded"))
    path = tmp_path / "run.toml"
    path.write_text("".join(f"{name} = {json.dumps(WRONG[name])}\n" for name in names))
    a, b = names
    for command in ("run", "attribute"):
        for typed, starts in (
            ([f"--{a}", WRONG[a], f"--{b}", WRONG[b]], [f"--{name} {WRONG[name]}\n" for name in names]),
            (["--config", path], [f"line {i}: {name} = {WRONG[name]!r}\n" for i, name in enumerate(names, 1)]),
            (["--config", path, f"--{a}", WRONG[a]], [f"--{a} {WRONG[a]}\n", f"line 2: {b} = {WRONG[b]!r}\n"]),
        ):
            assert run(command, *typed) == 2
            said = capsys.readouterr().err
            assert said.startswith("neuroscope: 3" if "--config" in typed[:-2] else "neuroscope: 2"), said
            assert all(start in said for start in starts), said
    assert run("run", f"--{a}", WRONG[a]) != 0  # and one alone is told as itself
    assert capsys.readouterr().err.startswith(f"neuroscope: --{a} {WRONG[a]}\n")


def test_options_that_bundled_tasks_cannot_take_say_what_these_have(capsys):
    options = {option for use in COMMANDS["run"].uses if use.function in PROMPTS for option in use.names()}
    assert len(options - {*ASKED, "shots"}) == 8
    for name in sorted(options - {*ASKED, "shots"}):
        flag = f"--{name.replace('_', '-')}"
        value = {"ranking": "token", "metric": "exact", "holdout": 0.5}.get(name, 3)
        assert run("evaluate", "--tasks", "nli-food", flag, value) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"neuroscope: nli-food: {flag}\n  found: bundled, "), said
        assert f"leave {flag} out, which files of jsonl and data sets of the Hub take" in said and "--shots" in said
    for typed, said in (
        (["--tasks", "nli-film", "--metric", "exact"], "with metric 'accuracy'"),
        (["--metric", "exact"], "mini: --metric\n  found: bundled, each with its own"),
        (["--tasks", "mini-sequence", "--metric", "exact"], "with metric 'accuracy'"),
        (["--tasks", "nli-film", "--holdout", 0.5], "and made, not read"),
        (
            ["--tasks", "nli-film", "--max-new-tokens", 5, "--ranking", "token"],
            "ranking 'sum' and with max_new_tokens 8",
        ),
    ):
        assert run("run", *typed) == 2
        assert said in capsys.readouterr().err


def test_commands_and_places(capsys):
    for typed, said in (
        (["rnu"], "did you mean run?"), (["mask"], "choose from show, diff, convert"),
        (["mask", "dif", "a", "b"], "did you mean diff?"), (["explore"], "no folder"),
        (["mask", "show"], "no file of a mask"), (["run", "--n"], "--n\n  found: expected one argument"),
        (["doctor", "now"], "nothing that `neuroscope doctor` has a place for"), (["mask", "diff", "a"], "no B"),
        (["reproduce"], "name one or more, or all"), (["evaluate", "--at", "last"], "--at without --mask"),
    ):  # fmt: skip
        assert run(*typed) == 2
        out, err = capsys.readouterr()
        assert out == "" and said in err and "  do: " in err, (typed, err)
    assert run("--json") == 2
    error = json.loads(capsys.readouterr().out)["errors"][0]
    assert error["found"] == "no command" and "run, reproduce" in error["do"]
    assert run() == 2 and "commands:" in capsys.readouterr().err
    assert run("mask", "--help") == 0 and "convert" in capsys.readouterr().out
    for typed in (["--version"], ["run", "--version"], ["mask", "diff", "--version"]):
        assert run(*typed) == 0
        assert capsys.readouterr().out.startswith("neuroscope 0.")
    assert run("--json", "tasks", "nli-food") == 0
    assert json.loads(capsys.readouterr().out)["result"]["tasks"][0]["name"] == "nli-food"


def test_exit_codes(folder, capsys, monkeypatch):
    def fails(error):
        def action(call):
            raise error

        monkeypatch.setattr(running, "_imported", lambda target: action)

    for error, code, said in (
        (FileError("read x", "nothing there", "check the path"), 1, "neuroscope: read x\n  found: nothing there"),
        (ArgumentError("masks=3", "an int", "give files"), 2, "neuroscope: masks 3\n  found: an int"),
        (KeyboardInterrupt(), 130, "goes on from what is in its folder"),
        (ZeroDivisionError("of a fault"), 1, "found: ZeroDivisionError: of a fault (" + __file__),
    ):
        fails(error)
        assert run("mask", "show") == code
        out, err = capsys.readouterr()
        assert out == "" and said in err and "Traceback" not in err
        assert run("mask", "show", "--json") == code
        assert json.loads(capsys.readouterr().out)["exit_code"] == code
    fails(ZeroDivisionError("of a fault"))
    with pytest.raises(ZeroDivisionError):
        run("mask", "show", "--debug")

    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.undo()
    monkeypatch.setattr(sys, "stdout", Closed())
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert run("tasks", "--known") == 0  # as where `| head` has seen enough


def test_what_others_print_is_not_on_stdout(capsys, monkeypatch):
    def action(call):
        sys.stdout.write("noise of a library\n")
        return running.Answer("found", {"p": math.nan})

    monkeypatch.setattr(running, "_imported", lambda target: action)
    assert run("doctor") == 0
    out, err = capsys.readouterr()
    assert out == "found\n" and "noise" in err


def test_json_has_null_where_there_is_no_number():
    table = pd.DataFrame({"p": [0.5, math.nan], "seed": pd.array([1, None], dtype="Int64"), "name": ["a", None]})
    assert plain(table) == [{"p": 0.5, "seed": 1, "name": "a"}, {"p": None, "seed": None, "name": None}]
    assert plain({"t": torch.tensor([1.0, math.inf]), 2: {"b", "a"}, "p": Path("/x")}) == {
        "t": [1.0, None], "2": ["a", "b"], "p": "/x",
    }  # fmt: skip


def test_masks_are_compared_by_hand(folder, capsys):
    files = [folder / "masks" / f"{name}.safetensors" for name in ("sentiment-food", "nli-food")]
    assert run("mask", "diff", *files, "--json") == 0
    found = json.loads(capsys.readouterr().out)["result"]
    assert (found["numbers"]["a"], found["numbers"]["b"], found["numbers"]["shared"]) == (4, 4, 2)
    assert found["numbers"]["jaccard"] == pytest.approx(2 / 6)
    first = found["layers"][0]
    assert first == {"site": "blocks.0.mlp.hook_post", "a": 3, "b": 3, "shared": 2, "expected": 9 / 512, "of": 512}
    assert found["only_a"] == {"blocks.0.mlp.hook_post": [1], "blocks.3.mlp.hook_post": [5]}
    assert run("mask", "diff", *files) == 0
    assert "shared: 2 neurons, Jaccard 0.333" in capsys.readouterr().out
    assert run("mask", "show", files[0]) == 0
    assert capsys.readouterr().out.startswith("## Evidence card: sentiment")


def test_masks_go_from_format_to_format(folder, tmp_path, capsys):
    source = folder / "masks" / "nli-food.safetensors"
    mask = NeuronMask.load(source)
    assert run("mask", "convert", source, tmp_path / "m.json") == 0
    assert run("mask", "convert", tmp_path / "m.json", tmp_path / "m.safetensors") == 0
    again = NeuronMask.load(tmp_path / "m.safetensors")
    assert again == mask and again.manifest == mask.manifest
    assert NeuronMask.load(save_json(~mask, tmp_path / "rest.json")) == ~mask
    pth = save_lape({"en": mask, "zh": ~mask}, tmp_path / "x.neuron.pth")
    how = ["--names", "en,zh", "--width", 512]
    assert run("mask", "convert", pth, tmp_path / "lape", *how) == 0
    assert NeuronMask.load(tmp_path / "lape" / "zh.safetensors") == ~mask
    capsys.readouterr()
    torch.save(Evil(), tmp_path / "evil.pth")
    for arguments, code, said in (
        ([tmp_path / "evil.pth", tmp_path / "out", *how], 1, "check the path"),
        ([pth, tmp_path / "out"], 2, "no --names and --width"),
        ([source, tmp_path / "out.txt"], 2, "end the file in .safetensors or .json"),
        ([source, tmp_path / "out.json", "--width", 3], 2, "a file that says it itself"),
        ([tmp_path / "none.json", tmp_path / "out.json"], 1, "No such file"),
    ):
        assert run("mask", "convert", *arguments) == code
        assert said in capsys.readouterr().err
    assert not (tmp_path / "run_by_unpickling").exists() and not list(tmp_path.glob("out*"))


class Evil:
    """What does something when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("run_by_unpickling"),)


def test_a_report_says_what_a_folder_holds(folder, capsys, monkeypatch, tmp_path):
    assert run("report", folder / "run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [str(folder / "run" / name) for name in ("explorer.html", "report.html")]
    assert "2 masks, 2 scores" in lines[2] and lines[4].split()[:2] == ["task", "verdict"]
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
    assert run("report", folder / "run", "--open") == 0 and len(opened) == 2
    assert run("report", tmp_path) == 1
    assert "no settings/*.json" in capsys.readouterr().err


def test_ablate_measures_each_task_with_its_mask_or_with_one_for_all(folder, capsys):
    few = ["--n", 4, "--n-random", 3, "--neutral", "none", "--json"]
    assert run("ablate", folder / "masks", "--tasks", f"{TWO},nli-film", *few) == 0
    rows = json.loads(capsys.readouterr().out)["result"]["tables"]
    assert {row["task"] for row in rows["runs"]} == set(TWO.split(","))
    assert run("ablate", folder / "masks" / "nli-food.safetensors", "--tasks", TWO, *few) == 0
    rows = json.loads(capsys.readouterr().out)["result"]["tables"]
    assert {row["task"] for row in rows["runs"]} == set(TWO.split(","))
    assert run("ablate", folder / "masks", "--tasks", "nli-film", *few) == 2
    assert "none named as a task" in json.loads(capsys.readouterr().out)["errors"][0]["found"]


def test_one_prompt_and_options_of_a_method(capsys):
    prompt = ["--text", "sentiment the curry was truly good =>", "--answer", " positive", "--json"]
    assert run("attribute", *prompt, "--method", "integrated-gradients", "--option", "steps=2") == 0
    found = json.loads(capsys.readouterr().out)["result"]["scores"]["prompt"]
    assert found["manifest"]["method"] == "integrated-gradients" and found["manifest"]["options"] == {"steps": 2}
    assert len(found["top"]) == 10 and found["top"][0]["relevance"] >= found["top"][1]["relevance"]
    assert run("attribute", *prompt, "--option", "steps") == 2
    assert json.loads(capsys.readouterr().out)["errors"][0]["found"] == "no = in it"


def test_doctor_finds_what_is_wrong(capsys, monkeypatch):
    monkeypatch.setattr(checkup, "_model", lambda: iter(()))
    wanted = [("torch", ">=99", ""), ("no-such-package", ">=1", ""), ("gguf-none", ">=1", "gguf")]
    monkeypatch.setattr(checkup, "_requirements", lambda: iter(wanted))
    assert run("doctor") == 1
    said = capsys.readouterr().out
    assert "broken  torch: " in said and "do: pip install 'torch>=99'" in said
    assert "broken  no-such-package: not installed" in said and "pip install 'neuroscope[gguf]'" in said
    assert "2 broken: torch, no-such-package" in said


def test_the_shell_completes_commands_options_and_values():
    argcomplete = pytest.importorskip("argcomplete")
    finder = argcomplete.CompletionFinder(parser(), always_complete_options=True)

    def completed(*words):
        return {word.strip() for word in finder._get_completions(list(words[:-1]), words[-1], "", None)}

    assert {"run", "reproduce"} <= completed("neuroscope", "r")
    assert "--n-random" in completed("neuroscope", "run", "--n")
    assert completed("neuroscope", "run", "--unit", "h") == {"hidden", "head"}
    assert {"T1", "T2", "T8"} <= completed("neuroscope", "reproduce", "T")
    assert completed("neuroscope", "mask", "d") == {"diff"}


def test_every_experiment_has_a_plan():
    assert {row.function.partition(":")[2] for row in EXPERIMENTS.values()} == set(STAGES)


def test_names_of_the_tables_are_those_of_the_library():
    assert set(EXPERIMENTS) < set(known.TABLES["experiment"]())
    assert all(name in known.TABLES["tasks"]() for name in ("mini", "nli-food", "praise", "sst2"))
    found = known.unknown_names(COMMANDS["reproduce"], {"experiment": ["t1", "T99"], "methods": ["ncft"], "lr": -1})
    assert len(found) == 2 and "T99" in found[0].asked
    assert ACTIONS.startswith("neuroscope.command_line")


def test_help_imports_nothing_heavy_and_no_command_prints_more_than_its_answer():
    heavy = ["torch", "transformers", "pandas", "plotly", "scipy", "numpy"]
    names = [name.split() for name in COMMANDS]
    code = f"""
import contextlib, sys
from neuroscope.__main__ import main
for name in {names} + [[]]:
    with contextlib.suppress(SystemExit):
        main([*name, "--help"])
main(["reproduce", "--list", "--json"])
main(["rnu"])
main(["run", "--kk"])
print([name for name in {heavy} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"
