"""The mini suite: twelve toy tasks (six families x two domains) that mirror the table of tasks of LX24.

Classification: sentiment, paraphrase, nli. Generation: summary, question, data2text. Every sentence is made of
single-token English words, so that the bundled 1M-parameter model solves all of them on one CPU. The examples are
drawn from a seed; which split a prompt belongs to depends on the prompt alone, so no seed ever moves a test prompt into
training.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Any

from neuroscope.checks import public, whole
from neuroscope.errors import TaskError, choose
from neuroscope.tasks.example import Example
from neuroscope.tasks.mini_words import (
    ARROW,
    DAYS,
    DOMAINS,
    FILLER,
    NUMBERS,
    PLAIN,
    SPECIAL,
    VERBS,
    Domain,
    vocabulary,
)
from neuroscope.tasks.task import Kind, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Words = list[str]
Drawn = tuple[Words, Words, Words, Words]  # prompt, answer, corrupt prompt, its answer
CONTEXT = 64  # tokens the bundled model can read
TRIES = 500  # draws per wanted example before a split counts as exhausted


def sentiment(domain: Domain, rng: Random) -> Drawn:
    """Do most of one to three adjectives praise? "not" before them turns the verdict round."""
    nouns, negated, praise = rng.sample(domain.nouns, 2), rng.random() < 0.4, rng.random() < 0.5
    leading, other = (domain.positive, domain.negative) if praise else (domain.negative, domain.positive)
    votes = rng.choice([(1, 0), (2, 0), (3, 0), (2, 1), (2, 1)])
    adjectives = rng.sample(leading, votes[0]) + rng.sample(other, votes[1])
    rng.shuffle(adjectives)
    flipped = list(adjectives)
    turn = rng.random() < 0.5  # corrupt the "not", or as many leading adjectives as it takes
    changed = 0 if turn else {(1, 0): 1, (2, 0): 2, (3, 0): 2, (2, 1): 1}[votes]
    for i in rng.sample([i for i, word in enumerate(adjectives) if word in leading], changed):
        flipped[i] = rng.choice([word for word in other if word not in flipped])

    def sentence(negated: bool, adjectives: Words) -> Words:
        return ["sentiment", "the", nouns[0], "and", nouns[1], "were", "not" if negated else "truly", *adjectives]

    verdict = ["negative", "positive"]
    label = praise != negated
    return sentence(negated, adjectives), [verdict[label]], sentence(negated != turn, flipped), [verdict[not label]]


def _two_facts(domain: Domain, rng: Random) -> tuple[Words, Words]:
    """Who did what to which noun, and another such fact: at least three of the four words differ."""
    pools = [domain.names, tuple(VERBS), PLAIN, domain.nouns]
    first = [rng.choice(pool) for pool in pools]
    second = [rng.choice([word for word in pool if word != old]) for pool, old in zip(pools, first, strict=True)]
    if rng.random() < 0.3:
        i = rng.randrange(4)
        second[i] = first[i]
    return first, second


def paraphrase(domain: Domain, rng: Random) -> Drawn:
    """Does a passive sentence say the same as the active one before it?"""
    first, second = _two_facts(domain, rng)

    def pair(name: str, verb: str, adjective: str, noun: str) -> Words:
        return ["same", *first, "|", adjective, noun, "was", verb, "by", name]

    same, differ = (pair(*first), ["yes"]), (pair(*second), ["no"])
    return (*same, *differ) if rng.random() < 0.5 else (*differ, *same)


def nli(domain: Domain, rng: Random) -> Drawn:
    """A fact entails itself and contradicts its denial ("never"); of another fact it says nothing."""
    first, second = _two_facts(domain, rng)
    claims = {"entailment": ["truly", *first], "contradiction": ["never", *first]}
    claims["neutral"] = [rng.choice(["truly", "never"]), *second]
    label, wrong = rng.sample(list(claims), 2)

    def pair(label: str) -> Words:
        return ["infer", *first, "|", *claims[label]]

    return pair(label), [label], pair(wrong), [wrong]


def summary(domain: Domain, rng: Random) -> Drawn:
    """The three nouns of a text of six to nine words, in order (a copying task)."""
    size = rng.randint(6, 9)
    text = [rng.choice(FILLER + PLAIN) for _ in range(size)]
    places = sorted(rng.sample(range(size), 3))
    *nouns, new = rng.sample(domain.nouns, 4)
    others = list(nouns)
    others[rng.randrange(3)] = new

    def filled(nouns: Words) -> Words:
        return ["summarize", *(nouns[places.index(i)] if i in places else word for i, word in enumerate(text))]

    return filled(nouns), nouns, filled(others), others


def question(domain: Domain, rng: Random) -> Drawn:
    """The question whose answer is the marked word: "who" with the past tense, or "what did" with the base form."""
    fact = [rng.choice(domain.names), rng.choice(list(VERBS)), rng.choice(domain.nouns)]
    day, ask_who = rng.choice(DAYS), rng.random() < 0.5
    i, pool = (2, domain.nouns) if ask_who else (0, domain.names)  # the entity that the question mentions
    other = list(fact)
    other[i] = rng.choice([word for word in pool if word != fact[i]])

    def prompt(name: str, verb: str, noun: str) -> Words:
        return ["question", name, verb, noun, "on", day, "answer", name if ask_who else noun]

    def asked(name: str, verb: str, noun: str) -> Words:
        return ["who", verb, noun, "?"] if ask_who else ["what", "did", name, VERBS[verb], "?"]

    return prompt(*fact), asked(*fact), prompt(*other), asked(*other)


def data2text(domain: Domain, rng: Random) -> Drawn:
    """One sentence from a table of three fields in any order, the price spelled out."""
    pools = {"name": domain.names, "item": domain.nouns, "price": tuple(NUMBERS)}
    row = {field: rng.choice(pool) for field, pool in pools.items()}
    order = rng.sample(list(pools), 3)
    field = rng.choice(order)
    other = {**row, field: rng.choice([word for word in pools[field] if word != row[field]])}

    def prompt(row: dict[str, str]) -> Words:
        return ["describe", *(word for field in order for word in (field, row[field]))]

    def sentence(row: dict[str, str]) -> Words:
        return [row["name"], "offers", row["item"], "for", NUMBERS[row["price"]], "dollars"]

    return prompt(row), sentence(row), prompt(other), sentence(other)


@dataclass(frozen=True)
class Family:
    """How to draw an example, and how its answers are judged."""

    draw: Callable[[Domain, Random], Drawn]
    kind: Kind = "generation"
    metric: str = "exact"
    labels: tuple[str, ...] = ()


def _classification(draw: Callable[[Domain, Random], Drawn], *labels: str) -> Family:
    return Family(draw, "classification", "accuracy", labels)


FAMILIES: dict[str, Family] = {
    "sentiment": _classification(sentiment, "positive", "negative"),
    "paraphrase": _classification(paraphrase, "yes", "no"),
    "nli": _classification(nli, "entailment", "contradiction", "neutral"),
    "summary": Family(summary),
    "question": Family(question),
    "data2text": Family(data2text),
}
NAMES = tuple(f"{family}-{domain}" for family in FAMILIES for domain in DOMAINS)


def split_of(prompt: str) -> str:
    """The split that a prompt belongs to, whatever the seed: 80 % "train", 10 % "discovery", 10 % "test"."""
    digit = int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest(), "big") % 10
    return {0: "test", 1: "discovery"}.get(digit, "train")


@public
def mini_stream(name: str, split: str = "train", seed: int = 0) -> Iterator[Example]:
    """Endless examples of one mini task, all of them from one split; prompts may come again.

    Args:
        name: a task of the suite, such as "nli-food".
        split: "train", "discovery" or "test".
        seed: the same seed gives the same examples.

    Example:
        >>> print(next(mini_stream("data2text-food", seed=3)).prompt.split()[0])
        describe
    """
    choose(name, NAMES, "mini task")
    choose(split, ("train", "discovery", "test"), "split")
    return _stream(name, split, seed)


def _stream(name: str, split: str, seed: int) -> Iterator[Example]:
    family, domain = name.split("-")
    rng = Random(f"{seed}/{name}/{split}")  # a text seed is hashed: the same on every platform
    while True:
        prompt, answer, corrupt, corrupt_answer = (
            " ".join(words) for words in FAMILIES[family].draw(DOMAINS[domain], rng)
        )
        prompt, corrupt = f"{prompt} {ARROW}", f"{corrupt} {ARROW}"
        if split_of(prompt) == split:
            yield Example(prompt, answer, corrupt=corrupt, corrupt_answer=corrupt_answer)


def distinct(stream: Iterator[Example], n: int, what: str) -> tuple[Example, ...]:
    """The first `n` examples of a stream with prompts that differ from each other."""
    by_prompt: dict[str, Example] = {}
    for example in islice(stream, TRIES * n):
        by_prompt.setdefault(example.prompt, example)
        if len(by_prompt) == n:
            break
    if len(by_prompt) < n:
        do = "ask for fewer: the toy language is small"
        raise TaskError(f"{n} different {what}", f"{len(by_prompt)} in {TRIES * n} draws", do)
    return tuple(by_prompt.values())


@functools.lru_cache(maxsize=128)  # of frozen examples, 36 a suite: drawing them takes seconds
def _examples(name: str, split: str, seed: int, n: int) -> tuple[Example, ...]:
    return distinct(_stream(name, split, seed), n, f"{split} prompts of mini task {name!r}")


@public
def mini_tasks(train: int = 2000, discovery: int = 256, test: int = 256, seed: int = 0) -> dict[str, Task]:
    """The twelve tasks that the bundled model `mini` was trained on, named "family-domain".

    Within a task no prompt occurs twice, in one split or in two. The bundled model never saw a discovery or test prompt
    of any seed (corrupt prompts it may have seen: each belongs to whatever split its own words say). Every example has
    a corrupt prompt with as many tokens and another right answer.

    Args:
        train, discovery, test: how many examples of each split per task.
        seed: the same seed gives the same tasks.

    Raises:
        TaskError: if the toy language has fewer different prompts than asked for.

    Example:
        >>> tasks = mini_tasks(train=4, discovery=4, test=4)
        >>> len(tasks), tasks["nli-food"].labels
        (12, ('entailment', 'contradiction', 'neutral'))
    """
    sizes = {split: whole(n, split) for split, n in (("train", train), ("discovery", discovery), ("test", test))}
    tasks = {}
    for name in NAMES:
        family, domain = name.split("-")
        entry = FAMILIES[family]
        splits: dict[str, Any] = {split: _examples(name, split, seed, n) for split, n in sizes.items()}
        tasks[name] = Task(
            name,
            **splits,
            labels=entry.labels,
            kind=entry.kind,
            family=family,
            domain=domain,
            metric=entry.metric,
            max_new_tokens=8,
            source=f"mini suite, seed {seed}",
        )
    return tasks


@public
def mini_tokenizer() -> PreTrainedTokenizerFast:
    """The word-level tokenizer of the bundled model: one token per word, `<s>` before each text."""
    # Imported here so that the tasks themselves need neither torch nor transformers.
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pad, bos, eos, unk = SPECIAL
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary())}, unk_token=unk))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, SPECIAL.index(bos))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        unk_token=unk,
        model_max_length=CONTEXT,
        padding_side="left",  # right for generation
        clean_up_tokenization_spaces=False,  # keeps the space before "?"
    )
