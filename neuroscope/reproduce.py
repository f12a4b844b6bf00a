"""One experiment of a paper from end to end: neurons, trainings, measurements, tables, one HTML report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroscope import files
from neuroscope.errors import ArgumentError, choose, public
from neuroscope.evidence import Deactivation
from neuroscope.experiments import EXPERIMENTS
from neuroscope.experiments.continual_learning import beside_published, in_words
from neuroscope.masks import NeuronMask, Scores
from neuroscope.models import Model, resolve
from neuroscope.overlap import OverlapSweep
from neuroscope.pipeline import PASS, Progress, cached_scores, save_tables
from neuroscope.report import Section, write_report
from neuroscope.tasks import Task, load_tasks

if TYPE_CHECKING:
    import pandas as pd

    from neuroscope.results import Result

Tables = dict[str, "pd.DataFrame"]
UNTRAINED = ("T1", "T8")  # the bundled model's own tasks will do; training needs tasks that it does not know
ALPHA = 0.05
CAPTIONS = {
    "summary": "Summary",
    "trend": "Trend over all runs",
    "published": "Average accuracy beside Table 5 of Leng & Xiong 2025 (Llama-2-7b), in %",
    "metrics": "By run",
    "overlap": "Overlap of pairs",
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
    settings = {k: v for k, v in bench.settings.items() if k != "lr"} | {"progress": bench.progress}
    settings["options"] = {
        name: {"k": bench.k, "examples": bench.examples} for name in ("ncft", "w-ncft", "ncft-random")
    }
    lrs = (bench.settings["lr"],) if "lr" in bench.settings else None
    chosen = {} if bench.methods is None else {"methods": bench.methods}
    tasks = list(bench.tasks.values())
    return run(
        bench.model, tasks, seeds=range(bench.seeds), lrs=lrs, output=bench.out / "continual", **chosen, **settings
    )


# how each experiment is called
CALLS: dict[str, Callable[[Bench, Callable[..., Any]], Any]] = {
    "T1": _deactivation, "T2": _masked, "F2": _sweep, "F5": _masked, "F6": _sweep, "T5": _continual, "T8": _overlaps,
    "T9": _controlled,
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
    epochs: float = 3,
    lr: float | None = None,
    methods: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Run one of `experiments.EXPERIMENTS`; write `report.html` and `tables/` (CSV and parquet).

    Killed, it goes on where it stopped when it is called again in the same way.

    Args:
        experiment: its id, such as "T2".
        model: anything that can be opened.
        tasks: as in `run`; None: "mini" for what trains nothing, otherwise "mini-sequence", five tasks that the bundled
            model does not know.
        test: names of tasks that are only measured (F2, F6), or whose neurons are counted (T9); None: the last one.
        out: folder to write into.
        k: share of all neurons in a task's mask.
        seeds: random masks and trainings of each kind; for T5, training seeds.
        examples: discovery examples per task, on which neurons are found.
        n: test examples per task (None: all).
        steps, epochs: of every training.
        lr: peak learning rate of every training; None: 3e-3, and for T5 the best of each method's own grid.
        methods: of continual learning (T5); None: all.
        progress: called as `progress(iterable, desc=)`; `tqdm` fits.

    Returns:
        Path of the report.
    """
    run, about = EXPERIMENTS[choose(experiment, EXPERIMENTS, "experiment")]
    if tasks is None:
        tasks = "mini" if experiment in UNTRAINED else "mini-sequence"
    tasks = dict(tasks) if isinstance(tasks, Mapping) else load_tasks(tasks)
    named = list(tasks)[-1:] if test is None else list(test)
    for name in named:
        choose(name, tasks, "task")
    if experiment in ("F2", "F6", "T9") and len(set(named)) >= len(tasks):
        raise ArgumentError(f"reproduce({experiment!r})", f"no task to train on beside {named}", "give more tasks")
    model, out = resolve(model), Path(out)
    found: dict[str, Scores] = {}
    if experiment != "T5":  # which finds its neurons on the way
        how = {"method": "grad-x-act", "objective": "loss", "unit": "hidden", "examples": examples}
        found = cached_scores(model, tasks, out / "scores", PASS, progress, how)
    settings = {"steps": steps, "epochs": epochs, "n": n} | ({} if lr is None else {"lr": lr})
    masks = {name: scores.top(k) for name, scores in found.items()}
    journal = files.Journal(out / "journal.jsonl")
    bench = Bench(model, tasks, named, found, masks, k, seeds, examples, settings, methods, journal, out, progress)
    result = CALLS[experiment](bench, run)
    text, drawn, tables = _shown(result)
    save_tables({f"{experiment}_{name}": frame for name, frame in tables.items()}, out / "tables")
    name = Path(model.name).name
    cited = f"{experiment} of Leng & Xiong 2025: {about}."
    return write_report(
        out / "report.html",
        title=f"{experiment} on {name}",
        intro=f"{cited} Model `{name}`, tasks {', '.join(tasks)}. {_provisos(result)}",
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


def _shown(result: Any) -> tuple[str, list[Any], Tables]:
    """A result's text, figures and tables."""
    if isinstance(result, Deactivation):
        return _deactivated(result), [result.figure()], {"summary": result.summary(), "runs": result.to_frame()}
    if isinstance(result, OverlapSweep):
        return _overlapping(result), [result.figure()], {"overlap": result.to_frame()}
    tables: Tables = {"summary": result.summary(), "runs": result.to_frame()}
    if hasattr(result, "trend"):
        tables["trend"] = result.trend()
    if not hasattr(result, "methods"):
        return result.in_words(), [result.figure()], tables
    tables["metrics"] = result.metrics()
    published = beside_published(result)
    if published is not None:
        tables["published"] = published
    staged = result.metrics()["retention"].notna().any()
    return in_words(result), [result.figure(), *([result.retention_figure()] if staged else [])], tables


def _deactivated(result: Deactivation) -> str:
    summary = result.summary()
    total = summary[summary["name"] == "mean (all)"].iloc[0]
    tests = summary[summary["q"].notna()]
    hurt = tests[(tests["q"] < ALPHA) & (tests["off"] < tests["random-layer"])]
    rest = [name for name in tests["name"] if name not in set(hurt["name"])]
    lines = [
        f"- The mean score goes from {total['original']:.1%} to **{total['off']:.1%}** with the task's own neurons "
        f"off, to {total['random-layer']:.1%} with random ones of the same layers, to {total['random-uniform']:.1%} "
        "with random ones of the whole model.",
        f"- The own neurons break more than random ones of the same layers (q < {ALPHA}) in **{len(hurt)} of "
        f"{len(tests)}** tasks.",
    ]
    if rest:
        lines.append(f"- **A negative**: this was not shown in {', '.join(rest)}.")
    return "\n".join(lines)


def _overlapping(result: OverlapSweep) -> str:
    means = result.table.groupby("k")[["jaccard", "chance_layer"]].mean()
    lines = [
        f"- k = {k:.0%}: mean Jaccard **{row['jaccard']:.2f}**, by chance in the same layers {row['chance_layer']:.2f}."
        for k, row in means.iterrows()
    ]
    below = [
        f"{r['a']} | {r['b']} at {r['k']:.0%}"
        for r in result.table.to_dict("records")
        if r["jaccard"] <= r["chance_layer"]
    ]
    if below:
        lines.append(f"- **A negative**: {len(below)} of {len(result.table)} pairs overlap no more than by chance.")
    return "\n".join(lines)


def _provisos(result: Any) -> str:
    """What a reader must know before reading a number."""
    seen = result.manifest.get("seen", 0)
    said = "Neurons were found on discovery examples."
    if not isinstance(result, OverlapSweep):
        said += " Scores are on test examples."
    if seen:
        said += f" **{seen}** of the test prompts are training prompts as well: those were not held out."
    return said
