"""What an evaluation makes a model do: the encoder reads a prompt once, generation goes on from a cache."""

import contextlib
from collections import Counter

import pytest
import torch
import transformers
from families import DENSE
from tiny import WORDS, tiny_tokenizer
from torch.utils.flop_counter import FlopCounterMode

from neuroscope.attribution import attribute
from neuroscope.evaluation import engine, evaluate, label_loglik, predict, prepare_task, ranking
from neuroscope.interventions import ablate, patch, scale
from neuroscope.masks import NeuronMask
from neuroscope.models import load
from neuroscope.models.sites import edit
from neuroscope.tasks import Example, Task

LABELS = ("good", "very good", "very bad", "so so so", "not a great plot")  # three branches below the decoder's start


def bart(**options):
    sizes = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 26, "init_std": 0.3}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64}
    ffn = {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "dropout": 0.0}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    return transformers.BartForConditionalGeneration(
        transformers.BartConfig(**sizes, **heads, **ffn, **tokens, forced_eos_token_id=None, **options)
    )


@pytest.fixture(scope="module", params=["t5", "bart"])
def model(request):
    torch.manual_seed(0)
    root = DENSE["t5"]() if request.param == "t5" else bart()
    if request.param == "t5":
        for p in root.parameters():
            p.data.mul_(2.0)
    return load(root.eval(), tokenizer=tiny_tokenizer("seq2seq"))


def task(lengths=(3, 9, 1, 9, 6), labels=LABELS, **options):
    examples = [Example(" ".join(WORDS[i : i + n]), (labels or LABELS)[i % 2]) for i, n in enumerate(lengths)]
    return Task("reviews", train=examples, test=examples, labels=labels, **options)


def sites_of(model, side):
    return [s for a, s in model.sites("hidden").items() if a.startswith("decoder_") is (side == "decoder")]


@contextlib.contextmanager
def counted(model, side):
    """Rows and tokens that go through the first layer of one side."""
    seen = Counter()

    def count(site, h, tokens):
        seen.update(rows=h.shape[0], tokens=h.shape[0] * h.shape[1], passes=1)

    with edit(sites_of(model, side)[:1], count):
        yield seen


def test_the_encoder_reads_each_prompt_once(model):
    # one branch each: good alone ends at the start token; "very" holds two labels
    branches = 3
    for size in (None, 1, 2, 64):
        prepared = prepare_task(model, task(), batch_size=size)
        with counted(model, "encoder") as encoder, counted(model, "decoder") as decoder:
            label_loglik(model, prepared)
        assert encoder["rows"] == 5 and decoder["rows"] == 5 * branches, size
        assert encoder["passes"] == {None: 1, 1: 5, 2: 3, 64: 1}[size]
    with counted(model, "encoder") as encoder:
        attribute(model, task(), examples=5, split="train")
    assert encoder["rows"] == 5  # each example with its own answer


@pytest.mark.parametrize("side", ["encoder", "decoder"])
@pytest.mark.parametrize("way", ["plain", "zero", "mean", "scale", "patch"])
def test_under_whatever_is_live_it_is_what_separate_rows_give(model, side, way, monkeypatch):
    asked = task((4, 4, 4)) if way == "patch" else task()  # a patch wants one length
    widths = {a: s.width for a, s in model.sites("hidden").items()}
    mask = NeuronMask.of({s.address: range(0, s.width, 2) for s in sites_of(model, side)}, widths)

    def scope():
        if way == "patch":
            (longest,) = {b.inputs["decoder_input_ids"].shape[1] for b, _ in shared.batches(model, False)}
            source = {"input_ids": torch.tensor([[9, 8, 7, 6, 2]]), "decoder_input_ids": torch.full((1, longest), 5)}
            return patch(model, mask, source=source)
        if way == "scale":
            return scale(model, mask, -2.0)
        return contextlib.nullcontext() if way == "plain" else ablate(model, mask, value=way, data=asked)

    shared, alone = prepare_task(model, asked), prepare_task(model, asked)
    with scope(), counted(model, "encoder") as encoder:
        found = label_loglik(model, shared)
    assert encoder["rows"] == len(asked.test)
    monkeypatch.setattr(engine, "encoder_once", lambda *args: contextlib.nullcontext())
    monkeypatch.setattr(ranking, "_covers", lambda row, item, style: False)
    with scope(), counted(model, "encoder") as encoder:
        expected = label_loglik(model, alone)
    assert encoder["rows"] == len(asked.test) * len(LABELS)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    monkeypatch.undo()
    assert way == "plain" or (found - label_loglik(model, prepare_task(model, asked))).abs().max() > 1e-3


def test_keys_and_values_of_a_prompt_are_made_once(model, monkeypatch):
    """What is saved of each row beyond a prompt's first: its encoder, and cross-attention's keys and values."""
    asked = task((9, 9))
    prepared = prepare_task(model, asked)
    label_loglik(model, prepared)

    def operations():
        with FlopCounterMode(display=False) as counter:
            label_loglik(model, prepared)
        return counter.get_total_flops()

    once = operations()
    monkeypatch.setattr(engine, "encoder_once", lambda *args: contextlib.nullcontext())
    per_row = operations()
    repeats, width, tokens = 2 * (3 - 1), 32, 9 + 1
    prompts = [item.inputs for item in prepared.labels[0]]
    assert [len(p) for p in prompts] == [tokens, tokens]
    d_ff, gated = 48, 3 if "T5" in type(model.root).__name__ else 2
    linear = 2 * width * (4 * width + gated * d_ff)  # of a token in a layer of the encoder
    keys_and_values, attention = 2 * 2 * width * width, 2 * 2 * tokens * width  # attention's may not be counted
    saved = (per_row - once) / (repeats * tokens * 2)
    assert linear + keys_and_values <= saved <= linear + keys_and_values + attention


@pytest.mark.parametrize("style", ["causal", "seq2seq"])
def test_generation_runs_the_prompt_once_and_then_each_new_token(tiny_model, style):
    model = tiny_model(style)
    asked, new = task((4, 4, 4, 4), (), max_new_tokens=5), 5
    prompt = 4 + 1  # a special token
    settings = model.root.generation_config
    endless = transformers.GenerationConfig(eos_token_id=99, decoder_start_token_id=0)
    model.root.generation_config = endless  # none ends early
    try:
        for size in (None, 1, 2, 64):
            side = "decoder" if style == "seq2seq" else "encoder"  # a causal model has one side alone
            with counted(model, side) as seen, counted(model, "encoder") as encoder:
                predict(model, prepare_task(model, asked, batch_size=size))
            shown = (1 if style == "seq2seq" else prompt) + new - 1  # the last new token is not shown again
            assert seen["tokens"] == 4 * shown, size
            if style == "seq2seq":
                assert encoder["tokens"] == 4 * prompt
            assert seen["passes"] == new * {None: 1, 1: 4, 2: 2, 64: 1}[size]
    finally:
        model.root.generation_config = settings


@pytest.mark.parametrize("style", ["causal", "seq2seq"])
def test_batches_of_generation_are_by_tokens_and_do_not_show(tiny_model, style, monkeypatch):
    model, asked = tiny_model(style), task((3, 14, 1, 9, 6, 2, 14), (), max_new_tokens=6)
    answers = {}
    for tokens in (1, 40, 8192):
        monkeypatch.setattr(
            "neuroscope.tasks.encoding.tokens_at_once", lambda model, generates, tokens=tokens: tokens * generates
        )
        prepared = prepare_task(model, asked)
        sizes = [len(batch.index) for batch in prepared.prompts]
        assert sizes == {1: [1] * 7, 40: [2, 4, 1], 8192: [7]}[tokens]  # 2 x 15; 4 x 10; 2
        assert all(batch.real.numel() <= max(tokens, 16) for batch in prepared.prompts)
        answers[tokens] = evaluate(model, asked).table["prediction"].tolist()
    for size in (1, 2, 64):
        answers[-size] = evaluate(model, asked, batch_size=size).table["prediction"].tolist()
    assert len({tuple(a) for a in answers.values()}) == 1 and len(set(answers[1])) > 2
