"""The LoRA handle: what it trains, that it equals peft's, and that the model is as it was when it is taken off."""

import copy
import math
import shutil

import peft
import pytest
import torch
from families import DENSE, MOE, build, inputs
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sequences import A
from state import changed, snapshot, unchanged
from tiny import tiny_model
from torch import nn
from torch.nn import functional
from transformer_lens.model_bridge import TransformerBridge

from neuroscope.errors import ArgumentError, FileError, ModelError, NumericalError
from neuroscope.masks import NeuronMask
from neuroscope.models import load, resolve
from neuroscope.training import LoraAdapter, NeuronAdapter, finetuning, lora_layers, train
from neuroscope.training.trainer import collate

STYLES = ("causal", "seq2seq", "masked")
FAMILY = {"llama": "causal", "gpt2": "causal", "t5": "seq2seq", "bert": "masked"}


@torch.no_grad()
def logits(model):
    return model.logits(inputs(model.style))


@torch.no_grad()
def fill(lora, seed=0, std=0.1):
    generator = torch.Generator().manual_seed(seed)
    for parameter in lora.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def linears(root):
    """Path -> (outputs, inputs) of every linear layer but the LM head, from the weights alone."""
    head = root.get_output_embeddings()
    found = {p: m for p, m in root.named_modules() if isinstance(m, nn.Linear) and m is not head}
    shapes = {path: tuple(m.weight.shape) for path, m in found.items()}
    return shapes | {p: tuple(m.weight.shape[::-1]) for p, m in root.named_modules() if type(m).__name__ == "Conv1D"}


def order(root):
    """The module tree in its order, and the attributes of its root."""
    return [(name, id(m)) for name, m in root.named_modules()], set(vars(root))


@pytest.mark.parametrize("family", FAMILY)
def test_it_is_b_a_x_on_every_linear_layer_but_the_head(family):
    """Against the base with B A added to the weights, in float64."""
    root = build(family).double()
    twin, model = copy.deepcopy(root), resolve(root)
    base, shapes, before = logits(model), linears(root), order(root)
    with unchanged(root):
        lora = LoraAdapter(model, 3, 12)
        assert (lora.base, lora.identity) == (resolve(twin).fingerprint(), "lora-3-12-0")
        assert torch.equal(logits(model), base)  # B starts at zero
        assert not any(module.training for module in root.modules())
        assert {slot.path for slot in lora.slots} == set(shapes)
        assert lora.n_parameters == sum(3 * (out + into) for out, into in shapes.values())
        assert {path: tuple(a.shape) for path, a in lora.down.items()} == {p: (3, n) for p, (_, n) in shapes.items()}
        assert all(float(a.detach().abs().max()) <= 1 / math.sqrt(a.shape[1]) for a in lora.down.values())
        fill(lora)
        live = logits(model)
        for slot in lora.slots:
            product = slot.layer.lora_B[lora.name].weight.detach() @ lora.down[slot.path].detach()
            linear = twin.get_submodule(slot.path)
            with torch.no_grad():
                linear.weight += 12 / 3 * (product if isinstance(linear, nn.Linear) else product.t())
        assert float((live - base).abs().max()) > 1e-2
        torch.testing.assert_close(live, logits(resolve(twin)), rtol=1e-10, atol=1e-10)
        lora.live = False
        assert not lora.live and torch.equal(logits(model), base)
        lora.live = True
        assert lora.live and torch.equal(logits(model), live)
        assert "live" in repr(lora)
        lora.detach()
        lora.detach()  # a second time does nothing
        assert torch.equal(logits(model), base)
    assert order(root) == before
    assert not hasattr(root, "peft_config")


@pytest.mark.parametrize("family", [*DENSE, *MOE])
def test_the_layers_are_pefts_all_linear_and_come_back(family):
    root = build(family)
    before = order(root)
    with unchanged(root):
        lora = LoraAdapter(root, 2)
        assert lora.n_parameters == sum(2 * (out + into) for out, into in linears_of(lora).values()) > 0
        paths = {slot.path for slot in lora.slots}
        lora.detach()
    assert order(root) == before
    if family in DENSE:  # of a mixture's experts, peft makes targets of another kind
        peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules="all-linear"), root)
        assert {n for n, m in root.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)} == paths


def linears_of(lora):
    with torch.no_grad():
        return {s.path: (s.layer.out_features, s.layer.in_features) for s in lora.slots}


def test_several_loras_add_and_leave_in_any_order():
    root = build("llama").double()
    before = order(root)
    model = resolve(root)
    base = logits(model)
    mask = NeuronMask.of({a: [0, 1] for a in model.sites()}, {a: s.width for a, s in model.sites().items()}, "hidden")
    with unchanged(root):
        deltas = NeuronAdapter(model, mask)
        loras = []
        for seed in range(3):
            loras.append(LoraAdapter(model, 2 + seed, seed=seed))
            fill(loras[-1], seed)
        assert len({lora.name for lora in loras}) == 3
        assert {lora.base for lora in loras} == {resolve(build("llama").double()).fingerprint()}  # of the bare model
        assert {slot.path for slot in loras[2].slots} == {slot.path for slot in loras[0].slots}
        all_on = logits(model)
        alone = []
        for lora in loras:
            for other in loras:
                other.live = other is lora
            alone.append(logits(model))
        for lora in loras:
            lora.live = False
        assert torch.equal(logits(model), base)
        last = LoraAdapter(model, 2, seed=9)
        assert [lora.live for lora in loras] == [False] * 3 and last.live  # a new one wakes no other
        last.detach()
        assert torch.equal(logits(model), base)
        for lora in loras:
            lora.live = True
        torch.testing.assert_close(logits(model), all_on, rtol=1e-10, atol=1e-10)
        loras[0].live = loras[2].live = False
        assert torch.equal(logits(model), alone[1])
        loras[0].detach()
        loras[2].detach()
        assert torch.equal(logits(model), alone[1])
        loras[1].detach()
        deltas.detach()
    assert order(root) == before
    assert len({tuple(logits_.flatten().tolist()) for logits_ in alone}) == 3


def test_the_matrices_are_of_the_seed_and_the_global_generator_is_left_alone():
    def downs(seed):
        lora = LoraAdapter(build("t5"), 2, seed=seed)
        return torch.cat([a.detach().flatten() for a in lora.down.values()])

    state = torch.get_rng_state()
    first, again, other = downs(1), downs(1), downs(2)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_it_is_float32_on_a_bfloat16_model_and_alone_requires_gradients():
    root = build("gpt2").bfloat16()
    root.transformer.wte.weight.requires_grad_(False)
    with unchanged(root):
        lora = LoraAdapter(root, 2)
        assert {p.dtype for p in lora.parameters()} == {torch.float32}
        assert logits(lora.model).dtype == torch.bfloat16
        assert not any(p.requires_grad for p in lora.parameters())
        with lora.alone():
            trained = {id(p) for p in root.parameters() if p.requires_grad}
            assert trained == {id(p) for p in lora.parameters()}
            lora.live = False
            lora.live = True
            assert {id(p) for p in root.parameters() if p.requires_grad} == trained
            lora.model.logits(inputs("causal")).logsumexp(-1).mean().backward()
        assert all(p.grad is not None for p in lora.parameters())
        lora.detach()


@pytest.mark.parametrize("style", STYLES)
def test_training_changes_the_lora_alone_and_leaves_no_trace(style):
    model = tiny_model(style)
    before, tree = snapshot(model.root), order(model.root)
    lora = LoraAdapter(model, 4, seed=3)
    weights = {name: p.detach().clone() for name, p in model.root.named_parameters()}
    train(lora, A, {"steps": 4, "batch_size": 8, "lr": 0.01})
    own = {id(p) for p in lora.parameters()}
    for name, parameter in model.root.named_parameters():
        assert torch.equal(parameter, weights[name]) is (id(parameter) not in own), name
        assert parameter.grad is None
    assert lora.manifest["trained"] == lora.n_parameters and lora.manifest["run"]["mask"] == "lora-4-16-3"
    assert lora.manifest["run"]["base"] == tiny_model(style).fingerprint()
    lora.detach()
    assert changed(before, snapshot(model.root)) == [] and order(model.root) == tree


def test_it_equals_pefts_lora_under_plain_adam(monkeypatch):
    """In float64, since Adam makes steps of full size out of gradients that are rounding errors."""
    model = load(tiny_model().root.double(), tokenizer=tiny_model().tokenizer)
    reference = copy.deepcopy(model.root)
    shown = []
    monkeypatch.setattr(finetuning, "collate", lambda *args, **how: shown.append(collate(*args, **how)) or shown[-1])
    lora = LoraAdapter(model, 4, 8, seed=5)
    settings = {"lr_scheduler_type": "constant", "max_grad_norm": 0.5}
    train(lora, A, {"steps": 6, "batch_size": 8, "lr": 3e-3, "arguments": settings})
    wrapped = peft.get_peft_model(reference, peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    start = LoraAdapter(tiny_model(), 4, 8, seed=5).down
    for path, a in start.items():  # peft draws its own from the global generator, from the same distribution
        down = wrapped.base_model.model.get_submodule(path).lora_A.default.weight.detach()
        assert float(down.std()) == pytest.approx(float(a.std()), rel=0.35)
        down.copy_(a.detach())
    first = {n: p.detach().clone() for n, p in wrapped.named_parameters()}
    own = [p for p in wrapped.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(own, lr=3e-3)
    for batch in shown[:6]:
        optimizer.zero_grad()
        out = wrapped(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        functional.cross_entropy(out[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(own, 0.5)
        optimizer.step()
    trained = dict(model.root.named_parameters())
    moved = 0.0
    for name, expected in wrapped.named_parameters():
        mine = trained[name.removeprefix("base_model.model.").replace("default", lora.name)]
        assert float((mine - expected).detach().abs().max()) < 1e-6, name
        moved = max(moved, float((expected - first[name]).detach().abs().max()))
    assert moved > 5e-3


@pytest.mark.parametrize("family", FAMILY)
def test_saved_and_loaded_it_is_the_same(family, tmp_path):
    root = build(family)
    model = resolve(root)
    lora = LoraAdapter(model, 3, 5.0, seed=2, manifest={"note": "mine"})
    fill(lora)
    live = logits(model)
    path = tmp_path / "deep" / "lora.safetensors"
    with unchanged(root):
        assert lora.save(path) == path
    assert len(load_file(path)) == 2 * len(lora.slots)
    assert [p.name for p in path.parent.iterdir()] == ["lora.safetensors"]
    other = build(family)
    with unchanged(other):
        loaded = LoraAdapter.load(other, path)
        assert torch.equal(logits(loaded.model), live)
        assert (loaded.rank, loaded.alpha, loaded.seed, loaded.manifest["note"]) == (3, 5.0, 2, "mine")
        assert loaded.identity == lora.identity
        fill(loaded, 7)
        loaded.restore(path)
        assert torch.equal(logits(loaded.model), live)
        loaded.detach()


def test_files_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "lora.safetensors"
    root = build("llama")
    lora = LoraAdapter(root, 2, manifest={"a": 1})
    lora.save(path)
    lora.detach()
    with unchanged(root):
        with pytest.raises(ModelError, match=r"(?s)fingerprint.*open the model it was trained on"):
            LoraAdapter.load(build("llama", seed=1), path)
        for wrong in (LoraAdapter(root, 3), LoraAdapter(root, 2, 4)):
            with pytest.raises(FileError, match=r"rank 2, alpha 16; this one has"):
                wrong.restore(path)
            wrong.detach()
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            about = file.metadata()
        key = "model.layers.0.mlp.up_proj.lora_B"
        save_file({k: v for k, v in tensors.items() if k != key}, path, about)
        with pytest.raises(FileError, match=f"no {key} of shape"):
            LoraAdapter.load(root, path)
        save_file(tensors, path, {"neuroscope": about["neuroscope"].replace('"rank"', '"rang"')})
        with pytest.raises(FileError, match="no rank in its manifest"):
            LoraAdapter.load(root, path)
        with pytest.raises(FileError, match="lora-x"):
            LoraAdapter.load(root, tmp_path / "lora-x.safetensors")


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path):
    def run(output, **more):
        lora = LoraAdapter(tiny_model(), 4, seed=1)
        train(lora, A, {"steps": 9, "batch_size": 5, "lr": 3e-3, "every": 3}, output=output, **more)
        return torch.cat([p.detach().flatten() for p in lora.parameters()])

    whole = run(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole" / "checkpoint-6", tmp_path / "killed" / "checkpoint-6")
    assert torch.equal(run(tmp_path / "killed", resume_from_checkpoint=True), whole)
    with pytest.raises(FileError, match=r"another run: mask lora-4-16-1, now lora-2-16-1"):
        train(
            LoraAdapter(tiny_model(), 2, seed=1), A, {"steps": 9, "batch_size": 5, "lr": 3e-3, "every": 3},
            output=tmp_path / "whole", resume_from_checkpoint=True,
        )  # fmt: skip


def test_an_error_in_training_takes_it_off_again():
    model = tiny_model()
    tree = order(model.root)

    def broken():
        raise RuntimeError("as planned")

    with unchanged(model.root):
        other = LoraAdapter(model, 2)
        fill(other)
        live = logits_of_tiny(model)
        with pytest.raises(NumericalError, match="not finite"):
            wild = {"optim": "sgd", "max_grad_norm": 0.0}
            train(LoraAdapter(model, 2), A, {"steps": 3, "lr": 1e30, "arguments": wild})
        with pytest.raises(RuntimeError, match="as planned"):
            train(LoraAdapter(model, 2), A, {"steps": 3}, penalty=broken)
        assert torch.equal(logits_of_tiny(model), live)  # the other one is still there
        other.detach()
    assert order(model.root) == tree


@torch.no_grad()
def logits_of_tiny(model):
    ids = torch.arange(12).view(2, 6) + 5
    return model.logits({"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def test_an_error_while_it_is_put_on_leaves_no_trace(monkeypatch):
    model = tiny_model()
    tree, made = order(model.root), []
    update = peft.tuners.lora.LoraLayer.update_layer

    def failing(layer, *args, **kwargs):
        made.append(layer)
        if len(made) % 5 == 0:
            raise RuntimeError("as planned")
        return update(layer, *args, **kwargs)

    monkeypatch.setattr(peft.tuners.lora.LoraLayer, "update_layer", failing)
    with unchanged(model.root), pytest.raises(RuntimeError, match="as planned"):
        LoraAdapter(model)
    assert order(model.root) == tree and len(made) == 5
    monkeypatch.undo()
    with unchanged(model.root):
        first = LoraAdapter(model, 2)
        fill(first)
        live = logits_of_tiny(model)
        monkeypatch.setattr(peft.tuners.lora.LoraLayer, "update_layer", failing)
        with pytest.raises(RuntimeError, match="as planned"):
            LoraAdapter(model)
        assert torch.equal(logits_of_tiny(model), live) and len(made) == 10
        monkeypatch.undo()
        inject = lora_layers.inject_adapter_in_model

        def late(*args, **kwargs):
            inject(*args, **kwargs)  # by now peft has put all other LoRAs to rest
            raise RuntimeError("as planned")

        monkeypatch.setattr(lora_layers, "inject_adapter_in_model", late)
        with pytest.raises(RuntimeError, match="as planned"):
            LoraAdapter(model)
        assert first.live and torch.equal(logits_of_tiny(model), live)
        first.detach()
    assert order(model.root) == tree


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"rank": 0}, "rank=0"),
        ({"rank": 2.0}, "rank=2.0"),
        ({"rank": True}, "rank=True"),
        ({"alpha": 0}, "alpha=0"),
        ({"alpha": float("nan")}, "alpha=nan"),
        ({"alpha": "8"}, "alpha='8'"),
    ],
)
def test_wrong_ranks_are_refused(settings, text):
    root = build("llama")
    with unchanged(root), pytest.raises(ArgumentError, match=text):
        LoraAdapter(root, **settings)


def test_models_that_cannot_be_wrapped_are_refused(tmp_path):
    tiny = tiny_model()
    tiny.tokenizer.save_pretrained(tmp_path)
    tokenizer = type(tiny.tokenizer).from_pretrained(tmp_path)
    bridge = TransformerBridge.boot_transformers(model_name="mini", hf_model=tiny_model().root, tokenizer=tokenizer)
    with pytest.raises(ModelError, match="TransformerBridge"):
        LoraAdapter(bridge)
    compiled = build("llama")
    model = resolve(compiled)
    compiled.model.layers[0].compile()
    with pytest.raises(ModelError, match="torch.compile"):
        LoraAdapter(model)
    wrapped = peft.get_peft_model(build("llama"), peft.LoraConfig(target_modules="all-linear"))
    with unchanged(wrapped), pytest.raises(ModelError, match="PEFT wrapper"):
        LoraAdapter(wrapped)
    injected = peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["q_proj"]), build("llama"))
    with unchanged(injected), pytest.raises(ModelError, match="layer of PEFT"):
        LoraAdapter(injected)
    quantised = build("llama")
    model = resolve(quantised)
    up = quantised.model.layers[0].mlp.up_proj
    up.weight = nn.Parameter(up.weight.detach().to(torch.int8), requires_grad=False)
    with pytest.raises(ModelError, match=r"quantised weights \(model.layers.0.mlp.up_proj.weight"):
        LoraAdapter(model)
    packed = build("llama")
    model = resolve(packed)
    packed.config.quantization_config = {"quant_method": "gptq"}
    with unchanged(packed), pytest.raises(ModelError, match="a quantised model"):
        LoraAdapter(model)
