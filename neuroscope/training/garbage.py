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

    Garbage from before is collected first. Inside another such scope, or where the caller has frozen objects before
    (`gc.freeze`), nothing is done.

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
    if gc.get_freeze_count() or not when:
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
