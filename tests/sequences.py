"""Made tasks for the tests of continual learning, and a run over them that takes a second."""

import random

import numpy as np
import torch
from tiny import tiny_model

from neuroscope.evaluation import engine as evaluation
from neuroscope.evaluation import label_loglik
from neuroscope.tasks import Example, Task
from neuroscope.training.continual_learning import continual

NOUNS = ("food", "film", "soup", "story", "plot")
MOODS = ("good", "great", "bad", "awful")


def reviews(n, seed, positive, negative):
    draw = random.Random(seed)
    said = [(draw.choice(NOUNS), draw.choice(MOODS)) for _ in range(n)]
    return [
        Example(f"Review : the {noun} was very {mood} Answer :", positive if mood in MOODS[:2] else negative)
        for noun, mood in said
    ]


def made(name, seed, positive, negative, n=16):
    """A task of its own examples and labels."""
    train, test = reviews(n, seed, positive, negative), reviews(12, seed + 100, positive, negative)
    return Task(name, train=train, test=test, labels=(positive, negative))


# "b" turns "a" around, so that learning it is forgetting
A, B, C = made("a", 1, "yes", "no"), made("b", 2, "no", "yes"), made("c", 3, "maybe", "no")
KNOWN = made("known", 4, "yes", "maybe")
TRAINING = ("steps", "epochs", "lr", "weight_decay", "arguments")
RATES = {"ncft": 0.05, "w-ncft": 0.05, "ncft-random": 0.05, "ffn": 0.03}  # others: 0.01; a few steps must show


def fine_outcomes(monkeypatch):
    """Outcomes become the probabilities of the right labels, which tell models apart to the last bit."""

    def probabilities(task, examples, found):
        right = [task.labels.index(example.answer) for example in examples]
        return label_loglik(*found).softmax(1).double().numpy()[np.arange(len(right)), right]

    monkeypatch.setattr(evaluation, "predict", lambda model, prepared: (model, prepared))
    monkeypatch.setattr(evaluation, "outcomes_of", probabilities)


def learn(method="ncft", model=None, tasks=(A, B, C), **settings):
    """A short run with a high learning rate; settings of training may stand among the others."""
    recipe = {"steps": 4, "batch_size": 8, "lr": RATES.get(method, 0.01)} | settings.pop("recipe", {})
    recipe |= {name: settings.pop(name) for name in TRAINING if name in settings}
    return continual(tiny_model() if model is None else model, tasks, method, recipe=recipe, **settings)


def bare(root):
    """Names and parameters of the model itself, without adapters."""
    return [(n, p) for n, p in root.named_parameters() if "neuron_deltas" not in n]


def inside(model, mask):
    """Name -> True where a parameter's entry belongs to a neuron of the mask, through the sites' own views."""
    names = {id(p): n for n, p in bare(model.root)}
    found = {n: torch.zeros(p.shape, dtype=torch.bool) for n, p in bare(model.root)}
    for address, chosen in mask.items():
        site = model.sites(mask.unit)[address]
        for rows in [*site.out, *(r for role in site.ins.values() for r in role)]:
            rows.view(found[names[id(rows.param)]])[..., chosen] = True
    return found
