"""Do the numbers stay as they are? Tables of every experiment, small and on the bundled model, made and compared.

    python tests/regression.py make FOLDER [ID ...]     # "run" and the experiments' ids; all of them if none is named
    python tests/regression.py compare BEFORE AFTER     # every difference between two such folders; none is silence

Make one folder before a change and one after it, on one machine: the tables are the same to the last bit, unless the
change means to change them. `test_regression.py` makes some of them and compares with those in `kept_numbers/`.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from neuroscope.__main__ import main
from neuroscope.experiments.table import EXPERIMENTS

TASKS = "sentiment-food,sentiment-film,nli-food,nli-film,question-food"
SMALL = ["--examples", "32", "--n", "24"]
SETTINGS = {
    "run": ["--tasks", TASKS, *SMALL, "--n-random", "3"],
    "T1": ["--tasks", TASKS, *SMALL, "--n-random", "3"],
    "CPR": ["--tasks", TASKS, *SMALL, "--n-random", "3"],
    "T8": ["--tasks", TASKS, *SMALL],
    "T5": [*SMALL, "--seeds", "2", "--steps", "4", "--lr", "1e-3"],
    "Z": ["--tasks", TASKS, "--n", "24", "--steps", "4"],  # every figure of ZZC24
}
TRAINING = [*SMALL, "--seeds", "3", "--steps", "4"]  # every other experiment


def make(folder, ids=()):
    """The tables of each id, as CSV files in `folder`/`id`."""
    for name in ids or ["run", *EXPERIMENTS]:
        settings = SETTINGS.get("Z" if name.startswith("Z-") else name, TRAINING)
        command = ["run"] if name == "run" else ["reproduce", name]
        assert main([*command, *settings, "--output", str(Path(folder, name))]) == 0, name


def tables(folder):
    """(id, file name) -> table, of every CSV file that `make` wrote."""
    found = sorted(Path(folder).glob("*/tables/*.csv")) + sorted(Path(folder).glob("*/*.csv"))
    return {(path.relative_to(folder).parts[0], path.name): pd.read_csv(path) for path in found}


def differences(before, after, tolerance=0.0):
    """What differs between two tables, in words: columns, rows, or the largest change of a number."""
    if list(before.columns) != list(after.columns):
        changed = set(before.columns) ^ set(after.columns)
        return [f"columns {sorted(changed) or 'in another order'}"]
    if len(before) != len(after):
        return [f"{len(before)} rows, then {len(after)}"]
    found = []
    for name in before.columns:
        a, b = before[name], after[name]
        if a.dtype.kind in "biuf" and b.dtype.kind in "biuf":
            gap = np.abs(a.to_numpy(dtype=float) - b.to_numpy(dtype=float))
            if (a.isna() != b.isna()).any() or np.nanmax(gap, initial=0.0) > tolerance:
                found.append(f"{name}: up to {np.nanmax(gap, initial=0.0):.3g}, {(gap > tolerance).sum()} values")
        elif not a.equals(b):
            found.append(f"{name}: {(a != b).sum()} texts")
    return found


def compare(before, after, tolerance=0.0):
    """Every difference between two folders, a line each."""
    first, second = tables(before), tables(after)
    lines = [f"{'/'.join(key)}: only in one of the two" for key in sorted(set(first) ^ set(second))]
    for key in sorted(set(first) & set(second)):
        lines += [f"{'/'.join(key)}: {line}" for line in differences(first[key], second[key], tolerance)]
    return lines


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "make":
        make(rest[0], rest[1:])
    else:
        print("\n".join(compare(*rest)))  # noqa: T201
