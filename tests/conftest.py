"""Fixtures that several test files share."""

import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything reads it: tests never reach for the network

import pytest
from hypothesis import settings
from tiny import tiny_model

collect_ignore = ["assistant_tasks"]  # programs that tests/test_assistants.py runs, each in a folder of its own

# a busy machine is no fault of the code: speed is shown by benchmarks
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


class FrozenGarbage:
    """What is there before a file's tests is passed over by the garbage collector from then on.

    Training collects garbage at every stage, and what libraries keep is a million objects: half of a small training.
    """

    file = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item):
        if item.path != self.file:
            self.file = item.path
            gc.collect()
            gc.freeze()


def pytest_configure(config):
    config.pluginmanager.register(FrozenGarbage())  # the hooks of a conftest do not see the package's files


@pytest.fixture(name="tiny_model")
def tiny_model_fixture():
    """The builder of tiny models, `tiny_model(style, seed=0)`."""
    return tiny_model


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    """The slow tests after the fast ones: what is broken shows at once. A file's tests stay in one process, as its
    fixtures do; docstrings' examples come last, as many short groups fill what the slow tests leave of another process.
    """
    items.sort(key=lambda item: 2 if isinstance(item, pytest.DoctestItem) else int(_is_slow(item)))
    for item in items:
        file = f"{item.path.parent.name}/{item.path.name}"
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(f"{file} (slow)" if _is_slow(item) else file))


def _is_slow(item):
    return item.get_closest_marker("slow") is not None
