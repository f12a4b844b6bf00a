"""Learn tasks one after another by every method, each at its own best learning rate: the comparison of LX24's Table 5.

On real text: `python benchmarks/continual.py --data FOLDER --base MODEL --tasks dbpedia,amazon,agnews,sst2 --out OUT`,
where FOLDER has one folder of JSON lines per task. On the bundled model and its toy sequences: without --data.

1. An estimate is printed, from a few steps and prompts measured here (`--estimate`: nothing else is done).
2. The rate of every method is chosen on examples held out of the training set, with a seed of its own, on the first
   `--tune-tasks` tasks of the first order. Where the best rate is at an edge of the grid, the grid is made longer.
3. At that rate it learns every order with every seed, and is measured on test examples: after a stage on the tasks so
   far, before the first one on all.
4. Finished stages are kept in --out as small files; a run that was stopped goes on after its last stage, and a method
   that is added later is run alone. `--write FILE` puts what there is into FILE.

W-NCFT trains what NCFT trains, and answers otherwise: it takes NCFT's changes and its rate where these are there.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

# threads that wait must not spin: on few cores they would take turns with whatever else runs
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import continual_words
import torch
from continual_rates import Rates, usual_grid
from tqdm import tqdm

from neuroscope import files
from neuroscope.models import Model, load
from neuroscope.tasks import Task, load_tasks
from neuroscope.training.continual_learning import METHODS, Continual, continual
from neuroscope.training.continual_learning.learner import Learner, Log, Setting

HELD_OUT = 0.1  # of the training examples of a task that has no discovery examples
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {  # beside the methods themselves: method and options
    "ncft-exclude": ("ncft", {"exclude": True}),
    "w-ncft-exclude": ("w-ncft", {"exclude": True}),
    "ncft-random-exclude": ("ncft-random", {"exclude": True}),
    "ncft-base": ("ncft", {"scored_in": "base"}),
    "ncft-score": ("ncft", {"exclude": "score"}),
    "ncft-half": ("ncft", {"k": 0.5}),
    "ncft-third-exclude": ("ncft", {"k": 0.25, "exclude": True}),
}
SAME_CHANGES = {"w-ncft": "ncft", "w-ncft-exclude": "ncft-exclude"}  # trained alike, answered otherwise
USUAL = "seqft,ncft,ncft-exclude,seq-lora,o-lora,w-ncft,ncft-random,ffn,per-task,joint,replay,ewc,epi"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with a folder of JSON lines per task; else toy tasks")
    parser.add_argument("--base", default="mini", help="Hub id or folder of the model (default: the bundled one)")
    parser.add_argument("--dtype", default="float32", help="that the base is opened in")
    parser.add_argument("--tasks", default="mini-sequence", help="names, in the order of learning")
    parser.add_argument("--methods", default=USUAL, help=f"of {', '.join([*METHODS, *VARIANTS])}")
    parser.add_argument("--orders", type=int, default=1, help="the given order, its reverse, then shuffled ones")
    parser.add_argument("--steps", type=int, default=60, help="per stage")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--examples", type=int, default=1000, help="training examples per task, at most")
    parser.add_argument("--discover", type=int, default=64, help="discovery examples that neurons are found on")
    parser.add_argument("--test", type=int, default=200, help="test examples per task, at most")
    parser.add_argument("--max-words", type=int, default=100, help="of a text that are read")
    parser.add_argument("--seeds", default="2,3,4", help="of the runs; 0 and 1 served to design the toy sequence")
    parser.add_argument("--tune-tasks", type=int, help="how many tasks of the first order rates are chosen on (all)")
    parser.add_argument("--lrs", help="one grid for all methods (default: each method's own rate, and around it)")
    parser.add_argument("--k", type=float, default=0.10, help="share of the neurons that a task is given")
    parser.add_argument("--exclude", action="store_true", help="leave out the neurons of earlier tasks")
    parser.add_argument("--known", default="", help="bundled tasks that the model knows, to see what becomes of them")
    parser.add_argument("--protect", nargs="?", const=True, default=False, choices=[True, "random"],
                        help="leave out the neurons of the known tasks, or as many random ones")  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder for finished stages, and for the figures")
    parser.add_argument("--estimate", action="store_true", help="say how long it would take, and stop")
    parser.add_argument("--write", type=Path, help="a file to put the section into, from what is finished in --out")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def held_out(task: Task) -> Task:
    """The task with a part of its training examples as discovery examples, where it has none."""
    if task.discovery:
        return task
    examples = Random(0).sample(list(task.train), len(task.train))
    cut = max(1, round(HELD_OUT * len(examples)))
    return replace(task, discovery=examples[:cut], train=examples[cut:])


def tasks_of(options: argparse.Namespace) -> list[Task]:
    """Those asked for, in order."""
    if options.data is None:
        found = list(load_tasks(options.tasks).values())
    else:
        size = {"train": options.examples, "test": options.test, "max_words": options.max_words}
        found = [Task.from_jsonl(options.data / name, **size) for name in options.tasks.split(",")]
    return [held_out(task) for task in found]


def orders_of(names: list[str], n: int) -> list[list[str]]:
    """The order given, its reverse, then shuffled ones, each once."""
    orders, draw = [names, names[::-1]], Random(0)
    while len(orders) < n:
        order = draw.sample(names, len(names))
        orders += [order] if order not in orders else []
    return orders[:n]


class Lab:
    """One base, its tasks, and how they are learnt and measured."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, options.out
        self.model: Model = load(options.base, dtype=getattr(torch, options.dtype))
        self.tasks = tasks_of(options)
        self.known = list(load_tasks(options.known).values()) if options.known else []
        self.orders = orders_of([task.name for task in self.tasks], options.orders)
        self.seeds = [int(seed) for seed in options.seeds.split(",")]
        self.methods = options.methods.split(",")
        if unknown := [name for name in self.methods if name not in [*METHODS, *VARIANTS]]:
            raise SystemExit(f"continual.py: no method {unknown[0]}; there are {', '.join([*METHODS, *VARIANTS])}")
        if (options.tune_tasks or len(self.tasks)) < 2:
            raise SystemExit("continual.py: rates are chosen on a sequence: give --tune-tasks 2 or more")
        self.recipe = {"steps": options.steps, "batch_size": options.batch_size}

    def chosen(self, name: str) -> tuple[str, dict[str, Any]]:
        """Method and options of a variant."""
        method, more = VARIANTS.get(name, (name, {}))
        given = {"examples": self.options.discover, "k": self.options.k}
        given |= {"exclude": self.options.exclude, "protect": self.options.protect}
        return method, {key: v for key, v in given.items() if key in METHODS[method].options} | more

    def trained_as(self, name: str) -> str:
        """The method whose changes a method takes, where both are asked for; else itself."""
        other = SAME_CHANGES.get(name, name)
        return other if other in self.methods and self.methods.index(other) < self.methods.index(name) else name

    def grid(self, name: str) -> list[float]:
        """Learning rates to begin with."""
        if self.options.lrs:
            return [float(lr) for lr in self.options.lrs.split(",")]
        return usual_grid(self.chosen(name)[0])

    def finished(self, name: str) -> int:
        """How many runs of a method are finished, at whatever rate."""
        if self.out is None:
            return 0
        last = f"stage-{len(self.tasks)}.json"
        return len(list((self.out / "runs" / name).glob(f"*/*/{last}")))

    def learn(self, name: str, lr: float, tuning: bool) -> Continual:
        """One method at one rate: on all orders and seeds, or as far as rates are chosen on."""
        method, given = self.chosen(name)
        place = None if self.out is None else self.out / ("tuning" if tuning else "runs") / name / f"lr-{lr:g}"
        names = self.orders[0][: self.options.tune_tasks]
        how: dict[str, Any] = {"orders": self.orders, "seeds": self.seeds, "known": self.known, "ahead": False}
        if tuning:
            how |= {"orders": [names], "seeds": (1000,), "split": "discovery"}
        tasks = [task for task in self.tasks if not tuning or task.name in names]
        row = METHODS[method]
        if self.out is not None and not tuning and name in [*SAME_CHANGES, *SAME_CHANGES.values()]:
            shared = taking if name in SAME_CHANGES else keeping
            METHODS[method] = replace(row, start=shared(row.start, self.out / "changes" / self.trained_as(name)))
        try:
            watching = f"{name} {lr:g}"
            return continual(
                self.model, tasks, method, recipe=self.recipe | {"lr": lr}, n=self.options.test, output=place,
                progress=lambda iterable, desc: tqdm(iterable, desc=f"{watching} {desc}", mininterval=30, leave=False),
                **how, **given,
            )  # fmt: skip
        finally:
            METHODS[method] = row
            if place is not None:  # of finished runs the records alone are wanted
                for folder in place.glob("*"):
                    if (folder / f"stage-{len(tasks)}.json").exists():
                        for weights in folder.glob("*.safetensors"):
                            weights.unlink()


def keeping(start: Callable[..., Learner], folder: Path) -> Callable[..., Learner]:
    """A method whose changes are kept for another one, by seed and tasks so far."""

    @functools.wraps(start)
    def started(setting: Setting, **options: Any) -> Learner:
        learner = start(setting, **options)

        def learn(stage: int) -> Log:
            log = learner.learn(stage)
            learner.parts[stage].save(_change(folder, setting, stage))
            return log

        return replace(learner, learn=learn)

    return started


def taking(start: Callable[..., Learner], folder: Path) -> Callable[..., Learner]:
    """A method that takes another one's changes where they are kept, at the same rate."""

    @functools.wraps(start)
    def started(setting: Setting, **options: Any) -> Learner:
        learner = start(setting, **options)

        def learn(stage: int) -> Log:
            path = _change(folder, setting, stage)
            if not path.exists():
                return learner.learn(stage)
            assert learner.load is not None
            learner.load(path)
            return {"trained": learner.parts[-1].n_parameters, "taken": True}

        return replace(learner, learn=learn)

    return started


def _change(folder: Path, setting: Setting, stage: int) -> Path:
    so_far = [task.data_hash for task in setting.tasks[: stage + 1]]
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{files.digest(so_far, setting.seed, setting.recipe.settings())}.safetensors"


def main() -> None:
    """Print an estimate, the table and what it says."""
    options = arguments()
    torch.set_num_threads(options.threads)
    lab = Lab(options)
    if options.out is not None:
        names = ("tasks", "steps", "batch_size", "examples", "discover", "test", "max_words", "k", "exclude", "protect",
                 "tune_tasks", "dtype", "known")  # fmt: skip
        settings = {"base": Path(options.base).name} | {name: getattr(options, name) for name in names}
        files.keep_settings(options.out / "settings.json", settings, f"measure into {options.out}")
    rates = Rates(lab, None if options.out is None else options.out / "rates.json")
    if not options.write:
        print(continual_words.estimate(lab, rates), flush=True)
    if options.estimate:
        return
    results, parts = [], {}
    for name in lab.methods:
        if options.write and lab.finished(name) < len(lab.orders) * len(lab.seeds):
            continue
        lr = rates.best(name)
        parts[name] = lab.learn(name, lr, tuning=False)
        results.append(parts[name])
        row = parts[name].summary().iloc[0]
        print(f"{name} at {lr:g}: {row['average accuracy']:.3f} [{row['low']:.3f}, {row['high']:.3f}]", flush=True)
    found = continual_words.Found(Continual.join(results), parts, rates, lab)
    command = " ".join(["python benchmarks/continual.py", *continual_words.shown(sys.argv[1:])])
    text = found.section(command)
    print(text)
    if options.out is not None:
        files.write(options.out / "section.md", text)
        found.pictures(options.out)
    if options.write:
        continual_words.put(text, options.write)


if __name__ == "__main__":
    main()
