"""Whether a model can score all labels of a prompt in one row, and if not, why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from neuroscope.models import Model
from neuroscope.models.sites import depends_on_position, unedited
from neuroscope.tasks.encoding import Encoded, batches_for

CLOSE = 1e-4  # how far logits may be apart, as a share of the largest; what masks or positions change is far more
# settings of models whose tokens do not see all before them
WINDOWS = re.compile(r"(attention_|sliding_|local_)?window(_size)?|attention_chunk_size|local_attention")
_tried: WeakKeyDictionary[nn.Module, dict[Any, bool]] = WeakKeyDictionary()


def against_trees(model: Model, labels: Sequence[Sequence[Encoded]]) -> str:
    """Why the labels of a prompt are scored in rows of their own; empty where all are in one row.

    Args:
        model: under whatever is live on it.
        labels: [labels][examples] every label after every prompt.
    """
    if model.style != "causal":
        return f"a {model.style} model"
    if all(len(item.answer) == 1 for label in labels for item in label):
        return ""  # nothing branches
    longest = max(len(item.inputs) for label in labels for item in label)
    window = min(_windows(model.config), default=longest)
    if window < longest:
        return f"a model whose tokens see {window} tokens, with texts of {longest}"
    if depends_on_position(model.root):
        return "an intervention that depends on positions, or a hook that is not of this package"
    return "" if _can(model) else "a model whose attention mask and positions cannot be set"


def _windows(config: Any) -> Iterator[int]:
    """How many tokens back a token sees, of the layers where that is limited."""
    settings = (
        config.get_text_config().to_dict() if hasattr(config, "get_text_config") else getattr(config, "__dict__", {})
    )
    for name, value in settings.items():
        if WINDOWS.fullmatch(name):
            found = value if isinstance(value, list | tuple) else [value]
            yield from (v for v in chain(found) if isinstance(v, int) and not isinstance(v, bool) and v > 0)


def _can(model: Model) -> bool:
    """Whether a tiny tree gives what its branches give, tried once for each kind of attention that a model is set to.

    Position by position all of the tree counts: the last node has all the others before it, and sees two of them.
    """
    known = _tried.setdefault(model.root, {})
    key = getattr(model.config, "_attn_implementation", None), model.device.type
    if key not in known:
        size = model.embedding.weight.shape[0]
        a, b, c, d, e = (i % size for i in (5, 7, 11, 13, 17))
        tree = Encoded([a, b, c, d, e], [], 0, depth=[0, 1, 2, 3, 2], end=[5, 5, 4, 4, 5])
        dtype = model.embedding.weight.dtype
        with unedited(), torch.no_grad():
            (batch,) = batches_for(model, [tree], 1)
            try:
                found = model.logits(batch.shown(dtype))[0, [3, 4]].float()
            except Exception:  # attention that refuses such a mask raises whatever it raises
                known[key] = False
                return False
            rows = (torch.tensor([row], device=model.device) for row in ([a, b, c, d], [a, b, e]))
            right = [model.logits({"input_ids": row, "attention_mask": torch.ones_like(row)})[0, -1] for row in rows]
            wanted = torch.stack(right).float()
        known[key] = bool((found - wanted).abs().max() <= _tolerance(dtype) * wanted.abs().max())
    return known[key]


def _tolerance(dtype: torch.dtype) -> float:
    return max(CLOSE, 4 * torch.finfo(dtype).eps)
