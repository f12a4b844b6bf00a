"""lm-evaluation-harness both ways: its numbers are those of its own HFLM, intact and under masks; what is refused."""

import dataclasses
import json
import logging

import numpy as np
import pytest
from scipy import stats
from state import unchanged
from tiny import tiny_model

import neuroscope as ns
from neuroscope.errors import ArgumentError, FileError, MaskError, ModelError, NeuroscopeError, TaskError
from neuroscope.evaluation import label_loglik, prepare_task
from neuroscope.experiments.benchmarking import constant_of
from neuroscope.interop.harness import Right, lm_class, running
from neuroscope.interop.harness.running import HarnessTask, names_in

pytest.importorskip("lm_eval", reason="needs the extra lm-eval")
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

CHOICE = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}, train: {data}}}}}
test_split: test
fewshot_split: train
output_type: {kind}
doc_to_text: "{{{{text}}}}"
doc_to_target: {target}
{more}
"""
CHOICES = "doc_to_choice: [positive, negative]\nmetric_list: [{metric: acc}, {metric: acc_norm}, {metric: f1}]"
UNTIL = 'generation_kwargs: {until: ["\\n"], max_gen_toks: 4}\nmetric_list: [{metric: exact_match}]'
N = 40


@pytest.fixture(scope="module")
def mini():
    return ns.load("mini")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two tasks as yaml files: the verdicts of a bundled task, chosen and generated."""
    where, task = tmp_path_factory.mktemp("tasks"), ns.load_tasks("mini")["sentiment-food"]
    rows = [{"text": e.prompt, "answer": e.answer, "gold": task.labels.index(e.answer)} for e in task.test[:N]]
    assert task.labels == ("negative", "positive") or task.labels == ("positive", "negative")
    (where / "rows.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    choices = CHOICES.replace("[positive, negative]", f"[{', '.join(task.labels)}]")
    for name, kind, target, more in (
        ("toy_choice", "multiple_choice", "gold", choices),
        ("toy_until", "generate_until", "'{{answer}}'", UNTIL),
    ):
        text = CHOICE.format(name=name, data=where / "rows.json", kind=kind, target=target, more=more)
        (where / f"{name}.yaml").write_text(text)
    return where


@pytest.fixture(scope="module")
def mask(mini):
    return ns.attribute(mini, ns.load_tasks("mini")["sentiment-food"], examples=48).top(0.20)


def theirs(model, folder, **options):
    """What the harness itself says of the same model: scores by task and metric."""
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    made = HFLM(pretrained=model.root, tokenizer=model.tokenizer, batch_size=4)
    results = simple_evaluate(
        model=made, tasks=["toy_choice", "toy_until"], task_manager=manager, bootstrap_iters=0, **options
    )["results"]
    return {(task, key.removesuffix(",none")): value for task, row in results.items() for key, value in row.items()}


def scores(result, condition, seed=None):
    """Of the own mask, by task and metric."""
    rows = result.table[(result.table["condition"] == condition) & (result.table["mask"] != "drawn")]
    rows = rows if seed is None else rows[rows["seed"] == seed]
    return {(row.task, row.metric): row.score for row in rows.itertuples()}


@pytest.fixture(scope="module")
def found(mini, folder, mask, kept):
    """A task's own mask, and a random one that is taken for one."""
    return ns.benchmark(mini, masks_of(mask), folder, n_random=3, batch_size=4, output=kept)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("kept")


def masks_of(mask):
    return {"own": mask, "drawn": mask.random_like(seed=77)}


def test_intact_numbers_are_the_harness_own(mini, folder, found):
    right = theirs(mini, folder)
    mine = scores(found, "intact")
    assert set(mine) == {("toy_choice", "acc"), ("toy_choice", "acc_norm"), ("toy_until", "exact_match")}
    assert mine == {key: right[key] for key in mine}
    assert min(mine.values()) > 0.6  # the bundled model knows the task
    assert found.manifest["left_out"] == {"toy_choice": ["f1"], "toy_until": []}


def test_numbers_under_a_mask_are_the_harness_own_under_it(mini, folder, mask, found):
    for condition, seed, off in (("mask", None, mask), ("random", 1, mask.random_like(seed=1))):
        with ns.ablate(mini, off):
            right = theirs(mini, folder)
        mine = scores(found, condition, seed)
        assert mine == {key: right[key] for key in mine}
    assert scores(found, "mask") != scores(found, "intact")


def test_own_neurons_break_it_and_random_ones_do_not(found):
    tests = found.summary().set_index(["mask", "task", "metric"])
    own, drawn = tests.loc["own"], tests.loc["drawn"]
    assert (own["effect"] > 0.2).all() and (own["q"] < 0.05).all() and (own["effect_low"] > 0).all()
    assert (drawn["q"] > 0.05).all() and (drawn["effect_low"] < 0).all()
    np.testing.assert_allclose(tests["effect"], tests["random"] - tests["off"], atol=1e-12)
    np.testing.assert_allclose(tests["q"], stats.false_discovery_control(tests["p"]))
    words = found.in_words()
    assert words.startswith(
        "A mask leaves the model worse than as many random neurons of the same layers do in **3 of 6**"
    )
    assert "**A negative**" in words and "drawn on toy_choice (acc)" in words and "f1 of toy_choice" in words


def test_intervals_are_wilsons(found):
    for row in found.table.itertuples():
        right = stats.binomtest(round(row.score * row.n), row.n).proportion_ci(method="wilson")
        assert row.n == N
        np.testing.assert_allclose((row.low, row.high), right, atol=1e-12)


def test_it_goes_on_where_it_was(mini, folder, mask, found, kept, monkeypatch):
    lines = (kept / "benchmark.jsonl").read_text().splitlines()
    assert len(lines) == 2 * (1 + 2 * (1 + 3))
    monkeypatch.setattr("neuroscope.experiments.benchmarking.measure", lambda lm, task: pytest.fail("measured again"))
    again = ns.benchmark(mini, masks_of(mask), folder, n_random=3, batch_size=4, output=kept)
    assert again.table.equals(found.table) and again.manifest == found.manifest
    with pytest.raises(pytest.fail.Exception, match="measured again"):  # another value is another measurement
        ns.benchmark(mini, masks_of(mask), folder, n_random=3, value=0.5, output=kept)
    with pytest.raises(pytest.fail.Exception, match="measured again"), ns.ablate(mini, mask):  # and so is what is live
        ns.benchmark(mini, masks_of(mask), folder, n_random=3, output=kept)


def test_it_is_saved_drawn_and_read_back(found, tmp_path):
    back = ns.load_result(found.save(tmp_path / "found.json"))
    assert back.table.equals(found.table) and back.in_words() == found.in_words()
    assert len(found.figures()) == 3 and [f.layout.title.text.partition(": ")[2][:3] for f in found.figures()]
    bars = {trace.name: list(trace.y) for trace in found.figure("exact_match").data}
    summary = found.summary()
    rows = summary[summary["metric"] == "exact_match"]
    for label, column in (("nothing off", "intact"), ("random off, same layers", "random"), ("the mask off", "off")):
        np.testing.assert_allclose(bars[label], 100 * rows[column])
    assert list(found.figure().data[0].x) == ["toy_choice, own", "toy_choice, drawn"]
    level = next(trace for trace in found.figure().data if trace.name == "the best constant answer")
    np.testing.assert_allclose(level.y, [100 * found.table["majority"].iloc[0]] * 2)


def test_shots_and_limit_are_the_harness_own(mini, folder, mask):
    found = ns.benchmark(mini, {"own": mask}, folder / "toy_choice.yaml", n_random=3, limit=6, num_fewshot=1)
    right = theirs(mini, folder, limit=6, num_fewshot=1)
    assert scores(found, "intact") == {key: right[key] for key in scores(found, "intact")}
    assert found.manifest["tasks"]["toy_choice"]["shots"] == 1 and set(found.table["n"]) == {6}


def test_no_trace_is_left(mini, folder, mask, capfd):
    logger = logging.getLogger("lm_eval")
    before = logger.level, logger.propagate, list(logger.handlers), mini.tokenizer.pad_token
    mini.root.train()
    try:
        with unchanged(mini.root):
            ns.benchmark(mini, {"own": mask}, folder, n_random=3, limit=2)
            with pytest.raises(TaskError):
                ns.benchmark(mini, {"own": mask}, folder, n_random=3, limit=2, num_fewshot=10**6)
    finally:
        mini.root.eval()
    assert (logger.level, logger.propagate, list(logger.handlers), mini.tokenizer.pad_token) == before
    assert capfd.readouterr() == ("", "")


def test_the_registered_model(mini, folder, mask, found, tmp_path):
    lm_class("a test")
    path = mask.save(tmp_path / "mask.safetensors")
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    for more, mine in (("", scores(found, "mask")), (",control=0", scores(found, "random", 0))):
        results = simple_evaluate(
            model="neuroscope", model_args=f"pretrained=mini,mask={path},value=0.0{more}", batch_size=4,
            device="cuda:0", tasks=["toy_choice", "toy_until"], task_manager=manager, bootstrap_iters=0,
        )["results"]  # fmt: skip
        assert {key: results[key[0]][f"{key[1]},none"] for key in mine} == mine
    with pytest.raises(ArgumentError, match="did you mean 'mask'"):
        lm_class("a test")("mini", masks=path)
    with pytest.raises(ArgumentError, match="control=0"):
        lm_class("a test")("mini", control=0)


def test_a_model_for_the_harness_has_the_mask_off_while_it_runs(mini, folder, mask, found):
    made = ns.interop.harness_model(mini, mask)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    results = simple_evaluate(model=made, tasks=["toy_choice"], task_manager=manager, bootstrap_iters=0)["results"]
    assert results["toy_choice"]["acc,none"] == scores(found, "mask")["toy_choice", "acc"]


def test_the_command_is_the_harness_own_with_our_model(monkeypatch):
    from lm_eval.api.registry import model_registry

    from neuroscope.interop.harness.__main__ import main

    seen = []
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", lambda: seen.append("neuroscope" in model_registry))
    main()
    assert seen == [True]

    def fails():
        raise MaskError("a", "b", "c")

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", fails)
    with pytest.raises(SystemExit, match="neuroscope: a"):
        main()


def planted(monkeypatch, own, controls, rights=(), better=True, metric="acc"):
    """`benchmark` on a task with such outcomes of the mask, and of every random one; with nothing off all are 1."""
    n = len(own)
    task = HarnessTask("t", None, None, n, 0, "id", tuple(rights), {metric: better})
    values = iter([[1.0] * n, own, *controls])
    monkeypatch.setattr("neuroscope.experiments.benchmarking.lm_of", lambda *args: None)
    monkeypatch.setattr("neuroscope.experiments.benchmarking.load_harness_tasks", lambda *args, **kwargs: {"t": task})
    monkeypatch.setattr(
        "neuroscope.experiments.benchmarking.measure",
        lambda lm, task: {"outcomes": {metric: next(values)}, "left_out": [], "warned": ["too long"]},
    )
    model = tiny_model()
    mask = ns.NeuronMask.of({0: [1, 2]}, model)
    return ns.benchmark(model, {"m": mask}, "t", n_random=len(controls))


@pytest.mark.parametrize("at", ["last", "prompt", "answer", [0, -2]])
def test_tokens_of_a_document_are_those_of_a_task(mini, folder, mask, at):
    """Contexts of several lengths, and answers of several tokens: `evaluate` knows where they end, and so does this."""
    task = ns.load_tasks("mini")["sentiment-food"]
    labels = (*task.labels, f"{task.labels[0]} {task.labels[1]}")
    task = dataclasses.replace(task, test=task.test[:6], labels=labels)
    requests = [
        Instance("loglikelihood", {}, (example.prompt, f" {label}"), 0) for example in task.test for label in labels
    ]
    with ns.ablate(mini, mask, at=at):
        right = label_loglik(mini, prepare_task(mini, task)).flatten().tolist()
    for size in (None, 2):
        lm = ns.interop.harness_model(mini, mask, at=at, batch_size=size)
        found = [value for value, _ in lm.loglikelihood(requests, disable_tqdm=True)]
        assert found == pytest.approx(right, abs=1e-4)
    with ns.ablate(mini, mask, at=at):  # around a model without a mask, as `benchmark` has it
        found = [v for v, _ in ns.interop.harness_model(mini).loglikelihood(requests, disable_tqdm=True)]
    assert found == pytest.approx(right, abs=1e-4)
    plain = label_loglik(mini, prepare_task(mini, task)).flatten().tolist()
    assert max(abs(a - b) for a, b in zip(plain, right, strict=True)) > 1e-2


def test_a_benchmark_at_tokens_and_within_a_range(mini, folder, mask):
    task = dataclasses.replace(ns.load_tasks("mini")["sentiment-food"], ranking="sum")
    where = {"at": "last", "when": ns.between(0.0, float("inf"))}
    found = ns.benchmark(mini, {"own": mask}, folder / "toy_choice.yaml", n_random=3, limit=12, **where)
    with ns.ablate(mini, mask, **where):
        right = ns.evaluate(mini, task, n=12).score
    assert scores(found, "mask")["toy_choice", "acc"] == right and found.manifest["at"] == "last"
    made = ns.benchmark(mini, {"own": mask}, folder / "toy_until.yaml", n_random=3, limit=6, at="generated")
    assert scores(made, "mask")["toy_until", "exact_match"] <= 1.0
    with pytest.raises(ArgumentError, match="scores no answer"):
        ns.benchmark(mini, {"own": mask}, folder / "toy_until.yaml", n_random=3, limit=6, at="answer")
    for call in (
        lambda: ns.benchmark(mini, {"own": mask}, folder, value="corrupt", data=task),
        lambda: ns.interop.harness_model(mini, mask, value="corrupt"),
    ):
        with pytest.raises(ArgumentError, match="no corrupt prompts"):
            call()
    with pytest.raises(ArgumentError, match="at=(.|\n)*no mask"):
        ns.interop.harness_model(mini, at="last")


def test_lower_is_better_turns_the_effect_round(monkeypatch):
    own, controls = [0.0] * 20, [[1.0] * 19 + [0.0], [1.0] * 20, [0.0] + [1.0] * 19]
    first = planted(monkeypatch, own, controls, metric="wer").summary().iloc[0]
    turned = planted(monkeypatch, own, controls, better=False, metric="wer")
    second = turned.summary().iloc[0]
    assert first["effect"] == -second["effect"] and first["effect_low"] == -second["effect_high"] > 0
    assert first["p"] == second["p"] < 0.05 and first["chance"] == "no test"
    assert (
        "leaves the model better than random ones do" in turned.in_words() and "warned: too long" in turned.in_words()
    )


def test_numbers_beyond_shares_have_an_interval_too(monkeypatch):
    table = planted(monkeypatch, [float(i) for i in range(20)], [[30.0] * 20] * 3, metric="words").table
    row = table[table["condition"] == "mask"].iloc[0]
    assert 0 < row["low"] < 9.5 < row["high"] < 19  # of the mean of 0 to 19


def test_at_chance_nothing_is_tested(monkeypatch):
    """Every document's right choice is the first: always giving it is as good as a model can be."""
    rights = [Right((0,), ("a", "b"))] * 20
    found = planted(monkeypatch, [0.0] * 20, [[1.0] * 20] * 3, rights)
    assert found.table[["effect", "p", "q"]].isna().all(axis=None)
    assert found.summary()["chance"].tolist() == ["at chance"]
    assert found.in_words().startswith("**Nothing can be concluded**")
    above = planted(monkeypatch, [0.0] * 20, [[1.0] * 20] * 3, [Right((i % 2,), ("a", "b")) for i in range(20)])
    assert above.table["majority"].unique().tolist() == [0.5] and above.summary()["q"].iloc[0] < 0.05


def test_the_best_constant_answer_of_choices():
    """Three documents with other choices: place 1 is right in two of them; guessing gets (1/2 + 1/2 + 2/4) / 3."""
    rights = Right((1,), ("a", "b")), Right((0,), ("c", "d")), Right((1, 3), ("e", "f", "g", "h"))
    constant = constant_of(HarnessTask("t", None, None, 3, 0, "", rights, {}))
    assert (constant.answer, constant.majority) == ("choice 2", 2 / 3)
    assert constant.uniform == pytest.approx(0.5)
    same = constant_of(HarnessTask("t", None, None, 2, 0, "", (Right((1,), ("no", "yes")),) * 2, {}))
    assert (same.answer, same.majority, same.uniform) == ("yes", 1.0, 0.5)
    assert not constant_of(HarnessTask("t", None, None, 3, 0, "", (), {})).known


def test_names_are_those_of_the_harness_index(tmp_path):
    texts = {
        "a": "task: one\ntag: easy\ndataset_path: json\n",
        "b": '"task": "two"\n"tag": ["x-y", z]\n"dataset_path": "json"\n',
        "c": "group: both # of them\ntask:\n  - one\n  - two\n",
        "f": "include: template\ntask: four\n",
        "d": "tag:\n  - p\n  - q\ntask: 'three'\n",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "template").write_text("tag: inherited\ndataset_path: json\n")
    index = TaskManager(include_path=str(tmp_path), include_defaults=False).all_tasks
    wanted = {"one", "easy", "two", "x-y", "z", "both", "p", "q", "three", "four", "inherited"}
    assert set(index) == wanted == names_in(tmp_path)


def test_what_is_refused(mini, folder, mask, tmp_path, monkeypatch):
    masks, path = {"own": mask}, folder / "toy_choice.yaml"
    monkeypatch.setattr(running, "_known_names", lambda: frozenset({"arc_easy", "arc_challenge", "mmlu"}))
    with pytest.raises(ArgumentError, match="'arc_esay'(.|\n)*did you mean 'arc_easy'"):
        ns.benchmark(mini, masks, ["arc_esay"])
    with pytest.raises(ArgumentError, match="n_random=2"):
        ns.benchmark(mini, masks, path, n_random=2)
    with pytest.raises(MaskError):
        other = tiny_model()
        ns.benchmark(mini, masks | {"other": ns.NeuronMask.of({0: [1]}, other)}, path)
    for tasks in ([], 3, {"a": path}, [None]):
        with pytest.raises(ArgumentError, match="tasks"):
            ns.benchmark(mini, masks, tasks)
    with pytest.raises(FileError, match="no such file"):
        ns.benchmark(mini, masks, tmp_path / "absent.yaml")
    with pytest.raises(TaskError, match="no yaml file"):
        ns.benchmark(mini, masks, tmp_path)
    with pytest.raises(ArgumentError, match="'toy_choice' twice"):
        ns.benchmark(mini, masks, [path, folder])
    with pytest.raises(ArgumentError, match="limit=1"):
        ns.benchmark(mini, masks, path, limit=1)
    (tmp_path / "long.yaml").write_text((folder / "toy_until.yaml").read_text().replace(", max_gen_toks: 4", ""))
    with pytest.raises(TaskError, match="max_gen_toks|max tokens to generate"):  # 256, where the context is 64
        ns.benchmark(mini, masks, tmp_path / "long.yaml", n_random=3, limit=2)
    (tmp_path / "f1.yaml").write_text(path.read_text().replace("{metric: acc}, {metric: acc_norm}, ", ""))
    with pytest.raises(TaskError, match="f1: none of them is a mean"):
        ns.benchmark(mini, masks, tmp_path / "f1.yaml", n_random=3, limit=2)
    (tmp_path / "fixed.yaml").write_text(path.read_text() + "num_fewshot: 0\n")
    with pytest.raises(TaskError, match="always asked without examples"):
        ns.benchmark(mini, masks, tmp_path / "fixed.yaml", num_fewshot=2)
    (tmp_path / "gone.yaml").write_text(path.read_text().replace("rows.json", "gone.json"))
    with pytest.raises(TaskError, match="load .*gone.yaml"):
        ns.benchmark(mini, masks, tmp_path / "gone.yaml")
    bert = tiny_model("masked")
    with pytest.raises(ModelError, match="a masked language model"):
        ns.benchmark(bert, {"m": ns.NeuronMask.of({0: [1]}, bert)}, path)


def test_without_the_harness_the_extra_is_named(mini, folder, mask, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for call in (
        lambda: ns.benchmark(mini, {"own": mask}, folder),
        lambda: ns.interop.harness_model(mini),
    ):
        with pytest.raises(NeuroscopeError, match=r"not installed(.|\n)*neuroscope\[lm-eval\]"):
            call()
