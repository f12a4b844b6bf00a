"""What breaks without one neuron alone, example by example: the numbers behind an interval.

1. The task's examples are scored as `attribute` scores them: the objective of each example, over its answer's tokens.
2. Each neuron is set to zero by itself, exactly (`exact`); the change of the objective is kept for every example.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuroscope.attribution.attributing import scoring_of
from neuroscope.attribution.exact import changes
from neuroscope.attribution.methods import METHODS
from neuroscope.attribution.objectives import Objective
from neuroscope.attribution.request import Request, Split
from neuroscope.attribution.scoring import Scoring
from neuroscope.models import Model, Unit
from neuroscope.models.sites import Site
from neuroscope.tasks import Task
from neuroscope.tasks.encoding import Batch


@contextmanager
def scored(
    model: Model,
    task: Task,
    objective: Objective,
    unit: Unit,
    *,
    split: Split = "test",
    n: int | None = None,
    batch_size: int | None = None,
) -> Iterator[Scoring]:
    """A scope in which a task's examples are ready to be scored: evaluation mode, frozen parameters."""
    request = Request(METHODS["exact"], objective, "signed", unit, n, split, batch_size)
    with torch.inference_mode(False), model.quiet(), model.unchanged():
        yield scoring_of(model, task, request)


def without_each(
    scoring: Scoring, neurons: Mapping[str, Int[Tensor, " chosen"]]
) -> dict[str, Float[Tensor, "neuron example"]]:
    """By address, how much more each example's objective is without each neuron: above 0 where the neuron helps."""
    chosen = {a: neurons.get(a, torch.zeros(0, dtype=torch.long)) for a in scoring.sites}
    found = {a: torch.zeros(len(indices), scoring.n_examples) for a, indices in chosen.items() if len(indices)}

    def keep(site: Site, part: Tensor, batch: Batch, change: Tensor) -> None:
        rows = torch.searchsorted(chosen[site.address], part)
        found[site.address][rows[:, None], batch.index.cpu()[None]] = change.float().cpu()

    changes(scoring, chosen, keep)
    return found


def objectives_of(scoring: Scoring) -> Float[Tensor, " example"]:
    """Every example's objective, under what is live on the model."""
    found = torch.zeros(scoring.n_examples)
    with torch.no_grad():
        for batch in scoring.batches:
            found[batch.index.cpu()] = scoring.losses(batch).float().cpu()
    return found
