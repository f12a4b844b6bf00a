"""What a fingerprint and a manifest say of a model that is not as it was: adapters, buffers, hooks, scopes."""

import copy
import dataclasses
import functools
import json
import os
import subprocess
import sys

import peft
import pytest
import tokenizers
import torch
import transformers
from families import ROTARY, TOKENS, build
from test_fingerprints import TASKS
from tiny import tiny_model, tiny_tokenizer
from torch import nn

import neuroscope as ns
from neuroscope.errors import ArgumentError, FileError, ModelError
from neuroscope.models import fingerprints
from neuroscope.models.fingerprints import fingerprint
from neuroscope.reports.cached_scores import cached_scores
from neuroscope.training import NeuronAdapter

IDS = torch.arange(1, 9)[None]
TASK = TASKS["one"]


def logits(root):
    with torch.no_grad():
        return root(input_ids=IDS).logits


def differ(root, change):
    """Whether logits and fingerprint differ after a change; both do, or neither."""
    before, digits = logits(root), fingerprint(root)
    change(root)
    moved = not torch.equal(logits(root), before)
    assert (fingerprint(root) != digits) == moved
    return moved


TARGETS = ["q_proj", "down_proj"]
KINDS = {
    "lora": peft.LoraConfig(target_modules=TARGETS, init_lora_weights=False),
    "dora": peft.LoraConfig(target_modules=TARGETS, init_lora_weights=False, use_dora=True),
    "modules_to_save": peft.LoraConfig(target_modules=TARGETS, init_lora_weights=False, modules_to_save=["lm_head"]),
    "ia3": peft.IA3Config(target_modules=TARGETS, feedforward_modules=["down_proj"], init_ia3_weights=False),
    "loha": peft.LoHaConfig(target_modules=TARGETS, init_weights=False),
    "lokr": peft.LoKrConfig(target_modules=TARGETS, init_weights=False),
    "vera": peft.VeraConfig(target_modules=["q_proj"], init_weights=False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_that_is_switched_off_is_another_model(kind):
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(build("llama"), KINDS[kind]).eval()
    digits, on = fingerprint(wrapped), logits(wrapped)
    with wrapped.disable_adapter():
        assert not torch.equal(logits(wrapped), on) and fingerprint(wrapped) != digits
    assert torch.equal(logits(wrapped), on) and fingerprint(wrapped) == digits


def scaled(root):
    for module in root.modules():
        if hasattr(module, "lora_A"):
            module.scaling["default"] *= 2


@pytest.mark.parametrize("change", [lambda root: root.disable_adapters(), scaled])
def test_adapters_of_transformers(change):
    root = build("llama")
    root.add_adapter(KINDS["lora"])
    assert differ(root.eval(), change)


def rescaled(root):
    root.get_input_embeddings().embed_scale.mul_(0.5)


def capped(root):
    root.config.final_logit_softcapping = 0.5


def relu(root):
    for layer in root.model.layers:
        layer.mlp.act_fn = torch.nn.ReLU()


def named(root):
    root.config._name_or_path, root.config.pad_token_id, root.config.use_cache = "elsewhere", 3, False


def test_buffers_settings_and_activation_functions():
    for change in (rescaled, capped, relu):
        assert differ(build("gemma3" if change is rescaled else "gemma2").eval(), change)
    assert not differ(build("llama").eval(), named)


@dataclasses.dataclass
class Settings:
    power: int = 1


class Scaled(nn.Module):
    """A block of one's own, with settings of every kind and a state that its forward writes."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(32, 32, bias=False)
        self.scale, self.top_k, self.mode, self.span, self.settings = 1.0, 8, "sum", (0, 8), Settings()
        self.act = torch.relu
        self.calls, self.last, self.log, self.cache = 0, 0.0, [], {}
        self.cache_path, self.device = "/tmp", "cpu"

    def count(self, x):
        self.last = float(x.sum())

    def forward(self, x):
        self.calls += 1
        self.count(x)
        self.log.append(self.calls)
        self.cache["x"] = self.calls
        y = self.act(self.inner(x)) ** self.settings.power * self.scale
        y = torch.where(torch.arange(32) < self.top_k, y, 0) * (1 if self.mode == "sum" else 0.5)
        return y * (torch.arange(32) >= self.span[0])


class WithBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.block, self.head = nn.Embedding(96, 32), Scaled(), nn.Linear(32, 96)

    def forward(self, input_ids):
        return transformers.modeling_outputs.CausalLMOutput(logits=self.head(self.block(self.embed(input_ids))))


def own(change):
    torch.manual_seed(0)
    model = WithBlock().eval()
    return differ(model, lambda root: change(root.block))


def doubled(x):
    return 2 * x


@pytest.mark.parametrize(
    ("name", "value"),
    [("scale", 2), ("scale", 1.5), ("top_k", 2), ("mode", "mean"), ("span", (3, 8)), ("settings", Settings(2)),
     ("act", torch.tanh), ("act", functools.partial(torch.clamp, max=0.01)), ("act", doubled),
     ("act", lambda x: 3 * x)],
)  # fmt: skip
def test_settings_of_ones_own_modules(name, value):
    assert own(lambda block: setattr(block, name, value))


def test_what_is_no_setting_of_ones_own_modules():
    """Counters, logs and caches, which passes change by themselves; where files and devices are."""
    assert not own(lambda block: vars(block).update(calls=99, last=1.0, log=[1], cache={"a": 1}))
    assert not own(lambda block: vars(block).update(cache_path="/home", device="cuda", _private=3))
    assert not own(lambda block: vars(block).update(steering=torch.ones(3)))  # not read, as the docstring says


def test_functions_that_differ_in_their_constants_alone():
    found = [own_fingerprint(lambda x: 2 * x), own_fingerprint(lambda x: 3 * x), own_fingerprint(lambda x: 2 * x)]
    assert found[0] == found[2] != found[1]


def own_fingerprint(act):
    torch.manual_seed(0)
    model = WithBlock()
    model.block.act = act
    return fingerprint(model)


def zeroed(x):
    return torch.zeros_like(x)


@pytest.mark.parametrize("place", ["instance", "class"])
def test_a_forward_that_was_replaced(place, monkeypatch):
    root = build("llama")
    mlp = root.model.layers[0].mlp
    new = zeroed if place == "instance" else lambda self, x: zeroed(x)
    assert differ(root, lambda root: monkeypatch.setattr(mlp if place == "instance" else type(mlp), "forward", new))
    assert fingerprint(root) == fingerprint(copy.deepcopy(root))
    monkeypatch.undo()
    assert fingerprint(root) == fingerprint(build("llama"))


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_rotary_frequencies_that_were_changed(family):
    def changed(root):
        names = [n for n, _ in root.named_buffers() if n.endswith("inv_freq") and "original" not in n]
        for name in names:
            root.get_buffer(name).mul_(0.5)

    assert differ(build(family), changed)
    assert not differ(build(family), lambda root: root.model.rotary_emb.to(torch.float32))


def test_frequencies_that_a_pass_exchanges_are_no_change():
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    config = transformers.Phi3Config(**ROTARY, **TOKENS, rope_parameters=rope, original_max_position_embeddings=8)
    root = transformers.Phi3ForCausalLM(config).eval()
    digits = fingerprint(root)
    root(torch.arange(20)[None])
    assert fingerprint(root) == digits


class MyLlama(transformers.LlamaForCausalLM):
    """A class of one's own of transformers' parts."""


def test_the_fingerprint_of_a_saved_model_of_ones_own_class(tmp_path):
    root = MyLlama(build("llama").config).eval()
    root.save_pretrained(tmp_path)
    again = MyLlama.from_pretrained(tmp_path)
    again.gradient_checkpointing_enable()
    assert fingerprint(again) == fingerprint(root) == fingerprint(copy.deepcopy(root))


def test_settings_are_read_the_same_in_every_process():
    code = "from test_strangers_state import own_fingerprint, doubled; print(own_fingerprint(doubled))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert said.stdout.split()[-1] == own_fingerprint(doubled)


def test_packed_weights():
    def quantised(seed):
        torch.manual_seed(seed)
        return torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(torch.nn.Linear(4, 4)), dtype=torch.qint8)

    assert fingerprint(quantised(0)) == fingerprint(quantised(0)) != fingerprint(quantised(1))
    root, wide = quantised(0), torch.nn.Linear(100, 100)
    root.append(torch.ao.nn.quantized.dynamic.Linear(100, 100))
    with fingerprints.read_once(root):  # unpacked anew each time, so that no change is missed
        digits = fingerprint(root)
        assert fingerprint(root) == digits
        changed = torch.quantize_per_tensor(wide.weight.detach().clone().mul_(0).index_fill_(0, torch.tensor([3]), 0.1),
                                            0.01, 0, torch.qint8)  # fmt: skip
        root[1].set_weight_bias(changed, None)
        assert fingerprint(root) != digits


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "t5", "bert", "gpt-oss"])
def test_the_fingerprint_of_a_saved_model_is_the_same(family, tmp_path):
    root = build(family)
    root.save_pretrained(tmp_path)
    again = type(root).from_pretrained(tmp_path)
    assert fingerprint(again) == fingerprint(root) == fingerprint(copy.deepcopy(root))


def test_a_manifest_names_what_is_live():
    model = ns.load(tiny_model().root, tokenizer=tiny_model().tokenizer)
    mask = ns.attribute(model, TASK).top(0.2)
    assert ns.evaluate(model, TASK).manifest["interventions"] == []
    said = set()
    for scope in (
        ns.ablate(model, mask), ns.ablate(model, ~mask), ns.ablate(model, mask, value="mean"), ns.scale(model, mask, 2),
        ns.scale(model, mask, 3), ns.add(model, mask, mask.means), ns.patch(model, mask, source="the food was good"),
        ns.patch(model, mask, source="the food was bad"),
    ):  # fmt: skip
        with scope:
            said.add(str(live := model.provenance()["interventions"]))
            assert len(live) == 1
    assert len(said) == 8
    with ns.ablate(model, mask), ns.scale(model, mask, 2):
        live = ns.attribute(model, TASK).manifest["interventions"]
    assert [text.split(" of ")[0] for text in live] == ["ablate(value='zero')", "scale by 2.0"]
    with ns.ablate(tiny_model(), mask):
        assert model.provenance()["interventions"] == []
    model.root.lm_head.register_forward_hook(lambda module, args, output: 2 * output)
    (live,) = model.provenance()["interventions"]
    assert live.startswith("a hook on lm_head: test_strangers_state.")


def test_a_folder_resumed_inside_a_scope(tmp_path):
    model = tiny_model()
    task = ns.Task("one", train=TASKS["two"].train, test=TASK.test, labels=TASK.labels)
    scores = cached_scores(model, {"one": task}, tmp_path)["one"]
    mask = scores.top(0.2)
    plain = ns.experiments.deactivation(model, {"one": task}, {"one": mask}, n_random=3, output=tmp_path)
    with ns.ablate(model, scores.top(0.6)):
        with pytest.raises(FileError, match="interventions"):
            cached_scores(model, {"one": task}, tmp_path)
        inside = ns.experiments.deactivation(model, {"one": task}, {"one": mask}, n_random=3, output=tmp_path)
        fresh = ns.experiments.deactivation(model, {"one": task}, {"one": mask}, n_random=3)
    assert inside.table.equals(fresh.table) and not inside.table.equals(plain.table)


def test_means_of_another_model():
    model, other = tiny_model(), tiny_model(seed=1)
    mask = ns.attribute(model, TASK).top(0.2)
    ns.ablate(model, mask, value="mean").on().off()
    with pytest.raises(ArgumentError, match=r"means of another model.*(?s:.*)data="):
        ns.ablate(other, mask, value="mean")
    ns.ablate(other, mask, value="mean", data=TASK).on().off()


def test_patching_refuses_what_it_would_not_patch():
    model = tiny_model()
    mask = ns.attribute(model, TASK).top(0.5)
    ids, padded = torch.tensor([[4, 5, 6, 7], [4, 5, 6, 8]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    for attention, wrong, right in ((padded, 0, -1), (padded.flip(1), -1, 0)):
        with ns.patch(model, mask, source=ids[:1], positions=[wrong]), pytest.raises(ArgumentError, match="padded"):
            model.root(input_ids=ids, attention_mask=attention)
        with pytest.raises(ArgumentError, match="padded"):
            ns.patch(model, mask, source={"input_ids": ids, "attention_mask": attention}, positions=[wrong])
        with ns.patch(model, mask, source=ids[:1], positions=[right]):
            model.root(input_ids=ids, attention_mask=attention)
    cache = model.root(input_ids=ids, use_cache=True).past_key_values
    with ns.patch(model, mask, source=ids[:1]), pytest.raises(ArgumentError, match="cache of 4 tokens"):
        model.root(input_ids=ids, past_key_values=cache)


def test_a_detached_adapter(tmp_path):
    model = tiny_model()
    adapter = NeuronAdapter(model, ns.attribute(model, TASK).top(0.2))
    adapter.detach()
    for call in (adapter.merge, lambda: setattr(adapter, "scale", 2), lambda: adapter.export(tmp_path / "x"),
                 lambda: adapter.alone().__enter__()):  # fmt: skip
        with pytest.raises(ModelError, match="detached"):
            call()


def test_training_that_cannot_be_as_asked(tmp_path):
    model = tiny_model()
    mask = ns.attribute(model, TASK).top(0.2)
    for name in ("report_to", "push_to_hub", "disable_tqdm"):
        with pytest.raises(ArgumentError, match=name):
            ns.finetune(model, TASK, mask, arguments={name: True})
    with pytest.raises(ArgumentError, match="no step would be made"):
        ns.finetune(model, TASK, mask, batch_size=16, epochs=1, arguments={"dataloader_drop_last": True})
    ns.finetune(model, TASK, mask, steps=2, every=1, batch_size=4, output=tmp_path).detach()
    state = tmp_path / "checkpoint-2" / "optimizer.pt"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(FileError, match="optimizer"):
        ns.finetune(model, TASK, mask, steps=2, every=1, batch_size=4, output=tmp_path, resume_from_checkpoint=True)


def test_options_of_a_method_that_is_not_run():
    for asked in ({"options": {"ewc": {}}}, {"lrs": {"ncft": 1e-3, "ewc": 1e-3}}):
        with pytest.raises(ArgumentError, match="of 'ewc'"):
            ns.experiments.continual_comparison(tiny_model(), TASKS, methods=["ncft"], **asked)


def test_settings_of_layers_with_weights_and_of_decoders():
    """What no tensor shows: an epsilon, the token that a decoder starts from, a factor on the logits."""
    norm = lambda eps: nn.Sequential(nn.LayerNorm(4, eps=eps), nn.Linear(4, 4))  # noqa: E731
    one, other = norm(1e-5), norm(1.0)
    other.load_state_dict(one.state_dict())
    assert fingerprint(one) != fingerprint(other) != fingerprint(norm(1.0))
    model = tiny_model("seq2seq")
    before = model.fingerprint()
    for name, value in (("decoder_start_token_id", 3), ("output_multiplier", 2.0)):
        had = getattr(model.config, name, None)
        setattr(model.config, name, value)
        assert model.fingerprint() != before, name
        setattr(model.config, name, had) if had is not None else delattr(model.config, name)
    model.config.output_hidden_states = True
    assert model.fingerprint() == before


def test_another_tokenizer_is_another_identity(tmp_path):
    """The same weights and texts, other tokens: a folder's outcomes are measured again, not taken over."""
    model = tiny_model()
    tokenizer = tiny_tokenizer()
    vocabulary = tokenizer.get_vocab()
    swapped = json.loads(tokenizer.backend_tokenizer.to_str())
    words = swapped["model"]["vocab"]
    words["good"], words["bad"] = words["bad"], words["good"]
    other = ns.load(model.root, tokenizer=tokenizers.Tokenizer.from_str(json.dumps(swapped)))
    assert vocabulary.keys() == other.tokenizer.get_vocab().keys()
    assert other.fingerprint() == model.fingerprint() and other.identity() != model.identity()
    tokenizer(["a", "b c"], padding=True, truncation=True, max_length=1)  # leaves its settings on the tokenizer
    assert ns.load(model.root, tokenizer=tokenizer).identity() == model.identity()
