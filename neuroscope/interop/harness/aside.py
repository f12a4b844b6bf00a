"""The harness, and none of its traces: it logs, prints, shows bars and seeds the global generators."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import random
from collections.abc import Iterator

import numpy as np
import torch

from neuroscope.errors import NeuroscopeError

PYTHON, OTHERS = 0, 1234  # seeds of lm_eval.simple_evaluate


def require(asked: str) -> None:
    """Refuse to go on without lm_eval.

    Raises:
        NeuroscopeError: it is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        found = "lm-evaluation-harness, the package lm_eval, is not installed"
        raise NeuroscopeError(asked, found, "pip install 'neuroscope[lm-eval]'")


class _Ears(logging.Handler):
    """Keeps what is warned of, each text once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        if text not in self.heard:
            self.heard.append(text)


@contextlib.contextmanager
def aside() -> Iterator[list[str]]:
    """A scope for the harness: silent, and with generators as its own command sets them; all of it is restored.

    Yields:
        What it warns of.
    """
    logger, ears = logging.getLogger("lm_eval"), _Ears()
    before = logger.level, logger.propagate, logger.handlers
    generators = random.getstate(), np.random.get_state()  # noqa: NPY002
    logger.setLevel(logging.WARNING)
    logger.propagate, logger.handlers = False, [ears]
    try:
        quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
        with torch.random.fork_rng(), quiet[0], quiet[1]:
            random.setstate(random.Random(PYTHON).getstate())
            np.random.set_state(np.random.RandomState(OTHERS).get_state())  # noqa: NPY002
            torch.random.manual_seed(OTHERS)
            yield ears.heard
    finally:
        logger.setLevel(before[0])
        _, logger.propagate, logger.handlers = before
        random.setstate(generators[0])
        np.random.set_state(generators[1])  # noqa: NPY002
