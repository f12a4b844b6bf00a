"""As with hooks written by hand."""

import torch

import neuroscope as ns


def check(found, folder):
    model, kept = ns.load("mini"), {}
    texts = [f"sentiment the curry was {word} =>" for word in ("good", "bad")]
    good, bad = (model.tokenizer(text, return_tensors="pt")["input_ids"] for text in texts)
    place = model.root.model.layers[1].mlp.down_proj
    with torch.no_grad():
        handle = place.register_forward_pre_hook(lambda module, args: kept.update(h=args[0]))
        model.root(bad)
        handle.remove()
        handle = place.register_forward_pre_hook(lambda module, args: (kept["h"],))
        expected = model.root(good).logits[0, -1]
        handle.remove()
    assert torch.allclose(found["last"].detach(), expected, atol=1e-4)
