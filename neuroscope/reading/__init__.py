"""Read neurons: their activations on texts, and what they are."""

from neuroscope.reading.activations_result import Activations
from neuroscope.reading.tokens_by_neurons import activations

__all__ = ["Activations", "activations"]
