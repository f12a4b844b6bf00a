"""Similarity of neurons by their parameters: brute force, planted answers, and checkpoints read in place."""

import json
import math
import tracemalloc

import families
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from state import unchanged
from transformers import AutoModelForCausalLM

from neuroscope.comparison.parameters import ParameterSimilarity, parameter_similarity
from neuroscope.comparison.parameters.bands import above_by_chance, curves
from neuroscope.comparison.parameters.checkpoint_rows import Checkpoint
from neuroscope.comparison.parameters.measuring import Settings, compared
from neuroscope.errors import ArgumentError, FileError, MaskError, ModelError, NumericalError
from neuroscope.masks import NeuronMask
from neuroscope.models import load, resolve, tap_experts
from neuroscope.training import LoraAdapter, NeuronAdapter

ALONE = Settings(n_random=0)  # for the counts of what is read: the masks' neurons, and none of random ones
ALL, RANDOM = "mean over all", "random masks of the same sizes"


def widths(model, unit="hidden"):
    return {a: s.width for a, s in resolve(model).sites(unit).items()}


def random_masks(model, names=("a", "b"), share=0.25, seed=0, unit="hidden"):
    """Independent masks of a share of every site's neurons."""
    draw = torch.Generator().manual_seed(seed)
    sizes = widths(model, unit)
    return {
        n: NeuronMask.of(
            {a: torch.randperm(w, generator=draw)[: int(share * w)] for a, w in sizes.items()}, sizes, unit
        )
        for n in names
    }


def weights_by_name(root, layer):
    """Every neuron's parameters in one row, by part, read off the family's own names: [neuron, entries]."""
    kind = root.config.model_type
    if kind == "llama":
        mlp = root.model.layers[layer].mlp
        parts = {"gate": [mlp.gate_proj.weight], "up": [mlp.up_proj.weight], "down": [mlp.down_proj.weight.T]}
    elif kind == "phi3":
        mlp = root.model.layers[layer].mlp
        gate, up = mlp.gate_up_proj.weight.chunk(2)
        parts = {"gate": [gate], "up": [up], "down": [mlp.down_proj.weight.T]}
    elif kind == "gpt2":  # Conv1D: [inputs, outputs]
        mlp = root.transformer.h[layer].mlp
        parts = {"up": [mlp.c_fc.weight.T, mlp.c_fc.bias[:, None]], "down": [mlp.c_proj.weight]}
    elif kind == "opt":
        mlp = root.model.decoder.layers[layer]
        parts = {"up": [mlp.fc1.weight, mlp.fc1.bias[:, None]], "down": [mlp.fc2.weight.T]}
    else:
        block = root.bert.encoder.layer[layer]
        first = block.intermediate.dense
        parts = {"up": [first.weight, first.bias[:, None]], "down": [block.output.dense.weight.T]}
    return {part: torch.cat(found, 1).detach().double() for part, found in parts.items()}


def cosine(x, y):
    return float(x.flatten() @ y.flatten() / (x.norm() * y.norm()))


def masked(w, a, b):
    """Everything outside the mask at zero, written out in full."""
    first, second = torch.zeros_like(w), torch.zeros_like(w)
    first[a], second[b] = w[a], w[b]
    return cosine(first, second)


def mean(w, a, b):
    return cosine(w[a].mean(0), w[b].mean(0))


def matched(w, a, b):
    there = np.mean([max(cosine(w[i], w[j]) for j in b) for i in a])
    back = np.mean([max(cosine(w[i], w[j]) for i in a) for j in b])
    return (there + back) / 2


BRUTE = {"masked": masked, "mean": mean, "matched": matched}


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "opt", "bert"])
@pytest.mark.parametrize("estimator", BRUTE)
def test_estimators_equal_brute_force(family, estimator):
    root = families.build(family)
    model = resolve(root)
    masks = random_masks(model)
    gated = family in ("llama", "phi3")
    for part in ["all", "up", "down"] + ["gate"] * gated:
        with unchanged(root):
            found = parameter_similarity(model, masks, estimator=estimator, part=part, n_random=3).table
        for layer, (address, a) in enumerate(masks["a"].items()):
            by_part = weights_by_name(root, layer)
            w = torch.cat(list(by_part.values()), 1) if part == "all" else by_part[part]
            expected = BRUTE[estimator](w, a.tolist(), masks["b"][address].tolist())
            assert found.value[layer] == pytest.approx(expected, abs=2e-7 if estimator == "matched" else 1e-12)
            assert found.layer[layer] == layer and found.block[layer] == f"blocks.{layer}"


def test_identical_masks_are_one_and_disjoint_ones_zero(tiny_model):
    model = tiny_model()
    a = random_masks(model)["a"]
    for estimator in BRUTE:
        same = parameter_similarity(model, {"a": a, "b": a}, estimator=estimator, n_random=10)
        np.testing.assert_allclose(same.table.value, 1, atol=1e-6)
        assert (same.table.high < 1).all()  # the random masks beside equal masks are drawn apart
        assert (same.table.shared == same.table.neurons_a).all()
    apart = parameter_similarity(model, {"a": a, "b": ~a}, n_random=3).table
    assert apart.value.tolist() == [0, 0] and apart.shared.tolist() == [0, 0]


def test_an_empty_layer_is_a_gap_with_a_reason(tiny_model):
    model = tiny_model()
    first, second = widths(model)
    masks = {
        "a": NeuronMask.of({first: [1], second: [1, 2]}, widths(model)),
        "b": NeuronMask.of({second: [2]}, widths(model)),
        "c": NeuronMask.of({first: [1], second: [5]}, widths(model)),
    }
    for estimator in BRUTE:
        found = parameter_similarity(model, masks, estimator=estimator, n_random=3)
        table = found.table.set_index(["a", "b", "layer"])
        assert math.isnan(table.value["a", "b", 0]) and math.isnan(table.low["a", "b", 0])
        assert table.reason["a", "b", 0] == "no neuron of b in this layer" and table.reason["a", "b", 1] == ""
        mean = found.by_layer().set_index(["task", "layer"])
        assert mean.value[ALL, 0] == pytest.approx(table.value["a", "c", 0]) == pytest.approx(1)
        assert (mean.pairs[ALL, 0], mean.gaps[ALL, 0], mean.pairs[ALL, 1], mean.gaps[ALL, 1]) == (1, 2, 3, 0)
        assert math.isnan(mean.value["b", 0])  # in no mean
        assert [t.name for t in found.figure().data[:2]] == [f"{RANDOM}: band", RANDOM]  # beneath the tasks
        assert "2 undefined" in repr(found) and "2 of 6" in found.figure().layout.title.subtitle.text
    pair = parameter_similarity(model, {n: masks[n] for n in "ab"}, n_random=3)
    assert list(pair.figure().data[0].x) == [1, 1]  # the band starts after the gap
    assert math.isnan(pair.figure().data[-1].y[0]) and math.isnan(pair.figure().data[1].y[0])
    zero = families.build("llama")
    for name, p in zero.named_parameters():
        if "layers.0.mlp" in name:
            p.data.zero_()
    masks = random_masks(zero)
    for estimator in BRUTE:
        table = parameter_similarity(zero, masks, estimator=estimator, n_random=3).table
        assert table.reason.tolist() == ["all parameters are zero", ""] and math.isnan(table.value[0])
    grown = parameter_similarity(zero, masks["a"], other=families.build("llama"), n_random=3).table
    assert math.isnan(grown.value[0]) and math.isnan(grown.relative[0]) and grown.delta[0] > 0


def test_planted_shared_neurons_rise_above_the_band_in_their_layers_and_only_there():
    size = dict(families.ROTARY, num_hidden_layers=6, intermediate_size=120)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        root = families.hf.LlamaForCausalLM(families.hf.LlamaConfig(**size, **families.TOKENS)).eval()
    model = resolve(root)
    planted = {1, 4}
    masks = random_masks(model, share=0.1, seed=3)
    mixed = {a: masks["a" if layer in planted else "b"][a] for layer, a in enumerate(widths(model))}
    masks["b"] = NeuronMask.of(mixed, widths(model))
    for estimator in BRUTE:
        table = parameter_similarity(model, masks, estimator=estimator, n_random=40).table
        above = set(table.layer[table.value > table.high])
        assert above == planted, estimator
        rest = table[~table.layer.isin(planted)]
        assert (rest.value <= rest.high).all() and (rest.value >= rest.low).all()
        np.testing.assert_allclose(table.value[list(planted)], 1, atol=1e-6)


def test_the_band_is_what_random_masks_give(tiny_model):
    """Layer-matched independent masks: n_a n_b / width neurons shared on average, of about the same norm each."""
    model = tiny_model()
    masks = random_masks(model, share=0.5)
    found = parameter_similarity(model, masks, n_random=200)
    root = model.root
    for layer, row in found.table.iterrows():
        size = torch.cat(list(weights_by_name(root, layer).values()), 1).pow(2).sum(1)
        draw = torch.Generator().manual_seed(1)

        def flags(n, draw=draw):
            return torch.zeros(n).double().index_fill(0, torch.randperm(n, generator=draw)[: n // 2], 1)

        drawn = []
        for _ in range(2000):
            a, b = flags(len(size)), flags(len(size))
            drawn.append(float((a * b) @ size / ((a @ size) * (b @ size)).sqrt()))
        low, high = np.quantile(drawn, [0.025, 0.975])
        spread = high - low
        assert abs(row.low - low) < 0.3 * spread and abs(row.high - high) < 0.3 * spread
    again = parameter_similarity(model, masks, n_random=200)
    assert again.table.equals(found.table)
    assert "of 2 above the band of 200 random masks (0.1 by chance alone)" in repr(found)  # 2 (0.025 * 199 + 1) / 201
    assert not parameter_similarity(model, masks, n_random=200, seed=1).table.low.equals(found.table.low)


def test_the_band_of_a_mean_is_of_the_same_mean(tiny_model):
    """The mean of many pairs' random curves spreads less than one pair's does."""
    model = tiny_model()
    masks = random_masks(model, "abcdef")
    found = parameter_similarity(model, masks, n_random=60)
    mean = found.by_layer()
    both = mean[mean.task == ALL]
    pair_spread = (found.table.high - found.table.low).mean()
    assert ((both.high - both.low) < 0.6 * pair_spread).all() and (both.pairs == 15).all()
    by_hand = found.table[(found.table.a == "c") | (found.table.b == "c")].groupby("layer").value.mean()
    np.testing.assert_allclose(mean[mean.task == "c"].value, by_hand)


def test_the_band_beside_the_tasks_is_of_single_tasks():
    """[pair, layer, draw] of pairs (a, b), (a, c), (b, c), every fourth draw a gap."""
    rng = np.random.default_rng(0)
    values, random = rng.normal(size=(3, 2)), rng.normal(size=(3, 2, 40))
    random[..., ::4] = np.nan
    pairs = {"a": [0, 1], "b": [0, 2], "c": [1, 2], ALL: [0, 1, 2]}
    found = curves(pairs, values, random, ["blocks.0", "blocks.1"])
    kept = random[..., np.arange(40) % 4 > 0]
    for layer in range(2):
        pooled = np.concatenate([kept[pairs[task], layer].mean(0) for task in "abc"])
        low, high = np.quantile(pooled, [0.025, 0.975])
        assert found["random"]["low"][layer] == pytest.approx(low)
        assert found["random"]["high"][layer] == pytest.approx(high)
        assert found["random"]["value"][layer] == pytest.approx(pooled.mean())


def test_what_chance_puts_above_the_band(tiny_model):
    """Of C draws' 97.5 % point, 0.025 (C - 1) + 1 of C + 1 places are above it."""
    model = tiny_model()
    found = parameter_similarity(model, random_masks(model, "abcd"), n_random=20)
    assert len(found.table) == 12 and "of 12 above the band of 20 random masks (0.8 by chance alone)" in repr(found)
    rng = np.random.default_rng(0)
    draws = np.sort(rng.uniform(size=(20_000, 20)), axis=1)
    above = np.mean(rng.uniform(size=20_000) > np.quantile(draws, 0.975, axis=1))
    assert above_by_chance(20) == pytest.approx(0.025 * 19 / 21 + 1 / 21) == pytest.approx(above, abs=0.006)


def test_a_model_per_task(tiny_model):
    models = {"a": tiny_model(seed=1), "b": tiny_model(seed=2), "c": tiny_model(seed=3)}
    masks = random_masks(models["a"], "abc")
    found = parameter_similarity(models, masks, n_random=4)
    assert list(zip(found.table.a, found.table.b, strict=True))[::2] == [(a, b) for a in "abc" for b in "abc" if a != b]
    cells = found.table.set_index(["a", "b", "layer"]).value
    for a, b in (("a", "b"), ("b", "a")):  # inside a's model
        alone = parameter_similarity(models[a], {n: masks[n] for n in (a, b)}, n_random=3).table.value
        assert [cells[a, b, layer] for layer in (0, 1)] == pytest.approx(alone.tolist())
    assert cells["a", "b", 0] != cells["b", "a", 0]
    mean = found.by_layer().set_index(["task", "layer"])
    assert mean.value["c", 0] == pytest.approx((cells["a", "c", 0] + cells["b", "c", 0]) / 2)  # Figure 3
    assert len(found.figure().data) == 5  # three curves, the random one and its band


@pytest.mark.parametrize("family", ["t5", "mixtral", "gpt-oss", "qwen2-moe"])
def test_stacks_and_experts(family):
    root = families.build(family)
    if family != "t5":
        tap_experts(root)
    masks = random_masks(root)
    found = parameter_similarity(root, masks, n_random=3)
    layers = 4 if family == "t5" else 2
    assert found.table.layer.tolist() == list(range(layers)) and found.table.value.between(0, 1).all()
    assert found.table.neurons_a.sum() == len(masks["a"])
    if family == "t5":
        blocks = [f"{stack}_blocks.{i}" for stack in ("encoder", "decoder") for i in range(2)]
        assert found.table.block.tolist() == blocks
    if family == "mixtral":  # one layer's experts together, from the stacked parameters
        up, down = root.model.layers[0].mlp.experts.gate_up_proj, root.model.layers[0].mlp.experts.down_proj
        width = down.shape[-1]
        per_expert = [
            torch.cat([up[e, :width], up[e, width:], down[e].T], 1).detach().double() for e in range(len(down))
        ]
        a, b = (
            [e * width + j for e in range(4) for j in m[f"blocks.0.mlp.experts.{e}.hook_post"].tolist()]
            for m in masks.values()
        )
        assert found.table.value[0] == pytest.approx(masked(torch.cat(per_expert), a, b))


def test_output_units(tiny_model):
    root = families.build("gpt2")
    masks = random_masks(root, unit="output")
    found = parameter_similarity(root, masks, n_random=3).table
    out = root.transformer.h[1].mlp.c_proj  # Conv1D
    w = torch.cat([out.weight.T, out.bias[:, None]], 1).detach().double()
    (_, a), (_, b) = (list(m.items())[1] for m in masks.values())
    assert found.value[1] == pytest.approx(masked(w, a.tolist(), b.tolist()))
    with pytest.raises(ModelError, match="no part 'up'.*\n.*part='all'|which has out"):
        parameter_similarity(root, masks, part="up")


def test_columns_are_passed_over_once(tmp_path, monkeypatch):
    """All columns at once and some rows of the matrix at a time; of rows, some neurons at a time."""
    root = families.build("llama")
    folder, masks = saved(root, tmp_path), random_masks(root, share=0.5)
    asked, take = {}, Checkpoint.take

    def noted(self, name, dim, index, within):
        asked.setdefault(name, []).append((dim, index.tolist(), within))
        return take(self, name, dim, index, within)

    monkeypatch.setattr(Checkpoint, "take", noted)
    monkeypatch.setattr("neuroscope.comparison.parameters.layer_sets.NUMBERS", 320)
    compared(folder, masks, ALONE)
    used = [(masks["a"] | masks["b"])[address].tolist() for address in widths(root)]
    for layer, neurons in enumerate(used):
        down = asked[f"model.layers.{layer}.mlp.down_proj.weight"]
        step = 320 // len(neurons)
        assert [(dim, index) for dim, index, _ in down] == [(1, neurons)] * -(-32 // step) and step < 32
        assert [row for _, _, within in down for row in range(within.start, within.stop)] == list(range(32))
        up = asked[f"model.layers.{layer}.mlp.up_proj.weight"]
        assert [j for _, index, _ in up for j in index] == neurons and len(up) == -(-len(neurons) // 10)
        assert {(dim, within.start, within.stop) for dim, _, within in up} == {(0, 0, 32)}


def test_many_neurons_are_read_in_pieces(tiny_model, monkeypatch):
    model = tiny_model()
    masks = random_masks(model, share=0.9)
    whole = {e: parameter_similarity(model, masks, estimator=e, n_random=3).table for e in BRUTE}
    monkeypatch.setattr("neuroscope.comparison.parameters.layer_sets.NUMBERS", 100)  # three neurons at a time
    for estimator, expected in whole.items():
        found = parameter_similarity(model, masks, estimator=estimator, n_random=3).table
        np.testing.assert_allclose(found.value, expected.value, atol=1e-7)


# --- checkpoints ---


def saved(root, folder, sharded=False):
    root.save_pretrained(folder, max_shard_size="20KB" if sharded else "5GB")
    return folder


@pytest.mark.parametrize("family", families.DENSE)
def test_a_checkpoint_gives_what_memory_gives(family, tmp_path):
    root = families.build(family)
    masks = random_masks(root)
    whole, shards = saved(root, tmp_path / "one"), saved(root, tmp_path / "many", sharded=True)
    assert len(list(shards.glob("*.safetensors"))) > 1 == len(list(whole.glob("*.safetensors")))
    random_state = torch.get_rng_state()
    for estimator in BRUTE:
        memory = parameter_similarity(root, masks, estimator=estimator, n_random=3).table
        for folder in (whole, str(shards)):
            assert parameter_similarity(folder, masks, estimator=estimator, n_random=3).table.equals(memory)
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_checkpoint_in_another_dtype(dtype, tmp_path):
    root = families.build("llama").to(dtype)
    masks = random_masks(root)
    found = parameter_similarity(saved(root, tmp_path), masks, n_random=3).table
    assert found.equals(parameter_similarity(root, masks, n_random=3).table)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_only_the_bytes_of_the_rows_asked_for_are_read(family, tmp_path):
    root = families.build(family).to(torch.bfloat16)
    masks = random_masks(root, share=0.2)
    folder = saved(root, tmp_path / "a", sharded=True)
    read = compared(folder, masks, ALONE).manifest["source"]["model"]
    neurons = len(masks["a"] | masks["b"])
    entries = sum(weights.shape[1] for weights in weights_by_name(root, 0).values())
    asked = neurons * entries * 2
    headers = sum(8 + int.from_bytes(f.read_bytes()[:8], "little") for f in folder.glob("*.safetensors"))
    headers += (folder / "model.safetensors.index.json").stat().st_size
    assert read["header_bytes"] == headers
    assert asked <= read["tensor_bytes"] < 1.01 * asked


@pytest.mark.parametrize("odd", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_holds_the_elements_asked_for(odd, dtype, tmp_path):
    """At any place in the file: a header's length is anything."""
    whole = torch.randn(512, 4096, generator=torch.Generator().manual_seed(0)).to(dtype)
    code = {torch.float32: "F32", torch.bfloat16: "BF16"}[dtype]
    header = json.dumps({"w": {"dtype": code, "shape": [512, 4096], "data_offsets": [0, whole.nbytes]}})
    header = header.ljust(len(header) + (-len(header)) % 8 + odd).encode()
    content = len(header).to_bytes(8, "little") + header + whole.view(torch.uint8).numpy().tobytes()
    (tmp_path / "model.safetensors").write_bytes(content)
    stored = Checkpoint.open(tmp_path)
    rows, columns = torch.tensor([3, 500, 7, 100, 20, 21, 400, 4]), torch.arange(0, 4096, 64)
    stored.take("w", 0, rows[:1])  # the map itself
    for dim, index, within, expected in (
        (0, rows, slice(None), whole[rows]),
        (0, rows, slice(4, 9), whole[rows, 4:9]),
        (1, columns, slice(None), whole[:, columns].T),
        (1, columns, slice(100, 300), whole[100:300, columns].T),
    ):
        tracemalloc.start()
        found = stored.take("w", dim, index, within)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert torch.equal(found, expected)
        assert peak < 2 * max(expected.nbytes, len(rows) * 4096 * dtype.itemsize if dim == 0 else 0) < whole.nbytes / 8


def test_a_single_file_counts_before_an_index(tmp_path):
    """As in transformers: what an older, sharded save has left beside it is not read."""
    root, older = families.build("llama"), families.build("llama", seed=1)
    masks = random_masks(root)
    folder = saved(older, tmp_path, sharded=True)
    root.save_pretrained(tmp_path / "one")
    (tmp_path / "one" / "model.safetensors").rename(folder / "model.safetensors")
    assert (folder / "model.safetensors.index.json").is_file()
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    found = parameter_similarity(folder, masks, n_random=3).table
    assert found.equals(parameter_similarity(loaded, masks, n_random=3).table)
    assert found.equals(parameter_similarity(root, masks, n_random=3).table)


@pytest.mark.parametrize("content", [[1, 2], {}, {"weight_map": ["a"]}, {"weight_map": {"a": 3}}, {"a": 3}])
def test_damaged_indices_are_refused(content, tmp_path):
    root = families.build("llama")
    folder, masks = saved(root, tmp_path, sharded=True), random_masks(root)
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(FileError, match="index of shards.*\n.*no weight_map"):
        parameter_similarity(folder, masks, n_random=3)


def test_headers_that_contradict_themselves_are_refused(tmp_path):
    root = families.build("llama")
    file = saved(root, tmp_path) / "model.safetensors"
    good, masks = file.read_bytes(), random_masks(root)
    length = int.from_bytes(good[:8], "little")
    name = "model.layers.1.mlp.down_proj.weight"
    start, stop = json.loads(good[8 : 8 + length])[name]["data_offsets"]
    for change, match in (
        ({"data_offsets": [start - stop, 0]}, f"ValueError: {name} of shape"),
        ({"data_offsets": [start, stop - 4]}, "in F32 at bytes"),
        ({"data_offsets": [start, stop + 4]}, "in F32 at bytes"),
        ({"data_offsets": [start + len(good), stop + len(good)]}, "where its header promises"),
        ({"shape": [32, 47]}, r"\(32, 47\) in F32"),
        ({"shape": [-32, -48]}, r"\(-32, -48\) in F32"),
        ({"shape": [32.0, 48]}, r"\(32.0, 48\) in F32 at bytes"),
        ({"shape": [True, 32 * 48]}, r"\(True, 1536\) in F32 at bytes"),
        ({"data_offsets": [float(start), stop]}, rf"at bytes {start}\.0 to"),
        ({"data_offsets": [start, stop - 0.0]}, rf"to {stop}\.0"),
        ({"dtype": "I8", "data_offsets": [stop, start]}, f"at bytes {stop} to {start}"),
        ({"shape": 3}, "TypeError"),
        ({"dtype": ["F32"]}, "TypeError"),
    ):
        header = json.loads(good[8 : 8 + length])
        header[name] |= change
        text = json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + good[8 + length :])
        with pytest.raises(FileError, match=match):
            parameter_similarity(tmp_path, masks, n_random=3)
    nested = b"[" * 200_000
    file.write_bytes(len(nested).to_bytes(8, "little") + nested + b" ")
    with pytest.raises(FileError, match="RecursionError|JSONDecodeError"):
        parameter_similarity(tmp_path, masks, n_random=3)


def test_no_other_byte_of_a_checkpoint_matters(tmp_path):
    """Every element outside the masks becomes NaN: nothing of it may be read."""
    root = families.build("llama")
    masks = random_masks(root)
    expected = compared(root, masks, ALONE).table
    folder = saved(root, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    used = masks["a"] | masks["b"]
    for name in tensors:
        keep = tensors[name].clone()
        tensors[name] = torch.full_like(keep, math.nan)
        layer = name.split(".")[2] if ".mlp." in name else None
        if layer:
            neurons = used[f"blocks.{layer}.mlp.hook_post"]
            at = (slice(None), neurons) if "down" in name else (neurons,)
            tensors[name][at] = keep[at]
    save_file(tensors, folder / "model.safetensors")
    assert compared(folder, masks, ALONE).table.equals(expected)
    with pytest.raises(NumericalError, match="not finite"):
        parameter_similarity(folder, masks, n_random=3)  # random neurons lie outside


def test_names_of_the_base_model_are_found(tmp_path):
    """GPT-2's own checkpoint has no `transformer.` in its names."""
    root = families.build("gpt2")
    folder, masks = saved(root, tmp_path), random_masks(root)
    file = folder / "model.safetensors"
    save_file({k.removeprefix("transformer."): v for k, v in load_file(file).items()}, file, {"format": "pt"})
    with safe_open(file, "pt") as stored:
        assert "h.0.mlp.c_fc.weight" in stored.keys()  # noqa: SIM118
    found = parameter_similarity(folder, masks, n_random=3).table
    assert found.equals(parameter_similarity(root, masks, n_random=3).table)


def test_the_bundled_model_is_read_in_place():
    masks = random_masks("mini", share=0.05)
    found = parameter_similarity("mini", masks, n_random=3)
    assert found.manifest["source"]["model"]["backend"] == "checkpoint"
    assert found.table.equals(parameter_similarity(load("mini"), masks, n_random=3).table)


def test_damaged_checkpoints_are_refused(tmp_path):
    root = families.build("llama")
    folder, masks = saved(root, tmp_path), random_masks(root)
    file = folder / "model.safetensors"
    good = file.read_bytes()

    def refused(content, match, error=FileError):
        file.write_bytes(content)
        with pytest.raises(error, match=match):
            parameter_similarity(folder, masks, n_random=3)

    refused(good[:-10], "where its header promises")
    refused(good[:40], "truncated, damaged, or missing")
    refused(b"", "truncated, damaged, or missing")
    refused((2**40).to_bytes(8, "little") + good[8:], "truncated, damaged, or missing")
    tensors = load_file(_written(file, good))
    name = "model.layers.1.mlp.down_proj.weight"
    for change, match in (
        ({name: tensors[name].T.contiguous()}, r"for \(32, 48\)"),
        ({name: tensors[name].to(torch.int8)}, "in I8"),
        ({name: None}, f"no tensor {name}"),
    ):
        save_file({k: v for k, v in (tensors | change).items() if v is not None}, file)
        with pytest.raises(FileError, match=match):
            parameter_similarity(folder, masks, n_random=3)
    file.unlink()
    with pytest.raises(FileError, match="no safetensors files"):
        parameter_similarity(folder, masks, n_random=3)
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such"}))
    with pytest.raises(ModelError, match="find the neurons of the checkpoint"):
        parameter_similarity(folder, masks, n_random=3)


def _written(file, content):
    file.write_bytes(content)
    return file


def test_experts_of_a_checkpoint_are_refused(tmp_path):
    root = families.build("mixtral")
    tap_experts(root)
    masks = random_masks(root)
    saved(root, tmp_path)
    with pytest.raises(ModelError, match="mixture of experts.*\n.*tap"):
        parameter_similarity(tmp_path, masks)


# --- two models ---


def nudged(root, seed=5):
    """A copy whose parameters are a little different."""
    other = families.build("llama")
    other.load_state_dict(root.state_dict())
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=draw))
    return other


def test_two_models_by_hand(tmp_path):
    root = families.build("llama")
    other = nudged(root)
    mask = random_masks(root)["a"]
    found = parameter_similarity(root, mask, other=other, n_random=5)
    for layer, (_, neurons) in enumerate(mask.items()):
        w, after = (torch.cat(list(weights_by_name(m, layer).values()), 1)[neurons] for m in (root, other))
        row = found.table.iloc[layer]
        assert row.value == pytest.approx(cosine(w, after), abs=1e-12)
        assert row.delta == pytest.approx(float((after - w).norm()))
        assert row.relative == pytest.approx(float((after - w).norm() / w.norm()))
        assert row.low < row.value < row.high and row.delta_low < row.delta < row.delta_high
    folders = [saved(m, tmp_path / n, sharded=n == "after") for n, m in (("before", root), ("after", other))]
    assert parameter_similarity(folders[0], mask, other=folders[1], n_random=5).table.equals(found.table)
    assert parameter_similarity(root, mask, other=folders[1], n_random=5).table.equals(found.table)
    same = parameter_similarity(root, mask, other=root, n_random=3).table
    np.testing.assert_allclose(same.value, 1)
    assert same.delta.tolist() == [0, 0]
    for measure in ("value", "delta", "relative"):
        assert found.figure(measure).data[-1].y[1] == found.table[measure][1]
    with pytest.raises(ArgumentError, match="estimator='masked'"):
        parameter_similarity(root, mask, other=other, estimator="mean")


def test_two_models_of_another_size_are_refused():
    root = families.build("llama")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wider = families.hf.LlamaForCausalLM(
            families.hf.LlamaConfig(**dict(families.ROTARY, hidden_size=64), **families.TOKENS)
        )
    with pytest.raises(ModelError, match="down of 64 entries where the first has .*down of 32"):
        parameter_similarity(root, random_masks(root)["a"], other=wider)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    root, other = families.build("llama"), families.build("llama")
    masks = random_masks(root)
    neuron = int(masks["a"]["blocks.1.mlp.hook_post"][0])
    other.model.layers[1].mlp.up_proj.weight.data[neuron, 3] = math.nan
    broken = saved(other, tmp_path)
    for estimator in BRUTE:
        with pytest.raises(NumericalError, match=r"not finite in blocks\.1\.mlp\.hook_post \(up\)"):
            parameter_similarity(broken, masks, estimator=estimator, n_random=3)
    for first, second in ((root, broken), (broken, root)):
        with pytest.raises(NumericalError, match="not finite"):
            parameter_similarity(first, masks, other=second, n_random=3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "opt"])
@pytest.mark.parametrize("unit", ["hidden", "output"])
def test_an_adapters_file_is_what_merging_it_gives(family, unit, tmp_path):
    root = families.build(family)
    trained, watched = random_masks(root, share=0.3, unit=unit).values()
    base = saved(root, tmp_path / "base")
    adapter = NeuronAdapter(root, trained)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in adapter.parameters():
            p.copy_(torch.randn(p.shape, generator=draw))
    adapter.scale = 0.5
    adapter.save(tmp_path / "adapter.safetensors")
    with pytest.raises(ModelError, match=r"NeuronAdapter at .*\n.*merge"):
        parameter_similarity(root, trained, other=base)  # its change is not in the parameters
    adapter.detach()
    masks = {"trained": trained, "watched": watched}
    found = parameter_similarity(root, masks, other=str(tmp_path / "adapter.safetensors"), n_random=3).table
    on_disk = parameter_similarity(base, masks, other=tmp_path / "adapter.safetensors", n_random=3).table
    assert on_disk.equals(found)
    adapter = NeuronAdapter.load(root, tmp_path / "adapter.safetensors")
    adapter.merge()
    merged = parameter_similarity(base, masks, other=root, n_random=3).table
    for column in ("value", "delta", "relative", "low", "delta_high"):
        np.testing.assert_allclose(found[column], merged[column], rtol=1e-5)
    assert (found.delta[found.a == "trained"] > found.delta_high[found.a == "trained"]).all()


def test_a_model_may_be_a_base_and_an_adapters_file(tmp_path, monkeypatch):
    """LX24 Figure 3 from a folder: M_i is the base with the neurons of task i trained."""
    root = families.build("llama")
    masks, merged = random_masks(root, "abc"), {}
    base = saved(root, tmp_path / "base", sharded=True)
    for seed, (name, mask) in enumerate(masks.items()):
        adapter = NeuronAdapter(root, mask)
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in adapter.parameters():
                p.copy_(torch.randn(p.shape, generator=draw))
        adapter.save(tmp_path / f"{name}.safetensors")
        merged[name] = adapter.export(tmp_path / name)
        adapter.detach()
    files = {name: tmp_path / f"{name}.safetensors" for name in masks}
    expected = parameter_similarity(merged, masks, n_random=3)
    for given in (base, str(base), root):
        found = parameter_similarity({name: (given, file) for name, file in files.items()}, masks, n_random=3)
        assert found.manifest["per_task"] and "adapter" in found.manifest["source"]["b"]["model"]
        for column in ("value", "low", "high"):
            np.testing.assert_allclose(found.table[column], expected.table[column], rtol=1e-5)
    monkeypatch.setattr("neuroscope.comparison.parameters.layer_sets.NUMBERS", 100)  # in pieces
    for column in ("value", "low", "high"):
        again = parameter_similarity({name: (base, file) for name, file in files.items()}, masks, n_random=3)
        np.testing.assert_allclose(again.table[column], expected.table[column], rtol=1e-5)
    plain = parameter_similarity(base, masks, n_random=3).table
    assert not np.allclose(plain.value[:2], expected.table.value[:2], rtol=1e-2)
    one = parameter_similarity((base, files["a"]), masks, estimator="mean", n_random=3).table
    assert one.value.tolist() == pytest.approx(
        parameter_similarity(merged["a"], masks, estimator="mean", n_random=3).table.value.tolist(), rel=1e-5
    )
    between = parameter_similarity((base, files["a"]), masks, other=(base, str(files["b"])), n_random=3).table
    np.testing.assert_allclose(
        between.delta, parameter_similarity(merged["a"], masks, other=merged["b"], n_random=3).table.delta, rtol=1e-5
    )


def test_an_adapter_over_an_adapter_is_refused(tmp_path):
    """Both were trained on the base: one on top of the other is a model that nobody trained."""
    root = families.build("llama")
    masks, base = random_masks(root), saved(root, tmp_path / "base")
    for name, mask in masks.items():
        adapter = NeuronAdapter(root, mask)
        adapter.save(tmp_path / name)
        adapter.detach()
    for given in (base, root):
        first = (given, tmp_path / "a")
        for model, other in ((first, tmp_path / "b"), ((first, tmp_path / "b"), None)):
            with pytest.raises(ModelError, match=r"an adapter over an adapter.*\n.*give other=\(base, path\)"):
                parameter_similarity(model, masks, other=other, n_random=3)
        assert len(parameter_similarity(first, masks, other=(given, tmp_path / "b"), n_random=3).table) == 4


def test_what_is_no_base_and_adapter_is_refused(tmp_path):
    root = families.build("llama")
    masks, base = random_masks(root), saved(root, tmp_path / "base")
    for wrong in ((base,), (base, 3), (base, "a", "b"), ()):
        with pytest.raises(ArgumentError, match="a tuple of .*\n.*adapter.safetensors"):
            parameter_similarity(wrong, masks)
    lora = LoraAdapter(root, 2)
    lora.save(tmp_path / "lora.safetensors")
    lora.detach()
    for model in ((base, tmp_path / "lora.safetensors"), (base, tmp_path)):
        with pytest.raises(FileError, match="merge a LoRA, save the model"):
            parameter_similarity(model, masks)


def test_an_adapter_in_place_of_its_file_is_refused():
    root = families.build("llama")
    masks = random_masks(root)
    adapter = NeuronAdapter(root, next(iter(masks.values())))
    adapter.detach()
    with pytest.raises(ArgumentError, match="an adapter, whose model.*\n.*save it, detach it, and give its file"):
        parameter_similarity(root, masks, other=adapter)


def test_an_adapter_of_another_base_is_refused(tmp_path):
    root, other = families.build("llama"), families.build("llama", seed=1)
    mask = random_masks(root)["a"]
    adapter = NeuronAdapter(other, mask)
    adapter.save(tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="fingerprint"):
        parameter_similarity(root, mask, other=tmp_path / "a.safetensors")
    mask.save(tmp_path / "mask.safetensors")
    with pytest.raises(FileError, match="NeuronMask"):
        parameter_similarity(root, mask, other=tmp_path / "mask.safetensors")
    NeuronAdapter(bert := families.build("bert"), random_masks(bert)["a"]).save(tmp_path / "b.safetensors")
    with pytest.raises((FileError, ModelError)):
        parameter_similarity(saved(root, tmp_path / "base"), mask, other=tmp_path / "b.safetensors")


# --- what is refused, and the result ---


def test_bad_input(tiny_model):
    model = tiny_model()
    masks = random_masks(model)
    theirs = random_masks(families.build("bloom"))
    for wrong, error, match in (
        (theirs, MaskError, "find the neurons on this model"),
        ({"a": masks["a"], "b": theirs["b"]}, MaskError, "different models"),
        ({"a": masks["a"]}, ArgumentError, "give 2 or more"),
        ({"a": masks["a"], "b": 3}, ArgumentError, "an int under 'b'"),
        ({"a": masks["a"], "b": masks["a"] - masks["a"]}, MaskError, "no neuron in 'b'"),
        (random_masks(model, unit="head"), MaskError, "head"),
    ):
        with pytest.raises(error, match=match):
            parameter_similarity(model, wrong)
    for keyword in ({"estimator": "cosine"}, {"part": "gates"}, {"n_random": 2}, {"n_random": 4.5}, {"controls": 3}):
        with pytest.raises(ArgumentError):
            parameter_similarity(model, masks, **keyword)
    with pytest.raises(ArgumentError, match="no such mask"):
        parameter_similarity({"z": model}, masks)
    with pytest.raises(ModelError, match="no part 'gate'"):
        parameter_similarity(opt := families.build("opt"), random_masks(opt), part="gate")


@pytest.mark.parametrize("compatible", [False, True])
def test_a_bridge_is_refused(compatible, tmp_path):
    from transformer_lens.model_bridge import TransformerBridge

    root = families.build("llama")
    masks = random_masks(root)
    root.save_pretrained(tmp_path)
    bridge = TransformerBridge.boot_transformers(
        str(tmp_path), hf_model=AutoModelForCausalLM.from_pretrained(tmp_path), tokenizer=families.tokenizer(tmp_path)
    )
    if compatible:
        bridge.enable_compatibility_mode()
    with pytest.raises(ModelError, match="rewrites the weights"):
        parameter_similarity(bridge, masks)


def test_a_peft_wrapper_is_refused():
    import peft

    root = families.build("llama")
    masks = random_masks(root)
    wrapped = peft.get_peft_model(root, peft.LoraConfig(target_modules=["down_proj"], r=2))
    with pytest.raises(ModelError, match="merge_and_unload"):
        parameter_similarity(wrapped, masks)


def test_the_result_is_saved_drawn_and_says_how_it_was_made(tiny_model, tmp_path):
    model = tiny_model()
    masks = random_masks(model, "abc")
    seen = []
    found = parameter_similarity(
        model, masks, n_random=4, part="down", progress=lambda items, desc: seen.append(desc) or items
    )
    assert seen == ["similarity of parameters"]
    about = found.manifest
    assert (about["estimator"], about["part"], about["n_random"], about["seed"]) == ("masked", "down", 4, 0)
    assert about["source"]["model"]["fingerprint"] == model.fingerprint()
    back = ParameterSimilarity.load(found.save(tmp_path / "s.json"))
    assert back.table.equals(found.table) and back.by_layer().equals(found.by_layer())
    figure = found.figure()
    by_layer = found.by_layer()
    for task, curve in zip("abc", figure.data[2:], strict=True):
        assert curve.name == task and list(curve.y) == by_layer[by_layer.task == task].value.tolist()
        assert "random masks:" in curve.customdata[0] and "blocks.0" in curve.customdata[0]
    assert figure.data[1].name == RANDOM
    assert figure.layout.yaxis.title.text == "masked cosine (down)"
    assert "95 % of a single task's mean over 4 draws" in figure.layout.title.subtitle.text
    assert repr(found).startswith("ParameterSimilarity(masked cosine (down), 3 masks")
    between = parameter_similarity(model, masks, other=tiny_model(seed=1), n_random=3)
    assert between.figure() == between.figure("relative") != between.figure("value")
    assert between.figure().layout.yaxis.title.text == "difference / norm" and found.figure() == found.figure("value")
    many = parameter_similarity(model, random_masks(model, "abcdefgh"), n_random=3)
    assert [t.name for t in many.figure().data] == [f"{RANDOM}: band", RANDOM, ALL]
    pair = parameter_similarity(model, {n: masks[n] for n in "ab"}, n_random=3)
    assert [t.name for t in pair.figure().data[2:]] == ["a | b"]
    first, second = widths(model)
    late = {n: NeuronMask.of({second if n != "a" else first: [1, 2]}, widths(model)) for n in "abc"}
    apart = parameter_similarity(model, late, n_random=3).figure()  # only b and c meet, in layer 1
    assert [(t.name, t.y[1]) for t in apart.data[3:]] == [("b", 1.0), ("c", 1.0)] and apart.data[2].name == "a"
    eight = parameter_similarity(model, random_masks(model, "abcdefgh"), n_random=20)
    own = eight.by_layer().query("task == @ALL")  # the one curve that is drawn has its own band
    assert list(eight.figure().data[0].y) == [*own.high, *own.low[::-1]]
    assert "shaded: 95 % over 20 draws" in eight.figure().layout.title.subtitle.text
    with pytest.raises(ArgumentError, match="no such measure"):
        found.by_layer("delta")
    for wrong in ("", "delta"):
        with pytest.raises(ArgumentError, match="no such measure"):
            found.figure(wrong)


def test_words_follow_the_numbers(tiny_model):
    model = tiny_model()
    shared = random_masks(model)["a"]
    found = parameter_similarity(model, {"a": shared, "b": shared, "c": ~shared})
    means = found.by_layer().query("task == @ALL")
    best = means.loc[means.value.idxmax()]
    words = found.in_words()
    assert words.startswith("The tasks' neurons are more alike than random ones of the same layers in ")
    assert "- The masked cosine of two tasks' neurons inside the model is " in words
    assert f"**{means.value.mean():.3f}** (mean over 2 layers and 3 pairs): highest in layer {best.layer}" in words
    above = int((means.value > means.high).sum())
    assert f"above their band in **{above} of 2** layers (0.1 by chance alone), single pairs in 2 of 6" in words
    assert ("**A negative**: in layer" in words) == (above < 2) and "only neurons that both tasks have meet" in words
    drawn = parameter_similarity(model, {"a": shared, "c": ~shared}).in_words()
    assert "(mean over 2 layers and 1 pair)" in drawn
    assert "**A negative**: in layers 0, 1 the tasks' neurons are no more alike than random ones." in drawn
    first, second = widths(model)
    never = {n: NeuronMask.of({address: [1]}, widths(model)) for n, address in zip("ab", (first, second), strict=True)}
    gone = parameter_similarity(model, never).in_words()
    assert gone == "**A negative**: in no layer is there a similarity (no neuron of b in this layer)."
    assert list(found.tables()) == ["by layer", "rows"]


def test_words_of_two_models(tiny_model):
    root = families.build("llama")
    masks = random_masks(root)
    found = parameter_similarity(root, masks, other=nudged(root))
    mean = found.table.relative.mean()
    words = found.in_words()
    assert f"differ between the two models by **{mean:.3f}** of their norm (mean over 2 layers and 2 masks)" in words
    above = int((found.table.relative > found.table.relative_high).sum())
    assert f"single masks in {above} of 4 (0.3 by chance alone)" in words
    same = parameter_similarity(root, masks, other=root).in_words()
    assert "**A negative**: in layers 0, 1 the tasks' neurons differ no more than random ones." in same
