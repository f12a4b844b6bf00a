"""What breaks without a neuron alone, by task, beside random neurons of its layer.

1. On a task's test examples each neuron is set to zero by itself, exactly; so are random neurons of its site that are
   not in the mask, and the mask as a whole. The effect is how much the loss on the answer then rises (nats).
2. Of the neuron: the mean over examples with Student's 95 % interval. Of the random ones: the mean of theirs, with
   Student's interval over these neurons. p: `statistics.against_controls`, over examples and neurons, the effects
   scaled to at most one; q: Benjamini-Hochberg, over all neurons and tasks of the cards. Whether the neuron helps or
   hurts at all is a test of its own, of a mean that is not zero (Student's t, over examples), corrected over the same
   family (sign_q): its interval alone, at one in twenty, would call some of many idle neurons helpful.
3. Its share of the mask's effect, where that is above 0 beyond its interval. Shares need not add up to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor

from neuroscope import distributed, files
from neuroscope.arrays import json_plain
from neuroscope.attribution.scoring import Scoring
from neuroscope.attribution.single_ablation import objectives_of, scored, without_each
from neuroscope.checks import FEWEST_RANDOM
from neuroscope.interventions import ablate
from neuroscope.masks import NeuronMask
from neuroscope.reading.cards.subject import ASKED, Place, Subject
from neuroscope.statistics import against_controls, benjamini_hochberg, mean_interval
from neuroscope.tasks.prompts import hash_of

Effects = Float[np.ndarray, " example"]


@dataclass(frozen=True)
class Lost:
    """What a task loses.

    Attributes:
        alone: neuron -> [example] without it.
        random: address -> [neuron, example] without random neurons of that site.
        whole: [example] without the whole mask.
    """

    alone: Mapping[Place, Effects]
    random: Mapping[str, Float[np.ndarray, "neuron example"]]
    whole: Effects

    def row(self, place: Place) -> dict[str, float]:
        """effect, low, high, sign_p, random, random_low, random_high, p, mask_effect and share of a neuron."""
        effect, random = self.alone[place], self.random[place[0]]
        low, high = mean_interval(effect)
        mean, least = float(effect.mean()), mean_interval(self.whole)[0]
        of_mask = float(self.whole.mean())
        row = {"effect": mean, "low": low, "high": high, "mask_effect": of_mask, "sign_p": _p_of_none(effect)}
        row["share"] = mean / of_mask if least > 0 else np.nan
        if len(random):
            ends = mean_interval(random.mean(1))
            row |= {"random": float(random.mean()), "random_low": ends[0], "random_high": ends[1]}
            row["p"] = _p(effect, random)
        return row


def _p_of_none(effect: Effects) -> float:
    """p of no effect on the loss, two-sided, of the interval of `mean_interval`; NaN of a single example."""
    if len(effect) < 2:
        return np.nan
    error = effect.std(ddof=1) / np.sqrt(len(effect))
    if error == 0:
        return 1.0 if effect.mean() == 0 else 0.0
    return float(2 * stats.t.sf(abs(effect.mean()) / error, len(effect) - 1))


def _p(effect: Effects, random: Float[np.ndarray, "neuron example"]) -> float:
    largest = max(np.abs(effect).max(), np.abs(random).max())
    if len(random) < FEWEST_RANDOM or len(effect) < 2 or largest == 0:
        return np.nan
    return against_controls(-effect / largest, -random / largest)["p"]


def random_neurons(subject: Subject) -> dict[str, Int[Tensor, " random"]]:
    """Of every site with a card, random neurons outside the mask; of a site that is all mask, those without a card."""
    drawn = {}
    for address, chosen in subject.chosen.items():
        if not len(chosen):
            continue
        width = subject.mask.widths[address]
        free = torch.ones(width, dtype=torch.bool).index_fill_(0, subject.mask[address], False)
        if not bool(free.any()):
            free = torch.ones(width, dtype=torch.bool).index_fill_(0, chosen, False)
        seed = int(files.digest(subject.mask.identity, address, subject.seed), 16) % 2**63
        order = torch.randperm(width, generator=torch.Generator().manual_seed(seed))
        drawn[address] = order[free[order]][: subject.n_random].sort().values
    return drawn


def broken(subject: Subject) -> dict[str, Lost]:
    """Every task without each of the neurons, and without the random ones and the mask.

    Raises:
        ModelError: a model in half precision, whose losses do not tell one neuron.
    """
    random = random_neurons(subject)
    cells: dict[str, Any] = {}
    for name in subject.tasks:
        cells[f"{name}\n"] = partial(_whole, subject, name, subject.mask)
        for address, neurons in subject.chosen.items():
            if len(neurons):
                every = torch.cat([neurons, random[address]]).unique()
                cells[f"{name}\n{address}"] = partial(_alone, subject, name, address, every)
    whole = distributed.has_shards(subject.model.root)
    done = distributed.shared_out(f"{ASKED}: what breaks", cells, subject.progress, whole=whole)
    found = {}
    for name in subject.tasks:
        by_site = {a: done[f"{name}\n{a}"] for a in random}
        alone = {(a, i): np.array(by_site[a][str(i)]) for a, i in subject.places}
        of_random = {
            a: np.array([by_site[a][str(i)] for i in drawn.tolist()]).reshape(len(drawn), -1)
            for a, drawn in random.items()
        }
        found[name] = Lost(alone, of_random, np.array(done[f"{name}\n"]))
    return found


def _asked(subject: Subject, name: str) -> tuple[Any, ...]:
    task = subject.tasks[name]
    return hash_of(subject.model, task), subject.n, subject.objective


def _scored(subject: Subject, name: str) -> AbstractContextManager[Scoring]:
    task, n, size = subject.tasks[name], subject.n, subject.batch_size
    return scored(subject.model, task, subject.objective, subject.mask.unit, n=n, batch_size=size)


def _alone(subject: Subject, name: str, address: str, neurons: Int[Tensor, " chosen"]) -> dict[str, list[float]]:
    def measure() -> dict[str, list[float]]:
        with _scored(subject, name) as scoring:
            table = without_each(scoring, {address: neurons})[address]
        return dict(zip(map(str, neurons.tolist()), table.tolist(), strict=True))

    return subject.journal.get(subject.key("alone", *_asked(subject, name), address, neurons.tolist()), measure)


def _whole(subject: Subject, name: str, mask: NeuronMask) -> list[float]:
    def measure() -> list[float]:
        with _scored(subject, name) as scoring:
            clean = objectives_of(scoring)
            with ablate(subject.model, mask):
                return (objectives_of(scoring) - clean).tolist()

    return subject.journal.get(subject.key("whole", *_asked(subject, name), mask.identity), measure)


def with_q(rows: list[dict[str, Any]]) -> None:
    """Add q to rows that have p, and sign_q to those that have sign_p."""
    for p, q in (("p", "q"), ("sign_p", "sign_q")):
        tested = [row for row in rows if p in row]
        if tested:
            for row, found in zip(tested, benjamini_hochberg([row[p] for row in tested]), strict=True):
                row[q] = float(found)


def in_card(name: str, row: Mapping[str, Any], objective: str) -> dict[str, Any]:
    """A row as a card has it; of another objective than the loss it says which."""
    names = ("effect", "low", "high", "random", "random_low", "random_high", "q", "mask_effect", "share")
    unit = {} if objective == "loss" else {"unit": f"{objective} lost"}
    return {"task": name, **unit} | {key: json_plain(row[key]) for key in names if key in row}
