"""What was asked of a command, ready to be done: values, the model, the tasks, the masks, and the answer."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroscope.command_line.command import Command, Use
from neuroscope.command_line.options import Option
from neuroscope.command_line.processes import speaks
from neuroscope.errors import ArgumentError, FileError, choose

if TYPE_CHECKING:
    from neuroscope.masks import NeuronMask
    from neuroscope.models import Model
    from neuroscope.tasks import Task

SELDOM = 30  # seconds between two lines of progress where nobody watches it
LOAD = "neuroscope.models.opening:load"
PROMPTS = ("neuroscope.tasks.task:Task.from_jsonl", "neuroscope.tasks.task:Task")


@dataclass(frozen=True)
class Answer:
    """What a command found.

    Attributes:
        text: for people.
        data: the same for programs: dicts, lists, tables, numbers, paths.
        code: the exit code.
    """

    text: str
    data: Any
    code: int = 0


@dataclass
class Call:
    """A command with the values that were given.

    Attributes:
        row: of the command's table.
        options: by name.
        given: name -> value, of those that were typed or stand in the configuration.
        words: all that was typed after `neuroscope`.
    """

    row: Command
    options: Mapping[str, Option]
    given: Mapping[str, Any]
    words: Sequence[str] = ()
    _opened: list[Any] = field(default_factory=list)

    def __getitem__(self, name: str) -> Any:
        """The value that was given, or the default."""
        return self.given.get(name, self.options[name].default)

    def of(self, function: str, *but: str) -> dict[str, Any]:
        """What was given of a function's arguments, by their own names; what was not has the function's default."""
        use = next(use for use in (*self.row.uses, self.row.own) if use.function == function)
        names = {argument: name for argument, name in use.names().items() if argument not in but}
        return {argument: self.given[name] for argument, name in names.items() if name in self.given}

    @property
    def own(self) -> dict[str, Any]:
        """What was given of the action's own arguments."""
        use: Use = self.row.own
        return {argument: self.given[name] for argument, name in use.names().items() if name in self.given}

    def model(self) -> Model:
        """The model, opened at the first call."""
        from neuroscope.models import load

        if not self._opened:
            how = self.of(LOAD) if any(use.function == LOAD for use in self.row.uses) else {}
            with quiet_where_nobody_watches():
                self._opened.append(load(self["model"], **{k: v for k, v in how.items() if k != "model"}))
            self.say(repr(self._opened[0]))
        return self._opened[0]

    def asked_prompts(self) -> dict[str, Any]:
        """What was given of how prompts are made and shown."""
        asked: dict[str, Any] = {}
        for function in PROMPTS:
            asked |= self.of(function)
        return asked

    def tasks(self) -> dict[str, Task]:
        """The tasks by name."""
        from neuroscope.tasks import load_tasks

        return load_tasks(listed(self["tasks"]), **self.asked_prompts())

    def masks(self) -> dict[str, NeuronMask]:
        """The masks of the files that were given, by the names of their files.

        Raises:
            ArgumentError: no file, or two of one name.
            FileError: a file or folder without a mask.
        """
        from urllib.parse import unquote

        from neuroscope.masks import NeuronMask

        paths = files_of(self.given.get("masks"), f"neuroscope {self.row.name}")
        names = [unquote(path.stem) for path in paths]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ArgumentError(f"masks {', '.join(map(str, paths))}", f"two of the name {twice}", "rename one of them")
        return {name: NeuronMask.load(path) for name, path in zip(names, paths, strict=True)}

    @property
    def is_watched(self) -> bool:
        """Whether what happens on the way is shown: of several processes by the first, and not to a program."""
        return speaks(self.options) and (sys.stderr.isatty() or "--json" not in self.words)

    def say(self, text: str, always: bool = False) -> None:
        """Something on the way, on standard error; always: a warning or an error, which programs are told as well."""
        if self.is_watched or (always and speaks(self.options)):
            sys.stderr.write(f"{text}\n")

    @property
    def progress(self) -> Any:
        """What shows progress: a bar on a terminal, a line now and then elsewhere."""
        from tqdm.auto import tqdm  # heavy: only once there is work

        how: dict[str, Any] = {"mininterval": 0.1} if sys.stderr.isatty() else {"mininterval": SELDOM, "delay": SELDOM}
        return functools.partial(
            tqdm, dynamic_ncols=True, leave=False, file=sys.stderr, disable=not self.is_watched, **how
        )


@contextlib.contextmanager
def quiet_where_nobody_watches() -> Iterator[None]:
    """A scope in which transformers shows its bars on a terminal alone."""
    from transformers.utils import logging

    shows = logging.is_progress_bar_enabled()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shows:
            logging.enable_progress_bar()


def listed(tasks: Any) -> Any:
    """Names of tasks as they are given to functions: of one it is a text, which may be a suite or a folder."""
    if isinstance(tasks, str) and "," in tasks:
        tasks = [name.strip() for name in tasks.split(",")]
    several = isinstance(tasks, Sequence) and not isinstance(tasks, str)
    return tasks[0] if several and len(tasks) == 1 else tasks


def files_of(given: Any, asked: str) -> list[Path]:
    """Files of masks: those named, and of folders every one in it.

    Raises:
        ArgumentError: none was named.
        FileError: nothing there, or a folder without masks.
    """
    do = "give files of masks, or a folder of them, such as report/masks"
    named: Iterable[str] = [given] if isinstance(given, str) else given or ()
    found: list[Path] = []
    for name in named:
        path = Path(name).expanduser()
        inside = sorted([*path.glob("*.safetensors"), *path.glob("*.json")]) if path.is_dir() else [path]
        if not inside or not path.exists():
            held = ", ".join(sorted(one.name for one in path.iterdir())[:6]) if path.is_dir() else "nothing there"
            raise FileError(f"read masks from {name}", held or "an empty folder", do)
        found += inside
    if not found:
        raise ArgumentError(asked, "no file of a mask", do)
    return found


def one_of(tasks: Mapping[str, Any], name: str, what: str) -> Any:
    """A task by name."""
    return tasks[choose(name, list(tasks), what)]
