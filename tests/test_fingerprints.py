"""A model's weights are read for its fingerprint once where nothing changes them, and again where something does."""

import copy
import math

import pytest
import torch
from tiny import WORDS

from neuroscope.attribution import attribute
from neuroscope.evaluation import evaluate
from neuroscope.interventions import ablate, patch_sweep
from neuroscope.models import fingerprints
from neuroscope.models.fingerprints import fingerprint
from neuroscope.tasks import Example, Task
from neuroscope.training import LoraAdapter, NeuronAdapter, WholeModel, finetune


def make_task(name, start):
    examples = [
        Example(" ".join([*WORDS[i : i + 3], "good"]), "good", corrupt=" ".join([*WORDS[i : i + 3], "bad"]),
                corrupt_answer="bad")
        for i in range(start, start + 4)
    ]  # fmt: skip
    return Task(name, train=examples, test=examples, labels=("good", "bad"))


TASKS = {name: make_task(name, 3 * i) for i, name in enumerate(("one", "two", "three"))}


@pytest.fixture
def readings(monkeypatch):
    """A list that grows with every reading of the weights."""
    read, done = fingerprints.read_weights, []
    monkeypatch.setattr(fingerprints, "read_weights", lambda root: [done.append(root), read(root)][1])
    return done


def run(model):
    """What a run does: score every task, judge under ablation, patch, train an adapter on the base."""
    scores = attribute(model, TASKS)
    for name, task in TASKS.items():
        with ablate(model, scores[name].top(0.1)):
            evaluate(model, task)
    patch_sweep(model, TASKS["one"])
    for score in scores.values():
        NeuronAdapter(model, score.top(0.1)).detach()
    return [s.manifest["fingerprint"] for s in scores.values()]


def test_a_run_reads_the_weights_once(tiny_model, readings):
    model = tiny_model()
    with model.unchanged():
        found = run(model)
        with model.unchanged():
            assert model.fingerprint() == model.provenance()["fingerprint"] == found[0]
        assert len(readings) == 1
    assert set(found) == {fingerprints.read_weights(model.root)}


def test_attribute_reads_the_weights_once_for_all_its_tasks(tiny_model, readings):
    model = tiny_model()
    attribute(model, TASKS)
    assert len(readings) == 1
    attribute(model, TASKS)
    assert len(readings) == 2  # the caller may have written to the weights in between


def test_outside_of_a_scope_every_fingerprint_is_a_reading(tiny_model, readings):
    model = tiny_model()
    for _ in range(3):
        model.fingerprint()
    with pytest.raises(KeyError), model.unchanged():
        raise KeyError
    model.root.lm_head.weight.data[0, 0] += 1
    model.fingerprint()
    assert len(readings) == 4


def in_place(model, mask):
    with torch.no_grad():
        model.root.lm_head.weight[3, 5] += 1
    yield
    model.root.lm_head.weight = torch.nn.Parameter(model.root.lm_head.weight + 1)
    yield
    model.root.lm_head.weight.data = model.root.lm_head.weight.data + 1
    yield


def adapter(model, mask):
    adapter = NeuronAdapter(model, mask)
    yield
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1)
    yield
    adapter.scale = 0.5
    yield
    adapter.merge()
    yield
    adapter.unmerge()
    yield
    adapter.detach()
    yield


def lora(model, mask):
    lora = LoraAdapter(model, 2, 4)
    yield
    lora.live = False
    yield


def whole(model, mask):
    whole = WholeModel(model)
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.mul_(1.01)
    yield
    whole.unmerge()
    yield
    whole.merge()
    yield
    whole.detach()
    yield


def training(model, mask):
    for chosen in (mask, None):
        for optimizer in ("adamw_torch", "adamw_torch_fused"):  # the second of which torch's counter does not see
            trained = finetune(
                model, TASKS["one"], chosen, steps=2, batch_size=4, lr=1e-3, arguments={"optim": optimizer}
            )
            yield
            trained.detach()
            yield


def again(model, mask):
    """Adapters of one shape one after another: Python gives the second what the first had in memory."""
    for change in (0.1, 0.2):
        adapter = NeuronAdapter(model, mask)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(change)
        yield
        adapter.detach()
        del adapter, parameter


@pytest.mark.parametrize("changes", [in_place, adapter, lora, whole, training, again])
def test_a_change_within_the_scope_is_noticed(tiny_model, changes):
    model = tiny_model()
    mask = attribute(model, TASKS["one"]).top(0.2)
    with model.unchanged():
        seen = [model.fingerprint()]
        for _ in changes(model, mask):
            assert model.fingerprint() == fingerprints.read_weights(model.root)
            seen.append(model.fingerprint())
    assert len(set(seen)) > 1 and all(len(digits) == 16 for digits in seen)


def test_a_fused_step_is_noticed_even_where_no_entry_is_looked_at(tiny_model):
    """The trainer says so, for one number that changes out of thousands, and that torch's counter does not show."""
    model = tiny_model()
    weight = model.root.lm_head.weight
    step = weight.numel() // fingerprints.ENTRIES
    assert step > 1
    with model.unchanged():
        before = model.fingerprint()
        weight.data.view(-1)[1] += 1  # behind torch's counter, and between the entries
        assert model.fingerprint() == before  # which is what the scope's promise is about
        model.weights_changed()
        assert model.fingerprint() == fingerprints.read_weights(model.root) != before


def test_a_copy_is_another_model(tiny_model):
    model = tiny_model()
    with model.unchanged():
        before = model.fingerprint()
        twin = copy.deepcopy(model.root)
        with torch.no_grad():
            next(twin.parameters()).mul_(math.pi)
        assert fingerprints.fingerprint(twin) != before == model.fingerprint()
    assert not fingerprints._readings


def test_weights_that_change_places_are_noticed():
    root = torch.nn.Linear(64, 64)
    before = fingerprint(root)
    swapped = root.weight.detach().clone()
    swapped[:, [3, 5]] = swapped[:, [5, 3]]  # the same numbers elsewhere
    with torch.no_grad():
        root.weight.copy_(swapped)
    assert fingerprint(root) != before
    with torch.no_grad():
        root.weight[:, [3, 5]] = root.weight[:, [5, 3]].clone()
    assert fingerprint(root) == before
