"""Forward passes in which the neurons of some sites are looked at, at some tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neuroscope.checks import Progress, watched
from neuroscope.errors import NumericalError
from neuroscope.models import Model
from neuroscope.models.sites import Site, edit
from neuroscope.reading.prompts import DECODER, Looked, Row, Tokens
from neuroscope.tasks.encoding import Batch, batches_for


@dataclass(frozen=True)
class Pass:
    """One batch of rows, and which of its tokens are looked at, by how addresses begin."""

    batch: Batch
    tokens: Mapping[str, Tokens]

    def of(self, site: Site) -> Tokens:
        """The tokens of the stack that a site is in."""
        return self.tokens[DECODER if site.address.startswith(DECODER) else ""]


@dataclass(frozen=True)
class Seen:
    """What a site shows in a pass: a row per token that it sees.

    Attributes:
        h: a site's vector, a row per token, padding among them; one number per neuron.
        index: the flat place of each row's token in the batch; None where every token has a row, in order.
    """

    h: Float[Tensor, "row neuron"]
    index: Int[Tensor, " row"] | None

    def at(self, flags: Bool[Tensor, "text pos"]) -> Bool[Tensor, " row"]:
        """Which rows are of flagged tokens."""
        flat = flags.flatten().to(self.h.device)
        return flat if self.index is None else flat[self.index]


Look = Callable[[Pass, Site, Seen], None]


def run_passes(
    model: Model,
    rows: Sequence[Row],
    sites: Iterable[Site],
    looked: Looked,
    look: Look,
    *,
    asked: str,
    batch_size: int | None = None,
    progress: Progress | None = None,
    begins: Callable[[Pass], None] | None = None,
    ends: Callable[[Pass], None] | None = None,
) -> None:
    """Show `look` every site's vector in one forward pass per batch of rows; before and after, call `begins`, `ends`.

    No logits are made but a single one, or those that predict the rows' answers.
    """
    sites = tuple(sites)

    def on_site(done: Pass, site: Site, h: Tensor, tokens: Tensor | None) -> None:
        look(done, site, Seen(site.per_unit(h.detach()).flatten(0, -2), tokens))

    cut = list(batches_for(model, [row.encoded for row in rows], batch_size))
    with model.quiet(), torch.no_grad():
        for batch in watched(cut, progress, asked):
            done = Pass(batch, looked.tokens(batch, asked))
            if begins is not None:
                begins(done)
            has_answers = bool(batch.scored.any())
            with edit(sites, partial(on_site, done)):
                model.logits(batch.inputs, batch.scored if has_answers else one_position(batch), answers=has_answers)
            if ends is not None:
                ends(done)


def one_position(batch: Batch) -> Bool[Tensor, "text pos"]:
    """The first position alone: the head has to be run somewhere."""
    at = torch.zeros_like(batch.scored)
    at[0, 0] = True
    return at


def refuse_non_finite(x: Tensor, address: str, asked: str) -> None:
    """Refuse activations that overflowed.

    Raises:
        NumericalError: names the site.
    """
    if not bool(torch.isfinite(x.sum())) and not bool(torch.isfinite(x).all()):
        do = "open the model in float32 or bfloat16 (not float16)"
        raise NumericalError(asked, f"an activation that is not finite at {address}", do)
