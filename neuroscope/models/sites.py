"""A site: a vector of neurons at one place of a model, with the neurons' weights; and the one primitive that edits it.

A site is the input of an FFN's output projection (hidden neurons), that projection's output (output units), or the
input of attention's output projection (heads).
"""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Self

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

from neuroscope.errors import ModelError
from neuroscope.models.recomputation import RUNNING, Again, checkpoints

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
        channels_first: whether it is `[batch, coordinate, pos]` in the module (a Conv1d); an edit has it turned.
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
    channels_first: bool = False
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


class edit(contextlib.AbstractContextManager["edit"]):
    """Run `function` on every site's vector in each forward pass within the scope. Everything else is built on this.

    Args:
        sites: where.
        function: called as `function(site, h, tokens)`; `h` is `[batch, pos, coordinate]`, or `[token, coordinate]` in
            models that flatten tokens, then with `tokens` the flat indices of the rows (None: all, in order). It
            returns the new vector, or None to leave `h` as it is.

    The hooks are gone on exit, also after an error, and are not in a copy of the model that is made within the scope.
    A scope can be entered again, and within itself. It is of the thread (or asyncio task) that entered it: a forward
    pass of another one meanwhile is an error, because it cannot be told which of the two was meant. What gradient
    checkpointing runs again in the backward pass is edited as it was in the forward pass, also after the scope.
    """

    by_position = False  # whether what it does to a token depends on where the token is in its row
    by_pass = False  # whether it must see the model's pass as a whole, so that no part of it can be run by itself
    said: Callable[[], str] | None = None  # what a manifest says of it; nothing of what only reads

    def __init__(self, sites: Iterable[Site], function: Edit) -> None:
        self._sites, self._function = tuple(sites), function
        self._entries: list[Entry] = []

    def __enter__(self) -> Self:
        self._enter()
        return self

    def __exit__(self, *error: Any) -> None:
        self._entries.pop().leave()

    def _enter(self, by_hand: bool = False) -> None:
        self._entries.append(Entry(self, self._sites, self._function, by_hand))


_numbers = itertools.count()
_entered: ContextVar[frozenset[Entry]] = ContextVar("entered", default=frozenset())


class Entry:
    """One entry into a scope: its hooks, and where they act."""

    def __init__(self, scope: edit, sites: Iterable[Site], function: Edit, by_hand: bool) -> None:
        self.by_position, self.by_pass, self.said = scope.by_position, scope.by_pass, scope.said
        self.function, self.level, self.number = function, LEVEL.get(), next(_numbers)
        # a notebook may run each cell in a context of its own: what is switched by hand is of the thread
        self.thread = threading.get_ident() if by_hand else None
        self.handles: list[Any] = []
        try:
            for site in sites:
                self.handles.append(_Hook(site, self).register())
        except BaseException:
            self.leave()
            raise
        _entered.set(_entered.get() | {self})

    def leave(self) -> None:
        """Take the hooks off."""
        for handle in self.handles:
            handle.remove()
        _entered.set(_entered.get() - {self})

    def is_meant(self) -> bool:
        """Whether what runs now is within the scope: of its thread, at its level."""
        return self.level == LEVEL.get() and self.is_of_here()

    def is_of_here(self) -> bool:
        """Whether the thread or task that runs now is the one that entered."""
        return self in _entered.get() or self.thread == threading.get_ident()


# whose hooks treat every token alike: ours, those that a Bridge has of its own, and of libraries that move or shard
HOUSE = ("neuroscope.", "transformer_lens.model_bridge.", "torch.", "transformers.", "accelerate.", "peft.")


def depends_on_position(root: nn.Module) -> bool:
    """Whether anything is live on a model whose effect may depend on where in a row a token is.

    That is an `edit` with `by_position`, or a forward hook that is not of this package.
    """
    return any(
        hook.entry.by_position if isinstance(hook, _Hook) else is_foreign(hook) for _, hook in _forward_hooks(root)
    )


def needs_whole_passes(root: nn.Module) -> bool:
    """Whether an `edit` with `by_pass` is live on a model."""
    return any(isinstance(hook, _Hook) and hook.entry.by_pass for _, hook in _forward_hooks(root))


def is_foreign(hook: Any) -> bool:
    """Whether a hook is a user's own, and may do anything."""
    while isinstance(hook, partial):
        hook = hook.func
    return not str(getattr(hook, "__module__", "")).startswith(HOUSE)


def _forward_hooks(root: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every hook that acts in a forward pass, and where it is."""
    for hook in (*_global_forward_pre_hooks.values(), *_global_forward_hooks.values()):
        yield "every module", hook
    for name, module in root.named_modules():
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
            yield name or "the model", hook


def live(root: nn.Module) -> list[str]:
    """What acts on a model now, in words that tell it apart: interventions in order of entry, and a user's hooks."""
    entries: dict[int, str] = {}
    foreign: list[str] = []
    for name, hook in _forward_hooks(root):
        if isinstance(hook, _Hook):
            entry = hook.entry
            if entry.said and entry.is_meant():
                entries[entry.number] = entry.said()
        elif is_foreign(hook):
            whose = f"{getattr(hook, '__module__', '')}.{getattr(hook, '__qualname__', type(hook).__name__)}"
            foreign.append(f"a hook on {name}: {whose}")
    return [entries[number] for number in sorted(entries)] + foreign


class NotCopied:
    """A hook that is not in a copy of the model, nor in a pickled one, as torch.save writes it."""

    def __deepcopy__(self, memo: dict) -> Any:
        return _nothing

    def __reduce__(self) -> Any:
        return _hook_of_a_copy, ()


def _nothing(*args: Any) -> None:
    """The hook of a copy of the model."""


def _hook_of_a_copy() -> Any:
    return _nothing


class _Hook(NotCopied):
    """What stands on a site's module while a scope is entered; `again` in what a checkpoint runs again."""

    def __init__(self, site: Site, entry: Entry, again: Again | None = None) -> None:
        self.site, self.entry, self.again = site, entry, again
        self.number = entry.number

    def register(self, again: Again | None = None) -> Any:
        """Put it on the module; the handle removes it."""
        hook = self if again is None else _Hook(self.site, self.entry, again)
        module = self.site.module
        return (module.register_forward_pre_hook if self.site.side == "input" else module.register_forward_hook)(hook)

    def __call__(self, module: nn.Module, args: tuple, output: Any = None) -> Any:
        if not self._acts():
            return None
        site, function = self.site, self.entry.function
        passed = args if site.side == "input" else output
        h = passed[0] if isinstance(passed, tuple) else passed
        new = function(site, h.mT if site.channels_first else h, args[1] if site.expert is not None else None)
        if new is None:
            return None
        new = new.mT if site.channels_first else new
        return (new, *passed[1:]) if isinstance(passed, tuple) else new

    def _acts(self) -> bool:
        if self.again is None and LEVEL.get() != self.entry.level:
            return False
        around, is_again = checkpoints()
        if is_again or self.again is not None:
            if self.again is None or RUNNING.get() is not self.again:
                return False
        elif not self.entry.is_of_here():
            do = "give each thread a copy of the model (copy.deepcopy); one that is to run within the scope is started "
            do += "in it, with target=contextvars.copy_context().run"
            found = "an intervention or a reading of neurons that another thread or task is in the middle of"
            raise ModelError(f"run the model through {self.site.address}", found, do)
        for checkpoint in around:
            checkpoint.leave(self)
        return True
