"""The one table of the papers' tables and figures: a row is all it takes to run one.

The command line, `reproduce`, its report, and the list of experiments read this table alone. To add one, write its
function, whose result says itself (`neuroscope.results`), and its row here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Paper = Literal["LX24", "ZZC24", "MIB", "HAFV26", "SIAM26"]
PAPERS: dict[Paper, str] = {
    "LX24": "Leng & Xiong 2025",
    "ZZC24": "Zhao, Ziser & Cohen 2024",
    "MIB": "Mueller et al. 2025",
    "HAFV26": "Han, Andreas, Fedorenko & de Varda 2026",
    "SIAM26": "Siam et al. 2026",
}


@dataclass(frozen=True)
class Experiment:
    """A table or figure of a paper, and what reproduces it.

    Attributes:
        id: what users call it.
        paper: where it is from.
        title: what it shows, in one line.
        function: "module:name", so that reading the table imports nothing. What it needs (tasks, masks, scores, a
            recipe ...) is what its signature names.
        keywords: of the function; those that the user gives come before them.
        part: the method of what the function returns that is this figure; "": what it returns.
        tasks: what to load where none are named: "mini" for what trains nothing new, "mini-sequence" for tasks that the
            bundled model does not know.
        fewest_seeds: how many trainings of each kind it takes.
        held_out: how many of the last tasks are only measured, where none are named.

    Example:
        >>> row = EXPERIMENTS["T2"]
        >>> row.citation, row.load().__name__, row.fewest_seeds
        ('Table 2 of Leng & Xiong 2025', 'train_only', 3)
    """

    id: str
    paper: Paper
    title: str
    function: str
    keywords: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""
    tasks: str = "mini-sequence"
    held_out: int = 0
    fewest_seeds: int = 1

    @property
    def citation(self) -> str:
        """The table or figure, or what else it is called there, and its paper."""
        kind = {"T": "Table ", "F": "Figure "}
        name = self.id.removeprefix("Z-").removeprefix("H-")
        return f"{kind.get(name[0], name[0])}{name[1:]} of {PAPERS[self.paper]}"

    def load(self) -> Callable[..., Any]:
        """The function, imported now."""
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(module), name)


HERE = "neuroscope.experiments"
MOSSA = f"{HERE}.layer_by_layer:mossa"
SHORT = {
    "recipe": {"steps": 20},
    "n": 128,
}  # of the whole model, once per task; examples whose representations are read

EXPERIMENTS: dict[str, Experiment] = {
    row.id: row
    for row in (
        Experiment(
            "T1", "LX24", "each task with random neurons off, and with its own off (also T6)",
            f"{HERE}.t1_deactivation:deactivation", tasks="mini",
        ),
        Experiment(
            "T2", "LX24", "each task with random neurons trained on it, and with its own trained (also T7)",
            f"{HERE}.t2_train_only:train_only", fewest_seeds=3,
        ),
        Experiment(
            "F2", "LX24", "specialization and generalization by the share of neurons trained, all tasks together",
            f"{HERE}.f2_proportion_sweep:proportion_sweep", held_out=1, fewest_seeds=3,
        ),
        Experiment(
            "F3", "LX24", "similarity of tasks' neurons by their parameters, layer by layer",
            f"{HERE}.f3_parameter_depth:parameter_depth",
        ),
        Experiment(
            "T4", "LX24", "whether similar neurons of two tasks predict what training on one does for the other",
            f"{HERE}.t4_parameter_transfer:parameter_transfer", fewest_seeds=3,
        ),
        Experiment(
            "F5", "LX24", "each task's neurons trained, every task measured (right half)",
            f"{HERE}.f5_cross_training:cross_training", fewest_seeds=3,
        ),
        Experiment(
            "F6", "LX24", "specialization and generalization by the share of neurons trained, each task alone",
            f"{HERE}.f2_proportion_sweep:proportion_sweep", {"joint": False}, held_out=1, fewest_seeds=3,
        ),
        Experiment(
            "T5", "LX24", "methods of continual learning, each at its best learning rate (also F4)",
            f"{HERE}.t5_continual_comparison:continual_comparison",
        ),
        Experiment(
            "T8", "LX24", "overlap of tasks' masks by their size",
            "neuroscope.masks:overlap_sweep", tasks="mini",
        ),
        Experiment(
            "T9", "LX24", "training with a preset overlap with the held-out task's neurons (also T10, T11)",
            f"{HERE}.t9_overlap_controlled:overlap_controlled", held_out=1, fewest_seeds=3,
        ),
        Experiment(
            "Z-F1", "ZZC24", "the layers cut where the curves of CKA change",
            MOSSA, SHORT, "segments", "mini", held_out=2,
        ),
        Experiment(
            "Z-F2", "ZZC24", "CKA with models tuned on one task, by layer",
            MOSSA, SHORT, "by_layer", "mini", held_out=2,
        ),
        Experiment(
            "Z-F3", "ZZC24", "CKA with models tuned on one task, by layer and cluster of tasks",
            MOSSA, SHORT, "by_cluster", "mini", held_out=2,
        ),
        Experiment(
            "Z-F4", "ZZC24", "maps of the tasks' representations, layer by layer",
            MOSSA, SHORT, "maps", "mini", held_out=2,
        ),
        Experiment(
            "Z-F5", "ZZC24", "dimensions of the representations, by layer",
            MOSSA, SHORT, "dimensions", "mini", held_out=2,
        ),
        Experiment(
            "Z-F7", "ZZC24", "CKA with models tuned on one task, for tasks held out",
            MOSSA, SHORT, "held_out", "mini", held_out=2,
        ),
        Experiment(
            "CPR", "MIB", "how much of each task a mask of each size carries, alone and when it is off (also CMD)",
            f"{HERE}.mask_sizes:faithfulness", tasks="mini",
        ),
        Experiment(
            "H-F2", "HAFV26", "whether tasks of one family share neurons, and need them more than other families do",
            f"{HERE}.h_f2_modularity:modularity", tasks="mini",
        ),
        Experiment(
            "PRUNING", "SIAM26", "neurons taken out by score, against it and at random, by share; and recovery",
            f"{HERE}.pruning_sweep:pruning", {"k": (0.2, 0.5), "recipe": {"steps": 40}}, tasks="mini",
        ),
    )
}  # fmt: skip
