"""Figures over layers to explore: boxes and curves by layer with pickers, segments, and maps with a layer slider.

Plain data in, a plotly Figure out, in the house style. plotly is imported inside the functions, as in `figures`.
"""

from neuroscope.explorers.layers import box_panels, layer_boxes, layer_curves, segmented
from neuroscope.explorers.maps import hover_text, map_explorer, map_multiples

__all__ = ["box_panels", "hover_text", "layer_boxes", "layer_curves", "map_explorer", "map_multiples", "segmented"]
