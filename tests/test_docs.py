"""The code of the README, of the docs' pages and of the tutorials runs, and they name only what exists."""

import inspect
import os
import re
from pathlib import Path

import nbclient
import nbformat
import pages
import pytest
from jupyter_client.manager import start_new_kernel

import neuroscope

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TUTORIALS = [
    pytest.param(path, id=path.stem, marks=pytest.mark.xdist_group("tutorials"))
    for path in sorted((ROOT / "tutorials").glob("*.ipynb"))
]


PAGES = [
    pytest.param(path, id=path.relative_to(ROOT).with_suffix("").as_posix(), marks=pytest.mark.slow)
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if path.parent.name != "tutorials" and any(not why for *_, why in pages.blocks(path))
]
PROSE = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("path", PAGES)
def test_a_pages_code_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pages.run(path)


def test_the_blocks_of_a_page_are_run(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n<!-- not run: why -->\n```python\nx = 2\n```\n```pycon\n>>> x\n1\n```\n")
    assert pages.run(page)["x"] == 1
    for wrong in (
        "```python\n1 / 0\n```\n",
        "```pycon\n>>> 1\n2\n```\n",
        '=== "a"\n\n    ```python\n    1 / 0\n    ```\n',
    ):
        page.write_text(wrong)
        with pytest.raises((ZeroDivisionError, AssertionError)):
            pages.run(page)


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_pages_name_only_what_there_is(path):
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"\bns\.(\w+)", text)) - set(neuroscope.__all__) <= {"NAME", "abalte"}
    for space in ("experiments", "interop", "similarity"):
        named = set(re.findall(rf"\bns\.{space}\.(\w+)", text))
        assert named <= {*getattr(neuroscope, space).__all__, "NAME"}
    paths = re.findall(r"(?<![\w/])(?:neuroscope|assets|benchmarks|tutorials|docs|tests)/[\w/.-]+\.\w+", text)
    assert [p for p in paths if not (ROOT / p).exists() and not (path.parent / p).exists()] == []


EXTRAS = {"benchmark"}  # what their examples run is installed with an extra


@pytest.mark.parametrize("space", [neuroscope, neuroscope.experiments], ids=lambda space: space.__name__)
def test_every_public_name_has_an_example_that_runs(space):
    docs = {name: inspect.getdoc(thing) or "" for name in space.__all__ if callable(thing := getattr(space, name))}
    assert len(docs) > 20
    assert [name for name, text in docs.items() if ">>>" not in text] == []
    assert {name for name, text in docs.items() if "+SKIP" in text} <= EXTRAS


def test_the_readme_fits_on_two_screens():
    assert len(README.splitlines()) < 120


@pytest.fixture(scope="module")
def kernel():
    """One kernel for all notebooks: to open the libraries in each would take longer than some of them.

    Each begins without the names of those before it; that it imports all it needs is seen by docs/tutorials.py, which
    runs a notebook that was changed in a kernel of its own.
    """
    manager, client = start_new_kernel(kernel_name="python3", env=os.environ | {"PYTHONPATH": str(ROOT)})
    client.stop_channels()
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.slow
@pytest.mark.parametrize("path", TUTORIALS)
def test_tutorial_runs(path, kernel):
    notebook = nbformat.read(path, as_version=4)
    fresh = nbformat.v4.new_code_cell("%reset -f")
    notebook.cells.insert(0, fresh)
    try:
        nbclient.NotebookClient(notebook, km=kernel, timeout=300).execute()
    except BaseException:
        kernel.restart_kernel(now=True)  # or what it is still busy with would stop the next ones
        raise
    figures = [
        o
        for c in notebook.cells
        if c.cell_type == "code"
        for o in c.outputs
        if "application/vnd.plotly.v1+json" in o.get("data", {})
    ]
    assert len(figures) >= 6
