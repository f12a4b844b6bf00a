"""Both papers' tables and figures on a real model and real text, each by its name, resumable. See README.md.

`python benchmarks/real.py --base FOLDER --data FOLDER --out FOLDER [IDS]`: FOLDER of the base is a Hub id, a folder or a
GGUF file; that of the data has a folder of JSON lines per task. Without IDS: T1, which is all that `make real` does.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

# threads that wait must not spin: on few cores they would take turns with whatever else runs
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import common  # noqa: F401 (puts the checkout on the path)
import torch
from tqdm import tqdm

from neuroscope.models import Model, load
from neuroscope.tasks import Task
from neuroscope.training import Recipe, finetune

WORDS = 40  # of a text that are read; premises and hypotheses are not cut: pairs longer than TOKENS are left out
TOKENS = 96
PAIRS = ("rte", "mnli")
TRAIN = {"amazon": 400, "mnli": 900, "rte": 400}  # examples learnt, where not 250: the harder tasks get more
DISCOVERY = 64  # examples on which neurons are found: none of them is learnt
TUNE: dict[str, Any] = {"steps": 360, "batch_size": 8, "lr": 1e-4}


def task_of(folder: Path) -> Task:
    """One task of the data, with discovery examples held out of its training examples."""
    learnt = TRAIN.get(folder.name, 250)
    how: dict[str, Any] = {"max_words": WORDS}
    if folder.name in PAIRS:
        how = {"max_tokens": TOKENS, "too_long": "skip"}
    task = Task.from_jsonl(folder, train=learnt + DISCOVERY, **how)
    return replace(task, train=task.train[:learnt], discovery=task.train[learnt:])


def tuned(base: Model, tasks: Mapping[str, Task], out: Path, recipe: Recipe) -> Model:
    """The base tuned on all tasks together, from the folder where an earlier run left it."""
    folder = out / "tuned"
    if not folder.exists():
        progress = partial(tqdm, mininterval=30)
        finetune(base, tasks, None, output=out / "tuning", resume_from_checkpoint=True, progress=progress, **vars(recipe))
        base.save_pretrained(folder)
    return load(folder)
