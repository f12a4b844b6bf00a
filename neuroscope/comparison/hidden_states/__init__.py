"""The residual stream of tasks' prompts at every layer."""

from neuroscope.comparison.hidden_states.by_task import Representations
from neuroscope.comparison.hidden_states.recording import representations

__all__ = ["Representations", "representations"]
