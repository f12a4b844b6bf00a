"""Do scores rank neurons as exact ablation does? Spearman over all 2048 neurons of the bundled model, per task.

python benchmarks/faithfulness.py [--examples 16] [--objective log-odds]
"""

import argparse
import functools
import sys

import torch
from common import heading, table
from scipy.stats import spearmanr
from tqdm import tqdm

import neuroscope as ns

METHODS = ("grad-x-act", "relp", "weight-x-grad", "activation", "random")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=16)
    parser.add_argument("--objective", default="log-odds", choices=["log-odds", "loss"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tasks = ns.load("mini"), ns.load_tasks("mini")
    score = functools.partial(ns.attribute, model, objective=options.objective, examples=options.examples)
    rows = []
    for name, task in tqdm(tasks.items(), file=sys.stderr):
        truth = score(task, method="exact").vector()
        ranks = [spearmanr(truth, score(task, method=method).vector()).statistic for method in METHODS]
        rows.append([name, *(f"{r:.3f}" for r in ranks)])
    print(heading(f"Spearman with exact ablation, {options.objective}, {options.examples} examples, all neurons"))
    print(table(["task", *METHODS], rows))


if __name__ == "__main__":
    main()
