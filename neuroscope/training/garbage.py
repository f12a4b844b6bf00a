"""Training collects garbage again and again: here it passes over what was there before the first step.

accelerate collects before every training and `measure_cost` at every stage of a sequence. What libraries keep alive is
a million objects, which take half a second each time: a fifth of a sequence of short trainings.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def settled_garbage(when: bool = True) -> Iterator[None]:
    """A scope in which the garbage collector looks only at what was made in it.

    Garbage from before is collected first. Nothing is done inside another such scope; nor, once the caller is found to
    have frozen objects (`gc.freeze`), for the rest of the process.

    Args:
        when: False does nothing, where nothing is to be trained.

    Example:
        >>> import gc
        >>> before = gc.get_freeze_count() > 0
        >>> with settled_garbage():
        ...     gc.get_freeze_count() > 0
        True
        >>> (gc.get_freeze_count() > 0) == before
        True
    """
    if not when or _Frozen.here or _Frozen.by_the_caller():
        yield
        return
    gc.collect()
    gc.freeze()
    _Frozen.here = True
    try:
        yield
    finally:
        _Frozen.here = False
        gc.unfreeze()


class _Frozen:
    """Who has frozen objects. To count them takes as long as a small training, so what a caller did is asked once."""

    here = callers = False

    @classmethod
    def by_the_caller(cls) -> bool:
        cls.callers = cls.callers or gc.get_freeze_count() > 0
        return cls.callers
