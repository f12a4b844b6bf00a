"""How much of a task a mask of each size carries: faithfulness, completeness, and their areas (MIB)."""

from neuroscope.experiments.mask_sizes.faithfulness_result import Faithfulness
from neuroscope.experiments.mask_sizes.measuring import faithfulness

__all__ = ["Faithfulness", "faithfulness"]
