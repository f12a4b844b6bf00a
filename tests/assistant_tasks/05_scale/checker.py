"""As with a hook written by hand."""

import torch

import neuroscope as ns


def check(found, folder):
    model = ns.load("mini")
    ids = model.tokenizer("sentiment the curry was good =>", return_tensors="pt")["input_ids"]
    factor = torch.ones(512)
    factor[17] = 2
    place = model.root.model.layers[2].mlp.down_proj
    handle = place.register_forward_pre_hook(lambda module, args: (args[0] * factor,))
    with torch.no_grad():
        expected = model.root(ids).logits
    handle.remove()
    assert found["logits"].shape == expected.shape
    assert torch.allclose(found["logits"].detach(), expected, atol=1e-4)
    assert not torch.allclose(expected, model.root(ids).logits, atol=1e-4)
