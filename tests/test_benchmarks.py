"""The benchmark on a real model, run on one that is not: it goes on where it was, and writes down what it found."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from neuroscope.tasks import load_tasks

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "real.py"
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


def ran(*words):
    done = subprocess.run([sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_real_measurement_is_made_once_and_written_down(data, tmp_path):
    out = tmp_path / "out"
    given = ["--base", "mini", "--data", data, "--out", out, "--tasks", ",".join(NAMES), "--threads", 1]
    given += ["--tune-steps", 1, "-n", 4, "--n-random", 3]
    said = ran(*given, "T1", "T8")
    assert "T1: about" in said and said.strip().endswith("report.html")
    assert (out / "report.html").stat().st_size > 1e5
    measured = (out / "journal.jsonl").read_text()
    tuned = (out / "tuned" / "model.safetensors").stat().st_mtime_ns
    ran(*given, "T1")
    assert (out / "journal.jsonl").read_text() == measured  # nothing was measured again
    assert (out / "tuned" / "model.safetensors").stat().st_mtime_ns == tuned
    ran("--out", out, "--write", tmp_path / "REAL.md")
    written = (tmp_path / "REAL.md").read_text()
    assert (
        written.count("\n## ") == 2
        and "Llama-2-7b" in written
        and "agrees in sign" in written
        and str(tmp_path) not in written
    )
