"""The README's code and the tutorials run, and the README names only what exists."""

import os
import re
from pathlib import Path

import nbclient
import nbformat
import pytest

import neuroscope
from neuroscope.experiments.table import EXPERIMENTS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TUTORIALS = [
    pytest.param(path, id=path.stem, marks=pytest.mark.xdist_group(path.stem))
    for path in sorted((ROOT / "tutorials").glob("*.ipynb"))
]


@pytest.mark.slow
def test_readme_python_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    namespace: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    assert "sentiment-food: accuracy" in capsys.readouterr().out
    assert set(namespace["crossed"].verdicts()["task"]) == set(namespace["names"])


def test_readme_names_only_public_functions():
    named = set(re.findall(r"\bns\.(\w+)", README))
    assert named
    assert named <= set(neuroscope.__all__)


def test_readme_names_only_existing_files():
    paths = re.findall(r"(?:neuroscope|assets|benchmarks|tutorials)/[\w/.]+\.\w+", README)
    assert len(paths) > 5
    assert [p for p in paths if not (ROOT / p).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", TUTORIALS)
def test_tutorial_runs(path, monkeypatch):
    monkeypatch.setitem(os.environ, "PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    figures = [
        o
        for c in notebook.cells
        if c.cell_type == "code"
        for o in c.outputs
        if "application/vnd.plotly.v1+json" in o.get("data", {})
    ]
    assert len(figures) >= 6


def test_readme_lists_every_experiment_as_the_table_has_it():
    listed = dict(re.findall(r"^\| ([TFZCHP][\w-]+) \| (.+?) \| `", README, re.MULTILINE))
    assert listed == {row.id: row.title for row in EXPERIMENTS.values()}
