"""Similarity of tasks' neurons by their parameters, layer by layer."""

from neuroscope.comparison.parameters.measuring import Estimator, Part, parameter_similarity
from neuroscope.comparison.parameters.similarity_by_depth import ParameterSimilarity

__all__ = ["Estimator", "ParameterSimilarity", "Part", "parameter_similarity"]
