"""Methods against exact ablation, on circuits that are planted: which to use, and where the default is misled."""

import families
import numpy as np
import pytest
import scipy.stats
import torch
from tiny import TINY_SPECIAL, TINY_WORDS, tiny_tokenizer

import neuroscope as ns
from neuroscope.errors import ArgumentError, TaskError
from neuroscope.experiments import comparing_methods

VOCABULARY = {word: i for i, word in enumerate(TINY_SPECIAL + TINY_WORDS)}
FOOD, FILM, GOOD, BAD = (VOCABULARY[word] for word in ("food", "film", "good", "bad"))
OWN, LOUD, AGAINST = range(12), range(12, 20), 20
FREE = [i for i in range(32) if i not in (FOOD, FILM, GOOD, BAD)][:8]  # directions that no logit reads
RESIDUAL = 1 / 0.12  # of the squared size of the last stream, the token's own direction has 12 %
SETTINGS = {"neurons": 96, "top": 12, "objective": "log-odds"}


def planted(certain=1.0):
    """A Llama whose tokens do not mix; in its last block, at "food", twelve neurons write "good" together.

    Eight loud neurons, open at every noun, write where no logit reads, and so act through the last norm's size alone.
    To first order each takes L^2 / N^2 = 8.5 % of the logit: 12 x 0.085 = 1.02 of what one of the twelve writes, which
    lose 20 % to the norm and come to 0.80. But the size is quadratic in L, so taking one off does half of it:
    12 ((1 - 0.085)^-1/2 - 1) = 0.55. One neuron writes "bad", weakly; the others do next to nothing.
    """
    root = families.build("llama")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in root.named_parameters():
            parameter.fill_(1.0) if "norm" in name else parameter.zero_()
        root.model.embed_tokens.weight.copy_(torch.eye(96, 32))
        root.lm_head.weight.copy_(torch.eye(96, 32) * certain)
        root.lm_head.weight[FREE] = 0
        mlp = root.model.layers[1].mlp
        mlp.gate_proj.weight.copy_(torch.rand(48, 32, generator=generator) * 0.02)
        mlp.up_proj.weight.copy_(torch.randn(48, 32, generator=generator) * 0.02)
        mlp.down_proj.weight.copy_(torch.randn(32, 48, generator=generator) * 0.001)
        together, loud = (0.2 * RESIDUAL) ** 0.5, (0.085 * RESIDUAL) ** 0.5
        writes = [(j, (FOOD,), GOOD, together / 12, 1.0) for j in OWN]
        writes += [(j, (FOOD, FILM), FREE[j - 12], loud, 3.0) for j in LOUD]
        writes += [(AGAINST, (FOOD,), BAD, 0.02, 1.0)]
        for j, reads, to, amount, size in writes:
            mlp.gate_proj.weight[j] = mlp.up_proj.weight[j] = 0.0
            mlp.gate_proj.weight[j, list(reads)] = mlp.up_proj.weight[j, list(reads)] = size
            x = torch.tensor(size * 32**0.5)  # what the norm before it makes of the token's direction
            mlp.down_proj.weight[:, j] = 0.0
            mlp.down_proj.weight[to, j] = amount / (torch.nn.functional.silu(x) * x)
    return ns.load(root, tokenizer=tiny_tokenizer())


def make_task(nouns=("the", "a")):
    examples = [[ns.Example(f"{word} food", "good", corrupt=f"{word} film", corrupt_answer="bad")] for word in nouns]
    return ns.Task("food", discovery=examples[0], test=examples[1])


@pytest.fixture(scope="module")
def compared():
    methods = ["grad-x-act", "relp", "attribution-patching", "random"]
    return ns.compare_methods(planted(), make_task(), methods=methods, **SETTINGS)


def test_what_is_planted_is_what_exact_ablation_finds():
    effects = ns.attribute(planted(), make_task(), method="exact", objective="log-odds", split="test").vector()
    assert set(effects.topk(12).indices.tolist()) == {48 + j for j in OWN}
    assert 0 < effects[48 + AGAINST] < effects[48]
    first_order = ns.attribute(planted(), make_task(), objective="log-odds").vector()
    assert set(first_order.topk(8).indices.tolist()) == {48 + j for j in LOUD}


def test_the_recommended_method_finds_the_planted_neurons_and_the_default_does_not(compared):
    recall = dict(zip(compared.table["method"], compared.table["recall"], strict=True))
    assert recall["grad-x-act"] == pytest.approx(4 / 12)  # after the eight loud ones
    assert recall["relp"] == recall["attribution-patching"] == 1.0
    assert compared.recommended in ("relp", "attribution-patching") and recall[compared.recommended] >= 0.95
    scores = ns.attribute(planted(), make_task(), method=compared.recommended, objective="log-odds")
    assert set(scores.vector().topk(12).indices.tolist()) == {48 + j for j in OWN}
    words = compared.in_words()
    assert words.startswith(f"Use **{compared.recommended}**") and "100% [" in words.split("\n")[0]
    assert "A negative**: the default, grad-x-act, is not the best here: it has 33%" in words and "67% [" in words


def test_correlations_are_scipys_over_the_sampled_neurons(compared):
    effects = ns.attribute(planted(), make_task(), method="exact", objective="log-odds", split="test").vector()
    for row in compared.table.to_dict("records"):
        scores = ns.attribute(planted(), make_task(), method=row["method"], objective="log-odds").vector()
        assert row["spearman"] == pytest.approx(scipy.stats.spearmanr(scores, effects).statistic, abs=1e-6)
        assert row["low"] <= row["spearman"] <= row["high"]
        assert row["shown"] == (2 if row["method"] == "attribution-patching" else row["method"] != "random")


def test_a_model_that_is_certain_is_asked_by_another_objective():
    methods = {name: {"method": "relp", "objective": name} for name in ("loss", "log-odds")}
    with pytest.warns(UserWarning, match="log-odds"):
        found = ns.compare_methods(planted(certain=1000.0), make_task(), methods=methods, **SETTINGS)
    recall = dict(zip(found.table["method"], found.table["recall"], strict=True))
    assert recall == {"loss": pytest.approx(12 / 96), "log-odds": 1.0} and found.recommended == "log-odds"
    assert np.isnan(found.table["spearman"][0])  # its scores are all zero


def test_nothing_is_recommended_without_a_word_where_nothing_tells():
    found = ns.compare_methods(planted(), make_task(), methods=["random"], **SETTINGS)
    assert "A negative**: that is not more than the 12% that chance has" in found.in_words()


def test_half_of_the_sample_is_the_first_of_any_ranking():
    rankings = [torch.arange(100.0), -torch.arange(100.0)]
    chosen = comparing_methods._sampled(rankings, 20, 0)
    assert len(set(chosen.tolist())) == 20
    assert {0, 1, 2, 3, 4, 95, 96, 97, 98, 99} <= set(chosen.tolist())
    assert torch.equal(chosen, comparing_methods._sampled(rankings, 20, 0))
    assert not torch.equal(chosen, comparing_methods._sampled(rankings, 20, 1))


def test_tied_scores_are_hits_by_their_chance():
    effects = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    assert comparing_methods._hits(np.array([9.0, 1.0, 1.0, 1.0, 0.0]), effects, 2).tolist() == [1.0, 1 / 3]
    assert comparing_methods._hits(np.zeros(5), effects, 2).tolist() == [0.4, 0.4]


def test_the_result_is_one_of_ours(compared, tmp_path):
    again = ns.load_result(compared.save(tmp_path / "methods.json"))
    assert again.in_words() == compared.in_words() and again.recommended == compared.recommended
    bars = compared.figure().data[0]
    assert dict(zip(bars.x, bars.y, strict=True)) == dict(
        zip(compared.table["method"], compared.table["recall"], strict=True)
    )


def test_what_cannot_be_compared_is_refused():
    model, task = planted(), make_task()
    for wrong, said in (
        ({"methods": ["relpp"]}, "'relp'"),
        ({"methods": ["exact"]}, "exact"),
        ({"methods": []}, "methods"),
        ({"methods": {"mine": {"rules": "all"}}}, "methods"),
        ({"neurons": 5, "top": 5}, "neurons"),
        ({"neurons": 97}, "neurons"),
        ({"objective": "los"}, "objective"),
    ):
        with pytest.raises(ArgumentError, match=said):
            ns.compare_methods(model, task, **{"top": 2, **wrong})
    with pytest.raises(TaskError, match="test"):
        ns.compare_methods(model, ns.Task("t", train=task.discovery), neurons=20, top=2)
