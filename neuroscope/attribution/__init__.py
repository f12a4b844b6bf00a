"""How much each neuron matters for a task: one function per method, one table of them."""

from neuroscope.attribution.methods import METHODS, OBJECTIVES, Method, attribute

__all__ = ["METHODS", "OBJECTIVES", "Method", "attribute"]
