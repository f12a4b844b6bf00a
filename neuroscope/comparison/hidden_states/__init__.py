"""The residual stream of tasks' prompts at every layer."""

from neuroscope.comparison.hidden_states.recording import Representations, representations

__all__ = ["Representations", "representations"]
