"""What the project requires is what it imports; its version stands in one place."""

import ast
import functools
import re
import tomllib
from importlib import metadata
from pathlib import Path

import lowest
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import neuroscope

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# the toolkits whose models are opened: recognised by their modules' names, so that nobody pays for importing them
RECOGNISED = {"transformer-lens", "nnsight"}
MODULES = {"scikit-learn": "sklearn"}  # package -> what it is imported as, where the names differ
EXTRAS = {"argcomplete", "lm-eval", "gguf"}  # imported where they are installed


@functools.cache
def imported():
    """The top-level modules that files of the package import, at any depth."""
    found = set()
    for path in (ROOT / "neuroscope").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found


def packages(requirements):
    return {re.match(r"[\w-]+", text).group() for text in requirements}


def test_what_is_required_is_imported():
    unused = {
        name
        for name in packages(PROJECT["dependencies"]) - RECOGNISED
        if MODULES.get(name, name.replace("-", "_")) not in imported()
    }
    assert unused == set()


def test_what_is_imported_is_required():
    assert all(packages(PROJECT["optional-dependencies"][extra]) == {extra} for extra in EXTRAS)
    required = {MODULES.get(name, name.replace("-", "_")) for name in packages(PROJECT["dependencies"]) | EXTRAS}
    known = (
        required | set(__import__("sys").stdlib_module_names) | {"neuroscope", "IPython"}
    )  # where there is a notebook
    assert imported() - known == set()


def test_the_built_files_have_what_the_package_and_its_tests_read():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"]["packages"] == ["neuroscope"]
    assert (ROOT / "neuroscope" / "py.typed").is_file() and (ROOT / "neuroscope" / "__init__.pyi").is_file()
    for source, target in build["wheel"]["force-include"].items():
        assert (ROOT / source / "model.safetensors").is_file() and target.startswith("neuroscope/")
    included = set(build["sdist"]["include"])
    assert [name for name in included if not (ROOT / name).exists()] == []
    read = set(re.findall(r'ROOT / "([\w.-]+)"', "".join(path.read_text() for path in (ROOT / "tests").glob("*.py"))))
    assert read - included - {"pyproject.toml", ".github"} == set(), "tests read it: put it into the source archive"


def test_the_lowest_versions_are_those_of_the_project():
    pins = lowest.lowest(PROJECT["dependencies"])
    assert "transformers==5.9" in pins and "einops==0.8" in pins and not any(pin.startswith("torch==") for pin in pins)
    assert len(pins) == len(PROJECT["dependencies"]) - 1


def test_the_version_stands_in_one_place():
    assert "version" not in PROJECT and PROJECT["dynamic"] == ["version"]
    assert neuroscope.__version__ == metadata.version("neuroscope")


def test_every_package_of_the_environment_is_pinned_and_suits_those_that_ask_for_it():
    """One pin that another package refuses sends pip looking through every version of everything."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pins = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines}
    assert len(pins) == len(lines)
    waiting, seen = [("neuroscope", ""), ("neuroscope", "dev"), ("neuroscope", "docs")], set()
    while waiting:
        package, extra = waiting.pop()
        if (package, extra) in seen:
            continue
        seen.add((package, extra))
        for requirement in map(Requirement, metadata.requires(package) or []):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
                continue
            name = canonicalize_name(requirement.name)
            assert name in pins, f"{package} needs {requirement}: write its version into constraints.txt"
            assert requirement.specifier.contains(pins[name], prereleases=True), f"{package} needs {requirement}"
            waiting += [(name, "")] + [(name, one) for one in requirement.extras]
    assert len(seen) > 100


def test_a_files_tests_stay_in_one_process(request):
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("one process, or another --dist: as `make test` runs them, groups are kept")
    assert request.node.nodeid.endswith("@tests/test_packaging.py"), "groups were marked too late, or are not read"
