"""Open any model, and find where its neurons are."""

from neuroscope.models.experts import tap_experts, untap_experts
from neuroscope.models.model import UNITS, Model, identity_of
from neuroscope.models.opening import bundled, load, require_parameters, resolve
from neuroscope.models.sites import Unit

__all__ = [
    "UNITS",
    "Model",
    "Unit",
    "bundled",
    "identity_of",
    "load",
    "require_parameters",
    "resolve",
    "tap_experts",
    "untap_experts",
]
