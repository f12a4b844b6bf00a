"""What scores and masks share: a tensor per site of a model, its shape, and the file that carries it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuroscope import files
from neuroscope.arrays import array_of
from neuroscope.checks import by_text, public, whole
from neuroscope.errors import ArgumentError, FileError, MaskError, choose, kind_of, naming
from neuroscope.masks.neuron_names import layer_of
from neuroscope.models.sites import Site, Unit

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T", bound="PerNeuron")
UNITS: tuple[Unit, ...] = get_args(Unit)
FURTHER = ("means", "norms", "effects", "first")  # what scores, or masks, may have by address besides their values


@dataclass(frozen=True, eq=False, repr=False)
class PerNeuron(Mapping[str, Tensor]):
    """A tensor per site, by address, in forward order. `len` counts neurons, not sites.

    Attributes:
        values_by_site: the tensors.
        widths: number of neurons of every site of the model.
        unit: "hidden", "output" or "head".
        manifest: where the numbers come from.
        means: mean activation of every neuron on the examples it was scored on, if known (for mean ablation).
        norms: root mean square of every neuron's activation there, if known (for controls that are as loud).
    """

    values_by_site: Mapping[str, Tensor]
    widths: Mapping[str, int]
    unit: Unit = "hidden"
    manifest: Mapping[str, Any] = field(default_factory=dict)
    means: Mapping[str, Float[Tensor, " coordinate"]] | None = None
    norms: Mapping[str, Float[Tensor, " neuron"]] | None = None

    in_file: ClassVar[tuple[str, ...]] = ()  # further fields that a file says, where they are not empty

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", widths_of(self.widths))
        choose(self.unit, UNITS, "unit")
        if not isinstance(self.manifest, Mapping):
            raise ArgumentError("manifest", kind_of(self.manifest), "give a dict")
        for name in FURTHER:
            given = getattr(self, name, None)
            if given is not None:
                read = _by_address(given, self.widths, name)
                if any(read[a] is not v for a, v in given.items()):
                    object.__setattr__(self, name, read)

    def __getitem__(self, address: str) -> Tensor:
        return self.values_by_site[address]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_site)

    def __len__(self) -> int:
        return sum(len(v) for v in self.values_by_site.values())

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other) or not isinstance(other, PerNeuron):
            return NotImplemented
        same_shape = dict(self.widths) == dict(other.widths) and list(self) == list(other)
        return same_shape and all(torch.equal(self[a], other[a]) for a in self)

    def __hash__(self) -> int:
        return hash((type(self).__name__, tuple(self.widths.items()), tuple(tuple(v.tolist()) for v in self.values())))

    @public
    def save(self, path: str | PathLike) -> Path:
        """Write a safetensors file with the manifest inside, atomically."""
        from safetensors.torch import save_file  # only where a file is written

        tensors = {f"values/{a}": self._stored(v) for a, v in self.items()}
        for name in FURTHER:
            tensors |= {f"{name}/{a}": self._stored(v.float()) for a, v in (getattr(self, name, None) or {}).items()}
        described = {
            "format": files.FORMAT,
            "kind": type(self).__name__,
            "unit": self.unit,
            "widths": dict(self.widths),
        }
        described["manifest"] = dict(self.manifest)
        described |= {name: getattr(self, name) for name in self.in_file if getattr(self, name)}
        metadata = {"neuroscope": json.dumps(described)}  # one key: safetensors writes several in random order
        return files.write(path, lambda partial: save_file(tensors, partial, metadata))

    @staticmethod
    def _stored(values: Tensor) -> Tensor:
        # a copy, because safetensors refuses two names for one storage
        return values.to(torch.float32 if values.is_floating_point() else torch.int32).clone().contiguous()

    @classmethod
    @public
    def load(cls, path: str | PathLike) -> Self:
        """Read what `save` wrote.

        Raises:
            FileError: the file is missing, truncated, or holds something else.
        """
        tensors, described, manifest = read_safetensors(path, cls.__name__)
        missing = [a for a in described["widths"] if f"values/{a}" not in tensors]
        if missing:
            raise FileError(f"read {cls.__name__} from {path}", f"no values for {missing[0]}", "write the file again")
        values = {a: tensors[f"values/{a}"] for a in described["widths"]}
        read = {
            name: {a: tensors[f"{name}/{a}"] for a in described["widths"] if f"{name}/{a}" in tensors}
            for name in FURTHER
        }
        try:
            more = {name: cls._from_file(name, described[name], path) for name in cls.in_file if name in described}
            more |= {name: by_address for name, by_address in read.items() if by_address}
            return cls(values, described["widths"], described["unit"], manifest, **more)
        except (ArgumentError, MaskError) as error:
            found = f"{error.asked}: {error.found}"
            raise FileError(f"read {cls.__name__} from {path}", found, "write the file again") from None

    @classmethod
    def _from_file(cls, name: str, value: Any, path: str | PathLike) -> Any:
        """What a file says of a further field, as this version knows it."""
        return value

    def fits(self, sites: Mapping[str, Site], asked: str) -> None:
        """Refuse the sites of a model of another shape.

        Raises:
            MaskError: names both shapes.
        """
        theirs = {a: s.width for a, s in sites.items()}
        if dict(self.widths) != theirs:
            raise MaskError(
                asked, f"{shape(self.widths)}; the model has {shape(theirs)}", "find the neurons on this model"
            )


def widths_of(widths: Any) -> dict[str, int]:
    """The number of neurons of every site, by address.

    Raises:
        ArgumentError: no dict of whole numbers by address.
    """
    do = "give {address: number of neurons}, such as scores.widths"
    read = {} if isinstance(widths, PerNeuron) else by_text(widths, "widths", do)
    if not read:
        found = kind_of(widths) if isinstance(widths, PerNeuron) else "an empty dict"
        raise ArgumentError("widths", found, do)
    return {str(a): whole(w, f"widths[{a!r}]") for a, w in read.items()}


def _by_address(given: Any, widths: Mapping[str, int], name: str) -> dict[str, Tensor]:
    do = "give a tensor by address"
    if isinstance(given, PerNeuron):
        raise ArgumentError(name, kind_of(given), do)
    read = by_text(given, name, do)
    unknown = next((a for a in read if a not in widths), None)
    if unknown is not None:
        raise ArgumentError(name, f"{unknown!r} for an address", do)
    return {a: array_of(v, f"{name}[{a!r}]") for a, v in read.items()}


def shape(widths: Mapping[str, int]) -> str:
    """A model's neurons in words, for error texts."""
    sizes = sorted(set(widths.values()))
    first = next(iter(widths), "no site")
    return f"{len(widths)} sites of {' / '.join(map(str, sizes))} neurons (first {first})"


def frame_of(neurons: Mapping[str, Int[Tensor, " chosen"]], **columns: Tensor) -> pd.DataFrame:
    """One row per neuron: its address, layer and index, and further columns."""
    import pandas as pd  # heavy: only for tables

    addresses = [address for address, indices in neurons.items() for _ in range(len(indices))]
    data: dict[str, Any] = {
        "address": addresses,
        "layer": [layer_of(a) for a in addresses],
        "neuron": torch.cat(list(neurons.values())).tolist(),
    }
    return pd.DataFrame(data | {name: c.cpu().numpy() for name, c in columns.items()})


def by_name(values: object, kind: type[T] | type[object], name: str, asked: str, do: str) -> dict[str, T]:
    """A dict of name -> `kind`.

    Raises:
        ArgumentError: anything else, or an empty one.
    """
    asked = f"{asked}, {name}"
    if isinstance(values, PerNeuron) or not isinstance(values, Mapping):
        raise ArgumentError(asked, f"{kind_of(values)}, not a dict", do)
    with naming(asked):
        values = by_text(values, name, do)
    if not values:
        raise ArgumentError(asked, "an empty dict", do)
    for key, value in values.items():
        if not isinstance(value, kind):
            raise ArgumentError(asked, f"{kind_of(value)} under {key!r}", do)
    return values


def read_safetensors(path: str | PathLike, kind: str) -> tuple[dict[str, Tensor], dict, dict]:
    """Tensors, description and manifest of a file that `save` wrote.

    Raises:
        FileError: the file is missing, damaged, or holds something else.
    """
    from safetensors import SafetensorError, safe_open  # only where a file is read

    path = files.path_of(path, f"read {kind}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise FileError(f"read {kind} from {path}", str(error), "the path is wrong, or the file truncated") from None
    if "neuroscope" not in metadata:
        raise FileError(f"read {kind} from {path}", "a safetensors file without our manifest", "write it with .save()")
    try:
        described = json.loads(metadata["neuroscope"])
        is_ours = described["kind"] == kind and described["format"] <= files.FORMAT
        found = f"{described['kind']}, format {described['format']}"
        is_ours = is_ours and {"unit", "widths", "manifest"} <= described.keys()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        is_ours, found = False, f"a damaged manifest ({type(error).__name__}: {error})"
    if not is_ours:
        raise FileError(f"read {kind} from {path}", found, "load it with the class that wrote it, or update")
    tensors = {k: v.long() if v.dtype == torch.int32 else v for k, v in tensors.items()}
    return tensors, described, described["manifest"]
