"""Open any model, and find where its neurons are."""

from neuroscope.models.experts import tap_experts, untap_experts
from neuroscope.models.model import IDENTITY, UNITS, Model, require_parameters
from neuroscope.models.opening import bundled, load, resolve
from neuroscope.models.sites import Unit

__all__ = [
    "IDENTITY",
    "UNITS",
    "Model",
    "Unit",
    "bundled",
    "load",
    "require_parameters",
    "resolve",
    "tap_experts",
    "untap_experts",
]
