"""Learn tasks one after another: one file per method, one table of them."""

from neuroscope.training.continual_learning.methods import METHODS, Continual, Method, continual

__all__ = ["METHODS", "Continual", "Method", "continual"]
