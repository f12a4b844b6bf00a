"""Read neurons: their activations on texts, and what they are."""

from neuroscope.reading.activations_result import Activations
from neuroscope.reading.directions_result import Directions
from neuroscope.reading.finding_directions import directions
from neuroscope.reading.tokens_by_neurons import activations

__all__ = ["Activations", "Directions", "activations", "directions"]
