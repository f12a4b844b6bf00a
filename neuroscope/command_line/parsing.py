"""From what was typed to the command and its values as texts, and what `--help` shows."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from neuroscope.command_line.command import Command
from neuroscope.command_line.options import Option, nearest
from neuroscope.command_line.signatures import constant
from neuroscope.command_line.table import COMMANDS
from neuroscope.errors import ArgumentError
from neuroscope.experiments.table import EXPERIMENTS

PROGRAM = "neuroscope"
VERSION = constant("neuroscope:__version__")
WIDTH = 98  # of the help
GENERAL = {
    "json": "print one JSON document alone: schema, version, command, exit_code, result, errors",
    "debug": "show the whole traceback of an error",
}
CODES = """exit codes:
  0    done
  1    could not be done: a file, a model or a task is not as it must be, or a check of doctor failed
  2    wrong use: an unknown command or option, or a value that it does not take
  130  interrupted

Any option can stand in a file: --config run.toml, with lines such as n-random = 5."""


class Parser(argparse.ArgumentParser):
    """One whose errors are the package's own."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found wrong."""
        about, _, found = message.removeprefix("argument ").partition(": ")
        asked = about if found else self.prog
        raise ArgumentError(asked, found or message, f"`{self.prog} --help` shows every option")


def parser(only: str | None = None) -> Parser:
    """Every command with its options.

    Args:
        only: the one command whose options are needed: reading all takes longer than a prompt should.
    """
    top = Parser(
        prog=PROGRAM, description="Which neurons does a task use, and are they its own?", epilog=CODES,
        formatter_class=_Help, allow_abbrev=False, usage=f"{PROGRAM} COMMAND [options]",
    )  # fmt: skip
    top.add_argument("--version", action="version", version=f"{PROGRAM} {VERSION}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", prog=PROGRAM)
    groups: dict[str, Any] = {}
    for row in COMMANDS.values():
        *before, name = row.name.split()
        within, summary = commands, row.summary
        if before:
            if before[0] not in groups:
                others = [one.summary for one in COMMANDS.values() if one.name.startswith(f"{before[0]} ")]
                group = commands.add_parser(
                    before[0], help="show, diff, convert: " + "; ".join(s.split(":")[0] for s in others),
                    description="Files of masks.", allow_abbrev=False,
                )  # fmt: skip
                groups[before[0]] = group.add_subparsers(title="commands", metavar="COMMAND", prog=f"{PROGRAM} mask")
            within = groups[before[0]]
        one = within.add_parser(
            name, help=summary, description=textwrap.fill(f"{summary[0].upper()}{summary[1:]}.", WIDTH),
            epilog=_epilog(row), formatter_class=_Help, allow_abbrev=False, usage=_usage(row),
        )  # fmt: skip
        if only in (None, row.name):
            _fill(one, row)
    return top


class _Help(argparse.RawDescriptionHelpFormatter):
    """Examples as they are written, and names of commands beside their words."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=WIDTH + 2)


def _usage(row: Command) -> str:
    places = [name.upper() + " ..." * (nargs != "?") for name, nargs in row.places.items()]
    places = [text if name in row.needs else f"[{text}]" for name, text in zip(row.places, places, strict=True)]
    return " ".join([PROGRAM, row.name, *places, "[options]"])


def _epilog(row: Command) -> str:
    lines = [f"  {typed}\n      {what}" for typed, what in row.examples.items()]
    return "\n".join(["examples:", *lines, *(["", textwrap.fill(row.more, WIDTH)] if row.more else [])])


def _fill(one: argparse.ArgumentParser, row: Command) -> None:
    groups: dict[str, Any] = {}
    for option in row.options().values():
        text = _help(option)
        if option.nargs:
            place = one.add_argument(option.name, nargs=option.nargs, default=argparse.SUPPRESS, help=text,
                                     metavar=_metavar(option))  # fmt: skip
            complete(place, option)
        group = groups.get(option.group)
        if group is None:
            group = groups[option.group] = one.add_argument_group(option.group or "options of its own")
        shown = argparse.SUPPRESS if option.nargs else text
        how: dict[str, Any] = {"dest": option.name, "default": argparse.SUPPRESS, "help": shown}
        if option.is_switch:
            how["action"] = argparse.BooleanOptionalAction if option.default is True else "store_true"
        else:
            how["metavar"] = _metavar(option)
        complete(group.add_argument(option.flag, **how), option)
    group = one.add_argument_group("of every command")
    for name, text in GENERAL.items():
        group.add_argument(f"--{name}", action="store_true", help=text)
    group.add_argument("--config", metavar="FILE", help="TOML with options by name; those typed go before them")
    if row.plan:
        group.add_argument("--dry-run", action="store_true", help="say what it would do and take; nothing is written")
    group.add_argument("--version", action="version", version=f"{PROGRAM} {VERSION}")


def _metavar(option: Option) -> str:
    several = option.kind.several is not None and not option.nargs
    if option.said_as == "lines":
        return "FILE"
    return option.name.upper().replace("_", "-") + (",..." if several else "")


def _help(option: Option) -> str:
    text = option.help.replace("{experiments}", ", ".join(EXPERIMENTS)).replace("%", "%%")
    choices = ", ".join(option.kind.choices)
    text = f"{text}: {choices}" if choices and not all(one in text for one in option.kind.choices) else text
    default = option.shown_default.replace("%", "%%")
    return f"{text} (default: {default})" if default and not option.is_switch else text


def complete(action: Any, option: Option) -> None:
    """Tell argcomplete which values there are; where it knows none it completes files."""
    known = {"experiment": [*EXPERIMENTS, "all"]}.get(option.name, list(option.kind.choices))
    if known:
        action.completer = lambda **_: known


def command_in(typed: Sequence[str]) -> tuple[Command | None, list[str]]:
    """The command that was typed, and what else; None where there is none.

    Raises:
        ArgumentError: no such command.
    """
    rest = list(typed)
    places = [i for i, word in enumerate(rest) if not word.startswith("-")]
    if not places:
        return None, rest
    first = rest.pop(places[0])
    if first in COMMANDS:
        return COMMANDS[first], rest
    within = [name for name in COMMANDS if name.startswith(f"{first} ")]
    if not within:
        names = list(dict.fromkeys(name.split()[0] for name in COMMANDS))
        raise ArgumentError(first, "no such command", nearest(first, names))
    words = [i for i, word in enumerate(rest) if not word.startswith("-")]
    if not words:
        if {"--help", "-h"} & set(rest):
            return None, [first, *rest]
        raise ArgumentError(first, "one of several commands", nearest("", _second(within)))
    second = rest.pop(words[0])
    if f"{first} {second}" not in COMMANDS:
        raise ArgumentError(f"{first} {second}", "no such command", nearest(second, _second(within)))
    return COMMANDS[f"{first} {second}"], rest


def _second(names: Iterable[str]) -> list[str]:
    return [name.split()[1] for name in names]


def typed_values(row: Command, rest: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was typed after a command: the values of its options as texts, and the general options.

    Raises:
        ArgumentError: an unknown option, or one without its value.
    """
    known, others = parser(row.name).parse_known_args([*row.name.split(), *rest])
    options = row.options()
    values = {name: value for name, value in vars(known).items() if name in options}
    unknown = [word for word in others if word.startswith("-")]
    if unknown:
        name = unknown[0].partition("=")[0]
        flags = [option.flag for option in options.values()] + [f"--{one}" for one in (*GENERAL, "config")]
        do = " ".join([nearest(name, flags, every=False)] * (nearest(name, flags).startswith("did")))
        raise ArgumentError(name, f"no such option of `{PROGRAM} {row.name}`", do or _all_options(row))
    places = [name for name, nargs in row.places.items() if nargs == "*"]
    if others and places:  # what stands after an option belongs to those before it
        values[places[0]] = [*values.get(places[0], []), *others]
    elif others:
        raise ArgumentError(others[0], f"nothing that `{PROGRAM} {row.name}` has a place for", _all_options(row))
    general = {name: value for name, value in vars(known).items() if name not in options}
    return values, general


def _all_options(row: Command) -> str:
    return f"`{PROGRAM} {row.name} --help` shows every option"


def completing() -> None:
    """Answer a shell that asks for completions, where argcomplete is installed."""
    import os

    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser())


def usage(where: Any = None) -> None:
    """The commands, for one who typed none."""
    parser("").print_help(where or sys.stderr)
