"""Give a mask's neurons growing doses, beside random masks; measure the task, and whether the model still writes.

1. A dose is a factor. Without a direction the neurons are multiplied by it: 0 is zero ablation, 1 the model as it is.
   With a direction, as many times that is added to them: 0 is the model as it is.
2. Under each dose, of the task's mask and of random masks with as many neurons at every site: the task's outcomes, the
   loss on neutral text (`evaluation.neutral`), and how far generated text repeats itself (`evaluation.repetition`).
3. A task's outcomes are compared with random masks' at the same dose (`statistics.against_controls`); loss and
   repetition with the model as it is (`statistics.paired_permutation`, over texts). q: Benjamini-Hochberg, over the
   tasks and doses of each of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuroscope import files
from neuroscope.arrays import array_of
from neuroscope.checks import Progress, by_text, finite, plain, public
from neuroscope.errors import ArgumentError
from neuroscope.evaluation import AT_CHANCE, Outcomes, standing
from neuroscope.experiments.dose_sweep.dose_result import COLUMNS, TESTS, DoseResponse
from neuroscope.experiments.judging import Change, Judge, tasks_and_masks
from neuroscope.interventions import add, scale
from neuroscope.masks import NeuronMask, is_one_mask
from neuroscope.models import Model
from neuroscope.statistics import (
    against_controls,
    benjamini_hochberg,
    mean_interval,
    paired_permutation,
    score_interval,
)
from neuroscope.tasks import Tasks, tasks_of

ASKED = "dose"
Direction = float | Mapping[str, Tensor] | None


@public
def dose(
    model: Any,
    tasks: Tasks,
    masks: Any,
    *,
    factors: Sequence[float] = (0, 0.5, 1, 1.5, 2, 4),
    direction: float | Mapping[str, Tensor] | None = None,
    n_random: int = 3,
    n: int | None = None,
    batch_size: int | None = None,
    neutral: Sequence[str] | None = None,
    output: str | PathLike | None = None,
    progress: Progress | None = None,
) -> DoseResponse:
    """What a task does as its neurons are turned down and up, and whether the model still writes: a dose sweep.

    Args:
        model: anything that can be opened.
        tasks: those with a mask are judged, on their test examples.
        masks: by task, found on other examples than the test ones; or one for all tasks.
        factors: growing doses from 0 on: what the neurons are multiplied by.
        direction: what is added to them `factor` times instead: a number, or a tensor by address with one number per
            coordinate of the site, as of `add`.
        n_random: layer-matched random masks beside every mask, given the same doses.
        n: test examples per task (None: all).
        neutral: texts for the loss and for what is generated on from their beginnings, six or more; None: the model's
            own, where it has some; [] leaves both out.
        batch_size, output, progress: as in `deactivation`; with its folder, what both measure is measured once.

    Raises:
        ArgumentError: doses that are none, negative, not finite or not growing; one test example; a mask without a
            task; neutral texts that the model cannot be asked.
        TaskError: a mask was found on the examples it would be judged on.
        MaskError: a mask is of another model.
        NumericalError: a dose at which the model gives no numbers any more.

    Example:
        >>> import neuroscope as ns
        >>> model, task = ns.load("mini"), ns.load_tasks("mini", train=4, discovery=8, test=16)["nli-food"]
        >>> masks = {"nli-food": ns.attribute(model, task).top(0.10)}
        >>> found = ns.dose(model, task, masks, factors=(0, 1), n_random=3, neutral=[])
        >>> found.doses()[["factor", "random", "intact", "moved"]]
           factor  random  intact  moved
        0     0.0     1.0     1.0   True
        1     1.0     1.0     1.0  False
    """
    import pandas as pd  # heavy: only for tables

    doses, direction = _doses(factors), _direction_of(direction)
    if is_one_mask(masks):
        masks = dict.fromkeys(tasks_of(tasks, ASKED), masks)
    model, named, chosen = tasks_and_masks(model, tasks, masks, ASKED)
    judge = Judge(model, named, n, batch_size, output, neutral, repetition=True)
    judge.require_two_examples(ASKED)
    for mask in chosen.values():
        _check_fit(judge.model, mask, doses[-1], direction)
    masked = {name: [mask, *(mask.random_like(seed=s) for s in range(n_random))] for name, mask in chosen.items()}
    judges = {factor: judge.under(_change(factor, direction)) for factor in doses}
    for factor, under in judges.items():
        cells = [(name, _given(mask, factor, direction)) for name, each in masked.items() for mask in each]
        under.measure([*[(name, None) for name in named], *cells], progress, f"{ASKED} {factor:g}")
    rows: list[dict[str, Any]] = []
    for name, task in named.items():
        intact = _Measured(judge, name, None)
        about = {"task": name, "family": task.family}
        rows.append(about | {"condition": "intact", "neurons": 0} | intact.row())
        is_tested = standing(judge.constant(name).p(intact.outcomes)) != AT_CHANCE
        for factor, under in judges.items():
            own, *random = [_Measured(under, name, _given(mask, factor, direction)) for mask in masked[name]]
            at = about | {"factor": factor, "neurons": len(chosen[name])}
            tests: dict[str, float] = {}
            if _given(chosen[name], factor, direction) is not None:
                tests = own.beside(intact)
                if is_tested:
                    found = against_controls(own.outcomes, [r.outcomes for r in random])
                    tests |= {key: found[key] for key in ("effect", "p")}
                    tests |= {"effect_low": found["low"], "effect_high": found["high"]}
            rows.append(at | {"condition": "mask"} | own.row() | tests)
            rows += [at | {"condition": "random", "seed": seed} | r.row() for seed, r in enumerate(random)]
    table = pd.DataFrame(rows).reindex(columns=COLUMNS)
    for p, q in TESTS.items():
        table[p] = table[p].astype(float)
        table[q] = benjamini_hochberg(table[p].to_numpy())
    table["seed"] = table["seed"].astype("Int64")
    said = direction if direction is None or isinstance(direction, float) else _digest(direction)
    manifest = judge.manifest(chosen, factors=list(doses), direction=said, n_random=n_random)
    return DoseResponse(table, manifest)


class _Measured:
    """What was measured of a task under one dose of one mask."""

    def __init__(self, judge: Judge, task: str, mask: NeuronMask | None) -> None:
        self.judge, self.task, self.outcomes = judge, task, judge(task, mask)
        self.losses, self.repeated = judge.neutral_losses(task, mask), judge.repetitions(task, mask)

    def row(self) -> dict[str, Any]:
        """Score, loss and repetition, each with its interval."""
        row = self.judge.row(self.task, self.outcomes)
        if self.losses.size:
            low, high = mean_interval(self.losses)
            row |= {"neutral": self.losses.mean(), "neutral_low": max(low, 0.0), "neutral_high": high}
        if self.repeated.size:
            low, high = score_interval(self.repeated)
            row |= {"repetition": self.repeated.mean(), "repetition_low": low, "repetition_high": high}
        return row

    def beside(self, intact: _Measured) -> dict[str, float]:
        """p of the same outcomes, losses and repetition with nothing done."""
        pairs: dict[str, tuple[Outcomes, Outcomes]] = {
            "intact_p": (self.outcomes, intact.outcomes),
            "neutral_p": (self.losses, intact.losses),
            "repetition_p": (self.repeated, intact.repeated),
        }
        return {name: paired_permutation(a, b) for name, (a, b) in pairs.items() if a.size > 1}


def _doses(factors: Sequence[float]) -> tuple[float, ...]:
    """The doses, checked: growing numbers from 0 on.

    Raises:
        ArgumentError: anything else.
    """
    do = "give growing numbers from 0 on, such as (0, 0.5, 1, 2, 4)"
    doses = tuple(float(plain(factor)) for factor in factors)
    if not doses:
        raise ArgumentError("dose(factors=())", "no doses", do)
    wrong = next((d for d in doses if not np.isfinite(d) or d < 0), None)
    if wrong is not None:
        found = "a negative dose" if wrong < 0 else "a dose that is not finite"
        way = "; to push the other way, add along a negative direction=" if wrong < 0 else ""
        raise ArgumentError(f"dose(factors={doses}): {wrong:g}", found, do + way)
    if any(b <= a for a, b in pairwise(doses)):
        raise ArgumentError(f"dose(factors={doses})", "doses that do not grow", do)
    return doses


def _direction_of(direction: Any) -> Direction:
    """The direction, checked: a number, or a tensor of numbers by address."""
    do = "give a number, or a tensor by address with one number per coordinate"
    if not isinstance(direction, Mapping):
        return None if direction is None else finite(direction, "dose(direction)", do)
    each = {a: array_of(v, f"direction[{a!r}]") for a, v in by_text(direction, "dose(direction)", do).items()}
    wrong = next((a for a, v in each.items() if v.dtype == torch.bool), None)
    if wrong is not None or not each:
        raise ArgumentError("dose(direction)", f"no numbers for {wrong or 'any site'}", do)
    return each


def _check_fit(model: Model, mask: NeuronMask, factor: float, direction: Direction) -> None:
    """Refuse a mask or a direction that does not fit the model, before anything is run."""
    try:
        with _change(factor, direction).scope(model, mask):
            pass
    except ArgumentError as error:
        if direction is None:
            raise
        raise ArgumentError(f"{ASKED}(direction=...)", error.found, error.do) from error


def _given(mask: NeuronMask, factor: float, direction: Direction) -> NeuronMask | None:
    """The mask; None at the dose that leaves the model as it is."""
    return None if factor == (1.0 if direction is None else 0.0) else mask


def _change(factor: float, direction: Direction) -> Change:
    """What is done to a mask's neurons at a dose; nothing in place of ablating them at a factor of zero."""
    if direction is None:
        if factor == 0:
            return Change()
        return Change(("scale", factor), lambda model, mask: scale(model, mask, factor))
    if isinstance(direction, Mapping):
        more: Any = {address: factor * values for address, values in direction.items()}
        return Change(("add", factor, _digest(direction)), lambda model, mask: add(model, mask, more))
    return Change(("add", factor * direction), lambda model, mask: add(model, mask, factor * direction))


def _digest(direction: Mapping[str, Tensor]) -> str:
    return files.digest(*((address, values.tolist()) for address, values in sorted(direction.items())))
