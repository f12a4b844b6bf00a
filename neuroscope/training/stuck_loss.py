"""A loss that does not move: a training that taught nothing is called that, by a stated rule.

The rule, over the logged losses of a run: there are 20 or more of them, or nothing is said (None); the mean of the last
fifth is not below that of the first fifth by more than 2 % of it; and it is above 0.1 nats, so that there was something
left to learn.

A rate that is too low or far too high, neurons that nothing depends on, or labels that the prompts say nothing about
end so. The rule is lenient: a loss that falls at first, as when a model learns which labels there are, is not stuck.
"""

from __future__ import annotations

from collections.abc import Sequence

ENTRIES, FALL, NATS = 20, 0.02, 0.1


class StuckLoss(UserWarning):
    """A training whose loss did not fall."""


def is_stuck(losses: Sequence[float]) -> bool | None:
    """Whether the losses [nats] of a run, in order, say that nothing was learnt; None where they are too few to say.

    Example:
        >>> is_stuck([0.7] * 20), is_stuck([0.7] * 10 + [0.5] * 10), is_stuck([0.7] * 5), is_stuck([0.01] * 20)
        (True, False, None, False)
    """
    if len(losses) < ENTRIES:
        return None
    fifth = len(losses) // 5
    first, last = sum(losses[:fifth]) / fifth, sum(losses[-fifth:]) / fifth
    return last > NATS and last >= (1 - FALL) * first
