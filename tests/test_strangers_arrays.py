"""Masks, scores, amounts and activations made by hand: every sensible form is understood, everything else refused."""

import numpy as np
import pandas as pd
import pytest
import torch

import neuroscope as ns
from neuroscope.arrays import array_of
from neuroscope.errors import ArgumentError, MaskError, NeuroscopeError

FIRST, SECOND = "blocks.0.mlp.hook_post", "blocks.1.mlp.hook_post"
WIDTHS = {FIRST: 4, SECOND: 4}
FLAGS = [False, True, False, True]
ROWS = pd.DataFrame({"address": [SECOND, SECOND], "layer": [1, 1], "neuron": [3, 1]})
SAME = {
    "list": {SECOND: [3, 1]},
    "a neuron twice": {SECOND: [3, 1, 1]},
    "tuple": {SECOND: (1, 3)},
    "set": {SECOND: {1, 3}},
    "range": {SECOND: range(1, 4, 2)},
    "list of numpy's": {SECOND: [np.int16(1), torch.tensor(3)]},
    "list of flags": {SECOND: FLAGS},
    "tensor of flags": {SECOND: torch.tensor(FLAGS)},
    "array of flags": {SECOND: np.array(FLAGS)},
    "series of flags": {SECOND: pd.Series(FLAGS)},
    "flags in another order": {SECOND: pd.Series([True, False, True, False], index=[3, 2, 1, 0])},
    "nullable flags": {SECOND: pd.Series(FLAGS, dtype="boolean")},
    "series": {SECOND: pd.Series([1, 3], index=[7, 9])},
    "nullable series": {SECOND: pd.Series([1, 3], dtype="Int64")},
    "big-endian": {SECOND: np.array([1, 3], dtype=">i4")},
    "nothing masked": {SECOND: np.ma.masked_array([1, 3])},
    "layer": {1: [1, 3]},
    "layer of numpy's": {np.int64(1): [1, 3]},
    "layer as text": {"1": [1, 3]},
    "layer and address": {1: [1], SECOND: [3]},
    "set of pairs": {(1, 1), (1, 3)},
    "list of pairs": [(SECOND, 1), [1, np.int64(3)]],
    "array of pairs": np.array([[1, 1], [1, 3]]),
    "names": ["1.1", f"{SECOND}.3"],
    "frame": ROWS,
    "frame of layers": ROWS[["layer", "neuron"]],
    "flags of the model": torch.tensor([False] * 4 + FLAGS),
    "list of flags of the model": [False] * 4 + FLAGS,
    "flags by layer": np.array([[False] * 4, FLAGS]),
} | {f"{kind}": {SECOND: torch.tensor([1, 3]).to(getattr(torch, kind))} for kind in ("uint8", "int8", "int16", "int32")}
SAME |= {f"numpy {kind}": {SECOND: np.array([1, 3], kind)} for kind in ("u1", "u2", "u4", "u8", "i1", "i8")}
BAD = {
    "float": {SECOND: [1.0, 3.0]},
    "float tensor": {SECOND: torch.tensor([1.0])},
    "flags and numbers": {SECOND: [True, 3]},
    "text": {SECOND: "13"},
    "list of texts": {SECOND: ["1"]},
    "nothing": {SECOND: None},
    "-1": {SECOND: [-1]},
    "too large": {SECOND: [4]},
    "far too large": {SECOND: [2**70]},
    "wide unsigned": {SECOND: np.array([2**64 - 1], "u8")},
    "too few flags": {SECOND: [True, False]},
    "flags as numbers": {SECOND: np.array([[0, 1, 0, 1]])},
    "masked": {SECOND: np.ma.masked_array([1, 3], [False, True])},
    "missing": {SECOND: pd.Series([1, None], dtype="Int64")},
    "missing flags": {SECOND: pd.Series([True, None, False, True], dtype="boolean")},
    "flags of some": {SECOND: pd.Series(FLAGS, index=[1, 3, 5, 7])},
    "dates": {SECOND: np.array(["2020-01-01"], "M8[D]")},
    "objects": {SECOND: np.array([1, 3], object)},
    "complex": {SECOND: torch.tensor([1j])},
    "sparse": {SECOND: torch.tensor(FLAGS).to_sparse()},
    "meta": {SECOND: torch.empty(2, dtype=torch.long, device="meta")},
    "a dict": {SECOND: {1: 3}},
    "unknown layer": {7: [1]},
    "flag for a layer": {True: [1]},
    "unknown address": {"blocks.9.mlp.hook_post": [1]},
    "frame without neurons": ROWS[["layer"]],
    "indices without a layer": [1, 3],
    "tensor without a layer": torch.tensor([1, 3]),
    "name without a layer": ["3"],
    "text alone": "one",
    "number": 3,
    "nothing at all": None,
    "too few flags of the model": FLAGS,
    "numbers by layer": np.array([[0.0, 1.0]]),
}


@pytest.mark.parametrize("form", SAME)
def test_the_same_neurons_in_every_form(form):
    mask = ns.NeuronMask.of(SAME[form], WIDTHS)
    assert {a: v.tolist() for a, v in mask.items()} == {FIRST: [], SECOND: [1, 3]}
    assert {v.dtype for v in mask.values()} == {torch.long}


@pytest.mark.parametrize("form", BAD)
def test_what_names_no_neurons_is_refused(form):
    with pytest.raises(NeuroscopeError) as caught:
        ns.NeuronMask.of(BAD[form], WIDTHS)
    assert caught.value.do and len(str(caught.value)) < 600


def test_widths_of_a_mask_and_of_a_model(tiny_model):
    model = tiny_model("causal")
    mask = ns.NeuronMask.of({1: [5]}, model)
    assert mask == ns.NeuronMask.of(["1.5"], mask) and mask.widths == {FIRST: 48, SECOND: 48}
    for widths in ({}, None, 4, {FIRST: "4"}, {FIRST: -1}, {FIRST: True}, {1: 4}):
        with pytest.raises(ArgumentError):
            ns.NeuronMask.of({1: [2]}, widths)


@pytest.mark.parametrize(
    "values",
    [
        {FIRST: [1], SECOND: [3]},
        {FIRST: torch.tensor([1.0]), SECOND: torch.tensor([3])},
        {FIRST: torch.tensor([1, 1]), SECOND: torch.tensor([3])},
        {FIRST: torch.tensor([2, 1]), SECOND: torch.tensor([3])},
        {FIRST: torch.tensor([-1]), SECOND: torch.tensor([3])},
        {FIRST: torch.tensor([4]), SECOND: torch.tensor([3])},
        {FIRST: torch.tensor([[1]]), SECOND: torch.tensor([3])},
        {FIRST: torch.tensor(FLAGS), SECOND: torch.tensor([3])},
        {SECOND: torch.tensor([3])},
        [1, 3],
    ],
)
def test_the_constructor_takes_sorted_indices_only(values):
    with pytest.raises((MaskError, ArgumentError), match=r"NeuronMask\.of"):
        ns.NeuronMask(values, WIDTHS)


def test_scores_of_lists_arrays_and_series():
    want = [4.0, 3.0, 2.0, 1.0]
    forms = [want, [4, 3, 2, 1], np.array(want), np.array(want, ">f4"), pd.Series(want), torch.tensor(want)]
    for form in [*forms, pd.Series(want[::-1], index=[3, 2, 1, 0])]:
        scores = ns.Scores({FIRST: form, SECOND: form}, WIDTHS)
        assert scores[FIRST].tolist() == want and scores.top(0.25)[SECOND].tolist() == [0]


@pytest.mark.parametrize(
    "bad",
    [
        [1.0, 2.0, 3.0],
        [[1.0, 2.0, 3.0, 4.0]],
        FLAGS,
        ["a"] * 4,
        None,
        "1234",
        np.ma.masked_array([1.0, 2.0, 3.0, 4.0], [True, False, False, False]),
        pd.Series([1.0, None, 2.0, 3.0]),
        torch.tensor([1j] * 4),
    ],
)
def test_what_are_no_scores(bad):
    with pytest.raises(NeuroscopeError):
        ns.Scores({FIRST: bad, SECOND: [1.0] * 4}, WIDTHS)


def test_amounts_and_activations_of_other_libraries(tiny_model):
    model = tiny_model("causal")
    mask = ns.NeuronMask.of({1: [5]}, model)
    amount = torch.rand(48)
    ids = torch.tensor([[1, 5, 6]])

    def logits(scope):
        with scope, torch.no_grad():
            return model.root(input_ids=ids).logits

    right = logits(ns.add(model, mask, {SECOND: amount}))
    assert not torch.equal(right, logits(ns.scale(model, mask, 1)))
    for same in (amount.numpy(), amount.tolist(), pd.Series(amount.numpy())):
        torch.testing.assert_close(logits(ns.add(model, mask, {SECOND: same})), right)
    for bad in ("a", None, [1.0], [float("nan")] * 48, [True] * 48, np.ma.masked_all(48), np.array([1j] * 48)):
        with pytest.raises(NeuroscopeError):
            ns.add(model, mask, {SECOND: bad})
    cached = torch.rand(1, 3, 48)
    right = logits(ns.patch(model, mask, source={SECOND: cached}))
    for same in (cached.numpy(), cached.tolist()):
        torch.testing.assert_close(logits(ns.patch(model, mask, source={SECOND: same})), right)
    for bad in ("a", None, cached[0], cached > 0.5, np.ma.masked_all((1, 3, 48))):
        with pytest.raises(NeuroscopeError):
            ns.patch(model, mask, source={SECOND: bad})
    last = logits(ns.patch(model, mask, source={SECOND: cached}, positions=[-1]))
    for same in (-1, np.array([-1]), (np.int64(-1),), torch.tensor([-1])):
        assert torch.equal(logits(ns.patch(model, mask, source={SECOND: cached}, positions=same)), last)
    for bad in ("a", [0.0], [True], [None], object()):
        with pytest.raises(ArgumentError):
            ns.patch(model, mask, source={SECOND: cached}, positions=bad)


def test_lists_that_hold_themselves_and_ragged_ones():
    loop = []
    loop.append(loop)
    for bad in (loop, [[1], [1, 2]], [1, "a"], [None]):
        with pytest.raises(ArgumentError, match="^x="):
            array_of(bad, "x")


class Metres(np.ndarray):
    """An array that means something."""


def test_measures_refuse_arrays_whose_meaning_they_would_drop():
    x = np.random.default_rng(0).normal(size=(8, 3))
    right = ns.similarity.cka(x, x * 2)
    assert ns.similarity.cka(np.ma.masked_array(x), torch.tensor(x * 2)) == right
    for bad in (
        np.ma.masked_array(x, x > 1),
        x.view(Metres),
        torch.tensor(x).to_sparse(),
        torch.empty(8, 3).to("meta"),
    ):
        with pytest.raises(ArgumentError):
            ns.similarity.cka(bad, x)
        with pytest.raises(ArgumentError):
            ns.similarity.two_nn(bad)
        with pytest.raises(ArgumentError):
            array_of(bad, "x")
