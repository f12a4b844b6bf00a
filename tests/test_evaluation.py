"""Prompts, batches and evaluation: an example's score is its own, whatever stands beside it in the batch."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

import neuroscope.evaluation as evaluation
from neuroscope.errors import ArgumentError, ModelError, NumericalError, TaskError
from neuroscope.evaluation import engine, ranking
from neuroscope.interventions import ablate, patch, scale
from neuroscope.masks import NeuronMask
from neuroscope.models import memory
from neuroscope.tasks import Example, Task, encoding

STYLES = ("causal", "seq2seq", "masked")
TEXT = "the food was very good so the film was not a great story and the plot was awful"
WORDS = TEXT.split()


def make_task(labels=("good", "bad"), lengths=(3, 9, 1, 14, 6), **options):
    answers = labels or ("good plot",)
    examples = [
        Example("Review : " + " ".join(WORDS[i : i + n]) + " Answer :", answers[i % len(answers)])
        for i, n in enumerate(lengths)
    ]
    return Task("reviews", train=examples, test=examples, labels=labels, **options)


def loglik_by_hand(model, task, example, label):
    """Log-likelihood of a label alone, straight from the definition, without padding or sharing."""
    word = model.tokenizer.get_vocab()
    ids = lambda text: [word.get(w, word["<unk>"]) for w in text.split()]  # noqa: E731
    prompt, answer = ids(example.prompt), ids(label)
    if model.style == "causal":
        inputs, first = {"input_ids": [word["<s>"], *prompt, *answer]}, len(prompt)
    elif model.style == "seq2seq":
        inputs, first = {"input_ids": [*prompt, word["</s>"]], "decoder_input_ids": [0, *answer]}, 0
    else:
        masks = [word["<mask>"]] * len(answer)
        inputs, first = {"input_ids": [word["<s>"], *prompt, *masks, word["</s>"]]}, len(prompt) + 1
    logits = model.root(**{k: torch.tensor([v]) for k, v in inputs.items()}).logits[0].log_softmax(-1)
    return sum(logits[first + i, token].item() for i, token in enumerate(answer))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("labels", [("good", "bad"), ("good", "very good", "very bad", "so so so", "bad")])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_loglik_is_the_examples_own(tiny_model, style, labels, batch_size):
    model, task = tiny_model(style), make_task(labels)
    prepared = evaluation.prepare_task(model, task, batch_size=batch_size)
    expected = torch.tensor([[loglik_by_hand(model, task, e, label) for label in labels] for e in task.test])
    torch.testing.assert_close(evaluation.label_loglik(model, prepared), expected, atol=1e-5, rtol=1e-5)
    for way, length in {"sum": lambda t: 1, "token": lambda t: len(t.split()), "character": len}.items():
        other = evaluation.prepare_task(model, dataclasses.replace(task, ranking=way))
        assert other.lengths.tolist() == [[length(label) for label in labels]] * len(task.test)
        best = (expected / other.lengths).argmax(1).tolist()
        assert evaluation.predict(model, other) == [labels[i] for i in best]
    assert expected.std() > 0.5  # the model tells labels apart


@pytest.mark.parametrize("style", STYLES)
def test_one_token_labels_cost_one_row_per_example(tiny_model, style):
    model = tiny_model(style)
    prepared = evaluation.prepare_task(model, make_task(("good", "bad", "awful")), batch_size=2)
    for parts in {
        id(p): p for p in (prepared.batches(model, False), prepared.batches(model, style == "causal"))
    }.values():
        assert [len(batch.index) for batch, _ in parts] == [2, 2, 1]
        assert [len(candidates.slot) for _, candidates in parts] == [6, 6, 3]
        assert all(batch.end is None for batch, _ in parts)  # a line of tokens, for which no mask is needed
    lengths = [batch.inputs["attention_mask"].sum(1).tolist() for batch, _ in parts]
    assert sum(lengths, []) == sorted(sum(lengths, []), reverse=True)  # longest first


@pytest.mark.parametrize("style", STYLES)
def test_shared_rows_and_single_rows_agree(tiny_model, style, monkeypatch):
    model, task = tiny_model(style), make_task(("good", "very bad", "bad", "very good"))
    monkeypatch.setattr(engine, "against_trees", lambda model, rows: "not asked for")
    shared, single = evaluation.prepare_task(model, task), evaluation.prepare_task(model, task)
    rows = [sum(len(batch.index) for batch, _ in shared.batches(model, False))]
    monkeypatch.setattr(ranking, "_covers", lambda row, item, style: False)
    rows += [sum(len(batch.index) for batch, _ in single.batches(model, False))]
    assert rows[1] == 20
    # Both long labels need "very" as input and the short ones only the prompt; a masked model sees one mask or two.
    assert rows[0] == (10 if style == "masked" else 5)
    torch.testing.assert_close(evaluation.label_loglik(model, shared), evaluation.label_loglik(model, single))


def test_a_batch_of_no_given_size_is_as_many_tokens_as_fit(monkeypatch, tiny_model):
    lengths = [3, 30, 5, 8, 8, 2, 2, 2, 2]
    items = [encoding.Encoded(list(range(n)), [1], n - 1) for n in lengths]
    monkeypatch.setattr(encoding, "ROWS", 4)
    cut = list(encoding.batches(items, None, 0, "cpu", "causal", tokens=20))
    # 30 alone is too long and still one batch; 8 + 8; 5, 3, 2 and 2 are four rows of 5; 2 and 2 are left
    assert [batch.index.tolist() for batch in cut] == [[1], [3, 4], [2, 0, 5, 6], [7, 8]]
    decoders = [encoding.Encoded([1], [1], 0, list(range(n))) for n in (10, 10, 10)]
    assert [len(batch.index) for batch in encoding.batches(decoders, None, 0, "cpu", "seq2seq", tokens=20)] == [2, 1]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("tokens", [1, 30, 8192])
def test_outcomes_do_not_depend_on_the_batch(tiny_model, style, tokens, monkeypatch):
    model, task = tiny_model(style), make_task(("good", "very good", "so so so"))
    expected = evaluation.judge(model, evaluation.prepare_task(model, task, batch_size=1))
    monkeypatch.setattr(encoding, "tokens_at_once", lambda model, generates: tokens)
    prepared = evaluation.prepare_task(model, task)
    parts = prepared.batches(model, style == "causal")
    assert len(parts) > 1 if tokens < 8192 else len(parts) == 1
    assert evaluation.judge(model, prepared).tolist() == expected.tolist()


EDITS = {  # under which an example is measured; a patch needs rows of one length
    "zero": lambda model, mask, task: ablate(model, mask),
    "mean": lambda model, mask, task: ablate(model, mask, value="mean", data=task),
    "scale": lambda model, mask, task: scale(model, mask, 3.0),
    "patch": lambda model, mask, task: patch(model, mask, source="Review : a bad plot was awful Answer :"),
}


@pytest.mark.parametrize(("style", "name"), [(s, n) for s in STYLES for n in EDITS if n != "patch" or s == "causal"])
@pytest.mark.parametrize("labels", [("good", "bad"), ("good", "very good", "so so so")])
def test_outcomes_under_an_edit_do_not_depend_on_the_batch(tiny_model, style, name, labels):
    if name == "patch" and len(labels) > 2:
        pytest.skip("rows of labels of several tokens are of several lengths")
    model = tiny_model(style)
    task = make_task(labels, lengths=(5,) * 9 if name == "patch" else (3, 9, 1, 14, 6, 2, 5, 5, 8))
    widths = {address: site.width for address, site in model.sites().items()}
    mask = NeuronMask.of({address: range(0, width, 3) for address, width in widths.items()}, widths)
    plain = evaluation.label_loglik(model, evaluation.prepare_task(model, task))
    found, outcomes = {}, {}
    with EDITS[name](model, mask, task):
        for size in (1, 7, None):
            prepared = evaluation.prepare_task(model, task, batch_size=size)
            found[size] = evaluation.label_loglik(model, prepared)
            outcomes[size] = evaluation.evaluate(model, task, batch_size=size).outcomes.tolist()
    for size in (7, None):
        torch.testing.assert_close(found[size], found[1], atol=1e-5, rtol=1e-5)
        assert outcomes[size] == outcomes[1]
    assert (found[1] - plain).abs().max() > 0.05  # the edit does something


@pytest.mark.parametrize("style", ["causal", "seq2seq"])
def test_generation_does_not_depend_on_the_batch(tiny_model, style):
    model, task = tiny_model(style), make_task((), max_new_tokens=6)
    predictions = {b: evaluation.predict(model, evaluation.prepare_task(model, task, batch_size=b)) for b in (1, 2, 64)}
    assert predictions[1] == predictions[2] == predictions[64]
    assert len(set(predictions[1])) > 1
    ids = model.tokenizer(task.test[0].prompt, return_tensors="pt").input_ids
    alone = model.generate(ids, torch.ones_like(ids), 6)[0]
    assert predictions[64][0] == model.tokenizer.decode(alone, skip_special_tokens=True).strip()


def test_generation_stops_at_the_end_token_and_is_stripped(tiny_model):
    model, task = tiny_model(), make_task((), lengths=(3, 4))
    ids = model.tokenizer.convert_tokens_to_ids
    says = torch.tensor([[ids("good"), ids("plot"), 2, ids("bad")], [ids("plot"), 0, 2, 0]])

    class Says(type(model)):
        def generate(self, input_ids, attention_mask, max_new_tokens):
            assert input_ids[:, -1].tolist() == [ids(":")] * 2  # padded on the left
            return says

    scripted = Says(**{f.name: getattr(model, f.name) for f in dataclasses.fields(model)})
    result = evaluation.evaluate(scripted, task)
    # The longer example is run first: row 0 of the batch is example 1.
    assert result.table["prediction"].tolist() == ["plot", "good plot"]
    # One word of "good plot": precision 1, recall 1/2, F = 2/3.
    np.testing.assert_allclose(result.outcomes, [2 / 3, 1.0])


def test_evaluation_reports_what_it_measured(tiny_model, tmp_path):
    model, task = tiny_model(), make_task()
    seen = []
    result = evaluation.evaluate(model, task, n=4, batch_size=2, progress=lambda x, desc: seen.append(desc) or x)
    expected = [
        max(task.labels, key=lambda label: loglik_by_hand(model, task, example, label)) for example in task.test[:4]
    ]
    frame = result.to_frame()
    assert list(frame) == ["task", "example", "prompt", "answer", "prediction", "outcome"]
    assert frame["prediction"].tolist() == expected
    assert frame["outcome"].tolist() == [float(p == e.answer) for p, e in zip(expected, task.test, strict=False)]
    low, high = result.interval
    assert 0 <= low <= result.score == frame["outcome"].mean() <= high <= 1
    assert repr(result) == f"reviews: accuracy {result.score:.2f} [{low:.2f}, {high:.2f}], n = 4"
    assert seen == ["evaluate reviews"]
    about = {"task", "data_hash", "model", "fingerprint", "n", "split", "metric", "seed", "versions"}
    assert about <= set(result.manifest) and result.manifest["fingerprint"] == model.fingerprint()
    assert result.manifest["data_hash"] == task.data_hash and result.manifest["n"] == 4
    loaded = evaluation.Evaluation.load(result.save(tmp_path / "e.json"))
    assert repr(loaded) == repr(result)
    shares = [100 * frame.outcome[frame.answer == a].mean() for a in ("bad", "good")]
    bars, level = result.figure().data
    assert list(bars.x) == ["all examples", "bad", "good"] and list(bars.y) == [100 * result.score, *shares]
    assert (list(level.x), list(level.y)) == (["all examples"], [50])


def an_evaluation(answers, predictions, outcomes, metric="accuracy"):
    table = pd.DataFrame({"answer": answers, "prediction": predictions, "outcome": outcomes})
    return evaluation.Evaluation(
        table,
        {"task": "reviews", "metric": metric, "n": len(table), "split": "test", "seed": 0}
        | {"constant": {"answer": "good", "majority": 0.6, "uniform": 0.5} if metric == "accuracy" else None},
    )


def test_an_evaluation_says_itself():
    answers = ["good"] * 60 + ["bad"] * 40
    able = an_evaluation(answers, ["good"] * 60 + ["bad"] * 30 + ["awful"] * 6 + ["good"] * 4, [1.0] * 90 + [0.0] * 10)
    low, high = able.interval
    assert able.in_words() == (
        "On 100 test example(s) of reviews the model reaches "
        f"**accuracy 90.0% (95 % interval {low:.1%} to {high:.1%})**"
        ", which is more than always answering good, which would be right in 60.0% (one-sided binomial test, p = "
        f"{scipy.stats.binomtest(90, 100, 0.6, 'greater').pvalue:.2g}; guessing: 50.0%).\n\nBy right answer:\n\n"
        "- bad: 75% of 40, most often taken for awful\n- good: 100% of 60"
    )
    assert able.tables()["by_answer"]["score"].tolist() == [0.75, 1.0] and len(able.sections()) == 1
    unable = an_evaluation(answers, ["good"] * 100, [1.0] * 60 + [0.0] * 40)
    assert unable.in_words().startswith("**A negative**: on 100 test example(s) of reviews the model reaches")
    assert "which is not shown to be better than always answering good" in unable.in_words()
    written = an_evaluation(["a", "b", "c", "d"], ["a", "x", "c d", "d"], [1.0, 0.0, 2 / 3, 1.0], "rouge-l")
    assert "**ROUGE-L 66.7% (95 %" in written.in_words() and "2 answer(s) get the full score, and 1 get none" in (
        written.in_words()
    )
    bars = written.figure().data[0]
    assert list(bars.y) == [25, 0, 0, 0, 0, 0, 25, 0, 0, 50] and bars.x[-1] == "0.9 to 1.0"
    assert list(written.tables()) == ["overall", "examples"] and written.chance == "no test"


def test_prepared_is_judged_again_under_a_change(tiny_model):
    model, task = tiny_model(), make_task(("good", "bad", "awful"))
    prepared = evaluation.prepare_task(model, task)
    before = evaluation.judge(model, prepared)
    assert np.array_equal(before, evaluation.judge(model, prepared))
    bias = torch.zeros(model.root.config.vocab_size)
    bias[model.tokenizer.convert_tokens_to_ids("awful")] = 1e4
    hook = model.root.lm_head.register_forward_hook(lambda module, args, out: out + bias)
    assert evaluation.predict(model, prepared) == ["awful"] * 5
    hook.remove()
    assert np.array_equal(before, evaluation.judge(model, prepared))


def test_a_loglik_that_is_not_finite_is_an_error_with_its_place(tiny_model):
    model, task = tiny_model(), make_task()
    bias = torch.zeros(model.root.config.vocab_size)
    bias[model.tokenizer.convert_tokens_to_ids("bad")] = -torch.inf
    hook = model.root.lm_head.register_forward_hook(lambda module, args, out: out + bias)
    with pytest.raises(NumericalError, match=r"of 'bad' in example 0 of Task\('reviews'"):
        evaluation.evaluate(model, task)
    hook.remove()


def test_targets_line_up_with_logits(tiny_model):
    model = tiny_model()
    word = model.tokenizer.convert_tokens_to_ids
    task = Task("t", test=[Example("good food", "a b"), Example("a", "the plot ")])
    items = encoding.encode(model, task, [Example("good food", "so bad"), Example("a\n", "plot")])
    assert items[0] == encoding.Encoded([1, *map(word, ["good", "food", "so"])], [word("so"), word("bad")], 2)
    assert items[1] == encoding.Encoded([1, word("a")], [word("plot")], 1)
    (batch,) = encoding.batches(items[::-1], 2, 0, "cpu", "causal")
    assert batch.index.tolist() == [1, 0]
    assert batch.targets.tolist() == [[-100, -100, word("so"), word("bad")], [-100, word("plot"), -100, -100]]
    assert batch.scored.tolist() == [[False, False, True, True], [False, True, False, False]]
    assert batch.real.tolist() == [[True] * 4, [True, True, False, False]]
    assert batch.inputs["attention_mask"].tolist() == batch.real.long().tolist()
    (left,) = encoding.batches(items, 2, 0, "cpu", "causal", side="left")
    assert left.targets.tolist()[1] == [-100, -100, -100, word("plot")]
    assert left.real.tolist()[1] == [False, False, True, True]


def test_end_token_is_scored_when_asked_for(tiny_model):
    task = make_task()
    for style in STYLES:
        plain, closed = (encoding.encode(tiny_model(style), task, task.test[:1], end=end)[0] for end in (False, True))
        assert closed.answer == [*plain.answer, 2] and closed.first == plain.first


def test_corrupt_prompts_are_paired_position_for_position(tiny_model):
    task = make_task()
    examples = [
        Example("the food was good :", "good", corrupt="the food was bad :", corrupt_answer="bad"),
        Example("good :", "good", corrupt="bad :", corrupt_answer="bad"),
    ]
    for style in STYLES:
        model = tiny_model(style)
        word = model.tokenizer.convert_tokens_to_ids
        items = encoding.encode(model, task, examples, corrupt=True)
        (batch,) = encoding.batches(items, 8, 0, "cpu", style)
        clean, corrupt = batch.inputs["input_ids"], batch.corrupt["input_ids"]
        changed = clean != corrupt
        assert changed.sum(1).tolist() == [1, 1] and set(clean[changed].tolist()) == {word("good")}
        assert set(corrupt[changed].tolist()) == {word("bad")}
    with pytest.raises(TaskError, match="example 0 of task 'reviews'"):
        encoding.encode(model, task, [Example("a b c", "good", corrupt="a b")], corrupt=True)
    with pytest.raises(TaskError, match="corrupt prompt of example 0"):
        encoding.encode(model, task, [Example("a b c", "good")], corrupt=True)


def test_errors_say_which_example_and_what_to_do(tiny_model):
    model, task = tiny_model(), make_task()
    with pytest.raises(TaskError, match=r"66 tokens for prompt and answer in example 1 of task(.|\n)*64 tokens"):
        encoding.encode(model, task, [task.test[0], Example("good" + " good" * 64, "bad")])
    with pytest.raises(TaskError, match="no tokens"):
        encoding.encode(model, task, task.test[:1], [""])
    with pytest.raises(TaskError, match=r"60 prompt tokens and 32 new"):
        encoding.encode_prompts(model, task, [Example("good " * 59, "bad")])
    with pytest.raises(ModelError, match=r"ns.load\(model, tokenizer=...\)"):
        encoding.encode(dataclasses.replace(model, tokenizer=None), task, task.test)
    with pytest.raises(ModelError, match="masked"):
        evaluation.prepare_task(tiny_model("masked"), make_task(()))
    with pytest.raises(ArgumentError, match="unexpected keyword"):
        evaluation.evaluate(model, task, batchsize=3)
    with pytest.raises(ArgumentError, match="2 examples, 1 answers"):
        encoding.encode(model, task, task.test[:2], ["good"])


def test_the_tokenizer_is_left_as_it_was(tiny_model):
    model = tiny_model()
    model.tokenizer.pad_token = None
    before = dict(model.tokenizer.special_tokens_map)
    assert encoding.pad_id(model.tokenizer) == 2  # the end-of-text token
    task = make_task(("good", "very bad"))
    scores = evaluation.label_loglik(model, evaluation.prepare_task(model, task))
    assert dict(model.tokenizer.special_tokens_map) == before
    expected = evaluation.label_loglik(tiny_model(), evaluation.prepare_task(tiny_model(), task))
    assert torch.equal(scores, expected)  # padding is told by position, so its id does not matter


def test_tokens_at_once_keep_a_layers_vectors_in_the_cache(tiny_model):
    model = tiny_model()  # 48 neurons, 32 coordinates, float32: (3 * 48 + 6 * 32) * 4 = 1344 bytes a token
    assert memory.tokens_at_once(model) == 8192  # 16 MiB hold 12483 of them
    assert memory.tokens_at_once(model, generates=True) == 4 * 8192
    hidden = {a: dataclasses.replace(s, width=11008) for a, s in model.units["hidden"].items()}
    large = dataclasses.replace(model, units={**model.units, "hidden": hidden})
    assert memory.tokens_at_once(large) == 256  # 125
