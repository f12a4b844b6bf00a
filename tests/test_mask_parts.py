"""Shared and unique neurons: the parts of masks, and what each breaks, against sets and loops by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import neuroscope as ns
from neuroscope.errors import ArgumentError
from neuroscope.experiments.parts_of_masks import MaskParts, mask_parts, parts_of
from neuroscope.masks import NeuronMask
from neuroscope.statistics import against_controls, benjamini_hochberg

NAMES = ["sentiment-food", "sentiment-film", "nli-food"]
neurons = st.sets(st.integers(0, 11))


@given(st.lists(neurons, min_size=2, max_size=5), st.lists(st.sampled_from("fg"), min_size=5, max_size=5))
def test_parts_are_those_of_sets(chosen, groups):
    masks = {str(i): NeuronMask.of({"x": sorted(c)}, {"x": 12}) for i, c in enumerate(chosen)}
    families = {name: groups[int(name)] for name in masks}
    for name, parts in parts_of(masks, families).items():
        own = chosen[int(name)]
        kin = [int(o) for o in masks if o != name and families[o] == families[name]]
        strangers = [int(o) for o in masks if families[o] != families[name]]
        others = {k: set().union(*(chosen[i] for i in of)) for k, of in ((True, kin), (False, strangers))}
        expected = {"unique": own - others[True] - others[False], "shared": own & others[False]}
        expected["family"] = own - expected["unique"] - expected["shared"]
        assert {part: set(mask["x"].tolist()) for part, mask in parts.items()} == expected


@pytest.fixture(scope="module")
def setting():
    model, tasks = ns.load("mini"), ns.load_tasks(",".join(NAMES))
    return model, tasks, {name: ns.attribute(model, task, examples=32).top(0.1) for name, task in tasks.items()}


@pytest.fixture(scope="module")
def found(setting):
    return mask_parts(*setting, n_random=3, n=32)


def test_every_part_is_switched_off_alone(setting, found):
    model, tasks, masks = setting
    parts = parts_of(masks, {name: task.family for name, task in tasks.items()})
    for row in found.table.itertuples():
        mask = masks[row.task] if row.part == "whole" else parts[row.task][row.part]
        assert row.neurons == len(mask)
        if not len(mask):
            continue
        outcomes = []
        for off in (mask, *(mask.random_like(seed=s) for s in range(3))):
            with ns.ablate(model, off):
                outcomes.append(ns.evaluate(model, tasks[row.task], n=32).outcomes)
        expected = against_controls(outcomes[0], outcomes[1:])
        assert row.score == np.mean(outcomes[0]) and row.control == pytest.approx(np.mean(outcomes[1:]))
        assert (row.effect, row.low, row.high, row.p) == pytest.approx(tuple(expected.values()))
    np.testing.assert_allclose(found.table["q"], benjamini_hochberg(found.table["p"].to_numpy()))


def test_what_parts_say(found, tmp_path):
    assert "the neurons that no other task's mask has" in found.in_words()
    again = ns.load_result(found.save(tmp_path / "parts.json"))
    assert isinstance(again, MaskParts) and again.in_words() == found.in_words()
    bars = {trace.name: trace for trace in found.figure().data}
    assert set(bars) == {
        "the whole mask",
        "unique: in no other task's mask",
        "family: in masks of its family alone",
        "shared: also in masks of other families",
    }
    whole = found.table[found.table["part"] == "whole"]
    np.testing.assert_allclose(bars["the whole mask"].y, 100 * whole["effect"])


def test_a_part_without_neurons_is_said_and_not_measured(setting):
    model, tasks, masks = setting
    same = dict.fromkeys(NAMES[:2], masks[NAMES[0]])
    table = mask_parts(model, tasks, same, n_random=3, n=16).table.set_index(["task", "part"])
    for name in NAMES[:2]:
        assert table.loc[(name, "unique"), "neurons"] == 0 and np.isnan(table.loc[(name, "unique"), "effect"])
        assert table.loc[(name, "family"), "score"] == table.loc[(name, "whole"), "score"]
    with pytest.raises(ArgumentError, match="one mask"):
        mask_parts(model, tasks, {NAMES[0]: masks[NAMES[0]]})
    with pytest.raises(ArgumentError, match="match"):
        mask_parts(model, tasks, masks, match="loud")
