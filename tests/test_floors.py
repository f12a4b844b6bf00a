"""The house's floors: imports go strictly down; the library is quiet and light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "neuroscope"
FLOORS = [
    {"errors", "markup"},
    {"annotations", "files"},
    {"checks"},
    {"arrays"},
    {"distributed", "figures", "results", "statistics"},
    {"models"},
    {"masks"},
    {"tasks"},
    {"interventions"},
    {"attribution", "evaluation", "interop"},
    {"comparison", "training"},
    {"reading", "removal"},
    {"experiments"},
    {"reports"},
    {"__init__"},  # imports nothing before a name is used
    {"command_line"},
    {"__main__"},
]
FLOOR = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
FILES = sorted(PACKAGE.rglob("*.py"))


def unit_of(parts):
    """The module or package directly under neuroscope that a file or a dotted name belongs to."""
    return parts[0].removesuffix(".py") if parts else "__init__"


def imported(tree):
    """Names of neuroscope modules (without `neuroscope.`) that a file imports at any depth, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "neuroscope":
                    yield alias.name.removeprefix("neuroscope").removeprefix("."), node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            if node.module == "neuroscope":
                yield from ((alias.name, node.lineno) for alias in node.names)
            elif node.module and node.module.startswith("neuroscope."):
                yield node.module.removeprefix("neuroscope."), node.lineno


def up_or_sideways(path, source):
    """What a file imports that is not strictly below it."""
    importer = unit_of(path.relative_to(PACKAGE).parts)
    wrong = []
    for name, line in imported(ast.parse(source)):
        target = unit_of(name.split(".") if name else [])
        if target == importer and importer != "__init__":
            continue  # files of one package may import each other
        if target not in FLOOR:
            wrong.append(f"{path.name}:{line} imports {target!r}, which is no module (the root's names are for users)")
        elif FLOOR[target] >= FLOOR[importer]:
            floors = f"floor {FLOOR[importer]} imports floor {FLOOR[target]}"
            wrong.append(f"{path.name}:{line} {importer} imports {target}: {floors}")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_strictly_down(path):
    assert unit_of(path.relative_to(PACKAGE).parts) in FLOOR, "give the new module a floor"
    assert up_or_sideways(path, path.read_text()) == []


def test_the_check_itself_sees_wrong_imports():
    masks = PACKAGE / "masks" / "neurons.py"
    assert up_or_sideways(masks, "from neuroscope.errors import public\nfrom neuroscope import figures") == []
    for wrong in (
        "from neuroscope.tasks import load_tasks",
        "import neuroscope.tasks.task",
        "from neuroscope import attribute",
        "import neuroscope",
        "def f():\n    from neuroscope import interventions",
        "if TYPE_CHECKING:\n    from neuroscope.evaluation import x",
    ):
        assert len(up_or_sideways(masks, wrong)) == 1, wrong
    assert up_or_sideways(PACKAGE / "models" / "lens.py", "from neuroscope.models.model import Model") == []


def files_imported(source, files):
    """Which of the files (dotted names) a file imports, at any depth and for types alone too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:  # of a module, or of something in one
            found |= {next((n for n in (name, name.rpartition(".")[0]) if n in files), "")}
    return found - {""}


def circles(sources):
    """Groups of files (dotted name -> source) that import each other, directly or through others."""
    imports = {name: files_imported(source, sources) for name, source in sources.items()}

    def reached(name):
        seen, ahead = set(), [name]
        while ahead:
            new = imports[ahead.pop()] - seen
            seen |= new
            ahead += new
        return seen

    beyond = {name: reached(name) for name in sources}
    return sorted({tuple(sorted(n for n in beyond[name] if name in beyond[n])) for name in sources} - {()})


def test_no_files_import_each_other():
    names = [path.relative_to(PACKAGE.parent).with_suffix("").parts for path in FILES]
    dotted = [".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in names]
    assert circles({name: path.read_text() for name, path in zip(dotted, FILES, strict=True)}) == []


def test_the_check_itself_sees_circles():
    sources = {
        "p.a": "def f():\n    from p.b import g",
        "p.b": "if TYPE_CHECKING:\n    from p import c",
        "p.c": "import p.a",
        "p.d": "from p.a import f",
        "p": "from p.d import x",
    }
    assert circles(sources) == [("p.a", "p.b", "p.c")]
    assert circles(sources | {"p.c": "from p.other import a"}) == []
    assert circles({"p": "from p.a import f", "p.a": "from p import f"}) == [("p", "p.a")]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_command_line_prints(path):
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    prints = [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
    assert not prints or path.name == "__main__.py", f"print() at lines {prints}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_touches_global_state(path):
    """Neither the global random generators nor torch's global switches."""
    forbidden = {
        "torch.manual_seed", "torch.cuda.manual_seed_all", "random.seed", "np.random.seed", "numpy.random.seed",
        "torch.set_grad_enabled", "torch.set_default_dtype", "torch.set_default_device", "torch.set_num_threads",
        "torch.use_deterministic_algorithms", "transformers.set_seed", "warnings.simplefilter", "logging.disable",
    }  # fmt: skip
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    if path.name == "checks.py":  # sets the default dtype for one call, and restores the caller's
        forbidden.remove("torch.set_default_dtype")
    if path.parts[-2:] == ("actions", "sharing.py"):  # of a command's own process, and as it was afterwards
        forbidden.remove("torch.set_num_threads")
    found = [f"{ast.unparse(c.func)} at line {c.lineno}" for c in calls if ast.unparse(c.func) in forbidden]
    assert not found or path.name == "__main__.py"


def test_importing_the_package_is_light():
    heavy = ["transformers", "plotly", "pandas", "nnsight", "transformer_lens", "peft", "datasets", "sklearn"]
    code = f"import neuroscope, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_files_are_short():
    lengths = {str(p.relative_to(PACKAGE)): len(p.read_text().splitlines()) for p in FILES}
    assert {name: n for name, n in lengths.items() if n > 400} == {}
