"""The residual stream: equal to Hugging Face's own on every backend, for any batch, and streamed without loss."""

import os
import signal
import subprocess
import sys

import families
import numpy as np
import pytest
import torch
from nnsight.modeling.transformers import TransformersModel
from state import unchanged
from tiny import tiny_tokenizer
from transformer_lens.model_bridge import TransformerBridge

from neuroscope.comparison.hidden_states import Representations, reading, recording, representations
from neuroscope.errors import ArgumentError, FileError, ModelError, NumericalError, TaskError
from neuroscope.models import load
from neuroscope.tasks import Example, Task

TEXTS = ["the food was very good", "so the film was not good", "a great story", "awful plot", "the soup was bad :"]


def task(name="mood", texts=TEXTS, family="sentiment"):
    return Task(name, test=[Example(text, "yes") for text in texts], family=family, max_new_tokens=1)


def hidden_states(root, style, ids):
    """Hugging Face's own answer for one prompt: [layer, pos, feature]."""
    ids = torch.tensor([ids])
    inner = root.get_encoder() if style == "seq2seq" else root
    with torch.no_grad():
        return torch.cat(inner(input_ids=ids, output_hidden_states=True).hidden_states)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return families.tokenizer(tmp_path_factory.mktemp("tokenizer"))


NUMBERED = [" ".join(f"w{(7 * i + 3 * j) % 50 + 40}" for j in range(3 + i)) for i in range(5)]
CLOSELY = ["llama", "gpt2", "gemma2", "opt", "t5", "bert", "distilbert"]
CASES = [(n, at) for n in CLOSELY for at in ("last", 0, -2, "mean")]
CASES += [(n, "last") for n in families.FAMILIES if n not in CLOSELY]


@pytest.mark.parametrize(("name", "at"), CASES)
def test_equal_to_hugging_faces_hidden_states(name, at, words):
    root = families.build(name)
    model = load(root, tokenizer=words)
    numbered = task(texts=NUMBERED)
    with unchanged(root):
        found = representations(model, numbered, at=at, batch_size=1)["mood"]
        batched = representations(model, numbered, at=at, batch_size=3)["mood"]
    assert found.shape == (3, 5, 32) and found.dtype == np.float32
    for i, text in enumerate(NUMBERED):
        stream = hidden_states(root, model.style, words(text)["input_ids"])
        n = len(text.split())  # this tokenizer adds no special tokens
        if at == "mean":
            np.testing.assert_allclose(found[:, i], stream.mean(1), atol=1e-6)
        else:
            assert np.array_equal(found[:, i], stream[:, {"last": n - 1, 0: 0, -2: n - 2}[at]])
    np.testing.assert_allclose(batched, found, atol=1e-5)


WAYS = [(n, way) for n in ("llama", "gpt2", "t5") for way in ("bridge", "compatible", "nnsight")]
WAYS.remove(("t5", "nnsight"))  # its wrapper is for models that continue a text


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_every_backend_has_the_same_stream(name, way, words):
    numbered = task(texts=NUMBERED)
    own = representations(load(families.build(name), tokenizer=words), numbered)["mood"]
    root = families.build(name)
    if way == "nnsight":
        model = TransformersModel(root, task="text-generation", tokenizer=words)
    else:
        model = TransformerBridge.boot_transformers("tiny", hf_model=root, tokenizer=words, device="cpu")
    if way == "compatible":
        model.enable_compatibility_mode(disable_warnings=True)
    found = representations(load(model, tokenizer=words), numbered)["mood"]
    if way == "compatible" and name != "t5":  # the norms' gains are folded away; under LayerNorm the stream is centred
        own, found = own[:-1], found[:-1]
        own = own - own.mean(-1, keepdims=True) if name == "gpt2" else own
    np.testing.assert_allclose(found, own, rtol=0, atol=0 if way == "nnsight" else 1e-5)


def test_the_last_layer_can_be_read_before_the_final_norm(tiny_model):
    model = tiny_model()
    after = representations(model, task())["mood"]
    before = representations(model, task(), normed=False)["mood"]
    assert np.array_equal(before[:-1], after[:-1])
    with torch.no_grad():
        normed = model.root.model.norm(torch.tensor(before[-1]))
    np.testing.assert_allclose(normed, after[-1], atol=1e-6)
    assert not np.allclose(before[-1], after[-1])
    encoder = tiny_model("masked")  # no final norm: one reading
    assert np.array_equal(*(representations(encoder, task(), normed=n)["mood"] for n in (True, False)))


@pytest.mark.parametrize("style", ["causal", "seq2seq", "masked"])
def test_special_tokens_are_shown_but_not_counted(style, tiny_model):
    """The last prompt token is a word, not T5's or BERT's end token; position 0 is a word, not the start token."""
    model = tiny_model(style)
    shown = {"causal": [1], "seq2seq": [], "masked": [1]}[style], {"causal": [], "seq2seq": [2], "masked": [2]}[style]
    text = TEXTS[0]
    ids = [*shown[0], *tiny_tokenizer(style)(text, add_special_tokens=False)["input_ids"], *shown[1]]
    stream = hidden_states(model.root, style, ids)
    first = len(shown[0])
    for at, place in {"last": first + 4, 0: first, -1: first + 4}.items():
        found = representations(model, task(texts=[text]), at=at)["mood"]
        assert np.array_equal(found[:, 0], stream[:, place]), at
    mean = representations(model, task(texts=[text]), at="mean")["mood"][:, 0]
    np.testing.assert_allclose(mean, stream[:, first : first + 5].mean(1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("style", ["causal", "seq2seq", "masked"])
def test_batches_and_padding_do_not_matter(style, tiny_model):
    model = tiny_model(style)
    alone = representations(model, task(), batch_size=1, at="mean")["mood"]
    for size, side in ((2, "right"), (5, "left")):
        model.tokenizer.padding_side = side
        np.testing.assert_allclose(representations(model, task(), batch_size=size, at="mean")["mood"], alone, atol=1e-5)
    model.tokenizer.padding_side = "right"


def test_tasks_keep_their_order_prompts_and_families(tiny_model):
    tasks = {"a": task("a", family="f"), "b": task("b", TEXTS[:2], family="")}
    seen = []
    found = representations(
        tiny_model(), tasks, n=3, batch_size=2, progress=lambda loop, desc: seen.append((len(loop), desc)) or loop
    )
    assert list(found) == ["a", "b"] and found["a"].shape == (3, 3, 32) and found["b"].shape == (3, 2, 32)
    assert found.families == {"a": "f", "b": "b"}
    assert found.examples["b"] == [(text, "yes") for text in TEXTS[:2]]
    assert seen == [(2, "representations of a"), (1, "representations of b")]
    assert found.layers == ["embedding", "1", "2"] and "2 tasks, 5 examples, 3 layers x 32" in repr(found)
    assert found.manifest["at"] == "last" and found.manifest["fingerprint"]
    frame = found.to_frame()
    row = frame[(frame["task"] == "a") & (frame["layer"] == 1)].iloc[0]
    assert row["examples"] == 3 and row["features"] == 32 and row["constant_features"] == 0
    x = found["a"][1].astype(float)
    assert row["norm"] == pytest.approx(np.sqrt((x**2).sum(1)).mean())
    assert row["variance"] == pytest.approx(((x - x.mean(0)) ** 2).sum() / 3)


def test_saved_and_loaded(tiny_model, tmp_path):
    found = representations(tiny_model(), {"a/b": task("a/b"), "c": task("c", TEXTS[:2])})
    again = Representations.load(found.save(tmp_path / "reps"))
    assert isinstance(again["c"], np.memmap) and not again["c"].flags.writeable
    assert all(np.array_equal(found[t], again[t]) for t in found)
    assert (again.examples, again.families, again.manifest) == (found.examples, found.families, found.manifest)
    again.save(tmp_path / "reps")  # on itself
    assert np.array_equal(Representations.load(tmp_path / "reps")["c"], found["c"])
    file = next((tmp_path / "reps").glob("*c.npy"))
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(FileError, match="compute the representations again"):
        Representations.load(tmp_path / "reps")
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(FileError):  # would have to be unpickled
        Representations.load(tmp_path / "reps")
    with pytest.raises(FileError, match="No such file"):
        Representations.load(tmp_path / "nothing")


def test_streaming_gives_the_same_numbers_and_resumes(tiny_model, tmp_path, monkeypatch):
    model, tasks = tiny_model(), [task("a"), task("b", TEXTS[:3])]
    whole = representations(model, tasks, batch_size=2)
    passes = []
    real = reading.Reader.__call__

    def failing(self, batch, picked):
        passes.append(len(batch.index))
        if len(passes) == fails_at:
            raise KeyboardInterrupt
        return real(self, batch, picked)

    monkeypatch.setattr(reading.Reader, "__call__", failing)
    fails_at = 4  # the pass that tells the shape, then two batches of task a
    with pytest.raises(KeyboardInterrupt):
        representations(model, tasks, batch_size=2, output=tmp_path)
    assert [p.name for p in tmp_path.glob("*.npy")] == [] and not (tmp_path / "representations.json").exists()
    with pytest.raises(FileError):
        Representations.load(tmp_path)  # not whole
    fails_at, passes[:] = 0, []
    found = representations(model, tasks, batch_size=2, output=tmp_path)
    assert passes == [1, 1, 2, 1]  # the shape; the rest of a; b
    assert all(np.array_equal(found[t], whole[t]) for t in whole)
    passes.clear()
    again = representations(model, tasks, batch_size=2, output=tmp_path)
    assert passes == [] and np.array_equal(again["b"], whole["b"])
    again = representations(model, tasks, batch_size=3, output=tmp_path)  # which changes no number
    assert passes == [] and np.array_equal(again["b"], whole["b"])
    for other in ({"at": "mean"}, {"n": 2}, {"dtype": "float16"}):
        with pytest.raises(FileError, match=f"another run: {next(iter(other))}"):
            representations(model, tasks, **other, output=tmp_path)
    with pytest.raises(FileError, match="another run: fingerprint"):
        representations(tiny_model(seed=1), tasks, output=tmp_path)
    whole.save(tmp_path / "saved")
    with pytest.raises(FileError, match="saved, not streamed"):
        representations(model, tasks, batch_size=2, output=tmp_path / "saved")
    with pytest.raises(FileError, match="another run: tasks.b .*, now None"):
        representations(model, tasks[:1], batch_size=2, output=tmp_path)


def test_a_run_goes_on_with_another_batch_size(tiny_model, tmp_path):
    model, tasks = tiny_model(), [task("a")]
    whole = representations(model, tasks, batch_size=1)

    def stopping(loop, desc):
        yield next(iter(loop))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        representations(model, tasks, batch_size=2, output=tmp_path, progress=stopping)
    found = representations(model, tasks, batch_size=3, output=tmp_path)
    np.testing.assert_allclose(found["a"], whole["a"], atol=1e-5)


def test_a_journal_without_its_file_is_refused(tiny_model, tmp_path):
    model = tiny_model()
    representations(model, task(), output=tmp_path)
    for name in ("representations.json", "000-mood.npy"):
        (tmp_path / name).unlink()
    with pytest.raises(FileError, match=r"finished batches in its journal, but no 000-mood\.npy\.partial"):
        representations(model, task(), output=tmp_path)


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from tiny import tiny_model
from neuroscope.comparison.hidden_states import reading, representations
from neuroscope.tasks import Example, Task
real, count = reading.Reader.__call__, []
def slow(self, batch, picked):
    count.append(1)
    if len(count) == 4:
        print("ready", flush=True); time.sleep(60)
    return real(self, batch, picked)
reading.Reader.__call__ = slow
mood = Task("mood", test=[Example(text, "yes") for text in {texts!r}], family="sentiment", max_new_tokens=1)
representations(tiny_model(), mood, batch_size=1, output={output!r})
"""


def test_a_killed_process_loses_no_finished_batch(tiny_model, tmp_path):
    here = os.path.dirname(__file__)
    code = KILLED.format(tests=here, output=str(tmp_path), texts=TEXTS)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=os.path.dirname(here)
    )
    try:
        assert process.stdout.readline() == "ready\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert len((tmp_path / "batches.jsonl").read_text().splitlines()) == 2  # the first pass tells the shape
    found = representations(tiny_model(), task(), batch_size=1, output=tmp_path)
    assert np.array_equal(found["mood"], representations(tiny_model(), task(), batch_size=1)["mood"])


def test_large_ones_go_to_a_temporary_folder(tiny_model, monkeypatch):
    expected = representations(tiny_model(), task())["mood"]
    monkeypatch.setattr(recording, "IN_MEMORY", 1000)
    found = representations(tiny_model(), task())
    folder = found.holder.name
    assert isinstance(found["mood"], np.memmap) and np.array_equal(found["mood"], expected)
    found.holder.cleanup()
    assert not os.path.exists(folder)


def test_dtype(tiny_model):
    half = representations(tiny_model(), task(), dtype="float16")["mood"]
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, representations(tiny_model(), task())["mood"], atol=2e-2)


def test_activations_that_are_not_finite_are_named(tiny_model):
    model = tiny_model()
    with torch.no_grad():
        model.root.model.embed_tokens.weight[model.tokenizer.get_vocab()["soup"]] = torch.inf
    with pytest.raises(NumericalError, match="task 'mood'\n  found: not finite at layer 0 of example 4"):
        representations(model, task(), at=1)
    model = tiny_model()
    with torch.no_grad():
        model.root.model.embed_tokens.weight.mul_(1e6)
    with pytest.raises(NumericalError, match="float32"):
        representations(model, task(), dtype="float16")


def test_a_models_interventions_count(tiny_model):
    model = tiny_model()
    site = model.sites("hidden")["blocks.1.mlp.hook_post"]
    plain = representations(model, task(), normed=False)["mood"]
    with families.edit([site], lambda site, h, tokens: torch.zeros_like(h)):
        edited = representations(model, task(), normed=False)["mood"]
    assert np.array_equal(edited[:2], plain[:2]) and not np.allclose(edited[2], plain[2])


def test_what_cannot_be(tiny_model):
    model = tiny_model()
    for wrong, error, text in (
        ({"at": "first"}, ArgumentError, "no such at"),
        ({"at": True}, ArgumentError, "at=True"),
        ({"at": 3}, TaskError, "example 2 of task 'mood'\n  found: a prompt of 3 tokens"),
        ({"at": -3}, TaskError, "example 3 of task 'mood'\n  found: a prompt of 2 tokens"),
        ({"dtype": "int8"}, ArgumentError, "dtype"),
        ({"batch_size": 0}, ArgumentError, "batch_size"),
        ({"split": "train"}, TaskError, "train examples"),
        ({"layers": 3}, ArgumentError, "layers"),
    ):
        with pytest.raises(error, match=text):
            representations(model, task(), **wrong)
    with pytest.raises(ArgumentError, match="two tasks named"):
        representations(model, [task(), task()])
    with pytest.raises(ArgumentError, match="no task"):
        representations(model, [])
    with pytest.raises(TaskError, match="a prompt of 0 tokens"):
        representations(model, task(texts=[" "]))
    with pytest.raises(TaskError, match="71 tokens, and a context of 64"):
        representations(model, task(texts=["the" + " the" * 69]))
    with pytest.raises(ArgumentError, match="one array"):
        Representations({"a": np.zeros((3, 2, 4)), "b": np.zeros((2, 2, 4))})
    with pytest.raises(ArgumentError, match="1 prompts for 2 examples"):
        Representations({"a": np.zeros((3, 2, 4))}, {"a": [("p", "a")]})
    with pytest.raises(ArgumentError, match="did you mean 'mood'"):
        Representations({"mood": np.zeros((3, 2, 4))})["mod"]


def test_a_model_that_runs_a_block_twice_is_refused(tiny_model):
    model = tiny_model()
    model.root.model.layers[1] = model.root.model.layers[0]
    with pytest.raises(ModelError, match="in more than one block"):
        representations(model, task())


def test_a_model_in_training_is_read_as_in_evaluation(tiny_model):
    model = tiny_model("masked")
    expected = representations(model, task())["mood"]
    model.root.train()
    assert model.root.bert.encoder.layer[0].output.dropout.p > 0
    with unchanged(model.root):
        assert np.array_equal(representations(model, task())["mood"], expected)
    assert all(module.training for module in model.root.modules())


def test_what_stands_at_the_padding_does_not_matter(tiny_model):
    model, seen = tiny_model(), []
    expected = representations(model, task(), at="mean", batch_size=5)["mood"]
    inner = model.root.model
    inner.embed_tokens.register_forward_hook(lambda module, given, out: seen.append(given[0] == 0))
    inner.layers[1].mlp.register_forward_hook(lambda m, given, out: out.masked_fill(seen[-1][..., None], torch.nan))
    assert np.array_equal(representations(model, task(), at="mean", batch_size=5)["mood"], expected)
    assert any(padding.any() for padding in seen)


def test_a_partial_file_cut_short_is_refused(tiny_model, tmp_path):
    """It would be filled up with zeros, where the journal says that its batches are finished."""

    def stopping(loop, desc):
        yield from loop[:2]
        raise KeyboardInterrupt

    model = tiny_model()
    with pytest.raises(KeyboardInterrupt):
        representations(model, task(), batch_size=2, output=tmp_path, progress=stopping)
    file = next(tmp_path.glob("*.partial"))
    file.write_bytes(file.read_bytes()[:-400])
    with pytest.raises(FileError, match="delete the folder"):
        representations(model, task(), batch_size=2, output=tmp_path)


def test_a_finished_run_has_the_families_of_the_tasks_given(tiny_model, tmp_path):
    model = tiny_model()
    representations(model, task(family="old"), output=tmp_path)
    found = representations(model, task(family="new"), output=tmp_path)
    assert found.families == {"mood": "new"} and isinstance(found["mood"], np.memmap)


def test_lists_and_tensors_become_arrays_and_what_is_none_is_refused(tmp_path):
    rows = [[[1.0, 2.0], [3.0, 4.0]]]
    found = Representations({"a": rows, "b": torch.tensor(rows, dtype=torch.bfloat16)})
    assert found.n_layers == 1 and found["b"].dtype == np.float32
    again = Representations.load(found.save(tmp_path))
    assert np.array_equal(again["b"], rows) and np.array_equal(again["a"], rows)
    for wrong, match in (
        ({"a": np.zeros((1, 2, 3), dtype=object)}, "type object"),
        ({"a": np.zeros((1, 2, 3)) * 1j}, "complex"),
        ({"a": [[[1.0], [1.0, 2.0]]]}, "inhomogeneous"),
        ([np.zeros((1, 2, 3))], "a list"),
        ({}, "no tasks"),
    ):
        with pytest.raises(ArgumentError, match=match):
            Representations(wrong)


def test_get_is_that_of_a_mapping():
    found = Representations({"mood": np.zeros((3, 2, 4))})
    assert found.get("mod") is None and found.get("mod", 5) == 5
    assert found.get("mood") is found["mood"]


def test_the_batch_size_is_chosen_by_tokens_where_none_is_given(tiny_model, monkeypatch):
    sizes, real = [], reading.Reader.__call__
    monkeypatch.setattr(reading.Reader, "__call__", lambda self, b, p: sizes.append(len(b.index)) or real(self, b, p))
    many = task(texts=TEXTS * 5)
    whole = representations(tiny_model(), many)["mood"]
    assert sizes == [1, 25]  # the first pass tells the shape
    monkeypatch.setattr("neuroscope.tasks.encoding.tokens_at_once", lambda model, generates: 20)
    sizes.clear()
    np.testing.assert_allclose(representations(tiny_model(), many)["mood"], whole, atol=1e-5)
    assert sizes[1] == 20 // (1 + max(len(text.split()) for text in TEXTS))  # the start token is one more


def test_the_words_say_what_was_read(tiny_model):
    found = representations(tiny_model(), [task("a"), task("b", TEXTS[:2])], at="mean")
    words = found.in_words()
    assert "on 7 examples of 2 tasks, mean over each prompt's tokens: 3 layers" in words
    assert found.manifest["model"] in words and "on 7 examples of 2 tasks" in found._repr_html_()
    assert Representations({"x": np.zeros((2, 3, 4))}).in_words() == (
        "The residual stream on 3 examples of 1 task: 2 layers, the embedding among them, of 4 features."
    )
