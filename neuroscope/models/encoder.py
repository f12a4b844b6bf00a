"""Run an encoder once for all decoder rows that belong to one prompt, whatever the model's class."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def encoder_once(base: Any, inputs: dict[str, Tensor]) -> Iterator[None]:
    """A scope in which the encoder is given the first only of neighbouring rows that are the same prompt.

    1. Before the encoder, rows that repeat the one above are left out. Interventions within it see each prompt once.
    2. What it gives is repeated for the rows that were left out, so that the decoder has a row for each of its own.
    3. A linear layer outside the encoder that is given this very tensor (the keys and values of cross-attention) is run
       on the rows before they were repeated too.

    Args:
        base: the encoder-decoder model, which is then run on the inputs, in this thread.
        inputs: `input_ids` and `attention_mask` [row, pos], a row for each row of the decoder.
    """
    told = torch.cat([inputs["input_ids"], inputs["attention_mask"]], 1)
    is_new = torch.cat([torch.ones_like(told[:1, 0]), (told[1:] != told[:-1]).any(1)]).bool()
    first, prompt = is_new.nonzero().flatten(), is_new.cumsum(0) - 1
    encoder = base.get_encoder()
    if len(first) == len(told) or not isinstance(encoder, nn.Module):
        yield
        return
    thread = threading.get_ident()
    repeated: dict[int, tuple[Tensor, Tensor]] = {}  # by id, with what it repeats; held, so that no id is used again
    running: list[nn.Module] = []

    def few(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if threading.get_ident() != thread:
            return None
        running.append(module)
        return over_tensors((args, kwargs), lambda x: x[first.to(x.device)] if x.ndim and len(x) == len(told) else x)

    def many(x: Tensor) -> Tensor:
        if not x.ndim or len(x) != len(first):
            return x
        rows = x[prompt.to(x.device)]
        repeated[id(rows)] = rows, x
        return rows

    def few_again(module: nn.Module, args: tuple[Any, ...]) -> Any:
        if not args or id(args[0]) not in repeated or threading.get_ident() != thread:
            return None
        running.append(module)
        return (repeated[id(args[0])][1], *args[1:])

    def repeat(module: nn.Module, args: Any, output: Any) -> Any:
        if not running or running[-1] is not module or threading.get_ident() != thread:
            return None
        running.pop()
        return over_tensors(output, many) if module is encoder else output[prompt.to(output.device)]

    inside = set(encoder.modules())
    handles = [encoder.register_forward_pre_hook(few, prepend=True, with_kwargs=True)]
    try:
        handles.append(encoder.register_forward_hook(repeat))
        for module in base.modules():
            if isinstance(module, nn.Linear) and module not in inside:
                handles.append(module.register_forward_pre_hook(few_again, prepend=True))
                handles.append(module.register_forward_hook(repeat))
        yield
    finally:
        for handle in handles:
            handle.remove()


def over_tensors(x: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same nest of tuples, lists and dicts, with the function applied to each tensor in it."""
    if torch.is_tensor(x):
        return function(x)
    if isinstance(x, dict):  # transformers' ModelOutput is one
        return type(x)(**{k: over_tensors(v, function) for k, v in x.items()})
    return type(x)(over_tensors(v, function) for v in x) if isinstance(x, tuple | list) else x
