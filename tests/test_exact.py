"""Exact ablation: its shortcuts give what one whole forward pass per neuron gives, on every kind of model."""

import importlib

import families
import pytest
import torch
from tiny import tiny_tokenizer
from torch import nn

from neuroscope.attribution import METHODS, Request, attribute
from neuroscope.attribution.scoring import Scoring
from neuroscope.masks import NeuronMask
from neuroscope.models import load, tap_experts
from neuroscope.models.sites import edit
from neuroscope.tasks import Example, Task
from neuroscope.tasks.encoding import batches, encode, pad_id

exact = importlib.import_module("neuroscope.attribution.exact")  # the package has a function of that name
TEXT = "the food was very good so the film was not a great story and the plot was awful"
STYLE = {"t5": "seq2seq", "bert": "masked"}
NAMES = ["llama", "gpt2", "opt", "neox", "gemma2", "bert", "t5", "mixtral", "qwen2-moe"]


def open_family(name):
    root = families.build(name)
    return load(
        tap_experts(root) if name in families.MOE else root, tokenizer=tiny_tokenizer(STYLE.get(name, "causal"))
    )


def make_task(lengths=(3, 5, 2), answers=("good", "very bad", "awful story plot")):
    """Prompts and answers of different lengths, so that padding and unscored positions occur."""
    words = TEXT.split()
    examples = [Example(" ".join(words[i : i + n]), a) for i, (n, a) in enumerate(zip(lengths, answers, strict=True))]
    return Task("reviews", train=examples)


def make_scoring(model, unit, reduction="signed"):
    task = make_task()
    cut = list(batches(encode(model, task, task.train), 2, pad_id(model.tokenizer), model.device, model.style))
    return Scoring(model, task, model.sites(unit), cut, Request(METHODS["exact"], "loss", reduction, unit))


def one_by_one(scoring, chosen):
    """Whole forward passes, straight from the definition: per example L(a_j = 0) - L, summed over examples."""
    expected = {}
    with torch.no_grad():
        clean = [scoring.losses(batch) for batch in scoring.batches]
        for address, neurons in chosen.items():
            site = scoring.sites[address]
            for neuron in neurons:

                def off(site, h, tokens, neuron=neuron):
                    return h.index_fill(-1, site.coordinates(torch.tensor([neuron])), 0.0)

                with edit([site], off):
                    change = [scoring.losses(b) - c for b, c in zip(scoring.batches, clean, strict=True)]
                expected[address, neuron] = torch.cat(change)
    return expected


def some(scoring, per_site=3):
    return {a: list(range(0, s.width, max(1, s.width // per_site))) for a, s in scoring.sites.items()}


@pytest.mark.parametrize("unit", ["hidden", "output", "head"])
@pytest.mark.parametrize("name", NAMES)
def test_equals_whole_passes(name, unit):
    model = open_family(name)
    for reduction in ("signed", "abs_of_sum"):
        scoring = make_scoring(model, unit, reduction)
        chosen = some(scoring)
        mask = NeuronMask.of(chosen, {a: s.width for a, s in scoring.sites.items()})
        with model.quiet():
            values, expected = exact.exact(scoring, mask), one_by_one(scoring, chosen)
        assert max(change.abs().max() for change in expected.values()) > 0.01
        for (address, neuron), change in expected.items():
            right = change.sum() if reduction == "signed" else change.abs().sum()
            torch.testing.assert_close(values[address][neuron], right, atol=1e-5, rtol=1e-5, msg=f"{address} {neuron}")
        measured = sum(int((~v.isnan()).sum()) for v in values.values())
        assert measured == len(expected)  # all others are NaN


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "t5", "neox"])
def test_shortcuts_are_taken(name):
    """Only the site, what is above it, and of the last FFN only the answers' tokens are computed."""
    scoring = make_scoring(open_family(name), "hidden")
    first, *_, last = scoring.sites.values()
    batch = scoring.batches[0]
    with scoring.model.quiet(), torch.no_grad():
        for site in (first, last):
            _, plan = exact.cheapest_plan(scoring, batch, site)
            assert plan.carrier is not None
            assert plan.ffn is not None
            seen = []
            with exact._swapped({last.module: record_rows(last.module, seen)}):
                exact._replay(scoring, batch, site, plan, torch.arange(4), 4)
            assert seen == [4 * int((batch.targets != -100).sum())]
    assert (last.module in plan.outputs, plan.carrier is plan.ffn) == (False, True)


def record_rows(module, seen):
    own = module.forward

    def forward(h):
        seen.append(h.shape[:-1].numel())
        return own(h)

    return forward


class Mixer(nn.Module):
    """An FFN that adds the mean over the tokens so far: it does not treat tokens one by one."""

    def __init__(self, ffn):
        super().__init__()
        self.ffn = ffn

    def forward(self, x):
        return self.ffn(x) + x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]


def test_an_ffn_that_mixes_tokens_is_run_on_all():
    root = families.build("llama")
    root.model.layers[1].mlp = Mixer(root.model.layers[1].mlp)
    scoring = make_scoring(load(root, tokenizer=tiny_tokenizer()), "hidden")
    chosen = some(scoring)
    with scoring.model.quiet(), torch.no_grad():
        plans = [exact.cheapest_plan(scoring, scoring.batches[0], site)[1] for site in scoring.sites.values()]
        assert [plan.ffn for plan in plans] == [None, None]
        assert all(plan.outputs for plan in plans)
    check(scoring, chosen)


def test_whole_passes_where_the_recording_does_not_hold(monkeypatch):
    scoring = make_scoring(open_family("llama"), "hidden")
    true_record = exact.record

    def wrong_record(*args):
        clean, plan = true_record(*args)
        zeros = {m: [exact.over_tensors(y, torch.zeros_like) for y in ys] for m, ys in plan.outputs.items()}
        return clean, exact.replace(plan, outputs=zeros)

    monkeypatch.setattr(exact, "record", wrong_record)
    with scoring.model.quiet(), torch.no_grad():
        assert exact.cheapest_plan(scoring, scoring.batches[0], next(iter(scoring.sites.values())))[1] == exact.Plan()
    check(scoring, some(scoring))


def check(scoring, chosen):
    with scoring.model.quiet():
        values = exact.exact(scoring, NeuronMask.of(chosen, {a: s.width for a, s in scoring.sites.items()}))
        for (address, neuron), change in one_by_one(scoring, chosen).items():
            torch.testing.assert_close(values[address][neuron], change.sum(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("unit", ["hidden", "output", "head"])
@pytest.mark.parametrize("where", ["hidden", "output", "head"])
def test_within_another_edit(unit, where):
    """The user's own hooks act once, also at the sites that are measured and in recorded and skipped modules."""
    scoring = make_scoring(open_family("llama"), unit)
    bare = one_by_one(scoring, some(scoring))
    with edit(scoring.model.sites(where).values(), lambda site, h, tokens: h * 1.5):
        inside = one_by_one(scoring, some(scoring))
        check(scoring, some(scoring))
    assert max((inside[key] - bare[key]).abs().max() for key in bare) > 0.01


def test_models_that_write_into_their_vectors():
    """A recording is not spoilt by a model that adds in place (as Falcon does)."""
    root = families.build("llama")
    for layer in root.model.layers:
        layer.mlp.register_forward_hook(lambda module, args, output: output.add_(1.0))
        layer.self_attn.register_forward_hook(lambda module, args, output: (output[0].mul_(2.0), *output[1:]))
    scoring = make_scoring(load(root, tokenizer=tiny_tokenizer()), "hidden")
    check(scoring, some(scoring))


def test_forwards_are_restored_after_an_error():
    scoring = make_scoring(open_family("llama"), "hidden")
    modules = list(scoring.model.root.modules())
    wrapped = scoring.sites["blocks.0.mlp.hook_post"].module  # as accelerate wraps the forwards of a spread model
    wrapped.__dict__["forward"] = own = wrapped.forward
    rows = []

    def fail(site, h, tokens):
        rows.append(len(h))
        if len(h) > 2:  # in a replay of several copies
            raise KeyError

    last = list(scoring.sites.values())[-1]
    with scoring.model.quiet(), pytest.raises(KeyError), edit([last], fail):
        exact.exact(scoring)
    assert max(rows) > 2
    assert [m for m in modules if "forward" in m.__dict__] == [wrapped]
    assert wrapped.__dict__["forward"] is own
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)


def test_batch_size_and_sampling():
    model, task = open_family("llama"), make_task()
    whole = attribute(model, task, method="exact", batch_size=3)
    torch.testing.assert_close(whole.vector(), attribute(model, task, method="exact", batch_size=1).vector())
    part = attribute(model, task, method="exact", neurons=10, seed=1)
    known = ~part.vector().isnan()
    assert known.sum() == part.n_scored == 10
    torch.testing.assert_close(part.vector()[known], whole.vector()[known])
