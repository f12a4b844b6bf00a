"""The formula as it is written."""

import numpy as np


def setup(folder):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6))
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", x @ rng.normal(size=(6, 4)) + rng.normal(size=(40, 4)))


def check(found, folder):
    x, y = (np.load(folder / name) for name in ("x.npy", "y.npy"))
    x, y = x - x.mean(0), y - y.mean(0)
    expected = np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert abs(found["value"] - expected) < 1e-6
