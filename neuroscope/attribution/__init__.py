"""How much each neuron matters for a task: one function per method, one table of them."""

from neuroscope.attribution.attributing import attribute
from neuroscope.attribution.methods import METHODS
from neuroscope.attribution.objectives import OBJECTIVES
from neuroscope.attribution.replication import Stability, stability
from neuroscope.attribution.request import Method, Request

__all__ = ["METHODS", "OBJECTIVES", "Method", "Request", "Stability", "attribute", "stability"]
