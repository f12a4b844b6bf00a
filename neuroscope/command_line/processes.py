"""Which of several processes this one is, as torchrun and `actions/sharing.py` tell it in the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any


def alone() -> bool:
    """Whether neither torchrun nor another process of ours has started this one.

    Clusters set some of this too: torchrun sets all of it.
    """
    places = [os.environ.get(name, "") for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE")]
    return not all(place.isdigit() for place in places) or places[-1] in ("0", "1")


def rank() -> int:
    """Which process this is: 0 where there is one, and where it is the first."""
    return 0 if alone() else int(os.environ["RANK"])


def speaks(options: Mapping[str, Any]) -> bool:
    """Whether this process says what a command found: of those that share its work, the first alone does.

    Args:
        options: of the command.
    """
    return rank() == 0 or "processes" not in options
