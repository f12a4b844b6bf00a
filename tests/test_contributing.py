"""What CONTRIBUTING says of adding a thing is all there is to it; and the files around the package say what is so."""

import re
import sys
import tomllib
import types
from pathlib import Path

import pages
import pytest
import yaml

import neuroscope
from neuroscope.attribution import METHODS, OBJECTIVES
from neuroscope.experiments.table import EXPERIMENTS
from neuroscope.tasks.catalogue import CATALOGUE
from neuroscope.tasks.metrics import METRICS

ROOT = Path(__file__).resolve().parents[1]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
TABLES = {"methods": METHODS, "objectives": OBJECTIVES, "metrics": METRICS, "catalogue": CATALOGUE, "ids": EXPERIMENTS}
ADDED = {"methods": "quiet", "objectives": "margin", "metrics": "first-word", "catalogue": "reviews", "ids": "T99"}


@pytest.fixture
def tables():
    """They are as before after the test."""
    before = {name: dict(table) for name, table in TABLES.items()}
    yield
    for name, table in TABLES.items():
        table.clear()
        table.update(before[name])


@pytest.mark.slow
def test_each_kind_of_row_is_all_that_it_takes(tables, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("contributed")  # the row of an experiment names its function's module
    monkeypatch.setitem(sys.modules, "contributed", module)
    pages.run(CONTRIBUTING, vars(module))
    assert [name for name, table in TABLES.items() if ADDED[name] not in table] == []
    said = capsys.readouterr().out
    assert "NeuronMask(3 of 2,048 hidden neurons" in said and "('no', 'yes')" in said
    assert "judged: first-word" in said
    assert (tmp_path / "letters" / "T99.html").exists()


def test_it_names_only_files_and_tables_that_there_are():
    text = CONTRIBUTING.read_text(encoding="utf-8")
    paths = re.findall(r"`((?:neuroscope|tests|benchmarks|docs)/[\w/.-]*)`", text)
    assert len(paths) > 12 and [path for path in paths if not (ROOT / path).exists()] == []
    for page in (text, (ROOT / "AGENTS.md").read_text(encoding="utf-8")):
        folders = re.findall(r"`(\w+)/`", page)
        assert len(folders) > 5
        assert [f for f in folders if not (ROOT / f).exists() and not (ROOT / "neuroscope" / f).exists()] == []
    kinds = re.findall(r"^## How to add an? (.+)$", text, re.MULTILINE)
    assert kinds == ["method of attribution", "objective", "metric", "task", "experiment", "model family"]


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == neuroscope.__version__ and citation["license"] == project["license"]
    assert {paper["url"] for paper in citation["references"]} <= set(
        re.findall(r"https://arxiv\.org/abs/[\d.]+", (ROOT / "README.md").read_text(encoding="utf-8"))
    )


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.stem)
def test_workflows_run_targets_that_there_are(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    called = re.findall(r"make ([\w-]+)", "\n".join(steps))
    assert called and set(called) <= targets
    assert workflow["permissions"] == {"contents": "read"}


def test_what_is_said_of_security_is_so():
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "neuroscope").rglob("*.py")}
    assert [path.name for path, text in sources.items() if re.search(r"pickle\.loads?\(|Unpickler\(", text)] == []
    loads = [call for text in sources.values() for call in re.findall(r"torch\.load\([^)]*\)", text)]
    assert loads and [call for call in loads if "weights_only=True" not in call] == []
    assert [path.name for path, text in sources.items() if "trust_remote_code=True" in text] == []
