"""`generate`: what a model writes after prompts, beside transformers' own generation and edits made by hand."""

import nnsight
import pytest
import tokenizers
import torch
import transformers
from test_one_prompt import TEMPLATE
from tiny import tiny_model, tiny_tokenizer
from transformer_lens.model_bridge import TransformerBridge

import neuroscope as ns
from neuroscope.errors import ArgumentError, ModelError

PROMPTS = ["the food was", "good plot", "so so so awful the story", "bad"]


def by_hand(model, prompt, new=6, **how):
    """One prompt alone, in transformers' own generation; what follows up to the end-of-text token."""
    ids = model.tokenizer(prompt, return_tensors="pt", **how).input_ids
    config = transformers.GenerationConfig(
        max_new_tokens=new, do_sample=False, pad_token_id=0, eos_token_id=2, decoder_start_token_id=0
    )
    out = model.root.generate(ids, generation_config=config)[0].tolist()
    made = out[1:] if model.style == "seq2seq" else out[ids.shape[1] :]
    return model.tokenizer.decode(made[: made.index(2)] if 2 in made else made, skip_special_tokens=True)


@pytest.mark.parametrize("style", ["causal", "seq2seq"])
def test_what_follows_a_prompt_is_what_transformers_makes_of_it_alone(style):
    model = tiny_model(style)
    expected = [by_hand(model, prompt) for prompt in PROMPTS]
    for size in (None, 1, 3):
        found = ns.generate(model, PROMPTS, max_new_tokens=6, batch_size=size)
        assert [text.split() for text in found] == [text.split() for text in expected]
    assert len(set(expected)) > 1
    assert ns.generate(model, PROMPTS[1], 6).split() == expected[1].split()


def test_the_same_however_a_model_is_opened_and_with_neurons_off(tmp_path):
    model = tiny_model()
    tiny_tokenizer().save_pretrained(tmp_path)
    words = transformers.AutoTokenizer.from_pretrained(tmp_path)
    before = ns.generate(model, PROMPTS, 6)
    off = {0: range(0, 48, 2), 1: range(48)}
    hooks = [
        layer.mlp.down_proj.register_forward_pre_hook(lambda _, x, ids=ids: (x[0].index_fill(-1, ids, 0.0),))
        for layer, ids in zip(model.root.model.layers, (torch.arange(0, 48, 2), torch.arange(48)), strict=True)
    ]
    expected = ns.generate(model, PROMPTS, 6)
    for hook in hooks:
        hook.remove()
    assert expected != before
    bridge = TransformerBridge.boot_transformers("tiny", hf_model=tiny_model().root, tokenizer=words, device="cpu")
    for root in (model.root, bridge, nnsight.NNsight(tiny_model().root)):
        opened = ns.load(root, tokenizer=words)
        assert ns.generate(opened, PROMPTS, 6) == before
        with ns.ablate(opened, off):
            assert ns.generate(opened, PROMPTS, 6) == expected
        assert ns.generate(opened, PROMPTS, 6) == before


def test_a_chat_goes_on_after_its_template_and_ends_where_the_template_closes():
    model = tiny_model()
    model.tokenizer.chat_template = TEMPLATE
    chats = [
        [{"role": "user", "content": "bad plot"}],
        [{"role": "system", "content": "so"}, {"role": "user", "content": "the food"}],
    ]
    shown = ["Review : bad plot Answer :", "story : so Review : the food Answer :"]
    expected = [by_hand(model, text, add_special_tokens=False).split() for text in shown]
    assert [text.split() for text in ns.generate(model, chats, 6)] == expected
    assert ns.generate(model, chats[0], 6).split() == expected[0]
    closing = expected[0][2]  # now also what the template writes behind each answer, though not behind the user
    said = "{{ m['role'] == 'assistant' and '" + closing + "' or '' }}"
    model.tokenizer.chat_template = TEMPLATE.replace("{% endfor %}", said + "{% endfor %}")
    first = expected[0].index(closing)
    text = "good plot"  # beside the chat, and ended by nothing
    found = ns.generate(model, [text, chats[0]], 6)
    assert found[0] == ns.generate(model, text, 6) and found[1].split() == expected[0][:first]


def test_a_chat_may_say_again_what_was_said():
    model = tiny_model()
    model.tokenizer.chat_template = TEMPLATE
    user = {"role": "user", "content": "the food"}
    chat = [user, {"role": "assistant", "content": "good"}, user]
    shown = "Review : the food Answer : good Review : the food Answer :"
    assert ns.generate(model, chat, 6).split() == by_hand(model, shown, add_special_tokens=False).split()
    assert ns.attribute(model, chat, answer="good").manifest["shown"][""][:11] == shown.split()[:11]


def test_a_prompt_is_shown_as_it_is_written():
    mini = ns.load("mini")
    ids = mini.tokenizer("a\n b ")["input_ids"]
    seen = []
    hook = mini.embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].tolist()))
    try:
        ns.generate(mini, "a\n b ", 1)
    finally:
        hook.remove()
    assert seen[0] == [ids]


def spaced_model(model):
    """The same with a tokenizer as SentencePiece's: without special tokens, and spaces in the tokens."""
    vocabulary = {(word if word.startswith("<") else f"▁{word}"): i for word, i in model.tokenizer.get_vocab().items()}
    spaced = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    spaced.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    spaced.decoder = tokenizers.decoders.Metaspace()
    names = {
        "pad_token": "<pad>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    return ns.load(model.root, tokenizer=transformers.PreTrainedTokenizerFast(tokenizer_object=spaced, **names))


def test_the_space_between_prompt_and_text_is_kept():
    """SentencePiece's decoders drop a text's first space, also that of a text which goes on."""
    model = tiny_model()
    other = spaced_model(model)
    made = ns.generate(other, "good plot", 6)
    assert made == " " + by_hand(model, "good plot", add_special_tokens=False).lstrip() and len(made.split()) > 1


WRONG = {
    "nothing": ([], ArgumentError, "no prompt"),
    "a number": (3, ArgumentError, "prompts"),
    "a number among texts": (["the", 3], ArgumentError, r"prompts\[1\]"),
    "bytes": (b"the food", ArgumentError, "prompts"),
    "too long": (["the", "food " * 60], ArgumentError, r"prompts\[1\].*61 tokens and 20 new ones.*shorter"),
    "a chat without a template": ([{"role": "user", "content": "the"}], ModelError, "template"),
    "messages in no order": ([{"role": "assistant", "content": "the"}], ArgumentError, "roles"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_gone_on_from(case):
    prompts, kind, said = WRONG[case]
    with pytest.raises(kind, match=f"(?s){said}"):
        ns.generate(tiny_model(), prompts)


def test_no_room_and_no_such_model():
    with pytest.raises(ArgumentError, match="max_new_tokens"):
        ns.generate(tiny_model(), "the", max_new_tokens=0)
    with pytest.raises(ModelError, match="masked"):
        ns.generate(tiny_model("masked"), "the")
    with pytest.raises(ModelError, match="no tokenizer"):
        ns.generate(ns.load(tiny_model().root), "the")
    small = transformers.BartConfig(
        vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=16,
        decoder_start_token_id=2,
    )  # fmt: skip
    bart = ns.load(transformers.BartForConditionalGeneration(small), tokenizer=tiny_tokenizer("seq2seq"))
    assert isinstance(ns.generate(bart, "the", 15), str)
    with pytest.raises(ArgumentError, match="16 new ones, for a context of 16"):
        ns.generate(bart, "the", 16)


def test_a_text_of_nothing_goes_on_from_the_start_token_alone():
    model = tiny_model()
    assert ns.generate(model, "", 6).split() == by_hand(model, "").split()
    with pytest.raises(ArgumentError, match="prompts=''(.|\n)*no tokens"):
        ns.generate(spaced_model(model), "")
