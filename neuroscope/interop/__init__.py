"""To and from other tools: published masks, TransformerLens hooks, nnsight traces, experts, lm-evaluation-harness."""

from neuroscope.errors import spelled
from neuroscope.interop.harness import harness_model
from neuroscope.interop.lape import lape_masks, load_lape, save_lape
from neuroscope.interop.nnsight_traces import nnsight_code
from neuroscope.interop.transformer_lens import lens_hooks
from neuroscope.models import tap_experts, untap_experts

__all__ = [
    "harness_model",
    "lape_masks",
    "lens_hooks",
    "load_lape",
    "nnsight_code",
    "save_lape",
    "tap_experts",
    "untap_experts",
]

__getattr__ = spelled("neuroscope.interop", __all__)
