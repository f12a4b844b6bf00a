"""`neuroscope explore` and `neuroscope report`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neuroscope import files
from neuroscope.command_line.actions.jobs import written
from neuroscope.command_line.call import Answer, Call
from neuroscope.errors import ArgumentError, FileError
from neuroscope.experiments.table import EXPERIMENTS

EXPLORER = "explorer.html"  # the page that explore writes
SETTINGS = "settings"
VERDICTS = ("task", "verdict", "effect", "low", "high", "q", "shared_with")


def explorer(call: Call, *, output: str | None = None) -> Answer:
    """A page to look through a run.

    Args:
        output: the file to write; by default explorer.html in the folder.
    """
    from neuroscope.reports.explorer.exploring import explore

    folder = _folder(call)
    there = Path(folder).expanduser()
    beside = there if there.is_dir() else there.parent
    given = {name: value for name, value in call.of(call.row.uses[0].function).items() if name != "run"}
    path = explore(folder, **given).save(output or beside / EXPLORER).resolve()
    return Answer(str(path), {"page": path, "bytes": path.stat().st_size})


def report(call: Call, *, folder: str | None = None, open_: bool = False) -> Answer:
    """What a folder of results holds.

    Args:
        folder: that run or reproduce wrote into.
        open_: also open its pages in a browser.
    """
    import pandas as pd

    there = Path(_folder(call)).expanduser().resolve()
    asked, do = f"report {there}", "give the folder that `neuroscope run` or `neuroscope reproduce` wrote"
    settings = sorted((there / SETTINGS).glob("*.json"))
    if not settings:
        found = "nothing there" if not there.exists() else "a file" if there.is_file() else f"no {SETTINGS}/*.json"
        raise FileError(asked, found, do)
    pages = [page for page in sorted(there.glob("*.html")) if page.stem in ("report", "explorer", *EXPERIMENTS)]
    held = written(there, pages) | {"jobs": {p.stem: files.read_json(p, "the settings of a run") for p in settings}}
    verdicts = there / "tables" / "cross_ablation_verdicts.csv"
    if verdicts.exists():
        table = pd.read_csv(verdicts)
        held["verdicts"] = table[[name for name in VERDICTS if name in table]]
    if open_:
        _open(pages, asked)
    return Answer(_told(held, pages, [path.stem for path in settings]), held)


def _folder(call: Call) -> str:
    if not call.given.get("folder"):
        asked, do = f"neuroscope {call.row.name}", "name the folder that `neuroscope run` wrote, such as report"
        raise ArgumentError(asked, "no folder", do)
    return str(call.given["folder"])


def _told(held: dict[str, Any], pages: list[Path], jobs: list[str]) -> str:
    lines = [str(page) for page in pages] or ["no page yet: the job was stopped; the same command goes on"]
    counts = ", ".join(f"{len(held[kind])} {kind}" for kind in ("masks", "scores", "tables"))
    lines.append(f"{counts}; settings of {', '.join(jobs)}")
    if "verdicts" in held:
        lines += ["", held["verdicts"].to_string(index=False, float_format=lambda x: f"{x:.3g}")]
    return "\n".join(lines)


def _open(pages: list[Path], asked: str) -> None:
    import webbrowser

    for page in pages:
        if not webbrowser.open(page.as_uri()):
            raise FileError(f"{asked}: open {page}", "no browser on this machine", "copy the file to one that has")
