"""Which of several processes this one is, as torchrun and `actions/sharing.py` tell it in the environment."""

from __future__ import annotations

import os


def rank() -> int:
    """Which process this is: 0 where there is one, and where it is the first."""
    return 0 if alone() else int(os.environ.get("RANK", 0))


def alone() -> bool:
    """Whether neither torchrun nor another process of ours has started this one."""
    return int(os.environ.get("WORLD_SIZE", 1)) == 1
