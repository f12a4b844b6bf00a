"""Scores and masks: set algebra against Python sets, selection, files."""

import dataclasses
import json
import math
import os
import random
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroscope.comparison.parameters import parameter_similarity
from neuroscope.errors import ArgumentError, FileError, MaskError, NeuroscopeError, NumericalError
from neuroscope.experiments import (
    cross_ablation,
    cross_training,
    deactivation,
    dose,
    mask_parts,
    overlap_controlled,
    parameter_depth,
    parameter_transfer,
    train_only,
)  # fmt: skip
from neuroscope.interop.lape import load_lape, save_lape
from neuroscope.masks import NeuronMask, Scores, check_mask, mask_for, masks_of
from neuroscope.masks import scores_of as scores_by_name
from neuroscope.masks.mask_depth import mask_depth
from neuroscope.tasks import Example, Task

WIDTHS = {"blocks.0.mlp.hook_post": 5, "blocks.1.mlp.hook_post": 8, "blocks.10.mlp.hook_post": 3}
EVERY = [(a, j) for a, w in WIDTHS.items() for j in range(w)]
sets = st.sets(st.sampled_from(EVERY))
relevances = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0, 3.5]), min_size=len(EVERY), max_size=len(EVERY))


def mask_of(chosen, manifest=None):
    return NeuronMask.of({a: [j for b, j in sorted(chosen) if a == b] for a in WIDTHS}, WIDTHS, manifest=manifest)


def set_of(mask):
    return {(a, j) for a, neurons in mask.items() for j in neurons.tolist()}


def scores_of(values, **kwargs):
    parts = torch.tensor(values).split(list(WIDTHS.values()))
    return Scores(dict(zip(WIDTHS, parts, strict=True)), WIDTHS, **kwargs)


@given(sets, sets)
def test_algebra_is_that_of_sets(x, y):
    a, b = mask_of(x), mask_of(y)
    assert set_of(a) == x and len(a) == len(x)
    assert set_of(a | b) == x | y
    assert set_of(a & b) == x & y
    assert set_of(a - b) == x - y
    assert set_of(a ^ b) == x ^ y
    assert set_of(~a) == set(EVERY) - x
    assert ~(a | b) == ~a & ~b and ~(a & b) == ~a | ~b  # De Morgan
    assert a ^ b == (a | b) - (a & b) and a - b == a & ~b and ~~a == a
    assert (a == b) == (x == y)
    if x == y:
        assert hash(a) == hash(b)
    expected = len(x & y) / len(x | y) if x | y else math.nan
    assert a.jaccard(b) == pytest.approx(expected, nan_ok=True)
    assert a.density == pytest.approx(len(x) / len(EVERY)) and a.counts() == {a: len(n) for a, n in mask_of(x).items()}
    assert all(list(m) == list(WIDTHS) and m.widths == WIDTHS for m in (a | b, a & b, a - b, a ^ b, ~a))


@given(sets)
def test_every_site_is_a_sorted_tensor_of_integers(x):
    mask = ~mask_of(x)
    for neurons in mask.values():
        assert neurons.dtype == torch.long and neurons.tolist() == sorted(set(neurons.tolist()))
    assert mask.flags().tolist() == [e not in x for e in EVERY]


def test_operations_remember_their_operands_and_the_means():
    means = {a: torch.rand(w) for a, w in WIDTHS.items()}
    a = NeuronMask(dict(mask_of({EVERY[0]})), WIDTHS, "hidden", {"task": "nli"}, means)
    combined = a | mask_of({EVERY[1]}, {"task": "food"})
    assert combined.manifest == {"operation": "|", "operands": [{"task": "nli"}, {"task": "food"}]}
    # means of other examples, or none: then `a | b` has none, as `b | a`
    assert combined.means is None and (mask_of({EVERY[1]}) | a).means is None
    again = NeuronMask(dict(mask_of({EVERY[1]})), WIDTHS, "hidden", {}, {k: v.clone() for k, v in means.items()})
    assert (a | again).means is means and (~a).means is means and a.random_like(seed=0).means is means
    assert (~a).manifest["operands"] == [{"task": "nli"}]
    with pytest.raises(TypeError):
        a | {1, 2}


def test_masks_of_other_shapes_are_refused_with_both_shapes():
    other = NeuronMask.of({}, {"blocks.0.mlp.hook_post": 48, "blocks.1.mlp.hook_post": 48})
    for combine in (lambda a, b: a | b, lambda a, b: a & b, lambda a, b: a - b, lambda a, b: a ^ b, NeuronMask.jaccard):
        with pytest.raises(MaskError) as caught:
            combine(mask_of(set()), other)
        assert "3 sites of 3 / 5 / 8 neurons" in str(caught.value) and "2 sites of 48 neurons" in str(caught.value)


def test_impossible_neurons_are_refused_by_name():
    with pytest.raises(MaskError, match=r"blocks\.7\.mlp\.hook_post"):
        NeuronMask.of({"blocks.7.mlp.hook_post": [0]}, WIDTHS)
    for neuron in (5, -1):
        with pytest.raises(MaskError, match=f"neuron {neuron}; the site has 5"):
            NeuronMask.of({"blocks.0.mlp.hook_post": [0, neuron, 2]}, WIDTHS)
    twice = NeuronMask.of({"blocks.0.mlp.hook_post": torch.tensor([3, 1, 3])}, WIDTHS)
    assert twice["blocks.0.mlp.hook_post"].tolist() == [1, 3]


@given(sets, st.integers(0, 2**31))
def test_random_like_keeps_the_size_and_is_fixed_by_its_seed(x, seed):
    mask = mask_of(x)
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()
    by_layer, uniform = mask.random_like(seed=seed), mask.random_like(seed=seed, match="uniform")
    assert by_layer.counts() == mask.counts() and len(uniform) == len(mask)
    assert by_layer == mask.random_like(seed=seed) and uniform == mask.random_like(seed=seed, match="uniform")
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1:] == (random.getstate(), np.random.get_state()[1].tobytes())
    assert by_layer.manifest["seed"] == seed and uniform.manifest["match"] == "uniform"


def loud_mask(chosen, norms):
    widths = {a: len(v) for a, v in norms.items()}
    neurons = {a: torch.tensor(sorted(v)) for a, v in chosen.items()}
    return NeuronMask(neurons, widths, norms={a: torch.tensor(v, dtype=torch.float32) for a, v in norms.items()})


def test_controls_as_loud_are_other_neurons_of_the_same_loudness():
    rng = np.random.default_rng(0)
    norms = {"x": rng.lognormal(0, 1, 400).tolist(), "y": rng.lognormal(3, 1, 300).tolist()}
    mask = loud_mask({"x": rng.choice(400, 30, replace=False).tolist(), "y": [5, 7]}, norms)
    for seed in range(5):
        control = mask.random_like(seed=seed, match="activation")
        assert control.counts() == mask.counts() and not len(control & mask)
        assert control == mask.random_like(seed=seed, match="activation")
        assert 0.7 < control.manifest["loudness"] < 1.4
        ranks = {i: rank for rank, i in enumerate(np.argsort(norms["x"]).tolist())}
        apart = np.sort([ranks[i] for i in control["x"].tolist()]) - np.sort([ranks[i] for i in mask["x"].tolist()])
        assert np.abs(apart).max() < 30  # places of 400: 8 of those that are free
    by_layer = [mask.random_like(seed=s) for s in range(20)]
    typical = np.mean([np.take(norms["x"], m["x"]).mean() for m in by_layer]) / np.take(norms["x"], mask["x"]).mean()
    assert abs(typical - 1) > 0.01  # which layer-matched ones do not care for
    assert len({mask.random_like(seed=s, match="activation") for s in range(20)}) == 20


def test_controls_cannot_be_louder_than_what_is_left():
    norms = {"x": list(range(1, 101))}
    loudest = loud_mask({"x": range(90, 100)}, norms).random_like(seed=0, match="activation")
    assert loudest["x"].min() >= 90 - 2 * 10 and loudest["x"].max() < 90
    assert loudest.manifest["loudness"] == pytest.approx((loudest["x"] + 1).double().mean() / 95.5)
    with pytest.raises(MaskError, match="51 of the 100 neurons"):
        loud_mask({"x": range(51)}, norms).random_like(seed=0, match="activation")
    with pytest.raises(MaskError, match="no norms"):
        NeuronMask.of({"x": [1]}, {"x": 10}).random_like(seed=0, match="activation")


def test_norms_go_with_masks_and_files(tmp_path):
    mask = loud_mask({"x": [1]}, {"x": [1.0, 2.0, 3.0]})
    assert (mask | mask).norms is mask.norms and (~mask).norms is mask.norms
    read = NeuronMask.load(mask.save(tmp_path / "mask.safetensors"))
    torch.testing.assert_close(read.norms, dict(mask.norms))
    scores = Scores({"x": torch.rand(3)}, {"x": 3}, norms=mask.norms)
    assert scores.top(0.4).norms is mask.norms
    with pytest.raises(ArgumentError, match="norms"):
        Scores({"x": torch.rand(3)}, {"x": 3}, norms={"y": torch.rand(3)})


def test_random_like_draws_differ_and_cover_all_neurons():
    mask = mask_of(EVERY[::3])
    draws = [mask.random_like(seed=s, match=m) for s in range(40) for m in ("uniform", "layer")]
    assert len(set(draws)) > 30
    assert set.union(*map(set_of, draws)) == set(EVERY)
    assert len({tuple(d.counts().values()) for d in draws[::2]}) > 3  # uniform ones do not keep the sites' counts
    with pytest.raises(ArgumentError, match="layer"):
        mask.random_like(seed=0, match="by-layer")


@pytest.mark.filterwarnings("ignore:top")
@given(relevances, st.sampled_from([0.01, 0.1, 0.25, 0.5, 0.99, 1.0, 1, 5, 16]))
def test_top_takes_the_best_share_or_so_many_with_ties_in_forward_order(values, k):
    order = sorted(range(len(EVERY)), key=lambda i: (-values[i], i))
    best = order[: k if isinstance(k, int) else max(1, round(k * len(EVERY)))]
    if values[best[0]] <= 0 and len(best) < len(EVERY):
        with pytest.raises(ArgumentError, match="0 are eligible"):
            scores_of(values).top(k)
    else:
        assert set_of(scores_of(values).top(k)) == {EVERY[i] for i in best}


@pytest.mark.filterwarnings("ignore:top")
@given(relevances.filter(lambda values: max(values[:3]) > 0), st.sampled_from([0.1, 0.5, 1.0, 2]))
def test_top_per_layer_takes_the_best_of_every_site(values, k):
    mask, expected = scores_of(values).top(k, per_layer=True), set()
    for address, width in WIDTHS.items():
        here = [(-values[i], j) for i, (a, j) in enumerate(EVERY) if a == address]
        expected |= {(address, j) for _, j in sorted(here)[: k if isinstance(k, int) else max(1, round(k * width))]}
    assert set_of(mask) == expected


def test_top_records_what_it_did_and_keeps_the_means():
    means = {a: torch.rand(w) for a, w in WIDTHS.items()}
    mask = scores_of([float(i) for i in range(16)], manifest={"task": "nli"}, means=means).top(0.25)
    assert mask.manifest == {"task": "nli", "selection": {"k": 0.25, "per_layer": False}} and mask.means is means
    assert set_of(mask) == set(EVERY[-4:])
    assert set_of(scores_of([float(i) for i in range(16)]).threshold(13)) == set(EVERY[13:])


@pytest.mark.parametrize("size", [-0.5, 1.5, "a", True, np.True_, None, math.nan, [0.1]])
def test_what_is_no_share_is_refused(size):
    with pytest.raises(ArgumentError, match="0 < size <= 1(.|\n)*or how many, from 1 to 16"):
        scores_of([0.0] * 16).top(size)


@pytest.mark.parametrize("size", [0, -1, 17, np.int64(17)])
def test_what_is_no_number_of_neurons_is_refused(size):
    with pytest.raises(ArgumentError, match="(whole number from 1 up|more than 16)(.|\n)*or how many, from 1 to 16"):
        scores_of([0.0] * 16).top(size)


def test_the_type_tells_a_share_from_a_number():
    scores = scores_of([float(i) for i in range(16)])
    assert len(scores.top(1)) == len(scores.top(np.int64(1))) == len(scores.top(torch.tensor(1))) == 1
    assert len(scores.top(1.0)) == len(scores.top(np.float32(1))) == 16
    assert scores.top(3).manifest["selection"] == {"count": 3, "per_layer": False}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    values = [0.0] * 16
    values[6] = bad
    with pytest.raises(NumericalError, match=r"1 non-finite values, the first at blocks\.1"):
        scores_of(values)


def test_sampled_scores_cannot_be_ranked():
    values = [0.0] * 15 + [math.nan]
    scores = scores_of(values, manifest={"n_scored": 15})
    assert scores.n_scored == 15 and math.isnan(scores.vector()[-1])
    with pytest.raises(ArgumentError, match="15 of 16"):
        scores.top(0.1)
    with pytest.raises(ArgumentError, match="15 of 16"):
        scores.threshold(0.0)


def test_masks_by_name():
    one, two = mask_of(EVERY[:3]), mask_of(EVERY[3:])
    named = {"a": one, "b": two}
    assert masks_of(named, "compare") == named and masks_of(named, "compare") is not named
    assert scores_by_name({"a": scores_of([1.0] * 16)}, "compare").keys() == {"a"}
    bad = [
        (one, "a NeuronMask, not a dict"),
        ([one, two], "a list of 2 NeuronMasks, not a dict"),
        (None, "a NoneType, not a dict"),
        ({}, "an empty dict"),
        ({"a": one, "b": scores_of([1.0] * 16)}, "a Scores under 'b'"),
        ({3: one}, "3 for a name"),
    ]
    for masks, found in bad:
        with pytest.raises(ArgumentError, match=rf"(?s)compare.*{found}.*dict name -> NeuronMask"):
            masks_of(masks, "compare")
    with pytest.raises(ArgumentError, match="a NeuronMask under 'a'"):
        scores_by_name(named, "compare")
    check_mask(one, "compare")
    for wrong in (named, scores_of([1.0] * 16), None):
        with pytest.raises(ArgumentError, match=r"(?s)compare.*in place of a mask.*scores\.top"):
            check_mask(wrong, "compare")


def test_masks_and_scores_do_not_change():
    for value in (mask_of(EVERY[:3]), scores_of([1.0] * 16)):
        with pytest.raises(AttributeError):
            value.widths = {}
        with pytest.raises(TypeError):
            value["blocks.0.mlp.hook_post"] = torch.tensor([1])
        with pytest.raises(TypeError):
            del value["blocks.0.mlp.hook_post"]


def test_equality_and_hash():
    a, b = mask_of(EVERY[:3]), mask_of(EVERY[:3], {"task": "other"})
    wider = NeuronMask.of(dict(a), WIDTHS | {"blocks.11.mlp.hook_post": 1})
    assert a == b and hash(a) == hash(b) and {a, b} == {a}
    assert a != mask_of(EVERY[:4]) and a != wider and a != scores_of([1.0] * 16) and a != 3
    assert scores_of([1.0] * 16) == scores_of([1.0] * 16) != scores_of([1.0] * 15 + [0.0])
    assert len({scores_of([1.0] * 16), scores_of([1.0] * 16)}) == 1


def test_length_membership_repr():
    mask, scores = mask_of(EVERY[:4], {"task": "nli"}), scores_of([1.0] * 16, manifest={"method": "gradient"})
    assert len(mask) == 4 and len(scores) == 16 and "blocks.0.mlp.hook_post" in mask and "blocks.3" not in mask
    assert repr(mask) == "NeuronMask(4 of 16 hidden neurons for nli, 25.0%)"
    assert repr(scores) == "Scores(16 hidden neurons at 3 sites, method=gradient)"


def test_frames_are_tidy():
    frame = mask_of({EVERY[1], EVERY[5], EVERY[15]}).to_frame()
    assert frame.columns.tolist() == ["address", "layer", "neuron"]
    assert frame.layer.tolist() == [0, 1, 10] and frame.neuron.tolist() == [1, 0, 2]
    frame = scores_of([float(i) for i in range(16)]).to_frame()
    assert frame.columns.tolist() == ["address", "layer", "neuron", "relevance"]
    assert frame.relevance.tolist() == [float(i) for i in range(16)]
    assert list(zip(frame.address, frame.neuron, strict=True)) == EVERY
    assert mask_of(set()).to_frame().empty


def test_a_notebook_shows_masks_and_scores_as_tables():
    evil = "<script>x</script>"
    page = mask_of({EVERY[1], EVERY[15]}, {"task": evil})._repr_html_()
    assert page.count("<tr>") == 3 and evil not in page and "2 of 16 hidden neurons for &lt;script&gt;" in page
    page = scores_of([float(i % 7) - 3.5 for i in range(16)])._repr_html_()
    assert re.findall(r'"number">(-?[\d.]+)</td></tr>', page)[:5] == ["-3.5", "-3.5", "-3.5", "-2.5", "2.5"]


def test_figures_count_the_neurons():
    mask = mask_of({EVERY[0], EVERY[6], EVERY[7]})
    assert mask.figure().data and scores_of([float(i) for i in range(16)]).figure().data


# --- files


@settings(max_examples=30)
@given(sets, relevances, st.booleans())
def test_files_give_back_what_was_saved(tmp_path_factory, x, values, with_means):
    path = tmp_path_factory.mktemp("masks") / "deep" / "file.safetensors"
    means = {a: torch.rand(w) for a, w in WIDTHS.items()} if with_means else None
    manifest = {"task": "nli", "examples": 3, "nested": {"k": [0.1, None, "ü"]}}
    for saved in (
        NeuronMask(dict(mask_of(x)), WIDTHS, "output", manifest, means),
        Scores(dict(scores_of(values)), WIDTHS, "hidden", manifest, means),
    ):
        assert saved.save(path) == path
        loaded = type(saved).load(path)
        assert loaded == saved and list(loaded) == list(WIDTHS) and dict(loaded.widths) == WIDTHS
        assert loaded.unit == saved.unit and loaded.manifest == manifest
        assert [v.dtype for v in loaded.values()] == [v.dtype for v in saved.values()]
        assert (loaded.means is None) == (means is None)
        assert all(torch.equal(loaded.means[a], means[a]) for a in means or {})


def test_one_tensor_at_two_sites_can_be_saved(tmp_path):
    same = torch.arange(4.0)
    widths = {"blocks.0.x": 4, "blocks.1.x": 4}
    scores = Scores(dict.fromkeys(widths, same), widths, means={"blocks.0.x": same})
    assert Scores.load(scores.save(tmp_path / "s.safetensors")) == scores


def test_what_is_not_such_a_file_is_refused(tmp_path):
    good = mask_of(EVERY[:3], {"task": "nli"}).save(tmp_path / "mask.safetensors")
    whole, path = good.read_bytes(), tmp_path / "bad.safetensors"
    noise = random.Random(0).randbytes(400)
    for content in (b"", whole[: len(whole) // 2], whole[:-1], noise, b"{}", b"PK\x03\x04zip"):
        path.write_bytes(content)
        with pytest.raises(FileError, match=r"bad\.safetensors"):
            NeuronMask.load(path)
    for missing in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(FileError, match="NeuronMask"):
            NeuronMask.load(missing)
    with pytest.raises(FileError, match="NeuronMask, format 1"):
        Scores.load(good)
    safetensors.torch.save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(FileError, match="without our manifest"):
        NeuronMask.load(path)
    about = {"format": 99, "kind": "NeuronMask", "unit": "hidden", "widths": WIDTHS}
    for changed in (about, about | {"format": 1}, {"format": 1}, []):  # of the future; without values; others'
        safetensors.torch.save_file({"x": torch.zeros(2)}, path, {"neuroscope": json.dumps(changed)})
        with pytest.raises(FileError, match=r"bad\.safetensors"):
            NeuronMask.load(path)


def test_damaged_bytes_never_raise_anything_else(tmp_path):
    good = mask_of(EVERY[:3], {"task": "nli"}).save(tmp_path / "mask.safetensors").read_bytes()
    path, draw = tmp_path / "damaged.safetensors", random.Random(0)
    for _ in range(300):
        damaged = bytearray(good)
        damaged[draw.randrange(len(good))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            loaded = NeuronMask.load(path)
        except NeuroscopeError:
            continue
        assert isinstance(loaded, NeuronMask)


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = mask_of(EVERY[:3]).save(tmp_path / "mask.safetensors")
    broken = NeuronMask(dict(mask_of(EVERY)), WIDTHS, manifest={"not json": {1, 2}})
    with pytest.raises(TypeError):
        broken.save(path)
    assert NeuronMask.load(path) == mask_of(EVERY[:3]) and [p.name for p in tmp_path.iterdir()] == ["mask.safetensors"]


# --- LAPE

LAPE_WIDTHS = {f"blocks.{i}.mlp.hook_post": 6 for i in range(3)}


def lape_masks():
    a, b, _ = LAPE_WIDTHS
    return {"en": NeuronMask.of({a: [1, 5]}, LAPE_WIDTHS), "zh": NeuronMask.of({a: [0], b: [2, 3]}, LAPE_WIDTHS)}


def test_lape_files_give_back_what_was_saved(tmp_path):
    path = save_lape(lape_masks(), tmp_path / "x.neuron.pth")
    loaded = load_lape(path, names=["en", "zh"], width=6)
    assert loaded == lape_masks() and list(loaded) == ["en", "zh"]
    assert loaded["zh"].manifest == {"method": "lape", "task": "zh"}
    raw = torch.load(path, weights_only=True)  # the published format: languages of layers of LongTensors
    assert isinstance(raw, list) and isinstance(raw[1], list) and raw[1][1].tolist() == [2, 3]


def test_what_is_not_a_lape_file_is_refused(tmp_path):
    path = save_lape(lape_masks(), tmp_path / "x.neuron.pth")
    for names in ([], ["en"], ["en", "zh", "fr"]):
        with pytest.raises(FileError, match=f"2 languages for {len(names)} different names"):
            load_lape(path, names=names, width=6)
    with pytest.raises(FileError, match="neuron 5; the site has 4"):
        load_lape(path, names=["en", "zh"], width=4)
    others = [{"a": torch.zeros(2)}, [], [[torch.zeros(1)], []], [["a"]], torch.zeros(3), 3, [1, 2], [{"a": 1}]]
    for other in others:
        torch.save(other, tmp_path / "other.pth")
        with pytest.raises(FileError, match=r"other\.pth"):
            load_lape(tmp_path / "other.pth", names=["en", "zh"], width=6)
    for content in (b"", b"\x80", path.read_bytes()[:100], random.Random(0).randbytes(300)):
        (tmp_path / "other.pth").write_bytes(content)
        with pytest.raises(FileError, match=r"other\.pth"):
            load_lape(tmp_path / "other.pth", names=["en", "zh"], width=6)
    with pytest.raises(FileError, match="No such file"):
        load_lape(tmp_path / "none.pth", names=["en"], width=6)


def test_only_masks_of_a_plain_stack_of_ffns_become_lape_files(tmp_path):
    experts = NeuronMask.of({}, {"blocks.0.mlp.experts.0.hook_post": 4, "blocks.0.mlp.experts.1.hook_post": 4})
    with pytest.raises(MaskError, match="experts"):
        save_lape({"en": experts}, tmp_path / "x.pth")
    assert not (tmp_path / "x.pth").exists()


def shared_data():
    near = [p / "shared" / "data" for p in Path(__file__).resolve().parents[1:3]]
    folders = [os.environ.get("NEUROSCOPE_DATA"), *near]
    return next((Path(f) for f in folders if f and Path(f).is_dir()), None)


def test_published_language_neurons_overlap_as_published():
    data = shared_data()
    if data is None:
        pytest.skip("no published masks: set NEUROSCOPE_DATA to a folder with masks/LLaMA-2-7B.lape.neuron.pth")
    names = ["en", "zh", "fr", "es", "vi", "id", "ja"]
    masks = load_lape(data / "masks" / "LLaMA-2-7B.lape.neuron.pth", names=names, width=11008)
    assert [len(m) for m in masks.values()] == [95, 583, 1022, 838, 836, 1068, 582]
    assert all(len(m.widths) == 32 for m in masks.values())
    published = {("zh", "ja"): 0.229, ("fr", "es"): 0.220, ("vi", "id"): 0.205}
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            jaccard = masks[a].jaccard(masks[b])
            if (a, b) in published:
                assert jaccard == pytest.approx(published[a, b], abs=5e-4)
            else:
                assert 0.0155 <= jaccard < 0.1145


def test_where_masks_have_their_neurons_and_what_relevance_they_hold():
    values = [float(i) for i in range(13)] + [-1.0, -2.0, 20.0]  # the sites' widths are 5, 8 and 3
    scores = {"up": scores_of(values, manifest={"method": "m", "reduction": "r"}), "down": scores_of(values[::-1])}
    masks = {name: s.top(0.25) for name, s in scores.items()}
    found = mask_depth(masks, scores, 0.25, {"up": "a", "down": "b"})
    rows = found.table.set_index(["name", "address"])
    assert rows.loc["up"]["neurons"].tolist() == [0, 3, 1] and rows.loc["up"]["share"].tolist() == [0, 3 / 8, 1 / 3]
    held = (20 + 12 + 11 + 10) / (sum(range(13)) + 20)  # of the positive relevance
    assert found.manifest["held"] == pytest.approx({"up": held, "down": held})
    words = found.in_words()
    assert f"hold **{held:.0%}** of the relevance (m, r), mean over 2 task(s)" in words
    assert "- up: most at blocks.1.mlp.hook_post, 38% of the neurons there." in words
    assert len(found.figures()) == 2 and found.figure().data[0].type == "heatmap"
    assert len(dataclasses.replace(found, scores={}).figures()) == 1  # as it comes from a file


SAME = ["1.2", ["1.2"], {1: [2]}, {"1": 2}, [(1, 2)], {"blocks.1.mlp.hook_post": [2]}, ["blocks.1.mlp.hook_post.2"]]


@pytest.mark.parametrize("written", SAME, ids=repr)
def test_neurons_written_by_people_are_understood_given_a_model(written, tiny_model):
    model = tiny_model()
    mask = mask_for(model, written, "read")
    assert mask == NeuronMask.of({1: [2]}, model) and len(mask) == 1


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("7.2", "0 sites in layer 7.*nearest: blocks.1.mlp.hook_post, blocks.0.*nearest neurons: 1.2, 0.2$"),
        ("1.48", "neuron 48; the site has 48.*0 to 47.*the nearest: 1.47$"),
        ({"blocks.1.mlp.hook_pst": [0]}, "'blocks.1.mlp.hook_pst'.*nearest: blocks.1.mlp.hook_post, blocks.0"),
        ([(9, 99)], "layer 9.*nearest neurons: 1.47, 0.47$"),
        ("blocks.2.mlp.hook_post.5", "which is not there.*nearest neurons: (1.5, 0.5|0.5, 1.5)$"),
        ("eleven", "'eleven' for a neuron.*'11.1229'"),
        ({1: []}, "no neuron"),
    ],
)
def test_an_address_that_is_not_there_names_the_nearest(written, said, tiny_model):
    with pytest.raises(MaskError, match=f"(?s){said}"):
        mask_for(tiny_model(), written, "read")


BY_TASK = [
    cross_ablation, cross_training, deactivation, dose, mask_parts, overlap_controlled, parameter_depth,
    parameter_transfer, train_only,
]  # fmt: skip


@pytest.mark.parametrize("function", BY_TASK)
def test_masks_by_name_may_be_written_by_people_where_the_model_is_at_hand(function, tiny_model):
    more: dict = {"held_out": ["b"]} if function is overlap_controlled else {}
    tasks = {name: Task(name, train=[Example("the", "a")], test=[Example("the", "b")]) for name in "ab"}
    with pytest.raises(MaskError, match=r"(?s)masks\['b'\].*layer 7.*nearest"):  # they are read
        function(tiny_model(), tasks, {"a": {1: [2]}, "b": "7.2"}, **more)


def test_what_masks_by_name_are_made_of(tiny_model):
    model = tiny_model()
    mask = NeuronMask.of("1.2", model)
    assert masks_of({"a": "1.2", "b": mask, "c": {1: [2]}}, "compare", model) == dict.fromkeys("abc", mask)
    with pytest.raises(ArgumentError, match=r"(?s)a str under 'a'.*NeuronMask\.of\(\"11\.1229\", model\)"):
        masks_of({"a": "1.2"}, "compare")
    alike = parameter_similarity(model, {"a": ["1.2", "1.3"], "b": {1: [3]}}, n_random=3)
    same = parameter_similarity(model, {"a": NeuronMask.of(["1.2", "1.3"], model), "b": "1.3"}, n_random=3)
    assert alike.table.equals(same.table)
    assert parameter_similarity(model, "1.2", n_random=3, other=tiny_model()).table["value"].max() == pytest.approx(1)


def test_scores_are_no_mask(tiny_model):
    with pytest.raises(ArgumentError, match="a Scores in place of a mask"):
        mask_for(tiny_model(), scores_of([0.0] * 16), "read")
