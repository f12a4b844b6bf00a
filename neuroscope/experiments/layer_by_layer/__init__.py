"""Where do tasks part inside a model? MOSSA and the figures of Zhao, Ziser & Cohen 2024 ("Layer by Layer")."""

from neuroscope.experiments.layer_by_layer.mossa_run import Mossa, mossa
from neuroscope.experiments.layer_by_layer.one_figure import LayerByLayer, layer_by_layer

__all__ = ["LayerByLayer", "Mossa", "layer_by_layer", "mossa"]
