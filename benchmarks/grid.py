"""What a cross-ablation costs, in one process and in several, against (cells x floor). See README.md.

On a real model: `python benchmarks/grid.py --base FOLDER --data FOLDER --tasks sst2,amazon,agnews,dbpedia,rte,mnli`,
where the second FOLDER has a folder of JSON lines per task. Without these: the bundled model and its tasks. The masks
are 10 % of the neurons at random, which cost what any others cost.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import common
import evaluation
import torch
from torch import distributed

from neuroscope.experiments import cross_ablation
from neuroscope.masks import NeuronMask
from neuroscope.models import Model, load
from neuroscope.tasks import Task

SHARE = 0.1
ROUNDS = 3  # of the floor, half of them before the grid and half after it


def arguments() -> argparse.Namespace:
    """The command line; the thread count is set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with a folder of JSON lines per task; else the bundled tasks")
    parser.add_argument("--base", default="mini", help="Hub id or folder of the model (default: the bundled one)")
    parser.add_argument("--tasks", default="nli-food,sentiment-food")
    parser.add_argument("-n", type=int, default=64, help="test examples a cell")
    parser.add_argument("--n-random", type=int, default=5, help="random masks of each task (three or more)")
    parser.add_argument("--processes", type=int, default=2, help="also in so many, with as many threads each")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of a process (default 1)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def grid(options: argparse.Namespace, model: Model, tasks: dict[str, Task]) -> float:
    """Seconds of the whole call, from texts to a table."""
    widths = {address: site.width for address, site in model.sites("hidden").items()}
    some = NeuronMask.of({a: range(round(SHARE * w)) for a, w in widths.items()}, widths)
    masks = {name: some.random_like(seed=100 + i) for i, name in enumerate(tasks)}
    start = time.perf_counter()
    cross_ablation(model, tasks, masks, n=options.n, n_random=options.n_random)
    return time.perf_counter() - start


def in_processes(options: argparse.Namespace) -> float:
    """Seconds of the same in several processes, without their start."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", options.processes]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    command = [str(part) for part in [*launch, *sys.argv, "--child"]]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    return float(out.split("seconds")[-1])


def main() -> None:
    """Print a table."""
    options = arguments()
    model, tasks = load(options.base), evaluation.tasks_named(options)
    if options.child:
        distributed.init_process_group("gloo")
        distributed.barrier()
        seconds = grid(options, model, tasks)
        if distributed.get_rank() == 0:
            print("seconds", seconds)
        distributed.destroy_process_group()
        return
    floors = {name: evaluation.Floor(model, task, options.n) for name, task in tasks.items()}
    before = [common.in_turns(floors, 1) for _ in range(ROUNDS // 2 + 1)]
    whole = grid(options, model, tasks)
    rounds = [*before, *(common.in_turns(floors, 1) for _ in range(ROUNDS // 2))]
    cells = 1 + len(tasks) * (1 + options.n_random)  # of each target: nothing off, and every source's masks
    floor = cells * sum(statistics.median(times[name][0] for times in rounds) for name in floors)
    spread = [cells * sum(times[name][0] for name in floors) for times in rounds]
    rows = [["floor", f"{floor:.1f} ({min(spread):.1f} to {max(spread):.1f})", ""]]
    rows.append(["one process", f"{whole:.1f}", f"{whole / floor:.2f}"])
    if options.processes > 1:
        several = in_processes(options)
        rows.append([f"{options.processes} processes", f"{several:.1f}", f"{several / floor:.2f}"])
    size = f"{len(tasks)} x {len(tasks)}, {options.n_random} random masks each, {options.n} examples a cell"
    print(common.heading(f"cross-ablation {size}: {cells * len(tasks)} evaluations, {Path(options.base).name}"))
    print(common.table(["", "s", "time / (cells x floor)"], rows))


if __name__ == "__main__":
    main()
