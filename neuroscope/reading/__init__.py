"""Read neurons: their activations on texts, and what they are."""

from neuroscope.reading.activations_result import Activations
from neuroscope.reading.cards import NeuronCard, NeuronCards, neurons
from neuroscope.reading.directions_result import Directions
from neuroscope.reading.finding_directions import directions
from neuroscope.reading.over_a_corpus import neuron_statistics
from neuroscope.reading.statistics_result import NeuronStatistics
from neuroscope.reading.tokens_by_neurons import activations

__all__ = [
    "Activations",
    "Directions",
    "NeuronCard",
    "NeuronCards",
    "NeuronStatistics",
    "activations",
    "directions",
    "neuron_statistics",
    "neurons",
]
