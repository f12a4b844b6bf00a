"""`--config run.toml`: options by their names in a file, and all that is wrong with it at once."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuroscope.command_line.command import Command
from neuroscope.command_line.known import unknown_names
from neuroscope.command_line.options import Option, nearest, values_of
from neuroscope.command_line.table import COMMANDS
from neuroscope.command_line.words import as_typed
from neuroscope.errors import ArgumentError, FileError, NeuroscopeError, brief


def read(path: str, row: Command, options: Mapping[str, Option]) -> tuple[dict[str, Any], list[NeuroscopeError]]:
    """The values of a file's options, and every error in it, each with its line.

    Keys are the options' names, with hyphens or underscores. A table that is named as a command is for that command
    alone, so that one file may serve several.

    Raises:
        FileError: the file cannot be read, or is no TOML; then there is nothing to go through.
    """
    asked, do = f"read --config {path}", "give a TOML file, with lines such as n-random = 5"
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
        content = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(asked, str(error), do) from None
    except tomllib.TOMLDecodeError as error:
        raise FileError(asked, f"not TOML: {error}", do) from None
    own = {name: value for name, value in content.items() if not (isinstance(value, dict) and _is_command(name))}
    table = _table(content, row.name.split())
    given: dict[str, Any] = {}
    places: dict[str, _Place] = {}
    wrong: list[tuple[int, NeuroscopeError]] = []
    for key, value in [*own.items(), *table.items()]:
        name = key.replace("-", "_")
        where = _Place(path, text, key, value, row.name if key in table else "")
        if name not in options:
            known = [option.flag.removeprefix("--") for option in options.values()]
            do = nearest(key, known)
            wrong.append((where.line, ArgumentError(where.said, f"no such option of `neuroscope {row.name}`", do)))
        elif isinstance(value, dict):
            wrong.append((where.line, ArgumentError(where.said, "a table", f"give {key} = ...")))
        else:
            given[name], places[name] = value, where
    read_values: dict[str, Any] = {}
    for name, value in given.items():
        values, errors = values_of({name: options[name]}, {name: value})
        read_values |= values
        errors = [as_typed(e, options) for e in [*errors, *unknown_names(row, values)]]
        wrong += [(places[name].line, type(e)(places[name].said, e.found, e.do)) for e in errors]
    return read_values, [error for _, error in sorted(wrong, key=lambda pair: pair[0])]


def _is_command(name: str) -> bool:
    return name in {one.split()[0] for one in COMMANDS}


def _table(content: Mapping[str, Any], words: list[str]) -> dict[str, Any]:
    """The table of a command; of two words one within the other."""
    found: Any = content
    for word in words:
        found = found.get(word, {}) if isinstance(found, dict) else {}
    return {k: v for k, v in found.items() if not isinstance(v, dict)} if isinstance(found, dict) else {}


class _Place:
    """Where a key stands in a file."""

    def __init__(self, path: str, text: str, key: str, value: Any, table: str = "") -> None:
        lines = text.splitlines()
        heading = next((i for i, line in enumerate(lines) if line.strip() == f"[{table.replace(' ', '.')}]"), 0)
        start = heading if table else 0
        form = re.compile(rf"""\s*["']?{re.escape(key)}["']?\s*[=.]""")
        found = [i for i, line in enumerate(lines) if i >= start and form.match(line)]
        self.line = found[0] + 1 if found else 0
        line = f", line {self.line}" if found else ""
        self.said = f"{path}{line}: {key} = {brief(value)}"
