"""Patch sweeps: where only one place carries the difference, that place is found, and no other."""

import families
import numpy as np
import pytest
import torch
from state import unchanged
from tiny import tiny_tokenizer

from neuroscope.errors import ArgumentError, ModelError, NeuroscopeError, TaskError
from neuroscope.interventions import patch
from neuroscope.interventions.patch_grid import patch_sweep
from neuroscope.masks import NeuronMask
from neuroscope.models import load, tap_experts
from neuroscope.models.sites import edit
from neuroscope.tasks import Example, Task

STYLE = {"t5": "seq2seq", "bert": "masked"}
CLEAN, CORRUPT, ANSWERS = "the food was good", "the food was bad", ("yes", "no")


def open_family(name):
    return load(families.build(name), tokenizer=tiny_tokenizer(STYLE.get(name, "causal")))


def planted(name, carrier):
    """A model in which words reach the logits through one layer's FFN alone.

    Attention writes nothing, the FFNs of all other layers write nothing, and the logits do not see the embeddings:
    the first half of the residual stream holds the words, the second half what the carrier writes.
    """
    model = open_family(name)
    d, half = 32, 16
    with torch.no_grad():
        head = model.base.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone())  # GPT-2 and OPT share it with the embeddings
        head.weight[:, :half] = 0
        embeddings = model.base.get_input_embeddings().weight
        signs = torch.tensor([1.0, -1.0]).repeat(half // 2)  # equal means and norms: norms say nothing of the word
        generator = torch.Generator().manual_seed(0)
        for row in embeddings:
            row[:half], row[half:] = signs[torch.randperm(half, generator=generator)], 0
        for p in model.root.parameters():  # positions say nothing
            if p.shape == (64, d) or p.shape == (66, d):
                p.zero_()
        for site in model.sites("output").values():
            for rows in site.out:
                view = rows.view()
                view[..., :half] = 0
                if site.layer != carrier:
                    view[..., half:] = 0
        for site in model.sites("head").values():
            for rows in site.out:
                rows.param.zero_()
            if getattr(site.module, "bias", None) is not None:
                site.module.bias.zero_()
    return load(model.root, tokenizer=model.tokenizer)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("carrier", [0, 1])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_the_layer_that_carries_the_difference_is_found(name, carrier, direction):
    model = planted(name, carrier)
    # attention writes nothing, so the differing word must be the last one, which predicts the answer
    for unit in ("output", "hidden"):
        sweep = patch_sweep(model, CLEAN, CORRUPT, answers=ANSWERS, unit=unit, direction=direction)
        expected = [float(layer == carrier) for layer in (0, 1)]
        assert sweep.table["row"].tolist() == ["layer 0", "layer 1"]
        assert sweep.table["column"].tolist() == [unit] * 2
        np.testing.assert_allclose(sweep.table["recovered"], expected, atol=1e-3)
        verb = "restores" if direction == "denoising" else "destroys"
        assert f"that {verb} most of the logit difference is that of **layer {carrier}, {unit}**: 100%" in (
            sweep.in_words()
        )
        assert "A negative" not in sweep.in_words() and list(sweep.tables()) == ["places"]
    heads = patch_sweep(model, CLEAN, CORRUPT, answers=ANSWERS, unit="head", direction=direction)
    assert f"**A negative**: no single place {verb} half" in heads.in_words()
    np.testing.assert_allclose(heads.table["recovered"], 0, atol=1e-3)
    grid = patch_sweep(model, CLEAN, CORRUPT, answers=ANSWERS, by="position", direction=direction)
    assert len(grid.table) == 2 * 5
    found = grid.table.pivot(index="row", columns="column", values="recovered").to_numpy()
    expected = np.zeros((2, 5))
    expected[carrier, 4] = 1  # <s> the food was good
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert list(grid.table["column"][:5]) == ["0 <s>", "1 the", "2 food", "3 was", "4 good"]
    places = patch_sweep(model, CLEAN, CORRUPT, answers=ANSWERS, by="site", direction=direction)
    by_place = places.table.set_index(["row", "column"])["recovered"]
    assert len(by_place) == 6
    for (row, column), share in by_place.items():
        want = row == f"layer {carrier}" and column in ("FFN neurons", "FFN output")
        assert share == pytest.approx(float(want), abs=1e-3), (row, column)


def difference(model, prompt, answers):
    tokenizer = model.tokenizer
    inputs = dict(tokenizer(prompt, return_tensors="pt", return_token_type_ids=False))
    right, wrong = (tokenizer.convert_tokens_to_ids(a) for a in answers)
    at = -1
    if model.style == "seq2seq":
        inputs["decoder_input_ids"], at = torch.tensor([[0]]), 0
    if model.style == "masked":  # <s> prompt <mask> </s>
        ids = inputs["input_ids"]
        inputs = {"input_ids": torch.cat([ids[:, :-1], torch.tensor([[4]]), ids[:, -1:]], 1)}
        at = -2
    with torch.no_grad():
        out = model.root(**inputs).logits[0, at]
    return float(out[right] - out[wrong]), inputs


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "t5", "bert"])
def test_each_cell_is_a_patch_by_hand(name):
    model = open_family(name)
    m_clean, clean = difference(model, CLEAN, ANSWERS)
    m_corrupt, _ = difference(model, CORRUPT, ANSWERS)
    sites = model.sites("output")
    for direction in ("denoising", "noising"):
        sweep = patch_sweep(model, CLEAN, CORRUPT, answers=ANSWERS, direction=direction)
        source, run = (CLEAN, CORRUPT) if direction == "denoising" else (CORRUPT, CLEAN)
        for row in sweep.table.itertuples():
            stack, layer = row.row.rsplit(" ", 1)
            blocks = stack.replace("layer", "blocks")
            chosen = {a: range(s.width) for a, s in sites.items() if a.startswith(f"{blocks}.{layer}.")}
            assert chosen
            mask = NeuronMask.of(chosen, {a: s.width for a, s in sites.items()}, "output")
            with patch(model, mask, source=difference(model, source, ANSWERS)[1]):
                m, _ = difference(model, run, ANSWERS)
            share = (m - m_corrupt) if direction == "denoising" else (m_clean - m)
            assert row.recovered == pytest.approx(share / (m_clean - m_corrupt), abs=1e-4, rel=1e-4)
        assert len(sweep.table) == (4 if name == "t5" else 2)
        assert sweep.table["recovered"].abs().max() > 0.01
    position = patch_sweep(model, CLEAN, CORRUPT, answers=ANSWERS, by="position")
    shown = clean["input_ids"].shape[1]
    assert len(position.table) == 2 * shown  # of an encoder-decoder: its encoder
    assert position.table["column"].nunique() == shown


def make_task(lengths=(4, 3, 4, 2)):
    words = ["the", "food", "was", "so", "very"]
    pairs = [
        Example(" ".join([*words[:n], right]), a, corrupt=" ".join([*words[:n], wrong]), corrupt_answer=b)
        for n, (right, wrong) in zip(lengths, [("good", "bad"), ("great", "awful")] * 2, strict=True)
        for a, b in [ANSWERS]
    ]
    return Task("pairs", discovery=[*pairs, Example("the food", "yes")], labels=ANSWERS)


@pytest.mark.parametrize("name", ["llama", "opt", "t5"])
@pytest.mark.parametrize("by", ["layer", "site"])
def test_a_tasks_pairs_are_averaged_whatever_their_lengths(name, by):
    model, task = open_family(name), make_task()
    seen = []
    sweep = patch_sweep(model, task, by=by, progress=lambda cells, desc: seen.append(desc) or cells)
    pairs = [e for e in task.discovery if e.corrupt]
    alone = [
        patch_sweep(model, e.prompt, e.corrupt, answers=(e.answer, e.corrupt_answer), by=by).table["recovered"]
        for e in pairs
    ]
    np.testing.assert_allclose(sweep.table["recovered"], np.mean(alone, axis=0), atol=1e-4, rtol=1e-4)
    assert (sweep.table["n"] == 4).all()
    assert (sweep.table["low"] <= sweep.table["recovered"]).all()
    assert (sweep.table["high"] >= sweep.table["recovered"]).all()
    assert (sweep.table["high"] > sweep.table["low"]).any()
    assert set(seen) == {"patch"}
    assert len(seen) == 3  # prompts of three lengths
    both = patch_sweep(model, [e.prompt for e in pairs], [e.corrupt for e in pairs], answers=[ANSWERS] * 4, by=by)
    np.testing.assert_allclose(both.table["recovered"], sweep.table["recovered"], atol=1e-5)
    assert patch_sweep(model, task, by=by, examples=2).table["n"].tolist() == [2] * len(sweep.table)


def test_only_the_first_token_of_an_answer_is_measured():
    model = open_family("llama")
    short = patch_sweep(model, CLEAN, CORRUPT, answers=ANSWERS, by="position")
    long = patch_sweep(model, CLEAN, CORRUPT, answers=("yes the food", "no film"), by="position")
    assert short.table["column"].tolist() == long.table["column"].tolist()
    np.testing.assert_allclose(short.table["recovered"], long.table["recovered"], atol=1e-5)
    mixed = patch_sweep(model, [CLEAN] * 2, [CORRUPT] * 2, answers=[("yes the", "no"), ("yes", "no")], by="position")
    np.testing.assert_allclose(mixed.table["recovered"], short.table["recovered"], atol=1e-5)


@pytest.mark.parametrize("by", ["layer", "position", "site"])
def test_the_figure_shows_the_grid(by):
    sweep = patch_sweep(open_family("t5"), CLEAN, CORRUPT, answers=ANSWERS, by=by)
    heat = next(trace for trace in sweep.figure().data if trace.type == "heatmap")
    shown = np.array(heat.z, dtype=float)
    rows, columns = sweep.table["row"].unique(), sweep.table["column"].unique()
    grid = sweep.table.pivot(index="row", columns="column", values="recovered").loc[rows, columns].to_numpy()
    assert shown.shape == grid.shape == (len(rows), len(columns))
    np.testing.assert_allclose(shown, grid)


def test_a_mixture_has_a_grid_of_what_every_token_reaches():
    model = load(tap_experts(families.build("qwen2-moe")), tokenizer=tiny_tokenizer())
    places = patch_sweep(model, CLEAN, CORRUPT, answers=ANSWERS, by="site")
    assert places.table["column"].unique().tolist() == ["FFN neurons", "FFN output", "attention heads"]
    places.figure()
    mixtral = load(tap_experts(families.build("mixtral")), tokenizer=tiny_tokenizer())
    with pytest.raises(ModelError, match="only experts for unit='hidden'"):
        patch_sweep(mixtral, CLEAN, CORRUPT, answers=ANSWERS, unit="hidden")


def test_what_cannot_be_located_is_refused():
    model, task = open_family("llama"), make_task()
    ask = lambda clean, corrupt, **more: patch_sweep(model, clean, corrupt, **{"answers": ANSWERS} | more)  # noqa: E731
    cases = [
        (lambda: ask(CLEAN, CORRUPT + " not"), TaskError, "5 tokens.*6"),
        (lambda: ask(CLEAN, CORRUPT, answers=("yes", "yes")), TaskError, "begin with the same token"),
        (lambda: ask(CLEAN, CORRUPT, answers=("yes", "yes the")), TaskError, "pair 0"),
        (lambda: ask([CORRUPT, CLEAN], [CLEAN, CLEAN]), ArgumentError, "pair 1 has the same logit difference"),
        (lambda: ask(["the " + CLEAN, CLEAN], ["the " + CORRUPT, CLEAN]), ArgumentError, "pair 1 has the same"),
        (lambda: ask(["the " + CLEAN, CLEAN], ["the " + CORRUPT, CORRUPT], by="position"), TaskError, "5, 6"),
        (lambda: ask([CLEAN, CLEAN], [CORRUPT]), ArgumentError, "2 clean, 1 corrupt prompts, 2 answers"),
        (lambda: ask([], []), ArgumentError, "0 clean"),
        (lambda: ask(CLEAN, CORRUPT, answers=("yes",)), ArgumentError, "answers.0.='yes'"),
        (lambda: ask(CLEAN, CORRUPT, answers=[("yes", "no", "good")]), ArgumentError, "give 2"),
        (lambda: ask(CLEAN, CORRUPT, by="layers"), ArgumentError, "did you mean 'layer'"),
        (lambda: ask(CLEAN, CORRUPT, direction="up"), ArgumentError, "denoising"),
        (lambda: ask(CLEAN, CORRUPT, unit="neuron"), ArgumentError, "hidden"),
        (lambda: ask(CLEAN, CORRUPT, examples=0), ArgumentError, "from 1 up"),
        (lambda: patch_sweep(model, CLEAN), ArgumentError, "no corrupt prompts or no answers"),
        (lambda: patch_sweep(model, task, CORRUPT), ArgumentError, "a task and prompts"),
        (lambda: patch_sweep(model, Task("t", train=[Example("a", "b")])), TaskError, "no example with a corrupt"),
    ]
    for call, kind, text in cases:
        with unchanged(model.root), pytest.raises(kind, match=f"(?s){text}") as error:
            call()
        assert isinstance(error.value, NeuroscopeError)


def test_an_overflow_is_an_error_and_no_number():
    model = open_family("llama")
    site = list(model.sites("output").values())[-1]
    text = r"(?s)logit difference.*nan"
    with edit([site], lambda s, h, t: h * torch.inf), pytest.raises(NeuroscopeError, match=text):
        patch_sweep(model, CLEAN, CORRUPT, answers=ANSWERS)
