"""How prompts are shown: in a chat template, after shots, cut or skipped where they are too long."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from state import unchanged
from tiny import tiny_model

import neuroscope as ns
from neuroscope.__main__ import main
from neuroscope.comparison.hidden_states.reading import prompts_of
from neuroscope.errors import ArgumentError, ModelError, TaskError
from neuroscope.evaluation import label_loglik, prepare_task
from neuroscope.models import Model
from neuroscope.tasks import Example, Task
from neuroscope.tasks.encoding import encode, encode_prompts
from neuroscope.tasks.prompts import closing_ids, shown

# <s> story : SYSTEM </s> Review : USER </s> Answer : ASSISTANT </s>
ROLES = "{'system': 'story', 'user': 'Review', 'assistant': 'Answer'}"
TURNS = "{% for m in messages %}{{ " + ROLES + "[m.role] }} : {{ m.content }} </s> {% endfor %}"
CHAT = "<s> " + TURNS + "{% if add_generation_prompt %}Answer : {% endif %}"
PROMPT = "the food was"
WAS = [5, 7, 9]
SHOTS = (Example("a film", "bad"), Example("so great", "good"))


def talking(style="causal", template=CHAT):
    model = tiny_model(style)
    model.tokenizer.chat_template = template
    return model


def moods(prompts=(PROMPT,), **options):
    return Task("moods", test=[Example(p, "good") for p in prompts], labels=("good", "bad"), **options)


def told(prompts, **options):
    return Task("told", test=[Example(p, "good bad") for p in prompts], **options)


ways = pytest.mark.parametrize(
    ("options", "before"),
    [
        ({"chat": True}, [1, 22, 20]),
        ({"chat": True, "system": "not so"}, [1, 17, 20, 12, 11, 2, 22, 20]),
        ({"chat": True, "shots": SHOTS[:1]}, [1, 22, 20, 6, 8, 2, 21, 20, 14, 2, 22, 20]),
        ({"shots": SHOTS}, [1, 6, 8, 14, 11, 15, 13]),
        ({}, [1]),
    ],
)


@ways
def test_every_use_shows_the_same_tokens(options, before):
    model, behind = talking(), [2, 21, 20] if "chat" in options else []
    task = moods(train=[Example(PROMPT, "good")], **options)
    wanted = before + WAS + behind
    (item,) = encode(model, task, task.test)
    assert (item.inputs, item.answer) == (wanted, [13])
    assert encode(model, task, task.test, ["bad"])[0].inputs == wanted
    assert encode(model, task, task.split("train"), end=True)[0].answer == [13, 2]
    assert encode_prompts(model, task, task.test)[0].inputs == wanted
    assert prompts_of(model, task, task.test, "mean").encoded[0].inputs == wanted
    with torch.no_grad():
        logits = model.root(torch.tensor([wanted])).logits[0, -1].log_softmax(-1)
    assert torch.allclose(label_loglik(model, prepare_task(model, task))[0], logits[[13, 14]], atol=1e-5)


def test_a_chat_is_what_the_tokenizer_makes_of_it():
    model = talking()
    messages = [{"role": "system", "content": "so"}, {"role": "user", "content": PROMPT}]
    theirs = model.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    task = moods(chat=True, system="so")
    assert encode(model, task, task.test)[0].inputs == theirs["input_ids"]
    bare = talking(template=CHAT.removeprefix("<s> "))  # one that leaves the start token out, as ChatML does
    assert encode(bare, task, task.test)[0].inputs == theirs["input_ids"][1:]
    manifest = ns.evaluate(model, task).manifest
    assert manifest["prompts"] == {"chat": True, "system": "so"}
    other = ns.evaluate(talking(template=CHAT.replace("Review", "soup")), task).manifest
    assert manifest["template"] != other["template"] and manifest["data_hash"] == other["data_hash"]
    assert not {"template", "prompts"} & set(ns.evaluate(model, moods()).manifest)


def test_what_the_template_puts_before_an_answer_belongs_to_it():
    """Llama 2: no words that ask for an answer, and a space before it."""
    vocabulary = {"<unk>": 0, "a": 1, " ": 2, "b": 3, "\n": 4, "c": 5}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<unk>")
    turn = "{% if m.role == 'user' %}b{{ m.content }}b{% else %} {{ m.content }}c{% endif %}"
    tokenizer.chat_template = "{% for m in messages %}" + turn + "{% endfor %}"
    model = ns.load(tiny_model().root, tokenizer=tokenizer)
    task = Task("t", test=[Example("a", "a")], labels=("a", "c"), chat=True)
    (item,) = encode(model, task, task.test, end=True)
    assert item.inputs + item.answer[-1:] == [3, 1, 3, 2, 1, 5]  # "bab", " a", "c"
    assert item.answer == [2, 1, 5]
    asking = "{% if add_generation_prompt %}b {% endif %}"
    tokenizer.chat_template = "{% for m in messages %}b{{ m.content }}{% endfor %}" + asking
    assert encode(model, task, task.test)[0].answer == [2, 1]  # as one token, where the tokenizer has it
    tokenizer.chat_template = "{% for m in messages %}" + turn + "{% endfor %}"
    tokenizer.chat_template = tokenizer.chat_template.replace("}b{% else %} ", "}b\n{% else %}\n")
    assert encode(model, task, task.test, end=True)[0].answer == [1, 5]  # the line break is the prompt's
    assert encode_prompts(model, task, task.test)[0].inputs == [3, 1, 3, 4]


def test_generation_stops_where_the_template_closes_an_answer(monkeypatch):
    model = talking(template=CHAT.replace("</s>", "yes"))
    task = told([PROMPT], chat=True)
    assert closing_ids(model, task) == {23} and closing_ids(model, told([PROMPT])) == set()
    monkeypatch.setattr(Model, "generate", lambda *args: torch.tensor([[13, 23, 14]]))
    assert ns.evaluate(model, task).table["prediction"].tolist() == ["good"]


@pytest.mark.parametrize(
    ("template", "found"),
    [
        (None, "a tokenizer without a chat template"),
        ("{{ raise_exception('no system here') }}", "refuses them.*no system here"),
        (
            "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}",
            "drops the system",
        ),
    ],
)
def test_a_template_that_cannot_say_it_is_told(template, found):
    task = moods(train=[Example("a film", "bad")], chat=True, system="so")
    model = talking(template=template)
    uses = [ns.evaluate, ns.attribute, ns.representations, lambda m, t: ns.finetune(m, t, "ffn", steps=1)]
    for use in uses:
        with pytest.raises(ModelError, match=rf"(?s)prompts of task 'moods' as a chat.*{found}"):
            use(model, task)


def test_a_task_that_cannot_be_asked_leaves_nothing_behind(tmp_path):
    """No template; more shots than examples; labels that are the same tokens: refused before a file or hook is made."""
    some = [Example(f"the food was {word}", "good") for word in ("good", "bad", "so", "not")]
    parts = {"train": some[:2], "discovery": some[2:3], "test": some[3:]}
    chat = Task("chat", **parts, labels=("good", "bad"), chat=True)
    with pytest.raises(TaskError, match="3 shots of task 'few'"):
        Task("few", **parts, labels=("good", "bad"), shots=3)
    parts = {split: [replace(e, answer="good bad") for e in examples] for split, examples in parts.items()}
    same = Task("same", **parts, labels=("good bad", "good  bad"))
    with pytest.raises(TaskError, match="3 shots of task 'chat'"):
        chat.with_shots(3)
    model = talking(template=None)
    judging = [lambda m, t: ns.run(m, [t], output=tmp_path / "run"), ns.evaluate]
    others = [ns.attribute, lambda m, t: ns.finetune(m, t, "ffn", steps=1, output=tmp_path / "tuned")]
    for task, error, found, uses in (
        (chat, ModelError, "without a chat template", judging + others),
        (same, TaskError, "the same tokens", judging),
    ):
        for use in uses:
            with unchanged(model.root), pytest.raises(error, match=found):
                use(model, task)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_template_is_told_the_same_day_and_no_thinking():
    said = "\n{{ strftime_now('%d %b %Y') }}{{ strftime_now('%Y-%m-%d') }}"
    said += "{% if enable_thinking %}think{% endif %}{{ messages[0].content }}"
    task = moods(chat=True)
    assert shown(talking(template=said).tokenizer, task, ["a"]) == ["\n26 Jul 20242024-07-26a"]


def test_what_a_chat_leaves_no_choice_of():
    with pytest.raises(ArgumentError, match=r"(?s)system.*give chat=True"):
        moods(system="so")
    with pytest.raises(ArgumentError, match=r"(?s)separator=.*the chat template says"):
        moods(chat=True, separator=":")
    same = Task("t", test=[Example(PROMPT, "good bad")], labels=("good bad", "good  bad"), chat=True)
    with pytest.raises(TaskError, match="are the same tokens to the model"):
        ns.evaluate(talking(), same)


def solved(n, labels=("good", "bad"), start=0):
    return [Example(f"text {i}", labels[i % len(labels)]) for i in range(start, start + n)]


def test_shots_are_never_judged_examples():
    train, test, discovery = solved(40), solved(12, start=20), [Example("text 3 ", "bad"), Example("new", "good")]
    task = Task("t", train=train, test=test, discovery=discovery, labels=("good", "bad"))
    judged = {e.prompt.strip() for e in (*test, *discovery)}
    for seed in range(100):
        shots = task.with_shots(4, seed).shots
        assert len({s.prompt for s in shots}) == 4 and not judged & {s.prompt for s in shots}
        assert set(shots) <= set(train) and sorted(s.answer for s in shots) == ["bad", "bad", "good", "good"]
    drawn = {shot for seed in range(100) for shot in task.with_shots(4, seed).shots}
    assert len(drawn) == 40 - 12 - 1  # any of the others
    firsts = [task.with_shots(2, seed).shots[0].answer for seed in range(100)]
    assert 30 < firsts.count("good") < 70  # no label always stands first


def test_shots_are_drawn_by_their_seed():
    task = Task("t", train=solved(30), labels=("good", "bad"))
    assert task.with_shots(3, np.int64(4)) == task.with_shots(np.int64(3), 4) != task.with_shots(3, 5)
    assert replace(task, shots=3) == task.with_shots(3) == replace(task, shots=torch.tensor(3))
    assert task.with_shots(3).with_shots(0) == task
    fewer = replace(task.with_shots(3), train=task.train[:5])
    assert fewer.shots == task.with_shots(3).shots


@pytest.mark.parametrize(
    ("labels", "n", "counts"), [(("a", "b", "c"), 7, [2, 2, 3]), (("a", "b", "none"), 5, [0, 2, 3]), ((), 5, None)]
)
def test_shots_are_balanced_where_they_can_be(labels, n, counts):
    task = Task("t", train=solved(12, [label for label in labels if label != "none"] or "ab"), labels=labels)
    shots = task.with_shots(n, seed=1).shots
    assert len(set(shots)) == n
    assert counts is None or sorted(sum(s.answer == label for s in shots) for label in labels) == counts


def test_a_shot_is_neither_learnt_nor_looked_at():
    task = Task("t", train=solved(6), labels=("good", "bad"), shots=2)
    for split in ("train", "discovery"):
        assert set(task.split(split)) == set(task.train) - set(task.shots)
    assert len(task.train) == 6 and "2 shots" in repr(task)


@pytest.mark.parametrize(
    ("shots", "error", "found"),
    [
        (5, TaskError, "5 shots of task 't'(.|\n)*4 training examples whose prompts are not among"),
        (-1, ArgumentError, "shots=-1"),
        (True, ArgumentError, "shots=True"),
        (1.5, ArgumentError, "shots=1.5"),
        ("2", ArgumentError, "shots='2'"),
        ([Example("text 4 ", "good")], TaskError, "a discovery or test prompt too"),
        ([Example("new", "grape")], TaskError, "'grape' in shots example 0"),
        (["new"], TaskError, "a str in shots"),
    ],
)
def test_shots_that_cannot_be_shown_are_refused(shots, error, found):
    with pytest.raises(error, match=found):
        Task("t", train=solved(5), test=solved(1, start=4), labels=("good", "bad"), shots=shots)


def test_the_hash_of_a_task_covers_how_it_is_asked():
    task = Task("t", train=solved(6), labels=("good", "bad"))
    others = [{"chat": True}, {"chat": True, "system": "so"}, {"shots": 2}, {"max_tokens": 9}, {"too_long": "skip"}]
    hashes = [replace(task, **other).data_hash for other in ({}, *others)] + [task.with_shots(2, 1).data_hash]
    assert len(set(hashes)) == len(hashes)
    assert replace(task, too_long="error").data_hash == task.data_hash
    assert task.data_hash == "40376173753fe45c"  # kept: drawings of other experiments depend on it


LONG = "the very very so so good film was"  # 8 tokens, the last of which are good film was
END = [13, 8, 9]


@ways
def test_a_prompt_is_cut_from_the_left_of_its_own_text(options, before):
    model, behind = talking(), [2, 21, 20] if "chat" in options else []
    task = moods([PROMPT, LONG], max_tokens=len(before) + 3 + len(behind), **options)
    for label in task.labels:
        short, item = encode(model, task, task.test, [label] * 2)
        assert (short.inputs, short.cut) == (before + WAS + behind, 0)
        assert (item.inputs, item.cut) == (before + END + behind, 5)
    assert encode_prompts(model, task, task.test)[1].inputs == before + END + behind
    prompts = prompts_of(model, task, task.test, "last")
    assert prompts.encoded[1].inputs == before + END + behind
    assert prompts.weights[1].argmax() == len(before + END + behind) - 1
    with pytest.warns(UserWarning, match="1 of 2 prompts of task 'moods' are cut at the beginning"):
        result = ns.evaluate(model, task)
    assert result.manifest["prompts"]["cut"] == 1 and result.table["prompt"][1] == LONG
    with pytest.warns(UserWarning, match="1 of 2 prompts"):
        assert ns.attribute(model, task, split="test").manifest["prompts"]["cut"] == 1


@pytest.mark.parametrize(("style", "inputs"), [("seq2seq", [*END, 2]), ("masked", [1, *END, 1, 2])])
def test_special_tokens_are_not_cut(style, inputs):
    model = talking(style)
    task = moods([LONG], max_tokens=4 if style == "seq2seq" else 5)
    inputs = [model.tokenizer.mask_token_id if i == 4 and style == "masked" else t for i, t in enumerate(inputs)]
    assert encode(model, task, task.test)[0].inputs == inputs


@pytest.mark.parametrize("kind", [moods, told])
def test_a_prompt_beyond_the_context_is_refused_skipped_or_cut(kind):
    model = talking()
    prompts = [PROMPT, "very " * 70 + PROMPT, "a film"]
    with pytest.raises(TaskError, match=r"(?s)example 1.*a context of 64.*too_long='cut' or 'skip'"):
        ns.evaluate(model, kind(prompts))
    with pytest.warns(UserWarning, match=r"1 of 3 examples of task .* skipped: the first is example 1, of 73 tokens"):
        skipped = ns.evaluate(model, kind(prompts, too_long="skip"))
    assert skipped.table["example"].tolist() == [0, 2] and skipped.manifest["n"] == 2
    assert skipped.manifest["prompts"] == {"skipped": [1]}
    assert "**1** example(s) were too long" in skipped.in_words()
    few = ns.evaluate(model, kind([prompts[0], prompts[2]]))
    assert skipped.table["prediction"].tolist() == few.table["prediction"].tolist()
    with pytest.warns(UserWarning, match="1 of 3 prompts"):
        cut = ns.evaluate(model, kind(prompts, too_long="cut"))
    assert cut.manifest["prompts"] == {"cut": 1} and cut.manifest["n"] == 3
    task = kind(prompts, too_long="cut", **({"max_new_tokens": 1} if kind is moods else {}))
    ways = [encode(model, task, task.test, end=True)[1], encode_prompts(model, task, task.test)[1]]
    assert len({item.cut for item in ways}) == 1  # the same prompt to learn from and to be judged on


def test_what_is_too_long_is_skipped_everywhere():
    model = talking()
    examples = [Example(PROMPT, "good"), Example(LONG, "bad"), Example("a film", "bad")]
    test = [Example("so very", "good"), Example(LONG + " a", "bad"), Example("a plot", "bad")]
    task = Task("t", examples, test, labels=("good", "bad"), max_tokens=6, too_long="skip")
    few = Task("t", [examples[0], examples[2]], [test[0], test[2]], labels=("good", "bad"))
    with warnings.catch_warnings(record=True) as told_of:
        warnings.simplefilter("always")
        scores, plain = ns.attribute(model, task), ns.attribute(model, few)
        assert scores.manifest["prompts"]["skipped"] == [1] and scores.manifest["examples"] == 2
        assert all(torch.equal(scores[a], plain[a]) for a in plain)
        reps = ns.representations(model, task)
        assert np.array_equal(reps["t"], ns.representations(model, few)["t"])
        assert reps.manifest["asked"] == {"t": {"prompts": {"max_tokens": 6, "skipped": [1]}}}
        mask = scores.top(0.1)
        for value in ("mean", "resample"):
            with ns.ablate(model, mask, value=value, data=task):
                ns.evaluate(model, task)
        table = ns.experiments.deactivation(model, task, {"t": mask}, n_random=3)
        assert table.manifest["asked"]["t"]["prompts"]["skipped"] == [1]
        adapter = ns.finetune(model, task, mask, steps=1, batch_size=2)
        assert (adapter.manifest["examples"], adapter.manifest["asked"]["t"]["prompts"]["skipped"]) == (2, [1])
    assert len([w for w in told_of if "1 of 3 examples" in str(w.message)]) >= 5


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (
            {"max_tokens": 3, "too_long": "error"},
            "a prompt of 4 tokens, example 0(.|\n)*room for 3(.|\n)*more max_tokens",
        ),
        ({"max_tokens": 3, "too_long": "skip"}, "the shortest of 2(.|\n)*too_long='cut'"),
        (
            {"max_tokens": 6, "chat": True},
            "3 of them its own, in example 0(.|\n)*room for 6(.|\n)*fewer shots, a shorter",
        ),
        ({"max_tokens": 1}, "a prompt of 4 tokens, 3 of them its own"),
    ],
)
def test_what_no_cut_makes_short_enough_is_refused(options, found):
    task = moods([PROMPT, LONG], **options)
    for use in (ns.evaluate, ns.representations):
        with pytest.raises(TaskError, match=found):
            use(talking(), task)


@pytest.mark.parametrize(
    ("name", "value"), [("max_tokens", 0), ("max_tokens", "9"), ("too_long", "shorten"), ("chat", 1)]
)
def test_how_prompts_are_shown_is_checked(name, value):
    with pytest.raises(ArgumentError, match=name):
        moods(**{name: value})


def test_loaders_and_commands_pass_it_on(tmp_path, capsys):
    rows = [{"text": f"text {i}", "label": ["good", "bad"][i % 2]} for i in range(10)]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    asked = {"shots": 2, "chat": True, "system": "so", "max_tokens": 90, "too_long": "skip"}
    task = Task.from_jsonl(path, seed=3, **asked)
    assert task == ns.load_tasks(path, seed=3, **asked)["t"]
    assert (task.chat, task.system, task.max_tokens, task.too_long) == (True, "so", 90, "skip")
    assert task.shots == Task.from_jsonl(path, seed=3).with_shots(2, 3).shots
    with pytest.raises(TaskError, match="9 shots of task 't'"):
        Task.from_jsonl(path, shots=9)
    sizes = {"train": 4, "discovery": 1, "test": 1}
    for source, name in (("mini", "nli-food"), (["nli-food"], "nli-food"), ("mini-sequence", "praise")):
        bundled = ns.load_tasks(source, **sizes, chat=True, shots=1)[name]
        assert bundled.chat and bundled.shots == ns.load_tasks(source, **sizes)[name].with_shots(1).shots
    assert main(["run", "--tasks", str(path), "--shots", "9", "--output", str(tmp_path / "out")]) == 1
    assert "9 shots of task 't'" in capsys.readouterr().err
    assert main(["run", "--tasks", str(path), "--chat", "--output", str(tmp_path / "out")]) == 1
    assert "a tokenizer without a chat template" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.json"))  # the folder is not that run's
    assert main(["reproduce", "T1", "--shots", "2"]) == 2
    assert "--shots without --tasks" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["task", "with_shots", "from_jsonl", "load_tasks"])
def test_shots_of_ones_own_are_taken_wherever_a_number_is(way, tmp_path):
    rows = [{"text": "the film", "label": "good"}, {"text": "a plot", "label": "bad"}]
    (tmp_path / "moods").mkdir()
    (tmp_path / "moods" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = {
        "task": lambda: moods(shots=SHOTS),
        "with_shots": lambda: moods().with_shots(SHOTS),
        "from_jsonl": lambda: Task.from_jsonl(tmp_path / "moods", shots=SHOTS),
        "load_tasks": lambda: ns.load_tasks(tmp_path, shots=SHOTS)["moods"],
    }[way]()
    assert task.shots == SHOTS


def test_an_answer_ends_where_the_next_shot_would_begin(monkeypatch):
    """The model goes on with a next question after its answer, as the shots do."""
    model = tiny_model()
    says = "good bad\n\na film was bad"
    monkeypatch.setattr(type(model.tokenizer), "decode", lambda self, ids, **options: f" {says} ")
    for shots, answer in (((Example("a film", "good bad"),), "good bad"), ((), says)):
        result = ns.evaluate(model, told([PROMPT], shots=shots, metric="exact", max_new_tokens=3))
        assert result.table["prediction"].tolist() == [answer]
