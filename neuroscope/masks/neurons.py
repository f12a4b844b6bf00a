"""Scores and masks: one number per neuron, and a set of neurons; with the files that carry them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neuroscope import figures, files
from neuroscope.checks import public
from neuroscope.errors import ArgumentError, FileError, MaskError, NumericalError, choose
from neuroscope.models.sites import Site

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Match = Literal["uniform", "layer"]


@dataclass(frozen=True, eq=False, repr=False)
class PerNeuron(Mapping[str, Tensor]):
    """A tensor per site, by address, in forward order. `len` counts neurons, not sites.

    Attributes:
        values_by_site: the tensors.
        widths: number of neurons of every site of the model.
        unit: "hidden", "output" or "head".
        manifest: where the numbers come from.
        means: mean activation of every neuron on the examples it was scored on, if known (for mean ablation).
    """

    values_by_site: Mapping[str, Tensor]
    widths: Mapping[str, int]
    unit: str = "hidden"
    manifest: Mapping[str, Any] = field(default_factory=dict)
    means: Mapping[str, Float[Tensor, " coordinate"]] | None = None

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

    def save(self, path: str | PathLike) -> Path:
        """Write a safetensors file with the manifest inside, atomically."""
        from safetensors.torch import save_file  # only where a file is written

        tensors = {f"values/{a}": self._stored(v) for a, v in self.items()}
        tensors |= {f"means/{a}": self._stored(v.float()) for a, v in (self.means or {}).items()}
        about = {"format": files.FORMAT, "kind": type(self).__name__, "unit": self.unit, "widths": dict(self.widths)}
        about["manifest"] = dict(self.manifest)
        metadata = {"neuroscope": json.dumps(about)}  # one key: safetensors writes several in random order
        return files.write(path, lambda partial: save_file(tensors, partial, metadata))

    @staticmethod
    def _stored(values: Tensor) -> Tensor:
        # a copy, because safetensors refuses two names for one storage
        return values.to(torch.float32 if values.is_floating_point() else torch.int32).clone().contiguous()

    @classmethod
    def load(cls, path: str | PathLike) -> Self:
        """Read what `save` wrote.

        Raises:
            FileError: the file is missing, truncated, or holds something else.
        """
        tensors, about, manifest = read_safetensors(path, cls.__name__)
        missing = [a for a in about["widths"] if f"values/{a}" not in tensors]
        if missing:
            raise FileError(f"read {cls.__name__} from {path}", f"no values for {missing[0]}", "write the file again")
        values = {a: tensors[f"values/{a}"] for a in about["widths"]}
        means = {a: tensors[f"means/{a}"] for a in about["widths"] if f"means/{a}" in tensors}
        return cls(values, about["widths"], about["unit"], manifest, means or None)

    def fits(self, sites: Mapping[str, Site], asked: str) -> None:
        """Refuse sites of another shape.

        Raises:
            MaskError: names both shapes.
        """
        theirs = {a: s.width for a, s in sites.items()}
        if dict(self.widths) != theirs:
            raise MaskError(
                asked, f"{shape(self.widths)}; the model has {shape(theirs)}", "find the neurons on this model"
            )


@dataclass(frozen=True, eq=False, repr=False)  # again, for __post_init__ to be called
class Scores(PerNeuron):
    """One relevance per neuron: address -> float tensor `[width]`."""

    def __post_init__(self) -> None:
        bad = {a: int((~torch.isfinite(v)).sum()) for a, v in self.items() if not torch.isfinite(v).all()}
        if sum(bad.values()) != len(self) - self.measured:
            raise NumericalError(
                f"scores by {self.manifest.get('method', 'an unknown method')}",
                f"{sum(bad.values())} non-finite values, the first at {next(iter(bad), 'no site')}",
                "check the model's weights and dtype (bfloat16 or float32, not float16)",
            )

    @property
    def measured(self) -> int:
        """How many neurons were scored; the others (of a sampled exact ablation) are NaN."""
        return self.manifest.get("measured", len(self))

    def _complete(self, asked: str) -> None:
        if self.measured < len(self):
            found = f"{self.measured:,} of {len(self):,} neurons were measured"
            raise ArgumentError(asked, found, "score all neurons, or compare the measured ones through vector()")

    def vector(self) -> Float[Tensor, " neuron"]:
        """All relevances in forward order."""
        return torch.cat([v.float() for v in self.values()])

    @public
    def top(self, k: float, *, per_layer: bool = False) -> NeuronMask:
        """The most relevant share of all neurons of the model together (LX24 §3.1: k = 0.1), or of every site.

        Equal relevances are taken in forward order, so that the result does not depend on the machine.

        Raises:
            ArgumentError: k is not in (0, 1].
        """
        if isinstance(k, bool) or not isinstance(k, (int, float)) or not 0 < k <= 1:
            raise ArgumentError(f"top({k!r})", "k is the share of neurons to take", "give 0 < k <= 1, such as 0.10")
        self._complete(f"top({k!r})")
        groups = [[a] for a in self] if per_layer else [list(self)]
        flags: dict[str, Tensor] = {}
        for addresses in groups:
            relevance = torch.cat([self[a].float() for a in addresses])
            chosen = torch.zeros(len(relevance), dtype=torch.bool)
            order = torch.sort(relevance.cpu(), descending=True, stable=True).indices
            chosen[order[: max(1, round(k * len(relevance)))]] = True
            flags |= dict(zip(addresses, chosen.split([self.widths[a] for a in addresses]), strict=True))
        return self._mask(flags, {"k": k, "per_layer": per_layer})

    @public
    def threshold(self, minimum: float) -> NeuronMask:
        """The neurons whose relevance is at least `minimum`."""
        if not isinstance(minimum, (int, float)) or math.isnan(minimum):
            raise ArgumentError(f"threshold({minimum!r})", "not a number", "give the least relevance to take")
        self._complete(f"threshold({minimum!r})")
        flags = {a: v >= minimum for a, v in self.items()}
        if not any(bool(f.any()) for f in flags.values()):
            scores = self.vector()
            found = f"no relevance that high: they go from {float(scores.min()):.3g} to {float(scores.max()):.3g}"
            raise ArgumentError(f"threshold({minimum!r})", found, "give a lower one, or take a share with top(0.10)")
        return self._mask(flags, {"minimum": minimum})

    def _mask(self, flags: Mapping[str, Bool[Tensor, " width"]], selection: dict[str, Any]) -> NeuronMask:
        neurons = {a: flags[a].nonzero().flatten().cpu() for a in self}
        return NeuronMask(neurons, self.widths, self.unit, {**self.manifest, "selection": selection}, self.means)

    def to_frame(self) -> pd.DataFrame:
        """One row per neuron: address, layer, neuron, relevance."""
        return _frame(self, {a: torch.arange(len(v)) for a, v in self.items()}, relevance=self.vector())

    def figure(self, k: float = 0.10) -> go.Figure:
        """Relevance by rank, with the cut at the top k."""
        return figures.distribution(
            {str(self.manifest.get("task", "scores")): self.vector().cpu().numpy()},
            k=k,
            title=f"Relevance by rank ({self.manifest.get('method', '')})",
        )

    def __repr__(self) -> str:
        about = ", ".join(
            f"{n}={self.manifest[n]}" for n in ("method", "task", "reduction", "examples") if n in self.manifest
        )
        return f"Scores({len(self):,} {self.unit} neurons at {len(self.widths)} sites{', ' + about if about else ''})"


class NeuronMask(PerNeuron):
    """A set of neurons: address -> sorted LongTensor of neuron indices; every site is present, also without a neuron.

    Example:
        >>> a = NeuronMask.of({"blocks.0.mlp.hook_post": [1, 2]}, {"blocks.0.mlp.hook_post": 4})
        >>> b = NeuronMask.of({"blocks.0.mlp.hook_post": [2, 3]}, {"blocks.0.mlp.hook_post": 4})
        >>> len(a | b), (a & b)["blocks.0.mlp.hook_post"].tolist(), len(~a), round(a.jaccard(b), 3)
        (3, [2], 2, 0.333)
    """

    @classmethod
    def of(
        cls,
        neurons: Mapping[str, Sequence[int] | Tensor],
        widths: Mapping[str, int],
        unit: str = "hidden",
        manifest: Mapping[str, Any] | None = None,
    ) -> Self:
        """A mask from plain indices; sites that are not named have no neuron in it.

        Raises:
            MaskError: an address or an index that the widths do not have.
        """
        unknown = [a for a in neurons if a not in widths]
        if unknown:
            raise MaskError("a mask", f"address {unknown[0]!r}", f"use one of {', '.join(list(widths)[:3])}, ...")
        found = {}
        for address, width in widths.items():
            indices = torch.as_tensor(neurons.get(address, []), dtype=torch.long).flatten().unique()
            outside = indices[(indices < 0) | (indices >= width)].tolist()
            if outside:
                found_there = f"neuron {outside[0]}; the site has {width}"
                raise MaskError(f"a mask at {address}", found_there, f"use indices from 0 to {width - 1}")
            found[address] = indices
        return cls(found, dict(widths), unit, manifest or {})

    def flags(self) -> Bool[Tensor, " neuron"]:
        """Membership of every neuron of the model, in forward order."""
        return torch.cat([_flags(v, self.widths[a]) for a, v in self.items()])

    @property
    def density(self) -> float:
        """The share of the model's neurons that is in the mask."""
        return len(self) / sum(self.widths.values())

    def _from_flags(
        self, flags: Bool[Tensor, " neuron"], manifest: Mapping[str, Any], means: Mapping[str, Tensor] | None
    ) -> NeuronMask:
        parts = flags.split(list(self.widths.values()))
        neurons = {a: part.nonzero().flatten() for a, part in zip(self.widths, parts, strict=True)}
        return NeuronMask(neurons, self.widths, self.unit, manifest, means)

    def _combine(self, other: object, symbol: str, rule: Callable[[Tensor, Tensor], Tensor]) -> NeuronMask:
        if not isinstance(other, NeuronMask):
            return NotImplemented
        if dict(self.widths) != dict(other.widths):
            raise MaskError(
                f"mask {symbol} mask", f"{shape(self.widths)} and {shape(other.widths)}", "combine masks of one model"
            )
        manifest = {"operation": symbol, "operands": [dict(self.manifest), dict(other.manifest)]}
        means = self.means if _equal(self.means, other.means) else None  # else `a | b` would not be `b | a`
        return self._from_flags(rule(self.flags(), other.flags()), manifest, means)

    def __or__(self, other: NeuronMask) -> NeuronMask:
        return self._combine(other, "|", torch.logical_or)

    def __and__(self, other: NeuronMask) -> NeuronMask:
        return self._combine(other, "&", torch.logical_and)

    def __xor__(self, other: NeuronMask) -> NeuronMask:
        return self._combine(other, "^", torch.logical_xor)

    def __sub__(self, other: NeuronMask) -> NeuronMask:
        return self._combine(other, "-", lambda a, b: a & ~b)

    def __invert__(self) -> NeuronMask:
        return self._from_flags(~self.flags(), {"operation": "~", "operands": [dict(self.manifest)]}, self.means)

    @public
    def jaccard(self, other: NeuronMask) -> float:
        """Shared neurons over neurons in either; NaN if both are empty."""
        if not isinstance(other, NeuronMask):
            raise ArgumentError("mask.jaccard(other)", f"a {type(other).__name__}", "give a NeuronMask")
        union = len(self | other)
        return len(self & other) / union if union else math.nan

    @property
    def identity(self) -> str:
        """16 digits that change with any neuron of the mask, or with the shape of the model."""
        return files.digest(dict(self.widths), self.unit, self.flags().numpy().tobytes())

    @public
    def random_like(self, *, seed: int, match: Match = "layer") -> NeuronMask:
        """A random mask of the same size.

        Args:
            seed: of a generator of its own; the global one is left alone.
            match: "uniform" draws from all neurons; "layer" keeps the number at every site.
        """
        choose(match, ("uniform", "layer"), "match")
        # of this mask's own: masks of one shape must not be given the same control
        generator = torch.Generator().manual_seed(int(files.digest(self.identity, seed, match), 16) % 2**63)
        flags = []
        sizes = [(w, len(self[a])) for a, w in self.widths.items()]
        for width, count in sizes if match == "layer" else [(sum(self.widths.values()), len(self))]:
            flags.append(_flags(torch.randperm(width, generator=generator)[:count], width))
        manifest = {"random_like": dict(self.manifest), "seed": seed, "match": match}
        return self._from_flags(torch.cat(flags), manifest, self.means)

    def to_frame(self) -> pd.DataFrame:
        """One row per chosen neuron: address, layer, neuron."""
        return _frame(self, dict(self))

    def figure(self) -> go.Figure:
        """Where in depth the mask's neurons are."""
        return figures.depth_map({str(self.manifest.get("task", "mask")): self.counts()}, dict(self.widths))

    def counts(self) -> dict[str, int]:
        """Number of chosen neurons at every site."""
        return {a: len(v) for a, v in self.items()}

    def __repr__(self) -> str:
        task = f" for {self.manifest['task']}" if "task" in self.manifest else ""
        return (
            f"NeuronMask({len(self):,} of {sum(self.widths.values()):,} {self.unit} neurons{task}, {self.density:.1%})"
        )


def _flags(indices: Int[Tensor, " chosen"], width: int) -> Bool[Tensor, " width"]:
    return torch.zeros(width, dtype=torch.bool).index_fill_(0, indices, True)


def _equal(a: Mapping[str, Tensor] | None, b: Mapping[str, Tensor] | None) -> bool:
    if a is None or b is None:
        return a is b
    return a is b or (a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a))


def shape(widths: Mapping[str, int]) -> str:
    """A model's neurons in words, for error texts."""
    sizes = sorted(set(widths.values()))
    first = next(iter(widths), "no site")
    return f"{len(widths)} sites of {' / '.join(map(str, sizes))} neurons (first {first})"


def _frame(mapping: PerNeuron, indices: Mapping[str, Tensor], **columns: Tensor) -> pd.DataFrame:
    import pandas as pd  # heavy: only for tables

    addresses = [a for a in mapping for _ in range(len(indices[a]))]
    data: dict[str, Any] = {
        "address": addresses,
        "layer": [next(int(p) for p in a.split(".") if p.isdigit()) for a in addresses],
        "neuron": torch.cat([indices[a] for a in mapping]).tolist(),
    }
    return pd.DataFrame(data | {name: c.cpu().numpy() for name, c in columns.items()})


def read_safetensors(path: str | PathLike, kind: str) -> tuple[dict[str, Tensor], dict, dict]:
    """Tensors, description and manifest of a file of ours; a `FileError` if it is not one."""
    from safetensors import SafetensorError, safe_open  # only where a file is read

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise FileError(f"read {kind} from {path}", str(error), "the path is wrong, or the file truncated") from None
    if "neuroscope" not in metadata:
        raise FileError(f"read {kind} from {path}", "a safetensors file without our manifest", "write it with .save()")
    try:
        about = json.loads(metadata["neuroscope"])
        is_ours = about["kind"] == kind and about["format"] <= files.FORMAT
        found = f"{about['kind']}, format {about['format']}"
        is_ours = is_ours and {"unit", "widths", "manifest"} <= about.keys()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        is_ours, found = False, f"a damaged manifest ({type(error).__name__}: {error})"
    if not is_ours:
        raise FileError(f"read {kind} from {path}", found, "load it with the class that wrote it, or update")
    tensors = {k: v.long() if v.dtype == torch.int32 else v for k, v in tensors.items()}
    return tensors, about, about["manifest"]
