"""The sequences for continual fine-tuning, judged by rules written a second time."""

import pytest

from neuroscope.errors import NeuroscopeError
from neuroscope.tasks.loaders import load_tasks
from neuroscope.tasks.mini import CONTEXT, mini_tokenizer, split_of
from neuroscope.tasks.mini_sequence import sequence_tasks
from neuroscope.tasks.mini_words import DOMAINS

SPLITS = ("train", "discovery", "test")
KINDS = ("distinct", "conflicting")
SEQUENCES = {kind: sequence_tasks(kind, 300, 64, 64) for kind in KINDS}
BAD = {"bad", "awful", "poor", "terrible", "dreadful", "horrid", "stale", "bland", "soggy", "boring", "dull", "clumsy"}
FOOD = {*DOMAINS["food"].nouns}


def praise(words):
    votes = [-1 if word in BAD else 1 for word in words[words.index("were") + 2 :]]
    return (sum(votes) > 0) == (words[words.index("were") + 1] == "truly")


def agreement(words):
    _, name, verb, adjective, noun, _, *passive = words
    return passive == [adjective, noun, "was", verb, "by", name]


def is_food(words):
    return bool(FOOD & set(words))


def asks_who(words):
    return words[-1] == words[1]  # the marked word is the one who did it


RULES = {"praise": praise, "agreement": agreement, "food-text": is_food, "asks-who": asks_who, "food-table": is_food}
KEYWORDS = {"praise": "sentiment", "agreement": "same", "food-text": "summarize", "asks-who": "question"}
KEYWORDS["food-table"] = "describe"
EVERY = [(kind, name) for kind in KINDS for name in SEQUENCES[kind]]


def all_examples(kind, name):
    return [example for split in SPLITS for example in getattr(SEQUENCES[kind][name], split)]


@pytest.mark.parametrize("kind", KINDS)
def test_tasks_of_the_sizes_asked_for(kind):
    assert len(SEQUENCES[kind]) == {"distinct": 5, "conflicting": 3}[kind]
    for name, task in SEQUENCES[kind].items():
        assert (task.name, task.kind, task.metric) == (name, "classification", "accuracy")
        assert [len(getattr(task, split)) for split in SPLITS] == [300, 64, 64]


def test_the_order_is_that_of_the_sequence():
    assert list(SEQUENCES["distinct"]) == list(RULES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_reproduces_and_another_differs(kind):
    again, other = sequence_tasks(kind, 300, 64, 64, seed=0), sequence_tasks(kind, 300, 64, 64, seed=1)
    for name, task in SEQUENCES[kind].items():
        assert again[name].data_hash == task.data_hash != other[name].data_hash


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_a_prompt_is_in_one_split_whatever_the_seed(kind, name):
    prompts = [example.prompt for example in all_examples(kind, name)]
    assert len(set(prompts)) == len(prompts) == 300 + 64 + 64
    for seed in (0, 7):
        task = sequence_tasks(kind, 30, 30, 30, seed=seed)[name]
        assert all(split_of(example.prompt) == split for split in SPLITS for example in task.split(split))


@pytest.mark.parametrize("name", RULES)
def test_answers_follow_from_the_words(name):
    task = SEQUENCES["distinct"][name]
    yes, no = ("good", "bad") if name in ("praise", "agreement") else ("truly", "never")
    assert task.labels == (yes, no)
    for example in all_examples("distinct", name):
        *words, arrow = example.prompt.split()
        assert (words[0], arrow) == (KEYWORDS[name], "=>")
        assert example.answer == (yes if RULES[name](words) else no)


@pytest.mark.parametrize("split", SPLITS)
def test_distinct_tasks_share_no_input(split):
    prompts = [example.prompt for task in SEQUENCES["distinct"].values() for example in task.split(split)]
    assert len(set(prompts)) == len(prompts)


@pytest.mark.parametrize("split", SPLITS)
def test_conflicting_tasks_share_all_inputs_and_no_answer(split):
    rows = [task.split(split) for task in SEQUENCES["conflicting"].values()]
    for same in zip(*rows, strict=True):
        assert len({example.prompt for example in same}) == 1
        assert len({example.answer for example in same}) == 3
        *words, _ = same[0].prompt.split()
        first, second = words[1:5], words[words.index("|") + 2 :]
        claim = 2 if first != second else int(words[words.index("|") + 1] == "never")
        names = ("truly", "never", "or") * 2
        assert [example.answer for example in same] == list(names[claim : claim + 3])


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_labels_are_balanced(kind, name):
    task = SEQUENCES[kind][name]
    answers = [example.answer for example in task.train]
    assert set(answers) == set(task.labels)
    share = 1 / len(task.labels)
    for label in task.labels:  # four deviations of fair draws
        assert abs(answers.count(label) - 300 * share) < 4 * (300 * share * (1 - share)) ** 0.5


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_every_word_is_a_token_and_everything_fits(kind, name):
    tokenizer, task = mini_tokenizer(), SEQUENCES[kind][name]
    for example in all_examples(kind, name):
        words = f"{example.prompt}{task.separator}{example.answer}".split()
        ids = tokenizer(" ".join(words))["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert len(ids) == len(words) + 1
        assert len(ids) + task.max_new_tokens <= CONTEXT


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: sequence_tasks("distnict"), "distinct"),
        (lambda: sequence_tasks(test=-1), "whole number"),
        (lambda: sequence_tasks(test=True), "whole number"),
        (lambda: sequence_tasks(trian=3), "train"),
    ],
)
def test_errors_name_the_way_out(call, text):
    with pytest.raises(NeuroscopeError, match=text):
        call()


def test_an_exhausted_split_is_refused(monkeypatch):
    monkeypatch.setattr("neuroscope.tasks.mini.TRIES", 1)  # one draw per wanted prompt: some come twice
    with pytest.raises(NeuroscopeError, match="different train prompts"):
        sequence_tasks(train=3000, discovery=0, test=0)


@pytest.mark.parametrize(("source", "kind"), [("mini-sequence", "distinct"), ("mini-conflict", "conflicting")])
def test_load_tasks_knows_the_sequences(source, kind):
    loaded, built = load_tasks(source, train=3, discovery=2, test=2), sequence_tasks(kind, 3, 2, 2)
    assert {name: task.data_hash for name, task in loaded.items()} == {n: t.data_hash for n, t in built.items()}
