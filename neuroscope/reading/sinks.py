"""Sinks: neurons that are active at the first token of a text, whatever the text says.

A text of n tokens has 1/n of them first, so that a share of the activation says nothing by itself: of texts of one
token it is always all. A neuron is a sink where

1. over half of its absolute activation is on first tokens (`SINK`),
2. it is over `TIMES` times as active at a first token as at another, in the mean, and
3. the texts can tell: they have `SHORTEST` tokens or more in the mean, and there are `FEWEST` or more with different
   first tokens; or they begin with the tokenizer's own token (such as `<s>`), which says nothing of a text.

Of a model of 135M parameters, neuron 1229 of layer 11 has over 99.99 % on first tokens, of texts of any length; 986 of
layer 29 has 96 % of three texts of two tokens, and 16 % of three sentences: 2 and `SHORTEST` tell these apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool

SINK = 0.5
TIMES = 20
SHORTEST = 4
FEWEST = 3


@dataclass
class Begun:
    """How the texts begin that one stack of a model reads, and how many tokens they have in all.

    Example:
        >>> words, alike, texts = (Begun.of(ids) for ids in ([[1], [2]], [[1] * 4] * 3, [[1] * 4, [2] * 4, [3] * 4]))
        >>> [one.has_sink([1.0, 0.98, 0.6]).tolist() for one in (words, texts)]
        [[False, False, False], [True, True, False]]
        >>> [one.tells(None) for one in (words, alike, texts)]
        [False, False, True]
    """

    firsts: Counter[int] = field(default_factory=Counter)
    tokens: int = 0

    @classmethod
    def of(cls, texts: Iterable[Sequence[int]]) -> Begun:
        """Of texts as ids; those without a token are none."""
        read = [ids for ids in texts if len(ids)]
        return cls(Counter(int(ids[0]) for ids in read), sum(map(len, read)))

    def __add__(self, other: Begun) -> Begun:
        return Begun(self.firsts + other.firsts, self.tokens + other.tokens)

    def has_sink(self, shares: Any) -> Bool[np.ndarray, " neuron"]:
        """1 and 2, of the share of each neuron's absolute activation that is on first tokens."""
        share, first = np.asarray(shares, dtype=float), self.firsts.total()
        with np.errstate(invalid="ignore"):
            return np.asarray((share > SINK) & (share * (self.tokens - first) > TIMES * (1 - share) * first))

    def tells(self, tokenizer: Any) -> bool:
        """3."""
        if self.tokens < SHORTEST * self.firsts.total():
            return False
        if self.firsts and set(self.firsts) <= set(getattr(tokenizer, "all_special_ids", ())):
            return True
        return self.firsts.total() >= FEWEST and len(self.firsts) > 1
