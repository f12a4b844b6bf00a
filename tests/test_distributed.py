"""Two processes, or two devices: the same results as with one; files written once; what cannot work is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import disk_offload, dispatch_model
from distributed_worker import CHECKS, REVIEWS, RUNS, close, reference
from tiny import tiny_model, tiny_tokenizer

from neuroscope import distributed
from neuroscope.attribution import attribute
from neuroscope.errors import ArgumentError, ModelError
from neuroscope.models import load
from neuroscope.training import finetune

WORKER = Path(__file__).with_name("distributed_worker.py")


def in_python(*command):
    """Run a script of this folder; its process group is its own."""
    paths = os.pathsep.join([str(WORKER.parents[1]), os.environ.get("PYTHONPATH", "")])
    settings = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=600, env=settings)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two processes says of every check; both are started once."""
    folder = tmp_path_factory.mktemp("distributed")
    for name in RUNS:
        reference(name, folder)
    in_python("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", WORKER, folder)
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("check", [check.__name__ for check in CHECKS])
def test_two_processes(found, check):
    for rank, said in enumerate(found):
        assert said.get(check, "not reached") == "ok", f"process {rank}: {said.get(check, 'not reached')}"


@pytest.mark.slow
def test_a_model_on_two_devices():
    in_python(WORKER.with_name("two_devices.py"))


def test_a_dispatched_model():
    """accelerate's hooks take the place of the modules' forward."""
    plain, root = tiny_model(), tiny_model().root
    model = load(dispatch_model(root, {"": "cpu"}, force_hooks=True), tokenizer=tiny_tokenizer())
    assert hasattr(root.model.layers[0].mlp.down_proj, "_hf_hook")
    close(attribute(model, REVIEWS), attribute(plain, REVIEWS))
    close(attribute(model, REVIEWS, method="exact", neurons=5), attribute(plain, REVIEWS, method="exact", neurons=5))


def test_an_offloaded_model_is_refused(tmp_path):
    root = disk_offload(tiny_model().root, tmp_path, execution_device=torch.device("cpu"))
    with pytest.raises(ModelError, match="offloaded"):
        load(root, tokenizer=tiny_tokenizer())


def test_one_process_is_on_its_own():
    assert distributed.world() == (0, 1) and distributed.my_part([1, 2, 3]) == [1, 2, 3]
    sums = {"a": torch.ones(2, dtype=torch.float16)}
    assert distributed.total(sums, ["a", "b"])["a"] is sums["a"]
    with distributed.together("nothing"):
        pass
    with pytest.raises(ArgumentError, match="one process"):
        finetune(tiny_model(), REVIEWS, "ffn", arguments={"fsdp": True})
