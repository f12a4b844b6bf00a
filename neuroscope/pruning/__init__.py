"""Take neurons or heads out of a model for good."""

from neuroscope.pruning.pruned_model import PrunedModel
from neuroscope.pruning.removing import prune

__all__ = ["PrunedModel", "prune"]
