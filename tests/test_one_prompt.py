"""Which neurons answer one prompt, and where in it they act: against brute force, on every style and family."""

import warnings
from types import SimpleNamespace

import families
import numpy as np
import pytest
import torch
from tiny import tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import neuroscope as ns
from neuroscope.attribution import METHODS
from neuroscope.errors import ArgumentError, NeuroscopeError, TaskError
from neuroscope.models import tap_experts
from neuroscope.tasks import Example, Task
from neuroscope.tasks.one_prompt import mind_missing_space, task_of_prompt

PROMPT = "the food was very good :"
ASKED = {"answer": " yes", "foil": " no"}
BY_TOKEN = [name for name, method in METHODS.items() if method.by_token and not method.corrupt]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def with_bytes():
    """A model, as far as is asked, whose words begin with a space, as GPT-2's do."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.train_from_iterator(["The capital is Paris Paris"] * 9, trainers.BpeTrainer(vocab_size=400))
    return SimpleNamespace(style="causal", tokenizer=PreTrainedTokenizerFast(tokenizer_object=words))


def test_a_forgotten_space_is_told():
    with pytest.warns(UserWarning, match=r"'Paris' is scored without.*capital isParis.*write answer=' Paris'"):
        mind_missing_space(with_bytes(), "The capital is", "Paris")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for prompt, answer in (("The is ", "Paris"), ("The is", " Paris"), ("The is", "."), ("the (", "Paris")):
            mind_missing_space(with_bytes(), prompt, answer)
        mind_missing_space(tiny_model(), "the food was", "good")  # words without spaces


def by_hand(model, measure):
    """a * d(measure)/da at every token of the prompt, [token, neuron] by address: what zeroing would take away."""
    ids = torch.tensor([[1, *model.tokenizer(PROMPT, add_special_tokens=False)["input_ids"]]])
    seen, handles = {}, []
    for address, site in model.sites().items():

        def keep(module, args, address=address):
            seen[address] = args[0].detach().requires_grad_()
            return (seen[address],)

        def keep_deeper(module, args, address=address):
            args[0].retain_grad()
            seen[address] = args[0]

        handles.append(site.module.register_forward_pre_hook(keep if not handles else keep_deeper))
    measure(model.root(input_ids=ids).logits[0]).backward()
    for handle in handles:
        handle.remove()
    return {address: (a * a.grad)[0].detach() for address, a in seen.items()}


def id_of(model, word):
    return model.tokenizer.convert_tokens_to_ids(word)


def difference(model):
    yes, no = id_of(model, "yes"), id_of(model, "no")
    return lambda logits: logits[-1, yes] - logits[-1, no]


def test_token_effects_are_activation_times_gradient(model):
    scores = ns.attribute(model, PROMPT, **ASKED)
    expected = by_hand(model, difference(model))
    for address, effects in scores.effects.items():
        torch.testing.assert_close(effects, expected[address], atol=1e-6, rtol=1e-4)
    assert scores.manifest["objective"] == "logit-difference" and scores.manifest["reduction"] == "signed"
    assert scores.manifest["shown"] == {"": ["<s>", *PROMPT.split()]}


@pytest.mark.parametrize("method", BY_TOKEN)
@pytest.mark.parametrize("style", ["causal", "seq2seq", "masked"])
def test_token_effects_sum_to_the_scores(method, style):
    model = tiny_model(style)
    scores = ns.attribute(model, PROMPT, answer=" yes", method=method)
    for address, effects in scores.effects.items():
        assert (effects.double().sum(0) - scores[address]).abs().max() < 1e-6
        assert len(effects) == len(scores.manifest["shown"]["decoder_" if address.startswith("decoder_") else ""])
    assert max(v.abs().max() for v in scores.values()) > 1e-4
    table = scores.by_token().table
    whole = {address: float(v.sum()) for address, v in scores.items()}
    np.testing.assert_allclose(table.groupby("address")["effect"].sum()[list(whole)], [*whole.values()], atol=1e-5)
    np.testing.assert_allclose(table["helps"] + table["hurts"], table["effect"], atol=1e-6)


@pytest.mark.parametrize("family", ["opt", "phi3", "mixtral"])
def test_families_whose_tokens_are_flattened_or_routed(family, tmp_path):
    root = families.build(family)
    words = families.tokenizer(tmp_path)
    model = ns.load(tap_experts(root) if family == "mixtral" else root, tokenizer=words)
    scores = ns.attribute(model, "w60 w61 w62 w63", answer=" w7", foil=" w9")
    for address, effects in scores.effects.items():
        assert len(effects) == 4 and (effects.double().sum(0) - scores[address]).abs().max() < 1e-6
    if family == "mixtral":
        acts = ns.activations(model, "w60 w61 w62 w63", {a: [0] for a in scores})
        unseen = np.isnan(acts.values)
        effects = torch.stack([effect[:, 0] for effect in scores.effects.values()], 1).numpy()
        assert unseen.any() and (effects[unseen] == 0).all()


def test_the_other_signs_and_reductions(model):
    scores = ns.attribute(model, PROMPT, **ASKED)
    opposite, size = (
        ns.attribute(model, PROMPT, **ASKED, **how) for how in ({"sign": "-"}, {"reduction": "abs_of_sum"})
    )
    for address in scores:
        torch.testing.assert_close(opposite[address], -scores[address])
        torch.testing.assert_close(opposite.effects[address], -scores.effects[address])
        torch.testing.assert_close(size[address], scores[address].abs())


def test_it_is_a_task_of_one_example(model):
    task = Task("t", discovery=[Example(PROMPT, "yes", corrupt_answer="no")])
    for objective, how in (("logit-difference", ASKED), ("loss", {"answer": " yes"}), ("log-odds", {"answer": " yes"})):
        options = {} if "foil" in how else {"objective": objective}
        ours = ns.attribute(model, PROMPT, **how, **options)
        theirs = ns.attribute(model, task, objective=objective, reduction="signed")
        for address in ours:
            torch.testing.assert_close(ours[address], theirs[address])


def test_any_function_of_the_logits(model):
    named = ns.attribute(model, PROMPT, **ASKED)
    ours = ns.attribute(model, PROMPT, objective=difference(model))
    assert all(torch.allclose(ours[a], named[a], atol=1e-7) for a in named)
    middle = lambda logits: logits[2].logsumexp(-1) + logits[-1, 5]  # noqa: E731
    scores, expected = ns.attribute(model, PROMPT, objective=middle), by_hand(model, middle)
    for address, effects in scores.effects.items():
        torch.testing.assert_close(effects, expected[address], atol=1e-6, rtol=1e-4)
    shapes = []
    ns.attribute(tiny_model("seq2seq"), PROMPT, objective=lambda logits: shapes.append(logits.shape) or logits[0, 3])
    ns.attribute(tiny_model("masked"), PROMPT, objective=lambda logits: shapes.append(logits.shape) or logits[0, 3])
    assert [shape[0] for shape in shapes] == [1, 8]  # the decoder's first position; all of <s> ... </s>
    detached = [lambda logits: logits.detach().sum(), lambda logits: logits.argmax(), lambda logits: torch.tensor(1.0)]
    for wrong in detached:  # no gradient: scores of zeros alone
        with pytest.raises(ArgumentError, match="no gradient goes back"):
            ns.attribute(model, PROMPT, objective=wrong)
    for wrong in (lambda logits: 1.0, lambda logits: logits[-1], lambda logits: None):
        with pytest.raises(ArgumentError, match="one number that is made of the logits"):
            ns.attribute(model, PROMPT, objective=wrong)


def test_the_first_token_can_be_left_out(model):
    whole, rest = (ns.attribute(model, PROMPT, **ASKED, skip_first=skip) for skip in (False, True))
    for address in whole:
        torch.testing.assert_close(rest[address], whole.effects[address][1:].sum(0), atol=1e-6, rtol=1e-4)
        assert not rest.effects[address][0].any()
    assert whole.effects["blocks.0.mlp.hook_post"][0].any()
    assert rest.manifest["skip_first"] is True and "skip_first" not in whole.manifest
    task = Task("t", discovery=[Example(PROMPT, "yes"), Example("a plot", "no"), Example("the soup :", "maybe")])
    parts = [ns.attribute(model, e.prompt, answer=f" {e.answer}", skip_first=True) for e in task.discovery]
    for size in (1, 3):
        scores = ns.attribute(model, task, reduction="abs_of_sum", skip_first=True, batch_size=size)
        for address in scores:
            expected = torch.stack([part[address].abs() for part in parts]).mean(0)
            torch.testing.assert_close(scores[address], expected, atol=1e-6, rtol=1e-4)
    with pytest.raises(ArgumentError, match="no such sums"):
        ns.attribute(model, task, method="activation", skip_first=True)


@pytest.mark.parametrize("style", ["causal", "seq2seq"])
def test_what_first_tokens_alone_give_a_score(style, tmp_path):
    model = tiny_model(style)
    task = Task("t", discovery=[Example(PROMPT, "yes"), Example("a plot", "no"), Example("the soup :", "maybe")])
    parts = [ns.attribute(model, e.prompt, answer=f" {e.answer}").effects for e in task.discovery]
    first = {a: torch.stack([part[a][0] for part in parts]) for a in parts[0]}
    expected = {"abs_of_sum": {}, "signed": {}, "sum_of_abs": {}}
    for address, of_each in first.items():
        expected["abs_of_sum"][address] = expected["sum_of_abs"][address] = of_each.abs().mean(0)
        expected["signed"][address] = of_each.mean(0)
    for reduction, size in (("abs_of_sum", 1), ("abs_of_sum", 3), ("signed", 2), ("sum_of_abs", 3)):
        scores = ns.attribute(model, task, reduction=reduction, batch_size=size)
        for address in scores:
            torch.testing.assert_close(scores.first[address], expected[reduction][address], atol=1e-6, rtol=1e-4)
    opposite = ns.attribute(model, task, sign="-")
    assert all(torch.allclose(opposite.first[a], -expected["signed"][a], atol=1e-6) for a in first)
    again = ns.Scores.load(scores.save(tmp_path / "scores.safetensors"))
    assert all(torch.equal(again.first[a], scores.first[a]) for a in scores)
    for how in ({"skip_first": True}, {"method": "activation"}):
        assert ns.attribute(model, task, **how).first is None


@pytest.mark.parametrize("family", ["opt", "mixtral"])
def test_what_first_tokens_give_where_tokens_are_flattened_or_routed(family, tmp_path):
    root, words = families.build(family), families.tokenizer(tmp_path)
    model = ns.load(tap_experts(root) if family == "mixtral" else root, tokenizer=words)
    scores = ns.attribute(model, "w60 w61 w62 w63", answer=" w7")
    assert max(v.abs().max() for v in scores.first.values()) > 0
    for address, effects in scores.effects.items():  # also of an expert that no token was routed to
        torch.testing.assert_close(scores.first[address], effects[0], atol=1e-7, rtol=1e-4)


def test_a_neuron_that_is_zeroed_at_a_token_takes_its_effect_away():
    """To first order: of a small scaling, the difference of logits changes by that share of the effect."""
    model = tiny_model()
    scores, share = ns.attribute(model, PROMPT, **ASKED), 1e-2
    address = "blocks.1.mlp.hook_post"
    token, neuron = divmod(int(scores.effects[address].abs().argmax()), scores.widths[address])
    ids = torch.tensor([[1, *model.tokenizer(PROMPT, add_special_tokens=False)["input_ids"]]])
    measure = lambda: float(difference(model)(model.root.double()(input_ids=ids).logits[0]))  # noqa: E731
    with torch.no_grad():
        before = measure()
        with ns.scale(model, {1: [neuron]}, 1 - share, at=[token]):
            after = measure()
    assert (before - after) / share == pytest.approx(float(scores.effects[address][token, neuron]), rel=0.05)


def test_by_token_of_chosen_neurons(model):
    scores = ns.attribute(model, PROMPT, **ASKED)
    table = scores.by_token("1.7").table
    assert set(table["address"]) == {"blocks.1.mlp.hook_post"} and set(table["strongest"]) == {"1.7"}
    np.testing.assert_allclose(table["effect"], scores.effects["blocks.1.mlp.hook_post"][:, 7], rtol=1e-5)
    assert scores.by_token(scores.top(3)).table["address"].nunique() <= 2
    with pytest.raises(ArgumentError, match="do not tell tokens apart"):
        ns.attribute(model, PROMPT, answer=" yes", method="random").by_token()
    for mask in ("7.1", [], "no"):
        with pytest.raises(NeuroscopeError, match="mask"):
            scores.by_token(mask)


def test_the_figure_is_text_by_layers(model):
    found = ns.attribute(model, PROMPT, **ASKED).by_token()
    cells = found.figure().data[0]
    expected = found.table.pivot(index="layer", columns="position", values="effect")
    np.testing.assert_allclose(cells.z, expected)
    assert list(cells.x)[3] == "3 was" and list(cells.y) == ["0", "1"]
    assert "strongest" in cells.customdata[0][0] and "strongest single effect" in found.in_words()


def test_a_file_keeps_the_effects(model, tmp_path):
    scores = ns.attribute(model, PROMPT, **ASKED)
    again = ns.Scores.load(scores.save(tmp_path / "scores.safetensors"))
    assert again == scores and all(torch.equal(again.effects[a], scores.effects[a]) for a in scores)
    assert again.by_token().table.equals(scores.by_token().table)
    result = scores.by_token()
    assert ns.load_result(result.save(tmp_path / "tokens.json")).table.equals(result.table)
    assert len(scores.top(5)) == 5


# --- chats

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] == 'user' and 'Review' or m['role'] == 'system' and 'story' or 'Answer' }} : "
    "{{ m['content'] }} {% endfor %}{% if add_generation_prompt %}Answer :{% endif %}"
)


def test_a_chat_is_shown_in_its_template():
    model = tiny_model()
    model.tokenizer.chat_template = TEMPLATE
    messages = [
        {"role": "system", "content": "so"},
        {"role": "user", "content": "good food"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "bad plot"},
    ]
    scores = ns.attribute(model, messages, **ASKED)
    shown = "story : so Review : good food Answer : yes Review : bad plot Answer :"
    assert scores.manifest["shown"] == {"": shown.split()}
    assert scores.effects["blocks.0.mlp.hook_post"].shape == (len(shown.split()), 48)
    single = ns.attribute(model, [{"role": "user", "content": "bad plot"}], objective=difference(model))
    assert single.manifest["shown"][""] == ["Review", ":", "bad", "plot", "Answer", ":"]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"role": "assistant", "content": "yes"}], "roles"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "roles"),
        ([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "roles"),
        ([{"role": "user"}], "message 0.*content"),
        ([{"role": "system", "content": "a"}], "roles"),
    ],
)
def test_messages_that_no_template_takes(messages, said):
    with pytest.raises(ArgumentError, match=f"(?s){said}"):
        task_of_prompt(messages, " yes")


REFUSED = {
    "no answer": ({}, ArgumentError, "no answer.*objective=, a function.*load_tasks"),
    "an answer of no text": ({"answer": " "}, ArgumentError, "answer=' '"),
    "an unknown word": ({"answer": " xyzzy"}, TaskError, "does not know"),
    "joined": ({"answer": "yes"}, TaskError, "begin the answer with a space"),
    "the answer as its foil": ({"answer": " yes", "foil": "yes"}, ArgumentError, "the answer itself"),
    "one first token": ({"answer": " yes no", "foil": " yes maybe"}, TaskError, "begin with the same token"),
    "both": ({"answer": " yes", "objective": lambda logits: logits[0, 0]}, ArgumentError, "one of the two"),
    "a foil with log-odds": ({**ASKED, "objective": "log-odds"}, ArgumentError, "one of the two"),
    "no objective": ({"answer": " yes", "objective": "los"}, ArgumentError, "did you mean 'loss'"),
    "another kind": ({"answer": 3}, ArgumentError, "answer=3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case, model):
    options, kind, said = REFUSED[case]
    with pytest.raises(kind, match=f"(?s){said}"):
        ns.attribute(model, PROMPT, **options)


def test_what_is_for_a_prompt_is_refused_with_tasks(model):
    task = Task("t", discovery=[Example(PROMPT, "yes")])
    for options in ({"answer": " yes"}, {"foil": " no"}, {"objective": lambda logits: logits[0, 0]}):
        with pytest.raises(ArgumentError, match="give one prompt"):
            ns.attribute(model, task, **options)
