"""What a fingerprint and a manifest say of a model that is not as it was: adapters, buffers, hooks, scopes."""

import copy
import json

import peft
import pytest
import tokenizers
import torch
from families import build
from test_fingerprints import TASKS
from tiny import tiny_model, tiny_tokenizer
from torch import nn

import neuroscope as ns
from neuroscope.errors import ArgumentError, FileError, ModelError
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


def test_packed_weights():
    def quantised(seed):
        torch.manual_seed(seed)
        return torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(torch.nn.Linear(4, 4)), dtype=torch.qint8)

    assert fingerprint(quantised(0)) == fingerprint(quantised(0)) != fingerprint(quantised(1))


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
