"""Take neurons or heads out of a model for good."""

from neuroscope.removal.pruned_model import PrunedModel
from neuroscope.removal.removing import prune

__all__ = ["PrunedModel", "prune"]
