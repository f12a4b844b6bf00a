"""What is written for coding assistants is up to date; and twenty tasks that the docs are enough for."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TASKS = sorted(path for path in (ROOT / "tests" / "assistant_tasks").iterdir() if re.match(r"\d\d_", path.name))
OF_OTHERS = {"numpy", "torch", "pandas", "json"}


def module(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_there_are_twenty():
    assert len(TASKS) == 20
    assert [sorted(p.name for p in task.iterdir() if p.is_file()) for task in TASKS] == [
        ["checker.py", "prompt.md", "solution.py"]
    ] * 20


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_solution_passes_its_checker_and_nothing_does_not(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checker = module(task / "checker.py", f"checker_{task.name}")
    if hasattr(checker, "setup"):
        checker.setup(tmp_path)
    with pytest.raises((KeyError, AssertionError, OSError, ValueError)):
        checker.check({}, tmp_path)
    found = {"__name__": "solution"}
    exec(compile((task / "solution.py").read_text(encoding="utf-8"), str(task / "solution.py"), "exec"), found)
    checker.check(found, tmp_path)


def docs():
    """What a reader of the site has: the pages, and the docstrings of the package."""
    pages = [path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md")]
    texts = []
    for path in (ROOT / "neuroscope").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                arguments = [argument.arg for argument in ast.walk(node) if isinstance(argument, ast.arg)]
                texts += [node.name, ast.get_docstring(node) or "", *arguments]
    return "\n".join(pages + texts)


def test_what_solutions_use_is_in_the_docs():
    known = set(re.findall(r"\w+", docs()))
    for task in TASKS:
        tree = ast.parse((task / "solution.py").read_text(encoding="utf-8"))
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert imported <= OF_OTHERS, "public names only"
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        used |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg}
        ours = {name for name in used if name not in dir(__import__("pandas").DataFrame)}
        assert sorted(ours - known - {"load", "idxmax"}) == [], task.name


def test_what_assistants_read_is_written_from_the_docs():
    writer = module(ROOT / "docs" / "assistants.py", "assistants_of_docs")
    assert set(writer.FILES) >= {"AGENTS.md", "llms.txt", "skills/neuroscope/SKILL.md"}
    for path, text in writer.FILES.items():
        assert (ROOT / path).read_text(encoding="utf-8") == text(), f"python docs/assistants.py writes {path} again"


def test_every_link_of_the_index_is_a_file():
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "llms.txt").read_text(encoding="utf-8"))
    assert len(links) > 30 and [link for link in links if not (ROOT / link).is_file()] == []
