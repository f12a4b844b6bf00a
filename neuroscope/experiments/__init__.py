"""The papers' tables and figures: one function each, out of the floors below."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from neuroscope.evidence import deactivation
from neuroscope.experiments.continual_learning import continual_learning
from neuroscope.experiments.cross_training import CrossTraining, cross_training
from neuroscope.experiments.overlap_controlled import OverlapControlled, overlap_controlled
from neuroscope.experiments.proportion_sweep import ProportionSweep, proportion_sweep
from neuroscope.experiments.train_only import TrainOnly, train_only
from neuroscope.overlap import overlap_sweep

__all__ = [
    "EXPERIMENTS",
    "CrossTraining",
    "OverlapControlled",
    "ProportionSweep",
    "TrainOnly",
    "continual_learning",
    "cross_training",
    "overlap_controlled",
    "proportion_sweep",
    "train_only",
]

# id in Leng & Xiong 2025 (LX24): what reproduces it, in one line
EXPERIMENTS: dict[str, tuple[Callable[..., Any], str]] = {
    "T1": (deactivation, "each task with random neurons off, and with its own off (also T6)"),
    "T2": (train_only, "each task with random neurons trained on it, and with its own trained (also T7)"),
    "F2": (proportion_sweep, "specialization and generalization by the share of neurons trained, all tasks together"),
    "F5": (cross_training, "each task's neurons trained, every task measured (right half)"),
    "F6": (
        partial(proportion_sweep, joint=False),
        "specialization and generalization by the share of neurons trained, each task alone",
    ),
    "T5": (continual_learning, "methods of continual learning, each at its best learning rate (also F4)"),
    "T8": (overlap_sweep, "overlap of tasks' masks by their size"),
    "T9": (overlap_controlled, "training with a preset overlap with the test task's neurons (also T10, T11)"),
}
