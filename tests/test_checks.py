"""One meaning per keyword: the coercions, and that every public function uses them for what it calls by their names."""

import inspect
import math
import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import neuroscope as ns
from neuroscope import checks, errors
from neuroscope.checks import VOCABULARY, names_of, public
from neuroscope.errors import ArgumentError

HOUSES = {"ns": ns, "ns.experiments": ns.experiments, "ns.similarity": ns.similarity, "ns.interop": ns.interop}
PUBLIC = {
    f"{house}.{name}": getattr(module, name)
    for house, module in HOUSES.items()
    for name in module.__all__
    if inspect.isfunction(getattr(module, name))
}
ARGUMENTS = [
    pytest.param(function, argument, id=f"{name}({argument})")
    for name, function in PUBLIC.items()
    for argument in inspect.signature(function).parameters
    if argument in VOCABULARY
]
WHOLE = [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)]
SHARES = [0.5, 1, np.float32(0.5), np.float64(0.5), np.array(0.5), torch.tensor(0.5), Fraction(1, 2)]
GOOD = {
    "examples": [*WHOLE, None],
    "n": [*WHOLE, None],
    "batch_size": [*WHOLE, None],
    "seed": WHOLE,
    "seeds": [*WHOLE, (0, 1, 2), [np.int64(0), torch.tensor(1), 2], np.arange(3), torch.arange(3)],
    "held_out": ["a", ["a"], ("a", "a")],
    "references": ["a", ["a"], ("a",), np.array(["a"])],
    "neutral": ["a", ["a"], ("a",), np.array(["a"])],
    "texts": ["a", ["a"], ("a",), np.array(["a"])],
    "level": [0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5), Fraction(1, 2)],
    "n_random": WHOLE,
    "null": WHOLE,
    "output": ["folder", Path("folder"), None],
    "progress": [lambda items, desc: items, None],
    "k": SHARES,
}
NO_NUMBERS = [
    True,
    np.True_,
    np.array(True),
    torch.tensor(True),
    -1,
    np.int64(-1),
    math.nan,
    np.float32("nan"),
    1j,
    b"a",
]
BAD = {name: [*NO_NUMBERS, "a", [], {}, object()] for name in VOCABULARY}
BAD["output"] = [True, -1, math.nan, b"a", "", [], object()]
BAD["progress"] = [True, -1, math.nan, "a", [], object()]
BAD["references"] = [True, -1, math.nan, b"a", [3], {"a": 1}, {"a"}, object()]
BAD["neutral"] = BAD["texts"] = BAD["references"]
BAD["held_out"] = [True, -1, math.nan, b"a", [3], {"a": 1}, object()]
NOT_NONE = ("seed", "seeds", "held_out", "n_random", "null")


def the_rest(function, argument):
    """Junk for every other argument that must be given: nothing works with it, so that nothing long can begin."""
    needed = [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name != argument
    ]
    return {name: GOOD[name][0] if name in VOCABULARY else object() for name in needed}


def test_the_conformance_tests_see_the_public_functions():
    assert len(PUBLIC) > 30 and len(ARGUMENTS) > 60
    assert {argument for _, argument in (p.values for p in ARGUMENTS)} <= set(VOCABULARY) == set(BAD) == set(GOOD)
    assert [name for name, function in PUBLIC.items() if not hasattr(function, "__wrapped__")] == []  # by `public`


@pytest.mark.parametrize(("function", "argument"), ARGUMENTS)
def test_every_function_refuses_what_its_argument_cannot_be(function, argument):
    rest = the_rest(function, argument)
    default = inspect.signature(function).parameters[argument].default
    bad = BAD[argument] + ([None] if argument in NOT_NONE and default is not None else [])
    for value in bad:
        with pytest.raises(ArgumentError, match=rf"^{function.__name__}\({argument}(\[0\])?=") as caught:
            function(**{argument: value}, **rest)
        assert caught.value.do and len(str(caught.value)) < 400


@pytest.mark.parametrize(("function", "argument"), ARGUMENTS)
def test_every_function_gets_a_plain_value_from_whatever_scalar(function, argument):
    default = inspect.signature(function).parameters[argument].default
    for value in GOOD[argument]:
        got = VOCABULARY[argument](value, argument, default)
        if argument == "seeds":
            assert got == (0, 1, 2) and {type(seed) for seed in got} == {int}
        elif value is not None and argument in ("held_out", "neutral", "texts"):
            assert got == ("a",)
        elif argument == "level":
            assert got == 0.5 and type(got) is float
        elif argument == "k":
            several = isinstance(default, tuple)
            assert got in ((0.5,), (1.0,)) if several else got in (0.5, 1.0) and type(got) is float
        elif value is None or argument == "progress":
            assert got is value
        else:
            assert got == Path("folder") if argument == "output" else (got, type(got)) == (3, int)


def test_what_is_converted_reaches_the_body():
    @public
    def measure(task, examples, n=None, *, seed=0, k=(0.1, 1.0), **more):
        return task, examples, n, seed, k, more

    got = measure("t", np.int64(4), seed=torch.tensor(2), k=np.array([0.5, 1.0]), batch_size="not in the signature")
    assert got == ("t", 4, None, 2, (0.5, 1.0), {"batch_size": "not in the signature"})
    assert [type(v) for v in got[1:4]] == [int, type(None), int]
    with pytest.raises(
        ArgumentError, match=r"measure\(str, sede=\.\.\.\)(.|\n)*missing a required argument: 'examples'"
    ):
        measure("t", sede=1)
    with pytest.raises(
        ArgumentError, match=r"'examples'(.|\n)*it takes task, examples, n=\.\.\., seed=\.\.\., k=\.\.\., \*\*more$"
    ):
        measure("t")
    with pytest.raises(ArgumentError, match=r"'examples'(.|\n)*it takes task, examples"):
        measure("t", batch_size=3)  # which may be one of the others: not what is wrong
    with pytest.raises(ArgumentError, match=r"do:    it takes no arguments$"):
        public(lambda: 0)(3)


@pytest.mark.parametrize(
    "value", [0, 2.5, np.float32(3), "3", None, np.array([3]), torch.tensor([3]), torch.tensor(3.0)]
)
def test_what_is_no_whole_number(value):
    with pytest.raises(ArgumentError, match=r"n=.*\n  found: not a whole number from 1 up\n  do:    give 1 or more"):
        checks.whole(value, "n", 1)


@pytest.mark.parametrize(
    "value", [math.inf, -math.inf, 10**400, "1", np.array("1"), np.array([1.0]), Decimal("nan"), 1j]
)
def test_what_is_no_finite_number(value):
    with pytest.raises(ArgumentError, match="not a finite number"):
        checks.finite(value, "lr")
    with pytest.raises(ArgumentError, match="not a share"):
        checks.share(value)


def test_finite_numbers_of_every_kind():
    for value in (1, np.int8(1), np.float16(1), np.array(1.0), torch.tensor(1), torch.ones(()).requires_grad_()):
        got = checks.finite(value, "lr")
        assert got == 1.0 and type(got) is float


@pytest.mark.parametrize(
    "values", [0, 1.1, math.nan, True, [], [0.5, 0.1], [0.5, 0.5], ["0.5"], "0.5", b"\x01", {0.5: 1}, [[0.5]], None]
)
def test_what_are_no_growing_shares(values):
    with pytest.raises(ArgumentError, match="k="):
        checks.shares(values)


def test_growing_shares():
    assert checks.shares(0.5) == checks.shares(np.float64(0.5)) == (0.5,)
    assert checks.shares(x / 2 for x in (1, 2)) == checks.shares(torch.tensor([0.5, 1.0])) == (0.5, 1.0)
    assert checks.shares((0, 1), with_zero=True) == (0.0, 1.0)
    with pytest.raises(ArgumentError, match=r"growing shares in \[0, 1\]"):
        checks.shares((-0.5, 1.0), with_zero=True)


@pytest.mark.parametrize("seeds", [0, -1, True, 2.0, "3", b"3", None, [], [0, 0], [-1], [True], ["0"], {0: 1}, 1j])
def test_what_are_no_seeds(seeds):
    with pytest.raises(ArgumentError, match=r"seeds="):
        checks.seeds_of(seeds)


def test_a_seed_fits_every_generator():
    most = 2**32 - 1
    assert checks.seed_of(most) == most
    np.random.RandomState(most), torch.Generator().manual_seed(most)
    with pytest.raises(ArgumentError, match=r"seed=4294967296\n  found: more than 2\*\*32 - 1"):
        checks.seed_of(most + 1)
    with pytest.raises(ValueError, match=re.escape("between 0 and 2**32 - 1")):
        np.random.RandomState(most + 1)


def test_a_flag_is_true_or_false_and_nothing_else():
    for true in (True, np.True_, torch.tensor(True)):
        assert checks.flag(true, "merge") is True
    for other in (1, 0, "yes", None, np.array([True])):
        with pytest.raises(ArgumentError, match="merge=.*\n.*\n.*give True or False"):
            checks.flag(other, "merge")


def test_a_folder_is_no_file(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(ArgumentError, match="a file"):
        checks.folder_of(file)
    assert checks.folder_of(tmp_path / "new" / "deep") == tmp_path / "new" / "deep"


def test_progress_is_called_in_one_way():
    calls = []
    assert list(checks.watched([1, 2], lambda items, desc: calls.append(desc) or items, "count")) == [1, 2]
    assert calls == ["count"] and checks.watched((3,), None, "count") == (3,)


def test_a_long_value_is_cut_in_the_error():
    with pytest.raises(ArgumentError) as caught:
        checks.whole(np.zeros((50, 50)), "n")
    assert caught.value.asked.endswith("...") and len(caught.value.asked) < 90 and "\n" not in caught.value.asked


def test_names_from_a_generator_are_all_taken():
    assert names_of((name for name in ["a", "b"]), "held_out") == ("a", "b") == names_of(["a", "b", "a"], "held_out")
    with pytest.raises(ArgumentError, match="not names"):
        names_of({"a": 1}, "held_out")


def test_an_output_that_is_needed_is_asked_for():
    with pytest.raises(ArgumentError, match="no folder"):
        ns.run("mini", output=None)


def test_errors_say_what_was_given():
    task = ns.Task("colour", labels=("blue", "white"))
    for value, said in (
        ({"a": task, "b": task}, "a dict of 2 Tasks"),
        (errors.ByName({"a": task}), "a dict of one Task"),
        ([{}, {"a": 1}], "a list of 2 dicts"),
        (("a", "b"), "a tuple of 2 texts"),
        ([1, "a"], "a list"),
        ({}, "an empty dict"),
        (3, "an int"),
        (task, "a Task"),
    ):
        assert errors.kind_of(value) == said
    with pytest.raises(ArgumentError, match="found: a dict of 2 Tasks in place of a task"):
        ns.evaluate("mini", {"a": task, "b": task})


def test_keywords_taken_for_each_other():
    task = ns.Task("colour", labels=("blue", "white"))
    with pytest.raises(ArgumentError, match="did you mean 'examples', how many examples neurons are found on"):
        ns.attribute("mini", task, n=4)
    for function in (ns.evaluate, ns.representations):
        with pytest.raises(ArgumentError, match="did you mean 'n', how many examples are judged"):
            function("mini", task, examples=4)
