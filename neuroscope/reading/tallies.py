"""Running statistics of every neuron of a model over a corpus, in memory that does not grow with it.

Of each site, while a batch passes (tokens x neurons of that site are all that is ever there):

1. Of each text the largest and the smallest activation of every neuron. Buffers of the `count` largest and smallest so
   far are merged with them by `torch.topk`, at those neurons alone where a text goes beyond the buffer's end.
2. Sums over tokens: of the activation (by source), of its square, of its size, of whether it is above 0.
3. A sample of tokens, for quantiles: those whose hash of (text, position) is smallest. It does not depend on batches,
   on the order of texts, or on which process read what, and samples of processes are merged by the same rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuroscope.models.sites import Site
from neuroscope.reading.passes import Pass, Seen, refuse_non_finite
from neuroscope.reading.prompts import DECODER

SAMPLE = 1024  # tokens, at most
SAMPLE_BYTES = 256 * 2**20
FEWEST = 64  # tokens of a sample
AT_ONCE = 150_000  # numbers that stay in a processor's cache
NEVER = torch.iinfo(torch.int64).max  # the hash of an empty place of a sample


@dataclass
class Tally:
    """One site's.

    Attributes:
        value: [sign, rank, neuron] extreme activations so far, those of the second sign negated; -inf: none.
        text: the number of each one's text.
        position: of its token in the text.
        sums: [source, neuron] sum of activations, float64.
        moments: [4, neuron] sums over tokens: of squares, of sizes on first tokens, of sizes, of being above 0.
        tokens: [source] how many tokens the site saw.
        sample: [place, neuron] activations at the sampled tokens; NaN where it does not see the token.
    """

    value: Float[Tensor, "2 count neuron"]
    text: Int[Tensor, "2 count neuron"]
    position: Int[Tensor, "2 count neuron"]
    sums: Float[Tensor, "source neuron"]
    moments: Float[Tensor, "4 neuron"]
    tokens: Int[Tensor, " source"]
    sample: Float[Tensor, "place neuron"]

    @classmethod
    def empty(cls, width: int, count: int, sources: int, places: int) -> Tally:
        """Before any text."""
        shape = (2, count, width)
        return cls(
            torch.full(shape, -torch.inf),
            torch.full(shape, -1, dtype=torch.int32),
            torch.full(shape, -1, dtype=torch.int32),
            torch.zeros(sources, width, dtype=torch.float64),
            torch.zeros(4, width, dtype=torch.float64),
            torch.zeros(sources, dtype=torch.int64),
            torch.full((places, width), torch.nan),
        )

    def extremes(self, x: Float[Tensor, "token neuron"], kept: Batched) -> None:
        """Merge a batch's texts into the buffers."""
        count, blocks = self.value.shape[1], kept.blocks(x)
        for sign, of in enumerate((lambda block: block.amax(1), lambda block: -block.amin(1))):
            ends = torch.cat([of(block) for block in blocks])
            at = (ends > self.value[sign, -1]).any(0).nonzero().flatten()
            if not len(at):
                continue
            buffers = self.value[sign], self.text[sign], self.position[sign]
            old_value, old_text, old_position = (buffer.index_select(1, at) for buffer in buffers)
            value, chosen = torch.cat([old_value, ends.index_select(1, at)]).topk(count, dim=0)
            new_text = kept.numbers.to(torch.int32)[:, None].expand(-1, len(at))
            text = torch.cat([old_text, new_text]).gather(0, chosen)
            position = torch.cat([old_position, torch.full_like(new_text, -1)]).gather(0, chosen)
            start = count
            for block, places in zip(blocks, kept.places, strict=True):
                rank, column = ((chosen >= start) & (chosen < start + len(block))).nonzero(as_tuple=True)
                i = chosen[rank, column] - start
                there = block[i, :, at[column]]
                token = there.argmax(1) if sign == 0 else there.argmin(1)
                position[rank, column] = places[i, token].to(torch.int32)
                start += len(block)
            for buffer, new in zip(buffers, (value, text, position), strict=True):
                buffer.index_copy_(1, at, new)

    def merged(self, other: Tally, places: tuple[Tensor, Tensor]) -> Tally:
        """This one and that of another process.

        Args:
            places: of the sample of both, which places of the one and of the other are kept.
        """
        value, chosen = torch.cat([self.value, other.value], 1).topk(self.value.shape[1], dim=1)
        text, position = (
            torch.cat([getattr(self, name), getattr(other, name)], 1).gather(1, chosen) for name in ("text", "position")
        )
        sample = torch.cat([self.sample[places[0]], other.sample[places[1]]])
        sums, moments, tokens = self.sums + other.sums, self.moments + other.moments, self.tokens + other.tokens
        return Tally(value, text, position, sums, moments, tokens, sample)


@dataclass
class Sample:
    """Which tokens of one stack are sampled: the hashes of those in each place."""

    keys: Int[Tensor, " place"]
    taken: tuple[Tensor, Tensor] | None = None  # of the pass that is running: flat places in the batch, and here

    def take(self, keys: Int[Tensor, " token"], flat: Int[Tensor, " token"]) -> None:
        """Choose tokens of a batch, by their hashes, in the places of those with greater ones."""
        order = torch.cat([self.keys, keys]).argsort(stable=True)[: len(self.keys)]
        free = torch.ones(len(self.keys), dtype=torch.bool)
        free[order[order < len(self.keys)]] = False
        new = order[order >= len(self.keys)] - len(self.keys)
        places = free.nonzero().flatten()
        self.keys[places] = keys[new]
        self.taken = flat[new], places


def sums_of(
    x: Float[Tensor, "token neuron"], one_of: Float[Tensor, "source token"]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums over tokens: of the activation by source (on the CPU), of its square, of its size, of being above 0.

    On a processor a few tokens at a time, whose squares and so on stay in its cache: half of the time.
    """
    rows = len(x) if x.device.type != "cpu" else max(1, AT_ONCE // max(1, x.shape[1]))
    sums, moments = x.new_zeros(len(one_of), x.shape[1]), x.new_zeros(3, x.shape[1])
    made = x.new_empty(min(rows, len(x)), x.shape[1])
    for part, of in zip(x.split(rows), one_of.split(rows, 1), strict=True):
        one, room = x.new_ones(1, len(part)), made[: len(part)]
        sums += of @ part
        moments[0] += (one @ torch.mul(part, part, out=room))[0]
        moments[1] += (one @ torch.abs(part, out=room))[0]
        moments[2] += (one @ torch.gt(part, 0, out=room))[0]  # a tenth of the time of (part > 0).float()
    return sums.cpu(), moments[0], moments[1], moments[2]


def hashes(text: np.ndarray, position: np.ndarray) -> Int[Tensor, " token"]:
    """A number from 0 to 2**63 - 2 of each token, as good as random (splitmix64)."""
    with np.errstate(over="ignore"):
        x = (text.astype(np.uint64) << np.uint64(24)) + position.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return torch.from_numpy((x >> np.uint64(1)).astype(np.int64)).clamp_max(NEVER - 1)


@dataclass
class Tallies:
    """Every site's.

    Attributes:
        sites: by address.
        sources: names of the sources, in order.
        by_site: the tallies.
        samples: by stack, the tokens that are sampled.
        asked: what an error says.
        running: by stack, the tokens of the pass that is running.
    """

    sites: Mapping[str, Site]
    sources: Sequence[str]
    by_site: dict[str, Tally]
    samples: dict[str, Sample]
    asked: str
    running: dict[str, Batched] = field(default_factory=dict)

    @classmethod
    def of(cls, sites: Mapping[str, Site], sources: Sequence[str], count: int, asked: str) -> Tallies:
        """Before any text."""
        width = sum(site.width for site in sites.values())
        places = max(FEWEST, min(SAMPLE, SAMPLE_BYTES // (4 * width)))
        tallies = {a: Tally.empty(s.width, count, len(sources), places) for a, s in sites.items()}
        stacks = dict.fromkeys(stack_of(a) for a in sites)
        samples = {stack: Sample(torch.full((places,), NEVER)) for stack in stacks}
        return cls(sites, sources, tallies, samples, asked)

    def begins(self, done: Pass, sources: Int[Tensor, " row"], numbers: Int[Tensor, " row"]) -> None:
        """A pass over a batch.

        Args:
            sources: of each row, the place of its source.
            numbers: of each row, the number of its text.
        """
        self.running = {stack: Batched.of(done, stack, sources, numbers, len(self.sources)) for stack in self.samples}
        for stack, batched in self.running.items():
            text, position = numbers[batched.row], batched.position
            self.samples[stack].take(hashes(text.numpy(), position.numpy()), batched.flat)

    def look(self, done: Pass, site: Site, seen: Seen) -> None:
        """A site's vector in the pass."""
        stack, tally = stack_of(site.address), self.by_site[site.address]
        batched, tokens, sample = self.running[stack], done.of(site), self.samples[stack]
        h = seen.h.float()
        kept = batched
        if seen.index is not None:  # an expert's tokens, which come in any order
            looked = seen.at(tokens.looked).nonzero().flatten()
            order = seen.index[looked].argsort()
            x, kept = h[looked[order]], batched.only(seen.index[looked[order]])
        else:
            x = h if len(batched.flat) == len(h) else h.index_select(0, batched.flat.to(h.device))
        if not len(x):
            return
        sums, squares, sizes, above = sums_of(x, kept.one_of.to(x.device))
        refuse_non_finite(sums, site.address, self.asked)
        tally.sums += sums
        tally.tokens += kept.one_of.sum(1).long()
        at_start = h.index_select(0, batched.first.to(h.device)) if seen.index is None else h[seen.at(tokens.first)]
        whole = sizes if tokens.looked is tokens.real else h[seen.at(tokens.real)].abs().sum(0)
        tally.moments += torch.stack([squares, at_start.abs().sum(0), whole, above]).cpu()
        tally.extremes(x.cpu(), kept)
        assert sample.taken is not None
        flat, places = sample.taken
        if len(flat):
            _fill(tally.sample, places, h, flat, seen)


@dataclass(frozen=True)
class Batched:
    """The tokens of a batch in one stack that are looked at, text by text.

    Attributes:
        flat: the place of each token in the batch.
        row: its row.
        position: in the text.
        numbers: of each text that has such a token.
        lengths: how many each has.
        one_of: [source, token] 1 where the token is of the source.
        of_row: the number of every row's text.
        first: the places in the batch of tokens that begin a row.
    """

    flat: Int[Tensor, " token"]
    row: Int[Tensor, " token"]
    position: Int[Tensor, " token"]
    numbers: Int[Tensor, " text"]
    lengths: list[int]
    one_of: Float[Tensor, "source token"]
    of_row: Int[Tensor, " row"]
    first: Int[Tensor, " row"]

    @classmethod
    def of(cls, done: Pass, stack: str, sources: Tensor, numbers: Tensor, n: int) -> Batched:
        """Of a pass."""
        tokens = done.tokens[stack]
        looked = tokens.looked.cpu()
        row, _ = looked.nonzero(as_tuple=True)
        position = (tokens.real.cpu().cumsum(1) - 1)[looked]
        flat = looked.flatten().nonzero().flatten()
        one_of = (sources[row] == torch.arange(n)[:, None]).float()
        return cls._made(flat, row, position, numbers, one_of, tokens.first.flatten().nonzero().flatten().cpu())

    @classmethod
    def _made(
        cls, flat: Tensor, row: Tensor, position: Tensor, of_row: Tensor, one_of: Tensor, first: Tensor
    ) -> Batched:
        rows, lengths = row.unique_consecutive(return_counts=True)
        return cls(flat, row, position, of_row[rows], lengths.tolist(), one_of, of_row, first)

    @cached_property
    def runs(self) -> list[tuple[int, int]]:
        """Neighbouring texts that have as many tokens: how many texts, and how many tokens each."""
        return [(len(list(group)), length) for length, group in groupby(self.lengths)]

    @cached_property
    def places(self) -> list[Int[Tensor, "text token"]]:
        """Of each run, the positions of its tokens."""
        return self.blocks(self.position)

    def blocks(self, x: Tensor) -> list[Tensor]:
        """What is of each token, by run: [text, token, ...]."""
        parts = x.split([n * length for n, length in self.runs])
        return [part.unflatten(0, run) for part, run in zip(parts, self.runs, strict=True)]

    def only(self, flat: Int[Tensor, " token"]) -> Batched:
        """Those tokens alone that a site sees, given in order."""
        where = torch.searchsorted(self.flat, flat.cpu())
        flat, row, position = self.flat[where], self.row[where], self.position[where]
        return self._made(flat, row, position, self.of_row, self.one_of[:, where], self.first)


def _fill(sample: Tensor, places: Tensor, h: Tensor, flat: Tensor, seen: Seen) -> None:
    """The activations of sampled tokens; NaN where the site does not see them."""
    if seen.index is None:
        sample[places] = h[flat.to(h.device)].cpu()
        return
    index = seen.index.cpu()
    sample[places] = torch.nan
    for place, token in zip(places.tolist(), flat.tolist(), strict=True):
        here = (index == token).nonzero().flatten()
        if len(here):
            sample[place] = h[here[0]].cpu()


def stack_of(address: str) -> str:
    """How the addresses of a site's stack begin: "decoder_", or ""."""
    return DECODER if address.startswith(DECODER) else ""
