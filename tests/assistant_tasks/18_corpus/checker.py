"""By a hook written by hand."""

import torch

import neuroscope as ns


def check(found, folder):
    model, kept = ns.load("mini"), {}
    place = model.root.model.layers[2].mlp.down_proj
    handle = place.register_forward_pre_hook(lambda module, args: kept.update(h=args[0][0, :, 17].max()))
    largest = {}
    for example in ns.load_tasks("mini")["sentiment-food"].test[:20]:
        with torch.no_grad():
            model.root(model.tokenizer(example.prompt, return_tensors="pt")["input_ids"])
        largest[example.prompt] = float(kept["h"])
    handle.remove()
    assert largest[found["text"]] > max(largest.values()) - 1e-5
