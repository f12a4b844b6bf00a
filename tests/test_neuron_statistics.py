"""Statistics of all neurons over a corpus, against brute force: the whole matrix of tokens x neurons."""

import gc
import json
import tracemalloc
from types import SimpleNamespace

import families
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from tiny import tiny_model

import neuroscope as ns
from neuroscope.errors import ArgumentError, FileError, NumericalError
from neuroscope.models import tap_experts
from neuroscope.reading import over_a_corpus, tallies
from neuroscope.reading.sinks import Begun
from neuroscope.reading.statistics_result import NeuronStatistics
from neuroscope.tasks import Example, Task

NOUNS, MOODS = (
    ("food", "film", "soup", "plot", "story"),
    ("good", "bad", "great", "awful", "so very good", "not so bad"),
)
TEXTS = [f"the {noun} was {mood}" + " and a story" * (i % 3) for i, noun in enumerate(NOUNS) for mood in MOODS]
FOOD = Task(
    "food", test=[Example(f"the {noun} was {mood} :", "yes") for noun in NOUNS for mood in MOODS], labels=("yes", "no")
)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(over_a_corpus, "CHUNK", 7)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return families.tokenizer(tmp_path_factory.mktemp("tokenizer"))


def brute_force(read, column, count):
    """Of each text its most extreme token, and of these the most extreme, in both directions."""
    values = read.table.assign(value=read.table[column]).dropna(subset="value")
    for sign, factor in (("+", 1), ("-", -1)):
        best = (factor * values["value"]).groupby([values["task"], values["text"]]).max()
        yield sign, factor * best[best > 0].sort_values(ascending=False).iloc[:count]


def same(found, read, count):
    """Everything that the statistics say is what the whole matrix says."""
    table = found.table.set_index("name")
    assert list(table.index) == read.neurons
    x = read.table[read.neurons].astype(float)
    np.testing.assert_array_equal(table["tokens"], x.notna().sum())
    for column, values in {"mean": x.mean(), "sd": x.std(ddof=0), "min": x.min(), "max": x.max()}.items():
        np.testing.assert_allclose(table[column], values, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(table["density"], (x > 0).sum() / x.notna().sum(), rtol=1e-6)
    np.testing.assert_allclose(table["first_share"], [read.first.get(n, np.nan) for n in read.neurons], rtol=1e-4)
    for q in (1, 5, 25, 50, 75, 95, 99):
        np.testing.assert_allclose(table[f"q{q:02d}"], x.quantile(q / 100), rtol=1e-3, atol=1e-4)
    top = found.top(read.neurons, count)
    rows = dict(list(top.groupby(["neuron", "sign"])))
    tokens = read.table.set_index(["task", "text", "position"])
    for name in read.neurons[:: max(1, len(read.neurons) // 40)]:
        for sign, expected in brute_force(read, name, count):
            got = rows.get((name, sign), top.iloc[:0])
            np.testing.assert_allclose(got["value"], expected, rtol=1e-4, atol=1e-5)
            assert len(set(zip(got["task"], got["text"], strict=True))) == len(got)  # one token of each text
            for row in got.itertuples():
                there = tokens.loc[(row.task, row.text, row.position)]
                assert there[name] == pytest.approx(row.value, rel=1e-4, abs=1e-5) and there["token"] == row.token
                assert f"«{row.token}»" in row.context


HOW = {
    "all tokens": {},
    "without the first": {"skip_first": True},
    "the last": {"at": "last"},
    "batches of one": {"batch_size": 1},
    "output units": {"unit": "output"},
}


@pytest.mark.parametrize("how", HOW)
def test_all_is_as_of_the_whole_matrix(how, model):
    options = dict(HOW[how])
    found = ns.neuron_statistics(model, TEXTS, count=4, **options)
    read = ns.activations(model, TEXTS, **options)
    same(found, read, 4)
    assert found.manifest["tokens"] == len(read.table) and found.manifest["texts"] == len(TEXTS)


@pytest.mark.parametrize("name", ["gpt2", "opt", "phi3", "bloom"])
def test_other_families(name, words, monkeypatch):
    monkeypatch.setattr("neuroscope.reading.tallies.AT_ONCE", 500)  # sums are taken over several parts
    model = ns.load(families.build(name), tokenizer=words)
    texts = [" ".join(f"w{(7 * i + 3 * j) % 90 + 5}" for j in range(3 + i % 4)) for i in range(20)]
    same(ns.neuron_statistics(model, texts, count=3), ns.activations(model, texts), 3)


def test_experts_are_counted_over_the_tokens_that_they_see(words):
    model = ns.load(tap_experts(families.build("mixtral")), tokenizer=words)
    texts = [" ".join(f"w{(7 * i + 3 * j) % 90 + 5}" for j in range(3 + i % 4)) for i in range(20)]
    same(ns.neuron_statistics(model, texts, count=3), ns.activations(model, texts), 3)


def test_both_stacks_of_an_encoder_and_decoder(tmp_path):
    model = tiny_model("seq2seq")
    story = Task("story", test=[Example("a story :", "the film was good"), Example("the plot :", "so very bad")])
    found, read = ns.neuron_statistics(model, story, count=2), ns.activations(model, story)
    table, x = found.table.set_index("name"), read.table[read.neurons].astype(float)
    np.testing.assert_array_equal(table["tokens"], x.notna().sum())
    np.testing.assert_allclose(table["mean"], x.mean(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(table["q50"], x.median(), rtol=1e-4, atol=1e-5)
    names = [next(name for name in read.neurons if name.startswith(stack)) for stack in ("encoder", "decoder")]
    columns = ["neuron", "sign", "text", "position", "token"]  # a decoder's tokens are not its encoder's
    by_hand = read.top(2).query("neuron in @names")[columns].sort_values(columns[:3]).reset_index(drop=True)
    with pytest.raises(FileError, match=r"figure\(\)\.write_html"):
        found.save(tmp_path / "found.html")
    again = NeuronStatistics.load(found.save(tmp_path / "found.json"))
    for one in (found, again):
        shown = one.top(names)[columns].sort_values(columns[:3]).reset_index(drop=True)
        pd.testing.assert_frame_equal(shown, by_hand, check_dtype=False)


def test_sources_stand_side_by_side(model, tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS[:9]))
    found = ns.neuron_statistics(model, {"food": FOOD, "file": path, "list": TEXTS[9:]})
    read = ns.activations(model, {"food": FOOD, "file": TEXTS[:9], "list": TEXTS[9:]})
    means = read.table.groupby("task")[read.neurons].mean()
    for name in ("food", "file", "list"):
        np.testing.assert_allclose(found.table[f"mean {name}"], means.loc[name], rtol=1e-4, atol=1e-6)
    assert {text.task for text in found.texts.values()} == {"food", "file", "list"}
    for text in found.texts.values():
        source = {"food": [e.prompt for e in FOOD.test], "file": TEXTS[:9], "list": TEXTS[9:]}[text.task]
        assert source[text.text] == text.prompt


def test_a_file_of_broken_lines_alone_is_told_with_them(model, tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_text("\n".join(['{"text": 3}', "{", *["7"] * 20]))
    said = r"(?s)22 broken lines \(line 1: \"text\" is an int, not a text; line 2: .*and 12 more"
    for read in (lambda: ns.neuron_statistics(model, path), lambda: ns.neurons(model, "0.1", texts=str(path))):
        with pytest.raises(FileError, match=said):
            read()


def test_broken_lines_are_left_out_counted_and_named(model, tmp_path):
    path = tmp_path / "corpus.jsonl"
    good = [json.dumps({"text": TEXTS[0]}), json.dumps(TEXTS[1]), "", json.dumps({"text": TEXTS[2], "label": 3})]
    broken = ["{", json.dumps({"label": 1}), json.dumps({"text": ""}), "7", '"\\ud800"']
    path.write_bytes("\n".join([good[0], *broken, *good[1:]]).encode() + b"\n\xff\n")
    found = ns.neuron_statistics(model, path)
    assert found.manifest["texts"] == 3 and found.manifest["broken"]["prompts"]["count"] == 6
    said = found.in_words()
    assert "6 lines of prompts are no texts: line 2: " in said and "line 3: fields ['label'], no \"text\"" in said
    np.testing.assert_array_equal(found.table, ns.neuron_statistics(model, TEXTS[:3]).table)
    path.write_text("{\n")
    with pytest.raises(ns.NeuroscopeError, match="1 broken lines"):
        ns.neuron_statistics(model, path)
    with pytest.raises(FileError, match="no file there"):
        ns.neuron_statistics(model, "the food was good")


def test_a_file_that_is_one_list_in_json(model, tmp_path):
    path = tmp_path / "corpus.json"
    rows = [{"text": TEXTS[0]}, TEXTS[1], {"label": 1}, 7, "\ud800", {"text": TEXTS[2]}]
    expected = ns.neuron_statistics(model, TEXTS[:3]).table
    for written in (json.dumps(rows), "\ufeff" + json.dumps(rows, indent=1)):
        path.write_bytes(written.encode())
        found = ns.neuron_statistics(model, path)
        np.testing.assert_array_equal(found.table, expected)
        broken = found.manifest["broken"]["prompts"]
        assert broken["count"] == 3 and broken["first"][0] == "item 3: fields ['label'], no \"text\""
    path.write_text("\n".join(json.dumps({"text": one}) for one in TEXTS[:3]))  # lines, whatever the name ends with
    np.testing.assert_array_equal(ns.neuron_statistics(model, path).table, expected)
    path.write_text('["the food", ')
    with pytest.raises(FileError, match="a damaged list in JSON"):
        ns.neuron_statistics(model, path)


def test_buffers_that_hardly_fit_are_refused_before_anything_is_read(model, monkeypatch):
    neurons = 96  # of 2 layers
    fixed = neurons * (8 * 5 + 4 * 1024)
    monkeypatch.setattr(over_a_corpus, "MOST", fixed + 24 * 10 * neurons)
    assert ns.neuron_statistics(model, TEXTS[:3], count=10).manifest["count"] == 10
    with pytest.raises(ArgumentError, match=r"(?s)count=11.*GiB for 11 texts of 96 neurons.*give count=10 or fewer"):
        ns.neuron_statistics(model, TEXTS[:3], count=11)


def test_a_file_of_plain_lines_and_texts_that_are_too_long(model, tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("the food was good\n\n" + "food " * 100)
    found = ns.neuron_statistics(model, path)
    assert found.manifest["tokens"] == 5 + 64 and found.manifest["cut"] == 1
    assert "1 texts are longer than the model's context" in found.in_words()
    found = ns.neuron_statistics(model, ["the food", " ", ""])
    assert found.manifest["texts"] == 1 and found.manifest["empty"] == 2
    assert "2 texts have no tokens, and were left out" in found.in_words()


def test_quantiles_of_a_sample_that_does_not_depend_on_batches(model, monkeypatch):
    """Of a corpus with more tokens than places: the tokens with the smallest hashes, whatever came first."""
    monkeypatch.setattr(tallies, "SAMPLE", 64)
    found = ns.neuron_statistics(model, TEXTS)
    read = ns.activations(model, TEXTS)
    assert (
        found.manifest["sample"] == 64 < found.manifest["tokens"] and "Quantiles are of 64 tokens" in found.in_words()
    )
    keys = tallies.hashes(read.table["text"].to_numpy(), read.table["position"].to_numpy()).numpy()
    sampled = read.values[np.sort(np.argsort(keys)[:64])]
    np.testing.assert_allclose(found.table["q75"], np.quantile(sampled, 0.75, axis=0), rtol=1e-4, atol=1e-5)
    for how in ({"batch_size": 1}, {"batch_size": 3}):
        again = ns.neuron_statistics(model, TEXTS, **how)
        np.testing.assert_allclose(again.table["q75"], found.table["q75"], rtol=1e-4, atol=1e-5)


def test_hashes_are_spread_evenly():
    text, position = (grid.ravel() for grid in np.meshgrid(np.arange(400), np.arange(50)))
    keys = tallies.hashes(text, position).numpy()
    assert len(set(keys.tolist())) == len(keys)
    counts = np.histogram(keys / 2.0**63, 10, (0, 1))[0]
    assert counts.min() > 1800 and abs(np.corrcoef(keys, position)[0, 1]) < 0.03  # 2000 each, sd 42


class Killed(Exception):
    pass


def test_a_run_that_was_killed_goes_on_where_it_was(model, tmp_path, monkeypatch):
    monkeypatch.setattr(over_a_corpus, "EVERY", 0.0)
    passes = []
    run = over_a_corpus.run_passes

    def counted(model, rows, *more, **options):
        if len(passes) == 3 and not killed:
            killed.append(True)
            raise Killed
        passes.append([row.text for row in rows])
        run(model, rows, *more, **options)

    killed: list[bool] = []
    whole = ns.neuron_statistics(model, TEXTS)
    monkeypatch.setattr(over_a_corpus, "run_passes", counted)
    with pytest.raises(Killed):
        ns.neuron_statistics(model, TEXTS, output=tmp_path)
    state = tmp_path / "neuron_statistics-0.safetensors"
    noted = state.read_bytes()
    safetensors.torch.save_file(safetensors.torch.load(noted), state, {"neuroscope": "{}"})
    with pytest.raises(FileError, match="delete the file, to begin anew"):
        ns.neuron_statistics(model, TEXTS, output=tmp_path)
    state.write_bytes(noted)
    found = ns.neuron_statistics(model, TEXTS, output=tmp_path)
    assert sorted(text for part in passes for text in part) == [*range(len(TEXTS))]  # each was read once
    np.testing.assert_array_equal(found.table, whole.table)
    np.testing.assert_array_equal(found.extremes.value, whole.extremes.value)
    before = len(passes)
    again = ns.neuron_statistics(model, TEXTS, output=tmp_path)
    assert len(passes) == before and again.table.equals(found.table)  # a finished run is read
    with pytest.raises(FileError, match="another run: count 10, now 3"):
        ns.neuron_statistics(model, TEXTS, output=tmp_path, count=3)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == []


def test_memory_does_not_grow_with_the_corpus(model, monkeypatch, tmp_path):
    """What is held after a chunk, at the most: tensors, and what Python allocated."""
    monkeypatch.setattr(tallies, "SAMPLE", 64)
    read, sizes = over_a_corpus.Run._read, {}

    def measured(run, rows):
        read(run, rows)
        gc.collect()
        tensors = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
        held.append((sum(t.numel() * t.element_size() for t in tensors), tracemalloc.get_traced_memory()[0]))

    monkeypatch.setattr(over_a_corpus.Run, "_read", measured)
    for times in (2, 16):
        held: list[tuple[int, int]] = []
        path = tmp_path / f"{times}.txt"
        path.write_text("\n".join(TEXTS * times))
        tracemalloc.start()
        found = ns.neuron_statistics(model, path, count=3)
        tracemalloc.stop()
        assert found.manifest["texts"] == times * len(TEXTS)
        sizes[times] = np.max(held, axis=0)
    more = 14 * len(TEXTS)
    assert sizes[16][0] <= sizes[2][0] + 10_000  # their activations alone are 4 x 96 numbers of each of 2,000 tokens
    assert sizes[16][1] < sizes[2][1] + 100 * more  # what is not kept of a text has more than 100 bytes


def test_a_file_keeps_every_bit(model, tmp_path):
    found = ns.neuron_statistics(model, {"a": TEXTS[:9], "b": TEXTS[9:]}, count=2)
    again = ns.load_result(found.save(tmp_path / "found.json"))
    assert again.table.equals(found.table) and again.manifest == found.manifest and dict(again.texts) == found.texts
    assert again.top("1.3").equals(found.top("1.3"))


def test_figure_and_layers(model):
    found = ns.neuron_statistics(model, TEXTS)
    layers = found.layers()
    assert layers["neurons"].tolist() == [48, 48]
    (curve,) = [trace for trace in found.figure().data if trace.mode == "lines+markers"]
    np.testing.assert_allclose(curve.y, 100 * found.table.groupby("layer")["density"].median())
    np.testing.assert_allclose(
        layers["never_positive"], (found.table["density"] == 0).groupby(found.table["layer"]).sum()
    )


def test_what_is_refused(model):
    found = ns.neuron_statistics(model, TEXTS[:3])
    with pytest.raises(ArgumentError, match=r"no such neuron\n.*the nearest: 1.47, 1.46, 1.45"):
        found.top("1.60")
    for wrong in (True, "x", "generated"):
        with pytest.raises(ArgumentError, match="at=") as error:
            ns.neuron_statistics(model, TEXTS[:3], at=wrong)
        assert "'generated'" not in str(error.value).replace("at='generated'", "")  # nothing is generated here
    for corpus in ([], {}, None, 3, {"a": 3}, [3]):
        with pytest.raises(ns.NeuroscopeError, match="corpus"):
            ns.neuron_statistics(model, corpus)
    broken = tiny_model()
    with torch.no_grad():
        broken.root.model.layers[1].mlp.up_proj.weight[5, 0] = torch.inf
    with pytest.raises(NumericalError, match="not finite at blocks.1.mlp.hook_post"):
        ns.neuron_statistics(broken, TEXTS[:3])


def test_a_spread_that_rounding_ate_is_not_said_to_be_zero():
    sums = torch.tensor([[1000.0, 2.0, 0.0]], dtype=torch.float64)  # of ten tokens: means 100, 0.2, 0
    squares = torch.tensor([100000.0 + 1e-3, 1.0, 0.0], dtype=torch.float64)  # sd 0.01, 0.2449, 0
    tally = SimpleNamespace(
        tokens=torch.tensor([10]), value=torch.zeros(2, 1, 3), text=torch.zeros(2, 1, 3), sums=sums,
        moments=torch.stack([squares, *[torch.ones(3, dtype=torch.float64)] * 3]), sample=torch.zeros(4, 3),
    )  # fmt: skip
    found = over_a_corpus._table("blocks.0.mlp.hook_post", "0", tally, ["all"], Begun(), True)["sd"]
    assert np.isnan(found[0]) and found[1] == pytest.approx(np.sqrt(0.1 - 0.04)) and found[2] == 0
