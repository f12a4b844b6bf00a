"""Every family of models, opened in every way, is the same to its user; and opening leaves no trace."""

import contextlib
import copy
import random
import re
import types

import families
import nnsight
import numpy as np
import peft
import pytest
import torch
import transformers
from families import DENSE, FAMILIES, MOE, ablated, build, inputs, logprobs, thirds
from nnsight.modeling.transformers import TransformersModel
from packed import Int8Linear, quantise
from torch import nn
from transformer_lens.model_bridge import TransformerBridge

from neuroscope.errors import ArgumentError, ModelError, NeuroscopeError, NumericalError
from neuroscope.models import UNITS, bundled, load, require_parameters, resolve, tap_experts, untap_experts
from neuroscope.models.experts import NAME as TAPPED
from neuroscope.models.sites import edit

CLOSE = 1e-5
PLAIN_FFN = ["gpt2", "bloom", "neox", "opt", "bert", "distilbert"]  # one input projection; the others are gated
# where TransformerLens' compatibility mode folds value biases or centres what is written to the residual stream, an
# output unit or a head of its model is not one of the original's
CENTRED = ["gpt2", "bloom", "neox", "opt", "bert"]
SHIFTED_VALUES = [*CENTRED, "qwen2"]
UNKNOWN_TO_LENS = {"distilbert"}


def tapped(name):
    root = build(name)
    return tap_experts(root) if name in MOE else root


@pytest.fixture(scope="session")
def opened():
    """The family's model opened from Hugging Face; one of each for all tests, which leave it as it is."""
    cache = {}
    return lambda name: cache.setdefault(name, None) or cache.update({name: resolve(tapped(name))}) or cache[name]


@pytest.fixture(scope="session")
def words(tmp_path_factory):
    return families.tokenizer(tmp_path_factory.mktemp("tokenizer"))


def boot(root, words):
    return TransformerBridge.boot_transformers("tiny", hf_model=root, tokenizer=words, device="cpu")


def compatible(root, words):
    bridge = boot(root, words)
    bridge.enable_compatibility_mode(disable_warnings=True)
    return bridge


LORA = {  # on the projections around the neurons
    "llama": ["gate_proj", "up_proj", "down_proj", "o_proj"],
    "gpt2": ["c_fc", "c_proj"],
    "phi3": ["gate_up_proj", "down_proj", "o_proj"],
    "opt": ["fc1", "fc2", "out_proj"],
    "t5": ["wi_0", "wi_1", "wo", "o"],
    "bert": ["dense"],
    "mixtral": ["q_proj", "o_proj"],
}


def lora(root, name, scale=0.0):
    """PEFT's LoRA; with `scale`, adapters that change the model."""
    config = peft.LoraConfig(r=4, target_modules=LORA[name], fan_in_fan_out=name == "gpt2", lora_dropout=0.1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        wrapped = peft.get_peft_model(root, config)
        for key, parameter in wrapped.named_parameters():
            if scale and "lora_B" in key:
                nn.init.normal_(parameter, std=scale)
    return wrapped.eval()


BACKENDS = {
    "nnsight": lambda root, words, name: nnsight.NNsight(root),
    "bridge": lambda root, words, name: boot(root, words),
    "bridge-compatible": lambda root, words, name: compatible(root, words),
    "peft": lambda root, words, name: lora(root, name),
    "peft-nnsight": lambda root, words, name: nnsight.NNsight(lora(root, name)),
    "nnsight-language": lambda root, words, name: language_model(root, words),
}
BACKEND_NAME = {"bridge": "transformer_bridge", "bridge-compatible": "transformer_bridge", "peft": "hugging_face"}


def language_model(root, words):
    return TransformersModel(root, task="text-generation", tokenizer=words)


def combinations():
    for name in FAMILIES:
        for backend in BACKENDS:
            lensed = backend.startswith("bridge")
            if (
                (backend == "bridge-compatible" and name in MOE)
                or (backend == "peft" and name not in LORA)
                or (backend == "peft-nnsight" and name not in ("llama", "gpt2"))
                or (backend == "nnsight-language" and name not in ("llama", "gpt2", "phi3"))
            ):
                continue
            unknown = pytest.mark.skip(reason=f"TransformerLens does not know {name}")
            yield pytest.param(name, backend, marks=[unknown] if lensed and name in UNKNOWN_TO_LENS else [])


@pytest.mark.parametrize(("name", "backend"), combinations())
def test_every_way_to_open_a_model_is_the_same(name, backend, opened, words):
    reference = opened(name)
    other = resolve(BACKENDS[backend](copy.deepcopy(reference.root), words, name))
    assert other.backend == BACKEND_NAME.get(backend, "nnsight") and other.style == reference.style
    assert other.has_parameters == (not backend.startswith("bridge"))
    close = 2 * CLOSE if backend.startswith("bridge") else CLOSE  # the oldest transformer-lens that is allowed: 1.3e-5
    for unit in UNITS:
        mine, theirs = reference.sites(unit), other.sites(unit)
        assert list(mine) == list(theirs)
        for site, twin in zip(mine.values(), theirs.values(), strict=True):
            assert (site.width, site.group, site.layer, site.unit) == (twin.width, twin.group, twin.layer, twin.unit)
            assert (site.path, site.expert) == (twin.path, twin.expert)
        differs = SHIFTED_VALUES if unit == "head" else CENTRED if unit == "output" else []
        if backend == "bridge-compatible" and name in differs:
            continue
        chosen = thirds(mine)
        expected = ablated(reference, unit, chosen)
        assert (expected - logprobs(reference)).abs().max() > 0.05  # else the comparison says nothing
        assert (ablated(other, unit, chosen) - expected).abs().max() < close


@pytest.mark.parametrize("name", FAMILIES)
def test_sites_are_where_they_say(name, opened):
    model = opened(name)
    blocks = 4 if name == "t5" else 2
    for unit in UNITS:
        sites = model.sites(unit)
        assert len(sites) >= blocks and len({s.path for s in sites.values()}) == len(sites)
        assert [s.address for s in sites.values()] == list(sites)
        stacks = [a.split(".")[0] for a in sites]
        assert stacks == sorted(stacks, key=["encoder_blocks", "blocks", "decoder_blocks"].index)
        for stack in set(stacks):
            layers = [s.layer for s, t in zip(sites.values(), stacks, strict=True) if t == stack]
            assert layers == sorted(layers) and set(layers) == {0, 1}
        for site in sites.values():
            assert model.root.get_submodule(site.path) is site.module
            seen = []
            with edit([site], lambda s, h, tokens: seen.append(h.shape[-1])):
                logprobs(model)
            unreached = site.expert is not None and not seen  # no token of the input is routed to it
            assert unreached or set(seen) == {site.width * site.group}
    assert all(s.group == 8 and s.width == 4 for s in model.sites("head").values())
    assert all(s.width == 32 for s in model.sites("output").values())


# --- activations and parameters


def names_of(model):
    return {id(p): n for n, p in model.root.named_parameters()}


def zero(model, rows, neurons):
    """Zero the neurons' entries of these rows, in place."""
    with torch.no_grad():
        for r in rows:
            assert id(r.param) in names_of(model)
            r.view()[..., neurons] = 0.0


def sites_to_zero():
    for name in FAMILIES:
        for unit in UNITS:
            yield name, unit, None
    for name in LORA:
        if name != "mixtral":
            yield name, "hidden", 0.2
            yield name, "output", 0.2


@pytest.mark.parametrize(("name", "unit", "adapters"), sites_to_zero())
def test_zero_activations_are_zero_parameters(name, unit, adapters, opened):
    """LX24 §4.1 uses either: at the output projection's rows they are one thing."""
    root = copy.deepcopy(opened(name).root)
    model = resolve(lora(root, name, adapters) if adapters else root)
    sites = model.sites(unit)
    if unit == "output" and name in MOE:
        assert all(s.out == () for s in sites.values())  # a mixture's output belongs to all its experts
        return
    chosen = thirds(sites)
    if unit == "output":
        # an output unit is what the projection writes: with LoRA, also the adapter's second factor
        chosen = dict(list(chosen.items())[:1])
    expected = ablated(model, unit, chosen)
    assert (expected - logprobs(model)).abs().max() > 0.01
    for address, neurons in chosen.items():
        assert sites[address].out
        zero(model, sites[address].out, sites[address].coordinates(neurons))
    assert (logprobs(model) - expected).abs().max() < CLOSE


@pytest.mark.parametrize(
    ("name", "adapters"), [*((n, None) for n in FAMILIES), *((n, 0.2) for n in LORA if n != "mixtral")]
)
def test_input_rows_feed_their_own_neuron(name, adapters, opened):
    """Zeroing a neuron's own input rows silences it and nothing else: orientation, chunk and bias are right."""
    root = copy.deepcopy(opened(name).root)
    model = resolve(lora(root, name, adapters) if adapters else root)
    for address, site in model.sites("hidden").items():
        roles = {r.removesuffix(".bias") for r in site.ins}
        assert roles == ({"in"} if name in PLAIN_FFN else {"gate", "up"}), address
        neurons = thirds({address: site})[address]
        silent = "in" if name in PLAIN_FFN else "gate"  # every act(0) here is 0
        before, after = [], []
        with edit([site], lambda s, h, t: before.append(h.clone())):
            logprobs(model)
        kept = {r: [rows.param.detach().clone() for rows in site.ins[r]] for r in site.ins}
        zero(model, [rows for role in (silent, f"{silent}.bias") for rows in site.ins.get(role, ())], neurons)
        with edit([site], lambda s, h, t: after.append(h.clone())):
            logprobs(model)
        if not before:
            continue  # an expert that no token of the input is routed to
        others = torch.ones(site.width, dtype=torch.bool).index_fill(0, neurons, False)
        awake = before[0][..., neurons].abs().amax(tuple(range(before[0].ndim - 1))) > 1e-4
        assert awake.float().mean() > 0.9  # a neuron behind a relu may sleep
        assert (after[0][..., neurons] == 0).all()
        assert torch.equal(after[0][..., others], before[0][..., others])
        with torch.no_grad():
            for role, originals in kept.items():
                for rows, original in zip(site.ins[role], originals, strict=True):
                    rows.param.copy_(original)


@pytest.mark.parametrize("name", [n for n in DENSE if n not in PLAIN_FFN])
def test_zero_up_rows_silence_a_gated_neuron_and_the_gate_is_the_nonlinear_one(name, opened):
    model = resolve(copy.deepcopy(opened(name).root))
    site = next(iter(model.sites("hidden").values()))
    zero(model, site.ins["up"], torch.tensor([3]))
    (gate,), seen = site.ins["gate"], {}
    with edit([site], lambda s, h, t: seen.update(before=h.clone())):
        logprobs(model)
    zero(model, site.ins["up"], torch.arange(site.width))
    with torch.no_grad():  # doubling a linear factor doubles the neuron; the gate is not linear
        up = site.ins["up"][0].view()
        up += torch.randn(up.shape, generator=torch.Generator().manual_seed(0))
    runs = {}
    for label, rows, factor in (("one", gate, 1.0), ("up", site.ins["up"][0], 2.0), ("gate", gate, 2.0)):
        with torch.no_grad():
            rows.view().mul_(factor)
        with edit([site], lambda s, h, t, label=label: runs.update({label: h.clone()})):
            logprobs(model)
        with torch.no_grad():
            rows.view().div_(factor)
    assert (seen["before"][..., 3] == 0).all()
    assert torch.allclose(runs["up"], 2 * runs["one"], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(runs["gate"], 2 * runs["one"], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", DENSE)
def test_the_gate_site_is_the_input_of_the_nonlinearity(name, opened):
    """act(gate) * up, recomputed from the gate site and the up rows' own site, is the neuron."""
    model = opened(name)
    for site in model.sites("hidden").values():
        assert site.gate is not None and site.gate.width == site.width
        start, seen = site.gate.out[0].start, {}
        with (
            edit([site.gate], lambda s, h, t, start=start: seen.update(pre=h[..., start : start + s.width].clone())),
            edit([site], lambda s, h, t: seen.update(post=h.clone())),
        ):
            logprobs(model)
        pre, post = seen["pre"], seen["post"].view_as(seen["pre"])
        if name == "opt":  # relu
            assert torch.equal(post, pre.relu())
        elif name in PLAIN_FFN:
            exact = nn.functional.gelu(pre, approximate="tanh" if name in ("gpt2", "bloom") else "none")
            assert torch.allclose(post, exact, atol=1e-5)
        else:
            gelu = name in ("gemma2", "gemma3", "t5")
            act = nn.functional.gelu(pre, approximate="tanh") if gelu else nn.functional.silu(pre)
            up = post / act
            assert torch.isfinite(up).all() and act.abs().min() > 0
            shut = torch.zeros_like(pre)
            with (
                edit([site.gate], lambda s, h, t: h.index_fill(-1, torch.arange(start, start + s.width), 0.0)),
                edit([site], lambda s, h, t: seen.update(post=h.clone())),
            ):
                logprobs(model)
            assert torch.equal(seen["post"], shut.view_as(seen["post"]))  # the gate shut, every neuron is silent


@pytest.mark.parametrize("name", DENSE)
def test_a_head_is_its_own_slice_of_the_output_projection(name, opened):
    """Head 2 is coordinates 16 to 23, on the activations and in the projection's columns alike."""
    model = resolve(copy.deepcopy(opened(name).root))
    address, site = list(model.sites("head").items())[-1]
    assert site.coordinates(torch.tensor([0, 2])).tolist() == [*range(8), *range(16, 24)]
    assert site.per_unit(torch.arange(32.0)).tolist() == [sum(range(8 * i, 8 * i + 8)) for i in range(4)]
    expected = ablated(model, "head", {address: torch.tensor([2])})
    assert (expected - logprobs(model)).abs().max() > 1e-3
    weight = site.module.weight
    with torch.no_grad():
        (weight if hasattr(site.module, "nf") else weight.T)[16:24] = 0.0
    assert (logprobs(model) - expected).abs().max() < CLOSE


def test_rows_of_a_gradient_are_those_of_the_parameter(opened):
    model = resolve(copy.deepcopy(opened("phi3").root))
    site = model.sites("hidden")["blocks.1.mlp.hook_post"]
    model.logits(inputs("causal"))[0, -1, 5].backward()
    for rows in (*site.out, *(r for rs in site.ins.values() for r in rs)):
        gradient = rows.view(rows.param.grad)
        assert gradient.shape == rows.view().shape and gradient.shape[-1] == 48 and gradient.abs().sum() > 0
    fused = site.ins["gate"][0].param
    assert fused is site.ins["up"][0].param and fused.shape == (96, 32)
    assert torch.equal(site.ins["gate"][0].view(), fused[:48].T) and torch.equal(site.ins["up"][0].view(), fused[48:].T)


# --- mixtures of experts


@pytest.mark.parametrize("name", MOE)
def test_tapping_changes_nothing_and_can_be_undone(name):
    root = build(name)
    before = root(**inputs("causal")).logits
    modules, state = [n for n, _ in root.named_modules()], {k: v.clone() for k, v in root.state_dict().items()}
    attributes = {n: set(vars(m)) for n, m in root.named_modules()}
    chosen, configured = root.config._experts_implementation, root.config.to_dict()
    with pytest.raises(ModelError, match=r"tap_experts"):
        resolve(root).sites("hidden")
    assert resolve(root).sites("head") and "not tapped" in repr(resolve(root))
    for _ in range(2):  # twice is once
        assert tap_experts(root) is root
    assert (root(**inputs("causal")).logits - before).abs().max() < CLOSE
    assert len([a for a in resolve(root).sites("hidden") if ".experts." in a]) == 8
    assert list(root.state_dict()) == list(state)  # taps hold nothing
    for _ in range(2):
        assert untap_experts(root) is root
    assert root.config._experts_implementation == chosen != TAPPED and root.config.to_dict() == configured
    assert [n for n, _ in root.named_modules()] == modules
    assert {n: set(vars(m)) for n, m in root.named_modules()} == attributes
    assert all(torch.equal(v, state[k]) for k, v in root.state_dict().items())
    assert torch.equal(root(**inputs("causal")).logits, before)
    with pytest.raises(ModelError, match=r"tap_experts"):
        resolve(root).sites("hidden")


def test_experts_can_be_tapped_through_every_wrapper(words):
    root = build("mixtral")
    for wrap in (lambda r: r, resolve, nnsight.NNsight, lambda r: lora(r, "mixtral")):
        wrapped = wrap(copy.deepcopy(root))
        tap_experts(wrapped)
        assert len(resolve(wrapped if not hasattr(wrapped, "units") else wrapped.root).sites("hidden")) == 8
    bridge = boot(copy.deepcopy(root), words)
    with pytest.raises(ModelError, match="tap_experts"):
        resolve(bridge).sites("hidden")
    assert len(resolve(tap_experts(bridge)).sites("hidden")) == 8


@pytest.mark.parametrize("name", MOE)
def test_expert_tokens_are_the_ones_routed_to_it(name, opened):
    """An expert's vector, recomputed from the rows of its input that the token indices name."""
    model = opened(name)
    routed = {}
    for path, block in model.root.named_modules():
        if path.endswith(".experts") and "down_proj" in block._parameters:
            layer = int(path.split(".")[2])
            keep = lambda m, args, layer=layer: routed.update({layer: (args[0].clone(), args[1].clone(), m)})  # noqa: E731
            routed[f"hook{layer}"] = block.register_forward_pre_hook(keep)
    seen = {}
    sites = [s for s in model.sites("hidden").values() if s.expert is not None]
    try:
        with edit(sites, lambda s, h, t: seen.update({(s.layer, s.expert): (s, h.clone(), t.clone())})):
            logprobs(model)
    finally:
        for layer in (0, 1):
            routed.pop(f"hook{layer}").remove()
    for layer, (x, picked, experts) in routed.items():
        assert picked.shape == (18, 2)
        for expert in range(4):
            tokens = (picked == expert).any(1).nonzero().flatten()
            assert ((layer, expert) in seen) == bool(len(tokens))
            if len(tokens):
                site, h, given = seen[layer, expert]
                assert sorted(given.tolist()) == tokens.tolist() and h.shape == (len(tokens), site.width)
                views = {role: rows[0].view() for role, rows in site.ins.items()}
                gate = x[given] @ views["gate"] + views.get("gate.bias", 0.0)
                up = x[given] @ views["up"] + views.get("up.bias", 0.0)
                if name == "gpt-oss":
                    gate, up = gate.clamp(max=7.0), up.clamp(-7.0, 7.0)
                    expected = (up + 1) * gate * torch.sigmoid(1.702 * gate)
                else:
                    expected = experts.act_fn(gate) * up
                assert torch.allclose(h, expected, atol=1e-5)


def test_a_tapped_model_saved_to_disk_needs_no_neuroscope(tmp_path):
    tap_experts(build("mixtral")).save_pretrained(tmp_path)
    assert TAPPED not in (tmp_path / "config.json").read_text()


# --- refusals


def refusals():
    class TwoLinears(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 4)])

    small = families.SIZES
    compiled_layer = build("llama")
    compiled_layer.model.layers[1] = torch.compile(compiled_layer.model.layers[1])
    compiled_in_place = build("llama")
    compiled_in_place.compile()
    t5 = transformers.T5Config(vocab_size=96, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, num_labels=2)
    bart = transformers.BartConfig(
        vocab_size=96, d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=48, decoder_ffn_dim=48,
        encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=64,
    )  # fmt: skip
    return {
        "compiled": (torch.compile(build("llama")), "torch.compile"),
        "compiled in place": (compiled_in_place, "torch.compile"),
        "with a compiled layer": (compiled_layer, "torch.compile"),
        "compiled under nnsight": (nnsight.NNsight(torch.compile(build("llama"))), "torch.compile"),
        "plain layer": (nn.Linear(4, 4), "no torch.nn.Embedding"),
        "plain module": (TwoLinears(), "no torch.nn.Embedding"),
        "classifier": (
            transformers.BertForSequenceClassification(transformers.BertConfig(**small)),
            "no language-model",
        ),
        "causal classifier": (
            transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**small, pad_token_id=0)),
            "no language-model",
        ),
        "seq2seq classifier": (transformers.T5ForSequenceClassification(t5), "no language-model"),
        "bart classifier": (transformers.BartForSequenceClassification(bart), "no language-model"),
        "without a head": (transformers.LlamaModel(transformers.LlamaConfig(**small)), "no language-model"),
        "seq2seq without a head": (transformers.T5Model(t5), "no language-model"),
        "number": (3, "not a model"),
        "nothing": (None, "not a model"),
        "class": (transformers.LlamaForCausalLM, "LlamaForCausalLM.from_pretrained"),
    }


def test_what_cannot_be_opened_is_refused_with_the_way_out():
    for kind, (model, text) in refusals().items():
        with pytest.raises(ModelError, match=text) as caught:
            resolve(model)
        assert caught.value.do, kind


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value):
    root = build("llama")
    root.model.layers[1].mlp.up_proj.weight.data[3, 4] = value
    with pytest.raises(NumericalError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        resolve(root)
    root = build("llama")
    root.model.layers[0].self_attn.q_proj.weight.data[0, 0] = value  # attention swallows it: the logits stay finite
    with pytest.raises(NumericalError, match=r"model\.layers\.0\.self_attn\.q_proj\.weight"):
        resolve(root)
    root = build("llama")
    root.lm_head.weight.data.fill_(1e38)
    with pytest.raises(NumericalError, match="finite weights, but non-finite logits"):
        resolve(root)


def test_names_that_do_not_exist_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    for name in (tmp_path / "none", str(tmp_path / "empty"), tmp_path / "broken", "", "."):
        with pytest.raises(ModelError, match="'mini', a Hub id|give the folder that holds config.json"):
            load(name)
    with pytest.raises(ArgumentError, match="did you mean 'dtype'"):
        load("mini", dtpye="float32")


def test_a_bridge_is_refused_where_parameters_are_needed(words, opened):
    bridge = resolve(boot(build("llama"), words))
    with pytest.raises(ModelError, match="compare parameters"):
        require_parameters(bridge, "compare parameters")
    assert require_parameters(opened("llama"), "compare parameters") is None
    assert all(s.out == () and s.ins == {} for unit in UNITS for s in bridge.sites(unit).values())


def test_unknown_units_are_refused(opened):
    with pytest.raises(ArgumentError, match="hidden"):
        opened("llama").sites("heads")


class SeparateExperts(nn.Module):
    """A mixture as custom code writes it: a module per expert, run on the tokens routed to it."""

    def __init__(self):
        super().__init__()
        self.config = types.SimpleNamespace(is_encoder_decoder=False, model_type="own", num_attention_heads=4)
        self.embed, self.head = nn.Embedding(96, 16), nn.Linear(16, 96)
        expert = lambda: nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))  # noqa: E731
        self.layers = nn.ModuleList(nn.ModuleDict({"experts": nn.ModuleList([expert(), expert()])}) for _ in range(2))

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        for layer in self.layers:
            even = (input_ids % 2 == 0)[..., None]
            first, second = layer["experts"]
            x = x + torch.where(even, first(x), second(x))
        return types.SimpleNamespace(logits=self.head(x))


SeparateExperts.__name__ = "OwnMixtureForCausalLM"


def test_experts_as_modules_of_their_own_are_refused():
    with pytest.raises(ModelError, match=r"stacked experts") as caught:
        resolve(SeparateExperts()).sites("hidden")
    assert "layers.0.experts.0.2" in str(caught.value)


@pytest.mark.parametrize("name", ["llama", "opt", "neox", "t5", "bert", "phi3", "qwen2"])
@pytest.mark.parametrize("part", ["", "1.", "mlp", "fc", "down_proj"])
def test_quantised_layers_are_found_by_name(name, part, opened):
    """Whole models, single layers, and single projections: the same neurons as in the unquantised model."""
    reference, model = opened(name), resolve(quantise(copy.deepcopy(opened(name).root), part))
    quantised = {p for p, m in model.root.named_modules() if isinstance(m, Int8Linear)}
    for unit in ("hidden", "output"):
        mine, theirs = reference.sites(unit), model.sites(unit)
        assert [(a, s.width, s.path) for a, s in mine.items()] == [(a, s.width, s.path) for a, s in theirs.items()]
        for site in theirs.values():
            if site.path in quantised:
                assert site.out == ()  # its parameters are not the neurons' weights
            else:
                assert site.out
            chosen = thirds({site.address: site})
            assert (ablated(model, unit, chosen) - logprobs(model)).abs().max() > 1e-4


class OddNames(nn.Module):
    """A gated FFN whose layers have names that nobody knows."""

    def __init__(self, mlp):
        super().__init__()
        self.a, self.b, self.c, self.act = mlp.gate_proj, mlp.up_proj, mlp.down_proj, mlp.act_fn

    def forward(self, x):
        return self.c(self.act(self.a(x)) * self.b(x))


@pytest.mark.parametrize("part", ["", "mlp.a", "mlp.b", "mlp.c", "self_attn"])
def test_quantised_layers_of_any_name_are_found(part):
    root = build("llama")
    for layer in root.model.layers:
        layer.mlp = OddNames(layer.mlp)
    reference, model = resolve(root), resolve(quantise(copy.deepcopy(root), part))
    for unit in UNITS:
        plain, packed = reference.sites(unit), model.sites(unit)
        assert [(a, s.width, s.path) for a, s in plain.items()] == [(a, s.width, s.path) for a, s in packed.items()]
    for site in model.sites().values():
        assert site.gate.path.endswith("mlp.a") and site.path.endswith("mlp.c")
        assert bool(site.out) == bool(site.ins) == (part == "self_attn")  # all of a neuron's weights, or none


# --- opening leaves no trace


def state_of(root):
    """All that opening could leave behind."""
    return {
        "hooks": {n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in root.named_modules()},
        "training": {n: m.training for n, m in root.named_modules()},
        "requires_grad": {n: p.requires_grad for n, p in root.named_parameters()},
        "grad": {n: None if p.grad is None else p.grad.clone() for n, p in root.named_parameters()},
        "values": {n: v.clone() for n, v in root.state_dict().items()},
        "torch": torch.get_rng_state(),
        "others": (random.getstate(), np.random.get_state()[1].tobytes(), torch.is_grad_enabled()),
        "config": str(root.config),
    }


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return torch.equal(a, b) if torch.is_tensor(a) else a == b


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "bert", "mixtral"])
@pytest.mark.parametrize("damage", [None, "nan", "error"])
def test_opening_leaves_no_trace(name, damage):
    root = lora(tapped(name), name)  # most parameters frozen, some not
    root.train()
    root.get_base_model().get_input_embeddings().eval()  # modes as mixed as a user may have them
    logits = root(**inputs("seq2seq" if name == "t5" else "causal")).logits
    logits[0, -1].sum().backward()
    if damage == "nan":
        damaged = [p for n, p in root.named_parameters() if re.search(r"down_proj|mlp\.c_proj|wo\.|output\.dense", n)]
        damaged[0].data.view(-1)[0] = float("nan")
    before = state_of(root)
    assert any(g is not None for g in before["grad"].values())
    assert set(before["requires_grad"].values()) == {True, False}

    def fail(*args):
        raise RuntimeError("from the model")

    base = root.get_base_model()
    if damage == "error":  # on the second forward, in the midst of discovery
        calls = []
        original = base.forward
        base.forward = lambda *args, **kwargs: fail() if len(calls) else calls.append(1) or original(*args, **kwargs)
    with contextlib.nullcontext() if damage is None else pytest.raises((NumericalError, ModelError)):
        resolve(root)
    if damage == "error":
        del base.forward
    after = state_of(root)
    if damage == "nan":
        assert torch.isnan(next(v for v in before["values"].values() if v.isnan().any())).sum() == 1
        before["values"] = {k: v.nan_to_num() for k, v in before["values"].items()}
        after["values"] = {k: v.nan_to_num() for k, v in after["values"].items()}
    for part in before:
        assert same(before[part], after[part]), part


def test_opening_a_bridge_leaves_no_hooks(words):
    for make in (boot, compatible):
        bridge = make(build("llama"), words)
        bridge(inputs("causal")["input_ids"])  # TransformerLens hooks its norms at the first forward
        before = state_of(bridge.original_model)
        resolve(bridge)
        for module in bridge.hook_dict.values():
            assert not module._forward_hooks and not module._forward_pre_hooks and not module.fwd_hooks
        after = state_of(bridge.original_model)
        for part in before:
            assert same(before[part], after[part]), part


def test_models_open_where_gradients_are_off(opened):
    for off in (torch.no_grad, torch.inference_mode):
        root = build("llama")
        with off():
            model = resolve(root)
        assert list(model.sites("hidden")) == list(opened("llama").sites("hidden"))
        assert model.sites("hidden")["blocks.0.mlp.hook_post"].ins


def test_quiet_restores_modes_and_gradients_after_an_error():
    model = resolve(lora(build("llama"), "llama").train())
    before = state_of(model.root)
    with pytest.raises(KeyError), model.quiet():
        assert not any(m.training for m in model.root.modules())
        assert not any(p.requires_grad for p in model.root.parameters())
        raise KeyError
    after = state_of(model.root)
    assert all(same(before[part], after[part]) for part in before)


def test_what_is_resolved_is_itself(opened):
    model = opened("llama")
    assert resolve(model) is model and load(model) is model
    wrapped = nnsight.NNsight(model.root)
    assert resolve(wrapped).original is wrapped and resolve(wrapped).root is model.root
    assert model.original is model.root


# --- edit


def test_edits_nest_in_order_and_are_gone_after_errors(opened):
    model = opened("llama")
    sites = model.sites("hidden")
    plain, last = logprobs(model), []
    watch = lambda s, h, t: last.append(h.clone())  # noqa: E731
    with edit(sites.values(), lambda s, h, t: h * 0 + 3.0):
        with edit(sites.values(), lambda s, h, t: h - 1.0), edit(sites.values(), watch):
            logprobs(model)
        assert (torch.stack(last) == 2.0).all()  # (3) - 1, not (h - 1) -> 3
        last.clear()
        with edit(sites.values(), watch):
            logprobs(model)
        assert (torch.stack(last) == 3.0).all()
    assert torch.equal(logprobs(model), plain)

    def broken(site, h, tokens):
        raise KeyError(site.address)

    with pytest.raises(KeyError), edit(sites.values(), broken):
        logprobs(model)

    def sites_that_end_early():
        yield next(iter(sites.values()))
        raise KeyError

    with pytest.raises(KeyError), edit(sites_that_end_early(), lambda s, h, t: h * 0):
        pass
    assert torch.equal(logprobs(model), plain)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.root.modules())


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "mixtral"])
def test_edits_are_live_at_every_step_of_generate(name, opened):
    model = opened(name)
    steps, prompt = 5, inputs("causal")
    chosen = {a: s for a, s in model.sites("output").items() if "encoder" not in a}
    calls = dict.fromkeys(chosen, 0)

    def count(site, h, tokens):
        calls[site.address] += 1
        return h * 0

    plain = model.generate(**prompt, max_new_tokens=steps)
    with edit(chosen.values(), count):
        edited = model.generate(**prompt, max_new_tokens=steps)
    assert plain.shape[0] == edited.shape[0] == 2 and edited.shape[1] <= steps
    assert set(calls.values()) == {edited.shape[1]}
    if name == "t5":
        return
    with edit(chosen.values(), lambda s, h, t: h * 0):  # greedy, step by step, without a cache
        ids = prompt["input_ids"]
        with torch.no_grad():
            for _ in range(edited.shape[1]):
                ids = torch.cat([ids, model.root(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    until_end = (edited == 2).cumsum(1).cumsum(1) <= 1
    assert torch.equal(ids[:, 9:][until_end], edited[until_end])


def test_masked_models_do_not_generate(opened):
    with pytest.raises(ModelError, match="masked language model"):
        opened("bert").generate(**inputs("masked"), max_new_tokens=2)


# --- what a model says of itself


def test_repr_says_what_was_found(opened, words):
    lines = repr(opened("llama")).splitlines()
    assert lines[0] == "Model(LlamaForCausalLM: LlamaForCausalLM, causal, hugging_face, on cpu)"
    assert lines[1] == "  hidden  96 neurons at 2 sites, blocks.0.mlp.hook_post .. blocks.1.mlp.hook_post"
    assert lines[2] == "  output  64 neurons at 2 sites, blocks.0.mlp.out.hook_out .. blocks.1.mlp.out.hook_out"
    assert lines[3] == "  head    8 neurons at 2 sites, blocks.0.attn.hook_z .. blocks.1.attn.hook_z"
    assert "causal, transformer_bridge" in repr(resolve(boot(build("llama"), words)))
    assert "2 sites" in repr(opened("mixtral")) and "384 neurons at 8 sites" in repr(opened("mixtral"))


def test_fingerprints_are_stable_and_change_with_the_weights(opened):
    fingerprint = opened("llama").fingerprint()
    assert len(fingerprint) == 16 and int(fingerprint, 16) >= 0
    assert fingerprint == resolve(build("llama")).fingerprint()
    assert fingerprint == resolve(nnsight.NNsight(build("llama"))).fingerprint()
    trained = build("llama")
    optimizer = torch.optim.SGD(trained.parameters(), lr=1e-3)
    trained(**inputs("causal")).logits[..., 5].sum().backward()
    optimizer.step()
    one = build("llama")
    one.model.layers[0].mlp.up_proj.weight.data[0, 0] += 1e-3
    others = [resolve(m).fingerprint() for m in (trained, one, build("llama", seed=1), build("qwen2"))]
    assert len({fingerprint, *others}) == 5
    provenance = opened("llama").provenance()
    assert provenance["fingerprint"] == fingerprint and provenance["dtype"] == "float32"
    assert provenance["backend"] == "hugging_face" and provenance["model"] == "LlamaForCausalLM"


def test_context_is_the_longest_input(opened):
    names = ["llama", "gpt2", "opt", "bert"]
    assert [opened(n).context for n in names] == [64] * 4
    for name in ("opt", "gpt2"):
        longest = torch.full((1, 64), 5)
        with torch.no_grad():
            assert opened(name).root(input_ids=longest).logits.shape[1] == 64


# --- load


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "bert", "mixtral", "phi3"])
def test_local_folders_load(name, tmp_path, opened, words):
    untap_experts(copy.deepcopy(opened(name).root)).save_pretrained(tmp_path)
    bare = load(tmp_path)
    assert bare.tokenizer is None and bare.name == str(tmp_path)
    words.save_pretrained(tmp_path)
    model = load(str(tmp_path), device="cpu")
    assert model.style == opened(name).style and type(model.root) is type(opened(name).root)
    assert model.tokenizer("w5 w7")["input_ids"] == [5, 7] and model.fingerprint() == opened(name).fingerprint()
    assert not model.root.training and model.sites("hidden").keys() == opened(name).sites("hidden").keys()
    assert (logprobs(model) - logprobs(opened(name))).abs().max() < CLOSE
    half = load(tmp_path, dtype=torch.bfloat16, tokenizer=words)
    assert half.provenance()["dtype"] == "bfloat16" and half.tokenizer is words
    assert resolve(tmp_path).name == str(tmp_path)


def test_a_checkpoint_without_a_head_is_refused(tmp_path):
    body = build("llama").model
    body.config.architectures = ["LlamaModel"]
    body.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no weights for lm_head\.weight, which would be random"):
        load(tmp_path)


def test_a_model_object_finds_the_tokenizer_it_was_saved_with(tmp_path, words):
    build("llama").save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    root = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert resolve(root).tokenizer("w5")["input_ids"] == [5]
    assert load(root, tokenizer=words).tokenizer is words
    assert resolve(build("llama")).tokenizer is None


def test_the_bundled_model_loads():
    if bundled("mini") is None:
        pytest.skip("assets/mini is not built")
    model = load("mini")
    assert model.style == "causal" and model.tokenizer is not None
    assert all(model.sites(unit) for unit in UNITS)


def test_errors_are_of_the_package():
    assert issubclass(ModelError, NeuroscopeError) and issubclass(NumericalError, NeuroscopeError)
