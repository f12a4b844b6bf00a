"""What tasks of lm-evaluation-harness give under masks, beside random ones: table, words and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from neuroscope import figures
from neuroscope.errors import choose
from neuroscope.evaluation import CONSTANT
from neuroscope.experiments.standings import Standings
from neuroscope.figures.intervals import ANYTHING
from neuroscope.markup import NEGATIVE
from neuroscope.results import Result
from neuroscope.statistics import ALPHA

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

INTACT, RANDOM, OFF = "intact", "random", "mask"  # conditions
LABELS = {INTACT: "nothing off", RANDOM: "random off, same layers", OFF: "the mask off"}
CELL = ["task", "metric", "mask"]


@dataclass(frozen=True, repr=False)
class Benchmark(Result):
    """Tasks of lm-evaluation-harness with nothing off, masks off, and random masks off: a row for each measurement.

    Columns: task, metric (as the harness names it; "exact_match,strict" of the filter "strict"), higher_is_better, mask
    (empty where nothing is off), condition ("intact", "random", "mask"), seed (of the random mask), neurons, n, score
    (the harness' own: the mean over documents), low and high (95 % interval over documents), majority, uniform and
    p_majority (of choices: the best constant answer, guessing, and whether the score is above:
    `evaluation.constant`); for "mask" also effect (how much worse than random masks it leaves the model, in units of
    the score), effect_low and effect_high (its 95 % interval) and p (over documents and random masks:
    `statistics.against_controls`), and q (Benjamini-Hochberg over the table). Where nothing is off and the model is at
    chance, nothing can be lost: effect, p and q are NaN.

    Example:
        >>> import pandas as pd
        >>> level = {"task": "arc_easy", "metric": "acc", "majority": 0.3, "uniform": 0.25, "p_majority": 0.001}
        >>> test = {"neurons": 20, "effect": 0.2, "effect_low": 0.1, "effect_high": 0.3, "p": 0.001, "q": 0.001}
        >>> rows = [
        ...     {"mask": "", "condition": "intact", "score": 0.8},
        ...     {"mask": "mine", "condition": "random", "seed": 0, "score": 0.7},
        ...     {"mask": "mine", "condition": "mask", "score": 0.5, **test},
        ... ]
        >>> found = Benchmark(pd.DataFrame([level | row for row in rows]), {"n_random": 1})
        >>> found.summary()[["mask", "intact", "random", "off", "effect", "chance"]].to_dict("records")
        [{'mask': 'mine', 'intact': 0.8, 'random': 0.7, 'off': 0.5, 'effect': 0.2, 'chance': 'above'}]
    """

    title = "Benchmarks with neurons switched off"
    captions: ClassVar[Mapping[str, str]] = {
        "summary": "By task, metric and mask (random: mean over random masks of the same layers)",
        "runs": "Every measurement",
    }

    @property
    def standings(self) -> Standings:
        """Which tasks the model is above chance at with nothing off, by each metric."""
        rows = self.table[self.table["condition"] == INTACT]
        return Standings(rows.assign(task=rows["task"] + " " + rows["metric"]), "with nothing switched off")

    def summary(self) -> pd.DataFrame:
        """One row per task, metric and mask: intact, random (mean), off, effect, effect_low, effect_high, p, q, chance.

        The last says where the model stands with nothing off: "above" the best constant answer, "at chance" or "no
        test".
        """
        off = self.table[self.table["condition"] == OFF].set_index(CELL)
        random = self.table[self.table["condition"] == RANDOM].groupby(CELL)["score"].mean()
        rows = self.table[self.table["condition"] == INTACT].set_index(CELL[:2])["score"]
        found = off[["neurons", "effect", "effect_low", "effect_high", "p", "q"]].assign(off=off["score"])
        found["random"] = random.loc[found.index]
        found["intact"] = [rows.loc[(task, metric)] for task, metric, _ in found.index]
        chance = self.standings.table["chance"]
        found["chance"] = [chance.loc[f"{task} {metric}"] for task, metric, _ in found.index]
        columns = ["neurons", "intact", "random", "off", "effect", "effect_low", "effect_high", "p", "q", "chance"]
        return found[columns].reset_index()

    def in_words(self) -> str:
        """What masks break beyond random ones; where nothing was shown, or can be."""
        standings, summary = self.standings, self.summary()
        if not standings.others:
            return "\n".join([standings.nothing(), *standings.why()])
        tests = summary[summary["q"].notna()]
        shown = tests["q"] < ALPHA
        hurt, helped = tests[shown & (tests["effect"] > 0)], tests[shown & (tests["effect"] < 0)]
        rest = tests[~shown]
        lines = [
            "A mask leaves the model worse than as many random neurons of the same layers do in "
            f"**{len(hurt)} of {len(tests)}** comparisons (q < {ALPHA}){standings.but()}.\n",
            *standings.why(),
            *[f"- {_told(row)}" for row in hurt.to_dict("records")],
        ]
        better = f"- {NEGATIVE}: the mask leaves the model better than random ones do."
        lines += [f"{better} {_told(row)}" for row in helped.to_dict("records")]
        if len(rest):
            named = ", ".join(f"{r.mask} on {r.task} ({r.metric})" for r in rest.itertuples())
            lines.append(
                f"- {NEGATIVE}: with {self.manifest['n_random']} random masks, no difference between mask and random "
                f"masks was shown for {named}."
            )
        lines.append(
            f"- p compares a mask with {self.manifest['n_random']} layer-matched random ones, over documents and over "
            "random masks; q corrects it over all comparisons"
            + (", but for those at chance." if standings.at_chance else ".")
        )
        lines += [f"- Without an outcome of each document, and not compared: {name} of {task}."
                  for task, names in self.manifest["left_out"].items() for name in names]  # fmt: skip
        lines += [f"- lm-evaluation-harness warned: {text}" for text in self.manifest["warned"]]
        return "\n".join(lines)

    def tables(self) -> dict[str, pd.DataFrame]:
        """The summary, and every measurement."""
        return {"summary": self.summary(), "runs": self.to_frame()}

    @property
    def metrics(self) -> list[str]:
        """Metrics, in the order of the table."""
        return list(self.table["metric"].unique())

    def figure(self, metric: str | None = None) -> go.Figure:
        """Bars for each task and mask: nothing off, random masks off (band over them), the mask off.

        Args:
            metric: one of the table's; None: the first.
        """
        metric = self.metrics[0] if metric is None else choose(metric, self.metrics, "metric")
        table = self.table[self.table["metric"] == metric]
        tests = table[table["condition"] == OFF]
        is_share = bool(table["score"].between(0, 1).all())
        unit, within = (100, (0.0, 100.0)) if is_share else (1, ANYTHING)
        cells = list(zip(tests["task"], tests["mask"], strict=True))
        one = tests["mask"].nunique() == 1
        names = [task if one else f"{task}, {mask}" for task, mask in cells]
        intact = table[table["condition"] == INTACT].set_index("task").loc[[task for task, _ in cells]]
        draws = table[table["condition"] == RANDOM].groupby(["task", "mask"])["score"]
        series: dict[str, figures.Band] = {
            LABELS[INTACT]: tuple(unit * intact[column].to_numpy() for column in ("score", "low", "high")),
            LABELS[RANDOM]: tuple(unit * draws.agg(how).loc[cells].to_numpy() for how in ("mean", "min", "max")),
            LABELS[OFF]: tuple(unit * tests[column].to_numpy() for column in ("score", "low", "high")),
        }
        level, about = self.standings.bars([f"{task} {metric}" for task, _ in cells])
        return figures.bars_with_band(
            names,
            series,
            [LABELS[RANDOM]],
            title=f"Benchmarks with neurons off: {metric}",
            subtitle=f"{self.manifest['n_random']} random masks of the same size in each layer; whiskers: 95 % over "
            "documents" + self.standings.note(),
            value_label=f"{metric}, %" if is_share else metric,
            within=within,
            band_label=f"range over {self.manifest['n_random']} random masks",
            mark=level,
            mark_label=CONSTANT,
            hover={
                CONSTANT: about,
                LABELS[OFF]: [
                    f"{int(r.neurons)} neurons; against random in the same layers "
                    + (f"p = {r.p:.2g}, q = {r.q:.2g}" if r.p == r.p else "nothing is tested: at chance")
                    for r in tests.itertuples()
                ],
            },
        )

    def figures(self) -> list[go.Figure]:
        """One for each metric."""
        return [self.figure(metric) for metric in self.metrics]


def _told(row: Mapping[str, float]) -> str:
    """A comparison in words."""
    return (
        f"**{row['mask']}** on {row['task']} ({row['metric']}): {row['off']:.3g} with the mask off, "
        f"{row['random']:.3g} with random ones, {row['intact']:.3g} with nothing; worse than random by "
        f"**{row['effect']:.3g}** (95 % interval {row['effect_low']:.3g} to {row['effect_high']:.3g}, "
        f"q = {row['q']:.2g})."
    )
