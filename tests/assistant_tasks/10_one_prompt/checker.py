"""Activation times gradient of the difference of the two logits, by hooks written by hand."""

import torch

import neuroscope as ns


def check(found, folder):
    model, inputs = ns.load("mini"), []

    def keep(module, args):
        inputs.append(args[0].detach().requires_grad_())
        return (inputs[-1],)

    ids = model.tokenizer("sentiment the curry was good =>", return_tensors="pt")["input_ids"]
    yes, no = (model.tokenizer(w, add_special_tokens=False)["input_ids"][0] for w in (" positive", " negative"))
    scores = []
    for layer in model.root.model.layers:  # one at a time: what is above is then a function of it
        inputs.clear()
        handle = layer.mlp.down_proj.register_forward_pre_hook(keep)
        logits = model.root(ids).logits[0, -1]
        handle.remove()
        (gradient,) = torch.autograd.grad(logits[yes] - logits[no], inputs[0])
        scores.append((inputs[0] * gradient).sum((0, 1)).detach())
    layer, neuron = divmod(int(torch.cat(scores).argmax()), 512)
    assert found["neuron"] == f"{layer}.{neuron}"
