"""What `dose` returns: score, loss on neutral text and repetition by dose, beside random masks; words, a figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from neuroscope import figures
from neuroscope.evaluation.repetition import GRAM
from neuroscope.experiments.dose_sweep.dose_words import FEWEST_TEXTS, LEAST, said
from neuroscope.experiments.standings import Standings
from neuroscope.results import Result
from neuroscope.statistics import ALPHA

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

TESTS = {"p": "q", "intact_p": "intact_q", "neutral_p": "neutral_q", "repetition_p": "repetition_q"}
COLUMNS = [
    "task", "family", "condition", "factor", "seed", "neurons", "n", "score", "low", "high", "majority", "uniform",
    "p_majority", "effect", "effect_low", "effect_high", "p", "q", "intact_p", "intact_q", "neutral", "neutral_low",
    "neutral_high", "neutral_p", "neutral_q", "repetition", "repetition_low", "repetition_high", "repetition_p",
    "repetition_q",
]  # fmt: skip
PANELS = {  # column -> what it is, and what it is shown times
    "score": ("score, %", 100),
    "neutral": ("neutral text, nats a token", 1),
    "repetition": (f"repeated {GRAM}-grams, %", 100),
}
OWN, RANDOM = "the task's own neurons", "random masks"


@dataclass(frozen=True, repr=False)
class DoseResponse(Result):
    """One row per task, condition, dose and mask.

    Conditions: "intact" (nothing done; no factor), "mask" (the task's neurons at a dose), "random" (as many at every
    site, at the same dose; by seed).

    Columns: task, family, condition, factor (the dose), seed, neurons, n, score, low, high (95 % over examples),
    majority, uniform, p_majority (`evaluation.constant`); of "mask" effect, effect_low, effect_high, p, q (how much
    less it scores than random masks at the same dose, over examples and masks) and intact_p, intact_q (than with
    nothing done, over examples); neutral, neutral_low, neutral_high (loss on neutral text, nats a token, and its
    interval over texts); repetition, repetition_low, repetition_high (seq-rep-4 of what is generated on from the
    beginnings of these texts, `evaluation.repetition`); and of "mask" neutral_p, neutral_q, repetition_p, repetition_q
    (beside nothing done, over texts). q is Benjamini-Hochberg's, over tasks and doses. At the dose that leaves the
    model as it is nothing is tested, and a task at chance with nothing done is not compared with random masks: p is
    NaN. So are loss and repetition where they were left out, or where the model has no text or does not generate.

    Example:
        >>> import pandas as pd
        >>> rows = [("intact", None, 0.9), ("mask", 0.0, 0.5), ("random", 0.0, 0.8), ("mask", 2.0, 0.7)]
        >>> table = pd.DataFrame(rows, columns=["condition", "factor", "score"]).assign(task="nli")
        >>> scores = DoseResponse(table, {}).to_frame().pivot(index="factor", columns="condition", values="score")
        >>> scores.loc[0.0, ["mask", "random"]].to_dict()
        {'mask': 0.5, 'random': 0.8}
    """

    title = "How much of a dose a task, and the text, can bear"
    captions: ClassVar[Mapping[str, str]] = {
        "doses": "By task and dose: the task's own neurons beside random ones and the intact model",
        "runs": "Every measurement",
    }

    @property
    def standings(self) -> Standings:
        """Which tasks the model is above chance at with nothing done."""
        return Standings(self.table[self.table["condition"] == "intact"], "with nothing done")

    def doses(self) -> pd.DataFrame:
        """One row per task and dose.

        Columns: task, factor, score, low, high, random (mean score of random masks), intact (score with nothing done),
        q (against random), intact_q; neutral, neutral_random, neutral_intact, neutral_q; repetition,
        repetition_random, repetition_intact, repetition_q; moved (the score differs from random masks', q < 0.05),
        text ("holds"; or what breaks, q < 0.05 and worse by 0.01 or more: "loss", "repetition", "both"; "not known":
        without texts, or with so few that nothing could be shown).
        """
        own = self.table[self.table["condition"] == "mask"].set_index(["task", "factor"])
        random = self.table[self.table["condition"] == "random"].groupby(["task", "factor"])
        intact = self.table[self.table["condition"] == "intact"].set_index("task")
        table = own[["score", "low", "high", "q", "intact_q"]].assign(random=random["score"].mean())
        table["intact"] = intact["score"].reindex(table.index.get_level_values("task")).to_numpy()
        for name in ("neutral", "repetition"):
            table[name], table[f"{name}_random"] = own[name], random[name].mean()
            table[f"{name}_intact"] = intact[name].reindex(table.index.get_level_values("task")).to_numpy()
            table[f"{name}_q"] = own[f"{name}_q"]
        table["moved"] = table["q"] < ALPHA
        worse = {
            name: (table[f"{name}_q"] < ALPHA) & (table[name] - table[f"{name}_intact"] >= LEAST)
            for name in ("neutral", "repetition")
        }
        enough = self.manifest.get("neutral", {}).get("n", 0) >= FEWEST_TEXTS
        loss, repeats, known = worse["neutral"], worse["repetition"], table["neutral"].notna() & enough
        states = [~known, loss & repeats, loss, repeats]
        table["text"] = np.select(states, ["not known", "both", "loss", "repetition"], "holds")
        order = ["score", "low", "high", "random", "intact", "q", "intact_q"]
        return table[[*order, *[c for c in table if c not in order]]].reset_index()

    def tables(self) -> dict[str, pd.DataFrame]:
        """By task and dose, and every measurement."""
        return {"doses": self.doses(), "runs": self.to_frame()}

    def in_words(self) -> str:
        """At which doses a task is moved more than by random neurons, and whether the text holds there."""
        return said(self)

    def figure(self) -> go.Figure:
        """By task over the dose: the score, the loss on neutral text and repetition, beside random masks."""
        own, random = (self.table[self.table["condition"] == name] for name in ("mask", "random"))
        panels: dict[str, dict[str, Any]] = {}
        bands: dict[str, dict[str, Any]] = {}
        for task, rows in own.groupby("task", sort=False):
            for column, (label, unit) in PANELS.items():
                if rows[column].isna().all():
                    continue
                name = f"{task}<br>{label}"
                low, high = ("low", "high") if column == "score" else (f"{column}_low", f"{column}_high")
                curve = [unit * rows[c].to_numpy() for c in (column, low, high)]
                panels[name] = {OWN: (rows["factor"].tolist(), tuple(curve))}
                spread = random[random["task"] == task].groupby("factor")[column].agg(["min", "max"])
                bands[name] = {RANDOM: (spread.index.tolist(), unit * spread["min"], unit * spread["max"])}
        many = len(panels) // own["task"].nunique()
        how = "multiplied by" if self.manifest["direction"] is None else "pushed along a direction,"
        return figures.size_panels(
            panels,
            bands,
            title="What a task and the text can bear",
            subtitle=f"a mask's neurons {how} the dose; 95 % intervals over {self.manifest['n']} examples and over "
            f"texts; bands: range over {self.manifest['n_random']} random masks" + self.standings.note(),
            x_label="dose",
            y_label="",
            is_log=False,
            columns=many,
        )
