"""What every method is given: a model, its sites, the batches of a task, an objective and a reduction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuroscope import distributed
from neuroscope.errors import NumericalError
from neuroscope.models import Model
from neuroscope.models.sites import Site
from neuroscope.tasks.prompts import UNSCORED, Batch
from neuroscope.tasks.task import Task

Progress = Callable[..., Iterable[Any]]


def loss(logits: Float[Tensor, "token vocab"], target: Int[Tensor, " token"]) -> Float[Tensor, " token"]:
    """Cross-entropy of each answer token, in nats (LX24 Eq. 2)."""
    return torch.nn.functional.cross_entropy(logits, target, reduction="none")


def log_odds(logits: Float[Tensor, "token vocab"], target: Int[Tensor, " token"]) -> Float[Tensor, " token"]:
    """Minus log p/(1-p) of each answer token: a loss that does not saturate where the model is certain.

    log(p / (1-p)) = logit of the target - logsumexp of all other logits, without a difference of rounded probabilities.
    """
    others = logits.scatter(-1, target[:, None], -torch.inf).logsumexp(-1)
    return others - logits.gather(-1, target[:, None]).squeeze(-1)


OBJECTIVES = {"loss": loss, "log-odds": log_odds}


@dataclass
class Sums:
    """One running sum per site: of relevance, and of activation (for mean ablation). Nothing else is kept."""

    relevance: dict[str, Tensor] = field(default_factory=dict)
    activation: dict[str, Tensor] = field(default_factory=dict)
    tokens: dict[str, Tensor] = field(default_factory=dict)

    def add(self, site: Site, value: Float[Tensor, " neuron"]) -> None:
        """Add relevance."""
        known = self.relevance.get(site.address)
        self.relevance[site.address] = value if known is None else known.add_(value)


@dataclass(frozen=True)
class Setup:
    """Everything a method needs. Batches hold each example once; the reduction is applied within examples first.

    Where several processes share the examples, the batches hold this one's, and `counts` is of all.
    """

    model: Model
    task: Task
    sites: Mapping[str, Site]
    batches: Sequence[Batch]
    objective: str
    reduction: str
    seed: int
    progress: Progress | None
    counts: tuple[int, int] | None = None  # examples and answer tokens; None: as the batches have it
    sums: Sums = field(default_factory=Sums)

    def __iter__(self) -> Iterator[Batch]:
        """The batches, under the caller's progress bar."""
        return iter(self.watch(self.batches))

    def watch(self, items: Sequence[Any], unit: str = "batch") -> Iterable[Any]:
        """Any loop, under the caller's progress bar."""
        return self.progress(items, desc=f"attribute {self.task.name}", unit=unit) if self.progress else items

    @property
    def n_examples(self) -> int:
        """Number of examples."""
        return sum(len(b.index) for b in self.batches) if self.counts is None else self.counts[0]

    @property
    def n_tokens(self) -> int:
        """Number of scored answer tokens."""
        return sum(int((b.targets != UNSCORED).sum()) for b in self.batches) if self.counts is None else self.counts[1]

    def total(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums over the examples of all processes that share the work, from this one's, by address."""
        return distributed.total(found, list(self.sites))

    def means(self) -> dict[str, Tensor]:
        """Mean activation of each coordinate over the tokens that had it, of all processes."""
        activation, tokens = self.total(self.sums.activation), self.total(self.sums.tokens)
        return {a: (total / tokens[a].clamp_min(1)).float().cpu() for a, total in activation.items()}

    def losses(self, batch: Batch, inputs: dict[str, Tensor] | None = None, n: int = 1) -> Float[Tensor, " example"]:
        """The objective of each example: its mean over the example's answer tokens.

        Args:
            batch: whose targets to score.
            inputs: what to show instead of the batch's own inputs (with more rows: the first ones are scored).
            n: how many copies of the batch the inputs hold, one after another.
        """
        logits = self.model.logits(batch.inputs if inputs is None else inputs, keep=batch.keep)
        return self.score(logits, batch, n)

    def score(self, logits: Float[Tensor, "row kept vocab"], batch: Batch, n: int = 1) -> Float[Tensor, " example"]:
        """The objective of each example, from the logits at the positions that the batch keeps."""
        targets = batch.targets[:, batch.keep].repeat(n, 1)
        scored = targets != UNSCORED
        tokens = OBJECTIVES[self.objective](logits[: len(targets)][scored].float(), targets[scored])
        owner = scored.nonzero()[:, 0]
        total = torch.zeros(len(targets), device=tokens.device).index_add(0, owner, tokens)
        losses = total / scored.sum(1)
        if not torch.isfinite(losses).all():
            bad = int((~torch.isfinite(losses)).nonzero()[0, 0]) % len(batch.index)
            raise NumericalError(
                f"{self.objective} of task {self.task.name!r}",
                f"{losses.detach().flatten()[bad].item()} in example {int(batch.index[bad])}",
                "check the model's weights and dtype (bfloat16 or float32, not float16)",
            )
        return losses

    def reduce(self, site: Site, product: Tensor, tokens: Tensor | None, batch: Batch) -> Float[Tensor, " neuron"]:
        """Sum a per-token quantity over tokens, then over the batch's examples, by the reduction."""
        return REDUCTIONS[self.reduction](site.per_unit(product), owners(product, tokens, batch), len(batch.index))

    def observe(self, site: Site, h: Tensor, tokens: Tensor | None, batch: Batch) -> None:
        """Add the activations of the real tokens to the running mean."""
        real = batch.real_at(site.address, h, tokens)
        total = torch.mv(h.detach().flatten(0, -2).T, real.flatten().to(h.dtype)).float()
        known = self.sums.activation.get(site.address)
        self.sums.activation[site.address] = total if known is None else known.add_(total)
        # a tensor: a number would make the device wait at every site
        self.sums.tokens[site.address] = self.sums.tokens.get(site.address, 0) + real.sum()


def owners(h: Tensor, tokens: Tensor | None, batch: Batch) -> Tensor | None:
    """The example that each row of flattened tokens belongs to; None where the vector keeps the batch's shape."""
    if h.ndim == 3:
        return None
    length = batch.real.shape[1]  # flattened tokens occur in decoders only, which see one sequence
    rows = torch.arange(len(h), device=h.device) if tokens is None else tokens
    return rows // length


def _per_example(x: Tensor, owner: Tensor | None, n: int) -> Float[Tensor, "example neuron"]:
    if owner is None:
        return x.sum(1, dtype=torch.float32)
    return torch.zeros(n, x.shape[-1], device=x.device).index_add(0, owner, x.float())


# x: [batch, pos, neuron] or [token, neuron]; signed is positive where removing the neuron raises the loss
REDUCTIONS: dict[str, Callable[[Tensor, Tensor | None, int], Tensor]] = {
    "abs_of_sum": lambda x, owner, n: _per_example(x, owner, n).abs().sum(0),
    "sum_of_abs": lambda x, owner, n: _per_example(x.abs(), owner, n).sum(0),
    "signed": lambda x, owner, n: -_per_example(x, owner, n).sum(0),
}
