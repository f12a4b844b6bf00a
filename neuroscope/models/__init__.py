"""Open any model, and find where its neurons are."""

from neuroscope.models.model import UNITS, Model, require_parameters
from neuroscope.models.opening import bundled, load, resolve, tap_experts, untap_experts

__all__ = ["UNITS", "Model", "bundled", "load", "require_parameters", "resolve", "tap_experts", "untap_experts"]
