"""Changes to rows and columns of linear layers: where a mask's neurons have their weights, and the hooks that add."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from neuroscope.distributed import fill, gathered, is_sharded
from neuroscope.errors import MaskError, ModelError
from neuroscope.masks import NeuronMask
from neuroscope.models import Model
from neuroscope.models.packed import is_packed
from neuroscope.models.sites import LEVEL, Rows, Site
from neuroscope.models.structure import SLOT
from neuroscope.training.linears import is_linear, refuse_other_linears
from neuroscope.training.trainable import TRAINING, require_plain

Side = Literal["rows", "columns"]


class Delta(nn.Module):
    """A change to some outputs ("rows") or some inputs ("columns") of one linear layer.

    Attributes:
        index: [chosen] which outputs or inputs.
        weight: [chosen, inputs] for rows, [chosen, outputs] for columns; float32.
        bias: [chosen], for rows of a layer whose bias belongs to the neurons.
        strength: factor of the whole change.
        live: False while it is merged into the layer.
    """

    index: Tensor

    def __init__(self, linear: nn.Module, side: Side, index: Int[Tensor, " chosen"], has_bias: bool) -> None:
        super().__init__()
        weight: Any = linear.weight
        self.side: Side = side
        self.dim = int((side == "rows") == hasattr(linear, "nf"))  # GPT-2's Conv1D stores [inputs, outputs]
        self.strength = 1.0
        self.live = True
        self.register_buffer("index", index.to(weight.device), persistent=False)
        zeros = {"dtype": torch.float32, "device": weight.device}
        self.weight = nn.Parameter(torch.zeros(len(index), weight.shape[1 - self.dim], **zeros))
        self.bias = nn.Parameter(torch.zeros(len(index), **zeros)) if has_bias else None

    @property
    def note(self) -> str:
        """For the model's fingerprint: how the change counts, where that is not in full."""
        return "" if self.live and self.strength == 1.0 else f"strength {self.strength if self.live else 0}"

    def forward(self, x: Float[Tensor, "*batch inputs"], y: Float[Tensor, "*batch outputs"]) -> Tensor:
        """The layer's output with the change added."""
        weight = self.weight.to(x.dtype)
        if self.side == "columns":
            return y + self._scaled(x.index_select(-1, self.index) @ weight).to(y.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return y.index_add(-1, self.index, self._scaled(functional.linear(x, weight, bias)).to(y.dtype))

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """For FSDP and checkpoints of the training; elsewhere refused in the state of a model, which is not the base's.

        Another model of the kind would load it with `strict=False`, without the change and without a word.
        """
        if self.live and kwargs.get("prefix") and not TRAINING.get():
            do = "call the adapter's save(path) or export(folder), its merge() first, or detach() for the base's state"
            raise ModelError("state_dict of a model", "an adapter on it, which a plain model would lack", do)
        return super().state_dict(*args, **kwargs)

    def _scaled(self, change: Tensor) -> Tensor:
        return change if self.strength == 1.0 else self.strength * change

    def touched(self, linear: Any) -> dict[str, Tensor]:
        """A copy of the entries of the layer's parameters that the change is for."""
        entries = {"weight": gathered(linear.weight).index_select(self.dim, self.index)}
        return entries if self.bias is None else entries | {"bias": gathered(linear.bias)[self.index]}

    def added_to(self, touched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`touched` with the change added, summed in the wider dtype and rounded once."""
        changes = {"weight": gathered(self.weight) if self.dim == 0 else gathered(self.weight).t()}
        if self.bias is not None:
            changes["bias"] = gathered(self.bias)
        return {
            name: (entries.to(torch.promote_types(entries.dtype, torch.float32)) + self.strength * changes[name]).to(
                entries.dtype
            )
            for name, entries in touched.items()
        }

    @torch.no_grad()
    def put(self, parameters: Mapping[str, Tensor], entries: Mapping[str, Tensor]) -> None:
        """Write the touched entries of a layer's parameters, or of tensors shaped like them."""
        for name, values in entries.items():
            full = gathered(parameters[name])  # itself, where it is not sharded
            full.index_copy_(self.dim if name == "weight" else 0, self.index, values)
            if is_sharded(parameters[name]):
                fill(parameters[name], full)


@dataclass
class PlacedDelta:
    """One delta in its place."""

    path: str
    address: str  # of the site whose neurons it changes
    linear: Any
    delta: Delta
    hook: Any
    before: dict[str, Tensor] = field(default_factory=dict)  # the touched entries as they were, while merged

    @property
    def key(self) -> str:
        return f"{self.path}.{self.delta.side}"


@dataclass
class Place:
    """Which rows or columns of one linear layer belong to the mask."""

    linear: nn.Module
    address: str
    weight: list[tuple[int, Tensor]] = field(default_factory=list)  # the rows' start, and their indices
    bias: list[tuple[int, Tensor]] = field(default_factory=list)


def places_of(model: Model, mask: NeuronMask) -> dict[tuple[str, Side], Place]:
    """The rows and columns of the mask's neurons, by the path of the linear layer and the side."""
    asked = f"train neurons of {model.name}"
    require_plain(model, asked)
    if mask.unit not in ("hidden", "output"):
        raise MaskError(asked, f"a mask of {mask.unit} neurons", "give a mask of hidden or output units")
    sites = model.sites(mask.unit)
    mask.fits(sites, asked)
    if len(mask) == 0:
        raise MaskError(asked, "an empty mask", "give a mask with at least one neuron")
    owners: dict[int, list[tuple[str, nn.Module, str]]] = {}
    for path, module in model.root.named_modules():
        for name, parameter in module._parameters.items():
            owners.setdefault(id(parameter), []).append((path, module, name))
    places: dict[tuple[str, Side], Place] = {}
    for address, neurons in mask.items():
        if len(neurons):
            for rows in _rows(model, sites[address], asked):
                _note(places, owners[id(rows.param)], address, rows, neurons, asked)
    return places


def _rows(model: Model, site: Site, asked: str) -> list[Rows]:
    """Every slice of a parameter that belongs to the site's neurons."""
    has_experts = site.expert is not None or any("experts" in name for name, _ in site.module.named_modules())
    if has_experts:
        found = f"{site.address}, of a mixture of experts"
        raise ModelError(asked, found, "give a mask without it: neurons of dense FFNs can be trained, experts' cannot")
    refuse_other_linears(model.root, site, asked)
    has_weights = site.unit == "output" or any(not role.endswith(".bias") for role in site.ins)
    if not site.out or not has_weights:
        found = f"{site.address}, whose weights were not found in linear layers of the model"
        do = "train all of it (mask=None) or a LoRA, or open the model in float32 or bfloat16, not quantised"
        held = itertools.chain(site.module.parameters(), site.module.buffers())
        if not site.out and not any(map(is_packed, held)):
            do = "name the linear layer that reads them (ns.load(model, sites=...)), or train all of it (mask=None)"
        raise ModelError(asked, found, do)
    return [*site.out, *(rows for role in site.ins.values() for rows in role)]


def _note(
    places: dict[tuple[str, Side], Place],
    owners: list[tuple[str, nn.Module, str]],
    address: str,
    rows: Rows,
    neurons: Int[Tensor, " chosen"],
    asked: str,
) -> None:
    path, module, name = owners[0]
    is_conv1d = hasattr(module, "nf")
    if len(owners) > 1 or rows.lead or not is_linear(module) or name not in ("weight", "bias"):
        found = f"{path}.{name}, a parameter of {len(owners)} modules (the first a {type(module).__name__})"
        raise ModelError(asked, found, "give a mask without it: weights of one linear layer each can be trained")
    side: Side = "rows" if name == "bias" or rows.dim == int(is_conv1d) else "columns"
    place = places.setdefault((path, side), Place(module, address))
    getattr(place, name).append((rows.start, rows.start + rows.step * neurons))


def attach(root: nn.Module, places: Mapping[tuple[str, Side], Place]) -> list[PlacedDelta]:
    """Give every place a delta of zeros, and the hook that adds it; after an error, none has one."""
    slots = [slot for m in root.modules() if (slot := m._modules.get(SLOT)) is not None]
    taken = [int(name.split("-")[0]) for slot in slots for name in slot._modules]
    number = max(taken, default=-1) + 1  # never one of another adapter
    placed: list[PlacedDelta] = []
    try:
        for (path, side), place in places.items():
            index, biases = _in_order(place.weight), _in_order(place.bias)
            if index is None or not (biases is None or torch.equal(index, biases)):
                found = f"{path}, whose bias belongs to other neurons than its weight"
                raise ModelError("train neurons", found, "give a mask without it, or train the whole model (mask=None)")
            delta = Delta(place.linear, side, index, biases is not None)
            name = f"{number}-{side}"
            hook = place.linear.register_forward_hook(_Adder(name), prepend=True)  # before what edits the output
            placed.append(PlacedDelta(path, place.address, place.linear, delta, hook))
            if SLOT not in place.linear._modules:
                place.linear.add_module(SLOT, nn.ModuleDict())
            place.linear.get_submodule(SLOT).add_module(name, delta)
    except BaseException:
        for one in placed:
            remove(one)
        raise
    return placed


def _in_order(slices: Sequence[tuple[int, Tensor]]) -> Tensor | None:
    return torch.cat([indices for _, indices in sorted(slices, key=lambda one: one[0])]) if slices else None


def are_live(root: nn.Module) -> bool:
    """Whether there is a change on the model that counts and is not merged."""
    return any(isinstance(module, Delta) and module.live for module in root.modules())


@dataclass
class _Adder:
    """The hook on a linear layer that adds one of its deltas; a copy of the model, or a pickled one, has it too."""

    name: str

    def __call__(self, linear: Any, args: tuple, output: Tensor) -> Tensor | None:
        delta = linear._modules[SLOT]._modules[self.name]  # looked up, so that a deep copy of the model uses its own
        # at rest while a model is opened; torch.compile cannot read the level, and no compiled model is opened
        at_rest = not torch.compiler.is_compiling() and LEVEL.get() > 0
        return delta(args[0], output) if delta.live and not at_rest else None


@contextlib.contextmanager
def bare(root: nn.Module) -> Iterator[None]:
    """The module tree without deltas, for what lists parameters. Not for forward passes."""
    held = [(m, m._modules.pop(SLOT)) for m in list(root.modules()) if SLOT in m._modules]
    try:
        yield
    finally:
        for module, deltas in held:
            module._modules[SLOT] = deltas


def remove(placed: PlacedDelta) -> None:
    """Take one delta and its hook off the model."""
    placed.hook.remove()
    deltas = placed.linear._modules.get(SLOT)
    for name in [n for n, delta in (deltas.named_children() if deltas is not None else ()) if delta is placed.delta]:
        del deltas._modules[name]
    if deltas is not None and not deltas._modules:
        del placed.linear._modules[SLOT]
