"""A random-weight model of two layers of each style, its tokenizer, and texts to cut examples from."""

import tokenizers
import torch
import transformers

from neuroscope.models import load

TINY_SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
TINY_TEMPLATES = {"causal": "<s> $A", "seq2seq": "$A </s>", "masked": "<s> $A </s>"}
TINY_WORDS = ["the", "a", "food", "film", "was", "very", "so", "not", "good", "bad", "great", "awful", "story", "plot"]
TINY_WORDS += ["soup", ":", "Answer", "Review", "yes", "no", "maybe"]

# a text to cut examples from
WORDS = [
    "the",
    "food",
    "was",
    "very",
    "good",
    "so",
    "the",
    "film",
    "was",
    "not",
    "a",
    "great",
    "story",
    "and",
    "the",
    "plot",
    "was",
    "awful",
]


def tiny_tokenizer(style="causal"):
    """One token per word, special tokens around the text as the style has it."""
    vocabulary = {word: i for i, word in enumerate(TINY_SPECIAL + TINY_WORDS)}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    words.post_processor = tokenizers.processors.TemplateProcessing(
        single=TINY_TEMPLATES[style], special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token", "mask_token"), TINY_SPECIAL, strict=True))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, **names)


def tiny_model(style="causal", seed=0):
    """A random-weight Llama, T5 or BERT of two layers; deterministic, and far from uniform in its choices."""
    size = len(TINY_SPECIAL + TINY_WORDS)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if style == "causal":
            config = transformers.LlamaConfig(
                vocab_size=size,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=64,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
                initializer_range=0.3,
            )
            root = transformers.LlamaForCausalLM(config)
        elif style == "seq2seq":
            root = transformers.T5ForConditionalGeneration(
                transformers.T5Config(
                    vocab_size=size,
                    d_model=32,
                    d_kv=8,
                    d_ff=48,
                    num_layers=2,
                    num_heads=4,
                    initializer_factor=2.0,
                    pad_token_id=0,
                    eos_token_id=2,
                    decoder_start_token_id=0,
                )
            )
        else:
            root = transformers.BertForMaskedLM(
                transformers.BertConfig(
                    vocab_size=size,
                    hidden_size=32,
                    intermediate_size=48,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                    max_position_embeddings=64,
                    pad_token_id=0,
                    initializer_range=0.3,
                )
            )
    return load(root.eval(), tokenizer=tiny_tokenizer(style))
