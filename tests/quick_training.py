"""In place of training: each change depends on all that a training depends on, and takes milliseconds.

Tests of what is trained, measured, kept and read again need no learning. Those that assert learning train.
"""

import contextlib
import sys

import pytest
import torch

from neuroscope import files
from neuroscope.checks import watched
from neuroscope.errors import NumericalError
from neuroscope.experiments import trials
from neuroscope.experiments.layer_by_layer import controls
from neuroscope.experiments.pruning_sweep import taking_out
from neuroscope.models import resolve
from neuroscope.tasks import tasks_of
from neuroscope.training import NeuronAdapter, Recipe, every_ffn
from neuroscope.training.continual_learning.learner import Setting
from neuroscope.training.whole_model import WholeModel

SIZE = 0.3  # of a change, in weights
TOO_FAST = 1e3  # a learning rate that diverges


@torch.no_grad()
def train(adapter, tasks, recipe=None, *, seed=0, progress=None, **more):
    """In place of `training.train`: random numbers, the same for the same call."""
    recipe = Recipe.of(recipe, lr=3e-4)
    named = tasks_of(tasks, "train")
    for _ in watched([0], progress, "train"):
        pass
    if recipe.lr > TOO_FAST:
        adapter.detach()
        raise NumericalError("train", "a loss that is not finite", "give a lower lr")
    key = files.digest(adapter.identity, [t.data_hash for t in named.values()], recipe.settings(), seed)
    generator = torch.Generator().manual_seed(int(key, 16) % 2**63)
    for parameter in adapter.parameters():
        parameter.add_(SIZE * torch.randn(parameter.shape, generator=generator))


def finetune(model, tasks, mask, *, seed=0, output=None, progress=None, **recipe):
    """In place of `training.finetune`."""
    model = resolve(model)
    if mask is None:
        adapter = WholeModel(model)
    else:
        adapter = NeuronAdapter(model, every_ffn(model) if isinstance(mask, str) else mask)
    train(adapter, tasks, recipe, seed=seed, progress=progress)
    return adapter


@contextlib.contextmanager
def quick_training():
    """A scope in which experiments train nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "finetune", finetune)
        patch.setattr(controls, "finetune", finetune)
        patch.setattr(controls, "train", train)
        patch.setattr(taking_out, "train", train)
        patch.setattr("neuroscope.evaluation.repetition.NEW", 5)  # and little is generated
        patch.setattr(sys.modules[Setting.__module__], "train", train)
        yield


@pytest.fixture(scope="module", autouse=True)
def quick():
    """For test files that import it: nothing is trained but where a test says so."""
    with quick_training():
        yield
