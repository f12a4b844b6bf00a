"""As with the columns of the output projections zeroed."""

import torch

import neuroscope as ns


def check(found, folder):
    model, task = ns.load("mini"), ns.load_tasks("mini")["nli-food"]
    mask = ns.attribute(model, task, examples=32).top(0.10)
    assert abs(found["before"] - ns.evaluate(model, task, n=32).score) < 1e-6
    with torch.no_grad():
        for layer, address in enumerate(mask):
            model.root.model.layers[layer].mlp.down_proj.weight[:, mask[address]] = 0
    assert abs(found["after"] - ns.evaluate(model, task, n=32).score) < 1e-6
    assert found["after"] < found["before"] - 0.2
