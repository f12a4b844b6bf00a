"""The main job from end to end: find every task's neurons, switch them off, compare the tasks, write one report."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from types import FunctionType
from typing import Any

from neuroscope import files
from neuroscope.attribution import METHODS
from neuroscope.attribution.dealing import number_of_parts
from neuroscope.attribution.objectives import Objective
from neuroscope.attribution.request import Request
from neuroscope.checks import FEWEST_RANDOM, Progress, public, shares
from neuroscope.errors import choose
from neuroscope.evaluation import prepare_neutral, prepare_task
from neuroscope.experiments.crossed_verdicts import NOT_COMPETENT
from neuroscope.experiments.f5_cross_ablation import CrossAblation, cross_ablation
from neuroscope.experiments.judging import refuse_tasks_without_tests_of_their_own
from neuroscope.experiments.mask_sizes import faithfulness
from neuroscope.experiments.t1_deactivation import Deactivation, deactivation
from neuroscope.markup import NEGATIVE, NOTHING
from neuroscope.masks import DRAWN, overlap, overlap_sweep
from neuroscope.masks.mask_depth import mask_depth
from neuroscope.models import Model, Unit, resolve
from neuroscope.reading.cards.strongest import cards_of_strongest
from neuroscope.reports import opening
from neuroscope.reports.cached_scores import cached_scores
from neuroscope.reports.evidence_cards import cards_section, keep, replication, with_evidence
from neuroscope.reports.explorer.content import STRONGEST
from neuroscope.reports.explorer.exploring import explore
from neuroscope.reports.page import write_report
from neuroscope.reports.table_files import save_tables
from neuroscope.reports.tuning import check_tunable, recipe_of_tuning, tuned
from neuroscope.results import Result, Section
from neuroscope.tasks import Task, Tasks, load_tasks, tasks_of
from neuroscope.training import Recipe

SETTINGS = "settings"  # in the output folder: of each job, in a file of its own, what its numbers are made with
EXPLORER = "explorer.html"  # there too
NO_EFFECT = ("no effect", NOT_COMPETENT)  # verdicts that claim nothing
COLOURS = (
    "In every figure purple is a task's own neurons, grey is random ones or chance, and what is dark was measured with "
    "nothing off, or is no matter of these; other colours are families of tasks."
)
BUNDLED = (
    " The bundled model was trained with dropout on its FFN neurons, so random masks break less of it than of a model "
    "trained without: read its controls with that in mind."
)


@public
def run(
    model: Any = "mini",
    tasks: str | PathLike | Sequence[str] | Tasks = "mini",
    *,
    output: str | PathLike = "report",
    k: float = 0.10,
    sizes: Sequence[float] | None = (0.001, 0.01, 0.05),
    parts: int | None = 8,
    method: str = "grad-x-act",
    objective: Objective = "loss",
    unit: Unit = "hidden",
    examples: int | None = 256,
    n: int | None = 128,
    n_random: int = 5,
    neutral: Sequence[str] | None = None,
    tune: Recipe | Mapping[str, Any] | bool | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Find each task's neurons, deactivate them, cross-ablate, overlap; write masks, tables and one HTML report.

    What is found out about each mask is on its evidence card, in the report and in the mask's file.

    A run that was killed goes on where it stopped when it is called again with the same arguments: scores are files,
    and every finished evaluation is a line of `journal.jsonl`.

    Args:
        model: anything that can be opened, or a function without arguments that opens it, which is called once
            everything else is found right.
        tasks: "mini", a folder of jsonl tasks, names of the papers' catalogue, or a Task, a list or a mapping of them.
        output: the folder to write into: `report.html`, `explorer.html`, `scores/`, `masks/`, `tables/` (CSV and
            parquet), and `strongest.json`, cards of the ten neurons that matter most to each task, without what breaks
            alone. It belongs to one set of settings, noted in `settings/`; others are refused.
        k: share of all neurons in a task's mask.
        sizes: growing shares beside k of masks of which is shown how much of its task each carries, alone and when it
            is off, beside three random masks (`faithfulness`); None leaves that out.
        parts: into how many parts the discovery examples are dealt, to see how far the masks replicate (`stability`):
            as much work as finding them. Left out where a task has fewer examples than parts, or by None.
        method, objective, unit: as in `attribute`.
        examples: discovery examples per task, on which neurons are found (None: all).
        n: test examples per task, on which they are judged (None: all).
        n_random: random masks of each kind: of the whole model, of the same layers, and as loud in the same layers. The
            verdict on a mask rests on all three (`deactivation`), those of the cross-ablation on the second.
        neutral: texts to measure the loss on under each mask, which says whether the model is still a model; None: its
            own (`neutral_loss`), where it has some; [] leaves this out.
        tune: a recipe, such as `{"steps": 200, "lr": 1e-4}`, or True for the default one: first train the whole model
            on the training examples of all tasks together, as LX24 does, and ask all else of the tuned model, which is
            kept in `tuned/` as a Hugging Face folder. The model that is given has its own weights again at the end.
        batch_size: examples per forward pass (None: chosen by tokens).
        progress: called as `progress(iterable, desc=...)`, such as tqdm.

    Returns:
        Path of the report.

    Raises:
        FileError: the folder holds a run with another model, other tasks or settings, or cannot be written to.
        ModelError: `tune` with a TransformerBridge, or another model that cannot be trained or kept as a folder.

    Example:
        >>> import tempfile
        >>> import neuroscope as ns
        >>> tasks = ns.load_tasks("mini", train=4, discovery=4, test=4)
        >>> two = [tasks["nli-food"], tasks["sentiment-food"]]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = ns.run("mini", two, output=folder, n_random=3, sizes=None, parts=None, neutral=[])
        ...     sorted(path.name for path in page.parent.iterdir())
        ['explorer.html', 'journal.jsonl', 'masks', 'report.html', 'scores', 'settings', 'strongest.json', 'tables']
    """
    folder = Path(output)
    how: dict[str, Any] = {"method": method, "objective": objective, "unit": unit, "examples": examples}
    Request(**how | {"method": METHODS[choose(method, METHODS, "method")]})  # all is refused before a model is loaded
    recipe = recipe_of_tuning(tune)
    parts = None if parts is None else number_of_parts(parts, "run")
    shown = None if sizes is None else sorted({*shares(sizes, "sizes"), k})
    files.writable(folder, "run")
    named = named_tasks(tasks, "run")
    for task in named.values():
        task.split("discovery", examples)
        task.split("test", n)
        if recipe is not None:
            task.split("train")
    refuse_tasks_without_tests_of_their_own(named)
    model = opened(model)
    if recipe is not None:
        check_tunable(model)
    for task in named.values():  # what cannot be asked is refused before the folder belongs to it
        prepare_task(model, task, "discovery", examples)
        prepare_task(model, task, "test", n)
    if neutral:
        prepare_neutral(model, neutral, name="neutral")
    families = {name: task.family for name, task in named.items()}
    with model.unchanged(), contextlib.ExitStack() as scopes:
        settings = settings_of(model, named) | how | {"k": k, "n": n, "n_random": n_random}
        settings |= {"tune": recipe and recipe.settings(), "neutral": neutral and list(neutral), "sizes": shown}
        settings |= {"parts": parts}
        files.keep_settings(folder / SETTINGS / "run.json", settings, f"run into {folder}")
        shared: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
        results: dict[str, Result] = {}
        if recipe is not None:
            results["tuning"] = scopes.enter_context(tuned(model, named, recipe, folder, n=n, **shared))
        scores = cached_scores(model, named, folder / "scores", **how, **shared)
        masks = {name: s.top(k) for name, s in scores.items()}
        keep(masks, folder / "masks")
        stable = None if parts is None else replication(model, named, k, parts, folder, **how, **shared)
        shared |= {"n": n, "output": folder}
        beside: dict[str, Any] = {"n_random": n_random, "neutral": neutral}
        results["deactivation"] = deactivation(model, named, masks, **beside, **shared)
        if len(masks) > 1:  # one task has nothing to be crossed or compared with
            results["cross_ablation"] = cross_ablation(model, named, masks, **beside, **shared)
            results["overlap"] = overlap(
                masks, families=families, ceiling=None if stable is None else stable.ceiling(k)
            )
            results["overlap_sweep"] = overlap_sweep(scores, groups=names_by_family(named))
        if stable is not None:
            results["stability"] = stable
        if shown is not None:
            results["faithfulness"] = faithfulness(model, named, scores, k=shown, n_random=FEWEST_RANDOM, **shared)
        results["depth"] = mask_depth(masks, scores, k, families)
        masks = with_evidence(masks, results, folder / "masks")
        reading = partial(
            cards_of_strongest, model, named, scores, masks, n=n, batch_size=batch_size, progress=progress
        )
        cards = opening.kept_cards(folder / STRONGEST, reading)
        provenance = model.provenance()
    save_tables(results, folder / "tables")
    explore(folder).save(folder / EXPLORER)
    judged = results["deactivation"].table.groupby("task", sort=False)["n"].first()
    return write_report(
        folder / "report.html",
        title=f"Task neurons of {Path(model.name).name}{', tuned' * (recipe is not None)}",
        intro=_intro(model.name, named, results, examples, n),
        links={"Look through tasks, layers and neurons in the explorer": EXPLORER},
        sections=[
            *opening.sections(results, scores, cards, EXPLORER),
            *(section for name in results for section in _sections(name, results)),
            cards_section(masks),
        ],
        manifest={
            **provenance,
            "k": k,
            "sizes": shown,
            "parts": parts,
            **how,
            "discovery examples": {name: s.manifest["examples"] for name, s in scores.items()},
            "test examples": judged.to_dict(),
            "n_random": n_random,
            "tune": settings["tune"],
            "asked": results["deactivation"].manifest["asked"],
            "neutral": results["deactivation"].manifest.get("neutral", "left out"),
            "data_hash": {name: task.data_hash for name, task in named.items()},
            "versions": files.versions(),
        },
    )


def opened(model: Any) -> Model:
    """The model; what is given may be a function that opens it."""
    return resolve(model() if isinstance(model, FunctionType) else model)


def settings_of(model: Model, tasks: Mapping[str, Task]) -> dict[str, Any]:
    """What a folder's settings say of the model, the tasks and the version."""
    weights = {key: value for key, value in model.provenance().items() if key not in ("model", "revision", "backend")}
    hashes = {name: task.data_hash for name, task in tasks.items()}
    return {**weights, "version": files.versions().get("neuroscope"), "order": list(tasks), "tasks": hashes}


def named_tasks(tasks: Any, asked: str) -> dict[str, Task]:
    """Tasks by name: loaded where they are given by name or folder."""
    by_name = isinstance(tasks, str | PathLike) or (
        isinstance(tasks, Sequence) and bool(tasks) and all(isinstance(task, str) for task in tasks)
    )
    return load_tasks(tasks) if by_name else tasks_of(tasks, asked)


def names_by_family(tasks: Mapping[str, Task]) -> dict[str, list[str]] | None:
    """Family -> names of its tasks; None where that groups nothing: one family, or as many as tasks."""
    families: dict[str, list[str]] = {}
    for name, task in tasks.items():
        families.setdefault(task.family, []).append(name)
    return families if 1 < len(families) < len(tasks) else None


def _sections(name: str, results: Mapping[str, Result]) -> list[Section]:
    """The sections of a result; those that compare masks alone say whose task the model is at chance at.

    That of the cross-ablation, which has one kind of random masks, says which verdicts do not hold beside all kinds.
    """
    result, off = results[name], results["deactivation"]
    sections = result.sections()
    assert isinstance(off, Deactivation)
    names = ", ".join(off.standings.at_chance)
    if isinstance(result, CrossAblation):
        line = _doubt(result, off)
    elif name in ("overlap", "overlap_sweep", "depth") and names:
        line = _at_chance(names, off)
    else:
        line = ""
    return [replace(section, text=f"{section.text}\n{line}") for section in sections] if line else sections


def _at_chance(names: str, off: Deactivation) -> str:
    return (
        f"- {NOTHING} about neurons of {names}: with nothing switched off the model is at chance there (see "
        f"{off.title}), so these may be neurons of nothing that it can do."
    )


def _doubt(crossed: CrossAblation, off: Deactivation) -> str:
    """Which masks have a verdict, though breaking their own task does not hold beside every kind of random masks."""
    verdicts = crossed.verdicts().set_index("task")["verdict"]
    failing = off.controls.failing
    names = [f"{name} ({v})" for name, v in verdicts.items() if failing.get(str(name)) and v not in NO_EFFECT]
    if not names:
        return ""
    return (
        f"- {NEGATIVE}: a verdict here rests on {DRAWN[crossed.manifest['match']]} alone. That these neurons break "
        f"their own task does not hold beside every kind of random ones for {', '.join(names)} (see {off.title})."
    )


def _intro(
    name: str, tasks: Mapping[str, Task], results: Mapping[str, Result], examples: int | None, n: int | None
) -> str:
    """What was found in a few sentences, and how it was done."""
    how = "Neurons were found on discovery examples and judged on test examples."
    if name == "mini":
        how += BUNDLED
    prompts = {e.prompt for task in tasks.values() for e in task.split("discovery", examples)}
    seen = sum(e.prompt in prompts for task in tasks.values() for e in task.split("test", n))
    if seen:
        how += f" **{seen}** of the test prompts are among the discovery prompts as well: those were not held out."
    return f"{opening.in_words(results)}\n\n{how} {COLOURS}"
