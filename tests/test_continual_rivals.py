"""Rivals of neuron masks: OSF against peft's own loop, CNL's conflicts, replay by LoRA, and exclusion by score."""

import copy

import peft
import pytest
import quick_training
import torch
from sequences import A, B, C, fine_outcomes, learn
from state import unchanged
from tiny import tiny_model
from torch.nn import functional
from transformers import Trainer

from neuroscope.attribution import attribute
from neuroscope.errors import ArgumentError, ModelError, NumericalError
from neuroscope.masks import Scores
from neuroscope.models import load
from neuroscope.tasks.encoding import encode
from neuroscope.training import Recipe
from neuroscope.training.arguments import training_arguments
from neuroscope.training.continual_learning import METHODS, learner
from neuroscope.training.continual_learning.cnl import cosines
from neuroscope.training.continual_learning.learner import Setting
from neuroscope.training.continual_learning.ncft import need
from neuroscope.training.continual_learning.replay import with_remembered
from neuroscope.training.orthogonal_subspace import SubspaceAdapter
from neuroscope.training.trainer import collate

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


# --- OSF


def test_osf_equals_pefts_own_training_loop():
    """Two tasks by peft, transformers' Trainer and merge_and_unload, and by us."""
    recipe, seed = Recipe(steps=5, batch_size=8, lr=3e-3), 7
    model = tiny_model()
    start = METHODS["osf"].start(Setting(model, [A, B], [], recipe, seed))
    twin = load(copy.deepcopy(model.root), tokenizer=model.tokenizer)
    root = twin.root
    for stage, task in enumerate([A, B]):
        trained = start.learn(stage)["trained"]
        wrapped = peft.get_peft_model(root, peft.OSFConfig(effective_rank=0.5, target_modules=LINEARS))
        wanted = [p for p in wrapped.parameters() if p.requires_grad]
        arguments = training_arguments(recipe, seed, None, len(task.train), False, twin)
        with torch.random.fork_rng():
            Trainer(
                model=wrapped,
                args=arguments,
                train_dataset=encode(twin, task, task.train, end=True),
                data_collator=lambda items: collate(items, twin.tokenizer.pad_token_id, "causal"),
            ).train()
        root = wrapped.merge_and_unload()
        assert trained == sum(p.numel() for p in wanted)
        for name, weight in model.root.named_parameters():
            torch.testing.assert_close(weight, root.get_parameter(name), rtol=0, atol=1e-5)
    moved = [
        float((p - q).detach().abs().max())
        for (_, p), (_, q) in zip(model.root.named_parameters(), tiny_model().root.named_parameters(), strict=True)
    ]
    assert max(moved) > 1e-3
    start.take_off()


def test_the_gradients_of_a_subspace_are_orthogonal_to_what_is_preserved():
    model = tiny_model()
    with unchanged(model.root):
        adapter = SubspaceAdapter(model, 0.25)
        weight = model.root.model.layers[0].mlp.up_proj.base_layer.weight.detach()  # [48, 32]
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        ours = {n.rsplit(".", 1)[1]: p for n, p in adapter._named().items() if n.startswith("model.layers.0.mlp.up")}
        assert ours["S_low"].tolist() == pytest.approx(s[8:].tolist(), abs=1e-6)  # a quarter of 32 are frozen
        with adapter.alone():
            model.root(input_ids=torch.arange(5, 15)[None]).logits.square().sum().backward()
        for name, high in (("U_low", u[:, :8].t()), ("V_low", v[:8].t())):
            grad = ours[name].grad
            inside = high @ grad if name == "U_low" else grad @ high
            assert float(grad.abs().max()) > 1e-3 and float(inside.abs().max()) < 1e-4 * float(grad.abs().max()) + 1e-5
        adapter.detach()


def test_a_subspace_is_saved_and_restored_and_refused_where_it_does_not_fit(tmp_path):
    model = tiny_model()
    adapter = SubspaceAdapter(model)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1)
    adapter.save(tmp_path / "s.safetensors")
    wanted = [p.detach().clone() for p in adapter.parameters()]
    adapter.detach()
    again = SubspaceAdapter(model)
    again.restore(tmp_path / "s.safetensors")
    assert all(torch.equal(p, w) for p, w in zip(again.parameters(), wanted, strict=True))
    again.detach()
    with pytest.raises(ModelError, match="leaves nothing of"):
        SubspaceAdapter(model, 1.0)
    other = SubspaceAdapter(tiny_model(seed=3))
    with pytest.raises(ModelError, match="a base of fingerprint"):
        other.restore(tmp_path / "s.safetensors")
    with pytest.raises(ArgumentError, match="preserved"):
        learn("osf", preserved=2.0)


# --- CNL


def test_conflicts_are_cosines_of_gradients_by_hand():
    model = tiny_model()
    found = cosines(model, [A, B], [C])

    def gradients(tasks):
        twin = tiny_model().root.requires_grad_(True)
        for task in tasks:
            for example in encode(model, task, task.train, end=True):  # one by one: no padding, no batches
                ids = torch.tensor([example.inputs + example.answer[-1:]])
                answer = len(example.answer)
                logits = twin(input_ids=ids).logits[0, -answer - 1 : -1]
                loss = functional.cross_entropy(logits, ids[0, -answer:], reduction="sum")
                (loss / len(task.train) / len(tasks)).backward()
        return [block.mlp for block in twin.model.layers]

    old, new = gradients([A, B]), gradients([C])
    for (address, cosine), one, other in zip(found.items(), old, new, strict=True):
        for neuron in (0, 7, 47):
            parts = [
                torch.cat(
                    [m.gate_proj.weight.grad[neuron], m.up_proj.weight.grad[neuron], m.down_proj.weight.grad[:, neuron]]
                )
                for m in (one, other)
            ]
            by_hand = torch.dot(*parts) / (parts[0].norm() * parts[1].norm())
            assert float(cosine[neuron]) == pytest.approx(float(by_hand), abs=1e-4), address
    assert any((c < 0).any() for c in found.values()) and any((c > 0).any() for c in found.values())


def test_cnl_trains_the_neurons_that_do_not_conflict_and_leaves_the_model_alone():
    model = tiny_model()
    start = METHODS["cnl"].start(Setting(model, [A, B], [], Recipe(steps=2, batch_size=8, lr=1e-2), 0), share=0.5)
    with unchanged(model.root):
        first = start.learn(0)
        assert first["neurons"] == 96
        before = cosines(model, with_remembered(Setting(model, [A, B], [], Recipe(), 0), 1, 0.5)[1:], [B])
        second = start.learn(1)
        wanted = {a: (c >= 0).nonzero()[:, 0].tolist() for a, c in before.items()}
        assert {a: n.tolist() for a, n in start.parts[1].mask.items()} == wanted
        assert 0 < second["neurons"] < 96
        start.take_off()


# --- replay by LoRA


def test_replay_lora_shows_the_lora_what_replay_shows_the_model(monkeypatch):
    shown = {}

    def watched(adapter, tasks, recipe=None, **more):
        shown.setdefault(type(adapter).__name__, []).append([[e.prompt for e in task.train] for task in tasks])
        quick_training.train(adapter, tasks, recipe, **more)

    monkeypatch.setattr(learner, "train", watched)
    for method in ("replay", "replay-lora"):
        learn(method, share=0.25)
    assert shown["WholeModel"] == shown["LoraAdapter"]
    assert [[len(part) for part in stage] for stage in shown["LoraAdapter"]] == [[16], [16, 4], [16, 4, 4]]


# --- exclusion by score


def test_a_neuron_goes_to_the_task_that_needs_it_most(monkeypatch):
    fine_outcomes(monkeypatch)
    monkeypatch.setattr(learner, "train", quick_training.train)
    model = tiny_model()
    start = METHODS["ncft"].start(Setting(model, [A, B, C], [], Recipe(steps=1), 0), k=0.2, exclude="score")
    needs, masks = [], []
    for stage, task in enumerate([A, B, C]):
        scores = attribute(model, task)
        mine = need(scores)
        assert sum(float(values.sum()) for values in mine.values()) == pytest.approx(1, abs=1e-5)
        ranked = sorted(((float(v), a, i) for a, values in mine.items() for i, v in enumerate(values)), reverse=True)
        lost = {
            (a, int(i))
            for before, mask in zip(needs, masks, strict=True)
            for a, neurons in mask.items()
            for i in neurons
            if before[a][i] >= mine[a][i]
        }
        wanted = [(a, i) for _, a, i in ranked if (a, i) not in lost][: round(0.2 * 96)]
        start.learn(stage)
        masks.append(start.parts[stage].mask)
        assert {(a, int(i)) for a, neurons in masks[-1].items() for i in neurons} == set(wanted)
        needs.append(mine)
    start.take_off()


def test_a_task_that_no_neuron_is_relevant_for_has_no_needs():
    with pytest.raises(NumericalError, match="a relevance of 0 in all"):
        need(Scores({"blocks.0.mlp.hook_post": torch.zeros(4)}, {"blocks.0.mlp.hook_post": 4}))


def test_exclusion_by_score_goes_on_where_it_was_killed(monkeypatch, tmp_path):
    monkeypatch.setattr(learner, "train", quick_training.train)
    fine_outcomes(monkeypatch)
    whole = learn("ncft", exclude="score", k=0.2)
    folder = tmp_path / "out"
    learn("ncft", exclude="score", k=0.2, output=folder)
    (folder / "ncft-order0-seed0" / "stage-3.json").unlink()  # as if it was cut off in its last stage
    again = learn("ncft", exclude="score", k=0.2, output=folder)
    drop = ["seconds", "peak_mib"]
    assert again.table.drop(columns=drop).equals(whole.table.drop(columns=drop))
    with pytest.raises(ArgumentError, match="exclude"):
        learn("ncft", exclude="most")
