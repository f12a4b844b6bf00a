"""To and from other tools: published masks, TransformerLens hooks, nnsight traces, experts."""

from neuroscope.interop.lape import load_lape, save_lape
from neuroscope.interventions.scopes import lens_hooks, nnsight_code
from neuroscope.models import tap_experts, untap_experts

__all__ = ["lens_hooks", "load_lape", "nnsight_code", "save_lape", "tap_experts", "untap_experts"]
