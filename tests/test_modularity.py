"""The modularity study: on a model whose families share neurons by construction, and where nothing can be said."""

import importlib
import itertools
from dataclasses import replace

import families
import numpy as np
import pandas as pd
import pytest
import scipy.cluster.hierarchy
import scipy.stats
import torch
from sklearn.metrics import adjusted_rand_score
from state import unchanged
from tiny import TINY_SPECIAL, TINY_WORDS, tiny_tokenizer

import neuroscope as ns
from neuroscope.errors import ArgumentError, TaskError
from neuroscope.experiments import Modularity, modularity
from neuroscope.experiments.both_correct import both_correct
from neuroscope.experiments.modularity_words import least_p
from neuroscope.masks.overlap_clusters import agreement_of, clusters_of
from neuroscope.statistics import score_interval

VOCABULARY = {word: i for i, word in enumerate(TINY_SPECIAL + TINY_WORDS)}
CUES = {  # family -> tasks: the word that asks for "good", and the one that asks for "bad"
    "A": {"a1": ("food", "film"), "a2": ("story", "plot"), "a3": ("soup", "not"), "a4": ("great", "awful")},
    "B": {"b1": ("yes", "no"), "b2": ("maybe", "very"), "b3": ("so", "Review")},
}
FILLERS = [f"{a} {b}" for a, b in itertools.product(("the", "a", "was", ":", "Answer"), repeat=2)]
NEURONS, MASK, ASKED = 96, 8, 10  # in the model; with an effect on a task: 3 + 3 of its family, 1 + 1 of its own; asked
HOW = {"k": ASKED / NEURONS, "n_random": 3, "values": ("zero",)}


def planted():
    """A Llama whose tokens do not mix; each cue has a neuron of its own and three of its family for its answer.

    One neuron writes the wrong answer at every cue (0.6), more than the cue's own neuron writes the right one (0.3) and
    less than the family's with it (0.9): so tasks need their family's neurons. All other neurons do nothing.
    """
    root = families.build("llama")
    writes = [([CUES[f][t][side] for t in CUES[f]], side, 0.3) for f in CUES for side in (0, 1) for _ in range(3)]
    writes += [([pair[side]], side, 0.3) for f in CUES for pair in CUES[f].values() for side in (0, 1)]
    every = [pair for f in CUES for pair in CUES[f].values()]
    writes += [([pair[side] for pair in every], 1 - side, 0.6) for side in (0, 1)]
    with torch.no_grad():
        for name, parameter in root.named_parameters():
            parameter.fill_(1.0) if "norm" in name else parameter.zero_()
        root.model.embed_tokens.weight.copy_(torch.eye(96, 32))
        root.lm_head.weight.copy_(torch.eye(96, 32))
        mlp, x = root.model.layers[1].mlp, torch.tensor(32**0.5)
        for j, (words, side, amount) in enumerate(writes):
            read = [VOCABULARY[word] for word in words]
            mlp.gate_proj.weight[j, read] = mlp.up_proj.weight[j, read] = 1.0
            mlp.down_proj.weight[VOCABULARY[("good", "bad")[side]], j] = amount / (torch.nn.functional.silu(x) * x)
    return ns.load(root, tokenizer=tiny_tokenizer())


def made(name, clean, corrupt, family):
    pairs = [ns.Example(f"{f} {clean}", "good", corrupt=f"{f} {corrupt}", corrupt_answer="bad") for f in FILLERS]
    return ns.Task(name, discovery=pairs[:12], test=pairs[12:], kind="pairs", family=family)


def tasks():
    return {t: made(t, *pair, f) for f in CUES for t, pair in CUES[f].items()}


@pytest.fixture(scope="module")
def model():
    return planted()


@pytest.fixture(scope="module")
def found(model):
    lost = made("lost", "bad", "good", "B")  # cues that no neuron reads, and that speak against their answers
    bare = replace(tasks()["a1"], name="bare", kind="generation", discovery=[ns.Example("the", "good")],
                   test=[ns.Example("a", "good")])  # fmt: skip
    with unchanged(model.root):
        return modularity(model, {**tasks(), "lost": lost, "bare": bare}, k=HOW["k"], n_random=3)


def test_a_planted_family_shares_its_neurons_and_needs_them(found):
    rows = found.families().set_index("measure")
    # six of the family's in both masks, two of each task's own; nothing is shared across
    assert rows.loc["overlap", ["within", "across"]].tolist() == pytest.approx([6 / 10, 0.0])
    assert rows.loc["zero", ["within", "across"]].tolist() == [1.0, 0.0]
    # the corrupt cue's activations: of the family for the wrong answer as well, against the cue's own for the right one
    assert rows.loc["corrupt", ["within", "across"]].tolist() == [1.0, 0.0]
    least = 24 * 6 / 5040  # orders of seven tasks that leave both families together
    assert rows["p"].tolist() == pytest.approx([least] * 3) and rows["ratio"].isna().all()
    assert rows["pairs_within"].tolist() == [6 + 3] * 3 and rows["pairs_across"].tolist() == [4 * 3] * 3
    clusters = found.clusters()
    assert clusters.manifest["rand"] == 1.0 and clusters.table["cluster"].tolist() == [1] * 4 + [2] * 3
    words = found.in_words()
    assert (
        "**modules** by overlap, zero, corrupt (**7 of 9 tasks** kept)" in words
        and "adjusted Rand index **1.00**" in words
    )
    assert (
        "published 12.9 and 3.0" in words
        and "published 25.9 and 2.5" in words
        and "none is published for this value" in words
    )


def test_masks_hold_only_neurons_that_help(found):
    kept = found.filtered[found.filtered["kept"]]
    assert (kept["asked"] == ASKED).all() and (kept["neurons"] == MASK).all() and (kept["positive"] == MASK).all()
    np.testing.assert_allclose(kept["held"].astype(float), 1.0)
    assert "Fewer neurons than asked for have a relevance above 0 in a1, a2" in found.in_words()


def test_tasks_that_are_left_out_are_named(found):
    out = found.filtered[~found.filtered["kept"]].set_index("task")["why"]
    assert out.to_dict() == {
        "lost": "right both ways in 0% of 25 examples, less than 60%",
        "bare": "no corrupt prompts with an answer of their own",
    }
    assert all(f"- Left out: **{name}** ({why})." in found.in_words() for name, why in out.items())
    assert set(found.table["source"]) == set(found.table["target"]) == set(tasks())


def test_numbers_are_means_over_ordered_pairs_of_two_tasks(found):
    cells = {(r.source, r.target): r for r in found.crossed("zero").table.itertuples()}
    kept = tasks()
    assert len(cells) == 49
    for same, column in ((True, "within"), (False, "across")):
        pairs = [p for p in itertools.permutations(kept, 2) if (kept[p[0]].family == kept[p[1]].family) is same]
        lost = np.mean([cells[p].original - cells[p].score for p in pairs])
        assert found.families().set_index("measure").loc["zero", column] == pytest.approx(lost)
    random = np.mean([cells[p].original - cells[p].control for p in itertools.permutations(kept, 2)])
    assert found.families().set_index("measure").loc["zero", "beside"] == pytest.approx(random)
    assert found.crossed("zero").verdicts()["task"].tolist() == list(kept)
    assert [found.crossed(value).manifest["value"] for value in found.values] == ["zero", "corrupt"]


def test_families_that_need_less_are_told_from_those_that_need_more(found):
    rows = found.by_family().query("value == 'zero'").set_index("family")
    cells = found.crossed("zero").table.query("source != target")
    for family in ("A", "B"):
        of = cells[cells["target_family"] == family]
        assert rows.loc[family, "random"] == pytest.approx((of["original"] - of["control"]).mean())
    assert rows["within"].tolist() == [1.0, 1.0] and rows["across"].tolist() == [0.0, 0.0]
    inside = (found.table["target_family"] == "B") & (found.table["source_family"] == "B")
    half = Modularity(found.table.assign(score=found.table["score"].mask(inside, 0.75)), found.manifest)
    assert "most is lost within A (100.0 points), least within B (25.0)" in half.in_words()


def test_a_result_is_read_back_and_drawn(found, tmp_path):
    again = ns.load_result(found.save(tmp_path / "found.json"))
    assert isinstance(again, Modularity) and again.in_words() == found.in_words()
    pd.testing.assert_frame_equal(again.overlap.table, found.overlap.table)
    bars = {trace.name: trace for trace in found.figure().data}
    own, others = (bars[f"{whose} off (zero)"] for whose in ("neurons of its family", "of other families"))
    assert list(own.x) == ["A", "B"] and list(own.y) == [100.0, 100.0] and list(others.y) == [0.0, 0.0]
    assert "random off (zero)" in bars
    assert len(found.figures()) == 4 and set(found.tables()) == {"families", "by_family", "filtered", "pairs", "cells"}


def changed(found, seed):
    """Another model's result: other numbers for the same tasks."""
    rng = np.random.default_rng(seed)
    shared = found.manifest["overlap"]
    jaccard = rng.random(len(shared["table"]["jaccard"])).tolist()
    manifest = found.manifest | {"overlap": shared | {"table": shared["table"] | {"jaccard": jaccard}}}
    cells = found.table.query("value == 'zero'")
    return Modularity(cells.assign(score=rng.random(len(cells))), manifest)


def test_agreement_of_models_is_kendalls_over_pairs(found):
    one, other = changed(found, 0), changed(found, 1)
    rows = one.agreement(other).set_index("measure")
    tau = scipy.stats.kendalltau(one.overlap.table["jaccard"], other.overlap.table["jaccard"]).statistic
    assert rows.loc["overlap", "tau"] == pytest.approx(tau) and rows.loc["overlap", "pairs"] == 21
    off = [
        [r.original - r.score for r in each.crossed("zero").table.itertuples() if r.source != r.target]
        for each in (one, other)
    ]
    assert rows.loc["zero", "tau"] == pytest.approx(scipy.stats.kendalltau(*off).statistic)
    assert rows.loc["zero", "pairs"] == 42 and 0 < rows.loc["zero", "p"] <= 1


def test_p_of_a_directed_agreement_counts_orders_of_names():
    a, b = (pd.DataFrame(np.random.default_rng(s).random((4, 4)), list("wxyz"), list("wxyz")) for s in (0, 1))
    off = ~np.eye(4, dtype=bool)
    tau = lambda order: scipy.stats.kendalltau(a.to_numpy()[off], b.to_numpy()[np.ix_(order, order)][off]).statistic  # noqa: E731
    every = [abs(tau(order)) for order in itertools.permutations(range(4))]
    got = agreement_of(a, b, directed=True)
    assert got["tau"] == pytest.approx(tau(range(4)))
    assert got["p"] == pytest.approx(np.mean(np.array(every) >= abs(got["tau"]) - 1e-12))


def test_the_smallest_p_that_families_can_have():
    for labels in ("xxyy", "xxyyy", "xyz", "xxxyyz"):
        orders = [*itertools.permutations(range(len(labels)))]
        together = lambda order: {frozenset(i for i, o in enumerate(order) if labels[o] == f) for f in labels}  # noqa: E731
        same = sum(together(order) == together(range(len(labels))) for order in orders)
        assert least_p(dict(enumerate(labels))) == pytest.approx(same / len(orders))


def test_overlaps_count_among_the_largest_of_either_mask_alone():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 3)
    cells = rng.random((9, 9))
    cells = (cells + cells.T) / 2
    np.fill_diagonal(cells, 1.0)
    names = [f"n{i}" for i in range(9)]
    matrix, kin = pd.DataFrame(cells, names, names), dict(zip(names, labels.astype(str), strict=True))
    near = {i: sorted((j for j in range(9) if j != i), key=lambda j: -cells[i, j])[:2] for i in range(9)}
    kept = {
        (i, j): cells[i, j] if j in near[i] or i in near[j] else 0.0 for i, j in itertools.combinations(range(9), 2)
    }
    tree = scipy.cluster.hierarchy.linkage(1 - np.array(list(kept.values())), "average")
    found = {k: clusters_of(matrix, kin, 3, k) for k in (None, 2, 8)}
    np.testing.assert_allclose(found[2].manifest["linkage"], tree)
    np.testing.assert_allclose(found[8].manifest["linkage"], found[None].manifest["linkage"])
    assert not np.allclose(found[2].manifest["linkage"], found[None].manifest["linkage"])
    for each in found.values():
        assert each.manifest["rand"] == pytest.approx(adjusted_rand_score(labels, each.table["cluster"]))
    with pytest.raises(ArgumentError, match="neighbours"):
        clusters_of(matrix, kin, 3, 0)


def log_likelihood(model, prompt, answer):
    ids = model.tokenizer(f"{prompt} {answer}", return_tensors="pt").input_ids
    start = len(model.tokenizer(prompt).input_ids)
    with torch.no_grad():
        logprobs = model.logits({"input_ids": ids, "attention_mask": torch.ones_like(ids)})[0].log_softmax(-1)
    return float(sum(logprobs[i - 1, ids[0, i]] for i in range(start, ids.shape[1])))


def test_the_filter_keeps_what_is_right_both_ways():
    mini = ns.load("mini")
    task = ns.load_tasks("mini", train=1, discovery=12, test=12)["nli-food"]
    longer = replace(task.test[3], corrupt=f"the {task.test[3].corrupt}")  # one token more: not aligned
    bare = replace(task.test[4], corrupt=None, corrupt_answer=None)
    task = replace(task, test=[*task.test[:3], longer, bare, *task.test[5:]])
    widths = {a: s.width for a, s in mini.sites("hidden").items()}
    with ns.ablate(mini, ns.NeuronMask({a: torch.arange(w // 8, w) for a, w in widths.items()}, widths, "hidden")):
        kept, row = both_correct(mini, "t", task, 0.0, None, None, None)
        right = {}
        for e in (*task.discovery, *task.test):
            if e not in (longer, bare):
                sides = ((e.prompt, e.answer, e.corrupt_answer), (e.corrupt, e.corrupt_answer, e.answer))
                right[e] = [log_likelihood(mini, p, a) > log_likelihood(mini, p, b) for p, a, b in sides]
    both = [e for e, each in right.items() if all(each)]
    assert 0 < len(both) < 22 and any(a and not b for a, b in right.values())
    assert [*kept.discovery, *kept.test] == both and kept.kind == "pairs" and kept.family == "nli"
    share = np.array([all(each) for each in right.values()], dtype=float)
    assert (row["examples"], row["paired"], row["aligned"], row["both"]) == (24, 23, 22, len(both))
    assert (row["low"], row["high"]) == score_interval(share) and row["share"] == share.mean()
    assert row["clean"] == pytest.approx(np.mean([a for a, _ in right.values()]))
    assert row["corrupt"] == pytest.approx(np.mean([b for _, b in right.values()]))
    assert (row["discovery"], row["test"]) == (len(kept.discovery), len(kept.test))


def test_where_nothing_can_be_concluded_it_says_so(model):
    few = {name: replace(task, discovery=task.discovery[:4]) for name, task in tasks().items()}
    empty = modularity(model, few, **HOW)
    assert empty.in_words().startswith("**Nothing can be concluded**: 0 of 7 tasks are kept, and two are needed.")
    assert "4 examples to find neurons on and 13 to judge, fewer than 5" in empty.in_words()
    assert empty.overlap is None and empty.clusters() is None and not len(empty.families())
    assert list(empty.figure().data[0].y) == [100.0] * 7 and list(empty.tables()) == ["filtered"]
    with pytest.raises(ArgumentError, match="without two kept tasks"):
        empty.agreement(empty)
    longer = {n: replace(t, test=[replace(e, corrupt=f"the {e.corrupt}") for e in t.test], discovery=[
        replace(e, corrupt=f"the {e.corrupt}") for e in t.discovery]) for n, t in few.items()}  # fmt: skip
    assert "no corrupt prompt of as many tokens" in modularity(model, longer, **HOW).in_words()


def test_one_family_or_none_with_two_tasks(model):
    named = tasks()
    two = {name: named[name] for name in ("a1", "a2")}
    one = modularity(model, {**two, "lost": made("lost", "bad", "good", "B")}, **HOW)  # the filter leaves one family
    assert (
        "**Nothing can be concluded** about families: 2 of 3 tasks are kept, and all tasks kept are of one family"
        in (one.in_words())
    )
    assert "no pair across to average, nothing to test" in one.in_words() and one.clusters() is None
    apart = modularity(model, two, families={"a1": "x", "a2": "y"}, **HOW)
    assert "no two are of one family" in apart.in_words() and "no pair within to average" in apart.in_words()
    three = modularity(model, {**two, "b1": named["b1"]}, **HOW)
    assert "**A negative**" in three.in_words() and "no p can be below 0.33" in three.in_words()
    assert all(figure.data for each in (one, apart, three) for figure in each.figures())


def test_neurons_that_hurt_are_the_ones_that_write_the_wrong_answer(model):
    against = modularity(model, tasks(), sign="-", **HOW)
    assert (against.filtered["neurons"] == 2).all()  # one at each cue
    assert against.families().set_index("measure").loc["zero", "within"] == 0.0  # all the better without them


def test_bad_input_is_refused(model, found):
    named = tasks()
    for options, text in (
        ({"method": "lape"}, "sign='\\+' with method='lape'"), ({"method": "junk"}, "method"),
        ({"least": 2}, "give 0 <= least <= 1"), ({"values": ()}, "no value"), ({"values": "nothing"}, "value"),
        ({"values": None}, "values"), ({"families": {"a1": "x"}}, "no family for"), ({"sign": "both"}, "sign"),
        ({"direction": "up"}, "direction"), ({"matches": 1}, "no such option"), ({"match": "x"}, "match"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=text):
            modularity(model, named, **options)
    with pytest.raises(ArgumentError, match="one task, 'a1'"):
        modularity(model, named["a1"])
    with pytest.raises(ArgumentError, match="modularity"):
        found.agreement(found.overlap)
    with pytest.raises(ArgumentError, match="value"):
        found.crossed("mean")


def test_what_cannot_be_compared_is_refused_before_or_after_the_filter(model):
    one_family = {name: replace(task, family="A") for name, task in tasks().items()}
    with pytest.raises(ArgumentError, match="all of the family 'A'"):
        modularity(model, one_family, **HOW)
    with pytest.raises(ArgumentError, match="all of the family 'x'"):
        modularity(model, tasks(), families=dict.fromkeys(tasks(), "x"), **HOW)
    bare = {
        name: replace(task, kind="generation", **{
            split: [replace(e, corrupt=None, corrupt_answer=None) for e in task.split(split)]
            for split in ("discovery", "test")
        })
        for name, task in tasks().items()
    }  # fmt: skip
    with pytest.raises(TaskError, match="no example of a1, a2, .* has a corrupt prompt"):
        modularity(model, bare, **HOW)


def test_scores_are_kept_in_the_output_folder(model, tmp_path, monkeypatch):
    chosen = {name: tasks()[name] for name in ("a1", "a2", "b1")}
    first = modularity(model, chosen, output=tmp_path, **HOW)
    kept = sorted((tmp_path / "scores").iterdir())
    assert len(kept) == 3
    kept[0].write_bytes(b"cut off")  # damaged: made again
    asked = []

    def counted(model, group, **how):
        asked.extend(group)
        return ns.attribute(model, group, **how)

    monkeypatch.setattr(importlib.import_module(modularity.__module__), "attribute", counted)
    again = modularity(model, chosen, output=tmp_path, **HOW)
    assert asked == ["a1"]
    pd.testing.assert_frame_equal(again.table, first.table)
    modularity(model, chosen, output=tmp_path, **HOW | {"sign": "-"})  # other scores are not taken for these
    assert asked == ["a1", *chosen] and len([*(tmp_path / "scores").iterdir()]) == 6
