"""Loss on neutral text: each token scored once, in every style, under what is live; and which texts are whose."""

import math

import numpy as np
import pytest
import torch
from state import changed, snapshot
from tiny import TINY_SPECIAL, TINY_WORDS, tiny_model

import neuroscope as ns
from neuroscope.errors import ArgumentError, ModelError, NumericalError
from neuroscope.evaluation import prepare_neutral
from neuroscope.evaluation.neutral_texts import ENGLISH

TEXTS = ["the food was good", "a story", "the film was not so great and", "very very awful soup : maybe yes"]
TEXTS = [text.replace(" and", "") for text in TEXTS]
IDS = {word: i for i, word in enumerate(TINY_SPECIAL + TINY_WORDS)}


def ids_of(text):
    return [IDS[word] for word in text.split()]


def by_hugging_face(model, style, text):
    """The loss that transformers computes of the same tokens."""
    ids = ids_of(text)
    run = lambda inputs, labels: model.root(input_ids=torch.tensor([inputs]), labels=torch.tensor([labels])).loss.item()  # noqa: E731
    with torch.no_grad():
        if style == "causal":
            return run([1, *ids], [1, *ids])  # its first label is of no position
        if style == "seq2seq":
            half = (len(ids) + 1) // 2
            return run([*ids[:half], 2], ids[half:])
        whole, losses = [1, *ids, 2], []
        for i in range(1, len(ids) + 1):
            labels = [-100] * len(whole)
            labels[i] = whole[i]
            losses.append(run([*whole[:i], IDS["<mask>"], *whole[i + 1 :]], labels))
        return np.mean(losses)


@pytest.mark.parametrize("style", ["causal", "seq2seq", "masked"])
def test_each_text_has_the_loss_that_transformers_gives_it_by_itself(style):
    model = tiny_model(style)
    before = snapshot(model.root)
    found = ns.neutral_loss(model, TEXTS)
    np.testing.assert_allclose(found.losses, [by_hugging_face(model, style, text) for text in TEXTS], rtol=1e-5)
    for size in (1, 3):
        np.testing.assert_allclose(ns.neutral_loss(model, TEXTS, batch_size=size).losses, found.losses, rtol=1e-5)
    assert found.loss == pytest.approx(found.losses.mean())
    lengths = [len(text.split()) for text in TEXTS]
    assert found.table["tokens"].tolist() == [n // 2 if style == "seq2seq" else n for n in lengths]
    assert changed(before, snapshot(model.root)) == []


def test_without_a_start_token_the_first_token_is_only_read():
    model = tiny_model()
    model.tokenizer.backend_tokenizer.post_processor = None
    ids = ids_of(TEXTS[0])
    with torch.no_grad():
        right = model.root(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()
    assert ns.neutral_loss(model, TEXTS[:1]).loss == pytest.approx(right, rel=1e-5)
    with pytest.raises(ArgumentError, match=r"texts\[1\], 'food'\n.*1 token\(s\), none of which"):
        ns.neutral_loss(model, [TEXTS[0], "food"])


def test_what_is_live_counts():
    """Neurons switched off are those whose weights to the residual stream are zero."""
    model, other = tiny_model(), tiny_model()
    widths = {address: site.width for address, site in model.sites().items()}
    mask = ns.NeuronMask.of({address: range(0, width, 3) for address, width in widths.items()}, widths)
    with torch.no_grad():
        for layer in other.root.model.layers:
            layer.mlp.down_proj.weight[:, ::3] = 0
    before = ns.neutral_loss(model, TEXTS).losses
    with ns.ablate(model, mask):
        off = ns.neutral_loss(model, TEXTS)
    np.testing.assert_allclose(off.losses, ns.neutral_loss(other, TEXTS).losses, rtol=1e-5)
    assert off.manifest["interventions"] and np.abs(off.losses - before).min() > 1e-3
    np.testing.assert_array_equal(ns.neutral_loss(model, TEXTS).losses, before)


def test_a_model_that_guesses_is_said_to_guess():
    model = tiny_model()
    with torch.no_grad():
        model.root.lm_head.weight.zero_()
    found = ns.neutral_loss(model, TEXTS)
    np.testing.assert_allclose(found.losses, math.log(len(IDS)), rtol=1e-6)
    assert found.guessing == pytest.approx(math.log(len(IDS)))
    assert found.in_words().startswith("**A negative**: on 4 neutral text(s) (given)")
    assert found.figure().data[0].y == tuple(found.losses)


def test_the_interval_is_over_texts():
    found = ns.neutral_loss(tiny_model(), TEXTS)
    half = 3.182446 * found.losses.std(ddof=1) / 2  # t of 3 degrees of freedom, over the root of 4
    assert found.interval == pytest.approx((max(0, found.loss - half), found.loss + half), rel=1e-5)
    assert f"**{found.loss:.2f} nats a token**" in found.in_words()


def test_an_infinite_loss_is_refused():
    model = tiny_model()
    with torch.no_grad():
        model.root.lm_head.weight[IDS["story"]] = float("nan")
    with pytest.raises(NumericalError, match="neutral text 'the food was good'"):
        ns.neutral_loss(model, TEXTS)


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ([], "texts to measure the loss on\n.*none"),
        (["the food was good", "the capital of France"], r"texts\[1\].*\n.*does not know"),
        (["the food was good", " "], r"texts\[1\], ' '\n.*0 token"),
        (["the food " * 40], r"texts\[0\].*\n.*80 tokens, for a context of 64"),
        (["the food", 3], "texts"),
    ],
)
def test_texts_that_say_nothing_are_refused(texts, found):
    with pytest.raises(ArgumentError, match=found):
        ns.neutral_loss(tiny_model(), texts)


def test_a_vocabulary_without_english_gets_no_number():
    with pytest.raises(ModelError, match=r"neutral texts for .*\n.*\n.*give texts"):
        ns.neutral_loss(tiny_model())


def test_a_tokenizer_that_knows_english_gets_the_sentences(tmp_path):
    import tokenizers
    import transformers

    words = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>", byte_fallback=False))
    words.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=260, special_tokens=["<unk>"], initial_alphabet=alphabet)
    words.train_from_iterator([], trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<unk>")
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    found = ns.neutral_loss(ns.load(transformers.LlamaForCausalLM(config), tokenizer=tokenizer))
    assert tuple(found.table["text"]) == ENGLISH and found.manifest["texts"] == "English sentences"
    assert found.table["tokens"].tolist() == [len(text) - 1 for text in ENGLISH]  # a token is a letter
    assert type(found).load(found.save(tmp_path / "n.json")).loss == found.loss


def test_the_english_sentences_are_short_and_differ():
    assert 24 <= len(set(ENGLISH)) == len(ENGLISH) <= 40
    assert all(6 <= len(text.split()) <= 20 and text.endswith(".") for text in ENGLISH)


def test_the_bundled_model_is_asked_for_answers_to_its_tasks():
    """It writes them: a fraction of a nat, where guessing has more than five. Beside a task, its family is left out."""
    model = ns.load("mini")
    found, tasks = ns.neutral_loss(model), ns.load_tasks("mini")
    assert found.manifest["texts"] == "answers to the bundled tasks" and len(found.table) == 2 * len(tasks)
    assert found.loss < 0.1 < 5 < found.guessing
    neutral = prepare_neutral(model)
    for family in ("nli", "summary"):
        left = {neutral.texts[i].family for i in neutral.beside(family)}
        assert left == {task.family for task in tasks.values()} - {family}
    assert len(neutral.beside("another")) == len(neutral.texts)
    assert neutral.digest == prepare_neutral(model).digest != prepare_neutral(model, ["the soup was good"]).digest
