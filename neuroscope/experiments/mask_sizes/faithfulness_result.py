"""What `faithfulness` returns: shares of a task by size of mask, the smallest that suffice, areas, words, a figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from neuroscope import figures
from neuroscope.checks import public
from neuroscope.checks import share as share_of
from neuroscope.errors import ArgumentError, choose
from neuroscope.experiments.mask_sizes.faithfulness_words import said
from neuroscope.experiments.standings import Standings
from neuroscope.masks import DRAWN, NeuronMask, Scores, check_mask
from neuroscope.masks.evidence import Evidence, evidence_of, same_recipe
from neuroscope.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

COLUMNS = [
    "scores", "task", "family", "condition", "k", "seed", "neurons", "n", "score", "low", "high", "majority", "uniform",
    "p_majority", "f", "f_low", "f_high", "p", "q", "difference", "difference_low", "difference_high", "p_first",
    "q_first",
]  # fmt: skip
PLACE = ["scores", "task"]
CURVES = {"only": "the mask alone", "off": "the mask off"}
COLOURS = (figures.style.OWN_ALONE, figures.style.OWN_OFF)
SHARE = 0.9  # of what all neurons carry: what words ask for


@dataclass(frozen=True, repr=False)
class Faithfulness(Result):
    """How much of a task a mask of each size carries; one row per set of scores, task, condition, size and mask.

    Conditions: "full" (nothing ablated) and "empty" (everything); "only" (all but the mask ablated) and "off" (the
    mask ablated), and the same of random masks of the same size at every site, "random-only" and "random-off"; and the
    areas over sizes, which have no k: "cpr" and "cmd" of the mask alone, "cpr-off" of it off, "cpr-random" of random
    masks alone (their mean).

    Columns: scores (the set's name), task, family, condition, k, seed (of the random mask), neurons (in the mask), n,
    score, low, high (95 % over examples), majority, uniform, p_majority (`evaluation.constant`); f, f_low, f_high (the
    share of what all neurons carry, or the area: `mask_sizes.carried_share`, with its bootstrap interval); of "only"
    and "off" p (against random masks, over examples and masks) and q; of "only" and "cpr", in every set of scores but
    the first, difference (of f, from the first set's), difference_low, difference_high, p_first (of the same examples)
    and q_first. q is Benjamini-Hochberg's, over tasks, sizes and sets of a condition. Tasks at chance with nothing
    ablated, and those that lose nothing with everything ablated, are measured but not tested: p is NaN.

    Attributes:
        scores: set -> task -> Scores, what `masks` takes masks from; a result read from a file has none.

    Example:
        >>> import pandas as pd
        >>> level = {"scores": "relp", "task": "nli", "majority": 0.5, "uniform": 0.5, "p_majority": 0.001, "q": 0.01}
        >>> rows = [
        ...     {"condition": "full", "score": 0.9, "f": 1.0},
        ...     {"condition": "only", "k": 0.1, "neurons": 40, "f": 0.8, "f_low": 0.7, "f_high": 0.9},
        ...     {"condition": "only", "k": 0.2, "neurons": 80, "f": 0.95, "f_low": 0.91, "f_high": 0.99},
        ... ]
        >>> found = Faithfulness(pd.DataFrame([level | row for row in rows]), {})
        >>> found.minimal(0.9)[["task", "k", "neurons", "only", "low"]].to_dict("records")
        [{'task': 'nli', 'k': 0.2, 'neurons': 80, 'only': 0.95, 'low': 0.91}]
    """

    scores: Mapping[str, Mapping[str, Scores]] = field(default_factory=dict, compare=False)

    title = "How many neurons carry a task"
    captions: ClassVar[Mapping[str, str]] = {
        "summary": "By task: areas over sizes, and the smallest mask that alone carries 90 %",
        "sizes": "By size: the mask alone, off, and beside random masks",
        "against": "Compared with the first set of scores",
        "runs": "Every measurement",
    }

    @property
    def standings(self) -> Standings:
        """Which tasks the model is above chance at with nothing ablated."""
        return Standings(self.table[self.table["condition"] == "full"], "with nothing ablated")

    @property
    def nothing_to_carry(self) -> list[str]:
        """Tasks not at chance that score no better with nothing ablated than with everything: f has no value."""
        full = self.table[(self.table["condition"] == "full") & self.table["f"].isna()]
        return [name for name in full["task"].unique() if name in self.standings.others]

    @property
    def known(self) -> list[str]:
        """Tasks of which something can be concluded: neither at chance, nor with nothing to carry."""
        lost = self.nothing_to_carry
        return [name for name in self.standings.others if name not in lost]

    def sizes(self) -> pd.DataFrame:
        """One row per set of scores, task and size: shares carried by the mask alone and with it off, beside random.

        Columns: scores, task, k, neurons, only, only_low, only_high, random_only (mean), q_only (against random), off,
        off_low, off_high, random_off, q_off: shares f of what all neurons carry.
        """
        rows = self.table[self.table["k"].notna() & ~self.table["condition"].isin(["full", "empty"])]
        at = [*PLACE, "k"]
        wide = rows[rows["condition"] == "only"][[*at, "neurons"]].set_index(at)
        for kind in ("only", "off"):
            own = rows[rows["condition"] == kind].set_index(at)
            random = rows[rows["condition"] == f"random-{kind}"].groupby(at)["f"].mean()
            wide = wide.assign(
                **{kind: own["f"], f"{kind}_low": own["f_low"], f"{kind}_high": own["f_high"]},
                **{f"random_{kind}": random, f"q_{kind}": own["q"]},
            )
        return wide.reset_index()

    @public
    def minimal(self, share: float = SHARE) -> pd.DataFrame:
        """Per set of scores and task, the smallest measured mask that is shown to carry so much alone.

        Shown: the lower end of the 95 % interval of f, over examples, is at `share` or above. f is the share of what
        all neurons add to the score that everything ablated leaves. All neurons (k = 1), which carry all of it by
        definition, do not count.

        Args:
            share: of what all neurons carry, in (0, 1].

        Returns:
            Columns: scores, task, k, neurons, only (f), low, high, random_only (f of random masks), q_only and off (f
            with the mask off) of that size; estimate (the smallest k whose f itself, without the interval, reaches it).
            NaN where no size does, where the task is at chance, and where there is nothing to carry.
        """
        import pandas as pd  # heavy: only for tables

        asked = share_of(share, "share")
        known, found = self.known, []
        shown = ["k", "neurons", "only", "only_low", "only_high", "random_only", "q_only", "off"]
        for (group, name), rows in self.sizes().groupby(PLACE, sort=False):
            part = rows[(rows["k"] < 1) & (name in known)]
            enough, reached = (part[part[column] >= asked - 1e-12] for column in ("only_low", "only"))
            first = enough.iloc[0] if len(enough) else pd.Series(np.nan, index=shown)
            estimate = reached["k"].iloc[0] if len(reached) else np.nan
            found.append({"scores": group, "task": name} | first[shown].to_dict() | {"estimate": estimate})
        table = pd.DataFrame(found).rename(columns={"only_low": "low", "only_high": "high"})
        return table.assign(neurons=table["neurons"].astype("Int64"))

    @public
    def masks(self, share: float = SHARE, scores: str | None = None) -> dict[str, NeuronMask]:
        """The masks of `minimal`, by task; tasks without one are left out.

        Args:
            share: of what all neurons carry, in (0, 1].
            scores: which set of scores; None: the first.

        Raises:
            ArgumentError: no such set, or a result that was read from a file, which has no scores.
        """
        if not self.scores:
            do = "take them from the scores: scores.top(k), with k of minimal()"
            raise ArgumentError("faithfulness: masks", "a result without the scores it was made with", do)
        group = next(iter(self.scores)) if scores is None else choose(scores, self.scores, "scores")
        rows = self.minimal(share).dropna(subset="k")
        return {r.task: self.scores[group][r.task].top(r.k) for r in rows[rows["scores"] == group].itertuples()}

    @public
    def about(self, mask: NeuronMask) -> Evidence:
        """What this says of a mask that was cut from scores made as those here, for its evidence card.

        Raises:
            ArgumentError: a mask of other scores, or of another task.
        """
        asked = "faithfulness(...).about(mask)"
        check_mask(mask, asked)
        sets = self.manifest.get("scores", {})
        places = [
            (group, name)
            for group, each in sets.items()
            for name, scored in each.items()
            if same_recipe(mask, scored, "examples", "seed")
        ]
        if not places:
            known = ", ".join(dict.fromkeys(name for each in sets.values() for name in each)) or "no task"
            found = f"a mask that was not found as the scores of {known} here"
            raise ArgumentError(asked, found, "give faithfulness the scores that the mask was cut from")
        (group, name), tables = places[0], (self.minimal(), self.sizes())
        rows = [table[(table["scores"] == group) & (table["task"] == name)] for table in tables]
        row, sizes = rows[0].iloc[0], rows[1][rows[1]["k"] < 1]["k"]
        why = "" if name in self.known else "it has nothing to carry" if name in self.nothing_to_carry else "at chance"
        numbers = {key: row[key] for key in ("k", "neurons", "only", "low", "high")}
        about = {"n": self.manifest["n"], "n_random": self.manifest["n_random"], "largest": sizes.max()}
        words = {"value": str(self.manifest["value"]), "match": self.manifest.get("match", "layer"), "why": why}
        return evidence_of(
            "minimal", self.manifest, name, share=SHARE, random=row["random_only"], **numbers, **about, **words
        )

    def summary(self) -> pd.DataFrame:
        """One row per set of scores and task.

        Columns: scores, task, full and empty (scores), cpr, cpr_low, cpr_high, cmd, cmd_low, cmd_high, cpr_off,
        cpr_random; k, neurons, estimate (of `minimal`); chance ("above", "at chance", "no test", "nothing to carry").
        """
        rows = self.table.set_index(PLACE)
        parts = {name: rows[rows["condition"] == name] for name in ("full", "empty", "cpr", "cmd", "cpr-off")}
        minimal = self.minimal().set_index(PLACE)
        table = parts["full"][[]].assign(full=parts["full"]["score"], empty=parts["empty"]["score"])
        for name in ("cpr", "cmd"):
            table = table.assign(
                **{name: parts[name]["f"], f"{name}_low": parts[name]["f_low"], f"{name}_high": parts[name]["f_high"]}
            )
        random = rows[rows["condition"] == "cpr-random"]["f"]
        table = table.assign(cpr_off=parts["cpr-off"]["f"], cpr_random=random)
        table = table.join(minimal[["k", "neurons", "estimate"]]).reset_index()
        chance = self.standings.table["chance"].to_dict() | dict.fromkeys(self.nothing_to_carry, "nothing to carry")
        return table.assign(chance=table["task"].map(chance))

    def against(self) -> pd.DataFrame:
        """Every later set of scores compared with the first: one row per task and size, and per task's area (no k)."""
        columns = [*PLACE, "condition", "k", "f", *COLUMNS[COLUMNS.index("difference") :]]
        return self.table[self.table["difference"].notna()][columns].reset_index(drop=True)

    def tables(self) -> dict[str, pd.DataFrame]:
        """The summary, the sizes, the comparison of sets of scores where there are several, every measurement."""
        against = {"against": self.against()} if self.table["scores"].nunique() > 1 else {}
        return {"summary": self.summary(), "sizes": self.sizes()} | against | {"runs": self.to_frame()}

    def in_words(self) -> str:
        """How few neurons suffice for which task, beside random ones; where none do, and where nothing can be said."""
        return said(self, SHARE)

    def figure(self) -> go.Figure:
        """By task, the shares carried by the mask alone and with it off, over the share of neurons, beside random."""
        sizes, several = self.sizes(), self.table["scores"].nunique() > 1
        random = self.table[self.table["condition"].str.startswith("random-") & self.table["k"].notna()]
        panels: dict[str, dict[str, Any]] = {}
        bands: dict[str, dict[str, Any]] = {}
        for (group, name), rows in sizes.groupby(PLACE, sort=False):
            for kind, label in CURVES.items():
                curve = tuple(100 * rows[column] for column in (kind, f"{kind}_low", f"{kind}_high"))
                panels.setdefault(name, {})[f"{group}: {label}" if several else label] = (100 * rows["k"], curve)
        for (name, condition), rows in random.groupby(["task", "condition"], sort=False):
            f = 100 * rows.groupby("k")["f"].agg(["min", "max"])
            label = f"random masks, {CURVES[condition.removeprefix('random-')]}"
            bands.setdefault(name, {})[label] = (100 * f.index.to_numpy(), f["min"], f["max"])
        becomes = self.manifest["value"]
        return figures.size_panels(
            panels,
            bands,
            title="How much of a task a mask carries",
            subtitle="100 %: nothing ablated; 0 %: everything ablated (to "
            f"{becomes if isinstance(becomes, str) else f'{becomes:g}'}); 95 % intervals over "
            f"{self.manifest['n']} examples; bands: range over {self.manifest['n_random']} masks of "
            f"{DRAWN[self.manifest.get('match', 'layer')]}" + self.standings.note(),
            x_label="neurons in the mask, %",
            y_label="carried, %",
            colours=None if several else dict(zip(CURVES.values(), COLOURS, strict=True)),
        )
