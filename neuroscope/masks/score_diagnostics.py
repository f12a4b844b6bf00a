"""What scores rest on, seen before a mask is made of them: zeros, ties, concentration, certainty, depth, sinks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from neuroscope import figures
from neuroscope.masks.cut import Cut, top_of
from neuroscope.masks.neuron_names import names_of_sites
from neuroscope.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

CUTS = {"0.1 %": 0.001, "1 %": 0.01, "10 %": 0.1}
SINK = 0.5  # from this share of the total relevance on, a single neuron is told of first
HALF = 0.5  # from this share of its score on, what a neuron has from first tokens alone makes it a sink
OF = "1 %"  # of the neurons, among whom sinks are counted
NAMED = 8  # sinks that words name
ENTRY = "scores"  # of the manifest: the numbers over all neurons


@dataclass(frozen=True, repr=False)
class ScoreDiagnostics(Result):
    """What scores rest on.

    `table` has a row per site: address, neurons, zeros (relevance 0), eligible (relevance above 0), share (of the sum
    of all relevances above 0), equal (its share if all neurons were alike), and how many of its neurons are in the top
    0.1 %, 1 % and 10 % of all. The manifest is that of the scores, with the numbers over all neurons under "scores".
    """

    title = "What the scores rest on"

    def in_words(self) -> str:
        """Whether a mask can be made of them, and what else is to be known; what makes a mask none comes first."""
        total = self.manifest[ENTRY]
        above = f"{total['eligible']:,} of {total['neurons']:,} neurons have a relevance above 0"
        lines = [self._verdict(), "", f"- {above}, {total['zeros']:,} a relevance of exactly 0."]
        for name, numbers in total["cuts"].items():
            cut = Cut(**numbers)
            if not cut.is_clean:
                lines.append(f"- **A negative**: at the top {name}, {cut.in_words()}.")
        if total["eligible"]:
            held = " and ".join(f"the top {k} hold {total['held'][k]:.0%}" for k in ("1 %", "10 %"))
            lines.append(
                f"- Of the relevance {held}; the largest neuron, {total['largest']}, has {total['largest_share']:.1%} "
                f"(1 %, 10 % and {1 / total['neurons']:.2%} if all were alike)."
            )
            most = self.table.loc[self.table["share"].idxmax()]
            lines.append(
                f"- Most of it is at {most['address']}: {most['share']:.0%}, of {most['equal']:.0%} of the neurons."
            )
        if "objective_mean" in self.manifest:
            lines.append(f"- {self._certainty()}")
        if "first" in total:
            lines.append(f"- {self._sinks()}")
        return "\n".join(lines)

    def _verdict(self) -> str:
        total, certain = self.manifest[ENTRY], self.manifest.get("certain", 0)
        largest = Cut(**total["cuts"]["10 %"])
        if not total["eligible"]:
            return "**Not a mask**: no neuron has a relevance above 0, so any share of them is chosen by position."
        if certain and 2 * certain >= self.manifest["examples"]:
            return (
                f"**Not a mask**: the model is certain of {certain} of {self.manifest['examples']} examples, where "
                'rounding is 1 % of the gradient or more; objective="log-odds" does not saturate.'
            )
        if largest.eligible < largest.asked:
            few = f"{largest.asked:,} neurons, of which {largest.eligible:,} are eligible"
            return f"**The top 10 % is not a mask**: {few}."
        if total["largest_share"] >= SINK:
            return f"**One neuron, {total['largest']}, has {total['largest_share']:.0%} of the relevance.**"
        return f"The top 10 % of the neurons hold **{total['held']['10 %']:.0%}** of the relevance."

    def _sinks(self) -> str:
        """How many of the strongest neurons owe their score to first tokens."""
        found, shares = self.manifest[ENTRY]["first"], dict(self.manifest[ENTRY]["first"]["sinks"])
        if not shares:
            return f"None of the top {found['of']:,} gets over half of its score from first tokens."
        named = ", ".join(f"{name} ({share:.0%})" for name, share in list(shares.items())[:NAMED])
        more = f" and {len(shares) - NAMED:,} more" if len(shares) > NAMED else ""
        verb = "get over half of their score" if len(shares) > 1 else "gets over half of its score"
        return (
            f"**Sinks**: {len(shares):,} of the top {found['of']:,} {verb} from the first token of a text alone, "
            f"whatever the text says: {named}{more}. `skip_first=True` of `ns.attribute` leaves that token out."
        )

    def _certainty(self) -> str:
        """How sure of the answers the model was."""
        mean, about = self.manifest["objective_mean"], self.manifest
        if about["objective"] == "loss":
            seen = f"Mean loss {mean:.2g} nats, a probability of {math.exp(-mean):.1%} for each answer token; "
            sure = "certain, so that rounding is 1 % of the gradient or more,"
            return seen + f"{sure} of {about['certain']} of {about['examples']} examples."
        probability = float(torch.sigmoid(torch.tensor(-mean)))
        return f"Mean log-odds of an answer token {-mean:.2g}, a probability of {probability:.1%}."

    def figure(self) -> go.Figure:
        """Each site's share of the relevance, beside its share of the neurons."""
        return figures.bars_with_band(
            list(self.table["address"]),
            {"share of the relevance": (list(100 * self.table["share"]), None, None)},
            title=self.title,
            value_label="share of the relevance (%)",
            mark=list(100 * self.table["equal"]),
            mark_label="if all neurons were alike",
        )

    def tables(self) -> dict[str, pd.DataFrame]:
        """The sites."""
        return {"sites": self.to_frame()}


def diagnose(
    values: Mapping[str, Float[Tensor, " width"]],
    manifest: Mapping[str, Any],
    alone: Mapping[str, Float[Tensor, " width"]] | None = None,
) -> ScoreDiagnostics:
    """The diagnostics of scores, by address in forward order.

    Args:
        alone: what the scores would be from first tokens alone, if known.
    """
    import pandas as pd  # heavy: only for tables

    widths = [len(v) for v in values.values()]
    relevance = torch.cat([v.float().cpu() for v in values.values()])
    positive = relevance.double().clamp_min(0)
    whole = float(positive.sum()) or math.nan
    tops = {name: top_of(relevance, k) for name, k in CUTS.items()}
    rows = pd.DataFrame(
        {
            "address": list(values),
            "neurons": widths,
            "zeros": [int((v == 0).sum()) for v in values.values()],
            "eligible": [int((v > 0).sum()) for v in values.values()],
            "share": [float(v.sum()) / whole for v in positive.split(widths)],
            "equal": [width / len(relevance) for width in widths],
        }
        | {f"top {name}": [int(f.sum()) for f in chosen.split(widths)] for name, (chosen, _) in tops.items()}
    )
    first = int(relevance.argmax())
    site = next(i for i in range(len(widths)) if first < sum(widths[: i + 1]))
    about = {
        "neurons": len(relevance),
        "zeros": int(rows["zeros"].sum()),
        "eligible": int(rows["eligible"].sum()),
        "cuts": {name: asdict(cut) for name, (_, cut) in tops.items()},
        "held": {name: float(positive[chosen].sum()) / whole for name, (chosen, _) in tops.items()},
        "largest": f"{list(values)[site]} neuron {first - sum(widths[:site])}",
        "largest_share": float(positive[first]) / whole,
    }
    if alone is not None:
        of_first = torch.cat([alone.get(a, torch.zeros(len(v))).float().cpu() for a, v in values.items()])
        names = [
            f"{called}.{i}"
            for called, width in zip(names_of_sites(list(values)).values(), widths, strict=True)
            for i in range(width)
        ]
        about["first"] = _sinks(relevance, of_first, tops[OF][0], names)
    return ScoreDiagnostics(rows, {**manifest, ENTRY: about})


def _sinks(
    relevance: Float[Tensor, " neuron"], alone: Float[Tensor, " neuron"], chosen: Tensor, names: list[str]
) -> dict[str, Any]:
    """Of the chosen neurons with a relevance above 0, how many there are, and the sinks among them, the highest first.

    A sink's share is what its score would be from first tokens alone, over its score: above 1 where the other tokens
    act against the first.
    """
    places = [i for i in chosen.nonzero().flatten().tolist() if relevance[i] > 0]
    shares = {i: float(alone[i] / relevance[i]) for i in places}
    sinks = sorted((i for i in places if shares[i] > HALF), key=lambda i: -float(relevance[i]))
    return {"of": len(places), "sinks": [[names[i], shares[i]] for i in sinks]}
