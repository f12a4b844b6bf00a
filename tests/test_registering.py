"""A method, a learner, an experiment and a figure are each one function and one row: all else reads the tables."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from neuroscope.__main__ import main
from neuroscope.attribution import METHODS
from neuroscope.experiments.table import EXPERIMENTS
from neuroscope.figures import FIGURES
from neuroscope.training import continual_learning

TABLES = (METHODS, EXPERIMENTS, FIGURES, continual_learning.METHODS)
TASKS = "sentiment-food,nli-food"

# a module of somebody's own: four functions, four rows
ADDED = '''
from dataclasses import dataclass

import pandas as pd

from neuroscope.attribution import METHODS, Method
from neuroscope.experiments.table import EXPERIMENTS, Experiment
from neuroscope.figures import FIGURES, Kind, bars_with_band
from neuroscope.results import Result
from neuroscope.training import continual_learning


def by_place(scoring):
    """Relevance that grows along each site."""
    return {address: value.cumsum(0) for address, value in METHODS["random"].run(scoring).items()}


def dots(names, letters, *, title, subtitle=""):
    """A bar for each name."""
    bars = {"letters": (letters, None, None)}
    return bars_with_band(names, bars, title=title, subtitle=subtitle, value_label="letters")


@dataclass(frozen=True, repr=False)
class Letters(Result):
    """Letters in the names of tasks."""

    title = "Letters in names"

    def in_words(self):
        """The longest."""
        return f"- The longest name has **{self.table['letters'].max()}** letters."

    def figure(self):
        """A bar for each."""
        return FIGURES["dots"].draw(list(self.table["task"]), list(self.table["letters"]), title="Letters of each")


def letters(tasks):
    """Count the letters in the names of tasks."""
    return Letters(pd.DataFrame({"task": list(tasks), "letters": [len(name) for name in tasks]}), {"seed": 0})


METHODS["by-place"] = Method("by-place", by_place, ("none",), additive=False)
EXPERIMENTS["T99"] = Experiment("T99", "LX24", "letters in the names of tasks", "added_rows:letters", tasks="mini")
FIGURES["dots"] = Kind(dots, {"names": ["a", "bb"], "letters": [1, 2]})
continual_learning.METHODS["again"] = continual_learning.METHODS["seqft"]
'''


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The folder of a module that adds the four rows; they are there for the length of a test."""
    before = [dict(table) for table in TABLES]
    (tmp_path / "added_rows.py").write_text(ADDED)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        importlib.import_module("added_rows")
        yield tmp_path
    finally:
        sys.modules.pop("added_rows", None)
        for table, rows in zip(TABLES, before, strict=True):
            table.clear()
            table.update(rows)


@pytest.mark.slow
def test_the_command_line_and_the_reports_have_what_was_added(added, capsys):
    small = ["--tasks", TASKS, "--examples", "4", "--n", "4"]
    assert main(["run", "--method", "by-place", *small, "--n-random", "3", "--output", str(added / "run")]) == 0
    assert "by-place" in (added / "run" / "report.html").read_text()
    assert main(["reproduce", "--list"]) == 0
    assert "letters in the names of tasks" in capsys.readouterr().out
    assert main(["reproduce", "t99", "--tasks", TASKS, "--output", str(added / "again")]) == 0
    page = (added / "again" / "T99.html").read_text()
    assert "<h2>Letters in names</h2>" in page and "<strong>14</strong> letters" in page and "Letters of each" in page
    learn = ["--methods", "again", "--steps", "1", "--lr", "1e-3", "--seeds", "1"]
    assert main(["reproduce", "T5", *small, *learn, "--output", str(added / "again")]) == 0
    assert "again" in (added / "again" / "tables" / "T5_summary.csv").read_text()
    assert "<strong>again</strong>" in (added / "again" / "T5.html").read_text()


@pytest.mark.slow
def test_the_tests_that_every_row_passes_have_what_was_added(added):
    here = Path(__file__).parent
    files = ["test_attribution.py", "test_continual.py", "test_reproduce.py", "test_figures.py"]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-p", "added_rows"]
    path = os.pathsep.join([str(added), str(here.parent)])
    done = subprocess.run(
        [*command, *(str(here / file) for file in files)], cwd=here.parent, env=os.environ | {"PYTHONPATH": path},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for file, row in zip(files, ("by-place", "again", "T99", "dots"), strict=True):
        tests = [line for line in done.stdout.splitlines() if file in line and row in line.partition("[")[2]]
        assert len(tests) >= 2, (file, row, tests)
