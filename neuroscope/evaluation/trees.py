"""Whether a model can score all labels of a prompt in one row, and if not, why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from neuroscope.models import Model
from neuroscope.models.sites import depends_on_position, unedited
from neuroscope.tasks.encoding import Encoded, batches_for

# settings of models whose tokens do not see all before them
WINDOWS = re.compile(r"(attention_|sliding_|local_)?window(_size)?|attention_chunk_size|local_attention")
# A right tree differs by at most 1.1 times what rounding does (9 families, 3 precisions), a wrong one by 4 and more.
ROUNDING = 2
# Of the last digit of the logits in half precision, where rounding may make no difference by chance: a right tree is
# off by 1 at most (7 families, a processor without such arithmetic), a wrong one by 25 and more.
DIGITS = 1.5
_tried: WeakKeyDictionary[nn.Module, dict[Any, bool]] = WeakKeyDictionary()


def against_trees(model: Model, rows: Sequence[Encoded]) -> str:
    """Why a causal model scores the labels of a prompt in rows of their own; empty where all are in one row.

    Args:
        model: under whatever is live on it.
        rows: the labels of every prompt laid out in one row, as `rows_of` does.
    """
    if not any(row.end for row in rows):
        return ""  # nothing branches
    longest = max(len(row.inputs) for row in rows)  # some models tell by the place in the row who sees whom
    window = min(_windows(model.config), default=longest)
    if window < longest:
        return f"a model whose tokens see {window} tokens, with all labels in {longest}"
    if model.context is not None and model.context < longest:
        return f"a context of {model.context} tokens, with all labels in {longest}"
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
            yield from (v for v in found if isinstance(v, int) and not isinstance(v, bool) and v > 0)


def _can(model: Model) -> bool:
    """Whether a small tree gives what its branches give, tried once for each state of the model's code.

    Weights do not matter here; attention, dtype, modules and a forward that somebody replaced do.
    """
    known = _tried.setdefault(model.root, {})
    modules = tuple((type(module), id(vars(module).get("forward"))) for module in model.root.modules())
    attention = getattr(model.config, "_attn_implementation", None)
    key = attention, model.device.type, model.embedding.weight.dtype, modules
    if key not in known:
        with unedited(), torch.no_grad():
            known[key] = _tree_equals_its_branches(model)
    return known[key]


def _tree_equals_its_branches(model: Model) -> bool:
    """Compare a tree's last branch, after all others, with that branch by itself.

    How far logits may be apart is measured: by itself, and with as many tokens behind it as the tree has in between.
    """
    size, stem, length = model.embedding.weight.shape[0], 6, 3
    n = min([8, *((most - stem) // length for most in (model.context, model.short) if most is not None)])
    if n < 2:
        return False
    tokens = [(5 + 7 * i) % size for i in range(stem + n * length)]
    depth = [*range(stem), *(list(range(stem, stem + length)) * n)]
    end = [len(tokens)] * stem + [stem + length * (1 + i // length) for i in range(n * length)]
    line, between = tokens[:stem] + tokens[-length:], tokens[stem:-length]
    branch = slice(stem, stem + length)
    right, followed = (_logits(model, Encoded(row, [], 0))[branch] for row in (line, line + between))
    try:
        found = _logits(model, Encoded(tokens, [], 0, depth=depth, end=end))[-length:]
    except torch.OutOfMemoryError:
        raise
    except Exception:  # attention that refuses such a mask raises whatever it raises
        return False

    def apart(a: Tensor, b: Tensor) -> float:
        return float((a - b).square().mean().sqrt())

    one_digit = torch.finfo(model.embedding.weight.dtype).eps * apart(right, torch.zeros_like(right))
    return apart(found, right) <= max(ROUNDING * apart(followed, right), DIGITS * one_digit)


def _logits(model: Model, row: Encoded) -> Tensor:
    """The logits at every position of a row."""
    (batch,) = batches_for(model, [row], 1)
    return model.logits(batch.shown(model.embedding.weight.dtype))[0].float()
