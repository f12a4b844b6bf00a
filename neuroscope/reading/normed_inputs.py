"""What neurons read: tokens' embeddings, through the norm that stands before the neurons' input weights.

1. One tiny pass shows which module the input weights are in, and which norm's output that module is given.
2. Of a head the input weights are those of its values. With a single token attention has nothing to choose, so that the
   derivative of the head's vector by the norm's output is its value matrix, be it fused, grouped or shared.
3. Every token's embedding goes through that norm as it is, by itself, as if the token were all that is in the stream.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neuroscope.errors import ModelError
from neuroscope.models import Model
from neuroscope.models.running import probe
from neuroscope.models.sites import Site, edit

PART = 4096  # tokens that are embedded at a time
Norm = nn.Module | None


def norm_before(model: Model, site: Site) -> Norm:
    """The norm whose output a hidden site's input weights are given; None where they read the stream as it is."""
    rows = next((listed[0] for listed in site.ins.values() if listed), None)
    owner = None if rows is None else _owner(model.root, rows.param)
    if owner is None:
        return None
    ended: list[tuple[nn.Module, Tensor]] = []
    found: list[Norm] = []

    def end(module: nn.Module, args: tuple, output: Any) -> None:
        if torch.is_tensor(output) and not found:  # held, so that no other tensor takes its place in memory
            ended.append((module, output))

    def reached(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        x = next((v for v in (*args, *kwargs.values()) if torch.is_tensor(v) and v.is_floating_point()), None)
        if x is not None and not found:
            same = (m for m, y in ended if y.data_ptr() == x.data_ptr() and y.numel() == x.numel())
            first = next(same, None)
            found.append(first if first is not None and _is_norm(first) else None)

    with _hooked(model.root, end), torch.no_grad(), model.quiet():
        handle = owner.register_forward_pre_hook(reached, with_kwargs=True)
        try:
            model.root(**probe(model.base, model.style))
        finally:
            handle.remove()
    return found[0] if found else None


def value_matrix(
    model: Model, site: Site, coordinates: Int[Tensor, " coordinate"]
) -> tuple[Float[Tensor, "coordinate model"], Norm]:
    """What coordinates of heads are per unit of their norm's output at the one token attended to; and that norm.

    Raises:
        ModelError: attention that reads no norm's output, nor the stream itself, in a way that is found.
    """
    inputs = {name: ids[:, :1] for name, ids in probe(model.base, model.style).items()}
    width = model.embedding.weight.shape[1]
    norms, _, _ = _pass(model, site, inputs, width, None)
    for norm in reversed(norms):
        matrix = _from_norm(model, site, inputs, width, norm, coordinates)
        if matrix is not None:
            return matrix, norm
    found = "attention whose values come from no norm's output"
    raise ModelError(f"what heads at {site.address} read", found, "read hidden neurons, or use another model")


def _from_norm(
    model: Model, site: Site, inputs: dict[str, Tensor], width: int, norm: nn.Module, coordinates: Tensor
) -> Tensor | None:
    """The derivative from a norm's output; None where the values do not depend on it, as those of queries' norms."""
    _, start, h = _pass(model, site, inputs, width, norm)
    if start is None or h is None or not h.requires_grad:
        return None
    rows = []
    for value in h.flatten()[coordinates.to(h.device)]:
        (gradient,) = torch.autograd.grad(value, start, retain_graph=True, materialize_grads=True)
        rows.append(gradient.flatten().float().cpu())
    matrix = torch.stack(rows)
    return matrix if bool(matrix.any()) else None


def _pass(
    model: Model, site: Site, inputs: dict[str, Tensor], width: int, norm: Norm
) -> tuple[list[nn.Module], Tensor | None, Tensor | None]:
    """The norms that end before the site, in order; the start of the graph at one of them; the site's vector."""
    norms: list[nn.Module] = []
    starts: list[Tensor] = []
    vectors: list[Tensor] = []

    def end(module: nn.Module, args: tuple, output: Any) -> Any:
        if vectors or not _is_norm(module) or not torch.is_tensor(output) or output.shape[-1] != width:
            return None
        norms.append(module)
        if module is norm:
            starts[:] = [output.detach().clone().requires_grad_()]
            return starts[0]
        return None

    def stop(at: Site, h: Tensor, tokens: Tensor | None) -> None:
        vectors[:] = vectors or [h]

    with torch.inference_mode(False), torch.enable_grad(), model.quiet(), _hooked(model.root, end), edit([site], stop):
        model.root(**inputs)
    return norms, (starts[0] if starts else None), (vectors[0] if vectors else None)


def embedded(model: Model, norm: Norm, tokens: int) -> Iterator[Float[Tensor, "token model"]]:
    """Every token's embedding, through the norm, some tokens at a time."""
    table = model.embedding
    forward = getattr(norm, "forward", None)
    with torch.no_grad(), model.quiet():
        for start in range(0, tokens, PART):
            ids = torch.arange(start, min(tokens, start + PART), device=table.weight.device)
            x = table.forward(ids)
            yield (x if forward is None else forward(x)).float().cpu()


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _owner(root: nn.Module, parameter: nn.Parameter) -> nn.Module | None:
    return next((m for m in root.modules() if any(p is parameter for p in m._parameters.values())), None)


@contextlib.contextmanager
def _hooked(root: nn.Module, hook: Callable[[nn.Module, tuple, Any], Any]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in root.modules() if module is not root]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
