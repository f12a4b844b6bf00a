"""Scores: one relevance per neuron of a model, and the masks that are chosen by it."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from neuroscope import figures
from neuroscope.arrays import array_of
from neuroscope.checks import by_text, finite, flag, plain, public, share, whole
from neuroscope.errors import ArgumentError, NumericalError, naming
from neuroscope.markup import in_notebook
from neuroscope.masks.cut import Cut, top_of
from neuroscope.masks.neuron_mask import NeuronMask
from neuroscope.masks.per_neuron import PerNeuron, by_name, frame_of
from neuroscope.masks.score_diagnostics import ScoreDiagnostics, diagnose
from neuroscope.masks.token_effects import TokenEffects, token_effects

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False)  # again, for __post_init__ to be called
class Scores(PerNeuron):
    """One relevance per neuron: address -> float tensor `[width]`.

    Attributes:
        effects: of scores of one prompt, the part of each token in every neuron's score, `[token, width]`: their sums
            over tokens are the signed scores.
        first: what the scores would be from each row's first token alone, `[width]`, where the method tells tokens
            apart: there some neurons, sinks, are extreme whatever the text says (`diagnostics` names them).

    Example:
        >>> scores = Scores({"blocks.0": torch.tensor([0.5, 2.0]), "blocks.1": torch.tensor([1.0, 0.0])},
        ...                 {"blocks.0": 2, "blocks.1": 2})
        >>> scores.vector().tolist(), {address: neurons.tolist() for address, neurons in scores.top(2).items()}
        ([0.5, 2.0, 1.0, 0.0], {'blocks.0': [1], 'blocks.1': [0]})
    """

    effects: Mapping[str, Float[Tensor, "token neuron"]] | None = None
    first: Mapping[str, Float[Tensor, " neuron"]] | None = None

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
    def top(self, size: Any, *, per_layer: bool = False) -> NeuronMask:
        """The most relevant neurons of the whole model together (LX24 §3.1: a share of 0.1), or of every site.

        A neuron is eligible if its relevance is above 0: dead neurons, those that LAPE does not select, and with a sign
        those that act the other way are not. Where fewer are eligible than are asked for, the mask is filled up with
        others, a warning gives both numbers, and the manifest's `selection` too (`asked`, `eligible`); where all are
        asked for nothing is chosen. Equal relevances are taken in forward order, so that the result does not depend on
        the machine; where the cut goes through equal ones a warning and the manifest say how many (`tied`,
        `by_position`).

        Args:
            size: a share of the neurons in (0, 1], as a float; or how many, as a whole number from 1 up. The type
                tells: 1 is one neuron, 1.0 is all of them.
            per_layer: take that share, or so many, of every site.

        Raises:
            ArgumentError: no such share or number, more than there are, only some of the neurons were scored, or none
                is eligible, so that the mask would not tell the task's neurons from others.

        Example:
            >>> scores = Scores({"0": torch.tensor([0.0, 3.0, 1.0, 2.0])}, {"0": 4})
            >>> scores.top(0.5)["0"].tolist(), scores.top(1)["0"].tolist()
            ([1, 3], [1])
        """
        groups = [[a] for a in self] if flag(per_layer, "per_layer") else [list(self)]
        most = min(sum(self.widths[a] for a in addresses) for addresses in groups)
        with naming("top"):
            size = _share_or_count(size, most)
        self._require_all(f"top({size!r})")
        flags: dict[str, Tensor] = {}
        cuts = []
        for addresses in groups:
            chosen, cut = top_of(torch.cat([self[a].float() for a in addresses]).cpu(), size)
            cuts.append(cut)
            flags |= dict(zip(addresses, chosen.split([self.widths[a] for a in addresses]), strict=True))
        cut = Cut.of(cuts)
        if cut.says_nothing:
            raise ArgumentError(f"top({size!r})", cut.in_words(), self._way_out())
        if not cut.is_clean:
            text = f"top({size!r}): {cut.in_words()}: take fewer, or {self._way_out()}"
            warnings.warn(text, stacklevel=3)
        said = {"count" if isinstance(size, int) else "k": size}
        return self._mask(flags, {**said, "per_layer": per_layer, **cut.in_manifest()})

    def _way_out(self) -> str:
        """What to do where a mask is none."""
        if self.manifest.get("method") == "lape":
            return "take LAPE's own masks, ns.interop.lape_masks(scores), or score with a lower quantile"
        if self.manifest.get("objective") == "loss" and "objective_mean" in self.manifest:
            return (
                'score with objective="log-odds", which does not saturate where a model is certain, or another method'
            )
        return "score with another method"

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
        return NeuronMask(
            neurons, self.widths, self.unit, {**self.manifest, "selection": selection}, self.means, self.norms
        )

    @public
    def by_token(self, mask: Any = None) -> TokenEffects:
        """Where in the prompt neurons act, of scores of one prompt.

        Args:
            mask: which neurons: a mask, or neurons written by hand, such as "11.1229"; None: all.

        Returns:
            A row per token and site with the effect of its neurons there; as a figure text by layers. The effects of
            every neuron are in `scores.effects`, by address.

        Raises:
            ArgumentError: scores of a task, or by a method that does not tell tokens apart.
        """
        if self.effects is None:
            do = "score one prompt, ns.attribute(model, 'The capital of France is', answer=' Paris'), by grad-x-act"
            raise ArgumentError("by_token()", "scores that do not tell tokens apart", do)
        chosen = None
        if mask is not None:
            with naming("by_token(mask)"):
                of = mask if isinstance(mask, NeuronMask) else NeuronMask.of(mask, self.widths, self.unit)
            if dict(of.widths) != dict(self.widths):
                raise ArgumentError("by_token(mask)", "a mask of another model", "give neurons of this one")
            chosen = dict(zip(of.widths, of.flags().split(list(of.widths.values())), strict=True))
            if not len(of):
                raise ArgumentError("by_token(mask)", "no neuron in the mask", "name one or more, such as '11.1229'")
        return token_effects(self.effects, self.manifest["shown"], chosen, self.manifest)

    def to_frame(self) -> pd.DataFrame:
        """One row per neuron: address, layer, neuron, relevance."""
        return frame_of({a: torch.arange(len(v)) for a, v in self.items()}, relevance=self.vector())

    def _repr_html_(self) -> str:
        """For notebooks: the neurons with the largest scores, of either sign."""
        frame = self.to_frame()
        order = frame["relevance"].abs().sort_values(ascending=False, kind="stable").index
        return in_notebook(repr(self), frame.loc[order].reset_index(drop=True))

    def diagnostics(self) -> ScoreDiagnostics:
        """What the scores rest on, before a mask is made of them: zeros, ties, concentration, certainty, depth, sinks.

        Returns:
            A result with `in_words`, which begins with "Not a mask" where none can be made; a row per site; a figure.

        Raises:
            ArgumentError: only some of the neurons were scored.

        Example:
            >>> print(Scores({"0": torch.tensor([0.0, 0.0])}, {"0": 2}).diagnostics().in_words().partition(":")[0])
            **Not a mask**
        """
        self._require_all("diagnostics()")
        return diagnose(self, self.manifest, self.first)

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


def _share_or_count(size: Any, most: int) -> float:
    """A share of the neurons as a float, or how many of them as an int.

    Raises:
        ArgumentError: neither, or more than there are.
    """
    do = f"give a share in (0, 1] such as 0.10, or how many, from 1 to {most:,}"
    number = plain(size)
    if isinstance(number, bool) or not isinstance(number, numbers.Integral):
        return share(size, "size", do)
    return whole(size, "size", 1, do, most)


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
