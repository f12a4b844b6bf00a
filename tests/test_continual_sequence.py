"""On the bundled model: a sequence that neuron masks keep, and one on which nothing can help."""

import numpy as np
import pytest

from neuroscope.models import load
from neuroscope.tasks import load_tasks
from neuroscope.training.continual_learning import continual
from neuroscope.training.continual_learning.metrics import matrix, retention

pytestmark = pytest.mark.slow
RECIPE = {"steps": 40, "batch_size": 16, "lr": 3e-3}
SETTINGS = {"seeds": (3,), "n": 48, "ahead": False}  # a seed that served neither to design the tasks nor to tune


@pytest.fixture(scope="module")
def model():
    return load("mini")


def test_neurons_of_ones_own_keep_what_full_fine_tuning_forgets(model):
    tasks = load_tasks("mini-sequence")
    known = [load_tasks("mini")["nli-food"]]  # a form of prompt that the sequence leaves alone
    before = model.fingerprint()
    ours = continual(model, tasks, "ncft", exclude=True, protect=True, recipe=RECIPE, known=known, **SETTINGS)
    theirs = continual(model, tasks, "seqft", recipe=RECIPE | {"lr": 6e-4}, known=known, **SETTINGS)
    assert model.fingerprint() == before
    ours_a, theirs_a = (matrix(result.table) for result in (ours, theirs))
    assert ours_a[-1].mean() >= 0.93
    assert np.diagonal(theirs_a).mean() >= 0.95, "full fine-tuning learns every task: what it lacks, it has forgotten"
    assert ours_a[-1].mean() > theirs_a[-1].mean() + 0.03
    assert retention(ours_a)[-1] > retention(theirs_a)[-1] + 0.03
    kept = [float(result.metrics()["base kept"].iloc[0]) for result in (ours, theirs)]
    assert kept[0] >= 0.9 and kept[1] < 0.6, "what the base knew is protected, and lost"
    widths = sum(site.width for site in model.sites().values())
    neurons = [run["log"]["neurons"] for run in ours.manifest["runs"]]
    assert neurons == [round(0.10 * widths)] * 5
    assert all(run["log"]["shared"] == 0 for run in ours.manifest["runs"])


def test_on_conflicting_tasks_no_mask_helps(model):
    """Three answers to the same prompts: a model that is right about one is wrong about the two others."""
    result = continual(model, load_tasks("mini-conflict"), "ncft", exclude=True, recipe=RECIPE, **SETTINGS)
    a = matrix(result.table)
    assert np.diagonal(a).min() >= 0.8, "every task is learnt"
    assert a[-1, :-1].max() <= 0.2, "and takes the place of those before it, though no neuron is shared"
    assert all(run["log"]["shared"] == 0 for run in result.manifest["runs"])
