"""Every kind of figure in one house style: plain data in, a plotly Figure out.

plotly is imported inside the functions, so that `import neuroscope` stays light.
"""

from neuroscope.figures.charts import bars_with_band, curves_with_band, depth_map, distribution, heatmap, plane
from neuroscope.figures.layers import box_panels, layer_boxes, layer_curves, segmented
from neuroscope.figures.points import hover_text, map_explorer, map_multiples

__all__ = [
    "bars_with_band",
    "box_panels",
    "curves_with_band",
    "depth_map",
    "distribution",
    "heatmap",
    "hover_text",
    "layer_boxes",
    "layer_curves",
    "map_explorer",
    "map_multiples",
    "plane",
    "segmented",
]
