"""The helpers for TransformerLens and nnsight do what `sites.edit` does."""

import copy
import importlib.util
import textwrap

import families
import nnsight
import peft
import pytest
import torch
from families import ablated, build, inputs, logprobs, thirds
from nnsight.modeling.transformers import TransformersModel
from transformer_lens.model_bridge import TransformerBridge

from neuroscope.errors import ModelError
from neuroscope.interop import lens_hooks, nnsight_code
from neuroscope.masks import NeuronMask
from neuroscope.models import resolve, tap_experts
from neuroscope.models.sites import edit

CLOSE = 1e-5
NONE = torch.tensor([], dtype=torch.long)
IDS = inputs("causal")["input_ids"]


@pytest.fixture(scope="session")
def words(tmp_path_factory):
    return families.tokenizer(tmp_path_factory.mktemp("tokenizer"))


def mask_of(model, unit, chosen):
    return NeuronMask.of(chosen, {a: s.width for a, s in model.sites(unit).items()}, unit)


def bridge_of(name, words, compatible=False):
    bridge = TransformerBridge.boot_transformers("tiny", hf_model=build(name), tokenizer=words, device="cpu")
    if compatible:
        bridge.enable_compatibility_mode(disable_warnings=True)
    return bridge


# --- TransformerLens


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "phi3"])
@pytest.mark.parametrize("compatible", [False, True])
@pytest.mark.parametrize("unit", ["hidden", "output", "head"])
@pytest.mark.parametrize("value", [0.0, 0.7])
def test_lens_hooks_are_the_same_ablation(name, compatible, unit, value, words):
    bridge = bridge_of(name, words, compatible)
    model = resolve(bridge)
    chosen = thirds(model.sites(unit))
    expected = ablated(model, unit, chosen, value)
    plain = bridge(IDS).log_softmax(-1)
    with torch.no_grad():
        hooked = bridge.run_with_hooks(
            IDS, fwd_hooks=lens_hooks(mask_of(model, unit, chosen), value=value)
        ).log_softmax(-1)
    assert (hooked - expected).abs().max() < CLOSE and (hooked - plain).abs().max() > 0.05
    assert torch.equal(bridge(IDS).log_softmax(-1), plain)  # TransformerLens has taken them off again


def test_lens_hooks_leave_out_sites_without_a_chosen_neuron(words):
    model = resolve(bridge_of("llama", words))
    first, second = model.sites("hidden")
    hooks = lens_hooks(mask_of(model, "hidden", {first: NONE, second: torch.tensor([1])}))
    assert [name for name, _ in hooks] == [second]


def test_edits_act_in_what_transformer_lens_runs_and_caches(words):
    bridge = bridge_of("llama", words)
    model = resolve(bridge)
    site = model.sites("hidden")["blocks.1.mlp.hook_post"]
    with edit([site], lambda s, h, t: h.index_fill(-1, torch.tensor([3]), 0.0)):
        expected = logprobs(model)
        logits, cache = bridge.run_with_cache(IDS)
    assert (logits.log_softmax(-1) - expected).abs().max() < CLOSE
    assert cache["blocks.1.mlp.hook_post"].shape == (2, 9, 48)


# --- nnsight


def run_lines(tmp_path, lines, model, ids, call="model.trace(input_ids=ids)"):
    """Run trace code as a user would: pasted into a file."""
    source = f"def run(model, ids):\n    with {call}:\n{textwrap.indent(lines, ' ' * 8)}"
    source += "        logits = model.output.logits.save()\n    return logits\n"
    path = tmp_path / f"user_code_{len(list(tmp_path.iterdir()))}.py"  # Python caches sources by name
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("user_code", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with torch.no_grad():
        return module.run(model, ids).log_softmax(-1)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "phi3", "bloom", "bert"])
@pytest.mark.parametrize("unit", ["hidden", "output", "head"])
@pytest.mark.parametrize("value", [0.0, -0.5])
def test_trace_code_is_the_same_ablation(name, unit, value, tmp_path):
    wrapped = nnsight.NNsight(build(name))
    model = resolve(wrapped)
    chosen = thirds(model.sites(unit))
    expected = ablated(model, unit, chosen, value)
    lines = nnsight_code(model, mask_of(model, unit, chosen), value=value)
    assert len(lines.splitlines()) == 3 * len(chosen) and compile(lines, "lines", "exec")
    traced = run_lines(tmp_path, lines, wrapped, IDS)
    assert (traced - expected).abs().max() < CLOSE and (traced - logprobs(model)).abs().max() > 0.05


def test_trace_code_works_on_an_encoder_and_decoder(tmp_path):
    wrapped = nnsight.NNsight(build("t5"))
    model = resolve(wrapped)
    for unit in ("hidden", "head"):
        chosen = thirds(model.sites(unit))
        lines = nnsight_code(model, mask_of(model, unit, chosen))
        decoder = inputs("seq2seq")["decoder_input_ids"]
        call = f"model.trace(input_ids=ids, decoder_input_ids=ids.new_tensor({decoder.tolist()}))"
        assert (run_lines(tmp_path, lines, wrapped, IDS, call) - ablated(model, unit, chosen)).abs().max() < CLOSE


@pytest.mark.parametrize("unit", ["hidden", "output", "head"])
def test_trace_code_reaches_under_peft(unit, tmp_path):
    config = peft.LoraConfig(r=4, target_modules=["down_proj", "o_proj"], init_lora_weights=False)
    wrapped = nnsight.NNsight(peft.get_peft_model(build("llama"), config).eval())
    model = resolve(wrapped)
    chosen = thirds(model.sites(unit))
    traced = run_lines(tmp_path, nnsight_code(model, mask_of(model, unit, chosen)), wrapped, IDS)
    assert (traced - ablated(model, unit, chosen)).abs().max() < CLOSE
    assert (traced - logprobs(model)).abs().max() > 0.05


def test_trace_code_uses_the_users_name_and_skips_empty_sites():
    model = resolve(build("llama"))
    first, second = model.sites("hidden")
    mask = mask_of(model, "hidden", {first: NONE, second: torch.tensor([4, 7])})
    lines = nnsight_code(model, mask, variable="lm")
    assert lines == (
        "h = lm.model.layers[1].mlp.down_proj.input.clone()\n"
        "h[..., [4, 7]] = 0.0\n"
        "lm.model.layers[1].mlp.down_proj.input = h\n"
    )


def test_neurons_of_experts_have_no_trace_code():
    model = resolve(tap_experts(build("mixtral")))
    chosen = {next(iter(model.sites("hidden"))): torch.tensor([0])}
    with pytest.raises(ModelError, match="tap_experts"):
        nnsight_code(model, mask_of(model, "hidden", chosen))


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_edits_act_inside_traces(name):
    root = build(name)
    wrapped = nnsight.NNsight(root)
    model, plain = resolve(wrapped), resolve(copy.deepcopy(root))
    chosen = thirds(model.sites("hidden"))
    sites = model.sites("hidden")
    module = nnsight_module(wrapped, next(iter(sites.values())).path)
    fill = lambda s, h, t: h.index_fill(-1, chosen[s.address], 0.0)  # noqa: E731
    with torch.no_grad(), edit(sites.values(), fill):  # noqa: SIM117 (nnsight reads a trace's source)
        with wrapped.trace(input_ids=IDS):
            seen = module.input.save()
            logits = wrapped.output.logits.save()
    assert (logits.log_softmax(-1) - ablated(plain, "hidden", chosen)).abs().max() < CLOSE
    assert seen.shape[-1] == 48
    with torch.no_grad():  # noqa: SIM117
        with wrapped.trace(input_ids=IDS):
            after = wrapped.output.logits.save()
    assert (after.log_softmax(-1) - logprobs(plain)).abs().max() < CLOSE


def nnsight_module(wrapped, path):
    for part in path.split("."):
        wrapped = wrapped[int(part)] if part.isdigit() else getattr(wrapped, part)
    return wrapped


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("unit", ["hidden", "output", "head"])
def test_trace_code_survives_the_way_to_a_remote_server(name, unit, words, tmp_path):
    """nnsight's own rehearsal: serialise, hide every local module, deserialise, run."""
    wrapped = TransformersModel(build(name), task="text-generation", tokenizer=words)
    model = resolve(wrapped)
    chosen = thirds(model.sites(unit))
    lines = nnsight_code(model, mask_of(model, unit, chosen))
    traced = run_lines(tmp_path, lines, wrapped, IDS, 'model.trace(input_ids=ids, remote="local")')
    assert (traced - ablated(model, unit, chosen)).abs().max() < CLOSE
    assert (traced - logprobs(model)).abs().max() > 0.05
