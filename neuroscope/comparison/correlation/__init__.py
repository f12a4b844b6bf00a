"""Does the similarity of tasks predict transfer?"""

from neuroscope.comparison.correlation.correlating import Correlation, correlate

__all__ = ["Correlation", "correlate"]
