"""What is cut out of a model: entries of parameters that go or become zero, and numbers that modules hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from neuroscope.errors import ModelError
from neuroscope.masks import NeuronMask
from neuroscope.models import Model
from neuroscope.training.deltas import places_of


@dataclass
class Cuts:
    """What is done to the parameters of a model.

    Attributes:
        cut: the parameters, by their ids.
        removed: by the id of a parameter and the dimension, the indices that go.
        zeroed: by the id and the dimension, the indices whose entries become zero.
        settings: by the path of a module, the whole numbers that it is to hold.
    """

    cut: dict[int, nn.Parameter] = field(default_factory=dict)
    removed: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    zeroed: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    settings: dict[str, dict[str, int]] = field(default_factory=dict)

    def remove(self, parameter: nn.Parameter, dim: int, indices: Int[Tensor, " gone"]) -> None:
        """Note entries of a parameter that go."""
        self._note(self.removed, parameter, dim, indices)

    def zero(self, parameter: nn.Parameter, dim: int, indices: Int[Tensor, " silent"]) -> None:
        """Note entries of a parameter that become zero, by their numbers before any go."""
        self._note(self.zeroed, parameter, dim, indices)

    def _note(self, noted: dict[tuple[int, int], Tensor], parameter: nn.Parameter, dim: int, indices: Tensor) -> None:
        key = (id(parameter), dim)
        self.cut[id(parameter)] = parameter
        noted[key] = torch.cat([noted[key], indices]) if key in noted else indices

    @torch.no_grad()
    def parameters(self) -> dict[int, nn.Parameter]:
        """By the id of each parameter that is cut, the one to stand in its place."""
        new: dict[int, Tensor] = {i: parameter.detach() for i, parameter in self.cut.items()}
        for (i, dim), indices in self.zeroed.items():
            new[i] = new[i].index_fill(dim, indices.to(new[i].device), 0)
        for (i, dim), indices in self.removed.items():
            stays = torch.ones(new[i].shape[dim], dtype=torch.bool, device=new[i].device)
            stays[indices.to(new[i].device)] = False
            new[i] = new[i].index_select(dim, stays.nonzero().flatten())
        grads = {i: p.requires_grad for i, p in self.cut.items()}
        return {i: nn.Parameter(tensor.contiguous(), requires_grad=grads[i]) for i, tensor in new.items()}


def cut_hidden(model: Model, gone: NeuronMask, silent: NeuronMask, asked: str) -> Cuts:
    """The cuts that take hidden neurons out: a row of each input projection, a column of the output projection.

    A gated neuron has a row of the gate, too; where projections are fused, each of its rows is one of that parameter.
    The bias of an input projection goes with its row, and that of the output projection stays: it is no neuron's.

    Args:
        gone: neurons that are taken out.
        silent: neurons that stay, with weights of zero.

    Raises:
        ModelError: neurons whose weights are out of reach, or of experts.
    """
    cuts = Cuts()
    for mask, note in ((gone, cuts.remove), (silent, cuts.zero)):
        if not len(mask):
            continue
        try:
            places = places_of(model, mask)
        except ModelError as error:
            do = "give a mask without these neurons, or switch them off where they are: ns.ablate(model, mask)"
            raise ModelError(asked, error.found, do) from None
        for (_, side), place in places.items():
            linear: Any = place.linear
            dim = int((side == "rows") == hasattr(linear, "nf"))  # GPT-2's Conv1D stores [inputs, outputs]
            note(linear.weight, dim, torch.cat([indices for _, indices in place.weight]))
            if place.bias:
                note(linear.bias, 0, torch.cat([indices for _, indices in place.bias]))
    return cuts
