"""Cards of neurons: a planted neuron's card says what was planted; numbers by brute force; all code to paste is run."""

import base64
import copy
import gzip
import importlib.util
import json

import families
import nnsight
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from state import changed, snapshot
from tiny import tiny_model, tiny_tokenizer
from transformer_lens.model_bridge import TransformerBridge

import neuroscope as ns
from neuroscope.attribution import reliability, single_ablation
from neuroscope.errors import ArgumentError, FileError, MaskError, TaskError
from neuroscope.models import tap_experts
from neuroscope.reading import NeuronCard, NeuronCards
from neuroscope.reading.cards import assembling, breaking
from neuroscope.reading.cards.breaking import random_neurons
from neuroscope.reports.explorer.card import card_data
from neuroscope.tasks import Example, Task

pytestmark = pytest.mark.filterwarnings("ignore:.*the last of every prompt")  # toys that know few words
SITE = "blocks.0.mlp.hook_post"
PLANTED = 5
NOUNS = ("food", "film", "soup", "plot", "story", "food film", "a soup", "the plot")


def make_task(name, word, answer):
    """Prompts that end in a word, each with one answer; discovery examples and test examples are different."""
    discovery = [Example(f"{noun} was very {word}", answer) for noun in NOUNS]
    return Task(name, test=[Example(f"{noun} so {word}", answer) for noun in NOUNS], discovery=discovery)


TASKS = {
    "good": make_task("good", "good", "yes"),
    "bad": make_task("bad", "bad", "no"),
    "great": make_task("great", "great", "maybe"),
}


def plant(model):
    """Neuron 0.5 is 3.9 after "good" and 0 everywhere else, and writes "yes" alone into the logits.

    Nothing else reaches the first FFN but the token itself: attention writes nothing.
    """
    site, root = model.sites()[SITE], model.root
    token = {word: model.tokenizer.convert_tokens_to_ids(word) for word in ("good", "yes")}
    with torch.no_grad():
        for block in root.model.layers:
            block.self_attn.o_proj.weight.zero_()
        x = root.model.layers[0].post_attention_layernorm(root.model.embed_tokens.weight).double()
        reads = torch.linalg.pinv(x)[:, token["good"]].float()  # 1 of "good", 0 of the others
        site.ins["gate"][0].view()[:, PLANTED] = 4 * reads
        site.ins["up"][0].view()[:, PLANTED] = reads
        unembedding = root.lm_head.weight * root.model.norm.weight
        site.out[0].view()[:, PLANTED] = 4 * torch.linalg.pinv(unembedding.double())[:, token["yes"]].float()
    return model


@pytest.fixture(scope="module")
def model():
    return plant(tiny_model())


@pytest.fixture(scope="module")
def mask(model):
    """The planted neuron and others."""
    return ns.NeuronMask.of({SITE: [1, PLANTED, 30], "blocks.1.mlp.hook_post": [2, 40]}, model)


@pytest.fixture(scope="module")
def cards(model, mask):
    masks = {"all": mask, "others": mask - ns.NeuronMask.of({SITE: [PLANTED]}, model)}
    return ns.neurons(model, mask, TASKS, masks=masks, texts=["the food was good", "a story"], examples=8)


def losses(model, task, off=None):
    """[example] cross-entropy of each test example's one answer token, with neurons' output columns at zero."""
    model = copy.deepcopy(model) if off else model
    with torch.no_grad():
        for address, neurons in (off or {}).items():
            model.sites()[address].out[0].view()[:, neurons] = 0
        found = []
        for example in task.test:
            ids = model.tokenizer(example.prompt)["input_ids"]
            logprobs = model.root(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            found.append(-float(logprobs[model.tokenizer.convert_tokens_to_ids(example.answer)]))
    return np.array(found)


# --- what was planted


def test_a_planted_neurons_card_says_what_was_planted(cards):
    card = cards.card("0.5")
    parts = card.parts
    assert [token for token, _ in parts["tokens"]["toward"]] == ["good"]
    assert parts["tokens"]["toward"][0][1] == pytest.approx(4 / (1 + np.exp(-4)), rel=1e-3)
    assert parts["writes"]["toward"][0][0] == "yes"
    first, second = (value for _, value in parts["writes"]["toward"][:2])
    assert first > 10 * abs(second) > 0
    assert parts["reads"]["toward"][0][0] == "good" and "Its up weights: toward 'good'" in parts["reads"]["note"]
    table = card.to_frame().set_index("task")
    assert table.loc["good", "rank"] == 1 and table.loc["good", "selected"] == 1 and table.loc["good", "sign"] == 1
    assert table.loc["good", "q"] < 0.05 and table.loc["good", "low"] > 0.1
    for other in ("bad", "great"):
        assert abs(table.loc[other, "effect"]) < 1e-5 and table.loc[other, "score"] < 1e-6
        assert not table.loc[other, "q"] < 0.05
    assert parts["masks"] == ["all"]
    words = card.in_words()
    assert "Fires most at `good`" in words and "Without it alone the loss on good rises by" in words
    assert "the loss on bad" not in words


def test_its_texts_have_every_token_with_its_activation(cards):
    texts = cards.card("0.5").parts["texts"]
    assert {text["where"].split(",")[0] for text in texts} == {"good", "texts"} and len(texts) == 9
    for text in texts:
        good = [token.strip() == "good" for token in text["tokens"]]
        assert sum(good) == 1 and text["sign"] == 1
        peak = next(value for value, is_good in zip(text["activations"], good, strict=True) if is_good)
        rest = [value for value, is_good in zip(text["activations"], good, strict=True) if not is_good]
        assert peak == pytest.approx(3.928, abs=1e-2) and np.abs(rest).max() < 1e-4
    by_place = {text["where"]: "".join(text["tokens"]) for text in texts}
    assert by_place["texts, text 0"] == "<s> the food was good"
    counts = cards.card("0.5").parts["histogram"]["counts"]
    assert counts["good"][-1] == 8 and counts["bad"][-1] == 0 and sum(counts["texts"]) == 5 + 3


# --- numbers by brute force


def test_effects_are_those_of_zeroed_weights(model, mask, cards):
    table = cards.to_frame().set_index(["neuron", "task"])
    for name, task in TASKS.items():
        clean = losses(model, task)
        of_mask = losses(model, task, {a: i.tolist() for a, i in mask.items()}) - clean
        for address, indices in mask.items():
            for neuron in indices.tolist():
                row = table.loc[(f"{address.split('.')[1]}.{neuron}", name)]
                effect = losses(model, task, {address: [neuron]}) - clean
                assert row["effect"] == pytest.approx(effect.mean(), abs=2e-5)
                half = 2.364624 * effect.std(ddof=1) / np.sqrt(8)  # Student's t of 7 degrees of freedom
                assert row["low"] == pytest.approx(effect.mean() - half, abs=2e-5)
                assert row["high"] == pytest.approx(effect.mean() + half, abs=2e-5)
                assert row["mask_effect"] == pytest.approx(of_mask.mean(), abs=2e-5)
    assert table.loc[("0.5", "good"), "share"] == pytest.approx(
        table.loc[("0.5", "good"), "effect"] / table.loc[("0.5", "good"), "mask_effect"]
    )


def test_a_neuron_helps_only_after_correction_over_the_cards(cards):
    """Of 400 idle neurons some intervals lie above zero by chance; hardly any is called helpful, a real one is."""
    table = cards.to_frame()
    p = [stats.ttest_1samp(x, 0).pvalue for x in ([0.1, 0.2, 0.4], [0.1, -0.2, 0.3])]
    assert [breaking._p_of_none(np.array(x)) for x in ([0.1, 0.2, 0.4], [0.1, -0.2, 0.3])] == pytest.approx(p)
    assert [breaking._p_of_none(np.array(x)) for x in ([0.0, 0.0], [0.1, 0.1])] == [1.0, 0.0]
    assert np.isnan(breaking._p_of_none(np.array([0.1])))
    shown = np.sign(table["effect"]).where(table["sign_q"] < 0.05, 0)
    assert table["sign"].tolist() == shown.astype(int).tolist()
    rng = np.random.default_rng(0)
    idle = rng.normal(0, 1, (400, 16))
    rows = [{"sign_p": breaking._p_of_none(x), "effect": x.mean()} for x in [*idle, rng.normal(3, 1, 16)]]
    breaking.with_q(rows)
    assert sum(row["sign_p"] < 0.05 for row in rows) > 10
    signs = [assembling._sign(row) for row in rows]
    assert sum(map(abs, signs[:-1])) <= 1 and signs[-1] == 1


def test_every_example_has_its_own_change():
    """Of prompts of different lengths, in the order of the task; of a model whose attention acts."""
    model = tiny_model()
    found = {}
    for size in (3, None):
        with single_ablation.scored(model, TASKS["good"], "loss", "hidden", batch_size=size) as scoring:
            found[size] = single_ablation.without_each(scoring, {SITE: torch.tensor([3, PLANTED])})[SITE]
            clean = single_ablation.objectives_of(scoring)
    np.testing.assert_allclose(clean, losses(model, TASKS["good"]), atol=1e-5)
    for neuron, row in zip((3, PLANTED), found[3], strict=True):
        change = losses(model, TASKS["good"], {SITE: [neuron]}) - clean.numpy()
        np.testing.assert_allclose(row, change, atol=2e-5)
    assert row.std() > 1e-3
    torch.testing.assert_close(found[3], found[None], atol=2e-5, rtol=1e-4)


def test_ranks_in_halves():
    """Of two parts the halves are the parts themselves: equal scores share the best rank."""
    parts = np.array([[3.0, 1.0, 2.0, 2.0], [0.0, 4.0, 4.0, 5.0]])
    assert reliability.ranks(parts, [0, 2, 3]).tolist() == [[1, 2, 2], [4, 2, 1]]


class Drawing:
    """What `random_neurons` looks at."""

    n_random, seed = 5, 0

    def __init__(self, mask, chosen=None):
        self.mask, self.chosen = mask, mask if chosen is None else chosen


def test_random_neurons_are_of_the_same_site_and_outside_the_mask(model, mask, cards):
    drawn = random_neurons(Drawing(mask))
    assert all(len(d) == 5 and not set(d.tolist()) & set(mask[a].tolist()) for a, d in drawn.items())
    clean = losses(model, TASKS["bad"])
    means = [(losses(model, TASKS["bad"], {SITE: [i]}) - clean).mean() for i in drawn[SITE].tolist()]
    row = cards.to_frame().set_index(["neuron", "task"]).loc[("0.1", "bad")]
    assert row["random"] == pytest.approx(np.mean(means), abs=2e-5)
    half = 2.776445 * np.std(means, ddof=1) / np.sqrt(5)
    assert row["random_high"] - row["random_low"] == pytest.approx(2 * half, abs=4e-5)
    every = ns.NeuronMask.of({SITE: list(range(48))}, model)
    few = ns.NeuronMask.of({SITE: [3]}, model)
    alone = random_neurons(Drawing(every, few))[SITE].tolist()
    assert len(alone) == 5 and 3 not in alone  # a site that is all mask


def test_scores_ranks_and_their_stability(model, mask, cards):
    """Scores are those of all examples; what is selected in every half is the consensus of `ns.stability`."""
    table = cards.to_frame().set_index(["neuron", "task"])
    k = len(mask) / sum(mask.widths.values())
    found = ns.stability(model, TASKS, k=(k,), parts=8, often=1.0, examples=8)
    for name, scores in ns.attribute(model, TASKS, examples=8).items():
        ranks = (-scores.vector()).argsort().argsort() + 1
        flat = mask.flags().nonzero().flatten().tolist()
        always = found.consensus(name, k).flags()
        for neuron, i in zip(["0.1", "0.5", "0.30", "1.2", "1.40"], flat, strict=True):
            row = table.loc[(neuron, name)]
            assert row["score"] == pytest.approx(float(scores.vector()[i]), rel=1e-4, abs=1e-7)
            assert row["rank"] == int(ranks[i]) or row["score"] < 1e-7
            assert (row["selected"] == 1) == bool(always[i])
            assert row["rank_low"] <= row["rank_high"]


def test_nearest_neurons_by_activation_and_by_tasks(model, mask, cards):
    read = ns.activations(model, {**TASKS, "texts": ["the food was good", "a story"]}, skip_first=True)
    correlations = np.corrcoef(read.values.T.astype(float))
    scores = np.stack([s.vector().numpy() for s in ns.attribute(model, TASKS, examples=8).values()]).astype(float)
    scores /= np.sqrt((scores**2).mean(1, keepdims=True))
    cosines = (scores / np.linalg.norm(scores, axis=0)).T @ (scores / np.linalg.norm(scores, axis=0))
    used = (scores >= np.sort(scores, 1)[:, [-len(mask)]]).any(0)
    for name in ("0.1", "1.40"):
        me = read.neurons.index(name)
        near = cards.card(name).parts["nearest"]
        for by, table, among in (("activation", correlations, True), ("tasks", cosines, used)):
            row = np.where(among, table[me], -2)
            row[me] = -2
            best = np.argsort(-row)[:5]
            rows = [n for n in near if n["by"] == by]
            assert [n["neuron"] for n in rows] == [read.neurons[i] for i in best]
            np.testing.assert_allclose([n["similarity"] for n in rows], row[best], atol=1e-4)
    weights = ns.directions(model, "0.1", texts=["the food"]).nearest("0.1")
    expected = weights[weights["by"] == "output"]["name"].tolist()[:5]
    assert [n["neuron"] for n in cards.card("0.1").parts["nearest"] if n["by"] == "output weights"] == expected


def test_given_scores_choose_and_rank(model):
    """The mask's own task decides which neurons get a card, in order; without it the best rank for any task does."""
    scores = ns.attribute(model, TASKS, examples=8, method="activation")
    mask = scores["bad"].top(12)
    cards = ns.neurons(model, mask, TASKS, scores=scores, top=3, examples=4, parts=2, n=2)
    order = scores["bad"].vector().argsort(descending=True)[:3].tolist()
    assert cards.neurons == [f"{i // 48}.{i % 48}" for i in order]
    assert [card.to_frame().set_index("task").loc["bad", "rank"] for card in cards] == [1, 2, 3]
    assert cards.card(cards.neurons[0]).parts["masks"] == ["bad"]
    by_hand = ns.NeuronMask.of(dict(mask), model)
    ranks = np.min([(-s.vector()).argsort().argsort().numpy() for s in scores.values()], axis=0)
    best = sorted(mask.flags().nonzero().flatten().tolist(), key=lambda i: ranks[i])[:3]
    chosen = ns.neurons(model, by_hand, scores=scores, texts=["the food"], top=3)
    assert sorted(chosen.neurons) == sorted(f"{i // 48}.{i % 48}" for i in best)
    assert chosen.to_frame()["effect"].isna().all() and chosen.to_frame().query("task == 'bad'")["rank"].notna().all()


# --- an adapter, backends, families


def test_before_and_after_an_adapter(model, mask, tmp_path):
    """The adapter takes the planted neuron's output away: it still fires, and nothing breaks without it any more."""
    one = ns.NeuronMask.of({SITE: [PLANTED]}, model)
    with pytest.raises(ArgumentError, match="an adapter of another model"):
        other = tiny_model()
        ns.neurons(model, one, TASKS, adapter=ns.NeuronAdapter(other, ns.NeuronMask.of("0.5", other)))
    before = snapshot(model.root)
    adapter = ns.NeuronAdapter(model, one)
    (down,) = [placed for placed in adapter.placed if placed.path.endswith("down_proj")]
    with torch.no_grad():
        down.delta.weight.copy_(-model.sites()[SITE].out[0].view()[:, PLANTED][None])
    adapter.save(tmp_path / "adapter.safetensors")
    live = ns.neurons(model, one, TASKS, adapter=adapter, examples=8)
    assert adapter.scale == 1.0
    adapter.detach()
    read = ns.neurons(model, one, TASKS, adapter=tmp_path / "adapter.safetensors", examples=8)
    assert changed(before, snapshot(model.root)) == []
    for cards in (live, read):
        row = cards.to_frame().set_index("task").loc["good"]
        assert row["effect"] > 0.1 and abs(row["effect_after"]) < 1e-5
        assert row["activation_after"] == pytest.approx(row["activation"]) and row["activation"] > 0.5
        (note,) = [note for note in cards.card("0.5").parts["notes"] if "on good" in note]
        assert note.startswith("After the adapter") and "loss without it +" in note
        assert cards.card("0.5").parts["writes"]["toward"][0][0] == "yes"  # of the model before it
    with pytest.raises(ArgumentError, match="adapter"):
        ns.neurons(model, one, TASKS, adapter=3)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    tokenizer = families.tokenizer(tmp_path_factory.mktemp("tokenizer"))
    tokenizer.mask_token = "w4"
    return tokenizer


WORDS = [
    Task(
        name,
        test=[Example(f"w{i} w{i + 1} {word}", answer) for i in (60, 70, 80)],
        discovery=[Example(f"w{i} w{i + 1} {word}", answer) for i in (40, 50)],
    )
    for name, word, answer in (("one", "w20", "w5"), ("two", "w21", "w6"), ("three", "w22", "w7"))
]


def explorers_parts(card):
    """Hold a card to what an explorer takes: plain data of known parts."""
    plain = card.to_explorer()
    assert json.loads(json.dumps(plain, allow_nan=False)) == json.loads(json.dumps(plain))
    assert card_data(card, "a card") == json.loads(json.dumps(plain))
    return plain


@pytest.mark.parametrize("unit", ["hidden", "head"])
@pytest.mark.parametrize("name", ["gpt2", "phi3", "gemma2", "mixtral", "t5", "bert"])
def test_every_kind_of_model(name, unit, words):
    root = tap_experts(families.build(name)) if name in families.MOE else families.build(name)
    model = ns.load(root, tokenizer=words)
    address = list(model.sites(unit))[-1]
    before = snapshot(root)
    cards = ns.neurons(model, {address: [1, 3]}, WORDS, unit=unit, n_random=3)
    assert changed(before, snapshot(root)) == []
    assert len(cards) == 2 and cards.manifest["missing"] == {}
    for card in cards:
        plain = explorers_parts(card)
        assert {"tasks", "texts", "breaks", "writes", "reads", "nearest", "histogram"} <= set(plain)
        assert {near["by"] for near in plain["nearest"]} >= {"output weights", "activation", "tasks"}


def test_every_backend_gives_the_same_numbers(words):
    """A TransformerBridge's parameters are out of reach: what they would say is missing, with the reason."""
    plain = ns.load(families.build("llama"), tokenizer=words)
    bridge = TransformerBridge.boot_transformers(
        "tiny", hf_model=families.build("llama"), tokenizer=words, device="cpu"
    )
    mine, theirs = (
        ns.neurons(m, ["0.3", "1.7"], WORDS, n_random=3, parts=2) for m in (plain, ns.load(bridge, tokenizer=words))
    )
    assert "TransformerBridge" in theirs.manifest["missing"]["directions"] and mine.manifest["missing"] == {}
    for column in ("score", "effect", "random", "activation", "mask_effect"):
        np.testing.assert_allclose(mine.table[column], theirs.table[column], atol=2e-5, rtol=1e-3)
    card = theirs.card("1.7")
    assert "writes" not in card.parts and any("Without directions" in note for note in card.parts["notes"])


def test_half_precision_tells_no_single_neuron(words):
    model = ns.load(families.build("llama").bfloat16(), tokenizer=words)
    cards = ns.neurons(model, "0.3", WORDS, parts=2)
    assert "bfloat16" in cards.manifest["missing"]["what breaks"] and cards.table["effect"].isna().all()
    assert "was not measured" in cards.in_words() and cards.figure().data[0].z is not None


# --- code to paste


def run_in_a_file(code, path, **names):
    """Run code as a user would: pasted into a file (nnsight reads a trace's source)."""
    path.write_text(code)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    vars(module).update(names)
    with torch.no_grad():
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("unit", ["hidden", "head"])
def test_all_code_to_paste_switches_the_neuron_off(unit, tmp_path, capsys):
    mini, text = ns.load("mini"), "sentiment the curry was good =>"
    mask = ns.NeuronMask.of("2.3", mini, unit)
    code = ns.neurons(mini, mask, texts=[text]).card("2.3").parts["code"]
    task = ns.load_tasks("mini")["sentiment-food"]
    task = Task("few", test=task.test[:4], labels=task.labels)
    run_in_a_file(code["neuroscope"], tmp_path / "ours.py", task=task)
    ids = torch.tensor([mini.tokenizer(text)["input_ids"]])
    with ns.ablate(mini, mask), torch.no_grad():
        assert capsys.readouterr().out.strip() == repr(ns.evaluate(mini, task))
        expected = mini.root(input_ids=ids).logits[0, -1].log_softmax(-1)
    with torch.no_grad():
        clean = mini.root(input_ids=ids).logits[0, -1].log_softmax(-1)
    assert (expected - clean).abs().max() > 1e-4
    wrapped = nnsight.LanguageModel(copy.deepcopy(mini.root), tokenizer=mini.tokenizer)
    traced = run_in_a_file(code["nnsight"], tmp_path / "traced.py", model=wrapped, text=text).logits
    torch.testing.assert_close(traced[0, -1].log_softmax(-1), expected, atol=1e-5, rtol=1e-4)
    bridge = TransformerBridge.boot_transformers(
        "mini", hf_model=copy.deepcopy(mini.root), tokenizer=mini.tokenizer, device="cpu"
    )
    lens = run_in_a_file(code["TransformerLens"], tmp_path / "lens.py", bridge=bridge, text=ids).logits
    torch.testing.assert_close(lens[0, -1].log_softmax(-1), expected, atol=1e-5, rtol=1e-4)


# --- results, files, pages


def test_cards_survive_a_file_and_are_read_by_name(cards, tmp_path):
    again = ns.load_result(cards.save(tmp_path / "cards.json"))
    assert again.table.equals(cards.table) and again.neurons == cards.neurons
    assert [card.to_explorer() for card in again] == [json.loads(json.dumps(card.to_explorer())) for card in cards]
    assert cards.neurons[0] == "0.5" and len(cards) == 5
    for card in cards:
        explorers_parts(card)
    with pytest.raises(ArgumentError, match=r"did you mean '0\.5'"):
        cards.card("0.55")
    content = json.loads((tmp_path / "cards.json").read_text())
    (tmp_path / "bad.json").write_text(json.dumps({**content, "cards": [1]}))
    with pytest.raises(FileError, match="damaged"):
        ns.load_result(tmp_path / "bad.json")


def test_an_explorer_shows_them(cards, mask, tmp_path):
    page = ns.explore(cards, masks={"all": mask})
    shown = json.loads(gzip.decompress(base64.b64decode(page.parts["pack-cards"])))
    assert [(card["site"], card["neuron"]) for card in shown] == [
        (card.parts["site"], card.parts["neuron"]) for card in cards
    ]
    assert page.save(tmp_path / "explorer.html").stat().st_size > 10_000
    alone = json.loads(ns.explore(cards).parts["head"])
    assert {site["address"]: site["width"] for site in alone["sites"]} == {
        c.parts["site"]: mask.widths[c.parts["site"]] for c in cards
    }
    other = [dict(card.parts) for card in cards]
    other[-1]["width"] += 1
    for more in ({}, {"masks": {"all": mask}}):
        with pytest.raises(MaskError, match=r"card of neuron \d+ at (.|\n)*which has \d+ elsewhere"):
            ns.explore(cards=[*other, other[-1] | {"width": other[-1]["width"] - 1, "neuron": 0}], **more)


def test_words_and_figures_are_computed_from_the_numbers(cards):
    table = cards.to_frame()
    count = table[table["q"] < 0.05]["neuron"].nunique()
    assert cards.in_words().startswith(f"**{count} of 5** neurons alone change the loss")
    heat = cards.figure().data[0]
    assert list(heat.x) == list(TASKS) and list(heat.y) == cards.neurons
    wide = table.pivot(index="neuron", columns="task", values="effect").loc[list(heat.y), list(heat.x)]
    np.testing.assert_allclose(np.array(heat.z, float), wide)
    alone, random = cards.card("0.5").figure().data
    row = table[table["neuron"] == "0.5"].set_index("task").loc[list(TASKS)]
    np.testing.assert_allclose(list(alone.y), row["effect"])
    np.testing.assert_allclose(list(random.y), row["random"])


EVIL = "<script>alert('x')</script>"


def test_hostile_text_stays_text(model):
    task = Task(EVIL, test=TASKS["good"].test, discovery=TASKS["good"].discovery)
    cards = ns.neurons(model, "0.5", {EVIL: task}, texts=[f"{EVIL} good"], examples=4, parts=2)
    pages = [cards._repr_html_(), cards.card("0.5")._repr_html_()]
    parts = cards.card("0.5").parts
    text = {"tokens": [EVIL], "activations": [1.0], "sign": 1, "where": EVIL}
    ends = {"toward": [(EVIL, 1.0)], "away": [], "note": EVIL}
    evil = {**parts, "notes": [EVIL], "texts": [text], "writes": ends, "reads": ends, "tokens": ends, "masks": [EVIL]}
    evil |= {"nearest": [{"neuron": EVIL, "similarity": 0.5, "by": EVIL}], "code": {EVIL: EVIL}, "site": f"b.0.{EVIL}"}
    pages.append(NeuronCard(EVIL, cards.card("0.5").rows, evil)._repr_html_())
    assert all(EVIL not in page for page in pages)
    assert all("&lt;script&gt;alert" in page for page in pages)
    assert "<script" not in pages[1] and "<script" not in pages[2]
    assert EVIL not in cards.card("0.5").figure().to_html(include_plotlyjs=False)
    assert EVIL not in NeuronCard(EVIL, cards.card("0.5").rows, {**evil, "breaks": []}).figure().to_html(
        include_plotlyjs=False
    )


def test_a_sink_is_named(model):
    """Of a neuron that is active at the start token alone."""
    sink = copy.deepcopy(model)
    with torch.no_grad():
        x = sink.root.model.layers[0].post_attention_layernorm(sink.root.model.embed_tokens.weight)
        reads = torch.linalg.pinv(x.double())[:, 1].float()
        site = sink.sites()[SITE]
        site.ins["gate"][0].view()[:, 7], site.ins["up"][0].view()[:, 7] = 9 * reads, 9 * reads
    cards = ns.neurons(sink, "0.7", texts=["the food was good"])
    (note, *_) = cards.card("0.7").parts["notes"]
    assert note.startswith("A sink: 100% of its absolute activation") and "`skip_first=True`" in note
    (note, *_) = ns.neurons(sink, "0.7", texts=["the food was good"], skip_first=True).card("0.7").parts["notes"]
    assert note.startswith("A sink: ") and "skip_first" not in note  # it is so already
    (note, *_) = ns.neurons(sink, "0.7", texts=["the"]).card("0.7").parts["notes"]
    assert not note.startswith("A sink") and "do not tell whether it is a sink" in note


def test_first_tokens_can_be_left_out(model):
    """As `skip_first=` of `ns.attribute` and `ns.activations`."""
    cards = ns.neurons(model, ["0.1", "1.40"], TASKS, examples=8, skip_first=True)
    scores = ns.attribute(model, TASKS, examples=8, skip_first=True)
    read = ns.activations(model, TASKS, ["0.1", "1.40"], skip_first=True)
    for name, i in (("0.1", 1), ("1.40", 88)):
        rows = cards.card(name).to_frame().set_index("task")
        for task in TASKS:
            assert rows.loc[task, "score"] == pytest.approx(float(scores[task].vector()[i]), rel=1e-4, abs=1e-8)
            mean = read.table[read.table["task"] == task][name].mean()
            assert rows.loc[task, "activation"] == pytest.approx(mean, rel=1e-5)


def test_texts_of_a_file(model, tmp_path):
    """A line that is no text is counted and named."""
    lines = ['{"text": "the food was good"}', "no JSON", '"a story"', '{"prompt": "x"}']
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    cards = ns.neurons(model, "0.5", texts=str(tmp_path / "corpus.jsonl"))
    given = ns.neurons(model, "0.5", texts=["the food was good", "a story"])
    (card,), (expected,) = cards.cards, given.cards
    assert cards.table.equals(given.table) and {**card, "notes": []} == {**expected, "notes": []}
    (note,) = set(card["notes"]) - set(expected.get("notes", []))
    assert note.startswith("Without 2 broken line(s) of the file: line 2")
    assert cards.manifest["broken"]["count"] == 2 and cards.manifest["broken"]["first"][0].startswith("line 2")
    (tmp_path / "empty.jsonl").write_text("{}")
    with pytest.raises(FileError, match="no text"):
        ns.neurons(model, "0.5", texts=str(tmp_path / "empty.jsonl"))


# --- resuming, and what is refused


def test_what_was_measured_is_not_measured_again(model, mask, tmp_path, monkeypatch):
    how = {"examples": 4, "parts": 2, "n": 3, "output": tmp_path / "run", "texts": ["the food"]}
    first = ns.neurons(model, mask, TASKS, **how)

    def never(*args, **kwargs):
        raise AssertionError("measured again")

    monkeypatch.setattr("neuroscope.reading.cards.breaking.scored", never)
    monkeypatch.setattr("neuroscope.reading.cards.replicating.attribute", never)
    again = ns.neurons(model, mask, TASKS, **how)
    assert again.table.equals(first.table) and again.cards == first.cards
    with pytest.raises(AssertionError, match="measured again"):
        ns.neurons(model, mask, TASKS, **{**how, "n": 4})


def test_the_model_is_as_before_after_an_error(model, mask, monkeypatch):
    before = snapshot(model.root)

    def fails(*args, **kwargs):
        raise RuntimeError("a fault")

    monkeypatch.setattr(single_ablation, "changes", fails)
    with pytest.raises(RuntimeError, match="a fault"):
        ns.neurons(model, mask, TASKS, examples=4, parts=2)
    assert changed(before, snapshot(model.root)) == []


def test_what_cannot_be_is_refused_by_name(model, mask):
    with pytest.raises(MaskError, match=r"2\.5|blocks\.1\.mlp\.hook_post"):
        ns.neurons(model, "7.5", TASKS)
    with pytest.raises(MaskError, match="neuron 99; the site has 48"):
        ns.neurons(model, "0.99", TASKS)
    with pytest.raises(ArgumentError, match="5 neurons, and neither tasks nor scores to choose 2 by"):
        ns.neurons(model, mask, texts=["the food"], top=2)
    with pytest.raises(ArgumentError, match="an odd number"):
        ns.neurons(model, mask, TASKS, parts=3)
    with pytest.raises(TaskError, match="test"):
        ns.neurons(model, mask, Task("empty", discovery=TASKS["good"].discovery))
    other = ns.attribute("mini", ns.load_tasks("mini")["nli-food"], examples=4, objective="log-odds")
    with pytest.raises(MaskError, match="scores of nli"):
        ns.neurons(model, mask, scores={"nli": other})
    assert tiny_tokenizer().convert_tokens_to_ids("good") == model.tokenizer.convert_tokens_to_ids("good")


def test_a_card_says_in_what_a_loss_is_measured_that_is_not_in_nats():
    row = {"effect": 0.5, "low": 0.2, "high": np.nan, "p": 0.1}
    assert breaking.in_card("t", row, "loss") == {"task": "t", "effect": 0.5, "low": 0.2, "high": None}
    of_mask = {"mask_effect": -0.1, "share": np.nan}
    found = breaking.in_card("t", row | of_mask, "loss")
    assert (found["mask_effect"], found["share"]) == (-0.1, None)
    other = breaking.in_card("t", row | of_mask, "logit-difference")
    assert other["unit"] == "logit-difference lost"
    assert card_data({"site": 0, "neuron": 1, "breaks": [other]}, "a card")["breaks"] == [other]


def test_a_neuron_that_does_less_than_random_ones_is_not_said_to_do_more():
    less = {"task": "t", "effect": 0.0, "low": -0.01, "high": 0.01, "random": 0.3, "q": 0.001}
    more = less | {"effect": -0.5, "low": -0.6, "high": -0.4}
    parts = {"name": "0.1", "site": "blocks.0.mlp.hook_post", "neuron": 1, "tokens": {"toward": [("a", 1.0)]}}
    for row, count in ((less, 0), (more, 1)):
        found = NeuronCards(pd.DataFrame([{"neuron": "0.1", **row}]), {}, [{**parts, "breaks": [row]}])
        card, words = found.card("0.1"), found.in_words()
        assert ("falls by 0.5" in card.in_words()) == bool(count)
        assert ("**A negative**" in card.in_words()) == (not count)
        assert ("**1 of 1** neurons alone change" in words) == bool(count)
    assert card_data(card, "a card")["tokens"] == {"toward": [["a", 1.0]]}  # an explorer shows them
    told = NeuronCard("0.1", card.rows, {**card.parts, "breaks": [more | {"unit": "log-odds lost"}]})
    assert "the lost log-odds on t falls by 0.5" in told.in_words()
    assert told.figure().layout.yaxis.title.text == "log-odds lost"
    for unit, name, label in (({}, "loss", "nats"), ({"unit": "log-odds lost"}, "lost log-odds", "log-odds lost")):
        frame = pd.DataFrame([{"neuron": "0.1", **more}])
        deck = NeuronCards(frame, {}, [{**parts, "breaks": [more | unit]}])
        assert f"change the {name} on a task" in deck.in_words()
        figure = deck.figure()
        assert (
            figure.data[0].colorbar.title.text == label
            and f"rise of the {name} on" in figure.layout.title.subtitle.text
        )


def test_a_file_of_texts_that_is_not_there_is_not_read_as_a_text(tmp_path):
    with pytest.raises(FileError, match="no file there"):
        ns.neurons("mini", "2.17", texts=str(tmp_path / "corpus.jsonl"))
