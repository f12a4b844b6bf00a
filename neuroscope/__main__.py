"""The command line: `neuroscope run`, `neuroscope explore` and `neuroscope reproduce`."""

from __future__ import annotations

import argparse
import functools
import io
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neuroscope.checks import FEWEST_RANDOM
from neuroscope.errors import ArgumentError, FileError, NeuroscopeError, choose
from neuroscope.experiments.table import EXPERIMENTS

EXPLORER = "explorer.html"  # the page that explore writes
SELDOM = 30  # seconds between two lines of progress where nobody watches it
RECIPE = ("steps", "epochs", "lr")
TUNE = ("steps", "epochs", "lr", "batch_size")  # of --tune
PROMPTS = ("prompt", "chat", "system", "shots", "max_tokens", "too_long")  # how the prompts of tasks are shown
NEUTRAL = (
    "file of texts, one a line, to measure the loss on under each mask; none leaves this out; by default the model's"
)


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Says the defaults, where there are any: what is None by default says in words what that is."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def parser() -> argparse.ArgumentParser:
    """The options of every command."""
    top = argparse.ArgumentParser(prog="neuroscope", description="Which neurons does a task use, and are they its own?")
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run",
        help="find every task's neurons, switch them off, compare the tasks, write a report",
        formatter_class=Help,
    )
    run.add_argument("--output", default="report", help="folder for the report, masks, scores and tables")
    run.add_argument("--tasks", default="mini", help="mini, a folder of jsonl tasks, or catalogue names: sst2,mnli")
    run.add_argument(
        "--method", default="grad-x-act", help="how neurons are scored: relp, exact ...; a wrong one lists all"
    )
    run.add_argument("--objective", default="loss", help="loss, or log-odds where the model is certain")
    run.add_argument("--unit", default="hidden", help="hidden, output or head")
    run.add_argument("--n", type=int, default=128, help="test examples per task")
    run.add_argument(
        "--sizes",
        type=_shares,
        default="0.001,0.01,0.05",
        help="masks' shares beside --k whose faithfulness is shown; none",
    )
    run.add_argument(
        "--parts", type=_count, default="8", help="of the examples, an even number, to see how masks replicate; none"
    )
    kinds = "of the whole model, of the same layers, and as loud in these; a verdict on a mask rests on all three"
    run.add_argument(
        "--n-random", type=int, default=5, help=f"random masks of each kind, {FEWEST_RANDOM} at least: {kinds}"
    )
    run.add_argument("--neutral", help=NEUTRAL)
    run.add_argument("--batch-size", type=int, help="examples per forward pass; by default chosen by tokens")
    run.add_argument("--tune", action="store_true", help="first train the whole model on all tasks together")
    run.add_argument("--tune-steps", type=int, help="of --tune, which it implies; by default those of --tune-epochs")
    run.add_argument("--tune-epochs", type=float, help="of --tune, which it implies; by default 3")
    run.add_argument("--tune-lr", type=float, help="of --tune, which it implies: peak learning rate; by default 3e-4")
    run.add_argument("--tune-batch-size", type=int, help="of --tune, which it implies: examples a step; by default 16")
    explore = commands.add_parser("explore", help="write a page to look through what a run found, neuron by neuron")
    explore.add_argument("folder", metavar="REPORT_FOLDER", help="that run wrote into, or a page to bring up to date")
    explore.add_argument("--output", help="the file to write; by default explorer.html in the folder")
    drawing = [row.id for row in EXPERIMENTS.values() if row.fewest_seeds == FEWEST_RANDOM]
    several = f"; {FEWEST_RANDOM} at least for {', '.join(drawing)}"
    again = commands.add_parser(
        "reproduce",
        help="run one experiment of Leng & Xiong 2025 (such as T2), of Zhao, Ziser & Cohen 2024 (such as Z-F2), or CPR",
        formatter_class=Help,
    )
    again.add_argument("experiment", nargs="?", type=str.upper, metavar="ID", help=", ".join(EXPERIMENTS))
    again.add_argument("--list", action="store_true", help="say what each ID is, and end")
    again.add_argument(
        "--output",
        default="reproduction",
        help="folder for reports, one per ID, and tables; IDs share their work in it",
    )
    again.add_argument("--tasks", help="as in run; by default mini, or mini-sequence where neurons are trained")
    again.add_argument(
        "--held-out", type=_names, help="tasks only measured; by default the last, where the ID has some"
    )
    again.add_argument(
        "--seeds", type=int, help=f"trainings of each kind, each with its random masks; by default 3{several}"
    )
    again.add_argument(
        "--n-random",
        type=int,
        help=f"random masks of each kind, {FEWEST_RANDOM} at least, for T1, F3, T4, CPR; by default 5, 20, 20, 5",
    )
    again.add_argument("--n", type=int, help="test examples per task; by default all, and 128 for Z-F")
    again.add_argument("--steps", type=int, help="of every training; by default those of --epochs, and 20 for Z-F")
    again.add_argument("--epochs", type=float, help="of every training; by default 3")
    again.add_argument(
        "--lr", type=float, help="peak learning rate; by default 3e-3, for T5 tuned by method, for Z-F 3e-4"
    )
    again.add_argument("--methods", type=_names, help="of continual learning (T5): ncft,seqft; by default all")
    for command in (run, again):
        command.add_argument(
            "--prompt", help="of a folder of jsonl tasks: a template, such as 'Review: {text}\\nMood:'"
        )
        command.add_argument("--chat", action="store_true", default=None, help="prompts in the model's chat template")
        command.add_argument("--system", help="the system message of a chat; by default the template's own, if any")
        command.add_argument("--shots", type=int, help="training examples that stand solved before every prompt")
        command.add_argument("--max-tokens", type=int, help="of a prompt; by default what the model's context allows")
        command.add_argument("--too-long", help="error, skip, or cut; by default cut with --max-tokens, else error")
        command.add_argument("--model", default="mini", help="mini (bundled), a Hub id, or a local folder")
        command.add_argument("--k", type=float, default=0.10, help="share of all neurons in a task's mask, 1 at most")
        command.add_argument("--examples", type=int, default=256, help="discovery examples per task")
        command.add_argument("--dtype", default="auto", help="of the weights, such as bfloat16")
        command.add_argument("--device", help="such as cuda; by default the processor")
        command.add_argument("--device-map", help="as in transformers, such as auto")
    return top


def _shares(text: str) -> list[float] | None:
    return None if text.strip() == "none" else [float(part) for part in text.split(",")]


def _count(text: str) -> int | None:
    return None if text.strip() == "none" else int(text)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _lines(path: str) -> list[str]:
    try:
        lines = [line.strip() for line in Path(path).expanduser().read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"read --neutral {path}", str(error), "give a file of texts, one a line, or none") from None
    if not any(lines):
        raise FileError(f"read --neutral {path}", "no text", "give a file of texts, one a line, or none")
    return [line for line in lines if line]


def as_typed(error: NeuroscopeError, options: Mapping[str, Any]) -> NeuroscopeError:
    """An error in the words of the command line: what is `run(n_random=1)` in Python is `--n-random 1` here.

    Args:
        options: of the command, by name; their names are what can be typed.
    """
    named = {name: f"--{name.replace('_', '-')}" for name in options if name not in ("command", "experiment")}
    named |= {"source": "--tasks", "recipe": ", ".join(named[name] for name in RECIPE if name in named)}
    named |= {"method": "--methods"} if "methods" in named else {}
    asked = re.sub(r"^source: tasks", "--tasks", error.asked)
    if asked.startswith("tune: "):
        asked = asked.removeprefix("tune: ")
        named |= {name: f"--tune-{name.replace('_', '-')}" for name in TUNE}
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 if it worked, 2 with the reason on standard error if it could not, 130 if stopped."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # the path of a report, also in the C locale
    options = vars(parser().parse_args(arguments))
    if options.pop("list", False):
        print("\n".join(f"{row.id:5} {row.title} ({row.paper})" for row in EXPERIMENTS.values()))
        return 0
    try:
        print(_explore(**options) if options["command"] == "explore" else _run(**options))
    except NeuroscopeError as error:
        print(f"neuroscope: {as_typed(error, options)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("neuroscope: stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    return 0


def _explore(command: str, folder: str, output: str | None) -> str:
    from neuroscope.reports.explorer.exploring import explore

    there = Path(folder).expanduser()
    beside = there if there.is_dir() else there.parent
    return str(explore(folder).save(output or beside / EXPLORER).resolve())


def _run(command: str, model: str, dtype: str, device: str | None, device_map: str | None, **options: Any) -> str:
    if command == "reproduce":
        if not options["experiment"]:
            raise ArgumentError("neuroscope reproduce", "no ID", "name one; `--list` shows them all")
        choose(options["experiment"], EXPERIMENTS, "experiment")
        recipe = {name: options.pop(name) for name in RECIPE}
        options["recipe"] = {name: value for name, value in recipe.items() if value is not None} or None
    else:
        recipe = {name: options.pop(f"tune_{name}") for name in TUNE}
        given = {name: value for name, value in recipe.items() if value is not None}
        options["tune"] = given or options["tune"]
        if options["neutral"] is not None:
            options["neutral"] = [] if options["neutral"] == "none" else _lines(options["neutral"])
    from tqdm.auto import tqdm  # heavy imports wait until the arguments are known to be right

    from neuroscope.models import load
    from neuroscope.reports.main_job import run
    from neuroscope.reports.reproduction import reproduce

    start = time.perf_counter()

    def opened() -> Any:
        """The model, once all else is checked."""
        loaded = load(model, dtype=dtype, device=device, device_map=device_map)
        print(loaded, file=sys.stderr)
        return loaded

    options["progress"] = functools.partial(
        tqdm, dynamic_ncols=True, leave=False, mininterval=0.1 if sys.stderr.isatty() else SELDOM
    )
    asked = {name: options.pop(name) for name in PROMPTS}
    asked = {name: value for name, value in asked.items() if value is not None}
    if asked:
        from neuroscope.tasks import load_tasks

        if not options["tasks"]:
            do = "name the tasks, or a folder of them"
            raise ArgumentError(f"--{next(iter(asked)).replace('_', '-')} without --tasks", "no tasks", do)
        lines = {name: value.replace("\\n", "\n") for name, value in asked.items() if name in ("prompt", "system")}
        options["tasks"] = load_tasks(options["tasks"], **asked | lines)
    path = run(opened, **options) if command == "run" else reproduce(model=opened, **options)
    print(f"done in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return str(path.resolve())


if __name__ == "__main__":
    sys.exit(main())
