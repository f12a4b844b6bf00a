"""W-NCFT against its definition: task vectors, factors, and the weights that an answer is given with."""

from dataclasses import replace

import families
import numpy as np
import pytest
import torch
from sequences import KNOWN, A, C, bare, fine_outcomes, inside, learn
from state import changed, snapshot, unchanged
from tiny import tiny_model

from neuroscope.masks import NeuronMask
from neuroscope.models import resolve
from neuroscope.training import NeuronAdapter
from neuroscope.training.continual_learning.features import prompt_features
from neuroscope.training.continual_learning.w_ncft import WEIGHTINGS, factors, softmax_cosine, weighted


@pytest.fixture(name="fine")
def fine_fixture(monkeypatch):
    """Outcomes that tell models apart to the last bit."""
    fine_outcomes(monkeypatch)


def owned(*flags):
    return [{"0": torch.tensor(f, dtype=torch.float32)} for f in flags]


def test_factors_by_hand():
    """Neuron 0 is of tasks 1 and 3, neuron 1 of task 2 alone, neuron 2 of nobody; s = 0.2, 0.3, 0.5."""
    tasks = owned([1, 0, 0], [0, 1, 0], [1, 0, 0])
    s = torch.tensor([0.2, 0.3, 0.5], dtype=torch.double)
    expected = {
        "delta-max": ([1, 1, 1], [[0.4] * 3, [0.6] * 3, [1.0] * 3]),
        # s1 W1 + s3 W3 = (0.2 + 0.5) W0 + (0.2 + 0.5) d1 + 0.5 d3
        "literal": ([0.7, 0.3, 1], [[0.7, 0.3, 0], [0.5, 0.3, 0], [0.5, 0, 0]]),
        "owner-normalised": ([1, 1, 1], [[1, 1, 0], [5 / 7, 1, 0], [5 / 7, 0, 0]]),
    }
    assert set(expected) == set(WEIGHTINGS)
    for weighting, (base, changes) in expected.items():
        found, each = factors(tasks, s, weighting)
        assert found["0"].tolist() == pytest.approx(base), weighting
        for change, row, mine in zip(each, changes, tasks, strict=True):
            here = mine["0"].bool()  # a task has no change elsewhere
            assert change["0"][here].tolist() == pytest.approx(torch.tensor(row)[here].tolist()), weighting


def test_softmax_of_cosines_by_hand():
    learnt = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    cosines = np.array([0.6, 0.8, -0.6])  # of (3, 4)
    for temperature in (1.0, 0.1):
        e = np.exp(cosines / temperature)
        found = softmax_cosine(torch.tensor([3.0, 4.0]), learnt, temperature)
        assert found.tolist() == pytest.approx(list(e / e.sum()))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize(("family", "unit"), [("llama", "hidden"), ("gpt2", "hidden"), ("gpt2", "output"),
                                              ("phi3", "hidden"), ("neox", "hidden")])  # fmt: skip
def test_weighted_weights_equal_the_formula(family, unit, weighting):
    model = resolve(families.build(family))
    widths = {a: s.width for a, s in model.sites(unit).items()}
    generator = torch.Generator().manual_seed(0)
    start = {n: p.detach().double() for n, p in bare(model.root)}
    s = torch.tensor([0.5, 0.2, 0.3], dtype=torch.double)
    before = snapshot(model.root)
    adapters, after, flags = [], [], []
    for i in range(3):
        mask = NeuronMask.of({a: torch.randperm(w, generator=generator)[: w // 3] for a, w in widths.items()}, widths)
        mask = NeuronMask(dict(mask), widths, unit)
        adapters.append(NeuronAdapter(model, mask))
        with torch.no_grad():
            for parameter in adapters[-1].parameters():
                parameter.normal_(generator=generator)
        adapters[-1].merge()
        after.append({n: p.detach().double() for n, p in bare(model.root)})
        flags.append({n: f.double() for n, f in inside(model, mask).items()})
        assert any(f.any() for n, f in flags[i].items() if "bias" in n) == (family in ("gpt2", "neox"))
    merged = snapshot(model.root)
    expected = {}
    for name, w0 in start.items():
        owners = torch.stack([f[name] for f in flags])
        shape = (-1, *[1] * w0.dim())
        if weighting == "delta-max":
            deltas = torch.stack([after[0][name] - w0, *(after[i][name] - after[i - 1][name] for i in (1, 2))])
            expected[name] = w0 + ((s / s.max()).view(shape) * deltas).sum(0)
        else:
            shares = s.view(shape) * owners
            if weighting == "owner-normalised":
                shares = shares / shares.sum(0).clamp_min(1e-30)
            reached = torch.stack([a[name] for a in after])  # W_k
            expected[name] = torch.where(owners.any(0), (shares * reached).sum(0), w0)
    with pytest.raises(RuntimeError, match="inside"), weighted(adapters, s, weighting):
        for name, parameter in bare(model.root):
            torch.testing.assert_close(parameter.double(), expected[name], atol=2e-6, rtol=1e-6)
            unowned = ~torch.stack([f[name] for f in flags]).any(0)
            assert torch.equal(parameter.double()[unowned], start[name][unowned]), name
        plain = resolve(families.build(family))
        plain.root.load_state_dict({n: p for n, p in model.root.state_dict().items() if "neuron_deltas" not in n})
        torch.testing.assert_close(families.logprobs(model), families.logprobs(plain))  # the hooks add nothing
        raise RuntimeError("inside")
    assert changed(merged, snapshot(model.root)) == []
    for adapter in reversed(adapters):
        adapter.unmerge()
        adapter.detach()
    assert changed(before, snapshot(model.root)) == []


def test_w_ncft_weights_by_the_prompts_features(fine):
    model = tiny_model()
    result = learn("w-ncft", model, tasks=[A, C], known=[replace(KNOWN, train=())], temperature=0.5, samples=7)
    vectors = {
        task.name: prompt_features(model, task, examples[:7]).mean(0).numpy()
        for task, examples in ((A, A.train), (C, C.train), (KNOWN, KNOWN.test))
    }

    def cosine(x, y):
        return x @ y / np.linalg.norm(x) / np.linalg.norm(y)

    logs = [run["log"] for run in result.manifest["runs"]]
    assert [log["weighting"] for log in logs] == ["delta-max"] * 2
    for log, learnt in zip(logs, (["a"], ["a", "c"]), strict=True):
        for name, vector in vectors.items():
            e = np.exp([cosine(vector, vectors[other]) / 0.5 for other in learnt])
            assert log["weights"][name] == pytest.approx(list(e / e.sum()), rel=1e-5)
    plain = learn("ncft", model, tasks=[A, C], known=[replace(KNOWN, train=())]).table
    by_stage = [(result.table[result.table["stage"] == i], plain[plain["stage"] == i]) for i in (1, 2)]
    assert by_stage[0][0]["score"].tolist() == pytest.approx(by_stage[0][1]["score"].tolist(), abs=1e-6)  # one task
    assert by_stage[1][0]["score"].tolist() != pytest.approx(by_stage[1][1]["score"].tolist(), abs=1e-6)
    assert "weighting delta-max" in repr(result)
    assert "weighting delta-max" in result.figure().layout.title.subtitle.text
    literal = learn("w-ncft", model, tasks=[A, C], weighting="literal")
    assert "weighting literal" in repr(literal)
    assert literal.table["options"].unique().tolist() == ["weighting=literal"]


@pytest.mark.parametrize("style", ["causal", "seq2seq", "masked"])
def test_prompt_features_are_means_over_each_prompts_tokens(style):
    model = tiny_model(style)
    examples = [*A.train[:3], replace(A.train[0], prompt="film :")]
    with unchanged(model.root):
        found = prompt_features(model, A, examples, batch_size=2)
    for example, row in zip(examples, found, strict=True):
        ids = model.tokenizer(example.prompt, return_tensors="pt").input_ids
        encoder = model.root.get_encoder() if style == "seq2seq" else model.root.base_model
        with torch.no_grad():
            alone = encoder(input_ids=ids).last_hidden_state[0].mean(0)
        torch.testing.assert_close(row, alone, atol=1e-5, rtol=1e-5)
