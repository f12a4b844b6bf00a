"""Scores that choose no mask: a model that is certain, dead neurons, ties at the cut, neurons of the other sign."""

import math
import warnings

import families
import pytest
import scipy.stats
import torch
from tiny import TINY_SPECIAL, TINY_WORDS, tiny_tokenizer
from torch import nn

from neuroscope.attribution import METHODS, attribute
from neuroscope.attribution.scoring import CERTAIN
from neuroscope.errors import ArgumentError
from neuroscope.masks import Scores
from neuroscope.models import load
from neuroscope.tasks import Example, Task

VOCABULARY = {word: i for i, word in enumerate(TINY_SPECIAL + TINY_WORDS)}
GOOD, BLOCK = VOCABULARY["good"], "blocks.1.mlp.hook_post"
HELP, HURT = [3, 17, 30], [5, 21]  # all other neurons of the last block are active and write nothing
EXAMPLES = [
    Example("the food", "good", corrupt="the film"),
    Example("a food was", "good", corrupt="a plot was"),
    Example("food", "good", corrupt="plot"),
]
TASK = Task("food", train=EXAMPLES)
SIGNED = [name for name, method in METHODS.items() if "signed" in method.reductions]


def planted(certainty=0.0):
    """A Llama whose tokens do not mix and whose logits are linear in the last block's neurons.

    Args:
        certainty: added to the logit of "good" wherever the last token is one of the prompts'.
    """
    root = families.build("llama")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        root.model.embed_tokens.weight.copy_(torch.eye(96, 32))
        root.lm_head.weight.copy_(torch.eye(96, 32))
        root.lm_head.weight[GOOD] += certainty
        for name, parameter in root.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
        for layer in root.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.gate_proj.weight.copy_(torch.rand(48, 32, generator=generator) * 0.3)
            layer.mlp.up_proj.weight.copy_(torch.rand(48, 32, generator=generator) * 0.3)
            layer.mlp.down_proj.weight.zero_()
        down = root.model.layers[1].mlp.down_proj.weight
        down[GOOD, HELP] = torch.tensor([0.5, 0.4, 0.3])
        down[GOOD, HURT] = torch.tensor([-0.45, -0.35])
    root.model.norm = nn.Identity()
    return load(root, tokenizer=tiny_tokenizer())


def chosen(mask):
    return {a: v.tolist() for a, v in mask.items() if len(v)}


# --------------------------------------------------------------------------------------------------------------- sign


@pytest.mark.parametrize("method", [m for m in SIGNED if m != "attribution-patching"])  # which removes nothing
def test_signs_find_the_planted_helpers_and_those_that_hurt(method):
    model, options = planted(), {"method": method, "objective": "log-odds"}
    plus, minus, both = (attribute(model, TASK, sign=sign, **options) for sign in ("+", "-", "both"))
    n = len(plus)
    assert chosen(plus.top(len(HELP) / n)) == {BLOCK: HELP}
    assert chosen(minus.top(len(HURT) / n)) == {BLOCK: HURT}
    assert chosen(both.top((len(HELP) + len(HURT)) / n)) == {BLOCK: sorted(HELP + HURT)}
    assert torch.equal(plus.vector(), -minus.vector())
    assert [s.manifest["sign"] for s in (plus, minus, both)] == ["+", "-", "both"]
    assert plus == attribute(model, TASK, reduction="signed", **options)
    others = torch.ones(48, dtype=torch.bool).index_fill(0, torch.tensor(HELP + HURT), False)
    assert float(plus[BLOCK][others].abs().max()) == 0 == float(plus["blocks.0.mlp.hook_post"].abs().max())


def test_a_sign_is_the_change_of_the_loss_by_hand():
    """Minus log-odds is linear in the logit of the answer: removing a neuron takes a * w_out away from it."""
    model = planted()
    last = model.root.model.layers[1].mlp.down_proj
    seen, by_hand = [], {"clean": torch.zeros(48), "corrupt": torch.zeros(48)}
    handle = last.register_forward_pre_hook(lambda module, args: seen.append(args[0][0, -1]))
    with torch.no_grad():
        for example in EXAMPLES:
            for kind, prompt in (("clean", example.prompt), ("corrupt", example.corrupt)):
                model.root(torch.tensor([[1, *(VOCABULARY[word] for word in prompt.split())]]))
                by_hand[kind] += seen.pop() * last.weight[GOOD] / len(EXAMPLES)
    handle.remove()
    assert min(by_hand["clean"][HELP]) > 0.03 and max(by_hand["clean"][HURT]) < -0.03
    exact = attribute(model, TASK, method="exact", objective="log-odds", sign="-")
    for method in ("grad-x-act", "integrated-gradients", "exact", "attribution-patching"):
        expected = by_hand["clean"] - (by_hand["corrupt"] if method == "attribution-patching" else 0)
        plus, minus = (attribute(model, TASK, method=method, objective="log-odds", sign=sign) for sign in "+-")
        assert float((plus[BLOCK] - expected).abs().max()) < 1e-6
        if method != "attribution-patching":
            assert float((minus.vector() - exact.vector()).abs().max()) < 1e-6


def test_more_than_the_helpers_is_told():
    plus = attribute(planted(), TASK, objective="log-odds", sign="+")
    with pytest.warns(UserWarning, match="10 neurons were asked for and 3 are eligible"):
        mask = plus.top(10 / 96)
    assert mask.manifest["selection"]["eligible"] == 3 and set(HELP) <= set(mask[BLOCK].tolist())
    assert not set(HURT) & set(mask[BLOCK].tolist())


@pytest.mark.parametrize("method", [m for m in METHODS if m not in SIGNED])
def test_a_sign_of_scores_that_have_none_is_refused(method):
    with pytest.raises(ArgumentError, match=r"(?s)sign='\+'.*no change of a loss.*grad-x-act"):
        attribute(planted(), {"a": TASK, "b": TASK}, method=method, sign="+")


def test_a_sign_beside_absolute_values_is_refused():
    for reduction in ("abs_of_sum", "sum_of_abs"):
        with pytest.raises(ArgumentError, match="absolute values"):
            attribute(planted(), TASK, reduction=reduction, sign="-")
    with pytest.raises(ArgumentError, match="choose from 'both', '\\+', '-'"):
        attribute(planted(), TASK, sign="plus")


# ---------------------------------------------------------------------------------------------- a model that is certain


@pytest.mark.parametrize("method", SIGNED)
def test_a_model_that_is_certain_gives_no_mask_and_the_way_out_does(method):
    model = planted(certainty=200.0)
    with pytest.warns(UserWarning, match=r"certain of 'food'.*0\.0e\+00 nats.*3 of 3.*log-odds"):
        scores = attribute(model, TASK, method=method)
    assert not scores.vector().any() and scores.manifest["certain"] == 3 and scores.manifest["objective_mean"] == 0
    with pytest.raises(ArgumentError, match=r"(?s)top\(0\.1\).*0 are eligible.*96 of 96.*objective=\"log-odds\""):
        scores.top(0.1)
    with pytest.raises(ArgumentError, match="0 are eligible"):
        scores.top(0.1, per_layer=True)
    odds = attribute(model, TASK, method=method, objective="log-odds")
    assert chosen(odds.top(5 / 96)) == {BLOCK: sorted(HELP + HURT)} and "certain" not in odds.manifest


@pytest.mark.parametrize("method", SIGNED)
def test_the_loss_that_was_seen_is_that_of_the_model_as_it_is(method):
    model, losses = planted(certainty=3.0), []
    for example in EXAMPLES:
        ids = [1, *(VOCABULARY[word] for word in example.prompt.split())]
        with torch.no_grad():
            losses.append(-float(model.root(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[GOOD]))
    for size in (1, 2, None):
        about = attribute(model, TASK, method=method, batch_size=size).manifest
        assert about["objective_mean"] == pytest.approx(sum(losses) / 3, rel=5e-4) and about["certain"] == 0
    odds = [math.log(math.expm1(loss)) for loss in losses]  # minus log p / (1 - p), with p = exp(-loss)
    about = attribute(model, TASK, method=method, objective="log-odds").manifest
    assert about["objective_mean"] == pytest.approx(sum(odds) / 3, rel=5e-4)


def test_the_bar_of_certainty_is_where_rounding_is_a_hundredth_of_the_gradient():
    """At a loss of L the gradient at the answer's logit is exp(-L) - 1, of which float32 keeps multiples of eps / 2."""
    eps = torch.finfo(torch.float32).eps
    assert pytest.approx(0.5 * eps / 0.01, rel=1e-6) == CERTAIN
    for gap, worse in ((math.log(1 / CERTAIN) + 2, True), (math.log(1 / CERTAIN) - 4, False)):
        errors = []
        for shift in torch.linspace(0, 1, 101).tolist():  # where the rounding falls is chance: the worst of many
            logits = torch.tensor([gap + shift, 0.0], requires_grad=True)
            nn.functional.cross_entropy(logits[None], torch.tensor([0])).backward()
            true = -1 / (1 + math.exp(float(logits.detach()[0])))
            errors.append(abs(float(logits.grad[0]) / true - 1))
        assert (max(errors) > 0.01) is worse


def test_an_uncertain_model_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attribute(planted(), TASK).top(5 / 96)


# --------------------------------------------------------------------------------------------------- zeros and ties


def scores_of(*values, **manifest):
    return Scores({"blocks.0.x": torch.tensor(values)}, {"blocks.0.x": len(values)}, manifest=manifest)


def test_any_tie_that_changes_the_mask_is_told():
    with pytest.warns(UserWarning, match="1 of the 2 neurons in the mask are some of 2 with equal relevance"):
        mask = scores_of(1.0, 2.0, 1.0, 0.5).top(0.5)
    assert chosen(mask) == {"blocks.0.x": [0, 1]}
    assert mask.manifest["selection"] == {"k": 0.5, "per_layer": False, "tied": 2, "by_position": 1}
    equal_above = scores_of(2.0, 2.0, 1.0, 0.5).top(0.5)  # equal ones, but both are in
    assert equal_above.manifest["selection"] == {"k": 0.5, "per_layer": False}


def test_zeros_in_the_mask_are_told_with_the_numbers():
    scores = scores_of(0.0, 0.0, 3.0, 0.0, method="grad-x-act", objective="loss", objective_mean=1.0)
    with pytest.warns(UserWarning, match=r"2 neurons were asked for and 1 are eligible .*3 of 4.*log-odds"):
        mask = scores.top(0.5)
    assert mask.manifest["selection"] == {
        "k": 0.5, "per_layer": False, "asked": 2, "eligible": 1, "tied": 3, "by_position": 1,
    }  # fmt: skip
    assert len(scores.top(1.0)) == 4 and len(scores.top(0.25)) == 1  # all of them; and one that is relevant


def test_sites_without_relevance_are_told_and_others_count():
    sites = {"blocks.0.x": torch.zeros(4), "blocks.1.x": torch.tensor([4.0, 3.0, 2.0, 1.0])}
    scores = Scores(sites, dict.fromkeys(sites, 4))
    with pytest.warns(UserWarning, match="4 neurons were asked for and 2 are eligible"):
        mask = scores.top(0.5, per_layer=True)
    assert chosen(mask) == {"blocks.0.x": [0, 1], "blocks.1.x": [0, 1]}


def test_a_mask_of_a_certain_model_says_nothing_of_its_neurons():
    """What the refusal spares: the first neurons of the first layer, which exact ablation does not know."""
    model = planted(certainty=24.0)
    with pytest.warns(UserWarning, match="certain"):
        loss = attribute(model, TASK).vector()
    exact = attribute(model, TASK, method="exact", objective="log-odds").vector()
    odds = attribute(model, TASK, objective="log-odds").vector()
    assert scipy.stats.pearsonr(odds, exact).statistic > 0.999
    assert loss.max() < 1e-4


# --------------------------------------------------------------------------------------------------------- diagnostics


def test_diagnostics_count_what_is_there():
    values = {"blocks.0.x": [0.0] * 60 + [1.0] * 20, "blocks.1.x": [2.0] * 18 + [40.0, 4.0]}
    scores = Scores({a: torch.tensor(v) for a, v in values.items()}, {a: len(v) for a, v in values.items()})
    found = scores.diagnostics()
    total = found.manifest["scores"]
    assert (total["neurons"], total["zeros"], total["eligible"]) == (100, 60, 40)
    assert total["largest"] == "blocks.1.x neuron 18" and total["largest_share"] == pytest.approx(40 / 100)
    assert total["held"] == pytest.approx({"0.1 %": 0.40, "1 %": 0.40, "10 %": 0.60})  # 40 + 4 + 8 x 2 of 100
    assert total["cuts"]["10 %"] == {
        "asked": 10, "eligible": 10, "tied": 18, "by_position": 8, "zeros": 60, "neurons": 100,
    }  # fmt: skip
    frame = found.to_frame().set_index("address")
    assert frame["share"].tolist() == pytest.approx([0.2, 0.8]) and frame["equal"].tolist() == [0.8, 0.2]
    assert frame[["neurons", "zeros", "eligible"]].values.tolist() == [[80, 60, 20], [20, 0, 20]]
    assert frame[["top 0.1 %", "top 1 %", "top 10 %"]].values.tolist() == [[0, 0, 0], [1, 1, 10]]
    words = found.in_words()
    assert words.startswith("The top 10 % of the neurons hold **60%** of the relevance.")
    assert "8 of the 10 neurons in the mask are some of 18 with equal relevance at the cut" in words
    assert "Most of it is at blocks.1.x: 80%, of 20% of the neurons." in words
    assert list(found.figure().data[0].y) == pytest.approx([20, 80])


def test_diagnostics_name_neurons_that_owe_their_score_to_first_tokens(tmp_path):
    values = {"blocks.0.x": [5.0, 9.0] + [1.0] * 198, "blocks.1.x": [7.0, 8.0] + [1.0] * 98}  # the top 1 %: 9, 8, 7
    scores = {a: torch.tensor(v) for a, v in values.items()}
    widths = {a: len(v) for a, v in values.items()}
    alone = {a: torch.zeros(n) for a, n in widths.items()}
    alone["blocks.0.x"][:2] = torch.tensor([5.0, 4.5])  # of 5, which is not among them; half of 9, not more
    alone["blocks.1.x"][:2] = torch.tensor([10.5, 4.4])  # the others take from 7; more than half of 8
    found = Scores(scores, widths, first=alone).diagnostics()
    assert found.manifest["scores"]["first"] == {"of": 3, "sinks": [["1.1", pytest.approx(0.55)], ["1.0", 1.5]]}
    words = "2 of the top 3 get over half of their score from the first token of a text alone, whatever the text says: "
    assert words + "1.1 (55%), 1.0 (150%). `skip_first=True`" in found.in_words()
    assert type(found).load(found.save(tmp_path / "x.json")).in_words() == found.in_words()
    none = Scores(scores, widths, first={"blocks.0.x": alone["blocks.0.x"]}).diagnostics().in_words()
    assert "- None of the top 3 gets over half of its score from first tokens." in none
    assert "first token" not in Scores(scores, widths).diagnostics().in_words()


def test_diagnostics_say_first_what_makes_a_mask_none(tmp_path):
    about = {"objective": "loss", "objective_mean": 2e-7, "examples": 4}
    one_of = lambda n, value=1.0: [value] * n + [0.0] * (100 - n)  # noqa: E731
    first = {
        "**Not a mask**: no neuron": scores_of(*one_of(0)),
        "**Not a mask**: the model is certain of 3 of 4": scores_of(*one_of(100), **about, certain=3),
        "**The top 10 % is not a mask**: 10 neurons, of which 7": scores_of(*one_of(7)),
        "**One neuron, blocks.0.x neuron 0, has 99%": scores_of(2000.0, *one_of(20)[1:], 0.0),
        "The top 10 %": scores_of(*one_of(50), **about, certain=1),
    }
    for text, scores in first.items():
        found = scores.diagnostics()
        assert found.in_words().startswith(text), found.in_words()
        again = type(found).load(found.save(tmp_path / "x.json"))
        assert again.in_words() == found.in_words() and found.figure().data
    assert "Mean loss 2e-07 nats, a probability of 100.0%" in found.in_words()
    odds = scores_of(*one_of(50), objective="log-odds", objective_mean=-math.log(3), examples=4).diagnostics()
    assert "Mean log-odds of an answer token 1.1, a probability of 75.0%" in odds.in_words()
    with pytest.raises(ArgumentError, match="scores of 2 of 3"):
        scores_of(1.0, 2.0, math.nan, n_scored=2).diagnostics()


def test_diagnostics_of_a_model_that_is_certain_and_of_one_that_is_not():
    with pytest.warns(UserWarning, match="certain"):
        scores = attribute(planted(certainty=200.0), TASK)
    assert scores.diagnostics().in_words().startswith("**Not a mask**: no neuron")
    words = attribute(planted(), TASK, objective="log-odds").diagnostics().in_words()
    assert words.startswith("**The top 10 % is not a mask**: 10 neurons, of which 5 are eligible")
