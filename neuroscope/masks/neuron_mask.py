"""NeuronMask: a set of neurons of a model, with the algebra of sets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from neuroscope import figures, files
from neuroscope.checks import public
from neuroscope.errors import ArgumentError, FileError, MaskError, choose, kind_of, naming
from neuroscope.markup import in_notebook
from neuroscope.masks.by_hand import check_indices, neurons_of
from neuroscope.masks.draws import DRAWN, Match
from neuroscope.masks.evidence import checked, of_file
from neuroscope.masks.evidence_card import EvidenceCard, card_of
from neuroscope.masks.fixed import fixed
from neuroscope.masks.hub import NAME, push
from neuroscope.masks.json_file import is_json, mask_in_json
from neuroscope.masks.loudness import as_loud
from neuroscope.masks.per_neuron import UNITS, PerNeuron, by_name, frame_of, shape, widths_of
from neuroscope.models import Model, Unit

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

WRITTEN = (str, list, tuple, AbstractSet, Mapping)  # how neurons are written by hand, besides arrays and frames
Masks = Mapping[str, Any]  # by name: each a NeuronMask, or neurons of the model at hand as people write them
BY_HAND = 'of neurons written by hand, such as "11.1229", NeuronMask.of("11.1229", model) makes one'


@dataclass(frozen=True, eq=False, repr=False)
class NeuronMask(PerNeuron):
    """A set of neurons: address -> sorted LongTensor of neuron indices; every site is present, also without a neuron.

    Attributes:
        evidence: what is known of just these neurons, by part (`with_evidence` puts it there, `card` shows it); a mask
            that is made of others has none. It refuses to be changed. Of a file of another version it has what this one
            knows, with a warning.

    Example:
        >>> a = NeuronMask.of({"blocks.0.mlp.hook_post": [1, 2]}, {"blocks.0.mlp.hook_post": 4})
        >>> b = NeuronMask.of({"blocks.0.mlp.hook_post": [2, 3]}, {"blocks.0.mlp.hook_post": 4})
        >>> len(a | b), (a & b)["blocks.0.mlp.hook_post"].tolist(), len(~a), round(a.jaccard(b), 3)
        (3, [2], 2, 0.333)
    """

    evidence: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    in_file: ClassVar[tuple[str, ...]] = ("evidence",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_indices(self.values_by_site, self.widths)
        object.__setattr__(self, "evidence", fixed(checked(self.evidence)))

    @classmethod
    @public
    def of(
        cls,
        neurons: Any,
        widths: Any,
        unit: Unit = "hidden",
        manifest: Mapping[str, Any] | None = None,
    ) -> Self:
        """A mask from neurons written down by hand, or by another tool; a neuron named twice is in it once.

        Args:
            neurons: `{address: indices}` or `{layer: indices}` (sites that are not named have no neuron in the mask),
                where indices may be a list, set, array, series or tensor of whole numbers, or a flag for every neuron
                of the site; pairs `(layer, neuron)`, a name such as "11.1229" or several; a frame with the columns
                layer (or address) and neuron; or one flag per neuron of the model, in order, as `flags()` gives.
            widths: the number of neurons by address; or scores, a mask or an opened model that has them.
            unit: "hidden", "output" or "head".
            manifest: where the mask comes from.

        Raises:
            MaskError: another form, or an address, layer or index that the widths do not have.

        Example:
            >>> widths = {"blocks.0.mlp.hook_post": 4, "blocks.1.mlp.hook_post": 4}
            >>> same = [{1: [0, 2]}, {(1, 0), (1, 2)}, ["1.0", "1.2"], [False] * 4 + [True, False, True, False]]
            >>> len({NeuronMask.of(neurons, widths) for neurons in same})
            1
        """
        if isinstance(widths, PerNeuron):
            widths = widths.widths
        elif isinstance(widths, Model):
            widths = {a: s.width for a, s in widths.sites(choose(unit, UNITS, "unit")).items()}
        return cls(
            neurons_of(neurons, widths_of(widths)), widths_of(widths), unit, {} if manifest is None else manifest
        )

    @classmethod
    @public
    def load(cls, path: str | PathLike) -> Self:
        """Read what `save` wrote, or the JSON that an explorer's page gives (`masks.json_file`).

        Raises:
            FileError: the file is missing, truncated, or holds something else.
        """
        if not is_json(path):
            return super().load(path)
        try:
            return cls.of(**mask_in_json(path))
        except (ArgumentError, MaskError) as error:
            found = f"{error.asked}: {error.found}"
            raise FileError(f"read {cls.__name__} from {path}", found, "write the file again") from None

    @public
    def push_to_hub(
        self, repo_id: str, *, name: str = NAME, private: bool | None = None, token: str | None = None
    ) -> str:
        """Put the mask into a repository of the Hugging Face Hub, which is made where there is none, in one commit.

        The repository then has `<name>.safetensors`, as `save` writes it, and `<name>.md`, the mask's card in words.
        `ns.load_mask(repo_id, name=name)` reads it back.

        Args:
            repo_id: such as "somebody/masks".
            name: of the mask there; several may be in one repository. One of that name is replaced.
            private: of a repository that is made (None: what your organisation has as its default).
            token: None: the one of `hf auth login`.

        Returns:
            The address of the commit.

        Raises:
            FileError: the Hub cannot be reached, or refuses. Nothing here is changed.
        """
        return push(self, repo_id, name, private, token)

    @classmethod
    def _from_file(cls, name: str, value: Any, path: str | PathLike) -> Any:
        return of_file(value, path) if name == "evidence" else value

    def flags(self) -> Bool[Tensor, " neuron"]:
        """Membership of every neuron of the model, in forward order."""
        return torch.cat([_flags(v, self.widths[a]) for a, v in self.items()])

    @property
    def density(self) -> float:
        """The share of the model's neurons that is in the mask."""
        return len(self) / sum(self.widths.values())

    def _from_flags(
        self,
        flags: Bool[Tensor, " neuron"],
        manifest: Mapping[str, Any],
        means: Mapping[str, Tensor] | None,
        norms: Mapping[str, Tensor] | None,
    ) -> NeuronMask:
        parts = flags.split(list(self.widths.values()))
        neurons = {a: part.nonzero().flatten() for a, part in zip(self.widths, parts, strict=True)}
        return NeuronMask(neurons, self.widths, self.unit, manifest, means, norms)

    def _combine(self, other: object, symbol: str, rule: Callable[[Tensor, Tensor], Tensor]) -> NeuronMask:
        if not isinstance(other, NeuronMask):
            return NotImplemented
        if dict(self.widths) != dict(other.widths):
            raise MaskError(
                f"mask {symbol} mask", f"{shape(self.widths)} and {shape(other.widths)}", "combine masks of one model"
            )
        manifest = {"operation": symbol, "operands": [dict(self.manifest), dict(other.manifest)]}
        means = self.means if _equal(self.means, other.means) else None  # else `a | b` would not be `b | a`
        norms = self.norms if _equal(self.norms, other.norms) else None
        return self._from_flags(rule(self.flags(), other.flags()), manifest, means, norms)

    def __or__(self, other: NeuronMask) -> NeuronMask:
        return self._combine(other, "|", torch.logical_or)

    def __and__(self, other: NeuronMask) -> NeuronMask:
        return self._combine(other, "&", torch.logical_and)

    def __xor__(self, other: NeuronMask) -> NeuronMask:
        return self._combine(other, "^", torch.logical_xor)

    def __sub__(self, other: NeuronMask) -> NeuronMask:
        return self._combine(other, "-", lambda a, b: a & ~b)

    def __invert__(self) -> NeuronMask:
        return self._from_flags(
            ~self.flags(), {"operation": "~", "operands": [dict(self.manifest)]}, self.means, self.norms
        )

    @public
    def jaccard(self, other: NeuronMask) -> float:
        """Shared neurons over neurons in either; NaN if both are empty."""
        check_mask(other, "mask.jaccard(other)")
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
            seed: of the draw; torch's global generator is left alone.
            match: "uniform" draws from all neurons; "layer" keeps the number at every site; "activation" also keeps how
                loud they are: for each neuron one that is not in the mask, of the eight of its site whose activation
                has the nearest root mean square on the examples that the mask was found on. Where the mask has all the
                loudest, the control is less loud: its manifest has `loudness`, its mean root mean square over the
                mask's, averaged over sites.

        Raises:
            MaskError: "activation" of a mask that carries no `norms`, as one made by hand, or that has most of a site.
        """
        choose(match, tuple(DRAWN), "match")
        return self.drawn_like(seed, match)

    def drawn_like(self, seed: int, match: Match) -> NeuronMask:
        """The same for any whole number as a seed, such as a digest, which may be larger than a user's."""
        # the mask's identity is part of the seed: masks of one shape must not be given the same control
        generator = torch.Generator().manual_seed(int(files.digest(self.identity, seed, match), 16) % 2**63)
        manifest: dict[str, Any] = {"random_like": dict(self.manifest), "seed": seed, "match": match}
        if match == "activation":
            drawn, loudness = as_loud(self, generator)
            return self._from_flags(drawn, {**manifest, "loudness": loudness}, self.means, self.norms)
        flags = []
        sizes = [(w, len(self[a])) for a, w in self.widths.items()]
        for width, count in sizes if match == "layer" else [(sum(self.widths.values()), len(self))]:
            flags.append(_flags(torch.randperm(width, generator=generator)[:count], width))
        return self._from_flags(torch.cat(flags), manifest, self.means, self.norms)

    @public
    def with_evidence(self, *results: Any) -> NeuronMask:
        """The same mask, with what results know of just these neurons: `card` shows it, `save` keeps it in the file.

        Args:
            results: of calls that measured this mask, or masks found in the same way on other examples: of
                `ns.cross_ablation`, `ns.experiments.deactivation`, `ns.stability`, `ns.faithfulness`. Of what several
                measured, such as the effect beside one kind of random masks, the last one counts.

        Raises:
            ArgumentError: something else, or a result about other neurons, another task or another size.

        Example:
            >>> mask = NeuronMask.of({"blocks.0.mlp.hook_post": [1, 2]}, {"blocks.0.mlp.hook_post": 4})
            >>> mask.with_evidence().card().unknown[0]
            'effect-layer'
        """
        evidence = {**self.evidence}
        for result in results:
            if not callable(getattr(type(result), "about", None)):
                do = "give results, such as those of ns.cross_ablation, ns.stability and ns.faithfulness"
                raise ArgumentError("with_evidence(results)", f"{kind_of(result)}, which knows nothing of masks", do)
            evidence |= result.about(self)  # of a part that both have, the later one
        return replace(self, evidence=evidence)

    @public
    def card(self, *results: Any) -> EvidenceCard:
        """Everything known about these neurons, in one small record; what is not known says how to measure it.

        Args:
            results: as in `with_evidence`, beside what the mask has already.

        Raises:
            ArgumentError: as in `with_evidence`.
        """
        mask = self.with_evidence(*results) if results else self
        return card_of(mask, self.identity, mask.evidence)

    def to_frame(self) -> pd.DataFrame:
        """One row per chosen neuron: address, layer, neuron."""
        return frame_of(self)

    def _repr_html_(self) -> str:
        """For notebooks: its first neurons."""
        return in_notebook(repr(self), self.to_frame())

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


def check_mask(mask: object, asked: str) -> None:
    """Refuse what is not one mask.

    Raises:
        ArgumentError: anything else.
    """
    if not isinstance(mask, NeuronMask):
        found = f"{kind_of(mask)} in place of a mask"
        raise ArgumentError(asked, found, f"give a NeuronMask, such as scores.top(0.10); {BY_HAND}")


def mask_for(model: Model, mask: Any, asked: str, unit: Unit = "hidden", name: str = "mask") -> NeuronMask:
    """A mask of this model's neurons: a NeuronMask that fits it, or neurons as people write them (`NeuronMask.of`).

    Args:
        unit: what neurons that are written by hand are.
        name: of the argument, for an error.

    Raises:
        ArgumentError: what is no mask and names no neuron.
        MaskError: a mask of another model; or neurons in another form, that the model does not have, or none.
    """
    if not isinstance(mask, NeuronMask):
        is_array = hasattr(mask, "dtype") or hasattr(mask, "columns")
        if isinstance(mask, PerNeuron) or not (is_array or (isinstance(mask, WRITTEN) and len(mask))):
            check_mask(mask, asked)
        with naming(name):
            mask = NeuronMask.of(mask, model, unit)
        if not len(mask):
            raise MaskError(asked, "no neuron in the mask", "name one or more, such as '11.1229'")
    mask.fits(model.sites(mask.unit), asked)
    return mask


def masks_of(masks: object, asked: str, model: Model | None = None, unit: Unit = "hidden") -> dict[str, NeuronMask]:
    """Masks by name, as a dict of their own: what every function with an argument `masks` makes of it.

    Args:
        masks: name (usually of a task) -> mask; of a model also neurons as people write them, as for `mask_for`.
        asked: what the caller wants them for: the first line of an error.
        model: whose neurons they are, where one is at hand.
        unit: what neurons that are written by hand are.

    Raises:
        ArgumentError: anything else, such as a list or one mask without a name; or no mask.
        MaskError: as in `mask_for`.
    """
    do = "give a dict name -> NeuronMask, such as {task.name: scores.top(0.10)}"
    if model is None:
        return by_name(masks, NeuronMask, "masks", asked, f"{do}; {BY_HAND}")
    named: dict[str, Any] = by_name(masks, object, "masks", asked, do)
    for name, mask in named.items():
        if not is_one_mask(mask):
            raise ArgumentError(f"{asked}, masks", f"{kind_of(mask)} under {name!r}", do)
    return {name: mask_for(model, mask, asked, unit, f"masks[{name!r}]") for name, mask in named.items()}


def is_one_mask(masks: object) -> bool:
    """Whether something is one mask rather than masks by name: a NeuronMask, or neurons as people write them.

    Example:
        >>> is_one_mask("11.1229"), is_one_mask({11: [1229]}), is_one_mask({"nli-food": "11.1229"})
        (True, True, False)
    """
    if isinstance(masks, Mapping) and not isinstance(masks, NeuronMask):
        return bool(masks) and not any(isinstance(name, str) for name in masks)
    is_array = getattr(masks, "ndim", 0) > 0  # a number of numpy is none
    return isinstance(masks, NeuronMask) or is_array or isinstance(masks, WRITTEN)


def _flags(indices: Int[Tensor, " chosen"], width: int) -> Bool[Tensor, " width"]:
    return torch.zeros(width, dtype=torch.bool).index_fill_(0, indices, True)


def _equal(a: Mapping[str, Tensor] | None, b: Mapping[str, Tensor] | None) -> bool:
    if a is None or b is None:
        return a is b
    return a is b or (a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a))
