"""Learn tasks one after another: one file per method, one table of them."""

from neuroscope.training.continual_learning.continual_result import Continual
from neuroscope.training.continual_learning.methods import METHODS, Method
from neuroscope.training.continual_learning.runs import continual

__all__ = ["METHODS", "Continual", "Method", "continual"]
