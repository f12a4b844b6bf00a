"""`neuroscope run` and `neuroscope reproduce`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neuroscope.checks import whole
from neuroscope.command_line.actions.sharing import sharing
from neuroscope.command_line.call import Answer, Call, listed
from neuroscope.command_line.command import RECIPE
from neuroscope.command_line.processes import alone
from neuroscope.errors import ArgumentError, NeuroscopeError, TaskError, choose
from neuroscope.experiments.table import EXPERIMENTS

RUN, REPRODUCE = "neuroscope.reports.main_job:run", "neuroscope.reports.reproduction:reproduce"
ALL = "all"
# of `all` where nothing else is given, so that it ends within half an hour on the bundled model: examples that neurons
# are found on and tested on, the methods of LX24's Table 5 with NCFT's control, and the steps of every training
TABLE_5 = ("seqft", "seq-lora", "epi", "o-lora", "ncft", "ncft-random", "w-ncft", "per-task")
FIRST_LOOK: dict[str, Any] = {"examples": 64, "n": 64, "methods": TABLE_5}
FIRST_STEPS = 24
FIRST_FOLDER = "first-look"  # so that it is not in the way of what is measured in full
FOR_ALL = ("model", "tasks", "output", "progress")  # arguments that every experiment has


def whole_run(call: Call, *, processes: int = 1) -> Answer:
    """The main job; what it wrote.

    Args:
        processes: that share the work, each with a copy of the model.
    """
    start = time.perf_counter()
    arguments = run_arguments(call)
    _refuse_uneven(arguments["tune"], processes)
    with sharing(call.words, processes):
        from neuroscope.reports import main_job  # heavy

        path = main_job.run(opener(call), **arguments)
    report = path.resolve()
    call.say(f"done in {time.perf_counter() - start:.0f} s; `neuroscope report {report.parent}` says what was found")
    pages = [page for page in (report, report.with_name(main_job.EXPLORER)) if page.exists()]
    return Answer(str(report), written(report.parent, pages))


def run_arguments(call: Call) -> dict[str, Any]:
    """The arguments of `run`, but for the model."""
    given = call.of(RUN, "model")
    recipe = {name: value for name, value in call.of(RECIPE).items() if value is not None}
    given["tune"] = recipe or bool(given.get("tune"))
    return given | tasks_given(call) | {"progress": call.progress}


def _refuse_uneven(tune: Any, processes: int) -> None:
    """A training that processes share needs batches that they can cut into equal parts: refused before all else."""
    if not tune or processes == 1:
        return
    from neuroscope.training import Recipe

    size = Recipe.of(tune if isinstance(tune, dict) else {}).batch_size
    if size % whole(processes, "processes", 1):
        asked, found = f"--tune with --processes {processes}", f"batches of {size} examples, which do not divide"
        raise ArgumentError(asked, found, f"give --tune-batch-size a multiple of {processes}, or other --processes")


def tasks_given(call: Call) -> dict[str, Any]:
    """The tasks as a function takes them: loaded here only where it is said how their prompts are shown."""
    asked = call.asked_prompts()
    if not asked:
        return {"tasks": listed(call.given["tasks"])} if call.given.get("tasks") else {}
    if not call["tasks"]:
        name = next(name for name in call.options if name in asked)
        do = "name the tasks, or a folder of them"
        raise ArgumentError(f"{call.options[name].flag} without --tasks", "no tasks", do)
    return {"tasks": call.tasks()}


def opener(call: Call) -> Any:
    """A function that opens the model, once all else is checked: a plain one, which `run` tells from a model."""

    def opened() -> Any:
        return call.model()

    return opened


def experiments(call: Call, *, list_: bool = False, full: bool = False, processes: int | None = None) -> Answer:
    """One experiment or several, each with the options that it has.

    Args:
        list_: say what each ID is, and end.
        full: of all: each at its own settings, which takes hours, and not at those of a first look.
        processes: that share the work, each with a copy of the model; None: 1, and of all with the bundled model 2.
    """
    if list_:
        return _listed()
    ids = ids_of(call)
    arguments = arguments_by_id(call, ids, full)
    _refuse_what_none_has(call, ids)
    start = time.perf_counter()
    with sharing(call.words, processes_of(call, processes)):
        pages, failed = _reproduced(call, arguments)
    call.say(f"done in {time.perf_counter() - start:.0f} s")
    folder = output_of(call, arguments).resolve()
    text = "\n".join([*map(str, pages), *(f"{id_}: not done, {error.found}" for id_, error in failed.items())])
    not_done = {id_: {"asked": e.asked, "found": e.found, "do": e.do} for id_, e in failed.items()}
    return Answer(text, written(folder, pages) | {"not_done": not_done}, 1 if failed else 0)


def _reproduced(
    call: Call, arguments: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Path], dict[str, NeuroscopeError]]:
    """The pages, and the errors of those that failed; of one experiment its error is raised."""
    from neuroscope import distributed  # heavy: after what can be refused without it
    from neuroscope.reports import reproduction

    pages: list[Path] = []
    failed: dict[str, NeuroscopeError] = {}
    ids = list(arguments)
    for place, id_ in enumerate(ids, 1):
        if len(ids) > 1:
            call.say(f"{id_} ({place} of {len(ids)}): {EXPERIMENTS[id_].title}")
        try:
            pages.append(reproduction.reproduce(id_, opener(call), **arguments[id_]).resolve())
        except NeuroscopeError as error:
            others_have_it = distributed.is_told(error) or isinstance(error, ArgumentError | TaskError)
            if len(ids) == 1 or not (others_have_it or distributed.world()[1] == 1):
                raise  # processes that go on with different experiments would wait for each other
            failed[id_] = error
            call.say(f"{id_}: {error}", always=True)
    return pages, failed


def _listed() -> Answer:
    lines = [f"{row.id:7} {row.title} ({row.paper})" for row in EXPERIMENTS.values()]
    rows = [
        {"id": row.id, "title": row.title, "paper": row.paper, "citation": row.citation, "tasks": row.tasks}
        for row in EXPERIMENTS.values()
    ]
    return Answer("\n".join(lines), {"experiments": rows})


def ids_of(call: Call) -> list[str]:
    """The experiments that were named, each once.

    Raises:
        ArgumentError: none, or one that is not in the table.
    """
    named = _named(call)
    if not named:
        raise ArgumentError("neuroscope reproduce", "no ID", "name one or more, or all; `--list` shows them")
    if _is_all(call):
        return list(EXPERIMENTS)
    ids = [name.strip().upper() for name in named]
    return list(dict.fromkeys(choose(id_, EXPERIMENTS, "experiment") for id_ in ids))


def _named(call: Call) -> list[str]:
    given = call.given.get("experiment") or []
    return [one for word in ([given] if isinstance(given, str) else given) for one in word.split(",")]


def _is_all(call: Call) -> bool:
    return any(name.strip().lower() == ALL for name in _named(call))


def output_of(call: Call, arguments: Mapping[str, Mapping[str, Any]]) -> Path:
    """The folder that experiments are written into."""
    return Path(next(iter(arguments.values())).get("output", call["output"])).expanduser()


def processes_of(call: Call, processes: int | None) -> int:
    """How many share the work: the bundled model, which is too small for several threads, takes two for `all`."""
    if processes is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1  # tried on Linux alone
        processes = 2 if _is_all(call) and call["model"] == "mini" and cores > 1 and alone() else 1
    return processes


def arguments_by_id(call: Call, ids: Sequence[str], full: bool) -> dict[str, dict[str, Any]]:
    """The arguments of `reproduce` for each experiment: of all, those of a first look where nothing else is given.

    Raises:
        ArgumentError: --full of experiments that are named, which have their own settings anyway.
    """
    if full and not _is_all(call):
        asked = f"neuroscope reproduce {' '.join(ids)} --full"
        raise ArgumentError(asked, "IDs by name, which have their own settings anyway", "leave --full out")
    arguments = {id_: arguments_of(call, id_, len(ids) > 1) for id_ in ids}
    return arguments if full or not _is_all(call) else {id_: _first_look(id_, arguments[id_]) for id_ in ids}


def _first_look(id_: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an experiment with those of a first look, where the user gave no other."""
    from neuroscope.reports.bench import accepted

    row = EXPERIMENTS[id_]
    names = accepted(row)
    found: dict[str, Any] = {name: value for name, value in FIRST_LOOK.items() if name in names} | dict(given)
    recipe = given.get("recipe", {})
    if "recipe" in names and "epochs" not in recipe:
        found["recipe"] = {"steps": min(FIRST_STEPS, row.keywords.get("recipe", {}).get("steps", FIRST_STEPS))} | recipe
    return {"output": FIRST_FOLDER} | found


def arguments_of(call: Call, id_: str, is_one_of_several: bool) -> dict[str, Any]:
    """The arguments of `reproduce` for an experiment; of several, those that it has."""
    given = call.of(REPRODUCE, "model", "experiment", "tasks")
    recipe = {name: value for name, value in call.of(RECIPE).items() if value is not None}
    given |= {"recipe": recipe} if recipe else {}
    if is_one_of_several:
        from neuroscope.reports.bench import accepted

        given = {k: v for k, v in given.items() if k in (*FOR_ALL, *accepted(EXPERIMENTS[id_]))}
    return given | tasks_given(call) | {"progress": call.progress}


def _refuse_what_none_has(call: Call, ids: Sequence[str]) -> None:
    """An option that no experiment of several has is a mistake."""
    if len(ids) < 2:
        return
    from neuroscope.reports.bench import GIVEN, accepted

    some = {name for id_ in ids for name in accepted(EXPERIMENTS[id_])}
    names = [name for name in call.of(REPRODUCE) if name in GIVEN] + ["recipe"] * bool(call.of(RECIPE))
    for name in names:
        if name not in some:
            asked = f"reproduce({' '.join(ids)!r}, {name}=...)"
            found = f"no such argument of {', '.join(ids)}"
            raise ArgumentError(asked, found, f"leave it out; they have {', '.join(sorted(some))}")


def written(folder: Path, pages: Sequence[Path]) -> dict[str, Any]:
    """What lies in a folder of results, by kind."""
    kinds: Mapping[str, str] = {"masks": "masks/*.safetensors", "scores": "scores/*.safetensors"}
    kinds = {**kinds, "tables": "tables/*.csv"}
    found: dict[str, Any] = {"folder": folder, "pages": list(pages)}
    return found | {kind: sorted(folder.glob(pattern)) for kind, pattern in kinds.items()}
