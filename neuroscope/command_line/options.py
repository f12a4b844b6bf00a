"""An option: an argument of a function as it is typed, on the command line or in a TOML file."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuroscope.command_line.signatures import UNKNOWN, Kind, Parameter
from neuroscope.errors import ArgumentError, FileError, NeuroscopeError

NONE = "none"  # how None is typed
RANGE = "range"  # two numbers, lo,hi
LINES = "lines"  # a file of texts, one a line
MANY = {"paths": Kind(several=Kind(frozenset({"str"}))), "text": Kind(frozenset({"str"}), none=True)}
MANY |= {RANGE: Kind(several=Kind(frozenset({"float"})), none=True)}
MANY |= {LINES: Kind(frozenset({"str"}), several=Kind(frozenset({"str"})), none=True)}
WORDS = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false"}
BROKEN = ("prompt", "system", "separator")  # options in which \\n is typed for a line break
SHORTEST = 3  # letters of an option that one it is part of is suggested for


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        name: how the command knows it, such as "n_random"; the option is `--n-random`.
        parameter: the argument it stands for.
        function: whose argument that is, as "module:name".
        group: heading in the help.
        help: what `--help` says.
        said_as: how a value is typed that no plain type says: one of `MANY`; "" otherwise.
        nargs: of an option that also goes without its name: "?", "*" or "+".
    """

    name: str
    parameter: Parameter
    function: str
    group: str = ""
    help: str = ""
    said_as: str = ""
    nargs: str = ""
    default: Any = field(default=UNKNOWN)

    @property
    def flag(self) -> str:
        """As it is typed."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def kind(self) -> Kind:
        """What can be typed."""
        return MANY[self.said_as] if self.said_as else self.parameter.kind

    @property
    def is_switch(self) -> bool:
        """Whether it stands alone, without a value."""
        return "bool" in self.kind.scalars

    @property
    def shown_default(self) -> str:
        """The default as it would be typed; empty where there is none to show."""
        value = self.default
        if value is UNKNOWN or value is None or value is False or value in ("", " ", (), []):
            return ""
        text = ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
        return text.replace("\n", "\\n")

    def read(self, value: Any, asked: str = "") -> Any:
        """What the function gets for a value as it was typed: a text, or what TOML has.

        Raises:
            ArgumentError: it is something else.
            FileError: a file of texts that cannot be read.
        """
        asked = asked or f"{self.name if self.nargs else self.flag} {_said(value)}"
        if isinstance(value, str) and value.strip() == NONE and self.kind.none:
            return None if self.said_as != LINES else []
        if self.name in BROKEN and isinstance(value, str):
            value = value.replace("\\n", "\n")
        if self.nargs == "*" and isinstance(value, list):
            return [_read(one, self.kind.several or self.kind, f"{self.name} {_said(one)}") for one in value]
        if self.said_as == LINES:
            return value if isinstance(value, list) else texts_in(value, self.flag)
        read = _read(value, self.kind, asked)
        if self.said_as == RANGE and len(read) != 2:
            raise ArgumentError(asked, f"{len(read)} numbers", "give two, such as 0.5,2 (-inf,0 for all below 0)")
        return read


def _said(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read(value: Any, kind: Kind, asked: str) -> Any:
    if isinstance(value, str):
        return _from_text(value.strip() if kind.scalars != {"str"} else value, kind, asked)
    if isinstance(value, list | tuple):
        if kind.several is None:
            raise ArgumentError(asked, f"{len(value)} values", "give one")
        return [_read(one, kind.several, asked) for one in value]
    names = {bool: ("bool",), int: ("int", "float"), float: ("float",)}.get(type(value), ())
    if not kind.scalars.isdisjoint(names):
        return float(value) if "int" not in kind.scalars and isinstance(value, int) and names != ("bool",) else value
    if kind.several is not None:
        return [_read(value, kind.several, asked)]
    raise ArgumentError(asked, f"a {type(value).__name__}", f"give {in_words(kind)}")


def _from_text(text: str, kind: Kind, asked: str) -> Any:
    if text in kind.choices:
        return text
    is_one = bool(kind.scalars or kind.choices) and "," not in text
    if kind.several is not None and not is_one:
        parts = [part.strip() for part in text.split(",")]
        return [_from_text(part, kind.several, asked) for part in parts if part]
    if "bool" in kind.scalars and text in ("true", "false"):
        return text == "true"
    for name, convert in (("int", int), ("float", float)):
        if name in kind.scalars:
            with contextlib.suppress(ValueError):
                return convert(text)
    if "str" in kind.scalars:
        return text
    if kind.choices:
        numbers = kind.scalars - {"str", "bool"}
        do = nearest(text, kind.choices) + (f", or give {in_words(Kind(numbers))}" if numbers else "")
        raise ArgumentError(asked, "no such value", do)
    raise ArgumentError(asked, f"not {in_words(Kind(kind.scalars))}", f"give {in_words(kind)}")


def in_words(kind: Kind) -> str:
    """What can be typed, for an error."""
    parts = [", ".join(kind.choices)] if kind.choices else []
    parts += [WORDS[name] for name in WORDS if name in kind.scalars]
    if kind.several is not None:
        parts.append(f"{in_words(kind.several)}, or several with commas between them")
    return " or ".join([*parts, *([NONE] if kind.none else [])])


def nearest(name: str, known: Iterable[str], every: bool = True) -> str:
    """ "did you mean ...? choose from ...", in the words of the command line: without quotation marks."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    near += [one for one in names if len(name.strip("-")) >= SHORTEST and name in one]
    mean = f"did you mean {near[0]}?" if near else ""
    return " ".join([mean] * bool(mean) + [f"choose from {', '.join(names)}"] * (every or not mean))


def texts_in(path: str, flag: str) -> list[str]:
    """The texts of a file, one a line."""
    do = "give a file of texts, one a line, or none"
    try:
        lines = [line.strip() for line in Path(path).expanduser().read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"read {flag} {path}", str(error), do) from None
    if not any(lines):
        raise FileError(f"read {flag} {path}", "no text", do)
    return [line for line in lines if line]


def values_of(options: Mapping[str, Option], given: Mapping[str, Any]) -> tuple[dict[str, Any], list[NeuroscopeError]]:
    """Every value that was given, read and held to what its name means everywhere; and all that is wrong."""
    from neuroscope.checks import VOCABULARY  # only where there are values to check

    read: dict[str, Any] = {}
    wrong: list[NeuroscopeError] = []
    for name, value in given.items():
        option = options[name]
        try:
            read[name] = option.read(value)
            row = VOCABULARY.get(option.parameter.name)
            if row is not None and option.said_as == "" and read[name] is not None:
                row(read[name], name, option.default)
        except NeuroscopeError as error:
            read.pop(name, None)
            wrong.append(error)
    return read, wrong
