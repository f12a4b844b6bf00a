"""Neurons scaled, or pushed along a direction, by growing doses: what the task does, and whether the text holds."""

from neuroscope.experiments.dose_sweep.dose_result import DoseResponse
from neuroscope.experiments.dose_sweep.giving import dose

__all__ = ["DoseResponse", "dose"]
