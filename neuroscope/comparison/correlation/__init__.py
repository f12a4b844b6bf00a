"""Does the similarity of tasks predict transfer?"""

from neuroscope.comparison.correlation.correlating import correlate
from neuroscope.comparison.correlation.verdicts import Correlation
from neuroscope.comparison.correlation.views import PAIRS, TWO_WAY

__all__ = ["PAIRS", "TWO_WAY", "Correlation", "correlate"]
