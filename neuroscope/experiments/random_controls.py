"""Three kinds of random masks beside a mask, what is shown against each, and the verdict that rests on all of them.

1. Random masks of as many neurons are drawn: from the whole model ("random-uniform"), as many at every site
   ("random-layer"), and as many at every site that are as loud as well ("random-activation": for each neuron of the
   mask one that is not in it, of the nearest root mean square of its activation). The last respects depth and activity
   together, and is the strictest: what it breaks too is broken by any neurons that are as active there.
2. The mask is compared with each kind (`statistics.against_controls`), with a q of its own over the tasks.
3. The claim "this mask breaks its task more than random neurons do" is that it does so against every kind that could be
   drawn. Its p is therefore the largest of theirs (an intersection-union test, Berger 1982), and its q comes from these
   largest p. A kind beyond which the mask breaks no more counts with 1, however sure that is. No q of a single kind is
   above it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope import figures
from neuroscope.errors import MaskError
from neuroscope.evaluation import Outcomes
from neuroscope.markup import NEGATIVE
from neuroscope.masks import DRAWN, Match, NeuronMask
from neuroscope.statistics import ALPHA, against_controls, benjamini_hochberg

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

CONTROLS: dict[str, Match] = {"random-uniform": "uniform", "random-layer": "layer", "random-activation": "activation"}
FROM = {condition: DRAWN[match].removeprefix("random neurons ") for condition, match in CONTROLS.items()}
TEST = ["effect", "effect_low", "effect_high", "p", "q"]
COLUMNS = [*TEST, "loudness", "strictest"]  # of a result's table
QUIET = 0.9  # a control below this share of the mask's loudness is not as loud, and words say so
COUNT = {1: "one kind", 2: "both kinds", 3: "all three kinds"}


def drawn_beside(mask: NeuronMask, seeds: Iterable[int]) -> tuple[dict[str, list[NeuronMask]], str]:
    """Random masks of every kind that can be drawn like a mask, by condition; and why one cannot ("": all can)."""
    seeds, why = list(seeds), ""
    drawn: dict[str, list[NeuronMask]] = {}
    for condition, match in CONTROLS.items():
        try:
            drawn[condition] = [mask.random_like(seed=seed, match=match) for seed in seeds]
        except MaskError as error:  # made by hand, or most of a site
            if match != "activation":
                raise
            why = error.found
    return drawn, why


def against_each(own: Outcomes, random: Mapping[str, Sequence[Outcomes]], is_tested: bool) -> dict[str, dict[str, Any]]:
    """What a mask breaks beyond each kind of random mask, and under "task" beyond the strictest, that of the largest p.

    There p is of breaking more: 1 for a kind that breaks as much as the mask, or more. Of kinds with the same p, the
    strictest is the one that is most like the mask.

    Args:
        own: [example] outcomes under the mask.
        random: by condition, [control][example] outcomes.
        is_tested: else p are NaN, and none is the strictest.
    """
    tests: dict[str, dict[str, Any]] = {}
    for condition, controls in random.items():
        found = against_controls(own, controls)
        tests[condition] = {
            "effect": found["effect"],
            "effect_low": found["low"],
            "effect_high": found["high"],
            "p": found["p"] if is_tested else np.nan,
        }
    if not is_tested:
        return tests | {"task": {"p": np.nan}}
    more = {condition: test["p"] if test["effect"] > 0 else 1.0 for condition, test in tests.items()}
    strictest = max(reversed(more), key=lambda condition: more[condition])
    return tests | {"task": {**tests[strictest], "p": more[strictest], "strictest": strictest}}


def with_q(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by task, condition and random mask with q: of each kind over the tasks, and so of the largest p."""
    columns = [*table.columns, *(name for name in COLUMNS if name not in table)]
    table = table.reindex(columns=columns)
    table["strictest"] = table["strictest"].fillna("").astype(str)
    for condition in ("task", *CONTROLS):
        rows = table["condition"] == condition
        if rows.any():
            of_tasks = table[rows].groupby("task", sort=False)["p"].first()
            q = dict(zip(of_tasks.index, benjamini_hochberg(of_tasks.to_numpy(dtype=float)), strict=True))
            table.loc[rows, "q"] = table.loc[rows, "task"].map(q)
    return table


@dataclass(frozen=True)
class Controls:
    """What was shown against each kind of random mask.

    Attributes:
        table: a result's rows: task, condition, score, and `COLUMNS`.
        missing: task -> why random masks that are as loud could not be drawn.
        n_random: random masks of each kind.
    """

    table: pd.DataFrame
    missing: Mapping[str, str]
    n_random: int

    @cached_property
    def tests(self) -> pd.DataFrame:
        """One row per task and kind: task, condition, score (mean over random masks), `TEST`, loudness.

        loudness: of the random neurons over that of the mask's own (root mean square of activations, averaged over
        sites and draws), where they were drawn for it.
        """
        rows = self.table.reindex(columns=["task", "condition", "score", *TEST, "loudness"])
        rows = rows[rows["condition"].isin(list(CONTROLS))]
        means = {"score": "mean", **dict.fromkeys(TEST, "first"), "loudness": "mean"}
        return rows.groupby(["task", "condition"], sort=False).agg(means).reset_index()

    @property
    def kinds(self) -> list[str]:
        """Conditions of the random masks that there are."""
        return [condition for condition in CONTROLS if condition in set(self.tests["condition"])]

    @cached_property
    def tested(self) -> pd.DataFrame:
        """One row per task that was tested against all its kinds together: score of its own, strictest, and `TEST`."""
        own = self.table[self.table["condition"] == "task"].set_index("task")
        return own[own["q"].notna()]

    @cached_property
    def failing(self) -> dict[str, list[str]]:
        """Of every tested task the kinds of random masks than which it was not shown to break more; none: shown.

        Where each kind alone has q < 0.05 and all together have not, that is the strictest one.
        """
        tests, found = self.tests.set_index(["task", "condition"]), {}
        for row in self.tested.itertuples():
            kinds = [c for c in self.kinds if (row.Index, c) in tests.index]
            lost = [c for c in kinds if not _breaks_more(tests.loc[(row.Index, c)])]
            found[str(row.Index)] = lost or ([] if row.q < ALPHA else [str(row.strictest)])
        return found

    @property
    def shown(self) -> list[str]:
        """Tasks whose neurons break them more than random ones of every kind do."""
        return [name for name, kinds in self.failing.items() if not kinds]

    @property
    def only_loud(self) -> list[str]:
        """Tasks whose neurons break them more than others of their layers, but not more than ones that are as loud."""
        return [name for name, kinds in self.failing.items() if kinds == ["random-activation"]]

    def in_words(self) -> list[str]:
        """Against which kinds it was shown, and where they disagree: lines."""
        tests = self.tests[self.tests["task"].isin(self.tested.index)]
        lines = []
        if len(self.kinds) > 1:
            alone = [
                f"**{sum(_breaks_more(r) for _, r in rows.iterrows())} of {len(rows)}** beside those {FROM[kind]}"
                for kind, rows in ((kind, tests[tests["condition"] == kind]) for kind in self.kinds)
            ]
            lines.append(f"- By kind of random neurons, each with its own q: {'; '.join(alone)}.")
        return [*lines, *self._negatives(tests), *self._about_loudness(tests)]

    def _negatives(self, tests: pd.DataFrame) -> list[str]:
        lines, by_kinds = [], dict[tuple[str, ...], list[str]]()
        for name, failing in self.failing.items():
            if failing:
                by_kinds.setdefault(tuple(failing), []).append(name)
        for kinds, names in by_kinds.items():
            rows = tests[tests["task"].isin(names)]
            left = rows[rows["condition"].isin(kinds)]["score"].mean()
            others = [k for k in self.kinds if k not in kinds and k in set(rows["condition"])]
            words = (
                f"- {NEGATIVE}: with {self.n_random} random masks of each kind, the task's own neurons were not shown "
                f"to break more than {_either(kinds)} in {', '.join(names)}"
            )
            if others:
                own = self.tested.loc[names, "score"].mean()
                words += (
                    f", though they break more than {_either(others)}: with these off the mean score is "
                    f"{rows[rows['condition'].isin(others)]['score'].mean():.1%}, with the former {left:.1%}, with the "
                    f"own {own:.1%}"
                )
                if "random-activation" in kinds:
                    words += ". The harm may be that of any neurons as loud"
            lines.append(f"{words}.")
        for kind in self.kinds:
            more = tests[(tests["condition"] == kind) & (tests["q"] < ALPHA) & (tests["effect"] < 0)]["task"]
            if len(more):
                lines.append(f"- {NEGATIVE}: {DRAWN[CONTROLS[kind]]} break more than the own in {', '.join(more)}.")
        return lines

    def _about_loudness(self, tests: pd.DataFrame) -> list[str]:
        lines = []
        loud = tests[tests["loudness"] < QUIET]
        if len(loud):
            told = ", ".join(f"{r.task} ({r.loudness:.0%})" for r in loud.itertuples())
            lines.append(
                "- The masks have the loudest neurons of their layers, so that those drawn to be as loud are less loud "
                f"(root mean square, as a share of the mask's) in {told}: what is shown against them there may still "
                "be due to loudness."
            )
        if self.missing:
            reasons = "; ".join(dict.fromkeys(self.missing.values()))
            lines.append(
                f"- No random neurons as loud stand beside the masks of {', '.join(self.missing)} ({reasons}): the "
                "verdict rests on the other kinds there."
            )
        return lines

    def hover(self, task: str) -> str:
        """A line per kind on one task."""
        return "".join(f"<br>beyond {DRAWN[CONTROLS[r.condition]]}: {_said(r)}" for r in self._of(task))

    def _of(self, task: str) -> Iterable[Any]:
        return self.tests[self.tests["task"] == task].itertuples()

    def figure(self) -> go.Figure:
        """Points lost beyond each kind of random mask, by task, with 95 % intervals."""
        names = list(self.table["task"].unique())
        series: dict[str, figures.Band] = {}
        hover: dict[str, list[str]] = {}
        for kind in self.kinds:
            rows = self.tests[self.tests["condition"] == kind].set_index("task").reindex(names)
            label = f"beyond {DRAWN[CONTROLS[kind]]}"
            series[label] = tuple(100 * rows[column] for column in TEST[:3])
            hover[label] = [
                (f"p = {r.p:.2g}, q = {r.q:.2g}" if r.q == r.q else "nothing is tested")
                + (f"<br>{r.loudness:.0%} as loud as the own" if r.loudness == r.loudness else "")
                for r in rows.itertuples()
            ]
        return figures.bars_with_band(
            names,
            series,
            title="Is it more than random neurons break?",
            subtitle=f"score lost beyond {self.n_random} random masks of each kind; whiskers: 95 % over examples and "
            "random masks<br>a mask is shown to break its task where it breaks more than every kind",
            value_label="points lost beyond random ones",
            hover=hover,
            colours={f"beyond {DRAWN[m]}": figures.style.RANDOM[m] for m in map(CONTROLS.get, self.kinds) if m},
        )


def _breaks_more(test: Any) -> bool:
    return bool(test["q"] < ALPHA and test["effect"] > 0)


def _either(kinds: Iterable[str]) -> str:
    return f"random ones {' or '.join(FROM[kind] for kind in kinds)}"


def _said(test: Any) -> str:
    effect = f"{100 * test.effect:.1f} points [{100 * test.effect_low:.1f}, {100 * test.effect_high:.1f}]"
    return effect + (f", q = {test.q:.2g}" if test.q == test.q else ", not tested: at chance")
