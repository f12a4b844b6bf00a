"""Scores and masks: one number per neuron, a set of neurons, and how sets overlap."""

from neuroscope.masks.jaccard import Overlap, OverlapSweep, overlap, overlap_sweep
from neuroscope.masks.neurons import Match, NeuronMask, PerNeuron, Scores, read_safetensors, shape

__all__ = [
    "Match",
    "NeuronMask",
    "Overlap",
    "OverlapSweep",
    "PerNeuron",
    "Scores",
    "overlap",
    "overlap_sweep",
    "read_safetensors",
    "shape",
]
