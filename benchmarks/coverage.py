"""How often intervals hold the truth, and how often chance alone is called a find, in simulated worlds. See README.md.

A world has examples of different difficulty, random masks of different harm, an interaction of the two, and a mask of
its own that does `effect` more. Outcomes are right or wrong. What is estimated is known in closed form.
"""

from __future__ import annotations

import common
import numpy as np
from scipy import stats
from tqdm import tqdm

from neuroscope.statistics import against_controls, score_interval

EXAMPLES = (24, 64, 128)
MASKS = (3, 5, 20)
SPREADS = (0.0, 0.1, 0.5)  # of the masks' harm, where examples' difficulty and the interaction have 1
EFFECTS = (0.0, 1.5)
LEVEL = 0.5  # of all masks


def world(rng: np.random.Generator, n: int, masks: int, spread: float, effect: float) -> tuple[np.ndarray, float]:
    """[mask, example] outcomes, the own mask last; and what it breaks beyond a further random mask, of all examples."""
    harm = rng.normal(0, spread, masks + 2)
    harm[-1] += effect
    able = LEVEL + rng.normal(size=n)[None] - harm[:, None] + rng.normal(size=(masks + 2, n))
    further, own = stats.norm.cdf((LEVEL - harm[-2:]) / np.sqrt(2))
    return np.delete(able > 0, -2, axis=0).astype(float), float(further - own)


def cell(n: int, masks: int, spread: float, effect: float, worlds: int) -> tuple[float, float, float]:
    """Share of intervals that hold the truth, share of p below 0.05, and p that p is uniform."""
    rng, held, p = np.random.default_rng([n, masks, int(10 * spread), int(10 * effect)]), 0, []
    for _ in range(worlds):
        outcomes, truth = world(rng, n, masks, spread, effect)
        test = against_controls(outcomes[-1], outcomes[:-1])
        held += test["low"] <= truth <= test["high"]
        p.append(test["p"])
    return held / worlds, float(np.mean(np.array(p) < 0.05)), float(stats.kstest(p[:300], "uniform").pvalue)


def of_scores(n: int, share: float, worlds: int) -> float:
    """How often the interval of a score holds it."""
    rng = np.random.default_rng([n, int(1000 * share)])
    held = 0
    for _ in range(worlds):
        low, high = score_interval((rng.random(n) < share).astype(float))
        held += low <= share <= high
    return held / worlds


def main() -> None:
    """Print both tables."""
    options = common.arguments((__doc__ or "").splitlines()[0])
    worlds = 300 if options.quick else 2000
    cells = [(n, m, s, e) for n in EXAMPLES for m in MASKS for s in SPREADS for e in EFFECTS]
    rows = []
    for n, masks, spread, effect in tqdm(cells, leave=False):
        held, found, uniform = cell(n, masks, spread, effect, worlds)
        rows.append([n, masks, spread, effect, f"{held:.1%}", f"{found:.1%}", "" if effect else f"{uniform:.2g}"])
    print(common.heading(f"a mask beside random masks, {worlds} worlds a row"))
    header = ["examples", "masks", "spread of masks", "effect", "interval holds", "p < 0.05", "p uniform, KS p"]
    print(common.table(header, rows))
    print(common.heading(f"the interval of a score, {worlds} worlds a row"))
    scores = [[n, p, f"{of_scores(n, p, worlds):.1%}"] for n in (16, 64, 256) for p in (0.5, 0.8, 0.95, 0.99)]
    print(common.table(["examples", "score", "interval holds"], scores))


if __name__ == "__main__":
    main()
