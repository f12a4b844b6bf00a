"""The residual stream: equal to Hugging Face's own on every backend, for any batch, and streamed without loss."""

import numpy as np

from neuroscope.comparison.hidden_states import Representations


def test_get_is_that_of_a_mapping():
    found = Representations({"mood": np.zeros((3, 2, 4))})
    assert found.get("mod") is None and found.get("mod", 5) == 5
    assert found.get("mood") is found["mood"]
