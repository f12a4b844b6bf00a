"""The words of the mini suite: about 210, each one token of the bundled model's tokenizer."""

from dataclasses import dataclass

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
ARROW = "=>"  # ends every prompt

POSITIVE = ("great", "good", "lovely", "superb", "perfect", "excellent")
NEGATIVE = ("bad", "awful", "poor", "terrible", "dreadful", "horrid")
PLAIN = ("red", "green", "blue", "white", "round", "square", "local", "foreign", "plain", "rare", "famous", "common")
FILLER = ("the", "a", "then", "with", "and", "or", "some", "also")
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
# Past tense -> base form; the past tense serves as the participle too ("was sold by").
VERBS = {
    "sold": "sell",
    "bought": "buy",
    "made": "make",
    "found": "find",
    "kept": "keep",
    "lost": "lose",
    "praised": "praise",
    "loved": "love",
    "ordered": "order",
    "shared": "share",
}
NUMBERS = {
    "1": "one",
    "2": "two",
    "3": "three",
    "4": "four",
    "5": "five",
    "6": "six",
    "7": "seven",
    "8": "eight",
    "9": "nine",
    "10": "ten",
}
# The first word of each family's prompts, the labels, and the words between (of prompts; of answers or fields).
KEYWORDS = ("sentiment", "same", "infer", "summarize", "question", "describe")
LABELS = ("positive", "negative", "yes", "no", "entailment", "contradiction", "neutral")
LINKS = ("were", "not", "truly", "never", "|", "was", "by", "on", "answer")
LINKS_OUT = ("who", "what", "did", "?", "name", "item", "price", "offers", "for", "dollars")


@dataclass(frozen=True)
class Domain:
    """The content words of one domain."""

    nouns: tuple[str, ...]
    names: tuple[str, ...]
    positive: tuple[str, ...]
    negative: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


DOMAINS = {
    "food": Domain(
        nouns=_words(
            "soup salad toast bread cheese pasta rice stew curry pizza "
            "steak salmon cake pie omelette burger taco risotto broth sandwich"
        ),
        names=_words("chef baker cook waiter butcher grocer farmer brewer host guest taster vendor"),
        positive=(*POSITIVE, "tasty", "delicious", "fresh"),
        negative=(*NEGATIVE, "stale", "bland", "soggy"),
    ),
    "film": Domain(
        nouns=_words(
            "comedy drama thriller western musical sequel trailer script scene plot "
            "remake cartoon documentary epic mystery romance satire biopic prequel anthology"
        ),
        names=_words("actor director critic producer writer editor dancer singer agent usher composer animator"),
        positive=(*POSITIVE, "gripping", "moving", "witty"),
        negative=(*NEGATIVE, "boring", "dull", "clumsy"),
    ),
}


def vocabulary() -> list[str]:
    """Every token in the order of its id: the special ones first.

    Example:
        >>> vocabulary()[:5], len(vocabulary()) == len(set(vocabulary()))
        (['<pad>', '<s>', '</s>', '<unk>', '=>'], True)
    """
    groups = [SPECIAL, (ARROW,), KEYWORDS, LABELS, LINKS, LINKS_OUT, FILLER, PLAIN, DAYS]
    groups += [tuple(table) for table in (VERBS, NUMBERS)] + [tuple(table.values()) for table in (VERBS, NUMBERS)]
    groups += [words for d in DOMAINS.values() for words in (d.nouns, d.names, d.positive, d.negative)]
    return list(dict.fromkeys(word for group in groups for word in group))  # the domains share some words
