"""Pair measures and dimension counts of every layer: one task after another, from memory or from disk."""

from neuroscope.comparison.layers.comparing import compare
from neuroscope.comparison.layers.counting import dimensions
from neuroscope.comparison.layers.dimension_curves import Dimensions
from neuroscope.comparison.layers.layer_similarity import Similarity

__all__ = ["Dimensions", "Similarity", "compare", "dimensions"]
