"""Two-dimensional maps of tasks' representations, layer by layer."""

from neuroscope.comparison.maps.layer_maps import Maps
from neuroscope.comparison.maps.mapping import pca, tsne

__all__ = ["Maps", "pca", "tsne"]
