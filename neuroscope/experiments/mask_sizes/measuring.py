"""Measure each size's mask off and alone, beside random masks; `carried_share` makes the numbers of it.

1. Of every set of scores, task and share k: the top k of the task's scores is ablated (*off*), and all but these
   (*only*); the same of random masks, drawn as `match` says. Nothing ablated is *full*, everything *empty*.
2. Each distinct measurement is made once; a mask of all neurons, or of none, is *empty* or *full*.
3. Shares, areas and intervals as in `carried_share`. Against random masks: `statistics.against_controls`, over examples
   and masks. Between sets of scores: `statistics.paired_permutation`, over examples. q: Benjamini-Hochberg, over the
   tasks, sizes and sets of one kind of measurement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from neuroscope.checks import Progress, by_text, public
from neuroscope.errors import ArgumentError, MaskError, choose, kind_of
from neuroscope.experiments.judging import Judge, refuse_masks_of_test_examples
from neuroscope.experiments.mask_sizes.faithfulness_result import COLUMNS, Faithfulness
from neuroscope.experiments.mask_sizes.task_rows import TaskRows, ablations_of
from neuroscope.interventions.edits import Value
from neuroscope.masks import DRAWN, Match, NeuronMask, Scores
from neuroscope.masks.per_neuron import PerNeuron, shape
from neuroscope.masks.scores import scores_of
from neuroscope.models import Model, resolve
from neuroscope.statistics import benjamini_hochberg
from neuroscope.tasks import Task, Tasks, tasks_of
from neuroscope.tasks.task import check_task

ASKED = "faithfulness"
Sets = Mapping[str, Mapping[str, Scores]]


@public
def faithfulness(
    model: Any,
    tasks: Tasks,
    scores: Mapping[str, Scores] | Sets,
    *,
    k: Sequence[float] = (0.001, 0.01, 0.05, 0.1, 0.2, 0.5),
    value: Value | float = "zero",
    data: Task | None = None,
    n_random: int = 5,
    n: int | None = None,
    batch_size: int | None = None,
    match: Match = "layer",
    output: str | PathLike | None = None,
    progress: Progress | None = None,
) -> Faithfulness:
    """How much of a task a mask of each size carries: alone (sufficiency), and when it is off (necessity).

    With m the mean outcome, f = (m(only the mask) - m(empty)) / (m(full) - m(empty)) is faithfulness; the same of the
    mask off, its complement's, is low where the mask is complete. Their areas over sizes are CPR and CMD (Mueller et
    al. 2025, arXiv 2504.13151, §3), by trapezoids over the share k on a linear scale from 0 to 1, as there.

    Args:
        model: anything that can be opened.
        tasks: those with scores are judged, on their test examples, two at least.
        scores: task -> Scores, found on other examples than the test ones; or name -> such a mapping, for several sets
            of scores of the same tasks and neurons in one table, all later ones compared with the first.
        k: growing shares of all neurons in (0, 1]: the sizes of the masks.
        value: what ablated neurons become, in all measurements: "zero", a number, "mean" (over the real tokens of 256
            discovery examples of the task), "resample", or "corrupt" (of each test example's corrupt prompt), as in
            `ablate`.
        data: another task whose discovery examples give the mean or the sample of all tasks; not with "corrupt".
        n_random: random masks for every mask; each is off once, and alone once.
        n: test examples per task (None: all).
        match: how random masks are drawn: "layer" (as many neurons at every site), "activation" (and as loud; for masks
            of at most half of every site) or "uniform".
        batch_size, output, progress: as in `deactivation`; with its folder, what both measure is measured once.

    Raises:
        ArgumentError: no scores, a task without scores in one of the sets, one test example, or sizes that are none.
        MaskError: scores of another model, or of other neurons than the first set's; random masks as loud as one that
            has most of a site, or whose scores carry no `norms`.
        TaskError: scores were found on the examples that they would be judged on, there are no examples for a mean, or
            examples judged that have no corrupt prompt of as many tokens.

    Example:
        >>> import neuroscope as ns
        >>> model, task = ns.load("mini"), ns.load_tasks("mini", train=4, discovery=8, test=16)["nli-food"]
        >>> scores = {"nli-food": ns.attribute(model, task)}
        >>> found = ns.faithfulness(model, task, scores, k=(0.1, 0.5), n_random=3)
        >>> found.sizes()[["task", "k", "neurons"]]
               task    k  neurons
        0  nli-food  0.1    205.0
        1  nli-food  0.5   1024.0
    """
    import pandas as pd  # heavy: only for tables

    choose(match, tuple(DRAWN), "match")
    sets, named = _sets_of(scores), tasks_of(tasks, ASKED)
    named = _judged(named, sets)
    if data is not None:
        check_task(data, f"{ASKED}(data)")
    model = resolve(model)
    _check_fit(model, sets)
    masks = {
        (group, name, share): found[name].top(share) for group, found in sets.items() for name in named for share in k
    }
    for group in sets:
        refuse_masks_of_test_examples({name: masks[group, name, k[0]] for name in named}, named, named.values())
    judge = Judge(model, named, n, batch_size, output, value=value, data=data)
    judge.require_two_examples(ASKED)
    any_mask = next(iter(masks.values()))
    everything = any_mask | ~any_mask
    ablated = {place: ablations_of(mask, n_random, match) for place, mask in masks.items()}
    cells: list[tuple[str, NeuronMask | None]] = [(name, off) for name in named for off in (None, everything)]
    cells += [(place[1], off) for place, each in ablated.items() for off in each.values()]
    judge.measure(cells, progress, ASKED)
    rows: list[dict[str, Any]] = []
    for name, task in named.items():
        measured = TaskRows(judge, name, task.family, everything, k)
        for group in sets:
            sizes = [len(masks[group, name, share]) for share in k]
            rows += measured.of(group, sizes, [ablated[group, name, share] for share in k])
    rows.sort(key=lambda row: list(sets).index(row["scores"]))
    table = pd.DataFrame(rows).reindex(columns=COLUMNS)
    for p, q in (("p", "q"), ("p_first", "q_first")):
        table[p] = table[p].astype(float)
        for _, cells_of in table.groupby("condition"):
            table.loc[cells_of.index, q] = benjamini_hochberg(cells_of[p].to_numpy())
    table["seed"] = table["seed"].astype("Int64")
    first = next(iter(sets))
    manifest = judge.manifest({name: masks[first, name, k[-1]] for name in named}, k=list(k), n_random=n_random)
    manifest |= {"value": value, "match": match, "data": None if data is None else data.name}
    manifest["scores"] = {group: {name: dict(found[name].manifest) for name in named} for group, found in sets.items()}
    return Faithfulness(table, manifest, sets)


def _sets_of(scores: Any) -> Sets:
    """Name -> task -> Scores; one set alone is named after its method."""
    do = "give a dict: task -> Scores, or name -> such a dict"
    if isinstance(scores, PerNeuron):
        raise ArgumentError(f"{ASKED}, scores", f"{kind_of(scores)}, not a dict", do)
    given = by_text(scores, f"{ASKED}, scores", do)
    nested = [isinstance(v, Mapping) and not isinstance(v, PerNeuron) for v in given.values()]
    if given and all(nested):
        return {group: scores_of(each, f"{ASKED}, {group!r}") for group, each in given.items()}
    single = scores_of(given, ASKED)
    methods = {str(found.manifest.get("method", "scores")) for found in single.values()}
    return {methods.pop() if len(methods) == 1 else "scores": single}


def _judged(tasks: Mapping[str, Task], sets: Sets) -> dict[str, Task]:
    """The tasks that the sets score, all of them the same."""
    first, *_ = sets.values()
    for group, found in sets.items():
        if set(found) != set(first):
            text = f"scores of {sorted(found)} in {group!r}, of {sorted(first)} in the first"
            raise ArgumentError(f"{ASKED}, scores of the same tasks in every set", text, "score each task in each set")
    missing = [name for name in first if name not in tasks]
    if missing:
        raise ArgumentError(f"{ASKED}: a task for all scores", f"no task for {missing}", f"tasks has {list(tasks)}")
    return {name: tasks[name] for name in first}


def _check_fit(model: Model, sets: Sets) -> None:
    """Refuse scores of other neurons than the model's, or than each other's."""
    every = [(group, name, found) for group, each in sets.items() for name, found in each.items()]
    first = every[0][2]
    first.fits(model.sites(first.unit), f"{ASKED}(scores)")
    for group, name, found in every:
        if dict(found.widths) != dict(first.widths) or found.unit != first.unit:
            text = f"{found.unit} neurons, {shape(found.widths)}; before: {first.unit} neurons, {shape(first.widths)}"
            raise MaskError(f"{ASKED}, scores {group!r} of {name!r}", text, "score the same neurons of one model")
