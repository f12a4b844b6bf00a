"""What `pruning` returns: score, loss on neutral text and repetition by the share that is gone; words, a figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from neuroscope import figures
from neuroscope.evaluation.repetition import GRAM
from neuroscope.experiments.dose_sweep.dose_words import LEAST
from neuroscope.experiments.pruning_sweep.pruning_words import said
from neuroscope.experiments.standings import Standings
from neuroscope.results import Result
from neuroscope.statistics import ALPHA

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

TESTS = {"p": "q", "intact_p": "intact_q", "neutral_p": "neutral_q", "repetition_p": "repetition_q"}
COLUMNS = [
    "task", "family", "condition", "share", "seed", "recovered", "neurons", "parameters", "n", "score", "low", "high",
    "majority", "uniform", "p_majority", "effect", "effect_low", "effect_high", "p", "q", "intact_p", "intact_q",
    "neutral", "neutral_low", "neutral_high", "neutral_p", "neutral_q", "repetition", "repetition_low",
    "repetition_high", "repetition_p", "repetition_q",
]  # fmt: skip
PANELS = {  # column -> what it is, and what it is shown times
    "score": ("score, %", 100),
    "neutral": ("neutral text, nats a token", 1),
    "repetition": (f"repeated {GRAM}-grams, %", 100),
}
CURVES = {"selective": "least needed gone", "reverse": "most needed gone"}
TRAINED = ", then trained"


@dataclass(frozen=True, repr=False)
class Pruning(Result):
    """One row per task, condition, share, training and mask.

    Conditions: "intact" (nothing gone; share 0), "selective" (the neurons with the lowest scores of every layer gone),
    "reverse" (the highest), "random" (as many at random; by seed). recovered: whether what is left was trained on the
    task.

    Columns: task, family, condition, share (of each layer that is gone), seed (of the random mask), recovered, neurons
    (how many are gone), parameters (how many numbers are left in the model), n, score, low, high (95 % over examples),
    majority, uniform, p_majority (`evaluation.constant`); of "selective" and "reverse" effect, effect_low, effect_high,
    p, q (how much less it scores than with random ones gone, of the same share and training, over examples and masks)
    and intact_p, intact_q (beside the model as it is, over examples); neutral, neutral_low, neutral_high (loss on
    neutral text, nats a token), repetition, repetition_low, repetition_high (seq-rep-4 of what is generated), and of
    these two p and q beside the model as it is, over texts. q is Benjamini-Hochberg's, over tasks, shares and
    conditions, before and after training apart. A task at chance with nothing gone is not compared with random masks.

    Example:
        >>> import pandas as pd
        >>> rows = [("intact", 0.0, 0.9), ("selective", 0.5, 0.85), ("random", 0.5, 0.7), ("reverse", 0.5, 0.4)]
        >>> table = pd.DataFrame(rows, columns=["condition", "share", "score"]).assign(task="nli", recovered=False)
        >>> Pruning(table, {}).to_frame().set_index("condition")["score"].to_dict()
        {'intact': 0.9, 'selective': 0.85, 'random': 0.7, 'reverse': 0.4}
    """

    title = "What a task can do without"
    captions: ClassVar[Mapping[str, str]] = {
        "shares": "By task, share and training: by score, against it, at random",
        "runs": "Every measurement",
    }

    @property
    def standings(self) -> Standings:
        """Which tasks the model is above chance at with nothing gone."""
        rows = self.table[(self.table["condition"] == "intact") & ~self.table["recovered"].astype(bool)]
        return Standings(rows, "with nothing taken out")

    def shares(self) -> pd.DataFrame:
        """One row per task, training and share.

        Columns: task, recovered, share, parameters (share of the model's that is left), intact (score with nothing
        gone, of the same training); of selective and reverse pruning score, low, high, q (beside random), effect (less
        than random), text ("holds"; or what is worse than of the model as it is, q < 0.05 and by 0.01 or more: "loss",
        "repetition", "both"; "not known"); random, random_low, random_high (mean and range over random masks), and
        neutral and repetition of each.
        """
        keys = ["task", "recovered", "share"]
        table = self.table.astype({"recovered": bool})
        by = {name: rows.set_index(keys) for name, rows in table.groupby("condition", sort=False)}
        intact = by["intact"].droplevel("share")
        found = by["selective"][["parameters"]].copy()
        base = found.index.droplevel("share")
        found["parameters"] = found["parameters"] / float(self.table["parameters"].max())
        found["intact"] = intact["score"].reindex(base).to_numpy()
        random = by["random"].groupby(keys, sort=False)["score"].agg(["mean", "min", "max"])
        found[["random", "random_low", "random_high"]] = random.reindex(found.index)
        for name in CURVES:
            own = by[name].reindex(found.index)
            found[name] = own["score"]
            for column in ("low", "high", "effect", "q", "intact_q", "neutral", "repetition"):
                found[f"{name}_{column}"] = own[column]
            found[f"{name}_text"] = self._texts(own, by["intact"].loc[(slice(None), False, 0.0), :])
        for column in ("neutral", "repetition"):
            found[f"random_{column}"] = by["random"].groupby(keys, sort=False)[column].mean().reindex(found.index)
            found[f"intact_{column}"] = intact[column].reindex(base).to_numpy()
        return found.reset_index()

    def _texts(self, own: pd.DataFrame, intact: pd.DataFrame) -> list[str]:
        """Whether the text holds, of each row of a condition."""
        before = intact.droplevel(["recovered", "share"])
        states = []
        for r in own.reset_index().itertuples():
            if r.neutral != r.neutral or r.neutral_p != r.neutral_p:
                states.append("not known")
                continue
            was = before.loc[r.task]
            loss = r.neutral_q < ALPHA and r.neutral - was["neutral"] >= LEAST
            repeats = r.repetition_q < ALPHA and r.repetition - was["repetition"] >= LEAST
            states.append("both" if loss and repeats else "loss" if loss else "repetition" if repeats else "holds")
        return states

    def tables(self) -> dict[str, pd.DataFrame]:
        """By task and share, and every measurement."""
        return {"shares": self.shares(), "runs": self.to_frame()}

    def in_words(self) -> str:
        """Whether scores tell what can go, what breaks at which share, and what training brings back."""
        return said(self)

    def figure(self) -> go.Figure:
        """By task over the share that is gone: score, loss on neutral text, repetition; before and after training."""
        table = self.table.astype({"recovered": bool})
        panels: dict[str, dict[str, Any]] = {}
        bands: dict[str, dict[str, Any]] = {}
        for task in table["task"].unique():
            for column, (label, unit) in PANELS.items():
                rows = table[(table["task"] == task) & table[column].notna()]
                if rows.empty:
                    continue
                name = f"{task}<br>{label}"
                panels[name], bands[name] = {}, {}
                for recovered in sorted(rows["recovered"].unique()):
                    end = TRAINED if recovered else ""
                    here = rows[rows["recovered"] == recovered]
                    for condition, what in CURVES.items():
                        own = here[here["condition"].isin(["intact", condition])].sort_values("share")
                        ends = ("low", "high") if column == "score" else (f"{column}_low", f"{column}_high")
                        curve = tuple(unit * own[c].to_numpy(dtype=float) for c in (column, *ends))
                        panels[name][what + end] = ((100 * own["share"]).tolist(), curve)
                    spread = here[here["condition"] == "random"].groupby("share")[column].agg(["min", "max"])
                    x = (100 * spread.index.to_numpy(dtype=float)).tolist()
                    bands[name][f"random gone{end}"] = (x, unit * spread["min"], unit * spread["max"])
        many = len(panels) // table["task"].nunique()
        return figures.size_panels(
            panels,
            bands,
            title=self.title,
            subtitle=f"of every layer alike; 95 % intervals over {self.manifest['n']} examples and over texts; bands: "
            f"range over {self.manifest['n_random']} random masks" + self.standings.note(),
            x_label="neurons gone, %",
            y_label="",
            is_log=False,
            columns=many,
        )
