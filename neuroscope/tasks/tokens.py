"""What prompts need of a tokenizer: texts in pieces, and the ids with a special role."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from neuroscope.errors import ModelError

if TYPE_CHECKING:
    from neuroscope.models import Model


class Pieces(NamedTuple):
    """A tokenized text: the special tokens that the tokenizer puts before and behind it, and the text's own."""

    prefix: list[int]
    body: list[int]
    suffix: list[int]


def tokenize(tokenizer: Any, texts: Iterable[str], special: bool = True) -> dict[str, Pieces]:
    """Every distinct text in pieces. Special tokens written out in a text belong to its body.

    But for those that begin every text, such as `<s>`: a text that begins with them (as chat templates write it) has
    them once.

    Args:
        special: let the tokenizer put special tokens before and behind.
    """
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        return {}
    asked = {"return_special_tokens_mask": True, "return_attention_mask": False, "verbose": False}
    out = tokenizer(distinct, add_special_tokens=special, **asked)
    return {
        text: _pieces(ids, special)
        for text, ids, special in zip(distinct, out["input_ids"], out["special_tokens_mask"], strict=True)
    }


def _pieces(ids: list[int], special: list[int]) -> Pieces:
    text = [i for i, flag in enumerate(special) if not flag]
    # A text without tokens: a lone start token is a prefix, and of a pair (BERT's [CLS] [SEP]) the second closes.
    start, stop = (text[0], text[-1] + 1) if text else (min(1, len(ids)),) * 2
    prefix, body = list(ids[:start]), list(ids[start:stop])
    if prefix and body[: len(prefix)] == prefix:
        body = body[len(prefix) :]
    return Pieces(prefix, body, list(ids[stop:]))


def words_of(tokenizer: Any, ids: Iterable[int]) -> dict[int, str]:
    """Each distinct token as text, with the space that it begins with."""
    found = {}
    for i in dict.fromkeys(map(int, ids)):
        piece, text = str(tokenizer.convert_ids_to_tokens(i)), str(tokenizer.decode([i]))
        found[i] = f" {text}" if piece[:1] in ("Ġ", "▁") and not text.startswith(" ") else text
    return found


def tokenizer_of(model: Model) -> Any:
    """The model's tokenizer; a `ModelError` if it has none."""
    if model.tokenizer is None:
        raise ModelError(f"turn text into tokens for {model.name!r}", "no tokenizer", "ns.load(model, tokenizer=...)")
    return model.tokenizer


def unknown_id(tokenizer: Any) -> int:
    """The id that stands for what the tokenizer does not know; -1 where it knows all (GPT-2's is its end of text)."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    return -1 if unknown in (None, tokenizer.bos_token_id, tokenizer.eos_token_id) else int(unknown)


def unknown_in(tokenizer: Any, ids: Iterable[int]) -> dict[str, Any]:
    """How often it is among ids, and how it is shown, for a manifest; empty where it is not."""
    unknown = unknown_id(tokenizer)
    count = 0 if unknown < 0 else sum(int(i) == unknown for i in ids)
    return {"token": words_of(tokenizer, [unknown])[unknown].strip(), "count": count} if count else {}


def end_ids(tokenizer: Any, wanted: bool, closing: str = "") -> list[int]:
    """What ends an answer, where that is wanted: what closes it in a chat, else the end-of-text token."""
    if not wanted:
        return []
    if closing:
        return list(tokenizer(closing, add_special_tokens=False)["input_ids"])
    if tokenizer.eos_token_id is None:
        raise ModelError("end=True", "a tokenizer without an end-of-text token", "set its eos_token, or use end=False")
    return [int(tokenizer.eos_token_id)]


def decoder_start(model: Model) -> int:
    """The id that a decoder starts from."""
    config = getattr(model.root, "config", None)
    for source in (config, getattr(model.root, "generation_config", None)):
        start = getattr(source, "decoder_start_token_id", None)
        if start is not None:
            return int(start)
    raise ModelError("start the decoder", "no decoder_start_token_id in the model's config", "set it in model.config")
