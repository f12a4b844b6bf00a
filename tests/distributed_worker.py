"""What each of two processes does in tests/test_distributed.py: `torchrun distributed_worker.py FOLDER [CHECK ...]`.

Every check leaves `ok` or its traceback in FOLDER/rank-N.json; after one that fails there are no more.
"""

import contextlib
import gc
import inspect
import json
import os
import random
import sys
import traceback
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pandas
import pytest
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from families import build
from safetensors.torch import load_file, save_file
from tiny import tiny_model, tiny_tokenizer
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from neuroscope import distributed, files
from neuroscope.attribution import METHODS, attribute
from neuroscope.comparison.hidden_states import recording, representations
from neuroscope.errors import ArgumentError, FileError, ModelError, NumericalError
from neuroscope.experiments import (
    continual_comparison,
    cross_ablation,
    cross_training,
    deactivation,
    judging,
    mossa,
    overlap_controlled,
    parameter_depth,
    proportion_sweep,
    train_only,
    trials,
)
from neuroscope.experiments.layer_by_layer import controls
from neuroscope.interventions import ablate, patch_sweep
from neuroscope.models import load, tap_experts
from neuroscope.reading import activations, neuron_statistics, over_a_corpus, tokens_by_neurons
from neuroscope.tasks import Example, Task
from neuroscope.training import NeuronAdapter, WholeModel, finetune
from neuroscope.training.continual_learning import runs
from neuroscope.training.deltas import bare
from neuroscope.training.finetuning import every_ffn

REVIEWS = Task(
    "reviews",
    train=[
        Example("the food was very good", "yes", corrupt="the film was very bad"),
        Example("a soup", "not bad", corrupt="a plot"),
        Example("the story was great :", "no maybe yes", corrupt="the story was awful :"),
        Example("the plot", "no", corrupt="the food"),
        Example("so bad a film was not a story", "maybe", corrupt="so bad a soup was not a plot"),
    ],
)
DRAW = random.Random(0)
MOODS = Task(
    "moods",
    train=[
        Example(f"Review : the {noun} was very {mood} Answer :", {"good": "yes", "bad": "no maybe"}[mood])
        for noun, mood in (
            (DRAW.choice(("food", "film", "soup", "plot")), DRAW.choice(("good", "bad"))) for _ in range(32)
        )
    ],
)
PLOTS = Task("plots", train=[Example("plot so bad", "no", corrupt="film so good")])


def moe(scale=1.0):
    """A mixture of experts: some see a token in one process only."""
    root = tap_experts(build("mixtral"))
    root.model.embed_tokens.weight.data *= scale
    return load(root, tokenizer=tiny_tokenizer())


def close(scores, wanted, atol=1e-6):
    """The same scores, but for the order of summation."""
    assert scores.manifest == wanted.manifest, (scores.manifest, wanted.manifest)
    assert list(scores) == list(wanted)
    for address, values in wanted.items():
        torch.testing.assert_close(scores[address], values, rtol=1e-5, atol=atol, equal_nan=True)
    assert (scores.means is None) == (wanted.means is None)
    for address, values in (wanted.means or {}).items():
        torch.testing.assert_close(scores.means[address], values, rtol=1e-5, atol=atol)
    assert (wanted.means or {}).keys() == (scores.means or {}).keys()


def alike(tensors):
    """The same bits in every process."""
    flat = torch.cat([t.detach().flatten().double() for t in tensors]).nan_to_num(nan=-1.0)
    gathered = [torch.empty_like(flat) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, flat)
    assert all(torch.equal(g, flat) for g in gathered)


def seen_by(model):
    """A list that grows by the number of rows of every forward pass."""
    rows = []
    model.root.register_forward_pre_hook(
        lambda m, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    return rows


def check_every_method_gives_one_processs_scores():
    for model, few in ((tiny_model(), False), (moe(), True)):
        for method, entry in METHODS.items():
            options = {"neurons": 9} if method == "exact" else {"steps": 2} if method == "integrated-gradients" else {}
            options |= {"base": moe(0.9) if few else tiny_model(seed=1)} if method == "change" else {}
            for reduction in entry.reductions[: 1 if few else None]:
                settings = {"method": method, "reduction": reduction, "batch_size": 2, **options}
                with distributed.apart():
                    wanted = attribute(model, {"a": REVIEWS, "b": PLOTS}, **settings)
                scores = attribute(model, {"a": REVIEWS, "b": PLOTS}, **settings)
                assert [scores[k].manifest["examples"] for k in "ab"] == [5, 1]
                for name in "ab":
                    close(scores[name], wanted[name])
                    alike(scores[name].values())


def check_other_styles_and_units():
    for style, unit in (("seq2seq", "hidden"), ("masked", "output"), ("causal", "head")):
        model = tiny_model(style)
        with distributed.apart():
            wanted = attribute(model, REVIEWS, unit=unit, objective="log-odds")
        close(attribute(model, REVIEWS, unit=unit, objective="log-odds"), wanted)


def check_each_process_does_its_share():
    model = tiny_model()
    rows = seen_by(model)
    attribute(model, REVIEWS, batch_size=1)
    assert rows == [1] * (3, 2)[dist.get_rank()]
    rows.clear()
    attribute(model, PLOTS)
    assert rows == [1] * (1, 0)[dist.get_rank()]
    rows.clear()
    with distributed.apart():
        attribute(model, REVIEWS)
    assert rows == [5]
    assert distributed.my_part("abcde") == [["a", "c", "e"], ["b", "d"]][dist.get_rank()]


def check_an_error_in_one_process_is_told_to_the_other():
    model, rank = tiny_model(), dist.get_rank()

    def spoil(module, args, output):
        if args[0].shape[1] >= 9:  # example 4, the longest, is of rank 0
            raise NumericalError("embed", "nothing", "stop")
        return output

    with_hook = model.root.get_input_embeddings().register_forward_hook(spoil)
    for method in ("grad-x-act", "activation", "lape", "weight-x-grad"):  # which take their sums at different places
        with pytest.raises((NumericalError, distributed.PeerError)) as error:
            attribute(model, {"b": PLOTS, "a": REVIEWS}, method=method, batch_size=1)
        assert isinstance(error.value, distributed.PeerError) == (rank == 1)
        assert rank == 0 or "an error in process 0" in str(error.value)
    with_hook.remove()
    within = (distributed.together("all of it"), distributed.together("a part"))
    with pytest.raises((NumericalError, distributed.PeerError)) as error, within[0], within[1]:
        if rank == 0:  # the error is told once, and leaves both scopes
            raise NumericalError("a part", "a bad number", "stop")
        distributed.exchanged({})
    assert distributed.is_told(error.value) and not distributed.is_told(NumericalError("a", "b", "c"))
    assert rank == 0 or "an error in process 0: NumericalError: a bad number" in str(error.value)
    assert attribute(model, REVIEWS).manifest["examples"] == 5  # the processes are in step again
    with torch.no_grad():
        model.root.model.norm.weight.fill_(torch.nan)
    with pytest.raises(NumericalError, match=f"example {(4, 2)[rank]}"):  # its place in the task, not in the share
        attribute(model, REVIEWS)


def check_processes_that_ask_for_different_things_are_refused():
    model, rank = tiny_model(), dist.get_rank()
    both = {"seed": rank}, {"unit": ("hidden", "output")[rank]}, {"method": "exact", "neurons": 3 + rank}
    for task, settings in ((REVIEWS, PLOTS)[rank], {}), *((REVIEWS, one) for one in both):
        with pytest.raises(ArgumentError, match="apart"):
            attribute(model, task, **settings)
    with pytest.raises(ArgumentError, match="differ in the model"):
        attribute(tiny_model(seed=rank), REVIEWS)
    with distributed.apart():
        assert attribute(model, (REVIEWS, PLOTS)[rank]).manifest["task"] == ("reviews", "plots")[rank]


def judged_tasks():
    """Two tasks with a mask each."""
    model = tiny_model()
    few = [
        Example(prompt, "yes" if "good" in prompt else "no maybe") for prompt in sorted({e.prompt for e in MOODS.train})
    ]
    tasks = {n: Task(n, train=few[i::2], test=few[1 - i :: 2], labels=("yes", "no maybe")) for i, n in enumerate("ab")}
    return model, tasks, {name: task_scores.top(0.3) for name, task_scores in attribute(model, tasks).items()}


def check_the_cells_of_grids_are_shared_out(folder):
    model, tasks, masks = judged_tasks()
    for experiment in (cross_ablation, deactivation):
        with distributed.apart():
            wanted = experiment(model, tasks, masks, n_random=3)
        rows, output = seen_by(model), Path(folder) / experiment.__name__
        found = experiment(model, tasks, masks, n_random=3, output=output, batch_size=100)
        pandas.testing.assert_frame_equal(found.table, wanted.table)
        cells = {cross_ablation: 2 * (1 + 2 * 4), deactivation: 2 * (1 + 3 * 3 + 1)}[experiment]
        assert len(rows) == cells // 2, (experiment, len(rows))
        lines = (output / "journal.jsonl").read_text().splitlines()
        assert len(lines) == len({json.loads(line)[0] for line in lines}) == cells
        rows.clear()
        experiment(model, tasks, masks, n_random=3, output=output)
        assert not rows  # each process knows what the other one measured
        model = tiny_model()


SHORT = {"steps": 3, "lr": 0.02, "batch_size": 8}


def same(found, wanted, *, but=()):
    """The same table to the bit."""
    pandas.testing.assert_frame_equal(found.table.drop(columns=list(but)), wanted.table.drop(columns=list(but)))


def check_trainings_are_shared_out(folder):
    model, tasks, masks = judged_tasks()
    scores = attribute(model, tasks)
    share = {"seeds": 3, "recipe": SHORT}
    experiments = {
        "only": lambda **more: train_only(model, tasks, masks, **share, **more),
        "crossed": lambda **more: cross_training(model, tasks, masks, **share, **more),
        "sweep": lambda **more: proportion_sweep(model, tasks, scores=scores, k=(0.2,), joint=False, **share, **more),
        "overlap": lambda **more: overlap_controlled(
            model, tasks, masks, held_out="b", shares=(0, 1), size=9, **share, **more
        ),
        "depth": lambda **more: parameter_depth(model, tasks, masks, n_random=3, recipe=SHORT, **more),
    }
    trainings = {"only": 18, "crossed": 12, "sweep": 12, "overlap": 6, "depth": 2}
    for name, experiment in experiments.items():
        with distributed.apart():
            wanted = experiment()
        output, state = Path(folder) / name, dict(PartialState._shared_state)
        with noted(trials, "finetune") as mine:
            found = experiment(output=output)
        assert len(mine) == trainings[name] // 2, (name, len(mine))
        same(found, wanted)
        assert dict(PartialState._shared_state) == state
        if name == "depth":
            assert len(list((output / "adapters").iterdir())) == 2
        else:
            keys = [json.loads(line)[0] for line in (output / "journal.jsonl").read_text().splitlines()]
            assert len(keys) == len(set(keys))
        with noted(trials, "finetune") as again:
            same(experiment(output=output), wanted)
        assert not again  # each process knows what the other one did
    assert model.fingerprint() == tiny_model().fingerprint()


def check_a_training_that_fails_is_told_to_the_other():
    model, tasks, masks = judged_tasks()
    real = trials.finetune

    def fail(*args, **kwargs):
        if dist.get_rank() == 0:
            raise NumericalError("train", "nothing", "stop")
        return real(*args, **kwargs)

    trials.finetune = fail
    try:
        with pytest.raises((NumericalError, distributed.PeerError)) as error:
            train_only(model, tasks, masks, seeds=3, recipe=SHORT)
    finally:
        trials.finetune = real
    assert isinstance(error.value, distributed.PeerError) == (dist.get_rank() == 1)


def check_sequences_are_shared_out(folder):
    model, tasks, _ = judged_tasks()
    orders = [["a", "b"], ["b", "a"]]
    timed = ("seconds", "peak_mib")

    def run(**more):
        return continual_comparison(
            model, tasks, ["seqft", "ncft"], orders=orders, seeds=1, lrs=(1e-3, 1e-2), recipe={"steps": 2}, **more
        )

    with distributed.apart():
        wanted = run()
    with noted(runs, "learn_sequence") as mine:
        found = run(output=Path(folder) / "continual")
    same(found, wanted, but=timed)
    assert found.manifest["tuning"] == wanted.manifest["tuning"]
    assert len(mine) == 4  # two of four rates, and of each method one of two orders
    same(run(output=Path(folder) / "continual"), wanted, but=timed)


def check_representations_and_control_models_are_shared_out(folder):
    model, tasks, _ = judged_tasks()
    for output in (None, Path(folder) / "states"):
        with distributed.apart():
            wanted = representations(model, tasks)
        with noted(recording, "_array") as read:
            found = representations(model, tasks, output=output)
        assert len(read) == 1  # a task each
        assert list(found) == list(wanted) and all((found[name] == wanted[name]).all() for name in tasks)

    def run(**more):
        return mossa(model, tasks, recipe=SHORT, null=5, **more)

    with distributed.apart():
        wanted = run()
    for output in (None, Path(folder) / "mossa"):
        with noted(controls, "finetune") as mine:
            found = run(output=output)
        same(found, wanted)
        assert len(mine) == (2, 1)[dist.get_rank()]  # the multi-task model, and a control model each
    with noted(controls, "finetune") as mine:
        same(run(output=Path(folder) / "mossa"), wanted)
    assert not mine


def check_reading_is_shared_out(folder):
    model = tiny_model()
    texts = [
        f"the {noun} was {mood}" for noun in ("food", "film", "soup", "plot") for mood in ("good", "so bad", "great")
    ]
    over_a_corpus.CHUNK = 3
    with distributed.apart():
        wanted, whole = activations(model, texts, {1: [3, 5]}), neuron_statistics(model, texts)
        alone = attribute(model, "the food was", answer=" good", foil=" bad")
    with noted(tokens_by_neurons, "run_passes") as ran:
        found = activations(model, texts, {1: [3, 5]})
    assert [len(args[1]) for args in ran] == [6]
    pandas.testing.assert_frame_equal(found.table, wanted.table, atol=1e-6)
    assert found.first.keys() == wanted.first.keys() and found.texts == wanted.texts
    for output in (None, Path(folder) / "reading", Path(folder) / "reading"):
        with noted(over_a_corpus, "run_passes") as ran:
            found = neuron_statistics(model, texts, output=output)
        assert sum(len(args[1]) for args in ran) in (6, 0 if output else 6)
        pandas.testing.assert_frame_equal(found.table, whole.table, rtol=1e-4, atol=1e-5)
        assert found.top("1.3")["value"].tolist() == pytest.approx(whole.top("1.3")["value"].tolist(), abs=1e-5)
    scores = attribute(model, "the food was", answer=" good", foil=" bad")
    for address, effects in alone.effects.items():
        torch.testing.assert_close(scores.effects[address], effects)
    assert scores.manifest["shown"] == alone.manifest["shown"]


def check_patched_places_are_shared_out():
    model = tiny_model()
    wanted_rows, found_rows = [], []
    with distributed.apart():
        wanted_rows = seen_by(model)
        wanted = patch_sweep(model, "the food was very good", "the film was very bad", answers=("yes", "no"))
    model = tiny_model()
    found_rows = seen_by(model)
    same(patch_sweep(model, "the food was very good", "the film was very bad", answers=("yes", "no")), wanted)
    assert len(found_rows) < len(wanted_rows)


def check_an_error_in_a_cell_is_told_to_the_other():
    model, tasks, masks = judged_tasks()

    def fail(*args):
        raise NumericalError("head", "nothing", "stop")

    with pytest.MonkeyPatch.context() as patch:
        if dist.get_rank() == 0:
            patch.setattr(judging, "judge", fail)
        with pytest.raises((NumericalError, distributed.PeerError)) as error:
            cross_ablation(model, tasks, masks, n_random=3)
    assert isinstance(error.value, distributed.PeerError) == (dist.get_rank() == 1)


# --- training


def untold(style="causal"):
    """A tiny model without dropout, whose random numbers would differ between processes."""
    model = tiny_model(style)
    for module in model.root.modules():
        for name in ("p", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


RUNS = {  # style, mask, settings; the answers are of several lengths
    "causal": ("causal", "ffn", {"lr": 0.02}),
    "seq2seq": ("seq2seq", "ffn", {"arguments": {"optim": "sgd", "gradient_accumulation_steps": 2}}),
    "masked": ("masked", "ffn", {"arguments": {"optim": "sgd"}}),
    "whole": ("causal", None, {"lr": 1e-3}),
    "held-out": ("causal", "ffn", {"lr": 0.05, "dev": 0.25, "every": 2, "patience": 2, "steps": 40}),
}


def trained(name, **more):
    """What is trained by the run of that name, in however many processes."""
    style, mask, settings = RUNS[name]
    settings = {"steps": 8, "batch_size": 8, **settings, **more}
    return finetune(untold(style), MOODS, mask, **settings)


def numbers(adapter):
    return [distributed.gathered(p) for p in adapter.parameters()]


def same_run(adapter, name, folder):
    """As trained in one process, in every process, and its losses too."""
    wanted = load_file(Path(folder) / f"{name}.safetensors")
    found = numbers(adapter)
    alike(found)
    assert len(found) == len(wanted)
    for i, values in enumerate(found):
        torch.testing.assert_close(values, wanted[str(i)], rtol=0, atol=1e-5)
    losses = json.loads((Path(folder) / f"{name}.json").read_text())
    assert len(losses) == len(adapter.manifest["history"])
    for entry, before in zip(adapter.manifest["history"], losses, strict=True):
        assert entry["step"] == before["step"]
        for key in ("loss", "eval_loss"):
            assert (key in entry) == (key in before)
            assert key not in entry or abs(entry[key] - before[key]) < 1e-4 * before[key], (key, entry, before)


def reference(name, folder):
    """Run in one process, and leave the result for `same_run`."""
    adapter = trained(name)
    save_file({str(i): v.clone() for i, v in enumerate(numbers(adapter))}, Path(folder) / f"{name}.safetensors")
    (Path(folder) / f"{name}.json").write_text(json.dumps(adapter.manifest["history"]))


@contextlib.contextmanager
def noted(owner, name):
    """The arguments of every call of a function within the scope."""
    calls, real = [], getattr(owner, name)
    setattr(owner, name, lambda *args, **kwargs: (calls.append(args), real(*args, **kwargs))[1])
    try:
        yield calls
    finally:
        setattr(owner, name, real)


def check_training_equals_one_process(folder):
    for name in RUNS:
        same_run(trained(name), name, folder)


def check_only_deltas_are_reduced_and_one_process_writes(folder):
    with noted(DistributedDataParallel, "_ddp_init_helper") as made, noted(files, "write") as written:
        adapter = trained("causal", output=Path(folder) / "ddp", every=4)
    assert sum(p.numel() for p in made[0][1]) == adapter.n_parameters
    assert [str(args[0].relative_to(folder)) for args in written] == [
        f"ddp/checkpoint-{step}/{name}" for step in (4, 8) for name in ("adapter.safetensors", "run.json")
    ] * (dist.get_rank() == 0)
    again = trained(
        "causal", output=Path(folder) / "ddp", every=4, resume_from_checkpoint=Path(folder) / "ddp/checkpoint-4"
    )
    assert all(torch.equal(a, b) for a, b in zip(numbers(adapter), numbers(again), strict=True))
    same_run(again, "causal", folder)
    if dist.get_rank() == 0:  # alone: nothing waits for the others any more
        ids = torch.arange(5, 13).view(1, 8)
        again.model.root(input_ids=ids, labels=ids).loss.backward()
    dist.barrier()


def check_what_cannot_be_divided_is_refused():
    with pytest.raises(ArgumentError, match="2 processes"):
        trained("causal", batch_size=3)
    with pytest.raises(ModelError, match="accelerate leaves FSDP out"):
        trained("causal", arguments={"fsdp": True})
    with pytest.raises(ArgumentError, match="4 per device, 1 part.s. and 2 process.es.: 8 a step"):
        trained("causal", batch_size=3, arguments={"per_device_train_batch_size": 4})
    alike(numbers(trained("causal", batch_size=8, steps=1, arguments={"per_device_train_batch_size": 4})))


# --- sharded models


def let_fsdp_in():
    """accelerate knows FSDP on accelerators only: here, of all that differs, the processors are taken for such."""
    real = AcceleratorState.__init__

    def init(self, *args, fsdp_plugin=None, **kwargs):
        fresh = not AcceleratorState._shared_state
        real(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fresh and fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin

    AcceleratorState.__init__ = init


FSDP = {"arguments": {"fsdp": True}}


def check_sharded_training_equals_one_process(folder):
    let_fsdp_in()
    for name in ("causal", "held-out", "whole"):
        adapter = trained(name, **FSDP)
        assert all(distributed.is_sharded(p) for p in adapter.model.root.parameters())
        assert all(p.to_local().numel() < p.numel() for p in adapter.parameters() if p.ndim > 1)
        same_run(adapter, name, folder)
    path = adapter.save(Path(folder) / "whole-sharded.safetensors")
    before = numbers(adapter)
    adapter.unmerge()
    assert adapter.model.fingerprint() == adapter.base == tiny_model().fingerprint()
    adapter.merge()
    assert all(torch.equal(a, b) for a, b in zip(numbers(adapter), before, strict=True))
    with torch.no_grad():
        for p in adapter.parameters():
            p.to_local().zero_()
    adapter.restore(path)
    assert all(torch.equal(a, b) for a, b in zip(numbers(adapter), before, strict=True))
    adapter.unmerge()
    adapter.export(Path(folder) / "whole-exported")
    exported = load(str(Path(folder) / "whole-exported"))
    assert all(torch.equal(a, b) for a, b in zip(exported.root.parameters(), before, strict=True))


def check_a_sharded_run_is_resumed(folder):
    out = Path(folder) / "fsdp"
    with noted(files, "write") as written:
        adapter = trained("causal", output=out, every=4, **FSDP)
    assert len(written) == 4 * (dist.get_rank() == 0)
    saved = {p.name for p in (out / "checkpoint-4").iterdir()}
    assert {"adapter.safetensors", "run.json", "optimizer.bin", "scheduler.pt", "trainer_state.json"} <= saved
    assert not any("model" in name for name in saved)  # the frozen model is not written
    again = trained("causal", output=out, every=4, resume_from_checkpoint=out / "checkpoint-4", **FSDP)
    assert all(torch.equal(a, b) for a, b in zip(numbers(adapter), numbers(again), strict=True))


def check_fsdp_as_accelerate_launch_asks_for_it(folder):
    given = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}
    given |= {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}
    os.environ.update(given)
    out = Path(folder) / "launched"
    try:
        adapter = trained("causal", output=out, every=4)
        same_run(adapter, "causal", folder)
        again = trained("causal", output=out, every=4, resume_from_checkpoint=out / "checkpoint-4")
        assert all(torch.equal(a, b) for a, b in zip(numbers(adapter), numbers(again), strict=True))
        assert all(distributed.is_sharded(p) for p in again.parameters())
        os.environ["FSDP_VERSION"] = "1"
        with pytest.raises(ModelError, match="first version"):
            trained("causal")
    finally:
        for name in given:
            del os.environ[name]


def check_a_sharded_adapter(folder):
    adapter = trained("causal", **FSDP)
    model, rank = adapter.model, dist.get_rank()
    ids = torch.arange(5, 21).view(2, 8)

    def logits(of):
        with torch.no_grad():
            return of.root(input_ids=ids).logits

    live = logits(model)
    path = Path(folder) / "sharded.safetensors"
    with noted(files, "write") as written:
        assert adapter.save(path) == path
    assert len(written) == (rank == 0) and path.exists()
    plain = tiny_model()
    other = NeuronAdapter.load(plain, path)  # no process needs another one for this
    assert all(torch.equal(a, b) for a, b in zip(numbers(adapter), numbers(other), strict=True))
    torch.testing.assert_close(logits(plain), live)
    with bare(model.root):
        assert model.fingerprint() == adapter.base == other.base
    weights = {n: distributed.gathered(p).clone() for n, p in model.root.named_parameters()}
    logits(model)  # what the root owns is gathered from here on
    adapter.merge()
    other.merge()
    torch.testing.assert_close(logits(model), live)
    merged = dict(plain.root.named_parameters())
    assert all(torch.equal(distributed.gathered(p), merged[n]) for n, p in model.root.named_parameters())
    adapter.unmerge()
    torch.testing.assert_close(logits(model), live)
    assert all(torch.equal(distributed.gathered(p), weights[n]) for n, p in model.root.named_parameters())
    with noted(files, "write") as written:
        adapter.export(Path(folder) / "exported")
    assert len(written) == (rank == 0)
    exported = load(str(Path(folder) / "exported"))
    torch.testing.assert_close(logits(exported), live)
    assert type(exported.root).__name__ == "LlamaForCausalLM"
    with torch.no_grad():
        for p in adapter.parameters():
            p.to_local().zero_()
    adapter.restore(path)
    torch.testing.assert_close(logits(model), live)
    scores = attribute(model, REVIEWS)  # every pass needs both processes, so both do all of them
    with distributed.apart():
        other.unmerge()
        wanted = attribute(plain, REVIEWS)
    assert scores.manifest | {"fingerprint": "", "model": ""} == wanted.manifest | {"fingerprint": "", "model": ""}
    for address, values in wanted.items():
        torch.testing.assert_close(scores[address], values, rtol=1e-4, atol=1e-5)
    ablated = scores.top(0.1)
    with ablate(model, ablated), ablate(plain, ablated):
        torch.testing.assert_close(logits(model), logits(plain))
    with pytest.raises(ModelError, match="sharded over processes"):
        load(model.root)
    with pytest.raises(ModelError, match="sharded over processes"):
        NeuronAdapter(model, adapter.mask)
    with pytest.raises(ModelError, match="sharded over processes"):
        WholeModel(model)
    with pytest.raises(ModelError, match="weight-x-grad"):
        attribute(model, REVIEWS, method="weight-x-grad")
    blocked = Path(folder) / "a-file"
    blocked.write_text("")
    dist.barrier()
    with pytest.raises((FileError, distributed.PeerError)) as error:
        adapter.save(blocked / "adapter.safetensors")
    assert isinstance(error.value, distributed.PeerError) == (rank == 1)
    adapter.detach()
    torch.testing.assert_close(logits(model), logits(tiny_model()))


def check_a_loop_of_ones_own():
    """`fully_shard` after the adapter, without Trainer and accelerate."""
    ids = torch.arange(16).view(2, 8) % 20 + 3
    results = []
    for shard in (False, True):
        model = untold()
        adapter = NeuronAdapter(model, every_ffn(model))
        with adapter.alone():
            if shard:
                for layer in model.root.model.layers:
                    fully_shard(layer)
                fully_shard(model.root)
            optimizer = torch.optim.SGD(adapter.parameters(), lr=0.1)
            for _ in range(3):
                rows = (
                    ids[dist.get_rank() : dist.get_rank() + 1] if shard else ids
                )  # FSDP takes the mean over processes
                model.root(input_ids=rows, labels=rows).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        results.append(numbers(adapter))
        assert all(p.requires_grad for p in model.root.parameters())  # as before
    assert all(v.abs().max() > 0 for v in results[0])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


CHECKS = [
    check_the_cells_of_grids_are_shared_out,
    check_an_error_in_a_cell_is_told_to_the_other,
    check_trainings_are_shared_out,
    check_a_training_that_fails_is_told_to_the_other,
    check_sequences_are_shared_out,
    check_representations_and_control_models_are_shared_out,
    check_reading_is_shared_out,
    check_patched_places_are_shared_out,
    check_every_method_gives_one_processs_scores,
    check_other_styles_and_units,
    check_each_process_does_its_share,
    check_an_error_in_one_process_is_told_to_the_other,
    check_processes_that_ask_for_different_things_are_refused,
    check_training_equals_one_process,
    check_only_deltas_are_reduced_and_one_process_writes,
    check_what_cannot_be_divided_is_refused,
    check_a_loop_of_ones_own,
    check_sharded_training_equals_one_process,
    check_a_sharded_run_is_resumed,
    check_fsdp_as_accelerate_launch_asks_for_it,
    check_a_sharded_adapter,
]


def main(folder, *names):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {}
    for check in CHECKS:
        if names and check.__name__ not in names:
            continue
        gc.collect()
        gc.freeze()  # as tests/conftest.py does: trainings collect garbage at every stage
        try:
            check(*[folder] * len(inspect.signature(check).parameters))
        except Exception:
            found[check.__name__] = traceback.format_exc()
            break  # the processes may be out of step
        found[check.__name__] = "ok"
    (Path(folder) / f"rank-{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
