"""How an answer is judged: a table of functions of the model's text and the accepted answers, each 0 to 1."""

from __future__ import annotations

import functools
import random
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

# letters of scripts that put no spaces between words: Thai, Lao, Myanmar, Khmer, kana, Han
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def accuracy(prediction: str, references: Sequence[str]) -> float:
    """1 where the chosen label is the right one."""
    return float(prediction in references)


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 where the text equals a reference, up to case, Unicode form and whitespace (runs of it count as one space).

    Example:
        >>> exact_match(" The  end", ["the end", "fin"])
        1.0
    """
    return float(_plain(prediction) in {_plain(reference) for reference in references})


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L F-measure (Lin 2004) against the nearest reference, over lower-cased words of any script, no stemming.

    A word is a run of letters, marks and digits, and every character of a script that is written without spaces. On
    plain English these are the words of Google's rouge_score, whose own rule knows no letters but a to z.

    Example:
        >>> round(rouge_l("the cat sat", ["the cat"]), 3)  # the longest common subsequence is 2 of 3 and 2 of 2 words
        0.8
    """
    if exact_match(prediction, references):  # also texts without words
        return 1.0
    scorer = _scorer()
    return max(float(scorer.score(reference, prediction)["rougeL"].fmeasure) for reference in references)


# How log-likelihoods of labels are compared: each is divided by this, of the label's text and its number of tokens.
RANKINGS: dict[str, Callable[[str, int], int]] = {
    "sum": lambda text, tokens: 1,  # lm-evaluation-harness' acc
    "token": lambda text, tokens: tokens,
    "character": lambda text, tokens: len(text),  # its acc_norm
}
METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "accuracy": accuracy,
    "exact": exact_match,
    "rouge-l": rouge_l,
}


class Words:
    """Cut texts into words, for rouge_score.

    Example:
        >>> Words().tokenize("The 3 cats, हिन्दी 日本 3 яблока")
        ['the', '3', 'cats', 'हिन्दी', '日', '本', '3', 'яблока']
    """

    def tokenize(self, text: str) -> list[str]:
        """The words, in order."""
        words: list[str] = []
        goes_on = False  # whether the last word does
        for c in _normal(text):
            if unicodedata.category(c).startswith("M") and words:
                words[-1] += c  # a mark belongs to the letter before it
                continue
            stands_alone = UNSPACED.match(c) is not None
            if c.isalnum() and goes_on and not stands_alone:
                words[-1] += c
            elif c.isalnum():
                words.append(c)
            goes_on = c.isalnum() and not stands_alone
        return words


def _plain(text: str) -> str:
    return " ".join(_normal(text).split())


def _normal(text: str) -> str:
    """One form of what reads the same: composed or not, of any width, in any case, with or without invisible marks."""
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in unicodedata.normalize("NFKC", folded) if unicodedata.category(c) != "Cf")


@functools.cache
def _scorer() -> Any:
    state = random.getstate()
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk, which draws from the global random state

    random.setstate(state)
    return RougeScorer(["rougeL"], use_stemmer=False, tokenizer=Words())
