"""`DoseResponse` in words: sentences computed from its numbers, negatives among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from neuroscope.evaluation.repetition import GRAM
from neuroscope.experiments.standings import Standings
from neuroscope.markup import NEGATIVE
from neuroscope.statistics import ALPHA

if TYPE_CHECKING:
    import pandas as pd

LEAST = 0.01  # nats a token, or share of n-grams: a text that is worse by less is not said to break
FEWEST_TEXTS = 6  # of fewer no p of a paired permutation is below 0.05: 2 / 2**5 is not, 2 / 2**6 is


class Told(Protocol):
    """What words are made of; `DoseResponse` says what each is."""

    @property
    def manifest(self) -> Mapping[str, Any]: ...

    @property
    def standings(self) -> Standings: ...

    def doses(self) -> pd.DataFrame: ...


def said(found: Told) -> str:
    """At which doses a task is moved more than by random neurons, and whether the text holds there."""
    standings, table = found.standings, found.doses()
    if not standings.others:
        return "\n".join([standings.nothing(), *standings.why(), *_texts(found, table)])
    table = table[table["task"].isin(standings.others)]
    moved = table[table["moved"]]
    names = list(dict.fromkeys(moved["task"]))
    tasks = table["task"].nunique()
    many = f"**{len(names)} of {tasks}** tasks" if tasks > 1 else "this task" if names else "no dose in this task"
    lead = (
        f"Some dose of a task's own neurons moves it more than the same dose of random ones does in {many} (q < "
        f"{ALPHA}){standings.but()}"
    )
    if names:
        alone = moved[moved["text"] == "holds"]
        clean = list(dict.fromkeys(alone["task"]))
        lead += f"; in {len(clean)} of these there is such a dose at which the text was not shown to suffer"
    lines = [f"{lead if names else f'{NEGATIVE}: {lead[0].lower()}{lead[1:]}'}.\n", *standings.why()]
    lines += [line for _, rows in table.groupby("task", sort=False) for line in _of_task(rows)]
    rest = [name for name in table["task"].unique() if name not in names]
    if rest and names:
        lines.append(f"- {NEGATIVE}: no dose was shown to move {', '.join(rest)} more than random neurons' does.")
    return "\n".join([*lines, *_texts(found, table), *_rules(found)])


def _of_task(rows: pd.DataFrame) -> list[str]:
    """A line for each dose that does something to the task or to the text."""
    lines = []
    for r in rows.itertuples():
        broken = r.text not in ("holds", "not known")
        if not (r.moved or broken):
            continue
        line = f"- {r.task}, at **{r.factor:g}x**: {r.score:.0%} (random {r.random:.0%}, intact {r.intact:.0%})"
        parts = []
        if r.text in ("repetition", "both"):
            parts.append(f"the text repeats itself ({r.repetition_intact:.0%} to {r.repetition:.0%} of {GRAM}-grams)")
        if r.text in ("loss", "both"):
            parts.append(
                f"neutral text costs {r.neutral:.3g} nats a token (intact {r.neutral_intact:.3g}, random "
                f"{r.neutral_random:.3g})"
            )
        if broken:
            why = "what breaks is not the task alone" if r.moved else "what breaks is the text, as far as is shown"
            lines.append(f"{line}; {' and '.join(parts)}: **{why}**.")
        elif r.text == "holds":
            lines.append(f"{line}; the text was not shown to suffer: what changes is the task.")
        else:
            lines.append(f"{line}.")
    return lines


def _texts(found: Told, table: pd.DataFrame) -> list[str]:
    """Why nothing is known of the text, or of repetition."""
    why = found.manifest.get("neutral", {}).get("why")
    if why:
        return [f"- Whether the text holds is not known: {why}."]
    if table["neutral"].isna().all():
        return ["- Whether the text holds was not asked."]
    if (n := found.manifest["neutral"]["n"]) < FEWEST_TEXTS:
        few = f"{n} text{'s' * (n > 1)} cannot show it: give {FEWEST_TEXTS} or more"
        return [f"- Whether the text holds is not known: {few}."]
    if table["repetition"].isna().all():
        return ["- This model does not generate: whether it repeats itself is not known."]
    return []


def _rules(found: Told) -> list[str]:
    doses = ", ".join(f"{factor:g}" for factor in found.manifest["factors"])
    how = (
        "A dose is what the neurons are multiplied by (0: off; 1: as they are)"
        if found.manifest["direction"] is None
        else "A dose is how many times the direction is added to the neurons (0: as they are)"
    )
    return [
        f"- {how}: {doses}. Scores are compared with {found.manifest['n_random']} random masks of the same layers at "
        f"the same dose; loss on neutral text, and the share of repeated {GRAM}-grams (seq-rep-{GRAM}) in what is "
        f"generated on from it, with the model as it is (q < {ALPHA}, and worse by {LEAST:g} or more).",
    ]
