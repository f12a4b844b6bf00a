"""Junk for every argument of every public function: a right result, or our error that names it; no trace is left.

What is public is found, not listed: a new function is given junk as soon as it is exported, and fails here until it has
`@public` and the table `GOOD` has a value for each argument that it must have.
"""

import contextlib
import importlib
import inspect
import itertools
import os
import pathlib
import pkgutil
import random
import re
import shutil
import zlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from junk import JUNK, NONSENSE, PERHAPS, nothing_written_outside
from quick_training import quick_training
from state import changed, same, snapshot
from tiny import TINY_WORDS, tiny_model

import neuroscope
import neuroscope as ns
from neuroscope import figures, statistics
from neuroscope.errors import NeuroscopeError
from neuroscope.results import Result, Section

EACH = 8  # values for an argument
HOUSES = {"ns": ns, "experiments": ns.experiments, "similarity": ns.similarity, "interop": ns.interop}
HOUSES |= {"figures": figures, "statistics": statistics}
NOT_FOR_USERS = {
    "NeuronTrainerMixin": "its methods are those of transformers.Trainer",
    "NeuroscopeError": "raised, not called",
    "Model": "made by ns.load",
    "PrunedModel": "made by ns.prune",
    "Kind": "a row of a table",
    "Experiment": "a row of a table",
    "MossaPart.of": "called by the parts of `mossa`",
    **dict.fromkeys(("MossaTable.limits", "MossaTable.missing", "MossaTable.require_representations"), "as well"),
    "ParameterSimilarity.said_of_means": "called by `in_words`",
    **dict.fromkeys(("NeuronMask.drawn_like", "NeuronMask.fits", "Scores.fits"), "called by the experiments"),
    **dict.fromkeys(("Model.logits", "Model.generate", "Model.check_ids"), "called with tensors that the engine made"),
}
OPENED = ("Model", "PrunedModel")  # whose methods are for users
ANYTHING = {"default", "holder"}  # arguments that may be whatever they like
MEANT = {("dtype", "a dtype"), ("model", "a layer")}  # a layer is a model of torch, to which experts may be hooked
DICTS = {"manifest", "arguments", "options"}  # and dicts of whatever


def kinds_of_results():
    for module in pkgutil.walk_packages(neuroscope.__path__, "neuroscope."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    waiting, found = [Result], []
    while waiting:
        waiting += waiting[0].__subclasses__()
        found.append(waiting.pop(0))
    return [kind for kind in found if kind.__module__.startswith("neuroscope.")]


def public_functions():
    """Name -> function, or (class, name of a method)."""
    found = {}
    classes = {kind.__name__: kind for kind in kinds_of_results()} | {"Section": Section}
    for house, module in HOUSES.items():
        names = getattr(module, "__all__", None) or [n for n, f in vars(module).items() if hasattr(f, "__wrapped__")]
        for name in names:
            thing = getattr(module, name)
            if inspect.isclass(thing):
                classes[name] = thing
            elif inspect.isfunction(thing) and not name.startswith("_"):
                found[f"{house}.{name}"] = thing
    for name, kind in classes.items():
        if name not in NOT_FOR_USERS:
            found[name] = kind
        for method, _ in inspect.getmembers(kind, callable):
            home = next(k for k in kind.__mro__ if method in vars(k))
            ours = home.__module__.startswith("neuroscope") and not method.startswith("_")
            if ours and not {name, *(f"{k}.{method}" for k in (name, home.__name__))} & {*NOT_FOR_USERS} - {*OPENED}:
                found.setdefault(f"{home.__name__}.{method}", (kind, method))
    return found


FUNCTIONS = public_functions()


def arguments_of(function):
    called = getattr(*function) if isinstance(function, tuple) else function
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = {n: p for n, p in inspect.signature(called).parameters.items() if n != "self" and p.kind not in several}
    if inspect.isclass(function) and issubclass(function, Result):  # what it has besides is the package's own
        found = {n: found[n] for n in ("table", "manifest")}
    return found


PLACES = [(name, argument) for name, function in FUNCTIONS.items() for argument in arguments_of(function)]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Function or argument -> a value that is right, and makes little work; experiments train nothing."""
    with quick_training(), pytest.MonkeyPatch.context() as hub:
        values = good_values(tmp_path_factory.mktemp("good"))
        hub.setattr("huggingface_hub.create_repo", lambda *args, **how: None)
        hub.setattr("huggingface_hub.upload_folder", lambda **how: "address")
        hub.setattr("huggingface_hub.hf_hub_download", lambda *args, **how: values["ns.load_mask.path"])
        yield values


def good_values(folder):
    model, adapted = tiny_model(), tiny_model(seed=1)
    examples = [ns.Example(f"the {noun} was {mood} :", "yes") for noun in ("food", "film") for mood in ("good", "bad")]
    examples = [*examples, ns.Example("a story :", "no")]
    found = [ns.Example(f"the {noun} was {mood} :", "yes") for noun in ("plot", "soup") for mood in ("great", "awful")]
    two = {name: ns.Task(name, examples, examples, found, ("yes", "no"), family=name) for name in ("a", "b")}
    scores = ns.attribute(model, two)
    masks = {name: s.top(0.1) for name, s in scores.items()}
    reps = {name: np.random.default_rng(i).normal(size=(3, 6, 4)) for i, name in enumerate(two)}
    four = {name: replace(two["a"], name=name) for name in "abcd"}
    four_masks = {name: masks["a"].random_like(seed=i) for i, name in enumerate(four)}
    adapter, of_prompt = ns.NeuronAdapter(adapted, four_masks["a"]), ns.attribute(model, "the food was", answer=" yes")
    adapter.save(folder / "adapter")
    lines = "".join(f'{{"text": "the food {i}", "label": "{i % 2}"}}\n' for i in range(10))
    (folder / "rows.jsonl").write_text(lines)
    (folder / "toy.yaml").write_text(
        f"task: toy\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder}/rows.jsonl}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{text}}'\ndoc_to_target: label\n"
        "doc_to_choice: ['yes', 'no']\n"
    )
    torch.save([[torch.tensor([1, 2]), torch.tensor([0])]] * 2, folder / "lape")
    x = np.random.default_rng(0).normal(size=(6, 3))
    frame = pd.DataFrame({"a": [1.0, 2.0]})
    similarity = ns.parameter_similarity(model, masks, n_random=3)
    pairs = {(a, b): float(i) for i, (a, b) in enumerate(itertools.permutations("abcd", 2))}
    seen = {name: array[:, :5] for name, array in reps.items()}
    nouns = [f"{a} {b}" for a in ("the", "a", "so", "very") for b in TINY_WORDS]
    minimal = [ns.Example(f"{noun} food", "yes", corrupt=f"{noun} film", corrupt_answer="no") for noun in nouns]
    paired = [ns.Task(name, discovery=minimal[::2], test=minimal[1::2], kind="pairs", family=name) for name in "ab"]
    modular = ns.experiments.modularity(model, paired, least=0.0, k=0.1, n_random=3)
    faithful = ns.faithfulness(model, two, scores, k=(0.1, 0.5), n_random=3)
    mossa = ns.experiments.mossa(seen, two, tuned=None, controls=seen, null=0)
    figure = {f"figures.{name}.{k}": v for name, kind in figures.FIGURES.items() for k, v in kind.example.items()}
    return figure | {
        "model": model, "tasks": two, "task": two["a"], "mask": masks["a"], "masks": masks, "scores": scores["a"],
        "ns.stability.parts": 2,
        "ns.overlap_sweep.scores": scores, "ns.faithfulness.scores": scores, "experiments.faithfulness.scores": scores,
        "Modularity": modular, "Modularity.crossed.value": "zero", "Modularity.lost.value": "zero",
        "experiments.modularity.values": ("zero",), "experiments.modularity.tasks": paired,
        "Modularity.agreement.other": modular,
        "Faithfulness": faithful, "Faithfulness.masks.scores": None, "ns.faithfulness.k": (0.1, 0.5),
        "ns.dose.factors": (0.0, 2.0), "experiments.dose.factors": (0.0, 2.0),
        "experiments.faithfulness.k": (0.1, 0.5), "experiments.pruning.k": (0.5,), "experiments.pruning.neutral": [],
        "experiments.pruning.scores": scores, "experiments.pruning.recovery": None,
        "other": masks["b"], "held_out": "b", "source": "the food",
        "x": x, "y": x, "reps": reps, "a": reps, "b": reps, "factor": 2.0, "amount": 1.0, "clean": "the food",
        "title": "t", "lo": 0.0, "hi": 1.0,
        "similarity": similarity, "transfer": np.eye(2), "path": "file", "folder": "folder", "name": "test",
        "key": "a", "prompt": "the", "answer": "food", "table": frame, "manifest": {}, "arrays": reps,
        "values_by_site": dict(masks["a"]), "widths": masks["a"].widths, "neurons": {1: [3]}, "seed": 0, "k": 0.1,
        "minimum": 0.0, "values": [0.0, 1.0, 2.0], "draws": [0.0, 1.0], "means": [0.5, 0.6], "example_error": 0.1,
        "outcomes": [[0.0, 1.0], [1.0, 1.0]], "controls": [[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]], "p": [0.1, 0.2],
        "value": 1.0,
        "right": 1.0, "share": 0.5, "statistics.better_than_share.n": 2,
        "shuffled": [0.0, 2.0], "experiment": "T1", "curves": [0.9, 0.9, 0.9, 0.1, 0.1, 0.1], "width": 48,
        "names": [*masks["a"]], "unit": "hidden", "families": {"a": "x", "b": "x"}, "reference": "a", "measure": "cka",
        "statistics.against_controls.outcomes": [0.0, 1.0], "statistics.effect_margin.outcomes": [0.0, 1.0],
        "results": [], "recipe": {"steps": 1}, "which": "all",
        "shots": 0, "statistics.paired_permutation.a": [0.0, 1.0], "statistics.paired_permutation.b": [1.0, 1.0],
        "ns.load_mask.path": str(masks["a"].save(folder / "mask")), "repo_id": "somebody/masks",
        "EvidenceCard": masks["a"].card(), "PrunedModel": ns.prune(model, masks["a"]),
        "Model": model, "NeuronMask": masks["a"], "Scores": of_prompt, "Task": two["a"], "Recipe": ns.Recipe(),
        "CKA": ns.similarity.CKA(), "Overlap": ns.overlap(masks), "Similarity": ns.compare(reps, reps),
        "Maps": ns.pca(reps), "ParameterSimilarity": similarity, "Correlation": ns.correlate(pairs, pairs),
        "Representations": ns.Representations(reps), "NeuronAdapter": adapter, "Mossa": mossa, "MossaTable": mossa,
        "Continual": ns.continual(model, two, "seqft", recipe={"steps": 1}), "frame": frame, "adapted": adapted,
        "ns.correlate.similarity": pairs, "ns.correlate.transfer": pairs, "ns.finetune.steps": 1,
        "ns.benchmark.tasks": folder / "toy.yaml", "ns.benchmark.limit": 2,
        "Benchmark": ns.benchmark(model, masks, folder / "toy.yaml", n_random=3, limit=2),
        "ns.neutral_loss.texts": ["the food was good"],
        "prompts": ["the food was good"], "size": 0.1, "positive": "yes", "ns.activations.mask": masks["a"],
        "ns.directions.texts": ["the food was good"], "neuron": "1.3", "ns.directions.mask": "1.3",
        "ns.neurons.mask": "1.3", "ns.neurons.texts": ["the food"], "ns.neurons.parts": 2,
        "NeuronCards": ns.neurons(model, "1.3", texts=["the food"]), "NeuronCards.card.neuron": "1.3",
        "Directions": ns.directions(model, "1.3", texts=["the food was good"]),
        "corpus": ["the food was good"], "NeuronStatistics.top.neurons": "1.3",
        "NeuronStatistics": ns.neuron_statistics(model, ["the food was good"]),
        "Activations": ns.activations(model, two, masks["a"]),
        "ns.explore.run": None, "ns.explore.scores": scores, "ns.explore.cards": [{"site": 0, "neuron": 1}],
        "ns.explore.overlap": None, "ns.explore.crossed": None, "links": {"more": "file.html"},
        "ns.patch_sweep.corrupt": "the film", "ns.patch_sweep.answers": ("yes", "no"),
        "NeuronAdapter.load.model": adapted, "NeuronAdapter.load.path": folder / "adapter",
        "NeuronAdapter.restore.path": folder / "adapter", "Representations.get.task": "a",
        "Task.from_jsonl.path": folder / "rows.jsonl", "interop.load_lape.path": folder / "lape",
        "interop.lape_masks.scores": ns.attribute(model, two, method="lape", quantile=0.5),
        "Task.from_hub.data_files": {"train": str(folder / "rows.jsonl")},
        "Task.from_hub.path": "json", "Representations.examples": {}, "Task.from_hub.splits": {"train": "train"},
        "MossaTable.series.tasks": None, "MossaTable.values.model": "pre-trained",
        "Scores.means": None, "Scores.values_by_site": dict(scores["a"]),
        **{f"experiments.{name}.seeds": 3 for name in TRAINING},
        "experiments.parameter_transfer.tasks": four, "experiments.parameter_transfer.masks": four_masks,
        "experiments.continual_comparison.methods": "seqft", "experiments.continual_comparison.lrs": 1e-3,
        "ns.compare_methods.neurons": 6, "ns.compare_methods.top": 2, "ns.compare_methods.methods": ["relp", "random"],
    }  # fmt: skip


TRAINING = ("cross_training", "overlap_controlled", "parameter_transfer", "proportion_sweep", "train_only")
QUICK = {"n": 2, "examples": 2, "seeds": 1, "n_random": 3, "null": 3, "resamples": 9, "permutations": 9, "output": None}
QUICK |= {"recipe": {"steps": 1}}


def instance(good, kind):
    got = good.get(kind.__name__)
    return kind(good["frame"], {}) if got is None and issubclass(kind, Result) else got


def call(good, name, argument, value, more=None):
    function = FUNCTIONS[name]
    arguments = arguments_of(function)
    given = {}
    for other, parameter in arguments.items():
        if other == argument:
            given[other] = value
        elif f"{name}.{other}" in good:
            given[other] = good[f"{name}.{other}"]
        elif parameter.default is parameter.empty or other in ("model", "tasks"):
            given[other] = good[other]
        elif other in QUICK and parameter.default is not None and QUICK[other] is not None:
            given[other] = QUICK[other]
    given |= more or {}
    if not isinstance(function, tuple):
        return function(**given)
    kind, method = function
    home = vars(next(k for k in kind.__mro__ if method in vars(k)))[method]
    owner = kind if isinstance(home, classmethod | staticmethod) else instance(good, kind)
    return getattr(owner, method)(**given)


def fault(good, name, argument, which):
    """What is wrong with what comes of the junk, in an empty folder; "" if nothing is."""
    for path in pathlib.Path().iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    try:
        result = call(good, name, argument, JUNK[which]())
        if hasattr(result, "detach"):  # an adapter, or a whole model that was trained
            result.detach()
        if isinstance(result, contextlib.AbstractContextManager):
            with result:
                pass
    except NeuroscopeError as error:
        names = argument.rstrip("s").replace("_", "[ _-]")
        return "" if re.search(names, str(error), re.IGNORECASE) and error.do else f"does not name it: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    has_meaning = argument in ANYTHING or (argument in DICTS and isinstance(JUNK[which](), dict))
    has_meaning |= (argument, which) in MEANT
    return "accepted" if which in NONSENSE and not has_meaning else ""


SEEDED_APART = {"statistics.bootstrap_interval", "NeuronMask.random_like", "ns.tsne", "ns.parameter_similarity"}
SEEDED = SEEDED_APART | {
    "ns.attribute", "ns.compare", "ns.compare_methods", "ns.evaluate", "ns.segment", "similarity.permutation_null",
    "statistics.paired_permutation", "statistics.against_controls",
}  # fmt: skip


def drawn(good, name, seed):
    """What a function gives with a seed, in parts that `same` compares."""
    more = {"method": "random"} if name == "ns.attribute" else {}
    return parts_of(call(good, name, "seed", seed, more))


def parts_of(result):
    if isinstance(result, dict):
        return {key: parts_of(value) for key, value in result.items()}
    if isinstance(result, Result):
        return {"table": result.table.to_csv(), "manifest": repr({**result.manifest, "seconds": 0})}
    if isinstance(result, ns.NeuronMask | ns.Scores):
        return dict(result)
    return repr(result)


def chosen(name, argument):
    draw = random.Random(zlib.crc32(f"{name} {argument}".encode()))
    return [*draw.sample([*NONSENSE], EACH // 2), *draw.sample([*PERHAPS], EACH // 2)]


@pytest.fixture
def traceless(good, tmp_path, monkeypatch):
    """Nothing is left on the model, in the random states, the folder or the files elsewhere."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for name in ("create_repo", "repo_info", "upload_folder"):  # a Hub that takes everything
        monkeypatch.setattr(f"huggingface_hub.{name}", lambda *args, **kwargs: SimpleNamespace(private=True))
    roots = [good[name].root for name in ("model", "adapted")]
    before = [snapshot(root) for root in roots]
    with nothing_written_outside(tmp_path):
        yield
    assert [changed(state, snapshot(root)) for state, root in zip(before, roots, strict=True)] == [[], []]
    assert os.getcwd() == str(here)
    assert good["model"].root.training is False and torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("name", [*FUNCTIONS])
@pytest.mark.filterwarnings("ignore")
def test_junk_is_refused_by_name(name, good, traceless):
    asked = [(argument, which) for place, argument in PLACES if place == name for which in chosen(name, argument)]
    faults = {f"{argument} = {which}": fault(good, name, argument, which) for argument, which in asked}
    assert {place: what for place, what in faults.items() if what} == {}


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name in SEEDED])
@pytest.mark.filterwarnings("ignore")
def test_a_seed_of_numpy_or_torch_is_the_same_seed(name, good, traceless):
    first, *others = [drawn(good, name, seed) for seed in (4, np.int64(4), np.uint8(4), torch.tensor(4))]
    assert all(same(first, other) for other in others)
    assert name not in SEEDED_APART or not same(first, drawn(good, name, 5))


def test_there_are_thousands():
    assert EACH * len(PLACES) > 2000
