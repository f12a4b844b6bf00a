"""Torch's ambient settings, and models that cannot be used as they are."""

import contextlib
import copy

import peft
import pytest
import torch
from families import build

import neuroscope as ns

FOOD = [ns.Example(f"the {a} was {b}", c) for a in ("food", "soup") for b, c in (("very", "good"), ("not", "bad"))]
TASK = ns.Task("x", labels=("good", "bad"), train=FOOD, test=FOOD)


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


def numbers(model):
    scores = ns.attribute(model, TASK)
    mask = scores.top(0.3)
    with ns.ablate(model, mask, value="resample", data=TASK, seed=3):
        drawn = ns.evaluate(model, TASK)
    with ns.ablate(model, mask), torch.no_grad():
        off = ns.evaluate(model, TASK)
    ns.finetune(model, TASK, mask, steps=2, batch_size=2)
    after = [p.detach().clone() for p in model.root.parameters()]  # the adapter's among them
    tables = (drawn.table, off.table, ns.evaluate(model, TASK).table)
    return [*scores.values(), *mask.values(), *after], [t.to_dict("records") for t in tables]


@pytest.mark.parametrize(
    "ambient",
    [
        lambda: default_dtype(torch.float64),
        lambda: default_dtype(torch.bfloat16),
        lambda: default_device("meta"),
        lambda: torch.device("meta"),
        lambda: torch.autocast("cpu", torch.bfloat16),
        torch.inference_mode,
        torch.no_grad,
    ],
)
def test_ambient_settings_of_torch_change_no_result(tiny_model, ambient):
    right = numbers(tiny_model())
    model = tiny_model()
    before = torch.get_default_dtype(), torch.get_default_device(), torch.is_autocast_enabled("cpu")
    with ambient():
        inside = torch.get_default_dtype(), torch.get_default_device(), torch.is_autocast_enabled("cpu")
        got = numbers(model)
        assert inside == (torch.get_default_dtype(), torch.get_default_device(), torch.is_autocast_enabled("cpu"))
    assert before == (torch.get_default_dtype(), torch.get_default_device(), torch.is_autocast_enabled("cpu"))
    assert got[1] == right[1]
    assert all(torch.equal(a, b) for a, b in zip(got[0], right[0], strict=True))


def test_a_model_made_under_inference_mode_is_refused_and_the_advice_helps():
    with torch.inference_mode():
        root = build("llama")
    with pytest.raises(ns.NeuroscopeError, match=r"made under torch\.inference_mode(.|\n)*copy\.deepcopy"):
        ns.load(root)
    assert len(ns.load(copy.deepcopy(root)).sites()) == 2


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (peft.PromptTuningConfig, {}),
        (peft.PromptEncoderConfig, {"encoder_hidden_size": 8}),
        (peft.PrefixTuningConfig, {}),
    ],
)
def test_prompt_learning_is_refused_and_the_advice_helps(kind, settings):
    wrapped = peft.get_peft_model(build("llama"), kind(task_type="CAUSAL_LM", num_virtual_tokens=4, **settings))
    with pytest.raises(ns.NeuroscopeError, match=r"_tuning of PEFT(.|\n)*get_base_model"):
        ns.load(wrapped)
    assert len(ns.load(wrapped.get_base_model()).sites()) == 2


def test_a_vocabulary_smaller_than_the_tokenizers_is_said(tiny_model):
    model = tiny_model()
    root = copy.deepcopy(model.root)
    root.resize_token_embeddings(10)
    small = ns.load(root, tokenizer=model.tokenizer)
    mask = ns.attribute(model, TASK).top(0.3)
    for use in (ns.evaluate, ns.attribute, lambda m, t: ns.finetune(m, t, mask, steps=1), ns.representations):
        with pytest.raises(ns.NeuroscopeError, match=r"the model's vocabulary has 10(.|\n)*resize_token_embeddings"):
            use(small, TASK)
