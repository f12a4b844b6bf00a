"""Every entry of the catalogue, offline: a few rows with the Hub's schema go through the code that reads the Hub."""

import datasets
import pytest
from datasets import ClassLabel, Features, List, Value

from neuroscope.errors import choose
from neuroscope.tasks import Task
from neuroscope.tasks.catalogue import CATALOGUE, CL_ORDERS, GROUPS
from neuroscope.tasks.metrics import METRICS

TEXT, NUMBER = Value("string"), Value("int64")
TWO, NLI = ClassLabel(names=["0", "1"]), ClassLabel(names=["entailment", "neutral", "contradiction"])
TITLED = {"title": TEXT, "content": TEXT}
PAIR = {"sentence1": TEXT, "sentence2": TEXT}
KINDS = ["Company", "EducationalInstitution", "Artist", "Athlete", "OfficeHolder", "MeanOfTransportation", "Building"]
KINDS += ["NaturalPlace", "Village", "Animal", "Plant", "Album", "Film", "WrittenWork"]
TOPICS = ["Society & Culture", "Science & Mathematics", "Health", "Education & Reference", "Computers & Internet"]
TOPICS += ["Sports", "Business & Finance", "Entertainment & Music", "Family & Relationships", "Politics & Government"]

# The fields of each data set as its card on the Hub lists them.
SCHEMAS = {
    "agnews": {"text": TEXT, "label": ClassLabel(names=["World", "Sports", "Business", "Sci/Tech"])},
    "amazon": {"id": TEXT, "text": TEXT, "label": NUMBER, "label_text": TEXT},
    "dbpedia": {"label": ClassLabel(names=KINDS), **TITLED},
    "yahoo": {
        "id": Value("int32"), "topic": ClassLabel(names=TOPICS), "question_title": TEXT, "question_content": TEXT,
        "best_answer": TEXT,
    },
    "mnli": {"premise": TEXT, "hypothesis": TEXT, "label": NLI, "idx": Value("int32")},
    "qqp": {
        "question1": TEXT, "question2": TEXT, "label": ClassLabel(names=["not_duplicate", "duplicate"]),
        "idx": Value("int32"),
    },
    "rte": {**PAIR, "label": ClassLabel(names=["entailment", "not_entailment"]), "idx": Value("int32")},
    "sst2": {"sentence": TEXT, "label": ClassLabel(names=["negative", "positive"]), "idx": Value("int32")},
    "amazon-polarity": {"label": ClassLabel(names=["negative", "positive"]), **TITLED},
    "paws": {"id": Value("int32"), **PAIR, "label": TWO},
    "snli": {"premise": TEXT, "hypothesis": TEXT, "label": NLI},
    "xsum": {"document": TEXT, "summary": TEXT, "id": TEXT},
    "cnn-dailymail": {"article": TEXT, "highlights": TEXT, "id": TEXT},
    "squad-question": {
        "id": TEXT, "title": TEXT, "context": TEXT, "question": TEXT,
        "answers": {"text": List(TEXT), "answer_start": List(Value("int32"))},
    },
    "sciq-question": {
        "question": TEXT, "distractor3": TEXT, "distractor1": TEXT, "distractor2": TEXT, "correct_answer": TEXT,
        "support": TEXT,
    },
    "e2e": {"meaning_representation": TEXT, "human_reference": TEXT},
    "common-gen": {"concept_set_idx": Value("int32"), "concepts": List(TEXT), "target": TEXT},
}  # fmt: skip


def a_value(kind, key, i, classes):
    """Some value of a field: texts name their field, classes take turns."""
    if isinstance(kind, dict):
        return {name: a_value(inner, f"{key}.{name}", i, classes) for name, inner in kind.items()}
    if isinstance(kind, List):
        return [a_value(kind.feature, f"{key}[{k}]", i, classes) for k in range(2)]
    if isinstance(kind, ClassLabel) or key == "label":
        return i % classes
    return f"<{key} {i}>" if kind == TEXT else i


@pytest.fixture(params=sorted(CATALOGUE))
def entry(request, tmp_path):
    """An entry with local files in the Hub's schema in place of its data set: name, schema, arguments."""
    name = request.param
    arguments = dict(CATALOGUE[name])
    classes = len(arguments.get("labels", ())) or 1
    features = Features(SCHEMAS[name])
    rows = [{key: a_value(kind, key, i, classes) for key, kind in features.items()} for i in range(2 * classes)]
    files = {}
    for theirs in arguments.get("splits", {"train": "train", "test": "test"}).values():
        files[theirs] = str(tmp_path / f"{theirs}.parquet")
        datasets.Dataset.from_list(rows, features=features).to_parquet(files[theirs])
    # The configuration and the revision are names on the Hub; everything else is read as it stands.
    arguments |= {"path": "parquet", "config": None, "revision": None, "data_files": files}
    return name, features, arguments


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def test_every_entry_reads_its_schema(entry):
    name, features, arguments = entry
    task = Task.from_hub(**{"name": name, **arguments})
    assert isinstance(task, Task) and choose(task.metric, METRICS, "metric")
    assert task.family == CATALOGUE[name]["family"] and len(task.train) >= 2 and task.test
    for example in (*task.train, *task.test):
        assert "{" not in example.prompt and example.prompt == example.prompt.rstrip()  # nothing left to fill in
        assert "<" in example.prompt  # some text of the row
    if name in GROUPS["lx24-gen"]:
        assert task.kind == "generation" and task.metric == "rouge-l"
        key = CATALOGUE[name]["target"].strip("{}")
        assert sorted(e.answer for e in task.train) == sorted(f"<{key} {i}>" for i in range(2))
    else:
        key = CATALOGUE[name].get("label", "label")
        assert task.kind == "classification" and task.labels == CATALOGUE[name]["labels"]
        assert sorted(e.answer for e in task.test) == sorted(task.labels * 2)
        if isinstance(features[key], ClassLabel):
            assert len(task.labels) == features[key].num_classes


def test_words_stand_in_the_order_of_the_classes():
    """Where a word differs from the class's name, it is a synonym and not another class's word."""
    synonyms = {
        "Sci/Tech": "Science or Technology", "not_duplicate": "no", "duplicate": "yes", "0": "no", "1": "yes",
        "not_entailment": "contradiction", "negative": "Bad", "positive": "Good",
    }  # fmt: skip
    for name, schema in SCHEMAS.items():
        kind = schema.get(CATALOGUE[name].get("label", "label"))
        if isinstance(kind, ClassLabel):
            expected, words = [synonyms.get(c, c) for c in kind.names], CATALOGUE[name]["labels"]
            plain = [[word.replace(" ", "").lower() for word in each] for each in (expected, words)]
            assert plain[0] == plain[1], name


def test_groups_and_orders_name_entries():
    assert set(SCHEMAS) == set(CATALOGUE) == set().union(*GROUPS.values())
    assert [len(GROUPS[g]) for g in ("continual", "lx24-cls", "lx24-gen")] == [8, 6, 6]
    for number, order in CL_ORDERS.items():
        assert sorted(order) == sorted(GROUPS["continual"][:4] if number <= 3 else GROUPS["continual"])
    for group in ("lx24-cls", "lx24-gen"):
        families = [CATALOGUE[name]["family"] for name in GROUPS[group]]
        assert families[::2] == families[1::2] and len(set(families)) == 3
