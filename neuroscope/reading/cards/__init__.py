"""Cards of neurons: all that is known of each."""

from neuroscope.reading.cards.deck import NeuronCards
from neuroscope.reading.cards.making import neurons
from neuroscope.reading.cards.neuron_card import NeuronCard

__all__ = ["NeuronCard", "NeuronCards", "neurons"]
