"""Change neurons while the model runs: ablate, scale, add, patch; and activation patching as a grid."""

from neuroscope.interventions.patch_grid import PatchSweep, patch_sweep
from neuroscope.interventions.scopes import ablate, add, lens_hooks, nnsight_code, patch, scale

__all__ = ["PatchSweep", "ablate", "add", "lens_hooks", "nnsight_code", "patch", "patch_sweep", "scale"]
