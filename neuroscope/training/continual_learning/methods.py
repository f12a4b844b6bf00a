"""The table of methods: one row each, and one file that tells what the method does."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from neuroscope.training.continual_learning.cnl import cnl
from neuroscope.training.continual_learning.epi import epi
from neuroscope.training.continual_learning.ewc import ewc
from neuroscope.training.continual_learning.learner import Learner
from neuroscope.training.continual_learning.ncft import ffn, ncft, ncft_random
from neuroscope.training.continual_learning.o_lora import o_lora
from neuroscope.training.continual_learning.osf import osf
from neuroscope.training.continual_learning.per_task import per_task
from neuroscope.training.continual_learning.replay import replay, replay_lora
from neuroscope.training.continual_learning.seq_lora import seq_lora
from neuroscope.training.continual_learning.seqft import joint, seqft
from neuroscope.training.continual_learning.w_ncft import w_ncft


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        start: called with a `Setting` and the method's own options (keyword only).
        lr: the learning rate where none is given.
        at_once: it has one stage, the last, in which it sees all tasks.
        sees: what it is told or keeps that others do not: which task is asked, or examples of earlier tasks; "" for
            nothing.
    """

    start: Callable[..., Learner]
    lr: float
    at_once: bool = False
    sees: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """The method's own keyword arguments with their defaults."""
        after_setting = list(inspect.signature(self.start).parameters.values())[1:]
        return {parameter.name: parameter.default for parameter in after_setting}


ASKED = "the task that is asked"
REPLAY = "examples of earlier tasks"

METHODS: dict[str, Method] = {
    "ncft": Method(ncft, 3e-3),
    "w-ncft": Method(w_ncft, 3e-3, sees=ASKED),
    "ncft-random": Method(ncft_random, 3e-3),
    "ffn": Method(ffn, 1e-3),
    "seqft": Method(seqft, 3e-4),
    "seq-lora": Method(seq_lora, 1e-3),
    "o-lora": Method(o_lora, 1e-3),
    "epi": Method(epi, 1e-3),
    "ewc": Method(ewc, 3e-4),
    "replay": Method(replay, 3e-4, sees=REPLAY),
    "replay-lora": Method(replay_lora, 1e-3, sees=REPLAY),
    "cnl": Method(cnl, 1e-3, sees=REPLAY),
    "osf": Method(osf, 3e-4),
    "per-task": Method(per_task, 3e-4, sees=ASKED),
    "joint": Method(joint, 3e-4, at_once=True, sees="all tasks at once"),
}
