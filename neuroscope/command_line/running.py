"""From what was typed to the exit code: read, check everything, act, print."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from neuroscope.command_line import parsing
from neuroscope.command_line.call import Answer, Call
from neuroscope.command_line.command import ACTIONS, Command
from neuroscope.command_line.options import Option, nearest, values_of
from neuroscope.command_line.processes import speaks
from neuroscope.command_line.table import COMMANDS
from neuroscope.command_line.words import as_typed
from neuroscope.errors import ArgumentError, NeuroscopeError

DONE, FAILED, MISUSED, STOPPED = 0, 1, 2, 130  # exit codes
STOPPED_ERROR = ("stopped", "an interrupt", "give the same command again; what it kept in a folder is not done twice")


class SeveralErrors(Exception):
    """More than one thing is wrong with what was given."""

    def __init__(self, errors: list[NeuroscopeError]) -> None:
        super().__init__(errors)
        self.errors = errors


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 if it worked; 1 with the reason on standard error if it could not be done, 2 if it was used wrongly; 130 if
        it was stopped.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the path of a report, also in the C locale
    parsing.completing()
    typed = list(sys.argv[1:] if arguments is None else arguments)
    as_json, debug = "--json" in typed, "--debug" in typed
    row: Command | None = None
    options: Mapping[str, Option] = {}
    try:
        row, rest = parsing.command_in(typed)
        if row is None:
            return _no_command(typed)
        options = row.options()
        answer = _answer(row, options, rest)
        if speaks(options):
            _print(_document(row, answer.code, answer.data) if as_json else answer.text)
        return answer.code
    except BrokenPipeError:  # who read the output has seen enough
        with contextlib.suppress(OSError, ValueError):  # the interpreter writes out what is left when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except (Exception, KeyboardInterrupt) as error:
        if debug and not isinstance(error, KeyboardInterrupt):
            raise
        return _failed(error, row, options, as_json)


def _no_command(typed: Sequence[str]) -> int:
    """Help or version; without either, the commands on standard error, or for programs an error."""
    if typed:
        known = parsing.parser("").parse_args([word for word in typed if word not in ("--json", "--debug")])
        del known  # it has ended the program, or there was nothing else
    if "--json" in typed:
        names = list(dict.fromkeys(name.split()[0] for name in COMMANDS))
        raise ArgumentError("neuroscope", "no command", nearest("", names))
    parsing.usage()
    return MISUSED


def _answer(row: Command, options: Mapping[str, Option], rest: Sequence[str]) -> Answer:
    call, general = read(row, options, rest)
    with contextlib.redirect_stdout(sys.stderr):  # what others print is not what was found
        action = _imported(row.plan if general.get("dry_run") else row.action)
        try:
            answer: Answer = action(call, **call.own)
        except NeuroscopeError as error:
            raise as_typed(error, options, call.given) from error
    return answer


def read(row: Command, options: Mapping[str, Option], rest: Sequence[str]) -> tuple[Call, dict[str, Any]]:
    """The call that was typed, its values checked, and the general options.

    Raises:
        NeuroscopeError: what is wrong with it.
        SeveralErrors: all that is wrong, where that is more than one thing.
    """
    typed, general = parsing.typed_values(row, rest)
    values, wrong = values_of(options, typed)
    wrong = [as_typed(error, options) for error in [*wrong, *_unknown_names(row, values)]]
    if general.get("config"):
        from neuroscope.command_line import config  # only where there is one: every start would pay for it

        of_file, errors = config.read(general["config"], row, options)
        wrong, values = errors + wrong, of_file | values
    if len(wrong) > 1:
        raise SeveralErrors(wrong)
    for error in wrong:
        raise error
    return Call(row, options, values, (*row.name.split(), *rest)), general


def _unknown_names(row: Command, values: Mapping[str, Any]) -> list[NeuroscopeError]:
    """Names that no table has, which are otherwise found when they are used: all errors are told at once."""
    from neuroscope.command_line.known import unknown_names

    return unknown_names(row, values)


def _imported(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(ACTIONS + module), name)


def _document(row: Command | None, *args: Any, **kwargs: Any) -> str:
    from neuroscope.command_line.jsonable import document  # json only where it is asked for

    return document(row.name if row else "", *args, **kwargs)


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _failed(error: BaseException, row: Command | None, options: Mapping[str, Option], as_json: bool) -> int:
    """Say why; the exit code."""
    code = FAILED
    if isinstance(error, SeveralErrors):
        errors, code = error.errors, MISUSED
    elif isinstance(error, KeyboardInterrupt):
        errors, code = [NeuroscopeError(*STOPPED_ERROR)], STOPPED
    elif isinstance(error, NeuroscopeError):
        errors = [error]
        code = MISUSED if isinstance(error, ArgumentError) else FAILED
    else:
        import traceback

        last = traceback.extract_tb(error.__traceback__)[-1]
        found = f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})"
        do = "add --debug for the whole traceback; if it is not about your files, it is a fault of neuroscope"
        errors = [NeuroscopeError(f"neuroscope {row.name if row else ''}".strip(), found, do)]
    if as_json and speaks(options):
        _print(_document(row, code, errors=errors))
    many = f"{len(errors)} errors" if len(errors) > 1 else ""
    if isinstance(error, KeyboardInterrupt):
        sys.stderr.write("neuroscope: stopped; the same command goes on from what is in its folder\n")
    else:
        lines = [f"neuroscope: {one}" if not many else str(one) for one in errors]
        sys.stderr.write("\n".join(([f"neuroscope: {many}"] if many else []) + lines) + "\n")
    return code
