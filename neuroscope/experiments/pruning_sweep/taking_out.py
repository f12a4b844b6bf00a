"""Take out what a task needs least, what it needs most, and random neurons; then train what is left.

Siam et al. 2026, "Exploring the Limits of Pruning: Task-Specific Neurons, Model Collapse, and Recovery"
(arXiv 2604.27115), on any scores; theirs are `ns.attribute(..., method="selectivity")`. Of the paper the abstract could
be read: it has selective, random and reverse pruning by share, collapse, and recovery by fine-tuning. What follows is
decided here.

1. Of each layer the share k with the lowest scores goes ("selective"), the share with the highest ("reverse"), and as
   many at random ("random"). So all three leave models of one size, in which no layer is smaller than another.
2. Of each: the task's outcomes, the loss on neutral text (`evaluation.neutral`), and how far generated text repeats
   itself (`evaluation.repetition`). A pruned model has the logits of the model with those neurons off (`ns.prune`),
   which is where they are measured.
3. Recovery: the model is pruned, what is left of it is trained on the task (its neurons, or a LoRA), and all is
   measured again. So it is for the whole model: what training brings without pruning.
4. Selective and reverse are compared with random at the same share, before and after training
   (`statistics.against_controls`), and all with the model as it is (`statistics.paired_permutation`). q:
   Benjamini-Hochberg, over tasks, shares and conditions, before and after training apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from os import PathLike
from typing import Any, Literal

import numpy as np

from neuroscope import distributed, files
from neuroscope.checks import Progress, public, shares
from neuroscope.errors import ArgumentError, choose
from neuroscope.evaluation import AT_CHANCE, Outcomes, standing
from neuroscope.experiments.judging import Judge, refuse_masks_of_test_examples
from neuroscope.experiments.pruning_sweep.pruning_result import COLUMNS, TESTS, Pruning
from neuroscope.masks import NeuronMask, Scores, scores_of
from neuroscope.models import Model, resolve
from neuroscope.removal import prune
from neuroscope.removal.head_cuts import groups_of
from neuroscope.statistics import (
    against_controls,
    benjamini_hochberg,
    mean_interval,
    paired_permutation,
    score_interval,
)
from neuroscope.tasks import Task, Tasks, tasks_of
from neuroscope.tasks.prompts import hash_of
from neuroscope.training import LoraAdapter, NeuronAdapter, Recipe, Trainable, every_ffn, train
from neuroscope.training.garbage import settled_garbage
from neuroscope.training.processes import wants_shards

ASKED = "pruning"
LR = 3e-3
HOW: dict[str, Callable[[Model, int], Trainable]] = {
    "neurons": lambda model, seed: NeuronAdapter(model, every_ffn(model)),
    "lora": lambda model, seed: LoraAdapter(model, seed=seed),
}
Measured = tuple[Outcomes, Outcomes, Outcomes]  # of the task, [text] losses, [text] repetition


@public
def pruning(
    model: Any,
    tasks: Tasks,
    scores: Mapping[str, Scores],
    *,
    k: Sequence[float] = (0.1, 0.2, 0.3, 0.5),
    recovery: Literal["neurons", "lora"] | None = "neurons",
    recipe: Recipe | Mapping[str, Any] | None = None,
    n_random: int = 3,
    seed: int = 0,
    n: int | None = None,
    batch_size: int | None = None,
    neutral: Sequence[str] | None = None,
    output: str | PathLike | None = None,
    progress: Progress | None = None,
) -> Pruning:
    """What a task, and the text, can do without: pruning by score, against it and at random; and what training mends.

    Args:
        model: anything that can be opened, with parameters of its own.
        tasks: those with scores are judged, on their test examples.
        scores: by task, of hidden neurons or heads, found on other examples than the test ones; the higher, the more
            the task needs a neuron.
        k: growing shares of each layer that are taken out, below 1.
        recovery: what is trained afterwards, on the task's training examples: the FFN neurons that are left, or a LoRA
            on every linear layer; None: nothing.
        recipe: of that training; its learning rate is 3e-3 where none is given.
        n_random: random masks at every share, each pruned and trained as well.
        seed: of the trainings.
        n: test examples per task (None: all).
        neutral: texts for the loss and for what is generated on from their beginnings, six or more; None: the model's
            own, where it has some; [] leaves both out.
        batch_size, output, progress: as in `deactivation`. With a folder a killed run loses the training in progress.

    Raises:
        ArgumentError: a share of 1, one of no neuron; tasks without scores; one test example.
        TaskError: scores found on the examples they would be judged on; no training examples.
        ModelError: a model that cannot be pruned, or not be trained.

    Example:
        >>> import neuroscope as ns
        >>> model, task = ns.load("mini"), ns.load_tasks("mini", train=4, discovery=4, test=4)["nli-food"]
        >>> scores = {"nli-food": ns.attribute(model, task)}
        >>> how = {"k": [0.2], "recipe": {"steps": 1}, "n_random": 3, "neutral": []}
        >>> found = ns.experiments.pruning(model, task, scores, **how)
        >>> found.shares()[["share", "recovered", "parameters"]].round(2).to_dict("records")
        [{'share': 0.2, 'recovered': False, 'parameters': 0.85}, {'share': 0.2, 'recovered': True, 'parameters': 0.85}]
    """
    import pandas as pd  # heavy: only for tables

    sizes = shares(k)
    if sizes[-1] == 1:
        raise ArgumentError(f"{ASKED}(k={sizes})", "a share of 1: nothing would be left", "give shares below 1")
    model = resolve(model)
    named, chosen = _tasks_and_scores(tasks, scores)
    _refuse_grouped_heads(model, chosen)
    ends = {name: {size: _ends(of, size) for size in sizes} for name, of in chosen.items()}
    lowest = {name: each[sizes[-1]][0] for name, each in ends.items()}
    refuse_masks_of_test_examples(lowest, named, named.values())
    if recovery is not None:
        choose(recovery, HOW, "recovery")
        for task in named.values():
            task.split("train")
    sweep = _Sweep(model, named, recovery, Recipe.of(recipe, lr=LR), seed, n, batch_size, neutral, output)
    cells: list[_Cell] = []
    for name in named:
        cells.append(_Cell(name, "intact", 0.0, None))
        for size, (low, high) in ends[name].items():
            cells += [_Cell(name, "selective", size, low), _Cell(name, "reverse", size, high)]
            cells += [_Cell(name, "random", size, low.random_like(seed=i), i) for i in range(n_random)]
    left = {size: prune(model, low).n_parameters for size, (low, _) in next(iter(ends.values())).items()}
    sweep.measure(cells, progress)
    table = pd.DataFrame(sweep.rows(cells, left)).reindex(columns=COLUMNS)
    for p, q in TESTS.items():
        table[p] = table[p].astype(float)
        table[q] = table.groupby("recovered")[p].transform(lambda ps: benjamini_hochberg(ps.to_numpy()))
    table["seed"] = table["seed"].astype("Int64")
    settings = None if recovery is None else sweep.recipe.settings()
    manifest = sweep.judge.manifest(
        lowest, k=list(sizes), n_random=n_random, seed=seed, recovery=recovery, recipe=settings
    )
    return Pruning(table, manifest)


def _tasks_and_scores(tasks: Tasks, scores: Mapping[str, Scores]) -> tuple[dict[str, Task], dict[str, Scores]]:
    named, chosen = tasks_of(tasks, ASKED), scores_of(scores, ASKED)
    missing = [name for name in chosen if name not in named]
    if missing:
        raise ArgumentError(f"{ASKED}: a task for the scores", f"no task for {missing}", f"tasks has {list(named)}")
    return {name: named[name] for name in chosen}, chosen


def _refuse_grouped_heads(model: Model, chosen: Mapping[str, Scores]) -> None:
    """Only whole groups of heads can go, so that as many heads would leave models of different sizes."""
    for name, scores in chosen.items():
        grouped = scores.unit == "head" and max(groups_of(model, scores.top(1.0), ASKED).values()) > 1
        if grouped:
            found = f"{name}: scores of attention heads that share keys and values"
            raise ArgumentError(f"{ASKED}(scores)", found, "give scores of hidden neurons")


def _ends(scores: Scores, size: float) -> tuple[NeuronMask, NeuronMask]:
    """The share of every site with the lowest scores, and that with the highest; equal ones in forward order."""
    if scores.n_scored < len(scores):
        found = f"scores of {scores.n_scored:,} of {len(scores):,} neurons"
        raise ArgumentError(f"{ASKED}(scores)", found, "score all neurons")
    low, high = {}, {}
    for address, values in scores.items():
        count = round(size * len(values))
        if not 0 < count < len(values):
            found = f"{count} of the {len(values)} neurons of {address}"
            raise ArgumentError(f"{ASKED}(k={size:g})", found, "give a share of one neuron or more, and not of all")
        order = values.cpu().float().argsort(stable=True)
        low[address], high[address] = order[:count].sort().values, order[-count:].sort().values
    return tuple(
        NeuronMask(neurons, scores.widths, scores.unit, {**scores.manifest, "selection": {"k": size, "end": end}})
        for neurons, end in ((low, "lowest"), (high, "highest"))
    )  # type: ignore[return-value]  # of two


class _Cell:
    """A model that is measured: which neurons are taken out of it, beside which task."""

    def __init__(self, task: str, condition: str, share: float, mask: NeuronMask | None, seed: int | None = None):
        self.task, self.condition, self.share, self.mask, self.seed = task, condition, share, mask, seed


class _Sweep:
    """Measurements of pruned models, and of pruned and trained ones; each made once, by one of the processes."""

    def __init__(
        self,
        model: Model,
        tasks: Mapping[str, Task],
        recovery: str | None,
        recipe: Recipe,
        seed: int,
        n: int | None,
        batch_size: int | None,
        neutral: Sequence[str] | None,
        output: str | PathLike | None,
    ) -> None:
        self.model, self.tasks, self.recovery, self.recipe, self.seed = model, tasks, recovery, recipe, seed
        self.how: dict[str, Any] = {"n": n, "batch_size": batch_size, "neutral": neutral, "repetition": True}
        self.judge = Judge(model, tasks, output=output, **self.how)
        self.judge.require_two_examples(ASKED)

    def measure(self, cells: Sequence[_Cell], progress: Progress | None) -> None:
        """Measure what is not known, shared out over the processes; then each knows all of it."""
        self.judge.measure([(cell.task, cell.mask) for cell in cells], progress, ASKED)
        if self.recovery is None:
            return
        known = self.judge.journal.known
        missing = {
            files.digest(self._keys(cell)): partial(self._recovered, cell)
            for cell in cells
            if not known.keys() >= set(self._keys(cell))
        }
        whole = distributed.has_shards(self.model.root) or wants_shards(self.recipe)
        with settled_garbage(when=bool(missing)):
            for found in distributed.shared_out(f"{ASKED}: recovery", missing, progress, whole).values():
                known |= found

    def _keys(self, cell: _Cell) -> tuple[str, ...]:
        """Under which keys the journal has outcomes, losses and repetition after the training."""
        judge, task = self.judge, self.tasks[cell.task]
        off = "" if cell.mask is None else cell.mask.identity
        training = ("pruned", off, self.recovery, hash_of(self.model, task), sorted(self.recipe.settings().items()))
        texts = "" if judge.neutral is None else judge.neutral.digest
        each: list[tuple[Any, ...]] = [judge.judged(cell.task)]
        each += [("neutral", texts, task.family)] * (judge.neutral is not None)
        each += [("repetition", texts, task.family)] * judge.repetition
        return tuple(files.digest(*judge.model_key, *training, self.seed, *what) for what in each)

    def _recovered(self, cell: _Cell) -> dict[str, Any]:
        """The journal's entries on a pruned model that was trained, made now where it has none."""
        keys, journal = self._keys(cell), self.judge.journal
        if not journal.known.keys() >= set(keys):
            with self._trained(cell) as model:
                judge = Judge(model, {cell.task: self.tasks[cell.task]}, **self.how)
                found: list[Any] = [judge(cell.task).tolist(), {"losses": judge.neutral_losses(cell.task).tolist()}]
                found.append(judge.repetitions(cell.task).tolist())
            for key, value in zip(keys, found, strict=False):  # without texts there are fewer keys
                journal.get(key, partial(_itself, value))
        return {key: journal.known[key] for key in keys}

    @contextmanager
    def _trained(self, cell: _Cell) -> Iterator[Model]:
        """The model without the neurons, trained on the task; the model itself is as it was afterwards."""
        assert self.recovery is not None
        model = self.model if cell.mask is None else prune(self.model, cell.mask)
        adapter = HOW[self.recovery](model, self.seed)
        train(adapter, {cell.task: self.tasks[cell.task]}, self.recipe, seed=self.seed)
        try:
            yield model
        finally:
            adapter.detach()

    def found(self, cell: _Cell, recovered: bool) -> Measured:
        """What was measured of a model."""
        if not recovered:
            losses, repeated = (f(cell.task, cell.mask) for f in (self.judge.neutral_losses, self.judge.repetitions))
            return self.judge(cell.task, cell.mask), losses, repeated
        known, keys = self.judge.journal.known, self._keys(cell)
        outcomes = self.judge.recorded(keys[0], cell.task)
        losses = np.array(known[keys[1]]["losses"] if len(keys) > 1 else [])
        return outcomes, losses, np.array(known[keys[2]] if len(keys) > 2 else [])

    def rows(self, cells: Sequence[_Cell], left: Mapping[float, int]) -> Iterator[dict[str, Any]]:
        """The table's rows."""
        whole = sum(p.numel() for p in self.model.root.parameters())
        at = {(cell.task, cell.condition, cell.share, cell.seed): cell for cell in cells}
        for recovered in (False, True) if self.recovery else (False,):
            for cell in cells:
                own = self.found(cell, recovered)
                row: dict[str, Any] = {
                    "task": cell.task,
                    "family": self.tasks[cell.task].family,
                    "condition": cell.condition,
                }
                row |= {"share": cell.share, "seed": cell.seed, "recovered": recovered, **self._scores(cell.task, own)}
                row |= {
                    "neurons": 0 if cell.mask is None else len(cell.mask),
                    "parameters": left.get(cell.share, whole),
                }
                if cell.condition in ("selective", "reverse"):
                    intact = self.found(at[cell.task, "intact", 0.0, None], False)
                    random = [c for c in cells if (c.task, c.condition, c.share) == (cell.task, "random", cell.share)]
                    row |= self._tests(cell.task, own, [self.found(c, recovered) for c in random], intact)
                yield row

    def _scores(self, task: str, own: Measured) -> dict[str, Any]:
        outcomes, losses, repeated = own
        row = self.judge.row(task, outcomes)
        if losses.size:
            low, high = mean_interval(losses)
            row |= {"neutral": losses.mean(), "neutral_low": max(low, 0.0), "neutral_high": high}
        if repeated.size:
            low, high = score_interval(repeated)
            row |= {"repetition": repeated.mean(), "repetition_low": low, "repetition_high": high}
        return row

    def _tests(self, task: str, own: Measured, random: Sequence[Measured], intact: Measured) -> dict[str, float]:
        pairs = zip(("intact_p", "neutral_p", "repetition_p"), own, intact, strict=True)
        tests = {name: paired_permutation(a, b) for name, a, b in pairs if a.size > 1}
        if standing(self.judge.constant(task).p(intact[0])) == AT_CHANCE:
            return tests
        found = against_controls(own[0], [outcomes for outcomes, _, _ in random])
        return tests | {
            "effect": found["effect"],
            "effect_low": found["low"],
            "effect_high": found["high"],
            "p": found["p"],
        }


def _itself(value: Any) -> Any:
    return value
