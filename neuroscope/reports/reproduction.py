"""One experiment of a paper from end to end: neurons, trainings, measurements, tables, one HTML report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroscope import files
from neuroscope.checks import public
from neuroscope.errors import ArgumentError, choose
from neuroscope.experiments import EXPERIMENTS
from neuroscope.masks import NeuronMask, Scores
from neuroscope.models import Model, resolve
from neuroscope.reports.main_job import PASS, Progress, cached_scores, save_tables
from neuroscope.reports.page import write_report
from neuroscope.reports.shown import provisos, shown
from neuroscope.results import Section
from neuroscope.tasks import Task, load_tasks
from neuroscope.training.recipe import LR

if TYPE_CHECKING:
    from neuroscope.results import Result

OWN = ("T1", "T8")  # the bundled model's own tasks will do; training needs tasks that it does not know
UNMASKED = ("T5",)  # finds its neurons on the way; those of ZZC24 need none
STEPS, EXAMPLES = 20, 128  # of every model tuned for ZZC24, and test examples per task, where none are given
HELD_OUT = 2  # tasks that ZZC24's multi-task model has not learnt, where none are named
CAPTIONS = {
    "summary": "Summary",
    "trend": "Trend over all runs",
    "published": "Average accuracy beside Table 5 of Leng & Xiong 2025 (Llama-2-7b), in %",
    "metrics": "By run",
    "overlap": "Overlap of pairs",
    "pairs": "What was correlated",
}  # of the tables that are shown


@dataclass(frozen=True)
class Bench:
    """What an experiment is run with.

    Attributes:
        test: names of the tasks that are only measured.
        settings: of training and measuring, as in `train_only`, without journal and progress.
    """

    model: Model
    tasks: Mapping[str, Task]
    test: Sequence[str]
    scores: Mapping[str, Scores]
    masks: Mapping[str, NeuronMask]
    k: float
    seeds: int
    examples: int | None
    settings: Mapping[str, Any]
    methods: Sequence[str] | None
    journal: files.Journal
    out: Path
    progress: Progress | None

    @property
    def shared(self) -> dict[str, Any]:
        """Keyword arguments of every training experiment."""
        return {"seeds": self.seeds, "journal": self.journal, "progress": self.progress, **self.settings}

    @property
    def train(self) -> dict[str, Task]:
        """The tasks that are not only measured."""
        return {name: task for name, task in self.tasks.items() if name not in self.test}


def _deactivation(bench: Bench, run: Callable[..., Any]) -> Result:
    given = {name: bench.shared[name] for name in ("seeds", "n", "journal", "progress")}
    return run(bench.model, bench.masks, bench.tasks, **given)


def _masked(bench: Bench, run: Callable[..., Any]) -> Result:
    return run(bench.model, bench.masks, bench.tasks, **bench.shared)


def _sweep(bench: Bench, run: Callable[..., Any]) -> Result:
    others = {name: bench.tasks[name] for name in bench.test}
    return run(bench.model, bench.train, others, scores=bench.scores, **bench.shared)


def _controlled(bench: Bench, run: Callable[..., Any]) -> Result:
    return run(bench.model, bench.masks, bench.tasks, list(bench.test), list(bench.train), **bench.shared)


def _overlaps(bench: Bench, run: Callable[..., Any]) -> Result:
    families: dict[str, list[str]] = {}
    for name, task in bench.tasks.items():
        families.setdefault(task.family, []).append(name)
    return run(bench.scores, groups=families if 1 < len(families) < len(bench.tasks) else None)


def _continual(bench: Bench, run: Callable[..., Any]) -> Result:
    settings = {"n": bench.settings["n"], "progress": bench.progress}
    settings["recipe"] = {k: v for k, v in bench.settings.items() if k not in ("n", "lr")}
    settings["options"] = {
        name: {"k": bench.k, "examples": bench.examples} for name in ("ncft", "w-ncft", "ncft-random")
    }
    lrs = (bench.settings["lr"],) if "lr" in bench.settings else None
    chosen = {} if bench.methods is None else {"methods": bench.methods}
    tasks = list(bench.tasks.values())
    return run(
        bench.model, tasks, seeds=range(bench.seeds), lrs=lrs, output=bench.out / "continual", **chosen, **settings
    )


def _depth(bench: Bench, run: Callable[..., Any]) -> Result:
    rest = {name: value for name, value in bench.shared.items() if name != "seeds"}
    return run(bench.model, bench.masks, bench.tasks, output=bench.out / "adapters", **rest)


def _transfer(bench: Bench, run: Callable[..., Any]) -> Result:
    return run(bench.model, bench.masks, bench.tasks, output=bench.out / "adapters", **bench.shared)


def _layers(bench: Bench, run: Callable[..., Any]) -> Result:
    given = bench.settings
    length = {"epochs": given["epochs"]} if given["steps"] is None else {"steps": given["steps"]}
    recipe = {**length, "lr": given.get("lr", LR)}
    n = EXAMPLES if bench.settings["n"] is None else bench.settings["n"]
    data = {name: task.data_hash for name, task in bench.tasks.items()}
    run_key = files.digest(bench.model.fingerprint(), data, list(bench.test), recipe, n)  # a run of others has its own
    folder, more = bench.out / "mossa" / run_key, {"n": n, "progress": bench.progress}
    return run(bench.model, bench.tasks, held_out=list(bench.test), recipe=recipe, output=folder, **more)


# how each experiment is called
CALLS: dict[str, Callable[[Bench, Callable[..., Any]], Any]] = {
    "T1": _deactivation, "T2": _masked, "F2": _sweep, "F5": _masked, "F6": _sweep, "T5": _continual, "T8": _overlaps,
    "T9": _controlled, "F3": _depth, "T4": _transfer,
    **dict.fromkeys((name for name in EXPERIMENTS if name.startswith("Z-")), _layers),
}  # fmt: skip


@public
def reproduce(
    experiment: str,
    model: Any = "mini",
    tasks: str | Sequence[str] | Mapping[str, Task] | None = None,
    *,
    test: Sequence[str] | None = None,
    out: str | PathLike = "reproduction",
    k: float = 0.10,
    seeds: int = 3,
    examples: int | None = 256,
    n: int | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    lr: float | None = None,
    methods: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Run one of `experiments.EXPERIMENTS`; write `<id>.html` and `tables/` (CSV and parquet).

    Killed, it goes on where it stopped when it is called again in the same way.

    Args:
        experiment: its id, such as "T2".
        model: anything that can be opened.
        tasks: as in `run`; None: "mini" for what trains nothing, otherwise "mini-sequence", five tasks that the bundled
            model does not know ("mini" too for the figures of ZZC24, Z-F1 to Z-F7).
        test: names of tasks that are only measured (F2, F6), whose neurons are counted (T9), or that the multi-task
            model has not learnt (Z-F1 to Z-F7); None: the last one, for ZZC24 the last two.
        out: folder to write into.
        k: share of all neurons in a task's mask.
        seeds: random masks and trainings of each kind; for T5, training seeds. F3 and ZZC24 train once.
        examples: discovery examples per task, on which neurons are found.
        n: test examples per task (None: all; for ZZC24 the first 128).
        steps, epochs: of every training; if both are None, 3 epochs, and for ZZC24 20 steps.
        lr: peak learning rate of every training; None: 3e-3, for T5 the best of each method's own grid, for ZZC24
            (which tunes the whole model) 3e-4.
        methods: of continual learning (T5); None: all.
        progress: called as `progress(iterable, desc=)`; `tqdm` fits.

    Returns:
        Path of the report.
    """
    run, about = EXPERIMENTS[choose(experiment, EXPERIMENTS, "experiment")]
    is_layers = experiment.startswith("Z-")
    if tasks is None:
        tasks = "mini" if experiment in OWN or is_layers else "mini-sequence"
    tasks = dict(tasks) if isinstance(tasks, Mapping) else load_tasks(tasks)
    named = list(tasks)[-min(HELD_OUT, len(tasks) - 1) if is_layers else -1 :] if test is None else list(test)
    for name in named:
        choose(name, tasks, "task")
    if (experiment in ("F2", "F6", "T9") or is_layers) and (len(set(named)) >= len(tasks) or len(tasks) < 2):
        raise ArgumentError(f"reproduce({experiment!r})", f"no task to train on beside {named}", "give more tasks")
    model, out = resolve(model), Path(out)
    found: dict[str, Scores] = {}
    if not is_layers and experiment not in UNMASKED:
        how = {"method": "grad-x-act", "objective": "loss", "unit": "hidden", "examples": examples}
        found = cached_scores(model, tasks, out / "scores", PASS, progress, how)
    if is_layers and steps is None and epochs is None:
        steps = STEPS
    settings = {"steps": steps, "epochs": 3 if epochs is None else epochs, "n": n} | ({} if lr is None else {"lr": lr})
    masks = {name: scores.top(k) for name, scores in found.items()}
    journal = files.Journal(out / "journal.jsonl")
    bench = Bench(model, tasks, named, found, masks, k, seeds, examples, settings, methods, journal, out, progress)
    result = CALLS[experiment](bench, run)
    text, drawn, tables = shown(result)
    save_tables({f"{experiment}_{name}": frame for name, frame in tables.items()}, out / "tables")
    name = Path(model.name).name
    source = "Zhao, Ziser & Cohen 2024" if is_layers else "Leng & Xiong 2025"
    cited = f"{experiment.removeprefix('Z-')} of {source}: {about}."
    return write_report(
        out / f"{experiment}.html",
        title=f"{experiment} on {name}",
        intro=f"{cited} Model `{name}`, tasks {', '.join(tasks)}. {provisos(result)}",
        sections=[
            Section(
                about[0].upper() + about[1:],
                text,
                drawn,
                [(CAPTIONS[n], f) for n, f in tables.items() if n in CAPTIONS],
            )
        ],
        manifest={**result.manifest, "k": k, "examples": examples},
    )
