"""One experiment of a paper from end to end: neurons, trainings, measurements, tables, one HTML report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from neuroscope import files
from neuroscope.checks import Progress, public
from neuroscope.errors import ArgumentError, choose, kind_of
from neuroscope.experiments.table import EXPERIMENTS, Experiment
from neuroscope.reports.bench import GIVEN, Bench, accepted
from neuroscope.reports.main_job import SETTINGS, named_tasks, opened, settings_of
from neuroscope.reports.page import write_report
from neuroscope.reports.table_files import save_tables
from neuroscope.tasks import Task, Tasks
from neuroscope.training import Recipe

DEFAULTS = {"k": 0.10, "examples": 256}  # of `reproduce`; of all others None


@public
def reproduce(
    experiment: str,
    model: Any = "mini",
    tasks: str | PathLike | Sequence[str] | Tasks | None = None,
    *,
    held_out: str | Sequence[str] | None = None,
    output: str | PathLike = "reproduction",
    k: float = 0.10,
    seeds: int | Sequence[int] | None = None,
    n_random: int | None = None,
    examples: int | None = 256,
    n: int | None = None,
    recipe: Recipe | Mapping[str, Any] | None = None,
    methods: str | Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Run one of `experiments.EXPERIMENTS`; write `<id>.html` and `tables/` (CSV and parquet).

    Killed, it goes on where it stopped when it is called again in the same way. In one folder, experiments share what
    they find, train and measure, each under one set of settings.

    Args:
        experiment: its id, such as "T2".
        model: as in `run`.
        tasks: as in `run`; None: "mini" for what trains nothing new, otherwise "mini-sequence", five tasks that the
            bundled model does not know.
        held_out: names of tasks that are only measured; None: the last one, or the last two, where the experiment has
            such.
        output: folder to write into.
        k: share of all neurons in a task's mask.
        seeds: trainings of each kind, each with its own random masks: 3 is seeds 0, 1 and 2.
        n_random: random masks of each kind, where nothing is trained.
        examples: discovery examples per task, on which neurons are found (None: all).
        n: test examples per task (None: all, or where representations are read 128).
        recipe: of every training, where its defaults (3 epochs; where the whole model is trained for its
            representations, 20 steps) are not wanted. With an lr, T5 tunes none.
        methods: of continual learning; None: all.
        progress: called as `progress(iterable, desc=...)`, such as tqdm.

    Returns:
        Path of the report.

    Raises:
        ArgumentError: an unknown experiment, an argument that it does not have, such as seeds for one that draws
            nothing, or no task left to train on.
        FileError: the folder holds this experiment with another model, other tasks or settings.

    Example:
        >>> import tempfile
        >>> import neuroscope as ns
        >>> tasks = ns.load_tasks("mini", train=4, discovery=4, test=4)
        >>> two = [tasks["nli-food"], tasks["sentiment-food"]]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = ns.reproduce("T8", "mini", two, output=folder)
        ...     page.name, sorted(path.name for path in page.parent.glob("tables/*"))
        ('T8.html', ['T8_pairs.csv', 'T8_pairs.parquet'])
    """
    row, folder = EXPERIMENTS[choose(experiment, EXPERIMENTS, "experiment")], Path(output)
    if recipe is not None and not isinstance(recipe, Recipe | Mapping):
        raise ArgumentError("reproduce(recipe=...)", kind_of(recipe), "give a dict, such as {'steps': 60}")
    arguments: dict[str, Any] = {"k": k, "seeds": seeds, "n_random": n_random, "examples": examples, "n": n}
    arguments |= {"recipe": recipe, "held_out": held_out}
    arguments["methods"] = [methods] if isinstance(methods, str) else methods
    _refuse_what_it_lacks(row, [name for name in GIVEN if arguments[name] != DEFAULTS.get(name)])
    files.writable(folder, f"reproduce {row.id}")
    named = named_tasks(row.tasks if tasks is None else tasks, "reproduce")
    arguments |= {"progress": progress, "held_out": held_out_of(row, named, held_out)}
    bench = Bench(row, named, folder, arguments)
    model = bench.model = opened(model)
    with model.unchanged():
        settings = settings_of(model, named) | bench.settings
        files.keep_settings(folder / SETTINGS / f"{row.id}.json", settings, f"reproduce {row.id} into {folder}")
        result = bench.run()
    save_tables({row.id: result}, folder / "tables")
    how_found = " Neurons were found on discovery examples." if bench.finds_neurons else ""
    return write_report(
        folder / f"{row.id}.html",
        title=f"{row.id} on {Path(model.name).name}",
        intro=f"{row.citation}: {row.title}. Model `{model.name}`, tasks {', '.join(named)}.{how_found}",
        sections=result.sections(),
        manifest=({"k": k, "examples": examples} if bench.finds_neurons else {}) | result.manifest,
    )


def _refuse_what_it_lacks(row: Experiment, given: Sequence[str]) -> None:
    names = accepted(row)
    for name in given:
        if name not in names:
            asked = f"reproduce({row.id!r}, {name}=...)"
            raise ArgumentError(
                asked, "no such argument of this experiment", f"leave it out; it has {', '.join(names)}"
            )


def held_out_of(row: Experiment, tasks: Mapping[str, Task], held_out: Sequence[str] | None) -> list[str]:
    """The tasks that are only measured: those named, or the last ones, but for one to train on."""
    names = list(tasks)
    chosen = names[max(1, len(names) - row.held_out) :] if held_out is None and row.held_out else list(held_out or ())
    for name in chosen:
        choose(name, tasks, "held-out task")
    if row.held_out and (not chosen or len(chosen) >= len(names)):
        raise ArgumentError(f"reproduce({row.id!r})", f"no task to train on beside {chosen}", "give more tasks")
    return chosen
