"""A tiny random-weight model of every supported family, by name. No hub, no files."""

import tokenizers
import torch
import transformers
import transformers as hf

from neuroscope.models.sites import edit

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
ROTARY = dict(SIZES, num_key_value_heads=2, max_position_embeddings=64)
EXPERTS = dict(ROTARY, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

DENSE = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**ROTARY, **TOKENS)),
    "gpt2": lambda: hf.GPT2LMHeadModel(
        hf.GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64, n_inner=48, **TOKENS)
    ),
    "bloom": lambda: hf.BloomForCausalLM(hf.BloomConfig(vocab_size=96, hidden_size=32, n_layer=2, n_head=4, **TOKENS)),
    "neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**SIZES, max_position_embeddings=64, **TOKENS)),
    "opt": lambda: hf.OPTForCausalLM(
        hf.OPTConfig(
            vocab_size=96,
            hidden_size=32,
            ffn_dim=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            word_embed_proj_dim=32,
            **TOKENS,
        )
    ),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**ROTARY, **TOKENS)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**ROTARY, head_dim=8, **TOKENS)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**ROTARY, head_dim=8, **TOKENS)),
    "gemma3": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**ROTARY, head_dim=8, **TOKENS)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**ROTARY, **TOKENS)),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**ROTARY, **TOKENS)),
    "t5": lambda: hf.T5ForConditionalGeneration(
        hf.T5Config(
            vocab_size=96,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            pad_token_id=0,
            eos_token_id=2,
            decoder_start_token_id=0,
        )
    ),
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**SIZES, max_position_embeddings=64, pad_token_id=0)),
    "distilbert": lambda: hf.DistilBertForMaskedLM(
        hf.DistilBertConfig(
            vocab_size=96, dim=32, hidden_dim=48, n_layers=2, n_heads=4, max_position_embeddings=64, pad_token_id=0
        )
    ),
}
MOE = {
    "mixtral": lambda: hf.MixtralForCausalLM(
        hf.MixtralConfig(**ROTARY, num_local_experts=4, num_experts_per_tok=2, **TOKENS)
    ),
    "qwen2-moe": lambda: hf.Qwen2MoeForCausalLM(
        hf.Qwen2MoeConfig(**EXPERTS, shared_expert_intermediate_size=40, **TOKENS)
    ),
    "qwen3-moe": lambda: hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(**EXPERTS, head_dim=8, **TOKENS)),
    "gpt-oss": lambda: hf.GptOssForCausalLM(
        hf.GptOssConfig(**ROTARY, num_local_experts=4, num_experts_per_tok=2, head_dim=8, **TOKENS)
    ),
    "olmoe": lambda: hf.OlmoeForCausalLM(hf.OlmoeConfig(**ROTARY, num_experts=4, num_experts_per_tok=2, **TOKENS)),
}
FAMILIES = DENSE | MOE


def build(name: str, seed: int = 0) -> torch.nn.Module:
    """The family's tiny model in evaluation mode; the global random state is left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = FAMILIES[name]().eval()
        model.config.architectures = [type(model).__name__]
        for parameter in model.parameters():  # defaults are so small that float32 hides every effect
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
            else:
                parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return model


def tokenizer(folder) -> transformers.PreTrainedTokenizerFast:
    """One token per word `w0` .. `w95`, read back from a folder as TransformerLens and nnsight want it."""
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{i}": i for i in range(96)}, unk_token="w3"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "w0", "bos_token": "w1", "eos_token": "w2", "unk_token": "w3"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


def inputs(style: str) -> dict[str, torch.Tensor]:
    """Two examples of nine tokens."""
    ids = torch.arange(18).view(2, 9) * 5 % 91 + 4
    decoder = {"decoder_input_ids": ids[:, :4] + 1} if style == "seq2seq" else {}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | decoder


def thirds(sites, seed: int = 0) -> dict[str, torch.Tensor]:
    """A random third of every site's neurons, by address: the same on every backend."""
    generator = torch.Generator().manual_seed(seed)
    return {a: torch.randperm(s.width, generator=generator)[: s.width // 3].sort().values for a, s in sites.items()}


def ablated(model, unit: str, chosen: dict[str, torch.Tensor], value: float = 0.0) -> torch.Tensor:
    """Log-probabilities while the chosen neurons are held at a value, through the one primitive."""
    sites = model.sites(unit)

    def fill(site, h, tokens):
        return h.index_fill(-1, site.coordinates(chosen[site.address]), value)

    with torch.no_grad(), edit([sites[a] for a in chosen], fill):
        return logprobs(model)


def logprobs(model) -> torch.Tensor:
    """The model's log-probabilities on `inputs`."""
    with torch.no_grad():
        return model.logits(inputs(model.style)).log_softmax(-1)
