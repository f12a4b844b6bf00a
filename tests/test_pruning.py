"""Pruned models: the logits of the ablated one in every family, whole folders, and what cannot be cut is refused."""

import json

import families
import peft
import pytest
import torch
import transformers
from families import DENSE, MOE, build, inputs, logprobs, thirds
from safetensors.torch import load_file
from state import unchanged
from tiny import tiny_model
from transformer_lens.model_bridge import TransformerBridge

import neuroscope as ns
from neuroscope.errors import FileError, MaskError, ModelError
from neuroscope.models import tap_experts
from neuroscope.models.layouts import LAYOUT
from neuroscope.models.skeleton import skeleton

CLOSE = {"atol": 1e-5, "rtol": 0}
PLAIN_HEADS = {"llama", "qwen2", "qwen3", "gemma2", "gemma3", "mistral", "mixtral", "qwen2-moe", "qwen3-moe"}
NO_HEADS = {"bloom", "phi3", "t5", "gpt-oss", "olmoe"}  # alibi, slices and biases by head, norms over heads


def uneven(model, seed=0):
    """A third of the first sites' neurons, a half of the last one's."""
    sites = model.sites("hidden")
    chosen, last = thirds(sites, seed), list(sites)[-1]
    chosen[last] = torch.arange(0, sites[last].width, 2)
    return ns.NeuronMask.of(chosen, model)


def ablated(model, mask):
    with ns.ablate(model, mask):
        return logprobs(model)


def plain(root, folder):
    return type(root).from_pretrained(folder)


def generated(root, style):
    given = {k: v for k, v in inputs(style).items() if not k.startswith("decoder")}
    return root.generate(**given, max_new_tokens=3, do_sample=False, pad_token_id=0)


@pytest.mark.parametrize("name", DENSE)
def test_neurons_are_gone_and_the_logits_are_those_of_the_ablated_model(name, tmp_path):
    model = ns.load(build(name))
    mask = uneven(model)
    expected = ablated(model, mask)
    model.root.save_pretrained(tmp_path / "before")
    with unchanged(model.root):
        small = ns.prune(model, mask)
    assert type(small.root) is type(model.root)
    torch.testing.assert_close(logprobs(small), expected, **CLOSE)
    widths = {a: s.width - len(mask[a]) for a, s in model.sites().items()}
    assert {a: s.width for a, s in small.sites().items()} == widths
    assert not small.is_plain and small.n_parameters == sum(p.numel() for p in small.root.parameters())
    small.save_pretrained(tmp_path / "after")
    loaded = ns.load(tmp_path / "after")
    assert type(loaded.root) is type(model.root) and {a: s.width for a, s in loaded.sites().items()} == widths
    torch.testing.assert_close(logprobs(loaded), expected, **CLOSE)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        plain(model.root, tmp_path / "after")
    if model.style != "masked":
        with ns.ablate(model, mask):
            made = generated(model.root, model.style)
        assert torch.equal(generated(loaded.root, model.style), made)
    sizes = {
        f: {n: t.numel() for n, t in load_file(tmp_path / f / "model.safetensors").items()} for f in ("before", "after")
    }
    saved = sum(sizes["before"].values()) - sum(sizes["after"].values())
    assert saved == sum(p.numel() for p in model.root.parameters()) - small.n_parameters
    files = [(tmp_path / f / "model.safetensors").stat().st_size for f in ("before", "after")]
    assert abs(files[0] - files[1] - 4 * saved) < 512  # the header, whose numbers are shorter


@pytest.mark.parametrize("name", DENSE)
def test_layers_of_one_size_are_plain_for_transformers(name, tmp_path):
    model = ns.load(build(name))
    mask = ns.NeuronMask.of(thirds(model.sites()), model)
    small = ns.prune(model, mask)
    assert small.is_plain == (name != "bloom")  # which has no setting for it
    small.save_pretrained(tmp_path / "out")
    if small.is_plain:
        root = plain(model.root, tmp_path / "out").eval()
        torch.testing.assert_close(logprobs(ns.load(root)), ablated(model, mask), **CLOSE)
    padded = ns.prune(model, uneven(model), pad=True)
    torch.testing.assert_close(logprobs(padded), ablated(model, uneven(model)), **CLOSE)
    assert len({s.width for s in padded.sites().values()}) == 1 and padded.is_plain == small.is_plain
    assert padded.silent[0] == len(uneven(model)) - sum(len(mask[a]) for a in mask)
    assert padded.in_words().count("all layers have one size") == 1


@pytest.mark.parametrize("name", {**DENSE, **MOE})
def test_heads_are_gone_where_the_family_allows_it(name, tmp_path):
    model = ns.load(build(name))
    first, *_, last = model.sites("head")
    mask = ns.NeuronMask.of({first: [0, 1], last: [3]}, model, "head")
    if name in NO_HEADS:
        with unchanged(model.root), pytest.raises(ModelError, match="ns.ablate"):
            ns.prune(model, mask)
        return
    with unchanged(model.root):
        small = ns.prune(model, mask)
    torch.testing.assert_close(logprobs(small), ablated(model, mask), **CLOSE)
    is_grouped = getattr(model.config, "num_key_value_heads", 4) == 2
    assert [s.width for s in small.sites("head").values()] == ([2, 4] if is_grouped else [2, 3])
    assert small.silent[0] == is_grouped  # the third of a group whose fourth is asked for
    small.save_pretrained(tmp_path / "out")
    loaded = ns.load(tmp_path / "out")
    torch.testing.assert_close(logprobs(loaded), ablated(model, mask), **CLOSE)
    if model.style != "masked":
        with ns.ablate(model, mask):
            made = generated(model.root, model.style)
        assert torch.equal(generated(loaded.root, model.style), made)
    even = ns.NeuronMask.of({a: [2, 3] for a in model.sites("head")}, model, "head")
    small = ns.prune(model, even)
    assert small.is_plain == (name in PLAIN_HEADS)
    if small.is_plain:
        small.save_pretrained(tmp_path / "even")
        root = plain(model.root, tmp_path / "even").eval()
        torch.testing.assert_close(logprobs(ns.load(root)), ablated(model, even), **CLOSE)


def test_a_planted_neuron_by_hand():
    """Of y = W_out relu(W_in x + b), the second neuron's row, bias and column are gone, and nothing else."""
    model = ns.load(build("opt"))
    block, small = model.root.model.decoder.layers[1], ns.prune(model, {1: [7]})
    cut = small.root.model.decoder.layers[1]
    stays = [i for i in range(48) if i != 7]
    assert torch.equal(cut.fc1.weight, block.fc1.weight[stays]) and torch.equal(cut.fc1.bias, block.fc1.bias[stays])
    assert torch.equal(cut.fc2.weight, block.fc2.weight[:, stays]) and torch.equal(cut.fc2.bias, block.fc2.bias)
    assert (cut.fc1.out_features, cut.fc2.in_features) == (47, 47)
    assert small.kept["blocks.1.mlp.hook_post"].tolist() == stays
    other = small.root.model.decoder.layers[0].fc1.weight
    assert torch.equal(other, model.root.model.decoder.layers[0].fc1.weight)
    assert other.data_ptr() != model.root.model.decoder.layers[0].fc1.weight.data_ptr()


def test_a_layer_of_which_all_is_asked_for_keeps_one_silent_neuron(tmp_path):
    model = ns.load(build("gpt2"))
    mask = ns.NeuronMask.of({0: range(48), 1: [5]}, model)
    with pytest.warns(UserWarning, match="has all of blocks.0.mlp.hook_post; one neuron stays there"):
        small = ns.prune(model, mask)
    torch.testing.assert_close(logprobs(small), ablated(model, mask), **CLOSE)
    assert [s.width for s in small.sites().values()] == [1, 47] and small.silent[0] == 1
    assert not small.root.transformer.h[0].mlp.c_proj.weight.any()
    heads = ns.NeuronMask.of({0: range(4)}, model, "head")
    with pytest.warns(UserWarning, match="one group of heads stays"):
        small = ns.prune(model, heads)
    torch.testing.assert_close(logprobs(small), ablated(model, heads), **CLOSE)
    for unit, what in (("hidden", "all 96 neurons"), ("head", "all 8 heads")):
        every = ~ns.NeuronMask.of({}, model, unit)
        with pytest.raises(MaskError, match=what):
            ns.prune(model, every)


def test_masks_go_along_and_a_pruned_model_is_pruned_again(tmp_path):
    model = ns.load(build("llama"))
    first, other = uneven(model), uneven(model, seed=1)
    small = ns.prune(model, first)
    taken_along = small.renumbered(other)
    assert len(taken_along) == len(other - first)
    torch.testing.assert_close(ablated(small, taken_along), ablated(model, first | other), **CLOSE)
    with pytest.raises(MaskError, match="of the model before"):
        small.renumbered(taken_along)
    again = ns.prune(small, taken_along)
    torch.testing.assert_close(logprobs(again), ablated(model, first | other), **CLOSE)
    heads = ns.prune(again, ns.NeuronMask.of({0: [0, 1]}, again, "head"))
    heads.save_pretrained(tmp_path / "out")
    loaded = ns.load(tmp_path / "out")
    torch.testing.assert_close(logprobs(loaded), logprobs(heads), **CLOSE)
    assert [s.width for s in loaded.sites("head").values()] == [2, 4]
    bare = skeleton(tmp_path / "out")  # parameters are compared with those of a folder without reading it whole
    assert {a: s.width for a, s in bare.sites().items()} == {a: s.width for a, s in heads.sites().items()}


def test_a_pruned_model_is_tuned_exported_and_used_as_any(tmp_path):
    model = tiny_model()
    examples = [ns.Example("the food was good :", "yes"), ns.Example("the film was bad :", "no")] * 4
    task = ns.Task("t", examples, examples, labels=("yes", "no"))
    mask = ns.attribute(model, task, split="train").top(0.3)
    small = ns.prune(model, ~mask)
    assert small.tokenizer is model.tokenizer and ns.evaluate(small, task).score is not None
    adapter = ns.finetune(small, task, "ffn", steps=2, lr=1e-2)
    with pytest.raises(ModelError, match="export"):
        small.save_pretrained(tmp_path / "no")
    adapter.export(tmp_path / "out")
    loaded = ns.load(tmp_path / "out")
    with torch.no_grad():
        ids = torch.tensor([[1, 7, 8, 9]])
        torch.testing.assert_close(loaded.root(ids).logits, small.root(ids).logits, **CLOSE)
    adapter.merge()
    adapter.detach()
    small.save_pretrained(tmp_path / "merged")
    assert torch.equal(ns.load(tmp_path / "merged").root(ids).logits, small.root(ids).logits)
    small.root.save_pretrained(tmp_path / "by-itself")  # a plain model of transformers
    assert ns.load(tmp_path / "by-itself").fingerprint() == small.fingerprint()


def test_an_intervention_around_the_call_is_not_in_the_pruned_model():
    model = ns.load(build("llama"))
    mask = uneven(model)
    with ns.ablate(model, {0: [1, 2, 3]}):
        small = ns.prune(model, mask)
        inside = logprobs(small)
    torch.testing.assert_close(inside, ablated(model, mask), **CLOSE)


def test_what_cannot_be_cut_is_refused(tmp_path):
    model = ns.load(build("llama"))
    mask = uneven(model)
    for wrong, text in (
        (ns.NeuronMask.of({0: [1]}, model, "output"), "dimensions that all layers share"),
        (ns.NeuronMask.of({}, model), "no neuron in the mask"),
        (ns.NeuronMask.of({0: [1]}, {"blocks.0.mlp.hook_post": 5}), "the model has"),
        (ns.NeuronMask.of({0: [0]}, model, "head"), "share a key-value head"),
    ):
        with unchanged(model.root), pytest.raises(MaskError, match=text):
            ns.prune(model, wrong)
    with pytest.raises(MaskError, match="a layer that loses none"):
        ns.prune(model, {0: [1, 2]}, pad=True)
    adapter = ns.NeuronAdapter(model, mask)
    with pytest.raises(ModelError, match=r"an adapter on the model"):
        ns.prune(model, mask)
    adapter.detach()
    wrapped = ns.load(peft.get_peft_model(build("llama"), peft.LoraConfig(target_modules=["q_proj"])))
    with pytest.raises(ModelError, match="PEFT"):
        ns.prune(wrapped, mask)
    mixture = ns.load(tap_experts(build("mixtral")))
    with pytest.raises(ModelError, match="of a mixture of experts"):
        ns.prune(mixture, [f"{next(iter(mixture.sites()))}.1"])
    words = families.tokenizer(tmp_path)
    bridge = TransformerBridge.boot_transformers("tiny", hf_model=build("llama"), tokenizer=words, device="cpu")
    with pytest.raises(ModelError, match="TransformerBridge"):
        ns.prune(bridge, mask)
    shared = build("llama")
    shared.model.layers[1].mlp.up_proj.weight = shared.model.layers[0].mlp.up_proj.weight
    with pytest.raises(ModelError, match="a parameter of 2 modules"):
        ns.prune(shared, mask)


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    small = ns.prune(ns.load(build("llama")), {0: [1, 2]})
    whole = transformers.LlamaForCausalLM.save_pretrained

    def half(self, folder, **more):
        whole(self, folder, **more)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(transformers.LlamaForCausalLM, "save_pretrained", half)
        with pytest.raises(FileError, match="No space left on device"):
            small.save_pretrained(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    small.save_pretrained(tmp_path / "out")
    assert ns.load(tmp_path / "out").fingerprint() == small.fingerprint()


def test_a_damaged_layout_is_told(tmp_path):
    ns.prune(ns.load(build("llama")), {0: [1, 2]}).save_pretrained(tmp_path / "out")
    path = tmp_path / "out" / "config.json"
    config = json.loads(path.read_text())
    for damaged in (
        3,
        {"shapes": {"model.nothing.weight": [1, 2]}, "settings": {}},
        {"shapes": {}, "settings": {"a": {"b": 1}}},
    ):
        path.write_text(json.dumps(config | {LAYOUT: damaged}))
        with pytest.raises(ModelError, match=r"write the model again|give .mini."):
            ns.load(tmp_path / "out")
