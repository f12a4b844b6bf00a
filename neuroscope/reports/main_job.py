"""The main job from end to end: find every task's neurons, switch them off, compare the tasks, write one report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope import figures, files
from neuroscope.attribution import METHODS, attribute
from neuroscope.checks import public
from neuroscope.errors import ArgumentError, NeuroscopeError, choose
from neuroscope.experiments.f5_cross_ablation import CrossAblation, cross_ablation
from neuroscope.experiments.judging import check_seeds
from neuroscope.experiments.t1_deactivation import Deactivation, deactivation
from neuroscope.masks import NeuronMask, Overlap, Scores, overlap, overlap_sweep
from neuroscope.models import Model, resolve
from neuroscope.reports.page import write_report
from neuroscope.results import Section
from neuroscope.tasks import Task, load_tasks

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[..., Iterable[Any]]
PASS = 32  # at most so many examples per backward pass, which needs more memory than a forward pass
BUNDLED = (
    " The bundled model was trained with dropout on its FFN neurons, so random masks break less of it than of a model "
    "trained without: read its controls with that in mind."
)


@public
def run(
    model: Any = "mini",
    tasks: str | Sequence[str] | Task | Mapping[str, Task] = "mini",
    *,
    out: str | PathLike = "report",
    k: float = 0.10,
    method: str = "grad-x-act",
    objective: str = "loss",
    unit: str = "hidden",
    examples: int = 256,
    test_examples: int = 128,
    seeds: int = 5,
    batch_size: int = 128,
    progress: Progress | None = None,
) -> Path:
    """Find each task's neurons, deactivate them, cross-ablate, overlap; write masks, tables and one HTML report.

    A run that was killed goes on where it stopped when it is called again with the same arguments: scores are files,
    and every finished evaluation is a line of `journal.jsonl`.

    Args:
        model: anything that can be opened.
        tasks: "mini", a folder of jsonl tasks, names of the papers' catalogue, a task, or a dict of tasks.
        out: the folder to write into: `report.html`, `scores/`, `masks/`, `tables/` (CSV and parquet).
        k: share of all neurons in a task's mask.
        method, objective, unit: as in `attribute`.
        examples: discovery examples per task, on which neurons are found.
        test_examples: test examples per task, on which they are judged.
        seeds: random masks per control.
        progress: called as `progress(iterable, desc=)`; `tqdm` fits.

    Returns:
        Path of the report.
    """
    tasks = {tasks.name: tasks} if isinstance(tasks, Task) else tasks
    tasks = dict(tasks) if isinstance(tasks, Mapping) else load_tasks(tasks)
    _check(tasks, k, examples, test_examples)
    check_seeds(seeds)
    model, out = resolve(model), Path(out)
    settings = {"method": method, "objective": objective, "unit": unit, "examples": examples}
    scores = cached_scores(model, tasks, out / "scores", min(batch_size, PASS), progress, settings)
    masks = {name: s.top(k) for name, s in scores.items()}
    for name, mask in masks.items():
        mask.save(out / "masks" / f"{name}.safetensors")
    journal = files.Journal(out / "journal.jsonl")
    shared: dict[str, Any] = {"n": test_examples, "batch_size": batch_size, "journal": journal, "progress": progress}
    off = deactivation(model, masks, tasks, seeds=seeds, **shared)
    crossed = cross_ablation(model, masks, tasks, seeds=seeds, **shared)
    shares = overlap(masks) if len(masks) > 1 else None
    tables = {"deactivation": off.summary(), "deactivation_runs": off.to_frame(), "cross_ablation": crossed.to_frame()}
    tables["verdicts"] = crossed.verdicts()
    if shares is not None:
        tables["overlap"] = shares.to_frame()
    save_tables(tables, out / "tables")
    families = {name: t.family for name, t in tasks.items()}
    sections = [_deactivation_section(off), _cross_section(crossed)]
    if shares is not None:
        sections.append(_overlap_section(shares, scores, families))
    sections.append(_depth_section(masks, scores, families, k))
    return write_report(
        out / "report.html",
        title=f"Task neurons of {model.name if '/' not in model.name else Path(model.name).name}",
        intro=_headline(model, off, crossed, shares, families, k, _seen(tasks, examples, test_examples)),
        sections=sections,
        manifest={
            **model.provenance(),
            "k": k,
            "method": method,
            "objective": objective,
            "unit": unit,
            "discovery examples": {name: s.manifest["examples"] for name, s in scores.items()},
            "test examples": off.table.groupby("task", sort=False)["n"].first().to_dict(),
            "seeds": seeds,
            "data_hash": {name: t.data_hash for name, t in tasks.items()},
            "versions": files.versions(),
        },
    )


def _check(tasks: Any, k: Any, examples: int, test_examples: int) -> None:
    """Refuse before the first forward pass what would fail after the last one."""
    if isinstance(k, bool) or not isinstance(k, (int, float)) or not 0 < k <= 1:
        raise ArgumentError(f"run(k={k!r})", "k is the share of neurons to take", "give 0 < k <= 1, such as 0.10")
    if not tasks:
        raise ArgumentError("run(tasks=...)", "no task", "give 'mini', a folder, names, or a dict of tasks")
    for name, task in tasks.items():
        if not isinstance(task, Task):
            raise ArgumentError(f"run task {name!r}", f"a {type(task).__name__}", "give a dict of name -> ns.Task")
        task.split("discovery", examples)
        task.split("test", test_examples)


def cached_scores(
    model: Model,
    tasks: Mapping[str, Task],
    folder: Path,
    batch_size: int,
    progress: Progress | None,
    settings: dict[str, Any],
) -> dict[str, Scores]:
    """Scores of every task, from the folder where they were finished with the same model, data and settings."""
    together = METHODS[choose(settings["method"], METHODS, "method")].together
    about = {key: model.provenance()[key] for key in ("fingerprint", "dtype")}
    about |= {key: settings[key] for key in ("method", "objective")}
    asked: dict[str, Any] = {"asked": {key: settings[key] for key in ("unit", "examples")}}
    if together:
        asked["together"] = [task.data_hash for task in tasks.values()]
    found: dict[str, Scores] = {}
    for name, task in tasks.items():
        wanted = about | asked | {"data_hash": task.data_hash}
        known = _known(folder / f"{name}.safetensors", wanted)
        if known is not None:
            found[name] = known
    missing = {} if len(found) == len(tasks) else {n: t for n, t in tasks.items() if together or n not in found}
    for group in [missing] if together and missing else [{name: task} for name, task in missing.items()]:
        for name, fresh in attribute(model, group, batch_size=batch_size, progress=progress, **settings).items():
            manifest = {**fresh.manifest, **asked}
            found[name] = replace(fresh, manifest=manifest)
            found[name].save(folder / f"{name}.safetensors")
    return {name: found[name] for name in tasks}


def _known(path: Path, wanted: dict[str, Any]) -> Scores | None:
    if not path.exists():
        return None
    try:
        scores = Scores.load(path)
    except NeuroscopeError:  # of another version, or not ours: made again
        return None
    return scores if all(scores.manifest.get(key) == value for key, value in wanted.items()) else None


def save_tables(tables: Mapping[str, pd.DataFrame], folder: Path) -> None:
    """Each as CSV and parquet."""
    for name, table in tables.items():
        files.write(folder / f"{name}.csv", table.to_csv(index=False))
        files.write(folder / f"{name}.parquet", partial(table.to_parquet, index=False))


def _seen(tasks: Mapping[str, Task], examples: int, test_examples: int) -> int:
    """How many of the test prompts are discovery prompts of some task."""
    found_on = {e.prompt for t in tasks.values() for e in t.split("discovery", examples)}
    return sum(e.prompt in found_on for t in tasks.values() for e in t.split("test", test_examples))


def _headline(
    model: Model,
    off: Deactivation,
    crossed: CrossAblation,
    shares: Overlap | None,
    families: Mapping[str, str],
    k: float,
    seen: int,
) -> str:
    total = off.summary().set_index("name").loc["mean (all)"]
    verdicts = crossed.verdicts()
    counts = verdicts["verdict"].value_counts()
    shared = verdicts[verdicts["verdict"] == "shared"]
    none = list(verdicts.loc[verdicts["verdict"] == "not shown", "task"])
    lines = [
        f"- `{model.name}`: each of {len(verdicts)} tasks with its {k:.0%} of the neurons switched off: the mean score "
        f"goes from **{total['original']:.1%}** to **{total['off']:.1%}**; with as many random neurons of the same "
        f"layers off it is {total['random-layer']:.1%} ({total['random-uniform']:.1%} drawn from the whole model).",
        "- The neurons are **specific** (they break their task beyond chance, and more than those of any other family "
        f"do) in **{counts.get('specific', 0)} of {len(verdicts)}** tasks, and **selective** (another family's neurons "
        "break the task as much, but these break it more than they break tasks in general) in "
        f"**{counts.get('selective', 0)}** more.",
    ]
    if len(shared):
        by_whom = ", ".join(f"{r.task} (compare those of {r.strongest})" for r in shared.itertuples())
        lines.append(f"- **A negative**: the neurons were not shown to be the task's own in {by_whom}.")
    if none:
        lines.append(
            f"- **A negative**: switching them off was not shown to do anything beyond chance in {', '.join(none)}."
        )
    if shares is not None:
        lines.append(_overlap_line(shares, families))
    found = "Neurons were found on discovery examples and judged on test examples."
    if model.name == "mini":
        found += BUNDLED
    if seen:
        found += f" **{seen}** of the test prompts are among the discovery prompts as well: those were not held out."
    return found + "\n\n" + "\n".join(lines)


def _overlap_line(shares: Overlap, families: Mapping[str, str]) -> str:
    summary = shares.within_between(families)
    if not summary["pairs_within"] or not summary["pairs_between"]:
        return f"- Mean overlap (Jaccard) of the masks: {shares.table['jaccard'].mean():.2f}."
    return (
        f"- Masks overlap (Jaccard) {summary['within']:.2f} within a family and {summary['between']:.2f} across "
        f"families, a ratio of {summary['ratio']:.1f}; chance in the same layers is {summary['chance_between']:.2f}."
    )


def _deactivation_section(off: Deactivation) -> Section:
    text = (
        "Scores on test examples with nothing off, with random neurons off, and with the task's own neurons off (Leng "
        "& Xiong 2025, Table 1). Whiskers are 95 % bootstrap intervals over examples, shaded boxes the range over "
        "random masks. p compares own and layer-matched random neurons, over examples and over random masks, and is "
        "not below 0.0002, the least that its permutations can give; q corrects it over the tasks."
    )
    summary = off.summary()
    means = summary["name"].str.startswith("mean (")
    tables = [
        ("Means over tasks (off: each task's own neurons off)", summary[means].drop(columns=["p", "q"])),
        ("Scores by task", summary[~means]),
    ]
    return Section("Deactivation", text, [off.figure()], tables)


def _cross_section(crossed: CrossAblation) -> Section:
    verdicts = crossed.verdicts()
    counts = verdicts["verdict"].value_counts()
    said = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
    text = (
        "Every task's neurons off under every task (Leng & Xiong 2025, Figure 5). A cell is the score lost beyond "
        "random neurons of the same layers. Two kinds of neurons hide in a mask: those that matter for everything (a "
        "coloured row) and those that matter for this task (the diagonal, and the blocks of a family). "
        f"**Verdicts: {said}.**"
        "\n\n"
        "- specific: the interval of the effect on the own task lies above the mean effect of the family that breaks "
        "this task most (strongest).\n"
        "- selective: not that, but the effect is more than this mask's and this task's means explain (selectivity: "
        "the effect without the means of its row and column).\n"
        "- shared: beyond chance only. not shown: not beyond chance, with these numbers of examples and masks.\n\n"
        "Effects are differences of scores between 0 and 1. A verdict is about the tasks compared here: with other "
        "tasks it can be another."
    )
    return Section("Specificity", text, [crossed.figure()], [("Is the mask the task's own?", verdicts)])


def _overlap_section(shares: Overlap, scores: Mapping[str, Scores], families: Mapping[str, str]) -> Section:
    sweep = (
        overlap_sweep(scores, groups=_by_family(families)) if len(set(families.values())) > 1 else overlap_sweep(scores)
    )
    text = (
        "Jaccard overlap of the masks, with its level by chance. The curves compare the unions of the families' masks "
        "as the share k of neurons in each task's mask grows (Leng & Xiong 2025, Table 8): large masks overlap "
        "whatever they hold, so read them against the dotted line. All pairs are in tables/overlap.csv."
    )
    return Section(
        "Overlap", text, [shares.figure(families), sweep.figure()], [("Overlap of pairs", shares.to_frame())]
    )


def _by_family(families: Mapping[str, str]) -> dict[str, list[str]]:
    return {f: [name for name, own in families.items() if own == f] for f in dict.fromkeys(families.values())}


def _depth_section(
    masks: Mapping[str, NeuronMask], scores: Mapping[str, Scores], families: Mapping[str, str], k: float
) -> Section:
    widths = dict(next(iter(masks.values())).widths)
    first = next(iter(scores.values())).manifest
    share = np.mean(
        [
            float(
                s.vector().clamp_min(0).sort(descending=True).values[: len(m)].sum()
                / s.vector().clamp_min(0).sum().clamp_min(1e-30)
            )
            for s, m in zip(scores.values(), masks.values(), strict=True)
        ]
    )
    text = (
        f"Where in depth the masks' neurons are, and how relevance ({first['method']}, {first['reduction']}) falls "
        f"with rank. The top {k:.0%} hold {share:.0%} of the relevance, mean over tasks."
    )
    return Section(
        "Depth and relevance",
        text,
        [
            figures.depth_map(
                {name: m.counts() for name, m in masks.items()}, widths, title="Neurons by layer", groups=families
            ),
            figures.distribution(
                {name: s.vector().numpy() for name, s in scores.items()},
                title="Relevance by rank",
                k=k,
                groups=families,
            ),
        ],
    )
