"""How alike two representations are, and how many dimensions one has: pure measures, no model in sight."""

from neuroscope.comparison.similarity.accumulation import CKA
from neuroscope.comparison.similarity.alignment import cka
from neuroscope.comparison.similarity.by_layer import DIMENSIONS, Dimensions, dimensions
from neuroscope.comparison.similarity.canonical import procrustes, pwcca, svcca
from neuroscope.comparison.similarity.dimension import participation_ratio, two_nn, variance_dimension
from neuroscope.comparison.similarity.grid import Similarity, compare
from neuroscope.comparison.similarity.measures import MEASURES, Band, Measure, permutation_null
from neuroscope.comparison.similarity.neighbours import neighbour_overlap

__all__ = [
    "CKA",
    "DIMENSIONS",
    "MEASURES",
    "Band",
    "Dimensions",
    "Measure",
    "Similarity",
    "cka",
    "compare",
    "dimensions",
    "neighbour_overlap",
    "participation_ratio",
    "permutation_null",
    "procrustes",
    "pwcca",
    "svcca",
    "two_nn",
    "variance_dimension",
]
