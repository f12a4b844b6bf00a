"""The sites of a model at which a mask has neurons, fitted once; and scopes that change these neurons there."""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Protocol, Self, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor, nn

from neuroscope import files
from neuroscope.checks import public
from neuroscope.errors import ArgumentError, ModelError, kind_of
from neuroscope.interventions.control_vector import write_control_vector
from neuroscope.masks import NeuronMask, mask_for
from neuroscope.models import Model, resolve
from neuroscope.models.sites import Edit, Entry, NotCopied, Site, edit
from neuroscope.models.structure import parts
from neuroscope.tasks import Task

Change = Callable[[Site, Tensor, Int[Tensor, " chosen"]], "Tensor | None"]
When = Literal["before", "after", "end"]  # of a module's pass; its end comes after an error too


class Watcher(Protocol):
    """What a scope must see of a pass to know where it acts."""

    @property
    def by_position(self) -> bool:
        """As of `edit`."""

    def looks(self, model: Model) -> Iterator[tuple[nn.Module, When, Callable[..., None]]]:
        """As a scope is entered: at which modules to look, when, and what to call."""


@runtime_checkable
class Leaving(Protocol):
    """A watcher that keeps something of the passes it saw."""

    def leaves(self) -> None:
        """As the scope ends: drop it."""


class Where(Protocol):
    """Where and when a change is made."""

    @property
    def text(self) -> str:
        """In words, after what is done."""

    @property
    def said(self) -> Any:
        """What else tells it from another."""

    @property
    def watchers(self) -> Sequence[Watcher]:
        """What it must see of a pass."""

    def kept(self, site: Site, h: Tensor, new: Tensor, tokens: Tensor | None) -> Tensor:
        """The new vector where the change is made, the old one elsewhere."""


class _Look(NotCopied):
    """A hook that only looks, at the passes that the scope's own edits act on."""

    def __init__(self, at: Callable[..., None], entry: Entry) -> None:
        self.at, self.entry = at, entry

    def __call__(self, *passed: Any) -> None:
        if self.entry.is_meant():
            self.at(*passed)


def _register(module: nn.Module, when: When, look: _Look) -> Any:
    if when == "before":
        return module.register_forward_pre_hook(look, with_kwargs=True)
    return module.register_forward_hook(look, always_call=when == "end")


class Scope(edit):
    """An intervention on a model, and whether it is on: within `with`, or between `.on()` and `.off()`.

    It does nothing before. `with ablate(...) as scope` gives the scope itself. In a notebook, where it is to last over
    several cells, `scope = ablate(...).on()` switches it on by hand and `scope.off()` off again, once each.

    Args:
        model: the opened model.
        sites: what is changed.
        function: as of `edit`.
        what: what it does, for its repr.
        said: gives the same for manifests, with a digest of the neurons and numbers.
        watchers: what it looks at while it is on.
        added: by address, what is added to each coordinate at every token, where that is all it does.
    """

    def __init__(
        self,
        model: Model,
        sites: Sequence[Site],
        function: Edit,
        what: str,
        said: Callable[[], str],
        watchers: Sequence[Watcher] = (),
        added: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(sites, function)
        self._added = added
        self.said, self._watchers = said, watchers
        self.by_position, self.by_pass = any(watcher.by_position for watcher in watchers), bool(watchers)
        self._looking: list[list[Any]] = []
        self._model, self._what = model, what
        self._was_entered = self._is_by_hand = False

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(self, *error: Any) -> None:
        for handle in self._looking.pop():
            handle.remove()
        for watcher in self._watchers:
            if isinstance(watcher, Leaving) and not self._looking:
                watcher.leaves()
        super().__exit__(*error)
        if not any(error):
            self._check_same()

    def on(self) -> Self:
        """Switch it on until `off`, in this thread.

        Raises:
            ModelError: it is on.
        """
        if self._entries:
            raise ModelError(f"switch on: {self._what}", "it is on", "switch it off first: scope.off()")
        self._begin(by_hand=True)
        self._is_by_hand = True
        return self

    def off(self) -> None:
        """Switch it off after `on`.

        Raises:
            ModelError: it is not on by hand.
        """
        if not self._is_by_hand:
            found = "on, by `with`, whose end switches it off" if self._entries else "it is off"
            raise ModelError(f"switch off: {self._what}", found, "switch it on first: scope = ablate(...).on()")
        self._is_by_hand = False
        self.__exit__()

    @public
    def to_gguf(self, path: str | PathLike) -> Path:
        """Write what `ns.add` adds as a control vector of llama.cpp, atomically (`control_vector`).

            llama-cli -m model.gguf --control-vector vector.gguf

        The scope need not be entered for it.

        Raises:
            ModelError: an intervention that does not add the same vector to the residual stream at every token, such as
                `scale` and `ablate`, whose effect depends on the activations, or `add` with `at` or `when`; neurons of
                the first block, for which llama.cpp has no direction; a model that changes what its FFN writes (Gemma's
                norms), or one that is not causal; or the package gguf is missing.
            FileError: the file cannot be written.

        Example:
            >>> from neuroscope.interventions import add  # doctest: +SKIP
            >>> add(model, "1.229", 2.0).to_gguf("vector.gguf")  # doctest: +SKIP
        """
        self._was_entered = True  # it was of use
        if self._added is None:
            found = "a change that depends on the activations or on the token, so that it is no constant vector"
            do = "give ns.add(model, mask, amount), without at and when: that alone is one"
            raise ModelError(f"write a control vector: {self._what}", found, do)
        return write_control_vector(self._model, {s.address: s for s in self._sites}, self._added, path)

    def _begin(self, by_hand: bool = False) -> None:
        if self._sites:
            now = self._model.sites(self._sites[0].unit)
            gone = next((s for s in self._sites if s.address not in now or now[s.address].width != s.width), None)
            if gone is not None:
                found = f"a network that was changed since, without {gone.address} as it was"
                raise ModelError(f"enter: {self._what}", found, "make mask and intervention for the model as it is now")
            self._sites = tuple(now[s.address] for s in self._sites)
        self._enter(by_hand)
        self._was_entered = True
        handles: list[Any] = []
        self._looking.append(handles)
        try:
            for watcher in self._watchers:
                for module, when, at in watcher.looks(self._model):
                    handles.append(_register(module, when, _Look(at, self._entries[-1])))
        except BaseException as error:
            self.__exit__(error)
            raise

    def _check_same(self) -> None:
        """Refuse what was measured while the network was exchanged under the hooks."""
        inside = {id(part) for part in parts(self._model.root)}
        gone = next((s for s in self._sites if id(s.module) not in inside), None)
        if gone is not None:
            found = f"the network was changed inside the scope: {gone.address} is a layer that is no longer in it"
            raise ModelError(self._what, found, "change the model before the intervention is entered")

    def __repr__(self) -> str:
        state = "on" if self._entries else "off; it acts within `with ...:`, or from .on() to .off()"
        return f"<{self._what}: {state}>"

    def __del__(self) -> None:
        if sys.is_finalizing() or not hasattr(self, "_was_entered"):
            return
        if not self._was_entered:
            warnings.warn(f"dropped without being entered, so nothing happened: {self._what}; use `with`", stacklevel=2)
        elif self._is_by_hand:
            self.__exit__(GeneratorExit)
            warnings.warn(f"switched off, as nothing holds it: {self._what}; keep what .on() returns", stacklevel=2)


def _digest(values: Mapping[str, Tensor]) -> str:
    digits = hashlib.sha256()
    for address, tensor in values.items():
        digits.update(f"{address}{tuple(tensor.shape)}".encode())
        digits.update(tensor.detach().to("cpu", torch.float64).numpy().tobytes())
    return digits.hexdigest()


def refuse_a_name(model: Any, asked: str) -> None:
    """Refuse a model's name where the model's state is set: each call that is given a name opens a copy of its own."""
    if isinstance(model, str | Path):
        found = f"the name {str(model)!r}, for which every call opens a copy of its own, so that this one would be lost"
        raise ArgumentError(asked, found, f"open it once: model = ns.load({str(model)!r}), and give the model to both")


@dataclass(frozen=True)
class MaskSites:
    """Where a mask's neurons are in a model.

    Attributes:
        model: the opened model.
        sites: by address, those that have a neuron of the mask.
        coordinates: of these sites' vectors, those that belong to the mask's neurons.
        mask: the mask, also of neurons that were written by hand.
    """

    model: Model
    sites: Mapping[str, Site]
    coordinates: Mapping[str, Int[Tensor, " chosen"]]
    mask: NeuronMask

    @classmethod
    def find(cls, model: Any, mask: Any, asked: str) -> MaskSites:
        """Open the model, and look the mask's neurons up in it.

        Raises:
            ArgumentError: no mask, or a model's name.
            MaskError: neurons that the model does not have, or a mask of a model of another shape.
        """
        refuse_a_name(model, asked)
        if isinstance(model, NeuronMask | Task):
            raise ArgumentError(asked, f"{kind_of(model)} in place of a model", "give the model first")
        opened = resolve(model)
        mask = mask_for(opened, mask, asked)
        every = opened.sites(mask.unit)
        sites = {a: s for a, s in every.items() if len(mask[a])}
        return cls(opened, sites, {a: s.coordinates(mask[a]) for a, s in sites.items()}, mask)

    def changed(
        self,
        change: Change,
        what: str,
        where: Where | None = None,
        numbers: Mapping[str, Tensor] | None = None,
        watchers: Sequence[Watcher] = (),
        more: Any = None,
        added: Mapping[str, Tensor] | None = None,
    ) -> Scope:
        """A scope in which `change(site, h, coordinates)` gives the new vector of every site, or None to leave it.

        Args:
            change: gives the new vector.
            what: what is done to the neurons, such as "ablate(value='zero')".
            where: at which tokens, and in which range of activations; None: everywhere.
            numbers: by site, which the new vectors are made of.
            watchers: what the change must see of a pass.
            more: what else tells the change from another.
            added: by address, what the change adds to each of the coordinates, if it adds the same to every vector.
        """
        coordinates = dict(self.coordinates)

        def on_site(site: Site, h: Tensor, tokens: Tensor | None) -> Tensor | None:
            chosen = coordinates[site.address]
            if chosen.device != h.device:
                chosen = coordinates[site.address] = chosen.to(h.device)
            new = change(site, h, chosen)
            return new if new is None or where is None else where.kept(site, h, new, tokens)

        n, count = sum(len(c) // self.sites[a].group for a, c in coordinates.items()), len(self.sites)
        text = f"{what} of {n:,} neurons at {count} sites"
        if where is not None:
            text, more, watchers = text + where.text, (more, where.said), (*watchers, *where.watchers)

        @cache
        def said() -> str:
            return f"{text} {files.digest(_digest(self.coordinates), _digest(numbers or {}), more)}"

        if added is not None:
            added = None if where is not None else {a: self._full(a, terms) for a, terms in added.items()}
        what = f"{text} of {self.model.name}"
        return Scope(self.model, tuple(self.sites.values()), on_site, what, said, watchers, added)

    def _full(self, address: str, terms: Tensor) -> Tensor:
        """What is added to every coordinate of a site: 0 to those of no neuron of the mask."""
        site = self.sites[address]
        zeros = torch.zeros(site.width * site.group, dtype=torch.float64)
        return zeros.index_copy(0, self.coordinates[address].cpu(), terms.detach().to("cpu", torch.float64))

    def observe(self, inputs: dict[str, Tensor], look: Edit, at: Tensor | None = None) -> None:
        """One forward pass without gradients, in which `look(site, h, tokens)` is shown every site's vector."""
        with self.model.quiet(), torch.no_grad(), edit(self.sites.values(), look):
            self.model.logits(inputs, at)
