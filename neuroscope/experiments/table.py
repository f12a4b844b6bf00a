"""The one table of the papers' tables and figures: what reproduces each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from neuroscope.experiments.f2_proportion_sweep import proportion_sweep
from neuroscope.experiments.f3_parameter_depth import parameter_depth
from neuroscope.experiments.f5_cross_training import cross_training
from neuroscope.experiments.layer_by_layer import layer_by_layer
from neuroscope.experiments.t1_deactivation import deactivation
from neuroscope.experiments.t2_train_only import train_only
from neuroscope.experiments.t4_parameter_transfer import parameter_transfer
from neuroscope.experiments.t5_continual_comparison import continual_comparison
from neuroscope.experiments.t9_overlap_controlled import overlap_controlled
from neuroscope.masks import overlap_sweep

# id in Leng & Xiong 2025 (LX24), or Z- and the figure in Zhao, Ziser & Cohen 2024 (ZZC24): what reproduces it, and that
# in one line
EXPERIMENTS: dict[str, tuple[Callable[..., Any], str]] = {
    "T1": (deactivation, "each task with random neurons off, and with its own off (also T6)"),
    "T2": (train_only, "each task with random neurons trained on it, and with its own trained (also T7)"),
    "F2": (proportion_sweep, "specialization and generalization by the share of neurons trained, all tasks together"),
    "F5": (cross_training, "each task's neurons trained, every task measured (right half)"),
    "F6": (
        partial(proportion_sweep, joint=False),
        "specialization and generalization by the share of neurons trained, each task alone",
    ),
    "T5": (continual_comparison, "methods of continual learning, each at its best learning rate (also F4)"),
    "T8": (overlap_sweep, "overlap of tasks' masks by their size"),
    "T9": (overlap_controlled, "training with a preset overlap with the test task's neurons (also T10, T11)"),
    "F3": (parameter_depth, "similarity of tasks' neurons by their parameters, layer by layer"),
    "T4": (parameter_transfer, "whether similar neurons of two tasks predict what training on one does for the other"),
    "Z-F1": (partial(layer_by_layer, which="Z-F1"), "the layers cut where the curves of CKA change"),
    "Z-F2": (partial(layer_by_layer, which="Z-F2"), "CKA with models tuned on one task, by layer"),
    "Z-F3": (partial(layer_by_layer, which="Z-F3"), "CKA with models tuned on one task, by layer and cluster of tasks"),
    "Z-F4": (partial(layer_by_layer, which="Z-F4"), "maps of the tasks' representations, layer by layer"),
    "Z-F5": (partial(layer_by_layer, which="Z-F5"), "dimensions of the representations, by layer"),
    "Z-F7": (partial(layer_by_layer, which="Z-F7"), "CKA with models tuned on one task, for tasks held out"),
}
