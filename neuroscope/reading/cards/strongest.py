"""Cards of the neurons that matter most to each task: those of the highest scores, read on test texts, not ablated.

What breaks without one alone takes a pass for every neuron, which `neurons` makes. Here there are two for all of them:
where they fire, and what they write.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from neuroscope import files
from neuroscope.checks import Progress
from neuroscope.masks import NeuronMask, Scores
from neuroscope.models import Model
from neuroscope.reading.cards.assembling import NEAREST, Known, cards_and_table
from neuroscope.reading.cards.deck import NeuronCards
from neuroscope.reading.cards.firing import Firing
from neuroscope.reading.cards.making import TYPICAL, noting
from neuroscope.reading.cards.replicating import Use
from neuroscope.reading.cards.similar import by_tasks
from neuroscope.reading.cards.subject import Subject, among
from neuroscope.reading.finding_directions import directions
from neuroscope.reading.tokens_by_neurons import activations
from neuroscope.tasks import Task

TOP = 10  # neurons of each task
TEXTS = 64  # of each task that they are read on, at most
COUNT = 4  # texts of either sign that a card shows


def strongest(scores: Mapping[str, Scores], top: int = TOP) -> dict[str, list[int]]:
    """The neurons of the highest scores above 0 for each task, by their places among all; of equal ones the first.

    Example:
        >>> strongest({"colours": Scores({"blocks.0": torch.tensor([0.1, 2.0, 0.0])}, {"blocks.0": 3})})
        {'colours': [1, 0]}
    """
    found = {}
    for name, of_task in scores.items():
        values = np.nan_to_num(of_task.vector().cpu().numpy(), nan=-np.inf)
        order = np.argsort(-values, kind="stable")[:top]
        found[name] = [int(i) for i in order if values[i] > 0]
    return found


def cards_of_strongest(
    model: Model,
    tasks: Mapping[str, Task],
    scores: Mapping[str, Scores],
    masks: Mapping[str, NeuronMask],
    *,
    n: int | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> NeuronCards:
    """Of each task's strongest neurons, a card without what breaks alone; without a neuron, no cards.

    Args:
        n: test examples of each task, of which `TEXTS` are read at most.

    Raises:
        NumericalError: an activation that is not finite.
    """
    places = sorted({i for of_task in strongest(scores).values() for i in of_task})
    first = next(iter(masks.values()))
    flags = torch.zeros(sum(first.widths.values()), dtype=torch.bool)
    flags[places] = True
    pieces = flags.split(list(first.widths.values()))
    chosen = among(first, {a: piece.nonzero().flatten() for a, piece in zip(first, pieces, strict=True)})
    few = TEXTS if n is None else min(n, TEXTS)
    subject = Subject(
        model, chosen, chosen, tasks, "loss", None, few, 0, 0, False, batch_size, files.Journal(None), progress
    )
    uses = {name: Use(of_task.vector().cpu().numpy()) for name, of_task in scores.items()}
    firing = Firing(activations(model, tasks, chosen, n=few, batch_size=batch_size, progress=progress), COUNT)
    missing: dict[str, str] = {}
    weights = None
    with noting(missing, "directions"):
        typical = [e.prompt for task in tasks.values() for e in task.split("test", TYPICAL)]
        weights = directions(model, chosen, texts=typical)
    near = {"tasks": by_tasks(subject, uses, NEAREST)}
    table, cards = cards_and_table(subject, Known(uses, masks, firing, near, weights, {}, missing))
    settings = {"top": TOP, "count": COUNT, "n": few, "unit": chosen.unit, "missing": missing}
    hashes = {name: task.data_hash for name, task in tasks.items()}
    about = {**model.provenance(), **settings, "data_hash": hashes, "versions": files.versions()}
    return NeuronCards(table, about, cards)
