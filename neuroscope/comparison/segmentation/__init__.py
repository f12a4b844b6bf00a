"""Cut the layers where curves over layers change."""

from neuroscope.comparison.segmentation.cutting import segment
from neuroscope.comparison.segmentation.segments import ZZC24, Segmentation

__all__ = ["ZZC24", "Segmentation", "segment"]
