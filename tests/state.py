"""What nothing may leave behind on a model or in the global random generators."""

import contextlib
import random

import numpy as np
import torch

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def snapshot(root):
    """Hooks, weights, buffers, gradients, modes, `requires_grad`, and the state of every global generator."""
    modules, parameters = dict(root.named_modules()), dict(root.named_parameters())
    return {
        "modules": {name: id(m) for name, m in modules.items()},
        "hooks": {(name, kind): tuple(getattr(m, kind)) for name, m in modules.items() for kind in HOOKS},
        "modes": {name: m.training for name, m in modules.items()},
        "weights": {name: p.detach().clone() for name, p in [*parameters.items(), *root.named_buffers()]},
        "gradients": {name: None if p.grad is None else p.grad.clone() for name, p in parameters.items()},
        "requires_grad": {name: p.requires_grad for name, p in parameters.items()},
        "autograd": torch.is_grad_enabled(),
        "python": random.getstate(),
        "numpy": [np.asarray(part) for part in np.random.get_state()],
        "torch": torch.get_rng_state(),
    }


def same(a, b):
    """Equality that looks into containers and tensors."""
    if torch.is_tensor(a) and torch.is_tensor(b):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def changed(before, after):
    """Names of the parts that differ."""
    return [name for name in before if not same(before[name], after[name])]


@contextlib.contextmanager
def unchanged(root):
    """Fails if what happens within leaves a trace, also after an error."""
    before = snapshot(root)
    try:
        yield
    finally:
        assert changed(before, snapshot(root)) == []
