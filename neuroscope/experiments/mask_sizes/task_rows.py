"""What was measured of one task as rows of the table: shares, areas, intervals and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neuroscope.evaluation import AT_CHANCE, Outcomes, standing
from neuroscope.experiments.judging import Judge
from neuroscope.experiments.mask_sizes.carried_share import Floats, area, carried, drawn_shares, draws_of, interval
from neuroscope.masks import Match, NeuronMask
from neuroscope.statistics import against_controls, paired_permutation

Kind = tuple[str, int | None]  # condition, seed of the random mask
Ablations = Mapping[Kind, NeuronMask | None]
KINDS = ("only", "off")


def ablations_of(mask: NeuronMask, n_random: int, match: Match) -> dict[Kind, NeuronMask | None]:
    """What is ablated for one mask, by condition and seed; None where nothing is."""
    ablated: dict[Kind, NeuronMask | None] = {}
    for seed, chosen in [(None, mask), *((s, mask.random_like(seed=s, match=match)) for s in range(n_random))]:
        prefix, rest = "" if seed is None else "random-", ~chosen
        ablated |= {(f"{prefix}only", seed): rest if len(rest) else None, (f"{prefix}off", seed): chosen}
    return ablated


class TaskRows:
    """The rows of one task, a set of scores after another; all later ones are compared with the first.

    Args:
        judge: has measured all.
        everything: the mask of all neurons.
        k: growing shares.
    """

    def __init__(self, judge: Judge, name: str, family: str, everything: NeuronMask, k: Sequence[float]) -> None:
        self.judge, self.name, self.family, self.k = judge, name, family, list(k)
        self.neurons = len(everything)
        self.full, self.empty = judge(name), judge(name, everything)
        above = standing(judge.constant(name).p(self.full)) != AT_CHANCE
        self.is_tested = above and self.full.mean() > self.empty.mean()
        self.draws = draws_of(len(self.full))
        self.first: dict[int | str, tuple[Floats, Floats]] = {}  # of a size or area: [example] values, [draw] of its f

    def of(self, group: str, sizes: Sequence[int], ablated: Sequence[Ablations]) -> list[dict[str, Any]]:
        """Of a set of scores: full, empty, every measurement of each size, and the areas over sizes.

        Args:
            sizes: neurons in each mask.
            ablated: what was ablated for each size.
        """
        outcomes = {kind: np.array([self.judge(self.name, each[kind]) for each in ablated]) for kind in ablated[0]}
        drawn = {kind: self._drawn(kind, measured) for kind, measured in outcomes.items()}
        rows = [self._row("full", 1.0, self.neurons, self.full), self._row("empty", 0.0, 0, self.empty)]
        for i, k in enumerate(self.k):
            for (condition, seed), measured in outcomes.items():
                row = self._row(condition, k, sizes[i], measured[i]) | {"seed": seed}
                row["f_low"], row["f_high"] = interval(drawn[condition, seed][:, i])
                if condition in KINDS and k < 1 and self.is_tested:
                    controls = [each[i] for other, each in outcomes.items() if other[0] == f"random-{condition}"]
                    row["p"] = against_controls(measured[i], controls)["p"]
                if condition == "only":
                    row |= self._compared(i, measured[i], drawn[condition, seed][:, i])
                rows.append(row)
        rows += self._areas(outcomes, drawn)
        return [{"scores": group, "task": self.name, "family": self.family} | row for row in rows]

    def _row(self, condition: str, k: float, neurons: int, outcomes: Outcomes) -> dict[str, Any]:
        f = float(self._carried(outcomes))
        place = {"condition": condition, "k": k, "neurons": neurons}
        return place | self.judge.row(self.name, outcomes) | {"f": f, "f_low": f, "f_high": f}

    def _carried(self, outcomes: Outcomes) -> Floats:
        """f of [..., example] outcomes."""
        return carried(outcomes.mean(-1), self.empty.mean(), self.full.mean())

    def _drawn(self, kind: Kind, outcomes: Outcomes) -> Floats:
        """[draw, size] f in bootstrap samples; of all neurons it is the end that it is by definition."""
        shares = drawn_shares(self.draws, outcomes, self.empty, self.full)
        if self.k[-1] == 1:
            shares[:, -1] = self._carried(outcomes[-1])
        return shares

    def _areas(self, outcomes: Mapping[Kind, Outcomes], drawn: Mapping[Kind, Floats]) -> list[dict[str, Any]]:
        """CPR and CMD of the mask alone, and CPR of it off and of random masks alone."""
        f = {kind: self._carried(each) for kind, each in outcomes.items()}
        random = [kind for kind in f if kind[0] == "random-only"]

        def areas(of: Mapping[Kind, Floats]) -> dict[str, Floats]:
            only = of["only", None]
            return {
                "cpr": area(self.k, only, 0.0, 1.0),
                "cmd": area(self.k, abs(1 - only), 1.0, 0.0),
                "cpr-off": area(self.k, of["off", None], 1.0, 0.0),
                "cpr-random": np.mean([area(self.k, of[kind], 0.0, 1.0) for kind in random], axis=0),
            }

        values, draws, rows = areas(f), areas(drawn), []
        for name, value in values.items():
            low, high = interval(draws[name])
            rows.append({"condition": name, "f": float(value), "f_low": low, "f_high": high})
        each = np.vstack([outcomes["only", None], self.empty, self.full]).T  # the area is linear in the outcomes
        rows[0] |= self._compared("cpr", area(self.k, each[:, :-2], each[:, -2], each[:, -1]), draws["cpr"])
        return rows

    def _compared(self, what: int | str, values: Floats, drawn: Floats) -> dict[str, float]:
        """How f differs from that of the first set of scores, and p of no difference, over the examples of both.

        Args:
            what: a size's place, or an area.
            values: [example] whose mean f is made of.
            drawn: [draw] f.
        """
        if what not in self.first:
            self.first[what] = values, drawn
            return {}
        others, others_drawn = self.first[what]
        gain = float(self.full.mean() - self.empty.mean())
        difference = float((values - others).mean() / gain) if gain > 0 else np.nan
        low, high = interval(drawn - others_drawn)
        p = paired_permutation(values, others) if self.is_tested else np.nan
        return {"difference": difference, "difference_low": low, "difference_high": high, "p_first": p}
