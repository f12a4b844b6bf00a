"""Tasks out of files: the same rows in, the same task out, and errors that name file and line."""

import json

import datasets
import pytest

from neuroscope.errors import ArgumentError, FileError, TaskError
from neuroscope.tasks import Example, Task, load_tasks, tasks_of

# datasets sleeps 5 s when a stream is collected, for threads that could outlive the interpreter; pytest outlives them.
datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def numbered(n, start=0):
    return [{"text": f"text {i}", "label": ["bad", "good"][i % 2]} for i in range(start, start + n)]


@pytest.fixture
def folder(tmp_path):
    write_rows(tmp_path / "reviews" / "train.jsonl", numbered(20))
    write_rows(tmp_path / "reviews" / "test.jsonl", numbered(10, 100))
    (tmp_path / "reviews" / "labels.json").write_text('["good", "bad", "so-so"]')
    return tmp_path / "reviews"


def test_a_folder_becomes_a_classification_task(folder):
    task = Task.from_jsonl(folder, family="sentiment", separator="\n")
    assert (task.name, task.kind, task.metric, task.family, task.separator) == (
        "reviews", "classification", "accuracy", "sentiment", "\n",
    )  # fmt: skip
    assert task.labels == ("good", "bad", "so-so")
    assert {e.prompt for e in task.train} == {f"text {i}\nAnswer:" for i in range(20)}
    assert {e.prompt for e in task.test} == {f"text {i}\nAnswer:" for i in range(100, 110)}
    assert all(e.answer == ["bad", "good"][int(e.prompt.split()[1]) % 2] for e in task.train)
    assert task.split("discovery") == task.train


def test_rows_are_shuffled_by_the_seed_alone(folder):
    first, again, other = (Task.from_jsonl(folder, seed=seed) for seed in (0, 0, 1))
    assert first == again and first.data_hash == again.data_hash
    assert first.train != other.train and set(first.train) == set(other.train)
    assert [e.prompt for e in first.train] != [f"text {i}\nAnswer:" for i in range(20)]


def test_a_split_is_capped_to_a_prefix_of_the_whole(folder):
    whole, few = Task.from_jsonl(folder), Task.from_jsonl(folder, train=4, test=4)
    assert few.train == whole.train[:4] and few.test == whole.test[:4]
    mixed = Task.from_jsonl(folder, train=3)
    assert (len(mixed.train), len(mixed.test)) == (3, 10)
    with pytest.raises(ArgumentError, match="train=0\n  found: not a whole number from 1 up"):
        Task.from_jsonl(folder, train=0)


def test_labels_without_a_file_are_those_of_all_rows(folder):
    (folder / "labels.json").unlink()
    assert Task.from_jsonl(folder, train=1, test=1).labels == ("bad", "good")


def test_whole_numbers_count_into_the_labels(tmp_path):
    path = write_rows(tmp_path / "t" / "train.jsonl", [{"text": "a", "label": 1}, {"text": "b", "label": 0}]).parent
    task = Task.from_jsonl(path, labels=("no", "yes"))
    assert {e.prompt: e.answer for e in task.train} == {"a\nAnswer:": "yes", "b\nAnswer:": "no"}
    with pytest.raises(TaskError, match=r"label 1 in .*train.jsonl, line 1(.|\n)*1 labels"):
        Task.from_jsonl(path, labels=("no",))


def test_rows_without_a_gold_label_are_left_out(tmp_path):
    rows = [{"text": f"{i}", "label": label} for i, label in enumerate(["yes", "-", "no", -1])]
    path = write_rows(tmp_path / "t" / "train.jsonl", rows).parent
    assert sorted(e.answer for e in Task.from_jsonl(path).train) == ["no", "yes"]
    assert len(Task.from_jsonl(path, labels=("yes", "no", "-")).train) == 3


def test_targets_make_a_generation_task(tmp_path):
    rows = [{"text": "name[X]", "target": "X is.", "references": ["X is.", "It is X."]}, {"text": "b", "target": "B."}]
    write_rows(tmp_path / "e2e" / "test.jsonl", rows)
    task = Task.from_jsonl(tmp_path / "e2e", prompt="Say {text}:", max_new_tokens=5)
    assert (task.kind, task.metric, task.labels, task.max_new_tokens) == ("generation", "rouge-l", (), 5)
    found = {e.prompt: e for e in task.test}
    assert found["Say name[X]:"].references == ("X is.", "It is X.") and found["Say b:"].references == ("B.",)


def test_corrupt_prompts_pass_through_the_same_template(tmp_path):
    row = {"text": "good film", "label": "good", "corrupt": "bad film", "corrupt_answer": "bad"}
    other = {"text": "bad film", "label": "bad"}
    task = Task.from_jsonl(write_rows(tmp_path / "t" / "train.jsonl", [row, other]).parent)
    assert Example("good film\nAnswer:", "good", (), "bad film\nAnswer:", "bad") in task.train


def test_one_file_is_divided_at_random(tmp_path):
    task = Task.from_jsonl(write_rows(tmp_path / "reviews.jsonl", numbered(20)), holdout=0.25)
    assert (task.name, len(task.train), len(task.test)) == ("reviews", 15, 5)
    assert len(set(task.train) | set(task.test)) == 20


def test_max_words_cuts_fields_and_keeps_their_whitespace(tmp_path):
    rows = [{"text": "one\n two  three four", "label": "a"}, {"text": "one", "label": "b"}]
    task = Task.from_jsonl(write_rows(tmp_path / "t" / "train.jsonl", rows).parent, prompt="{text}|", max_words=3)
    assert {e.prompt for e in task.train} == {"one\n two  three|", "one|"}


@pytest.mark.parametrize(
    ("line", "error", "text"),
    [
        ("{not json", FileError, r"train.jsonl, line 2(.|\n)*one object a line"),
        ("[1, 2]", FileError, r"train.jsonl, line 2(.|\n)*list"),
        ('{"txt": "a", "lab": "b"}', FileError, r"line 2(.|\n)*\['lab', 'txt'\]"),
        (
            '{"txt": "a", "label": "bad"}',
            TaskError,
            r"line 2(.|\n)*KeyError: 'text'; the fields are \['label', 'txt'\]",
        ),
        ('{"text": "a", "label": null}', TaskError, r"line 2(.|\n)*null as 'label'"),
        ('{"text": "a", "label": "ugly"}', TaskError, r"label 'ugly' in .*train.jsonl, line 2"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, error, text):
    path = tmp_path / "t" / "train.jsonl"
    write_rows(path, numbered(1))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(error, match=text):
        Task.from_jsonl(path.parent, labels=("good", "bad"))


def test_what_is_not_there_is_an_error_that_helps(tmp_path, folder):
    with pytest.raises(FileError, match="no train.jsonl"):
        Task.from_jsonl(folder.parent)
    with pytest.raises(FileError, match="check the path"):
        Task.from_jsonl(tmp_path / "nothing.jsonl")
    with pytest.raises(ArgumentError, match=r"did you mean 'separator'"):
        Task.from_jsonl(folder, seperator=" ")
    (folder / "labels.json").write_text('{"good": 1}')
    with pytest.raises(ArgumentError, match="max_words=0"):
        Task.from_jsonl(folder, max_words=0)
    for holdout in (1, -0.1, float("nan"), "all"):
        with pytest.raises(ArgumentError, match="holdout="):
            Task.from_jsonl(folder / "train.jsonl", holdout=holdout)
    with pytest.raises(FileError, match="a list of texts"):
        Task.from_jsonl(folder)


def test_load_tasks_takes_mini_folders_and_names(folder):
    assert list(load_tasks(folder.parent)) == ["reviews"] == list(load_tasks(str(folder)))
    assert len(load_tasks("mini", train=2, discovery=2, test=2)) == 12
    with pytest.raises(ArgumentError, match=r"did you mean 'sst2'"):
        load_tasks(["sts2"])
    with pytest.raises(FileError, match="no folder with .jsonl"):
        (folder.parent / "empty").mkdir()
        load_tasks(folder.parent / "empty")


@pytest.fixture
def parquet(tmp_path):
    """A data set with named classes, as the Hub would give it, in local files."""
    features = datasets.Features(
        {"premise": datasets.Value("string"), "words": datasets.List(datasets.Value("string")),
         "label": datasets.ClassLabel(names=["entails", "contradicts"])}
    )  # fmt: skip
    files = {}
    for split, n in (("train", 12), ("test", 6)):
        rows = [{"premise": f"{split} {i}", "words": ["a", str(i)], "label": [0, 1, -1][i % 3]} for i in range(n)]
        files[split] = str(tmp_path / f"{split}.parquet")
        datasets.Dataset.from_list(rows, features=features).to_parquet(files[split])
    return files


@pytest.mark.parametrize("streaming", [False, True])
def test_hub_classes_become_words_and_unlabelled_rows_are_left_out(parquet, streaming):
    task = Task.from_hub("parquet", "nli", text="{premise}: {words}", data_files=parquet, streaming=streaming)
    assert task.labels == ("entails", "contradicts") and task.prompt == "{premise}: {words}\nAnswer:"
    expected = {(f"train {i}: a, {i}\nAnswer:", task.labels[i % 3]) for i in range(12) if i % 3 < 2}
    assert {(e.prompt, e.answer) for e in task.train} == expected and len(task.train) == 8
    assert len(task.test) == 4
    renamed = Task.from_hub(
        "parquet",
        text="{premise}",
        labels=("yes", "no"),
        data_files=parquet,
        streaming=streaming,
        train=3,
        test=3,
        seed=1,
    )
    assert {e.answer for e in renamed.train} <= {"yes", "no"} and len(renamed.train) == len(renamed.test) == 3


def test_hub_generation_merges_answers_to_one_prompt(tmp_path):
    rows = [{"mr": f"mr {i // 3}", "ref": f" says {i} "} for i in range(9)]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "all.parquet")
    files = {split: str(tmp_path / "all.parquet") for split in ("train", "test")}
    task = Task.from_hub("parquet", text="{mr}", target="{ref}", merge=True, data_files=files, train=5, test=2)
    assert task.kind == "generation" and len(task.train) == 5 and len(task.test) == 2
    for example in task.test:
        i = int(example.prompt.split()[1])
        assert set(example.references) == {f"says {k}" for k in (3 * i, 3 * i + 1, 3 * i + 2)}
        assert example.answer in example.references


def test_hub_errors_name_the_data_set_and_the_fields(parquet):
    with pytest.raises(FileError, match=r"split 'dev'(.|\n)*from_jsonl"):
        Task.from_hub("parquet", splits={"train": "dev"}, data_files=parquet)
    with pytest.raises(TaskError, match=r"KeyError: 'hypothesis'; the fields are \['label', 'premise', 'words'\]"):
        Task.from_hub("parquet", text="{hypothesis}", data_files=parquet)
    with pytest.raises(TaskError, match=r"no 'topic' among the fields"):
        Task.from_hub("parquet", text="{premise}", label="topic", data_files=parquet)
    with pytest.raises(ArgumentError, match="no such argument"):
        Task.from_hub("parquet", data_files=parquet, lable="x")


def test_a_few_rows_of_a_data_set_have_the_labels_of_all(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(f'{{"text": "t{i}", "label": "{"rare" if i == 50 else "abc"[i % 3]}"}}\n' for i in range(60))
    )
    task = Task.from_hub("json", splits={"train": "train"}, data_files={"train": str(path)}, train=4)
    assert task.labels == ("a", "b", "c", "rare") and len(task.train) == 4
    with pytest.raises(ArgumentError, match=r"data_files=None\)\n  found: no files"):
        Task.from_hub("json")


def test_texts_of_a_data_set_that_has_classes_too(tmp_path):
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1], "summary": ["x y", "z"]})
    rows.cast_column("label", datasets.ClassLabel(names=["no", "yes"])).to_parquet(tmp_path / "all.parquet")
    how = {"splits": {"train": "train"}, "data_files": {"train": str(tmp_path / "all.parquet")}, "target": "{summary}"}
    task = Task.from_hub("parquet", **how)
    assert task.kind == "generation" and {e.answer for e in task.train} == {"x y", "z"}
    with pytest.raises(ArgumentError, match="texts and classes"):
        Task.from_hub("parquet", labels=["no", "yes"], **how)


def test_a_data_set_out_of_reach_says_how_to_go_on():
    with pytest.raises(FileError, match=r"open no-such/data \(config None, split 'train'\)(.|\n)*Task.from_jsonl"):
        Task.from_hub("no-such/data")


A, B = Task("a", labels=("x", "y")), Task("b", labels=("x", "y"))


def test_a_task_a_sequence_or_a_mapping_becomes_tasks_by_name():
    assert tasks_of(A, asked="judge") == {"a": A}
    assert list(tasks_of([B, A], asked="judge").items()) == [("b", B), ("a", A)]
    assert tasks_of((task for task in (A, B)), asked="judge") == {"a": A, "b": B}
    given = {"first": A, "second": A}
    named = tasks_of(given, asked="judge")
    assert named == given and named is not given  # the keys count; the caller's dict is never changed


@pytest.mark.parametrize(
    ("tasks", "found"),
    [
        ("mini", "a str in place of tasks"),
        (None, "a NoneType in place of tasks"),
        (3, "an int in place of tasks"),
        ([], "no task"),
        ({}, "no task"),
        (["a"], "a str in place of a task"),
        ({"a": "b"}, "a str in place of a task"),
        ({1: A}, "an int in place of the name of a task"),
        ([A, B, A], "two tasks named 'a'"),
    ],
)
def test_what_is_no_task_is_refused(tasks, found):
    with pytest.raises(ArgumentError, match=f"judge\n  found: {found}\n"):
        tasks_of(tasks, asked="judge")


def test_a_split_has_as_many_examples_as_are_asked_for():
    task = Task("t", train=[Example(str(i), "x") for i in range(3)], labels=("x", "y"))
    assert task.split("discovery", 2) == task.train[:2] and task.split("train") == task.train
    for n in (0, True, 1.5):
        with pytest.raises(ArgumentError, match=r"split\(n=.*\n  found: not a whole number from 1 up"):
            task.split("train", n)
    with pytest.raises(TaskError, match="the test examples of task 't'"):
        task.split("test")
    with pytest.raises(ArgumentError, match="did you mean 'train'"):
        task.split("trian")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"name": ""}, ArgumentError, "no name"),
        ({"name": 3}, ArgumentError, "Task.name=3"),
        ({"max_new_tokens": 0}, ArgumentError, "max_new_tokens=0"),
        ({"metric": "f1"}, ArgumentError, "metric='f1'"),
        ({"labels": "xy"}, ArgumentError, "one text"),
        ({"labels": ("x",)}, TaskError, "at least two labels"),
        ({"train": ["x"]}, TaskError, "a str in train"),
        ({"train": [Example("a", "z")]}, TaskError, "answer 'z' in train example 0"),
    ],
)
def test_a_task_that_cannot_be(options, error, text):
    with pytest.raises(error, match=text):
        Task(**{"name": "t", "labels": ("x", "y")} | options)
