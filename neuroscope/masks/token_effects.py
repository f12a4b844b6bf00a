"""Where in a prompt neurons act: the parts that its tokens have in their scores."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from neuroscope import figures
from neuroscope.masks.neuron_names import layer_of, names_of_sites
from neuroscope.results import Result

if TYPE_CHECKING:
    import plotly.graph_objects as go


MOST = 120  # cells that have room for numbers
LEAST = 0.02  # of the greatest, a number that is written into its cell


@dataclass(frozen=True, repr=False)
class TokenEffects(Result):
    """Where in a prompt neurons act, by site: positive where removing them there would do harm to the objective.

    Attributes:
        table: position, token, address, layer; effect (the sum over the site's neurons), helps (over those above 0
            there), hurts (over those below 0); strongest (the neuron with the greatest absolute effect) and its
            strongest_effect.
    """

    title = "Where in the prompt neurons act"
    captions: ClassVar[Mapping[str, str]] = {"rows": "Every token and site"}

    def in_words(self) -> str:
        """The token and the neuron with the greatest effect, and how much of all is there."""
        rows = self.table
        whole = rows["effect"].sum()
        best = rows.loc[rows["strongest_effect"].abs().idxmax()]
        tokens = rows.groupby(["position", "token"], sort=False)["effect"].sum()
        (position, token), most = tokens.abs().idxmax(), tokens[tokens.abs().idxmax()]
        at, strongest = best["position"], best["strongest_effect"]
        return (
            f"Neurons act most at position {position}, {token!r} (the first is 0): {most:.3g} of {whole:.3g} in all; "
            f"the strongest single effect is **{strongest:.3g}**, of **{best['strongest']}** at position {at}, "
            f"{best['token']!r}.\n\n"
            f"- Positive: removing the neuron there would do harm to the objective, {self.manifest.get('objective')}, "
            "to first order."
        )

    def figure(self) -> go.Figure:
        """Tokens by layers: the effect of a layer's neurons at each token."""
        rows = self.table
        columns = list(dict.fromkeys(zip(rows["position"], rows["token"], strict=True)))
        names = [f"{position} {html.escape(token)}" for position, token in columns]
        sites = list(dict.fromkeys(rows["address"]))
        cells = {(r.address, r.position, r.token): r for r in rows.itertuples()}
        found = [[cells.get((site, *column)) for column in columns] for site in sites]

        def hover(cell: Any) -> str:
            if cell is None:
                return "no such token in this stack"
            return (
                f"<b>{html.escape(cell.token)}</b> in layer {cell.layer}<br>effect {cell.effect:.3g} "
                f"(helps {cell.helps:.3g}, hurts {cell.hurts:.3g})<br>strongest {cell.strongest}: "
                f"{cell.strongest_effect:.3g}"
            )

        table = np.array([[np.nan if cell is None else cell.effect for cell in row] for row in found], dtype=float)
        least = LEAST * np.nanmax(np.abs(table), initial=0) if table.size <= MOST else np.inf
        return figures.heatmap(
            table,
            names,
            list(names_of_sites(sites).values()),
            title="Where in the prompt neurons act",
            subtitle="blue: removing the layer's neurons there would do harm to the objective",
            colour_label="effect",
            y_label="layer",
            hover=[[hover(cell) for cell in row] for row in found],
            scale="diverging",
            text=[[f"{v:.2g}" if abs(v) >= least else "" for v in row] for row in table],
            origin="bottom",
        )


def token_effects(
    effects: Mapping[str, Float[Tensor, "token neuron"]],
    tokens: Mapping[str, Sequence[str]],
    chosen: Mapping[str, Bool[Tensor, " neuron"]] | None,
    manifest: Mapping[str, Any],
) -> TokenEffects:
    """The table, of all neurons or of those that are chosen.

    Args:
        tokens: of each stack, by how its addresses begin, its tokens.
    """
    import pandas as pd  # heavy: only where a table is made

    called, rows = names_of_sites(list(effects)), []
    for address, effect in effects.items():
        kept = torch.arange(effect.shape[1]) if chosen is None else chosen[address].nonzero().flatten()
        if not len(kept):
            continue
        part = effect[:, kept].double()
        strongest = part.abs().argmax(1)
        stack = max((name for name in tokens if address.startswith(name)), key=len)
        for position, token in enumerate(tokens[stack]):
            place = int(strongest[position])
            here = {"position": position, "token": token, "address": address, "layer": layer_of(address)}
            here |= {"effect": float(part[position].sum()), "helps": float(part[position].clamp_min(0).sum())}
            here |= {"hurts": float(part[position].clamp_max(0).sum())}
            here |= {"strongest": f"{called[address]}.{int(kept[place])}"}
            rows.append({**here, "strongest_effect": float(part[position, place])})
    return TokenEffects(pd.DataFrame(rows), dict(manifest))
