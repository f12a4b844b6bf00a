"""Nearest neurons by activation: correlation over tokens with every neuron of the model, of which only sums are kept.

1. One pass over the texts keeps the activations of the chosen neurons.
2. A second one adds up, for every neuron of the model, its sum, its squares and its products with these.
First tokens, where a few neurons are extreme whatever the text says, are left out. An expert's neuron counts as 0 at
tokens that are routed elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from neuroscope.models.sites import Site
from neuroscope.reading.cards.subject import ASKED, Place, Subject
from neuroscope.reading.passes import Pass, Seen, run_passes
from neuroscope.reading.prompts import Looked, Row
from neuroscope.reading.tallies import stack_of

TOKENS = 20_000  # at most
Near = list[tuple[Place, float]]


def some(rows: Sequence[Row]) -> list[Row]:
    """Rows, evenly over all, with about `TOKENS` tokens at most."""
    total = sum(len(row.encoded.inputs) + len(row.encoded.decoder) for row in rows)
    keep = max(1, min(len(rows), len(rows) * TOKENS // max(1, total)))
    return [rows[i * len(rows) // keep] for i in range(keep)]


def active_together(subject: Subject, rows: Sequence[Row], count: int) -> dict[Place, Near]:
    """Of each chosen neuron, the others of the greatest correlation."""
    sites = subject.model.sites(subject.mask.unit)
    chosen = {a: indices for a, indices in subject.chosen.items() if len(indices)}
    found: dict[Place, Near] = {}
    for stack in dict.fromkeys(map(stack_of, chosen)):
        places = [(a, i) for a, i in subject.places if stack_of(a) == stack]
        here = {a: s for a, s in sites.items() if stack_of(a) == stack}
        for address, correlations in _correlations(subject, rows, places, here, stack):
            for k, place in enumerate(places):
                column = correlations[k]
                if place[0] == address:
                    column[place[1]] = torch.nan
                known = torch.nan_to_num(column, nan=-2.0)
                values, indices = known.topk(min(count, len(known)))
                new = [((address, i), v) for i, v in zip(indices.tolist(), values.tolist(), strict=True) if v >= -1.5]
                found[place] = sorted([*found.get(place, []), *new], key=lambda one: -one[1])[:count]
    return found


def _correlations(
    subject: Subject, rows: Sequence[Row], places: list[Place], sites: dict[str, Site], stack: str
) -> Iterator[tuple[str, Float[Tensor, "chosen neuron"]]]:
    """By site, of every chosen neuron with each of the site's; NaN where one of the two is constant."""
    kept: dict[int, Float[Tensor, "token chosen"]] = {}  # by the first text of a batch
    sums = {a: torch.zeros(len(places) + 2, s.width, dtype=torch.float64) for a, s in sites.items()}

    def of(done: Pass) -> Tensor:
        size = done.tokens[stack].looked.numel()
        empty = torch.zeros(size, len(places), dtype=torch.float64)
        return kept.setdefault(int(done.batch.index[0]), empty)

    def keep(done: Pass, site: Site, seen: Seen) -> None:
        at, flat = _looked(done, stack, seen)
        for k, (address, neuron) in enumerate(places):
            if address == site.address:
                of(done)[flat, k] = seen.h[at, neuron].double().cpu()

    tokens = 0

    def count(done: Pass) -> None:
        nonlocal tokens
        tokens += int(done.tokens[stack].looked.sum())

    def add(done: Pass, site: Site, seen: Seen) -> None:
        at, flat = _looked(done, stack, seen)
        h, total = seen.h[at].double().cpu(), sums[site.address]
        total[0] += h.sum(0)
        total[1] += h.square().sum(0)
        total[2:] += of(done)[flat].T @ h

    own = {address for address, _ in places}
    lengths = [len(row.encoded.decoder if stack else row.encoded.inputs) for row in rows]
    looked = Looked(None, skip_first=max(lengths, default=0) > 1)  # a decoder may be shown its start alone
    for look, where, ends in ((keep, [s for a, s in sites.items() if a in own], count), (add, sites.values(), None)):
        run_passes(
            subject.model, rows, where, looked, look, asked=f"{ASKED}: activations", batch_size=subject.batch_size,
            progress=subject.progress, ends=ends,
        )  # fmt: skip
    chosen = torch.cat([*kept.values(), torch.zeros(0, len(places), dtype=torch.float64)])
    n = max(1, tokens)
    mean, spread = chosen.sum(0) / n, _spread(chosen.sum(0), chosen.square().sum(0), n)
    for address, total in sums.items():
        products = total[2:] / n - mean[:, None] * total[0] / n
        yield address, products / (spread[:, None] * _spread(total[0], total[1], n))


def _spread(sums: Float[Tensor, " neuron"], squares: Float[Tensor, " neuron"], n: int) -> Float[Tensor, " neuron"]:
    """Standard deviations; NaN of what is constant to rounding."""
    mean = squares / n
    variance = mean - (sums / n).square()
    return torch.where(variance > 1e-9 * mean, variance, torch.nan).sqrt()


def _looked(done: Pass, stack: str, seen: Seen) -> tuple[Tensor, Tensor]:
    """Which rows of a site are looked at, and their flat places in the batch."""
    looked = done.tokens[stack].looked
    at = seen.at(looked)
    places = torch.arange(looked.numel(), device=at.device) if seen.index is None else seen.index
    return at, places[at].cpu()
