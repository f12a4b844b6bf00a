"""Change neurons while the model runs: ablate, scale, add, patch; and activation patching as a grid."""

from neuroscope.interventions.edits import ablate, add, scale
from neuroscope.interventions.patch_grid import PatchSweep, patch_sweep
from neuroscope.interventions.patching import patch
from neuroscope.interventions.where import between

__all__ = ["PatchSweep", "ablate", "add", "between", "patch", "patch_sweep", "scale"]
