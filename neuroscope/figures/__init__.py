"""Every kind of figure in one house style: plain data in, a plotly Figure out.

plotly is imported inside the functions, so that `import neuroscope` stays light. `FIGURES` has a row per kind, with
data to draw it from.
"""

from neuroscope.figures.bars import bars_with_band
from neuroscope.figures.boxes import box_panels, layer_boxes
from neuroscope.figures.curves import curves_with_band, layer_curves
from neuroscope.figures.kinds import FIGURES, Kind
from neuroscope.figures.layer_maps import hover_text, map_explorer, map_multiples
from neuroscope.figures.matrices import depth_map, heatmap
from neuroscope.figures.named_points import plane
from neuroscope.figures.ranks import distribution
from neuroscope.figures.segments_of_layers import segmented
from neuroscope.figures.size_panels import size_panels
from neuroscope.figures.style import Band

__all__ = [
    "FIGURES",
    "Band",
    "Kind",
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
    "size_panels",
]
