"""Neurons taken out by score, against it and at random, by growing shares; and what training brings back."""

from neuroscope.experiments.pruning_sweep.pruning_result import Pruning
from neuroscope.experiments.pruning_sweep.taking_out import pruning

__all__ = ["Pruning", "pruning"]
