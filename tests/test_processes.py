"""Several processes for one command: the same tables, one voice, and nothing that outlives the first."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from neuroscope.command_line.actions import jobs
from neuroscope.command_line.actions import sharing as shared
from neuroscope.command_line.actions.sharing import sharing
from neuroscope.command_line.call import Call
from neuroscope.command_line.processes import alone, rank, speaks
from neuroscope.command_line.running import main
from neuroscope.command_line.table import COMMANDS
from neuroscope.errors import ArgumentError, NeuroscopeError
from neuroscope.experiments.table import EXPERIMENTS
from neuroscope.reports.bench import accepted

TWO = "praise,asks-who"
FEW = ["--tasks", TWO, "--examples", "8", "--n", "8", "--steps", "2"]
LONG = ["reproduce", "T2", "--tasks", TWO, "--steps", "1500"]  # nobody waits for its end
T1 = ["reproduce", "T1", "--tasks", "nli-food,sentiment-food", "--examples", "8", "--n", "8", "--n-random", "3"]

on_linux = pytest.mark.skipif(
    not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="processes are found in /proc"
)


def neuroscope(*words, wait=True):
    command = [sys.executable, "-m", "neuroscope", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    try:
        started = subprocess.Popen(command, **pipes, text=True, start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, handler)
    return (*started.communicate(timeout=600), started.returncode) if wait else started


def children(pid):
    """Processes of ours that a process has started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"neuroscope" in Path(f"/proc/{child}/cmdline").read_bytes()]


def is_gone(pid):
    """Whether a process has ended, also where nobody has asked for its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def until(true, seconds=120):
    """What `true` gives, once it gives something."""
    end = time.time() + seconds
    while time.time() < end:
        if found := true():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not come true")


def rows(folder):
    return {path.name: list(csv.reader(path.open())) for path in sorted(folder.glob("tables/*.csv"))}


def close(a, b):
    try:
        return float(a) == pytest.approx(float(b), abs=1e-4)
    except ValueError:
        return a == b


def test_two_processes_find_what_one_finds(tmp_path):
    """Neurons are found, and trained."""
    assert main(["reproduce", "T2", *FEW, "--output", str(tmp_path / "one")]) == 0
    out, err, code = neuroscope("reproduce", "T2", *FEW, "--output", tmp_path / "two", "--processes", "2")
    assert code == 0, err
    assert out.split() == [str(tmp_path / "two" / "T2.html")]  # the first alone speaks
    assert err.count("Model(mini") == 1
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert one and one.keys() == two.keys()
    for name in one:
        assert len(one[name]) == len(two[name]) > 1
        times = [i for i, column in enumerate(one[name][0]) if column in ("seconds", "peak_mib", "bytes")]
        for a, b in zip(one[name], two[name], strict=True):
            assert all(close(x, y) for i, (x, y) in enumerate(zip(a, b, strict=True)) if i not in times), (name, a, b)
    files = [sorted(str(p.relative_to(tmp_path / n)) for p in (tmp_path / n).rglob("*")) for n in ("one", "two")]
    assert files[0] == files[1]
    lines = [(tmp_path / name / "journal.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert len(lines[0]) == len(lines[1]) == len(set(lines[1])) > 10  # nothing is measured twice


@on_linux
@pytest.mark.parametrize("ended", ["first", "other", "interrupt"])
def test_none_outlives_the_first_and_the_first_says_who_is_gone(ended, tmp_path):
    first = neuroscope(*LONG, "--processes", "2", "--output", tmp_path, wait=False)
    try:
        other = until(lambda: children(first.pid))[0]
        until((tmp_path / "settings" / "T2.json").exists)  # both are at work
        if ended == "first":  # the other trains by itself, and would not notice for minutes
            until(lambda: len(list(tmp_path.glob("scores/*.safetensors"))) == 2)
            time.sleep(3)
        if ended == "interrupt":
            os.killpg(first.pid, signal.SIGINT)  # as a terminal does
        else:
            os.kill({"first": first.pid, "other": other}[ended], signal.SIGKILL)
        said = first.communicate(timeout=240)[1]
        until(lambda: is_gone(other), 20)
        assert "Traceback" not in said
        if ended == "other":
            assert first.returncode == 1 and "process 1 (this is 0) was killed by signal 9" in said
            assert "goes on where it was" in said
        if ended == "interrupt":
            assert first.returncode == 130 and "neuroscope: stopped" in said
    finally:
        first.kill()


def test_what_fails_in_all_is_told_once(tmp_path, capsys):
    assert main(["run", "--model", str(tmp_path / "no"), "--processes", "2", "--output", str(tmp_path / "out")]) != 0
    out, err = capsys.readouterr()
    assert out == "" and err.count("do:") == 1 and "process" not in err
    assert not torch.distributed.is_initialized() and alone()


def test_a_process_that_does_not_come_is_told_with_its_last_words():
    before = dict(os.environ)
    with pytest.raises(NeuroscopeError, match=r"process 1 \(this is 0\) failed") as error, sharing(["evalaute"], 2):
        raise AssertionError("nobody else is there")
    assert "did you mean" in str(error.value).lower() or "evaluate" in str(error.value)
    assert dict(os.environ) == before


@pytest.mark.parametrize("many", [0, -1, 1.5, True])
def test_no_number_of_processes(many):
    with pytest.raises(ArgumentError, match="processes"), sharing([], many):
        pass


def test_one_process_is_this_one(monkeypatch):
    monkeypatch.setattr(shared, "_start", lambda *_: pytest.fail("none is started"))
    with sharing(["run"], 1):
        assert rank() == 0


def test_processes_of_torchrun_start_none_of_their_own(monkeypatch):
    as_torchrun(monkeypatch, rank=0)
    with pytest.raises(ArgumentError, match="torchrun has started"), sharing(["run"], 2):
        pass


def as_torchrun(monkeypatch, rank):
    for name, value in {"LOCAL_RANK": rank, "RANK": rank, "WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))


def test_what_a_cluster_sets_for_other_programs_changes_nothing(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert alone() and rank() == 0 and speaks({"processes": None})
    monkeypatch.setenv("LOCAL_RANK", "")
    assert alone()
    as_torchrun(monkeypatch, rank=3)
    assert not alone() and rank() == 3
    assert not speaks({"processes": None}) and speaks({"n": None})  # a command that shares nothing


def test_a_batch_that_cannot_be_cut_is_refused_first(capsys, tmp_path):
    words = ["run", "--tune", "--tune-batch-size", "16", "--processes", "3", "--output", str(tmp_path / "out")]
    assert main(words) == 2
    assert "batches of 16 examples" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_torchrun_starts_a_command_that_speaks_once(tmp_path):
    words = ["T8", "--tasks", "nli-food,sentiment-food", "--examples", "8", "--output", tmp_path, "--json"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "neuroscope", "reproduce"]
    done = subprocess.run([sys.executable, *torchrun, *map(str, words)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["result"]["pages"] == [str(tmp_path / "T8.html")]


def asked(*words, **given):
    row = COMMANDS["reproduce"]
    return Call(row, row.options(), {"experiment": list(words), **given})


def test_all_is_at_the_settings_of_a_first_look_where_nothing_else_is_given():
    ids = list(EXPERIMENTS)
    found = jobs.arguments_by_id(asked("all"), ids, full=False)
    for id_ in ids:
        names = accepted(EXPERIMENTS[id_])
        expected = {name: value for name, value in jobs.FIRST_LOOK.items() if name in names}
        expected |= {"recipe": {"steps": 20 if id_.startswith("Z-") else 24}} if "recipe" in names else {}
        expected["output"] = "first-look"
        assert {name: value for name, value in found[id_].items() if name != "progress"} == expected, id_
    assert found["T5"]["methods"] == jobs.TABLE_5 and found["T1"]["n"] == 64 and "n" not in found["T8"]
    given = jobs.arguments_by_id(asked("ALL", epochs=3.0, n=None, examples=256, methods=["ncft"]), ids, full=False)
    assert given["T2"]["recipe"] == {"epochs": 3.0} and given["T2"]["n"] is None and given["T2"]["examples"] == 256
    assert given["T5"]["methods"] == ["ncft"]
    steps = jobs.arguments_by_id(asked("all", steps=5, lr=1e-3), ids, full=False)
    assert steps["T2"]["recipe"] == {"steps": 5, "lr": 1e-3}
    assert jobs.output_of(asked("all"), found) == Path("first-look")
    there = jobs.arguments_by_id(asked("all", output="mine"), ids, full=False)
    assert jobs.output_of(asked("all"), there) == Path("mine")
    full = jobs.arguments_by_id(asked("all"), ids, full=True)
    assert all(set(arguments) == {"progress"} for arguments in full.values())
    named = jobs.arguments_by_id(asked("T2", "T1"), ["T2", "T1"], full=False)
    assert all(set(arguments) == {"progress"} for arguments in named.values())


def test_all_on_the_bundled_model_takes_two_processes(monkeypatch):
    monkeypatch.setattr(jobs.os, "sched_getaffinity", lambda _: range(8), raising=False)
    assert jobs.processes_of(asked("all"), None) == 2 and jobs.processes_of(asked("all"), 1) == 1
    assert jobs.processes_of(asked("all", model="gpt2"), None) == jobs.processes_of(asked("T1", "T2"), None) == 1
    with monkeypatch.context() as within:
        as_torchrun(within, rank=0)  # it has started as many as are wanted
        assert jobs.processes_of(asked("all"), None) == 1
    monkeypatch.setattr(jobs.os, "sched_getaffinity", lambda _: range(1), raising=False)
    assert jobs.processes_of(asked("all"), None) == 1


def test_full_is_of_all_alone(capsys):
    assert main(["reproduce", "T8", "--full"]) == 2
    assert "leave --full out" in capsys.readouterr().err


def test_a_plan_says_that_processes_share(capsys, tmp_path):
    words = [*T1, "--output", str(tmp_path), "--dry-run", "--processes"]
    assert main([*words, "3"]) == 0
    assert "times are of one process; 3 share the work" in capsys.readouterr().out
    assert main([*words, "0"]) == 2
