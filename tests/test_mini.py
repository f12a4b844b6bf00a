"""The mini suite and the bundled model, judged by rules written a second time, without the package's templates."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from neuroscope.errors import NeuroscopeError, TaskError
from neuroscope.files import digest
from neuroscope.tasks.mini import CONTEXT, NAMES, mini_stream, mini_tasks, mini_tokenizer, split_of
from neuroscope.tasks.mini_words import DOMAINS, VERBS, vocabulary

FOLDER = Path(__file__).parents[1] / "assets" / "mini"
SPLITS = ("train", "discovery", "test")
TASKS = mini_tasks(train=300, discovery=64, test=64)
SPELLED = "one two three four five six seven eight nine ten"
BAD = {"bad", "awful", "poor", "terrible", "dreadful", "horrid", "stale", "bland", "soggy", "boring", "dull", "clumsy"}


def sentiment(words: list[str]) -> str:
    verdict = words[words.index("were") + 1]
    votes = [-1 if word in BAD else 1 for word in words[words.index("were") + 2 :]]
    return "positive" if (sum(votes) > 0) == (verdict == "truly") else "negative"


def paraphrase(words: list[str]) -> str:
    _, name, verb, adjective, noun, _, *passive = words
    return "yes" if passive == [adjective, noun, "was", verb, "by", name] else "no"


def nli(words: list[str]) -> str:
    bar = words.index("|")
    fact, adverb, claim = words[1:bar], words[bar + 1], words[bar + 2 :]
    assert len(fact) == len(claim) == 4
    return {"truly": "entailment", "never": "contradiction"}[adverb] if fact == claim else "neutral"


def summary(words: list[str]) -> str:
    nouns = {noun for domain in DOMAINS.values() for noun in domain.nouns}
    return " ".join(word for word in words if word in nouns)


def question(words: list[str]) -> str:
    _, name, verb, noun, _, _, _, marked = words
    return f"who {verb} {noun} ?" if marked == name else f"what did {name} {VERBS[verb]} ?"


def data2text(words: list[str]) -> str:
    row = dict(zip(words[1::2], words[2::2], strict=True))
    price = SPELLED.split()[int(row["price"]) - 1]
    return f"{row['name']} offers {row['item']} for {price} dollars"


RULES = {rule.__name__: rule for rule in (sentiment, paraphrase, nli, summary, question, data2text)}


def rule(name: str, prompt: str) -> str:
    *words, arrow = prompt.split()
    assert arrow == "=>"
    return RULES[name.split("-")[0]](words)


def all_examples(name):
    return [example for split in SPLITS for example in getattr(TASKS[name], split)]


def test_six_families_in_two_domains():
    assert set(TASKS) == {f"{family}-{domain}" for family in RULES for domain in ("food", "film")}
    for name, task in TASKS.items():
        assert f"{task.family}-{task.domain}" == name
        assert (task.kind, task.metric) in {("classification", "accuracy"), ("generation", "exact")}
        assert (task.kind == "classification") == (task.family in ("sentiment", "paraphrase", "nli"))
        assert [len(getattr(task, split)) for split in SPLITS] == [300, 64, 64]


def test_a_seed_reproduces_and_another_differs():
    again, other = mini_tasks(300, 64, 64, seed=0), mini_tasks(300, 64, 64, seed=1)
    for name in NAMES:
        assert again[name].data_hash == TASKS[name].data_hash != other[name].data_hash


def test_the_same_examples_are_drawn_once():
    first, second = mini_tasks(20, 4, 4), mini_tasks(20, 4, 4)
    assert first is not second and first["nli-food"] is not second["nli-food"]
    assert all(a is b for a, b in zip(first["nli-food"].train, second["nli-food"].train, strict=True))


def test_no_example_changed():
    """Pinned, because the bundled model was trained on this language: who changes it rebuilds the model (make mini)."""
    assert TASKS["nli-food"].test[0].prompt == "infer brewer kept plain pasta | never brewer kept plain pasta =>"
    texts = [(example.prompt, example.answer) for name in NAMES for example in TASKS[name].test]
    assert digest(texts) == "cc8a52256730a03c"


@pytest.mark.parametrize("name", NAMES)
def test_no_prompt_occurs_twice_in_any_split(name):
    prompts = [example.prompt for example in all_examples(name)]
    assert len(set(prompts)) == len(prompts) == 300 + 64 + 64


@pytest.mark.parametrize("name", NAMES)
def test_no_training_prompt_of_any_seed_is_held_out(name):
    held_out = {example.prompt for split in ("discovery", "test") for example in getattr(TASKS[name], split)}
    for seed in range(5):
        stream = [example.prompt for example in itertools.islice(mini_stream(name, "train", seed), 500)]
        assert not held_out & set(stream)
        assert {split_of(prompt) for prompt in stream} == {"train"}


@pytest.mark.parametrize("name", NAMES)
def test_answers_follow_from_the_words(name):
    for example in all_examples(name):
        assert rule(name, example.prompt) == example.answer
        assert rule(name, example.corrupt) == example.corrupt_answer


@pytest.mark.parametrize("name", NAMES)
def test_corrupt_prompts_have_the_same_length_and_another_answer(name):
    tokenizer = mini_tokenizer()
    for example in all_examples(name):
        clean, corrupt = tokenizer([example.prompt, example.corrupt])["input_ids"]
        assert len(clean) == len(corrupt) == len(example.prompt.split()) + 1
        assert example.answer != example.corrupt_answer
        if TASKS[name].labels:
            assert {example.answer, example.corrupt_answer} <= set(TASKS[name].labels)


@pytest.mark.parametrize("name", [name for name in NAMES if TASKS[name].labels])
def test_labels_are_balanced(name):
    answers = [example.answer for example in TASKS[name].train]
    fair = len(answers) / len(TASKS[name].labels)
    spread = (fair * (1 - 1 / len(TASKS[name].labels))) ** 0.5  # one standard deviation of a fair draw
    for label in TASKS[name].labels:
        assert abs(answers.count(label) - fair) < 4 * spread


@pytest.mark.parametrize("name", NAMES)
def test_every_word_is_a_token_and_everything_fits(name):
    tokenizer, task = mini_tokenizer(), TASKS[name]
    for example in all_examples(name):
        text = f"{example.prompt}{task.separator}{example.answer}"
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert len(ids) + task.max_new_tokens <= CONTEXT
        assert len(example.answer.split()) < task.max_new_tokens


def test_vocabulary_and_tokenizer_agree():
    tokenizer = mini_tokenizer()
    assert tokenizer.get_vocab() == {word: i for i, word in enumerate(vocabulary())}
    assert tokenizer.convert_tokens_to_ids(["<pad>", "<s>", "</s>", "<unk>"]) == [0, 1, 2, 3]
    assert set(tokenizer.all_special_ids) == {0, 1, 2, 3}
    assert tokenizer("xylophone")["input_ids"] == [1, 3]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: mini_tasks(trian=3), "train"),
        (lambda: mini_tasks(test=-1), "whole number"),
        (lambda: mini_stream("nli-fod"), "nli-food"),
        (lambda: mini_stream("nli-food", "tets"), "test"),
        (lambda: mini_stream("nli-food", sed=1), "seed"),
    ],
)
def test_errors_name_the_way_out(call, text):
    with pytest.raises(NeuroscopeError, match=text):
        call()


def test_an_exhausted_split_is_refused(monkeypatch):
    monkeypatch.setattr("neuroscope.tasks.mini.TRIES", 1)  # one draw per wanted prompt: some come twice
    with pytest.raises(TaskError, match="different train prompts"):
        mini_tasks(train=3000, discovery=0, test=0)


def test_tasks_need_neither_torch_nor_transformers():
    code = "import sys; from neuroscope.tasks.mini import mini_tasks; mini_tasks(1, 1, 1); "
    code += "print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=FOLDER.parents[1], check=True
    )
    assert done.stdout.strip() == "set()"


@pytest.fixture(scope="module")
def bundled():
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(FOLDER)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(FOLDER)


def test_the_bundled_model_is_small_and_whole(bundled):
    model, tokenizer = bundled
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 5e6
    assert (FOLDER / "README.md").read_text(encoding="utf-8").count("| accuracy |") == 6
    assert model.config.vocab_size == len(vocabulary())
    assert model.config.tie_word_embeddings
    assert tokenizer.get_vocab() == mini_tokenizer().get_vocab()
    assert tokenizer("same")["input_ids"] == mini_tokenizer()("same")["input_ids"]


@pytest.mark.parametrize("name", NAMES)
def test_the_bundled_model_solves_every_task(bundled, name):
    torch = pytest.importorskip("torch")
    (model, tokenizer), task = bundled, TASKS[name]
    right = 0
    for example in task.test:
        prompt = tokenizer(example.prompt)["input_ids"]
        answer = [*tokenizer(example.answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            best = model(input_ids=torch.tensor([prompt + answer])).logits[0].argmax(-1)
        right += best[len(prompt) - 1 : -1].tolist() == answer
    assert right / len(task.test) >= 0.95


def test_the_bundled_model_generates_and_stops(bundled):
    torch = pytest.importorskip("torch")
    model, tokenizer = bundled
    examples = [TASKS[name].test[0] for name in NAMES]
    batch = tokenizer(
        [example.prompt for example in examples], return_tensors="pt", padding=True, return_token_type_ids=False
    )
    with torch.no_grad():
        out = model.generate(**batch, max_new_tokens=8, do_sample=False)
    texts = tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    assert sum(text == example.answer for text, example in zip(texts, examples, strict=True)) >= 11
