"""`benchmark`: tasks of lm-evaluation-harness with nothing off, with masks off, and with random masks off.

1. Each task is run as lm-evaluation-harness runs it (`interop.harness`): intact, under each mask, and under `n_random`
   layer-matched random masks of each.
2. A mask is compared with its random masks over documents and over masks (`statistics.against_controls`), and q
   corrects p over all comparisons.
3. Where the model with nothing off is not shown to be better than always giving the same choice, nothing is tested.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from neuroscope import distributed, files
from neuroscope.checks import Progress, public, whole
from neuroscope.errors import TaskError
from neuroscope.evaluation import AT_CHANCE, Constant, standing
from neuroscope.experiments.benchmark_result import INTACT, OFF, RANDOM, Benchmark
from neuroscope.experiments.judging import masks_manifest
from neuroscope.interop.harness import (
    HarnessTask,
    lm_of,
    load_harness_tasks,
    measure,
    metric_of,
    refuse_corrupt,
    sources_of,
    version,
)
from neuroscope.interventions import ablate
from neuroscope.interventions.edits import Value
from neuroscope.interventions.where import At, Range
from neuroscope.masks import Masks, NeuronMask, masks_of
from neuroscope.models import resolve
from neuroscope.statistics import against_controls, benjamini_hochberg, bootstrap_interval, score_interval
from neuroscope.tasks import Task

JOURNAL = "benchmark.jsonl"  # in the output folder
LEAST = 2  # documents: fewer do not tell how documents differ
CHOSEN = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")  # metrics: is the choice right?
Condition = tuple[str, str, int | None]  # condition, name of the mask, seed


@public
def benchmark(
    model: Any,
    masks: Masks,
    tasks: str | PathLike | Iterable[str | PathLike],
    *,
    n_random: int = 5,
    limit: int | None = None,
    num_fewshot: int | None = None,
    value: Value | float = "zero",
    data: Task | None = None,
    at: At | None = None,
    when: Range | None = None,
    batch_size: int | None = None,
    output: str | PathLike | None = None,
    progress: Progress | None = None,
) -> Benchmark:
    """Run tasks of lm-evaluation-harness with nothing off, under masks, and under random masks.

    Scores are the harness' own (Gao et al. 2024, `lm_eval`): those of `lm_eval.simple_evaluate` on the same model.

    Args:
        model: anything that can be opened, if it is a model of transformers (or such a model traced by nnsight).
        masks: by name.
        tasks: names of tasks, groups or tags of the harness; paths of yaml files of tasks, or of folders of them (a
            text is a path if it has a separator or ends in .yaml).
        n_random: layer-matched random masks beside each mask.
        limit: the first so many documents of each task; None: all.
        num_fewshot: solved examples before each document; None: as the task has it.
        value: what ablated neurons become, as of `ns.ablate`; but for "corrupt", as documents have no corrupt prompts.
        data: a task whose discovery examples "mean" and "resample" are taken from, as of `ns.ablate`.
        at, when: at which tokens, and in which range of activations, as of `ns.ablate`. The prompt is a document's
            context; the answer what is scored after it, and "generated" that or what is generated.
        batch_size: rows at a time; None: as many as the model runs best.
        output: a folder for what is measured, from which a killed call goes on.
        progress: called as `progress(iterable, desc=...)`, such as tqdm.

    Raises:
        NeuroscopeError: lm_eval is not installed (`pip install 'neuroscope[lm-eval]'`).
        ArgumentError: an unknown task; the text has those near it.
        TaskError: a task that cannot be loaded, or has no metric that is a mean over documents.
        ModelError: a model that the harness cannot run.
        MaskError: a mask is of another model.

    Example:
        >>> found = benchmark(model, {"mine": mask}, ["arc_easy"], limit=200)  # doctest: +SKIP
        >>> print(found.in_words())  # doctest: +SKIP
    """
    asked = "benchmark"
    refuse_corrupt(value, asked)
    sources = sources_of(tasks, asked)
    limit = None if limit is None else whole(limit, "benchmark: limit", LEAST, "give 2 or more, or None for all")
    shots = None if num_fewshot is None else whole(num_fewshot, "benchmark: num_fewshot", 0)
    opened = resolve(model)
    masks = masks_of(masks, asked, opened)
    with opened.unchanged():
        scopes: dict[Condition, Any] = {}
        identities: dict[Condition, str] = {(INTACT, "", None): files.digest(*opened.identity().values())}
        for kind, mask in _conditions(masks, n_random).items():
            with ablate(opened, mask, value=value, data=data, at=at, when=when) as scopes[kind]:
                identities[kind] = files.digest(*opened.identity().values())
        provenance = opened.provenance()
        lm = lm_of(opened, batch_size, asked)
        found = load_harness_tasks(sources, limit=limit, num_fewshot=shots, asked=asked)
        short = next((name for name, task in found.items() if task.n < LEAST), None)
        if short:
            do = f"give a task of {LEAST} documents or more"
            raise TaskError(f"compare masks on {short}", f"{found[short].n} document", do)
        journal = files.Journal(None if output is None else Path(output) / JOURNAL, _is_measurement)

        def run(task: HarnessTask, kind: Condition) -> dict[str, Any]:
            with scopes.get(kind, contextlib.nullcontext()):
                return measure(lm, task)

        keys = {
            (name, kind): files.digest(identity, files.versions().get("neuroscope"), task.identity)
            for name, task in found.items()
            for kind, identity in identities.items()
        }
        missing = {
            key: partial(journal.get, key, partial(run, found[name], kind))
            for (name, kind), key in keys.items()
            if key not in journal.known
        }
        is_sharded = distributed.has_shards(opened.root)
        journal.known |= distributed.shared_out(asked, missing, progress, whole=is_sharded)
    measured = {cell: journal.known[key] for cell, key in keys.items()}
    sizes = {name: len(mask) for name, mask in masks.items()}
    table = _table(found, measured, sizes, n_random)
    manifest = {
        **provenance,
        **masks_manifest(masks),
        "harness": version(),
        "tasks": {name: {"n": task.n, "shots": task.shots, "identity": task.identity} for name, task in found.items()},
        "n_random": n_random,
        "limit": limit,
        "value": value,
        "data_hash": None if data is None else data.data_hash,
        "at": at,
        "when": when and when.said,
        "left_out": {name: measured[name, (INTACT, "", None)]["left_out"] for name in found},
        "warned": list(dict.fromkeys(text for one in measured.values() for text in one["warned"])),
        "versions": files.versions(),
    }
    return Benchmark(table, manifest)


def _conditions(masks: Mapping[str, NeuronMask], n_random: int) -> dict[Condition, NeuronMask]:
    """What is switched off: each mask, and random ones of the same layers."""
    off: dict[Condition, NeuronMask] = {}
    for name, mask in masks.items():
        off[OFF, name, None] = mask
        off |= {(RANDOM, name, seed): mask.random_like(seed=seed, match="layer") for seed in range(n_random)}
    return off


def _table(
    tasks: Mapping[str, HarnessTask],
    measured: Mapping[tuple[str, Condition], Mapping[str, Any]],
    sizes: Mapping[str, int],
    n_random: int,
) -> Any:
    """A row for each task, metric and condition, with the tests of masks against their random masks."""
    import pandas as pd  # heavy: only for tables

    rows: list[dict[str, Any]] = []
    for name, task in tasks.items():
        cells = {kind: one["outcomes"] for (of, kind), one in measured.items() if of == name}
        # a filter may give a metric under one mask and not under another
        for metric in [m for m in cells[INTACT, "", None] if all(m in outcomes for outcomes in cells.values())]:
            constant = constant_of(task) if metric_of(metric) in CHOSEN else Constant()
            better = task.metrics[metric_of(metric)]
            values = {kind: np.array(outcomes[metric]) for kind, outcomes in cells.items()}
            is_tested = standing(constant.p(values[INTACT, "", None])) != AT_CHANCE
            for (condition, mask, seed), outcomes in values.items():
                is_share = outcomes.min() >= 0 and outcomes.max() <= 1
                low, high = (score_interval if is_share else bootstrap_interval)(outcomes)
                row = {"task": name, "metric": metric, "higher_is_better": better, "mask": mask, "condition": condition}
                row |= {"seed": seed, "neurons": sizes.get(mask, 0), "n": len(outcomes)}
                row |= {"score": float(outcomes.mean()), "low": low, "high": high, **constant.columns(outcomes)}
                if condition == OFF and is_tested:
                    sign = 1 if better else -1
                    controls = [sign * values[RANDOM, mask, s] for s in range(n_random)]
                    test = against_controls(sign * outcomes, controls)
                    row |= {"effect": test["effect"], "effect_low": test["low"], "effect_high": test["high"]}
                    row |= {"p": test["p"]}
                rows.append(row)
    table = pd.DataFrame(rows).reindex(columns=[*dict.fromkeys([*rows[0], "effect", "effect_low", "effect_high", "p"])])
    is_mask = table["condition"] == OFF
    table.loc[is_mask, "q"] = benjamini_hochberg(table.loc[is_mask, "p"].to_numpy(dtype=float))
    table["seed"] = table["seed"].astype("Int64")
    return table


def constant_of(task: HarnessTask) -> Constant:
    """The best constant answer to a task of choices: the choice at one place that is right for most documents.

    Where documents have the same choices, it is that choice; else the one at that place.
    """
    if not task.rights:
        return Constant()
    places = range(max(len(right.choices) for right in task.rights))
    scores = [float(np.mean([place in right.numbers for right in task.rights])) for place in places]
    best = int(np.argmax(scores))
    alike = len({right.choices for right in task.rights}) == 1
    answer = task.rights[0].choices[best] if alike else f"choice {best + 1}"
    uniform = float(np.mean([len(right.numbers) / len(right.choices) for right in task.rights]))
    return Constant(answer, scores[best], uniform)


def _is_measurement(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"outcomes", "left_out", "warned"}
        and all(isinstance(x, int | float) and np.isfinite(x) for values in value["outcomes"].values() for x in values)
    )
