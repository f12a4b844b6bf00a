"""Training passes over the garbage that was there before it, and leaves the collector as it found it."""

import gc
import weakref

import pytest
from sequences import learn

from neuroscope.training import finetuning
from neuroscope.training.garbage import _Frozen, settled_garbage


class Knot:
    """An object that holds itself, which only the collector takes away."""

    def __init__(self):
        self.me = self


@pytest.fixture(autouse=True)
def thawed(monkeypatch):
    """The tests' own frozen objects are let go and forgotten, and frozen again."""
    gc.unfreeze()
    monkeypatch.setattr(_Frozen, "callers", False)
    yield
    gc.freeze()


def test_what_was_there_is_collected_once_and_then_passed_over():
    lost, kept = weakref.ref(Knot()), Knot()
    seen = weakref.ref(kept)
    with settled_garbage():
        assert lost() is None
        del kept
        fresh = weakref.ref(Knot())
        gc.collect()
        assert fresh() is None  # made within: collected as ever
        assert seen() is not None  # of before: left for later
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert seen() is None


def test_an_inner_scope_and_frozen_objects_of_the_callers_are_left_alone():
    with settled_garbage():
        with settled_garbage():
            pass
        assert gc.get_freeze_count() > 0
    assert not _Frozen.callers  # the outer scope's are not taken for the caller's
    gc.freeze()
    for _ in range(2):
        with settled_garbage():
            pass
        assert gc.get_freeze_count() > 0
    gc.unfreeze()


def test_what_the_caller_froze_is_counted_once(monkeypatch):
    gc.freeze()
    counted = []
    monkeypatch.setattr(gc, "get_freeze_count", lambda: counted.append(1) or 1)
    for _ in range(3):
        with settled_garbage():
            pass
    assert len(counted) == 1
    gc.unfreeze()


def test_nothing_stays_frozen_after_an_error():
    with pytest.raises(ZeroDivisionError), settled_garbage():
        raise ZeroDivisionError
    assert gc.get_freeze_count() == 0


def test_a_sequence_is_learnt_within_such_a_scope(monkeypatch):
    inner, frozen = finetuning.train, []
    monkeypatch.setattr(finetuning, "train", lambda *a, **k: frozen.append(gc.get_freeze_count()) or inner(*a, **k))
    monkeypatch.setattr("neuroscope.training.continual_learning.learner.train", finetuning.train)
    learn("seqft", recipe={"steps": 1})
    assert len(frozen) == 3 and min(frozen) > 1000
    assert gc.get_freeze_count() == 0
