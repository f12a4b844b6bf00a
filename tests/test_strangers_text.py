"""Texts at the edges: what has one meaning is scored by it, and what has none is refused."""

import contextlib
import json
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import tokenizers
import torch
import transformers
from tiny import tiny_model

import neuroscope as ns
from neuroscope import evaluation
from neuroscope.errors import ArgumentError, FileError, NeuroscopeError, NumericalError, TaskError
from neuroscope.tasks import Example, Task
from neuroscope.tasks.encoding import encode, encode_prompts
from neuroscope.tasks.metrics import exact_match, rouge_l


def reviews(prompt="the food was", labels=("good", "bad"), **options):
    examples = [Example(prompt, label) for label in labels]
    return Task("reviews", train=examples, test=examples, labels=labels, **options)


def written(folder, *rows, encoding="utf-8"):
    path = folder / "reviews.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding=encoding)
    return path


@pytest.mark.parametrize("style", ["causal", "masked"])
def test_a_prompt_that_begins_with_the_start_token_has_it_once(style):
    model = tiny_model(style)
    start = model.tokenizer("food")["input_ids"][0]
    plain, templated = reviews(), reviews(f"{model.tokenizer.decode([start])} the food was")
    tokens = encode(model, templated, templated.test)
    assert tokens == encode(model, plain, plain.test)
    assert tokens[0].inputs.count(start) == 1
    loglik = [evaluation.label_loglik(model, evaluation.prepare_task(model, task)) for task in (plain, templated)]
    assert torch.equal(*loglik)
    if style == "causal":
        assert encode_prompts(model, templated, templated.test) == encode_prompts(model, plain, plain.test)


def joining_model():
    """A tiny causal model whose tokenizer makes one token of "a" and "b" where nothing is between them."""
    vocabulary = {"<unk>": 0, "a": 1, "b": 2, "ab": 3, "c": 4}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("a", "b")], unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<unk>")
    return ns.load(tiny_model().root, tokenizer=tokenizer)


def test_a_token_of_prompt_and_label_at_once_is_refused():
    model, together = joining_model(), reviews("c a", ("b", "c"), separator="")
    with pytest.raises(TaskError, match=r"(?s)the answer 'b' of example 0.*part of the prompt and of the answer"):
        ns.evaluate(model, together)
    apart = reviews("c a", ("c", "a"), separator="")  # nothing joins
    assert [item.answer for item in encode(model, apart, apart.test)] == [[4], [1]]
    for task in (reviews("c a", ("b", "c")), reviews("c a\n", ("b", "c"), separator="")):
        assert [item.answer for item in encode(model, task, task.test)] == [[2], [4]]


@pytest.mark.parametrize("style", ["causal", "masked"])
@pytest.mark.parametrize(
    ("prompt", "labels"),
    [("the food was ", ("good", "bad")), ("the food was", (" good", " bad")), ("the food was  ", (" good", "bad"))],
)
def test_a_space_that_prompt_label_and_separator_all_bring_is_read_once(style, prompt, labels):
    model, plain = tiny_model(style), reviews()
    task = reviews(prompt, labels)
    with pytest.warns(UserWarning, match="task 'reviews' end, or answers begin, with a space beside its separator"):
        items = encode(model, task, task.test)
    assert items == encode(model, plain, plain.test)


def spaced_model():
    """A tiny model whose tokenizer keeps every space as a token of its own."""
    vocabulary = {"<unk>": 0, "a": 1, " ": 2, "b": 3, "\n": 4}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<unk>")
    return ns.load(tiny_model().root, tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("prompt", "separator", "label", "tokens", "warns"),
    [
        ("a ", " ", "b", [1, 2, 3], True),
        ("a", " ", "  b", [1, 2, 3], True),
        ("a ", "", " b", [1, 2, 3], True),
        ("a", "  ", "b", [1, 2, 2, 3], False),  # asked for
        ("a\n", " ", "b", [1, 4, 2, 3], False),
        ("a ", "", "b", [1, 2, 3], False),
    ],
)
def test_spaces_at_the_joint(prompt, separator, label, tokens, warns):
    task = reviews(prompt, (label, label + "a"), separator=separator)
    with pytest.warns(UserWarning, match="reads one space") if warns else contextlib.nullcontext():
        item = encode(spaced_model(), task, task.test)[0]
    assert item.inputs + item.answer[-1:] == tokens


@pytest.mark.parametrize("style", ["causal", "seq2seq", "masked"])
def test_a_label_that_the_tokenizer_does_not_know_is_refused(style):
    model, task = tiny_model(style), reviews(labels=("good", "very grape"))
    for use in (ns.evaluate, ns.attribute):
        with pytest.raises(TaskError, match=r"(?s)'very grape' of example . of task 'reviews'.*does not know"):
            use(model, task)


def test_texts_that_the_tokenizer_hardly_knows_are_told():
    model = tiny_model()
    with pytest.warns(UserWarning, match="60% of the tokens of task 'reviews' are unknown to the tokenizer"):
        ns.evaluate(model, reviews("das war aber"))
    known, good = ("the food was", "the film was"), ("good", "bad")
    with pytest.warns(UserWarning, match=r"task 'asked' are unknown to the tokenizer, the last of every prompt"):
        ns.evaluate(model, Task("asked", test=[Example(f"{p} Answer:", "good") for p in known], labels=good))
    with warnings.catch_warnings(action="error"):  # what begins with an unknown word is another thing, as to a seq2seq
        ns.evaluate(tiny_model("seq2seq"), Task("asked", test=[Example(f"Oh {p}", "good") for p in known], labels=good))
    partly = Task("colours", test=[Example("the food was", "good grapes")], max_new_tokens=2)
    ns.attribute(model, partly, split="test")
    unknown = Task("colours", test=[Example("the food was", "ripe grapes")], max_new_tokens=2)
    with pytest.raises(TaskError, match="'ripe grapes' of example 0"):
        ns.attribute(model, unknown, split="test")


def test_an_evaluation_says_what_its_data_lack():
    examples = [Example("the food was", "good"), Example("the food was", "bad"), Example("a film", "bad")]
    result = ns.evaluate(tiny_model(), Task("t", train=examples[:1], test=examples, labels=("good", "bad")))
    assert (result.manifest["seen"], result.manifest["ambiguous"]) == (2, 1)
    assert "**2** of the test prompts are training prompts as well" in result.in_words()
    assert "**1** prompt(s) have more than one right answer" in result.in_words()
    clean = ns.evaluate(tiny_model(), Task("t", train=examples[2:], test=examples[1:2], labels=("good", "bad")))
    assert (clean.manifest["seen"], clean.manifest["ambiguous"]) == (0, 0)
    assert "prompt" not in clean.in_words()


@pytest.mark.parametrize("style", ["causal", "seq2seq"])
def test_weights_that_became_nan_are_found_when_a_text_is_generated(style):
    model = tiny_model(style)
    with torch.no_grad():
        next(p for name, p in reversed([*model.root.named_parameters()]) if p.ndim == 2)[3, 3] = torch.nan
    with pytest.raises(NumericalError, match=r"(?s)generate with.*not finite at token"):
        ns.evaluate(model, Task("t", test=[Example("the food was", "good")], max_new_tokens=3))


@pytest.mark.parametrize("measure", [exact_match, rouge_l])
@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("caf\u00e9", "cafe\u0301"),  # composed or not
        ("\uff11\uff12 \uff21", "12 a"),  # full width
        ("\u210c", "h"),
        ("the\u200b end\ufeff", "the end"),  # without width
        ("stra\u00dfe", "STRASSE"),
        ("", ""),
        ("!!!", "!!!"),
        ("\U0001f600", "\U0001f600"),
    ],
)
def test_texts_that_read_the_same_are_equal(measure, text, reference):
    assert measure(text, [reference]) == measure(reference, ["other", text]) == 1.0


@pytest.mark.parametrize("measure", [exact_match, rouge_l])
@pytest.mark.parametrize(("text", "reference"), [("", "the"), ("!!!", "?"), ("caf\u00e9", "cafe"), ("12", "1 2")])
def test_texts_that_differ_are_not(measure, text, reference):
    assert measure(text, [reference]) == 0.0


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ({"good", "bad"}, "a set, which has no order"),
        (frozenset(["good", "bad"]), "a frozenset, which has no order"),
        (("good", "good "), "differ by spaces at an end only"),
        ((0.0, 1.0), "a float"),
    ],
)
def test_labels_that_are_no_list_of_different_texts_are_refused(labels, found):
    with pytest.raises(NeuroscopeError, match=rf"(?s)labels.*{found}"):
        Task("reviews", labels=labels)


@pytest.mark.parametrize("field", ["prompt", "answer", "corrupt"])
def test_half_of_a_surrogate_pair_is_refused(field):
    with pytest.raises(ArgumentError, match=rf"(?s)Example.{field}=.*half of a surrogate pair, character 2"):
        Example(**{"prompt": "the food was", "answer": "good", field: "a \ud800"})


@pytest.mark.parametrize("label", [float("nan"), 1.0, 0.5])
@pytest.mark.parametrize("labels", [None, ["bad", "good"]])
def test_floats_as_labels_are_refused(tmp_path, label, labels):
    path = written(tmp_path, {"text": "food", "label": "good"}, {"text": "film", "label": label})
    with pytest.raises(TaskError, match=rf"(?s)reviews.jsonl, line 2.*{label!r} as 'label'"):
        Task.from_jsonl(path, labels=labels)


def test_numbers_as_targets_are_texts_and_gaps_are_refused(tmp_path):
    path = written(tmp_path, {"text": "half", "target": 0.5}, {"text": "one", "target": 1})
    assert {e.answer for e in Task.from_jsonl(path, holdout=0).train} == {"0.5", "1"}
    path = written(tmp_path, {"text": "half", "target": float("nan")})
    with pytest.raises(TaskError, match="nan as 'target'"):
        Task.from_jsonl(path)


def test_a_byte_order_mark_is_no_text(tmp_path):
    rows = [{"text": "food", "label": "good"}, {"text": "film", "label": "bad"}]
    plain = Task.from_jsonl(written(tmp_path, *rows))
    assert Task.from_jsonl(written(tmp_path, *rows, encoding="utf-8-sig")).data_hash == plain.data_hash


def test_a_file_without_examples_is_refused(tmp_path):
    with pytest.raises(FileError, match=r"(?s)reviews.jsonl.*no lines"):
        Task.from_jsonl(written(tmp_path))
    with pytest.raises(FileError, match="no row with a gold label"):
        Task.from_jsonl(written(tmp_path, {"text": "food", "label": -1}))


@pytest.mark.parametrize(
    "line", ['{"text": "food", "text": "film", "label": "good"}', '{"text": {"a": 1, "a": 2}, "label": "good"}']
)
def test_a_key_twice_in_a_line_is_refused(tmp_path, line):
    path = written(tmp_path, {"text": "food", "label": "bad"})
    path.write_text(path.read_text() + line)
    with pytest.raises(FileError, match=r"(?s)reviews.jsonl, line 2.*a key twice"):
        Task.from_jsonl(path)


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"text": None, "label": "good"}, "'text' is None: a gap in the data"),
        ({"text": float("nan"), "label": "good"}, "'text' is nan: a gap in the data"),
        ({"text": "food", "label": None}, "null as 'label'"),
        ({"text": "food", "label": ""}, "an empty text as 'label'"),
        ({"text": "food", "label": True}, "True as 'label'"),
        ({"text": "food", "label": ["good"]}, r"\['good'\] as 'label'"),
        ({"text": "food", "target": {"text": "good"}}, "as 'target'"),
        ({"text": "food", "target": []}, r"\[\] as 'target'"),
        ({"text": "food", "target": True}, "True as 'target'"),
        ({"text": "food", "target": ["good", 3]}, "an int"),
        ({"text": "food", "target": "good", "references": [None]}, "a NoneType"),
        ({"text": "food", "target": "good", "references": {"a": 1}}, "a dict"),
        ({"text": "food", "target": "good", "corrupt": "film", "corrupt_answer": ["bad"]}, "as 'corrupt_answer'"),
    ],
)
def test_a_field_that_is_no_text_is_refused_with_its_line(tmp_path, row, found):
    with pytest.raises(TaskError, match=rf"(?s)reviews.jsonl, line 1.*{found}"):
        Task.from_jsonl(written(tmp_path, row))


def test_truth_values_are_labels_where_they_are_named(tmp_path):
    path = written(tmp_path, {"text": "food", "label": True}, {"text": "film", "label": False})
    assert Task.from_jsonl(path, labels=["False", "True"], holdout=0).labels == ("False", "True")
    with pytest.raises(TaskError, match="as 'label'"):
        Task.from_jsonl(path, labels=["no", "yes"])


def test_several_targets_are_references(tmp_path):
    path = written(tmp_path, {"text": "food", "target": ["the end", "fin"]})
    (example,) = Task.from_jsonl(path, holdout=0).train
    assert (example.answer, example.references) == ("the end", ("the end", "fin"))
    path = written(tmp_path, {"text": "food", "target": "fin", "references": "the end"})
    (example,) = Task.from_jsonl(path, holdout=0).train
    assert (example.answer, example.references) == ("fin", ("the end",))


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("{text}", "so, good"),
        ("{text[0]}", "so"),
        ("{meta[a.b]!r:>5}", "  'x'"),
        ("{text.__class__}", None),
        ("{meta[a].real}", None),
        ("{}", None),
    ],
)
def test_templates_read_fields_and_their_keys_alone(tmp_path, prompt, text):
    path = written(tmp_path, {"text": ["so", "good"], "meta": {"a.b": "x", "a": 1}, "target": "y"})
    if text is None:
        with pytest.raises(TaskError, match=r"(?s)the template .* in .*reviews.jsonl, line 1"):
            Task.from_jsonl(path, prompt=prompt)
    else:
        assert Task.from_jsonl(path, prompt=prompt, holdout=0).train[0].prompt == text


def test_one_text_for_labels_is_told_before_a_file_is_read():
    for make in (Task.from_jsonl, Task.from_hub):
        with pytest.raises(ArgumentError, match=r"(?s)labels=.yes,no.*one text"):
            make("nothing here", labels="yes,no")
    with pytest.raises(ArgumentError, match="did you mean 'prompt'.*'holdout'.*'separator'"):
        Task.from_jsonl("nothing here", promt="{text}")


@pytest.mark.parametrize("make", [list, np.array, pd.Series, iter, lambda labels: pd.Series(labels, index=[3, 1])])
def test_labels_and_references_in_any_sequence(make):
    assert Task("t", labels=make(["yes", "no"])).labels == ("yes", "no")
    assert Example("food", "yes", references=make(["yes", "no"])).references == ("yes", "no")


@pytest.mark.parametrize(
    "labels", ["yes", {0: "yes", 1: "no"}, 3, [1, 2], np.array([1, 2]), [True, False], ["yes", None]]
)
def test_labels_that_are_no_texts_are_refused(labels):
    with pytest.raises(ArgumentError, match=r"Task\(labels"):
        Task("t", labels=labels)


@pytest.mark.parametrize("references", [3, {"yes"}, {"a": "b"}, [None], [3], ["\ud800"]])
def test_references_that_are_no_texts_are_refused(references):
    with pytest.raises(ArgumentError, match="reference"):
        Example("food", "yes", references=references)


@pytest.mark.parametrize("field", ["prompt", "separator", "family", "domain", "source"])
@pytest.mark.parametrize("value", [None, 3])
def test_fields_of_a_task_are_texts(field, value):
    with pytest.raises(ArgumentError, match=rf"Task.{field}={value}"):
        Task("t", labels=("yes", "no"), **{field: value})


def test_examples_of_a_task():
    example = Example("food", "yes")
    assert Task("t", test=example, train=None, discovery=iter([example])).test == (example,)
    for wrong in (3, "food", [("food", "yes")]):
        with pytest.raises(TaskError, match="the examples of task 't'"):
            Task("t", test=wrong)
    for field in ("corrupt", "corrupt_answer"):
        with pytest.raises(ArgumentError, match=f"{field}=5"):
            Example("food", "yes", **{field: 5})


def test_labels_that_differ_by_case_only_are_told():
    with pytest.warns(UserWarning, match="two differ by case only"):
        Task("t", labels=("Yes", "yes"))


def test_a_task_that_is_not_there_is_told_with_the_near_ones(tmp_path):
    tasks = ns.load_tasks("mini", train=1, discovery=1, test=1)
    for mapping in (
        tasks,
        pickle.loads(pickle.dumps(tasks)),
        ns.load_tasks(["nli-food"], train=1, discovery=1, test=1),
    ):
        with pytest.raises(NeuroscopeError, match=r"(?s)'NLI-Food'.*did you mean 'nli-food'\?") as caught:
            mapping["NLI-Food"]
        assert isinstance(caught.value, KeyError) and "NLI-Food" not in mapping and mapping.get("NLI-Food") is None
    with pytest.raises(ArgumentError, match=r"tasks 'sst3'(.|\n)*did you mean 'sst2'"):
        ns.load_tasks("nli-food,sst3")
    for wrong in (3, None, [], [3]):
        with pytest.raises(ArgumentError, match="load_tasks"):
            ns.load_tasks(wrong)
    path = written(tmp_path, {"text": "food", "label": "good"}, {"text": "film", "label": "bad"})
    assert list(ns.load_tasks(path)) == list(ns.load_tasks(str(path))) == ["reviews"]
    (tmp_path / "notes.txt").write_text("food")
    with pytest.raises(ArgumentError, match=r"a file; tasks are .jsonl files, or folders"):
        ns.load_tasks(tmp_path / "notes.txt")


def test_scores_that_are_not_there_are_told_with_the_near_ones():
    task = reviews()
    scores = ns.attribute(tiny_model(), {"reviews": task, "others": task}, split="test")
    with pytest.raises(NeuroscopeError, match="did you mean 'reviews'"):
        scores["Reviews"]


def test_a_folder_without_test_examples(tmp_path):
    """It serves to find neurons and to train; what judges says what to do; a share can be held out, where none is."""
    folder = tmp_path / "moods"
    folder.mkdir()
    rows = [{"text": f"text {i}", "label": ["good", "bad"][i % 2]} for i in range(10)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = Task.from_jsonl(folder)
    assert (len(task.train), len(task.test)) == (10, 0)
    with pytest.raises(TaskError, match=r"the test examples of task 'moods'(.|\n)*load it with holdout=0.2"):
        ns.evaluate(tiny_model(), task)
    held = ns.load_tasks(tmp_path, holdout=0.3)["moods"]
    assert (len(held.train), len(held.test)) == (7, 3)
    assert set(held.train) | set(held.test) == set(task.train)
    assert Task.from_jsonl(folder, holdout=0) == task
    (folder / "test.jsonl").write_text(json.dumps({"text": "new", "label": "good"}))
    with pytest.raises(ArgumentError, match=r"holdout=0.3\n.*train.jsonl and test.jsonl in (.|\n)*leave holdout"):
        Task.from_jsonl(folder, holdout=0.3)


def test_a_label_that_stands_once_is_likely_a_typo(tmp_path):
    path = tmp_path / "reviews.jsonl"
    labels = ["positive", "negative"] * 12
    labels[6] = "postive"
    path.write_text("".join(f'{{"text": "t{i}", "label": "{label}"}}\n' for i, label in enumerate(labels)))
    with pytest.warns(UserWarning, match=r"'postive' stands once among 24 .*jsonl, line 7: is it 'positive'") as said:
        assert Task.from_jsonl(path).labels == ("negative", "positive", "postive")
    assert said[0].filename == __file__
    with pytest.raises(TaskError, match=r"label 'postive' in .*reviews\.jsonl, line 7\n"):
        Task.from_jsonl(path, labels=["negative", "positive"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path.write_text("".join(f'{{"text": "t{i}", "label": "{i}"}}\n' for i in range(40)))
        assert len(Task.from_jsonl(path).labels) == 40  # each of its own


def test_a_line_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "reviews.jsonl"
    path.write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": "y"\n')
    with pytest.raises(FileError, match=r"reviews\.jsonl, line 2\n"):
        Task.from_jsonl(path)
