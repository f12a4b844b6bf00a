"""What strangers give to `ns.load`: models that see ahead, wrappers, files, tokenizers, quantised layers."""

import copy

import families
import pytest
import tokenizers
import torch
import transformers as hf
from families import ROTARY, SIZES, TOKENS, build
from tiny import tiny_model, tiny_tokenizer
from torch import nn

import neuroscope as ns
from neuroscope.models import bundled

BERT = dict(SIZES, max_position_embeddings=16, pad_token_id=1, initializer_range=0.3)
TASK = ns.Task(
    "t", train=[ns.Example("the food was good", "yes"), ns.Example("a film was bad", "no")],
    test=[ns.Example("the food was bad", "yes")], labels=("yes", "no"),
)  # fmt: skip


def drawn(kind, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(kind.config_class(**settings)).eval()


GEMMA = dict(ROTARY, **TOKENS, head_dim=8, use_bidirectional_attention=True)
SEES_AHEAD = {
    "RobertaForCausalLM": BERT,
    "BertLMHeadModel": BERT,
    "XLNetLMHeadModel": {"vocab_size": 96, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
    "XLMWithLMHeadModel": {"vocab_size": 96, "emb_dim": 32, "n_layers": 2, "n_heads": 4},
    "LlamaForCausalLM": dict(ROTARY, **TOKENS, is_causal=False),
    "Gemma3ForCausalLM": GEMMA,
}


@pytest.mark.parametrize("name", SEES_AHEAD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_sees_what_comes_later_is_not_taken_for_causal(name, dtype):
    root = drawn(getattr(hf, name), **SEES_AHEAD[name])
    for parameter in root.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    root.to(dtype)
    with pytest.raises(ns.NeuroscopeError, match="not causal: a later token moves the logits of earlier ones"):
        ns.load(root)


@pytest.mark.parametrize("name", ["BertLMHeadModel", "RobertaForCausalLM", "BertGenerationDecoder"])
def test_the_advice_for_a_model_that_sees_ahead_helps(name):
    assert ns.load(drawn(getattr(hf, name), **BERT, is_decoder=True)).style == "causal"


@pytest.mark.parametrize("name", families.FAMILIES)
def test_families_in_half_precision_are_causal(name):
    assert ns.load(build(name).to(torch.bfloat16)).root.dtype == torch.bfloat16


OFFSET = {
    "CamembertForMaskedLM": {},
    "XLMRobertaForMaskedLM": {},
    "MPNetForMaskedLM": {},
    "Data2VecTextForCausalLM": {"is_decoder": True},
    "LongformerForMaskedLM": {"attention_window": 4},
    "EsmForMaskedLM": {"position_embedding_type": "absolute", "mask_token_id": 4},
}


@pytest.mark.parametrize("name", OFFSET)
def test_the_context_is_what_fits_where_positions_begin_after_the_padding(name):
    model = ns.load(drawn(getattr(hf, name), **BERT, **OFFSET[name]))
    ids = torch.full((1, model.context), 5)
    assert model.context == 14
    assert model.logits({"input_ids": ids, "attention_mask": torch.ones_like(ids)}).shape[1] == 14


def test_a_context_of_minus_one_is_none():
    root = build("llama")
    root.config.max_position_embeddings = -1
    assert ns.load(root).context is None


def held(kind):
    root = build("llama")
    if kind == "pipeline":
        return hf.pipeline("text-generation", model=root, tokenizer=tiny_tokenizer())
    holders = {
        "DataParallel": lambda: nn.DataParallel(root),
        "average": lambda: torch.optim.swa_utils.AveragedModel(root),
        "pair": lambda: (root, tiny_tokenizer()),
        "class": lambda: hf.LlamaForCausalLM,
        "configuration": lambda: root.config,
        "state": root.state_dict,
    }
    return holders[kind]()


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("DataParallel", r"open its \.module"),
        ("average", r"open its \.module"),
        ("pipeline", r"open its \.model"),
        ("pair", r"ns\.load\(model, tokenizer=tokenizer\)"),
        ("class", r"LlamaForCausalLM\.from_pretrained"),
        ("configuration", "a LlamaConfig, not a model"),
        ("state", "a dict of \\d+ Tensors, not a model"),
    ],
)
def test_what_holds_a_model_is_told_what_to_open(kind, text):
    with pytest.raises(ns.NeuroscopeError, match=text):
        ns.load(held(kind))


def test_what_cannot_run_is_told_by_its_own_error():
    root = build("llama")
    for layer in root.model.layers:
        layer.mlp.down_proj.weight.data = layer.mlp.down_proj.weight.data.to(torch.float8_e4m3fn)
    with pytest.raises(ns.NeuroscopeError, match=r"ends in RuntimeError: (.|\n)*Float8(.|\n)*float32 or bfloat16"):
        ns.load(root)
    with pytest.raises(ns.NeuroscopeError, match="ends in ValueError: Input language unknown"):
        ns.load(drawn(hf.XmodForMaskedLM, **BERT))


def test_two_ffns_in_a_block_are_named_by_hand():
    root = drawn(hf.XmodForMaskedLM, **BERT, default_language="en_XX")
    with pytest.raises(ns.NeuroscopeError, match=r"two FFNs in one block(.|\n)*sites="):
        ns.load(root)
    assert len(ns.load(root, sites={"hidden": "roberta.encoder.layer.{layer}.output.dense"}).sites()) == 2


def test_weights_without_data_are_told_at_every_use():
    model = tiny_model()
    model.root.to("meta")
    for use in (ns.evaluate, ns.attribute):
        with pytest.raises(ns.NeuroscopeError, match=r"embed_tokens\.weight without data: offloaded"):
            use(model, TASK)
    assert "on meta" in repr(model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor")
def test_gradients_do_not_pass_quantised_layers():
    for part in ({nn.Linear}, {"model.layers.0.self_attn.q_proj"}):
        root = torch.ao.quantization.quantize_dynamic(tiny_model().root, part, dtype=torch.qint8)
        model = ns.load(root, tokenizer=tiny_tokenizer())
        for method in ("grad-x-act", "integrated-gradients", "relp"):
            with pytest.raises(ns.NeuroscopeError, match="quantised, through which no gradient passes"):
                ns.attribute(model, TASK, method=method)
        assert all(v.abs().sum() > 0 for v in ns.attribute(model, TASK, method="activation").values())


# --- names and files


def test_names_of_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own").symlink_to(bundled("mini"))
    (tmp_path / "m.gguf").write_text("GGUF")
    (tmp_path / "m.safetensors").write_text("")
    assert ns.load("~/own").sites().keys() == ns.load("./own").sites().keys()
    for name, text in {
        "m.gguf": "give a whole file",
        "~/m.safetensors": "a file(.|\n)*the folder that holds config.json",
        "~/none": "no such folder",
        "Mini": "did you mean 'mini'",
        "mimi": "did you mean 'mini'",
    }.items():
        with pytest.raises(ns.NeuroscopeError, match=text):
            ns.load(name)


def test_a_folder_called_as_the_bundled_model_is_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini").mkdir()
    ns.load("mini")  # no model in it
    (tmp_path / "mini" / "config.json").write_text("{}")
    with pytest.warns(UserWarning, match=r"'\./mini'"):
        ns.load("mini")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, "bf16", "int8", None, 3])
def test_a_dtype_that_no_model_has_is_told_as_such(dtype):
    with pytest.raises(ns.NeuroscopeError, match="no such dtype(.|\n)*'bfloat16'"):
        ns.load("mini", dtype=dtype)


# --- tokenizers


def test_tokenizers_by_name_and_of_the_tokenizers_library(tmp_path):
    words = tiny_tokenizer()
    words.save_pretrained(tmp_path)
    root = tiny_model().root
    scores = ns.evaluate(ns.load(root, tokenizer=words), TASK).table
    for other in (tmp_path, str(tmp_path), words.backend_tokenizer):
        assert ns.evaluate(ns.load(root, tokenizer=other), TASK).table.equals(scores)
    assert ns.load(root, tokenizer="mini").tokenizer.vocab_size == ns.load("mini").tokenizer.vocab_size


@pytest.mark.parametrize("tokenizer", [5, str.split, {"a": 1}, tokenizers.models.WordLevel, "./none", nn.Linear(2, 2)])
@pytest.mark.parametrize("model", ["mini", "opened", "torch"])
def test_what_is_no_tokenizer_is_refused(tokenizer, model):
    given = {"mini": "mini", "opened": tiny_model(), "torch": tiny_model().root}[model]
    with pytest.raises(ns.NeuroscopeError, match="tokenizer="):
        ns.load(given, tokenizer=tokenizer)


# --- modules of one's own


class Bare(hf.LlamaForCausalLM):
    """Takes token ids and a mask, and gives logits: all that is needed."""

    def forward(self, input_ids, attention_mask):
        return super().forward(input_ids, attention_mask).logits


def test_a_module_that_takes_no_labels_is_trained_as_one_that_does():
    known = tiny_model()
    own = Bare(known.root.config).eval()
    own.load_state_dict(known.root.state_dict())
    own = ns.load(own, tokenizer=known.tokenizer)
    mask = ns.attribute(known, TASK).top(0.1)
    assert ns.attribute(own, TASK).top(0.1) == mask
    settings = {"steps": 3, "batch_size": 2, "lr": 1e-2}
    adapters = [ns.finetune(model, TASK, mask, **settings) for model in (known, own)]
    for a, b in zip(*(adapter.parameters() for adapter in adapters), strict=True):
        assert a.abs().max() > 1e-3 and torch.allclose(a, b, atol=1e-6)
    assert copy.deepcopy(own).fingerprint() == own.fingerprint()
