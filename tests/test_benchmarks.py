"""Benchmarks that need a real model or a GPU, run on toys: they go through, and write down what they found."""

import json
import math
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pandas as pd
import pytest
import torch

from neuroscope.errors import NumericalError
from neuroscope.statistics import mean_interval
from neuroscope.tasks import load_tasks
from neuroscope.training.continual_learning import Continual, continual

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))
from continual_rates import Rates, usual_grid  # noqa: E402
from continual_words import HEADING, Found, answered, put  # noqa: E402
from gpu import has  # noqa: E402

NAMES = {"rte": "nli-food", "e2e": "summary-food"}  # ours, in the place of the real ones


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, ours in NAMES.items():
        task = load_tasks("mini")[ours]
        (folder / name).mkdir()
        for split in ("train", "test"):
            answer = "label" if task.labels else "target"
            rows = [{"text": e.prompt, answer: e.answer} for e in task.split(split, 100 if split == "train" else 8)]
            (folder / name / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def ran(monkeypatch, capsys):
    """Run a benchmark as from the command line, in this process: what it says."""

    def run(*words, script="real.py"):
        monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
        return capsys.readouterr().out

    threads = torch.get_num_threads()
    with patch.dict(os.environ):
        yield run
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore:.*the last of every prompt")  # "Answer:" is no word of the toy
def test_a_real_measurement_is_made_once_and_written_down(ran, data, tmp_path):
    out = tmp_path / "out"
    given = ["--base", "mini", "--data", data, "--out", out, "--tasks", ",".join(NAMES), "--threads", 1]
    given += ["--tune-steps", 1, "-n", 4, "--n-random", 3]
    said = ran(*given, "T1", "T8")
    assert "T1: about" in said and said.strip().endswith("report.html")
    assert (out / "report.html").stat().st_size > 1e5
    measured = (out / "journal.jsonl").read_text()
    tuned = (out / "tuned" / "model.safetensors").stat().st_mtime_ns
    again = [sys.executable, BENCHMARKS / "real.py", *given, "T1"]  # another process, with other hashes
    subprocess.run([str(word) for word in again], check=True, capture_output=True)
    assert (out / "journal.jsonl").read_text() == measured  # nothing was measured again
    assert (out / "tuned" / "model.safetensors").stat().st_mtime_ns == tuned
    (tmp_path / "REAL.md").write_text("# Old\n\n## Explorer\n\nBy hand.\n")
    ran("--out", out, "--write", tmp_path / "REAL.md")
    written = (tmp_path / "REAL.md").read_text()
    assert (
        written.count("\n## ") == 3
        and written.endswith("\n\n## Explorer\n\nBy hand.\n")
        and "Llama-2-7b" in written
        and "agrees in sign" in written
        and str(tmp_path) not in written
    )


@pytest.mark.slow
def test_all_of_the_gpu_benchmark_runs_on_a_toy_without_a_gpu(ran):
    said = ran("--tiny", "--device", "cpu", script="gpu.py")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines() if line.startswith("| ")]
    rows = {(what, name): rest for what, name, *rest in cells}
    judged = [f"evaluate {n} labels" for n in (2, 14)] + ["generate text"]
    asked = {(what, name) for what in judged for name in ("floor", "neuroscope")}
    asked |= {("attribution", "neuroscope grad-x-act"), ("ablation", "ablation of 10 %")}
    asked |= {("a training step", f"logits at {where}") for where in ("all positions", "scored ones")}
    asked |= {(what, "lm-eval HFLM") for what in judged} | {("ablation", "Bridge, fwd_hooks")}
    asked.add(("attribution", "nnsight trace, a * g"))
    assert asked <= set(rows)
    for row in asked:
        assert float(rows[row][0]) > 0 and rows[row][1] and rows[row][2], row
    assert rows["generate text", "floor"][1].startswith("1.00 (1.00 to 1.00)")


def test_the_gpu_benchmark_leaves_out_other_libraries_if_asked():
    assert has("nnsight", SimpleNamespace(alone=False)) and not has("nnsight", SimpleNamespace(alone=True))
    assert not has("no_such_library", SimpleNamespace(alone=False))


def test_a_difference_answers_only_where_its_interval_lies_on_one_side():
    over = "points over 6 runs on the same test examples"
    assert answered("Do masks help", 0.1, 0.02, 0.18, 6) == f"yes: +10.0 [2.0, 18.0] {over}"
    assert answered("Do masks help", -0.1, -0.18, -0.02, 6) == f"no, the contrary: -10.0 [-18.0, -2.0] {over}"
    assert answered("How much is it", -0.1, -0.18, -0.02, 6) == f"a loss: -10.0 [-18.0, -2.0] {over}"
    assert answered("How much is it", 0.1, -0.02, 0.22, 6) == f"**not shown**: +10.0 [-2.0, 22.0] {over}"
    assert answered("How much is it", 0.1, float("nan"), float("nan"), 1) == "**not shown**: +10.0 points, one run"


# --- rates of the comparison of continual learning, on a made-up landscape


class Landscape:
    """A lab whose methods are best at a rate of their own, and diverge above another."""

    def __init__(self, best, diverges=10.0):
        self.best, self.diverges, self.asked = best, diverges, []

    def trained_as(self, name):
        return "ncft" if name == "w-ncft" else name

    def grid(self, name):
        return usual_grid(name)

    def learn(self, name, lr, tuning):
        assert tuning
        self.asked.append((name, lr))
        if lr > self.diverges:
            raise NumericalError("train", "a loss that is not finite", "give a lower lr")
        score = 1 / (1 + abs(math.log(lr / self.best)))
        return SimpleNamespace(metrics=lambda: pd.DataFrame({"average accuracy": [score]}))


@pytest.mark.parametrize("best", [3e-4, 1e-3, 3e-3, 1e-4, 3e-5, 1e-2])
def test_a_grid_grows_until_the_best_rate_has_worse_ones_on_both_sides(best, tmp_path):
    lab = Landscape(best)
    rates = Rates(lab, tmp_path / "rates.json")
    assert not rates.known("seqft")
    found = rates.best("seqft")
    assert abs(math.log(found / best)) <= math.log(10) / 4 + 0.06  # half a step of the grid
    assert not rates.at_edge("seqft") and min(rates.tried["seqft"]) < found < max(rates.tried["seqft"])
    asked = list(lab.asked)
    assert len(asked) == len(set(asked))
    again = Rates(lab, tmp_path / "rates.json")
    assert again.known("seqft") and again.best("seqft") == found and lab.asked == asked  # nothing is tried twice
    with pytest.raises(KeyError):
        again.at_edge("ewc")


def test_a_grid_ends_somewhere_and_says_so(tmp_path):
    rates = Rates(Landscape(1e-12), None)
    assert rates.best("seqft") == min(rates.tried["seqft"]) and rates.at_edge("seqft")
    assert len(rates.tried["seqft"]) <= 8
    diverging = Rates(Landscape(1.0, diverges=2e-3), None)
    assert diverging.best("seqft") == 9.5e-4 and not diverging.at_edge("seqft")
    taken = Rates(Landscape(1e-3), None)
    assert taken.best("w-ncft") == taken.best("ncft") and list(taken.tried) == ["ncft"]


def test_a_section_is_put_in_the_place_of_the_one_before(tmp_path):
    path = tmp_path / "REAL.md"
    path.write_text("# Title\n\n## F2: other\n\ntext\n")
    put(f"{HEADING}\n\nfirst", path)
    put(f"{HEADING}\n\nsecond", path)
    assert path.read_text() == f"# Title\n\n## F2: other\n\ntext\n\n{HEADING}\n\nsecond\n"
    path.write_text(path.read_text() + "\n## Z: last\n")
    put(f"{HEADING}\n\nthird", path)
    assert path.read_text() == f"# Title\n\n## F2: other\n\ntext\n\n{HEADING}\n\nthird\n\n## Z: last\n"
    put(f"{HEADING}, on another\n\nfourth", path)
    put(f"{HEADING}, on another\n\nfifth", path)
    assert path.read_text().endswith(f"{HEADING}\n\nthird\n\n## Z: last\n\n{HEADING}, on another\n\nfifth\n")


def test_words_about_sequences_are_of_the_numbers(tmp_path):
    """Each sentence against a number that is computed here from the runs' scores."""
    tasks = load_tasks("praise,asks-who", train=16, discovery=8, test=16).values()
    how = {"recipe": {"steps": 2, "lr": 1e-3}, "seeds": (0, 1)}
    parts = {
        name: continual("mini", tasks, name, **how, output=tmp_path / "runs" / name / "lr-0.001")
        for name in ("seqft", "ffn", "epi")
    }
    lab = SimpleNamespace(tasks=list(tasks), trained_as=lambda name: name)
    rates = SimpleNamespace(at_edge=lambda name: name == "ffn")
    words = Found(Continual.join(parts.values()), parts, rates, lab).words()
    means = {}
    for name, part in parts.items():
        last = part.table[part.table["stage"] == 2]
        means[name] = last.groupby("seed")["score"].mean()
    gaps = (means["ffn"] - means["seqft"]).to_numpy()
    low, high = mean_interval(gaps)
    question = "How much of it is leaving all but the FFNs alone"
    assert f"- {question} (ffn against seqft)? {answered(question, gaps.mean(), low, high, 2)}." in words
    best = max(means, key=lambda name: means[name].mean())
    assert words.startswith(f"Best is {best} with {100 * means[best].mean():.1f} %.")
    logs = [json.loads(p.read_text())["log"] for p in (tmp_path / "runs" / "epi").rglob("stage-2.json")]
    assert len(logs) == 2
    own = [sum(log["routed"][task.name][task.name] for task in tasks) / 2 for log in logs]
    assert f"epi sent {50 * sum(own):.1f} % of the test prompts to their own task's part (2 runs)." in words
    assert "seqft sent" not in words and words.endswith("- The best rate lies at the edge of the grid for ffn.")


ONCE = """
import pytest

@pytest.fixture
def benchmark():
    def once(call, *arguments):
        return call(*arguments)
    return once

def pytest_configure(config):
    config.addinivalue_line("markers", "benchmark(group): of pytest-benchmark")
"""


def test_what_the_speed_suite_times_does_what_it_is_for(tmp_path):
    (tmp_path / "once.py").write_text(ONCE)  # in the place of pytest-benchmark, which is an extra
    command = [sys.executable, "-m", "pytest", "-q", "-p", "once", "-p", "no:benchmark", "-p", "no:cacheprovider"]
    paths = os.pathsep.join(map(str, (tmp_path, BENCHMARKS, BENCHMARKS.parent)))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {"PYTHONPATH": paths}
    done = subprocess.run([*command, BENCHMARKS / "test_speed.py"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.split()[0] == "." * 13
