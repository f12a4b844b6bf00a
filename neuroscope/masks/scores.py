"""Scores: one relevance per neuron of a model, and the masks that are chosen by it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from neuroscope import figures
from neuroscope.arrays import array_of
from neuroscope.checks import by_text, finite, flag, public
from neuroscope.errors import ArgumentError, NumericalError
from neuroscope.masks.neuron_mask import NeuronMask
from neuroscope.masks.per_neuron import PerNeuron, by_name, frame_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False)  # again, for __post_init__ to be called
class Scores(PerNeuron):
    """One relevance per neuron: address -> float tensor `[width]`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "values_by_site", _relevance(self.values_by_site, self.widths))
        bad = {a: int((~torch.isfinite(v)).sum()) for a, v in self.items() if not torch.isfinite(v).all()}
        if sum(bad.values()) != len(self) - self.n_scored:
            raise NumericalError(
                f"scores by {self.manifest.get('method', 'an unknown method')}",
                f"{sum(bad.values())} non-finite values, the first at {next(iter(bad), 'no site')}",
                "check the model's weights and dtype (bfloat16 or float32, not float16)",
            )

    @property
    def n_scored(self) -> int:
        """How many neurons were scored; the others (of exact ablation of a sample) are NaN."""
        return self.manifest.get("n_scored", len(self))

    def _require_all(self, asked: str) -> None:
        if self.n_scored < len(self):
            found = f"scores of {self.n_scored:,} of {len(self):,} neurons"
            raise ArgumentError(asked, found, "score all neurons, or use those that were scored through vector()")

    def vector(self) -> Float[Tensor, " neuron"]:
        """All relevances in forward order."""
        return torch.cat([v.float() for v in self.values()])

    @public
    def top(self, k: float, *, per_layer: bool = False) -> NeuronMask:
        """The most relevant share of all neurons of the model together (LX24 §3.1: k = 0.1), or of every site.

        Equal relevances are taken in forward order, so that the result does not depend on the machine. Where the cut
        goes through equal ones the mask's manifest says so, and if they are many (dead neurons, a model that is
        certain) there is a warning.

        Raises:
            ArgumentError: k is not in (0, 1], or only some of the neurons were scored.
        """
        self._require_all(f"top({k!r})")
        groups = [[a] for a in self] if flag(per_layer, "per_layer") else [list(self)]
        flags: dict[str, Tensor] = {}
        tied = by_position = 0
        for addresses in groups:
            relevance = torch.cat([self[a].float() for a in addresses])
            chosen = torch.zeros(len(relevance), dtype=torch.bool)
            values, order = torch.sort(relevance.cpu(), descending=True, stable=True)
            count = max(1, round(k * len(relevance)))
            chosen[order[:count]] = True
            if count < len(values) and values[count - 1] == values[count]:
                equal = values == values[count]
                tied += int(equal.sum())
                by_position += int(equal[:count].sum())
            flags |= dict(zip(addresses, chosen.split([self.widths[a] for a in addresses]), strict=True))
        ties = {"tied": tied, "by_position": by_position} if tied else {}
        mask = self._mask(flags, {"k": k, "per_layer": per_layer, **ties})
        if tied > len(mask):
            text = f"{by_position:,} of the {len(mask):,} neurons in the mask are some of {tied:,} with equal relevance"
            warnings.warn(f"{text} at the cut, chosen by position: take fewer, or another method", stacklevel=3)
        return mask

    @public
    def threshold(self, minimum: float) -> NeuronMask:
        """The neurons whose relevance is at least `minimum`.

        Raises:
            ArgumentError: no finite number, no relevance that high, or only some of the neurons were scored.
        """
        minimum = finite(minimum, "minimum", "give the least relevance to take")
        self._require_all(f"threshold(minimum={minimum!r})")
        flags = {a: v >= minimum for a, v in self.items()}
        if not any(bool(f.any()) for f in flags.values()):
            scores = self.vector()
            found = f"no relevance that high: they go from {float(scores.min()):.3g} to {float(scores.max()):.3g}"
            raise ArgumentError(
                f"threshold(minimum={minimum!r})", found, "give a lower one, or take a share with top(0.10)"
            )
        return self._mask(flags, {"minimum": minimum})

    def _mask(self, flags: Mapping[str, Bool[Tensor, " width"]], selection: dict[str, Any]) -> NeuronMask:
        neurons = {a: flags[a].nonzero().flatten().cpu() for a in self}
        return NeuronMask(neurons, self.widths, self.unit, {**self.manifest, "selection": selection}, self.means)

    def to_frame(self) -> pd.DataFrame:
        """One row per neuron: address, layer, neuron, relevance."""
        return frame_of({a: torch.arange(len(v)) for a, v in self.items()}, relevance=self.vector())

    @public
    def figure(self, k: float = 0.10) -> go.Figure:
        """Relevance by rank, with the cut at the top k."""
        return figures.distribution(
            {str(self.manifest.get("task", "scores")): self.vector().cpu().numpy()},
            k=k,
            title=f"Relevance by rank ({self.manifest.get('method', '')})",
        )

    def __repr__(self) -> str:
        known = [n for n in ("method", "task", "reduction", "examples") if n in self.manifest]
        parts = [f"{len(self):,} {self.unit} neurons at {len(self.widths)} sites"]
        return f"Scores({', '.join(parts + [f'{n}={self.manifest[n]}' for n in known])})"


def _relevance(values: Any, widths: Mapping[str, int]) -> dict[str, Tensor]:
    """A tensor per site, of lists, arrays, series or tensors.

    Raises:
        ArgumentError: other sites than the widths, or another number of relevances.
    """
    do = "give {address: relevances} for every site"
    given = by_text(values, "values_by_site", do)
    if isinstance(values, NeuronMask) or set(given) != set(widths):
        found = "a mask" if isinstance(values, NeuronMask) else "other sites than its widths"
        raise ArgumentError("values_by_site of scores", found, do)
    read = {a: array_of(given[a], f"values_by_site of scores[{a!r}]") for a in widths}
    for address, relevance in read.items():
        if relevance.shape != (widths[address],) or relevance.dtype == torch.bool:
            found = f"{str(relevance.dtype)[6:]} numbers of shape {tuple(relevance.shape)}"
            raise ArgumentError(f"values_by_site of scores[{address!r}]", found, f"give {widths[address]} relevances")
    return {a: v if v.is_floating_point() else v.float() for a, v in read.items()}


def scores_of(scores: object, asked: str) -> dict[str, Scores]:
    """Scores by name, as a dict of their own.

    Raises:
        ArgumentError: anything else, such as a list; or no scores.
    """
    return by_name(scores, Scores, "scores", asked, "give a dict name -> Scores, such as ns.attribute(model, tasks)")
