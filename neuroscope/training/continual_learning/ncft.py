"""Neuron-level continual fine-tuning, NCFT (LX24 §4.2), and its controls.

1. Task n's neurons are found on its discovery examples: the top k of all neurons, by relevance in the current model (or
   in the base model).
2. Their parameters alone are trained, from where the stages before left them; everything else keeps every bit. The
   optimizer is a new one: kept moments would move the neurons of earlier tasks.
3. The change is merged, and the next task comes. On a base of 16 bits it stays beside the weights, in float32: merged,
   what a stage changes by less than the weights can say would be lost before the next one adds to it.

Ours: `exclude` leaves out the neurons that earlier tasks were given, and takes the next best; "score" gives a neuron to
the task that needs it most: it leaves out those of earlier tasks whose need of it, when they were learnt, was as great,
a task's need of neuron i being r_i = relevance_i / sum of all neurons' relevance. `overlap_penalty` p
multiplies a neuron's relevance by 1 - p for every earlier task that has it. `protect` leaves out the k most relevant
neurons of every task that the base knows already (`known`), found before anything is trained; "random" leaves out as
many others of every layer, which is its control. LX24 does none of these.

`ncft-random` trains, in every layer, as many neurons as the task's mask has, drawn at random. `ffn` trains all hidden
neurons at every stage: what remains of NCFT's advantage over it is due to the choice of neurons.
"""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuroscope.attribution import attribute
from neuroscope.checks import finite, flag, number_of_examples, share
from neuroscope.errors import ArgumentError, NumericalError, choose
from neuroscope.masks import NeuronMask, Scores
from neuroscope.tasks.task import Task
from neuroscope.training import NeuronAdapter, every_ffn
from neuroscope.training.continual_learning.learner import Learner, Log, Setting, Tensors
from neuroscope.training.master_weights import wide

ScoredIn = Literal["current", "base"]
Protect = bool | Literal["random"]
Exclude = bool | Literal["score"]
Needs = dict[str, Float[Tensor, " width"]]  # address -> each neuron's share of a task's relevance
Choice = Callable[[Task, Sequence[NeuronAdapter]], NeuronMask]
Claims = dict[str, Int[Tensor, " width"]]  # address -> how many tasks have each neuron


def ncft(
    setting: Setting,
    *,
    k: float = 0.10,
    scored_in: ScoredIn = "current",
    exclude: Exclude = False,
    overlap_penalty: float = 0.0,
    protect: Protect = False,
    objective: str = "loss",
    examples: int | None = 256,
) -> Learner:
    """Train the most relevant neurons of every task.

    Args:
        k: share of all neurons that a task is given.
        scored_in: the model that relevance is measured in: the "current" one, or the "base".
        exclude: leave out the neurons of earlier tasks; "score": those that an earlier task needed as much.
        overlap_penalty: share of its relevance that a neuron loses for every earlier task that has it; below 1.
        protect: leave out the neurons of the tasks in `known`; "random": as many random ones of every layer instead.
        objective, examples: of `attribute`.
    """
    choose(scored_in, ("current", "base"), "scored_in")
    if not 0 <= finite(overlap_penalty, "overlap_penalty") < 1:
        raise ArgumentError(f"overlap_penalty={overlap_penalty!r}", "not in [0, 1)", "give exclude=True for 1")
    relevance = _relevance(setting, objective, examples)
    protected = _protected(setting, relevance, k, exclude, protect)

    kept = Tensors()  # the needs of tasks learnt so far, by the number of the stage and the address

    def choice(task: Task, earlier: Sequence[NeuronAdapter]) -> NeuronMask:
        with unmerged(earlier) if scored_in == "base" else contextlib.nullcontext():
            scores = relevance(task)
        out = left_out(earlier, bool(exclude) and exclude != "score", protected)
        if exclude == "score":
            mine = need(scores)
            before = [{a: kept[f"{stage}/{a}"] for a in mine} for stage in range(len(earlier))]
            out = needed_more(before, mine, [adapter.mask for adapter in earlier], out)
            kept.update({f"{len(earlier)}/{a}": values for a, values in mine.items()})
        return best(scores, claims(earlier), out, k, overlap_penalty)

    learner = train_chosen(setting, choice)
    return replace(learner, carried={"needs": kept}) if exclude == "score" else learner


def ncft_random(
    setting: Setting,
    *,
    k: float = 0.10,
    exclude: Exclude = False,
    protect: Protect = False,
    objective: str = "loss",
    examples: int | None = 256,
) -> Learner:
    """Train as many random neurons of every layer as NCFT would choose there; the arguments are those of `ncft`."""
    if exclude == "score":
        do = "give exclude=True or False; random neurons are needed by no task"
        raise ArgumentError("ncft-random with exclude='score'", "no such control", do)
    relevance = _relevance(setting, objective, examples)
    protected = _protected(setting, relevance, k, exclude, protect)

    def choice(task: Task, earlier: Sequence[NeuronAdapter]) -> NeuronMask:
        out = left_out(earlier, bool(exclude), protected)
        return random_instead(best(relevance(task), {}, out, k, 0.0), out, setting.seed)

    return train_chosen(setting, choice)


def ffn(setting: Setting) -> Learner:
    """Train all hidden neurons at every stage."""
    return train_chosen(setting, lambda task, earlier: every_ffn(setting.model))


def train_chosen(setting: Setting, choice: Choice) -> Learner:
    """A learner that trains neurons which are chosen for every task, and merges the change unless that would round it.

    Args:
        choice: called with the task and the adapters of earlier tasks, whose changes count.
    """
    adapters: list[NeuronAdapter] = []
    is_narrow = any(wide(weight.dtype) != weight.dtype for weight in setting.model.root.parameters())

    def learn(stage: int) -> Log:
        task = setting.tasks[stage]
        mask, claimed = choice(task, adapters), claims(adapters)
        adapters.append(NeuronAdapter(setting.model, mask))
        setting.train(adapters[-1], [task])
        settle()
        shared = int(sum((claimed[a][neurons] > 0).sum() for a, neurons in mask.items())) if claimed else 0
        trained = adapters[-1].n_parameters
        return {"trained": trained, "neurons": len(mask), "shared": shared, "layers": mask.counts()}

    def load(path: Path) -> None:  # checks that it stands on the adapters before
        adapters.append(NeuronAdapter.load(setting.model, path))
        settle()

    def settle() -> None:
        if not is_narrow:
            adapters[-1].merge()

    return Learner(learn, setting.judge, adapters, load)


def claims(adapters: Sequence[NeuronAdapter]) -> Claims:
    """How many of the adapters train each neuron; empty if there are none."""
    counts: dict[str, Tensor] = {}
    for adapter in adapters:
        for address, width in adapter.mask.widths.items():
            counts.setdefault(address, torch.zeros(width, dtype=torch.long))[adapter.mask[address]] += 1
    return counts


def need(scores: Scores) -> Needs:
    """Each neuron's share of the relevance of all, which tells tasks of different losses apart from their size.

    Raises:
        NumericalError: no neuron is relevant.
    """
    total = torch.stack([values.double().sum() for _, values in scores.items()]).sum()
    if not total > 0:
        do = "give objective='log-odds', for the loss saturates where the model is certain; or exclude=True"
        raise NumericalError("share neurons by how much tasks need them", f"a relevance of {float(total):g} in all", do)
    return {address: (values.double() / total).float() for address, values in scores.items()}


def needed_more(
    before: Sequence[Needs], mine: Needs, masks: Sequence[NeuronMask], out: NeuronMask | None
) -> NeuronMask | None:
    """`out`, and the neurons that an earlier task was given and needs as much as the next one, or more.

    Example:
        >>> mask = NeuronMask.of({"0": [0, 1]}, {"0": 3})
        >>> earlier, mine = {"0": torch.tensor([0.6, 0.1, 0.3])}, {"0": torch.tensor([0.5, 0.2, 0.3])}
        >>> needed_more([earlier], mine, [mask], None)["0"].tolist()  # 0 stays with the earlier task, 1 is given away
        [0]
    """
    for earlier, mask in zip(before, masks, strict=True):
        kept = {a: neurons[earlier[a][neurons] >= mine[a][neurons]] for a, neurons in mask.items()}
        theirs = NeuronMask.of(kept, mask.widths, mask.unit)
        out = theirs if out is None else out | theirs
    return out


def left_out(adapters: Sequence[NeuronAdapter], exclude: bool, protected: NeuronMask | None) -> NeuronMask | None:
    """What the next task is not given: the protected neurons, and those of earlier tasks if they are excluded."""
    masks = [adapter.mask for adapter in adapters if exclude] + ([protected] if protected else [])
    return functools.reduce(operator.or_, masks) if masks else None


def _relevance(setting: Setting, objective: str, examples: int | None) -> Callable[[Task], Scores]:
    number_of_examples(examples, "examples")
    return lambda task: attribute(setting.model, task, objective=objective, examples=examples)


def _protected(
    setting: Setting, relevance: Callable[[Task], Scores], k: float, exclude: Exclude, protect: Protect
) -> NeuronMask | None:
    """The neurons that no task is given; the model is the base.

    Raises:
        ArgumentError: options that mean nothing, or a k that leaves too few neurons for the tasks.
    """
    share(k, "k")
    if exclude != "score":
        flag(exclude, "exclude")
    if protect not in (True, False, "random"):
        raise ArgumentError(f"protect={protect!r}", "no such choice", "give True, False, or 'random' (its control)")
    if protect and not setting.known:
        do = "give known=[tasks that the model can do already]"
        raise ArgumentError(f"protect={protect!r}", "no task in known", do)
    masks = [relevance(task).top(k) for task in setting.known if protect]
    protected = functools.reduce(operator.or_, masks) if masks else None
    total = sum(site.width for site in setting.model.sites("hidden").values())
    free = total - (len(protected) if protected else 0)
    wanted, tasks = max(1, round(k * total)), len(setting.tasks) if exclude else 1  # as `Scores.top` counts
    if wanted * tasks > free:
        asked = " and ".join(f"{name}={on!r}" for name, on in (("exclude", exclude), ("protect", protect)) if on)
        have = f"{free:,} of {total:,} neurons are free, for {tasks} task(s) with {wanted:,} each"
        raise ArgumentError(f"{asked} with k={k}", have, "give a smaller k, fewer tasks, or overlap_penalty")
    if protected and protect == "random":
        return protected.random_like(seed=setting.seed, match="layer")
    return protected


@contextlib.contextmanager
def unmerged(adapters: Sequence[NeuronAdapter]) -> Iterator[None]:
    """A scope in which the model is the base, to the bit: adapters are taken out of the weights, and add nothing."""
    merged = [adapter for adapter in adapters if adapter.is_merged]
    try:
        for adapter in reversed(merged):
            adapter.unmerge()
        for adapter in adapters:
            for placed in adapter.placed:
                placed.delta.live = False
        yield
    finally:
        for adapter in adapters:
            for placed in adapter.placed:
                placed.delta.live = not placed.before
            if adapter in merged and not adapter.is_merged:
                adapter.merge()


def best(scores: Scores, claims: Claims, out: NeuronMask | None, k: float, overlap_penalty: float) -> NeuronMask:
    """The top k of all neurons, without those that are out, and with those of earlier tasks made less attractive.

    Example:
        >>> scores = Scores({"0": torch.tensor([4.0, 3.0, 2.0, 1.0])}, {"0": 4})
        >>> claims = {"0": torch.tensor([2, 0, 0, 0])}  # two tasks have neuron 0
        >>> best(scores, claims, None, 0.5, 0.5)["0"].tolist(), best(scores, claims, None, 0.5, 0.2)["0"].tolist()
        ([1, 2], [0, 1])
    """
    values = {a: v * (1 - overlap_penalty) ** claims[a] if claims else v for a, v in scores.items()}
    if out:  # relevance is not negative: what is left out goes below all
        values = {a: v.index_fill(0, out[a], -1.0) for a, v in values.items()}
    mask = replace(scores, values_by_site=values).top(k)
    settings = {"overlap_penalty": overlap_penalty, "left_out": len(out) if out else 0}
    return replace(mask, manifest={**mask.manifest, **settings})


def random_instead(mask: NeuronMask, out: NeuronMask | None, seed: int) -> NeuronMask:
    """As many random neurons at every site; none of those that are out."""
    if not out:
        return mask.random_like(seed=seed, match="layer")
    generator = torch.Generator().manual_seed(int(mask.identity, 16) % 2**62 + seed)
    drawn = {}
    for address, neurons in mask.items():
        free = (~out)[address]
        drawn[address] = free[torch.randperm(len(free), generator=generator)[: len(neurons)]]
    return NeuronMask.of(drawn, mask.widths, mask.unit, {"random_like": dict(mask.manifest), "seed": seed})
