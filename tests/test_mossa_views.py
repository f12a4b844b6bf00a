"""The views of a finished MOSSA: levels by chance equal counts by hand, and negatives are said."""

import dataclasses
import itertools
import json

import numpy as np
import pandas as pd
import pytest

from neuroscope.comparison.hidden_states import Representations
from neuroscope.comparison.similarity import variance_dimension
from neuroscope.errors import ArgumentError, FileError
from neuroscope.experiments import Mossa
from neuroscope.experiments.layer_by_layer import chance
from neuroscope.experiments.layer_by_layer.by_layer import ByLayer
from neuroscope.experiments.layer_by_layer.mossa_table import ALL, MULTI, PRE
from neuroscope.experiments.layer_by_layer.part import NEGATIVE
from neuroscope.results import load_result


def made_up(values, families, held_out=(), layers=3, examples=12, multi=None):
    """A `Mossa` whose CKA of task t is values[t], by layer; representations are random."""
    rng = np.random.default_rng(0)
    series = {PRE: values} | ({} if multi is None else {MULTI: multi})
    names = list(values)
    reps = {
        m: Representations({t: rng.normal(size=(layers, examples, 6)) for t in names}, {}, families) for m in series
    }
    rows = []
    for m, table in series.items():
        about = [(t, families[t], layer, "cka", v, np.nan) for t in names for layer, v in enumerate(table[t])]
        for t in [*names, ALL]:
            for layer in range(layers):
                x = np.concatenate([reps[m][u][layer] for u in (names if t == ALL else [t])])
                about.append((t, families.get(t, ALL), layer, "dimension", variance_dimension(x), len(x) - 1))
        for t, family, layer, measure, value, limit in about:
            row = {"model": m, "task": t, "family": family, "held_out": t in held_out, "measure": measure}
            row |= {"layer": layer, "value": value, "low": -0.1, "high": 0.1, "limit": limit, "reason": ""}
            row |= {"p": 0.01 if value > 0.1 else 0.5, "q": 0.02 if value > 0.1 else 0.5}
            rows.append(row)
    manifest = {"at": "last", "split": "test", "trained_controls": False}
    manifest |= {"families": families, "held_out": list(held_out), "layers": ["embedding", "1", "2"], "share": 0.99}
    return Mossa(pd.DataFrame(rows), manifest | {"debiased": True, "null": 5, "seed": 0, "recipe": {}}, reps)


SIX = {name: f"family {i // 2}" for i, name in enumerate("abcdef")}


def test_clusters_beside_their_names_shuffled():
    level = {"family 0": 0.2, "family 1": 0.5, "family 2": 0.9, "family 3": 0.0}
    eight = {**SIX, "g": "family 3", "h": "family 3"}
    apart = {t: [level[f] + 0.01 * i] * 3 for i, (t, f) in enumerate(eight.items())}
    found = made_up(apart, eight).by_cluster()
    assert NEGATIVE + "the pre-trained model's clusters" not in found.in_words()
    means = found.table.set_index("cluster")["cka"]
    assert means["family 1"] == pytest.approx(0.5 + 0.025) and "clusters lie 0.3" in found.in_words()
    # the exact p: of the 105 ways to pair eight tasks, one is as far apart
    p = float(found.in_words().split("(one-sided p = ")[1].split(")")[0])
    assert p == pytest.approx(1 / 105, abs=0.01) and chance.groupings([*eight.values()]) == 105
    mixed = {t: [0.5 + 0.1 * (i % 2)] * 3 for i, t in enumerate(SIX)}
    said = made_up(mixed, SIX).by_cluster().in_words()
    assert NEGATIVE + "the pre-trained model's clusters lie 0.00000 apart" in said
    assert "p cannot be below about 0.067" in said  # fifteen ways to pair six tasks
    alone = made_up(mixed, {t: t for t in SIX}).by_cluster().in_words()
    assert NEGATIVE + "with 6 clusters of 6 tasks nothing can be shuffled" in alone


def test_held_out_beside_every_other_choice():
    values = {t: [0.5] * 3 for t in SIX}
    helped = {t: [0.5 + (0.2 + 0.001 * i if t not in "ef" else 0.0)] * 3 for i, t in enumerate(SIX)}
    found = made_up(values, SIX, ["e", "f"], multi=helped).held_out()
    difference = np.array([np.mean(helped[t]) - 0.5 for t in SIX])
    own = difference[:4].mean() - difference[4:].mean()
    drawn = [
        np.delete(difference, pair).mean() - difference[list(pair)].mean()
        for pair in itertools.combinations(range(6), 2)
    ]
    every, exact = chance.choices(difference, 2, 0)
    np.testing.assert_allclose(sorted(every), sorted(drawn))
    many, all_of_them = chance.choices(np.arange(33.0), 8, 0)
    assert exact and not all_of_them and len(many) == chance.EXACT
    p = np.mean(np.abs(drawn) >= own - 1e-12)
    assert p == pytest.approx(1 / 15)
    assert f"{own:+.4f} apart, where 95 % of the 15 choices" in found.in_words() and "(p = 0.067)" in found.in_words()
    assert "p cannot be below about 0.067" in found.in_words()
    assert NEGATIVE in found.in_words()  # one in fifteen is no finding
    assert found.table.set_index("task")["held_out"].to_dict() == {t: t in "ef" for t in SIX}
    gone = {t: [np.nan] * 3 if t in "ef" else [0.5] * 3 for t in SIX}
    nothing = made_up(gone, SIX, ["e", "f"], multi=helped).held_out().in_words()
    assert (
        NEGATIVE + "no task held out has a value" in nothing and "Means over layers leave out task e, task f" in nothing
    )


def test_means_over_layers_are_of_the_same_layers():
    """Task b lacks layer 0 in one model: nobody's mean is over layer 0; task a has nothing at all."""
    values = {t: [0.1 * i, 0.5, 0.5 + 0.01 * i] for i, t in enumerate(SIX)} | {"a": [np.nan] * 3}
    multi = {t: [0.9, 0.6, 0.6] for t in SIX} | {"b": [np.nan, 0.6, 0.6]}
    made = made_up(values, SIX, ["e", "f"], multi=multi)
    left = ["b", "c", "d", "e", "f"]
    table = made.held_out().table.set_index("task")
    assert list(table.index) == left
    np.testing.assert_allclose(table[PRE], [np.mean(values[t][1:]) for t in left])
    np.testing.assert_allclose(table["difference"], [0.6 - np.mean(values[t][1:]) for t in left])
    clusters = made.by_cluster().table.set_index(["model", "cluster"])["cka"]
    assert clusters[PRE, "family 0"] == pytest.approx(np.mean(values["b"][1:]))  # without a, and without layer 0
    for view in (made.by_layer, made.by_cluster, made.held_out):
        said = view().in_words()
        assert "leave out task a, the embedding: there not every task has a value in every model." in said
    flat = {t: [0.1, 0.5, 0.505] for t in SIX} | {"a": [np.nan, 0.5, 0.505]}
    assert NEGATIVE + "the pre-trained model's medians differ by 0.005" in made_up(flat, SIX).by_layer().in_words()


def test_boxes_say_what_is_flat_and_what_is_chance():
    falling = {t: [0.9, 0.6, 0.3] for t in SIX}
    good = made_up(falling, SIX, multi={t: [0.95, 0.8, 0.5] for t in SIX}).by_layer()
    assert NEGATIVE not in good.in_words()
    row = good.table.query("model == 'pre-trained' and layer == 2").iloc[0]
    assert (row["median"], row["low"], row["high"]) == pytest.approx((0.3, -0.1, 0.1))
    flat = {t: [0.99, 0.985, 0.05] if t == "a" else [0.99, 0.985, 0.98] for t in SIX}
    bad = made_up(flat, SIX, multi={t: [0.9, 0.6, 0.3] for t in SIX}).by_layer().in_words()
    assert NEGATIVE + "the pre-trained model's medians differ by 0.010" in bad
    assert NEGATIVE + "1 of 36 values are not shown to be beyond chance (q > 0.05)." in bad
    assert NEGATIVE + "the multi-task model is farther from them than the pre-trained one" in bad
    more = {t: [v + (0.1 if t < "d" else -0.09) for v in curve] for t, curve in falling.items()}
    open_ = made_up(falling, SIX, multi=more).by_layer().in_words()  # a mean above 0, and no more than that
    assert NEGATIVE + "the multi-task model is neither clearly closer to them nor farther" in open_
    lone = made_up(falling, SIX)
    floor = lone.table.assign(p=1 / 6, q=[0.2 if i < 2 else 0.02 for i in range(len(lone.table))])
    said = dataclasses.replace(lone, table=floor).by_layer().in_words()
    assert NEGATIVE + "2 of 18 values are not shown to be beyond chance (q > 0.05). With 5 permutations" in said
    assert "below 0.17, and 2 of these values none of them reached: raise null." in said
    held = made_up(falling, SIX, ["f"], multi=falling).by_layer()
    assert "median of 5 tasks" in held.in_words()  # the sixth is not learnt


def test_neighbours_of_other_tasks_by_hand():
    rng = np.random.default_rng(0)
    places = {"family 0": [5, 0, 0], "family 1": [0, 5, 0], "family 2": [0, 0, 5]}

    def reps(spread):
        arrays = {
            t: np.stack([np.zeros((12, 3)), spread * rng.normal(size=(12, 3)) + places[f]]) for t, f in SIX.items()
        }
        return Representations(arrays, {}, SIX)

    constant, near = chance.neighbours(reps(0.1), SIX)
    assert np.isnan(constant["value"]) and constant["reason"] == "all examples are the same there"
    assert near["value"] == 1.0  # ten of the twelve examples of the other task of the cluster
    assert near["low"] < 0.3 < near["high"] and near["p"] == pytest.approx(1 / 15, abs=0.03)
    far = chance.neighbours(reps(1000.0), SIX)[1]
    assert far["low"] <= far["value"] <= far["high"] and far["p"] > 0.05
    data = reps(1.0)
    x = np.concatenate([data[t][1] for t in SIX])
    x = x - x.mean(0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    owner = np.repeat(list(SIX), 12)
    shares = []
    for i, row in enumerate(x):
        others = [j for j in range(len(x)) if owner[j] != owner[i]]
        nearest = sorted(others, key=lambda j: -(row @ x[j]))[:10]
        shares.append(np.mean([SIX[owner[j]] == SIX[owner[i]] for j in nearest]))
    assert chance.neighbours(data, SIX)[1]["value"] == pytest.approx(np.mean(shares))
    alike = {t: np.ones((1, 12, 3)) for t in SIX} | {"f": np.array([[[1.0, -1, 0]] * 12])}
    ties = chance.neighbours(Representations(alike, {}, SIX), SIX)[0]
    # an example of a to e has 48 equally near ones, 12 of its cluster (e: none, f is far); f's 60 are all as near
    assert ties["value"] == pytest.approx((4 * 12 / 48 + 0 + 12 / 60) / 6)
    alone = chance.neighbours(data, {t: t for t in SIX})
    assert {row["reason"] for row in alone} == {"6 clusters of 6 tasks"}


def test_dimensions_beside_shuffled_features():
    found = made_up({t: [0.5] * 3 for t in SIX}, SIX)
    line = np.linspace(-1, 1, 12)[:, None] * np.ones(6)  # one direction: shuffled, six
    reps = Representations({t: np.stack([line + i] * 3) for i, t in enumerate(SIX)}, {}, SIX)
    thin = found.table["value"].where(found.table["measure"] != "dimension", 1.0)
    flat = dataclasses.replace(found, table=found.table.assign(value=thin), representations={PRE: reps})
    made = flat.dimensions()
    assert NEGATIVE not in made.in_words() and "in 3 of 3 layers (by chance, 0.5)" in made.in_words()
    assert made.table["value"].tolist() == [1, 1, 1] and (made.table["shuffled_low"] > 3).all()
    assert NEGATIVE in found.dimensions().in_words()  # noise has no fewer than noise


def test_segments_say_where_layers_are_too_few():
    found = made_up({t: [1, 0.9, 0.6, 0.3] for t in SIX}, SIX, layers=4).segments()
    assert NEGATIVE in found.in_words() and "3 layers have only 6 orders" in found.in_words()
    assert "not established" not in found.in_words()
    assert found.drawn[0].layout.title.text == "<b>The layers, not cut: pre-trained model</b>"
    one = {t: [1, 0.9, 0.91, 0.9, 0.89, 0.9, 0.3, 0.31, 0.3, 0.29, 0.3, 0.31, 0.3] for t in SIX}
    step = made_up(one, SIX, layers=13).segments()
    assert list(step.table["name"]) == ["highest", "lowest"] and step.table["first"].tolist() == [1, 6]
    assert "1 of 2 boundaries looked for did not hold" in step.in_words()
    assert NEGATIVE + "shared, transition and refinement layers" in step.in_words()
    three = {t: list(np.array(v) + ([0.3] * 4 + [0] * 9)) for t, v in one.items()}
    falling = made_up(three, SIX, layers=13).segments()
    assert falling.table["first"].tolist() == [1, 4, 6] and NEGATIVE not in falling.in_words()
    with pytest.raises(ArgumentError, match="2 layers with a value beside the embedding"):
        made_up({t: [0.9, 0.6, 0.3] for t in SIX}, SIX).segments()


def test_maps_have_titles_of_their_own_and_say_what_is_not_shown():
    found = made_up({t: [0.9, 0.6, 0.3] for t in SIX}, SIX).maps()
    assert [figure.layout.title.text for figure in found.drawn[:2]] == [
        "<b>t-SNE of the representations: pre-trained model</b>",
        "<b>t-SNE of the representations, layer by layer: pre-trained model</b>",
    ]
    multiples = found.drawn[1]
    assert len({axis.domain for axis in multiples.select_xaxes()}) == 2  # three maps in two columns
    said = found.in_words()
    assert "stand together beyond chance (q <= 0.05) in no layer of 3." in said  # of noise
    assert NEGATIVE + "in layers 0, 1, 2 of the pre-trained model it is not shown that clusters stand together." in said
    assert "do not stand together" not in said


def test_figures_and_words_survive_a_file(tmp_path):
    found = made_up({t: [0.9, 0.6, 0.3] for t in SIX}, SIX).by_layer()
    path = found.save(tmp_path / "found.json")
    assert "drawn" not in found.manifest and len(found.drawn) == 2
    again = load_result(path)
    assert isinstance(again, ByLayer) and again.in_words() == found.in_words() and again.manifest == found.manifest
    drawn = [[json.loads(figure.to_json()) for figure in made.drawn] for made in (found, again)]
    assert drawn[0] == drawn[1] and json.loads(again.figure().to_json()) == drawn[0][0]
    content = json.loads(path.read_text())
    content["manifest"]["drawn"] = ["{"]
    path.write_text(json.dumps(content))
    with pytest.raises(FileError, match="a damaged figure"):
        ByLayer.load(path)
    del content["manifest"]["drawn"]
    path.write_text(json.dumps(content))
    with pytest.raises(ArgumentError, match="without figures"):
        load_result(path).figure()


def test_what_is_loaded_from_a_file_says_what_it_cannot_show(tmp_path):
    found = made_up({t: [0.9, 0.6, 0.3] for t in SIX}, SIX, ["f"], multi={t: [0.9, 0.6, 0.3] for t in SIX})
    shown = [section.title for section in found.sections()]
    assert len(shown) == 5 and "Maps of the tasks' representations, layer by layer" in shown  # too few layers to cut
    again = Mossa.load(found.save(tmp_path / "found.json"))
    assert [section.title for section in again.sections()] == shown[:3]
    assert again.by_layer().in_words() == found.by_layer().in_words() == again.in_words()
    for view in (again.maps, again.dimensions):
        with pytest.raises(ArgumentError, match="loaded from a file"):
            view()
    with pytest.raises(ArgumentError, match="no task held out"):
        made_up({t: [0.9, 0.6, 0.3] for t in SIX}, SIX).held_out()
