"""Sets, counted by hand; chance by drawing."""

import numpy as np

import neuroscope as ns


def check(found, folder):
    a, b = (
        ns.attribute("mini", ns.load_tasks("mini")[name], examples=32).top(0.10) for name in ("nli-food", "nli-film")
    )
    sets = [{(address, int(i)) for address in mask for i in mask[address]} for mask in (a, b)]
    assert abs(found["jaccard"] - len(sets[0] & sets[1]) / len(sets[0] | sets[1])) < 1e-6
    rng, drawn = np.random.default_rng(0), []
    for _ in range(300):
        shared = sum(
            len(np.intersect1d(rng.choice(512, len(a[address]), False), rng.choice(512, len(b[address]), False)))
            for address in a
        )
        drawn.append(shared / (len(a) + len(b) - shared))
    assert abs(found["chance"] - np.mean(drawn)) < 0.005
