"""What neurons write and read: by closed forms on every family, by singular values of whole matrices, and planted."""

import families
import numpy as np
import pytest
import torch
from state import changed, snapshot
from tiny import tiny_model
from transformer_lens.model_bridge import TransformerBridge

import neuroscope as ns
from neuroscope.errors import ArgumentError, MaskError, ModelError
from neuroscope.models import tap_experts
from neuroscope.models.sites import edit
from neuroscope.reading.normed_inputs import value_matrix

TEXTS = ["w60 w61 w62 w63 w64 w65", "w70 w71 w72", "w90 w91 w92 w93 w94"]
FINAL = {  # the norm before the head
    **dict.fromkeys(("llama", "qwen2", "qwen3", "mistral", "phi3", "gemma2", "gemma3", *families.MOE), "model.norm"),
    **dict.fromkeys(("gpt2", "bloom"), "transformer.ln_f"),
    "neox": "gpt_neox.final_layer_norm",
    "opt": "model.decoder.final_layer_norm",
    "t5": "decoder.final_layer_norm",
}
BEFORE = {  # the norm before the FFN of layer 1
    **dict.fromkeys(("llama", "qwen2", "qwen3", "mistral", "phi3"), "model.layers.1.post_attention_layernorm"),
    **dict.fromkeys(families.MOE, "model.layers.1.post_attention_layernorm"),
    **dict.fromkeys(("gemma2", "gemma3"), "model.layers.1.pre_feedforward_layernorm"),
    "gpt2": "transformer.h.1.ln_2",
    "bloom": "transformer.h.1.post_attention_layernorm",
    "neox": "gpt_neox.layers.1.post_attention_layernorm",
    "opt": "model.decoder.layers.1.final_layer_norm",
    "t5": "decoder.block.1.layer.2.layer_norm",
    "bert": "bert.encoder.layer.1.attention.output.LayerNorm",
    "distilbert": "distilbert.transformer.layer.1.sa_layer_norm",
}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return families.tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def opened(words):
    cache = {}

    def get(name):
        if name not in cache:
            root = families.build(name)
            if name in families.MOE:
                tap_experts(root)
            cache[name] = ns.load(root, tokenizer=words)
        return cache[name]

    return get


def everything(found, neuron, part):
    """[token] values, of a result that has all tokens."""
    rows = found.table[(found.table["neuron"] == neuron) & (found.table["part"] == part)]
    rows = rows[rows["side"] == "toward"].sort_values("id")
    assert rows["id"].tolist() == list(range(96))
    return torch.tensor(rows["value"].to_numpy())


def rows_of(model):
    """Every text as ids; of an encoder-decoder model beside its decoder's start."""
    for text in TEXTS:
        inputs = {"input_ids": torch.tensor([[int(word[1:]) for word in text.split()]])}
        if model.style == "seq2seq":
            inputs["decoder_input_ids"] = torch.tensor([[0]])
        yield inputs


def inputs_of(model, module):
    """[token, model] what a module is given at all tokens but the first ones (there where it is alone)."""
    seen = []
    handle = module.register_forward_pre_hook(lambda m, args: seen.append(args[0][0].detach()))
    with torch.no_grad():
        for inputs in rows_of(model):
            model.root(**inputs)
    handle.remove()
    return torch.cat([x[1:] if len(x) > 1 else x for x in seen])


def frozen(norm, x, direction):
    """[token, model] what a norm makes of a direction, its scale that of each row of x."""
    is_layer_norm = isinstance(norm, torch.nn.LayerNorm)
    eps = getattr(norm, "eps", getattr(norm, "variance_epsilon", 1e-6))
    centred = x - x.mean(-1, keepdim=True) if is_layer_norm else x
    moved = direction - direction.mean(-1, keepdim=True) if is_layer_norm else direction
    weight = norm.weight + 1 if "Gemma" in type(norm).__name__ else norm.weight
    return weight * moved / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def less_mean(logits):
    return logits - logits.mean()


# --- what is written


@pytest.mark.parametrize("name", [name for name in families.DENSE if name in FINAL])
def test_a_neuron_writes_its_output_direction_through_the_frozen_norms(name, opened):
    """U diag(gamma) (w - mean w) E[1 / scale], of neurons of both layers; Gemma has a norm behind the FFN as well."""
    model = opened(name)
    norm = model.root.get_submodule(FINAL[name])
    stack = "decoder_" if name == "t5" else ""
    x = inputs_of(model, norm)
    for layer in (0, 1):
        site = model.sites()[f"{stack}blocks.{layer}.mlp.hook_post"]
        found = ns.directions(model, {site.address: [5, 7]}, texts=TEXTS, count=96)
        direction = site.out[0].view()[:, 7].detach()
        if name.startswith("gemma"):
            after = model.root.get_submodule(f"model.layers.{layer}.post_feedforward_layernorm")
            direction = frozen(after, inputs_of(model, after), direction)
        read = frozen(norm, x, direction).mean(0)
        read = read * 32**-0.5 if name == "t5" else read
        expected = less_mean(model.root.get_output_embeddings().weight @ read).detach()
        neuron = f"{layer}.7" if name != "t5" else f"{site.address}.7"
        torch.testing.assert_close(everything(found, neuron, "writes").float(), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", families.MOE)
def test_an_experts_neuron_writes_what_the_last_norm_is_given_more_with_it(name, opened):
    """One unit more of activation at the tokens that are routed there, by finite difference: all is straight there."""
    model = opened(name)
    norm = model.root.get_submodule(FINAL[name])
    x = inputs_of(model, norm)
    address = next(a for a in model.sites() if a.startswith("blocks.1.") and routed(model, a))
    site = model.sites()[address]
    with edit([site], lambda s, h, t: h + torch.eye(s.width)[3]):
        more = inputs_of(model, norm) - x
    moved = more[more.abs().amax(1) > 1e-7], x[more.abs().amax(1) > 1e-7]
    read = frozen(norm, moved[1], moved[0]).mean(0)
    expected = less_mean(model.root.get_output_embeddings().weight @ read).detach()
    found = ns.directions(model, {address: [3]}, texts=TEXTS, count=96)
    torch.testing.assert_close(everything(found, f"{address}.3", "writes").float(), expected, atol=1e-4, rtol=1e-3)


def routed(model, address):
    """Whether an expert sees a token that is not the first of its text."""
    seen = []
    with edit([model.sites()[address]], lambda s, h, t: seen.append(t)):
        inputs_of(model, model.root.get_submodule("model.norm"))
    return any(t is None or bool((t > 0).any()) for t in seen)


def test_an_encoder_writes_through_all_norms_behind_it(opened):
    """BERT's last layer: its own norm, then dense, gelu (straight at each token) and a norm before the decoder."""
    model = opened("bert")
    after = model.root.get_submodule("bert.encoder.layer.1.output.LayerNorm")
    head = model.root.cls.predictions
    direction = model.sites()["blocks.1.mlp.hook_post"].out[0].view()[:, 7].detach()
    stream = frozen(after, inputs_of(model, after), direction)
    pre = head.transform.dense(inputs_of(model, head.transform.dense)).detach().requires_grad_()
    (slope,) = torch.autograd.grad(torch.nn.functional.gelu(pre).sum(), pre)
    dense = slope * (stream @ head.transform.dense.weight.T)
    read = frozen(head.transform.LayerNorm, inputs_of(model, head.transform.LayerNorm), dense).mean(0)
    found = ns.directions(model, "1.7", texts=TEXTS, count=96)
    expected = less_mean(head.decoder.weight @ read).detach()
    torch.testing.assert_close(everything(found, "1.7", "writes").float(), expected, atol=1e-4, rtol=1e-3)


def test_an_output_unit_writes_one_coordinate(opened):
    model = opened("llama")
    norm = model.root.model.norm
    read = frozen(norm, inputs_of(model, norm), torch.eye(32)[4]).mean(0)
    found = ns.directions(model, "0.4", unit="output", texts=TEXTS, count=96)
    expected = less_mean(model.root.lm_head.weight @ read).detach()
    torch.testing.assert_close(everything(found, "0.4", "writes").float(), expected, atol=2e-5, rtol=1e-4)
    assert found.reads("0.4").empty


def test_no_straight_way_leads_from_an_encoder_to_a_decoders_head(opened):
    found = ns.directions(opened("t5"), {"encoder_blocks.0.mlp.hook_post": [3]}, texts=TEXTS)
    name = "encoder_blocks.0.mlp.hook_post.3"
    assert found.writes(name).empty and not found.reads(name).empty
    assert f"**A negative**: no straight way leads from {name}" in found.in_words()
    assert not found.figure().data[0].y


# --- what is read


@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_neuron_reads_normed_embeddings(name, opened):
    model = opened(name)
    norm, table = model.root.get_submodule(BEFORE[name]), model.embedding
    x = norm(table(torch.arange(96))).detach()
    stack = "decoder_" if name == "t5" else ""
    sites = [s for s in model.sites().values() if s.layer == 1 and s.address.startswith(f"{stack}blocks")]
    for site in (sites[0], sites[-1]):
        gate = site.ins.get("gate", site.ins.get("in"))[0].view().detach()  # whose orientation test_models shows
        found = ns.directions(model, {site.address: [2, 7]}, texts=TEXTS, count=96)
        (neuron,) = [n for n in found.neurons if n.endswith(".7")]
        part = "gate" if "gate" in site.ins else "input"
        torch.testing.assert_close(everything(found, neuron, part).float(), x @ gate[:, 7], atol=1e-4, rtol=1e-4)
        if part == "gate":
            up = site.ins["up"][0].view().detach()
            torch.testing.assert_close(everything(found, neuron, "up").float(), x @ up[:, 7], atol=1e-4, rtol=1e-4)


# --- heads


def values_by_hand(root, name, head):
    """A head's rows of the value projection [8, model], out of weights of every make."""
    if name in ("llama", "qwen3", "gemma2"):  # two heads share a value head
        attention = root.get_submodule("model.layers.1.self_attn")
        return attention.v_proj.weight.view(-1, 8, 32)[head // 2]
    if name == "phi3":
        return root.model.layers[1].self_attn.qkv_proj.weight[32 + 16 :].view(-1, 8, 32)[head // 2]
    if name == "gpt2":
        return root.transformer.h[1].attn.c_attn.weight.T[64:].view(-1, 8, 32)[head]
    if name == "bert":
        return root.bert.encoder.layer[1].attention.self.value.weight.view(-1, 8, 32)[head]
    block = {"neox": "gpt_neox.layers.1.attention", "bloom": "transformer.h.1.self_attention"}[name]
    return root.get_submodule(block).query_key_value.weight.view(4, 3, 8, 32)[head, 2]


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "phi3", "gpt2", "bert", "neox", "bloom"])
def test_the_value_matrix_of_a_head(name, opened):
    model = opened(name)
    site = model.sites("head")["blocks.1.attn.hook_z"]
    found, _ = value_matrix(model, site, site.coordinates(torch.tensor([3])))
    torch.testing.assert_close(found, values_by_hand(model.root, name, 3).detach(), atol=1e-5, rtol=1e-5)


def test_a_head_reads_and_writes_along_the_first_direction_of_its_value_output_map(opened):
    """The singular vectors of W_O W_V, as a whole matrix; together they copy the first singular value."""
    model = opened("gpt2")
    root = model.root
    out = root.transformer.h[1].attn.c_proj.weight[24:32].detach()  # Conv1D: [coordinate, model]
    whole = out.T @ values_by_hand(root, "gpt2", 3).detach()
    u, s, v = torch.linalg.svd(whole)
    x = root.transformer.h[1].ln_1(root.transformer.wte.weight).detach()
    norm = root.transformer.ln_f
    reads = x @ v[0]
    sign = 1.0 if reads.max() >= -reads.min() else -1.0
    found = ns.directions(model, "1.3", unit="head", texts=TEXTS, count=96)
    torch.testing.assert_close(everything(found, "1.3", "value").float(), sign * reads, atol=1e-4, rtol=1e-4)
    read = frozen(norm, inputs_of(model, norm), sign * s[0] * u[:, 0]).mean(0)
    expected = less_mean(root.lm_head.weight @ read).detach()
    torch.testing.assert_close(everything(found, "1.3", "writes").float(), expected, atol=1e-4, rtol=1e-3)


# --- nearest neurons


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3", "mixtral"])
def test_nearest_neurons_are_those_of_the_greatest_cosine(name, opened):
    model = opened(name)
    sites = model.sites()
    address = list(sites)[-1]
    found = ns.directions(model, {address: [7]}, texts=TEXTS, count=5)
    whole = {"output": [], "parameters": []}
    names = []
    for a, site in sites.items():
        pieces = [r.view().detach() for role in sorted(site.ins) for r in site.ins[role]]
        pieces = [p[None] if p.ndim == 1 else p for p in pieces]
        out = site.out[0].view().detach()
        whole["output"].append(out.T)
        whole["parameters"].append(torch.cat([*pieces, out]).T)
        short = a.split(".")[1] if name != "mixtral" else a
        names += [f"{short}.{j}" for j in range(site.width)]
    me = len(names) - sites[address].width + 7
    for by, parts in whole.items():
        rows = torch.nn.functional.normalize(torch.cat(parts), dim=1)
        cosines = rows @ rows[me]
        cosines[me] = -2
        best = cosines.argsort(descending=True)[:5]
        near = found.nearest(names[me])
        near = near[near["by"] == by]
        assert near["name"].tolist() == [names[i] for i in best]
        np.testing.assert_allclose(near["value"], cosines[best], atol=1e-5)


def test_nearest_heads(opened):
    model = opened("llama")
    found = ns.directions(model, "0.1", unit="head", texts=TEXTS, count=3).nearest("0.1")
    rows = torch.cat([s.out[0].view().detach().T.reshape(4, -1) for s in model.sites("head").values()])
    cosines = torch.nn.functional.normalize(rows, dim=1) @ torch.nn.functional.normalize(rows[1], dim=0)
    cosines[1] = -2
    best = cosines.argsort(descending=True)[:3].tolist()
    assert found[found["by"] == "output"]["name"].tolist() == [f"{i // 4}.{i % 4}" for i in best]


# --- the result, and what is refused


def test_the_table_has_both_ends_in_order_and_survives_a_file(opened, tmp_path):
    model = opened("llama")
    before = snapshot(model.root)
    found = ns.directions(model, ["1.3", "0.2"], texts=TEXTS, count=4)
    assert changed(before, snapshot(model.root)) == []
    assert found.neurons == ["0.2", "1.3"] and list(dict.fromkeys(found.table["neuron"])) == ["0.2", "1.3"]
    for side, falling in (("toward", True), ("away", False)):
        rows = found.writes("1.3")
        values = rows[rows["side"] == side]["value"]
        assert len(values) == 4 and (values.is_monotonic_decreasing if falling else values.is_monotonic_increasing)
    again = ns.load_result(found.save(tmp_path / "directions.json"))
    assert again.table.equals(found.table) and again.manifest == found.manifest
    assert again.nearest("1.3").equals(found.nearest("1.3")) and len(found.nearest("1.3")) == 8
    first = found.writes("0.2").query("side == 'toward'")["name"].iloc[0]
    assert f"**0.2** writes toward `{first}`" in found.in_words()
    bars = found.figure().data[0]
    assert sorted(bars.y, reverse=True) == list(bars.y) and len(bars.y) == 8


def test_a_neuron_that_writes_a_planted_word(opened):
    """Its output weights are one token's unembedding: no token is more written than that."""
    model = tiny_model()
    site = model.sites()["blocks.0.mlp.hook_post"]
    token = model.tokenizer.convert_tokens_to_ids("soup")
    with torch.no_grad():
        unembedding, gamma = model.root.lm_head.weight, model.root.model.norm.weight
        site.out[0].view()[:, 9] = unembedding[token] / gamma
        unembedding[token] *= 2
    found = ns.directions(model, "0.9", texts=["the food was good"])
    assert found.writes("0.9")["name"].iloc[0] == "soup"


@pytest.mark.parametrize(
    ("mask", "kind", "text"),
    [
        ("7.3", MaskError, "blocks.1.mlp.hook_post"),
        ("1.900", MaskError, "neuron 900; the site has 48"),
        ([], ArgumentError, "mask"),
    ],
)
def test_neurons_that_are_not_there(mask, kind, text, opened):
    with pytest.raises(kind, match=text):
        ns.directions(opened("llama"), mask, texts=TEXTS)


def test_what_is_out_of_reach_is_refused(opened, words):
    bridge = TransformerBridge.boot_transformers(
        "tiny", hf_model=families.build("llama"), tokenizer=words, device="cpu"
    )
    with pytest.raises(ModelError, match="TransformerBridge"):
        ns.directions(bridge, "0.1", texts=TEXTS)
    model = ns.load(families.build("llama"), tokenizer=words)
    adapter = ns.NeuronAdapter(model, ns.NeuronMask.of("0.1", model))
    with pytest.raises(ModelError, match="a NeuronAdapter at"):
        ns.directions(model, "0.1", texts=TEXTS)
    adapter.detach()
    with pytest.raises(ArgumentError, match="did you mean '1.3'"):
        ns.directions(model, "1.3", texts=TEXTS).writes("1.33")
    with pytest.raises(ModelError, match="give texts="):
        ns.directions(model, "1.3")
    with pytest.raises(ArgumentError, match="no text"):
        ns.directions(model, "1.3", texts=[])


def test_progress_follows_both_ways_through_the_layers(opened):
    model, steps = opened("llama"), []

    def progress(items, desc):
        steps.append((desc, len(items)))
        return items

    ns.directions(model, "0.1", texts=TEXTS, progress=progress)
    assert steps == [("directions", 1), ("directions", len(model.sites("hidden")))]  # its own, then all for the nearest
