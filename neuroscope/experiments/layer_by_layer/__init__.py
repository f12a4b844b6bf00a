"""Where do tasks part inside a model? MOSSA and the figures of Zhao, Ziser & Cohen 2024 ("Layer by Layer"; ZZC24)."""

from neuroscope.experiments.layer_by_layer.mossa_result import Mossa
from neuroscope.experiments.layer_by_layer.mossa_run import mossa

__all__ = ["Mossa", "mossa"]
