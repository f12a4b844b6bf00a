"""Answers are decoded greedily, whatever the model's own settings for generation are."""

import pytest
from tiny import WORDS, tiny_model

from neuroscope.evaluation import evaluate
from neuroscope.tasks import Example, Task

SETTINGS = {
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "min_new_tokens": 8,
    "suppress_tokens": list(range(5, 20)),
    "begin_suppress_tokens": list(range(5, 25)),
    "bad_words_ids": [[i] for i in range(5, 20)],
    "max_time": 1e-9,
    "return_dict_in_generate": True,
    "output_scores": True,
    "num_return_sequences": 1,
    "prompt_lookup_num_tokens": 3,
    "do_sample": True,
    "temperature": 9.0,
    "top_k": 3,
    "length_penalty": 3.0,
    "num_beams": 3,
    "forced_eos_token_id": 7,
    "max_length": 3,
    "stop_strings": ["good"],
    "sequence_bias": [[[6], 100.0]],
}


def task():
    prompts = [" ".join(WORDS[i : i + 4]) for i in range(5)]
    return Task("texts", test=[Example(prompt, "good") for prompt in prompts], max_new_tokens=5)


@pytest.fixture(scope="module", params=["causal", "seq2seq"])
def plain(request):
    model = tiny_model(request.param)
    return model, list(evaluate(model, task()).table["prediction"])


@pytest.mark.parametrize("name", SETTINGS)
def test_the_models_own_settings_do_not_leak_into_answers(plain, name):
    model, answers = plain
    assert len(set(answers)) > 1
    own = model.base.generation_config
    setattr(own, name, SETTINGS[name])
    try:
        assert list(evaluate(model, task()).table["prediction"]) == answers
        assert model.base.generation_config is own and getattr(own, name) == SETTINGS[name]
    finally:
        setattr(own, name, None)


def test_the_models_own_settings_are_back_after_an_error(plain, monkeypatch):
    model, _ = plain
    own = model.base.generation_config

    def broken(*args, **kwargs):
        raise RuntimeError("broken")

    monkeypatch.setattr(model.root, "generate", broken)
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(model, task())
    assert model.base.generation_config is own
