"""What strangers train: linear layers that are none, plain saving with an adapter on, a second adapter on the first."""

import copy
import pickle
import warnings
from dataclasses import replace

import peft
import pytest
import torch
import transformers
from families import build
from sequences import A, B
from state import unchanged
from test_adapter import fill, logits, mask_of
from tiny import tiny_model
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, weight_norm

from neuroscope.errors import FileError, ModelError
from neuroscope.models import load, resolve
from neuroscope.training import LoraAdapter, NeuronAdapter, WholeModel, finetune, train


class Quantising(nn.Linear):
    """A BitLinear: -1, 0 or 1 times one scale, rounded anew from the weights whenever it is called."""

    def forward(self, x):
        scale = self.weight.abs().mean()
        return functional.linear(x, (self.weight / scale).round().clamp(-1, 1) * scale, self.bias)


class BiasTwice(nn.Linear):
    def forward(self, x):
        return super().forward(x) + self.bias


class Noisy(nn.Linear):
    """Counts its calls and draws, which a trial must not do to the model."""

    def __init__(self, *args):
        super().__init__(*args)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return super().forward(x) + torch.rand(())


class Shifted(nn.Linear):
    """Adds a number of its own: a change of the weights is still a change of the output."""

    def __init__(self, inputs, outputs, bias):
        super().__init__(inputs, outputs, bias=False)
        self.shift = nn.Parameter(torch.randn(outputs))

    def forward(self, x):
        return functional.linear(x, self.weight) + self.shift


class Named(nn.Linear):
    def forward(self, x):
        return super().forward(x)


def replaced(family, name, cls):
    """A tiny model whose linear layers of that name are of another class, with the same weights."""
    root = build(family)
    for module in list(root.modules()):
        if name in module._modules:
            old = module._modules[name]
            new = cls(old.in_features, old.out_features, old.bias is not None)
            new.load_state_dict(old.state_dict(), strict=False)
            module._modules[name] = new
    return root


def normalised(family, name, way):
    root = build(family)
    with warnings.catch_warnings(action="ignore"):
        for path, module in root.named_modules():
            if path.endswith(name):
                way(module)
    return root


COMPUTED, OTHER = "whose weight is computed from other parameters", r"whose output is not x W\^T \+ b"
REFUSED = {
    "weight_norm": (lambda: normalised("opt", ("fc1", "fc2"), weight_norm), "hidden", f"fc1.*{COMPUTED}"),
    "parametrized fc1": (lambda: normalised("opt", "fc1", parametrizations.weight_norm), "hidden", f"fc1.*{COMPUTED}"),
    "parametrized fc2": (lambda: normalised("opt", "fc2", parametrizations.weight_norm), "hidden", f"fc2.*{COMPUTED}"),
    "spectral": (lambda: normalised("opt", "fc2", parametrizations.spectral_norm), "output", f"fc2.*{COMPUTED}"),
    # a part of every neuron, which was left out without a word
    "up": (lambda: normalised("llama", "up_proj", parametrizations.weight_norm), "hidden", f"up_proj.*{COMPUTED}"),
    "BitLinear fc1": (lambda: replaced("opt", "fc1", Quantising), "hidden", rf"fc1 \(a Quantising\), {OTHER}"),
    "BitLinear fc2": (lambda: replaced("opt", "fc2", Quantising), "hidden", rf"fc2 \(a Quantising\), {OTHER}"),
    "BitLinear output": (lambda: replaced("opt", "fc2", Quantising), "output", rf"fc2 \(a Quantising\), {OTHER}"),
    "BitLinear gate": (lambda: replaced("llama", "gate_proj", Quantising), "hidden", f"gate_proj.*{OTHER}"),
    "BitLinear up": (lambda: replaced("llama", "up_proj", Quantising), "hidden", f"up_proj.*{OTHER}"),
    "bias twice": (lambda: replaced("opt", "fc2", BiasTwice), "output", f"fc2.*{OTHER}"),
    "noise": (lambda: replaced("opt", "fc2", Noisy), "hidden", f"fc2.*{OTHER}"),
    "not found": (lambda: replaced("opt", "fc1", Shifted), "hidden", "weights were not found in linear layers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_layers_that_a_change_would_not_reach_are_refused_and_nothing_is_left(case):
    make, unit, text = REFUSED[case]
    model = resolve(make())
    mask = mask_of(model, unit)
    for _ in range(2):  # and again: nothing has piled up
        with unchanged(model.root), pytest.raises(ModelError, match=f"(?s){text}"):
            NeuronAdapter(model, mask)
    assert "save_pretrained" not in vars(model.root)


@pytest.mark.parametrize(
    ("name", "cls", "unit"),
    [("fc1", Named, "hidden"), ("fc2", Named, "output"), ("fc2", Shifted, "hidden"), ("fc2", Shifted, "output")],
)
def test_subclasses_that_compute_the_same_are_trained(name, cls, unit):
    model = resolve(replaced("opt", name, cls))
    base, adapter = logits(model), NeuronAdapter(model, mask_of(model, unit))
    fill(adapter)
    live = logits(model)
    assert float((live - base).abs().max()) > 1e-2
    adapter.merge()
    torch.testing.assert_close(logits(model), live, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_trial_of_a_layer_knows_its_dtype(dtype):
    NeuronAdapter(m := resolve(replaced("opt", "fc2", Named).to(dtype)), mask_of(m)).detach()
    with pytest.raises(ModelError, match=OTHER):
        NeuronAdapter(m := resolve(replaced("opt", "fc2", Quantising).to(dtype)), mask_of(m))


def test_an_error_in_the_middle_of_construction_takes_back_what_was_put_on(monkeypatch):
    model = resolve(build("llama"))
    hook, calls = nn.Module.register_forward_hook, []

    def failing(module, *args, **kwargs):
        calls.append(module)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return hook(module, *args, **kwargs)

    mask = mask_of(model)
    with unchanged(model.root), pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(nn.Module, "register_forward_hook", failing)
        NeuronAdapter(model, mask)
    assert len(calls) == 4


# --- save_pretrained


def reloaded(root, folder):
    return resolve(type(root).from_pretrained(folder))


def test_save_pretrained_refuses_while_an_adapter_is_live_and_writes_what_is_merged(tmp_path):
    model = resolve(build("llama"))
    base, adapter = logits(model), NeuronAdapter(model, mask_of(model))
    fill(adapter)
    for root in (model.root, copy.deepcopy(model.root)):
        with pytest.raises(ModelError, match=r"(?s)an adapter on the model.*merge\(\) first, or its export"):
            root.save_pretrained(tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    adapter.export(tmp_path / "exported")
    adapter.merge()
    model.root.save_pretrained(tmp_path / "merged")
    for folder in ("exported", "merged"):
        assert torch.equal(logits(reloaded(model.root, tmp_path / folder)), logits(model))
        loading = type(model.root).from_pretrained(tmp_path / folder, output_loading_info=True)[1]
        assert not any(loading["unexpected_keys"]) and not any(loading["missing_keys"])
    adapter.unmerge()
    adapter.detach()
    model.root.save_pretrained(tmp_path / "base")
    assert torch.equal(logits(reloaded(model.root, tmp_path / "base")), base)
    assert "save_pretrained" not in vars(model.root)
    pickle.loads(pickle.dumps(model.root))


def test_save_pretrained_refuses_with_a_lora_on(tmp_path):
    model = tiny_model()
    first, second = LoraAdapter(model), LoraAdapter(model)
    for lora in (first, second):
        with pytest.raises(ModelError, match=r"(?s)a LoRA on the model.*save\(path\), or detach"):
            model.root.save_pretrained(tmp_path / "refused")
        lora.detach()
    model.root.save_pretrained(tmp_path / "base")
    assert isinstance(model.root, transformers.PreTrainedModel) and (tmp_path / "base").exists()


# --- a second one


def test_a_second_finetune_says_that_it_is_trained_on_top():
    model = tiny_model()
    short = {"steps": 1, "batch_size": 4}
    first = finetune(model, A, "ffn", **short)
    with pytest.warns(UserWarning, match=r"has an adapter on it, and this one is trained on top") as seen:
        second = finetune(model, B, "ffn", **short)
    assert seen[0].filename == __file__
    with pytest.raises(ModelError, match="an adapter on the model"):
        WholeModel(model)
    second.detach()
    first.merge()  # on purpose: no warning
    finetune(model, B, "ffn", **short).detach()


# --- copies and full disks


def test_a_pickled_model_has_its_adapter(tmp_path):
    model = resolve(build("llama"))
    base, adapter = logits(model), NeuronAdapter(model, mask_of(model))
    fill(adapter)
    torch.save(model.root, tmp_path / "model.pt")
    for copied in (pickle.loads(pickle.dumps(model.root)), torch.load(tmp_path / "model.pt", weights_only=False)):
        assert torch.equal(logits(resolve(copied)), logits(model))
        assert not torch.equal(logits(resolve(copied)), base)
    adapter.detach()
    assert torch.equal(logits(model), base)


def test_an_export_onto_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    model = resolve(build("llama"))
    adapter = NeuronAdapter(model, mask_of(model))
    fill(adapter)
    changed = logits(model)
    whole = transformers.LlamaForCausalLM.save_pretrained

    def half(self, folder, **more):
        whole(self, folder, **more)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(transformers.LlamaForCausalLM, "save_pretrained", half)
        with pytest.raises(FileError, match="No space left on device"):
            adapter.export(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(logits(model), changed)
    adapter.export(tmp_path / "out")
    assert {"config.json", "model.safetensors"} <= {path.name for path in (tmp_path / "out").iterdir()}
    torch.testing.assert_close(logits(reloaded(model.root, tmp_path / "out")), changed, atol=1e-5, rtol=1e-5)


def test_adapters_of_transformers_are_refused_as_wrappers_are():
    for put_on, text in ((peft.get_peft_model, "a PEFT wrapper"), (by_transformers, "that transformers put on")):
        model = tiny_model()
        adapted = load(put_on(model.root, peft.LoraConfig(target_modules=["up_proj"])), tokenizer=model.tokenizer)
        with unchanged(adapted.root), pytest.raises(ModelError, match=text):
            finetune(adapted, A, "ffn", steps=1, batch_size=2)


def by_transformers(root, config):
    root.add_adapter(config)
    return root


def test_the_state_of_a_model_with_a_live_adapter_is_refused_but_in_training():
    model = resolve(build("llama"))
    keys, adapter = list(model.root.state_dict()), NeuronAdapter(model, mask_of(model))
    fill(adapter)
    for root in (model.root, copy.deepcopy(model.root)):
        with pytest.raises(ModelError, match=r"(?s)an adapter on it.*export\(folder\), its merge\(\) first, or detach"):
            root.state_dict()
    with adapter.alone():  # for FSDP, and checkpoints of one's own loop
        assert len(model.root.state_dict()) > len(keys)
    adapter.merge()
    other = build("llama")
    other.load_state_dict(model.root.state_dict(), strict=False)
    assert torch.equal(logits(resolve(other)), logits(model))
    adapter.unmerge()
    adapter.detach()
    assert list(model.root.state_dict()) == keys


INJECTED = {
    "lora": peft.LoraConfig(target_modules=["down_proj", "q_proj"], init_lora_weights=False),
    "ia3": peft.IA3Config(target_modules=["down_proj"], feedforward_modules=["down_proj"], init_ia3_weights=False),
}


@pytest.mark.parametrize("kind", INJECTED)
@pytest.mark.parametrize("way", ["adapter", "ffn", "whole", "lora"])
def test_layers_that_peft_injected_are_refused(kind, way):
    base = tiny_model()
    mask = mask_of(base)
    model = load(peft.inject_adapter_in_model(INJECTED[kind], base.root), tokenizer=base.tokenizer)
    ways = {
        "adapter": lambda: NeuronAdapter(model, mask),
        "ffn": lambda: finetune(model, A, "ffn", steps=1),
        "whole": lambda: finetune(model, A, None, steps=1),
        "lora": lambda: LoraAdapter(model),
    }
    with unchanged(model.root), pytest.raises(ModelError, match=r"layer of PEFT in the place(.|\n)*merge_and_unload"):
        ways[way]()


def test_neurons_are_trained_under_a_lora_of_ours():
    model = tiny_model()
    lora = LoraAdapter(model)
    before = [p.detach().clone() for p in lora.parameters()]
    adapter = NeuronAdapter(model, mask_of(model))
    train(adapter, A, {"steps": 2})
    assert any(bool(p.any()) for p in adapter.parameters())
    assert all(torch.equal(p, was) for p, was in zip(lora.parameters(), before, strict=True))
    adapter.detach()
    lora.detach()


@pytest.mark.parametrize("mask", ["ffn", None])
def test_a_run_resumed_with_another_template_or_tokenizer_is_refused(mask, tmp_path):
    model = load(tiny_model().root, tokenizer=tiny_model().tokenizer)
    model.tokenizer.chat_template = "{% for m in messages %}{{ m.content }} : {% endfor %}"
    task = replace(A, chat=True)
    settings = {"steps": 2, "every": 1, "batch_size": 2, "dev": 0.0}
    finetune(model, task, mask, output=tmp_path, **settings).detach()

    def resumed(tokenizer):
        again = load(tiny_model().root, tokenizer=tokenizer)
        finetune(again, task, mask, output=tmp_path, resume_from_checkpoint=True, **settings).detach()

    other = copy.deepcopy(model.tokenizer)
    other.chat_template = "{% for m in messages %}Review {{ m.content }} : {% endfor %}"
    with pytest.raises(FileError, match="another run: tasks"):
        resumed(other)
    grown = copy.deepcopy(model.tokenizer)
    grown.add_tokens(["neuroscope"])
    with pytest.raises(FileError, match="another run: tokenizer"):
        resumed(grown)
    resumed(copy.deepcopy(model.tokenizer))
