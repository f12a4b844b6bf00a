"""Is the model still a model under a mask? The loss on neutral text, beside that under random masks, in results.

1. The loss under a mask is the mean over the model's neutral texts (`evaluation.neutral`), in nats a token. Beside a
   task of the bundled suite, texts of its own family are not neutral and do not count.
2. It is compared with the loss under random masks over texts and over masks (`statistics.against_controls` of minus
   the losses), and corrected over the masks (Benjamini-Hochberg).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope import figures
from neuroscope.experiments.judging import Judge
from neuroscope.markup import NEGATIVE
from neuroscope.masks import NeuronMask
from neuroscope.statistics import ALPHA, against_controls, benjamini_hochberg

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

# mean losses under the mask, under random ones and with nothing off; 95 % interval of the first less the second; its p
MEANS = ["neutral", "neutral_random", "neutral_original"]
COLUMNS = [*MEANS, "neutral_low", "neutral_high", "neutral_p"]
LABELS = {"neutral_original": "nothing off", "neutral_random": "random off", "neutral": "the task's own neurons off"}
COLOURS = (figures.style.MEASURED, figures.style.RANDOM["layer"], figures.style.OWN_OFF)


def neutral_columns(
    judge: Judge, task: str, mask: NeuronMask, controls: Iterable[NeuronMask | None]
) -> dict[str, float]:
    """What a table says of a task's mask and its random ones: `COLUMNS`; NaN where nothing is measured."""
    off, original = judge.neutral_losses(task, mask), judge.neutral_losses(task)
    random = np.array([judge.neutral_losses(task, control) for control in controls])
    if not off.size:
        return dict.fromkeys(COLUMNS, math.nan)
    test = against_controls(-off, -random) if off.size > 1 else dict.fromkeys(("low", "high", "p"), math.nan)
    means = {"neutral": off.mean(), "neutral_random": random.mean(), "neutral_original": original.mean()}
    return {name: float(value) for name, value in means.items()} | {
        f"neutral_{name}": test[name] for name in ("low", "high", "p")
    }


@dataclass(frozen=True)
class Neutrality:
    """What masks do to the loss on neutral text.

    Attributes:
        rows: one row per mask: task, and `COLUMNS`.
        random: what the random masks are, such as "random neurons of the same layers".
        texts: what a manifest says of the texts: what they are, or why there are none; empty if none were asked for.
    """

    rows: pd.DataFrame
    random: str
    texts: Mapping[str, Any]

    @classmethod
    def of(cls, table: pd.DataFrame, random: str, manifest: Mapping[str, Any]) -> Neutrality:
        """Of a result's rows; of one that was saved without these columns, they are NaN."""
        rows = table.reindex(columns=["task", *COLUMNS]).astype(dict.fromkeys(COLUMNS, float))
        rows["neutral_q"] = benjamini_hochberg(rows["neutral_p"].to_numpy())
        return cls(rows.set_index("task"), random, manifest.get("neutral", {}))

    @property
    def is_known(self) -> bool:
        """Whether any was measured."""
        return bool(self.rows["neutral"].notna().any())

    @property
    def broken(self) -> list[str]:
        """Names of the tasks whose neurons, switched off, break neutral text more than random ones do."""
        more = self.rows["neutral"] > self.rows["neutral_random"]
        return list(self.rows.index[(self.rows["neutral_q"] < ALPHA) & more])

    def in_words(self) -> list[str]:
        """Whether what is broken is the task alone: lines; none where nothing was asked for."""
        if not self.is_known:
            why = self.texts.get("why")
            return [f"- The loss on neutral text is not known: {why}."] if why else []
        means = self.rows.mean()
        lines = [
            f"- **Is the model still a model?** Its loss on neutral text ({self.texts.get('texts', 'given')}) is "
            f"{means['neutral_original']:.2f} nats a token with nothing off, **{means['neutral']:.2f}** with a task's "
            f"own neurons off and {means['neutral_random']:.2f} with {self.random} off (means over tasks).",
        ]
        broken = self.broken
        if broken:
            rows = self.rows.loc[broken]
            worst = (rows["neutral"] - rows["neutral_random"]).idxmax()
            r, others = rows.loc[worst], [name for name in broken if name != worst]
            lines.append(
                f"- {NEGATIVE}: in {len(broken)} of {len(self.rows)} tasks **what is broken is not the task alone**. "
                f"Switching its own neurons off costs neutral text more than random ones do (q < {ALPHA}), "
                f"{'most' if others else 'that is'} in {worst}: from {self._rise(r)}"
                + (f"; also in {', '.join(others)}." if others else ".")
            )
        rest = [name for name in self.rows.index if name not in broken]
        if rest:
            rows = self.rows.loc[rest]
            r = rows.loc[(rows["neutral"] - rows["neutral_random"]).idxmax()]
            lines.append(
                f"- Neutral text was not shown to lose more than with random ones off in {', '.join(rest)}. That is "
                f"not shown to be no harm: in {r.name} it went from {self._rise(r)}."
            )
        return lines

    def _rise(self, r: pd.Series) -> str:
        return (
            f"{r['neutral_original']:.2f} to {r['neutral']:.2f} nats a token (with {self.random} off "
            f"{r['neutral_random']:.2f}; {r['neutral'] - r['neutral_random']:.2f} "
            f"[{r['neutral_low']:.2f}, {r['neutral_high']:.2f}] more than these)"
        )

    def hover(self, task: str) -> str:
        """A line on one mask; "" where nothing is known."""
        r = self.rows.loc[task]
        if math.isnan(r["neutral"]):
            return ""
        return (
            f"<br>neutral text: {r['neutral']:.2f} nats a token; random off {r['neutral_random']:.2f}; nothing off "
            f"{r['neutral_original']:.2f}" + (f"; q = {r['neutral_q']:.2g}" if r["neutral_q"] == r["neutral_q"] else "")
        )

    def figures(self) -> Sequence[go.Figure]:
        """Bars per task of the loss with nothing, random neurons and the task's own off; none where none is known."""
        if not self.is_known:
            return []
        rows, series = self.rows, dict[str, figures.Band]()
        for column, label in LABELS.items():
            low, high = ((rows["neutral_random"] + rows[f"neutral_{end}"]).tolist() for end in ("low", "high"))
            series[label] = (rows[column].tolist(), *((low, high) if column == "neutral" else (None, None)))
        figure = figures.bars_with_band(
            list(rows.index),
            series,
            bands=list(LABELS.values())[1:2],
            colours=dict(zip(LABELS.values(), COLOURS, strict=True)),
            title="Is the model still a model?",
            subtitle=f"loss on neutral text, with whiskers of the difference to {self.random}",
            value_label="nats a token",
            low_high="95 % interval, beyond random ones",
            within=(0.0, np.inf),
        )
        return [figure]
