"""Similarity of tasks' neurons by their parameters, layer by layer."""

from neuroscope.comparison.parameters.measuring import Estimator, ParameterSimilarity, Part, parameter_similarity

__all__ = ["Estimator", "ParameterSimilarity", "Part", "parameter_similarity"]
