"""The main calls beside their floors: `pip install pytest-benchmark`, then `pytest benchmarks/test_speed.py`.

A group is a call and its floor, on the bundled model and one thread: the number in brackets, which pytest-benchmark
prints, is the ratio to the faster of the two. With pytest-codspeed the same file runs under `pytest --codspeed`.
What was timed did what it is for: that is what is asserted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attribution
import evaluation
import pytest
import reading
import torch
import training

from neuroscope.evaluation import evaluate
from neuroscope.interventions import ablate
from neuroscope.models import Model, load
from neuroscope.reading import neuron_statistics
from neuroscope.tasks import load_tasks

BOTH = pytest.mark.parametrize("who", ["floor", "neuroscope"])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Ratios of one thread are the steadiest."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model() -> Model:
    return load("mini")


@BOTH
@pytest.mark.benchmark(group="a pass with a tenth of the neurons off")
def test_ablated_pass(benchmark: Any, model: Model, who: str) -> None:
    ids = torch.randint(100, (8, 24), generator=torch.Generator().manual_seed(1))
    mask = training.random_share(model, 0.10)

    @torch.no_grad()
    def passed() -> torch.Tensor:
        return model.root(input_ids=ids, use_cache=False).logits

    intact = passed()
    with ablate(model, mask) if who == "neuroscope" else contextlib.nullcontext():
        logits = benchmark(passed)
    assert torch.equal(logits, intact) == (who == "floor")


@BOTH
@pytest.mark.benchmark(group="attribute: a batch of grad-x-act; the floor is a pass there and back")
def test_attribute(benchmark: Any, model: Model, who: str) -> None:
    scoring = attribution.make_scoring(model)
    run: Callable[[Any], object] = attribution.floor if who == "floor" else attribution.ours
    with model.quiet():
        benchmark(run, scoring)
    assert set(scoring.sums.relevance) == (set() if who == "floor" else set(scoring.sites))


@BOTH
@pytest.mark.parametrize("task", ["sentiment-food", "data2text-food"])  # labels, and generation
def test_evaluate(benchmark: Any, model: Model, task: str, who: str) -> None:
    asked = load_tasks("mini", train=1)[task]
    run = partial(evaluate, model, asked, n=32) if who == "neuroscope" else evaluation.Floor(model, asked, 32)
    benchmark.group = f"evaluate {task}: from text to table; the floor has its tokens already"
    found = benchmark(run)
    assert who == "floor" or found.score > 0.9, "the bundled model knows its tasks"


@BOTH
@pytest.mark.benchmark(group="neuron_statistics: 200 texts; the floor is the passes alone")
def test_neuron_statistics(benchmark: Any, model: Model, who: str) -> None:
    texts = reading.texts_for("mini", 200)
    found = benchmark(reading.passes_alone if who == "floor" else neuron_statistics, model, texts)
    assert who == "floor" or found.manifest["texts"] == len(texts)


@pytest.mark.parametrize("who", ["floor", "neuroscope, k = 10 %", "full fine-tuning"])
@pytest.mark.benchmark(group="a training step")
def test_training_step(benchmark: Any, who: str) -> None:
    model = training.llama(layers=2, width=128, ffn=352)
    step, optimizer = training.CONTENDERS[who](model)
    trained = [] if optimizer is None else [p for group in optimizer.param_groups for p in group["params"]]
    before = [parameter.detach().clone() for parameter in trained]
    benchmark(step)
    assert bool(trained) == (who != "floor")
    assert all(not torch.equal(parameter, was) for parameter, was in zip(trained, before, strict=True))
