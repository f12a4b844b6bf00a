"""What every method is given: one task on one model, in batches, and what was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuroscope import distributed
from neuroscope.attribution.objectives import OBJECTIVES, minus
from neuroscope.attribution.reductions import REDUCTIONS, owners
from neuroscope.attribution.request import Request
from neuroscope.checks import watched
from neuroscope.errors import NumericalError
from neuroscope.models import Model
from neuroscope.models.sites import Site
from neuroscope.tasks.encoding import UNSCORED, Batch
from neuroscope.tasks.task import Task
from neuroscope.tasks.tokens import words_of

T = TypeVar("T")
CERTAIN = 50 * torch.finfo(torch.float32).eps  # nats: below this loss, rounding is 1 % of its gradient or more


@dataclass
class Sums:
    """One running sum per site: of relevance, and of activation and its square; and each example's objective.

    Means are for mean ablation, root mean squares for controls that are as loud, the relevance of first tokens alone
    for finding sinks. Nothing else is kept.
    """

    relevance: dict[str, Tensor] = field(default_factory=dict)
    activation: dict[str, Tensor] = field(default_factory=dict)
    square: dict[str, Tensor] = field(default_factory=dict)
    tokens: dict[str, Tensor] = field(default_factory=dict)
    objective: dict[int, float] = field(default_factory=dict)
    effects: dict[str, Tensor] = field(default_factory=dict)  # of one prompt: [token, neuron]
    first: dict[str, Tensor] = field(default_factory=dict)  # relevance of the first tokens alone

    def add(self, site: Site, value: Float[Tensor, " neuron"]) -> None:
        """Add relevance."""
        known = self.relevance.get(site.address)
        self.relevance[site.address] = value if known is None else known.add_(value)


@dataclass(frozen=True)
class Scoring:
    """One task being scored on one model. The reduction is applied within examples first.

    Attributes:
        model: the opened model, in evaluation mode and with frozen parameters while a method runs.
        task: whose neurons are wanted.
        sites: of the unit that was asked for, by address.
        batches: hold each example once; where several processes share the examples, those of this process.
        request: what was asked for.
        counts: numbers of examples and of answer tokens, of all processes; None: as the batches have it.
        asked: what a manifest says of how the prompts are asked.
        foils: the first token of the answer that each example's own is compared with, for objectives with a foil.
        sums: what a method may add its findings to.
    """

    model: Model
    task: Task
    sites: Mapping[str, Site]
    batches: Sequence[Batch]
    request: Request
    counts: tuple[int, int] | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)
    foils: Int[Tensor, " example"] | None = None
    sums: Sums = field(default_factory=Sums)

    def __iter__(self) -> Iterator[Batch]:
        """The batches, under the caller's progress bar."""
        return iter(self.watch(self.batches))

    def watch(self, items: Sequence[T]) -> Iterable[T]:
        """Any loop, under the caller's progress bar."""
        return watched(items, self.request.progress, f"attribute {self.task.name}")

    @property
    def n_examples(self) -> int:
        """Number of examples."""
        return sum(len(b.index) for b in self.batches) if self.counts is None else self.counts[0]

    @property
    def n_tokens(self) -> int:
        """Number of scored answer tokens."""
        return sum(int((b.targets != UNSCORED).sum()) for b in self.batches) if self.counts is None else self.counts[1]

    def total(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums over the examples of all processes that share the work, from this one's, by address."""
        return distributed.total(sums, list(self.sites))

    def means(self) -> dict[str, Tensor]:
        """Mean activation of each coordinate over the tokens that had it, of all processes."""
        activation, tokens = self.total(self.sums.activation), self.total(self.sums.tokens)
        return {a: (total / tokens[a].clamp_min(1)).float().cpu() for a, total in activation.items()}

    def certainty(self) -> dict[str, Any]:
        """How sure of the answers the model was, over the examples of all processes; empty if no answer was scored.

        Cross-entropy is a sum of rounded probabilities: its gradient at the answer's logit is p - 1, which is off by
        half of float32's epsilon. Where the loss is below `CERTAIN`, that is a hundredth of the gradient or more.
        """
        objective = torch.tensor(list(self.sums.objective.values()), dtype=torch.float64)
        sums = torch.stack([objective.sum(), (objective < CERTAIN).sum(), torch.tensor(len(objective))])
        total, certain, n = distributed.total({"": sums}, [""])[""].tolist()
        # four digits: the rest is the rounding of how examples were batched and shared out
        if not n:
            return {}
        return {
            "objective_mean": float(f"{total / n:.4g}"),
            **({"certain": int(certain)} if self.request.objective == "loss" else {}),
        }

    def norms(self) -> dict[str, Tensor]:
        """Root mean square of each neuron's activation over the tokens that had it, of all processes."""
        square, tokens = self.total(self.sums.square), self.total(self.sums.tokens)
        return {a: (total / tokens[a].clamp_min(1)).sqrt().float().cpu() for a, total in square.items()}

    def effects(self) -> dict[str, Tensor]:
        """Of one prompt, the part of each token in every neuron's signed score, [token, neuron], of all processes."""
        found = self.total(self.sums.effects)
        length = {name: len(words) for name, words in self.shown().items()}
        whole = {}
        for address, site in self.sites.items():
            n = length["decoder_" if address.startswith("decoder_") else ""]
            part = found.get(address, torch.zeros(n, site.width)).view(n, site.width).float().cpu()
            whole[address] = -part if self.request.sign == "-" else part
        return whole

    def shown(self) -> dict[str, list[str]]:
        """Of one prompt, its tokens, by how the addresses of the stack begin that reads them."""
        ids: dict[str, list[int]] = {"": []}
        for batch in self.batches:
            ids[""] = batch.inputs["input_ids"][0].tolist()
            if "decoder_input_ids" in batch.inputs:
                ids["decoder_"] = batch.inputs["decoder_input_ids"][0].tolist()
        every = distributed.exchanged({f"{stack}|": found for stack, found in ids.items() if found})
        words = words_of(self.model.tokenizer, [i for found in every.values() for i in found])
        return {stack.removesuffix("|"): [words[i] for i in found] for stack, found in every.items()}

    def losses(self, batch: Batch, inputs: dict[str, Tensor] | None = None, n: int = 1) -> Float[Tensor, " example"]:
        """The objective of each example: its mean over the example's answer tokens.

        Args:
            batch: whose targets to score.
            inputs: what to show instead of the batch's own inputs (with more rows: the first ones are scored).
            n: how many copies of the batch the inputs hold, one after another.
        """
        logits = self.model.logits(batch.inputs if inputs is None else inputs, at=batch.scored.repeat(n, 1))
        return self.score(logits, batch, n)

    def score(self, logits: Float[Tensor, "scored vocab"], batch: Batch, n: int = 1) -> Float[Tensor, " example"]:
        """The objective of each example, from the logits that predict its answer tokens, in `n` copies.

        The first one of an example, which is of the model as it is, is kept.
        """
        targets, scored = batch.targets.repeat(n, 1), batch.scored.repeat(n, 1)
        owner = scored.nonzero()[:, 0]
        objective = self.request.objective
        if callable(objective):
            losses = torch.stack([minus(objective, logits[owner == i].float()) for i in range(len(targets))])
            return self._kept(losses, batch)
        foil = () if self.foils is None else (self.foils[batch.index.cpu()].to(logits.device).repeat(n)[owner],)
        tokens = OBJECTIVES[objective](logits.float(), targets[scored], *foil)
        total = torch.zeros(len(targets), device=tokens.device).index_add(0, owner, tokens)
        return self._kept(total / scored.sum(1), batch)

    def _kept(self, losses: Float[Tensor, " example"], batch: Batch) -> Float[Tensor, " example"]:
        """Note the first objectives of every example; refuse one that is not finite."""
        if not torch.isfinite(losses).all():
            bad = int((~torch.isfinite(losses)).nonzero()[0, 0]) % len(batch.index)
            raise NumericalError(
                f"{self.request.objective_name} of task {self.task.name!r}",
                f"{losses.detach().flatten()[bad].item()} in example {int(batch.index[bad])}",
                "check the model's weights and dtype (bfloat16 or float32, not float16)",
            )
        if int(batch.index[0]) not in self.sums.objective:
            self.sums.objective |= dict(zip(batch.index.tolist(), losses[: len(batch.index)].tolist(), strict=True))
        return losses

    def reduce(self, site: Site, product: Tensor, tokens: Tensor | None, batch: Batch) -> Float[Tensor, " neuron"]:
        """Sum a per-token quantity over tokens, then over the batch's examples, by the reduction."""
        reduction, owner = REDUCTIONS[self.request.reduction], owners(product, tokens, batch)
        product = site.per_unit(product)
        if self.request.skip_first:
            product = product * ~_at_start(product, tokens, batch)
        elif self.request.method.by_token:
            first = product[:, :1] if owner is None else product * _at_start(product, tokens, batch)
            alone, known = reduction(first, owner, len(batch.index)), self.sums.first.get(site.address)
            self.sums.first[site.address] = alone if known is None else known.add_(alone)
        if self.request.of_prompt:
            place = _places(product, tokens, batch)
            effects = torch.zeros(_length(site, batch), site.width)
            effects = effects.index_add(0, place.cpu(), -product.detach().flatten(0, -2).float().cpu())
            known = self.sums.effects.get(site.address)
            self.sums.effects[site.address] = effects if known is None else known.add_(effects)
        return reduction(product, owner, len(batch.index))

    def observe(self, site: Site, h: Tensor, tokens: Tensor | None, batch: Batch) -> None:
        """Add the activations of the real tokens to the running mean."""
        real = batch.real_at(site.address, h, tokens)
        total = torch.mv(h.detach().flatten(0, -2).T, real.flatten().to(h.dtype)).float()
        weights = real.flatten().float()
        square = torch.mv(site.per_unit(h.detach().float().square()).flatten(0, -2).T, weights)
        for sums, new in ((self.sums.activation, total), (self.sums.square, square)):
            known = sums.get(site.address)
            sums[site.address] = new if known is None else known.add_(new)
        # a tensor: a number would make the device wait at every site
        self.sums.tokens[site.address] = self.sums.tokens.get(site.address, 0) + real.sum()


def _length(site: Site, batch: Batch) -> int:
    """How many tokens a row has in the stack that a site is in."""
    return batch.inputs["decoder_input_ids" if site.address.startswith("decoder_") else "input_ids"].shape[1]


def _places(x: Tensor, tokens: Tensor | None, batch: Batch) -> Tensor:
    """The position of each of a site's tokens in its row, in order."""
    if x.ndim == 3:
        return torch.arange(x.shape[1], device=x.device).repeat(len(x))
    rows = torch.arange(len(x), device=x.device) if tokens is None else tokens
    return rows % batch.real.shape[1]


def _at_start(x: Tensor, tokens: Tensor | None, batch: Batch) -> Tensor:
    """True at the first token of each row, where padding is on the right."""
    return (_places(x, tokens, batch) == 0).view(*x.shape[:-1], 1)
