"""Where and when an edit acts: at which tokens of a pass, and in which range of a neuron's own activation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from neuroscope import files
from neuroscope.arrays import array_of
from neuroscope.checks import by_text, finite, plain, public
from neuroscope.errors import ArgumentError, ModelError, kind_of, shown
from neuroscope.interventions.mask_sites import MaskSites, Watcher, When
from neuroscope.models import Model
from neuroscope.models.passes import Layout, Part, layout_of
from neuroscope.models.sites import Site

At = Literal["last", "prompt", "answer", "generated"] | int | Sequence[int]
Bound = float | Mapping[str, Tensor]
Bounds = tuple[float | Float[Tensor, " neuron"], float | Float[Tensor, " neuron"]]


@dataclass(frozen=True, eq=False)
class Range:
    """A range of activations, its ends within: made by `between`.

    Attributes:
        lo: the lower end: a number, or a tensor by address with one number per neuron of the site.
        hi: the upper end.
    """

    lo: Bound
    hi: Bound

    def at(self, site: Site, asked: str) -> Bounds:
        """Both ends at a site.

        Raises:
            ArgumentError: no number for it, or not one per neuron; or an empty range.
        """
        lo, hi = (_bound_at(bound, name, site, asked) for name, bound in (("lo", self.lo), ("hi", self.hi)))
        empty = torch.as_tensor(lo) > torch.as_tensor(hi)
        if bool(empty.any()):
            where = f"neuron {int(empty.nonzero()[0])} of {site.address}"
            raise ArgumentError(f"{asked}: {where}", "an empty range, lo > hi", "give lo <= hi for every neuron")
        return lo, hi

    @property
    def said(self) -> Any:
        """What tells it from another."""
        ends = (self.lo, self.hi)
        return [e if isinstance(e, float) else {a: files.digest(v.tolist()) for a, v in e.items()} for e in ends]


@public
def between(lo: float | Mapping[str, Tensor], hi: float | Mapping[str, Tensor]) -> Range:
    """A range of activations, for `ablate(..., when=)` and its kin: an edit acts where a neuron lies in it.

    Editing a neuron only within the range that its task uses does less harm to others (arXiv 2502.06809).

    Args:
        lo: the lower end, which is within: a number (-inf for none), or a tensor by address with one number per neuron
            of the site.
        hi: the upper end, which is within.

    Returns:
        The range.

    Raises:
        ArgumentError: no numbers, or an empty range: lo > hi.

    Example:
        >>> between(0.5, float("inf"))
        Range(lo=0.5, hi=inf)
    """
    found = Range(_bound(lo, "lo"), _bound(hi, "hi"))
    if isinstance(found.lo, float) and isinstance(found.hi, float) and found.lo > found.hi:
        raise ArgumentError(f"between(lo={found.lo}, hi={found.hi})", "an empty range, lo > hi", "give lo <= hi")
    return found


def _bound(value: Any, name: str) -> Bound:
    do = "give a number, or a tensor by address with one number per neuron"
    if isinstance(value, Mapping):
        read = {a: array_of(v, f"{name}[{a!r}]") for a, v in by_text(value, name, do).items()}
        strange = [a for a, v in read.items() if v.ndim != 1 or v.dtype == torch.bool or bool(v.isnan().any())]
        if strange or not read:
            raise ArgumentError(f"between({name})", f"no numbers for {strange[0] if strange else 'any site'}", do)
        return read
    number = plain(value)
    if isinstance(number, float) and math.isinf(number):
        return number
    return finite(value, f"between({name})", do)


def _bound_at(bound: Bound, name: str, site: Site, asked: str) -> float | Tensor:
    if not isinstance(bound, Mapping):
        return bound
    shape = tuple(bound[site.address].shape) if site.address in bound else "nothing"
    if shape != (site.width,):
        found = f"{shape} for {site.address}, which has {site.width} neurons"
        raise ArgumentError(f"{asked}: {name}", found, "give one number per neuron for every site of the mask")
    return bound[site.address]


@dataclass
class _Tokens:
    """Sees which tokens a pass reads, and tells those at which an edit acts."""

    at: Part | list[int]
    asked: str
    by_position: ClassVar[bool] = False  # of the row: a tree of labels counts its tokens along each branch
    has_begun: bool = False  # since the scope was entered
    acts: Bool[Tensor, "row pos"] | None = None
    inside: list[Any] = field(default_factory=list)

    def looks(self, model: Model) -> Iterator[tuple[nn.Module, When, Callable[..., None]]]:
        """Around the model; and around its trunk, which some run alone."""
        self.has_begun = False
        trunk = getattr(model.base, "base_model", None)
        for module in {id(m): m for m in (model.root, model.base, trunk or model.base)}.values():
            yield module, "before", self.begins
            yield module, "end", self.ends

    def begins(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the outermost of the modules."""
        self.inside.append(module)
        if len(self.inside) > 1:
            return
        layout: Layout = layout_of(module, args, kwargs)
        layout.check(self.at, self.asked)
        if not layout.has_prompt and not self.has_begun and self.at != "generated":
            found = "a run that goes on from a cache, made outside of the scope"
            raise ArgumentError(self.asked, found, "run the prompt within the scope, or without past_key_values")
        self.has_begun, self.acts = True, layout.chosen(self.at)

    def ends(self, module: nn.Module, *passed: Any) -> None:
        """After it, also after an error."""
        if self.inside and self.inside[-1] is module:
            self.inside.pop()
        if not self.inside:
            self.acts = None

    def of(self, site: Site, h: Tensor, tokens: Tensor | None) -> Bool[Tensor, "*token"]:
        """True at the site's tokens at which the edit acts."""
        if self.acts is None:
            found = f"{site.address} run outside of a pass of the model, as gradient checkpointing runs it again"
            raise ModelError(self.asked, found, "run the model itself, and without gradient checkpointing")
        acts = self.acts.to(h.device)
        if h.ndim == 2:
            acts = acts.flatten() if tokens is None else acts.flatten()[tokens]
        if acts.shape != h.shape[:-1]:
            found = f"{tuple(h.shape[:-1])} tokens at {site.address}, and {tuple(acts.shape)} in the pass"
            raise ModelError(self.asked, found, "leave out at=, for an edit of all tokens")
        return acts


@dataclass(frozen=True)
class Placed:
    """Where and when a change is made.

    Attributes:
        text: in words, after what is done.
        said: what else tells it from another.
        tokens: tells at which tokens; None: at all.
        bounds: by site, the range of each neuron's activation; None: any.
    """

    text: str
    said: Any
    tokens: _Tokens | None
    bounds: dict[str, Bounds] | None

    @property
    def watchers(self) -> list[Watcher]:
        """What it must see of a pass."""
        return [] if self.tokens is None else [self.tokens]

    def kept(self, site: Site, h: Tensor, new: Tensor, tokens: Tensor | None) -> Tensor:
        """The new vector where the change is made, the old one elsewhere."""
        if self.tokens is not None:
            new = torch.where(self.tokens.of(site, h, tokens)[..., None], new, h)
        if self.bounds is None:
            return new
        lo, hi = (b.to(h.device, h.dtype) if torch.is_tensor(b) else b for b in self.bounds[site.address])
        return torch.where((h >= lo) & (h <= hi), new, h)


def where_of(places: MaskSites, at: Any, when: Any, name: str) -> Placed | None:
    """Where and when, of a public function's arguments; None: everywhere, always.

    Args:
        at, when: as of `ablate`.
        name: of the function, for error texts.

    Raises:
        ArgumentError: positions that are no whole numbers, or a range that is none or does not fit the mask's sites.
        ModelError: tokens of a model that is not causal, or ranges of heads.
    """
    if at is None and when is None:
        return None
    text, tokens, bounds = "", None, None
    if at is not None:
        asked = f"{name}(at={at!r})"
        if places.model.style != "causal":
            found = f"a {places.model.style} model, whose answer does not follow its prompt"
            raise ModelError(asked, found, "leave out at=, or use a causal model")
        chosen = at if isinstance(at, str) else positions_of(at, f"{name}(at)")
        if not chosen:
            raise ArgumentError(asked, "no positions", "give some, such as [-1], or 'last', 'prompt', 'answer'")
        tokens, text = _Tokens(chosen, asked), f" at {at!r}"  # type: ignore[arg-type]
    if when is not None:
        if not isinstance(when, Range):
            raise ArgumentError(f"{name}({shown('when', when)})", kind_of(when), "give ns.between(lo, hi)")
        head = next((s for s in places.sites.values() if s.group > 1), None)
        if head is not None:
            found = f"{head.address}, where each neuron is a head of {head.group} numbers"
            raise ModelError(f"{name}(when=...)", found, "leave out when=, or take unit='hidden' or 'output'")
        bounds = {a: when.at(s, f"{name}(when)") for a, s in places.sites.items()}
        text += " within a range"
    return Placed(text, (at, when and when.said), tokens, bounds)


def positions_of(positions: Any, asked: str) -> list[int]:
    """Positions as plain integers; one alone is a list of one."""
    array = array_of(positions, asked)
    if array.ndim > 1 or array.dtype == torch.bool or (array.is_floating_point() and array.numel()):
        found = f"{str(array.dtype)[6:]} numbers of shape {tuple(array.shape)}"
        raise ArgumentError(asked, found, "give whole numbers, such as [-1]")
    return [int(position) for position in array.flatten().tolist()]
