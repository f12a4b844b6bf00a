"""What a correlation is of: the views of the pairs, the statistics, and how one number is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

PAIRS = "all pairs"
TWO_WAY = "all pairs, source and test task taken out"
SYMBOLS = {"pearson": "r", "spearman": "rho"}
Statistic = Literal["pearson", "spearman"]


def written(row: Mapping[str, Any], symbol: str) -> str:
    """r of a row, with its interval where there is one."""
    has_interval = np.isfinite(row["low"])
    return f"{symbol} = {row['r']:.2f}" + (f" [{row['low']:.2f}, {row['high']:.2f}]" if has_interval else "")
