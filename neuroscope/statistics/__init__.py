"""How sure a number is: every interval, p and q of the package.

| asked | function |
|---|---|
| interval of a score, over examples | `score_interval` (Wilson where outcomes are right or wrong) |
| interval of another mean, many examples | `bootstrap_interval` |
| interval of a mean, a few runs or tasks | `mean_interval` (Student's t), `standard_error` |
| interval of a score over seeds | `seeds_and_examples_interval`, `outcomes_interval` |
| the middle 95 % of draws | `percentile_interval` |
| do two measurements of the same examples differ? | `paired_permutation` |
| is a value beyond those of shuffled data? | `permutation_p` |
| what does a mask break beyond a random one? | `against_controls` |
| is one such effect larger than another? | `effect_margin` of each |
| are there more right answers than one answer alone gets? | `better_than_share` |
| q of many p | `benjamini_hochberg` |

numpy and scipy, no model in sight. Every draw comes from a generator made of `seed`: equal arguments, equal answers.
"""

from neuroscope.statistics.chance import (
    ALPHA,
    against_controls,
    benjamini_hochberg,
    better_than_share,
    effect_margin,
    paired_permutation,
    permutation_p,
)
from neuroscope.statistics.intervals import (
    Floats,
    bootstrap_interval,
    mean_interval,
    outcomes_interval,
    percentile_interval,
    score_interval,
    seeds_and_examples_interval,
    standard_error,
)

__all__ = [
    "ALPHA",
    "Floats",
    "against_controls",
    "benjamini_hochberg",
    "better_than_share",
    "bootstrap_interval",
    "effect_margin",
    "mean_interval",
    "outcomes_interval",
    "paired_permutation",
    "percentile_interval",
    "permutation_p",
    "score_interval",
    "seeds_and_examples_interval",
    "standard_error",
]
