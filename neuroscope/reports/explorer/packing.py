"""Numbers as text in a page: small arrays, compressed, in base64, which `data.js` unpacks.

Scores become float16 times one scale per task: 11 bits of precision at every size, so that small relevances keep their
digits beside large ones (an error of 0.05 % at most down to 1e-9 of the largest). The low bytes follow the high ones,
which compresses better. Masks are bits. The order of the most relevant neurons is kept exactly, from the scores as they
were.
"""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

EXACT = 4096  # of each task's most relevant neurons, whose order is kept
LARGEST = 60000.0  # of float16, nearly


def zipped(content: bytes) -> str:
    """Bytes as text that a page can hold; the same bytes give the same text."""
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode("ascii")


def packed_scores(values: ArrayLike) -> tuple[str, float]:
    """float16, the high bytes first, and what they are to be multiplied by; NaN stays NaN."""
    scores = np.asarray(values, dtype=np.float64)
    largest = float(np.nanmax(np.abs(scores), initial=0.0))
    scale = largest / LARGEST or 1.0
    pairs = (scores / scale).astype("<f2").view(np.uint8).reshape(-1, 2)
    return zipped(pairs[:, ::-1].T.tobytes()), scale


def packed_bits(flags: ArrayLike) -> str:
    """A bit for every neuron, the first in the lowest bit of a byte."""
    return zipped(np.packbits(np.asarray(flags, dtype=bool), bitorder="little").tobytes())


def packed_order(values: ArrayLike) -> str:
    """The indices of the most relevant, the first of equal ones first."""
    scores = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=-np.inf)
    few = min(EXACT, len(scores))
    threshold = np.partition(scores, len(scores) - few)[len(scores) - few] if few else 0.0
    candidates = np.flatnonzero(scores >= threshold)
    return zipped(candidates[np.argsort(-scores[candidates], kind="stable")][:few].astype("<u4").tobytes())


def json_text(content: Any) -> str:
    """JSON that can stand in a script element: nothing in it can end the element, or begin another."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
