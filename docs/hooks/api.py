"""Pages of the reference, one per room of the package, written off the lists of public names.

A name that is added to `neuroscope/__init__.pyi` has its place here by itself: an anchor `ns.NAME` on the page of the
room that it comes from.
"""

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "neuroscope"
SPACES = {  # public names that are modules, whose own names are public too
    "experiments": ("neuroscope.experiments", PACKAGE / "experiments" / "__init__.pyi"),
    "interop": ("neuroscope.interop", PACKAGE / "interop" / "__init__.py"),
    "similarity": ("neuroscope.comparison.similarity", PACKAGE / "comparison" / "similarity" / "__init__.py"),
}
# room -> title and what it is for; a room that is missing here gets a page under its own name
ROOMS = {
    "models": ("Models", "Open a model, whatever it is, and find its neurons."),
    "tasks": ("Tasks", "What a model is asked, and how its answers are judged."),
    "attribution": ("Scores of neurons", "Which neurons a task uses."),
    "masks": ("Masks", "Sets of neurons, and how far they overlap."),
    "interventions": ("Interventions", "Switch neurons off, scale them, push them, or give them other values."),
    "evaluation": ("Evaluation", "Judge a model on a task, under whatever is live on it."),
    "reading": ("Reading neurons", "Where neurons fire, what they read and write."),
    "comparison": ("Comparison", "Tasks and models beside each other, layer by layer."),
    "removal": ("Smaller models", "Take neurons and heads out for good."),
    "training": ("Training", "Train some neurons and nothing else."),
    "experiments": (
        "Experiments",
        "The papers' tables and figures; whose neurons are whose.",
    ),
    "similarity": ("Similarity of arrays", "Measures of two arrays of activations, without any model."),
    "interop": ("Other tools", "To and from TransformerLens, nnsight, LAPE and lm-evaluation-harness."),
    "reports": ("Reports", "Whole runs, as offline pages."),
    "results": ("Results", "What functions return: tables that say themselves."),
    "errors": ("Errors", "The parent of all errors; [each family has a page](../errors/index.md)."),
}


@dataclass(frozen=True)
class Name:
    """A public name.

    Attributes:
        said: what users write, without `ns.`: "attribute", "experiments.deactivation".
        path: where it is defined or imported: "neuroscope.attribution.attribute".
        room: the page it stands on.
    """

    said: str
    path: str
    room: str

    @property
    def anchor(self) -> str:
        return f"ns.{self.said}"


@functools.cache
def tree_of(file: Path) -> ast.Module:
    """A file's source as a tree; most files are asked for often."""
    return ast.parse(file.read_text(encoding="utf-8"))


def listed(stub: Path, package: str) -> Iterator[tuple[str, str]]:
    """(name, full path) of everything that a package's list of names imports."""
    for node in tree_of(stub).body:
        if isinstance(node, ast.ImportFrom):
            module = f"{package}.{node.module}" if node.level and node.module else node.module or package
            yield from ((alias.asname or alias.name, f"{module}.{alias.name}") for alias in node.names)


def public_names() -> list[Name]:
    """Every public name, of the package and of its public modules."""
    found = []
    for said, path in listed(PACKAGE / "__init__.pyi", "neuroscope"):
        if said not in SPACES:
            found.append(Name(said, path, path.split(".")[1]))
    for space, (package, stub) in SPACES.items():
        public = set(_all_of(stub))
        found += [Name(f"{space}.{said}", path, space) for said, path in listed(stub, package) if said in public]
    return found


def _all_of(stub: Path) -> list[str]:
    for node in tree_of(stub).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    return [
        alias.asname
        for node in tree_of(stub).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    ]


def results() -> list[tuple[str, str]]:
    """(class, full path) of every kind of result, by name."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef) and "Result" in [getattr(base, "id", "") for base in node.bases]:
                found.append((node.name, f"{module}.{node.name}"))
    return sorted(found)


def block(heading: str, anchor: str, path: str, level: int = 2) -> str:
    """One name's part of a page."""
    options = {"heading": heading, "heading_level": level, "show_root_heading": True, "show_root_toc_entry": True}
    lines = [f"      {option}: {str(value).lower() if value is True else value}" for option, value in options.items()]
    return "\n".join([f'<a id="{anchor}"></a>', "", f"::: {path}", "    options:", *lines, ""])


def elsewhere(heading: str, anchor: str, name: Name) -> str:
    """A second name of what has its part already: each is shown once."""
    return f"## {heading} {{ #{anchor} }}\n\nSee [`{name.anchor}`]({name.room}.md#{name.anchor}).\n"


def pages() -> dict[str, str]:
    """Path of a page in the site -> its Markdown."""
    names = public_names()
    rooms = [*ROOMS, *sorted({name.room for name in names} - set(ROOMS))]
    shown: dict[str, Name] = {}  # where it is defined -> the first name that it has
    for name in names:
        shown.setdefault(origin(name.path)[0], name)
    written = {}
    for room in rooms:
        title, purpose = ROOMS.get(room, (room.capitalize(), ""))
        here = sorted((name for name in names if name.room == room), key=lambda name: name.said.lower())
        parts = [f"# {title}\n\n{purpose}\n"]
        if room in SPACES:
            parts.append(f"`import neuroscope as ns`, then `ns.{room}.NAME`.\n")
        for name in [name for name in here if not _is_table(name)]:
            first = shown[origin(name.path)[0]]
            again = elsewhere(name.anchor, name.anchor, first)
            parts.append(block(name.anchor, name.anchor, name.path) if first is name else again)
        tables = [name for name in here if _is_table(name)]
        for name in tables:
            parts.append(f"## `{name.anchor}` {{ #{name.anchor} }}\n\nA table by name: `list(ns.{name.said})`.\n")
        if room == "results":
            parts.append(RESULT)
            for kind, path in results():
                anchor = f"result.{kind}"
                again = elsewhere(kind, anchor, shown[path]) if path in shown else ""
                parts.append(again or block(kind, anchor, path))
        written[f"api/{room}.md"] = "\n".join(parts)
    written["api/index.md"] = index(names)
    return written


RESULT = """## What every result can do { #result }

::: neuroscope.results.Result
    options:
      heading_level: 3
"""


def _is_table(name: Name) -> bool:
    return name.said.split(".")[-1].isupper() and name.said.split(".")[-1] != "CKA"


def origin(path: str) -> tuple[str, ast.FunctionDef | ast.ClassDef | None]:
    """Full path and definition of a public name, read off the source: packages pass names on."""
    module, _, name = path.rpartition(".")
    for _ in range(8):
        file = ROOT / Path(*module.split("."))
        file = file.with_suffix(".py") if file.with_suffix(".py").exists() else file / "__init__.py"
        stub = file.with_suffix(".pyi") if file.with_suffix(".pyi").exists() else file
        for node in reversed(tree_of(file).body):  # overloads come first
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
                return f"{module}.{name}", node
        onward = dict(listed(stub, module))
        if name not in onward:
            return path, None
        module, _, name = onward[name].rpartition(".")
    return path, None


def definition(path: str) -> ast.FunctionDef | ast.ClassDef | None:
    """Where a public name is defined."""
    return origin(path)[1]


def summary(path: str) -> str:
    """The first sentence of a docstring."""
    node = definition(path)
    said = (ast.get_docstring(node) or "") if node else ""
    return said.split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def as_text() -> str:
    """Every public name with its arguments and its docstring, for readers without a browser."""
    parts = ["# Reference"]
    for name in public_names():
        node = definition(name.path)
        if node is not None:
            called = f"({ast.unparse(node.args)})" if isinstance(node, ast.FunctionDef) else ""
            parts.append(f"## {name.anchor}{called}\n\n{ast.get_docstring(node) or ''}")
    return "\n\n".join(parts)


def index(names: list[Name]) -> str:
    """The reference's first page: every public name in one table per room."""
    parts = [
        "# Reference\n\nEvery public name, by what it is for. `import neuroscope as ns`; all else is private and may "
        "change. What a word means as an argument is the same everywhere: see [the vocabulary](vocabulary.md).\n"
    ]
    rooms = [*ROOMS, *sorted({name.room for name in names} - set(ROOMS))]
    for room in rooms:
        title = ROOMS.get(room, (room.capitalize(), ""))[0]
        parts.append(f"## [{title}]({room}.md)\n")
        if room == "results":
            parts.append("Every [result](results.md#result) has a table, words, a figure, a file and a manifest.\n")
        rows = [
            f"| [`{name.anchor}`]({room}.md#{name.anchor}) | {summary(name.path)} |"
            for name in sorted(names, key=lambda name: name.said.lower())
            if name.room == room
        ]
        parts.append("\n".join(["| name | what |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)
