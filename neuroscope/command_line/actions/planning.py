"""`--dry-run`: what a job would do, and what that would take."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroscope.checks import whole
from neuroscope.command_line.actions import jobs
from neuroscope.command_line.actions.costs import NOTHING, Cost, Costs, memory_of
from neuroscope.command_line.actions.work import SHARED, STAGES, Size, Stage, stages_of_run
from neuroscope.command_line.call import Answer, Call
from neuroscope.experiments.table import EXPERIMENTS

if TYPE_CHECKING:
    from neuroscope.tasks import Task

JOURNAL = "journal.jsonl"


def plan_of_run(call: Call, *, processes: int = 1) -> Answer:
    """The plan of the main job."""
    from neuroscope.evaluation import neutral_loss
    from neuroscope.reports.main_job import named_tasks

    whole(processes, "processes", 1)
    arguments = jobs.run_arguments(call)
    named = named_tasks(arguments.get("tasks", "mini"), "run")
    model = call.model()
    tune = arguments["tune"]
    has_neutral = call["neutral"] != [] and _succeeds(lambda: neutral_loss(model))
    shown = 0 if call["sizes"] is None else len({*call["sizes"], call["k"]})
    stages = stages_of_run(len(named), call["n_random"], shown, call["parts"] is not None, bool(tune), has_neutral)
    steps = _steps(named, tune if isinstance(tune, dict) else {}, together=True)
    costs = Costs(model, named, call["n"], call["examples"], call["batch_size"], steps)
    folder = Path(call["output"]).expanduser()
    return _answer(call, folder, {"run": stages}, {"run": costs}, {"run": list(named)}, processes)


def plan_of_experiments(call: Call, *, list_: bool = False, full: bool = False, processes: int | None = None) -> Answer:
    """The plan of experiments."""
    if list_:
        return jobs.experiments(call, list_=True)
    from neuroscope.reports.bench import Bench
    from neuroscope.reports.main_job import named_tasks
    from neuroscope.reports.reproduction import held_out_of

    processes = whole(jobs.processes_of(call, processes), "processes", 1)
    ids = jobs.ids_of(call)
    given_by_id = jobs.arguments_by_id(call, ids, full)
    folder = jobs.output_of(call, given_by_id)
    plans: dict[str, list[Stage]] = {}
    costs: dict[str, Costs] = {}
    tasks: dict[str, list[str]] = {}
    known: dict[Any, Costs] = {}
    scored: set[tuple[str, ...]] = set()
    for id_ in ids:
        row = EXPERIMENTS[id_]
        given = given_by_id[id_]
        named = named_tasks(given.get("tasks", row.tasks), "reproduce")
        out = held_out_of(row, named, given.get("held_out"))
        arguments: dict[str, Any] = {
            "k": 0.1,
            "seeds": None,
            "n_random": None,
            "n": None,
            "recipe": None,
            "methods": None,
        }
        arguments |= {"examples": call["examples"], **given, "held_out": out}
        if isinstance(arguments["methods"], str):
            arguments["methods"] = [arguments["methods"]]
        bench = Bench(row, named, folder, {k: v for k, v in arguments.items() if k != "tasks"})
        names = tuple(named)
        stages = STAGES[row.function.partition(":")[2]](_size(bench, len(named), len(named) - len(out)))
        plans[id_] = _without_what_is_made(stages, names, scored)
        tasks[id_] = list(names)
        n = bench.settings.get("n")
        recipe = bench.settings.get("recipe") or {}
        key = (names, n, arguments["examples"], str(recipe))
        how = (named, n, arguments["examples"], None, _steps(named, recipe))
        known[key] = known.get(key) or Costs(call.model(), *how)
        costs[id_] = known[key]
    return _answer(call, folder, plans, costs, tasks, processes)


def _size(bench: Any, tasks: int, learnt: int) -> Size:
    defaults = {n: p.default for n, p in inspect.signature(bench.function).parameters.items()}
    settings = {n: v for n, v in defaults.items() if v is not inspect.Parameter.empty}
    settings |= {**bench.keywords, **bench.settings}
    seeds, n_random = settings.get("seeds", 1), settings.get("n_random", 0)
    many = len(seeds) if isinstance(seeds, Sequence) else int(seeds or 1)
    return Size(tasks, learnt, many, int(n_random or 0), settings)


def _without_what_is_made(stages: Sequence[Stage], names: tuple[str, ...], made: set[tuple[str, ...]]) -> list[Stage]:
    """Stages but for what an experiment before has left in the folder: scores of the same tasks, the layers' run."""
    kept = []
    for stage in stages:
        place = (stage.name, *names)
        if stage.name in (SHARED, "find neurons") and not stage.evaluations:
            if place in made:
                continue
            made.add(place)
        kept.append(stage)
    return kept


def _steps(tasks: Mapping[str, Task], recipe: Mapping[str, Any], together: bool = False) -> dict[str, int]:
    """Optimizer steps of a training on each task, or on all together."""
    from neuroscope.training import Recipe

    chosen = Recipe.of({k: v for k, v in recipe.items() if k in vars(Recipe())})
    counts = {name: len(task.split("train")) if task.train else 0 for name, task in tasks.items()}
    counts = {"all": sum(counts.values())} if together else counts
    return {
        name: chosen.steps or math.ceil(chosen.epochs * math.ceil(count / chosen.batch_size))
        for name, count in counts.items()
    }


def _succeeds(measure: Any) -> bool:
    """Whether a model has neutral texts of its own."""
    from neuroscope.errors import NeuroscopeError

    try:
        measure()
    except NeuroscopeError:
        return False
    return True


def _answer(
    call: Call,
    folder: Path,
    plans: Mapping[str, list[Stage]],
    costs: Mapping[str, Costs],
    tasks: Mapping[str, list[str]],
    processes: int,
) -> Answer:
    rows: list[dict[str, Any]] = []
    for job, stages in plans.items():
        for stage in stages:
            rows.append({"job": job, "stage": stage, "cost": costs[job].of(stage)})
    total = sum((row["cost"] for row in rows), NOTHING)
    memory = memory_of(call.model())
    kept = _lines_of(folder / JOURNAL)
    text = [f"plan of `neuroscope {call.row.name}` into {folder.resolve()}; nothing was written", ""]
    text.append(f"{'':7} {'stage':24} {'what':44} {'passes':>9} {'time':>8}")
    for job, stages in plans.items():
        text += [f"{job:7} {_line(row['stage'], row['cost'])}" for row in rows if row["job"] == job]
        text += [] if stages else [f"{job:7} out of what those before have made"]
    text += [f"{'':7} {'all':24} {'':44} {total.passes:9,.0f} {_clock(total.seconds):>8}"]
    if processes > 1:
        shared = _clock(total.seconds / processes)
        text += [f"times are of one process; {processes} share the work: {shared} where each has a core to itself"]
    text += [""]
    names = list(dict.fromkeys(name for each in tasks.values() for name in each))
    text.append(f"tasks: {', '.join(names)}")
    text.append(
        f"memory: weights {_bytes(memory['weights'])}; this process had {_bytes(memory['most_so_far'])} at most"
    )
    measured = list(dict.fromkeys(one for cost in costs.values() for one in cost.measured))
    text.append(
        f"measured on this machine, as busy as it is now: {'; '.join(measured)}. Passes that generate are at most as "
        "many."
    )
    text += [f"{folder}/{JOURNAL} has {kept} measurements already, which are not made again"] if kept else []
    data = {
        "folder": folder.resolve(),
        "stages": [{"job": r["job"], **vars(r["stage"]), **vars(r["cost"])} for r in rows],
        "passes": total.passes,
        "seconds": total.seconds,
        "processes": processes,
        "memory": memory,
        "measured": measured,
        "tasks": dict(tasks),
        "measurements_kept": kept,
    }
    return Answer("\n".join(text), data)


def _line(stage: Stage, cost: Cost) -> str:
    about = "about " * stage.is_about
    kinds = {"scorings": "scorings", "evaluations": "evaluations", "neutral": "neutral losses"}
    kinds |= {"trainings": "trainings", "readings": "readings"}
    what = ", ".join(f"{getattr(stage, name):,} {word}" for name, word in kinds.items() if getattr(stage, name))
    return f"{stage.name:24} {about + what:44} {cost.passes:9,.0f} {_clock(cost.seconds):>8}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _bytes(count: float) -> str:
    if math.isnan(count):
        return "an unknown number of bytes"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _lines_of(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0
