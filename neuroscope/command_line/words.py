"""Errors in the words of the command line."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from neuroscope.command_line.command import RECIPE
from neuroscope.command_line.options import Option
from neuroscope.errors import NeuroscopeError

TUNE = "tune_"  # how the options of the recipe of `tune` begin
SAME = {"source": "tasks", "method": "methods"}  # an argument of another function -> the option that it stands for


def as_typed(error: NeuroscopeError, options: Mapping[str, Option], given: Collection[str] = ()) -> NeuroscopeError:
    """An error in the words of the command line: what is `run(n_random=1)` in Python is `--n-random 1` here.

    Args:
        options: of the command, by name; their names are what can be typed.
        given: names of those that were.
    """
    named = {name: name if option.nargs else option.flag for name, option in options.items()}
    named = {other: named[name] for other, name in SAME.items() if name in named} | named
    recipe = [option.flag for name, option in options.items() if option.function == RECIPE and name in given]
    named |= {"recipe": ", ".join(recipe)} if recipe else {}
    asked = re.sub(r"^source: tasks", "--tasks", error.asked)
    if asked.startswith("tune: "):
        asked = asked.removeprefix("tune: ")
        named |= {o.parameter.name: o.flag for name, o in options.items() if name.startswith(TUNE)}
    asked = re.sub(r"^\w+\((?:'([\w-]+)', )?(\w+=.*)\)$", lambda m: f"{m[1]}: {m[2]}" if m[1] else m[2], asked)

    def option(match: re.Match[str]) -> str:
        name, value = named.get(match[1]), match[2].strip("'")
        if not name:
            return match[0]
        return f"no {name}" if value == "False" else name if value in ("True", "...") else f"{name} {value}"

    texts = [
        re.sub(r"\b(\w+)=('[^']*'|\([^)]*\)|[^\s,;:()]+)", option, text) for text in (asked, error.found, error.do)
    ]
    texts[2] = re.sub(r", or (None|Examples)\b.*", "", texts[2])  # which have no words here
    head, it_has, those = texts[2].partition("; it has ")
    texts[2] = head + it_has + ", ".join(named.get(name, name) for name in those.split(", "))
    return type(error)(*texts)
