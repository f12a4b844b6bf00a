"""The adapter: what it trains, that nothing else changes, and that live, merged, saved and exported agree."""

import copy

import families
import peft
import pytest
import torch
from families import DENSE, build, inputs, thirds
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from state import unchanged
from torch.nn import functional
from transformer_lens.model_bridge import TransformerBridge

from neuroscope.errors import ArgumentError, FileError, MaskError, ModelError
from neuroscope.interventions import ablate
from neuroscope.masks import NeuronMask
from neuroscope.models import resolve, tap_experts
from neuroscope.training.adapter import NeuronAdapter


def mask_of(model, unit="hidden", seed=0):
    """A random third of the neurons at every site."""
    sites = model.sites(unit)
    return NeuronMask.of(thirds(sites, seed), {a: s.width for a, s in sites.items()}, unit)


def adapted(root, unit="hidden", seed=0, std=0.05):
    """The model with an adapter of random deltas on it."""
    model = resolve(root)
    adapter = NeuronAdapter(model, mask_of(model, unit, seed))
    fill(adapter, seed, std)
    return model, adapter


@torch.no_grad()
def fill(adapter, seed=0, std=0.05):
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


@torch.no_grad()
def logits(model):
    return model.logits(inputs(model.style))


def close(a, b, relative=1e-6):
    return float((a - b).detach().abs().max()) <= relative * max(1.0, float(b.detach().abs().max()))


def rows_of(site, unit):
    """Every slice of a parameter that is a neuron's own, from the site alone."""
    return [*site.out] + ([r for rows in site.ins.values() for r in rows] if unit == "hidden" else [])


def expected_selection(model, mask):
    """For every parameter, which entries belong to the mask's neurons."""
    chosen = {id(p): torch.zeros(p.shape, dtype=torch.bool) for p in model.root.parameters()}
    for address, neurons in mask.items():
        for rows in rows_of(model.sites(mask.unit)[address], mask.unit):
            rows.view(chosen[id(rows.param)])[..., neurons] = True
    return chosen


@pytest.mark.parametrize("unit", ["hidden", "output"])
@pytest.mark.parametrize("family", DENSE)
def test_an_adapter_changes_just_the_neurons_weights(family, unit):
    root = build(family).double()  # so that agreement is exact but for float64 rounding
    model = resolve(root)
    base, weights = logits(model), {n: p.detach().clone() for n, p in root.named_parameters()}
    adapter = NeuronAdapter(model, mask_of(model, unit))
    assert torch.equal(logits(model), base)  # deltas start at zero
    fill(adapter)
    live = logits(model)
    assert float((live - base).abs().max()) > 1e-2
    assert all(torch.equal(dict(root.named_parameters())[n], w) for n, w in weights.items())
    adapter.merge()
    merged = logits(model)
    assert close(merged, live, 1e-12)
    selection = expected_selection(model, adapter.mask)
    for name, before in weights.items():
        now = dict(root.named_parameters())[name]
        assert torch.equal(now != before, selection[id(now)]), name  # all of the neurons' entries, and no other
    trained = sum(int(s.sum()) for s in selection.values())
    assert adapter.n_parameters == trained > 0
    adapter.unmerge()
    assert torch.equal(logits(model), live)
    adapter.detach()
    assert torch.equal(logits(model), base)
    assert all(torch.equal(dict(root.named_parameters())[n], w) for n, w in weights.items())


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "t5", "bert"])
def test_live_merged_saved_and_exported_agree(family, tmp_path):
    root = build(family)
    model, adapter = adapted(root)
    live = logits(model)
    with unchanged(root):
        adapter.save(tmp_path / "a.safetensors")
        adapter.export(tmp_path / "checkpoint")
    exported = resolve(type(root).from_pretrained(tmp_path / "checkpoint").eval())
    assert close(logits(exported), live)
    adapter.merge()
    merged = logits(model)
    assert close(merged, live)
    assert close(logits(exported), merged, 0.0)
    adapter.export(tmp_path / "merged")
    assert torch.equal(logits(resolve(type(root).from_pretrained(tmp_path / "merged").eval())), merged)
    other = resolve(build(family))
    loaded = NeuronAdapter.load(other, tmp_path / "a.safetensors")
    assert torch.equal(logits(other), live)
    assert loaded.mask == adapter.mask
    with pytest.raises(FileError, match="new or empty"):
        adapter.export(tmp_path / "checkpoint")


def test_the_model_is_as_before_after_detach():
    root = build("gpt2")
    with unchanged(root):
        _, adapter = adapted(root)
        _, second = adapted(root, "output", 1)
        adapter.merge()
        adapter.unmerge()
        second.detach()
        adapter.detach()


def test_opening_a_model_again_sees_the_same_sites_and_keeps_the_change():
    root = build("phi3")
    sites = {a: s.width for a, s in resolve(root).sites().items()}
    base = resolve(root).fingerprint()
    model, adapter = adapted(root)
    again = resolve(root)
    assert {a: s.width for a, s in again.sites().items()} == sites
    assert torch.equal(logits(again), logits(model))
    assert again.fingerprint() != base == adapter.base  # what is measured with an adapter is another model


def test_gradients_are_the_base_weights_gradients_at_the_neurons():
    for family, unit in (("llama", "hidden"), ("gpt2", "hidden"), ("bert", "output")):
        root = build(family).double()
        model, adapter = adapted(root, unit, std=0.0)
        loss = lambda: model.logits(inputs(model.style)).logsumexp(-1).pow(2).mean()  # noqa: E731
        loss().backward()  # everything requires gradients: the base's are the reference
        total = 0
        for part in adapter.placed:
            for name, delta in part.delta.named_parameters():
                whole = part.linear._parameters[name].grad
                picked = whole.index_select(part.delta.dim if name == "weight" else 0, part.delta.index)
                reference = picked.t() if name == "weight" and part.delta.dim == 1 else picked
                assert torch.allclose(delta.grad.double(), reference, rtol=1e-6, atol=1e-7)
                total += int((delta.grad != 0).sum())
        assert total > adapter.n_parameters // 2


def test_backward_stops_at_the_lowest_trained_layer():
    root = build("llama")
    model = resolve(root)
    sites = model.sites()
    last = list(sites)[-1]
    adapter = NeuronAdapter(model, NeuronMask.of({last: [3, 5]}, {a: s.width for a, s in sites.items()}))
    needs = {}
    handles = [
        block.register_forward_hook(lambda m, i, o, n=n: needs.__setitem__(n, (o[0] if isinstance(o, tuple) else o)))
        for n, block in enumerate(root.model.layers)
    ]
    with adapter.alone():
        out = model.logits(inputs("causal"))
    for handle in handles:
        handle.remove()
    assert [needs[n].requires_grad for n in (0, 1)] == [False, True]
    out.sum().backward()
    assert all(p.grad is not None for p in adapter.parameters())
    others = [p for n, p in root.named_parameters() if "neuron_deltas" not in n]
    assert all(p.grad is None and p.requires_grad for p in others)  # flags are back


def test_several_adapters_add_and_scale():
    root = build("gpt2").double()
    model, first = adapted(root, seed=1)
    only_first = logits(model)
    _, second = adapted(root, seed=2)
    third = NeuronAdapter(model, mask_of(model, "output", 3))
    fill(third, 3)
    together = logits(model)
    weights = {n: p.detach().clone() for n, p in root.named_parameters()}
    for adapter in (second, first, third):
        adapter.merge()
    assert close(logits(model), together, 1e-12)
    with pytest.raises(ModelError, match="reverse order"):
        first.unmerge()  # the third one's rows cross its columns
    for adapter in (third, first, second):
        adapter.unmerge()
    assert all(torch.equal(dict(root.named_parameters())[n], w) for n, w in weights.items())
    second.scale = third.scale = 0
    assert torch.equal(logits(model), only_first)
    # twice the delta of a copy
    first.scale = 2
    doubled = logits(model)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.mul_(2)
    first.scale = 1
    assert close(logits(model), doubled, 1e-12)
    first.detach()
    assert sum("neuron_deltas" in n for n, _ in root.named_parameters()) == len(
        second.parameters() + third.parameters()
    )


def test_a_deep_copy_has_its_own_deltas():
    model, adapter = adapted(build("llama"))
    live = logits(model)
    twin = resolve(copy.deepcopy(model.root))
    fill(adapter, std=0.0)
    assert torch.equal(logits(twin), live)
    assert not torch.equal(logits(model), live)


def test_interventions_act_after_the_adapter():
    """A neuron that is ablated gives nothing through its delta either."""
    root = build("llama")
    model = resolve(root)
    mask = mask_of(model)
    with ablate(model, mask):
        off = logits(model)
        adapter = NeuronAdapter(model, mask)  # also when it comes later than the intervention
        fill(adapter)
        assert torch.equal(logits(model), off)
    units = mask_of(model, "output")
    adapter.detach()
    with ablate(model, units):
        off = logits(model)
        fill(NeuronAdapter(model, units))
        assert torch.equal(logits(model), off)


def test_a_bfloat16_base_keeps_small_steps():
    root = build("llama").to(torch.bfloat16)
    model, adapter = adapted(root, std=0.0)
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    before = {n: p.detach().clone() for n, p in root.named_parameters() if "neuron_deltas" not in n}
    with adapter.alone():
        optimizer = torch.optim.Adam(adapter.parameters(), lr=1e-5)
        for _ in range(5):
            optimizer.zero_grad()
            functional.cross_entropy(model.logits(inputs("causal")).float().flatten(0, 1), torch.arange(18)).backward()
            optimizer.step()
    moved = torch.cat([p.detach().abs().flatten() for p in adapter.parameters()])
    assert float((moved > 3e-5).float().mean()) > 0.5  # a weight of 0.15 has steps of 1e-3 in bfloat16
    assert all(torch.equal(dict(root.named_parameters())[n], w) for n, w in before.items())
    fill(adapter, std=0.05)
    live = logits(model).float()
    adapter.merge()
    assert close(logits(model).float(), live, 0.05)
    adapter.unmerge()
    assert all(torch.equal(dict(root.named_parameters())[n], w) for n, w in before.items())


def test_gradient_checkpointing_gives_the_same_gradients():
    root = build("llama")
    _, adapter = adapted(root)

    def gradients():
        with adapter.alone():
            out = root(**inputs("causal"), use_cache=False).logits
            gradient = torch.autograd.grad(out.logsumexp(-1).sum(), adapter.parameters())
        return torch.cat([g.flatten() for g in gradient])

    plain = gradients()
    root.train()
    root.gradient_checkpointing_enable({"use_reentrant": False})
    recomputed = []
    handle = root.model.layers[1].mlp.gate_proj.register_forward_hook(lambda *_: recomputed.append(1))
    checkpointed = gradients()
    handle.remove()
    assert len(recomputed) == 2  # once forward, once again in the backward pass
    assert torch.equal(checkpointed, plain)


def test_a_compiled_model_applies_and_trains_the_adapter():
    root = build("llama")
    model, adapter = adapted(root)
    assert torch._dynamo.explain(root)(**inputs("causal"), use_cache=False).graph_break_count == 0
    torch._dynamo.reset()
    compiled = torch.compile(root, backend="aot_eager")

    def run(module):
        with adapter.alone():
            out = module(**inputs("causal"), use_cache=False).logits
            return out, torch.autograd.grad(out.logsumexp(-1).sum(), adapter.parameters())

    (live, gradients), (eager, reference) = run(compiled), run(root)
    assert close(live, eager)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(gradients, reference, strict=True))
    adapter.scale = 0.5
    assert close(run(compiled)[0], logits(model))
    assert not close(logits(model), eager, 1e-3)
    with pytest.raises(ModelError, match="compile"):
        NeuronAdapter(compiled, adapter.mask)
    root.compile(backend="aot_eager")
    with pytest.raises(ModelError, match="compile"):
        NeuronAdapter(model, adapter.mask)


def test_scale_and_dtype_survive_saving(tmp_path):
    model, adapter = adapted(build("opt"))
    adapter.scale = 0.5
    adapter.manifest["note"] = "kept"
    live = logits(model)
    adapter.save(tmp_path / "a")
    adapter.save(tmp_path / "small", dtype=torch.bfloat16)
    adapter.detach()
    loaded = NeuronAdapter.load(model, tmp_path / "a")
    assert (loaded.scale, loaded.manifest["note"]) == (0.5, "kept")
    assert torch.equal(logits(model), live)
    loaded.scale = 0.25
    loaded.save(tmp_path / "again")
    loaded.detach()
    again = NeuronAdapter.load(model, tmp_path / "again")
    assert (again.scale, again.manifest["note"]) == (0.25, "kept")
    again.detach()
    NeuronAdapter.load(model, tmp_path / "small")
    assert close(logits(model), live, 0.01)
    assert (tmp_path / "small").stat().st_size < 0.7 * (tmp_path / "a").stat().st_size


def test_loading_refuses_another_base_and_damaged_files(tmp_path):
    model, adapter = adapted(build("llama"))
    path = adapter.save(tmp_path / "a")
    other = build("llama", seed=1)
    with unchanged(other), pytest.raises(ModelError, match=f"{adapter.base}; this model"):
        NeuronAdapter.load(other, path)
    with pytest.raises(MaskError, match="the model has"):
        NeuronAdapter.load(build("t5"), path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:100]):
        (tmp_path / "bad").write_bytes(damaged)
        with pytest.raises(FileError, match="bad"):
            NeuronAdapter.load(model, tmp_path / "bad")
    with pytest.raises(FileError):
        NeuronAdapter.load(model, tmp_path / "none")
    adapter.mask.save(tmp_path / "mask")
    with pytest.raises(FileError, match="NeuronMask"):
        NeuronAdapter.load(model, tmp_path / "mask")
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        about = file.metadata()
    first = next(k for k in tensors if k.startswith("deltas/"))
    save_file({k: v for k, v in tensors.items() if k != first}, tmp_path / "bad", about)
    with unchanged(model.root), pytest.raises(FileError, match="damaged"):
        NeuronAdapter.load(model, tmp_path / "bad")
    indices = next(k for k in tensors if k.startswith("values/"))
    save_file(tensors | {indices: tensors[indices] + 1000}, tmp_path / "bad", about)
    with pytest.raises(FileError, match="damaged"):
        NeuronAdapter.load(model, tmp_path / "bad")
    with pytest.raises(FileError, match="another mask"):
        NeuronAdapter(model, ~adapter.mask).restore(path)


def test_order_of_calls_is_checked():
    _, adapter = adapted(build("llama"))
    with pytest.raises(ModelError, match="not merged"):
        adapter.unmerge()
    adapter.merge()
    for act in (adapter.merge, adapter.alone().__enter__, lambda: setattr(adapter, "scale", 2)):
        with pytest.raises(ModelError, match="merged"):
            act()


def test_masks_and_models_that_cannot_be_trained_are_refused():
    root = build("llama")
    model = resolve(root)
    mask = mask_of(model)
    with unchanged(root):
        with pytest.raises(MaskError, match="empty mask"):
            NeuronAdapter(model, mask - mask)
        with pytest.raises(MaskError, match="the model has"):
            NeuronAdapter(model, mask_of(resolve(build("t5"))))
        with pytest.raises(MaskError, match="head"):
            NeuronAdapter(model, NeuronMask.of({}, {a: s.width for a, s in model.sites("head").items()}, "head"))
        with pytest.raises(ArgumentError, match="an empty dict in place of a mask"):
            NeuronAdapter(model, {})
        adapter = NeuronAdapter(model, {1: [2]})  # as people write it
        assert adapter.mask == NeuronMask.of({1: [2]}, model)
        adapter.detach()
    mixture = tap_experts(build("mixtral"))
    for unit in ("hidden", "output"):
        with unchanged(mixture), pytest.raises(ModelError, match="mixture"):
            NeuronAdapter(mixture, mask_of(resolve(mixture), unit))


def test_the_dense_neurons_of_a_mixture_can_be_trained():
    root = tap_experts(build("qwen2-moe"))
    model = resolve(root)
    sites = model.sites()
    shared = {a: [0, 7] for a, s in sites.items() if s.expert is None}
    adapter = NeuronAdapter(model, NeuronMask.of(shared, {a: s.width for a, s in sites.items()}))
    base = logits(model)
    fill(adapter)
    live = logits(model)
    adapter.merge()
    assert close(logits(model), live)
    assert not close(live, base, 1e-3)


class Int8(torch.nn.Module):
    """A linear whose weight is int8, as quantisers make them: no parameter for a graph to show."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("quantised", (linear.weight.detach() * 100).to(torch.int8))

    def forward(self, x):
        return functional.linear(x, self.quantised / 100)


def test_a_peft_model_a_bridge_and_a_quantised_model_are_refused(tmp_path):
    root = build("gpt2")
    mask = mask_of(resolve(root))
    wrapped = peft.get_peft_model(build("gpt2"), peft.LoraConfig(target_modules=["c_fc"], fan_in_fan_out=True))
    with pytest.raises(ModelError, match="merge_and_unload"):
        NeuronAdapter(wrapped, mask)
    quantised = build("llama")
    for block in quantised.model.layers:
        for name in ("gate_proj", "up_proj", "down_proj"):
            setattr(block.mlp, name, Int8(getattr(block.mlp, name)))
    model = resolve(quantised)
    with unchanged(quantised), pytest.raises(ModelError, match="not quantised"):
        NeuronAdapter(model, mask_of(model))
    words = families.tokenizer(tmp_path)
    bridge = TransformerBridge.boot_transformers("tiny", hf_model=build("gpt2"), tokenizer=words, device="cpu")
    with pytest.raises(ModelError, match="open the Hugging Face model itself"):
        NeuronAdapter(bridge, mask)
