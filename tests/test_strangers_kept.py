"""What was kept in files and came back changed is refused by its name; ties and names that are not there are told."""

import json
import warnings

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import tiny_model

import neuroscope as ns
from neuroscope.errors import FileError
from neuroscope.interop import load_lape
from neuroscope.masks import NeuronMask, Scores
from neuroscope.tasks import Example, Task

WIDTHS = {"blocks.0.mlp.hook_post": 4, "blocks.1.mlp.hook_post": 4}
MASK = NeuronMask.of({0: [1, 2], 1: [3]}, WIDTHS)


def changed(path, change):
    """The file with every tensor changed."""
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file({name: change(values).contiguous() for name, values in tensors.items()}, path, metadata)
    return path


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda v: v + 40, "neurons 41 to 42; the site has 4"),
        (lambda v: v - 2, "neurons -1 to 0"),
        (lambda v: torch.cat([v, v]), "out of order, or one twice"),
        (lambda v: v.flip(0), "out of order"),
        (lambda v: v.float(), "torch.float32"),
        (lambda v: v[None], "not a LongTensor of one dimension"),
    ],
)
def test_a_mask_file_with_impossible_neurons_is_refused(tmp_path, change, found):
    path = changed(MASK.save(tmp_path / "mask.safetensors"), change)
    with pytest.raises(FileError, match=rf"(?s)read NeuronMask from .*mask.safetensors.*hook_post.*{found}"):
        NeuronMask.load(path)


def test_a_score_file_of_another_width_is_refused(tmp_path):
    scores = Scores({a: torch.rand(w) for a, w in WIDTHS.items()}, WIDTHS)
    path = changed(scores.save(tmp_path / "scores.safetensors"), lambda v: v[:3])
    with pytest.raises(FileError, match=r"(?s)read Scores from .*scores.safetensors.*shape \(3,\)"):
        Scores.load(path)


def test_lape_masks_fit_their_width_and_names(tmp_path):
    path = tmp_path / "x.neuron.pth"
    torch.save([[torch.tensor([0, 9])], [torch.tensor([1])]], path)
    with pytest.raises(FileError, match=r"(?s)x.neuron.pth.*hook_post for 'en': neuron 9; the site has 6"):
        load_lape(path, names=["en", "zh"], width=6)
    with pytest.raises(FileError, match="2 languages for 1 different names"):
        load_lape(path, names=["en", "en"], width=12)
    for wrong in ({"width": 0}, {"width": 6.0}, {"names": [1, 2]}):
        with pytest.raises(ns.NeuroscopeError, match=next(iter(wrong))):
            load_lape(path, **{"names": ["en", "zh"], "width": 12, **wrong})
    with pytest.raises(ns.NeuroscopeError, match="did you mean 'en'"):
        load_lape(path, names=["en", "zh"], width=12)["EN"]


def run_folder(tmp_path):
    """A model, its tasks, and the journal of what was measured."""
    model = tiny_model()
    examples = [Example("the food was", "good"), Example("a film", "bad")]
    task = Task(
        "t", train=examples, test=[Example("a story", "good"), Example("the plot", "bad")], labels=("good", "bad")
    )
    masks = {"t": ns.attribute(model, task).top(0.1)}

    def measured():
        return ns.cross_ablation(model, {"t": task}, masks, n_random=3, output=tmp_path)

    measured()
    return measured, tmp_path / "journal.jsonl"


@pytest.mark.parametrize(
    "value", ["[NaN, 1.0]", '["a", 1.0]', "[2.0, 1.0]", "0.5", "null", '{"a": 1}', "[[1.0], [0.0]]"]
)
def test_a_journal_line_of_another_kind_is_named(tmp_path, value):
    measured, journal = run_folder(tmp_path)
    first, *lines = journal.read_text().splitlines()
    journal.write_text("\n".join([first, f'["key", {value}]', *lines, ""]))
    with pytest.raises(FileError, match=r"(?s)read the journal .*journal.jsonl.*in line 2"):
        measured()


def test_a_journal_line_of_too_few_outcomes_is_named(tmp_path):
    measured, journal = run_folder(tmp_path)
    key, outcomes = json.loads(journal.read_text().splitlines()[0])
    assert len(outcomes) == 2
    journal.write_text(json.dumps([key, outcomes[:1]]) + "\n")
    with pytest.raises(
        FileError, match=rf"(?s)journal.jsonl.*1 outcomes of task 't', which has 2 examples, under {key}"
    ):
        measured()


NOT_ELIGIBLE = {"asked": 4, "eligible": 1}


def test_ties_at_the_cut_are_said():
    def scores(*values):
        return Scores(dict(zip(WIDTHS, torch.tensor(values).split(4), strict=True)), WIDTHS)

    dead = scores(0.0, 0, 0, 3, 0, 0, 0, 0)
    with pytest.warns(UserWarning, match="3 of the 4 neurons in the mask are some of 7 with equal relevance"):
        mask = dead.top(0.5)
    assert mask.manifest["selection"] == {"k": 0.5, "per_layer": False, "tied": 7, "by_position": 3} | NOT_ELIGIBLE
    assert mask.flags().tolist() == [True, True, True, True, False, False, False, False]
    with pytest.warns(UserWarning, match="3 of the 4"):
        mask = dead.top(0.5, per_layer=True)
    assert mask.manifest["selection"] == {"k": 0.5, "per_layer": True, "tied": 7, "by_position": 3} | NOT_ELIGIBLE
    with warnings.catch_warnings(action="error"):
        for k in (0.125, 1.0):  # no equal ones are left out
            assert dead.top(k).manifest["selection"] == {"k": k, "per_layer": False}
        assert "tied" not in scores(1.0, 1, 2, 2, 0, 0, 0, 0).top(0.5).manifest["selection"]
        assert "tied" not in scores(3.0, 3, 2, 2, 1, 0, 0, 0).top(0.5).manifest["selection"]
    with pytest.warns(UserWarning, match="2 of the 4 neurons in the mask are some of 3"):
        few = scores(3.0, 3, 2, 2, 2, 0, 0, 0).top(0.5)
    assert few.manifest["selection"] == {"k": 0.5, "per_layer": False, "tied": 3, "by_position": 2}


def test_a_misspelt_name_of_the_package_is_told():
    with pytest.raises(AttributeError, match="neuroscope has no 'abalte': did you mean 'ablate'"):
        _ = ns.abalte
    for package, name, near in (
        (ns.similarity, "svca", "svcca"), (ns.experiments, "crossablation", "cross_ablation"),
        (ns.interop, "load_lap", "load_lape"),
    ):  # fmt: skip
        with pytest.raises(AttributeError, match=rf"neuroscope\.\w+ has no '{name}': did you mean '{near}'"):
            getattr(package, name)
    for package in (ns, ns.similarity, ns.experiments, ns.interop):
        with pytest.raises(AttributeError, match="zzzzzz"):
            _ = package.zzzzzz
    assert not hasattr(ns, "__wrapped__") and ns.ablate is ns.interventions.ablate
