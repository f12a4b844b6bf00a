"""The methods of continual learning against their definitions: NCFT, EWC, replay, joint, per-task."""

import functools
from dataclasses import replace

import pytest
import quick_training
import torch
from sequences import KNOWN, A, B, C, bare, fine_outcomes, inside, learn
from state import unchanged
from tiny import tiny_model

from neuroscope.attribution import attribute
from neuroscope.evaluation import judge, prepare_task
from neuroscope.masks import NeuronMask, Scores
from neuroscope.tasks.encoding import encode
from neuroscope.training import finetune
from neuroscope.training.continual_learning import learner
from neuroscope.training.continual_learning import ncft as ncft_module
from neuroscope.training.continual_learning.ewc import fisher, quadratic, tied
from neuroscope.training.continual_learning.learner import Setting
from neuroscope.training.continual_learning.ncft import best, random_instead

SITES = {"0": 4, "1": 2}


@pytest.fixture(name="fine")
def fine_fixture(monkeypatch):
    """Outcomes that tell models apart to the last bit."""
    fine_outcomes(monkeypatch)


@pytest.fixture(name="made_up")
def made_up_fixture(monkeypatch):
    """Nothing is trained: what a stage changes is drawn in milliseconds, the same for the same stage."""
    monkeypatch.setattr(learner, "train", quick_training.train)


@pytest.fixture
def stages(monkeypatch):
    """Per stage that trains chosen neurons: the base's weights before it and after it, all masks so far, the log."""
    seen, train_chosen = [], ncft_module.train_chosen

    def watched(setting, choice):
        learner = train_chosen(setting, choice)

        def learn_stage(stage):
            before = {n: p.detach().clone() for n, p in bare(setting.model.root)}
            log = learner.learn(stage)
            after = {n: p.detach().clone() for n, p in bare(setting.model.root)}
            seen.append((before, after, [adapter.mask for adapter in learner.parts], log))
            return log

        return replace(learner, learn=learn_stage)

    monkeypatch.setattr(ncft_module, "train_chosen", watched)
    return seen


def masks_of(seen):
    return seen[-1][2]


# --- NCFT


@pytest.mark.parametrize("method", ["ncft", "w-ncft", "ncft-random"])
def test_every_stage_changes_its_own_neurons_and_nothing_else(method, stages):
    model = tiny_model()
    result = learn(method, model, weight_decay=0.5, k=0.2)
    start = {n: p.detach().clone() for n, p in model.root.named_parameters()}  # the base again
    union = {n: torch.zeros(p.shape, dtype=torch.bool) for n, p in start.items()}
    assert all(torch.equal(stages[0][0][n], start[n]) for n in start)
    for i, (before, after, masks, log) in enumerate(stages):
        own = inside(model, masks[i])
        assert len(masks) == i + 1 and len(masks[i]) == round(0.2 * 96) == log["neurons"]
        assert sum(int(flags.sum()) for flags in own.values()) == log["trained"] == 19 * 3 * 32  # gate, up, down
        for name in start:
            union[name] |= own[name]
            moved = before[name] != after[name]
            assert not (moved & ~own[name]).any(), name
            assert not own[name].any() or moved[own[name]].float().mean() > 0.9, name
            assert torch.equal(after[name][~union[name]], start[name][~union[name]])
            if i:
                assert torch.equal(before[name], stages[i - 1][1][name])  # from where the last stage left it
        earlier = functools.reduce(NeuronMask.__or__, masks[:i], masks[0] - masks[0])
        assert log["shared"] == len(masks[i] & earlier)
        assert log["layers"] == masks[i].counts()
    assert (result.table[result.table["stage"] > 0]["trained"] == 19 * 3 * 32).all()


@pytest.mark.parametrize("method", ["ncft", "ncft-random"])
def test_excluded_masks_are_disjoint(method, stages, made_up, monkeypatch):
    scored = []
    original = attribute
    monkeypatch.setattr(
        ncft_module,
        "attribute",
        lambda *args, **kwargs: scored.append(original(*args, **kwargs)) or scored[-1],
    )
    learn(method, k=0.33, exclude=True)  # 3 x 32 of 96: to the last neuron
    masks = masks_of(stages)
    assert [len(mask) for mask in masks] == [32] * 3
    assert len(masks[0] | masks[1] | masks[2]) == 96
    taken = torch.zeros(96, dtype=torch.bool)
    for mask, scores in zip(masks, scored, strict=True):
        left = scores.vector().masked_fill(taken, -1.0)
        chosen = NeuronMask.of(scores.top(1.0), scores.widths).flags() & (left >= left.sort(descending=True)[0][31])
        if method == "ncft":
            assert torch.equal(mask.flags(), chosen)
        else:  # as many in every layer
            counts = [int(part.sum()) for part in chosen.split(list(mask.widths.values()))]
            assert list(mask.counts().values()) == counts
        taken |= mask.flags()


@pytest.mark.filterwarnings("ignore:.*are eligible")  # fewer than asked for, of six neurons
def test_best_ranks_what_is_left():
    scores = Scores({"0": torch.tensor([8.0, 6.0, 4.0, 3.0]), "1": torch.tensor([2.0, 0.0])}, SITES)
    claims = {"0": torch.tensor([2, 1, 0, 0]), "1": torch.tensor([0, 0])}

    out = NeuronMask.of({"0": [0, 1]}, SITES)

    def chosen(*settings):
        return {a: v.tolist() for a, v in best(scores, claims, *settings).items()}

    assert best(scores, {}, None, 0.5, 0.0) == scores.top(0.5)
    assert chosen(None, 0.5, 0.0) == {"0": [0, 1, 2], "1": []}
    # 8 * 0.6^2 = 2.88, 6 * 0.6 = 3.6, then 4, 3, 2, 0: the best three are 4, 3.6, 3
    assert chosen(None, 0.5, 0.4) == {"0": [1, 2, 3], "1": []}
    # 8 * 0.3^2 = 0.72, 6 * 0.3 = 1.8, then 4, 3, 2, 0
    assert chosen(None, 0.5, 0.7) == {"0": [2, 3], "1": [0]}
    assert chosen(out, 0.5, 0.0) == {"0": [2, 3], "1": [0]}
    assert chosen(out, 4 / 6, 0.0) == {"0": [2, 3], "1": [0, 1]}  # one of no relevance comes before one of another
    mask = best(scores, claims, out, 0.5, 0.4)
    assert (mask.manifest["overlap_penalty"], mask.manifest["left_out"]) == (0.4, 2)


@pytest.mark.parametrize("method", ["ncft", "w-ncft", "ncft-random"])
def test_protected_neurons_are_those_of_the_known_tasks_in_the_base(stages, method, made_up, monkeypatch):
    known = [attribute(tiny_model(), task).top(0.2).flags() for task in (C, KNOWN)]
    kept, settings = known[0] | known[1], {"tasks": (A, B), "known": [C, KNOWN], "k": 0.2}
    learn(method, protect=True, **settings)
    masks = [mask.flags() for mask in masks_of(stages)]
    assert [int(mask.sum()) for mask in masks] == [19, 19] and not any((mask & kept).any() for mask in masks)
    for protect in (False, "random"):
        learn(method, protect=protect, **settings)
        assert any((mask.flags() & kept).any() for mask in masks_of(stages))
    asked = []
    monkeypatch.setattr(ncft_module, "left_out", lambda earlier, exclude, protected: asked.append(protected))
    learn(method, protect="random", seeds=(1,), **settings)
    union = attribute(tiny_model(), C).top(0.2) | attribute(tiny_model(), KNOWN).top(0.2)
    assert asked[0] == asked[1] == union.random_like(seed=1, match="layer") and asked[0].counts() == union.counts()


def test_random_masks_have_the_layers_counts_and_keep_off_claims():
    widths = {"0": 40, "1": 30}
    mask = NeuronMask.of({"0": range(10), "1": range(3)}, widths)
    claims = NeuronMask.of({"0": range(1, 40, 2)}, widths)
    drawn = [random_instead(mask, claims, seed) for seed in range(20)]
    assert all(d.counts() == {"0": 10, "1": 3} for d in drawn)
    assert all((d["0"] % 2 == 0).all() for d in drawn)
    assert len({d.identity for d in drawn}) == 20
    assert len(functools.reduce(NeuronMask.__or__, drawn)["0"]) == 20  # every free one in some draw
    assert random_instead(mask, claims, 3) == drawn[3]
    assert random_instead(mask, None, 3) == mask.random_like(seed=3)
    tight = NeuronMask.of({"0": range(20)}, widths)
    assert random_instead(tight, claims, 0)["0"].tolist() == list(range(0, 40, 2))


def test_masks_of_the_base_and_of_the_current_model(stages):
    model = tiny_model()
    untouched = [attribute(model, task).top(0.2) for task in (A, B, C)]
    learn("ncft", model, k=0.2, scored_in="base")
    assert masks_of(stages) == untouched
    stages.clear()
    learn("ncft", model, k=0.2)
    assert masks_of(stages)[0] == untouched[0]
    assert masks_of(stages)[2] != untouched[2]
    adapters = []
    for task in (A, B):
        adapters.append(finetune(model, task, attribute(model, task).top(0.2), steps=4, batch_size=8, lr=0.05))
        adapters[-1].merge()
    assert masks_of(stages)[2] == attribute(model, C).top(0.2)  # in the model that two stages have changed


def test_ffn_trains_all_hidden_neurons(stages, made_up):
    learn("ffn", tasks=[A, B])
    assert all(len(mask) == 96 for mask in masks_of(stages))


# --- EWC


def test_fisher_is_the_mean_squared_gradient_per_example():
    model = tiny_model()
    weights = list(model.root.parameters())
    with unchanged(model.root):
        found = fisher(model, weights, A, 5)
    expected = [torch.zeros_like(w) for w in weights]
    for item in encode(model, A, A.train[:5], end=True):
        logits = model.root(torch.tensor([item.inputs])).logits[0].log_softmax(-1)
        loglik = sum(logits[item.first + i, token] for i, token in enumerate(item.answer))
        for total, gradient in zip(expected, torch.autograd.grad(loglik, weights), strict=True):
            total += gradient**2 / 5
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
    assert len(item.answer) == 2  # the label and the end


def test_two_springs_are_one():
    draw = functools.partial(torch.rand, 5, generator=torch.Generator().manual_seed(0))
    w = draw().requires_grad_(True)
    f, g, c, d = draw(), draw(), draw(), draw()
    f[0] = g[0] = 0  # a weight that no task minds
    apart = quadratic([w], [f], [c]) + quadratic([w], [g], [d])
    assert apart.item() == pytest.approx(float((f * (w - c) ** 2 + g * (w - d) ** 2).sum().detach()))
    sums, middle = tied([f], [c], [g], [d])
    as_one = quadratic([w], sums, middle)
    torch.testing.assert_close(*(torch.autograd.grad(x, w)[0] for x in (apart, as_one)))
    constant = (f * g / (f + g).clamp_min(1e-9) * (c - d) ** 2).sum()
    assert apart.item() == pytest.approx((as_one + constant).item())
    assert sums[0][0] == 0 and middle[0][0] == c[0]


def test_ewc_without_strength_is_seqft_and_with_it_holds_on(fine, monkeypatch):
    free, seen = learn("seqft").table["score"].tolist(), []
    assert learn("ewc", strength=0.0, fisher_examples=3).table["score"].tolist() == free
    train = Setting.train

    def watched(setting, adapter, *args, penalty=None, **more):
        before = [p.detach().clone() for p in adapter.parameters()]
        at_first = None if penalty is None else penalty().item()
        train(setting, adapter, *args, penalty=penalty, **more)
        with torch.no_grad():
            moved = sum(float((p - b).square().sum()) for p, b in zip(adapter.parameters(), before, strict=True))
        seen.append((at_first, moved, None if penalty is None else penalty().item()))

    monkeypatch.setattr(Setting, "train", watched)
    for strength in (1.0, 1e6):
        learn("ewc", tasks=[A, B], strength=strength)
    (first, _, _), weak, (again, _, _), strong = seen
    assert first is None and again is None  # nothing to hold on to
    assert weak[0] == strong[0] == 0.0  # the second stage starts where the first ended
    assert 0 < strong[1] < weak[1]
    assert strong[2] / 1e6 < weak[2]  # moved less where it matters


# --- replay, joint, per-task


def lessons(monkeypatch):
    seen, train = [], Setting.train

    def watched(setting, adapter, tasks, recipe=None, **more):
        seen.append(([list(task.train) for task in tasks], (recipe or setting.recipe).steps))
        train(setting, adapter, tasks, recipe, **more)

    monkeypatch.setattr(Setting, "train", watched)
    return seen


def test_replay_mixes_in_a_share_of_every_earlier_task(made_up, monkeypatch):
    seen = lessons(monkeypatch)
    result = learn("replay", share=0.25)
    (first, _), (second, _), (third, _) = seen
    assert [steps for _, steps in seen] == [4] * 3
    assert first == [list(A.train)]
    assert second[0] == list(B.train) and third[0] == list(C.train)
    assert [len(part) for part in third] == [16, 4, 4]
    assert third[1] == second[1]  # drawn once
    assert all(example in A.train for example in third[1]) and all(example in B.train for example in third[2])
    assert [run["log"]["examples"] for run in result.manifest["runs"]] == [16, 20, 24]
    index = [[list(task.train).index(e) for e in part] for task, part in zip((A, B), third[1:], strict=True)]
    seen.clear()
    learn("replay", share=0.25, seeds=(1,))
    assert seen[1][0][1] != second[1]
    assert index[0] != index[1]
    seen.clear()
    learn("replay", share=0.01, tasks=[A, B])
    assert len(seen[1][0][1]) == 1  # never none


def test_joint_sees_all_at_once_in_as_many_steps(monkeypatch, fine):
    seen = lessons(monkeypatch)
    result = learn("joint")
    assert seen == [([list(task.train) for task in (A, B, C)], 12)]
    model = tiny_model()
    handle = finetune(model, [A, B, C], None, steps=12, batch_size=8, lr=0.01)
    scores = result.table[result.table["stage"] == 3]["score"].tolist()
    assert scores == own_scores(model, (A, B, C))
    handle.detach()
    learn("joint", steps=None, epochs=1)
    assert seen[-1][1] is None


def own_scores(model, tasks):
    return [float(judge(model, prepare_task(model, task)).mean()) for task in tasks]


def test_per_task_is_finetuning_each_from_the_base(fine):
    model = tiny_model()
    table = learn("per-task", model, known=[KNOWN]).table.pivot(index="stage", columns="task", values="score")
    base = own_scores(model, (A, B, C, KNOWN))
    assert table.loc[0].tolist() == base
    for stage, task in enumerate((A, B, C), 1):
        handle = finetune(model, task, None, steps=4, batch_size=8, lr=0.01)
        assert table[task.name].tolist() == [base[stage - 1]] * stage + own_scores(model, [task]) * (4 - stage)
        handle.detach()
    assert (table["known"] == base[3]).all()


def test_seqft_is_finetuning_one_after_another(fine):
    model = tiny_model()
    table = learn("seqft", model, tasks=[A, B]).table
    with pytest.warns(UserWarning, match="was fine-tuned before, and is trained further"):
        handles = [finetune(model, task, None, steps=4, batch_size=8, lr=0.01) for task in (A, B)]
    assert table[table["stage"] == 2]["score"].tolist() == own_scores(model, (A, B))
    for handle in reversed(handles):
        handle.detach()
    assert table["score"].tolist()[:2] == own_scores(model, (A, B))
    assert (table[table["stage"] > 0]["trained"] == sum(p.numel() for p in model.root.parameters())).all()
