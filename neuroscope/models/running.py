"""Run any torch model on token ids: what its forward takes and gives, and what a pass of a few tokens must show.

A model of transformers is called with `input_ids` and `attention_mask`. A module of one's own may name its tokens
otherwise and take no mask: it must be causal then, and is never given padding before a text.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from neuroscope.distributed import has_shards
from neuroscope.errors import ModelError, NeuroscopeError, NumericalError
from neuroscope.models.packed import is_packed, is_packed_linear, stored

PROBE = 4  # tokens of the input that a model is tried on
CLOSE = 1e-4  # of the largest logit: what a later token may move an earlier logit by, through rounding


def embedding_of(base: Any) -> Any:
    """The embedding of a model's tokens; in a module of one's own, the largest one."""
    try:
        known = base.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        known = max((m for m in base.modules() if isinstance(m, nn.Embedding)), key=_rows, default=None)
    if known is None:
        found, do = "no torch.nn.Embedding of tokens", "give the model one, or a method get_input_embeddings()"
        raise ModelError(f"open a {type(base).__name__}", found, do)
    return known


def _rows(embedding: Any) -> int:
    return embedding.weight.shape[0]


def probe(base: Any, style: str) -> dict[str, Tensor]:
    """A tiny input for the model, by the names that its forward has."""
    weight = embedding_of(base).weight
    ids = torch.arange(PROBE, device=weight.device)[None] % len(weight)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return fitting(base, inputs | ({"decoder_input_ids": ids} if style == "seq2seq" else {}))


def fitting(base: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs by the names that the model's forward has.

    Raises:
        ModelError: padding before a text, for a model that takes no mask.
    """
    parameters = {name: p for name, p in inspect.signature(base.forward).parameters.items() if name != "self"}
    if inputs.keys() <= parameters.keys() or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return inputs
    mask = inputs.get("attention_mask")
    if "attention_mask" not in parameters and mask is not None and bool((mask.diff(dim=1) > 0).any()):
        do = "have its forward take attention_mask, or use a task with labels"
        raise ModelError(f"run a {type(base).__name__} on padded prompts", "a forward that takes no mask", do)
    first = "input_ids" if "input_ids" in parameters else next(iter(parameters), "input_ids")
    return {first if k == "input_ids" else k: v for k, v in inputs.items() if k == "input_ids" or k in parameters}


def logits_of(output: Any) -> Float[Tensor, "batch pos vocab"]:
    """The logits in what a model returns: its `logits`, the output itself, or the first of a tuple.

    Raises:
        ModelError: anything else.
    """
    first = output[0] if isinstance(output, tuple) and output else output
    logits = getattr(output, "logits", first)
    if not isinstance(logits, Tensor) or logits.ndim != 3:
        found = f"a {type(output).__name__} without logits of [batch, pos, vocabulary]"
        do = "have forward return a transformers output, the logits, or a tuple that begins with them"
        raise ModelError("read a model's logits", found, do)
    return logits


def refuse_without_data(root: nn.Module) -> None:
    """Refuse a model with a parameter on torch's meta device."""
    absent = next((name for name, p in root.named_parameters() if p.is_meta), None)
    if absent:
        do = "load the model whole, or spread it over devices (device_map='auto' with enough memory)"
        raise ModelError(f"run a {type(root).__name__}", f"{absent} without data: offloaded, or not loaded yet", do)


def check(root: Any, base: Any, style: str) -> None:
    """Refuse a model with a weight that is not finite, naming it, or that does not run, or sees what comes later.

    Attention can swallow a NaN, so the logits alone do not tell. A sum passes it on, for one reading of the weights.
    """
    asked = f"open a {type(root).__name__}"
    if has_shards(root):
        do = "open it with ns.load before it is sharded; what finetune returns has the opened model as .model"
        raise ModelError(asked, "parameters that are sharded over processes", do)
    refuse_without_data(root)
    with torch.no_grad():
        every = (part for name, parameter in root.named_parameters() for part in stored(name, parameter))
        doubtful = {n: p for n, p in every if p.is_floating_point() and not _sum(p).isfinite()}
        bad = [name for name, p in doubtful.items() if not torch.isfinite(p.float()).all()]
    if bad:
        where = ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
        raise NumericalError(asked, f"non-finite weights in {where}", "load the weights again")
    logits = _tried(root, base, style, asked)
    if not logits.isfinite().all():
        found, do = "finite weights, but non-finite logits (an overflow)", "open the model in float32 or bfloat16"
        raise NumericalError(asked, found, do)
    moved = (logits[0, :-1] - logits[1, :-1]).abs().max().item()
    if style != "masked" and moved > max(CLOSE, 2 * torch.finfo(logits.dtype).eps) * logits.abs().max().item():
        found = f"a model that is not causal: a later token moves the logits of earlier ones by {moved:.2g}"
        do = "set is_decoder=True (or is_causal=True) in its config, or open it with AutoModelForMaskedLM"
        raise ModelError(asked, found, do)


def _sum(parameter: Tensor) -> Tensor:
    return (parameter.float() if parameter.element_size() == 1 else parameter).sum()


def _tried(root: Any, base: Any, style: str, asked: str) -> Float[Tensor, "text=2 pos vocab"]:
    """The logits of two texts that differ in their last token."""
    inputs = {name: ids.repeat(2, 1) for name, ids in probe(base, style).items()}
    last = list(inputs)[-1] if style == "seq2seq" else next(iter(inputs))
    inputs[last][1, -1] = (inputs[last][0, -1] + 1) % len(embedding_of(base).weight)
    with runs(asked), torch.no_grad():
        logits = logits_of(root(**inputs))
    if logits.shape[1] != PROBE:
        found = f"logits at {logits.shape[1]} of {PROBE} positions"
        raise ModelError(asked, found, "have its forward return the logits at every position")
    return logits


class _Tables(TorchFunctionMode):
    """Sees every look-up of consecutive numbers, which are positions: how many tokens a table has rows for."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if func is nn.functional.embedding:
            ids, weight = args[:2]
            places = ids.reshape(-1, ids.shape[-1])
            length = places.shape[-1]  # of some models more than was given: padded to a window
            if length >= PROBE and bool((places == places[0, 0] + torch.arange(length).to(ids)).all()):
                self.rows.append(len(weight) - int(places[0, 0]))
        return func(*args, **(kwargs or {}))


def rows_of_positions(root: Any, base: Any, style: str) -> int | None:
    """How many tokens a model has learned positions for, by a tiny pass; None where it looks none up."""
    inputs = {name: ids.flip(-1) for name, ids in probe(base, style).items()}  # tokens that do not ascend
    with torch.no_grad(), _Tables() as tables:
        root(**inputs)
    return (max if style == "seq2seq" else min)(tables.rows, default=None)


def refuse_without_gradients(root: nn.Module, asked: str) -> None:
    """Refuse quantised layers through which no gradient passes, or not all: what reaches a neuron would lack.

    Those of torch's own quantisation, and linear layers that round their inputs as well as their weights.
    """
    modules = dict(root.named_modules())
    opaque = [n for n, m in modules.items() if type(m).__module__.startswith("torch.ao.nn.quantized")]
    if not opaque:
        dtype = next((p.dtype for p in root.parameters() if not is_packed(p)), torch.float32)
        opaque = [n for n, m in modules.items() if is_packed_linear(m) and not _passes_gradients(m, dtype)]
    if opaque:
        found = f"{opaque[0]} and {len(opaque) - 1} more that are quantised, through which no gradient passes"
        raise ModelError(asked, found, "use method='activation' or 'exact', or open the model in float32 or bfloat16")


def _passes_gradients(linear: Any, dtype: torch.dtype) -> bool:
    """Whether a packed layer's gradient is that of y = W x + b: <x, W^T (W x)> = |W x|^2, for one random x."""
    held = next(part for tensor in (*linear.parameters(), *linear.buffers()) for _, part in stored("", tensor))
    x = torch.randn(1, linear.in_features, generator=torch.Generator().manual_seed(0)).to(held.device, dtype)
    with torch.enable_grad():
        x.requires_grad_()
        y = linear.forward(x)  # not the module's hooks, which may count
        if y.grad_fn is None:
            return False
        moved = (y - linear.forward(torch.zeros_like(x))).detach()
        (gradient,) = torch.autograd.grad(y, x, moved, allow_unused=True)
    expected = moved.float().square().sum()
    return gradient is not None and bool(((gradient * x).float().sum() - expected).abs() <= 0.1 * expected)


class runs:
    """A scope in which what a model's layers raise becomes our error."""

    def __init__(self, asked: str) -> None:
        self.asked = asked

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, NeuroscopeError):
            found = (
                f"a pass of {PROBE} tokens that ends in {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            )
            do = "first have the model run on a few token ids, in float32 or bfloat16, and return logits"
            raise ModelError(self.asked, found, do) from error


class with_room:
    """A scope in which what a module of one's own raises of a longer row than it was opened with becomes our error."""

    def __init__(self, base: Any, length: int) -> None:
        self.base, self.length = base, length

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, IndexError | RuntimeError) or isinstance(error, torch.OutOfMemoryError):
            return
        if self.length > PROBE and not type(self.base).__module__.startswith("transformers."):
            found = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            do = "where it has positions for fewer tokens, say so (config.max_position_embeddings), or give the task "
            do += "max_tokens= and too_long='cut'"
            raise ModelError(f"run a {type(self.base).__name__} on rows of {self.length} tokens", found, do) from error
