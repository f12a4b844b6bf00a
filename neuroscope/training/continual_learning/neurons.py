"""Neuron-level continual fine-tuning, NCFT (LX24 §4.2), and its controls.

1. Task n's neurons are found on its discovery examples: the top k of all neurons, by relevance in the current model (or
   in the base model).
2. Their parameters alone are trained, from where the stages before left them; everything else keeps every bit. The
   optimizer is a new one: kept moments would move the neurons of earlier tasks.
3. The change is merged, and the next task comes.

Ours: `exclude` leaves out the neurons that earlier tasks were given, and takes the next best; `overlap_penalty` p
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
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from neuroscope.attribution import attribute
from neuroscope.errors import ArgumentError, choose
from neuroscope.evaluation import Outcomes
from neuroscope.masks import NeuronMask, Scores
from neuroscope.tasks.task import Task
from neuroscope.training import NeuronAdapter, every_ffn
from neuroscope.training.continual_learning.setting import Setting

Protect = bool | Literal["random"]
Choice = Callable[["Neurons", Task], NeuronMask]
Claims = dict[str, Int[Tensor, " width"]]  # address -> how many tasks have each neuron


class Neurons:
    """A sequence of neuron adapters, each trained with the earlier ones merged."""

    def __init__(self, setting: Setting, choice: Choice) -> None:
        self.setting, self.choice = setting, choice
        self.adapters: list[NeuronAdapter] = []

    def learn(self, stage: int) -> dict[str, Any]:
        """Choose the task's neurons, train them, merge."""
        task = self.setting.tasks[stage]
        mask = self.choice(self, task)
        claims = self.claims()
        shared = int(sum((claims[a][v] > 0).sum() for a, v in mask.items())) if claims else 0
        adapter = NeuronAdapter(self.setting.model, mask)
        self.adapters.append(adapter)  # from here on `close` takes it off, whatever happens
        self.setting.train(adapter, [task])
        adapter.merge()
        return {"trained": adapter.n_parameters, "neurons": len(mask), "shared": shared, "layers": mask.counts()}

    def claims(self) -> Claims:
        """How many of the tasks so far were given each neuron; empty before the first."""
        found: dict[str, Tensor] = {}
        for adapter in self.adapters:
            for address, width in adapter.mask.widths.items():
                found.setdefault(address, torch.zeros(width, dtype=torch.long))[adapter.mask[address]] += 1
        return found

    def outcomes(self, task: Task) -> Outcomes:
        """Of the model with all changes so far."""
        return self.setting.judge(task)

    def save(self, folder: Path, stage: int) -> None:
        """One adapter per stage."""
        self.adapters[stage].save(folder / f"adapter-{stage}.safetensors")

    def restore(self, folder: Path, stage: int) -> None:
        """Load and merge them in order; each checks that it stands on the one before."""
        for i in range(stage + 1):
            self.adapters.append(NeuronAdapter.load(self.setting.model, folder / f"adapter-{i}.safetensors"))
            self.adapters[-1].merge()

    def close(self) -> None:
        """Take the changes back, the last one first."""
        while self.adapters:
            adapter = self.adapters.pop()
            if adapter.is_merged:
                adapter.unmerge()
            adapter.detach()


@contextlib.contextmanager
def unmerged(adapters: Sequence[NeuronAdapter]) -> Iterator[None]:
    """A scope in which the model is the base, to the bit: merged adapters are taken out, and add nothing."""
    for adapter in reversed(adapters):
        adapter.unmerge()
    try:
        for adapter in adapters:
            for part in adapter.parts:
                part.delta.live = False
        yield
    finally:
        for adapter in adapters:
            adapter.merge()


def ncft(
    setting: Setting,
    *,
    k: float = 0.10,
    masks: Literal["current", "base"] = "current",
    exclude: bool = False,
    overlap_penalty: float = 0.0,
    protect: Protect = False,
    objective: str = "loss",
    examples: int | None = None,
) -> Neurons:
    """NCFT.

    Args:
        k: share of all neurons that a task is given.
        masks: the model that relevance is measured in.
        exclude: leave out the neurons of earlier tasks.
        overlap_penalty: share of its relevance that a neuron loses for every earlier task that has it; below 1.
        protect: leave out the neurons of the tasks in `known`; "random": as many random ones of every layer instead.
        objective, examples: of `attribute`.
    """
    choose(masks, ("current", "base"), "masks")
    _check(setting, k, exclude, overlap_penalty, protect)
    kept = _kept(setting, k, exclude, protect, objective, examples)

    def choice(learner: Neurons, task: Task) -> NeuronMask:
        scores = _relevance(learner, task, masks, objective, examples)
        return best(scores, learner.claims(), left_out(learner, exclude, kept), k, overlap_penalty)

    return Neurons(setting, choice)


def ncft_random(
    setting: Setting,
    *,
    k: float = 0.10,
    exclude: bool = False,
    protect: Protect = False,
    objective: str = "loss",
    examples: int | None = None,
) -> Neurons:
    """As many random neurons in every layer as NCFT would take; the arguments are those of `ncft`."""
    _check(setting, k, exclude, 0.0, protect)
    kept = _kept(setting, k, exclude, protect, objective, examples)

    def choice(learner: Neurons, task: Task) -> NeuronMask:
        out = left_out(learner, exclude, kept)
        mask = best(_relevance(learner, task, "current", objective, examples), {}, out, k, 0.0)
        return random_instead(mask, out, setting.seed)

    return Neurons(setting, choice)


def ffn(setting: Setting) -> Neurons:
    """All hidden neurons at every stage."""
    return Neurons(setting, lambda learner, task: every_ffn(setting.model))


def _check(setting: Setting, k: float, exclude: bool, overlap_penalty: float, protect: Protect) -> None:
    if isinstance(k, bool) or not isinstance(k, (int, float)) or not 0 < k <= 1:
        raise ArgumentError(f"k={k!r}", "no share of the neurons", "give 0 < k <= 1, such as 0.10")
    if not isinstance(overlap_penalty, (int, float)) or not 0 <= overlap_penalty < 1:
        raise ArgumentError(f"overlap_penalty={overlap_penalty!r}", "not in [0, 1)", "give exclude=True for 1")
    if not isinstance(exclude, bool):
        raise ArgumentError(f"exclude={exclude!r}", f"a {type(exclude).__name__}", "give True or False")
    if not isinstance(protect, bool) and protect != "random":
        raise ArgumentError(f"protect={protect!r}", "no such choice", "give True, False, or 'random' (its control)")
    if protect and not setting.known:
        raise ArgumentError(
            f"protect={protect!r}", "no task in known", "give known=[tasks that the model can do already]"
        )


def _kept(
    setting: Setting, k: float, exclude: bool, protect: Protect, objective: str, examples: int | None
) -> NeuronMask | None:
    """The neurons that no task is given; the model is the base."""
    found = [
        attribute(setting.model, t, objective=objective, examples=examples).top(k) for t in setting.known if protect
    ]
    kept = functools.reduce(operator.or_, found) if found else None
    total = sum(site.width for site in setting.model.sites("hidden").values())
    free = total - (len(kept) if kept else 0)
    wanted, tasks = max(1, round(k * total)), len(setting.tasks) if exclude else 1  # as `Scores.top` counts
    if wanted * tasks > free:
        asked = " and ".join(f"{name}={on!r}" for name, on in (("exclude", exclude), ("protect", protect)) if on)
        do = "give a smaller k, fewer tasks, or overlap_penalty"
        have = f"{free:,} of {total:,} neurons are free, for {tasks} task(s) with {wanted:,} each"
        raise ArgumentError(f"{asked} with k={k}", have, do)
    return kept.random_like(seed=setting.seed, match="layer") if kept and protect == "random" else kept


def left_out(learner: Neurons, exclude: bool, kept: NeuronMask | None) -> NeuronMask | None:
    """What the next task is not given: the protected neurons, and those of earlier tasks if they are excluded."""
    masks = [adapter.mask for adapter in learner.adapters if exclude] + ([kept] if kept else [])
    return functools.reduce(operator.or_, masks) if masks else None


def _relevance(learner: Neurons, task: Task, masks: str, objective: str, examples: int | None) -> Scores:
    with unmerged(learner.adapters) if masks == "base" else contextlib.nullcontext():
        return attribute(learner.setting.model, task, objective=objective, examples=examples)


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
    about = {"overlap_penalty": overlap_penalty, "left_out": len(out) if out else 0}
    return replace(mask, manifest={**mask.manifest, **about})


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
