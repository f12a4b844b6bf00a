"""How far scores and masks replicate: formulas over scores of disjoint parts of the examples.

Shapes: P parts of the examples, V ways of asking, N neurons; scores [P, N] or [V, P, N].
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from scipy import stats

from neuroscope.masks.cut import top_of
from neuroscope.statistics import Floats

PAIRS = 35  # of two disjoint groups of parts: all there are of eight parts halved


def spearman_brown(r: float, times: float = 2.0) -> float:
    """The reliability of a measurement `times` as long as one of reliability r (Spearman 1910, Brown 1910).

    Example:
        >>> spearman_brown(0.5)
        0.6666666666666666
    """
    return times * r / (1 + (times - 1) * r)


def disjoint_pairs(parts: int, size: int, seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """Pairs of disjoint groups of `size` parts: all there are, or 35 drawn at random.

    Example:
        >>> disjoint_pairs(2, 1)
        [([0], [1])]
    """
    every: list[tuple[list[int], list[int]]] = []
    for first in combinations(range(parts), size):
        rest = [part for part in range(first[0] + 1, parts) if part not in first]
        every += [(list(first), list(second)) for second in combinations(rest, size)]
    if len(every) <= PAIRS:
        return every
    chosen = np.random.default_rng(seed).choice(len(every), PAIRS, replace=False)
    return [every[i] for i in sorted(chosen)]


def split_half(parts: Floats, seed: int = 0) -> tuple[float, float]:
    """Spearman's rho over neurons between scores of two halves of the examples, and that of all of them.

    Args:
        parts: [part, neuron] mean scores of parts of equal size.

    Returns:
        The mean over halvings of the parts; and by Spearman and Brown's formula, of scores on all parts. NaN where the
        scores of a half are all the same.
    """
    rhos = []
    for first, second in disjoint_pairs(len(parts), len(parts) // 2, seed):
        one, other = parts[first].mean(0), parts[second].mean(0)
        constant = np.ptp(one) == 0 or np.ptp(other) == 0
        rhos.append(np.nan if constant else float(stats.spearmanr(one, other).statistic))
    half = float(np.mean(rhos))
    return half, spearman_brown(half)


def shares_of_variance(ways: Floats) -> dict[str, float]:
    """Whose the variance of scores is: the neurons' own, the way of asking's, or the examples'.

    Of ranks within each way and part, made normal (`(rank - 1/2) / N` through the inverse of the normal distribution),
    so that a few large scores are not all there is. For each neuron a table of ways x parts without repetition, its
    components by the method of moments (Searle, Casella & McCulloch 1992, §4.3), averaged over neurons; negative ones
    are 0. Examples: parts and what is left, over the number of parts, as it is in scores on all examples.

    Args:
        ways: [way, part, neuron] scores; the parts of all ways are the same examples. One way: its share is 0.

    Returns:
        neurons, ways, examples: shares, of sum 1.
    """
    n_ways, n_parts, n = ways.shape
    scores = stats.norm.ppf((stats.rankdata(ways, axis=2) - 0.5) / n)
    total = scores.mean((0, 1))
    by_way, by_part = scores.mean(1), scores.mean(0)  # [way, neuron], [part, neuron]
    of_part = n_ways * ((by_part - total) ** 2).sum(0).mean() / (n_parts - 1)
    if n_ways == 1:
        residual, way, part = of_part, 0.0, 0.0
    else:
        rest = scores - by_way[:, None] - by_part[None] + total
        residual = (rest**2).sum((0, 1)).mean() / ((n_ways - 1) * (n_parts - 1))
        of_way = n_parts * ((by_way - total) ** 2).sum(0).mean() / (n_ways - 1)
        way, part = max(0.0, (of_way - residual) / n_parts), max(0.0, (of_part - residual) / n_ways)
    examples = (part + residual) / n_parts
    neurons = max(0.0, float(total.var()) - way / n_ways - part / n_parts - residual / (n_ways * n_parts))
    whole = neurons + way + examples
    return {"neurons": neurons / whole, "ways": way / whole, "examples": examples / whole}


def top(scores: Floats, k: float) -> np.ndarray:
    """Flags of the top share k, equal ones in order: as `Scores.top` takes them."""
    return np.asarray(top_of(torch.from_numpy(scores), k)[0])


def jaccards(parts: Floats, size: int, k: float, seed: int = 0) -> Floats:
    """[pair] Jaccard of two masks of the top share k, each found on `size` parts that the other has not seen."""
    found = []
    for first, second in disjoint_pairs(len(parts), size, seed):
        one, other = top(parts[first].mean(0), k), top(parts[second].mean(0), k)
        found.append((one & other).sum() / (one | other).sum())
    return np.array(found)


def selected(parts: Floats, k: float, seed: int = 0) -> Floats:
    """[neuron] in which share of halves of the examples a neuron is in the mask of the top share k."""
    halves: list[Sequence[int]] = [half for pair in disjoint_pairs(len(parts), len(parts) // 2, seed) for half in pair]
    return np.mean([top(parts[half].mean(0), k) for half in halves], axis=0)


def ranks(parts: Floats, chosen: Sequence[int], seed: int = 0) -> Floats:
    """[half, chosen] ranks of neurons in halves of the examples: 1 is the highest score, equal ones share the best."""
    halves: list[Sequence[int]] = [half for pair in disjoint_pairs(len(parts), len(parts) // 2, seed) for half in pair]
    means = [parts[half].mean(0) for half in halves]
    return np.array([[1 + (mean > mean[i]).sum() for i in chosen] for mean in means], dtype=np.float64)
