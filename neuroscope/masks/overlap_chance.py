"""How many neurons masks share by chance: the exact distribution, and what the families of masks have to do with it.

Two masks drawn independently with a_l and b_l of the w_l neurons of each site l share a hypergeometric number there,
and the sum of these in all: their distributions, convolved. No simulation, and no normal curve where p is small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
from scipy import stats

from neuroscope.statistics import Floats, permutation_p

LEAST = 1e-40  # chances of a number in one site below this are left out; with thousands of sites, p is right to 1e-36
ALL_ORDERS = 7  # names up to which every way of dealing families out is counted: 5,040
DRAWS = 4999


def shared_by_chance(a: Sequence[int], b: Sequence[int], widths: Sequence[int]) -> tuple[int, Floats]:
    """The chance of every number of shared neurons, of masks drawn independently with these sizes in every site.

    Args:
        a: neurons of the first mask, by site.
        b: neurons of the second, by site.
        widths: neurons of the model, by site.

    Returns:
        The smallest number that is possible (of chances above 1e-40 a site), and the chances of it and of all after it.

    Example:
        >>> shared_by_chance([1, 1], [1, 1], [2, 2])  # heads of two coins
        (0, array([0.25, 0.5 , 0.25]))
    """
    least, chances = 0, np.ones(1)
    for one, other, width in zip(a, b, widths, strict=True):
        if not one or not other:
            continue
        possible = np.arange(max(0, one + other - width), min(one, other) + 1)
        here = stats.hypergeom.pmf(possible, width, one, other)
        kept = np.flatnonzero(here > LEAST)
        least += int(possible[kept[0]])
        chances = np.convolve(chances, here[kept[0] : kept[-1] + 1])
    return least, chances


def beside_chance(shared: int, least: int, chances: Floats) -> dict[str, float]:
    """A number of shared neurons beside its distribution by chance (`shared_by_chance`).

    Returns:
        expected (neurons), ratio (shared over expected), z (standard deviations above it) and p (of at least as many;
        no smaller than 1e-36). Where chance allows one number alone, z is NaN and p is 1.

    Example:
        >>> found = beside_chance(2, *shared_by_chance([1, 1], [1, 1], [2, 2]))
        >>> found["expected"], found["ratio"], round(found["z"], 3), found["p"]
        (1.0, 2.0, 1.414, 0.25)
    """
    numbers = least + np.arange(len(chances))
    total = chances.sum()
    expected = float(numbers @ chances / total)
    spread = math.sqrt(float((numbers - expected) ** 2 @ chances / total))
    # small ones first, lest they be lost beside large ones
    tail = float(np.sort(chances[numbers >= shared]).sum())
    return {
        "expected": expected,
        "ratio": shared / expected if expected else math.nan,
        "z": (shared - expected) / spread if spread else math.nan,
        "p": min(1.0, max(tail, 1e-36)) if len(chances) > 1 else 1.0,
    }


def within_less_between(similarity: Floats, groups: Any) -> float:
    """Mean of the pairs of one group less that of the pairs of two, of a symmetric matrix; NaN pairs are in neither."""
    named = np.asarray(groups)
    rows, columns = np.triu_indices(len(named), 1)
    values, same = similarity[rows, columns], named[rows] == named[columns]
    known = np.isfinite(values)
    if not (same & known).any() or not (~same & known).any():
        return math.nan
    return float(values[same & known].mean() - values[~same & known].mean())


def families_p(similarity: Floats, families: Mapping[str, str], seed: int = 0) -> float:
    """One-sided permutation p that pairs of one family are more alike than pairs of two.

    Families are dealt out to the names in every order, or in 4,999 random ones where there are more than 7 names, as in
    an analysis of similarities (Clarke 1993), of means instead of ranks. NaN where there are no pairs of both kinds.

    Args:
        similarity: [name, name], symmetric, in the order of `families`.
        families: name -> family.
        seed: of the random orders.
    """
    named = np.asarray(list(families.values()))
    found = within_less_between(similarity, named)
    if not np.isfinite(found):
        return math.nan
    if len(named) <= ALL_ORDERS:
        orders = [np.array(order) for order in permutations(range(len(named)))]
    else:
        generator = np.random.default_rng(seed)
        orders = [generator.permutation(len(named)) for _ in range(DRAWS)]
    shuffled = [within_less_between(similarity, named[order]) for order in orders]
    return permutation_p(found, shuffled, exact=len(named) <= ALL_ORDERS)
