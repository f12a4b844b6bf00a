"""A site: a vector of neurons at one place of a model, with the neurons' weights; and the one primitive that edits it.

A site is the input of an FFN's output projection (hidden neurons), that projection's output (output units), or the
input of attention's output projection (heads).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor, nn

Unit = Literal["hidden", "output", "head"]
Side = Literal["input", "output"]


@dataclass(frozen=True)
class Rows:
    """The slice of a parameter that holds each neuron's weights: neuron j is `select(dim, start + step * j)`.

    `lead` indexes the leading dimensions first (the expert of a stacked parameter).
    """

    param: nn.Parameter
    dim: int
    n: int
    start: int = 0
    step: int = 1
    lead: tuple[int, ...] = ()

    def view(self, like: Tensor | None = None) -> Float[Tensor, "... neuron"]:
        """The neurons' entries of the parameter, or of a tensor shaped like it (its gradient), neurons last."""
        tensor = self.param if like is None else like
        tensor = tensor[self.lead] if self.lead else tensor
        last = tensor.movedim(self.dim - len(self.lead), -1)
        return last[..., self.start : self.start + self.step * self.n : self.step]


@dataclass(frozen=True, eq=False)
class Site:
    """One vector of neurons.

    Attributes:
        address: TransformerLens name, the same on every backend, such as `blocks.3.mlp.hook_post`.
        path: dotted path of the module in the Hugging Face model, such as `model.layers.3.mlp.down_proj`.
        module: the module that is hooked.
        width: number of neurons.
        layer: index of the block.
        unit: "hidden", "output" or "head".
        side: whether the vector is the module's "input" or its "output".
        group: coordinates per neuron: 1, or the head dimension.
        out: rows of the output projection, one per neuron; empty where parameters are not reachable.
        ins: rows of the input projections by role ("gate", "up", "in", and each with ".bias").
        gate: the site of the non-linearity's input, for scores that ask whether a gated neuron is open.
        expert: index of the expert, in a mixture.
    """

    address: str
    path: str
    module: nn.Module = field(repr=False)
    width: int
    layer: int
    unit: Unit = "hidden"
    side: Side = "input"
    group: int = 1
    out: tuple[Rows, ...] = field(default=(), repr=False)
    ins: dict[str, tuple[Rows, ...]] = field(default_factory=dict, repr=False)
    gate: Site | None = field(default=None, repr=False)
    expert: int | None = None

    @property
    def nnsight_path(self) -> str:
        """The same place as an expression on an nnsight model, such as `model.layers[3].mlp.down_proj.input`."""
        # nnsight calls a submodule `E_output` where `output` would hide its own attribute (BERT has such)
        path = re.sub(r"(?<=\.)(inputs?|output|source)(?=\.|$)", r"E_\1", self.path)
        return re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", path) + f".{self.side}"

    def per_unit(self, x: Float[Tensor, "... coordinate"]) -> Float[Tensor, "... neuron"]:
        """Sum a quantity over the coordinates of each neuron (nothing to do unless a neuron is a head)."""
        if self.group == 1:
            return x
        return reduce(x, "... (neuron coordinate) -> ... neuron", "sum", neuron=self.width)

    def coordinates(self, neurons: Int[Tensor, " chosen"]) -> Int[Tensor, " coordinate"]:
        """The coordinates of the vector that belong to these neurons."""
        if self.group == 1:
            return neurons
        every = torch.arange(self.width * self.group, device=neurons.device)
        return rearrange(every, "(neuron coordinate) -> neuron coordinate", neuron=self.width)[neurons].flatten()


Edit = Callable[[Site, Tensor, "Tensor | None"], "Tensor | None"]
LEVEL: ContextVar[int] = ContextVar("level", default=0)  # an edit acts only at the level where it was entered


@contextlib.contextmanager
def unedited() -> Iterator[None]:
    """A scope in which the edits around it do nothing: inside an intervention too, a model is opened as it is."""
    token = LEVEL.set(LEVEL.get() + 1)
    try:
        yield
    finally:
        LEVEL.reset(token)


class edit(contextlib.AbstractContextManager[None]):
    """Run `function` on every site's vector in each forward pass within the scope. Everything else is built on this.

    Args:
        sites: where.
        function: called as `function(site, h, tokens)`; `h` is `[batch, pos, coordinate]`, or `[token, coordinate]` in
            models that flatten tokens, then with `tokens` the flat indices of the rows (None: all, in order). It
            returns the new vector, or None to leave `h` as it is.

    The hooks are gone on exit, also after an error. A scope can be entered again, and within itself.
    """

    def __init__(self, sites: Iterable[Site], function: Edit) -> None:
        self._sites, self._function = tuple(sites), function
        self._entered: list[list[Any]] = []

    def __enter__(self) -> None:
        handles: list[Any] = []
        self._entered.append(handles)
        try:
            for site in self._sites:
                handles.append(_hook(site, self._function))
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *error: Any) -> None:
        for handle in self._entered.pop():
            handle.remove()


def _hook(site: Site, live: Edit) -> Any:
    """Put one hook on the site's module; the handle removes it."""
    level = LEVEL.get()

    def function(site: Site, h: Tensor, tokens: Tensor | None) -> Tensor | None:
        return live(site, h, tokens) if LEVEL.get() == level else None

    def on_input(module: nn.Module, args: tuple) -> tuple | None:
        new = function(site, args[0], args[1] if site.expert is not None else None)
        return None if new is None else (new, *args[1:])

    def on_output(module: nn.Module, args: tuple, output: Any) -> Any:
        h = output[0] if isinstance(output, tuple) else output
        new = function(site, h, None)
        return None if new is None else (new, *output[1:]) if isinstance(output, tuple) else new

    if site.side == "input":
        return site.module.register_forward_pre_hook(on_input)
    return site.module.register_forward_hook(on_output)
