"""A command and the functions that it calls: their arguments are its options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from neuroscope.command_line.options import Option
from neuroscope.command_line.signatures import parameters

ACTIONS = "neuroscope.command_line.actions."
RECIPE = "neuroscope.training.recipe:Recipe"
LONG = 170  # characters of a help of which the first sentence is enough


@dataclass(frozen=True)
class Use:
    """A function whose arguments a command takes.

    Attributes:
        function: "module:name", so that reading the table imports nothing.
        title: heading of its options in the help; "" for those of the command itself.
        hide: argument -> why it cannot be typed.
        only: if any are named, the others are hidden: of a class with many fields.
        prefix: what stands before each name.
        said_as: argument -> how it is typed, where no plain type says it (`options.MANY`).
        rename: argument -> name of the option.
    """

    function: str
    title: str = ""
    hide: Mapping[str, str] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    prefix: str = ""
    said_as: Mapping[str, str] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)

    def names(self) -> dict[str, str]:
        """Argument -> name of its option, of every argument that can be typed."""
        every = parameters(self.function)
        seen = {name: one for name, one in every.items() if name not in self.hide}
        if self.only:
            seen = {name: one for name, one in seen.items() if name in self.only}
        return {
            name: self.prefix + self.rename.get(name, name).rstrip("_")
            for name, one in seen.items()
            if one.kind.can_be_said or name in self.said_as
        }

    def options(self) -> dict[str, Option]:
        """An option for every argument that can be typed."""
        every = parameters(self.function)
        return {
            called: Option(
                called, every[name], self.function, self.title, every[name].help, self.said_as.get(name, ""),
                default=every[name].default,
            )
            for name, called in self.names().items()
        }  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        name: what is typed; of two words where commands belong together: "mask show".
        summary: what it does, in one line.
        action: "module:function" in `actions/`, which does it; its own keywords are options as well.
        uses: the functions of the library that it calls.
        examples: what to type -> what that does.
        places: option -> "?", "*" or "+": what goes without its name, and how many of it.
        needs: those of `places` that the command cannot do without. They may stand in a file too (--config), so that
            it is the action that refuses.
        words: option -> help, where the function's docstring speaks to those who write Python.
        more: lines of the help that follow the options.
        plan: "module:function" in `actions/` of what `--dry-run` shows; "" for a command without one.
        defaults: option -> default, where it is not the function's.
    """

    name: str
    summary: str
    action: str
    uses: tuple[Use, ...] = ()
    examples: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    more: str = ""
    plan: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()

    def options(self) -> dict[str, Option]:
        """Every option by name; where two functions have one of a name, they share it, and the first has the word."""
        found: dict[str, Option] = {}
        for use in (*self.uses, self.own):
            for name, option in use.options().items():
                found.setdefault(name, option)
        return {
            name: replace(
                option,
                help=self.words.get(name) or short(option.help),
                nargs=self.places.get(name, ""),
                default=self.defaults.get(name, option.default),
            )
            for name, option in found.items()
        }

    @property
    def own(self) -> Use:
        """The action's own arguments."""
        return Use(ACTIONS + self.action, hide={"call": "what was typed"})


def short(text: str) -> str:
    """The words of a docstring for a terminal: its first sentence where it says much; None is typed as none."""
    first = re.split(r"(?<=[a-z)`\"])\. (?=[A-Z])", text)[0] if len(text) > LONG else text
    return re.sub(r"\bNone\b", "none", first).replace("`", "").removesuffix(".")
