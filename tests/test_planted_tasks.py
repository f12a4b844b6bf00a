"""Tasks planted side by side: own, shared, loud, anti-helpful and idle neurons; which method finds them, and verdicts.

Tokens do not mix, so that a prompt's last word is all that an answer depends on. Four tasks have two last words each,
one to be answered "good" and one "bad". In the last block, for each of these words, three neurons of the task's own
write the answer, three that two tasks share do, and four that all tasks share write the wrong one, each less. The
answer needs both threes. Four loud neurons, open at every word, write where no logit reads. Block 0 does nothing.
"""

import families
import pytest
import torch
from tiny import TINY_SPECIAL, TINY_WORDS, tiny_tokenizer

import neuroscope as ns
from neuroscope.masks import NeuronMask

VOCABULARY = {word: i for i, word in enumerate(TINY_SPECIAL + TINY_WORDS)}
GOOD, BAD = VOCABULARY["good"], VOCABULARY["bad"]
WORDS = {"a": ("food", "soup"), "b": ("film", "plot"), "c": ("story", "so"), "d": ("very", "not")}
PAIR = {"a": 24, "b": 24, "c": 30, "d": 30}  # the first of the six neurons that two tasks share
OWN = {name: range(6 * i, 6 * i + 6) for i, name in enumerate(WORDS)}
SHARED = {name: range(first, first + 6) for name, first in PAIR.items()}
AGAINST, LOUD = range(36, 44), range(44, 48)
FREE = [i for i in range(32) if i not in (GOOD, BAD)][-4:]
RESIDUAL = 1 / 0.12  # of the squared size of the last stream, the token's own direction has 12 %
AGAINST_IT = 0.55  # what the wrong answer gets, of the right one's: more than three of its six neurons write
WRITES = (0.20 * RESIDUAL / (1 + AGAINST_IT**2)) ** 0.5  # what the right answer gets: with the wrong one, 20 %
TOP = 12


def planted(certain=10.0):
    root = families.build("llama")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in root.named_parameters():
            parameter.fill_(1.0) if "norm" in name else parameter.zero_()
        root.model.embed_tokens.weight.copy_(torch.eye(96, 32))
        root.lm_head.weight[[GOOD, BAD], [GOOD, BAD]] = certain
        idle, mlp = (root.model.layers[i].mlp for i in (0, 1))
        for linear in (idle.gate_proj, idle.up_proj, idle.down_proj):
            linear.weight.copy_(torch.randn(linear.weight.shape, generator=generator) * 1e-3)
        writes = []
        for place, right, wrong in ((0, GOOD, BAD), (1, BAD, GOOD)):
            every = [pair[place] for pair in WORDS.values()]
            for name, pair in WORDS.items():
                writes += [(OWN[name][3 * place + i], [pair[place]], right, WRITES / 6) for i in range(3)]
            for names in ("ab", "cd"):
                words = [WORDS[name][place] for name in names]
                writes += [(SHARED[names[0]][3 * place + i], words, right, WRITES / 6) for i in range(3)]
            writes += [(AGAINST[4 * place + i], every, wrong, AGAINST_IT * WRITES / 4) for i in range(4)]
        everywhere = [word for pair in WORDS.values() for word in pair]
        writes += [(j, everywhere, to, (0.17 * RESIDUAL) ** 0.5) for j, to in zip(LOUD, FREE, strict=True)]
        for j, reads, to, amount in writes:
            mlp.gate_proj.weight[j, [VOCABULARY[w] for w in reads]] = 1.0
            mlp.up_proj.weight[j, [VOCABULARY[w] for w in reads]] = 1.0
            x = torch.tensor(32**0.5)  # what the norm before it makes of the token's direction
            mlp.down_proj.weight[to, j] = amount / (torch.nn.functional.silu(x) * x)
    return ns.load(root, tokenizer=tiny_tokenizer())


def make_tasks():
    first = ["the", "a", "was", "great", "awful", "yes", "no", "maybe"]
    tasks = {}
    for name, (good, bad) in WORDS.items():
        examples = [
            ns.Example(f"{u} {v} {word}", answer, corrupt=f"{u} {v} {other}", corrupt_answer=wrong)
            for u in first for v in first
            for word, answer, other, wrong in ((good, "good", bad, "bad"), (bad, "bad", good, "good"))
        ]  # fmt: skip
        tasks[name] = ns.Task(name, train=examples[:64], test=examples[64:], labels=("good", "bad"), family=name)
    return tasks


def mask_of(neurons, block=1):
    widths = dict.fromkeys(("blocks.0.mlp.hook_post", "blocks.1.mlp.hook_post"), 48)
    return NeuronMask.of({f"blocks.{block}.mlp.hook_post": sorted(neurons)}, widths)


@pytest.fixture(scope="module")
def world():
    return planted(), make_tasks()


def test_what_is_planted_is_what_exact_ablation_finds(world):
    model, tasks = world
    for name, task in tasks.items():
        assert ns.evaluate(model, task, n=16).score == 1.0
        effects = ns.attribute(
            model, task, method="exact", objective="log-odds", split="test", examples=4, reduction="signed"
        ).vector()
        assert set(effects.abs().topk(TOP).indices.tolist()) == {48 + j for j in (*OWN[name], *SHARED[name])}
        helps = -effects if effects[48 + OWN[name][0]] < 0 else effects
        assert (helps[[48 + j for j in (*OWN[name], *SHARED[name])]] > 0).all()
        assert (helps[[48 + j for j in AGAINST]] < 0).all()
        others = [48 + j for other in WORDS if other != name for j in OWN[other]]
        assert effects[others].abs().max() < 1e-6 and effects[:48].abs().max() < effects[48 + OWN[name][0]].abs() / 20


@pytest.mark.parametrize("certain", [10.0, 300.0])
def test_the_recommended_method_finds_own_and_shared_neurons_of_every_task(world, certain):
    model, tasks = (world[0] if certain == 10 else planted(certain)), {name: world[1][name] for name in "ac"}
    found = ns.compare_methods(
        model, tasks, methods=["grad-x-act", "relp", "attribution-patching", "random"],
        neurons=96, top=TOP, objective="log-odds", examples=4, n=4,
    )  # fmt: skip
    recall = found.table.pivot(index="task", columns="method", values="recall")
    assert (recall[found.recommended] >= 0.95).all() and (recall["relp"] >= 0.95).all()
    for name, task in tasks.items():
        scores = ns.attribute(model, task, method=found.recommended, objective="log-odds", examples=4)
        assert set(scores.vector().topk(TOP).indices.tolist()) == {48 + j for j in (*OWN[name], *SHARED[name])}


def verdicts(world, masks):
    model, tasks = world
    return ns.cross_ablation(model, tasks, masks, n=24, neutral=[]).verdicts().set_index("task")


def test_own_neurons_are_specific(world):
    found = verdicts(world, {name: mask_of(neurons) for name, neurons in OWN.items()})
    assert found["verdict"].tolist() == ["specific"] * 4 and found["effect"].min() > 0.9


@pytest.mark.parametrize("half", [True, False])
def test_neurons_that_break_another_task_as_much_or_more_are_not_specific(world, half):
    """Half of a's own with all of b's: half of a breaks, by no other mask, and all of b does. Or all of both's."""
    ours = [*OWN["a"]][: 3 if half else 6]
    found = verdicts(world, {name: mask_of(neurons) for name, neurons in (OWN | {"a": [*ours, *OWN["b"]]}).items()})
    assert found["verdict"].to_dict() == {"a": "selective", "b": "selective", "c": "specific", "d": "specific"}
    assert found.loc["a", "column_low"] > 0 > found.loc["a", "row_low"]
    assert found.loc["b", "row_low"] > 0 > found.loc["b", "column_low"]
    assert found.loc["a", "breaks_most"] == "b" and found.loc["a", "breaks_most_effect"] > 0.7


def test_neurons_that_two_tasks_share_are_not_specific_and_those_of_all_are_general(world):
    """Those of two tasks break both and no other: more than neurons in general do, and as the other task's do."""
    masks = {name: mask_of(neurons) for name, neurons in (OWN | {"a": SHARED["a"], "b": SHARED["b"]}).items()}
    found = verdicts(world, masks)
    assert found["verdict"].to_dict() == {"a": "shared", "b": "shared", "c": "specific", "d": "specific"}
    assert found["strongest"][["a", "b"]].tolist() == ["b", "a"]
    assert found["strongest_effect"][["a", "b"]].tolist() == found["effect"][["a", "b"]].tolist() == [1.0, 1.0]
    assert found["breaks"].tolist() == [1 / 3, 1 / 3, 0.0, 0.0]
    of_all = verdicts(world, {name: mask_of([*SHARED["a"], *SHARED["c"]]) for name in WORDS})
    assert of_all["verdict"].tolist() == ["general"] * 4


def test_what_a_task_does_not_need_has_no_effect(world):
    """Anti-helpful, loud and idle neurons, beside a task's own."""
    masks = {"a": mask_of(AGAINST), "b": mask_of(LOUD), "c": mask_of(range(12), block=0), "d": mask_of(OWN["d"])}
    found = verdicts(world, masks)
    assert found["verdict"].to_dict() == {"a": "no effect", "b": "no effect", "c": "no effect", "d": "specific"}
