"""A GGUF file opens as the model that it was written from."""

import gguf
import numpy as np
import pytest
import torch
import transformers
from state import unchanged
from tiny import tiny_model

import neuroscope as ns
from neuroscope.errors import ArgumentError, ModelError
from neuroscope.tasks import Example, Task

WIDTH, FFN, HEADS, LAYERS = 32, 64, 4, 2  # blocks of 32 weights are quantised together
NAMES = {  # llama.cpp's name for a block's weights -> transformers'
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def small_llama():
    vocabulary = len(tiny_model().tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=vocabulary, hidden_size=WIDTH, intermediate_size=FFN, num_hidden_layers=LAYERS,
            num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=64, rms_norm_eps=1e-6,
            initializer_range=0.3, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        return transformers.LlamaForCausalLM(config).eval()


def turned(weight):
    """Rows of a projection in the order of llama.cpp's rotary embedding: pairs side by side, not in halves."""
    return weight.reshape(HEADS, 2, -1, WIDTH).swapaxes(1, 2).reshape(weight.shape)


def write(path, root, kind="llama", ffn=gguf.GGMLQuantizationType.F32):
    """A GGUF file as llama.cpp's converter writes it, without a tokenizer; FFN weights of some quantisation."""
    writer = gguf.GGUFWriter(path, kind)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(root.config.vocab_size)
    weights = {name: tensor.numpy() for name, tensor in root.state_dict().items()}
    whole = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    for name, there in whole.items():
        writer.add_tensor(f"{name}.weight", weights[f"{there}.weight"])
    for layer in range(LAYERS):
        for name, there in NAMES.items():
            values = weights[f"model.layers.{layer}.{there}.weight"]
            values = turned(values) if name in ("attn_q", "attn_k") else values
            how = ffn if name.startswith("ffn_") and values.ndim == 2 else gguf.GGMLQuantizationType.F32
            data = gguf.quants.quantize(values, how)
            writer.add_tensor(f"blk.{layer}.{name}.weight", data, raw_dtype=how)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    root = small_llama()
    return root, write(tmp_path_factory.mktemp("gguf") / "model.gguf", root)


def logits(root):
    with torch.no_grad():
        return root(input_ids=torch.arange(12)[None] % 20).logits


def test_the_models_numbers_are_those_it_was_written_from(setting):
    root, path = setting
    model = ns.load(path, tokenizer=tiny_model().tokenizer)
    torch.testing.assert_close(logits(model.root), logits(root), atol=1e-5, rtol=1e-5)
    assert model.name == str(path)
    assert [site.width for site in model.sites().values()] == [FFN] * LAYERS
    assert next(model.root.parameters()).dtype == torch.float32


def test_quantised_weights_are_made_plain(tmp_path):
    root, kind = small_llama(), gguf.GGMLQuantizationType.Q8_0
    model = ns.load(write(tmp_path / "q8.gguf", root, ffn=kind), tokenizer=tiny_model().tokenizer)
    weight = root.model.layers[1].mlp.down_proj.weight.detach().numpy()
    right = gguf.quants.dequantize(gguf.quants.quantize(weight, kind), kind)
    found = model.root.model.layers[1].mlp.down_proj.weight.detach().numpy()
    np.testing.assert_array_equal(found, right)
    assert 0 < np.abs(right - weight).max() < 0.02  # a 254th of the largest of 32 weights


def test_it_saves_and_trains_as_any(setting, tmp_path):
    model = ns.load(setting[1], tokenizer=tiny_model().tokenizer)
    model.root.save_pretrained(tmp_path / "saved")
    again = ns.load(tmp_path / "saved", tokenizer=model.tokenizer)
    assert again.fingerprint() == model.fingerprint()
    task = Task("t", train=[Example("the food was", "good"), Example("the plot was", "bad")], labels=("good", "bad"))
    mask = ns.attribute(model, task).top(0.1)
    adapter = ns.finetune(model, task, mask, steps=2, batch_size=2, lr=0.1)
    assert (logits(model.root) - logits(again.root)).abs().max() > 0
    adapter.detach()


def test_what_cannot_be_read_is_told(setting, tmp_path):
    root, path = setting
    whole = path.read_bytes()
    for name, content in {"half": whole[: len(whole) // 2], "header": whole[:64], "text": b"GGUF", "none": b""}.items():
        (tmp_path / f"{name}.gguf").write_bytes(content)
        with pytest.raises(ModelError, match="give a whole file"):
            ns.load(tmp_path / f"{name}.gguf")
    with pytest.raises(ModelError, match="give a whole file of a family"):
        ns.load(write(tmp_path / "other.gguf", root, kind="unheard-of"))
    for more in ({"device_map": "auto"}, {"revision": "main"}):
        with pytest.raises(ArgumentError, match=next(iter(more))):
            ns.load(path, **more)
    for name in ("./absent.gguf", "absent.GGUF"):
        with pytest.raises(ModelError, match="no such file"):
            ns.load(name)
    (tmp_path / "M.GGUF").write_bytes(whole)
    assert len(ns.load(tmp_path / "M.GGUF", tokenizer=tiny_model().tokenizer).sites()) == LAYERS


@pytest.mark.parametrize("missing", [4, 1000, 4 * WIDTH * FFN])
def test_a_file_that_is_cut_off_in_its_tensors_leaves_nothing_behind(setting, tmp_path, missing):
    root, path = setting
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(path.read_bytes()[:-missing])
    before = torch.get_default_dtype(), torch.get_rng_state().tolist(), torch.is_grad_enabled()
    with unchanged(root), pytest.raises(ModelError, match="give a whole file"):
        ns.load(cut)
    assert before == (torch.get_default_dtype(), torch.get_rng_state().tolist(), torch.is_grad_enabled())
    assert list(tmp_path.iterdir()) == [cut]


def test_a_family_that_transformers_does_not_read_is_told(setting, tmp_path):
    with pytest.raises(ModelError, match=r"(?s)rwkv6.*give a whole file of a family that transformers reads"):
        ns.load(write(tmp_path / "rwkv.gguf", setting[0], kind="rwkv6"))


def test_without_the_package_its_extra_is_named(setting, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'neuroscope\[gguf\]'"):
        ns.load(setting[1])
