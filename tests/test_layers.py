"""Every layer of whole models: compared and counted as pair by pair, in bounded memory, with gaps told."""

import re
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from test_similarity import gaussian, textbook_cka
from torch.utils._python_dispatch import TorchDispatchMode

from neuroscope.comparison.layers import Dimensions, Similarity, blocks, compare, dimensions, layer_pairs
from neuroscope.comparison.similarity import (
    MEASURES,
    cka_formulas,
    participation_ratio,
    permutation_null,
    two_nn,
    variance_dimension,
)
from neuroscope.errors import ArgumentError
from neuroscope.statistics import benjamini_hochberg


def test_dimensions_by_task_and_layer(tmp_path):
    x, y = gaussian(30, 6), gaussian(20, 6, 1)
    a, b = np.stack([x, x * [1, 1, 0, 0, 0, 0], np.ones((30, 6))]), np.stack([y, y, y * [1, 0, 0, 0, 0, 0]])
    np.save(tmp_path / "a.npy", a)
    seen = []
    found = dimensions(
        {"a": np.load(tmp_path / "a.npy", mmap_mode="r"), "b": torch.from_numpy(b)},
        pooled="both", share=1.0, progress=lambda units, desc: seen.append(len(units)) or units,
    )  # fmt: skip
    table = found.to_frame()
    assert list(table.columns) == ["task", "layer", "value", "limit", "reason"] and seen == [9]
    assert table["value"].tolist() == pytest.approx(
        [6, 2, np.nan, 6, 6, 1, 6, 6, 2], nan_ok=True
    )  # 2: b's, and from a to b
    assert table["limit"].tolist() == [6] * 9
    assert table["reason"].tolist() == ["", "", "constant activations (zero variance)", *[""] * 6]
    assert dimensions({"a": a[:2]}, "two-nn").table["limit"].isna().all()
    assert dimensions(Read({"a": a}, model="m")).manifest["of"] == {"model": "m"}
    assert dimensions({"p": Read({"a": a}, model="m")}).manifest["of"] == {"p": {"model": "m"}}
    assert dimensions({"a": a[:, :4]}).table["limit"].tolist() == [3] * 3  # four examples span three dimensions
    figure = found.figure()
    assert [t.name for t in figure.data] == ["a", "b", "both"] and "100 %" in figure.layout.yaxis.title.text
    np.testing.assert_array_equal(figure.data[0].y, [6, 2, np.nan])
    assert "1 of 9 points, at layer 2: constant" in figure.layout.title.subtitle.text
    assert Dimensions.load(found.save(tmp_path / "d.json")).to_frame().equals(table)
    for measure, function in (("participation", participation_ratio), ("two-nn", two_nn)):
        values = dimensions({"b": b}, measure).table["value"]
        assert values.tolist() == pytest.approx([function(layer) for layer in b])
    several = dimensions({"one": {"a": a}, "two": {"a": a[:, :10], "b": b}})
    assert list(several.table["model"]) == ["one"] * 3 + ["two"] * 6
    assert [t.name for t in several.figure().data] == ["one, a", "two, a", "two, b"]


def test_dimensions_that_cannot_be_are_refused():
    x = gaussian(20, 3)
    for call, match in (
        (lambda: dimensions(x), "a ndarray"),
        (lambda: dimensions({}), "no tasks"),
        (lambda: dimensions({"a": x}), r"shape \(20, 3\)"),
        (lambda: dimensions({"a": x[None, :3]}), "3 examples"),
        (lambda: dimensions({"a": x[None]}, "spectral"), "no such measure"),
        (lambda: dimensions({"a": x[None]}, shares=0.9), "did you mean 'share'"),
        (lambda: dimensions({"a": x[None]}, share=2), "share=2"),
        (lambda: dimensions({"a": x[None]}, pooled="a"), "a task of that name"),
        (lambda: dimensions({"a": x[None], "b": x[None, :, :2]}, pooled="all"), "other layers or features"),
        (lambda: variance_dimension({"a": x[None]}), r"dimensions\(a\)"),
    ):
        with pytest.raises(ArgumentError, match=match):
            call()


# ---- the grid


def models(tasks=2, layers=3, n=40, widths=(6, 9), seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    out = ({}, {})
    for t in range(tasks):
        common = rng.normal(size=(n, 3))
        for side, width in zip(out, widths, strict=True):
            noise = rng.normal(size=(layers, n, width)) * np.linspace(0.3, 3, layers)[:, None, None]
            mean = 20 * rng.normal(size=(layers, 1, width))
            side[f"t{t}"] = (common @ rng.normal(size=(layers, 3, width)) + noise + mean).astype(dtype)
    return out


def loop(a, b, pairs, function=textbook_cka, **options):
    """(task, layer of a, layer of b) -> value."""
    return {
        (task, i, j): function(np.float64(a[task][i]), np.float64(b[task][j]), **options)
        for task in a
        for i in range(len(a[task]))
        for j in range(len(b[task]))
        if pairs == "all" or i == j
    }


def cells(result):
    table = result.to_frame()
    return dict(zip(zip(table["task"], table["layer_a"], table["layer_b"], strict=True), table["value"], strict=True))


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("pairs", ["same", "all"])
@pytest.mark.parametrize("shape", [(40, (6, 9)), (25, (70, 50)), (120, (4, 5)), (4, (3, 3))])
def test_the_grid_is_the_loop(shape, pairs, debiased, tmp_path):
    n, widths = shape
    a, b = models(n=n, widths=widths)
    expected = loop(a, b, pairs, debiased=debiased)
    for task, array in b.items():
        np.save(tmp_path / f"{task}.npy", array)
    mapped = {task: np.load(tmp_path / f"{task}.npy", mmap_mode="r") for task in b}
    tensors = {task: torch.from_numpy(array) for task, array in b.items()}
    for other in (b, mapped, tensors):
        found = compare(a, other, pairs=pairs, debiased=debiased)
        assert cells(found) == pytest.approx(expected, abs=1e-5)
    assert (found.to_frame()["reason"] == "").all()


@pytest.mark.parametrize("pairs", ["same", "all"])
@pytest.mark.parametrize(
    ("n", "rows", "widths", "layers", "form"),
    [(90, 45, (40, 50), 6, "gram"), (90, 23, (40, 50), 2, "gram"), (100, 25, (2, 3), 2, "features")],
)
def test_a_tiny_memory_is_kept_to_and_changes_nothing(n, rows, widths, layers, form, pairs, monkeypatch, tmp_path):
    a, b = models(tasks=1, layers=layers, n=n, widths=widths)
    expected = loop(a, b, pairs)
    for task, array in b.items():
        np.save(tmp_path / f"{task}.npy", array)
    b = {task: np.load(tmp_path / f"{task}.npy", mmap_mode="r") for task in b}
    sides = (layers, layers) if pairs == "all" else (1, 1)
    memory = blocks.held(form, rows, n, widths, sides)
    assert blocks.plan(n, widths, sides, memory)[:2] == (form, rows)
    used = watch(monkeypatch)
    assert cells(compare(a, b, pairs=pairs, memory=memory)) == pytest.approx(expected, abs=1e-5)
    assert max(used["reads"]) <= rows
    assert 0 < max(used["bytes"]) <= memory
    assert memory < blocks.held(form, n, n, widths, sides)
    with pytest.raises(ArgumentError, match="needed for blocks of 16"):
        compare(a, b, pairs=pairs, memory=1000)


def watch(monkeypatch):
    """The rows of every read, and the bytes of all tensors alive after every torch function."""
    used = {"reads": [], "bytes": []}
    read, alive = blocks.Layers._read, []

    def reading(self, layer, start, stop):
        used["reads"].append(stop - start)
        return read(self, layer, start, stop)

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            alive[:] = [r for r in alive if r() is not None] + ([weakref.ref(out)] if torch.is_tensor(out) else [])
            held = {
                t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for r in alive if (t := r()) is not None
            }
            used["bytes"].append(sum(held.values()))
            return out

    whole = blocks.linear_grid

    def watched(*args):
        with Watch():
            return whole(*args)

    monkeypatch.setattr(blocks.Layers, "_read", reading)
    monkeypatch.setattr(blocks, "linear_grid", watched)
    return used


def test_every_layer_is_read_once_where_memory_allows(monkeypatch):
    a, b = models(tasks=1, layers=4, n=20, widths=(30, 30))
    used = watch(monkeypatch)
    compare(a, b, pairs="all")
    assert used["reads"] == [20] * 8


def test_massive_means_and_odd_scales_do_no_harm():
    a, b = models(n=60, widths=(30, 30), dtype=np.float64)
    expected = {pairs: loop(a, b, pairs) for pairs in ("same", "all")}  # neither shift nor scale changes CKA
    a["t0"][:, :, 3] += 1e6
    a["t1"] *= 1e-30
    b["t1"] *= 1e30
    for pairs in ("same", "all"):
        for memory in (1 << 30, blocks.held("gram", 20, 60, (30, 30), (3, 3) if pairs == "all" else (1, 1))):
            assert cells(compare(a, b, pairs=pairs, memory=memory)) == pytest.approx(expected[pairs], abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_half_and_double_activations(dtype):
    a, b = ({t: torch.from_numpy(v).to(dtype) for t, v in side.items()} for side in models())
    plain = [{t: v.double().numpy().copy() for t, v in side.items()} for side in (a, b)]
    assert cells(compare(a, b)) == pytest.approx(loop(*plain, "same"), abs=1e-5)
    if dtype != torch.bfloat16:
        numpy = [{t: v.numpy() for t, v in side.items()} for side in (a, b)]
        assert cells(compare(*numpy)) == pytest.approx(loop(*plain, "same"), abs=1e-5)
    for side, before in zip((a, b), plain, strict=True):  # the caller's activations are as before
        assert all((side[t].double().numpy() == before[t]).all() for t in side)


def test_whole_numbers_and_lists_are_compared_in_full_precision():
    x, y = (2**25 + np.random.default_rng(s).integers(0, 3, size=(1, 40, 4)) for s in (0, 1))
    expected = textbook_cka(x[0] - 2**25, y[0] - 2**25)
    for convert in (lambda v: v, torch.from_numpy, lambda v: v.tolist()):
        found = compare({"t": convert(x)}, {"t": convert(y)})
        assert found.table["value"][0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("pairs", ["same", "all"])
def test_every_measure_goes_through_the_grid(name, pairs, monkeypatch):
    a, b = models(n=30, widths=(4, 5))
    options = {"kernel": "rbf"} if name == "cka" else {}
    expected = loop(a, b, pairs, MEASURES[name].function, **options)
    assert cells(compare(a, b, name, pairs=pairs, **options)) == pytest.approx(expected, abs=1e-9)
    one_at_a_time = 3 * 32 * 30 * 30  # three layers of [30, 30] fit
    few = compare(a, b, name, pairs=pairs, memory=one_at_a_time, **options)
    assert cells(few) == pytest.approx(expected, abs=1e-9)
    with pytest.raises(ArgumentError, match="three layers"):
        compare(a, b, name, memory=one_at_a_time - 1, **options)


@pytest.mark.parametrize(("fit", "order"), [(1, "a0 b0 b1 a1 b0 b1 a2 b0 b1"), (2, "a0 a1 b0 b1 a2 b0 b1")])
def test_layers_are_prepared_once_for_as_many_others_as_fit(fit, order, monkeypatch):
    a, b = models(tasks=1, n=30, widths=(4, 5))
    b = {"t0": b["t0"][:2]}
    seen, state = [], layer_pairs._state

    def watched(array, layer, *rest):
        seen.append(("a" if array is a["t0"] else "b") + str(layer))
        return state(array, layer, *rest)

    monkeypatch.setattr(layer_pairs, "_state", watched)
    compare(a, b, "procrustes", pairs="all", memory=(fit + 2) * 32 * 30 * 30)
    assert " ".join(seen) == order


@pytest.mark.parametrize("pairs", ["same", "all"])
@pytest.mark.parametrize("name", MEASURES)
def test_the_grids_null_is_that_of_each_pair(name, pairs):
    a, b = models(tasks=1, layers=2, n=20, widths=(4, 3))
    table = compare(a, b, name, pairs=pairs, null=19, seed=4).to_frame()
    for row in table.to_dict("records"):
        x, y = a["t0"][row["layer_a"]], b["t0"][row["layer_b"]]
        expected = permutation_null(x, y, name, null=19, seed=4)
        assert tuple(row[c] for c in ("value", "low", "high", "p")) == pytest.approx(tuple(expected), abs=1e-9)
    assert len(table) == (4 if pairs == "all" else 2)


def test_q_counts_every_p_of_the_table():
    a, b = models(layers=4)
    a["t1"][2], b["t1"] = np.nan, models(seed=1, layers=4)[1]["t1"]  # the second task's are unrelated
    table = compare(a, b, null=19).to_frame()
    assert list(table.columns[-4:]) == ["high", "p", "q", "reason"]
    p = table["p"].dropna().to_numpy()
    assert len(p) == 7 and len(set(p)) > 1
    np.testing.assert_allclose(table["q"].dropna(), benjamini_hochberg(p))
    assert table["q"].isna().tolist() == table["p"].isna().tolist()
    assert "q" not in compare(a, b).table


@pytest.mark.parametrize("options", [{}, {"null": 5}, {"measure": "procrustes"}, {"memory": "tiny"}])
@pytest.mark.parametrize("pairs", ["same", "all"])
def test_what_cannot_be_compared_is_a_gap_with_a_reason(options, pairs):
    a, b = models(n=40, layers=4, widths=(30, 30))
    a["t0"][1, 7, 2] = np.nan
    b["t0"][2] = 0.1
    a["t0"][3], b["t0"][3] = np.inf, 3.0
    if options.get("memory"):
        options = {"memory": blocks.held("gram", 20, 40, (30, 30), (4, 4) if pairs == "all" else (1, 1))}
    table = compare(a, b, pairs=pairs, **options).to_frame()
    clean = compare(*models(n=40, layers=4, widths=(30, 30)), pairs=pairs, **options).to_frame()
    wrong_a = {1: "a: non-finite activations", 3: "a: non-finite activations"}
    wrong_b = dict.fromkeys((2, 3), "b: constant activations (zero variance)")
    for row, whole in zip(table.to_dict("records"), clean.to_dict("records"), strict=True):
        reasons = [r for r in (wrong_a.get(row["layer_a"]), wrong_b.get(row["layer_b"])) if r]
        if row["task"] != "t0" or not reasons:
            assert row["reason"] == "" and row["value"] == pytest.approx(whole["value"], abs=1e-6)
        else:
            assert np.isnan(row["value"]) and row["reason"] == "; ".join(reasons)
            assert all(np.isnan(row[c]) for c in ("low", "high", "p") if c in row)


def test_a_self_similarity_of_zero_is_a_gap():
    a, b = ({"t": np.stack([np.eye(12), gaussian(12, 12, s)])} for s in (1, 2))
    b["t"][0] = gaussian(12, 12, 3)
    for pairs, gaps in (("same", 1), ("all", 2)):
        table = compare(a, b, pairs=pairs).to_frame()
        assert table["value"].isna().sum() == gaps
        assert set(table["reason"]) == {"", "a: a self-similarity of zero"}
    assert compare(a, b, debiased=False).to_frame()["value"].notna().all()


def test_shapes_that_do_not_match_are_refused_before_anything_is_read(monkeypatch):
    a, b = models()
    monkeypatch.setattr(blocks.Layers, "_read", None)
    x = a["t0"]
    for first, second, match in (
        ({}, {}, "no tasks"),
        (a, {"t0": b["t0"]}, r"only in a: \['t1'\]"),
        ({"t0": x}, {"t0": x[:, :5]}, "40 and 5 examples"),
        ({"t0": x[:, :3]}, {"t0": x[:, :3]}, "3 examples"),
        ({"t0": x}, {"t0": x[:2]}, "3 and 2 layers"),
        ({"t0": x[0]}, {"t0": x}, r"shape \(40, 6\)"),
        (x, x, "a ndarray"),
        ([x], [x], "a list"),
        ({"t0": x * 1j}, {"t0": x}, "complex"),
        ({"t0": x}, {"t0": x.astype(object)}, "object"),
        ({"t0": x}, {"t0": torch.from_numpy(x * 1j)}, "complex"),
        ({"t0": x}, {"t0": x.astype(str)}, "real numbers"),
    ):
        with pytest.raises(ArgumentError, match=match):
            compare(first, second)
    for options in ({"measure": "ckaa"}, {"pairs": "some"}, {"debiase": True}, {"null": -1}, {"kernel": "cubic"}):
        with pytest.raises(ArgumentError):
            compare(a, b, **options)
    for name, bad in (
        ("null", 2.5), ("seed", -1), ("memory", "1 GB"), ("bandwidth", 0), ("bandwidth", 2), ("debiased", "no"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=f"{name}={bad!r}"):
            compare(a, b, **{name: bad})
    for device in ("gpu", "meta"):
        with pytest.raises(ArgumentError, match=f"device=.*{device}"):
            compare(a, b, device=device)
    with pytest.raises(ArgumentError, match="float64"):
        compare(a, b, device="mps")


def test_models_of_different_depth_are_compared_over_all_pairs():
    a, b = models()
    b = {task: array[:2] for task, array in b.items()}
    assert cells(compare(a, b, pairs="all")) == pytest.approx(loop(a, b, "all"), abs=1e-5)


def test_progress_sees_every_unit():
    a, b = models()
    seen = []

    def progress(items, desc):
        for item in items:
            seen.append((desc, item[0]))
            yield item

    compare(a, b, progress=progress)
    assert seen == [("cka, same layers", t) for t in ("t0", "t0", "t0", "t1", "t1", "t1")]
    seen.clear()
    compare(a, b, pairs="all", progress=progress)
    assert seen == [("cka, all layers", "t0"), ("cka, all layers", "t1")]


def test_the_result_draws_what_it_holds_and_survives_a_file(tmp_path):
    a, b = models()
    a["t1"][2] = np.nan
    same = compare(a, b, null=9)
    curves = [t for t in same.figure().data if t.mode == "lines+markers"]
    table = same.to_frame()
    assert [t.name for t in curves] == ["t0", "t1"]
    np.testing.assert_array_equal(curves[1].y, table[table["task"] == "t1"]["value"])
    assert len(same.figure().data) == 4  # two bands
    assert "debiased linear CKA" in same.figure("t0").layout.title.text
    again = Similarity.load(same.save(tmp_path / "same.json"))
    assert again.to_frame().equals(table) and again.manifest == same.manifest
    both = compare(a, b, pairs="all", debiased=False)
    cube = both.to_frame()["value"].to_numpy().reshape(2, 3, 3)
    np.testing.assert_array_equal(both.figure("t0").data[0].z, cube[0])
    mean = both.figure()
    np.testing.assert_allclose(mean.data[0].z, cube.mean(0))  # NaN where t1 has none
    assert np.isnan(mean.data[0].z[2]).all() and "mean over 2 tasks" in mean.layout.title.subtitle.text
    assert "biased linear CKA" in mean.layout.title.text
    with pytest.raises(ArgumentError, match="did you mean 't1'"):
        same.figure("t11")
    assert same.manifest["options"] == {"kernel": "linear", "debiased": True, "bandwidth": 1.0}


def test_pages_of_a_file_are_handed_back_only_where_it_is_mapped_for_reading(tmp_path):
    x = models(tasks=1)[0]["t0"]
    np.save(tmp_path / "x.npy", x)
    private = np.load(tmp_path / "x.npy", mmap_mode="c")
    private[:] = 2 * x  # lives in this process's pages alone
    compare({"t": private}, {"t": x})
    np.testing.assert_array_equal(private, 2 * x)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells which pages are resident")
@pytest.mark.parametrize("measure", ["cka", "procrustes"])
def test_no_page_of_a_mapped_file_stays_resident(measure, tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, gaussian(64, 2048).reshape(2, 64, 1024))  # 1 MiB
    mapped = np.load(path, mmap_mode="r")
    assert mapped.sum() and resident(path) >= 1 << 20  # reading it the ordinary way keeps it
    compare({"t": mapped}, {"t": gaussian(64, 6).reshape(2, 64, 3)}, measure)
    assert resident(path) == 0


def resident(path):
    """Bytes of a mapped file that count as this process's memory."""
    _, _, lines = Path("/proc/self/smaps").read_text().partition(str(path))
    return int(re.search(r"Rss: +(\d+) kB", lines)[1]) << 10


class Read(dict):
    """Activations that know where they come from."""

    def __init__(self, arrays, **manifest):
        super().__init__(arrays)
        self.manifest = manifest


def test_other_examples_are_refused_and_origins_kept():
    x = np.random.default_rng(0).normal(size=(2, 9, 3))
    about = {"model": "m", "tasks": {"t": "hash"}, "split": "test", "n": 9}
    found = compare(Read({"t": x}, **about), Read({"t": x}, **about, at="last"))
    assert found.manifest["a"] == about and found.manifest["b"]["at"] == "last"
    both = {**about, "tasks": {"t": "hash", "other": "hash"}}
    assert compare(Read({"t": x}, **about), Read({"t": x}, **both)).table["value"].round(9).eq(1).all()
    for same in ({"n": None}, {"split": None}, {"tasks": None}):  # shapes settle n; what is not known is no difference
        assert len(compare(Read({"t": x}, **about), Read({"t": x}, **about | same)).table) == 2
    assert len(compare(Read({"t": x}), Read({"t": x}, **about)).table) == 2
    for change, told in (({"split": "train"}, "split train"), ({"tasks": {"t": "other"}}, "data other")):
        with pytest.raises(ArgumentError, match=told):
            compare(Read({"t": x}, **about), Read({"t": x}, **about | change))
    assert "a" not in compare({"t": x}, Read({"t": x}, **about)).manifest


def test_figures_say_where_there_is_no_value():
    x = np.random.default_rng(0).normal(size=(3, 9, 3))
    x[1] = 2.0
    line = compare({"t": x}, {"t": x}, null=20).figure()
    said = line.layout.title.subtitle.text.replace("<br>", " ")
    assert "no value at layer 1: " in said and "permuted examples" in said
    grid = compare({"t": x}, {"t": x}, pairs="all").figure().data[0]
    assert grid.zmax == 1 and grid.zmin <= 0 and grid.text[0][0] == "1.00"


def test_misspelt_options_are_told_of_all_there_are():
    x = {"t": np.random.default_rng(0).normal(size=(2, 9, 3))}
    with pytest.raises(ArgumentError, match="did you mean 'null'"):
        compare(x, x, nul=20)


def test_the_grids_null_takes_the_form_with_fewer_multiplications(monkeypatch):
    """Many examples of few features: no [example, example] matrix is made, nor counted in the memory."""
    assert [cka_formulas.cheaper_form(60, 2, 3, null) for null in (0, 19)] == ["features", "features"]
    assert [cka_formulas.cheaper_form(60, 20, 30, null) for null in (0, 19)] == ["features", "gram"]
    a, b = models(n=60, widths=(2, 3))
    monkeypatch.setattr(cka_formulas, "gram", None)  # would fail if it were called
    found = compare(a, b, null=19, memory=3 * 32 * 60 * 3)
    assert cells(found) == pytest.approx(loop(a, b, "same"), abs=1e-6)
    assert found.manifest["options"] == {"kernel": "linear", "debiased": True, "bandwidth": 1.0}


# ---- words


def test_words_of_a_similarity_follow_its_numbers():
    a, b = models(layers=4)
    a["t1"][2] = np.nan
    found = compare(a, b, null=99)
    table = found.to_frame()
    words, by_layer = found.in_words(), table.groupby("layer_a")["value"].mean()
    assert f"layers is **{table['value'].mean():.3f}** (mean over 2 tasks and 4 pairs of layers)" in words
    best, worst = by_layer.idxmax(), by_layer.idxmin()
    assert f"highest at layer {best} ({by_layer[best]:.3f}), lowest at layer {worst} ({by_layer[worst]:.3f})" in words
    sure = int((table["q"] <= 0.05).sum())
    assert (
        sure > 0 and f"of 7 values lie above 97.5 % of those under permuted examples, **{sure}** at q <= 0.05" in words
    )
    assert "1 of 8 values are missing (non-finite activations)" in words
    assert ("**A negative**" in words) == (sure < 7)
    few = compare(a, b, null=9).in_words()
    assert "**A negative**: the other 7 are not shown" in few and "q cannot fall below 0.1" in few
    assert "was not asked: give `null=200`" in compare(a, b).in_words()
    noise = [{"t": np.random.default_rng(seed).normal(size=(30, 12, 3))} for seed in (2, 3)]
    chance = compare(*noise, null=99)
    assert (chance.table["p"] <= 0.05).any() and (chance.table["q"] > 0.05).all()
    assert "**0** at q <= 0.05. **A negative**: the other 30 are not shown" in chance.in_words()
    assert "layer 3 of a with layer" in compare(a, {t: x[::-1] for t, x in b.items()}, pairs="all").in_words()
    x = {"t": np.ones((2, 9, 3))}
    assert compare(x, x).in_words().startswith("**A negative**: no pair of layers has a value (constant activations")
    assert (
        list(found.tables()) == ["mean over tasks", "rows"]
        and "<h3>Similarity of the layers</h3>" in found._repr_html_()
    )
    mean = found.tables()["mean over tasks"]
    assert mean["tasks"].tolist() == [2, 2, 1, 2] and np.isnan(mean["mean"][2])


def test_words_of_dimensions_follow_their_numbers():
    x = gaussian(30, 6)
    found = dimensions(
        {"t": np.stack([x * [1, 0, 0, 0, 0, 0], x, np.ones((30, 6)), x * [1, 1, 0, 0, 0, 0]])}, share=1.0
    )
    words = found.in_words()
    assert words.startswith("Components for 100 % of the variance, mean over 1 task: 1 at layer 0, 2 at layer 3; most,")
    assert "**6**, at layer 1." in words and "**A negative**: 1 of 3 numbers are near the most" in words
    assert "1 of 4 values are missing (constant activations" in words
    two = dimensions({"m": {"t": x[None]}, "n": {"t": x[None, :, :3]}}, "participation").in_words()
    assert two.startswith("Of the layers, participation ratio is highest at layer **0** in m, at layer **0** in n.")
    assert "\n- m: participation ratio" in two and "\n- n: participation ratio" in two
    assert dimensions({"t": np.ones((1, 9, 3))}).in_words().startswith("**A negative**: no layer has a value")
    assert list(found.tables()) == ["mean over tasks", "rows"]
