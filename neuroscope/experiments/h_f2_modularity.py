"""Do tasks of one family share neurons, and do these matter for that family alone? (Han et al. 2026, Figure 2.)

Han, Andreas, Fedorenko & de Varda 2026 (repository LLM_Modularity), in six steps:

1. Filter: an example is kept where the model is right both ways; a task where this is so in 60 % of its examples
   (`both_correct`).
2. Neurons of each task: attribution patching towards the right answer, with the gradient at the corrupt prompt; the
   0.1 % of all neurons with the largest relevance above 0.
3. Overlap (Jaccard) of all pairs of tasks, within families and across: permutation p, exact layer-matched chance.
4. Every task's neurons off under every task: zero, and the corrupt prompt's activations; beside layer-matched random
   masks. Pairs of two different tasks count, within families and across.
5. Clusters of the overlaps beside the families: adjusted Rand index.
6. Agreement of models: Kendall's tau over pairs (`Modularity.agreement`).

What differs here: neurons are found on discovery examples and judged on test examples, not on the same ones; relevance
is summed over all tokens, there it is that of the prompt's last. The gradient is that of the right answer's
log-likelihood, as in the published code; the text there says, of its difference from the wrong one's
(`objective="logit-difference"`, where answers differ in the first token).
"""

from __future__ import annotations

import contextlib
import inspect
import numbers
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import torch

from neuroscope import files
from neuroscope.attribution import attribute
from neuroscope.attribution.methods import METHODS
from neuroscope.attribution.objectives import Objective
from neuroscope.attribution.request import Request
from neuroscope.checks import Progress, all_of, by_text, finite, plain, public, watched
from neuroscope.errors import ArgumentError, FileError, TaskError, choose, suggest
from neuroscope.experiments.both_correct import both_correct
from neuroscope.experiments.f5_cross_ablation import cross_ablation
from neuroscope.experiments.modularity_result import Modularity
from neuroscope.interventions.edits import Value
from neuroscope.masks import DRAWN, Match, NeuronMask, Scores, overlap
from neuroscope.models import Model, Unit, resolve
from neuroscope.tasks import Task, Tasks, tasks_of
from neuroscope.tasks.prompts import template_of

ASKED = "modularity"
VALUES = get_args(Value)
LEAST = float(torch.finfo(torch.float32).tiny)  # relevance above 0


@public
def modularity(
    model: Any,
    tasks: Tasks,
    *,
    families: Mapping[str, str] | None = None,
    k: float = 0.001,
    method: str = "attribution-patching",
    objective: Objective = "loss",
    sign: Literal["+", "-"] = "+",
    unit: Unit = "hidden",
    values: Sequence[Value | float] = ("zero", "corrupt"),
    least: float = 0.6,
    match: Match = "layer",
    n_random: int = 5,
    examples: int | None = 256,
    n: int | None = None,
    batch_size: int | None = None,
    output: str | PathLike | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Modularity:
    """The modularity study in one call: filter, masks, overlap, switching off, all by family (Han et al. 2026).

    Tasks of any kind become pairs: judged is which of two answers the model prefers, an example's own or its
    `corrupt_answer`. A task that is left out is named, with why.

    Args:
        tasks: whose examples have a corrupt prompt and a corrupt answer, such as `load_tasks("LLM_Modularity")`, or
            "mini".
        families: task -> family (None: each task's own).
        k: share of all neurons in a task's mask; of these, those that have a relevance above 0.
        method, objective, unit, options: of `attribute`; a method that is signed. Attribution patching is by
            direction="denoising" if that is not given.
        sign: "+" neurons that help the right answer, "-" those that hurt it.
        values: what neurons become when they are off, as in `ablate`: each is measured.
        least: share of a task's examples that the model is to have right both ways, in [0, 1].
        match: how random masks are drawn, as in `cross_ablation`.
        n_random: random masks beside every task's.
        examples, n: discovery and test examples that are tried (None: all).
        batch_size, output, progress: as in `deactivation`; the folder keeps scores as well.

    Raises:
        ArgumentError: one task or one family alone, a task without a family, an unknown value, or a method without a
            sign.
        TaskError: a task without test examples, or no task whose examples have corrupt prompts and answers.

    Example:
        >>> import neuroscope as ns
        >>> tasks = ns.load_tasks("mini", train=4, discovery=8, test=8)
        >>> three = [tasks[name] for name in ("sentiment-food", "sentiment-film", "nli-food")]
        >>> found = ns.experiments.modularity("mini", three, k=0.01, values=["zero"], least=0.5, n_random=3)
        >>> found.families()[["measure", "pairs_within", "pairs_across"]]
           measure  pairs_within  pairs_across
        0  overlap             1             2
        1     zero             1             2
    """
    if method == "attribution-patching":
        options = {"direction": "denoising", **options}
    row, sign = METHODS[choose(method, METHODS, "method")], choose(sign, ("+", "-"), "sign")
    if unknown := next((name for name in options if name not in row.options), None):
        known = [name for name in inspect.signature(modularity).parameters if name != "options"]
        raise ArgumentError(f"{ASKED}({unknown}=...)", "no such option", suggest(unknown, [*known, *row.options]))
    Request(row, objective, "", unit, options=options, sign=sign)  # refuses what cannot be, before anything is run
    named = _with_families(tasks_of(tasks, ASKED), families)
    if len(named) < 2:
        raise ArgumentError(ASKED, f"one task, {next(iter(named))!r}", "give two or more, of two families or more")
    if len(of := {task.family for task in named.values()}) < 2:
        found = f"{len(named)} tasks, all of the family {next(iter(of))!r}"
        raise ArgumentError(ASKED, found, "give tasks of two families or more, or say which is of which with families=")
    chosen = _values(values)
    least = finite(least, "least")
    if not 0 <= least <= 1:
        raise ArgumentError(f"{ASKED}(least={least!r})", "no share", "give 0 <= least <= 1, such as 0.6")
    choose(match, tuple(DRAWN), "match")
    model = resolve(model)
    filtered = {
        name: both_correct(model, name, named[name], least, examples, n, batch_size)
        for name in watched([*named], progress, "right both ways")
    }
    rows = {name: row for name, (_, row) in filtered.items()}
    if not any(row["paired"] for row in rows.values()):
        found = f"no example of {', '.join(rows)} has a corrupt prompt with an answer of its own"
        raise TaskError(
            ASKED, found, "give examples `corrupt` and `corrupt_answer`, as those of load_tasks('mini') have"
        )
    kept = {name: task for name, (task, _) in filtered.items() if task is not None}
    about = {"k": k, "method": method, "objective": objective, "sign": sign, "unit": unit, "match": match}
    about |= {"least": least, "options": {key: str(value) for key, value in options.items()}, "n_random": n_random}
    how: Any = {"method": method, "objective": objective, "sign": sign, "unit": unit, "examples": None}
    scores = _scores(model, kept, {**how, **options}, output, batch_size=batch_size, progress=progress)
    masks = {name: _positive(found, k) for name, found in scores.items() if bool((found.vector() >= LEAST).any())}
    for name in kept:
        no_mask = {"kept": False, "why": "no neuron has a relevance above 0"}
        rows[name] |= _rests_on(scores[name], masks[name], k) if name in masks else no_mask
    kept = {name: kept[name] for name in masks}
    if len(kept) < 2:
        return Modularity(pd.DataFrame({"value": []}), {**model.provenance(), **about, **_told(rows), "overlap": None})
    shared = overlap(masks, families={name: task.family for name, task in kept.items()})
    judged: Any = {"n_random": n_random, "batch_size": batch_size, "match": match, "neutral": ()}
    judged |= {"output": output, "progress": progress}
    crossed = {name: cross_ablation(model, kept, masks, value=value, **judged) for name, value in chosen.items()}
    table = pd.concat([found.table.assign(value=name) for name, found in crossed.items()], ignore_index=True)
    manifest = {**next(iter(crossed.values())).manifest, **about, **_told(rows)}
    manifest |= {"overlap": {"table": shared.table.to_dict("list"), "manifest": shared.manifest}}
    return Modularity(table, manifest)


def _with_families(tasks: Mapping[str, Task], families: Mapping[str, str] | None) -> dict[str, Task]:
    if families is None:
        return dict(tasks)
    named = by_text(families, "families", "give a dict task -> family")
    missing = [name for name in tasks if not isinstance(named.get(name), str)]
    if missing:
        raise ArgumentError(f"{ASKED}(families)", f"no family for {missing}", "give a family for every task")
    return {name: replace(task, family=named[name]) for name, task in tasks.items()}


def _values(values: Any) -> dict[str, Value | float]:
    """What neurons become, by the name that tables have for it."""
    if isinstance(values, str) or isinstance(plain(values), numbers.Number):
        values = [values]
    chosen: dict[str, Value | float] = {}
    for value in all_of(values, "values"):
        is_text = isinstance(value, str)
        number = value if is_text else finite(value, "values", f"give {', '.join(VALUES)} or a number")
        chosen[choose(value, VALUES, "value") if is_text else f"{number:g}"] = number
    if not chosen:
        raise ArgumentError(f"{ASKED}(values={values!r})", "no value", "give one or more, such as ('zero',)")
    return chosen


def _scores(
    model: Model, tasks: Mapping[str, Task], how: Mapping[str, Any], output: str | PathLike | None, **run: Any
) -> dict[str, Scores]:
    """Scores of every task; with an output folder, those that are there already are read, and the others kept there."""
    if output is None:
        return dict(attribute(model, tasks, **how, **run)) if tasks else {}
    settings = [model.identity(), files.versions().get("neuroscope"), {key: str(value) for key, value in how.items()}]
    together = METHODS[how["method"]].together
    data = {name: [task.data_hash, template_of(model, task)] for name, task in tasks.items()}
    keys = {name: files.digest(settings, name, data if together else of) for name, of in data.items()}
    paths = {n: Path(output) / "scores" / f"{files.encoded(n)}-{key}.safetensors" for n, key in keys.items()}
    found: dict[str, Scores] = {}
    for name, path in paths.items():
        with contextlib.suppress(FileError):  # not there, or damaged: made again
            found[name] = Scores.load(path)
    missing = {name: task for name, task in tasks.items() if name not in found}
    for group in [tasks] if together and missing else [{name: task} for name, task in missing.items()]:
        for name, fresh in attribute(model, group, **how, **run).items():
            found[name] = fresh
            fresh.save(paths[name])
    return {name: found[name] for name in tasks}


def _positive(scores: Scores, k: float) -> NeuronMask:
    """The top k, without neurons that have no relevance above 0."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"top\(.*eligible")  # the result says it
        mask = scores.top(k)
    is_whole = mask.manifest["selection"].get("eligible") is None
    return mask if is_whole else mask & scores.threshold(LEAST)


def _rests_on(scores: Scores, mask: NeuronMask, k: float) -> dict[str, Any]:
    """What a mask was chosen from."""
    relevance = scores.vector().clamp_min(0).double()
    held = float(relevance[mask.flags()].sum() / relevance.sum())
    asked = max(1, round(k * len(relevance)))
    return {"neurons": len(mask), "asked": asked, "positive": int((relevance > 0).sum()), "held": held}


def _told(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The filter's rows for a manifest."""
    columns = {"neurons": None, "asked": None, "positive": None, "held": None}
    return {"filter": [columns | dict(row) for row in rows.values()]}
