"""Mixtures of experts: one hook point per expert.

transformers stacks a layer's experts into three-dimensional parameters and runs them fused, so that no module carries a
single expert's neurons. Tapping registers an experts implementation that runs the experts one by one, and passes each
one's neurons through a `Tap` that can be hooked. A neuron of an expert is a neuron of the model; tokens that are not
routed to its expert do not have it.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from neuroscope.checks import public
from neuroscope.errors import ArgumentError, kind_of
from neuroscope.models.model import Model
from neuroscope.models.sites import Rows, Site

NAME = "neuroscope"
TAPS = "neuron_taps"


class Tap(nn.Module):
    """The identity on one expert's neurons: `h` is `[token, neuron]`, `tokens` the flat indices of its rows."""

    def forward(self, h: Tensor, tokens: Tensor) -> Tensor:
        """Return `h` itself; hooks do the rest."""
        return h


def run_experts(
    experts: Any, x: Float[Tensor, "token model"], chosen: Int[Tensor, "token k"], weights: Float[Tensor, "token k"]
) -> Float[Tensor, "token model"]:
    """transformers' experts, one at a time, through the taps."""
    up = "gate_up_proj" if experts.has_gate else "up_proj"

    def project(h: Tensor, name: str, expert: int) -> Tensor:
        weight = getattr(experts, name)[expert]
        h = h @ weight if experts.is_transposed else functional.linear(h, weight)
        return h + getattr(experts, f"{name}_bias")[expert] if experts.has_bias else h

    out = torch.zeros_like(x)
    for expert in chosen.unique().tolist():
        if expert >= experts.num_experts:  # padding of expert parallelism
            continue
        tokens, rank = torch.where(chosen == expert)
        h = project(x[tokens], up, expert)
        h = experts._apply_gate(h) if experts.has_gate else experts.act_fn(h)
        h = getattr(experts, TAPS)[expert](h, tokens)
        h = project(h, "down_proj", expert) * weights[tokens, rank, None]
        out = out.index_add(0, tokens, h.to(out.dtype))
    return out


def _stacked(root: nn.Module) -> list[tuple[str, Any]]:
    return [(p, m) for p, m in root.named_modules() if "down_proj" in m._parameters and hasattr(m, "is_transposed")]


def untapped(root: nn.Module) -> list[str]:
    """Paths of the mixtures whose experts cannot be hooked yet."""
    return [path for path, m in _stacked(root) if not hasattr(m, TAPS) or m.config._experts_implementation != NAME]


def tap(root: nn.Module) -> None:
    """Give every expert a hook point. The model computes the same function, one expert at a time."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS  # heavy: only for mixtures

    ALL_EXPERTS_FUNCTIONS.register(NAME, run_experts)
    for _, m in _stacked(root):
        if not hasattr(m, TAPS):
            m.add_module(TAPS, nn.ModuleList(Tap() for _ in range(m.num_experts)))
            m.experts_before = m.config._experts_implementation
        m.config._experts_implementation = NAME


def untap(root: nn.Module) -> None:
    """Undo `tap`."""
    for _, m in _stacked(root):
        if hasattr(m, TAPS):
            if m.config._experts_implementation == NAME:
                m.config._experts_implementation = m.experts_before
            del m.experts_before
            delattr(m, TAPS)


def expert_sites(root: nn.Module) -> list[Site]:
    """A site per expert of every tapped mixture, such as `blocks.3.mlp.experts.5.hook_post`."""
    sites = []
    for path, m in _stacked(root):
        if not hasattr(m, TAPS):
            continue
        layer = next(int(part) for part in path.split(".") if part.isdigit())
        clean = path.replace("._original_component", "").removeprefix("base_model.model.")
        for expert, tap_ in enumerate(getattr(m, TAPS)):
            out, ins = _rows(m, expert)
            name = f"blocks.{layer}.mlp.experts.{expert}.hook_post"
            sites.append(Site(name, f"{clean}.{TAPS}.{expert}", tap_, out[0].n, layer, out=out, ins=ins, expert=expert))
    return sites


def _rows(m: Any, expert: int) -> tuple[tuple[Rows, ...], dict[str, tuple[Rows, ...]]]:
    flip = int(m.is_transposed)
    width = m.down_proj.shape[2 - flip]
    out: tuple[Rows, ...] = (Rows(m.down_proj, 2 - flip, width, lead=(expert,)),)
    name = "gate_up_proj" if m.has_gate else "up_proj"
    ins: dict[str, tuple[Rows, ...]] = {}
    for i, role in enumerate(("gate", "up") if m.has_gate else ("in",)):
        start, step = (i * width, 1) if m.is_concatenated or not m.has_gate else (i, 2)
        ins[role] = (Rows(getattr(m, name), 1 + flip, width, start, step, (expert,)),)
        if m.has_bias:
            ins[f"{role}.bias"] = (Rows(getattr(m, f"{name}_bias"), 1, width, start, step, (expert,)),)
    return out, ins


@public
def tap_experts(model: Any) -> Any:
    """Give every expert of a mixture a hook point of its own, in place; returns the model.

    The model computes the same function to rounding, one expert at a time, which is slower than the fused kernels.
    """
    tap(_torch_model(model))
    return model


@public
def untap_experts(model: Any) -> Any:
    """Undo `tap_experts`, in place; returns the model."""
    untap(_torch_model(model))
    return model


def _torch_model(model: Any) -> nn.Module:
    if isinstance(model, Model):
        return model.root
    if hasattr(type(model), "original_model"):
        return model.original_model
    root = model if isinstance(model, nn.Module) else getattr(model, "_module", None)
    if not isinstance(root, nn.Module):
        raise ArgumentError("the experts of a model", f"{kind_of(model)}, no model", "give a model of torch")
    return root
