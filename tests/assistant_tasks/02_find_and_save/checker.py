"""Twenty neurons, those of the largest scores, and the file has them."""

import torch

import neuroscope as ns


def check(found, folder):
    again = ns.NeuronMask.load(folder / "mask.safetensors")
    assert len(found["mask"]) == 20 and again == found["mask"]
    scores = ns.attribute("mini", ns.load_tasks("mini")["sentiment-food"], examples=32)
    cut = torch.cat([scores[address] for address in scores]).topk(20).values[-1]
    assert all(bool((scores[address][again[address]] >= cut).all()) for address in scores)
