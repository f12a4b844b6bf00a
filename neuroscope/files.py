"""Reading and writing: atomically, without ever unpickling, and in folders that belong to one run each."""

import contextlib
import datetime
import functools
import hashlib
import json
import os
import platform
import secrets
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from neuroscope.errors import ArgumentError, FileError, kind_of

FORMAT = 1  # of every file that neuroscope writes
SHOWN = 5  # settings that differ, in an error
LONGEST_NAME = 120  # characters of a user's text in the name of a file
PACKAGES = ("neuroscope", "torch", "transformers", "transformer-lens", "nnsight", "peft")


def path_of(path: Any, asked: str) -> Path:
    """A path as users give it: a text or a path object; `~` is the home folder.

    Raises:
        ArgumentError: anything else, or what this system cannot have as a path.
    """
    do = "give a path, as a text or a pathlib.Path"
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str) or not text:
        raise ArgumentError(asked, "an empty text" if isinstance(text, str) else f"{kind_of(text)}, no path", do)
    try:
        if b"\0" in os.fsencode(text):
            raise ArgumentError(asked, f"a null character in {text!r}", do)
        return Path(text).expanduser()
    except UnicodeEncodeError as error:
        found = f"{text!a}, which this system's encoding of paths, {error.encoding}, cannot say"
        raise ArgumentError(asked, found, "set the environment's PYTHONUTF8=1, or give another path") from None
    except RuntimeError as error:
        raise ArgumentError(asked, f"{text!r}: {error}", do) from None


def writable(folder: Path, asked: str) -> None:
    """Refuse a folder that could not be written to, before any work is done for it; nothing is made.

    Raises:
        FileError: neither the folder nor, where there is none, the one to make it in can be written to.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        found = f"no permission to write in {there}" if there.is_dir() else f"{there} is a file"
        raise FileError(f"{asked} into {folder}", found, "give a folder that can be written to")


def write(path: str | os.PathLike, content: str | bytes | Callable[[Path], Any]) -> Path:
    """Write a file atomically: a reader sees the old file or the whole new one, also after a kill.

    `content` is the text, the bytes, or a function that writes a file, or a folder, to the temporary
    path it is given.

    Raises:
        FileError: the folder cannot be made or written to.
    """
    path = Path(os.path.realpath(path_of(path, "write a file")))  # what a link leads to is written, and the link stays
    # torch saves to no name that is a suffix alone
    partial = path.with_name(f".{secrets.token_hex(8)}{path.suffix or '.part'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        mode = partial.stat().st_mode  # what the user's new files have; safetensors gives its own less
        if callable(content):
            partial.unlink()  # it may write a folder
            content(partial)
        elif isinstance(content, bytes):
            partial.write_bytes(content)
        else:
            partial.write_text(content, encoding="utf-8")
        if partial.is_file():
            partial.chmod(mode)
        os.replace(partial, path)
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        raise FileError(f"write {path}", str(error), "give a path that can be written to") from error
    finally:
        with contextlib.suppress(OSError):  # where there is no folder, there is no partial file
            partial.unlink()
    return path


def read_json(path: str | os.PathLike, kind: str) -> Any:
    """Parse a JSON file that should hold `kind`."""
    try:
        return json.loads(path_of(path, f"read {kind}").read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise FileError(f"read {kind} from {path}", str(error), "check the path") from None
    except (ValueError, RecursionError) as error:
        raise FileError(
            f"read {kind} from {path}", f"not JSON: {error}", "the file is truncated or of another kind; write it again"
        ) from None


def keep_settings(path: Path, settings: Mapping[str, Any], asked: str) -> None:
    """Note in a file what the numbers beside it are made with; refuse to mix in numbers that are made otherwise.

    Args:
        settings: what tells them from others; of values that JSON cannot say, their `repr`.

    Raises:
        FileError: the file holds other settings; the text names those that differ.
    """
    if path.exists():
        refuse_other_settings(
            path, settings, asked, "give another folder, or repeat that run's settings to go on with it"
        )
    else:
        write(path, json.dumps(dict(settings), indent=1, default=repr))


def refuse_other_settings(path: Path, settings: Mapping[str, Any], asked: str, do: str) -> None:
    """Refuse settings that differ from those noted in a file, naming what differs."""
    before = read_json(path, "the settings of a run")
    if not isinstance(before, dict):
        raise FileError(asked, f"a {type(before).__name__} instead of settings in {path}", "the file is damaged")
    then, now = dict(_flat(before)), dict(_flat(json.loads(json.dumps(dict(settings), default=repr))))
    different = [key for key in {**now, **then} if now.get(key) != then.get(key)]
    if different:
        shown = "; ".join(f"{key} {then.get(key)!s:.60}, now {now.get(key)!s:.60}" for key in different[:SHOWN])
        more = f"; and {len(different) - SHOWN} more" * (len(different) > SHOWN)
        raise FileError(asked, f"files of another run: {shown}{more}", do)


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, value


def encoded(name: str) -> str:
    """A text of a user's as part of a file's name: lower-case letters, digits, `-` and `_`, all else by its bytes.

    `urllib.parse.unquote` gives it back. Of a long one the beginning stays, and a digest tells it from others: what is
    in the file, or beside it in the folder's settings, has the whole.

    Example:
        >>> encoded("nli-food"), encoded("../Evil name")
        ('nli-food', '%2E%2E%2F%45vil%20name')
    """
    plain = "abcdefghijklmnopqrstuvwxyz0123456789-_"
    text = "".join(
        c if c in plain else "".join(f"%{byte:02X}" for byte in c.encode("utf-8", "surrogatepass")) for c in str(name)
    )
    return text if 0 < len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 20]}%{digest(name)}"


def digest(*parts: Any) -> str:
    """16 hexadecimal digits that change with any of the parts (anything whose `repr` says all there is to say)."""
    return hashlib.sha256("\x1f".join(map(repr, parts)).encode()).hexdigest()[:16]


class Journal:
    """Finished measurements by key, kept in memory and, where a path is given, in a file that survives a kill.

    The file has one JSON line per measurement: its key, and a value that is `valid`. A last line that was cut off by a
    kill is dropped and measured again.
    """

    def __init__(
        self, path: str | os.PathLike | None = None, valid: Callable[[Any], bool] = lambda value: True
    ) -> None:
        self.path = None if path is None else Path(path)
        self.known: dict[str, Any] = {}
        if self.path is not None and self.path.exists():
            *lines, rest = _lines(self.path)
            self.known = dict(_measurement(self.path, number, line, valid) for number, line in enumerate(lines, 1))
            if rest:  # what follows the last line break is empty, or cut off
                write(self.path, "".join(line + "\n" for line in lines))

    def get(self, key: str, measure: Callable[[], Any]) -> Any:
        """The value under the key, measured now if it is not known."""
        if key not in self.known:
            self.known[key] = measure()
            if self.path is not None:
                try:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    with self.path.open("ab", buffering=0) as file:  # at once: other processes may write lines too
                        file.write((json.dumps([key, self.known[key]]) + "\n").encode())
                except OSError as error:
                    raise FileError(f"write the journal {self.path}", str(error), "give another path") from error
        return self.known[key]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"read the journal {path}", str(error), "give another path, or delete the file") from None


def _measurement(path: Path, number: int, line: str, valid: Callable[[Any], bool]) -> tuple[str, Any]:
    try:
        key, value = json.loads(line)
        if not isinstance(key, str) or not valid(value):
            raise ValueError("a measurement of another kind")
    except (ValueError, TypeError):  # not JSON, or not a pair
        found = f"{line[:60]!r} in line {number}"
        raise FileError(f"read the journal {path}", found, "give another path, or delete the file") from None
    return key, value


def today() -> str:
    """The day, such as "2026-01-31", in UTC, so that it does not depend on where the machine is."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def versions() -> dict[str, str]:
    """The versions a result depends on, without importing any of the packages."""
    installed = {"python": platform.python_version()}
    return installed | {name: version for name in PACKAGES if (version := _version(name)) is not None}


@functools.cache  # a file is read and parsed for it, and every result asks
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
