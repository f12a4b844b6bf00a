"""Whatever goes wrong: an error that says what was asked, found and to do, and a model as it was before."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from state import changed, snapshot, unchanged
from tiny import WORDS
from tiny import tiny_model as build_tiny_model

import neuroscope as ns
from neuroscope.errors import FileError, NeuroscopeError
from neuroscope.masks import NeuronMask, Scores
from neuroscope.models.sites import edit
from neuroscope.tasks import Example, Task

FUNCTIONS = {
    name: getattr(house, name)
    for house in (ns.similarity, ns.interop, ns.experiments, ns)
    for name in house.__all__
    if inspect.isfunction(getattr(house, name))
}


def make_task(name="reviews", **options):
    def split(offset):
        words = WORDS[offset:] + WORDS
        return [
            Example(" ".join(words[i : i + 3]) + " good", "good", corrupt=" ".join(words[i : i + 3]) + " bad",
                    corrupt_answer="bad")
            for i in range(6)
        ]  # fmt: skip

    return Task(name, **{"train": split(0), "test": split(4), "labels": ("good", "bad")} | options)


@pytest.fixture(scope="module")
def model():
    model = build_tiny_model()
    # what rouge_score imports at the first call draws from Python's generator
    ns.evaluate(model, make_task(labels=(), max_new_tokens=1), n=1)
    model.root.train()  # so that a mode that is not restored shows
    parameters = list(model.root.parameters())
    parameters[0].requires_grad_(False)
    parameters[1].grad = torch.ones_like(parameters[1])
    return model


@pytest.fixture(scope="module")
def mask(model):
    with unchanged(model.root):
        return ns.attribute(model, make_task()).top(0.3)


def says(error):
    """The three parts of an error's text."""
    parts = re.fullmatch(r"(.+)\n  found: (.+)\n  do:    (.+)", str(error), re.DOTALL)
    assert parts, str(error)
    assert parts.groups() == (error.asked, error.found, error.do)
    return parts.groups()


def test_every_public_function_is_here():
    assert {"attribute", "ablate", "patch", "evaluate", "overlap", "run", "load", "load_tasks"} <= set(FUNCTIONS)
    assert len(FUNCTIONS) >= 18


def test_no_module_is_named_like_a_public_function():
    files = Path(ns.__file__).parent.rglob("*.py")
    modules = {f.parent.name if f.stem == "__init__" else f.stem for f in files}
    assert not modules & set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_unknown_keyword_is_refused_with_the_known_ones(name, model):
    function = FUNCTIONS[name]
    signature = inspect.signature(function)
    required = [p for p in signature.parameters.values() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    stand_in = {"model": model, "task": make_task(), "source": "mini"}
    if name in ("compare", "dimensions"):
        stand_in |= dict.fromkeys(("a", "b", "reps"), ns.representations(model, make_task()))
    given = {p.name: stand_in.get(p.name) for p in required}
    with unchanged(model.root), pytest.raises(NeuroscopeError) as error:
        function(**given, no_such_keyword=1)
    asked, found, do = says(error.value)
    assert "no_such_keyword" in asked + found
    known = [p for p in signature.parameters if signature.parameters[p].kind is not inspect.Parameter.VAR_KEYWORD]
    assert name in asked or name == "load_tasks"  # whose options are those of the loader
    passed_on = name != "attribute" and len(known) < len(
        signature.parameters
    )  # further keywords are another function's
    assert all(repr(p) in do for p in known) or passed_on


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_missing_argument_is_refused(name):
    function = FUNCTIONS[name]
    if not [
        p
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind < 3 + 1 and p.kind not in (2, 4)
    ]:
        pytest.skip("needs no argument")
    with pytest.raises(NeuroscopeError, match="missing a required"):
        function()


def broken_model():
    root = build_tiny_model().root
    with torch.no_grad():
        root.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    return root


def bad_inputs(model, mask, folder):
    """What was done, and what the text must say: (call, asked, found, do)."""
    task = make_task()
    tasks, masks = {"reviews": task}, {"reviews": mask}
    foreign = NeuronMask.of({"blocks.0.mlp.hook_post": [1]}, {"blocks.0.mlp.hook_post": 7})
    long = Task(
        "long",
        train=[Example("food" + " food" * 79, "good")],
        test=[Example("food" + " food" * 79, "good")],
        labels=("good", "bad"),
    )
    half = folder / "half.safetensors"
    half.write_bytes(mask.save(folder / "whole.safetensors").read_bytes()[:200])
    (folder / "text.txt").write_text("no mask")
    scores = ns.attribute(model, task)
    no_tests, no_examples = make_task(test=()), make_task(train=())
    yield "no test examples", lambda: ns.evaluate(model, no_tests), "test examples of task 'reviews'", "none", "test"
    yield "no examples to search", lambda: ns.attribute(model, no_examples), "discovery examples", "none", "discovery"
    for label, call in (("deactivation", ns.experiments.deactivation), ("cross_ablation", ns.cross_ablation)):
        yield f"{label} of nothing", lambda c=call: c(model, {}, {}), label, "no task", "give a Task"
        yield (
            f"{label} without tests", lambda c=call: c(model, {"reviews": no_tests}, masks),
            "test examples", "none", "give the task",
        )  # fmt: skip
        yield (
            f"{label} with a foreign mask",
            lambda c=call: c(model, tasks, {"reviews": foreign}),
            "",
            "7.*48",
            "this model",
        )
    yield (
        "a label that is no label", lambda: make_task(test=[Example("a", "great")]),
        "labels .'good', 'bad'", "'great' in test example 0", "labels",
    )  # fmt: skip
    for k in (0, -0.1, 1.01, 10, float("nan"), "0.1", None, True):
        if not isinstance(k, int) or isinstance(k, bool):  # a whole number is how many
            yield f"size={k!r}", lambda k=k: scores.top(k), "top", "0 < size <= 1", "0.10"
        yield f"run k={k!r}", lambda k=k: ns.run(model, tasks, k=k, output=folder / "out"), "k=", "0 < k <= 1", "0.10"
    for label, call in {
        "ablate": lambda: ns.ablate(model, foreign),
        "scale": lambda: ns.scale(model, foreign, 2),
        "add": lambda: ns.add(model, foreign, 2),
        "patch": lambda: ns.patch(model, foreign, source="the food"),
        "nnsight_code": lambda: ns.interop.nnsight_code(model, foreign),
    }.items():
        yield (
            f"{label} with a foreign mask",
            call,
            "",
            "1 sites of 7 neurons.*the model has 2 sites of 48",
            "this model",
        )
    yield "combined masks", lambda: mask | foreign, "mask . mask", "7 neurons", "one model"
    yield "overlap", lambda: ns.overlap({"a": mask, "b": foreign}), "overlap", "'b' .*1 sites", "same model"
    yield "method", lambda: ns.attribute(model, task, method="gradxact"), "gradxact", "no such", "'grad-x-act'"
    yield "option", lambda: ns.attribute(model, task, step=3), "step", "no such option", "examples"
    yield "split", lambda: ns.evaluate(model, task, split="tests"), "tests", "no such split", "did you mean 'test'"
    yield "batch size", lambda: ns.evaluate(model, task, batch_size=0), "batch_size=0", "from 1 up", "1 or more"
    yield "value", lambda: ns.ablate(model, mask, value="median"), "median", "no such value", "'mean'"
    for label, call in {
        "evaluate": lambda: ns.evaluate(model, long),
        "attribute": lambda: ns.attribute(model, long),
        "ablate": lambda: ns.ablate(model, mask, value="mean", data=long),
        "patch_sweep": lambda: ns.patch_sweep(model, " food" * 80, " film" * 80, answers=("good", "bad")),
        "patch": lambda: ns.patch(model, mask, source="food " * 80),
    }.items():
        yield f"{label} beyond the context", call, r"\d\d tokens|a prompt of", "a context of 64", "context|shorter"
    for label, call in {
        "load": lambda: ns.load(broken_model()),
        "evaluate": lambda: ns.evaluate(broken_model(), task),
        "ablate": lambda: ns.ablate(broken_model(), mask),
    }.items():
        yield (
            f"{label} NaN weights",
            call,
            "open a LlamaForCausalLM",
            "layers.1.mlp.up_proj.weight",
            "load the weights again",
        )
    for label, path, found in (
        ("truncated", half, "(?i)incomplete|truncated|invalid|error"),
        ("wrong", folder / "text.txt", "."),
        ("missing", folder / "none", "No such file"),
    ):
        yield f"{label} mask", lambda p=path: NeuronMask.load(p), "read NeuronMask from", found, "."
        yield (
            f"{label} LAPE file",
            lambda p=path: ns.interop.load_lape(p, names=["a"], width=48),
            "read LAPE",
            ".",
            "check the path",
        )
    yield "scores as a mask", lambda: Scores.load(folder / "whole.safetensors"), "read Scores", "NeuronMask", "class"
    yield "a model that is none", lambda: ns.evaluate(3, task), "open int", "not a model", "Hub id"
    yield "no such model", lambda: ns.load(str(folder)), "load model", ".", "local folder"
    yield "no such folder", lambda: ns.load(str(folder / "nowhere")), "load model", "no such folder", "config.json"
    yield "no tasks", lambda: ns.load_tasks("nothing"), "'nothing'", "no such", "choose from"
    yield (
        "no pairs",
        lambda: ns.patch_sweep(model, Task("t", train=[Example("a", "b")])),
        "pairs",
        "no example",
        "corrupt",
    )


def test_bad_input_is_answered_with_a_text_and_leaves_no_trace(model, mask, tmp_path):
    cases = list(bad_inputs(model, mask, tmp_path))
    before = snapshot(model.root)
    for label, call, *patterns in cases:
        with pytest.raises(NeuroscopeError) as error:
            call()
        for pattern, part in zip(patterns, says(error.value), strict=True):
            assert re.search(pattern, part, re.DOTALL), (label, pattern, part)
        assert changed(before, snapshot(model.root)) == [], label
    assert len(cases) > 50
    assert not (tmp_path / "out").exists()


def test_a_wrong_journal_is_a_file_error(model, mask, tmp_path):
    (tmp_path / "journal.jsonl").write_text("no journal\n")
    with unchanged(model.root), pytest.raises(FileError) as error:
        ns.run(model, {"reviews": make_task()}, output=tmp_path, examples=2, n=2, n_random=3)
    assert "journal" in says(error.value)[0]


class Stops:
    """A hook that raises at the n-th forward pass."""

    def __init__(self, error, n):
        self.error, self.n, self.seen = error, n, 0

    def __call__(self, site, h, tokens):
        self.seen += 1
        if self.seen == self.n:
            raise self.error


JOBS = {
    "evaluate": lambda model, mask, task: ns.evaluate(model, task, batch_size=2),
    "generate": lambda model, mask, task: ns.evaluate(model, make_task(labels=(), max_new_tokens=4), batch_size=2),
    "grad-x-act": lambda model, mask, task: ns.attribute(model, task, batch_size=2),
    "integrated-gradients": lambda model, mask, task: ns.attribute(model, task, method="integrated-gradients"),
    "attribution-patching": lambda model, mask, task: ns.attribute(
        model, task, method="attribution-patching", batch_size=2
    ),
    "relp": lambda model, mask, task: ns.attribute(model, task, method="relp", batch_size=2),
    "weight-x-grad": lambda model, mask, task: ns.attribute(model, task, method="weight-x-grad"),
    "activation": lambda model, mask, task: ns.attribute(model, task, method="activation", batch_size=2),
    "lape": lambda model, mask, task: ns.attribute(model, {"a": task, "b": task}, method="lape", batch_size=2),
    "exact": lambda model, mask, task: ns.attribute(model, task, method="exact", neurons=6),
    "deactivation": lambda model, mask, task: ns.experiments.deactivation(
        model, {"reviews": task}, {"reviews": mask}, n_random=3
    ),
    "cross_ablation": lambda model, mask, task: ns.cross_ablation(model, {"reviews": task}, {"reviews": mask}),
    "patch_sweep": lambda model, mask, task: ns.patch_sweep(model, task, by="position"),
    "ablate to the mean": lambda model, mask, task: enter(
        ns.ablate(model, mask, value="mean", data=make_task(train=task.train * 24))
    ),
    "patch": lambda model, mask, task: [enter(ns.patch(model, mask, source="the food")) for _ in range(3)],
}


def enter(scope):
    with scope:
        pass


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_in_the_middle_leaves_no_trace(model, mask, job, error):
    task = make_task()
    site = list(model.sites("output").values())[-1]
    stops = Stops(error, 2)
    before = snapshot(model.root)
    with edit([site], stops), pytest.raises(error):
        JOBS[job](model, mask, task)
    assert stops.seen == 2
    assert changed(before, snapshot(model.root)) == []
    JOBS[job](model, mask, task)  # and it works as if nothing had been
    assert changed(before, snapshot(model.root)) == []


def test_the_comparison_sees_every_kind_of_trace(model):
    """The state helper itself: each of these traces is noticed."""
    root = build_tiny_model().root
    parameter = next(root.parameters())
    traces = {
        "hooks": lambda: root.model.norm.register_forward_hook(print),
        "modes": lambda: root.model.norm.train(),
        "weights": lambda: parameter.data.add_(1e-3),
        "gradients": lambda: setattr(parameter, "grad", torch.zeros_like(parameter)),
        "requires_grad": lambda: parameter.requires_grad_(False),
        "torch": lambda: torch.rand(1),
    }
    state = torch.get_rng_state()
    for name, leave in traces.items():
        before = snapshot(root)
        leave()
        assert changed(before, snapshot(root)) == [name]
    torch.set_rng_state(state)
