"""Cut the layers where curves change."""

from neuroscope.comparison.segmentation.segments import ZZC24, Segmentation, cuts, gains, segment

__all__ = ["ZZC24", "Segmentation", "cuts", "gains", "segment"]
