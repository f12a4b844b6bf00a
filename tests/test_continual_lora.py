"""LoRA through a sequence: O-LoRA's loss terms by hand and in a real step, EPI's Gaussians and who answers what."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sequences import KNOWN, A, B, C
from state import unchanged
from tiny import tiny_model
from torch import nn

from neuroscope.errors import ArgumentError, NumericalError
from neuroscope.evaluation import evaluate
from neuroscope.tasks import Example, Task
from neuroscope.training import LoraAdapter, Recipe, train
from neuroscope.training.continual_learning import METHODS
from neuroscope.training.continual_learning.epi import Router, distances, epi, gaussians
from neuroscope.training.continual_learning.learner import Setting
from neuroscope.training.continual_learning.o_lora import norms, o_lora, overlap, stacked
from neuroscope.training.continual_learning.seq_lora import seq_lora

RECIPE = Recipe(steps=4, batch_size=8, lr=0.01)
PLAIN_SGD = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0}


def setting_of(model, tasks=(A, B, C), recipe=None, seed=0, **more):
    return Setting(model, tuple(tasks), (KNOWN,), replace(RECIPE, **(recipe or {})), seed, **more)


def numbers(lora):
    return torch.cat([p.detach().flatten() for p in lora.parameters()])


def ups(lora):
    return {slot.path: slot.layer.lora_B[lora.name].weight.detach().clone() for slot in lora.slots}


@torch.no_grad()
def logits(model):
    ids = torch.arange(12).view(2, 6) + 5
    return model.logits({"input_ids": ids, "attention_mask": torch.ones_like(ids)})


# --- SeqLoRA


def test_seq_lora_trains_one_lora_on_and_on():
    model = tiny_model()
    base = logits(model)
    with unchanged(model.root):
        learner = seq_lora(setting_of(model, seed=2), rank=3, alpha=9)
        assert torch.equal(logits(model), base)
        logs = [learner.learn(stage) for stage in range(2)]
        trained, outcomes = numbers(learner.carried["lora"]), learner.outcomes(B)
        learner.take_off()
    twin = LoraAdapter(tiny_model(), 3, 9, seed=2)
    for task in (A, B):
        train(twin, task, RECIPE, seed=2)
    assert torch.equal(trained, numbers(twin))
    assert outcomes.tolist() == evaluate(twin.model, B).outcomes.tolist()
    assert [log["trained"] for log in logs] == [twin.n_parameters] * 2


# --- the numbers of parameters


@pytest.mark.parametrize("method", ["seq-lora", "o-lora", "epi"])
def test_the_trained_parameters_are_rank_times_the_sides_of_every_layer(method):
    model = tiny_model()
    sides = [sum(m.weight.shape) for m in model.root.modules() if isinstance(m, nn.Linear)]
    sides.remove(sum(model.root.lm_head.weight.shape))
    learner = METHODS[method].start(setting_of(model, recipe={"steps": 1}), rank=5)
    try:
        assert [learner.learn(stage)["trained"] for stage in (0, 1)] == [5 * sum(sides)] * 2
    finally:
        learner.take_off()
    assert METHODS[method].lr == 1e-3


# --- O-LoRA


def test_o_loras_terms_by_hand():
    first, second = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([[3.0, 0.0], [1.0, 1.0]])
    new = torch.tensor([[2.0, -1.0], [0.0, 0.5]])
    # first @ new.T = [[0, 1], [1, -0.5]]; second @ new.T = [[6, 0], [1, 0.5]]
    earlier = stacked([{"x": first, "y": second}, {"x": second, "y": first}])
    assert {path: tuple(rows.shape) for path, rows in earlier.items()} == {"x": (4, 2), "y": (4, 2)}
    one, two = 0 + 1 + 1 + 0.5, 6 + 0 + 1 + 0.5
    assert float(overlap({"x": first}, {"x": new})) == one
    assert float(overlap(earlier, {"x": new, "y": new})) == 2 * (one + two)
    squares = (0 + 1 + 1 + 0.25) + (36 + 0 + 1 + 0.25)
    assert float(overlap(earlier, {"x": new, "y": new}, "squared")) == 2 * squares
    assert float(overlap(earlier, {"x": new, "y": torch.zeros(2, 2)})) == one + two
    assert float(overlap({}, {"x": new})) == 0 and stacked([]) == {}
    assert float(norms([torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.ones(4)])) == 5 + 2
    up = torch.zeros(2, 2, requires_grad=True)
    norms([up]).backward()
    assert torch.equal(up.grad, torch.zeros(2, 2))  # and not NaN


@pytest.mark.parametrize("distance", ["abs", "squared"])
def test_a_step_of_sgd_follows_the_two_terms(distance):
    """At the first step B is zero, and with it the task's gradient at A: A moves by the penalties' gradients alone."""
    lr, first, second = 0.05, 0.3, 0.2
    model = tiny_model()
    base = logits(model)
    setting = setting_of(model, recipe={"steps": 1, "lr": lr, "arguments": PLAIN_SGD})
    learner = o_lora(setting, rank=4, orthogonality=first, l2=second, distance=distance)
    plain = {"steps": 1, "lr": lr, "arguments": PLAIN_SGD}
    free = o_lora(setting_of(tiny_model(), recipe=plain), rank=4, orthogonality=0)
    try:
        for stage in range(3):
            seed = 0 * 3 + stage
            start = {p: a.detach().clone() for p, a in LoraAdapter(tiny_model(), 4, seed=seed).down.items()}
            before = [{p: a.detach().clone() for p, a in lora.down.items()} for lora in learner.parts]
            frozen = [numbers(lora) for lora in learner.parts]
            log, new = learner.learn(stage), learner.parts[-1]
            free.learn(stage)
            total = 0.0
            for path, a in start.items():
                gradient = second * a / a.norm()
                for old in before:
                    products = old[path] @ a.T
                    total += float((products.abs() if distance == "abs" else products**2).sum())
                    slope = products.sign() if distance == "abs" else 2 * products
                    gradient = gradient + first * slope.T @ old[path]
                torch.testing.assert_close(new.down[path].detach(), a - lr * gradient, rtol=1e-4, atol=1e-6)
                assert stage == 0 or float((lr * gradient).abs().max()) > 1e-4
            assert log["overlap"][0] == pytest.approx(total, rel=1e-5)
            assert all(torch.equal(numbers(lora), was) for lora, was in zip(learner.parts, frozen, strict=False))
            if stage == 0:  # at B, zero, neither term has a gradient: it moves by the task's alone
                free_up = ups(free.parts[0])
                assert all(torch.equal(up, free_up[path]) for path, up in ups(new).items())
        assert all(lora.live for lora in learner.parts)
        together = logits(model)
        for lora in learner.parts:  # all of them count
            lora.live = False
            assert not torch.equal(logits(model), together)
            lora.live = True
        assert len({tuple(numbers(lora).tolist()) for lora in learner.parts}) == 3
    finally:
        learner.take_off()
    assert torch.equal(logits(model), base)


def test_the_penalty_makes_the_subspaces_orthogonal():
    ends = {}
    for weight in (0.0, 0.5):
        learner = o_lora(setting_of(tiny_model(), recipe={"steps": 8}), orthogonality=weight)
        logs = [learner.learn(stage) for stage in range(2)]
        assert logs[0]["overlap"] == [0.0, 0.0]
        ends[weight] = logs[1]["overlap"]
        learner.take_off()
    assert ends[0.0][0] == ends[0.5][0] > 0
    assert ends[0.5][1] < 0.7 * ends[0.5][0] and ends[0.5][1] < 0.7 * ends[0.0][1]


def test_without_a_term_there_is_no_penalty(monkeypatch):
    seen = []
    monkeypatch.setattr(Setting, "train", lambda setting, lora, tasks, penalty: seen.append(penalty and penalty()))
    for options in ({"orthogonality": 0.0}, {}, {"l2": 1.0}):
        learner = o_lora(setting_of(tiny_model()), **options)
        learner.learn(0)
        learner.learn(1)
        learner.take_off()
    assert seen[:3] == [None, None, None]
    assert all(float(value.detach()) > 0 for value in seen[3:]) and len(seen) == 6


# --- EPI


def test_means_and_covariance_by_hand_and_by_numpy():
    one, two = torch.tensor([[0.0, 1.0], [4.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 2.0], [4.0, 1.0], [2.0, 1.0]])
    # apart from the means (2, 1) and (2, 1): (-2, 0), (2, 0) and (-1, -1), (-1, 1), (2, 0), (0, 0)
    own = np.array([[(4 + 4 + 1 + 1 + 4) / 6, (1 - 1) / 6], [(1 - 1) / 6, (1 + 1) / 6]])
    means, covariance = gaussians([one, two], 0.25)
    assert means.tolist() == [[2.0, 1.0], [2.0, 1.0]]
    np.testing.assert_allclose(covariance.numpy(), 0.75 * own + 0.25 * np.trace(own) / 2 * np.eye(2), atol=1e-12)
    draw = np.random.default_rng(0)
    many = [draw.normal(size=(n, 5)) @ draw.normal(size=(5, 5)) + k for k, n in enumerate((7, 30, 12))]
    means, covariance = gaussians([torch.tensor(x) for x in many], 0.1)
    pooled = sum(len(x) * np.cov(x.T, bias=True) for x in many) / 49
    np.testing.assert_allclose(means.numpy(), [x.mean(0) for x in many], atol=1e-12)
    np.testing.assert_allclose(
        covariance.numpy(), 0.9 * pooled + 0.1 * np.trace(pooled) / 5 * np.eye(5), rtol=1e-10, atol=1e-12
    )
    x = torch.tensor(draw.normal(size=(4, 5)))
    inverse = np.linalg.inv(covariance.numpy())
    expected = [[mahalanobis(row, mean, inverse) for mean in means.numpy()] for row in x.numpy()]
    np.testing.assert_allclose(distances(x, means, covariance).numpy(), expected, rtol=1e-10)
    few = gaussians([torch.randn(3, 40, generator=torch.Generator().manual_seed(0))], 0.1)  # singular without it
    assert distances(torch.zeros(1, 40), *few).isfinite().all()


def test_the_nearest_by_mahalanobis_is_not_the_nearest_by_euclid():
    """Variance 9 across x and 0.25 across y: (4, 0) is 4 from (0, 0), and 2 from (4, 2); in standard deviations, 4/3
    and 4."""
    means, covariance = torch.tensor([[0.0, 0.0], [4.0, 2.0]]), torch.diag(torch.tensor([9.0, 0.25]))
    found = distances(torch.tensor([[4.0, 0.0]]), means, covariance)
    assert found.tolist()[0] == pytest.approx([4 / 3, 2 / 0.5])
    assert int(found.argmin()) == 0


def told(name, words, seed, labels=("yes", "no")):
    """Reviews in other words, so that their features are far from the others'."""
    draw = np.random.default_rng(seed)
    examples = [
        Example(" ".join(draw.choice(words, 5)) + " Answer :", labels[int(draw.integers(2))]) for _ in range(24)
    ]
    return Task(name, train=examples[:14], test=examples[14:], labels=labels)


FAR = (
    told("film", ["film", "plot", "story"], 0),
    told("food", ["food", "soup", "very"], 1, ("maybe", "no")),
    told("mood", ["good", "awful", "not"], 2),
)


def planted(monkeypatch, spread=0.1):
    """Features around a point per task; those of the task that is never learnt are near the second."""
    places = {"film": (0.0, 0.0), "food": (3.0, 0.0), "mood": (0.0, 3.0), "known": (2.5, 0.5)}

    def features(model, task, examples, batch_size):
        generator = torch.Generator().manual_seed(len(examples))
        return torch.tensor(places[task.name]) + spread * torch.randn(len(examples), 2, generator=generator)

    monkeypatch.setattr(sys.modules[epi.__module__], "prompt_features", features)


def test_planted_features_are_routed_to_their_task(monkeypatch):
    planted(monkeypatch)
    model = tiny_model()
    with unchanged(model.root):
        learner = epi(setting_of(model, FAR, {"steps": 1}))
        logs = [learner.learn(stage) for stage in range(3)]
        router = Router(setting_of(model, FAR), 1000, 0.1)
        routes = {task.name: set(router.routes(task, 3).tolist()) for task in (*FAR, KNOWN)}
        learner.take_off()
    assert routes == {"film": {0}, "food": {1}, "mood": {2}, "known": {1}}
    assert [log["identified"] for log in logs] == [1.0, 1.0, 1.0]
    assert logs[0]["routed"] == {name: {"film": 1.0} for name in ("film", "food", "mood", "known")}
    assert logs[1]["routed"]["food"] == {"film": 0.0, "food": 1.0}
    assert logs[2]["routed"]["known"] == {"film": 0.0, "food": 1.0, "mood": 0.0}


def test_what_cannot_be_told_apart_is_counted(monkeypatch):
    planted(monkeypatch, spread=3.0)
    setting = setting_of(tiny_model(), FAR, {"steps": 1})
    learner, router = epi(setting), Router(setting, 1000, 0.1)
    logs = [learner.learn(stage) for stage in range(2)]
    routes = [router.routes(task, 2) for task in FAR[:2]]
    right = int((routes[0] == 0).sum()) + int((routes[1] == 1).sum())
    assert logs[1]["identified"] == pytest.approx(right / 20) and 0 < right < 20
    for task, route in zip(FAR, routes, strict=False):
        shares = {"film": float((route == 0).double().mean()), "food": float((route == 1).double().mean())}
        assert logs[1]["routed"][task.name] == pytest.approx(shares)
    learner.take_off()


@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_every_example_is_answered_by_the_lora_it_is_routed_to(spread, monkeypatch):
    planted(monkeypatch, spread)
    model = tiny_model()
    base = logits(model)
    setting = setting_of(model, FAR, {"lr": 0.05}, n=9, batch_size=4)
    learner, router = epi(setting), Router(setting, 1000, 0.1)
    assert learner.outcomes(FAR[0]).tolist() == setting.judge(FAR[0]).tolist()  # before the first stage: the base
    for stage in range(3):
        learner.learn(stage)
        assert torch.equal(logits(model), base)  # no LoRA is live between calls
    answers = {}
    for task in (*FAR, KNOWN):
        routes = router.routes(task, 3).tolist()
        assert len(routes) == 9
        own = []
        for k, lora in enumerate(learner.parts):
            lora.live = True
            own.append(evaluate(model, task, n=9).outcomes)
            lora.live = False
            answers[task.name, k] = own[-1].tolist()
        expected = [own[k][i] for i, k in enumerate(routes)]
        assert learner.outcomes(task).tolist() == expected
        if spread > 1:
            assert len(set(routes)) > 1
    assert set(setting.prepared) == {FAR[0].data_hash}  # parts of tasks are not kept
    assert len({tuple(answer) for answer in answers.values()}) > 4  # it matters who answers
    alone = LoraAdapter(tiny_model(), seed=0 * 3 + 2)
    train(alone, FAR[2], replace(RECIPE, lr=0.05))
    assert torch.equal(numbers(learner.parts[2]), numbers(alone))  # trained from the base, and kept
    learner.take_off()
    assert not any("lora" in name for name, _ in model.root.named_modules())


def test_real_features_tell_tasks_in_other_words_apart(tmp_path):
    model = tiny_model()
    learner = epi(setting_of(model, FAR))
    for stage in range(2):
        log = learner.learn(stage)
        learner.save(tmp_path, stage)
    assert log["identified"] >= 0.95
    outcomes = [learner.outcomes(task).tolist() for task in (*FAR, KNOWN)]
    learner.take_off()
    again = epi(setting_of(model, FAR))
    with unchanged(model.root):
        again.restore(tmp_path, 1)
        assert [again.outcomes(task).tolist() for task in (*FAR, KNOWN)] == outcomes
        again.take_off()
    first = epi(setting_of(model, FAR))
    first.restore(tmp_path, 0)
    assert len(first.parts) == 1
    first.parts[0].live = True
    answers = evaluate(model, FAR[1]).outcomes.tolist()
    first.parts[0].live = False
    assert first.outcomes(FAR[1]).tolist() == answers  # there is no other to answer
    first.take_off()


def test_an_error_while_answering_puts_the_lora_to_rest(monkeypatch):
    planted(monkeypatch)
    model = tiny_model()
    base = logits(model)
    learner = epi(setting_of(model, FAR, {"steps": 1}))
    learner.learn(0)
    monkeypatch.setattr(Setting, "judge", lambda setting, task: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        learner.outcomes(FAR[0])
    assert torch.equal(logits(model), base) and not learner.parts[0].live
    learner.take_off()


@pytest.mark.parametrize("style", ["seq2seq", "masked"])
@pytest.mark.parametrize("method", ["seq-lora", "o-lora", "epi"])
def test_other_styles_and_generation(method, style):
    model = tiny_model(style)
    telling = replace(A, name="telling", labels=(), kind=None, metric="", test=A.test[:4], max_new_tokens=2)
    first = A if style == "masked" else telling
    with unchanged(model.root):
        learner = METHODS[method].start(setting_of(model, (first, B), {"steps": 1}))
        for stage in range(2):
            learner.learn(stage)
            for task in (first, B, KNOWN):
                values = learner.outcomes(task)
                assert len(values) == len(task.test) and ((values >= 0) & (values <= 1)).all()
        learner.take_off()


@pytest.mark.parametrize("method", ["seq-lora", "o-lora", "epi"])
def test_an_interrupted_stage_is_taken_off_with_those_before(method, monkeypatch):
    model = tiny_model()
    with unchanged(model.root):
        learner = METHODS[method].start(setting_of(model))
        learner.learn(0)
        monkeypatch.setattr(Setting, "train", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            learner.learn(1)
        learner.take_off()
    assert not any("lora" in name for name, _ in model.root.named_modules())


def test_prompts_that_do_not_differ_are_refused_before_training(monkeypatch):
    same = Task("same", train=[Example("the film Answer :", "yes")] * 3, test=A.test, labels=("yes", "no"))
    monkeypatch.setattr(Setting, "train", lambda *args, **kwargs: 1 / 0)
    model = tiny_model()
    with unchanged(model.root):
        learner = epi(setting_of(model, (same, B)))
        with pytest.raises(NumericalError, match=r"prompts that do not differ within a task"):
            learner.learn(0)
        learner.take_off()


@pytest.mark.parametrize(
    ("method", "options", "text"),
    [
        ("seq-lora", {"rank": 0}, "rank=0"),
        ("seq-lora", {"alpha": -1}, "alpha=-1"),
        ("o-lora", {"rank": 1.5}, r"rank=1\.5"),
        ("o-lora", {"orthogonality": -0.5}, r"orthogonality=-0\.5"),
        ("o-lora", {"l2": float("nan")}, "l2=nan"),
        ("o-lora", {"distance": "square"}, "did you mean 'squared'"),
        ("epi", {"shrinkage": 0}, "shrinkage=0"),
        ("epi", {"shrinkage": 1.5}, r"shrinkage=1\.5"),
        ("epi", {"samples": 0}, "samples=0"),
        ("epi", {"rank": -2}, "rank=-2"),
    ],
)
def test_wrong_options_are_refused_at_once(method, options, text):
    model = tiny_model()
    with unchanged(model.root), pytest.raises(ArgumentError, match=text):
        METHODS[method].start(setting_of(model), **options)
