"""Learn tasks one after another by every method, each at its own best learning rate: the comparison of LX24's Table 5.

On real text: `python benchmarks/continual.py --data FOLDER --base MODEL --tasks dbpedia,amazon,agnews,sst2`, where
FOLDER has one folder of JSON lines per task. On the bundled model and its toy sequences: without --data.

The rate of every method is chosen from a grid on examples held out of the training set, never on test examples. What is
finished is kept in --out, and a run that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from random import Random

# threads that wait must not spin: on few cores they would take turns with whatever else runs
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import common
import torch
from tqdm import tqdm

from neuroscope.experiments.t5_continual_comparison import continual_comparison
from neuroscope.models import load
from neuroscope.tasks import Task, load_tasks
from neuroscope.training.continual_learning import METHODS, Continual

HELD_OUT = 0.1  # of the training examples of a task that has no discovery examples


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with a folder of JSON lines per task; else toy tasks")
    parser.add_argument("--base", default="mini", help="Hub id or folder of the model (default: the bundled one)")
    parser.add_argument("--tasks", default="mini-sequence", help="names, in the order of learning")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--steps", type=int, default=60, help="per stage")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--examples", type=int, default=1000, help="training examples per task, at most")
    parser.add_argument("--test", type=int, default=200, help="test examples per task, at most")
    parser.add_argument("--max-words", type=int, default=100, help="of a text that are read")
    parser.add_argument("--seeds", default="2,3,4", help="of the runs; 0 and 1 served to design the toy sequence")
    parser.add_argument("--lrs", default="3e-4,1e-3,3e-3,1e-2", help="the grid, the same for all methods")
    parser.add_argument("--k", type=float, default=0.10, help="share of the neurons that a task is given")
    parser.add_argument("--exclude", action="store_true", help="leave out the neurons of earlier tasks")
    parser.add_argument("--known", default="", help="bundled tasks that the model knows, to see what becomes of them")
    parser.add_argument("--protect", nargs="?", const=True, default=False, choices=[True, "random"],
                        help="leave out the neurons of the known tasks, or as many random ones")  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder for finished stages, and for the figures")
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


def table(result: Continual) -> str:
    """Every method's numbers, best first."""
    rows, kept = [], ["base kept"] if result.summary()["base kept"].notna().any() else []
    for row in result.summary().sort_values("average accuracy", ascending=False).to_dict("records"):
        grid = result.manifest["tuning"][row["method"]]
        cells = [f"{row[name]:.3f}" for name in ("retention", "backward transfer", "forgetting", "learning accuracy")]
        span = f"{row['average accuracy']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        if kept:
            cells.append(f"{row['base kept']:.3f}")
        cost = [f"{row['trained']:,.0f}", f"{row['seconds']:.0f}", f"{row['peak_mib']:.0f}"]
        rows.append([row["method"], f"{row['lr']:g}{' (edge)' if grid['edge'] else ''}", span, *cells, *cost])
    header = ["method", "rate", "average accuracy [95 %]", "retention", "backward transfer", "forgetting"]
    return common.table([*header, "learning accuracy", *kept, "trained", "s", "MiB"], rows)


def main() -> None:
    """Print the table and what it says."""
    options = arguments()
    torch.set_num_threads(options.threads)
    tasks = tasks_of(options)
    methods = options.methods.split(",")
    neurons = {"k": options.k, "exclude": options.exclude, "protect": options.protect}
    known = list(load_tasks(options.known).values()) if options.known else []
    result = continual_comparison(
        load(options.base),
        tasks,
        methods,
        seeds=[int(seed) for seed in options.seeds.split(",")],
        lrs=[float(lr) for lr in options.lrs.split(",")],
        options={m: neurons for m in methods if m in ("ncft", "w-ncft", "ncft-random")},
        recipe={"steps": options.steps, "batch_size": options.batch_size},
        n=options.test,
        known=known,
        output=options.out,
        progress=lambda iterable, desc: tqdm(iterable, desc=desc, leave=False),
    )
    names = ", ".join(task.name for task in tasks)
    print(common.heading(f"learning {names} in this order, {options.steps} steps of {options.batch_size} a task"))
    print(table(result))
    print("\n" + result.in_words())
    if options.out is not None:
        result.save(options.out / "result.json")
        figures = {"plane": result.plane_figure(), "retention": result.retention_figure()}
        figures |= {method: result.figure(method) for method in methods}
        for name, figure in figures.items():
            figure.write_html(options.out / f"{name}.html", include_plotlyjs="directory")


if __name__ == "__main__":
    main()
