"""Reading neurons on prompts: the same numbers from every backend; tables, probes and files by brute force."""

import families
import nnsight
import numpy as np
import pytest
import torch
from tiny import tiny_model
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis import fit_sparse_probe

import neuroscope as ns
from neuroscope.errors import (
    ArgumentError,
    FileError,
    MaskError,
    ModelError,
    NeuroscopeError,
    NumericalError,
    TaskError,
)
from neuroscope.masks import NeuronMask
from neuroscope.models import tap_experts
from neuroscope.reading.activations_result import marked
from neuroscope.tasks import Example, Task

CAUSAL = [name for name in families.DENSE if name not in ("t5", "bert", "distilbert")]
TEXTS = ("w60 w61 w62 w63 w64 w65", "w70 w71", "w90 w91 w92 w93")
FOOD = Task(
    "food",
    test=[
        Example("the food was good :", "yes"),
        Example("the soup was so bad :", "no"),
        Example("a great plot :", "yes"),
    ],
    labels=("yes", "no"),
)
STORY = Task("story", test=[Example("a story : Answer", "the film was good"), Example("the plot :", "so very bad")])


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return families.tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def captured(model, ids):
    """Every site's vector on one row of ids, by torch's own hooks."""
    found, handles = {}, []
    for address, site in model.sites("hidden").items():

        def keep(module, args, address=address):
            found[address] = args[0].detach().clone()

        handles.append(site.module.register_forward_pre_hook(keep))
    with torch.no_grad():
        model.root(input_ids=torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return {address: h.reshape(len(ids), -1) for address, h in found.items()}


def third(model, unit="hidden"):
    sites = model.sites(unit)
    return NeuronMask.of(families.thirds(sites), {a: s.width for a, s in sites.items()}, unit)


def nnsight_module(wrapped, path):
    for part in path.split("."):
        wrapped = wrapped[int(part)] if part.isdigit() else getattr(wrapped, part)
    return wrapped


# --- the numbers


@pytest.mark.parametrize("name", CAUSAL)
def test_every_backend_reads_what_transformer_lens_caches_and_nnsight_saves(name, words):
    """The texts are of different lengths, and each is run alone by the other tools."""
    model = ns.load(families.build(name), tokenizer=words)
    mask = third(model)
    read = ns.activations(model, TEXTS, mask)
    assert read.values.shape == (sum(len(text.split()) for text in TEXTS), len(mask))
    bridge = TransformerBridge.boot_transformers("tiny", hf_model=families.build(name), tokenizer=words, device="cpu")
    wrapped = nnsight.NNsight(families.build(name))
    sites = ns.load(wrapped, tokenizer=words).sites("hidden")
    for other in (bridge, wrapped):
        again = ns.activations(ns.load(other, tokenizer=words), TEXTS, mask, batch_size=1)
        np.testing.assert_allclose(again.values, read.values, atol=1e-5, rtol=1e-5)
        assert again.neurons == read.neurons
    for text, rows in enumerate(read.table.groupby("text").indices.values()):
        ids = torch.tensor([[int(word[1:]) for word in TEXTS[text].split()]])
        _, cache = bridge.run_with_cache(ids)
        lens = torch.cat([cache[a].reshape(ids.shape[1], -1)[:, mask[a]] for a in mask], 1)
        np.testing.assert_allclose(read.values[rows], lens, atol=1e-5, rtol=1e-5)
        for address, site in sites.items():
            module, columns = nnsight_module(wrapped, site.path), [read.neurons.index(n) for n in names(mask, address)]
            with torch.no_grad():  # noqa: SIM117 (nnsight reads a trace's source)
                with wrapped.trace(input_ids=ids):
                    saved = module.input.save()
            saved = saved.reshape(ids.shape[1], -1)[:, mask[address]]
            np.testing.assert_allclose(read.values[rows][:, columns], saved, atol=1e-5, rtol=1e-5)


def names(mask, address):
    return [f"{address.split('.')[1]}.{j}" for j in mask[address].tolist()]


@pytest.mark.parametrize("unit", ["output", "head"])
def test_other_units(unit, model):
    read = ns.activations(model, "the food was good", third(model, unit))
    ids = [1, *model.tokenizer("the food was good", add_special_tokens=False)["input_ids"]]
    for address, site in model.sites(unit).items():
        seen = []
        hook = lambda m, args, out=None: seen.append(args[0] if out is None else out)  # noqa: E731
        register = site.module.register_forward_pre_hook if unit == "head" else site.module.register_forward_hook
        handle = register(hook)
        with torch.no_grad():
            model.root(input_ids=torch.tensor([ids]))
        handle.remove()
        whole = seen[0][0].unflatten(-1, (site.width, -1)).sum(-1)[:, third(model, unit)[address]]
        np.testing.assert_allclose(read.table[names(third(model, unit), address)], whole, atol=1e-5)


def test_rows_are_tokens_in_the_order_of_the_texts(model):
    read = ns.activations(model, {"b": FOOD, "a": ["the food", "was so good"]}, "1.3", batch_size=2)
    table = read.to_frame()
    assert list(dict.fromkeys(table["task"])) == ["b", "a"]
    for (task, text), rows in table.groupby(["task", "text"], sort=False):
        prompt = FOOD.test[text].prompt if task == "b" else ["the food", "was so good"][text]
        assert list(rows["token"]) == ["<s>", *prompt.split()] and list(rows["position"]) == [*range(len(rows))]
        assert set(rows["part"]) == {"prompt"}  # answers of one token are predicted, not read
        hidden = captured(model, rows["id"].tolist())["blocks.1.mlp.hook_post"]
        np.testing.assert_allclose(rows["1.3"], hidden[:, 3], atol=1e-5)


AT = {
    "last": lambda prompt, answer: [prompt - 1],
    "prompt": lambda prompt, answer: [*range(prompt)],
    "answer": lambda prompt, answer: [*range(prompt, prompt + answer - 1)],
    (1, -1): lambda prompt, answer: [1, prompt - 1],
    None: lambda prompt, answer: [*range(prompt + answer - 1)],
}


@pytest.mark.parametrize("at", AT, ids=repr)
@pytest.mark.parametrize("skip_first", [False, True])
def test_the_tokens_that_are_asked_for(at, skip_first, model):
    read = ns.activations(model, STORY, "0.5", at=list(at) if isinstance(at, tuple) else at, skip_first=skip_first)
    for text, rows in read.table.groupby("text"):
        prompt, answer = 1 + len(STORY.test[text].prompt.split()), len(STORY.test[text].answer.split())
        assert list(rows["position"]) == [p for p in AT[at](prompt, answer) if p or not skip_first]
        assert list(rows["part"]) == ["prompt" if p < prompt else "answer" for p in rows["position"]]


def test_a_token_is_read_where_ablate_acts(model):
    for at in ("last", "answer", [0]):
        with ns.ablate(model, "0.5", value=7.0, at=at):
            read = ns.activations(model, STORY, "0.5")
        changed = read.table[read.table["0.5"] == 7.0]
        alone = ns.activations(model, STORY, "0.5", at=at).table
        assert list(zip(changed["text"], changed["position"], strict=True)) == list(
            zip(alone["text"], alone["position"], strict=True)
        )


def test_an_experts_neuron_has_no_value_at_tokens_that_it_does_not_see(words):
    model = ns.load(tap_experts(families.build("mixtral")), tokenizer=words)
    read = ns.activations(model, TEXTS, {a: [0] for a in model.sites()})
    missing = np.isnan(read.values)
    per_layer = (~missing).reshape(len(missing), 2, 4).sum(2)
    assert (per_layer == 2).all()  # of four experts each token is routed to two
    table = read.summary().set_index("neuron")
    for name, column in zip(read.neurons, read.values.T, strict=True):
        assert table.loc[name, "tokens"] == (~np.isnan(column)).sum()
        seen = column[~np.isnan(column)].astype(float)
        assert table.loc[name, "mean"] == pytest.approx(seen.mean() if len(seen) else np.nan, nan_ok=True)
    assert f"{missing.sum()} of {missing.size} values are missing" in read.in_words()
    with pytest.raises(ArgumentError, match="missing values"):
        read.to_probe("prompts", by="task")


def test_both_stacks_of_an_encoder_and_decoder():
    model = tiny_model("seq2seq")
    read = ns.activations(model, STORY, {a: [0, 1] for a in model.sites()})
    assert set(read.table["part"]) == {"prompt", "decoder"}
    decoder = (read.table["part"] == "decoder").to_numpy()
    is_decoders = np.array([name.startswith("decoder") for name in read.neurons])
    assert (np.isnan(read.values) == (decoder[:, None] != is_decoders[None])).all()
    assert decoder.sum() == 4 + 3  # the start token and all of the answer but its last
    first = read.table[(read.table["text"] == 0) & (read.table["part"] == "decoder")]["id"].tolist()
    assert first[0] == model.root.config.decoder_start_token_id
    encoder = [a for a in model.sites() if a.startswith("encoder")]
    alone = ns.activations(model, STORY, {a: [0, 1] for a in encoder})
    assert set(alone.table["part"]) == {"prompt"} and not np.isnan(alone.values).any()
    assert ns.activations(model, "the food", {encoder[0]: [0]}).table["token"].tolist() == ["the", "food", "</s>"]
    with pytest.raises(ModelError, match="leave out at="):
        ns.activations(model, STORY, {encoder[0]: [0]}, at="last")


def test_a_masked_model(model):
    read = ns.activations(tiny_model("masked"), ["the food was <mask>"], "0.1")
    assert read.table["token"].tolist() == ["<s>", "the", "food", "was", "<mask>", "</s>"]


# --- what is made of them


@pytest.fixture(scope="module")
def read(model):
    return ns.activations(model, {"food": FOOD, "story": STORY}, third(model))


def test_top_is_the_most_extreme_token_of_each_text_in_both_directions(read):
    got, owners = read.top(3), (read.table["task"] + read.table["text"].astype(str)).tolist()
    for name in read.neurons:
        column = read.table[name].to_numpy()
        for sign, factor in (("+", 1), ("-", -1)):
            best = {}  # of each text
            for value, owner in zip(factor * column, owners, strict=True):
                best[owner] = max(best.get(owner, 0.0), value)
            expected = sorted((v for v in best.values() if v > 0), reverse=True)[:3]
            rows = got[(got["neuron"] == name) & (got["sign"] == sign)]
            np.testing.assert_allclose(factor * rows["value"], expected, rtol=1e-6)
            assert list(rows["rank"]) == [*range(len(rows))] and len(
                set(rows["task"] + rows["text"].astype(str))
            ) == len(rows)
    for row in got.itertuples():
        here = read.table[(read.table["task"] == row.task) & (read.table["text"] == row.text)]
        (there,) = here[here["position"] == row.position].to_dict("records")
        assert there[row.neuron] == np.float32(row.value) and there["token"] == row.token
        assert f"«{row.token}»" in row.context
    with pytest.raises(ArgumentError, match="count=0"):
        read.top(0)


def test_context_is_the_text_around_the_token_also_where_it_alone_was_read(model):
    assert ns.activations(model, "the food was good", "0.5", at=[2]).top(1)["context"].tolist() == [
        "<s> the «food» was good"
    ]
    assert marked([str(i) for i in range(30)], 20, 2) == "… 18 19 «20» 21 22 …"


def test_by_token_and_summary_are_those_of_pandas(read):
    got = read.by_token().set_index(["neuron", "token"])
    long = read.table.melt(["task", "text", "position", "part", "token", "id"], var_name="neuron")
    expected = long.groupby(["neuron", "token"])["value"].agg(["count", "mean", "min", "max"])
    np.testing.assert_allclose(got.loc[expected.index].astype(float), expected.astype(float), rtol=1e-5)
    assert (got.groupby("neuron", sort=False)["mean"].diff().dropna() <= 1e-7).all()
    summary, x = read.summary(), read.table[read.neurons].astype(float)
    for column, values in {"mean": x.mean(), "sd": x.std(ddof=0), "min": x.min(), "max": x.max()}.items():
        np.testing.assert_allclose(summary[column], values, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(summary["density"], (x > 0).mean())


def test_the_first_tokens_share_is_of_all_tokens_whichever_were_read(model):
    mask = third(model)
    sizes = np.zeros((2, len(mask)))
    for example in STORY.test:
        text = f"{example.prompt} {example.answer}".rsplit(" ", 1)[0]
        hidden = captured(model, [1, *model.tokenizer(text, add_special_tokens=False)["input_ids"]])
        h = torch.cat([hidden[a][:, mask[a]] for a in mask], 1).abs().double().numpy()
        sizes += [h[0], h.sum(0)]
    for how in ({}, {"at": "last"}, {"skip_first": True}):
        found = ns.activations(model, STORY, mask, **how).first
        np.testing.assert_allclose([*found.values()], sizes[0] / sizes[1], rtol=1e-5)


def test_a_planted_sink_is_named():
    """A neuron whose gate is open at the start token alone."""
    model = tiny_model()
    layer = model.root.model.layers[0]
    with torch.no_grad():
        start = model.root.model.embed_tokens.weight[1]
        layer.mlp.gate_proj.weight[7] = 20 * start / start.norm() ** 2
        layer.mlp.up_proj.weight[7] = start
        layer.self_attn.o_proj.weight.zero_()
    read = ns.activations(model, FOOD, ["0.7", "1.3"])
    assert read.sinks == ["0.7"] and "**Sinks**: 1 of them" in read.in_words() and "0.7" in read.in_words()
    assert read.summary()["sink"].tolist() == [True, False]
    assert "skip_first=True" in read.in_words()
    assert "skip_first=True" not in ns.activations(model, FOOD, ["0.7"], skip_first=True).in_words()
    everything = ns.neuron_statistics(model, FOOD)
    assert "0.7" in everything.sinks and "skip_first=True" in everything.in_words()


def test_texts_that_are_short_or_begin_alike_make_no_sink():
    """Of texts of one token all is on the first one; of texts that begin with one word the word may be why."""
    model = tiny_model()
    model.tokenizer.add_bos_token = False
    ids = model.tokenizer("the a food film", add_special_tokens=False)["input_ids"]
    site = model.sites()["blocks.0.mlp.hook_post"]
    with torch.no_grad():
        model.root.model.layers[0].self_attn.o_proj.weight.zero_()
        start = model.root.model.embed_tokens.weight[ids[0]]
        site.ins["gate"][0].view()[:, 7], site.ins["up"][0].view()[:, 7] = 20 * start / start.norm() ** 2, start
    read = ns.activations(model, ["the", "food", "film"])
    assert max(read.first.values()) == 1 and read.sinks == []


def test_a_probe_of_transformer_lens_takes_the_matrix():
    """A planted neuron tells the classes apart, and the probe finds it."""
    moods = {"good": "yes", "great": "yes", "bad": "no", "awful": "no"}
    nouns = ("food", "film", "soup", "plot", "story")
    examples = [Example(f"the {noun} was {mood} :", answer) for noun in nouns for mood, answer in moods.items()]
    task, model = Task("mood", test=examples, labels=("yes", "no")), tiny_model()
    ids = model.tokenizer("good great bad awful", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        embedded = torch.nn.functional.normalize(model.root.model.embed_tokens.weight[ids], dim=-1)
        mlp = model.root.model.layers[0].mlp
        mlp.gate_proj.weight[11] = 3 * (embedded[:2].sum(0) - embedded[2:].sum(0))
        mlp.up_proj.weight[11] = mlp.gate_proj.weight[11]
        model.root.model.layers[0].self_attn.o_proj.weight.zero_()
    read = ns.activations(model, task, {0: [3, 11, 20]})
    for pool, n in (("mean", 20), ("max", 20), ("none", len(read.table))):
        given = read.to_probe("yes", pool=pool)
        assert given["features"].shape == (n, 3) and given["labels"].shape == given["groups"].shape == (n,)
    at_mood = ns.activations(model, task, {0: [3, 11, 20]}, at=[4]).to_probe("yes", pool="last")
    assert at_mood["labels"].tolist() == [example.answer == "yes" for example in examples]
    probe = fit_sparse_probe(**at_mood, k=1, preprocess="standardize")
    assert probe.selected_features.tolist() == [1] and probe.metrics.accuracy == 1.0
    pooled, x = read.to_probe("yes", pool="mean")["features"], read.table.groupby("text")[read.neurons].mean()
    np.testing.assert_allclose(pooled, x, rtol=1e-5, atol=1e-5)
    last = read.to_probe("yes", pool="last")["features"]
    np.testing.assert_allclose(last, read.table.groupby("text")[read.neurons].last())


def test_equal_prompts_are_one_group_of_a_probe(model):
    twice = Task(
        "twice",
        test=[Example("the food :", "yes"), Example("a plot :", "no"), Example("the food :", "no")],
        labels=("yes", "no"),
    )
    assert ns.activations(model, twice, "0.1").to_probe("yes")["groups"].tolist() == [0, 1, 0]
    by_task = ns.activations(model, [FOOD, STORY], "0.1").to_probe("story", by="task")
    assert by_task["labels"].tolist() == [False] * 3 + [True] * 2
    with pytest.raises(ArgumentError, match="no other task"):
        ns.activations(model, FOOD, "0.1").to_probe("food", by="task")
    with pytest.raises(ArgumentError, match="no such label"):
        ns.activations(model, FOOD, "0.1").to_probe("maybe")


def test_a_histogram_has_a_curve_for_each_task(read):
    figure = read.histogram(neuron=read.neurons[0])
    assert [trace.name for trace in figure.data] == ["food", "story"]
    for trace in figure.data:
        assert sum(trace.y) == pytest.approx(100)
    assert [trace.name for trace in read.histogram(STORY).data] == ["story"]
    assert read.histogram(["food"]).data[0].name == "food"
    for call in (lambda: read.histogram(["none"]), lambda: read.histogram(neuron="9.9")):
        with pytest.raises(ArgumentError, match="choose from"):
            call()


def test_figures_show_every_token_or_means_by_task(model, read):
    few = ns.activations(model, "the food was good", ["0.1", "1.2"])
    cells = few.figure().data[0]
    np.testing.assert_allclose(cells.z, few.values.T)
    assert list(cells.y) == ["0.1", "1.2"] and list(cells.x)[2] == "3 food"
    many = ns.activations(model, {"food": FOOD, "story": STORY, "more": ["the food was good"] * 9}, ["0.1", "1.2"])
    np.testing.assert_allclose(
        many.figure().data[0].z, many.table.groupby("task", sort=False)[many.neurons].mean().T, rtol=1e-5, atol=1e-7
    )


def test_a_file_keeps_every_bit(read, tmp_path):
    with pytest.raises(FileError, match=r"to_frame\(\)\.to_csv"):
        read.save(tmp_path / "acts.csv")
    path = read.save(tmp_path / "acts.json")
    again = ns.load_result(path)
    assert again.table.equals(read.table) and again.manifest == read.manifest
    assert dict(again.texts) == dict(read.texts) and again.first == dict(read.first)
    path.write_text(path.read_text().replace('"data": "', '"data": "!'))
    with pytest.raises(FileError, match="damaged"):
        ns.load_result(path)


TEMPLATE = (
    "{% for m in messages %}{{ m['role'] == 'user' and 'Review' or 'Answer' }} : {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}Answer :{% endif %}"
)


def test_a_chat_is_read_in_its_template():
    model = tiny_model()
    model.tokenizer.chat_template = TEMPLATE
    first = [{"role": "user", "content": "good food"}]
    asked = ns.activations(model, first, "1.3")
    assert list(asked.table["token"]) == ["Review", ":", "good", "food", "Answer", ":"]
    assert set(asked.table["part"]) == {"prompt"} and set(asked.table["task"]) == {"prompts"}
    ids = model.tokenizer("Review : good food Answer :", add_special_tokens=False)["input_ids"]  # no start token
    expected = captured(model, ids)["blocks.1.mlp.hook_post"][:, 3]
    np.testing.assert_allclose(asked.values[:, 0], expected, atol=1e-6)
    told = [*first, {"role": "assistant", "content": "so very good"}]
    read = ns.activations(model, {"chat": told, "text": "the food"}, "1.3")
    chat = read.table[read.table["task"] == "chat"]
    assert list(chat["token"])[:8] == ["Review", ":", "good", "food", "Answer", ":", "so", "very"]
    assert list(chat["part"])[5:8] == ["prompt", "answer", "answer"]
    assert read.texts["chat"][0][:2] == ("good food", "so very good") and list(read.table["task"])[-1] == "text"
    assert asked.manifest["prompts"] != read.manifest["prompts"]
    for wrong in ([{"role": "assistant", "content": "a"}], [{"role": "user"}], [*told, *told[1:]]):
        with pytest.raises(ArgumentError, match="prompt: message"):
            ns.activations(model, wrong, "1.3")


def test_the_whole_model_where_no_neurons_are_named(model):
    read = ns.activations(model, "the food")
    assert read.values.shape == (3, 96) and read.neurons[0] == "0.0" and read.neurons[-1] == "1.47"


def test_batches_do_not_change_a_number(model, read):
    for size in (1, 2, 5):
        again = ns.activations(model, {"food": FOOD, "story": STORY}, third(model), batch_size=size)
        np.testing.assert_allclose(again.values, read.values, atol=1e-5)
        assert again.table[["task", "text", "position"]].equals(read.table[["task", "text", "position"]])


# --- what is refused

REFUSED = {
    "an empty list": (lambda m: ns.activations(m, [], "0.1"), ArgumentError, "no text"),
    "an empty dict": (lambda m: ns.activations(m, {}, "0.1"), ArgumentError, "prompts="),
    "no words": (lambda m: ns.activations(m, ["the", ""], "0.1"), ArgumentError, "number 1.*no tokens"),
    "too long": (lambda m: ns.activations(m, "food " * 90, "0.1"), ArgumentError, "91 tokens, for a context of 64"),
    "another layer": (lambda m: ns.activations(m, "the", "7.1"), MaskError, "nearest: blocks.1.mlp.hook_post"),
    "another neuron": (lambda m: ns.activations(m, "the", {1: [48]}), MaskError, "0 to 47"),
    "a part": (lambda m: ns.activations(m, "the", "0.1", at="generated"), ArgumentError, "'last', 'prompt'.*'answer'"),
    "no part": (lambda m: ns.activations(m, "the", "0.1", at=True), ArgumentError, "at=True.*(?!.*generated)"),
    "a position": (lambda m: ns.activations(m, "the", "0.1", at=[4]), ArgumentError, "position 4.*give -2 to 1"),
    "no answer": (lambda m: ns.activations(m, "the", "0.1", at="answer"), TaskError, "predicted, not read"),
    "too much": (lambda m: ns.activations(m, ["food " * 60] * 60000), ArgumentError, "GiB.*neuron_statistics"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused(case, model):
    call, kind, said = REFUSED[case]
    with pytest.raises(kind, match=f"(?s){said}"):
        call(model)


def test_unknown_words_are_told_of():
    model = tiny_model()
    acts = ns.activations(model, ["the xyzzy food", "a plot"], "1.3")
    assert acts.manifest["unknown"] == {"token": model.tokenizer.unk_token, "count": 1}
    assert "**1** of the texts' tokens are words that the tokenizer does not know" in acts.in_words()
    cards = ns.neurons(model, ["1.3", "1.4"], texts=["the xyzzy food was good"])
    noted = [any("does not know" in note for note in card.parts.get("notes", [])) for card in cards]
    assert noted == [bool(card.parts.get("texts")) for card in cards] and any(noted)
    known = ns.activations(model, ["the food"], "1.3")
    assert "unknown" not in known.manifest and "does not know" not in known.in_words()


def test_an_activation_that_is_not_finite_is_reported():
    model = tiny_model()
    with torch.no_grad():
        model.root.model.layers[1].mlp.up_proj.weight[5, 0] = torch.inf
    with pytest.raises(NumericalError, match="not finite at blocks.1.mlp.hook_post"):
        ns.activations(model, "the food", "1.5")
    assert issubclass(NumericalError, NeuroscopeError)
