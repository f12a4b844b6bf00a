"""What a function takes, read from its source: name, kind, default and words of every argument, without importing it.

Importing the functions that commands call brings torch, which takes seconds; `--help` reads their files instead.

1. `module:name` is found as a file of the package, and the definition in its syntax tree (of overloads the last).
2. An annotation becomes a `Kind`: plain types, choices, several of these. Names are followed through assignments and
   imports of the package, such as `Unit = Literal["hidden", ...]`.
3. Defaults are read where they are plain values, or names of such in the same file.
4. Words are those of the docstring's "Args:" (of a dataclass, "Attributes:").
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]  # where the package lies
SCALARS = ("int", "float", "str", "bool")
TEXTS = ("Any", "PathLike", "object")  # what a text can be given for
SEVERAL = ("Sequence", "Iterable", "Collection", "tuple", "list")
WRAPPED = ("Optional", "Union")
UNKNOWN = object()  # a default that is no plain value


@dataclass(frozen=True)
class Kind:
    """What an argument may be, as far as a text can say it.

    Attributes:
        scalars: of int, float, str, bool.
        choices: the texts of a Literal.
        several: what each of several values may be; None where there is one value.
        none: whether None is among it.
        others: names of types that no text says.
    """

    scalars: frozenset[str] = frozenset()
    choices: tuple[str, ...] = ()
    several: Kind | None = None
    none: bool = False
    others: frozenset[str] = frozenset()

    def __or__(self, other: Kind) -> Kind:
        return Kind(
            self.scalars | other.scalars,
            tuple(dict.fromkeys((*self.choices, *other.choices))),
            self.several or other.several,
            self.none or other.none,
            self.others | other.others,
        )

    @property
    def can_be_said(self) -> bool:
        """Whether there is a text for some of it."""
        return bool(self.scalars or self.choices or self.several)


@dataclass(frozen=True)
class Parameter:
    """An argument of a function: its name, what it may be, its default, its words.

    Attributes:
        default: a plain value; `UNKNOWN` where it is another; also of an argument without one, which is `required`.
        help: of the docstring; empty where it says nothing.
    """

    name: str
    kind: Kind
    default: Any = UNKNOWN
    required: bool = False
    help: str = ""


@dataclass(frozen=True)
class Source:
    """A file of the package, parsed."""

    module: str
    tree: ast.Module
    names: dict[str, ast.AST] = field(default_factory=dict)


@functools.cache
def parameters(target: str) -> dict[str, Parameter]:
    """The arguments of a function, of a method, or of a dataclass, by name; those that collect others are left out.

    Args:
        target: "module:name", such as "neuroscope.tasks.task:Task.from_jsonl".

    Example:
        >>> one = parameters("neuroscope.evaluation.evaluating:evaluate")["n"]
        >>> sorted(one.kind.scalars), one.kind.none, one.default, one.help
        (['int'], True, None, 'the first n examples; all if None.')
    """
    module, _, path = target.partition(":")
    source = _source(module)
    node: Any = source.tree
    for name in path.split("."):
        node = [one for one in node.body if getattr(one, "name", "") == name][-1]
    if isinstance(node, ast.ClassDef):
        return {one.name: one for one in _fields(node, source)}
    return {one.name: one for one in _arguments(node, source, "." in path)}


def constant(target: str) -> Any:
    """The plain value of a name in a file of the package.

    Example:
        >>> constant("neuroscope.checks:FEWEST_RANDOM")
        3
    """
    module, _, name = target.partition(":")
    source = _source(module)
    return _value(source.names[name], source)


@functools.cache
def _source(module: str) -> Source:
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: dict[str, ast.AST] = {}
    blocks = [one for node in tree.body if isinstance(node, ast.If) for one in node.body]  # imports for types alone
    for node in [*tree.body, *blocks]:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: node for alias in node.names}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names[node.targets[0].id] = node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            names[node.target.id] = node.value
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            names[node.name] = node
    return Source(module, tree, names)


def _arguments(node: ast.FunctionDef, source: Source, is_method: bool) -> Iterator[Parameter]:
    words = _words(ast.get_docstring(node) or "")
    plain = [*node.args.posonlyargs, *node.args.args]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(node.args.defaults)) + list(node.args.defaults)
    pairs = [*zip(plain, defaults, strict=True), *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
    for argument, default in pairs[1:] if is_method else pairs:
        kind = Kind(frozenset({"str"})) if argument.annotation is None else _kind(argument.annotation, source)
        yield Parameter(argument.arg, kind, _value(default, source), default is None, words.get(argument.arg, ""))


def _fields(node: ast.ClassDef, source: Source) -> Iterator[Parameter]:
    words = _words(ast.get_docstring(node) or "", "Attributes:")
    for one in node.body:
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            name = one.target.id
            kind = _kind(one.annotation, source)
            yield Parameter(name, kind, _value(one.value, source), one.value is None, words.get(name, ""))


def _value(node: ast.AST | None, source: Source) -> Any:
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "field":
        node = next((keyword.value for keyword in node.keywords if keyword.arg == "default"), None)
    if isinstance(node, ast.Name):
        node, _ = _followed(node.id, source)
    try:
        return UNKNOWN if node is None else ast.literal_eval(node)
    except ValueError:
        return UNKNOWN


def _kind(node: ast.AST, source: Source) -> Kind:
    """What an annotation says."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _kind(node.left, source) | _kind(node.right, source)
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return _kind(ast.parse(node.value, mode="eval").body, source)
        return Kind(none=node.value is None)
    if isinstance(node, ast.Subscript):
        return _subscript(node, source)
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    if name in SCALARS:
        return Kind(frozenset({name}))
    if name in TEXTS:
        return Kind(frozenset({"str"}))
    return _alias(name, source)


def _subscript(node: ast.Subscript, source: Source) -> Kind:
    name = ast.unparse(node.value).rpartition(".")[2]
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name == "Literal":
        return Kind(choices=tuple(str(part.value) for part in parts if isinstance(part, ast.Constant)))
    if name in WRAPPED:
        kinds = [_kind(part, source) for part in parts]
        return functools.reduce(Kind.__or__, kinds, Kind(none=name == "Optional"))
    if name in SEVERAL:
        inner = _kind(parts[0], source)
        return Kind(several=inner) if inner.can_be_said else Kind(others=inner.others | {name})
    return Kind(frozenset({"str"})) if name in TEXTS else Kind(others=frozenset({name}))


def _alias(name: str, source: Source) -> Kind:
    """A name that stands for other types, followed to where it is written down."""
    found, source = _followed(name, source)
    is_type = isinstance(found, ast.Subscript | ast.BinOp)
    return _kind(found, source) if is_type and found is not None else Kind(others=frozenset({name}))


def _followed(name: str, source: Source) -> tuple[ast.AST | None, Source]:
    """Where a name of the package is written down, and in which file."""
    found = source.names.get(name)
    for _ in range(5):  # a package hands on what its files define
        if not isinstance(found, ast.ImportFrom) or not (found.module or "").startswith("neuroscope"):
            break
        source = _source(str(found.module))
        found = source.names.get(name)
    return found, source


def _words(docstring: str, heading: str = "Args:") -> dict[str, str]:
    """What a docstring says of each argument, on one line."""
    _, found, rest = docstring.partition(f"{heading}\n")
    words: dict[str, str] = {}
    names: list[str] = []
    for line in rest.splitlines() if found else ():
        if line and not line.startswith(" "):
            break  # the next heading
        entry = re.match(r"    ([\w*]+(?:, [\w*]+)*): (.*)", line)
        if entry:
            names = [name.strip("*") for name in entry[1].split(", ")]
            words |= dict.fromkeys(names, entry[2].strip())
        elif line.startswith("     "):
            words |= {name: f"{words[name]} {line.strip()}" for name in names}
        elif line:
            break
        else:
            names = []
    return words
