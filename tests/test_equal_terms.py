"""Equal terms: float32 master weights on a narrow base, costs beside scores, stuck losses called that."""

import copy
import warnings

import pytest
import quick_training
import torch
from sequences import KNOWN, A, B, C, fine_outcomes, learn
from test_finetune import MOODS, some
from tiny import tiny_model

from neuroscope.attribution import attribute
from neuroscope.errors import FileError, ModelError
from neuroscope.experiments.layer_by_layer.controls import Tuning
from neuroscope.experiments.t2_train_only import train_only
from neuroscope.models import load
from neuroscope.training import NeuronAdapter, Recipe, WholeModel, finetune, master_weights
from neuroscope.training.continual_learning import METHODS, learner
from neuroscope.training.continual_learning.learner import Setting
from neuroscope.training.stuck_loss import StuckLoss, is_stuck

SMALL = 2e-5  # a step far below those of a bfloat16 weight of 0.1, which are 5e-4


def narrow(dtype=torch.bfloat16):
    """A tiny model in that dtype, and its float32 copy."""
    tiny = tiny_model()
    half = tiny.root.to(dtype)
    return load(half, tokenizer=tiny.tokenizer), load(copy.deepcopy(half).float(), tokenizer=tiny.tokenizer)


def weights(model):
    return {n: p.detach().clone() for n, p in model.root.named_parameters()}


def same(half, full):
    """Whether the narrow weights are the float32 ones, rounded once."""
    return all(torch.equal(half[n], w.to(half[n].dtype)) for n, w in full.items())


@pytest.mark.parametrize("name", ["seqft", "replay", "ewc", "joint"])
def test_a_bfloat16_base_is_trained_as_its_float32_copy_and_rounded_once(name):
    half, full = narrow()
    before, reached = weights(half), []
    recipe = Recipe(steps=6, batch_size=8, lr=1e-3)
    for model in (half, full):
        learner = METHODS[name].start(Setting(model, [A, B, C], [], recipe, 0))
        for stage in [2] if METHODS[name].at_once else [0, 1]:
            learner.learn(stage)
        reached.append(weights(model))
        learner.take_off()
    assert same(*reached)
    assert not same(before, reached[1])
    assert same(weights(half), weights(full)) and same(before, weights(half))  # taken off, to the bit


def test_steps_too_small_for_bfloat16_are_learnt():
    half, full = narrow()
    start = weights(half)
    naive = weights(half)
    parameters = [torch.nn.Parameter(w) for w in naive.values()]
    optimizer = torch.optim.AdamW(parameters, lr=SMALL, weight_decay=0.0)
    for _ in range(30):  # the largest steps that Adam makes: the same gradient every time
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    matrices = [n for n, w in start.items() if w.ndim == 2]
    lost = sum(int((naive[n] == start[n]).sum()) for n in matrices) / sum(start[n].numel() for n in matrices)
    assert lost > 0.8
    how = {"steps": 30, "lr": SMALL, "arguments": {"lr_scheduler_type": "constant"}}
    whole = finetune(half, MOODS, None, **how)
    finetune(full, MOODS, None, **how)
    losses = [entry["loss"] for entry in whole.manifest["history"]]
    assert losses[-1] < losses[0]
    assert same(weights(half), weights(full))
    kept = sum(int((half.root.get_parameter(n) == start[n]).sum()) for n in matrices)
    assert kept / sum(start[n].numel() for n in matrices) < lost - 0.05


@pytest.mark.parametrize("name", ["ffn", "ncft", "w-ncft", "cnl"])
def test_what_a_stage_changes_by_less_than_bfloat16_can_say_is_there_at_the_next(name):
    """Rounded into the weights after each stage, half of the entries that three stages move would not move."""
    half, full = narrow()
    before, moved = weights(half), []
    for model in (half, full):
        learner = METHODS[name].start(Setting(model, [A, B, C], [], Recipe(steps=8, batch_size=8, lr=SMALL), 0))
        for stage in range(3):
            learner.learn(stage)
        learner.outcomes(C)
        assert model is full or same(weights(half), before)  # the base itself is not written
        sums = {n: w.float() for n, w in before.items()}
        for placed in (one for part in learner.parts for one in part.placed):
            change = placed.delta.weight if placed.delta.dim == 0 else placed.delta.weight.t()
            sums[f"{placed.path}.weight"].index_add_(placed.delta.dim, placed.delta.index, change.detach())
        if model is full:
            assert all(torch.allclose(weights(full)[n], w, atol=1e-7) for n, w in sums.items() if n.endswith("weight"))
        moved.append(sum(int((w.to(torch.bfloat16) != before[n]).sum()) for n, w in sums.items()))
        learner.take_off()
    assert moved[0] > 0.9 * moved[1] > 100
    assert same(weights(half), before) and all(torch.equal(w, before[n].float()) for n, w in weights(full).items())


def test_what_is_saved_is_exact_and_goes_on_as_if_it_had_not_been_cut(tmp_path):
    half, full = narrow()
    how = {"steps": 3, "lr": SMALL}
    whole = finetune(half, MOODS, None, **how)
    rounded = weights(half)
    finetune(full, MOODS, None, **how)
    exact = weights(full)
    path = whole.save(tmp_path / "whole.safetensors")
    whole.unmerge()
    assert {p.dtype for p in half.root.parameters()} == {torch.bfloat16}
    whole.detach()
    again = WholeModel.load(half, path)
    assert all(torch.equal(p, rounded[n]) for n, p in half.root.named_parameters())
    with again.alone():  # the exact numbers are trained on
        assert all(torch.equal(p, exact[n]) for n, p in half.root.named_parameters())
    half.root.get_parameter("lm_head.weight").data.zero_()  # somebody writes a weight: that is what counts
    with again.alone():
        assert not half.root.get_parameter("lm_head.weight").any()
    again.unmerge()
    with pytest.raises(ModelError, match=r"(?s)train all parameters.*the base.s weights in the model"), again.alone():
        pass


def test_a_failed_training_leaves_the_narrow_model_as_it_was():
    half, _ = narrow()
    before = weights(half)
    half.root.lm_head.weight.grad = torch.ones_like(half.root.lm_head.weight)
    with pytest.raises(KeyboardInterrupt):
        finetune(half, MOODS, None, steps=3, progress=interrupted)
    assert all(torch.equal(p, before[n]) and p.dtype == before[n].dtype for n, p in half.root.named_parameters())
    assert half.root.lm_head.weight.grad.dtype == torch.bfloat16 and bool(half.root.lm_head.weight.grad.all())


@pytest.mark.parametrize("at", [0, 5])
def test_a_model_that_cannot_be_widened_whole_is_left_narrow(at, monkeypatch):
    half, _ = narrow()
    before, left = weights(half), iter(range(at))
    half.root.lm_head.weight.grad = torch.ones_like(half.root.lm_head.weight)
    exact = master_weights.exact

    def out_of_memory(weight, master):
        if next(left, None) is None:
            raise MemoryError
        return exact(weight, master)

    monkeypatch.setattr(master_weights, "exact", out_of_memory)
    with pytest.raises(MemoryError), master_weights.widened(dict(half.root.named_parameters()), {}):
        pass
    assert all(torch.equal(p, before[n]) and p.dtype == before[n].dtype for n, p in half.root.named_parameters())
    assert half.root.lm_head.weight.grad.dtype == torch.bfloat16 and bool(half.root.lm_head.weight.grad.all())


def interrupted(steps, desc):
    yield next(iter(steps))
    raise KeyboardInterrupt


# --- what is on the model already


def test_a_second_training_of_the_whole_model_says_so():
    model = tiny_model()
    first = finetune(model, MOODS, None, steps=1)
    assert first.manifest["on"] == model.name
    with pytest.warns(UserWarning, match=r"was fine-tuned before, and is trained further; unmerge\(\) or detach\(\)"):
        finetune(model, MOODS, some(model), steps=1).detach()
    with pytest.warns(UserWarning, match="was fine-tuned before"):
        second = finetune(model, MOODS, None, steps=1)
    assert second.manifest["on"] == f"{model.name} with a training of the whole model"
    second.detach()
    with Tuning("full", Recipe(steps=1, lr=1e-4)).scope(model, [MOODS]):  # a control model of a tuned one: not a word
        pass
    first.detach()
    finetune(model, MOODS, None, steps=1).detach()  # from the base again: not a word


def test_merged_adapters_stand_in_the_manifest():
    model = tiny_model()
    adapter = NeuronAdapter(model, some(model))
    adapter.merge()
    above = finetune(model, MOODS, some(model), steps=1)
    assert above.manifest["on"] == f"{model.name} with a merged adapter"
    above.detach()
    adapter.detach()  # what is merged stays
    with warnings.catch_warnings():  # made an error, a warning leaves nothing on the model
        warnings.simplefilter("error")
        later = finetune(model, MOODS, some(model), steps=1)
        assert later.manifest["on"] == f"{model.name} with an adapter that was merged and detached"
        names = list(weights(model))
        with pytest.raises(UserWarning, match="has an adapter on it"):
            finetune(model, MOODS, some(model), steps=1)
        assert list(weights(model)) == names
        later.detach()
        names = list(weights(model))
        with pytest.raises(StuckLoss):
            finetune(model, MOODS, some(model), steps=20, lr=1e-9)
        assert list(weights(model)) == names


# --- stuck losses


@pytest.mark.parametrize(
    ("losses", "stuck"),
    [
        ([0.7] * 20, True),
        ([0.7] * 19, None),  # too few to say
        ([1.0] * 4 + [0.5] * 12 + [0.981] * 4, True),  # the first fifth against the last
        ([1.0] * 4 + [5.0] * 12 + [0.979] * 4, False),
        ([0.11] * 20, True),
        ([0.09] * 20, False),  # there is nothing left to learn
        ([0.5] * 10 + [3.0] * 10, True),  # it grew
    ],
)
def test_the_rule_for_a_stuck_loss(losses, stuck):
    assert is_stuck(losses) is stuck


def test_a_stuck_loss_is_called_that():
    with pytest.warns(UserWarning, match="the loss is stuck"):  # however seldom checkpoints are
        seldom = finetune(model := tiny_model(), MOODS, some(model), steps=40, lr=1e-9, every=40)
    assert seldom.manifest["stuck"] is True
    few = finetune(model := tiny_model(), MOODS, some(model), steps=15, lr=1e-9)
    assert few.manifest["stuck"] is None
    with pytest.warns(UserWarning, match=r"the loss is stuck: .* try another lr than 1e-09, or more steps"):
        adapter = finetune(model := tiny_model(), MOODS, some(model), steps=20, lr=1e-9)
    assert adapter.manifest["stuck"] is True and adapter.manifest["history"][-1]["stuck"] is True
    result = learn("ffn", tasks=(A, B), steps=20, lr=1e-9)
    assert [run["log"].get("stuck") for run in result.manifest["runs"]] == [True, True]
    assert "did not fall in some stage (stuck): ffn" in result.in_words()
    moving = finetune(model := tiny_model(), MOODS, "ffn", steps=20, lr=2e-2)
    assert moving.manifest["stuck"] is False and "stuck" not in moving.manifest["history"][-1]


def test_a_stuck_training_of_a_tasks_own_neurons_is_told_in_its_result(tmp_path):
    """Of random neurons it is no fault: counted, not warned of. A second call reads the count from the journal."""
    model = tiny_model()
    own = attribute(model, MOODS, examples=8).top(0.3)
    idle = {"seeds": 3, "recipe": {"steps": 20, "lr": 1e-9}, "output": tmp_path}
    with pytest.warns(StuckLoss) as warned:
        found = train_only(model, {"moods": MOODS}, {"moods": own}, **idle)
    trained = [own.random_like(seed=s, match=m) for m in ("uniform", "layer") for s in range(3)]
    assert len(warned) == 3 and len({m.identity for m in trained}) == 6  # one for each seed of its own neurons
    for result in (found, train_only(model, {"moods": MOODS}, {"moods": own}, **idle)):
        assert result.manifest["stuck"] == [9, 9, 6]
        assert "loss of **9 of 9** trainings did not fall (stuck), 6 of them of random neurons" in result.in_words()
    quick = train_only(model, {"moods": MOODS}, {"moods": own}, seeds=3, recipe={"steps": 20, "lr": 2e-2})
    assert "stuck" not in quick.manifest


# --- costs beside scores

PER_STAGE = {  # numbers kept after three stages, in multiples of what a stage trains
    "seqft": 1, "replay": 1, "joint": 1, "ewc": 3, "per-task": 3, "ncft": 3, "ffn": 3, "ncft-random": 3,
    "seq-lora": 1, "o-lora": 3, "replay-lora": 1,
}  # fmt: skip


@pytest.mark.parametrize("method", list(METHODS))
def test_what_is_stored_and_what_is_seen_stand_beside_the_scores(method):
    result = learn(method, steps=1)
    row = result.summary().iloc[0]
    assert row["sees"] == METHODS[method].sees == result.manifest["sees"][method]
    assert row["trained"] > 0 and row["seconds"] > 0
    if method in PER_STAGE:
        assert row["stored"] == PER_STAGE[method] * row["trained"]
    else:  # w-ncft and epi keep vectors of the tasks too
        assert row["stored"] > (1 if method in ("osf", "cnl") else 3) * row["trained"]


# --- what is measured


def test_tasks_still_to_come_need_not_be_measured(monkeypatch):
    monkeypatch.setattr(learner, "train", quick_training.train)
    fine_outcomes(monkeypatch)
    measured, judge = [], learner.Setting.judge
    monkeypatch.setattr(learner.Setting, "judge", lambda self, task: measured.append(task.name) or judge(self, task))
    every = learn("seqft", known=[KNOWN], seeds=2)
    assert len(measured) == 4 + 2 * 3 * 4  # the base once for both runs, then all tasks after every stage
    measured.clear()
    fewer = learn("seqft", known=[KNOWN], seeds=2, ahead=False)
    assert len(measured) == 4 + 2 * (2 + 3 + 4)
    rows = every.table[(every.table["position"] <= every.table["stage"]) | (every.table["stage"] == 0)]
    drop = ["seconds", "peak_mib"]
    assert fewer.table.drop(columns=drop).equals(rows.reset_index(drop=True).drop(columns=drop))
    assert fewer.metrics().drop(columns=drop).equals(every.metrics().drop(columns=drop))
    text = fewer.figure().data[0].text
    known_ones = [[cell != "" for cell in row].count(True) for row in text]
    assert known_ones == [3, 1, 2, 3] and text[2][2] == ""
    assert fewer.retention_figure().data and len(fewer.matrix().columns) == 3


def test_a_folder_of_runs_that_measure_otherwise_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(learner, "train", quick_training.train)
    learn("seqft", tasks=(A, B), output=tmp_path)
    with pytest.raises(FileError, match="ahead"):
        learn("seqft", tasks=(A, B), output=tmp_path, ahead=False)
