"""Texts that no task is made of: what they are for a model, and how they become tokens of which each is scored once.

A model's neutral texts are the user's own, or the first of these whose every word its tokenizer knows:

1. `ENGLISH`: plain sentences on everyday facts.
2. Solved examples of the bundled suite, for the bundled model, whose toy language has no text but its tasks: the prompt
   is given, and the answer scored, as that model was trained. Beside a task, only those of other families are neutral.

By the model's style, the tokens scored are:

- causal: all, each after those before it (without a start token, all but the first).
- masked: all, each with itself alone masked (pseudo-log-likelihood, Salazar et al. 2020).
- seq2seq: those of the second half, which the decoder is to write where the encoder reads the first (prefix language
  modelling, Raffel et al. 2020, section 3.2.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from neuroscope import files
from neuroscope.errors import ArgumentError, ModelError
from neuroscope.models import Model
from neuroscope.tasks.encoding import Encoded
from neuroscope.tasks.mini import NAMES, distinct, mini_stream
from neuroscope.tasks.tokens import Pieces, decoder_start, tokenize, tokenizer_of, unknown_id

ENGLISH = (
    "Water turns into ice when the temperature falls below zero degrees.",
    "The sun rises in the east and sets in the west.",
    "A week has seven days, and a year has twelve months.",
    "Bread is made from flour, water, salt and yeast.",
    "The train leaves the station every morning at eight o'clock.",
    "Paris is the capital of France, and Rome is the capital of Italy.",
    "Bees collect nectar from flowers and turn it into honey.",
    "She put the keys on the table and closed the door.",
    "The river flows down from the mountains to the sea.",
    "Most trees lose their leaves in autumn and grow new ones in spring.",
    "A triangle has three sides, and a square has four.",
    "The children walk to school along the main road.",
    "Iron is a metal that rusts when it gets wet.",
    "He opened the window to let some fresh air into the room.",
    "The moon goes around the earth about once a month.",
    "Cows eat grass, and farmers milk them twice a day.",
    "The library is on the second floor, next to the stairs.",
    "Light travels much faster than sound.",
    "They planted tomatoes and beans in the garden behind the house.",
    "A doctor works in a hospital, and a teacher works in a school.",
    "The shop opens at nine in the morning and closes at six in the evening.",
    "Wool comes from sheep, and cotton comes from a plant.",
    "The heart pumps blood through the whole body.",
    "In winter the days are short and the nights are long.",
)
OF_EACH = 2  # solved examples of each bundled task


@dataclass(frozen=True)
class Text:
    """A neutral text: what is scored; what is read before it, and not scored; the family of tasks that it is from."""

    scored: str
    given: str = ""
    family: str = ""


@dataclass(frozen=True)
class Neutral:
    """Neutral texts, tokenized for one model, to be scored under many interventions.

    Attributes:
        texts: as they are.
        kind: what they are, in words.
        rows: what the model is shown: one row per text; masked models have one per token.
        owners: of each row, the place of its text.
        batch_size: rows per forward pass; None: as many as make up a number of tokens.
    """

    texts: tuple[Text, ...]
    kind: str
    rows: tuple[Encoded, ...]
    owners: tuple[int, ...]
    batch_size: int | None = None

    @property
    def digest(self) -> str:
        """What tells these texts from others."""
        return files.digest(*self.texts)

    def manifest(self) -> dict[str, Any]:
        """What a manifest says of them."""
        return {"texts": self.kind, "n": len(self.texts), "hash": self.digest}

    def beside(self, family: str) -> list[int]:
        """The places of the texts that are neutral beside tasks of a family: those of no family, or of another."""
        return [i for i, text in enumerate(self.texts) if not text.family or text.family != family]


def prepare_neutral(
    model: Model, texts: Sequence[str] | None = None, batch_size: int | None = None, name: str = "texts"
) -> Neutral:
    """Tokenize the user's texts, or the model's own neutral ones, once.

    Args:
        name: of the argument by which the user gave them.

    Raises:
        ArgumentError: no text, or one that has nothing to score, words that the tokenizer does not know, or more tokens
            than the model's context.
        ModelError: the model has no tokenizer, or it knows none of the texts that are there for any model.
    """
    chosen, kind = _own(model, name) if texts is None else (tuple(map(Text, texts)), "given")
    if not chosen:
        raise ArgumentError(
            f"{name} to measure the loss on", "none", "give one or more, or None for those of the model"
        )
    rows = [(i, row) for i, text in enumerate(chosen) for row in _rows(model, text, f"{name}[{i}]")]
    model.check_ids(max(token for _, row in rows for token in (*row.inputs, *row.answer, *row.decoder)))
    return Neutral(chosen, kind, tuple(row for _, row in rows), tuple(i for i, _ in rows), batch_size)


def bundled() -> tuple[Text, ...]:
    """Solved examples of the bundled suite, the same at every call."""
    return tuple(
        Text(example.answer, example.prompt, name.split("-")[0])
        for name in NAMES
        for example in distinct(mini_stream(name, "test"), OF_EACH, f"test prompts of {name}")
    )


def _own(model: Model, name: str) -> tuple[tuple[Text, ...], str]:
    """The neutral texts of a model whose user gives none, and what they are."""
    tokenizer = tokenizer_of(model)
    english = tuple(map(Text, ENGLISH))
    for texts, kind in ((english, "English sentences"), (bundled(), "answers to the bundled tasks")):
        pieces = tokenize(tokenizer, [part for text in texts for part in (text.given, text.scored) if part])
        if all(unknown_id(tokenizer) not in piece.body for piece in pieces.values()):
            return texts, kind
    found = "a tokenizer that does not know the words of plain English, nor those of the bundled tasks"
    raise ModelError(f"neutral texts for {model.name}", found, f"give {name}=[...] in the model's own language")


def _rows(model: Model, text: Text, name: str) -> Iterator[Encoded]:
    """A text as rows in which each token that is scored is scored once."""
    tokenizer = tokenizer_of(model)
    whole = f"{text.given} {text.scored}" if text.given else text.scored
    pieces = tokenize(tokenizer, [text.given, whole])
    prefix, body, suffix = pieces[whole]
    asked = f"the loss on {name}, {whole[:60]!r}"
    if unknown_id(tokenizer) in body:
        found = "a word that the model's tokenizer does not know"
        raise ArgumentError(asked, found, "give texts in the model's own language, or leave that one out")
    start = len(pieces[text.given].body) if text.given else 0
    rows = list(STYLES[model.style](model, Pieces(prefix, body, suffix), start))
    if not any(row.answer for row in rows):
        found = f"{len(body)} token(s), none of which has anything before it"
        raise ArgumentError(asked, found, "give longer texts")
    longest = max(max(len(row.inputs), len(row.decoder)) for row in rows)
    if model.context is not None and longest > model.context:
        found = f"{longest} tokens, for a context of {model.context}"
        raise ArgumentError(asked, found, "give shorter texts, or cut them into several")
    yield from rows


def _causal(model: Model, text: Pieces, start: int) -> Iterator[Encoded]:
    tokens = text.prefix + text.body
    first = max(1, len(text.prefix) + start)
    yield Encoded(tokens[:-1], tokens[first:], first - 1)


def _masked(model: Model, text: Pieces, start: int) -> Iterator[Encoded]:
    mask = model.tokenizer.mask_token_id
    if mask is None:
        raise ModelError(
            "score tokens under a mask", "a tokenizer without a mask token", "use the model's own tokenizer"
        )
    tokens = text.prefix + text.body + text.suffix
    for i in range(len(text.prefix) + start, len(text.prefix) + len(text.body)):
        yield Encoded([*tokens[:i], mask, *tokens[i + 1 :]], [tokens[i]], i)


def _seq2seq(model: Model, text: Pieces, start: int) -> Iterator[Encoded]:
    half = start or (len(text.body) + 1) // 2
    answer = text.body[half:]
    yield Encoded(text.prefix + text.body[:half] + text.suffix, answer, 0, [decoder_start(model), *answer[:-1]])


STYLES = {"causal": _causal, "masked": _masked, "seq2seq": _seq2seq}
