"""LAPE's own masks: equal to those of the authors' procedure, written again here on activations read here."""

import families
import pytest
import torch
from tiny import TINY_WORDS, tiny_tokenizer

import neuroscope as ns
from neuroscope.attribution import attribute
from neuroscope.errors import ArgumentError
from neuroscope.masks import Scores
from neuroscope.models import load, tap_experts
from neuroscope.tasks import Example, Task

WORDS = TINY_WORDS[:16]
TEXTS = {"good": (0, 1, 2, 7, 9, 11), "bad": (3, 4, 13, 10, 12, 14), "all": range(len(WORDS))}  # words of each task


def tiny_tasks():
    generator = torch.Generator().manual_seed(0)
    tasks = {}
    for name, words in TEXTS.items():
        prompts = [
            " ".join(WORDS[list(words)[i]] for i in torch.randint(len(words), (12,), generator=generator))
            for _ in range(15)
        ]
        tasks[name] = Task(name, train=[Example(prompt, "yes") for prompt in prompts])
    return tasks


def opened(name):
    if name == "mini":
        return load("mini"), dict(list(ns.load_tasks("mini").items())[::4])
    root = families.build(name)
    return load(tap_experts(root) if name in families.MOE else root, tokenizer=tiny_tokenizer()), tiny_tasks()


def gates(model, name):
    """Modules whose output is the non-linearity's input, layer by layer."""
    if name == "gpt2":
        return [block.mlp.c_fc for block in model.root.transformer.h]
    return [layer.mlp.gate_proj for layer in model.root.model.layers]


def counts(model, name, task, examples):
    """n (tokens) and over_zero [layer, neuron] of the authors' activation.py, one example at a time."""
    over_zero, n = 0, 0
    for example in task.split("discovery", examples):
        item = ns.tasks.encoding.encode(model, task, [example])[0] if name == "mini" else None
        ids = item.inputs if item else model.tokenizer(f"{example.prompt} {example.answer}")["input_ids"][:-1]
        seen = []
        handles = [g.register_forward_hook(lambda m, args, out: seen.append(out[0] > 0)) for g in gates(model, name)]
        with torch.no_grad():
            model.root(torch.tensor([ids]))
        for handle in handles:
            handle.remove()
        over_zero, n = over_zero + torch.stack(seen).sum(1), n + len(ids)
    return n, over_zero


def identify(n, over_zero, top_rate, filter_rate):
    """The authors' procedure (Tang et al. 2024): tasks -> [(layer, neuron)], and the entropies around the cut."""
    p = torch.stack([o / k for o, k in zip(over_zero, n, strict=True)], -1)  # [layer, neuron, task]
    normed = p / p.sum(-1, keepdim=True)
    normed[torch.isnan(normed)] = 0
    entropy = -torch.sum(normed * torch.where(normed > 0, normed.log(), 0), -1)
    flat = p.flatten()
    bar = flat.kthvalue(round(len(flat) * filter_rate)).values
    entropy[(p > bar).sum(-1) == 0] = torch.inf
    wanted = round(entropy.numel() * top_rate)
    lowest, index = entropy.flatten().topk(wanted + 1, largest=False)  # sorted; one more, to see the gap
    rows, columns = index[:wanted] // entropy.shape[1], index[:wanted] % entropy.shape[1]
    selected = p[rows, columns] > bar
    found = [sorted(zip(rows[s].tolist(), columns[s].tolist(), strict=True)) for s in selected.T]
    return found, lowest[-2:]


@pytest.mark.filterwarnings("ignore:LAPE chooses no neuron")
@pytest.mark.parametrize(
    ("name", "share", "quantile"),
    [("mini", 0.01, 0.95), ("llama", 0.04, 0.8), ("gpt2", 0.06, 0.8)],  # tiny ones have 96 neurons
)
def test_masks_are_those_of_the_authors_procedure(name, share, quantile):
    model, tasks = opened(name)
    read = [counts(model, name, task, 12) for task in tasks.values()]
    expected, around = identify(*zip(*read, strict=True), share, quantile)
    assert around[1] - around[0] > 1e-5  # no tie at the cut, where either choice would be right
    scores = attribute(model, tasks, method="lape", examples=12, quantile=quantile)
    masks = ns.interop.lape_masks(scores, share)
    addresses = list(model.sites())
    found = [sorted((addresses.index(a), i) for a, v in m.items() for i in v.tolist()) for m in masks.values()]
    assert found == expected and list(masks) == list(tasks)
    assert sum(map(len, expected)) > 2 and len({len(e) for e in expected}) > 1  # of different sizes
    rule = masks[next(iter(tasks))].manifest["selection"]
    assert rule["asked"] == round(share * len(next(iter(scores.values())))) and rule["eligible"] >= rule["asked"]


def by_hand(**shares):
    """Scores as the method makes them, log(tasks) - entropy where eligible, and less than 0 elsewhere."""
    about = {"method": "lape", "together": list(shares)}
    site = "blocks.0.mlp.hook_post"
    return {
        name: Scores({site: torch.tensor(values)}, {site: len(values)}, manifest=about)
        for name, values in shares.items()
    }


def test_a_neuron_may_be_in_several_masks_or_in_none(tmp_path):
    scores = by_hand(en=[0.6, 0.5, -0.9, 0.0, -1.0], zh=[-0.5, 0.5, -0.8, 0.0, -1.0])
    chosen = {
        0.2: ([0], []), 0.4: ([0, 1], [1]), 0.6: ([0, 1, 3], [1, 3]), 1.0: ([0, 1, 3], [1, 3]),  # ineligible: never
    }  # fmt: skip
    with pytest.warns(UserWarning, match=r"no neuron for 'zh': 3 of 5 .* 1 were to be chosen"):
        masks = ns.interop.lape_masks(scores, 0.2)
    for share, expected in chosen.items():
        if share > 0.2:
            masks = ns.interop.lape_masks(scores, share)
        assert tuple(next(iter(mask.values())).tolist() for mask in masks.values()) == expected
    path = ns.interop.save_lape(masks, tmp_path / "x.neuron.pth")
    assert ns.interop.load_lape(path, names=["en", "zh"], width=5) == masks


def test_what_is_not_all_of_one_call_is_refused():
    scores = by_hand(en=[0.6, 0.5, -0.9], zh=[-0.5, 0.5, -0.8])
    other = by_hand(en=[0.6, 0.4, -0.9], zh=[-0.5, 0.5, -0.8])
    random = Scores(dict(scores["en"]), scores["en"].widths, manifest={"method": "random"})
    for wrong, text in (
        ({"en": scores["en"]}, "'en' was scored with 'en', 'zh'"),
        ({"en": other["en"], "zh": scores["zh"]}, "several calls"),
        ({"en": random, "zh": scores["zh"]}, "by 'random' for 'en'"),
    ):
        with pytest.raises(ArgumentError, match=f"(?s){text}.*all that one call"):
            ns.interop.lape_masks(wrong)


def test_top_of_lape_tells_of_those_that_it_does_not_select():
    scores = by_hand(en=[0.6, 0.5, -0.9, -0.8], zh=[-0.5, -0.6, -0.8, -0.7])
    with pytest.warns(UserWarning, match=r"3 neurons were asked for and 2 are eligible.*lape_masks"):
        mask = scores["en"].top(0.75)
    assert next(iter(mask.values())).tolist() == [0, 1, 3] and mask.manifest["selection"]["eligible"] == 2
    with pytest.raises(ArgumentError, match=r"(?s)0 are eligible.*lape_masks"):
        scores["zh"].top(0.5)
