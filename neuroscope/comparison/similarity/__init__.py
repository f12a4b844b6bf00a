"""How alike two representations of the same examples are, and how many dimensions one of them has.

Each function takes activations as arrays [example, feature], of numpy or torch, with the examples in the same order on
both sides; no model is needed. A pair measure is 1 for representations that are equal up to what it does not see, such
as a rotation, and lower for others:

- `cka`: centred kernel alignment. Are examples that are alike here alike there? `CKA` takes them in batches.
- `svcca`, `pwcca`: canonical correlations. Do they span the same space, whatever the directions in it?
- `procrustes`: how well one fits on the other after the best rotation.
- `neighbour_overlap`: does an example have the same nearest neighbours?

`permutation_null` puts any of them beside the values that chance makes. A dimension count says how many directions the
examples fill: `variance_dimension` (principal components for a share of the variance), `participation_ratio` (how
evenly the variance is spread), `two_nn` (of the curved surface that they lie on).

`MEASURES` and `DIMENSIONS` are the tables of both kinds by name: what `ns.compare` and `ns.dimensions` choose from, to
do the same at every layer of whole models.
"""

from neuroscope.comparison.similarity.accumulation import CKA
from neuroscope.comparison.similarity.canonical import procrustes, pwcca, svcca
from neuroscope.comparison.similarity.cka_formulas import cka
from neuroscope.comparison.similarity.dimension import DIMENSIONS, participation_ratio, two_nn, variance_dimension
from neuroscope.comparison.similarity.measure_table import MEASURES
from neuroscope.comparison.similarity.neighbours import neighbour_overlap
from neuroscope.comparison.similarity.null import permutation_null
from neuroscope.errors import spelled

__all__ = [
    "CKA",
    "DIMENSIONS",
    "MEASURES",
    "cka",
    "neighbour_overlap",
    "participation_ratio",
    "permutation_null",
    "procrustes",
    "pwcca",
    "svcca",
    "two_nn",
    "variance_dimension",
]

__getattr__ = spelled("neuroscope.similarity", __all__)
