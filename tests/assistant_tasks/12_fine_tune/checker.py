"""The base is as it was, and the file changes what the model does."""

import torch

import neuroscope as ns


def check(found, folder):
    fresh, model = ns.load("mini"), found["model"]
    before = fresh.root.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in model.root.state_dict().items())
    ids = torch.arange(4, 12)[None]
    with torch.no_grad():
        plain = fresh.root(ids).logits
        assert torch.equal(model.root(ids).logits, plain)
        adapter = ns.NeuronAdapter.load(fresh, folder / "adapter.safetensors")
        assert not torch.allclose(fresh.root(ids).logits, plain)
    adapter.detach()
