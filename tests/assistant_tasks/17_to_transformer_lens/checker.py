"""They do that to a tensor, and to no other neuron."""

import torch


def check(found, folder):
    ((name, hook),) = found["hooks"]
    assert name == "blocks.0.mlp.hook_post"
    value = torch.ones(1, 2, 512)
    changed = hook(value.clone(), None)
    expected = value.clone()
    expected[..., [3, 7]] = 0
    assert torch.equal(changed, expected)
