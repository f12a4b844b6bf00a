"""For benchmarks/continual.py: every method's learning rate, from a grid that grows while the best is at its edge."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from neuroscope import files
from neuroscope.errors import NumericalError
from neuroscope.training.continual_learning import METHODS

STEP = 10**0.5  # between rates
LONGER = 4  # rates that are added at either end, at most


class Rates:
    """Rates that were tried, with their scores on held-out examples, and the best of each method.

    Args:
        lab: what learns a method at a rate, with the same changes for some.
        path: where they are kept; None: nowhere.
    """

    def __init__(self, lab: Any, path: Path | None) -> None:
        self.lab, self.path = lab, path
        self.tried: dict[str, dict[float, float]] = {}
        if path is not None and path.exists():
            kept = files.read_json(path, "the learning rates")
            self.tried = {name: {float(lr): score for lr, score in grid.items()} for name, grid in kept.items()}

    def known(self, name: str) -> bool:
        """Whether the best rate of a method is found."""
        return self._next(name) is None

    def best(self, name: str) -> float:
        """The best rate; what is missing of its grid is tried first."""
        name = self.lab.trained_as(name)
        while (lr := self._next(name)) is not None:
            self.tried.setdefault(name, {})[lr] = self._score(name, lr)
            if self.path is not None:
                files.write(self.path, json.dumps(self.tried, indent=1))
        return _best(self.tried[name])

    def at_edge(self, name: str) -> bool:
        """Whether the best rate is the lowest or highest that was tried, so that a better one may lie outside."""
        grid = self.tried[self.lab.trained_as(name)]
        return len(grid) > 1 and _best(grid) in (min(grid), max(grid))

    def _score(self, name: str, lr: float) -> float:
        try:
            return float(self.lab.learn(name, lr, tuning=True).metrics()["average accuracy"].iloc[0])
        except NumericalError:  # it diverged: worse than all
            return -1.0

    def _next(self, name: str) -> float | None:
        """The rate to try next; None where the best one has worse ones on both sides."""
        name = self.lab.trained_as(name)
        grid, tried = self.lab.grid(name), self.tried.get(name, {})
        for lr in grid:
            if lr not in tried:
                return lr
        best, lowest, highest = _best(tried), min(tried), max(tried)
        if len(grid) == 1 or lowest < best < highest:
            return None
        outward = _round(best / STEP if best == lowest else best * STEP)
        return outward if abs(math.log(outward / grid[0])) <= (LONGER + 1.5) * math.log(STEP) else None


def usual_grid(method: str) -> list[float]:
    """A method's own rate, and one a half power of ten above; which others are tried depends on these."""
    usual = METHODS[method].lr
    return [_round(lr) for lr in (usual, usual * STEP)]


def _round(lr: float) -> float:
    return float(f"{lr:.2g}")


def _best(scores: dict[float, float]) -> float:
    """The rate of the highest score; the lowest of equal ones."""
    return max(sorted(scores), key=lambda lr: scores[lr])
